//! What a plan will cost and how long it will take, before it is begun. The plan
//! is played through many times, with runs that cost, last and fail as such runs
//! usually do; the same draws are made each time, so the same question has the
//! same answer. It promises nothing: no decision about money rests on it but
//! whether a person is asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::history::Cell;
use super::plan::{PLAN, depths};
use super::route::{Ask, Choice, route};
use super::{Conditions, ExecutorKind, Issue, Policy, Task, TaskId, TaskKind, TaskState, Time};

#[cfg(test)]
mod tests;

/// How often a plan is played through.
const DRAWS: u64 = 200;
/// Of those, so many percent come to less than the low figure, and to more than
/// the high one.
const TAIL_PERCENT: usize = 10;
/// A run costs and lasts up to this share less or more than its mean.
const RUN_SPREAD: f64 = 0.6;
/// More runs of one task than this are not imagined.
const RUNS_MAX: u32 = 20;
/// What a pull request takes from the end of its run to its merge.
const CHECKS_AND_MERGE_SECONDS: f64 = 180.0;
/// Codegen's rate, as far as it can be planned with: so many runs begin within …
const CLOUD_STARTS: usize = 10;
/// … so many seconds.
const CLOUD_STARTS_SECONDS: f64 = 60.0;
const SECONDS_PER_MINUTE: f64 = 60.0;

/// A guess with its bounds: in four of five cases it lies within.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub low: f64,
    pub expected: f64,
    pub high: f64,
}

/// What the tasks that are left will come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    pub cost_usd: Range,
    pub minutes: Range,
    /// The longest way through the plan, as far as it is known.
    pub critical_path: Vec<TaskId>,
}

/// Forecasts the tasks of an issue that have not been begun; for those under way
/// there is only waited. The plan itself, once there is one, is paid for.
pub fn forecast(issue: &Issue, conditions: &Conditions, now: Time) -> Forecast {
    let Some(policy) = issue.policy.as_deref() else {
        return Forecast::default();
    };
    let jobs = jobs(issue, policy, conditions, now);
    let bounds = Bounds::of(&jobs, policy, conditions);
    let mut usd = Vec::new();
    let mut minutes = Vec::new();
    for draw in 0..DRAWS {
        let came_to = play(&jobs, &bounds, draw);
        usd.push(came_to.usd);
        minutes.push(came_to.seconds / SECONDS_PER_MINUTE);
    }
    Forecast {
        cost_usd: Range::of(usd),
        minutes: Range::of(minutes),
        critical_path: critical_path(issue, &jobs),
    }
}

/// A task, as far as it matters here.
struct Job<'a> {
    id: &'a TaskId,
    /// Positions of what it depends on; `None`: something that will never be.
    depends_on: Option<Vec<usize>>,
    executor: ExecutorKind,
    /// How many tasks the longest way from here has.
    depth: usize,
    stage: Stage,
    success_rate: f64,
    usd_per_run: f64,
    seconds_per_run: f64,
    runs_max: u32,
    /// From the end of its last run.
    after_seconds: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    /// Nothing of it is before this many seconds.
    Ahead(f64),
    /// Its run has worked for so many seconds.
    UnderWay(f64),
    /// Only checks and merge are left.
    Checked,
}

/// What holds the tasks of a plan back besides each other.
struct Bounds {
    parallel: usize,
    local_slots: usize,
}

