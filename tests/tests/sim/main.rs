//! The simulator: the whole core and engine under crashes, lost replies,
//! duplicates, races and bad weather, by seed.
//!
//! One thread. Activities are boxed futures, and a seeded generator picks which
//! to poll; a crash is dropping a process's futures where they stand; time moves
//! when the dice say so. After every step what must hold is checked; then the
//! weather clears and everything must come to rest.
//!
//! `SIM_SEEDS=20000` runs more seeds, `SIM_SEED=42` one, with its history.

mod books;
mod check;
mod forge;
mod hand;
mod ledger;
mod machine;
mod office;
mod people;
mod ports;
mod run;
mod store;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use jiff::SignedDuration;
use shared::engine::{Engine, Heard, Looked, Rest, Work};
use shared::guard::{Guarded, Guards, Rate};
use shared::issue::{ExecutorKind, IssueId, Time};
use shared::ports::{Executor, Hands, Log, Registers};
use shared::runner::queue::FarRunners;
use shared::store::memory::MemoryLog;

use self::hand::HEARTBEAT_SECONDS;
use self::machine::Machine;
use self::people::{Letter, Mail};
use self::ports::{Gate, Queue, Runs, View};
use self::store::Store;
use self::world::{Shared, Weather, World};

/// Seeds in every test run; `SIM_SEEDS` says otherwise.
const SEEDS: u64 = 500;
/// Steps under bad weather.
const STORM_STEPS: usize = 3_000;
/// The same where runners elsewhere have their share of the steps.
const FAR_STORM_STEPS: usize = 6_000;
/// Steps in which everything must have come to rest once the weather is clear.
const CALM_STEPS_MAX: usize = 400_000;
/// Processes that work on the one store.
const PROCESSES: usize = 2;
/// A guard gives up its store after this long; all that it does and the call
/// itself fit into a claim.
const GUARD_PATIENCE_SECONDS: i64 = 5;
const STARTS: Rate = Rate {
    turns: 10,
    seconds: 60,
};
const READS: Rate = Rate {
    turns: 60,
    seconds: 30,
};
/// Machines of runners, where there are any, and the repository of each. The
/// last one has another than the issues are about.
const MACHINES: [(&str, &str); 3] = [("mac-1", "main"), ("mac-2", "main"), ("mac-3", "docs")];
const HEARTBEAT: Duration = Duration::from_secs(HEARTBEAT_SECONDS.unsigned_abs());

