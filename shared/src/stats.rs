//! What the events of issues count up to: [`facts`] are found in what an append
//! writes, entered in the account of their day with it ([`entries`]), and told
//! to the metrics after it ([`measure`]). What leaves no trace in a log (looks,
//! conflicts, calls) is in the metrics only.
//!
//! Pure, but for the metrics, which go nowhere unless a recorder is installed.

mod account;
mod history;
mod metric;

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::issue::{
    Effect, Event, ExecutorKind, Issue, Record, Reservation, RoundOutcome, Scope, Task, TaskId,
    TaskState, Time, evolve, micros, seconds, utc_day,
};
use crate::ports::Figures;

pub use self::account::{
    Period, Sums, accounts_of, alerts_account, alerts_of, day_account, entries, ledger, usd,
};
pub use self::history::{
    ForecastErrors, accounts_of_history, error_permille, forecast_errors_of, history_account,
    history_accounts, history_of,
};
pub use self::metric::{
    APPEND_CONFLICTS, CIRCUIT_OPEN, ISSUES_PARKED, LINEAR_CALLS, LINEAR_WAITS, METRICS, Metric,
    RECORDS_SKIPPED, WebhookRefusal, looked, measure, overdue_seconds, refused, spent, values_of,
};

/// How a task can be over, as it is counted.
pub const OUTCOMES: [&str; 5] = ["merged", "succeeded", "failed", "skipped", "cancelled"];

/// Something that counts.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A run ended.
    Ran {
        executor: ExecutorKind,
        seconds: i64,
        cost_usd: f64,
    },
    /// A task is over; `None`: it never went to an executor.
    Over {
        executor: Option<ExecutorKind>,
        /// One of [`OUTCOMES`].
        outcome: &'static str,
    },
    /// Money was set aside for runs on the account of a day, or given back.
    Reserved {
        day: Date,
        /// Millionths of a USD; below zero: given back.
        micros: i64,
        /// The limit of that day, where there is one.
        max: Option<i64>,
    },
    /// A run's cost was booked on the account of a day.
    Booked { day: Date, micros: i64 },
    /// So much of a limit is spent.
    Alerted {
        scope: Scope,
        percent: u8,
        /// Whose limit it is, where it is a day's.
        day: Option<Date>,
    },
    /// Something holds a task up.
    Held(Stage),
    /// A person was greeted, so long after we heard of them.
    Greeted { millis: i64 },
    /// A round is over.
    Done {
        outcome: RoundOutcome,
        /// The seconds that its runs worked, one after another …
        run_seconds: i64,
        /// … and during which at least one of them did.
        busy_seconds: i64,
        greeted_millis: Option<i64>,
        linear_calls: i64,
        linear_waits: i64,
        /// What it adds to the history account of the day.
        learnt: Figures,
    },
}

crate::issue::words_enum! {
    /// At which stage a task is held up.
    Stage {
        Start = "start",
        Run = "run",
        Stop = "stop",
        PullRequest = "pull_request",
        Checks = "checks",
        Merge = "merge",
        /// It waits for a person.
        Person = "person",
        Other = "other",
    }
}

/// What counts among these events, written at `at` on an issue as it was `before` them.
pub fn facts(before: &Issue, events: &[Event], at: Time) -> Vec<Fact> {
    if !events.iter().any(may_count) {
        return Vec::new();
    }
    // Step by step: an append may end a run and begin the next, or the next round.
    let mut issue = before.clone();
    let mut facts = Vec::new();
    for (seq, event) in (before.seq + 1..).zip(events) {
        facts.extend(fact(&issue, event, at));
        facts.extend(booked(&issue, event, at));
        let reserved = reserved(&issue);
        let event = event.clone();
        evolve(&mut issue, &Record { seq, at, event });
        facts.extend(set_aside(&reserved, &self::reserved(&issue)));
    }
    facts
}

/// What runs under way have set aside, by task.
fn reserved(issue: &Issue) -> BTreeMap<TaskId, Reservation> {
    let reserved = |it: &Task| Some((it.spec.id.clone(), it.reserved?));
    issue.tasks.iter().filter_map(reserved).collect()
}

fn set_aside(
    before: &BTreeMap<TaskId, Reservation>,
    after: &BTreeMap<TaskId, Reservation>,
) -> Vec<Fact> {
    let gone = before
        .iter()
        .filter(|(task, it)| after.get(*task) != Some(*it));
    let new = after
        .iter()
        .filter(|(task, it)| before.get(*task) != Some(*it));
    let gone = gone.map(|(_, it)| Fact::Reserved {
        day: it.day,
        micros: -micros(it.usd),
        max: None,
    });
    let new = new.map(|(_, it)| Fact::Reserved {
        day: it.day,
        micros: micros(it.usd),
        max: it.day_max_usd.map(micros),
    });
    gone.chain(new).collect()
}

