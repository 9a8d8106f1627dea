//! The life of one issue. No clock, no randomness, no I/O, no async.
//!
//! [`decide`] says what an input means, [`evolve`] remembers it, [`due`] says
//! what is still owed to the world. In between lies the log: a list of
//! [`Record`]s, from which everything here can be told again.

mod advance;
mod answer;
mod begin;
pub mod conditions;
mod event;
mod evolve;
pub mod forecast;
pub mod frame;
pub mod history;
mod judges;
pub mod money;
mod outcome;
mod owed;
pub mod pace;
pub mod plan;
mod policy;
mod retry;
mod review;
pub mod route;
mod sight;
mod state;
mod sub_issue;
mod tally;
mod task;
mod understand;
mod validate;
pub mod verdict;
pub mod words;

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

pub use self::advance::advance;
pub use self::conditions::{
    Approval, Availability, Conditions, DayLedger, Pause, Rules, Wait, utc_day,
};
pub use self::event::{Event, Record, RoundOutcome, Settled, Then, leaves_work};
pub use self::evolve::evolve;
pub use self::judges::commands;
pub use self::money::{Reservation, Scope, micros, usd};
pub use self::owed::{Claim, Doubt, Due, How, Owed};
pub use self::plan::{Complexity, Spec, TaskKind};
pub use self::policy::{
    AgentPolicy, Brief, Briefing, MergeMethod, MergeMode, PROGRAM, Planning, Policy, Repository,
    Strategy, SubIssue, Tools, Verbosity, usual_protected,
};
pub use self::state::{Issue, Phase, Telling, Watch};
pub use self::sub_issue::{SUB_ISSUE_BYTES_MAX, SUB_ISSUES_MAX};
pub use self::tally::{Tally, seconds};
pub use self::task::{Mend, PlanWord, Pull, Shun, StopReason, Stopping, Task, TaskState};
pub use self::verdict::{Check, CheckState, Opinion, PullFacts, PullState, Review};

/// A moment, to the nanosecond, UTC.
pub type Time = jiff::Timestamp;

/// A position in one issue's log, from 1. The position of a [`Event::Requested`]
/// is the idempotency key of its effect.
pub type Seq = u64;

/// How long a claim on an effect holds at least. Longer than any single call to the
/// outside may take, so that a claim lapses only when its holder is gone.
pub const LEASE_SECONDS: i64 = 60;
/// Claims lapse on a multiple of this …
pub const LEASE_GRAIN_SECONDS: i64 = 30;
/// … and so at the latest after this long.
pub const LEASE_SECONDS_MAX: i64 = LEASE_SECONDS + LEASE_GRAIN_SECONDS;
/// How often a message to Linear is tried before it is dropped.
pub const SAY_TRIES_MAX: u32 = 12;
/// How often the last word of a round is tried: with the capped backoff, about two days.
pub const LAST_WORD_TRIES_MAX: u32 = 600;
/// How often reading the issue, a start or a merge is tried while the other side is down.
pub const TRIES_MAX: u32 = 10;
/// How often a repair is put off because its run is at work, or nothing is taken just then.
pub const REPAIR_TRIES_MAX: u32 = 30;
/// Backoff doubles from one second up to this.
pub const BACKOFF_SECONDS_MAX: i64 = 300;
/// After a doubtful start, this many clean looks must find nothing …
pub const CLEAN_LOOKS_MIN: u32 = 3;
/// … over at least this long, before the run may be created again.
pub const CLEAN_LOOKS_SECONDS: i64 = 30;
/// The pause between two such looks.
pub const CLEAN_LOOK_PAUSE_SECONDS: i64 = 15;
/// How long a finished cloud run may take to show its pull request.
pub const PULL_GRACE_SECONDS: i64 = 300;
/// Something that holds a task up for longer than this is told to people.
pub const HELD_SECONDS: i64 = 600;
/// So is an effect that failed this often.
pub const HELD_TRIES: u32 = 5;
/// How often a forge may say that a head moved which did not.
pub const BOUNCES_MAX: u32 = 5;
/// How often a pull request is brought up to date before it is merged as it stands.
pub const UPDATES_MAX: u32 = 5;
/// How long a new head may take to be seen after it was asked for, or pushed.
pub const HEAD_GRACE_SECONDS: i64 = 120;
/// How long a merge that the forge has taken over may be in neither state.
pub const QUEUE_GRACE_SECONDS: i64 = 120;
/// How long a run that was gone on with may still look ended.
pub const RESUME_GRACE_SECONDS: i64 = 60;
/// No run costs more than this, USD: a larger figure is no figure.
pub const COST_USD_MAX: f64 = 10_000.0;
/// A stop that shows no effect is repeated after this long …
pub const STOP_AGAIN_SECONDS: i64 = 60;
/// … and after this long the run is given up for dead and that is said.
pub const STOP_PATIENCE_SECONDS: i64 = 900;
/// A plan that is none is sent back this often.
pub const PLAN_REJECTIONS_MAX: u32 = 1;
/// A text that comes from outside is kept up to this many bytes.
pub const TEXT_BYTES_MAX: usize = 64 * 1024;
/// A reason or an error, as a person reads it, is cut after this many bytes.
pub const REASON_BYTES_MAX: usize = 2 * 1024;
/// Of what a check or a command has printed so much of its end is kept, bytes.
pub const LOG_BYTES_MAX: usize = 8 * 1024;

