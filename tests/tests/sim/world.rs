//! The simulated world: every port, in one thread, with its own time and its
//! own weather. Each call yields before and after it takes effect, and may fail
//! at either point, so a reply can be lost although the thing was done.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use jiff::SignedDuration;
use shared::issue::{
    Activity, Brief, ExecutorKind, FailureClass, IssueId, Policy, PullState, RunId, SessionId,
    Sight, Stage, TaskKind, Time, utc_day,
};
use shared::ports::{Job, PlanItem};
use uuid::Uuid;

use crate::books::Books;
use crate::forge::PullRequest;
use crate::ledger::{Holder, Ledger};
use crate::office::Office;
use crate::run::{Fate, Run, depends_on, plan};

/// No call takes longer than this: then its caller hears of a timeout, and it
/// takes no effect any more. Shorter than a lease, as in the adapters.
pub(crate) const CALL_SECONDS_MAX: i64 = 20;
/// A run shows up in the far list after at most this long; shorter than the
/// time over which a doubtful start is looked for.
const LIST_LAG_SECONDS_MAX: i64 = 25;

/// What was claimed before a cancellation may still take effect this long
/// after it: a lease, and the longest call.
const AFTERMATH_SECONDS_MAX: i64 = shared::issue::LEASE_SECONDS_MAX + CALL_SECONDS_MAX;
/// A run of a cancelled issue is asked to stop within this, whatever the weather.
const STOP_SECONDS_MAX: i64 = 900;

/// A world begins at noon, or so many evenings' times later: at 17:57 or 23:54.
const EVENING_SECONDS: i64 = 21_420;
const NOON: Time = Time::constant(1_795_176_000, 0);
/// A run that goes over its cap costs so many times the cap.
const OVERSHOOT: f64 = 1.1;

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
    pub(crate) conflicts: u32,
    /// A reviewer wants changes, or commands fail.
    pub(crate) objections: u32,
    pub(crate) store_fault: u32,
    pub(crate) spite: u32,
    pub(crate) remarks: u32,
    /// What runs cost, and what they say of it.
    pub(crate) overshoot: u32,
    pub(crate) cost_unknown: u32,
    pub(crate) cost_nonsense: u32,
    /// What happens to the machines of runners.
    pub(crate) machine_crash: u32,
    pub(crate) machine_freezes: u32,
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
            conflicts: 0,
            objections: 0,
            store_fault: 0,
            spite: 0,
            remarks: 0,
            overshoot: 0,
            cost_unknown: 0,
            cost_nonsense: 0,
            machine_crash: 0,
            machine_freezes: 0,
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
            red: chance(300),
            head_moves: chance(500),
            conflicts: chance(300),
            objections: chance(400),
            store_fault: chance(40),
            spite: chance(60),
            remarks: chance(1_000),
            overshoot: chance(400),
            cost_unknown: chance(250),
            cost_nonsense: chance(250),
            machine_crash: chance(60),
            machine_freezes: chance(40),
        }
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Time,
    pub(crate) rng: fastrand::Rng,
    pub(crate) weather: Weather,
    /// Jobs of the local executor are done by runners elsewhere.
    pub(crate) far: bool,
    pub(crate) ledger: Ledger,
    /// What operators do.
    pub(crate) office: Office,
    /// The money, by the logs alone.
    pub(crate) books: Books,
    pub(crate) runs: Vec<Run>,
    pub(crate) pulls: Vec<PullRequest>,
    /// How often the base branch has moved.
    pub(crate) merges: u64,
    /// What stands in each session, in order.
    pub(crate) said: BTreeMap<SessionId, Vec<(Uuid, Activity)>>,
    /// What people were asked and have not thought about yet.
    pub(crate) asked: Vec<(SessionId, Vec<String>)>,
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
    /// Issues that a person writes to just when an agent works.
    pub(crate) remarked: Vec<IssueId>,
    /// Issues that a person has stopped in this round, and since when.
    pub(crate) cancelled: BTreeMap<IssueId, Time>,
}

