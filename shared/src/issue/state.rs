//! What the log of one issue adds up to, and what can be read off it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::SignedDuration;

use super::{
    Brief, CLEAN_LOOK_PAUSE_SECONDS, CLEAN_LOOKS_MIN, CLEAN_LOOKS_SECONDS, CancelReason, Effect,
    ExecutorKind, HELD_TRIES, IssueId, Policy, RoundOutcome, RunId, STOP_AGAIN_SECONDS, Seq,
    SessionId, Spec, TaskId, TaskKind, Time,
};

/// One issue, folded from its log.
#[derive(Clone, Debug, PartialEq)]
pub struct Issue {
    pub id: IssueId,
    /// The last record's position; 0 for an issue that we never heard of.
    pub seq: Seq,
    pub last_at: Time,
    /// When it was first heard of: two lives of one issue, in two stores, differ by it.
    pub born: Time,
    pub identifier: String,
    pub title: String,
    pub url: String,
    pub app_user: Option<String>,
    /// From 1; a prompt after the end opens another.
    pub round: u32,
    /// When a person opened this round, by Linear's clock: older wishes to stop it are stale.
    pub round_opened_at: Time,
    /// The sessions that are told about this round.
    pub sessions: Vec<SessionId>,
    /// Every session and prompt ever taken in, by which a second delivery is known.
    pub seen: BTreeSet<String>,
    /// What people wrote in this round; it goes along with every run that starts later.
    pub notes: Vec<String>,
    pub brief: Option<Arc<Brief>>,
    pub policy: Option<Arc<Policy>>,
    pub summary: Option<String>,
    /// In the order of the plan.
    pub tasks: Vec<Task>,
    pub plan_rejections: u32,
    /// Why the last answer was no plan.
    pub plan_rejected: Option<String>,
    pub owed: BTreeMap<Seq, Owed>,
    /// The sessions that have been shown the plan as it stands.
    pub shown: BTreeSet<SessionId>,
    /// Which task every start was for, by its key: an answer may come after all hope.
    pub starts: BTreeMap<Seq, (TaskId, ExecutorKind)>,
    /// Every run that was ever recorded as started.
    pub runs: BTreeSet<RunId>,
    /// Sessions, and what was written in them, that wait for the end of this round.
    pub deferred: Vec<(SessionId, Option<String>, Time)>,
    pub cancelled: Option<CancelReason>,
    /// Why the issue cannot be worked on.
    pub unserved: Option<String>,
    /// Everybody was told how it ended (or, under `manual`, that it waits).
    pub reported: bool,
    /// Linear was asked to show it as completed.
    pub completing: bool,
    pub outcome: Option<RoundOutcome>,
    pub started_at: Time,
    pub finished_at: Option<Time>,
    /// USD of all rounds.
    pub spent_usd: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub spec: Arc<Spec>,
    pub state: TaskState,
    /// Runs so far, the present one included.
    pub attempt: u32,
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
    /// What a scoper answered.
    pub answer: Option<String>,
    pub not_before: Option<Time>,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
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
    /// This commit may be merged.
    Approved {
        sha: String,
    },
    /// A merge is owed under this key.
    Merging {
        key: Seq,
    },
    /// Waits for a person's merge.
    Ready,
    Merged,
    Succeeded,
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
}

/// An effect that the log asks for and that is not settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Owed {
    pub effect: Effect,
    pub tries: u32,
    pub not_before: Option<Time>,
    /// Somebody is making it.
    pub claimed: Option<Claim>,
    /// It may have been made: it is looked for before it is made again.
    pub doubt: Option<Doubt>,
    /// Not wanted any more: it is only looked for, never made.
    pub withdrawn: bool,
}

/// Who makes an effect: the one who wrote the claim at this position, until it lapses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub seq: Seq,
    pub until: Time,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubt {
    /// Looks that found nothing, and the first of them.
    pub clean: u32,
    pub first_clean: Option<Time>,
}

