//! The simulated world: every port, in one thread, with its own time and its
//! own weather. Each call yields before and after it takes effect, and may fail
//! at either point, so a reply can be lost although the thing was done.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;

use async_trait::async_trait;
use jiff::SignedDuration;
use shared::issue::{
    Activity, Brief, Check, CheckState, Effect, Ending, Event, ExecutorKind, Failure, FailureClass,
    Fault, IssueId, Policy, PullFacts, PullState, RunId, RunResult, SessionId, Sight, Stage,
    TaskId, TaskKind, Time,
};
use shared::ports::{
    Append, AppendError, Clock, Executor, Forge, Head, Job, Log, MergeAnswer, MergeAsk, OpenAsk,
    Opened, PlanItem, Policies, PullAsk, Settlement, Started, Tracker, WhichPull,
};
use shared::store::memory::MemoryLog;
use uuid::Uuid;

/// No call takes longer than this: then its caller hears of a timeout, and it
/// takes no effect any more. Shorter than a lease, as in the adapters.
pub(crate) const CALL_SECONDS_MAX: i64 = 20;
/// A run shows up in the far list after at most this long; shorter than the
/// time over which a doubtful start is looked for.
const LIST_LAG_SECONDS_MAX: i64 = 25;

/// What was claimed before a cancellation may still take effect this long
/// after it: a lease, and the longest call.
const AFTERMATH_SECONDS_MAX: i64 = shared::issue::LEASE_SECONDS + CALL_SECONDS_MAX;
/// A run of a cancelled issue is asked to stop within this, whatever the weather.
const STOP_SECONDS_MAX: i64 = 900;

/// How bad it is: chances in a thousand.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    pub(crate) fault_before: u32,
    pub(crate) fault_after: u32,
    pub(crate) busy: u32,
    pub(crate) crash: u32,
    pub(crate) lost_wake: u32,
    pub(crate) duplicate: u32,
    pub(crate) run_fails: u32,
    pub(crate) run_hangs: u32,
    pub(crate) run_vanishes: u32,
    pub(crate) bad_plan: u32,
    pub(crate) red: u32,
    pub(crate) head_moves: u32,
    pub(crate) store_fault: u32,
    pub(crate) spite: u32,
}

impl Weather {
    pub(crate) fn clear() -> Self {
        Self {
            fault_before: 0,
            fault_after: 0,
            busy: 0,
            crash: 0,
            lost_wake: 0,
            duplicate: 0,
            run_fails: 0,
            run_hangs: 0,
            run_vanishes: 0,
            bad_plan: 0,
            red: 0,
            head_moves: 0,
            store_fault: 0,
            spite: 0,
        }
    }

    /// Each seed has its own: some are calm in one way and wild in another.
    pub(crate) fn of(rng: &mut fastrand::Rng) -> Self {
        let mut chance = |max: u32| if rng.bool() { rng.u32(0..=max) } else { 0 };
        Self {
            fault_before: chance(150),
            fault_after: chance(150),
            busy: chance(150),
            crash: chance(30),
            lost_wake: chance(500),
            duplicate: chance(400),
            run_fails: chance(250),
            run_hangs: chance(80),
            run_vanishes: chance(60),
            bad_plan: chance(400),
            red: chance(100),
            head_moves: chance(500),
            store_fault: chance(40),
            spite: chance(60),
        }
    }
}

/// A run at an executor.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) executor: ExecutorKind,
    pub(crate) job: Job,
    pub(crate) created: Time,
    visible: Time,
    ends: Option<Time>,
    fate: Fate,
    pub(crate) stopped: Option<Time>,
    vanished: bool,
    handed_in: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Fate {
    Succeeds,
    ChangesNothing,
    Fails(FailureClass),
    BadPlan,
}

