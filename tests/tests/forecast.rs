//! How good forecasts are, in a workspace that is not what the first guess says:
//! its agents are dearer, slower and less lucky, and no two runs are the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::issue::forecast::{Range, forecast};
use shared::issue::history::{Cell, History};
use shared::issue::route::{Ask, Choice, route};
use shared::issue::{
    AgentPolicy, Complexity, Conditions, ExecutorKind, Issue, IssueId, MergeMethod, MergeMode,
    Planning, Policy, Repository, Spec, Strategy, Task, TaskId, TaskKind, Time, Verbosity,
};
use shared::stats::error_permille;

const ISSUES: usize = 300;
/// The first so many are there to learn from.
const LEARNING: usize = 100;
const TASKS_MAX: usize = 8;
const ATTEMPTS_MAX: u32 = 3;
const COST_PER_RUN: f64 = 0.40;
/// What the mean relative error has to stay under, once there is history.
const COST_ERROR_MAX: f64 = 0.30;
const MINUTES_ERROR_MAX: f64 = 0.35;

/// How a run really goes here: what it costs, how long it works, how often it succeeds.
fn truth(cell: Cell) -> (f64, f64, f64) {
    use Complexity::{High, Low, Medium};
    if !cell.kind.makes_pull() {
        return (0.30, 420.0, 0.9);
    }
    match (cell.executor, cell.complexity) {
        (ExecutorKind::Local, Some(Low)) => (0.35, 500.0, 0.85),
        (ExecutorKind::Local, Some(Medium) | None) => (0.80, 1_100.0, 0.65),
        (ExecutorKind::Local, Some(High)) => (1.90, 2_400.0, 0.5),
        (ExecutorKind::Codegen, Some(Low)) => (COST_PER_RUN, 700.0, 0.9),
        (ExecutorKind::Codegen, Some(Medium) | None) => (COST_PER_RUN, 1_300.0, 0.75),
        (ExecutorKind::Codegen, Some(High)) => (COST_PER_RUN, 2_000.0, 0.55),
    }
}

fn policy() -> Policy {
    Policy {
        repository: Repository::default(),
        planning: Planning::Always,
        mode: None,
        bug: false,
        sub_issues: None,
        strategy: Strategy::HybridSmart,
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
        tasks_max: TASKS_MAX,
        parallel_max: TASKS_MAX,
        attempts_max: ATTEMPTS_MAX,
        task_timeout_seconds: 7_200,
        cost_per_run: COST_PER_RUN,
        cost_per_task_max: None,
        cost_per_issue_max: None,
        verbosity: Verbosity::Normal,
        agent: AgentPolicy::default(),
        tools: BTreeMap::new(),
    }
}

/// A plan as they come: mostly builders, each dependent on up to two before it.
fn plan(dice: &mut fastrand::Rng) -> Issue {
    let mut issue = Issue::unknown(IssueId::from("i"));
    issue.policy = Some(Arc::new(policy()));
    for at in 0..dice.usize(2..=TASKS_MAX) {
        let kinds = [
            TaskKind::Builder,
            TaskKind::Builder,
            TaskKind::Builder,
            TaskKind::Debugger,
            TaskKind::Reviewer,
        ];
        let sizes = [
            None,
            Some(Complexity::Low),
            Some(Complexity::Low),
            Some(Complexity::Medium),
            Some(Complexity::High),
        ];
        let before = (0..dice.usize(0..=2)).filter(|_| at > 0);
        let depends_on: Vec<usize> = before.map(|_| dice.usize(0..at.max(1))).collect();
        issue.tasks.push(Task::new(Arc::new(Spec {
            id: id(at),
            title: String::new(),
            kind: kinds[dice.usize(0..kinds.len())],
            prompt: String::new(),
            depends_on: depends_on.into_iter().map(id).collect(),
            complexity: sizes[dice.usize(0..sizes.len())],
            requires_isolation: false,
            acceptance: vec![],
            paths: vec![],
            judges: None,
            issue: None,
        })));
    }
    issue
}

fn id(at: usize) -> TaskId {
    TaskId(format!("t{at}"))
}

/// About 1, seldom far from it, and 1 on average.
fn size(dice: &mut fastrand::Rng) -> f64 {
    let normal = (0..12).map(|_| dice.f64()).sum::<f64>() - 6.0;
    let spread = 0.4_f64;
    (spread * normal - spread * spread / 2.0).exp()
}