/// An effect that is to be made now.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    pub key: Seq,
    pub effect: Effect,
    pub how: How,
    /// The position of the claim under which it is made; 0 while it is not claimed.
    pub claim: Seq,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Make,
    /// Only find out whether it was made.
    Look,
}

/// Something worth asking about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watch {
    Run {
        task: TaskId,
        executor: ExecutorKind,
        run: RunId,
    },
    Pull {
        task: TaskId,
        slug: String,
        number: Option<u64>,
        branch: String,
    },
}

/// Where a round stands, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Planning,
    Working,
    Merging,
    Closing,
    Done,
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Working => "working",
            Self::Merging => "merging",
            Self::Closing => "closing",
            Self::Done => "done",
        }
    }
}

impl Issue {
    /// An issue that nobody has told us about.
    pub fn unknown(id: IssueId) -> Self {
        Self {
            id,
            seq: 0,
            last_at: Time::UNIX_EPOCH,
            born: Time::UNIX_EPOCH,
            identifier: String::new(),
            title: String::new(),
            url: String::new(),
            app_user: None,
            round: 0,
            round_opened_at: Time::UNIX_EPOCH,
            sessions: Vec::new(),
            seen: BTreeSet::new(),
            notes: Vec::new(),
            brief: None,
            policy: None,
            summary: None,
            tasks: Vec::new(),
            plan_rejections: 0,
            plan_rejected: None,
            owed: BTreeMap::new(),
            shown: BTreeSet::new(),
            starts: BTreeMap::new(),
            runs: BTreeSet::new(),
            deferred: Vec::new(),
            cancelled: None,
            unserved: None,
            reported: false,
            completing: false,
            outcome: None,
            started_at: Time::UNIX_EPOCH,
            finished_at: None,
            spent_usd: 0.0,
        }
    }

    /// Is a round under way?
    pub fn active(&self) -> bool {
        self.round > 0 && self.outcome.is_none()
    }

    pub fn task(&self, id: &TaskId) -> Option<&Task> {
        self.tasks.iter().find(|task| task.spec.id == *id)
    }

    pub(super) fn task_mut(&mut self, id: &TaskId) -> Option<&mut Task> {
        self.tasks.iter_mut().find(|task| task.spec.id == *id)
    }

    pub fn phase(&self) -> Phase {
        if self.outcome.is_some() {
            return Phase::Done;
        }
        let planned = !self.tasks.is_empty()
            && self
                .tasks
                .iter()
                .all(|it| it.spec.kind != TaskKind::Orchestrator || it.over());
        if self.tasks.iter().all(Task::over)
            && (planned || self.cancelled.is_some() || self.unserved.is_some())
        {
            return Phase::Closing;
        }
        if !planned {
            return Phase::Planning;
        }
        let at_the_merge = |task: &Task| match task.state {
            TaskState::Ready | TaskState::Merging { .. } | TaskState::Approved { .. } => true,
            TaskState::Todo
            | TaskState::Starting { .. }
            | TaskState::Running { .. }
            | TaskState::Seeking { .. }
            | TaskState::Judging
            | TaskState::Merged
            | TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Skipped
            | TaskState::Cancelled => task.over(),
        };
        if self.tasks.iter().all(at_the_merge) {
            Phase::Merging
        } else {
            Phase::Working
        }
    }

    /// What is to be done now, oldest first.
    ///
    /// Linear shows things in the order in which they arrive, so of what goes
    /// to one session only the oldest is ever due.
    pub fn due(&self, now: Time) -> Vec<Due> {
        let mut busy_sessions = BTreeSet::new();
        let mut due = Vec::new();
        for (key, owed) in &self.owed {
            if let Some(session) = owed.effect.session()
                && !busy_sessions.insert(session)
            {
                continue;
            }
            if owed.due_at(self.last_at) <= now {
                due.push(Due {
                    key: *key,
                    effect: owed.effect.clone(),
                    how: owed.how(),
                    claim: 0,
                });
            }
        }
        due
    }

