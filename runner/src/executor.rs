//! The local executor: accepts jobs, lets as many work at once as there are
//! slots, and tells how they stand. What a job's work is, `work` says.
//!
//! A job is accepted when it is on the disk; from then on a crash only delays
//! it. The key of the job is the run.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use jiff::SignedDuration;
use shared::issue::{
    Ending, ExecutorKind, Failure, FailureClass, Fault, IssueId, RunId, Sight, Time,
};
use shared::ports::{Clock, Executor, Health, Job, Message, Publisher, Settlement, Started, Told};
use tokio::sync::watch;

use crate::environment::AgentEnv;
use crate::folder::{Accepted, Folder, MESSAGES_BYTES_MAX, MESSAGES_MAX, Unkept};
use crate::kept::{forget, known};
use crate::work::{Mail, Places, Shop, Watcher, tidy, told, work};
use crate::worktree::Git;

/// How often old jobs are looked for.
const FORGET_EVERY: SignedDuration = SignedDuration::from_hours(1);

/// What the executor works with.
#[derive(Clone)]
pub struct Options {
    /// `CYRUS_HOME`: jobs are kept in `jobs` beneath it.
    pub home: PathBuf,
    /// How many jobs work at once.
    pub concurrency: usize,
    /// The command line that calls [`crate::supervise`] with the folder that
    /// is appended to it.
    pub supervisor: Vec<OsString>,
    /// Runs in every new worktree, before its repository's own `cyrus-setup.sh`.
    pub setup_script: Option<PathBuf>,
    /// Worktrees stay when their jobs have ended.
    pub keep: bool,
    /// The agent programs by what jobs call them: a path, or a name to be found
    /// on the agents' `PATH`; see [`crate::programs`].
    pub agents: BTreeMap<String, PathBuf>,
    /// All that agents get as their environment; see [`crate::agent_env`].
    pub agent_env: AgentEnv,
    /// All that our own git calls get; see [`crate::git_env`].
    pub git_env: BTreeMap<String, String>,
    /// Where pull requests are opened.
    pub forge: Arc<dyn Publisher>,
    pub clock: Arc<dyn Clock>,
    /// Told when a run of this issue has begun or ended, and when its worktree was
    /// cleared away.
    pub wake: Arc<dyn Fn(IssueId) + Send + Sync>,
}

/// Says whether what a job brought is still wanted. Asked right before the push.
#[async_trait]
pub trait Tenure: Send + Sync {
    async fn holds(&self, key: &str) -> bool;
}

/// Of jobs that nobody else can have.
struct ForEver;

#[async_trait]
impl Tenure for ForEver {
    async fn holds(&self, _: &str) -> bool {
        true
    }
}

/// What git knows of a change that was delivered.
pub(crate) struct Made {
    pub(crate) sha: String,
    pub(crate) files: Vec<String>,
}

/// Runs agents on this machine. Cheap to clone; needs a tokio runtime.
#[derive(Clone)]
pub struct LocalExecutor {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: PathBuf,
    concurrency: usize,
    shop: Shop,
    clock: Arc<dyn Clock>,
    wake: Arc<dyn Fn(IssueId) + Send + Sync>,
    /// Held while a job is accepted, so that no key is accepted twice.
    accepting: tokio::sync::Mutex<()>,
    bench: Mutex<Bench>,
    /// When old jobs were last looked for.
    forgot_at: Mutex<Option<Time>>,
}

/// The jobs that have not ended.
#[derive(Default)]
struct Bench {
    live: BTreeMap<String, Live>,
    /// In the order in which they will begin.
    waiting: VecDeque<String>,
    working: usize,
}

struct Live {
    job: Arc<Job>,
    stop: watch::Sender<bool>,
    stage: Stage,
    mail: Arc<Mail>,
    watcher: Arc<Mutex<Watcher>>,
}

#[derive(Clone)]
enum Stage {
    Waiting,
    Working,
    /// Ended, but that could not be written down.
    Unwritten(Ending),
}

impl LocalExecutor {
    pub fn new(options: Options) -> Self {
        Self::under(options, Arc::new(ForEver))
    }

