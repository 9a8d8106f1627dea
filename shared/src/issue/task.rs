//! One task of an issue, and the run that is at work on it.

use std::sync::Arc;

use super::money::Reservation;
use super::verdict::Finding;
use super::{ExecutorKind, RunId, Seq, Spec, Stage, TaskKind, Time};

#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub spec: Arc<Spec>,
    pub state: TaskState,
    /// Runs so far, the present one included.
    pub attempt: u32,
    /// Those among them that count as none: an operator stopped them.
    pub free_runs: u32,
    /// What is set aside for the run that is under way.
    pub reserved: Option<Reservation>,
    pub executor: Option<ExecutorKind>,
    pub why: Option<String>,
    pub run_url: Option<String>,
    pub branch: Option<String>,
    /// The URL of the pull request that the run reported.
    pub reported_pull: Option<String>,
    pub pull: Option<Pull>,
    pub cost_usd: f64,
    pub cost_is_estimate: bool,
    pub error: Option<String>,
    /// What holds it up, once that was told.
    pub held: Option<String>,
    /// Times that the forge said its head had moved, with this head.
    pub bounces: u32,
    /// Where its next run should not go.
    pub shuns: Option<(ExecutorKind, Shun)>,
    /// The last run that worked on it, and where; the agent's session in it.
    pub run: Option<(ExecutorKind, RunId)>,
    pub session: Option<String>,
    /// The last run went on with the one before, under the same name.
    pub resumed: bool,
    /// What its next run has to mend.
    pub mend: Option<Mend>,
    /// The run under way, or the last one, is or was a repair.
    pub mending: bool,
    /// Repairs so far, of all attempts together.
    pub repairs: u32,
    /// The head that was last sent back.
    pub rejected: Option<String>,
    /// Why what came of it was not accepted, run by run.
    pub tried: Vec<String>,
    /// How often it was brought up to date, and the last head for which that was asked.
    pub updates: u32,
    pub updated: Option<(String, Time)>,
    /// The head whose merge the forge has refused.
    pub refused: Option<String>,
    /// Its pull request is to be closed, or is.
    pub closing: bool,
    /// Of a judge: the commit that it is asked about …
    pub subject: Option<String>,
    /// … the one that its last run is about …
    pub judged: Option<String>,
    /// … and what it has found.
    pub finding: Option<Finding>,
    /// What a scoper answered.
    pub answer: Option<String>,
    pub not_before: Option<Time>,
    /// Where its sub-issue was last moved to in Linear.
    pub moved: Option<Stage>,
    pub started_at: Option<Time>,
    /// When its head was found good.
    pub validated_at: Option<Time>,
    pub finished_at: Option<Time>,
}

/// What the next run of a task has to mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mend {
    /// One sentence.
    pub why: String,
    /// What else the agent should know: the end of a log, the findings of a review.
    pub detail: String,
    /// The check that failed, by which its log can be had.
    pub check: Option<u64>,
    /// The base branch has to be merged in, and conflicts.
    pub conflict: bool,
}

/// Why a task's next run should go elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shun {
    /// Its last run there was lost.
    Lost,
    /// What was made there was not accepted.
    Rejected,
    /// What it judges was made there.
    Author,
}

/// A task's pull request, as last seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    pub number: u64,
    pub url: String,
    pub sha: String,
    /// Since when this head is known.
    pub seen: Time,
}

#[derive(Clone, Debug, PartialEq)]
pub enum TaskState {
    Todo,
    /// A start is owed under this key.
    Starting {
        key: Seq,
    },
    Running {
        run: RunId,
        since: Time,
        begun: Option<Time>,
        stopping: Option<Stopping>,
    },
    /// The run succeeded; its pull request has not been found yet.
    Seeking {
        since: Time,
    },
    /// The pull request is known and its head not approved.
    Judging,
    /// This commit may be merged. `behind`: it has to be brought up to date first.
    Approved {
        sha: String,
        behind: bool,
    },
    /// An update from its base branch is owed under this key.
    Updating {
        key: Seq,
    },
    /// A merge is owed under this key.
    Merging {
        key: Seq,
    },
    /// The forge will merge this commit by itself.
    Queued {
        sha: String,
        since: Time,
    },
    /// Waits for a person's merge.
    Ready,
    Merged,
    Succeeded,
    Failed,
    Skipped,
    Cancelled,
}

