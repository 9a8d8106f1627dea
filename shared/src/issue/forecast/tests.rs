//! Plans whose course can be worked out by hand, and what must hold of all.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::issue::history::{History, Past};
use crate::issue::{
    AgentPolicy, Complexity, IssueId, MergeMethod, MergeMode, Planning, Repository, Spec, Strategy,
    Verbosity,
};

fn policy(parallel_max: usize, attempts_max: u32) -> Policy {
    Policy {
        repository: Repository::default(),
        planning: Planning::Always,
        mode: None,
        bug: false,
        sub_issues: None,
        strategy: Strategy::LocalOnly,
        merge: MergeMode::Auto,
        method: MergeMethod::Squash,
        required_checks: vec![],
        check_grace_seconds: 60,
        protected_paths: Vec::new(),
        require_approval: false,
        commands: Vec::new(),
        reviewer: false,
        repairs_max: 0,
        keep_pulls: false,
        tasks_max: 100,
        parallel_max,
        attempts_max,
        task_timeout_seconds: 7_200,
        cost_per_run: 0.4,
        cost_per_task_max: None,
        cost_per_issue_max: None,
        verbosity: Verbosity::Normal,
        agent: AgentPolicy::default(),
        tools: BTreeMap::new(),
    }
}

fn task(id: &str, kind: TaskKind, depends_on: &[&str]) -> Task {
    Task::new(Arc::new(Spec {
        id: id.into(),
        title: id.to_owned(),
        kind,
        prompt: String::new(),
        depends_on: depends_on.iter().map(|it| TaskId::from(*it)).collect(),
        complexity: Some(Complexity::Medium),
        requires_isolation: false,
        acceptance: vec![],
        paths: vec![],
        judges: None,
        issue: None,
    }))
}

fn builders(plan: &[(&str, &[&str])]) -> Vec<Task> {
    let builder = |(id, on): &(&str, &[&str])| task(id, TaskKind::Builder, on);
    plan.iter().map(builder).collect()
}

fn fan(tasks: usize) -> Vec<Task> {
    let id = |n: usize| format!("t{n}");
    (0..tasks)
        .map(|n| task(&id(n), TaskKind::Builder, &[]))
        .collect()
}

fn issue(tasks: Vec<Task>, policy: Policy) -> Issue {
    Issue {
        policy: Some(Arc::new(policy)),
        tasks,
        ..Issue::unknown(IssueId::from("i"))
    }
}

/// All up, under this strategy, and as many runs seen that every estimate is
/// what was seen: each succeeds, costs 1 USD here, and works for 600 s.
fn sure(strategy: Strategy) -> Conditions {
    let past = Past {
        tasks: 1_000_000,
        achieved: 1_000_000,
        runs: 1_000_000,
        micros: 1_000_000_000_000,
        run_seconds: 600_000_000,
    };
    let cells = ExecutorKind::ALL.iter().flat_map(|executor| {
        TaskKind::ALL.iter().map(|kind| Cell {
            executor: *executor,
            kind: *kind,
            complexity: Some(Complexity::Medium),
        })
    });
    let mut conditions = unknown(strategy);
    conditions.history = Arc::new(History(cells.map(|it| (it, past)).collect()));
    conditions
}

fn unknown(strategy: Strategy) -> Conditions {
    let mut conditions = Conditions::fair(None, Time::UNIX_EPOCH);
    conditions.rules.strategy = strategy;
    conditions.rules.cost_per_run = 0.4;
    conditions
}

fn of(issue: &Issue, conditions: &Conditions) -> Forecast {
    let forecast = forecast(issue, conditions, Time::UNIX_EPOCH);
    for Range {
        low,
        expected,
        high,
    } in [forecast.cost_usd, forecast.minutes]
    {
        assert!(0.0 <= low && low <= expected && expected <= high && high.is_finite());
    }
    forecast
}

fn near(got: f64, expected: f64, share: f64) -> bool {
    (got - expected).abs() <= share * expected
}