    /// One whose jobs are its own only as long as `tenure` says so.
    pub fn under(options: Options, tenure: Arc<dyn Tenure>) -> Self {
        let shop = Shop {
            git: Git::new(options.git_env),
            agents: options.agents,
            agent_env: options.agent_env,
            supervisor: options.supervisor,
            setup_script: options.setup_script,
            keep: options.keep,
            forge: options.forge,
            tenure,
            clock: Arc::clone(&options.clock),
            worktrees: options.home.join("worktrees"),
            places: Places::default(),
        };
        let inner = Inner {
            jobs: options.home.join("jobs"),
            concurrency: options.concurrency,
            shop,
            clock: options.clock,
            wake: options.wake,
            accepting: tokio::sync::Mutex::default(),
            bench: Mutex::default(),
            forgot_at: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Takes up every job that has not ended; how many. To be called once,
    /// before any other.
    pub async fn resume(&self) -> io::Result<usize> {
        let mut begun = Vec::new();
        let mut fresh = Vec::new();
        let mut ended = Vec::new();
        for (folder, accepted) in known(&self.inner.jobs)? {
            let stands = || Ok::<_, io::Error>((folder.result()?.is_some(), folder.site()?));
            match stands() {
                Ok((true, _)) => ended.push((folder, accepted)),
                Ok((false, Some(_))) => begun.push(accepted),
                Ok((false, None)) => fresh.push(accepted),
                Err(error) => {
                    tracing::error!(%error, key = accepted.job.key, "a job's folder is unreadable");
                }
            }
        }
        fresh.sort_by_key(|it| it.at);
        self.inner.know_places(&begun, &mut ended);
        let count = begun.len() + fresh.len();
        {
            let mut bench = self.inner.bench();
            for accepted in begun {
                let key = bench.add(&self.inner.jobs, accepted.job);
                // It has had its slot, and its agent may be at work.
                self.inner.begin(&mut bench, &key);
            }
            for accepted in fresh {
                let key = bench.add(&self.inner.jobs, accepted.job);
                bench.waiting.push_back(key);
            }
            self.inner.fill(&mut bench);
        }
        // A script may have its say before a worktree goes: nobody waits for that.
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            for (folder, accepted) in ended {
                inner.clear(&folder, &accepted.job).await;
            }
        });
        Ok(count)
    }
}

impl LocalExecutor {
    /// Was this job ever accepted, and is it not forgotten yet?
    pub(crate) fn knows(&self, key: &str) -> bool {
        let folder = Folder::of(&self.inner.jobs, key);
        // One that cannot be read is one.
        folder.is_some_and(|it| it.accepted().map_or(true, |it| it.is_some()))
    }

    /// What a job that ended with a pull request has changed, as the clone tells.
    pub(crate) async fn made(&self, key: &str) -> Option<Made> {
        let folder = Folder::of(&self.inner.jobs, key)?;
        let accepted = folder.accepted().ok()??;
        let site = folder.site().ok()??;
        let sha = folder.pushed().ok()??;
        let git = &self.inner.shop.git;
        let files = git.changed(&accepted.job.repository, &site.base_sha, &sha);
        let files = files.await.ok()?;
        Some(Made { sha, files })
    }

    /// The jobs that are not over, without these.
    pub(crate) fn others_than(&self, keys: &[String]) -> Vec<RunId> {
        let bench = self.inner.bench();
        let others = bench.live.keys().filter(|it| !keys.contains(it));
        others.map(|it| RunId(it.clone())).collect()
    }
}

/// What is known of a run that works.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// The latest thing that it did, one short line.
    pub note: Option<String>,
    /// The agent's session.
    pub session: Option<String>,
    /// USD; what it has not said itself is estimated by its tokens.
    pub cost_usd: Option<f64>,
}

impl LocalExecutor {
    /// How a run comes along; reads only what is new of its output. `None`: its
    /// agent has not begun, or it has ended.
    pub fn progress(&self, key: &str) -> Option<Progress> {
        let folder = Folder::of(&self.inner.jobs, key)?;
        let watcher = Arc::clone(&self.inner.bench().live.get(key)?.watcher);
        let mut watcher = watcher.lock().unwrap_or_else(PoisonError::into_inner);
        match watcher.look(&folder) {
            Ok(progress) => progress,
            Err(error) => {
                tracing::warn!(%error, key, "the output of a job cannot be read");
                None
            }
        }
    }
}

#[async_trait]
impl Executor for LocalExecutor {
    fn kind(&self) -> ExecutorKind {
        ExecutorKind::Local
    }

    async fn start(&self, job: &Job) -> Result<Started, Fault> {
        let inner = &self.inner;
        if inner.concurrency == 0 {
            return Err(invalid(
                "the local runner has no slot: set `runner.concurrency` above 0",
            ));
        }
        let folder = inner.folder(&job.key)?;
        let _one_at_a_time = inner.accepting.lock().await;
        if inner.accepted(&folder)? {
            return Ok(inner.started(&job.key));
        }
        let accepted = Accepted {
            at: inner.clock.now(),
            job: job.clone(),
        };
        tokio::task::spawn_blocking(move || folder.accept(&accepted))
            .await
            .map_err(io::Error::other)
            .flatten()
            // It may be on the disk, and then a restart would take it up.
            .map_err(|error| Fault::Ambiguous {
                why: format!("the job was not kept: {error}"),
            })?;
        {
            let mut bench = inner.bench();
            let key = bench.add(&inner.jobs, job.clone());
            bench.waiting.push_back(key);
            inner.fill(&mut bench);
        }
        Ok(inner.started(&job.key))
    }

