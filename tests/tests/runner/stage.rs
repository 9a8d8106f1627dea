//! A queue on a store, with a clock that stands still until it is moved, and
//! registers that can be told to fail.

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use shared::issue::{
    AgentPolicy, Ending, ExecutorKind, Fault, Repository, RunId, Sight, TaskKind, Time,
};
use shared::ports::{AppendError, Clock, Executor, Job, Register, RegisterWrite, Registers};
use shared::runner::FarRunners;
use shared::runner::document::{HeartbeatDoc, JobDoc, LeaseAsk, Outcome, ResultDoc};
use shared::runner::push::Push;
use shared::runner::queue::{Heartbeat, Report};
use shared::store::dynamo::DynamoLog;
use shared::store::memory::MemoryLog;
use shared::store::sqlite::SqliteLog;
use world::dynamo::{Emulator, create_table};

use crate::common::Hands;

/// Where runners reach us.
pub(crate) const HERE: &str = "https://cyrus.example";
/// A lease lasts three of them.
pub(crate) const HEARTBEAT: i64 = 30;
pub(crate) const LEASE: i64 = 3 * HEARTBEAT;

/// How a write fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Loss {
    /// It was not made.
    Request,
    /// It was made.
    Reply,
}

/// Registers whose next write to a shelf may fail.
pub(crate) struct Shaky {
    inner: Arc<dyn Registers>,
    next: Mutex<Option<(&'static str, Loss)>>,
}

impl Shaky {
    pub(crate) fn lose(&self, shelf: &'static str, loss: Loss) {
        *self.next.lock().expect("no poison") = Some((shelf, loss));
    }

    fn loss(&self, shelf: &str) -> Option<Loss> {
        let mut next = self.next.lock().expect("no poison");
        next.take_if(|it| it.0 == shelf).map(|it| it.1)
    }
}

#[async_trait]
impl Registers for Shaky {
    async fn get(&self, shelf: &str, name: &str, now: Time) -> anyhow::Result<Option<Register>> {
        self.inner.get(shelf, name, now).await
    }

    async fn list(&self, shelf: &str, now: Time) -> anyhow::Result<Vec<Register>> {
        self.inner.list(shelf, now).await
    }

    async fn put(&self, write: RegisterWrite, seen: u64, now: Time) -> Result<(), AppendError> {
        match self.loss(&write.shelf) {
            Some(Loss::Request) => return Err(anyhow::anyhow!("the request was lost").into()),
            Some(Loss::Reply) => {
                self.inner.put(write, seen, now).await?;
                return Err(anyhow::anyhow!("the reply was lost").into());
            }
            None => {}
        }
        self.inner.put(write, seen, now).await
    }
}

pub(crate) struct Stage {
    pub(crate) queue: Arc<FarRunners>,
    pub(crate) registers: Arc<Shaky>,
    pub(crate) clock: Hands,
    _kept: Box<dyn Any + Send>,
}

impl Stage {
    fn on(registers: Arc<dyn Registers>, kept: impl Any + Send) -> Self {
        Self::made(registers, kept, |queue| queue)
    }

    /// On a store in memory, with a queue that pushes.
    pub(crate) fn pushing(push: Push) -> Self {
        Self::made(Arc::new(MemoryLog::default()), (), |it| it.pushing(push))
    }

    fn made(
        registers: Arc<dyn Registers>,
        kept: impl Any + Send,
        with: impl FnOnce(FarRunners) -> FarRunners,
    ) -> Self {
        let clock = Hands::new();
        let registers = Arc::new(Shaky {
            inner: registers,
            next: Mutex::default(),
        });
        let queue = FarRunners::new(
            Arc::clone(&registers) as Arc<dyn Registers>,
            Arc::new(clock.clone()),
            Duration::from_secs(HEARTBEAT.cast_unsigned()),
        );
        Self {
            queue: Arc::new(with(queue)),
            registers,
            clock,
            _kept: Box::new(kept),
        }
    }

    pub(crate) fn memory() -> Self {
        Self::on(Arc::new(MemoryLog::default()), ())
    }

    pub(crate) fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteLog::open(&folder.path().join("cyrus.db")).expect("a new store");
        Self::on(Arc::new(store), folder)
    }

    pub(crate) async fn dynamo() -> Self {
        let emulator = Emulator::start().expect("an emulator");
        let client = emulator.client();
        create_table(&client, "cyrus").await.expect("a table");
        Self::on(Arc::new(DynamoLog::new(&client, "cyrus")), emulator)
    }

    pub(crate) fn now(&self) -> Time {
        self.clock.now()
    }

    pub(crate) async fn start(&self, key: &str) -> bool {
        let started = self.queue.start(&job(key)).await.expect("accepted");
        assert_eq!((started.run.0.as_str(), started.url), (key, None));
        started.begun
    }

    pub(crate) async fn sight(&self, key: &str) -> Sight {
        let sights = self.queue.observe(&[key.into()]).await;
        sights[0].clone().expect("a sight")
    }