/// The cost of a run belongs to the day of its admission, whenever it ends.
fn booked(issue: &Issue, event: &Event, at: Time) -> Option<Fact> {
    let Event::Ended { task, cost_usd, .. } = event else {
        return None;
    };
    let reserved = issue.task(task)?.reserved.as_ref();
    Some(Fact::Booked {
        day: reserved.map_or_else(|| utc_day(at), |it| it.day),
        micros: micros(*cost_usd),
    })
}

fn may_count(event: &Event) -> bool {
    matches!(
        event,
        Event::Performed { .. }
            | Event::Requested(Effect::Start { .. })
            | Event::GaveUp { .. }
            | Event::CancelAsked { .. }
            | Event::Alerted { .. }
            | Event::Held { why: Some(_), .. }
            | Event::Ended { .. }
            | Event::Readied { .. }
            | Event::Merged { .. }
            | Event::Settled { .. }
            | Event::Done { .. }
    )
}

fn fact(issue: &Issue, event: &Event, at: Time) -> Option<Fact> {
    match event {
        Event::Performed { key, .. } => issue.greeted_by(*key).then(|| Fact::Greeted {
            millis: millis(issue.started_at, at),
        }),
        Event::Held { task, why: Some(_) } => Some(Fact::Held(stage(issue.task(task)?))),
        Event::Readied { .. } => Some(Fact::Held(Stage::Person)),
        Event::Ended { task, cost_usd, .. } => {
            // Commands are no run of an agent.
            let task = issue.task(task).filter(|it| it.is_shown())?;
            Some(Fact::Ran {
                executor: task.executor?,
                seconds: seconds(task.works_since()?, at),
                cost_usd: *cost_usd,
            })
        }
        Event::Merged { task, .. } => over(issue.task(task)?, "merged"),
        Event::Settled { task, verdict, .. } => over(issue.task(task)?, verdict.word()),
        Event::Done { outcome } => {
            let tally = &issue.tally;
            Some(Fact::Done {
                outcome: *outcome,
                run_seconds: tally.run_seconds(),
                busy_seconds: tally.busy_seconds(),
                greeted_millis: tally.greeted_at.map(|at| millis(issue.started_at, at)),
                linear_calls: tally.linear_calls,
                linear_waits: tally.linear_waits,
                learnt: history::learnt(issue, *outcome),
            })
        }
        Event::Alerted {
            scope,
            percent,
            day,
        } => Some(Fact::Alerted {
            scope: *scope,
            percent: *percent,
            day: *day,
        }),
        Event::Forecast(_)
        | Event::ApprovalAsked
        | Event::Answered { .. }
        | Event::PlanApproved
        | Event::ChangeAsked { .. }
        | Event::Renewed { .. }
        | Event::Waits { .. }
        | Event::Resumed { .. }
        | Event::Raised { .. }
        | Event::Interrupted { .. }
        | Event::Opened(_)
        | Event::Prompted { .. }
        | Event::Reopened { .. }
        | Event::Deferred { .. }
        | Event::TakenUp
        | Event::CancelAsked { .. }
        | Event::Briefed(_)
        | Event::Unserved { .. }
        | Event::Laid { .. }
        | Event::Planned { .. }
        | Event::PlanRejected { .. }
        | Event::Held { why: None, .. }
        | Event::Routed { .. }
        | Event::Requested(_)
        | Event::Claimed { .. }
        | Event::Faulted { .. }
        | Event::Searched { .. }
        | Event::GaveUp { .. }
        | Event::Began { .. }
        | Event::Overran { .. }
        | Event::Retried { .. }
        | Event::HeadSeen { .. }
        | Event::Summoned { .. }
        | Event::Judged { .. }
        | Event::Rejected { .. }
        | Event::Approved { .. }
        | Event::Reconsidered { .. }
        | Event::Reported => None,
    }
}

fn over(task: &Task, outcome: &'static str) -> Option<Fact> {
    if task.is_judge() {
        return None;
    }
    let executor = task.executor.filter(|_| task.attempt > 0);
    Some(Fact::Over { executor, outcome })
}

fn stage(task: &Task) -> Stage {
    match &task.state {
        TaskState::Starting { .. } => Stage::Start,
        TaskState::Running {
            stopping: Some(_), ..
        } => Stage::Stop,
        TaskState::Running { stopping: None, .. } => Stage::Run,
        TaskState::Seeking { .. } => Stage::PullRequest,
        TaskState::Judging => Stage::Checks,
        TaskState::Approved { .. }
        | TaskState::Updating { .. }
        | TaskState::Merging { .. }
        | TaskState::Queued { .. } => Stage::Merge,
        TaskState::Ready => Stage::Person,
        TaskState::Todo
        | TaskState::Merged
        | TaskState::Succeeded
        | TaskState::Failed
        | TaskState::Skipped
        | TaskState::Cancelled => Stage::Other,
    }
}

fn millis(from: Time, to: Time) -> i64 {
    i64::try_from(to.duration_since(from).as_millis()).unwrap_or(i64::MAX)
}