macro_rules! id {
    ($(#[$doc:meta] $name:ident),* $(,)?) => {$(
        #[$doc]
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    )*};
}

id! {
    /// Linear's UUID of an issue: the partition of its log.
    IssueId,
    /// Linear's UUID of an agent session.
    SessionId,
    /// A task within an issue: the plan's own name, `plan` or `main`.
    TaskId,
    /// What an executor calls a run.
    RunId,
}

// ───────────────────────────── what comes in ─────────────────────────────

/// Something that happened outside, told to the core.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A person delegated the issue to us or mentioned us on it.
    Opened(Opening),
    /// A person wrote in a session, which may be the first that is heard of it.
    /// `activity` tells deliveries of the same prompt
    /// apart; `at` is when they wrote, by Linear's clock.
    Prompted {
        opening: Opening,
        activity: String,
        text: String,
        at: Time,
    },
    /// A person wants no more of it. `at` is when they said so, by Linear's clock.
    Cancelled { why: CancelReason, at: Time },
    /// An operator approves the plan.
    Approve,
    /// An operator wants what failed tried again: this task, or all.
    Retry { task: Option<TaskId> },
    /// An effect that was owed has been made.
    Performed { key: Seq, outcome: Outcome },
    /// An effect could not be made, or nobody knows whether it was. `claim`: the
    /// position of the claim under which it was tried. The word of a holder
    /// whose claim has lapsed does not count: another one may be making it.
    Faulted { key: Seq, claim: Seq, fault: Fault },
    /// A doubtful effect was looked for and not found. `certain`: the looking
    /// proves that it never happened (a local folder, not a far list).
    Absent { key: Seq, claim: Seq, certain: bool },
    /// How a run stands, as its executor tells.
    SawRun {
        task: TaskId,
        run: RunId,
        sight: Sight,
    },
    /// How a pull request stands; `None`: there is none on the task's branch.
    SawPull {
        task: TaskId,
        facts: Option<PullFacts>,
        /// When it was asked.
        asked_at: Time,
    },
    /// A task's run or pull request could not be looked at, again and again since then.
    Unseen {
        task: TaskId,
        since: Time,
        fault: Fault,
    },
    /// Nothing but that time has passed.
    Tick,
}

impl Input {
    /// It says that something is done of which nothing was to be learnt.
    pub fn can_wait(&self) -> bool {
        matches!(
            self,
            Self::Performed {
                outcome: Outcome::Done,
                ..
            }
        )
    }
}

/// A session that Linear opened for us on an issue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opening {
    pub session: SessionId,
    pub identifier: String,
    pub title: String,
    pub url: String,
    /// Our own user in this workspace, by which an un-delegation is known.
    pub app_user: Option<String>,
    /// When the session was created, by Linear's clock.
    pub at: Time,
}

