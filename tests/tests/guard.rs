//! The rate and the circuit breaker of an executor, which all copies of us keep
//! together because they lie in registers.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::poll;
use shared::guard::{Guarded, Rate};
use shared::issue::{ExecutorKind, FailureClass, Fault, IssueId, RunId, Sight, TaskKind, Time};
use shared::ports::{Clock, Executor, Job, Settlement, Started};
use shared::store::memory::MemoryLog;

/// An executor that does as it is told, and counts.
struct Scripted {
    answer: Mutex<Option<Fault>>,
    started: AtomicI64,
    hangs: AtomicBool,
}

/// A clock that stands until it is moved.
struct Stopped(AtomicI64);

impl Clock for Stopped {
    fn now(&self) -> Time {
        Time::from_second(self.0.load(Ordering::SeqCst)).expect("a moment")
    }
}

#[async_trait]
impl Executor for Scripted {
    fn kind(&self) -> ExecutorKind {
        ExecutorKind::Codegen
    }

    async fn start(&self, job: &Job) -> Result<Started, Fault> {
        self.started.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        match self.answer.lock().expect("one thread").clone() {
            Some(fault) => Err(fault),
            None => Ok(Started {
                run: job.key.as_str().into(),
                url: None,
                begun: true,
            }),
        }
    }

    async fn settle(&self, _: &Job) -> Result<Settlement, Fault> {
        Ok(Settlement::Absent { certain: true })
    }

    async fn observe(&self, runs: &[RunId]) -> Vec<Result<Sight, Fault>> {
        runs.iter().map(|_| Ok(Sight::Working)).collect()
    }

    async fn stop(&self, _: &RunId) -> Result<(), Fault> {
        Ok(())
    }
}

struct Scene {
    executor: Arc<Scripted>,
    clock: Arc<Stopped>,
    /// Two copies of us, as in two functions.
    copies: [Arc<Guarded>; 2],
}

impl Scene {
    fn new() -> Self {
        let executor = Arc::new(Scripted {
            answer: Mutex::new(None),
            started: AtomicI64::new(0),
            hangs: AtomicBool::new(false),
        });
        let clock = Arc::new(Stopped(AtomicI64::new(1_000_000)));
        let registers = Arc::new(MemoryLog::default());
        let copy = || {
            let rate = Rate {
                starts: 10,
                seconds: 60,
            };
            let (executor, clock) = (Arc::clone(&executor), Arc::clone(&clock));
            Arc::new(Guarded::new(executor, rate, registers.clone(), clock))
        };
        let copies = [copy(), copy()];
        Self {
            executor,
            clock,
            copies,
        }
    }

    fn later(&self, seconds: i64) {
        self.clock.0.fetch_add(seconds, Ordering::SeqCst);
    }

    fn answer(&self, fault: Option<Fault>) {
        *self.executor.answer.lock().expect("one thread") = fault;
    }

    fn started(&self) -> i64 {
        self.executor.started.load(Ordering::SeqCst)
    }

    async fn start(&self, copy: usize) -> Result<Started, Fault> {
        self.copies[copy].start(&job()).await
    }

    /// The seconds for which a start is refused.
    async fn refused(&self, copy: usize) -> Option<u32> {
        let before = self.started();
        let answer = self.start(copy).await;
        match answer {
            Err(Fault::Busy {
                retry_after_seconds,
                ..
            }) => {
                assert_eq!(self.started(), before, "it was not even asked");
                retry_after_seconds
            }
            other => panic!("it was not refused: {other:?}"),
        }
    }
}

fn job() -> Job {
    Job {
        key: "key".into(),
        issue: IssueId::from("issue"),
        identifier: "ENG-1".into(),
        issue_title: String::new(),
        issue_url: String::new(),
        task: "main".into(),
        kind: TaskKind::Builder,
        title: String::new(),
        prompt: String::new(),
        answer_schema: None,
        repository: Default::default(),
        branch: String::new(),
        agent: Default::default(),
        cost_max: None,
        seconds_max: 60,
        patience_seconds: None,
    }
}

fn down() -> Option<Fault> {
    Some(Fault::Transient {
        why: "no connection".into(),
    })
}