/// Trouble that the seeds must have visited, or the simulation proves nothing.
const LANDMARKS: &[&str] = &[
    "a process crashed with work in its hands",
    "a reply was lost although the thing was done",
    "a call timed out before it took effect",
    "a call timed out after it took effect",
    "a doubtful start was found",
    "a doubtful start was not found",
    "a far run was created again after clean looks",
    "two wrote at once, and one was refused",
    "the store failed before it wrote",
    "the store wrote and its answer was lost",
    "Linear refused to say a thing twice",
    "Linear delivered a thing again",
    "somebody was too busy",
    "a wake-up was lost",
    "a drive ran out of time",
    "a claim lapsed",
    "a head moved after the run was over",
    "a merge was refused because the head had moved",
    "a merge was refused because it conflicts",
    "an update was refused because the head had moved",
    "an update was refused because it conflicts",
    "a pull request was brought up to date",
    "a merge left a conflict behind",
    "a conflict was resolved by a repair",
    "a red check was run again and turned green",
    "a repair was begun",
    "a run was gone on with",
    "a repair was pushed",
    "what was not good enough was begun afresh",
    "a task was given up after repairs and attempts",
    "the commands found a fault",
    "a reviewer wanted changes",
    "a judge was sent away because the head had moved",
    "a person approved of a commit",
    "what was merged had stood commands and a review",
    "a pull request that nobody wanted was closed",
    "a plan was refused",
    "a run was tried again",
    "a run overran",
    "a round was cancelled while a start was under way",
    "a round was cancelled while a merge was under way",
    "a round was cancelled while it was planned",
    "a round was opened again",
    "a round was taken up after a cancellation",
    "what failed was taken up again when all was over",
    "what failed was taken up again while others worked",
    "something was held up",
    "a second session joined",
    "a person merged",
    "a person closed a pull request",
    "a task was skipped",
    "a round succeeded",
    "a round failed",
    "a round was cancelled",
    "a message reached a run",
    "a message came too late for its run",
    "a run was told a message again",
    "a message reached a run by a heartbeat",
    "a lease lapsed and another runner took the job",
    "a lease lapsed and the same runner took the job again",
    "a late result was refused",
    "a result came twice",
    "a runner crashed before its first heartbeat",
    "a runner crashed after its first heartbeat",
    "a runner restarted and went on",
    "a runner took up the session of an agent that had died",
    "a runner slept past its lease",
    "a runner was told to stop by a heartbeat",
    "a runner was told that its job is not its own",
    "a runner did not push what was not wanted any more",
    "an impostor was refused",
    "the answer to a lease was lost",
    "the answer to a heartbeat was lost",
    "the answer to a result was lost",
    "the control plane died while it served a runner",
    "a run was refused by the limit of a task",
    "a run was refused by the limit of an issue",
    "a run was refused by the limit of a day",
    "there was money again",
    "two wanted the last money of a day at once, and one was refused by the store",
    "a day ended with money reserved",
    "a person raised a limit",
    "an operator raised the limits",
    "an alert was told once",
    "a run overshot its cap",
    "a run did not say what it had cost",
    "a run said nonsense about its cost",
    "an approval was asked for",
    "an approval was given",
    "an approval was refused",
    "a person wanted another plan",
    "all was paused",
    "something waited for the end of a pause",
    "a run was stopped by a pause",
    "a start was refused by the switch at the last moment",
    "an executor was down and a task went elsewhere",
    "a task waited for its executor",
    "an executor that was waited for was back",
    "a breaker was half open",
];

type Activity = Pin<Box<dyn Future<Output = Finished>>>;

/// What an activity leaves behind when it is over.
enum Finished {
    Heard(Box<Letter>, anyhow::Result<Heard>),
    Acted(IssueId),
    Looked(anyhow::Result<Looked>),
    Driven,
}

struct Process {
    engine: Arc<Engine>,
    activities: Vec<Activity>,
    acting: BTreeSet<IssueId>,
    looking: bool,
}

