//! A Codegen that behaves: runs that take their time, a list that lags behind,
//! limits, statuses in any case, and pull requests at a [`GitHub`].
//!
//! [`Codegen`] is a state machine without a clock; [`router`] is its HTTP skin.
//! What a run does at the end of each of its turns says a [`Script`]. No agent runs
//! here, and nothing is done about red checks afterwards.

mod skin;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

pub use self::skin::router;
use crate::github::{self, Change, GitHub, NewPull};

/// Creates that the service takes in a minute.
const CREATES_PER_MINUTE: usize = 10;
/// The first run's number.
const FIRST_RUN: i64 = 5001;
/// Before our key in what a run is told when it is resumed.
const KEY_MARK: &str = "<!-- cyrus-key:";
/// The first repository's number.
const FIRST_REPOSITORY: i64 = 71;

/// The state machine with the GitHub that its runs push to, as a skin and a
/// test share them. The clock is the GitHub's.
#[derive(Clone)]
pub struct Shared {
    state: Arc<Mutex<Codegen>>,
    pub github: github::Shared,
}

impl Shared {
    pub fn new(codegen: Codegen, github: github::Shared) -> Self {
        Self {
            state: Arc::new(Mutex::new(codegen)),
            github,
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Codegen> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the runs go on to this moment, and tells it.
    pub fn tick(&self) -> Timestamp {
        let now = (self.github.clock)();
        // Always in this order, so that two callers cannot wait for each other.
        let mut codegen = self.lock();
        codegen.tick(now, &mut self.github.lock());
        now
    }
}

/// All of Codegen: one organization.
pub struct Codegen {
    pub org: i64,
    pub token: String,
    /// The plan's runs are used up: creates are answered with 402.
    pub exhausted: bool,
    /// How statuses are spelled.
    pub case: Case,
    /// How long a new run takes to show up in the list.
    pub lag: SignedDuration,
    /// For how long after a resume a run is still told as it was before.
    pub stale: SignedDuration,
    /// Logs do not show what a run was told.
    pub silent_logs: bool,
    /// So many of the next bans are accepted and have no effect.
    pub deaf_bans: u32,
    /// Reads taken in half a minute; `None`: any number.
    pub reads_max: Option<usize>,
    repositories: Vec<Repository>,
    script: Box<dyn Script>,
    runs: Vec<Run>,
    creates: VecDeque<Timestamp>,
    reads: VecDeque<Timestamp>,
}

/// Says what a run does, when it is created and whenever it is resumed.
pub trait Script: Send {
    fn part(&mut self, order: &Order) -> Part;
}

impl<F: FnMut(&Order) -> Part + Send> Script for F {
    fn part(&mut self, order: &Order) -> Part {
        self(order)
    }
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    pub id: i64,
    pub prompt: String,
    pub metadata: Value,
    /// `owner/name`.
    pub repository: Option<String>,
    pub model: Option<String>,
    /// What it was told when it was resumed, each time.
    pub follow_ups: Vec<String>,
}

/// What a run does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// How long it waits before it works.
    pub wait: SignedDuration,
    /// How long it works.
    pub work: SignedDuration,
    pub deed: Deed,
}

/// What a run does at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Pushes files to the branch that the prompt names, and opens a pull request.
    /// A later turn pushes to the same branch; the pull request stays the same one.
    Change { files: Vec<(String, String)> },
    /// Pushes nothing and says this: an answer, or that there was nothing to do.
    Say(String),
    /// Ends with this status (upper case) and text.
    Fail { status: &'static str, text: String },
    /// Never ends.
    Hang,
}

/// How the service spells statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// `COMPLETE`, as the live service does.
    Upper,
    /// `completed`, as its documents have it.
    Lower,
    /// Another one for every run.
    Mixed,
}

/// A repository that the organization has connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    pub id: i64,
    pub full_name: String,
}

