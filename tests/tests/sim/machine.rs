//! The machines of runners elsewhere: what they do at once, when they crash,
//! sleep and come back. What they do with one job is `hand`'s business.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use shared::issue::Time;
use shared::runner::document::{JobDoc, LeaseAsk};
use shared::runner::queue::FarRunners;

use crate::hand::{Disk, HEARTBEAT_SECONDS, Hand, Stage};
use crate::ports::View;

/// The jobs that one runner works on at once.
const SLOTS: usize = 2;
/// A machine is down, or sleeps, for at most this long.
const ABSENCE_SECONDS_MAX: i64 = 400;
/// What a machine does at each step: its calls are short.
const POLLS: usize = 4;

type Activity = Pin<Box<dyn Future<Output = Finished>>>;

enum Finished {
    Leased(Vec<JobDoc>),
    Tended,
}

/// What a machine does at once.
struct Doing {
    activity: Activity,
    /// It sleeps until then.
    wakes: Rc<Cell<Time>>,
    stage: Rc<Cell<Stage>>,
}

/// The machine of a runner. What it has written down outlives its crashes.
pub(crate) struct Machine {
    view: View,
    queue: Arc<FarRunners>,
    ask: LeaseAsk,
    doing: Vec<Doing>,
    leasing: Option<Doing>,
    /// Down, or asleep, until then.
    absent: Option<(Time, Absence)>,
    disk: Disk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Absence {
    Down,
    Asleep,
}

impl Machine {
    pub(crate) fn new(view: View, queue: Arc<FarRunners>, name: &str, repository: &str) -> Self {
        let ask = LeaseAsk {
            runner: name.to_owned(),
            slots_free: 0,
            repositories: vec![repository.to_owned()],
            agents: vec!["claude".into()],
            wait_seconds: 0,
        };
        Self {
            view,
            queue,
            ask,
            doing: Vec::new(),
            leasing: None,
            absent: None,
            disk: Rc::default(),
        }
    }

    /// Is something under way that takes no long time?
    pub(crate) fn is_busy(&self) -> bool {
        let now = self.view.world().now;
        self.absent.is_none() && self.all().any(|it| it.wakes.get() <= now)
    }

    /// Has it nothing in its hands?
    pub(crate) fn is_idle(&self) -> bool {
        self.doing.is_empty() && self.disk.borrow().is_empty()
    }

    /// The weather has cleared: it comes back as it is.
    pub(crate) fn calm(&mut self) {
        if let Some((until, _)) = &mut self.absent {
            *until = Time::MIN;
        }
    }

    fn all(&self) -> impl Iterator<Item = &Doing> {
        self.doing.iter().chain(&self.leasing)
    }

    /// Something happens at this machine.
    pub(crate) fn step(&mut self) {
        let (now, crashes, freezes) = {
            let mut world = self.view.world();
            let weather = world.weather.clone();
            // Rather when there is something to lose.
            let calm = if self.doing.is_empty() { 10 } else { 1 };
            let crashes = weather.machine_crash / calm;
            let freezes = weather.machine_freezes / calm;
            (world.now, world.dice(crashes), world.dice(freezes))
        };
        match self.absent {
            Some((until, _)) if now < until => return,
            Some((_, absence)) => self.come_back(absence),
            None if crashes => return self.crash(now),
            None if freezes => return self.fall_asleep(now),
            None => {}
        }
        for _ in 0..POLLS {
            self.poll_one();
        }
    }

    fn poll_one(&mut self) {
        if self.leasing.is_none() && self.doing.len() < SLOTS {
            self.ask_for_work();
        }
        let now = self.view.world().now;
        let awake: Vec<usize> = (0..self.doing.len() + usize::from(self.leasing.is_some()))
            .filter(|at| self.all().nth(*at).is_some_and(|it| it.wakes.get() <= now))
            .collect();
        if awake.is_empty() {
            return;
        }
        let at = awake[self.view.world().rng.usize(0..awake.len())];
        let mut context = Context::from_waker(Waker::noop());
        let doing = self.doing.get_mut(at).or(self.leasing.as_mut());
        let Some(Poll::Ready(finished)) = doing.map(|it| it.activity.as_mut().poll(&mut context))
        else {
            return;
        };
        match finished {
            Finished::Leased(jobs) => {
                self.leasing = None;
                for job in jobs {
                    self.take(job, Stage::Unconfirmed);
                }
            }
            Finished::Tended => drop(self.doing.swap_remove(at)),
        }
    }

    fn hand(&self, stage: Stage) -> Hand {
        Hand {
            view: self.view.clone(),
            queue: Arc::clone(&self.queue),
            ask: self.ask.clone(),
            wakes: Rc::new(Cell::new(Time::MIN)),
            stage: Rc::new(Cell::new(stage)),
            disk: Rc::clone(&self.disk),
        }
    }

    fn ask_for_work(&mut self) {
        let mut hand = self.hand(Stage::Unconfirmed);
        hand.ask.slots_free = SLOTS - self.doing.len();
        let (wakes, stage) = (Rc::clone(&hand.wakes), Rc::clone(&hand.stage));
        let activity = Box::pin(async move { Finished::Leased(hand.lease().await) });
        self.leasing = Some(Doing {
            activity,
            wakes,
            stage,
        });
    }

    fn take(&mut self, doc: JobDoc, stage: Stage) {
        let hand = self.hand(stage);
        let (wakes, stage) = (Rc::clone(&hand.wakes), Rc::clone(&hand.stage));
        let activity = Box::pin(async move {
            hand.begin(&doc).await;
            Finished::Tended
        });
        self.doing.push(Doing {
            activity,
            wakes,
            stage,
        });
    }

    fn crash(&mut self, now: Time) {
        let mut world = self.view.world();
        for it in &self.doing {
            world.visit(match it.stage.get() {
                Stage::Unconfirmed => "a runner crashed before its first heartbeat",
                Stage::Confirmed | Stage::Working => "a runner crashed after its first heartbeat",
            });
        }
        // Agents live on under their supervisors, unless all of the machine goes down.
        if world.rng.bool() {
            let agents = world.runs.iter_mut().filter(|run| {
                let ours = run
                    .holder
                    .as_ref()
                    .is_some_and(|it| it.runner == self.ask.runner);
                ours && run.alive(now)
            });
            agents.for_each(|it| it.broken_off = true);
        }
        let until = now + world.seconds(0..=ABSENCE_SECONDS_MAX);
        world.note(format!("the runner {} crashed", self.ask.runner));
        drop(world);
        self.absent = Some((until, Absence::Down));
        self.doing.clear();
        self.leasing = None;
    }

    fn fall_asleep(&mut self, now: Time) {
        let mut world = self.view.world();
        let until = now + world.seconds(0..=ABSENCE_SECONDS_MAX);
        world.note(format!("the runner {} fell asleep", self.ask.runner));
        let lapses = until.duration_since(now).as_secs() > 3 * HEARTBEAT_SECONDS;
        if lapses && self.doing.iter().any(|it| it.stage.get() == Stage::Working) {
            world.visit("a runner slept past its lease");
        }
        self.absent = Some((until, Absence::Asleep));
    }

    fn come_back(&mut self, absence: Absence) {
        self.absent = None;
        if absence == Absence::Asleep {
            return;
        }
        let note = format!("the runner {} starts again", self.ask.runner);
        self.view.world().note(note);
        let left: Vec<JobDoc> = self.disk.borrow().values().cloned().collect();
        for doc in left {
            self.take(doc, Stage::Confirmed);
        }
    }
}