/// What a person sees of a task in the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanWord {
    Pending,
    InProgress,
    Ready,
    Completed,
    Failed,
    Skipped,
    Cancelled,
}

/// A run that was asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopping {
    pub reason: StopReason,
    pub first: Time,
    pub last: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    Cancelled,
    Overran,
    /// An operator stops all runs; it is begun again afterwards.
    Paused,
}

impl Task {
    pub fn new(spec: Arc<Spec>) -> Self {
        Self {
            spec,
            state: TaskState::Todo,
            attempt: 0,
            free_runs: 0,
            reserved: None,
            executor: None,
            why: None,
            run_url: None,
            branch: None,
            reported_pull: None,
            pull: None,
            cost_usd: 0.0,
            cost_is_estimate: false,
            error: None,
            held: None,
            bounces: 0,
            shuns: None,
            run: None,
            session: None,
            resumed: false,
            mend: None,
            mending: false,
            repairs: 0,
            rejected: None,
            tried: Vec::new(),
            updates: 0,
            updated: None,
            refused: None,
            closing: false,
            subject: None,
            judged: None,
            finding: None,
            answer: None,
            not_before: None,
            moved: None,
            started_at: None,
            validated_at: None,
            finished_at: None,
        }
    }

    /// It is in a queue of ours, and nobody has begun it.
    pub fn lies_idle(&self) -> bool {
        let idle = matches!(
            self.state,
            TaskState::Running {
                begun: None,
                stopping: None,
                ..
            }
        );
        // A far executor spends from the create on; a job that waits for a place here does not.
        idle && self.executor == Some(ExecutorKind::Local)
    }

    /// Nothing more will happen to it.
    pub fn over(&self) -> bool {
        match self.state {
            TaskState::Merged
            | TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Skipped
            | TaskState::Cancelled => true,
            TaskState::Todo
            | TaskState::Starting { .. }
            | TaskState::Running { .. }
            | TaskState::Seeking { .. }
            | TaskState::Judging
            | TaskState::Approved { .. }
            | TaskState::Updating { .. }
            | TaskState::Merging { .. }
            | TaskState::Queued { .. }
            | TaskState::Ready => false,
        }
    }

    /// What depends on it may start.
    pub fn achieved(&self) -> bool {
        matches!(self.state, TaskState::Merged | TaskState::Succeeded)
    }

    /// It judges what another task has made.
    pub fn is_judge(&self) -> bool {
        self.spec.judges.is_some()
    }

    /// People are shown it as a task of its own.
    pub fn is_shown(&self) -> bool {
        self.spec.kind != TaskKind::Verifier
    }

    /// Runs so far that count as attempts.
    pub fn attempts(&self) -> u32 {
        self.attempt.saturating_sub(self.free_runs)
    }

    /// It takes one of the places for tasks at work.
    pub fn busy(&self) -> bool {
        matches!(
            self.state,
            TaskState::Starting { .. } | TaskState::Running { .. }
        )
    }

    /// What the plan shows of it.
    pub fn plan_word(&self) -> PlanWord {
        match self.state {
            TaskState::Todo => PlanWord::Pending,
            TaskState::Starting { .. }
            | TaskState::Running { .. }
            | TaskState::Seeking { .. }
            | TaskState::Judging
            | TaskState::Approved { .. }
            | TaskState::Updating { .. }
            | TaskState::Merging { .. }
            | TaskState::Queued { .. } => PlanWord::InProgress,
            TaskState::Ready => PlanWord::Ready,
            TaskState::Merged | TaskState::Succeeded => PlanWord::Completed,
            TaskState::Failed => PlanWord::Failed,
            TaskState::Skipped => PlanWord::Skipped,
            TaskState::Cancelled => PlanWord::Cancelled,
        }
    }

    /// The word for its state in the contract.
    pub fn word(&self) -> &'static str {
        match self.state {
            TaskState::Todo => "todo",
            TaskState::Starting { .. } => "starting",
            TaskState::Running { .. } => "running",
            TaskState::Seeking { .. }
            | TaskState::Judging
            | TaskState::Approved { .. }
            | TaskState::Updating { .. }
            | TaskState::Merging { .. }
            | TaskState::Queued { .. } => "validating",
            TaskState::Ready => "ready",
            TaskState::Merged => "merged",
            TaskState::Succeeded => "succeeded",
            TaskState::Failed => "failed",
            TaskState::Skipped => "skipped",
            TaskState::Cancelled => "cancelled",
        }
    }
}