struct Simulation {
    world: Shared,
    log: Arc<MemoryLog>,
    processes: Vec<Process>,
    /// Machines of runners; none where the local executor is ours.
    machines: Vec<Machine>,
    mail: Mail,
    calm: bool,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let world: Shared = Arc::new(Mutex::new(World::new(seed)));
        let log = Arc::new(MemoryLog::default());
        let mail = Mail::write(&mut world.lock().expect("one thread"));
        let processes = (0..PROCESSES).map(|_| process(&world, &log)).collect();
        let far = world.lock().expect("one thread").far;
        let machines = if far {
            MACHINES
                .map(|(name, repository)| machine(&world, &log, name, repository))
                .into()
        } else {
            Vec::new()
        };
        Self {
            world,
            log,
            processes,
            machines,
            mail,
            calm: false,
        }
    }

    fn world(&self) -> std::sync::MutexGuard<'_, World> {
        self.world.lock().expect("one thread")
    }

    /// One thing happens, somewhere.
    fn step(&mut self) {
        let (dice, crash) = {
            let mut world = self.world();
            (world.rng.u32(0..1000), world.weather.crash)
        };
        if dice < crash {
            self.crash();
        } else if dice < 250 && !self.machines.is_empty() {
            let at = self.world().rng.usize(0..self.machines.len());
            self.machines[at].step();
        } else if dice < 700 {
            self.poll_one();
        } else if dice < 800 {
            self.deliver();
        } else if dice < 900 {
            self.look();
        } else {
            self.pass_time();
        }
        check::always(&mut self.world());
    }

    fn crash(&mut self) {
        let at = self.world().rng.usize(0..self.processes.len());
        let lost = std::mem::replace(&mut self.processes[at], process(&self.world, &self.log));
        let mut world = self.world.lock().expect("one thread");
        world.note(format!(
            "process {at} crashed with {} activities",
            lost.activities.len()
        ));
        if !lost.acting.is_empty() {
            world.visit("a process crashed with work in its hands");
        }
        drop(world);
        // Dropping the futures where they stand is the crash. Letters that were
        // being heard were never answered: Linear sends them again.
        self.mail.unanswered();
        drop(lost);
    }

    fn poll_one(&mut self) {
        let busy: Vec<usize> = (0..self.processes.len())
            .filter(|at| !self.processes[*at].activities.is_empty())
            .collect();
        if busy.is_empty() {
            return;
        }
        let at = busy[self.world().rng.usize(0..busy.len())];
        let which = self
            .world()
            .rng
            .usize(0..self.processes[at].activities.len());
        let mut context = Context::from_waker(Waker::noop());
        let process = &mut self.processes[at];
        let Poll::Ready(finished) = process.activities[which].as_mut().poll(&mut context) else {
            return;
        };
        drop(process.activities.swap_remove(which));
        match finished {
            Finished::Heard(letter, result) => {
                let issue = letter.issue.clone();
                if self.mail.answered(
                    *letter,
                    &result,
                    &mut self.world.lock().expect("one thread"),
                ) {
                    self.wake(at, issue);
                }
            }
            Finished::Acted(id) => {
                process.acting.remove(&id);
            }
            Finished::Looked(result) => {
                process.looking = false;
                let Ok(looked) = result else { return };
                for work in looked.work {
                    self.drive(at, work);
                }
                for id in looked.due {
                    self.wake(at, id);
                }
            }
            Finished::Driven => {}
        }
    }

    /// What a look has claimed is made by the process that looked, if it lives so long.
    fn drive(&mut self, at: usize, work: Work) {
        let engine = Arc::clone(&self.processes[at].engine);
        let until = self.time_left();
        self.processes[at].activities.push(Box::pin(async move {
            let _ = engine.drive(work, until).await;
            Finished::Driven
        }));
    }

    /// Now and then, as in a function, little time is left.
    fn time_left(&self) -> Time {
        let mut world = self.world();
        let left = world.seconds(-1..=10);
        if world.dice(100) {
            world.now + left
        } else {
            Time::MAX
        }
    }

    /// A wake-up carries nothing but an id, and may be lost.
    fn wake(&mut self, at: usize, id: IssueId) {
        let lost = {
            let mut world = self.world();
            let chance = world.weather.lost_wake;
            let lost = world.dice(chance);
            if lost {
                world.visit("a wake-up was lost");
            }
            lost
        };
        let until = self.time_left();
        let process = &mut self.processes[at];
        if lost || !process.acting.insert(id.clone()) {
            return;
        }
        let engine = Arc::clone(&process.engine);
        let world = Arc::clone(&self.world);
        process.activities.push(Box::pin(async move {
            // What fails here is found again by looking.
            if let Ok(Rest::OutOfTime) = engine.act(&id, until).await {
                let mut world = world.lock().expect("one thread");
                world.visit("a drive ran out of time");
            }
            Finished::Acted(id)
        }));
    }

    fn deliver(&mut self) {
        let at = self.world().rng.usize(0..self.processes.len());
        let Some(letter) = self.mail.next(&mut self.world.lock().expect("one thread")) else {
            return;
        };
        let engine = Arc::clone(&self.processes[at].engine);
        self.processes[at].activities.push(Box::pin(async move {
            let result = engine.hear(&letter.issue, letter.input.clone()).await;
            Finished::Heard(Box::new(letter), result)
        }));
    }

    fn look(&mut self) {
        let at = self.world().rng.usize(0..self.processes.len());
        let until = self.time_left();
        let process = &mut self.processes[at];
        if std::mem::replace(&mut process.looking, true) {
            return;
        }
        let engine = Arc::clone(&process.engine);
        process.activities.push(Box::pin(async move {
            Finished::Looked(engine.look(until).await)
        }));
    }

    fn pass_time(&mut self) {
        let calls_under_way = self.processes.iter().any(|it| !it.activities.is_empty())
            || self.machines.iter().any(Machine::is_busy);
        let mut world = self.world.lock().expect("one thread");
        // Mostly little; now and then much, as when a laptop wakes up.
        let milliseconds = match world.rng.u32(0..100) {
            0 if !self.calm => world.rng.i64(0..=200_000),
            1..40 if !calls_under_way => world.rng.i64(0..=40_000),
            _ => world.rng.i64(0..=3_000),
        };
        world.pass(SignedDuration::from_millis(milliseconds));
        people::meddle(&mut world, self.calm);
        office::operate(&self.log, &mut world, self.calm);
        if self.calm {
            self.mail.remind(&mut world);
        }
    }

    fn at_rest(&self) -> bool {
        self.mail.is_empty()
            && self.processes.iter().all(|it| it.acting.is_empty())
            && self.machines.iter().all(Machine::is_idle)
            && self.world().open.is_empty()
    }

    /// Plays the whole of it.
    fn play(mut self) -> Shared {
        let storm = if self.machines.is_empty() {
            STORM_STEPS
        } else {
            FAR_STORM_STEPS
        };
        for _ in 0..storm {
            self.step();
        }
        {
            let mut world = self.world();
            // That work is not good enough is no weather: it comes to an end by itself.
            let Weather {
                red,
                head_moves,
                conflicts,
                objections,
                ..
            } = world.weather;
            world.weather = Weather {
                red,
                head_moves,
                conflicts,
                objections,
                ..Weather::clear()
            };
            world.note("the weather clears".into());
            let now = world.now;
            world.ledger.calm(now);
        }
        self.machines.iter_mut().for_each(Machine::calm);
        self.calm = true;
        let mut steps = 0;
        while !self.at_rest() {
            self.step();
            steps += 1;
            if steps > CALM_STEPS_MAX {
                let state = check::restless(&self.log, &self.world());
                self.world()
                    .broken
                    .push(format!("it did not come to rest: {state}"));
                break;
            }
        }
        check::at_the_end(&self.log, &mut self.world(), &self.mail);
        self.world
    }
}

