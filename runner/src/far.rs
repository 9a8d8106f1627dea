//! A runner for a control plane that runs elsewhere: asks for jobs, or has them
//! pushed to its `door`; has them done by the local executor, says how they go.
//! Not the control plane's half, which is [`shared::runner`]. Kept in the folder
//! `runner` of the home:
//!
//! | path | is |
//! |---|---|
//! | `lock` | held: a runner lives here |
//! | `number` | what tells it from others on a host of the same name |
//! | `leases/KEY.json` | a job that is ours, until its end was reported |
//! | `jobs`, `worktrees` | the local executor's |
//!
//! A job is leased, written down, and confirmed by a first heartbeat, so that a
//! lost answer or a crash never leaves an agent that nobody knows of; only then
//! does its agent start.

mod control;
mod door;
mod held;
mod home;
mod reach;
mod tend;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use secrecy::SecretString;
use shared::issue::Repository;
use shared::runner::document::{JobDoc, LeaseAsk};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{error, info, warn};

use self::control::Control;
use self::door::Door;
use self::held::Leases;
pub use self::home::{Home, host_name};
pub use self::reach::{Reached, reach};
use self::tend::{Bonds, Tender};
use crate::executor::{LocalExecutor, Options};

/// How long one request for work may be held back by the control plane.
const WAIT_SECONDS: u64 = 20;
/// Asking for work in vain takes at least this long, also where the control
/// plane answers at once: 8,640 requests a day from a runner that idles.
const IDLE_PAUSE: Duration = Duration::from_secs(10);
/// Pauses after a failure double from here …
pub(crate) const PAUSE_MIN: Duration = Duration::from_secs(1);
/// … up to here.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long ends that are known may take to be reported after a stop was asked for.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a runner works with.
pub struct FarOptions {
    /// For the executor; it works in `home`, whatever it says there, and wakes us.
    pub local: Options,
    pub home: Home,
    /// Where the control plane is, without a slash at its end.
    pub control_url: String,
    pub token: SecretString,
    pub name: String,
    /// What this machine has a clone of.
    pub repositories: Vec<Repository>,
    /// The agent programs it has.
    pub agents: Vec<String>,
    pub heartbeat: Duration,
    /// Where jobs are pushed to; `None`: we ask for them.
    pub listener: Option<TcpListener>,
    /// A number from 0 to 1, by chance: runners shall not all come back at once.
    pub random: fn() -> f64,
}

/// Works until `stop` comes. Agents go on under their supervisors then, and the
/// next start takes them up.
pub async fn run(options: FarOptions, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let FarOptions {
        local,
        home,
        control_url,
        token,
        name,
        repositories,
        agents,
        heartbeat,
        listener,
        random,
    } = options;
    let control = Control::new(&control_url, token, Arc::clone(&local.clock))?;
    let slots = local.concurrency;
    let (changed, _) = watch::channel(());
    let (stopping, stopped) = watch::channel(false);
    let bonds = Arc::new(Bonds::new(control, name.clone(), random));
    let executor = {
        let changed = changed.clone();
        let options = Options {
            home: home.path().to_path_buf(),
            wake: Arc::new(move |_| {
                changed.send_replace(());
            }),
            ..local
        };
        LocalExecutor::under(
            options,
            Arc::clone(&bonds) as Arc<dyn crate::executor::Tenure>,
        )
    };
    let ask = LeaseAsk {
        runner: name,
        slots_free: slots,
        repositories: repositories.iter().map(|it| it.id.clone()).collect(),
        agents,
        wait_seconds: WAIT_SECONDS,
    };
    let tender = Arc::new(Tender {
        bonds,
        executor,
        leases: Leases::open(&home.path().join("leases"))?,
        repositories,
        agents: ask.agents.clone(),
        heartbeat,
        changed,
        stopped,
    });
    let slots = Slots {
        free: Arc::new(Semaphore::new(slots)),
        all: slots,
    };
    let mut stop = std::pin::pin!(stop);
    let mut tends = JoinSet::new();
    let end = async {
        take_up(&tender, &slots, &mut tends).await?;
        match listener {
            Some(listener) => listen(&tender, listener, &slots, &mut tends).await,
            None => lease(&tender, ask, &slots, random, &mut tends).await,
        }
    };
    let ended = tokio::select! {
        () = &mut stop => Ok(()),
        ended = end => ended,
    };
    let _ = stopping.send(true);
    info!("stopping: agents work on, and the next start takes them up");
    let _ = timeout(FAREWELL, async {
        while tends.join_next().await.is_some() {}
    })
    .await;
    ended
}

