//! What happened, as the log remembers it.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::forecast::Forecast;
use super::money::Scope;
use super::verdict::Finding;
use super::{
    Briefing, CancelReason, Effect, Ending, ExecutorKind, Fault, Opening, Outcome, Seq, SessionId,
    Spec, TaskId, TaskKind, Telling, Time, Wait, words_enum,
};

/// Something that happened, as the log remembers it. Past tense; never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// A session was opened. On an issue that is new or done, a round begins.
    Opened(Opening),
    /// A person wrote something; in a round it goes along with what starts later.
    Prompted {
        session: SessionId,
        activity: String,
        text: String,
    },
    /// A prompt after the end: a new round of the same issue.
    Reopened {
        session: SessionId,
        activity: String,
        text: String,
        at: Time,
    },
    /// A person came back while a round was being brought to its end; it is
    /// taken up afterwards. `text`: what they wrote, if they did.
    Deferred {
        session: SessionId,
        activity: Option<String>,
        text: Option<String>,
        at: Time,
    },
    /// What was deferred is taken up: a new round.
    TakenUp,
    /// `at` is when they said so, by Linear's clock.
    CancelAsked {
        why: CancelReason,
        at: Time,
    },
    Briefed(Box<Briefing>),
    /// The issue cannot be worked on; the sentence says why.
    Unserved {
        why: String,
    },
    /// The tasks there are, once the way is clear: `plan`, or `main` alone.
    Laid {
        tasks: Vec<Spec>,
    },
    /// The plan was accepted.
    Planned {
        summary: String,
        tasks: Vec<Spec>,
    },
    /// The answer was no plan; `why` goes back with the next run.
    PlanRejected {
        why: String,
    },
    /// A task is held up by something that people should know of, or no more.
    Held {
        task: TaskId,
        why: Option<String>,
    },
    /// What the work will come to, before it is begun.
    Forecast(Forecast),
    /// A person has to approve before the work begins.
    ApprovalAsked,
    /// A person answered a question; what they wrote is for nobody else.
    Answered {
        session: SessionId,
        activity: String,
        text: String,
    },
    PlanApproved,
    /// The person who was asked wants something else: it is planned again.
    ChangeAsked {
        text: String,
    },
    /// These tasks get fresh attempts, as a person asked; in a round of its own where
    /// the last one is over.
    Renewed {
        tasks: Vec<TaskId>,
    },
    /// Nothing that needs this is begun for now.
    Waits {
        on: Wait,
        why: String,
        told: Telling,
        /// The limit that stands in the way, millionths of a USD …
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<i64>,
        /// … and how high it would have to be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        enough: Option<i64>,
    },
    /// That is over.
    Resumed {
        on: Wait,
    },
    /// A person lets this issue spend up to so much; of a day: on this one.
    Raised {
        scope: Scope,
        usd: f64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        day: Option<Date>,
    },
    /// So many percent of a limit are spent.
    Alerted {
        scope: Scope,
        percent: u8,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        day: Option<Date>,
    },
    /// The executor of a task's next attempt was chosen. `instead_of`: another
    /// one is down.
    Routed {
        task: TaskId,
        executor: ExecutorKind,
        why: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instead_of: Option<ExecutorKind>,
    },
    Requested(Effect),
    Claimed {
        key: Seq,
        until: Time,
    },
    Performed {
        key: Seq,
        outcome: Outcome,
    },
    Faulted {
        key: Seq,
        fault: Fault,
        retry_at: Time,
    },
    /// A doubtful effect was looked for and not found.
    Searched {
        key: Seq,
        certain: bool,
    },
    GaveUp {
        key: Seq,
        why: String,
    },
    /// A run that waited works now.
    Began {
        task: TaskId,
    },
    /// A run takes too long and is to be stopped.
    Overran {
        task: TaskId,
    },
    /// A run is to be stopped because an operator put a stop to all; it does not
    /// count as an attempt.
    Interrupted {
        task: TaskId,
    },
    /// A run ended: its cost is settled.
    Ended {
        task: TaskId,
        ending: Ending,
        cost_usd: f64,
        cost_is_estimate: bool,
    },
    /// The task will be tried again.
    Retried {
        task: TaskId,
        not_before: Time,
        why: String,
    },
    /// The task's pull request has this head.
    HeadSeen {
        task: TaskId,
        number: u64,
        url: String,
        branch: String,
        sha: String,
    },
    /// A judge is asked about this commit of a task.
    Summoned {
        task: TaskId,
        sha: String,
        judge: TaskKind,
    },
    /// A judge, by its own name, has found this of a commit.
    Judged {
        task: TaskId,
        finding: Finding,
    },
    /// What came of a task is not good enough: it is mended, or begun afresh.
    Rejected {
        task: TaskId,
        sha: String,
        why: String,
        then: Then,
    },
    /// This commit may be merged. `behind`: once it is up to date.
    Approved {
        task: TaskId,
        sha: String,
        why: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        behind: bool,
    },
    /// The commit waits for a person's merge; `why`: it takes one.
    Readied {
        task: TaskId,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// A commit that was about to be merged is judged again.
    Reconsidered {
        task: TaskId,
    },
    Merged {
        task: TaskId,
        sha: String,
    },
    /// The task is over without a merge.
    Settled {
        task: TaskId,
        verdict: Settled,
        why: String,
    },
    /// Everybody was told how the round ended.
    Reported,
    /// The round is over.
    Done {
        outcome: RoundOutcome,
    },
}