    /// What is worth asking the executors and the forge about.
    pub fn watching(&self) -> Vec<Watch> {
        if !self.active() {
            return Vec::new();
        }
        self.tasks
            .iter()
            .filter_map(|task| self.watch(task))
            .collect()
    }

    fn watch(&self, task: &Task) -> Option<Watch> {
        match &task.state {
            TaskState::Running { run, .. } => Some(Watch::Run {
                task: task.spec.id.clone(),
                executor: task.executor?,
                run: run.clone(),
            }),
            TaskState::Seeking { .. }
            | TaskState::Judging
            | TaskState::Approved { .. }
            | TaskState::Ready => Some(Watch::Pull {
                task: task.spec.id.clone(),
                slug: self.policy.as_ref()?.repository.slug.clone(),
                number: task.pull.as_ref().map(|it| it.number),
                branch: task.branch.clone()?,
            }),
            TaskState::Todo
            | TaskState::Starting { .. }
            | TaskState::Merging { .. }
            | TaskState::Merged
            | TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Skipped
            | TaskState::Cancelled => None,
        }
    }

    /// When something has to be done even if nothing is heard: a due effect or
    /// a deadline. `None` when the issue only waits for the world, or is over.
    pub fn attention_at(&self) -> Option<Time> {
        let owed = self.owed.values().map(|it| it.due_at(self.last_at));
        let deadlines = self.tasks.iter().filter_map(|task| self.deadline(task));
        owed.chain(deadlines).min()
    }

    /// When time alone changes something for this task.
    pub(super) fn deadline(&self, task: &Task) -> Option<Time> {
        let policy = self.policy.as_ref()?;
        match &task.state {
            TaskState::Todo => task.not_before.filter(|_| self.cancelled.is_none()),
            TaskState::Running {
                stopping: Some(stopping),
                ..
            } => Some(stopping.last + SignedDuration::from_secs(STOP_AGAIN_SECONDS)),
            TaskState::Running {
                begun: Some(begun),
                stopping: None,
                ..
            } => Some(*begun + SignedDuration::from_secs(policy.task_timeout_seconds)),
            // Waiting for a slot of our own is no fault of the run.
            TaskState::Running {
                begun: None,
                stopping: None,
                since,
                ..
            } => (task.executor == Some(ExecutorKind::Codegen))
                .then(|| *since + SignedDuration::from_secs(policy.task_timeout_seconds)),
            TaskState::Starting { .. }
            | TaskState::Seeking { .. }
            | TaskState::Judging
            | TaskState::Approved { .. }
            | TaskState::Merging { .. }
            | TaskState::Ready
            | TaskState::Merged
            | TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Skipped
            | TaskState::Cancelled => None,
        }
    }

    /// How the round ends, from how its tasks did.
    pub fn ending(&self) -> RoundOutcome {
        if self.cancelled.is_some() {
            return RoundOutcome::Cancelled;
        }
        let any = |state: TaskState| self.tasks.iter().any(|it| it.state == state);
        if self.unserved.is_some() || any(TaskState::Failed) {
            return RoundOutcome::Failed;
        }
        let brought_something = |task: &Task| {
            task.spec.kind != TaskKind::Orchestrator
                && (task.achieved() || task.state == TaskState::Ready)
        };
        if self.tasks.iter().any(brought_something) {
            RoundOutcome::Succeeded
        } else {
            RoundOutcome::Cancelled
        }
    }

    /// Something was merged, and nothing was left out.
    pub fn all_merged(&self) -> bool {
        self.cancelled.is_none()
            && self.tasks.iter().any(|it| it.state == TaskState::Merged)
            && self.tasks.iter().all(Task::achieved)
    }