/// How many jobs may be worked on at once.
struct Slots {
    free: Arc<Semaphore>,
    all: usize,
}

/// Goes on with what the last start left.
async fn take_up(
    tender: &Arc<Tender>,
    slots: &Slots,
    tends: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let left = tender
        .leases
        .all()
        .context("read the leases of the last start")?;
    let mut reclaims = JoinSet::new();
    for job in left {
        let tender = Arc::clone(tender);
        reclaims.spawn(async move { tender.reclaim(job).await });
    }
    // Nothing of them may move before it is known whether they are still ours.
    let mut ours = Vec::new();
    while let Some(reclaimed) = reclaims.join_next().await {
        ours.extend(reclaimed.context("take up the leases of the last start")?);
    }
    let jobs = tender
        .executor
        .resume()
        .await
        .context("take up the jobs of the last start")?;
    if jobs > 0 {
        info!(jobs, "took up the jobs that the last start left");
    }
    let keys: Vec<String> = ours.iter().map(|it| it.key().to_owned()).collect();
    for stray in tender.executor.others_than(&keys) {
        warn!(job = %stray, "nobody wants this job any more: it is ended");
        tender.end(&stray).await;
    }
    for hold in ours {
        let tender = Arc::clone(tender);
        // There may be more of them than slots, if there were more slots then.
        let slot = Arc::clone(&slots.free).try_acquire_owned().ok();
        tends.spawn(async move {
            tender.tend(hold).await;
            drop(slot);
        });
    }
    Ok(())
}

/// Takes jobs that are pushed.
async fn listen(
    tender: &Arc<Tender>,
    listener: TcpListener,
    slots: &Slots,
    tends: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let free = Arc::clone(&slots.free);
    let (door, mut incoming) = Door::new(Arc::clone(tender), free, slots.all);
    let serve = axum::serve(listener, door.router()).into_future();
    let mut serve = std::pin::pin!(serve);
    loop {
        tokio::select! {
            served = &mut serve => return served.context("serve the jobs' door"),
            Some((job, slot)) = incoming.recv() => spawn(tender, job, slot, tends),
        }
        while let Some(ended) = tends.try_join_next() {
            reap(ended);
        }
    }
}

/// Asks for work as long as there is a free slot.
async fn lease(
    tender: &Arc<Tender>,
    mut ask: LeaseAsk,
    slots: &Slots,
    random: fn() -> f64,
    tends: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(random);
    loop {
        while let Some(ended) = tends.try_join_next() {
            reap(ended);
        }
        ask.slots_free = slots.free.available_permits();
        if ask.slots_free == 0 {
            // Held until a job has ended.
            drop(slots.free.acquire().await);
            continue;
        }
        let asked = Instant::now();
        match tender.bonds.control.lease(&ask).await {
            Ok(jobs) => {
                backoff.reset();
                let none = jobs.is_empty();
                for job in jobs {
                    // More than were asked for wait for their turn.
                    let slot = Arc::clone(&slots.free).acquire_owned().await?;
                    spawn(tender, job, slot, tends);
                }
                if none {
                    sleep_until(asked + IDLE_PAUSE).await;
                }
            }
            Err(why) => {
                warn!("cannot ask for work: {why}");
                sleep(backoff.next()).await;
            }
        }
    }
}

fn spawn(tender: &Arc<Tender>, job: JobDoc, slot: OwnedSemaphorePermit, tends: &mut JoinSet<()>) {
    let tender = Arc::clone(tender);
    tends.spawn(async move {
        tender.begin(job).await;
        drop(slot);
    });
}

fn reap(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        // A bug: the lease lapses, and somebody else does the job.
        error!("work on a job broke off: {error}");
    }
}

/// Pauses that grow with every failure.
pub(crate) struct Backoff {
    pause: Duration,
    random: fn() -> f64,
}

impl Backoff {
    pub(crate) fn new(random: fn() -> f64) -> Self {
        Self {
            pause: PAUSE_MIN,
            random,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.pause = PAUSE_MIN;
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause.mul_f64(0.5 + (self.random)().clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let mut backoff = Backoff::new(|| 1.0);
        let pauses: Vec<u64> = (0..9).map(|_| backoff.next().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        backoff.reset();
        let mut least = Backoff::new(|| 0.0);
        assert_eq!((backoff.next(), least.next()), (PAUSE_MIN, PAUSE_MIN / 2));
    }
}
