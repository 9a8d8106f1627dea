//! What the log of one issue adds up to, and what can be read off it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::SignedDuration;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::forecast::Forecast;
use super::money::{Scope, micros};
use super::task::{PlanWord, Pull, Task, TaskState};
use super::{
    Brief, CancelReason, Due, Effect, ExecutorKind, HELD_TRIES, IssueId, MergeMode, Owed, Policy,
    Repository, RoundOutcome, RunId, STOP_AGAIN_SECONDS, Seq, SessionId, Tally, TaskId, TaskKind,
    Time, UPDATES_MAX, Wait,
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
    /// What the work was expected to come to, before it was begun.
    pub forecast: Option<Forecast>,
    pub consent: Consent,
    /// What the beginning of something waits for.
    pub waits: BTreeMap<Wait, Waiting>,
    /// Limits that a person has raised for this issue, USD; a day's for that day.
    pub raised: BTreeMap<Scope, (f64, Option<Date>)>,
    /// The highest percentage of its own limit that people were told of.
    pub alerted: u8,
    /// The same of the limit of a day, as far as it was this issue that told it.
    pub alerted_of_day: Option<(Date, u8)>,
    /// Executors that are down, as far as tasks were sent elsewhere for it.
    pub fallen: BTreeSet<ExecutorKind>,
    pub plan_rejections: u32,
    /// Why the last answer was no plan.
    pub plan_rejected: Option<String>,
    pub owed: BTreeMap<Seq, Owed>,
    /// The plan as each session was last shown it.
    pub shown: BTreeMap<SessionId, Vec<PlanWord>>,
    /// Which task every start was for, by its key: an answer may come after all hope.
    /// The last: it was to go on with a run that there is already.
    pub starts: BTreeMap<Seq, (TaskId, ExecutorKind, bool)>,
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
    pub tally: Tally,
}

/// Whether a person has approved of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    NotAsked,
    Asked,
    Given,
}

/// Why something is not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub why: String,
    pub told: Telling,
    /// The limit that stands in the way, millionths of a USD …
    pub limit: Option<i64>,
    /// … and how high it would have to be.
    pub enough: Option<i64>,
}

super::words_enum! {
    /// How much people hear of what is waited for.
    Telling {
        /// It goes by before they would care.
        Silent = "silent",
        Said = "said",
        /// They are asked to do something about it.
        Asked = "asked",
    }
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
        repository: Repository,
        number: Option<u64>,
        branch: String,
    },
}