    /// A sentence when a person or something outside holds it up.
    pub fn waiting_for(&self) -> Option<String> {
        if !self.active() {
            return None;
        }
        let unread = |owed: &Owed| owed.effect == Effect::Fetch && owed.tries >= HELD_TRIES;
        if self.owed.values().any(unread) {
            return Some("Linear does not let the issue be read".into());
        }
        let mut reasons: Vec<String> = Vec::new();
        for task in &self.tasks {
            if let Some(held) = &task.held {
                reasons.push(format!("`{}`: {held}", task.spec.id));
            }
        }
        let ready: Vec<&str> = self
            .tasks
            .iter()
            .filter(|it| it.state == TaskState::Ready)
            .filter_map(|it| it.pull.as_ref().map(|pull| pull.url.as_str()))
            .collect();
        if !ready.is_empty() {
            reasons.push(format!("a person has to merge {}", ready.join(", ")));
        }
        (!reasons.is_empty()).then(|| reasons.join("; "))
    }
}

impl Task {
    pub fn new(spec: Arc<Spec>) -> Self {
        Self {
            spec,
            state: TaskState::Todo,
            attempt: 0,
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
            answer: None,
            not_before: None,
            started_at: None,
            finished_at: None,
        }
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
            | TaskState::Merging { .. }
            | TaskState::Ready => false,
        }
    }

    /// What depends on it may start.
    pub fn achieved(&self) -> bool {
        matches!(self.state, TaskState::Merged | TaskState::Succeeded)
    }

    /// It takes one of the places for tasks at work.
    pub fn busy(&self) -> bool {
        matches!(
            self.state,
            TaskState::Starting { .. } | TaskState::Running { .. }
        )
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
            | TaskState::Merging { .. } => "validating",
            TaskState::Ready => "ready",
            TaskState::Merged => "merged",
            TaskState::Succeeded => "succeeded",
            TaskState::Failed => "failed",
            TaskState::Skipped => "skipped",
            TaskState::Cancelled => "cancelled",
        }
    }
}

impl Owed {
    pub(super) fn new(effect: Effect) -> Self {
        Self {
            effect,
            tries: 0,
            not_before: None,
            claimed: None,
            doubt: None,
            withdrawn: false,
        }
    }

    /// When it is to be made; `since` when there is no reason to wait.
    fn due_at(&self, since: Time) -> Time {
        self.claimed
            .map(|it| it.until)
            .or(self.not_before)
            .unwrap_or(since)
    }

    fn how(&self) -> How {
        // A claim that is due again has lapsed: whoever held it may have made the effect.
        let doubtful =
            self.effect.must_not_be_doubled() && (self.doubt.is_some() || self.claimed.is_some());
        let unwanted_merge = self.withdrawn && matches!(self.effect, Effect::Merge { .. });
        if doubtful || unwanted_merge {
            How::Look
        } else {
            How::Make
        }
    }
}

impl Doubt {
    /// Remembers a look that found nothing; true when the doubt is settled.
    pub(super) fn clean_look(&mut self, at: Time) -> bool {
        self.clean += 1;
        let first = *self.first_clean.get_or_insert(at);
        self.clean >= CLEAN_LOOKS_MIN && at.duration_since(first).as_secs() >= CLEAN_LOOKS_SECONDS
    }

    pub(super) fn next_look(at: Time) -> Time {
        at + SignedDuration::from_secs(CLEAN_LOOK_PAUSE_SECONDS)
    }
}

impl Effect {
    /// The session whose readers see this, in order.
    pub fn session(&self) -> Option<&SessionId> {
        match self {
            Self::Say { session, .. } | Self::ShowPlan { session } | Self::Link { session, .. } => {
                Some(session)
            }
            Self::Fetch
            | Self::Move { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::Merge { .. } => None,
        }
    }

    /// Making it twice would do harm that cannot be undone.
    pub(super) fn must_not_be_doubled(&self) -> bool {
        match self {
            Self::Start { .. } => true,
            Self::Fetch
            | Self::Say { .. }
            | Self::ShowPlan { .. }
            | Self::Link { .. }
            | Self::Move { .. }
            | Self::Stop { .. }
            | Self::Merge { .. } => false,
        }
    }
}
