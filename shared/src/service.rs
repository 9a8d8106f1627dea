//! The three roles in one process: wake-ups drive issues, an interval looks.
//!
//! Wake-ups carry nothing but an id. One that is lost is made good by the next
//! look, so every queue here may drop what does not fit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, error, info};

use crate::engine::{Engine, Rest, Work};
use crate::issue::{IssueId, Time};

/// The wake-ups that may wait.
const WAKES_MAX: usize = 10_000;
/// Drives of issues at the same time.
const DRIVES_AT_ONCE: usize = 64;
/// Drives of one issue at the same time. More than one, so that what has become
/// due need not wait for a slow call that an earlier one is in.
const DRIVES_PER_ISSUE: usize = 3;
/// How long work that is under way may take to come to an end after a stop was asked for.
const FAREWELL: Duration = Duration::from_secs(10);
/// The shortest pause between two looks, in seconds.
const POLL_SECONDS_MIN: f64 = 0.05;

/// Something to do for an issue, now.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wake {
    /// Something was recorded: make what is due.
    Act(IssueId),
    /// Something may have changed outside: ask.
    Look(IssueId),
    /// Something that holds for all issues has changed.
    LookAtAll,
}

/// Where wake-ups go in. Cheap to clone; never blocks.
#[derive(Clone)]
pub struct Bell(mpsc::Sender<Wake>);

/// Where they come out.
pub struct Wakes(mpsc::Receiver<Wake>);

/// A bell, and what hears it.
pub fn bell() -> (Bell, Wakes) {
    let (sender, receiver) = mpsc::channel(WAKES_MAX);
    (Bell(sender), Wakes(receiver))
}

impl Bell {
    pub fn act(&self, id: IssueId) {
        self.ring(Wake::Act(id));
    }

    pub fn look(&self, id: IssueId) {
        self.ring(Wake::Look(id));
    }

    pub fn look_at_all(&self) {
        self.ring(Wake::LookAtAll);
    }

    fn ring(&self, wake: Wake) {
        if self.0.try_send(wake).is_err() {
            debug!("a wake-up was dropped; the next look makes it good");
        }
    }
}

/// Drives all issues until `stop` comes.
pub async fn run(
    engine: Arc<Engine>,
    mut wakes: Wakes,
    poll_seconds: f64,
    stop: impl Future<Output = ()>,
) {
    let mut ticks = interval(Duration::from_secs_f64(poll_seconds.max(POLL_SECONDS_MIN)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work: JoinSet<Done> = JoinSet::new();
    let mut desk = Desk::default();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            Some(wake) = wakes.0.recv() => match wake {
                Wake::Act(id) => desk.act(id),
                Wake::Look(id) => { desk.to_look_at.insert(id); }
                Wake::LookAtAll => desk.look_at_all = true,
            },
            _ = ticks.tick() => desk.look_at_all = true,
            Some(done) = work.join_next() => match done {
                Ok(Done::Acted(id)) => desk.acted(&id),
                Ok(Done::Looked { work: seen, due }) => {
                    desk.looking = false;
                    desk.claimed.extend(seen);
                    for id in due {
                        desk.act(id);
                    }
                }
                Err(error) => {
                    // A bug: said once, loudly; the issue is taken up again by looking.
                    error!("work on an issue broke off: {error}");
                    desk.acting.clear();
                    desk.looking = false;
                }
            },
        }
        desk.hand_out(&engine, &mut work);
    }
    info!("stopping: what is under way comes to an end, what is owed is kept");
    let farewell = Instant::now() + FAREWELL;
    while let Ok(Some(_)) = tokio::time::timeout_at(farewell, work.join_next()).await {}
}

enum Done {
    Acted(IssueId),
    Looked { work: Vec<Work>, due: Vec<IssueId> },
}

/// What is to be done and what is being done.
#[derive(Default)]
struct Desk {
    waiting: BTreeSet<IssueId>,
    /// What a look has claimed. It goes before everything else, since claims lapse.
    claimed: Vec<Work>,
    /// Issues at work, and how many drives of them there are.
    acting: BTreeMap<IssueId, usize>,
    to_look_at: BTreeSet<IssueId>,
    look_at_all: bool,
    looking: bool,
}

impl Desk {
    fn act(&mut self, id: IssueId) {
        self.waiting.insert(id);
    }

    fn acted(&mut self, id: &IssueId) {
        if let Some(drives) = self.acting.get_mut(id) {
            *drives -= 1;
            if *drives == 0 {
                self.acting.remove(id);
            }
        }
    }

    /// An issue that waits and may be driven now.
    fn next(&mut self) -> Option<IssueId> {
        if self.acting.values().sum::<usize>() >= DRIVES_AT_ONCE {
            return None;
        }
        let free = |id: &&IssueId| self.acting.get(*id).is_none_or(|it| *it < DRIVES_PER_ISSUE);
        let id = self.waiting.iter().find(free)?.clone();
        self.waiting.remove(&id);
        Some(id)
    }

    fn hand_out(&mut self, engine: &Arc<Engine>, work: &mut JoinSet<Done>) {
        for claimed in self.claimed.drain(..) {
            let id = claimed.issue().clone();
            *self.acting.entry(id.clone()).or_default() += 1;
            let engine = Arc::clone(engine);
            work.spawn(async move {
                told(&id, engine.drive(claimed, Time::MAX).await);
                Done::Acted(id)
            });
        }
        while let Some(id) = self.next() {
            *self.acting.entry(id.clone()).or_default() += 1;
            let engine = Arc::clone(engine);
            work.spawn(async move {
                told(&id, engine.act(&id, Time::MAX).await);
                Done::Acted(id)
            });
        }
        if self.looking || (!self.look_at_all && self.to_look_at.is_empty()) {
            return;
        }
        self.looking = true;
        let everything = std::mem::take(&mut self.look_at_all);
        let some: Vec<IssueId> = std::mem::take(&mut self.to_look_at).into_iter().collect();
        let engine = Arc::clone(engine);
        work.spawn(async move {
            let looked = if everything {
                engine.look(Time::MAX).await.map(|it| (it.work, it.due))
            } else {
                let work = engine.look_at(&some, Time::MAX).await;
                work.map(|it| (it, Vec::new()))
            };
            let (work, due) = looked.unwrap_or_else(|error| {
                error!("could not look: {error:#}");
                Default::default()
            });
            Done::Looked { work, due }
        });
    }
}

fn told(id: &IssueId, driven: anyhow::Result<Rest>) {
    if let Err(error) = driven {
        error!(issue = %id, "could not drive the issue: {error:#}");
    }
}