impl Run {
    pub(crate) fn alive(&self, now: Time) -> bool {
        !self.vanished
            && self.stopped.is_none_or(|at| now < at)
            && self.ends.is_none_or(|at| now < at)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct PullRequest {
    pub(crate) number: u64,
    pub(crate) job: Job,
    pub(crate) sha: String,
    green_at: Time,
    red: bool,
    pub(crate) state: PullState,
    /// The commits that were merged, by whom.
    pub(crate) merged: Vec<(String, &'static str)>,
    moves_at: Option<Time>,
    asked: u32,
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) rng: fastrand::Rng,
    pub(crate) weather: Weather,
    pub(crate) runs: Vec<Run>,
    pub(crate) pulls: Vec<PullRequest>,
    /// What stands in each session, in order.
    pub(crate) said: BTreeMap<SessionId, Vec<(Uuid, Activity)>>,
    pub(crate) plans: BTreeMap<SessionId, Vec<PlanItem>>,
    pub(crate) stages: BTreeMap<IssueId, Vec<Stage>>,
    pub(crate) issues: BTreeMap<IssueId, (Brief, Policy)>,
    pub(crate) landmarks: BTreeMap<&'static str, u64>,
    pub(crate) trace: Vec<String>,
    pub(crate) broken: Vec<String>,
    /// Issues whose round is over in the log, and those whose round is not.
    pub(crate) done: BTreeSet<IssueId>,
    pub(crate) open: BTreeSet<IssueId>,
    /// Issues that a person wants stopped just when something begins.
    pub(crate) spited: Vec<IssueId>,
    /// Issues that a person has stopped in this round, and since when.
    pub(crate) cancelled: BTreeMap<IssueId, Time>,
}

pub(crate) type Shared = Arc<Mutex<World>>;

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let weather = Weather::of(&mut rng);
        Self {
            now: "2026-11-20T12:00:00Z".parse().expect("a time"),
            rng,
            weather,
            runs: Vec::new(),
            pulls: Vec::new(),
            said: BTreeMap::new(),
            plans: BTreeMap::new(),
            stages: BTreeMap::new(),
            issues: BTreeMap::new(),
            landmarks: BTreeMap::new(),
            trace: Vec::new(),
            broken: Vec::new(),
            done: BTreeSet::new(),
            open: BTreeSet::new(),
            cancelled: BTreeMap::new(),
            spited: Vec::new(),
        }
    }

    pub(crate) fn visit(&mut self, landmark: &'static str) {
        *self.landmarks.entry(landmark).or_default() += 1;
    }

    pub(crate) fn note(&mut self, text: String) {
        let line = format!("{} {text}", self.now);
        self.trace.push(line);
    }

    pub(crate) fn dice(&mut self, chance: u32) -> bool {
        chance > 0 && self.rng.u32(0..1000) < chance
    }

    fn seconds(&mut self, range: std::ops::RangeInclusive<i64>) -> SignedDuration {
        SignedDuration::from_millis(self.rng.i64(range.start() * 1000..=range.end() * 1000))
    }

    fn broke(&mut self, what: String) {
        self.note(format!("BROKEN: {what}"));
        self.broken.push(what);
    }

    /// Lets the world go on: runs end, and hand in what they made.
    pub(crate) fn pass(&mut self, by: SignedDuration) {
        self.now += by;
        for at in 0..self.runs.len() {
            let run = self.runs[at].clone();
            let ended_well = run.ends.is_some_and(|ends| ends <= self.now)
                && run
                    .stopped
                    .is_none_or(|stopped| run.ends.is_some_and(|ends| ends < stopped))
                && run.fate == Fate::Succeeds
                && !run.vanished;
            if ended_well && run.job.makes_pull() && !run.handed_in {
                self.runs[at].handed_in = true;
                self.hand_in(&run);
            }
        }
        for at in 0..self.pulls.len() {
            let pull = &self.pulls[at];
            if pull.state == PullState::Open && pull.moves_at.is_some_and(|it| it <= self.now) {
                let green_at = self.now + self.seconds(0..=40);
                let pull = &mut self.pulls[at];
                pull.moves_at = None;
                pull.sha = format!("{}-fixed", pull.sha);
                pull.green_at = green_at;
                self.visit("a head moved after the run was over");
            }
        }
    }