fn path(forecast: &Forecast) -> Vec<&str> {
    forecast
        .critical_path
        .iter()
        .map(|it| it.0.as_str())
        .collect()
}

/// 600 s of work and 180 s until the merge.
const ONE: f64 = 13.0;

#[test]
fn a_chain_takes_the_sum_of_its_tasks() {
    let chain = builders(&[("a", &[]), ("b", &["a"]), ("c", &["b"])]);
    let forecast = of(&issue(chain, policy(10, 3)), &sure(Strategy::LocalOnly));
    assert!(
        near(forecast.minutes.expected, 3.0 * ONE, 0.05),
        "{forecast:?}"
    );
    assert!(near(forecast.cost_usd.expected, 3.0, 0.05), "{forecast:?}");
    assert_eq!(path(&forecast), ["a", "b", "c"]);
}

#[test]
fn a_fan_out_takes_as_long_as_its_longest_task_and_costs_the_sum() {
    let forecast = of(&issue(fan(8), policy(10, 3)), &sure(Strategy::LocalOnly));
    let longest = ONE + 10.0 * RUN_SPREAD;
    assert!((ONE..longest).contains(&forecast.minutes.expected));
    assert!(near(forecast.cost_usd.expected, 8.0, 0.05), "{forecast:?}");
    assert_eq!(path(&forecast), ["t0"]);
}

#[test]
fn places_and_slots_bound_what_goes_on_at_once() {
    let minutes = |parallel, slots_free| {
        let mut conditions = sure(Strategy::LocalOnly);
        conditions.executors[0].slots_free = slots_free;
        of(&issue(fan(8), policy(parallel, 3)), &conditions)
            .minutes
            .expected
    };
    let one_by_one = 8.0 * 10.0 + 3.0;
    assert!(near(minutes(1, None), one_by_one, 0.05));
    assert!(near(minutes(10, Some(1)), one_by_one, 0.05));
    // Slots that others hold will be free again.
    assert_eq!(minutes(10, Some(0)), minutes(10, Some(1)));
    assert!(near(minutes(10, Some(2)), 4.0 * 10.0 + 3.0, 0.1));
    assert_eq!(minutes(10, Some(8)), minutes(10, None));
    let mut cloud = sure(Strategy::CloudOnly);
    cloud.executors[0].slots_free = Some(1);
    let fan = of(&issue(fan(8), policy(10, 3)), &cloud);
    assert!(fan.minutes.expected < 2.0 * ONE, "no slot is taken there");
}

#[test]
fn small_tasks_that_find_no_slot_go_to_the_cloud_under_hybrid_smart() {
    let mut small = fan(8);
    for task in &mut small {
        let mut spec = task.spec.as_ref().clone();
        spec.complexity = Some(Complexity::Low);
        task.spec = Arc::new(spec);
    }
    let small = issue(small, policy(10, 1));
    let forecast = |strategy, slots| {
        let mut conditions = unknown(strategy);
        conditions.executors[0].slots_free = slots;
        of(&small, &conditions)
    };
    let cloud = forecast(Strategy::CloudOnly, None).cost_usd;
    let local = forecast(Strategy::LocalOnly, None).cost_usd;
    let smart = Strategy::HybridSmart;
    // Two of eight stay; each in the cloud costs 0.40.
    let mixed = forecast(smart, Some(2));
    assert!(
        mixed.cost_usd.expected > local.expected + 1.0
            && mixed.cost_usd.expected < cloud.expected - 0.3,
        "{mixed:?}"
    );
    assert_eq!(forecast(smart, None).cost_usd, local);
    let queued = forecast(Strategy::LocalOnly, Some(2)).minutes;
    assert!(mixed.minutes.expected < queued.expected, "{mixed:?}");
}