pub(crate) type Shared = Arc<Mutex<World>>;

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let weather = Weather::of(&mut rng);
        let office = Office::draw(&mut rng);
        // Many days end soon.
        let begin = NOON + SignedDuration::from_secs(rng.i64(0..=2) * EVENING_SECONDS);
        Self {
            now: begin,
            far: rng.bool(),
            rng,
            weather,
            ledger: Ledger::default(),
            office,
            books: Books::default(),
            asked: Vec::new(),
            runs: Vec::new(),
            pulls: Vec::new(),
            merges: 0,
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
            remarked: Vec::new(),
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

    pub(crate) fn seconds(&mut self, range: std::ops::RangeInclusive<i64>) -> SignedDuration {
        SignedDuration::from_millis(self.rng.i64(range.start() * 1000..=range.end() * 1000))
    }

    pub(crate) fn broke(&mut self, what: String) {
        self.note(format!("BROKEN: {what}"));
        self.broken.push(what);
    }

    /// Lets the world go on: runs end, and hand in what they made.
    pub(crate) fn pass(&mut self, by: SignedDuration) {
        let yesterday = utc_day(self.now);
        self.now += by;
        if utc_day(self.now) != yesterday && self.books.reserved_on(yesterday) > 0 {
            self.visit("a day ended with money reserved");
        }
        for at in 0..self.runs.len() {
            let run = self.runs[at].clone();
            let ended_well = run.ends.is_some_and(|ends| ends <= self.now)
                && run
                    .stopped
                    .is_none_or(|stopped| run.ends.is_some_and(|ends| ends < stopped))
                && run.fate == Fate::Succeeds
                && !run.vanished;
            // Runners elsewhere push by themselves.
            let ours = run.holder.is_none();
            if ours && ended_well && run.job.makes_pull() && !run.handed_in {
                self.runs[at].handed_in = true;
                self.hand_in(&run);
            }
        }
        self.pass_at_the_forge();
    }

    /// Makes a run, or goes on with the one that is to be mended.
    pub(crate) fn begin(&mut self, executor: ExecutorKind, job: &Job) -> RunId {
        let known = job.repair.as_ref().and_then(|it| it.run.as_ref());
        let known = known.filter(|_| executor == ExecutorKind::Codegen);
        let Some(at) = known.and_then(|id| self.runs.iter().position(|it| it.id == *id)) else {
            return self.create(executor, job, None);
        };
        // Under another key it is a run of its own until it gets the old one's name.
        let id = self.runs[at].id.clone();
        let fresh = self.create(executor, job, None);
        let last = self.runs.len() - 1;
        self.runs[at].id = RunId(format!("{id} before {fresh}"));
        self.runs[last].id = id.clone();
        self.visit("a run was gone on with");
        id
    }

    pub(crate) fn create(
        &mut self,
        executor: ExecutorKind,
        job: &Job,
        holder: Option<&Holder>,
    ) -> RunId {
        let again = |run: &Run| run.job.key == job.key && run.holder.as_ref() == holder;
        if self.runs.iter().any(again) {
            self.broke(format!(
                "a second run for the key of {}/{}",
                job.identifier, job.branch
            ));
        }
        // A repair goes on with an attempt, and judges are asked about every commit.
        let anew = job.repair.is_some() || job.commit.is_some();
        let twin = self.runs.iter().any(|run| {
            !anew
                && run.job.repair.is_none()
                && run.job.issue == job.issue
                && run.job.branch == job.branch
                && run.job.task == job.task
                // Runner after runner may have taken one job.
                && (run.job.key != job.key || run.holder.is_none())
        });
        if twin {
            self.broke(format!("a second run of one attempt: {}", job.branch));
        }
        if let Some(holder) = holder {
            // Whether it was told to go on, the ledger has seen.
            if self.ledger.was_told(holder) {
                self.broke(format!("{holder} began what it was told to end"));
            }
        } else {
            if self.done.contains(&job.issue) {
                self.broke(format!(
                    "a run of {} after its round was over",
                    job.identifier
                ));
            }
            self.check_cancelled(&job.issue, "a run was made");
        }
        self.check_dependencies(job);
        if job.repair.is_some() {
            self.visit("a repair was begun");
        }
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
        let objections = self.weather.objections;
        let fate = if job.kind == TaskKind::Verifier && self.dice(objections) {
            self.visit("the commands found a fault");
            Fate::Fails(FailureClass::Agent)
        } else if job.kind == TaskKind::Reviewer && self.dice(objections) {
            self.visit("a reviewer wanted changes");
            Fate::Objects
        } else if self.dice(fails) {
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
        if executor == ExecutorKind::Local {
            let (spite, remarks) = (self.weather.spite, self.weather.remarks);
            if self.dice(remarks) {
                self.remarked.push(job.issue.clone());
            }
            if holder.is_some() && self.dice(spite) {
                self.spited.push(job.issue.clone());
            }
        }
        let vanishes = self.weather.run_vanishes;
        let vanished = self.dice(vanishes);
        let cost = self.cost(executor, job, holder.is_some());
        self.runs.push(Run {
            id: id.clone(),
            executor,
            job: job.clone(),
            created: self.now,
            visible,
            holder: holder.cloned(),
            ends,
            fate,
            cost,
            stopped: None,
            vanished,
            handed_in: false,
            broken_off: false,
            heard: Vec::new(),
        });
        let by = holder.map(|it| format!(" at {it}")).unwrap_or_default();
        self.note(format!("{executor} made {id}{by} for {}", job.branch));
        id
    }

    /// What a run will say that it has cost. Who keeps to a cap may still be over
    /// it by its last step.
    fn cost(&mut self, executor: ExecutorKind, job: &Job, far: bool) -> Option<f64> {
        if executor == ExecutorKind::Codegen {
            return None;
        }
        // Such figures have more digits than any account.
        let usd = f64::from(self.rng.u32(0..=6_000_000)) / 10_000_000.0;
        let (overshoot, unknown, nonsense) = (
            self.weather.overshoot,
            self.weather.cost_unknown,
            self.weather.cost_nonsense,
        );
        if self.dice(unknown) {
            self.visit("a run did not say what it had cost");
            return None;
        }
        if self.dice(nonsense) {
            self.visit("a run said nonsense about its cost");
            // What goes over the network is JSON, which has no such figures.
            let figures = if far { 2 } else { 4 };
            return Some([-1.0, 1e12, f64::NAN, f64::INFINITY][self.rng.usize(0..figures)]);
        }
        match job.cost_max {
            Some(cap) if self.dice(overshoot) => Some(cap * OVERSHOOT),
            Some(cap) => Some(usd.min(cap)),
            None => Some(usd),
        }
    }

    /// What a run says at a heartbeat that it has cost: it may shrink, too.
    pub(crate) fn cost_so_far(&mut self) -> Option<f64> {
        let nonsense = self.weather.cost_nonsense;
        if self.dice(nonsense) {
            return [None, Some(-1.0), Some(1e12)][self.rng.usize(0..3)];
        }
        Some(f64::from(self.rng.u32(0..=10)) / 100.0)
    }

    /// Invariant 6: what a cancelled issue has not begun, it does not begin.
    pub(crate) fn check_cancelled(&mut self, issue: &IssueId, what: &str) {
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
            if let Some(holder) = &run.holder {
                let outlived = self.ledger.outlived(holder, now);
                return outlived.then(|| format!("{} outlived what it was wanted for", run.id));
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

    pub(crate) fn sight(&mut self, id: &RunId) -> Sight {
        let now = self.now;
        let Some(run) = self.runs.iter().find(|run| run.id == *id) else {
            return Sight::Gone;
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
        Sight::Ended(run.ending(now))
    }
}