    fn hand_in(&mut self, run: &Run) {
        let number = self.pulls.len() as u64 + 1;
        let green_at = self.now + self.seconds(0..=60);
        let red_chance = self.weather.red;
        let moves_chance = self.weather.head_moves;
        let red = self.dice(red_chance);
        let moves_at = self
            .dice(moves_chance)
            .then(|| self.now + self.seconds(0..=90));
        self.pulls.push(PullRequest {
            number,
            job: run.job.clone(),
            sha: format!("sha-{number}"),
            green_at,
            red,
            state: PullState::Open,
            merged: Vec::new(),
            moves_at,
            asked: 0,
        });
    }

    fn create(&mut self, executor: ExecutorKind, job: &Job) -> RunId {
        if self.runs.iter().any(|run| run.job.key == job.key) {
            self.broke(format!(
                "a second run for the key of {}/{}",
                job.identifier, job.branch
            ));
        }
        let twin = self.runs.iter().any(|run| {
            run.job.issue == job.issue && run.job.branch == job.branch && run.job.task == job.task
        });
        if twin {
            self.broke(format!("a second run of one attempt: {}", job.branch));
        }
        if self.done.contains(&job.issue) {
            self.broke(format!(
                "a run of {} after its round was over",
                job.identifier
            ));
        }
        self.check_cancelled(&job.issue, "a run was made");
        self.check_dependencies(job);
        let id = RunId(format!("run-{}", self.runs.len() + 1));
        let lag = if executor == ExecutorKind::Codegen {
            LIST_LAG_SECONDS_MAX
        } else {
            0
        };
        let visible = self.now + self.seconds(0..=lag);
        let hangs = self.weather.run_hangs;
        let ends = if self.dice(hangs) {
            None
        } else {
            Some(self.now + self.seconds(5..=300))
        };
        let (fails, bad_plan) = (self.weather.run_fails, self.weather.bad_plan);
        let fate = if self.dice(fails) {
            match self.rng.u8(0..4) {
                0 => Fate::ChangesNothing,
                1 => Fate::Fails(FailureClass::Agent),
                2 => Fate::Fails(FailureClass::Outage),
                _ => Fate::Fails(FailureClass::Refusal),
            }
        } else if job.kind == TaskKind::Orchestrator && self.dice(bad_plan) {
            Fate::BadPlan
        } else {
            Fate::Succeeds
        };
        let vanishes = self.weather.run_vanishes;
        let vanished = self.dice(vanishes);
        self.runs.push(Run {
            id: id.clone(),
            executor,
            job: job.clone(),
            created: self.now,
            visible,
            ends,
            fate,
            stopped: None,
            vanished,
            handed_in: false,
        });
        self.note(format!("{executor} made {id} for {}", job.branch));
        id
    }

    /// Invariant 6: what a cancelled issue has not begun, it does not begin.
    fn check_cancelled(&mut self, issue: &IssueId, what: &str) {
        let late = |since: &Time| self.now.duration_since(*since).as_secs() > AFTERMATH_SECONDS_MAX;
        if self.cancelled.get(issue).is_some_and(late) {
            self.broke(format!("{what} for {issue}, which was cancelled"));
        }
    }

    /// Invariant 4: all that a task depends on has been merged before it starts.
    fn check_dependencies(&mut self, job: &Job) {
        let needs: Vec<String> = self
            .runs
            .iter()
            .rev()
            .find(|run| {
                run.job.issue == job.issue
                    && run.job.kind == TaskKind::Orchestrator
                    && run.fate == Fate::Succeeds
            })
            .map(|run| depends_on(&plan(&run.job.key), &job.task))
            .unwrap_or_default();
        for need in needs {
            let done = self.pulls.iter().any(|pull| {
                pull.job.issue == job.issue
                    && pull.job.task.0 == need
                    && pull.state == PullState::Merged
            });
            if !done {
                self.broke(format!("{} started before `{need}` was merged", job.branch));
            }
        }
    }

