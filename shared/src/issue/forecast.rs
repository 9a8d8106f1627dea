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
use super::{
    Conditions, ExecutorKind, Issue, Policy, Task, TaskId, TaskKind, TaskState, Time, seconds,
};

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
    place: Place,
    /// Where it goes while no slot is free on the team's machine.
    when_full: Place,
    /// How many tasks the longest way from here has.
    depth: usize,
    stage: Stage,
    runs_max: u32,
    /// From the end of its last run.
    after_seconds: f64,
}

/// Where runs are made, and how they go there.
#[derive(Clone, Copy)]
struct Place {
    executor: ExecutorKind,
    success_rate: f64,
    usd_per_run: f64,
    seconds_per_run: f64,
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

/// What the work of a round did come to, the making of the plan left out: the
/// USD of its runs, and the minutes from the first start to the last end, where
/// there were both. That a person let a good change lie is not the work's.
pub fn came_to(issue: &Issue) -> (f64, Option<f64>) {
    let work = || {
        let tasks = issue.tasks.iter();
        tasks.filter(|it| it.spec.kind != TaskKind::Orchestrator)
    };
    let began = work().filter_map(|it| it.started_at).min();
    let end = |it: &Task| it.validated_at.or(it.finished_at);
    let ended = work().filter_map(end).max();
    let seconds = began.zip(ended).map(|(began, ended)| seconds(began, ended));
    let minutes = seconds.map(|it| it.max(0) as f64 / SECONDS_PER_MINUTE);
    (work().map(|it| it.cost_usd).sum(), minutes)
}

fn jobs<'a>(issue: &'a Issue, policy: &Policy, conditions: &Conditions, now: Time) -> Vec<Job<'a>> {
    let left: Vec<&Task> = issue
        .tasks
        .iter()
        .filter(|task| !task.over() && task.spec.kind != TaskKind::Orchestrator)
        .collect();
    let positions: BTreeMap<&TaskId, usize> = left.iter().map(|it| &it.spec.id).zip(0..).collect();
    let depths = depths(left.iter().map(|it| it.spec.as_ref()));
    // Slots that others hold now will be free again.
    let (mut open, mut full) = (conditions.clone(), conditions.clone());
    for (conditions, slots) in [(&mut open, 1), (&mut full, 0)] {
        let local = ExecutorKind::Local;
        let executors = conditions.executors.iter_mut();
        for it in executors.filter(|it| it.kind == local && it.slots_free.is_some()) {
            it.slots_free = Some(slots);
        }
    }
    let job = |task: &&'a Task| {
        let stage = stage(task, now);
        let ahead = matches!(stage, Stage::Ahead(_));
        let place = |conditions: &Conditions| match task.executor.filter(|_| !ahead) {
            Some(executor) => Place::of(executor, task, conditions),
            None => Place::of(chosen(task, conditions), task, conditions),
        };
        let begun = if ahead {
            task.attempt
        } else {
            task.attempt.saturating_sub(1)
        };
        let awaited = |on: &&TaskId| !issue.task(on).is_some_and(Task::achieved);
        let position = |on: &TaskId| positions.get(on).copied();
        let depends_on = task.spec.depends_on.iter().filter(awaited);
        Job {
            id: &task.spec.id,
            depends_on: depends_on.map(position).collect(),
            place: place(&open),
            when_full: place(&full),
            depth: depths[&task.spec.id],
            stage,
            runs_max: policy.attempts_max.saturating_sub(begun).clamp(1, RUNS_MAX),
            after_seconds: if task.spec.kind.makes_pull() {
                CHECKS_AND_MERGE_SECONDS
            } else {
                0.0
            },
        }
    };
    left.iter().map(job).collect()
}