/// A run as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub order: Order,
    pub created_at: Timestamp,
    pub status: Status,
    pub result: Option<String>,
    /// URL, title and branch of the pull request it opened.
    pub pull: Option<(String, String, String)>,
    part: Part,
    /// When its present turn began.
    turn_at: Timestamp,
    /// How it stood before that.
    before: Option<(Status, Option<String>)>,
    /// What it has been told and when, as its log shows it.
    told: Vec<(Timestamp, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Pending,
    Active,
    Complete,
    Cancelled,
    Failed(&'static str),
}

/// A refusal, as Codegen answers it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct Denied {
    pub status: u16,
    pub message: String,
}

impl Codegen {
    pub fn new(org: i64, token: &str, script: impl Script + 'static) -> Self {
        Self {
            org,
            token: token.to_owned(),
            exhausted: false,
            case: Case::Upper,
            lag: SignedDuration::ZERO,
            stale: SignedDuration::ZERO,
            silent_logs: false,
            deaf_bans: 0,
            reads_max: None,
            repositories: Vec::new(),
            script: Box::new(script),
            runs: Vec::new(),
            creates: VecDeque::new(),
            reads: VecDeque::new(),
        }
    }

    /// Connects a repository; answers its number.
    pub fn connect(&mut self, full_name: &str) -> i64 {
        let id = self
            .repositories
            .last()
            .map_or(FIRST_REPOSITORY, |it| it.id + 1);
        self.repositories.push(Repository {
            id,
            full_name: full_name.to_owned(),
        });
        id
    }

    pub fn repositories(&self) -> &[Repository] {
        &self.repositories
    }

    /// Creates a run.
    pub fn create(
        &mut self,
        prompt: &str,
        metadata: Value,
        repository: Option<i64>,
        model: Option<&str>,
        now: Timestamp,
    ) -> Result<Run, Denied> {
        let minute = SignedDuration::from_mins(1);
        if !admit(&mut self.creates, CREATES_PER_MINUTE, minute, now) {
            return Err(Denied::new(429, "Rate limit exceeded: 10 per 1 minute"));
        }
        if self.exhausted {
            return Err(Denied::new(
                402,
                "Alloted agent runs for the current billing plan have been reached",
            ));
        }
        let found = |id: i64| self.repositories.iter().find(|it| it.id == id);
        let repository = match repository {
            None => self.repositories.first(),
            Some(id) => Some(found(id).ok_or_else(|| Denied::new(404, "Repo not found"))?),
        };
        let order = Order {
            id: self.runs.last().map_or(FIRST_RUN, |it| it.order.id + 1),
            prompt: prompt.to_owned(),
            metadata,
            repository: repository.map(|it| it.full_name.clone()),
            model: model.map(str::to_owned),
            follow_ups: Vec::new(),
        };
        let part = self.script.part(&order);
        let run = Run {
            told: vec![(now, order.prompt.clone())],
            order,
            created_at: now,
            status: part.first_status(),
            result: None,
            pull: None,
            part,
            turn_at: now,
            before: None,
        };
        self.runs.push(run.clone());
        Ok(run)
    }

    /// Gives a run that has ended another turn. What the service answers where the
    /// run is at work is not documented.
    pub fn resume(&mut self, id: i64, prompt: &str, now: Timestamp) -> Result<Run, Denied> {
        let stale = self.stale;
        let run = self.runs.iter_mut().find(|it| it.order.id == id);
        let run = run.ok_or_else(|| Denied::new(404, "Agent run not found"))?;
        if matches!(run.status, Status::Pending | Status::Active) {
            return Err(Denied::new(409, "Agent run is still active"));
        }
        run.order.follow_ups.push(prompt.to_owned());
        run.told.push((now, prompt.to_owned()));
        run.part = self.script.part(&run.order);
        run.before = Some((run.status, run.result.clone()));
        (run.status, run.turn_at) = (run.part.first_status(), now);
        Ok(run.as_read(stale, now))
    }

    /// One run. Unlike the list this never lags.
    pub fn get(&mut self, id: i64, now: Timestamp) -> Result<Run, Denied> {
        self.admit_read(now)?;
        let found = self.runs.iter().find(|it| it.order.id == id);
        let found = found.ok_or_else(|| Denied::new(404, "Agent run not found"))?;
        Ok(found.as_read(self.stale, now))
    }