    /// Invariant 6, the other half: what runs for a cancelled issue is asked to
    /// stop, and nothing runs for one whose round is over.
    pub(crate) fn check_stopped(&mut self) {
        let now = self.now;
        let late = |since: &Time| now.duration_since(*since).as_secs() > STOP_SECONDS_MAX;
        let wrong = self.runs.iter().find_map(|run| {
            if !run.alive(now) {
                return None;
            }
            if self.done.contains(&run.job.issue) {
                return Some(format!("{} outlived its round", run.id));
            }
            let neglected = self.cancelled.get(&run.job.issue).is_some_and(late);
            (neglected && run.stopped.is_none())
                .then(|| format!("{} was never asked to stop", run.id))
        });
        if let Some(what) = wrong {
            self.broke(what);
        }
    }

    fn sight(&mut self, id: &RunId) -> Sight {
        let now = self.now;
        let Some(run) = self.runs.iter().find(|run| run.id == *id).cloned() else {
            return Sight::Gone;
        };
        let cost_usd = (run.executor == ExecutorKind::Local).then_some(0.25);
        let ended = |result| Sight::Ended(Ending { result, cost_usd });
        let failure = |class| Failure {
            class,
            message: format!("it ended: {class}"),
        };
        if run.vanished {
            return Sight::Gone;
        }
        if run.alive(now) {
            let waited = now.duration_since(run.created).as_secs();
            return if waited < 3 {
                Sight::Waiting
            } else {
                Sight::Working
            };
        }
        if run
            .ends
            .is_none_or(|ends| now < ends || run.stopped.is_some_and(|at| at <= ends))
        {
            return ended(Err(failure(FailureClass::Cancelled)));
        }
        match run.fate {
            Fate::Fails(class) => ended(Err(failure(class))),
            Fate::ChangesNothing => {
                ended(Ok(RunResult { changed: Some(false), ..RunResult::default() }))
            }
            Fate::BadPlan => ended(Ok(RunResult {
                answer: Some(r#"{"tasks":[{"id":"a","title":"a","kind":"builder","prompt":"p","depends_on":["a"]}]}"#.into()),
                ..RunResult::default()
            })),
            Fate::Succeeds => ended(Ok(RunResult {
                text: "done".into(),
                answer: (run.job.kind == TaskKind::Orchestrator).then(|| plan(&run.job.key)),
                ..RunResult::default()
            })),
        }
    }

    fn facts(&mut self, ask: &PullAsk) -> Option<PullFacts> {
        let now = self.now;
        let at = self.pulls.iter().rposition(|pull| match &ask.which {
            WhichPull::Number(number) => pull.number == *number,
            WhichPull::Branch(branch) => pull.job.branch == *branch,
        })?;
        let pull = &mut self.pulls[at];
        pull.asked += 1;
        let state = if now < pull.green_at {
            CheckState::Pending
        } else if pull.red {
            CheckState::Failed
        } else {
            CheckState::Passed
        };
        Some(PullFacts {
            number: pull.number,
            url: format!("https://forge/{}", pull.number),
            state: pull.state,
            head_slug: Some(pull.job.repository.slug.clone()),
            head_branch: pull.job.branch.clone(),
            head_sha: pull.sha.clone(),
            base_slug: pull.job.repository.slug.clone(),
            base_branch: pull.job.repository.base_branch.clone(),
            body: format!("<!-- cyrus:{}/{} -->", pull.job.identifier, pull.job.task),
            draft: false,
            // The forge finds out only when asked.
            mergeable: (pull.asked > 1).then_some(true),
            checks: vec![Check {
                name: "ci".into(),
                state,
            }],
        })
    }

    fn merge(&mut self, ask: &MergeAsk) -> MergeAnswer {
        let now = self.now;
        let Some(at) = self.pulls.iter().position(|pull| pull.number == ask.number) else {
            return MergeAnswer::Refused {
                why: "not found".into(),
            };
        };
        let pull = self.pulls[at].clone();
        match pull.state {
            PullState::Merged => return MergeAnswer::Merged { sha: pull.sha },
            PullState::Closed => {
                return MergeAnswer::Refused {
                    why: "it is closed".into(),
                };
            }
            PullState::Open => {}
        }
        if pull.sha != ask.sha {
            self.visit("a merge was refused because the head had moved");
            return MergeAnswer::HeadMoved;
        }
        if now < pull.green_at || pull.red {
            self.broke(format!("#{} was merged without green checks", pull.number));
        }
        if self.done.contains(&pull.job.issue) {
            self.broke(format!(
                "#{} was merged after its round was over",
                pull.number
            ));
        }
        self.check_cancelled(&pull.job.issue, "a merge was made");
        self.pulls[at].state = PullState::Merged;
        self.pulls[at].merged.push((ask.sha.clone(), "cyrus"));
        self.note(format!("merged #{} at {}", ask.number, ask.sha));
        MergeAnswer::Merged {
            sha: ask.sha.clone(),
        }
    }
}

/// The plan that an orchestrator run answers: a graph made from its key.
fn plan(key: &str) -> String {
    let mut rng = fastrand::Rng::with_seed(
        key.bytes()
            .map(u64::from)
            .fold(7, |a, b| a * 31 % 1_000_003 + b),
    );
    let n = rng.usize(1..=6);
    let tasks: Vec<serde_json::Value> = (0..n)
        .map(|at| {
            let on: Vec<String> = (0..at)
                .filter(|_| rng.u8(0..3) == 0)
                .map(|on| format!("t{on}"))
                .collect();
            let complexity = if rng.bool() { "low" } else { "high" };
            serde_json::json!({
                "id": format!("t{at}"), "title": format!("Task {at}"), "kind": "builder",
                "prompt": "build it", "depends_on": on, "complexity": complexity,
            })
        })
        .collect();
    serde_json::json!({ "summary": "a plan", "tasks": tasks }).to_string()
}

fn depends_on(plan: &str, task: &TaskId) -> Vec<String> {
    let plan: serde_json::Value = serde_json::from_str(plan).unwrap_or_default();
    let tasks = plan["tasks"].as_array().cloned().unwrap_or_default();
    let found = tasks.iter().find(|it| it["id"] == task.0.as_str());
    let on = found
        .and_then(|it| it["depends_on"].as_array().cloned())
        .unwrap_or_default();
    on.iter()
        .filter_map(|it| it.as_str().map(str::to_owned))
        .collect()
}

// ───────────────────────────── the ports ─────────────────────────────

/// One process's view of the world.
#[derive(Clone)]
pub(crate) struct View(pub Shared);

/// Where a call's trouble strikes.
enum Trouble {
    None,
    Before(Fault),
    After(Fault),
}

impl View {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("the simulation has one thread")
    }