/// Why a person's wish to stop is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// The stop button of a session, or the word.
    Stop,
    /// The delegate changed from `from` (absent where Linear doesn't tell).
    Undelegated { from: Option<String> },
    /// The issue went to a state of this type: canceled or duplicate.
    State(String),
    /// Trashed or removed.
    Removed,
    /// An operator, by command.
    Command,
}

/// What making an effect brought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is done and there is nothing to remember.
    Done,
    /// The issue as it stands, and what the configuration says about it.
    Briefed(Box<Briefing>),
    /// The configuration cannot serve this issue; the sentence says why and the remedy.
    Unserved(String),
    /// A run exists. `begun`: it works already, rather than wait for its turn.
    Started {
        run: RunId,
        url: Option<String>,
        begun: bool,
    },
    /// The pull request is merged as this commit.
    Merged { sha: String },
    /// The forge will merge it by itself.
    Queued,
    /// The head is not the commit that was named any more.
    HeadMoved,
    /// The forge will not merge this commit, or not bring it up to date.
    MergeRefused { why: String },
    /// What was to be passed on came too late: the run has ended, or hears nothing.
    Unheard,
}

macro_rules! words_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $word)] $variant),* }

        impl $name {
            /// Every value, in the order of its declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word that stands for it outside.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}
pub(crate) use words_enum;

words_enum! {
    /// Where a run happens.
    ExecutorKind { Local = "local", Codegen = "codegen" }
}
words_enum! {
    /// What went wrong with a run; decides whether a fresh one makes sense.
    FailureClass {
        /// Credentials refused.
        Auth = "auth",
        /// The plan or the credit of the provider is used up.
        Quota = "quota",
        /// Our request or our configuration is wrong, or the repository is not to be had.
        Invalid = "invalid",
        /// The agent gave up, or what it made is not usable.
        Agent = "agent",
        /// Turns, tokens or iterations are used up.
        Limit = "limit",
        /// The money cap of the run was reached.
        Budget = "budget",
        /// Its time is over, whether it was at work or stuck.
        Timeout = "timeout",
        /// The model would not do it.
        Refusal = "refusal",
        /// The provider or its model service is down.
        Outage = "outage",
        /// Nobody knows the run any more.
        Lost = "lost",
        Cancelled = "cancelled",
    }
}

impl ExecutorKind {
    /// Do its runs hear what is written while they work?
    pub fn hears(self) -> bool {
        match self {
            Self::Local => true,
            // Its API takes a message only from a run that has ended.
            Self::Codegen => false,
        }
    }
}

impl FailureClass {
    /// Could a fresh run of the same task go better?
    pub fn worth_another_run(self) -> bool {
        match self {
            // An agent does not do the same twice, and is told what went wrong.
            Self::Agent | Self::Limit | Self::Timeout => true,
            // Nothing is wrong with the task.
            Self::Outage | Self::Lost => true,
            // Another run would fail like this one until a person has seen to it.
            Self::Auth | Self::Quota | Self::Invalid => false,
            // It would spend as much, and be no better.
            Self::Budget => false,
            // No is an answer.
            Self::Refusal | Self::Cancelled => false,
        }
    }
}

/// Why an effect could not be made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It was certainly not made, or may be repeated without harm.
    #[error("{why}")]
    Transient { why: String },
    /// The executor as a whole takes nothing now: its breaker is open, its token or
    /// its credit is used up. No run was made; another executor may be asked.
    #[error("{why}")]
    Down { why: String },
    /// The other side asks to wait (429, no free slot). Does not count as a try.
    #[error("{why}")]
    Busy {
        why: String,
        retry_after_seconds: Option<u32>,
    },
    /// It may have been made: the reply was lost.
    #[error("{why}")]
    Ambiguous { why: String },
    /// Trying again will not help.
    #[error("{why}")]
    Permanent { class: FailureClass, why: String },
}