    /// The messages in a run's log, oldest first. Their rate is not kept here.
    pub fn messages(&self, id: i64) -> Result<Vec<(Timestamp, String)>, Denied> {
        let found = self.runs.iter().find(|it| it.order.id == id);
        let found = found.ok_or_else(|| Denied::new(404, "Agent run not found"))?;
        Ok(if self.silent_logs {
            Vec::new()
        } else {
            found.told.clone()
        })
    }

    /// The runs that the list shows, newest first.
    pub fn list(&mut self, now: Timestamp) -> Result<Vec<Run>, Denied> {
        self.admit_read(now)?;
        let shown = |it: &&Run| now.duration_since(it.created_at) >= self.lag;
        let told = |it: &Run| it.as_read(self.stale, now);
        Ok(self.runs.iter().rev().filter(shown).map(told).collect())
    }

    /// Stops a run, unless it has ended.
    pub fn ban(&mut self, id: i64) -> Result<(), Denied> {
        let run = self.runs.iter_mut().find(|it| it.order.id == id);
        let run = run.ok_or_else(|| Denied::new(404, "Agent run not found"))?;
        if self.deaf_bans > 0 {
            self.deaf_bans -= 1;
        } else if matches!(run.status, Status::Pending | Status::Active) {
            run.status = Status::Cancelled;
        }
        Ok(())
    }

    /// Lets the runs go on to this moment: those that end do what they do.
    pub fn tick(&mut self, now: Timestamp, github: &mut GitHub) {
        for run in &mut self.runs {
            let begins = run.turn_at + run.part.wait;
            if run.status == Status::Pending && now >= begins {
                run.status = Status::Active;
            }
            let ends = begins + run.part.work;
            if run.status == Status::Active && now >= ends && run.part.deed != Deed::Hang {
                // As of when it ended, however late that is looked at.
                run.end(ends, github);
            }
        }
    }

    /// Every run there ever was, oldest first.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// How many turns of runs carry each key of ours.
    pub fn runs_per_key(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for key in self.runs.iter().flat_map(|it| it.order.keys()) {
            *counts.entry(key.to_owned()).or_default() += 1;
        }
        counts
    }

    /// What must hold whatever callers do, or a sentence that says what does not:
    /// no key has two runs, or two turns of one.
    pub fn check(&self) -> Result<(), String> {
        match self
            .runs_per_key()
            .into_iter()
            .find(|(_, count)| *count > 1)
        {
            Some((key, count)) => Err(format!("the key `{key}` was given {count} times")),
            None => Ok(()),
        }
    }

