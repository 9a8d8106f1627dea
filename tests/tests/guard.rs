//! The rates and the circuit breaker of an executor, which all copies of us keep
//! together because they lie in registers.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::future::join_all;
use futures_util::poll;
use shared::guard::{BREAKERS, Guarded, Guards, Rate, broken};
use shared::issue::{
    Ending, ExecutorKind, FailureClass, Fault, IssueId, RunId, RunResult, Sight, TaskKind, Time,
};
use shared::ports::{
    AppendError, Clock, Executor, Health, Job, Register, RegisterWrite, Registers, Settlement,
    Started,
};
use shared::store::memory::MemoryLog;
use shared::store::sqlite::SqliteLog;

const STARTS: Rate = Rate {
    turns: 10,
    seconds: 60,
};
const READS: Rate = Rate {
    turns: 60,
    seconds: 30,
};
/// What a look for a doubtful start counts.
const SEARCH: usize = 5;

/// An executor that does as it is told, and counts.
struct Scripted {
    answer: Mutex<Option<Fault>>,
    started: AtomicI64,
    hangs: AtomicBool,
    /// What it says of every run.
    sight: Mutex<Result<Sight, Fault>>,
    looked: AtomicI64,
    stopped: AtomicI64,
}

/// Registers that count, and can be switched off.
struct Counted {
    inner: Arc<dyn Registers>,
    gone: AtomicBool,
    reads: AtomicI64,
    /// The longest value that was written to a register of a rate, in bytes.
    longest: AtomicI64,
}

impl Counted {
    fn answer(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.gone.load(Ordering::SeqCst), "the store is not there");
        Ok(())
    }
}

#[async_trait]
impl Registers for Counted {
    async fn get(&self, shelf: &str, name: &str, now: Time) -> anyhow::Result<Option<Register>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.answer()?;
        self.inner.get(shelf, name, now).await
    }

    async fn list(&self, shelf: &str, now: Time) -> anyhow::Result<Vec<Register>> {
        self.answer()?;
        self.inner.list(shelf, now).await
    }

    async fn put(&self, write: RegisterWrite, seen: u64, now: Time) -> Result<(), AppendError> {
        self.answer()?;
        let value = write.value.as_ref().map_or(0, |it| it.to_string().len());
        if write.shelf == "rates" {
            let value = i64::try_from(value).expect("a length");
            self.longest.fetch_max(value, Ordering::SeqCst);
        }
        self.inner.put(write, seen, now).await
    }
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
        // As long as a call takes others get on.
        tokio::task::yield_now().await;
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
        self.looked.fetch_add(1, Ordering::SeqCst);
        let sight = self.sight.lock().expect("one thread").clone();
        runs.iter().map(|_| sight.clone()).collect()
    }

    async fn stop(&self, _: &RunId) -> Result<(), Fault> {
        self.stopped.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    async fn health(&self) -> Health {
        Health {
            down: None,
            slots_free: Some(7),
        }
    }
}

struct Scene {
    executor: Arc<Scripted>,
    clock: Arc<Stopped>,
    registers: Arc<Counted>,
    /// The token of all copies.
    token: Arc<Mutex<String>>,
    /// Two copies of us, as in two functions.
    copies: [Arc<Guarded>; 2],
}

impl Scene {
    fn new() -> Self {
        Self::on(Arc::new(MemoryLog::default()))
    }