fn jobs<'a>(issue: &'a Issue, policy: &Policy, conditions: &Conditions, now: Time) -> Vec<Job<'a>> {
    let left: Vec<&Task> = issue
        .tasks
        .iter()
        .filter(|task| !task.over() && task.spec.kind != TaskKind::Orchestrator)
        .collect();
    let positions: BTreeMap<&TaskId, usize> = left.iter().map(|it| &it.spec.id).zip(0..).collect();
    let depths = depths(left.iter().map(|it| it.spec.as_ref()));
    let until = |at: Time| at.duration_since(now).as_secs_f64().max(0.0);
    let since = |at: Time| now.duration_since(at).as_secs_f64().max(0.0);
    let job = |task: &&'a Task| {
        let spec = task.spec.as_ref();
        let ask = Ask {
            spec,
            lost: task.lost,
            fits: ExecutorKind::ALL,
        };
        let stage = match &task.state {
            TaskState::Starting { .. } => Stage::UnderWay(0.0),
            TaskState::Running { begun, .. } => Stage::UnderWay(begun.map_or(0.0, since)),
            TaskState::Todo => Stage::Ahead(task.not_before.map_or(0.0, until)),
            TaskState::Seeking { .. }
            | TaskState::Judging
            | TaskState::Approved { .. }
            | TaskState::Merging { .. }
            | TaskState::Ready
            | TaskState::Merged
            | TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Skipped
            | TaskState::Cancelled => Stage::Checked,
        };
        let chosen = match route(&ask, conditions) {
            Choice::Go { executor, .. } | Choice::Wait { executor, .. } => executor,
        };
        let executor = match stage {
            Stage::Ahead(_) => chosen,
            Stage::UnderWay(_) | Stage::Checked => task.executor.unwrap_or(chosen),
        };
        let begun = match stage {
            Stage::Ahead(_) => task.attempt,
            Stage::UnderWay(_) | Stage::Checked => task.attempt.saturating_sub(1),
        };
        let awaited = |on: &&TaskId| !issue.task(on).is_some_and(Task::achieved);
        let position = |on: &TaskId| positions.get(on).copied();
        let cell = Cell::of(executor, spec);
        let history = &conditions.history;
        Job {
            id: &spec.id,
            depends_on: spec
                .depends_on
                .iter()
                .filter(awaited)
                .map(position)
                .collect(),
            executor,
            depth: depths[&spec.id],
            stage,
            success_rate: history.success_rate(cell),
            usd_per_run: history.usd_per_run(cell, conditions.rules.cost_per_run),
            seconds_per_run: history.seconds_per_run(cell),
            runs_max: policy.attempts_max.saturating_sub(begun).clamp(1, RUNS_MAX),
            after_seconds: if spec.kind.makes_pull() {
                CHECKS_AND_MERGE_SECONDS
            } else {
                0.0
            },
        }
    };
    left.iter().map(job).collect()
}

impl Bounds {
    fn of(jobs: &[Job<'_>], policy: &Policy, conditions: &Conditions) -> Self {
        let local = conditions.executor(ExecutorKind::Local);
        let ours = |job: &&Job<'_>| {
            job.executor == ExecutorKind::Local && matches!(job.stage, Stage::UnderWay(_))
        };
        // Slots that others hold will be free again: there is one at least.
        let slots = |free: usize| (free + jobs.iter().filter(ours).count()).max(1);
        Self {
            parallel: policy.parallel_max.max(1),
            local_slots: local.and_then(|it| it.slots_free).map_or(usize::MAX, slots),
        }
    }
}

// ───────────────────────────── playing it through ─────────────────────────────

struct CameTo {
    usd: f64,
    seconds: f64,
}

/// What has become of a job while the plan is played.
#[derive(Clone, Copy, PartialEq)]
enum Played {
    NotYet,
    /// Its last run ends then; `achieved`: its dependents may start then.
    Begun {
        ends: f64,
        achieved: Option<f64>,
    },
}

/// Plays the plan through once: what is ready begins, the longest way first, as
/// far as there is room; then time moves to the next thing that changes that.
fn play(jobs: &[Job<'_>], bounds: &Bounds, draw: u64) -> CameTo {
    let mut played = vec![Played::NotYet; jobs.len()];
    let mut cloud_starts: Vec<f64> = Vec::new();
    let mut usd = 0.0;
    let mut last = 0.0_f64;
    let mut now = 0.0;
    let mut order: Vec<usize> = (0..jobs.len()).collect();
    order.sort_by_key(|at| {
        let ahead = matches!(jobs[*at].stage, Stage::Ahead(_));
        (ahead, std::cmp::Reverse(jobs[*at].depth))
    });
    loop {
        let mut next = f64::INFINITY;
        for at in order.iter().copied() {
            let job = &jobs[at];
            if played[at] != Played::NotYet {
                continue;
            }
            if let Stage::Ahead(from) = job.stage {
                if !ready(job, &played, now) {
                    continue;
                }
                let opens = from.max(rate_opens(job, &cloud_starts));
                if opens > now {
                    next = next.min(opens);
                    continue;
                }
                if !room(job, jobs, &played, bounds, now) {
                    continue;
                }
                if job.executor == ExecutorKind::Codegen {
                    cloud_starts.push(now);
                }
            }
            let work = work(job, at, draw);
            usd += work.usd;
            let ends = now + work.seconds;
            let over = ends + job.after_seconds;
            played[at] = Played::Begun {
                ends,
                achieved: work.achieves.then_some(over),
            };
            last = last.max(if work.achieves { over } else { ends });
        }
        for it in &played {
            if let Played::Begun { ends, achieved } = it {
                let moments = [Some(*ends), *achieved];
                let later = moments.into_iter().flatten().filter(|it| *it > now);
                next = later.fold(next, f64::min);
            }
        }
        // Each turn begins a job, or passes one of the few moments that each has.
        if !next.is_finite() {
            return CameTo { usd, seconds: last };
        }
        now = next;
    }
}

fn ready(job: &Job<'_>, played: &[Played], now: f64) -> bool {
    let achieved =
        |on: &usize| matches!(played[*on], Played::Begun { achieved: Some(at), .. } if at <= now);
    job.depends_on
        .as_ref()
        .is_some_and(|all| all.iter().all(achieved))
}

fn room(job: &Job<'_>, jobs: &[Job<'_>], played: &[Played], bounds: &Bounds, now: f64) -> bool {
    let at_work = jobs.iter().zip(played);
    let at_work = at_work.filter(|(_, it)| matches!(it, Played::Begun { ends, .. } if *ends > now));
    let (mut all, mut local) = (0, 0);
    for (other, _) in at_work {
        all += 1;
        local += usize::from(other.executor == ExecutorKind::Local);
    }
    all < bounds.parallel && (job.executor != ExecutorKind::Local || local < bounds.local_slots)
}

