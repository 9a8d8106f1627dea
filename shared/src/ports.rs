//! What the engine needs of the world, as promises. Adapters keep them, and so
//! does the simulator's world.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::issue::{
    Activity, AgentPolicy, Brief, Event, ExecutorKind, Fault, IssueId, MergeMethod, Policy,
    PullFacts, Record, Repository, Rules, RunId, Seq, SessionId, Sight, Stage, TaskId, TaskKind,
    Time,
};

/// Everything the engine can reach.
#[derive(Clone)]
pub struct Hands {
    pub log: Arc<dyn Log>,
    pub registers: Arc<dyn Registers>,
    pub tracker: Arc<dyn Tracker>,
    pub forge: Arc<dyn Forge>,
    pub executors: Vec<Arc<dyn Executor>>,
    pub policies: Arc<dyn Policies>,
    pub clock: Arc<dyn Clock>,
}

/// Tells the time.
pub trait Clock: Send + Sync {
    fn now(&self) -> Time;
}

/// Says what holds for an issue.
#[async_trait]
pub trait Policies: Send + Sync {
    /// The policy for an issue, or a sentence for its author: why there is
    /// none, and what to do about it.
    async fn policy(&self, brief: &Brief) -> Result<Policy, String>;

    /// What holds for all issues now, those in flight included.
    async fn rules(&self) -> Rules;
}

/// The log has no event there, although it has later ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("event {missing} is missing")]
pub struct Torn {
    pub missing: Seq,
}

/// The logs of all issues, a small head for each, and accounts.
#[async_trait]
pub trait Log: Send + Sync {
    /// The records of an issue after `after`, oldest first, all of them. Fails
    /// with [`Torn`] at its root where some are missing, whenever it is tried.
    async fn read(&self, issue: &IssueId, after: Seq) -> anyhow::Result<Vec<Record>>;

    /// Writes all of it or nothing, durably, if the issue's last seq is still
    /// `append.after` and no entry goes over its limit.
    async fn append(&self, append: Append) -> Result<(), AppendError>;

    /// Issues to look after: those with something to watch, and those whose
    /// `attention_at` is not after `now`; most overdue first, at most `limit`.
    async fn attention(&self, now: Time, limit: usize) -> anyhow::Result<Vec<Attention>>;

    /// The id of an issue, by id or identifier.
    async fn find(&self, name: &str) -> anyhow::Result<Option<IssueId>>;

    /// Heads of issues, newest first, `limit` of them, that come after `after`.
    async fn heads(&self, after: Option<&Place>, limit: usize) -> anyhow::Result<Vec<Head>>;

    /// The figures of accounts, in the order of the names; nothing was ever
    /// entered in an empty one.
    async fn accounts(&self, names: &[String]) -> anyhow::Result<Vec<Figures>>;

    /// Takes an issue out of everybody's attention until its head is rebuilt,
    /// with the reason in its head's `waiting_for`. For an issue whose head and
    /// events contradict each other; its log is left as it is.
    async fn park(&self, issue: &IssueId, why: &str) -> anyhow::Result<()>;

    /// Puts this head in place of whatever is there, if the last event of the
    /// issue's log is `head.seq`; else it is a conflict.
    async fn rebuild(&self, head: Head) -> Result<(), AppendError>;
}

/// What one step writes.
#[derive(Clone, Debug)]
pub struct Append {
    pub issue: IssueId,
    /// The seq that the writer has seen; the first event gets the next one.
    pub after: Seq,
    pub at: Time,
    pub events: Vec<Event>,
    pub head: Head,
    /// Entries in accounts, one for each account at most.
    pub entries: Vec<Entry>,
}

/// Figures by name. Whole numbers, so that sums are exact: counts, seconds,
/// millionths of a USD.
pub type Figures = BTreeMap<String, i64>;

/// What is added to the figures of an account, with an append or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub account: String,
    pub add: Figures,
    pub limit: Option<Limit>,
}

/// A figure may not be over this afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    pub figure: String,
    pub max: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else has written: load again and decide again.
    #[error("somebody else has written")]
    Conflict,
    /// An entry would go over its limit.
    #[error("the account `{account}` is at its limit")]
    OverLimit { account: String },
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// An issue that somebody has to see to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    pub issue: IssueId,
    /// When something is owed or a deadline passes.
    pub at: Option<Time>,
    /// A run or a pull request is worth asking about.
    pub watching: bool,
}

/// A place in the list of heads: after the issue with this start and id. Of
/// issues that started at once, the one with the greater id comes first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub started_at: Time,
    pub issue: IssueId,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.started_at, self.issue)
    }
}

impl std::str::FromStr for Place {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Without an id: all that started before.
        let (started_at, issue) = text.split_once('_').unwrap_or((text, ""));
        Ok(Self {
            started_at: started_at.parse()?,
            issue: issue.into(),
        })
    }
}

/// Small values beside the logs that all copies of us share, each replaced only
/// by who has seen the present one: the configuration, token buckets, circuit
/// breakers, jobs of runners. A register whose time is over is as good as gone.
#[async_trait]
pub trait Registers: Send + Sync {
    async fn get(&self, shelf: &str, name: &str, now: Time) -> anyhow::Result<Option<Register>>;