    fn on(registers: Arc<dyn Registers>) -> Self {
        let executor = Arc::new(Scripted {
            answer: Mutex::new(None),
            started: AtomicI64::new(0),
            hangs: AtomicBool::new(false),
            sight: Mutex::new(Ok(Sight::Working)),
            looked: AtomicI64::new(0),
            stopped: AtomicI64::new(0),
        });
        let clock = Arc::new(Stopped(AtomicI64::new(1_000_000)));
        let registers = Arc::new(Counted {
            inner: registers,
            gone: AtomicBool::new(false),
            reads: AtomicI64::new(0),
            longest: AtomicI64::new(0),
        });
        let token = Arc::new(Mutex::new("one".to_owned()));
        let copy = || {
            let guards = guards("5e1c", &token);
            let inner: Arc<dyn Executor> = executor.clone();
            Arc::new(Guarded::new(
                inner,
                guards,
                registers.clone(),
                clock.clone(),
            ))
        };
        let copies = [copy(), copy()];
        Self {
            executor,
            clock,
            registers,
            token,
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

    /// A start is refused since all of it is down: why.
    async fn refused(&self, copy: usize) -> String {
        let before = self.started();
        match self.start(copy).await {
            Err(Fault::Down { why }) => {
                assert_eq!(self.started(), before, "it was not even asked");
                why
            }
            other => panic!("it was not refused: {other:?}"),
        }
    }

    /// The seconds for which a start has to wait for its turn.
    async fn put_off(&self, copy: usize) -> Option<u32> {
        let before = self.started();
        match self.start(copy).await {
            Err(Fault::Busy {
                retry_after_seconds,
                ..
            }) => {
                assert_eq!(self.started(), before, "it was not even asked");
                retry_after_seconds
            }
            other => panic!("it need not wait: {other:?}"),
        }
    }

    /// Goes on until somebody may probe; for how long.
    async fn until_half_open(&self) -> i64 {
        for second in 0..=OPEN_AT_MOST {
            if self.copies[0].health().await.down.is_none() {
                return second;
            }
            self.later(1);
        }
        panic!("nobody may ever probe");
    }

    fn sight(&self, sight: Result<Sight, Fault>) {
        *self.executor.sight.lock().expect("one thread") = sight;
    }

    fn looked(&self) -> i64 {
        self.executor.looked.load(Ordering::SeqCst)
    }

    /// A look at so many runs.
    async fn look(&self, copy: usize, runs: usize) -> Vec<Result<Sight, Fault>> {
        let runs = vec![RunId::from("run"); runs];
        self.copies[copy].observe(&runs).await
    }
}

/// No pause of a breaker is longer.
const OPEN_AT_MOST: i64 = 600;

fn guards(account: &str, token: &Arc<Mutex<String>>) -> Guards {
    let token = Arc::clone(token);
    Guards {
        account: account.into(),
        credential: Arc::new(move || token.lock().expect("one thread").clone()),
        starts: STARTS,
        reads: READS,
        reads_per_search: SEARCH,
    }
}

fn busy(seconds: u32) -> Fault {
    Fault::Busy {
        why: "429".into(),
        retry_after_seconds: Some(seconds),
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
        commit: None,
        commands: Vec::new(),
        repair: None,
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
    let seconds = scene.put_off(0).await.expect("a time");
    scene.later(i64::from(seconds));
    scene.start(1).await.expect("the time has come");
}

async fn an_executor_that_is_down_is_left_alone_and_probed_by_one(scene: Scene) {
    scene.answer(down());
    for it in 0..3 {
        assert_eq!(scene.copies[1].health().await.down, None);
        // The third one, too, is told as it was: it may have to be settled.
        assert_eq!(scene.start(it % 2).await.err(), down());
    }
    assert_eq!(scene.refused(1).await, "no connection");
    assert_eq!(scene.refused(0).await, "no connection");
    // It is looked at all the same.
    assert_eq!(scene.look(0, 1).await, [Ok(Sight::Working)]);

    // One probes; it fails, and the next pause is longer.
    let first = scene.until_half_open().await;
    assert_eq!(scene.start(0).await.err(), down());
    scene.refused(1).await;
    let second = scene.until_half_open().await;
    assert!(second > first && first > 0, "{second} after {first}");

    // The next probe goes well, and all is as before.
    scene.answer(None);
    scene.start(1).await.expect("it works again");
    scene.start(0).await.expect("for everybody");
    let breakers = scene.registers.list(BREAKERS, scene.clock.now()).await;
    assert_eq!(breakers.expect("a list"), []);
}

#[tokio::test]
async fn starts_that_were_under_way_when_it_opened_make_nothing_worse() {
    let scene = Scene::new();
    scene.answer(down());
    // All have passed before the first of them fails.
    let all = join_all((0..10).map(|it| scene.start(it % 2))).await;
    assert!(
        all.iter().all(|it| it.as_ref().err() == down().as_ref()),
        "{all:?}"
    );
    assert_eq!(scene.until_half_open().await, 30);
}

#[tokio::test]
async fn only_one_probes_at_a_time_and_a_dead_one_is_replaced() {
    let scene = Scene::new();
    let lost = Fault::Ambiguous {
        why: "timed out".into(),
    };
    scene.answer(Some(lost.clone()));
    for _ in 0..3 {
        assert_eq!(scene.start(0).await.err(), Some(lost.clone()));
    }
    scene.until_half_open().await;
    // The prober dies in the middle of its call.
    scene.executor.hangs.store(true, Ordering::SeqCst);
    let job = job();
    let mut probe = scene.copies[0].start(&job);
    assert!(poll!(&mut probe).is_pending());
    assert_eq!(scene.started(), 4, "it was asked");
    drop(probe);
    scene.executor.hangs.store(false, Ordering::SeqCst);
    scene.answer(None);
    // As long as it may be probing, nobody is sent there to be refused.
    assert_eq!(scene.refused(1).await, "timed out");
    scene.until_half_open().await;
    scene.start(1).await.expect("another one probes");
}

#[tokio::test]
async fn a_probe_without_a_turn_leaves_the_probing_to_the_next() {
    let scene = Scene::new();
    for _ in 0..7 {
        scene.start(0).await.expect("within the rate");
    }
    scene.answer(down());
    for _ in 0..3 {
        assert!(scene.start(0).await.is_err());
    }
    scene.until_half_open().await;
    let wait = scene.put_off(0).await.expect("ten were made");
    assert_eq!(scene.copies[1].health().await.down, None);
    scene.later(i64::from(wait));
    scene.answer(None);
    scene.start(1).await.expect("it probes");
}

#[tokio::test]
async fn what_is_busy_or_refused_is_not_down() {
    let scene = Scene::new();
    for fault in [
        Fault::Busy {
            why: "429".into(),
            retry_after_seconds: None,
        },
        Fault::Permanent {
            class: FailureClass::Invalid,
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

async fn a_refused_token_or_an_empty_purse_is_enough_to_leave_it_alone(scene: Scene) {
    for class in [FailureClass::Auth, FailureClass::Quota] {
        scene.answer(Some(Fault::Permanent {
            class,
            why: "no".into(),
        }));
        let told = scene.start(0).await.err();
        assert_eq!(told, Some(Fault::Down { why: "no".into() }), "{class:?}");
        assert_eq!(scene.refused(1).await, "no");
        scene.later(31);
        scene.answer(None);
        scene.start(1).await.expect("the probe");
        scene.start(0).await.expect("it is well again");
    }
}

async fn its_health_is_its_breaker_and_costs_one_read(scene: Scene) {
    let well = Health {
        down: None,
        slots_free: Some(7),
    };
    assert_eq!(scene.copies[0].health().await, well);
    scene.answer(Some(Fault::Permanent {
        class: FailureClass::Quota,
        why: "used up".into(),
    }));
    assert!(scene.start(0).await.is_err());
    let before = scene.registers.reads.load(Ordering::SeqCst);
    let health = scene.copies[1].health().await;
    assert_eq!(health.down.as_deref(), Some("used up"));
    assert_eq!(health.slots_free, Some(7));
    let after = scene.registers.reads.load(Ordering::SeqCst);
    assert_eq!(after - before, 1);
    let now = scene.clock.now();
    let breakers = scene.registers.list(BREAKERS, now).await.expect("a list");
    let why = broken(ExecutorKind::Codegen, &breakers);
    assert_eq!(why.as_deref(), Some("used up"));
    assert_eq!(broken(ExecutorKind::Local, &breakers), None);

    // What cannot be read says nothing against it.
    scene.registers.gone.store(true, Ordering::SeqCst);
    assert_eq!(scene.copies[0].health().await, well);
    scene.registers.gone.store(false, Ordering::SeqCst);
    // Its time is over: somebody is to probe.
    scene.later(30);
    assert_eq!(scene.copies[0].health().await, well);
}

#[tokio::test]
async fn another_token_begins_with_a_closed_breaker_and_the_same_rate() {
    let scene = Scene::new();
    for _ in 0..8 {
        scene.start(0).await.expect("within the rate");
    }
    scene.answer(Some(Fault::Permanent {
        class: FailureClass::Auth,
        why: "a bad token".into(),
    }));
    assert!(scene.start(0).await.is_err());
    scene.refused(1).await;
    *scene.token.lock().expect("one thread") = "two".into();
    scene.answer(None);
    assert_eq!(scene.copies[1].health().await.down, None);
    scene.start(1).await.expect("it is tried at once");
    assert!(scene.put_off(0).await.is_some(), "ten were made");
    let now = scene.clock.now();
    let breakers = scene.registers.list(BREAKERS, now).await;
    assert_eq!(breakers.expect("a list"), []);
}

#[tokio::test]
async fn accounts_do_not_share_rates_or_breakers() {
    let scene = Scene::new();
    let other = Guarded::new(
        scene.executor.clone(),
        guards("c0de", &scene.token),
        scene.registers.clone(),
        scene.clock.clone(),
    );
    for _ in 0..10 {
        scene.start(0).await.expect("within the rate");
    }
    assert!(scene.put_off(1).await.is_some());
    other.start(&job()).await.expect("another account");
    scene.later(60);
    scene.answer(Some(Fault::Permanent {
        class: FailureClass::Auth,
        why: "no".into(),
    }));
    assert!(scene.start(0).await.is_err());
    scene.answer(None);
    other.start(&job()).await.expect("another account");
    scene.refused(0).await;
}

/// Thirty tasks at once: each comes again when it is told to.
async fn a_fan_out_is_queued_and_nothing_of_it_fails(scene: Scene) {
    const TASKS: usize = 30;
    let mut due = [scene.clock.now(); TASKS];
    let mut open: Vec<usize> = (0..TASKS).collect();
    let mut calls: Vec<i64> = Vec::new();
    let mut closed_until = None;
    for _ in 0..600 {
        let now = scene.clock.now();
        for task in open.clone() {
            if due[task] > now {
                continue;
            }
            // The provider asks to wait, once, in the middle of it.
            let asks = calls.len() == 5 && closed_until.is_none();
            scene.answer(asks.then(|| busy(20)));
            let before = scene.started();
            let answer = scene.start(task % 2).await;
            if scene.started() > before {
                assert!(closed_until.is_none_or(|it| now >= it), "it asked to wait");
                calls.push(now.as_second());
            }
            match answer {
                Ok(_) => open.retain(|it| *it != task),
                Err(Fault::Busy {
                    retry_after_seconds: Some(seconds),
                    ..
                }) => {
                    let wait = jiff::SignedDuration::from_secs(seconds.into());
                    due[task] = now + wait;
                    if asks {
                        closed_until = Some(now + wait);
                    }
                }
                other => panic!("it failed: {other:?}"),
            }
        }
        scene.later(1);
    }
    assert_eq!(open, Vec::<usize>::new());
    assert_eq!(calls.len(), TASKS + 1, "and the one that was to wait");
    for first in &calls {
        let window = calls.iter().filter(|it| (*first..first + 60).contains(it));
        assert!(window.count() <= 10, "{calls:?}");
    }
    let took = calls[TASKS] - calls[0];
    assert!(took <= 200, "{took} s for 30 at 10 in 60 s");
}

async fn looks_keep_to_the_rate_that_all_copies_share(scene: Scene) {
    let mut looks: Vec<i64> = Vec::new();
    for _ in 0..90 {
        for it in 0..4 {
            let before = scene.looked();
            let sights = scene.look(it % 2, 3).await;
            assert_eq!(sights.len(), 3);
            let made = scene.looked() > before;
            assert_eq!(made, sights[0].is_ok());
            if made {
                looks.push(scene.clock.now().as_second());
                continue;
            }
            let waits = |it: &Result<Sight, Fault>| {
                matches!(
                    it,
                    Err(Fault::Busy {
                        retry_after_seconds: Some(1..=35),
                        ..
                    })
                )
            };
            assert!(sights.iter().all(waits), "{sights:?}");
        }
        scene.later(1);
    }
    for first in &looks {
        let window = looks.iter().filter(|it| (*first..first + 30).contains(it));
        assert!(window.count() <= 60, "{looks:?}");
    }
    assert!(looks.len() >= 150, "{}", looks.len());
    let longest = scene.registers.longest.load(Ordering::SeqCst);
    assert!((1..=1024).contains(&longest), "{longest} bytes");

    // Nobody waits with a stop, and nothing is read for no run.
    while scene.look(0, 1).await[0].is_ok() {}
    let runs = [RunId::from("run")];
    scene.copies[0].stop(&runs[0]).await.expect("asked at once");
    assert_eq!(scene.executor.stopped.load(Ordering::SeqCst), 1);
    assert_eq!(scene.copies[0].observe(&[]).await, []);
    let settled = scene.copies[1].settle(&job()).await;
    assert!(matches!(settled, Err(Fault::Busy { .. })), "{settled:?}");
}

#[tokio::test]
async fn what_was_read_beyond_a_look_counts_as_well() {
    // Each of the runs that ended was read by itself.
    let scene = Scene::new();
    scene.sight(Ok(Sight::Ended(Ending {
        result: Ok(RunResult::default()),
        cost_usd: None,
        cost_is_estimate: false,
    })));
    assert!(scene.look(0, 59).await[0].is_ok());
    assert!(scene.look(1, 1).await[0].is_err());
    scene.later(35);
    assert!(scene.look(1, 1).await[0].is_ok());
    // A search counts as many pages as it may read.
    let scene = Scene::new();
    for _ in 0..READS.turns / SEARCH {
        assert!(scene.copies[0].settle(&job()).await.is_ok());
    }
    assert!(scene.look(1, 1).await[0].is_err());
}

#[tokio::test]
async fn when_reads_are_asked_to_wait_no_copy_reads() {
    let scene = Scene::new();
    scene.sight(Err(busy(7)));
    assert_eq!(scene.look(0, 1).await, [Err(busy(7))]);
    scene.sight(Ok(Sight::Working));
    let before = scene.looked();
    assert!(scene.look(1, 1).await[0].is_err());
    scene.later(6);
    assert!(scene.look(0, 1).await[0].is_err());
    assert_eq!(scene.looked(), before);
    scene.start(0).await.expect("starts have their own rate");
    scene.later(1);
    assert!(scene.look(0, 1).await[0].is_ok());
}

#[tokio::test]
async fn without_a_store_it_is_looked_at_all_the_same() {
    let scene = Scene::new();
    scene.registers.gone.store(true, Ordering::SeqCst);
    assert!(scene.look(0, 1).await[0].is_ok());
    assert!(scene.copies[0].settle(&job()).await.is_ok());
    let started = scene.start(0).await;
    assert!(matches!(started, Err(Fault::Transient { .. })));
    assert_eq!(scene.started(), 0, "no start without its guards");
}

macro_rules! on_both_stores {
    ($($claim:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $claim() {
                super::$claim(super::Scene::new()).await;
            })*
        }
        mod sqlite {
            use std::sync::Arc;

            $(#[tokio::test(flavor = "multi_thread")] async fn $claim() {
                let folder = tempfile::tempdir().expect("a folder");
                let store = super::SqliteLog::open(&folder.path().join("cyrus.db"));
                let store = Arc::new(store.expect("a new store"));
                super::$claim(super::Scene::on(store)).await;
            })*
        }
    };
}

on_both_stores! {
    an_executor_that_is_down_is_left_alone_and_probed_by_one,
    a_refused_token_or_an_empty_purse_is_enough_to_leave_it_alone,
    its_health_is_its_breaker_and_costs_one_read,
    a_fan_out_is_queued_and_nothing_of_it_fails,
    looks_keep_to_the_rate_that_all_copies_share,
}