    fn admit_read(&mut self, now: Timestamp) -> Result<(), Denied> {
        let span = SignedDuration::from_secs(30);
        match self.reads_max {
            Some(max) if !admit(&mut self.reads, max, span, now) => {
                Err(Denied::new(429, "Rate limit exceeded"))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Run {
    /// The run as a read tells it.
    fn as_read(&self, stale: SignedDuration, now: Timestamp) -> Self {
        let mut run = self.clone();
        if let Some((status, result)) = &self.before
            && now.duration_since(self.turn_at) < stale
        {
            (run.status, run.result) = (*status, result.clone());
        }
        run
    }

    fn end(&mut self, at: Timestamp, github: &mut GitHub) {
        match self.part.deed.clone() {
            Deed::Change { files } => match self.deliver(files, at, github) {
                Ok(text) => {
                    self.status = Status::Complete;
                    self.result = Some(text);
                }
                Err(error) => {
                    self.status = Status::Failed("ERROR");
                    self.result = Some(format!("could not deliver: {error}"));
                }
            },
            Deed::Say(text) => {
                self.status = Status::Complete;
                self.result = Some(text);
            }
            Deed::Fail { status, text } => {
                self.status = Status::Failed(status);
                self.result = Some(text);
            }
            Deed::Hang => {}
        }
    }

    /// Does what the prompt asks an agent to do with its change; answers its words.
    fn deliver(
        &mut self,
        files: Vec<(String, String)>,
        at: Timestamp,
        github: &mut GitHub,
    ) -> Result<String, String> {
        let order = &self.order;
        let slug = order
            .repository
            .as_deref()
            .ok_or("no repository was given")?;
        let branch = order
            .branch()
            .map_or_else(|| format!("codegen-bot/{}", order.id), str::to_owned);
        let base = order.base();
        let title = format!("Task {}", order.task());
        let change = Change {
            message: title.clone(),
            files,
        };
        github
            .push(slug, &branch, base, &change, at)
            .map_err(|it| it.to_string())?;
        if let Some((url, ..)) = &self.pull {
            return Ok(format!("I have pushed to {url} ({}).", order.turn()));
        }
        let marker = order.marker().unwrap_or_default();
        let new = NewPull {
            head: branch.clone(),
            base: base.to_owned(),
            title: title.clone(),
            body: format!("Made by an agent.\n\n{marker}"),
            draft: false,
        };
        let number = github
            .open_pull(slug, &new, at)
            .map_err(|it| it.errors.join(", "))?;
        let url = format!("https://github.com/{slug}/pull/{number}");
        let text = format!("I have opened {url}.");
        self.pull = Some((url, title, branch));
        Ok(text)
    }

    /// The status as the service spells it.
    pub fn word(&self, case: Case) -> String {
        let lower = match case {
            Case::Upper => false,
            Case::Lower => true,
            Case::Mixed => self.order.id % 2 == 0,
        };
        let word = match self.status {
            Status::Pending => "PENDING",
            Status::Active => "ACTIVE",
            Status::Complete if lower => "completed",
            Status::Complete => "COMPLETE",
            Status::Cancelled => "CANCELLED",
            Status::Failed(word) => word,
        };
        if lower {
            word.to_lowercase()
        } else {
            word.to_owned()
        }
    }
}

impl Order {
    /// Our idempotency key.
    pub fn key(&self) -> Option<&str> {
        self.metadata["cyrus_key"].as_str()
    }

    /// The keys of its turns.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        let later = self.follow_ups.iter().filter_map(|it| {
            let (_, rest) = it.rsplit_once(KEY_MARK)?;
            rest.split(' ').next()
        });
        self.key().into_iter().chain(later)
    }

    /// Which turn it is in, from 1.
    pub fn turn(&self) -> usize {
        self.follow_ups.len() + 1
    }

    /// The task that the run is for.
    pub fn task(&self) -> &str {
        self.metadata["task"].as_str().unwrap_or_default()
    }

    /// The branch that the prompt names.
    pub fn branch(&self) -> Option<&str> {
        self.line("Branch:")
    }

    /// The base branch that the prompt names.
    pub fn base(&self) -> &str {
        self.line("Base branch:").unwrap_or("main")
    }

    /// The mark that the prompt wants in the pull request.
    pub fn marker(&self) -> Option<&str> {
        let from = self.prompt.find("<!-- cyrus:")?;
        let rest = &self.prompt[from..];
        Some(&rest[..rest.find("-->")? + "-->".len()])
    }

    fn line(&self, name: &str) -> Option<&str> {
        self.prompt.lines().find_map(|line| {
            let line = line.trim_start_matches(['-', '*', ' ']);
            let value = line.strip_prefix(name)?.trim().trim_matches('`');
            (!value.is_empty()).then_some(value)
        })
    }
}

impl Part {
    fn first_status(&self) -> Status {
        if self.wait.is_zero() {
            Status::Active
        } else {
            Status::Pending
        }
    }

    /// Works for so long and then changes one file.
    pub fn change(work: SignedDuration, path: &str, content: &str) -> Self {
        let files = vec![(path.to_owned(), content.to_owned())];
        Self {
            wait: SignedDuration::ZERO,
            work,
            deed: Deed::Change { files },
        }
    }
}

impl Denied {
    fn new(status: u16, message: &str) -> Self {
        Self {
            status,
            message: message.into(),
        }
    }
}

/// A sliding window: is one more call within the limit?
fn admit(
    calls: &mut VecDeque<Timestamp>,
    max: usize,
    span: SignedDuration,
    now: Timestamp,
) -> bool {
    calls.retain(|it| now.duration_since(*it) < span);
    if calls.len() >= max {
        return false;
    }
    calls.push_back(now);
    true
}