    async fn settle(&self, job: &Job) -> Result<Settlement, Fault> {
        let folder = self.inner.folder(&job.key)?;
        let _one_at_a_time = self.inner.accepting.lock().await;
        Ok(if self.inner.accepted(&folder)? {
            Settlement::Found(self.inner.started(&job.key))
        } else {
            Settlement::Absent { certain: true }
        })
    }

    async fn observe(&self, runs: &[RunId]) -> Vec<Result<Sight, Fault>> {
        runs.iter().map(|run| self.inner.sight(&run.0)).collect()
    }

    async fn stop(&self, run: &RunId) -> Result<(), Fault> {
        let Some(folder) = Folder::of(&self.inner.jobs, &run.0) else {
            return Ok(());
        };
        if !self.inner.accepted(&folder)? || folder.result().is_ok_and(|it| it.is_some()) {
            return Ok(());
        }
        folder.ask_to_stop().map_err(|error| transient(&error))?;
        let mut bench = self.inner.bench();
        if let Some(live) = bench.live.get(&run.0) {
            live.stop.send_replace(true);
        }
        // Nobody should wait for a slot only to be told that he is not wanted.
        if let Some(at) = bench.waiting.iter().position(|it| *it == run.0) {
            bench.waiting.remove(at);
            self.inner.begin(&mut bench, &run.0);
        }
        Ok(())
    }

    async fn tell(&self, run: &RunId, message: &Message) -> Result<Told, Fault> {
        let live = self
            .inner
            .bench()
            .live
            .get(&run.0)
            .map(|it| Arc::clone(&it.mail));
        let Some(mail) = live else {
            return self.inner.late(&run.0, message);
        };
        let message = message.clone();
        let put = tokio::task::spawn_blocking(move || mail.put(&message)).await;
        match put.map_err(|error| transient(&io::Error::other(error)))? {
            Ok(told) => Ok(told),
            Err(Unkept::Full) => Err(invalid(&format!(
                "a run takes {MESSAGES_MAX} messages of {MESSAGES_BYTES_MAX} bytes together"
            ))),
            Err(Unkept::Disk(error)) => Err(transient(&error)),
        }
    }

    async fn health(&self) -> Health {
        let bench = self.inner.bench();
        let taken = bench.working + bench.waiting.len();
        Health {
            down: None,
            slots_free: Some(self.inner.concurrency.saturating_sub(taken)),
        }
    }
}

impl Inner {
    /// Who has which worktree: of several that had one, whoever works, else the last.
    fn know_places(&self, begun: &[Accepted], ended: &mut [(Folder, Accepted)]) {
        ended.sort_by_key(|(_, it)| std::cmp::Reverse(it.at));
        let ended = ended.iter().map(|(_, it)| it);
        for Accepted { job, .. } in begun.iter().chain(ended) {
            let site = Folder::of(&self.jobs, &job.key).and_then(|it| it.site().ok()?);
            if let Some(site) = site.filter(|it| it.worktree.exists()) {
                self.shop.places.claim(&site.worktree, &job.key);
            }
        }
    }

    /// For a job that has ended, or is not taken up yet.
    fn late(&self, key: &str, message: &Message) -> Result<Told, Fault> {
        let Some(folder) = Folder::of(&self.jobs, key) else {
            return Ok(Told::TooLate);
        };
        let ended = folder
            .result()
            .map_err(|error| transient(&error))?
            .is_some();
        if !ended && self.accepted(&folder)? {
            return Err(Fault::Transient {
                why: "the job is not taken up yet".into(),
            });
        }
        told(&folder, message).map_err(|error| transient(&error))
    }

    fn folder(&self, key: &str) -> Result<Folder, Fault> {
        Folder::of(&self.jobs, key)
            .ok_or_else(|| invalid(&format!("`{key}` is not a key that a job can have")))
    }

    fn accepted(&self, folder: &Folder) -> Result<bool, Fault> {
        folder
            .accepted()
            .map(|it| it.is_some())
            .map_err(|error| transient(&error))
    }

    fn started(&self, key: &str) -> Started {
        let waits = self
            .bench()
            .live
            .get(key)
            .is_some_and(|it| matches!(it.stage, Stage::Waiting));
        Started {
            run: RunId(key.to_owned()),
            url: None,
            begun: !waits,
        }
    }