#[test]
fn the_rate_of_the_cloud_bounds_a_large_fan_out() {
    let minutes = |tasks| {
        let forecast = of(
            &issue(fan(tasks), policy(1_000, 1)),
            &sure(Strategy::CloudOnly),
        );
        forecast.minutes.expected
    };
    // The last ten of sixty begin after five minutes; of ten, at once.
    let (ten, sixty) = (minutes(10), minutes(60));
    assert!((4.0..=5.5).contains(&(sixty - ten)), "{ten} {sixty}");
}

#[test]
fn failures_cost_further_runs_and_widen_the_range() {
    let single = || {
        let mut main = task("main", TaskKind::Builder, &[]);
        main.spec = Arc::new(Spec {
            complexity: Some(Complexity::High),
            ..main.spec.as_ref().clone()
        });
        vec![main]
    };
    let cost = |attempts| {
        of(
            &issue(single(), policy(10, attempts)),
            &unknown(Strategy::CloudOnly),
        )
        .cost_usd
    };
    // Codegen's price is fixed: with one attempt there is nothing to guess.
    let once = Range {
        low: 0.4,
        expected: 0.4,
        high: 0.4,
    };
    assert_eq!(cost(1), once);
    let thrice = cost(3);
    // 0.65 of them succeed: 1 + 0.35 + 0.35².
    assert!(near(thrice.expected, 0.4 * 1.4725, 0.07), "{thrice:?}");
    assert!(thrice.low == 0.4 && thrice.high > 0.75, "{thrice:?}");
}

#[test]
fn the_plan_is_paid_for_and_begins_the_longest_way() {
    let mut plan = task(PLAN, TaskKind::Orchestrator, &[]);
    plan.state = TaskState::Succeeded;
    plan.cost_usd = 7.0;
    let mut tasks = vec![plan];
    tasks.extend(builders(&[
        ("a", &[]),
        ("b", &[]),
        ("c", &["b"]),
        ("d", &["a"]),
    ]));
    tasks.push(task("e", TaskKind::Reviewer, &["c"]));
    let forecast = of(&issue(tasks, policy(10, 3)), &unknown(Strategy::LocalOnly));
    assert_eq!(path(&forecast), ["plan", "b", "c", "e"]);
    assert!(forecast.cost_usd.expected < 7.0);
}

#[test]
fn of_what_is_under_way_only_the_time_is_left() {
    let conditions = sure(Strategy::LocalOnly);
    let now = Time::UNIX_EPOCH;
    let with = |state: TaskState| {
        let mut tasks = builders(&[("a", &[]), ("b", &["a"])]);
        tasks[0].state = state;
        tasks[0].executor = Some(ExecutorKind::Local);
        tasks[0].attempt = 1;
        of(&issue(tasks, policy(10, 3)), &conditions)
    };
    let running = with(TaskState::Running {
        run: "r".into(),
        since: now,
        begun: Some(now - jiff::SignedDuration::from_secs(300)),
        stopping: None,
    });
    assert!(near(running.cost_usd.expected, 1.0, 0.05), "{running:?}");
    assert!(
        near(running.minutes.expected, 2.0 * ONE - 5.0, 0.07),
        "{running:?}"
    );
    let merged = with(TaskState::Merged);
    assert!(near(merged.minutes.expected, ONE, 0.05), "{merged:?}");
    assert_eq!(path(&merged), ["b"]);
    // What will never be is waited for by nobody.
    assert_eq!(with(TaskState::Failed).cost_usd, Range::default());
}

#[test]
fn the_same_question_has_the_same_answer_and_nothing_has_one() {
    let conditions = unknown(Strategy::CostOptimized);
    let some = issue(builders(&[("a", &[]), ("b", &["a"])]), policy(10, 3));
    assert_eq!(of(&some, &conditions), of(&some, &conditions));
    assert!(of(&some, &conditions).cost_usd.expected > 0.5);
    assert_eq!(
        of(&issue(vec![], policy(0, 0)), &conditions),
        Forecast::default()
    );
    assert_eq!(
        of(&Issue::unknown(IssueId::from("i")), &conditions),
        Forecast::default()
    );
}