/// What becomes of a task whose work was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// The run that made it mends it.
    Mend {
        detail: String,
        check: Option<u64>,
        conflict: bool,
    },
    /// A fresh run begins from the base branch.
    Afresh,
}

words_enum! {
    /// How a task can be over without a merge.
    Settled { Succeeded = "succeeded", Failed = "failed", Skipped = "skipped", Cancelled = "cancelled" }
}
words_enum! {
    /// How a round can end.
    RoundOutcome { Succeeded = "succeeded", Failed = "failed", Cancelled = "cancelled" }
}

/// Do these events leave something to be done by others than their writer? Who
/// claims something goes on with the issue until nothing is due.
pub fn leaves_work(events: &[Event]) -> bool {
    let any = |is: fn(&Event) -> bool| events.iter().any(is);
    any(|it| matches!(it, Event::Requested(_))) && !any(|it| matches!(it, Event::Claimed { .. }))
}

/// An event where and when it was written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub seq: Seq,
    pub at: Time,
    pub event: Event,
}

impl Event {
    /// The task that it is about, if it is about one.
    pub fn task(&self) -> Option<&TaskId> {
        match self {
            Self::Held { task, .. }
            | Self::Routed { task, .. }
            | Self::Began { task }
            | Self::Overran { task }
            | Self::Interrupted { task }
            | Self::Ended { task, .. }
            | Self::Retried { task, .. }
            | Self::HeadSeen { task, .. }
            | Self::Summoned { task, .. }
            | Self::Judged { task, .. }
            | Self::Rejected { task, .. }
            | Self::Approved { task, .. }
            | Self::Readied { task, .. }
            | Self::Reconsidered { task }
            | Self::Merged { task, .. }
            | Self::Settled { task, .. } => Some(task),
            Self::Requested(effect) => effect.task(),
            Self::Opened(_)
            | Self::Prompted { .. }
            | Self::Reopened { .. }
            | Self::Deferred { .. }
            | Self::TakenUp
            | Self::CancelAsked { .. }
            | Self::Briefed(_)
            | Self::Unserved { .. }
            | Self::Laid { .. }
            | Self::Planned { .. }
            | Self::PlanRejected { .. }
            | Self::Forecast(_)
            | Self::ApprovalAsked
            | Self::Answered { .. }
            | Self::PlanApproved
            | Self::ChangeAsked { .. }
            | Self::Renewed { .. }
            | Self::Waits { .. }
            | Self::Resumed { .. }
            | Self::Raised { .. }
            | Self::Alerted { .. }
            | Self::Claimed { .. }
            | Self::Performed { .. }
            | Self::Faulted { .. }
            | Self::Searched { .. }
            | Self::GaveUp { .. }
            | Self::Reported
            | Self::Done { .. } => None,
        }
    }

    /// The key of the effect that it is about, if it is about one; `seq`: its own position.
    pub fn key(&self, seq: Seq) -> Option<Seq> {
        match self {
            Self::Requested(_) => Some(seq),
            Self::Claimed { key, .. }
            | Self::Performed { key, .. }
            | Self::Faulted { key, .. }
            | Self::Searched { key, .. }
            | Self::GaveUp { key, .. } => Some(*key),
            Self::Opened(_)
            | Self::Prompted { .. }
            | Self::Reopened { .. }
            | Self::Deferred { .. }
            | Self::TakenUp
            | Self::CancelAsked { .. }
            | Self::Briefed(_)
            | Self::Unserved { .. }
            | Self::Laid { .. }
            | Self::Planned { .. }
            | Self::PlanRejected { .. }
            | Self::Forecast(_)
            | Self::ApprovalAsked
            | Self::Answered { .. }
            | Self::PlanApproved
            | Self::ChangeAsked { .. }
            | Self::Renewed { .. }
            | Self::Waits { .. }
            | Self::Resumed { .. }
            | Self::Raised { .. }
            | Self::Alerted { .. }
            | Self::Held { .. }
            | Self::Routed { .. }
            | Self::Began { .. }
            | Self::Overran { .. }
            | Self::Interrupted { .. }
            | Self::Ended { .. }
            | Self::Retried { .. }
            | Self::HeadSeen { .. }
            | Self::Summoned { .. }
            | Self::Judged { .. }
            | Self::Rejected { .. }
            | Self::Approved { .. }
            | Self::Readied { .. }
            | Self::Reconsidered { .. }
            | Self::Merged { .. }
            | Self::Settled { .. }
            | Self::Reported
            | Self::Done { .. } => None,
        }
    }
}