    fn sight(&self, key: &str) -> Result<Sight, Fault> {
        match self.bench().live.get(key).map(|it| it.stage.clone()) {
            Some(Stage::Waiting) => return Ok(Sight::Waiting),
            Some(Stage::Working) => return Ok(Sight::Working),
            Some(Stage::Unwritten(ending)) => return Ok(Sight::Ended(ending)),
            None => {}
        }
        let Some(folder) = Folder::of(&self.jobs, key) else {
            return Ok(Sight::Gone);
        };
        if let Some(ending) = folder.result().map_err(|error| transient(&error))? {
            return Ok(Sight::Ended(ending));
        }
        // Known, but not taken up yet.
        Ok(if self.accepted(&folder)? {
            Sight::Waiting
        } else {
            Sight::Gone
        })
    }

    /// Lets those begin for whom there is a slot.
    fn fill(self: &Arc<Self>, bench: &mut Bench) {
        while bench.working < self.concurrency
            && let Some(key) = bench.waiting.pop_front()
        {
            self.begin(bench, &key);
        }
    }

    fn begin(self: &Arc<Self>, bench: &mut Bench, key: &str) {
        let Some(live) = bench.live.get_mut(key) else {
            return;
        };
        live.stage = Stage::Working;
        let (job, stop) = (Arc::clone(&live.job), live.stop.subscribe());
        let mail = Arc::clone(&live.mail);
        bench.working += 1;
        let inner = Arc::clone(self);
        tokio::spawn(async move { inner.run(job, mail, stop).await });
    }

    async fn run(self: Arc<Self>, job: Arc<Job>, mail: Arc<Mail>, stop: watch::Receiver<bool>) {
        let Some(folder) = Folder::of(&self.jobs, &job.key) else {
            return;
        };
        (self.wake)(job.issue.clone());
        let working = {
            let (inner, folder, job) = (Arc::clone(&self), folder.clone(), Arc::clone(&job));
            let mail = Arc::clone(&mail);
            tokio::spawn(async move { work(&inner.shop, &folder, &job, &mail, &stop).await })
        };
        let worked = working.await;
        mail.close();
        let ending = match worked {
            Ok(ending) => ending,
            Err(error) if error.is_panic() => {
                let message = "the runner broke at this job".to_owned();
                Ending {
                    result: Err(Failure {
                        class: FailureClass::Lost,
                        message,
                    }),
                    cost_usd: None,
                    cost_is_estimate: false,
                }
            }
            // The runtime ends: the next one takes it up.
            Err(_) => return,
        };
        let written = folder.set_result(&ending);
        {
            let mut bench = self.bench();
            match &written {
                Ok(()) => drop(bench.live.remove(&job.key)),
                Err(_) => {
                    if let Some(live) = bench.live.get_mut(&job.key) {
                        live.stage = Stage::Unwritten(ending);
                    }
                }
            }
            bench.working -= 1;
            self.fill(&mut bench);
        }
        (self.wake)(job.issue.clone());
        match written {
            Ok(()) => self.clear(&folder, &job).await,
            Err(error) => {
                tracing::error!(%error, key = job.key, "the end of a job could not be written");
            }
        }
    }

    /// Tidies up after a job that has ended, and forgets those that are old.
    async fn clear(self: &Arc<Self>, folder: &Folder, job: &Job) {
        let there = |it: &Folder| {
            let site = it.site().ok().flatten();
            site.is_some_and(|it| it.worktree.exists())
        };
        let was_there = there(folder);
        if let Err(error) = tidy(&self.shop, folder, job).await {
            tracing::warn!(%error, key = job.key, "a job could not be tidied up");
        }
        if was_there && !there(folder) {
            (self.wake)(job.issue.clone());
        }
        let now = self.clock.now();
        {
            let last = self.forgot_at.lock();
            let mut last = last.unwrap_or_else(PoisonError::into_inner);
            if last.is_some_and(|it| now.duration_since(it) < FORGET_EVERY) {
                return;
            }
            *last = Some(now);
        }
        let inner = Arc::clone(self);
        let forgotten =
            tokio::task::spawn_blocking(move || forget(&inner.jobs, inner.shop.keep, now));
        if let Ok(Err(error)) = forgotten.await {
            tracing::warn!(%error, "old jobs could not be removed");
        }
    }

    fn bench(&self) -> MutexGuard<'_, Bench> {
        self.bench.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bench {
    fn add(&mut self, jobs: &Path, job: Job) -> String {
        let key = job.key.clone();
        let live = Live {
            mail: Arc::new(Mail::new(Folder::at(&jobs.join(&key)))),
            watcher: Arc::default(),
            job: Arc::new(job),
            stop: watch::Sender::new(false),
            stage: Stage::Waiting,
        };
        self.live.insert(key.clone(), live);
        key
    }
}

fn invalid(why: &str) -> Fault {
    Fault::Permanent {
        class: FailureClass::Invalid,
        why: why.to_owned(),
    }
}

fn transient(error: &io::Error) -> Fault {
    Fault::Transient {
        why: format!("the runner's folder cannot be used: {error}"),
    }
}