/// When the rate lets another run begin in the cloud.
fn rate_opens(job: &Job<'_>, cloud_starts: &[f64]) -> f64 {
    let bound = cloud_starts.iter().rev().nth(CLOUD_STARTS - 1);
    match bound.filter(|_| job.executor == ExecutorKind::Codegen) {
        Some(start) => start + CLOUD_STARTS_SECONDS,
        None => 0.0,
    }
}

struct Work {
    usd: f64,
    seconds: f64,
    achieves: bool,
}

/// The runs of a job in this draw.
fn work(job: &Job<'_>, at: usize, draw: u64) -> Work {
    let mut work = Work {
        usd: 0.0,
        seconds: 0.0,
        achieves: false,
    };
    if job.stage == Stage::Checked {
        work.achieves = true;
        return work;
    }
    for run in 0..job.runs_max {
        let chance = |of: u64| chance([draw, at as u64, u64::from(run), of]);
        let size = 1.0 + RUN_SPREAD * (2.0 * chance(0) - 1.0);
        work.seconds += job.seconds_per_run * size;
        work.usd += if job.executor.reports_cost() {
            job.usd_per_run * size
        } else {
            job.usd_per_run
        };
        work.achieves = chance(1) < job.success_rate;
        if work.achieves {
            break;
        }
    }
    if let Stage::UnderWay(elapsed) = job.stage {
        work.usd = 0.0;
        work.seconds = (work.seconds - elapsed).max(0.0);
    }
    work
}

/// A number from 0 up to 1, the same for the same place (`SplitMix64`): what one
/// task draws does not depend on when it begins.
fn chance(place: [u64; 4]) -> f64 {
    let mix = |seed: u64, part: u64| {
        let z = (seed ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let drawn = place.into_iter().fold(0, mix);
    (drawn >> 11) as f64 / (1_u64 << 53) as f64
}

impl Range {
    /// The mean, and the bounds of the middle.
    fn of(mut figures: Vec<f64>) -> Self {
        figures.sort_by(f64::total_cmp);
        let tail = figures.len() * TAIL_PERCENT / 100;
        let mean = figures.iter().sum::<f64>() / figures.len() as f64;
        // Where few draws are far out, the mean lies outside the middle.
        Self {
            low: rounded(figures[tail].min(mean)),
            expected: rounded(mean),
            high: rounded(figures[figures.len() - 1 - tail].max(mean)),
        }
    }
}

/// Four decimals: no forecast is better than that.
fn rounded(figure: f64) -> f64 {
    (figure * 10_000.0).round() / 10_000.0
}

/// The way through what is left that usually takes longest.
fn critical_path(issue: &Issue, jobs: &[Job<'_>]) -> Vec<TaskId> {
    let usual = |job: &Job<'_>| job.seconds_per_run / job.success_rate + job.after_seconds;
    let mut ways: Vec<f64> = jobs.iter().map(usual).collect();
    let mut then: Vec<Option<usize>> = vec![None; jobs.len()];
    // A graph of n tasks settles within n rounds.
    for _ in 0..jobs.len() {
        for (at, job) in jobs.iter().enumerate() {
            for on in job.depends_on.iter().flatten().copied() {
                let way = usual(&jobs[on]) + ways[at];
                if way > ways[on] {
                    (ways[on], then[on]) = (way, Some(at));
                }
            }
        }
    }
    let planned = issue
        .tasks
        .iter()
        .any(|it| it.spec.kind == TaskKind::Orchestrator);
    let mut path: Vec<TaskId> = planned.then(|| TaskId::from(PLAN)).into_iter().collect();
    let longest = |a: &usize, b: &usize| ways[*a].total_cmp(&ways[*b]).then(b.cmp(a));
    let mut at = (0..jobs.len()).max_by(longest);
    while let Some(job) = at.filter(|_| path.len() <= jobs.len()) {
        path.push(jobs[job].id.clone());
        at = then[job];
    }
    path
}