fn process(world: &Shared, log: &Arc<MemoryLog>) -> Process {
    let view = View(Arc::clone(world));
    let store = Arc::new(Store::new(&view, log));
    // Who guards an executor has no time for a store that does not answer.
    let registers = Arc::new(Store {
        brisk: true,
        patience_seconds: GUARD_PATIENCE_SECONDS,
        ..Store::new(&view, log)
    });
    let runs = |kind| -> Arc<dyn Executor> {
        Arc::new(Runs {
            view: view.clone(),
            kind,
        })
    };
    let guarded = |inner| -> Arc<dyn Executor> {
        let guards = Guards {
            account: "us".into(),
            credential: Arc::new(|| "a secret".into()),
            starts: STARTS,
            reads: READS,
            reads_per_search: 2,
        };
        let registers = Arc::clone(&registers) as Arc<dyn Registers>;
        Arc::new(Guarded::new(
            inner,
            guards,
            registers,
            Arc::new(view.clone()),
        ))
    };
    let (far, guards_local) = {
        let world = view.world();
        (world.far, world.office.guards_local)
    };
    let local: Arc<dyn Executor> = if far {
        let registers = Arc::clone(&store);
        Arc::new(Queue {
            view: view.clone(),
            inner: FarRunners::new(registers, Arc::new(view.clone()), HEARTBEAT),
        })
    } else if guards_local {
        guarded(runs(ExecutorKind::Local))
    } else {
        runs(ExecutorKind::Local)
    };
    let executors = [local, guarded(runs(ExecutorKind::Codegen))];
    let executors = executors.map(|inner| -> Arc<dyn Executor> {
        Arc::new(Gate {
            view: view.clone(),
            inner,
        })
    });
    let engine = Engine::new(Hands {
        log: Arc::clone(&store) as Arc<dyn Log>,
        registers: store,
        tracker: Arc::new(view.clone()),
        forge: Arc::new(view.clone()),
        executors: executors.into(),
        policies: Arc::new(view.clone()),
        clock: Arc::new(view),
    });
    Process {
        engine: Arc::new(engine),
        activities: Vec::new(),
        acting: BTreeSet::new(),
        looking: false,
    }
}