/// How a run stands at its executor.
#[derive(Clone, Debug, PartialEq)]
pub enum Sight {
    /// Accepted, not yet working.
    Waiting,
    Working,
    Ended(Ending),
    /// The executor does not know this run any more.
    Gone,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    pub result: Result<RunResult, Failure>,
    /// What it cost, USD, where the executor reports it.
    pub cost_usd: Option<f64>,
    /// The executor itself does not know it for sure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cost_is_estimate: bool,
}

/// What a run that succeeded brought. A claim, until it is validated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// The agent's last words.
    pub text: String,
    /// The structured answer (JSON), where one was asked for.
    pub answer: Option<String>,
    /// The pull request that the run reports, by its URL.
    pub pull_url: Option<String>,
    /// The branch, where it is another than asked for (its name was taken).
    pub branch: Option<String>,
    /// `Some(false)`: the run is known to have changed nothing.
    pub changed: Option<bool>,
    /// The agent's session, by which it can be gone on with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Something that a person wrote while it worked did not reach it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unheard: bool,
}

/// Why a run failed, with a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub class: FailureClass,
    pub message: String,
}

// ───────────────────────────── what goes out ─────────────────────────────

/// A wish to change the world (or, for `Fetch`, to read it once). Small: what
/// it takes to make it is told by the state at that moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Read the issue from Linear, and from the configuration what holds for it.
    Fetch,
    /// Post an activity in a session.
    Say {
        session: SessionId,
        activity: Activity,
    },
    /// Show the plan, as it stands when the effect is made, in a session.
    ShowPlan { session: SessionId },
    /// Add an external URL to a session.
    Link {
        session: SessionId,
        label: String,
        url: String,
    },
    /// Move the issue, or a sub-issue of it, to the first state of a kind, unless it
    /// is further already.
    Move {
        to: Stage,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        issue: Option<IssueId>,
    },
    /// Start a run of a task. `reserved`: what it may cost at the most, where
    /// anything limits that. `repair`: it goes on with what the last run has made.
    Start {
        task: TaskId,
        attempt: u32,
        executor: ExecutorKind,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reserved: Option<Reservation>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        repair: bool,
    },
    /// Stop a run.
    Stop {
        task: TaskId,
        executor: ExecutorKind,
        run: RunId,
    },
    /// Pass on to a run what a person has written: the note at this place of
    /// the round's notes.
    Tell {
        task: TaskId,
        executor: ExecutorKind,
        run: RunId,
        note: usize,
    },
    /// Merge exactly this commit of a task's pull request.
    Merge {
        task: TaskId,
        number: u64,
        sha: String,
    },
    /// Bring the base branch into a task's pull request whose head is this commit.
    Update {
        task: TaskId,
        number: u64,
        sha: String,
    },
    /// Close the pull request of a branch of ours that nobody will come back to, if
    /// there is one and it is ours.
    Close {
        task: TaskId,
        branch: String,
        why: String,
    },
    /// Delete a branch of ours that has been merged.
    Prune { task: TaskId, branch: String },
}

/// What we say in Linear. The words are Linear's own types of activity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    Thought(String),
    Action {
        action: String,
        parameter: String,
        result: Option<String>,
    },
    /// A question to a person, with the answers that can be picked.
    Elicitation {
        question: String,
        options: Vec<String>,
    },
    Response(String),
    Error(String),
}

words_enum! {
    /// The two places where an issue's state in Linear is moved to.
    Stage { Started = "started", Completed = "completed" }
}

/// What an input means for an issue where nothing but its own policy limits what
/// may begin: the events to write, none if it changes nothing.
///
/// Asking twice with the same input answers nothing the second time. A log
/// written by an older program never makes this panic; what it cannot have
/// meant is passed over.
pub fn decide(issue: &Issue, input: Input, now: Time) -> Vec<Event> {
    let mut draft = Draft::new(issue.clone(), now);
    draft.take(input);
    let conditions = Conditions::fair(draft.issue.policy.as_deref(), now);
    draft.consider(&conditions);
    draft.events
}