fn stage(task: &Task, now: Time) -> Stage {
    let until = |at: Time| at.duration_since(now).as_secs_f64().max(0.0);
    let since = |at: Time| now.duration_since(at).as_secs_f64().max(0.0);
    match &task.state {
        TaskState::Starting { .. } => Stage::UnderWay(0.0),
        TaskState::Running { begun, .. } => Stage::UnderWay(begun.map_or(0.0, since)),
        TaskState::Todo => Stage::Ahead(task.not_before.map_or(0.0, until)),
        TaskState::Seeking { .. }
        | TaskState::Judging
        | TaskState::Approved { .. }
        | TaskState::Updating { .. }
        | TaskState::Merging { .. }
        | TaskState::Queued { .. }
        | TaskState::Ready
        | TaskState::Merged
        | TaskState::Succeeded
        | TaskState::Failed
        | TaskState::Skipped
        | TaskState::Cancelled => Stage::Checked,
    }
}

fn chosen(task: &Task, conditions: &Conditions) -> ExecutorKind {
    let ask = Ask {
        spec: &task.spec,
        shuns: task.shuns,
        fits: ExecutorKind::ALL,
    };
    match route(&ask, conditions) {
        Choice::Go { executor, .. } | Choice::Wait { executor, .. } => executor,
    }
}

impl Place {
    fn of(executor: ExecutorKind, task: &Task, conditions: &Conditions) -> Self {
        let cell = Cell::of(executor, &task.spec);
        let history = &conditions.history;
        Self {
            executor,
            success_rate: history.success_rate(cell),
            usd_per_run: history.usd_per_run(cell, conditions.rules.cost_per_run),
            seconds_per_run: history.seconds_per_run(cell),
        }
    }
}

impl Bounds {
    fn of(jobs: &[Job<'_>], policy: &Policy, conditions: &Conditions) -> Self {
        let local = conditions.executor(ExecutorKind::Local);
        let ours = |job: &&Job<'_>| {
            job.place.executor == ExecutorKind::Local && matches!(job.stage, Stage::UnderWay(_))
        };
        // There is one at least, or nothing would ever end.
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
        executor: ExecutorKind,
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
            let mut place = job.place;
            if let Stage::Ahead(from) = job.stage {
                let (busy, busy_local) = at_work(&played, now);
                if busy >= bounds.parallel || !ready(job, &played, now) {
                    continue;
                }
                if busy_local >= bounds.local_slots {
                    place = job.when_full;
                    if place.executor == ExecutorKind::Local {
                        continue;
                    }
                }
                let opens = from.max(rate_opens(place.executor, &cloud_starts));
                if opens > now {
                    next = next.min(opens);
                    continue;
                }
                if place.executor == ExecutorKind::Codegen {
                    cloud_starts.push(now);
                }
            }
            let work = work(job, &place, at, draw);
            usd += work.usd;
            let ends = now + work.seconds;
            let over = ends + job.after_seconds;
            played[at] = Played::Begun {
                executor: place.executor,
                ends,
                achieved: work.achieves.then_some(over),
            };
            last = last.max(if work.achieves { over } else { ends });
        }
        for it in &played {
            if let Played::Begun { ends, achieved, .. } = it {
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

/// How many runs there are at this moment, and how many of them on the team's machine.
fn at_work(played: &[Played], now: f64) -> (usize, usize) {
    let mut busy = (0, 0);
    for it in played {
        if let Played::Begun { executor, ends, .. } = it
            && *ends > now
        {
            busy.0 += 1;
            busy.1 += usize::from(*executor == ExecutorKind::Local);
        }
    }
    busy
}

/// When the rate lets another run begin in the cloud.
fn rate_opens(executor: ExecutorKind, cloud_starts: &[f64]) -> f64 {
    let bound = cloud_starts.iter().rev().nth(CLOUD_STARTS - 1);
    match bound.filter(|_| executor == ExecutorKind::Codegen) {
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
fn work(job: &Job<'_>, place: &Place, at: usize, draw: u64) -> Work {
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
        work.seconds += place.seconds_per_run * size;
        work.usd += if place.executor.reports_cost() {
            place.usd_per_run * size
        } else {
            place.usd_per_run
        };
        work.achieves = chance(1) < place.success_rate;
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
    let usual =
        |job: &Job<'_>| job.place.seconds_per_run / job.place.success_rate + job.after_seconds;
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