fn machine(world: &Shared, log: &Arc<MemoryLog>, name: &str, repository: &str) -> Machine {
    let view = View(Arc::clone(world));
    let store = Arc::new(Store {
        brisk: true,
        ..Store::new(&view, log)
    });
    let queue = FarRunners::new(store, Arc::new(view.clone()), HEARTBEAT);
    Machine::new(view, Arc::new(queue), name, repository)
}

fn play(seed: u64) -> Shared {
    // What the guards do takes place within a time limit. Its clock stands
    // still: here time is the world's.
    let time = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a clock");
    let _entered = time.enter();
    Simulation::new(seed).play()
}

#[test]
fn nothing_is_forgotten_doubled_or_revived() {
    if let Some(seed) = std::env::var("SIM_SEED")
        .ok()
        .and_then(|it| it.parse().ok())
    {
        let world = play(seed);
        let world = world.lock().expect("one thread");
        println!("{}", world.trace.join("\n"));
        assert!(world.broken.is_empty(), "seed {seed}: {:#?}", world.broken);
        return;
    }
    let seeds = std::env::var("SIM_SEEDS")
        .ok()
        .and_then(|it| it.parse().ok())
        .unwrap_or(SEEDS);
    let mut landmarks: BTreeMap<&str, u64> = LANDMARKS.iter().map(|it| (*it, 0)).collect();
    let mut broken = Vec::new();
    let parts: Vec<(BTreeMap<&str, u64>, Vec<String>)> = std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
        let handles: Vec<_> = (0..threads)
            .map(|part| {
                scope.spawn(move || {
                    let mut landmarks: BTreeMap<&str, u64> = BTreeMap::new();
                    let mut broken = Vec::new();
                    for seed in (0..seeds).filter(|seed| seed % threads == part) {
                        let world = play(seed);
                        let world = world.lock().expect("one thread a seed");
                        for (landmark, times) in &world.landmarks {
                            *landmarks.entry(landmark).or_default() += times;
                        }
                        if let Some(first) = world.broken.first() {
                            broken.push(format!("SIM_SEED={seed}: {first}"));
                        }
                    }
                    (landmarks, broken)
                })
            })
            .collect();
        handles
            .into_iter()
            .map(|it| it.join().expect("a part of the seeds panicked"))
            .collect()
    });
    for (part, mut broke) in parts {
        for (landmark, times) in part {
            *landmarks.entry(landmark).or_default() += times;
        }
        broken.append(&mut broke);
    }
    println!("{seeds} seeds; landmarks visited:");
    for (landmark, times) in &landmarks {
        println!("{times:>8}  {landmark}");
    }
    assert!(
        broken.is_empty(),
        "{} of {seeds} seeds broke:\n{}",
        broken.len(),
        broken.join("\n")
    );
    let missed: Vec<_> = landmarks.iter().filter(|(_, times)| **times == 0).collect();
    assert!(
        missed.is_empty() || seeds < SEEDS,
        "never visited: {missed:?}"
    );
}

#[test]
fn same_seed_same_history() {
    for seed in [5, 7, 42] {
        let (one, two) = (play(seed), play(seed));
        let (one, two) = (
            one.lock().expect("one thread"),
            two.lock().expect("one thread"),
        );
        assert!(one.trace.len() > 100, "a history worth comparing");
        assert_eq!(one.trace, two.trace);
    }
}