    /// All registers of a shelf, by name.
    async fn list(&self, shelf: &str, now: Time) -> anyhow::Result<Vec<Register>>;

    /// Writes if the register is still at version `seen` (0: there is none).
    /// `None` removes it. A conflict says that somebody else has written.
    async fn put(&self, write: RegisterWrite, seen: u64, now: Time) -> Result<(), AppendError>;
}

/// A register as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Register {
    pub name: String,
    /// From 1, one more with each write.
    pub version: u64,
    pub value: serde_json::Value,
}

/// What a register shall hold.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisterWrite {
    pub shelf: String,
    pub name: String,
    pub value: Option<serde_json::Value>,
    /// When it is over, to the second.
    pub expires_at: Option<Time>,
}

/// What is known of an issue without reading its log. Its size does not depend
/// on the number of tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub issue: IssueId,
    pub seq: Seq,
    pub identifier: String,
    pub title: String,
    pub url: String,
    pub phase: String,
    pub outcome: Option<String>,
    pub waiting_for: Option<String>,
    pub spent_usd: f64,
    #[serde(default)]
    pub reserved_usd: f64,
    /// What a person has raised its limit to.
    #[serde(default)]
    pub raised_usd: Option<f64>,
    pub tasks_done: usize,
    pub tasks_total: usize,
    pub started_at: Time,
    pub finished_at: Option<Time>,
    /// When something is owed or a deadline passes.
    pub attention_at: Option<Time>,
    /// A run or a pull request is worth asking about.
    pub watching: bool,
}

impl Head {
    /// Where it stands in the list.
    pub fn place(&self) -> Place {
        Place {
            started_at: self.started_at,
            issue: self.issue.clone(),
        }
    }

    /// Takes the issue out of everybody's attention, and says why.
    pub fn park(&mut self, why: &str) {
        self.attention_at = None;
        self.watching = false;
        self.waiting_for = Some(why.to_owned());
    }
}

/// The place where people speak with us: Linear.
///
/// All writes may be repeated: what carries an id is refused the second time
/// and that refusal is a success; the rest sets what is already so.
#[async_trait]
pub trait Tracker: Send + Sync {
    async fn read(&self, issue: &IssueId) -> Result<Brief, Fault>;
    async fn say(&self, id: Uuid, session: &SessionId, activity: &Activity) -> Result<(), Fault>;
    async fn show_plan(&self, session: &SessionId, items: &[PlanItem]) -> Result<(), Fault>;
    async fn link(&self, session: &SessionId, label: &str, url: &str) -> Result<(), Fault>;
    /// Moves the issue to the first state of that kind, unless it is there or further.
    async fn set_stage(&self, issue: &IssueId, stage: Stage) -> Result<(), Fault>;
}

/// A line of the plan as Linear shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanItem {
    pub content: String,
    pub status: PlanStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanStatus {
    Pending,
    InProgress,
    Completed,
    Canceled,
}

/// The place where the code lives: GitHub.
#[async_trait]
pub trait Forge: Send + Sync {
    /// How pull requests stand, one answer per question in the same order.
    async fn facts(&self, asks: &[PullAsk]) -> Vec<Result<Option<PullFacts>, Fault>>;

    /// Merges exactly `sha`. A merge that was made already, by whomever, is
    /// [`MergeAnswer::Merged`]; so repeating one is safe.
    async fn merge(&self, ask: &MergeAsk) -> Result<MergeAnswer, Fault>;

    /// Brings the base branch into a pull request whose head is still `sha`. Repeating
    /// it is safe: afterwards the head is another one.
    async fn update(&self, ask: &UpdateAsk) -> Result<UpdateAnswer, Fault>;

    /// Closes a pull request with a comment; one that is closed or merged is left as
    /// it is. The comment carries `ask.mark`, by which a second one is known and not made.
    async fn close(&self, ask: &CloseAsk) -> Result<(), Fault>;

    /// Deletes a branch; one that is gone is a success.
    async fn delete_branch(&self, ask: &BranchAsk) -> Result<(), Fault>;

    /// The end of what a check has printed, at most `LOG_BYTES_MAX`; empty where
    /// the forge keeps nothing.
    async fn log(&self, ask: &LogAsk) -> Result<String, Fault>;
}

/// Where a runner hands in what it has made.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Opens a pull request, or finds the one that is open from this branch.
    async fn open(&self, ask: &OpenAsk) -> Result<Opened, Fault>;
}

impl WhichPull {
    /// The pull request with this number, or the branch where there are no numbers.
    pub fn of(number: Option<u64>, branch: &str) -> Self {
        match number.filter(|it| *it > 0) {
            Some(number) => Self::Number(number),
            None => Self::Branch(branch.to_owned()),
        }
    }
}

