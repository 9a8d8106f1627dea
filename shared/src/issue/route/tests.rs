//! Every strategy, kind, size, health and purse. What is expected is read off
//! small tables, as a person would from the documentation.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::issue::history::{History, Past};
use crate::issue::{TaskKind, Time};

use ExecutorKind::{Codegen, Local};

/// How the executors stand.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Health {
    AllUp,
    LocalDown,
    CloudDown,
    BothDown,
    /// All up, but no slot is free locally.
    SlotsTaken,
}

const HEALTH: [Health; 5] = [
    Health::AllUp,
    Health::LocalDown,
    Health::CloudDown,
    Health::BothDown,
    Health::SlotsTaken,
];
const PURSES: [&[ExecutorKind]; 4] = [&[Local, Codegen], &[Local], &[Codegen], &[]];
const SIZES: [Option<Complexity>; 4] = [
    None,
    Some(Complexity::Low),
    Some(Complexity::Medium),
    Some(Complexity::High),
];

fn spec(kind: TaskKind, complexity: Option<Complexity>, requires_isolation: bool) -> Spec {
    Spec {
        id: "a".into(),
        title: String::new(),
        kind,
        prompt: String::new(),
        depends_on: vec![],
        complexity,
        requires_isolation,
        acceptance: vec![],
        paths: vec![],
        judges: None,
        issue: None,
    }
}

fn conditions(strategy: Strategy, health: Health) -> Conditions {
    let mut conditions = Conditions::fair(None, Time::UNIX_EPOCH);
    conditions.rules.strategy = strategy;
    conditions.rules.cost_per_run = 0.40;
    for executor in &mut conditions.executors {
        let is_down = match health {
            Health::AllUp | Health::SlotsTaken => false,
            Health::LocalDown => executor.kind == Local,
            Health::CloudDown => executor.kind == Codegen,
            Health::BothDown => true,
        };
        executor.down = is_down.then(|| format!("OUTAGE-{}", executor.kind));
        if executor.kind == Local && health == Health::SlotsTaken {
            executor.slots_free = Some(0);
        }
    }
    conditions
}

/// Where it belongs while all is well: `l`, `c`; `s`: `l`, but `c` while local
/// slots are taken; `L`, `C`: the other one where only that can be paid. The
/// columns: thinks; builds, of no stated, low, medium, high complexity; builds in
/// isolation. Without history, $0.40 a run in the cloud.
const HOMES: [(Strategy, &str); 5] = [
    (Strategy::LocalOnly, "l llll l"),
    (Strategy::CloudOnly, "c cccc c"),
    (Strategy::HybridParallel, "l cccc c"),
    (Strategy::HybridSmart, "l cscc c"),
    (Strategy::CostOptimized, "l CLCC c"),
];

/// What the tables say: where, and instead of where; or for what it waits.
fn expected(
    strategy: Strategy,
    spec: &Spec,
    health: Health,
    purse: &[ExecutorKind],
) -> Result<(ExecutorKind, Option<ExecutorKind>), ExecutorKind> {
    let (_, row) = HOMES
        .iter()
        .find(|it| it.0 == strategy)
        .expect("every strategy");
    let builds = matches!(spec.kind, TaskKind::Builder | TaskKind::Debugger);
    let column = match (builds, spec.requires_isolation, spec.complexity) {
        (false, _, _) => 0,
        (true, true, _) => 7,
        (true, false, None) => 2,
        (true, false, Some(Complexity::Low)) => 3,
        (true, false, Some(Complexity::Medium)) => 4,
        (true, false, Some(Complexity::High)) => 5,
    };
    let home = match &row[column..=column] {
        "l" => Local,
        "c" => Codegen,
        "s" if health == Health::SlotsTaken => Codegen,
        "s" => Local,
        "L" if purse == [Codegen] => Codegen,
        "L" => Local,
        "C" if purse == [Local] => Local,
        "C" => Codegen,
        other => panic!("`{other}`"),
    };
    let moves = !matches!(strategy, Strategy::LocalOnly | Strategy::CloudOnly);
    let only_isolated = builds && spec.requires_isolation;
    match (health, home) {
        (Health::AllUp | Health::SlotsTaken, _)
        | (Health::LocalDown, Codegen)
        | (Health::CloudDown, Local) => Ok((home, None)),
        (Health::LocalDown, Local) if moves => Ok((Codegen, Some(Local))),
        (Health::CloudDown, Codegen) if moves && !only_isolated => Ok((Local, Some(Codegen))),
        (Health::BothDown | Health::LocalDown | Health::CloudDown, _) => Err(home),
    }
}