#[tokio::test]
async fn no_window_ever_sees_more_starts_than_the_rate() {
    let scene = Scene::new();
    let mut times: Vec<i64> = Vec::new();
    for _ in 0..60 {
        let tries = (0..8).map(|it| scene.start(it % 2));
        let made = join_all(tries).await.into_iter().filter(Result::is_ok);
        let now = scene.clock.now().as_second();
        times.extend(made.map(|_| now));
        scene.later(7);
    }
    for first in &times {
        let window = times.iter().filter(|it| (*first..first + 60).contains(it));
        assert!(window.count() <= 10, "{times:?}");
    }
    // And none of it is given away: ten at once, and ten in each minute after.
    assert!(times.len() >= 70, "{}", times.len());
}

#[tokio::test]
async fn who_is_refused_is_told_when_to_come_again() {
    let scene = Scene::new();
    for it in 0..10 {
        scene.start(it % 2).await.expect("within the rate");
    }
    let seconds = scene.refused(0).await.expect("a time");
    scene.later(i64::from(seconds));
    scene.start(1).await.expect("the time has come");
}

#[tokio::test]
async fn an_executor_that_is_down_is_left_alone_and_probed_by_one() {
    let scene = Scene::new();
    scene.answer(down());
    for it in 0..3 {
        assert!(matches!(
            scene.start(it % 2).await,
            Err(Fault::Transient { .. })
        ));
    }
    let seconds = scene.refused(1).await.expect("a time");
    assert!(scene.refused(0).await.is_some());
    // It is looked at all the same.
    assert_eq!(
        scene.copies[0].observe(&["run".into()]).await,
        [Ok(Sight::Working)]
    );

    // One probes; it fails, and the next pause is longer.
    scene.later(i64::from(seconds));
    assert!(matches!(scene.start(0).await, Err(Fault::Transient { .. })));
    let longer = scene.refused(1).await.expect("a time");
    assert!(longer > seconds, "{longer} after {seconds}");

    // The next probe goes well, and all is as before.
    scene.later(i64::from(longer));
    scene.answer(None);
    scene.start(1).await.expect("it works again");
    scene.start(0).await.expect("for everybody");
}

#[tokio::test]
async fn only_one_probes_at_a_time_and_a_dead_one_is_replaced() {
    let scene = Scene::new();
    scene.answer(Some(Fault::Ambiguous {
        why: "timed out".into(),
    }));
    for _ in 0..3 {
        assert!(scene.start(0).await.is_err());
    }
    let seconds = scene.refused(0).await.expect("a time");
    scene.later(i64::from(seconds));
    // The prober dies in the middle of its call.
    scene.executor.hangs.store(true, Ordering::SeqCst);
    let job = job();
    let mut probe = scene.copies[0].start(&job);
    assert!(poll!(&mut probe).is_pending());
    assert_eq!(scene.started(), 4, "it was asked");
    drop(probe);
    scene.executor.hangs.store(false, Ordering::SeqCst);
    scene.answer(None);
    let seconds = scene.refused(1).await.expect("a time");
    scene.later(i64::from(seconds));
    scene.start(1).await.expect("another one probes");
}

#[tokio::test]
async fn what_is_busy_or_refused_is_not_down() {
    let scene = Scene::new();
    for fault in [
        Fault::Busy {
            why: "429".into(),
            retry_after_seconds: Some(1),
        },
        Fault::Permanent {
            class: shared::issue::FailureClass::Invalid,
            why: "400".into(),
        },
    ] {
        scene.answer(Some(fault.clone()));
        for _ in 0..4 {
            assert_eq!(scene.start(0).await, Err(fault.clone()));
        }
    }
}

#[tokio::test]
async fn failures_count_only_one_after_another() {
    let scene = Scene::new();
    for _ in 0..4 {
        scene.answer(down());
        assert!(scene.start(0).await.is_err());
        assert!(scene.start(1).await.is_err());
        scene.answer(None);
        scene.start(0).await.expect("it works");
        scene.later(60);
    }
}

#[tokio::test]
async fn a_refused_token_or_an_empty_purse_is_enough_to_leave_it_alone() {
    for class in [FailureClass::Auth, FailureClass::Quota] {
        let scene = Scene::new();
        scene.answer(Some(Fault::Permanent {
            class,
            why: "no".into(),
        }));
        let told = scene.start(0).await;
        assert!(matches!(told, Err(Fault::Permanent { .. })), "{told:?}");
        assert!(scene.refused(1).await.is_some(), "{class:?}");
        scene.later(31);
        scene.answer(None);
        scene.start(1).await.expect("the probe");
        scene.start(0).await.expect("it is well again");
    }
}