    pub(crate) async fn ended(&self, key: &str) -> Ending {
        match self.sight(key).await {
            Sight::Ended(ending) => ending,
            other => panic!("{key} has not ended: {other:?}"),
        }
    }

    pub(crate) async fn stop(&self, key: &str) {
        self.queue.stop(&RunId::from(key)).await.expect("stopped");
    }

    pub(crate) async fn lease(&self, runner: &str) -> Vec<JobDoc> {
        self.queue
            .lease(&ask(runner, 1), HERE)
            .await
            .expect("an answer")
    }

    /// The only job there is, in this runner's hands.
    pub(crate) async fn lease_one(&self, runner: &str) -> JobDoc {
        let mut jobs = self.lease(runner).await;
        assert_eq!(jobs.len(), 1);
        jobs.remove(0)
    }

    pub(crate) async fn beat(&self, runner: &str, job: &JobDoc, usd: Option<f64>) -> Heartbeat {
        let beat = HeartbeatDoc {
            runner: runner.into(),
            fence: job.fence,
            cost_usd: usd,
            note: None,
            session: None,
            heard: None,
        };
        self.queue
            .heartbeat(&job.job, &beat)
            .await
            .expect("an answer")
    }

    pub(crate) async fn report(&self, runner: &str, job: &JobDoc) -> Report {
        let result = result(runner, job.fence);
        self.queue
            .result(&job.job, &result)
            .await
            .expect("an answer")
    }

    /// All that is kept of a job.
    pub(crate) async fn registers_of(&self, key: &str) -> Vec<Option<Register>> {
        let mut kept = Vec::new();
        for shelf in ["jobs", "orders", "results"] {
            let register = self.registers.get(shelf, key, self.now()).await;
            kept.push(register.expect("read"));
        }
        kept
    }

    /// The names on a shelf.
    pub(crate) async fn shelf(&self, shelf: &str) -> Vec<String> {
        let registers = self
            .registers
            .list(shelf, self.now())
            .await
            .expect("a list");
        registers.into_iter().map(|it| it.name).collect()
    }
}

pub(crate) fn ask(runner: &str, slots_free: usize) -> LeaseAsk {
    LeaseAsk {
        runner: runner.into(),
        slots_free,
        repositories: vec!["other".into(), "app".into()],
        agents: vec!["claude".into()],
        wait_seconds: 0,
    }
}

pub(crate) fn result(runner: &str, fence: u64) -> ResultDoc {
    ResultDoc {
        runner: runner.into(),
        fence,
        outcome: Outcome::Succeeded,
        class: None,
        text: "All done.".into(),
        answer: None,
        branch: Some("cyrus/eng-1/api".into()),
        head_sha: Some("5e1c".into()),
        pr_url: Some("https://forge.example/o/r/pull/1".into()),
        changed_files: Some(vec!["api.rs".into()]),
        cost_usd: Some(0.25),
        cost_is_estimate: false,
        session: None,
        unheard: false,
        heard: None,
    }
}

pub(crate) fn job(key: &str) -> Job {
    Job {
        key: key.into(),
        issue: "5e1c".into(),
        identifier: "ENG-1".into(),
        issue_title: "An issue".into(),
        issue_url: "https://linear.example/ENG-1".into(),
        task: "api".into(),
        kind: TaskKind::Builder,
        title: "Say hello".into(),
        prompt: "Task: api\n\nSay hello.\n".into(),
        answer_schema: None,
        repository: Repository {
            id: "app".into(),
            path: "/srv/app".into(),
            workspace_dir: String::new(),
            base_branch: "main".into(),
            slug: "o/r".into(),
        },
        branch: "cyrus/eng-1/api".into(),
        agent: AgentPolicy {
            model: Some("opus".into()),
            allowed_tools: vec!["Read".into()],
            append_instruction: Some("Be kind.".into()),
            ..AgentPolicy::default()
        },
        cost_max: Some(1.0),
        seconds_max: 7_200,
        patience_seconds: None,
        commit: None,
        commands: Vec::new(),
        repair: None,
    }
}

pub(crate) fn ambiguous<T: std::fmt::Debug>(answer: &Result<T, Fault>) -> bool {
    matches!(answer, Err(Fault::Ambiguous { .. }))
}

pub(crate) fn local() -> ExecutorKind {
    ExecutorKind::Local
}

/// Each claim as a test on each store.
#[macro_export]
macro_rules! on_every_store {
    ($($claim:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $claim() {
                super::$claim($crate::stage::Stage::memory()).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")] async fn $claim() {
                super::$claim($crate::stage::Stage::sqlite()).await;
            })*
        }
        mod dynamo {
            $(#[tokio::test(flavor = "multi_thread")] async fn $claim() {
                super::$claim($crate::stage::Stage::dynamo().await).await;
            })*
        }
    };
}