#[test]
fn every_strategy_by_kind_size_health_and_purse() {
    let mut cases = 0;
    for strategy in Strategy::ALL.iter().copied() {
        for kind in TaskKind::ALL
            .iter()
            .copied()
            .filter(|it| *it != TaskKind::Verifier)
        {
            for (complexity, isolation) in SIZES.iter().flat_map(|it| [(*it, false), (*it, true)]) {
                for (health, purse) in HEALTH.iter().flat_map(|it| PURSES.map(|p| (*it, p))) {
                    let spec = spec(kind, complexity, isolation);
                    let ask = Ask {
                        spec: &spec,
                        shuns: None,
                        fits: purse,
                    };
                    let case = format!(
                        "{strategy} {kind} {complexity:?} {isolation} {health:?} {purse:?}"
                    );
                    let choice = route(&ask, &conditions(strategy, health));
                    let (got, why) = match choice {
                        Choice::Go {
                            executor,
                            why,
                            instead_of,
                        } => (Ok((executor, instead_of)), why),
                        Choice::Wait { executor, why } => (Err(executor), why),
                    };
                    assert_eq!(got, expected(strategy, &spec, health, purse), "{case}");
                    check_sentence(&why, strategy, got, &case);
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 5 * 5 * 8 * 5 * 4);
}

/// It begins with the strategy, and names each executor that was down and mattered.
fn check_sentence(
    why: &str,
    strategy: Strategy,
    got: Result<(ExecutorKind, Option<ExecutorKind>), ExecutorKind>,
    case: &str,
) {
    assert!(why.starts_with(strategy.word()), "{case}: {why}");
    assert!(
        why.len() > 30 && !why.ends_with('.') && !why.contains('\n'),
        "{case}: {why}"
    );
    let down = match got {
        Ok((_, instead_of)) => instead_of,
        Err(executor) => Some(executor),
    };
    match down {
        Some(down) => assert!(why.contains(&format!("(OUTAGE-{down})")), "{case}: {why}"),
        None => assert!(!why.contains("OUTAGE"), "{case}: {why}"),
    }
    assert_eq!(why.contains("waits"), got.is_err(), "{case}: {why}");
}

fn sentence(spec: &Spec, fits: &[ExecutorKind], conditions: &Conditions) -> (ExecutorKind, String) {
    let ask = Ask {
        spec,
        shuns: None,
        fits,
    };
    match route(&ask, conditions) {
        Choice::Go { executor, why, .. } | Choice::Wait { executor, why } => (executor, why),
    }
}

#[test]
fn the_cheapest_names_both_prices() {
    let fair = conditions(Strategy::CostOptimized, Health::AllUp);
    let medium = spec(TaskKind::Builder, Some(Complexity::Medium), false);
    let prices = "cost-optimized: a builder of medium complexity is expected to cost $0.60 on the team's machine and $0.50 in the cloud";
    let (_, why) = sentence(&medium, ExecutorKind::ALL, &fair);
    assert_eq!(
        why,
        format!("{prices}; the cloud is the cheaper one: it goes to the cloud")
    );
    let (_, why) = sentence(&medium, &[Local], &fair);
    assert_eq!(
        why,
        format!(
            "{prices}; the cloud is the cheaper one, but the money left does not pay for the cloud: it goes to the team's machine"
        )
    );
}

/// 1,000 runs of medium builders, of which so many percent succeeded, at so many cents.
fn known(local: (i64, i64), cloud: i64) -> Conditions {
    let past = |percent: i64, cents: i64| Past {
        tasks: 1_000,
        achieved: percent * 10,
        runs: 1_000,
        micros: cents * 10_000 * 1_000,
        run_seconds: 600_000,
    };
    let cell = |executor| Cell {
        executor,
        kind: TaskKind::Builder,
        complexity: Some(Complexity::Medium),
    };
    let mut conditions = conditions(Strategy::CostOptimized, Health::AllUp);
    conditions.history = Arc::new(History(BTreeMap::from([
        (cell(Local), past(local.0, local.1)),
        (cell(Codegen), past(cloud, 40)),
    ])));
    conditions
}

#[test]
fn the_workspaces_own_history_counts() {
    let medium = spec(TaskKind::Builder, Some(Complexity::Medium), false);
    let cases = [
        // Cheaper, dearer, and dearer because it seldom succeeds.
        ((90, 20), 90, Local, "the team's machine is the cheaper one"),
        ((90, 60), 90, Codegen, "the cloud is the cheaper one"),
        ((45, 30), 90, Codegen, "the cloud is the cheaper one"),
        ((45, 30), 50, Local, "the team's machine is the cheaper one"),
        // Below the named price it stays; below the named rate it does not.
        ((90, 8), 100, Local, "under $0.10 the cloud is no gain"),
        (
            (20, 1),
            90,
            Codegen,
            "only 20 % of such runs succeed on the team's machine",
        ),
        (
            (90, 300),
            20,
            Local,
            "only 20 % of such runs succeed in the cloud",
        ),
        (
            (20, 1),
            30,
            Codegen,
            "such runs seldom succeed, 20 % on the team's machine and 30 % in the cloud",
        ),
    ];
    for (local, cloud, executor, because) in cases {
        let got = sentence(&medium, ExecutorKind::ALL, &known(local, cloud));
        assert_eq!(got.0, executor, "{local:?} {cloud} {}", got.1);
        assert!(got.1.contains(because), "{}", got.1);
    }
    let mut cheap_cloud = known((90, 8), 100);
    cheap_cloud.rules.cost_per_run = 0.01;
    assert_eq!(
        sentence(&medium, ExecutorKind::ALL, &cheap_cloud).0,
        Local,
        "what costs next to nothing stays, even where the cloud costs less"
    );
}

#[test]
fn what_was_lost_goes_elsewhere_if_it_may() {
    let check = |strategy, spec: &Spec, lost, health, executor, instead_of, says: &str| {
        let ask = Ask {
            spec,
            shuns: Some((lost, Shun::Lost)),
            fits: ExecutorKind::ALL,
        };
        let Choice::Go {
            executor: got,
            why,
            instead_of: instead,
        } = route(&ask, &conditions(strategy, health))
        else {
            panic!("it waits")
        };
        assert_eq!((got, instead), (executor, instead_of), "{why}");
        assert!(why.contains(says), "{why}");
    };
    let small = spec(TaskKind::Builder, Some(Complexity::Low), false);
    let apart = spec(TaskKind::Builder, None, true);
    let (smart, up) = (Strategy::HybridSmart, Health::AllUp);
    let moved = "last run there was lost: it goes to the cloud";
    check(smart, &small, Local, up, Codegen, Some(Local), moved);
    check(smart, &small, Codegen, up, Local, None, "stays");
    let again = "although its last run there was lost, because";
    let down = Health::CloudDown;
    check(smart, &small, Local, down, Local, None, "OUTAGE-codegen");
    check(smart, &apart, Codegen, up, Codegen, None, "isolation");
    check(Strategy::LocalOnly, &small, Local, up, Local, None, again);
    check(
        Strategy::CloudOnly,
        &small,
        Codegen,
        up,
        Codegen,
        None,
        again,
    );
}

#[test]
fn what_was_not_accepted_and_what_is_judged_go_elsewhere_if_they_may() {
    let small = spec(TaskKind::Reviewer, None, false);
    for (shun, says) in [
        (Shun::Rejected, "what was made there was not accepted"),
        (Shun::Author, "what it judges was made there"),
    ] {
        let ask = |at| Ask {
            spec: &small,
            shuns: Some((at, shun)),
            fits: ExecutorKind::ALL,
        };
        let both = conditions(Strategy::HybridSmart, Health::AllUp);
        let Choice::Go { executor, .. } = route(&ask(Codegen), &both) else {
            panic!("it waits")
        };
        assert_eq!(executor, Local);
        let Choice::Go {
            executor,
            why,
            instead_of,
        } = route(&ask(Local), &both)
        else {
            panic!("it waits")
        };
        // Nothing is down for it.
        assert_eq!((executor, instead_of), (Codegen, None), "{why}");
        assert!(why.contains(says), "{why}");
        let local = conditions(Strategy::LocalOnly, Health::AllUp);
        let Choice::Go { executor, why, .. } = route(&ask(Local), &local) else {
            panic!("it waits")
        };
        assert_eq!((executor, why.contains(says)), (Local, true), "{why}");
    }
}

#[test]
fn commands_run_on_the_teams_machines_or_wait_for_them() {
    let verifier = spec(TaskKind::Verifier, None, false);
    let ask = Ask {
        spec: &verifier,
        shuns: Some((Local, Shun::Author)),
        fits: &[],
    };
    let up = conditions(Strategy::CloudOnly, Health::AllUp);
    let went = route(&ask, &up);
    assert!(
        matches!(
            went,
            Choice::Go {
                executor: Local,
                ..
            }
        ),
        "{went:?}"
    );
    let mut down = up;
    for it in &mut down.executors {
        it.down = Some("OUTAGE".into());
    }
    let waits = route(&ask, &down);
    assert!(
        matches!(
            waits,
            Choice::Wait {
                executor: Local,
                ..
            }
        ),
        "{waits:?}"
    );
}

#[test]
fn an_executor_that_is_not_set_up_is_no_alternative() {
    let check = |strategy, complexity, missing: ExecutorKind, expected: ExecutorKind| {
        let mut conditions = conditions(strategy, Health::AllUp);
        conditions.executors.retain(|it| it.kind != missing);
        for executor in &mut conditions.executors {
            executor.slots_free = Some(0);
        }
        let spec = spec(TaskKind::Builder, complexity, false);
        let (got, why) = sentence(&spec, ExecutorKind::ALL, &conditions);
        assert_eq!(got, expected, "{why}");
    };
    let low = Some(Complexity::Low);
    check(Strategy::HybridSmart, low, Codegen, Local);
    check(Strategy::CostOptimized, None, Codegen, Local);
    check(Strategy::CostOptimized, low, Local, Codegen);
    // Its start says what is missing.
    check(Strategy::HybridParallel, None, Codegen, Codegen);

    let mut alone = conditions(Strategy::HybridParallel, Health::CloudDown);
    alone.executors.retain(|it| it.kind == Codegen);
    let spec = spec(TaskKind::Builder, None, false);
    let ask = Ask {
        spec: &spec,
        shuns: None,
        fits: ExecutorKind::ALL,
    };
    let Choice::Wait { executor, why } = route(&ask, &alone) else {
        panic!("there is nowhere else")
    };
    assert_eq!(executor, Codegen);
    assert!(why.contains("the team's machine is not set up"), "{why}");
}