/// A question about one pull request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullAsk {
    pub repository: Repository,
    pub which: WhichPull,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WhichPull {
    Number(u64),
    /// The newest one whose head is this branch of the repository itself.
    Branch(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergeAsk {
    pub repository: Repository,
    pub number: u64,
    pub branch: String,
    pub sha: String,
    pub method: MergeMethod,
    pub title: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MergeAnswer {
    /// Merged as this commit.
    Merged { sha: String },
    /// The forge merges it by itself: it waits in a queue, or is at work.
    Queued,
    /// The head is not `sha` any more.
    HeadMoved,
    /// It cannot be merged as it stands; the forge's words.
    Refused { why: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateAsk {
    pub repository: Repository,
    pub number: u64,
    pub branch: String,
    pub sha: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpdateAnswer {
    /// It is done, or will be in a moment.
    Done,
    /// The head is not `sha` any more.
    HeadMoved,
    /// It cannot be done as it stands, mostly for a conflict; the forge's words.
    Refused { why: String },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloseAsk {
    pub repository: Repository,
    pub number: u64,
    pub comment: String,
    /// An HTML comment that no other comment carries.
    pub mark: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchAsk {
    pub repository: Repository,
    pub branch: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogAsk {
    pub repository: Repository,
    /// [`crate::issue::Check::id`].
    pub check: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenAsk {
    pub slug: String,
    pub branch: String,
    pub base: String,
    pub title: String,
    pub body: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub number: u64,
    pub url: String,
}

/// Runs coding agents.
#[async_trait]
pub trait Executor: Send + Sync {
    fn kind(&self) -> ExecutorKind;

    /// Starts a run. `job.key` is the same for every attempt at one effect. A
    /// fault that is not [`Fault::Ambiguous`] promises that no run was made.
    async fn start(&self, job: &Job) -> Result<Started, Fault>;

    /// Looks for the run of a start whose reply was lost; never makes one.
    async fn settle(&self, job: &Job) -> Result<Settlement, Fault>;

    /// How runs stand, one answer per run in the same order, read in bulk.
    async fn observe(&self, runs: &[RunId]) -> Vec<Result<Sight, Fault>>;

    /// Asks a run to stop. Stopping what has ended is a success.
    async fn stop(&self, run: &RunId) -> Result<(), Fault>;

    /// Passes a message on to a run. The same id a second time changes nothing.
    /// Only asked of executors whose runs hear ([`ExecutorKind::hears`]).
    async fn tell(&self, run: &RunId, message: &Message) -> Result<Told, Fault> {
        let _ = (run, message);
        Ok(Told::TooLate)
    }

    /// Whether it takes runs now, and how many at once. A guess to choose by: a
    /// start may still find it otherwise.
    async fn health(&self) -> Health {
        Health::default()
    }
}

/// How an executor stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Why nothing should be sent there; a sentence that names no executor.
    pub down: Option<String>,
    /// Runs that would begin at once; `None`: any number, or nobody knows.
    pub slots_free: Option<usize>,
}

/// Something for an agent at work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Fit for a file name; tells deliveries of the same message apart.
    pub id: String,
    pub text: String,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// The run gets it, now or as soon as it can listen.
    Accepted,
    /// The run has ended.
    TooLate,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    pub run: RunId,
    pub url: Option<String>,
    /// It works already, rather than wait for a free slot.
    pub begun: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    Found(Started),
    /// Not found. `certain`: and it cannot turn up later.
    Absent {
        certain: bool,
    },
}

/// One run of one task, as it is handed to an executor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Unique for the effect, fit for a file name: never two runs for one key.
    pub key: String,
    pub issue: IssueId,
    pub identifier: String,
    pub issue_title: String,
    pub issue_url: String,
    pub task: TaskId,
    pub kind: TaskKind,
    pub title: String,
    /// The whole prompt, frame included.
    pub prompt: String,
    /// The JSON Schema of the answer, where one is asked for instead of a change.
    pub answer_schema: Option<String>,
    pub repository: Repository,
    pub branch: String,
    pub agent: AgentPolicy,
    /// USD.
    pub cost_max: Option<f64>,
    pub seconds_max: i64,
    /// How long it may lie after its runner was not heard of again until the run
    /// counts as lost; `None`: until some runner takes it.
    #[serde(default)]
    pub patience_seconds: Option<i64>,
    /// The commit to work at; `None`: the base branch as it stands.
    #[serde(default)]
    pub commit: Option<String>,
    /// What is run at that commit instead of an agent, one after another, until one fails.
    #[serde(default)]
    pub commands: Vec<String>,
    /// It goes on with what an earlier run of the task has made.
    #[serde(default)]
    pub repair: Option<Repair>,
}

/// What an earlier run has made was not good enough: it is mended on its branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// The run to go on with, where this executor has it.
    pub run: Option<RunId>,
    /// The agent's session in that run, where it told it.
    pub session: Option<String>,
    /// What was wrong. `Job::prompt` says all that the first run was told, and this.
    pub message: String,
    /// The base branch has to be merged into it, which leaves conflicts.
    pub conflict: bool,
}

impl Job {
    /// Is the result of this job a pull request, rather than an answer?
    pub fn makes_pull(&self) -> bool {
        self.kind.makes_pull()
    }
}
