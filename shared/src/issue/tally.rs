//! What a round adds up to for statistics: when people first heard of us, how
//! long runs worked, how often Linear was asked. Nothing is decided by it.

use std::collections::BTreeMap;

use super::money::micros;
use super::{
    Effect, Event, ExecutorKind, Fault, Issue, Owed, Record, Seq, StopReason, Stopping, Task,
    TaskId, TaskState, Time,
};

/// The sums of one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// The first thing that is said in the round.
    pub greeting: Option<Seq>,
    /// When it had been said.
    pub greeted_at: Option<Time>,
    /// From when to when runs worked, in the order of their ends.
    pub runs: Vec<(Time, Time)>,
    /// The runs of each task, where they were made; without those that a pause cut short.
    pub work: BTreeMap<(TaskId, ExecutorKind), Work>,
    /// Effects at Linear that were tried.
    pub linear_calls: i64,
    /// Those among them that were asked to wait.
    pub linear_waits: i64,
}

/// What the runs of a task came to on one executor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    pub runs: i64,
    /// Millionths of a USD.
    pub micros: i64,
    pub seconds: i64,
}

impl Tally {
    /// The seconds that runs worked, one after another.
    pub fn run_seconds(&self) -> i64 {
        self.runs.iter().map(|(from, to)| seconds(*from, *to)).sum()
    }

    /// The seconds during which at least one run worked.
    pub fn busy_seconds(&self) -> i64 {
        let mut runs = self.runs.clone();
        runs.sort();
        let mut seen = Time::MIN;
        let mut busy = 0;
        for (from, to) in runs {
            busy += seconds(from.max(seen), to).max(0);
            seen = seen.max(to);
        }
        busy
    }
}

/// Counts a record in; `issue` is as it was before it.
pub(super) fn count(issue: &mut Issue, record: &Record) {
    let Record { seq, at, event } = record;
    if let Event::Requested(Effect::Say { .. }) = event {
        issue.tally.greeting.get_or_insert(*seq);
    } else if let Event::Performed { key, .. } = event {
        if issue.greeted_by(*key) {
            issue.tally.greeted_at = Some(*at);
        }
        issue.tally.linear_calls += i64::from(at_linear(issue.owed.get(key)));
    } else if let Event::Faulted { key, fault, .. } = event
        && at_linear(issue.owed.get(key))
    {
        issue.tally.linear_calls += 1;
        issue.tally.linear_waits += i64::from(matches!(fault, Fault::Busy { .. }));
    } else if let Event::Ended { task, cost_usd, .. } = event
        && let Some(was) = issue.task(task)
        && let (Some(from), Some(executor)) = (was.works_since(), was.executor)
    {
        // A run that a pause cut short says nothing of how such runs go.
        let cut_short = was.stopped_for(StopReason::Paused);
        issue.tally.runs.push((from, *at));
        if !cut_short {
            let work = issue.tally.work.entry((task.clone(), executor));
            let work = work.or_default();
            work.runs += 1;
            work.micros += micros(*cost_usd);
            work.seconds += seconds(from, *at).max(0);
        }
    }
}

impl Issue {
    /// Is this the first thing that is said in the round, and not said yet?
    pub fn greeted_by(&self, key: Seq) -> bool {
        self.tally.greeting == Some(key) && self.owed.contains_key(&key)
    }
}

impl Task {
    /// Since when its run works, or at least was there to.
    pub fn works_since(&self) -> Option<Time> {
        if let TaskState::Running { begun, since, .. } = self.state {
            Some(begun.unwrap_or(since))
        } else {
            None
        }
    }

    fn stopped_for(&self, reason: StopReason) -> bool {
        matches!(
            self.state,
            TaskState::Running {
                stopping: Some(Stopping { reason: why, .. }),
                ..
            } if why == reason
        )
    }
}

/// Whole seconds from one moment to another.
pub fn seconds(from: Time, to: Time) -> i64 {
    to.duration_since(from).as_secs()
}

fn at_linear(owed: Option<&Owed>) -> bool {
    owed.is_some_and(|it| match it.effect {
        Effect::Fetch
        | Effect::Say { .. }
        | Effect::ShowPlan { .. }
        | Effect::Link { .. }
        | Effect::Move { .. } => true,
        Effect::Start { .. }
        | Effect::Stop { .. }
        | Effect::Tell { .. }
        | Effect::Merge { .. }
        | Effect::Update { .. }
        | Effect::Close { .. }
        | Effect::Prune { .. } => false,
    })
}