/// An issue with the events that are not written yet.
pub struct Draft {
    pub issue: Issue,
    pub events: Vec<Event>,
    pub now: Time,
    /// Why what a person asked for makes no sense now, with the remedy.
    pub refusal: Option<String>,
    /// What was set aside before, and what has been booked since, by the day that
    /// it counts for. Millionths of a USD.
    reserved_before: BTreeMap<Date, i64>,
    booked: BTreeMap<Date, i64>,
}

impl Draft {
    pub fn new(issue: Issue, now: Time) -> Self {
        // Clocks of two hosts differ; an issue's own time never runs backwards.
        let now = now.max(issue.last_at);
        Self {
            reserved_before: issue.reserved_by_day(),
            booked: BTreeMap::new(),
            issue,
            events: Vec::new(),
            now,
            refusal: None,
        }
    }

    /// Takes one input in, and all that follows from it, but for what may begin.
    pub fn take(&mut self, input: Input) {
        understand::understand(self, input);
        advance(self);
    }

    /// Could something begin or be merged, so that the conditions are worth asking for?
    pub fn is_ripe(&self) -> bool {
        self.issue.ripe(self.now)
    }

    /// The same, or something waits for better conditions, or has just changed.
    pub fn is_open(&self) -> bool {
        self.issue.active()
            && (self.is_ripe()
                || !self.issue.waits.is_empty()
                || !self.events.is_empty()
                || self.issue.tasks.iter().any(Task::lies_idle))
    }

    /// Begins what may begin under these conditions, and says what may not.
    pub fn consider(&mut self, conditions: &Conditions) {
        begin::begin(self, conditions);
    }

    /// Claims all that is due now, so that no other copy of us does the same.
    pub fn claim(&mut self) -> Vec<Due> {
        let due = self.issue.due(self.now);
        let until = lapse(self.now);
        due.into_iter()
            .map(|it| {
                self.emit(Event::Claimed { key: it.key, until });
                Due {
                    claim: self.issue.seq,
                    ..it
                }
            })
            .collect()
    }

    /// What these events have booked on a day and set aside on it, beside what its
    /// account says.
    fn changes_of(&self, day: Date) -> (i64, i64) {
        let of = |by: &BTreeMap<Date, i64>| by.get(&day).copied().unwrap_or(0);
        let reserved = of(&self.issue.reserved_by_day()) - of(&self.reserved_before);
        (of(&self.booked), reserved)
    }

    fn emit(&mut self, event: Event) {
        if let Event::Ended { task, cost_usd, .. } = &event {
            let reserved = self.issue.task(task).and_then(|it| it.reserved);
            let day = reserved.map_or_else(|| utc_day(self.now), |it| it.day);
            *self.booked.entry(day).or_default() += micros(*cost_usd);
        }
        let record = Record {
            seq: self.issue.seq + 1,
            at: self.now,
            event,
        };
        evolve(&mut self.issue, &record);
        self.events.push(record.event);
    }

    fn request(&mut self, effect: Effect) -> Seq {
        self.emit(Event::Requested(effect));
        self.issue.seq
    }

    /// Says something in every session of the round.
    fn say(&mut self, activity: Activity) {
        for session in self.issue.sessions.clone() {
            self.request(Effect::Say {
                session,
                activity: activity.clone(),
            });
        }
    }
}

/// When a claim that is made now lapses. Rounded up, so that the claims of a
/// busy moment lapse together: a store that keeps an index of such times need
/// not rewrite it at each step.
fn lapse(now: Time) -> Time {
    let soonest = now + jiff::SignedDuration::from_secs(LEASE_SECONDS);
    let rest = soonest.as_second().rem_euclid(LEASE_GRAIN_SECONDS);
    let whole = Time::from_second(soonest.as_second() - rest).unwrap_or(soonest);
    whole + jiff::SignedDuration::from_secs(LEASE_GRAIN_SECONDS)
}

/// A text from outside, cut to `max` bytes at a character.
pub fn clip(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let mut end = max.saturating_sub('…'.len_utf8());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}