/// Works the issue off as the world would, and remembers how that went.
fn live(
    issue: &Issue,
    conditions: &Conditions,
    seen: &mut History,
    dice: &mut fastrand::Rng,
) -> (f64, f64) {
    let mut ends: BTreeMap<TaskId, f64> = BTreeMap::new();
    let (mut usd, mut last) = (0.0, 0.0_f64);
    for task in &issue.tasks {
        let spec = &task.spec;
        let before: Option<Vec<f64>> = spec
            .depends_on
            .iter()
            .map(|it| ends.get(it).copied())
            .collect();
        let Some(before) = before else {
            continue;
        };
        let mut now = before.into_iter().fold(0.0, f64::max);
        let ask = Ask {
            spec,
            shuns: None,
            fits: ExecutorKind::ALL,
        };
        let (Choice::Go { executor, .. } | Choice::Wait { executor, .. }) = route(&ask, conditions);
        let cell = Cell::of(executor, spec);
        let (price, seconds, success) = truth(cell);
        let past = seen.0.entry(cell).or_default();
        past.tasks += 1;
        for _ in 0..ATTEMPTS_MAX {
            let size = size(dice);
            let cost = if executor == ExecutorKind::Local {
                price * size
            } else {
                price
            };
            usd += cost;
            now += seconds * size;
            past.runs += 1;
            past.micros += (cost * 1_000_000.0) as i64;
            past.run_seconds += (seconds * size) as i64;
            if dice.f64() < success {
                past.achieved += 1;
                now += if spec.kind.makes_pull() {
                    60.0 + 240.0 * dice.f64()
                } else {
                    0.0
                };
                ends.insert(spec.id.clone(), now);
                break;
            }
        }
        last = last.max(now);
    }
    (usd, last / 60.0)
}

#[derive(Default)]
struct Errors {
    cost: i64,
    minutes: i64,
    /// How often what came was within the bounds.
    within: (usize, usize),
}

impl Errors {
    fn add(&mut self, cost: Range, minutes: Range, came: (f64, f64)) {
        self.cost += error_permille(cost.expected, came.0);
        self.minutes += error_permille(minutes.expected, came.1);
        let within = |range: Range, it: f64| usize::from((range.low..=range.high).contains(&it));
        self.within.0 += within(cost, came.0);
        self.within.1 += within(minutes, came.1);
    }

    fn means(&self) -> (f64, f64) {
        let mean = |sum: i64| sum as f64 / 1_000.0 / (ISSUES - LEARNING) as f64;
        (mean(self.cost), mean(self.minutes))
    }
}

#[test]
fn forecasts_become_better_as_history_grows() {
    let mut dice = fastrand::Rng::with_seed(5);
    let mut guessing = Conditions::fair(Some(&policy()), Time::UNIX_EPOCH);
    let mut learning = guessing.clone();
    let mut seen = History::default();
    let (mut first_guess, mut learnt) = (Errors::default(), Errors::default());
    for at in 0..ISSUES {
        let strategy = if at % 2 == 0 {
            Strategy::HybridSmart
        } else {
            Strategy::LocalOnly
        };
        guessing.rules.strategy = strategy;
        learning.rules.strategy = strategy;
        learning.history = Arc::new(seen.clone());
        let issue = plan(&mut dice);
        let guess = forecast(&issue, &guessing, Time::UNIX_EPOCH);
        let better = forecast(&issue, &learning, Time::UNIX_EPOCH);
        let came = live(&issue, &learning, &mut seen, &mut dice);
        if at >= LEARNING {
            first_guess.add(guess.cost_usd, guess.minutes, came);
            learnt.add(better.cost_usd, better.minutes, came);
        }
    }
    let (guess, better) = (first_guess.means(), learnt.means());
    let counted = ISSUES - LEARNING;
    for (what, errors, means) in [
        ("the first guess alone", &first_guess, guess),
        ("with history", &learnt, better),
    ] {
        println!(
            "{what}: mean relative error of the cost {:.0} %, of the time {:.0} %; within the bounds {} and {} of {counted}",
            means.0 * 100.0,
            means.1 * 100.0,
            errors.within.0,
            errors.within.1,
        );
    }
    assert!(
        better.0 < guess.0 && better.1 < guess.1,
        "{guess:?} {better:?}"
    );
    assert!(
        better.0 < COST_ERROR_MAX && better.1 < MINUTES_ERROR_MAX,
        "{better:?}"
    );
    // The bounds are meant for four of five.
    assert!(
        learnt.within.0 * 10 >= counted * 7,
        "{} of {counted}",
        learnt.within.0
    );
}