/// Where a round stands, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Planning,
    /// A person has to approve of the plan.
    Awaiting,
    Working,
    Merging,
    Closing,
    Done,
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Self::Planning => "planning",
            Self::Awaiting => "awaiting",
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
            forecast: None,
            consent: Consent::NotAsked,
            waits: BTreeMap::new(),
            raised: BTreeMap::new(),
            alerted: 0,
            alerted_of_day: None,
            fallen: BTreeSet::new(),
            plan_rejections: 0,
            plan_rejected: None,
            owed: BTreeMap::new(),
            shown: BTreeMap::new(),
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
            tally: Tally::default(),
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
                .work()
                .all(|it| it.spec.kind != TaskKind::Orchestrator || it.over());
        if self.work().all(Task::over)
            && (planned || self.cancelled.is_some() || self.unserved.is_some())
        {
            return Phase::Closing;
        }
        if !planned {
            return Phase::Planning;
        }
        if self.consent == Consent::Asked {
            return Phase::Awaiting;
        }
        let at_the_merge = |task: &Task| match task.state {
            TaskState::Ready
            | TaskState::Updating { .. }
            | TaskState::Merging { .. }
            | TaskState::Queued { .. }
            | TaskState::Approved { .. } => true,
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
        if self.work().all(at_the_merge) {
            Phase::Merging
        } else {
            Phase::Working
        }
    }

    /// What is to be done now, oldest first.
    ///
    /// Linear shows things in the order in which they arrive, so of what goes
    /// to one session nothing is due behind something that is not: whoever makes
    /// these makes them one after another.
    pub fn due(&self, now: Time) -> Vec<Due> {
        let mut busy_sessions = BTreeSet::new();
        let mut due = Vec::new();
        for (key, owed) in &self.owed {
            let session = owed.effect.session();
            if session.is_some_and(|it| busy_sessions.contains(it)) {
                continue;
            }
            if owed.due_at(self.last_at) > now {
                busy_sessions.extend(session);
            } else {
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

    /// The plan as Linear shows it, a word for each task.
    pub fn plan_words(&self) -> Vec<PlanWord> {
        self.shown_tasks().map(Task::plan_word).collect()
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
            | TaskState::Queued { .. }
            | TaskState::Ready => Some(Watch::Pull {
                task: task.spec.id.clone(),
                repository: self.policy.as_ref()?.repository.clone(),
                // Without a forge there are branches and no numbers.
                number: task.pull.as_ref().map(|it| it.number).filter(|it| *it > 0),
                branch: task.branch.clone()?,
            }),
            TaskState::Todo
            | TaskState::Starting { .. }
            | TaskState::Updating { .. }
            | TaskState::Merging { .. }
            | TaskState::Merged
            | TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Skipped
            | TaskState::Cancelled => None,
        }
    }

    /// The runs that hear what is written now.
    pub(super) fn listeners(&self) -> Vec<(TaskId, ExecutorKind, RunId)> {
        let listens = |task: &Task| match &task.state {
            TaskState::Running {
                run,
                stopping: None,
                ..
            } => {
                // Commands hear nothing.
                let hears = |it: &ExecutorKind| it.hears() && task.is_shown();
                let executor = task.executor.filter(hears)?;
                Some((task.spec.id.clone(), executor, run.clone()))
            }
            _ => None,
        };
        self.tasks.iter().filter_map(listens).collect()
    }

    /// Is it worth looking at, because of what runs or what it waits for?
    pub fn is_watched(&self) -> bool {
        self.active()
            && (!self.waits.is_empty()
                || self.consent == Consent::Asked
                || self.tasks.iter().any(|it| self.watch(it).is_some()))
    }

    /// The tasks that could begin now, if the conditions allow it.
    pub fn startable(&self, now: Time) -> impl Iterator<Item = &Task> {
        let open = self.active()
            && self.cancelled.is_none()
            && self.unserved.is_none()
            && self.policy.is_some()
            && self.consent != Consent::Asked;
        self.tasks.iter().filter(move |task| {
            open && task.state == TaskState::Todo
                && task.not_before.is_none_or(|it| it <= now)
                && self.awaited(task)
                && task
                    .spec
                    .depends_on
                    .iter()
                    .all(|on| self.task(on).is_some_and(Task::achieved))
        })
    }

    /// How many tasks may begin beside those at work.
    pub fn places_free(&self) -> usize {
        let max = self.policy.as_ref().map_or(0, |it| it.parallel_max);
        max.saturating_sub(self.tasks.iter().filter(|it| it.busy()).count())
    }

    /// The pull request that is to be merged next: one at a time, in the order of
    /// the plan, each at the commit that was approved.
    /// `true`: once it has been brought up to date.
    pub fn mergeable(&self) -> Option<(&Task, &Pull, &str, bool)> {
        let merging = |task: &Task| match task.state {
            TaskState::Merging { .. } | TaskState::Updating { .. } | TaskState::Queued { .. } => {
                true
            }
            // It was brought up to date to be merged next: none goes before it.
            TaskState::Judging => task.updated.is_some() && task.held.is_none(),
            _ => false,
        };
        let auto = self
            .policy
            .as_ref()
            .is_some_and(|it| it.merge == MergeMode::Auto);
        if !self.active() || self.cancelled.is_some() || !auto || self.tasks.iter().any(merging) {
            return None;
        }
        self.tasks
            .iter()
            .find_map(|task| match (&task.state, &task.pull) {
                (TaskState::Approved { sha, behind }, Some(pull)) => {
                    let update = *behind && task.updates < UPDATES_MAX;
                    Some((task, pull, sha.as_str(), update))
                }
                _ => None,
            })
    }

    /// Could something begin or be merged, so that the conditions are worth asking for?
    pub fn ripe(&self, now: Time) -> bool {
        self.mergeable().is_some()
            || (self.places_free() > 0 && self.startable(now).next().is_some())
    }

    /// What is set aside for runs that are under way, millionths of a USD.
    pub fn reserved(&self) -> i64 {
        let reserved = self.tasks.iter().filter_map(|it| it.reserved.as_ref());
        reserved.map(|it| micros(it.usd)).sum()
    }

    /// The same by the day whose limit it counts for.
    pub(super) fn reserved_by_day(&self) -> BTreeMap<Date, i64> {
        let mut days = BTreeMap::new();
        for it in self.tasks.iter().filter_map(|it| it.reserved.as_ref()) {
            *days.entry(it.day).or_default() += micros(it.usd);
        }
        days
    }

    /// When something has to be done even if nothing is heard: a due effect or
    /// a deadline, or something that could begin and was not considered yet.
    /// `None` when the issue only waits for the world, or is over.
    pub fn attention_at(&self) -> Option<Time> {
        let owed = self.owed.values().map(|it| it.due_at(self.last_at));
        let deadlines = self.tasks.iter().filter_map(|task| self.deadline(task));
        let ripe = (self.waits.is_empty() && self.ripe(self.last_at)).then_some(self.last_at);
        owed.chain(deadlines).chain(ripe).min()
    }

    /// When time alone changes something for this task.
    pub(super) fn deadline(&self, task: &Task) -> Option<Time> {
        let policy = self.policy.as_ref()?;
        match &task.state {
            TaskState::Todo => task
                .not_before
                .filter(|_| self.cancelled.is_none() && self.waits.is_empty())
                .filter(|_| self.places_free() > 0),
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
            | TaskState::Updating { .. }
            | TaskState::Merging { .. }
            | TaskState::Queued { .. }
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
        let any = |state: TaskState| self.work().any(|it| it.state == state);
        if self.unserved.is_some() || any(TaskState::Failed) {
            return RoundOutcome::Failed;
        }
        let brought_something = |task: &Task| {
            task.spec.kind != TaskKind::Orchestrator
                && (task.achieved() || task.state == TaskState::Ready)
        };
        if self.work().any(brought_something) {
            RoundOutcome::Succeeded
        } else {
            RoundOutcome::Cancelled
        }
    }

    /// Something was merged, and nothing was left out.
    pub fn all_merged(&self) -> bool {
        self.cancelled.is_none()
            && self.work().any(|it| it.state == TaskState::Merged)
            && self.work().all(Task::achieved)
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
        if self.consent == Consent::Asked {
            reasons.push("a person has to approve the plan".into());
        }
        reasons.extend(self.waits.values().map(|it| it.why.clone()));
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