    /// Gives way to the others a few times.
    async fn give_way(&self) {
        let mut turns = {
            let mut world = self.world();
            // Now and then much happens meanwhile.
            if world.rng.u8(0..40) == 0 {
                world.rng.u16(0..400)
            } else {
                world.rng.u16(0..4)
            }
        };
        poll_fn(|context| {
            if turns == 0 {
                return Poll::Ready(());
            }
            turns -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// A call to the outside: it waits, takes effect, waits, and answers; each
    /// of which may go wrong. A call that takes too long has no effect.
    async fn call<T>(
        &self,
        name: &'static str,
        work: impl FnOnce(&mut World) -> T,
    ) -> Result<T, Fault> {
        let (begun, trouble) = {
            let mut world = self.world();
            let (before, after, busy) = (
                world.weather.fault_before,
                world.weather.fault_after,
                world.weather.busy,
            );
            let trouble = if world.dice(busy) {
                world.visit("somebody was too busy");
                let retry_after_seconds = world.rng.bool().then_some(7);
                Trouble::Before(Fault::Busy {
                    why: format!("{name}: busy"),
                    retry_after_seconds,
                })
            } else if world.dice(before) {
                Trouble::Before(Fault::Transient {
                    why: format!("{name}: no connection"),
                })
            } else if world.dice(after) {
                Trouble::After(Fault::Ambiguous {
                    why: format!("{name}: the reply was lost"),
                })
            } else {
                Trouble::None
            };
            (world.now, trouble)
        };
        self.give_way().await;
        let late = |world: &World| world.now.duration_since(begun).as_secs() > CALL_SECONDS_MAX;
        let answer = {
            let mut world = self.world();
            if late(&world) {
                world.visit("a call timed out before it took effect");
                return Err(Fault::Ambiguous {
                    why: format!("{name}: timed out"),
                });
            }
            if let Trouble::Before(fault) = trouble {
                return Err(fault);
            }
            work(&mut world)
        };
        self.give_way().await;
        let mut world = self.world();
        if late(&world) {
            world.visit("a call timed out after it took effect");
            return Err(Fault::Ambiguous {
                why: format!("{name}: timed out"),
            });
        }
        match trouble {
            Trouble::After(fault) => {
                world.visit("a reply was lost although the thing was done");
                Err(fault)
            }
            Trouble::None | Trouble::Before(_) => Ok(answer),
        }
    }
}

impl Clock for View {
    fn now(&self) -> Time {
        self.world().now
    }
}

impl Policies for View {
    fn policy(&self, brief: &Brief) -> Result<Policy, String> {
        let world = self.world();
        let found = world
            .issues
            .values()
            .find(|(it, _)| it.identifier == brief.identifier);
        found
            .map(|(_, policy)| policy.clone())
            .ok_or_else(|| "no repository serves it".into())
    }
}

#[async_trait]
impl Tracker for View {
    async fn read(&self, issue: &IssueId) -> Result<Brief, Fault> {
        self.call("read", |world| world.issues[issue].0.clone())
            .await
    }

    async fn say(&self, id: Uuid, session: &SessionId, activity: &Activity) -> Result<(), Fault> {
        self.call("say", |world| {
            let said = world.said.entry(session.clone()).or_default();
            if said.iter().any(|(known, _)| *known == id) {
                world.visit("Linear refused to say a thing twice");
            } else {
                said.push((id, activity.clone()));
            }
        })
        .await
    }

    async fn show_plan(&self, session: &SessionId, items: &[PlanItem]) -> Result<(), Fault> {
        self.call("plan", |world| {
            world.plans.insert(session.clone(), items.to_vec());
        })
        .await
    }

    async fn link(&self, _session: &SessionId, _label: &str, _url: &str) -> Result<(), Fault> {
        self.call("link", |_| ()).await
    }

    async fn set_stage(&self, issue: &IssueId, stage: Stage) -> Result<(), Fault> {
        self.call("stage", |world| {
            world.stages.entry(issue.clone()).or_default().push(stage)
        })
        .await
    }
}

#[async_trait]
impl Forge for View {
    async fn facts(&self, asks: &[PullAsk]) -> Vec<Result<Option<PullFacts>, Fault>> {
        let mut answers = Vec::new();
        for ask in asks {
            answers.push(self.call("facts", |world| world.facts(ask)).await);
        }
        answers
    }

    async fn merge(&self, ask: &MergeAsk) -> Result<MergeAnswer, Fault> {
        self.call("merge", |world| world.merge(ask)).await
    }

    async fn open(&self, _ask: &OpenAsk) -> Result<Opened, Fault> {
        Err(Fault::Permanent {
            class: FailureClass::Invalid,
            why: "runs open their own".into(),
        })
    }
}

/// An executor of the simulated world. The local one knows its runs by their
/// keys; the far one has to be searched, and its list lags behind.
pub(crate) struct Runs {
    pub(crate) view: View,
    pub(crate) kind: ExecutorKind,
}

#[async_trait]
impl Executor for Runs {
    fn kind(&self) -> ExecutorKind {
        self.kind
    }

    async fn start(&self, job: &Job) -> Result<Started, Fault> {
        let run = self
            .view
            .call("start", |world| {
                let known = world.runs.iter().find(|run| run.job.key == job.key);
                match known.filter(|_| self.kind == ExecutorKind::Local) {
                    Some(run) => run.id.clone(),
                    None => world.create(self.kind, job),
                }
            })
            .await?;
        Ok(Started {
            run,
            url: None,
            begun: false,
        })
    }

    async fn settle(&self, job: &Job) -> Result<Settlement, Fault> {
        let local = self.kind == ExecutorKind::Local;
        let found = self
            .view
            .call("settle", |world| {
                let now = world.now;
                let run = world
                    .runs
                    .iter()
                    .find(|run| run.job.key == job.key && (local || run.visible <= now));
                let found = run.map(|run| run.id.clone());
                world.visit(match found {
                    Some(_) => "a doubtful start was found",
                    None => "a doubtful start was not found",
                });
                found
            })
            .await?;
        Ok(match found {
            Some(run) => Settlement::Found(Started {
                run,
                url: None,
                begun: false,
            }),
            None => Settlement::Absent { certain: local },
        })
    }

    async fn observe(&self, runs: &[RunId]) -> Vec<Result<Sight, Fault>> {
        let answer = self
            .view
            .call("observe", |w| {
                runs.iter().map(|it| w.sight(it)).collect::<Vec<_>>()
            })
            .await;
        match answer {
            Ok(sights) => sights.into_iter().map(Ok).collect(),
            Err(fault) => runs.iter().map(|_| Err(fault.clone())).collect(),
        }
    }

    async fn stop(&self, run: &RunId) -> Result<(), Fault> {
        self.view
            .call("stop", |world| {
                let at = world.now + world.seconds(0..=20);
                world.note(format!("asked {run} to stop"));
                if let Some(run) = world.runs.iter_mut().find(|it| it.id == *run) {
                    run.stopped.get_or_insert(at);
                }
            })
            .await
    }
}

/// The memory store, with trouble of its own.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) view: View,
    pub(crate) inner: Arc<MemoryLog>,
}

#[async_trait]
impl Log for Store {
    async fn read(
        &self,
        issue: &IssueId,
        after: u64,
    ) -> anyhow::Result<Vec<shared::issue::Record>> {
        self.view.give_way().await;
        self.inner.read(issue, after).await
    }

    async fn append(&self, append: Append) -> Result<(), AppendError> {
        let chance = self.view.world().weather.store_fault;
        self.view.give_way().await;
        if self.view.world().dice(chance) {
            self.view.world().visit("the store failed before it wrote");
            return Err(AppendError::Failed(anyhow::anyhow!(
                "the store is not there"
            )));
        }
        let (issue, over) = (append.issue.clone(), append.head.phase == "done");
        let begins = append.events.iter().any(|it| {
            matches!(
                it,
                Event::Requested(Effect::Start { .. } | Effect::Merge { .. })
            )
        });
        let ends = append
            .events
            .iter()
            .any(|it| matches!(it, Event::Done { .. }));
        let cancels = append
            .events
            .iter()
            .any(|it| matches!(it, Event::CancelAsked { .. }));
        let lines: Vec<String> = append
            .events
            .iter()
            .map(shared::issue::words::sentence)
            .collect();
        match self.inner.append(append).await {
            Err(AppendError::Conflict) => {
                self.view
                    .world()
                    .visit("two wrote at once, and one was refused");
                return Err(AppendError::Conflict);
            }
            other => other?,
        }
        {
            let mut world = self.view.world();
            for line in lines {
                world.note(line);
            }
            let spite = world.weather.spite;
            if begins && world.dice(spite) {
                world.spited.push(issue.clone());
            }
            if cancels {
                let now = world.now;
                world.cancelled.insert(issue.clone(), now);
            }
            if ends {
                world.cancelled.remove(&issue);
            }
            if over {
                world.open.remove(&issue);
                world.done.insert(issue);
            } else {
                world.done.remove(&issue);
                world.open.insert(issue);
            }
        }
        self.view.give_way().await;
        if self.view.world().dice(chance) {
            self.view
                .world()
                .visit("the store wrote and its answer was lost");
            return Err(AppendError::Failed(anyhow::anyhow!(
                "the answer of the store was lost"
            )));
        }
        Ok(())
    }

    async fn attention(&self, now: Time, limit: usize) -> anyhow::Result<Vec<Head>> {
        self.view.give_way().await;
        self.inner.attention(now, limit).await
    }

    async fn find(&self, name: &str) -> anyhow::Result<Option<IssueId>> {
        self.inner.find(name).await
    }

    async fn heads(&self, before: Option<Time>, limit: usize) -> anyhow::Result<Vec<Head>> {
        self.inner.heads(before, limit).await
    }
}
