//! One job in our hands: heartbeats while it is worked on, its result in the
//! end, and an end at once where it is not ours any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use shared::issue::{Ending, Failure, FailureClass, Repository, RunId, Sight};
use shared::ports::Executor as _;
use shared::runner::document::{Action, HeartbeatDoc, JobDoc, ResultDoc};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};

use super::Backoff;
use super::control::{Control, Taken};
use super::held::{Leases, local_key};
use crate::executor::{LocalExecutor, Tenure};

/// A lease lasts this many heartbeats, where the control plane does not say how long.
const HEARTBEATS_PER_LEASE: u32 = 3;

/// The jobs that are ours, and whom to ask whether they still are.
pub(super) struct Bonds {
    pub(super) control: Control,
    name: String,
    random: fn() -> f64,
    holds: Mutex<BTreeMap<String, Arc<Hold>>>,
}

/// A job that is ours as far as we know.
pub(super) struct Hold {
    /// What it is called here.
    key: String,
    doc: JobDoc,
    /// Nobody else can have it before.
    good_until: Mutex<Option<Instant>>,
}

/// What a heartbeat came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beat {
    Ours,
    Unwanted,
    NotOurs,
}

impl Bonds {
    pub(super) fn new(control: Control, name: String, random: fn() -> f64) -> Self {
        Self {
            control,
            name,
            random,
            holds: Mutex::default(),
        }
    }

    fn holds(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Hold>>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, key: String, doc: JobDoc) -> Arc<Hold> {
        let good_until = Mutex::default();
        let hold = Arc::new(Hold {
            key: key.clone(),
            doc,
            good_until,
        });
        self.holds().insert(key, Arc::clone(&hold));
        hold
    }

    async fn beat(&self, hold: &Hold) -> Result<Beat, String> {
        let beat = HeartbeatDoc {
            runner: self.name.clone(),
            fence: hold.doc.fence,
            // Agents tell what they have cost when they end.
            cost_usd: None,
            note: None,
            session: None,
            heard: None,
        };
        // From when we asked, not from when we were answered.
        let asked = Instant::now();
        let Some(heard) = self.control.heartbeat(&hold.doc.job, &beat).await? else {
            return Ok(Beat::NotOurs);
        };
        let length = heard.lease_seconds.or(hold.doc.lease_seconds);
        let length = length.and_then(|it| Duration::try_from_secs_f64(it).ok());
        *hold.good() = length.and_then(|it| asked.checked_add(it));
        Ok(match heard.action {
            Action::Continue | Action::Message => Beat::Ours,
            Action::Cancel => Beat::Unwanted,
        })
    }

    /// A heartbeat that is repeated until it is answered.
    async fn surely(&self, hold: &Hold) -> Beat {
        let mut backoff = Backoff::new(self.random);
        loop {
            match self.beat(hold).await {
                Ok(beat) => return beat,
                Err(why) => {
                    warn!(job = hold.key, "cannot be heard: {why}");
                    sleep(backoff.next()).await;
                }
            }
        }
    }
}

impl Hold {
    fn good(&self) -> MutexGuard<'_, Option<Instant>> {
        self.good_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Tenure for Bonds {
    async fn holds(&self, key: &str) -> bool {
        let Some(hold) = self.holds().get(key).map(Arc::clone) else {
            return false;
        };
        let mut backoff = Backoff::new(self.random);
        loop {
            match self.beat(&hold).await {
                Ok(beat) => return beat == Beat::Ours,
                // Asked in vain; but nobody else can have it yet.
                Err(_) if hold.good().is_some_and(|it| Instant::now() < it) => return true,
                Err(why) => {
                    warn!(job = key, "waits with its push: {why}");
                    sleep(backoff.next()).await;
                }
            }
        }
    }
}

/// Tends to jobs, each in a task of its own.
pub(super) struct Tender {
    pub(super) bonds: Arc<Bonds>,
    pub(super) executor: LocalExecutor,
    pub(super) leases: Leases,
    pub(super) repositories: Vec<Repository>,
    pub(super) heartbeat: Duration,
    /// A local run has begun or ended.
    pub(super) changed: watch::Sender<()>,
    pub(super) stopped: watch::Receiver<bool>,
}

impl Tender {
    /// A job that was just leased: confirmed, written down, done.
    pub(super) async fn begin(&self, doc: JobDoc) {
        let Some(key) = local_key(&doc) else {
            error!(job = doc.job, "a job has a name that no folder can have");
            return;
        };
        let hold = self.bonds.take(key, doc);
        let confirmed = tokio::select! {
            beat = self.bonds.surely(&hold) => beat,
            () = self.stop_asked() => return,
        };
        match confirmed {
            Beat::Ours => {}
            Beat::Unwanted => {
                let failure = Failure {
                    class: FailureClass::Cancelled,
                    message: "the run was stopped before it began".into(),
                };
                return self.report(&hold, unspent(failure)).await;
            }
            Beat::NotOurs => return self.lose(&hold).await,
        }
        info!(job = hold.key, task = %hold.doc.task.id, issue = hold.doc.issue.identifier, "took a job");
        if let Err(why) = self.leases.keep(&hold.key, &hold.doc) {
            let failure = Failure {
                class: FailureClass::Outage,
                message: format!("the runner cannot write down that it has the job: {why}"),
            };
            return self.report(&hold, unspent(failure)).await;
        }
        self.tend(hold).await;
    }

    /// A job that the last start had. `None`: it is not ours any more, and its
    /// agent ends.
    pub(super) async fn reclaim(&self, doc: JobDoc) -> Option<Arc<Hold>> {
        let key = local_key(&doc)?;
        let hold = self.bonds.take(key, doc);
        match self.bonds.surely(&hold).await {
            // What is not wanted is told so again by the next heartbeat.
            Beat::Ours | Beat::Unwanted => Some(hold),
            Beat::NotOurs => {
                self.lose(&hold).await;
                None
            }
        }
    }

    /// Has the job done, and reports how it ended.
    pub(super) async fn tend(&self, hold: Arc<Hold>) {
        let Some(ending) = self.work(&hold).await else {
            return;
        };
        self.report(&hold, ending).await;
    }

    /// Until the run has ended. `None`: it is not ours any more, or we stop.
    async fn work(&self, hold: &Hold) -> Option<Ending> {
        let doc = &hold.doc;
        let Some(repository) = self.repositories.iter().find(|it| it.id == doc.repository) else {
            return Some(unspent(Failure {
                class: FailureClass::Invalid,
                message: format!(
                    "the runner `{}` has no repository `{}`: add it to its config.json, or take it \
                     out there so that another runner gets the job",
                    self.bonds.name, doc.repository
                ),
            }));
        };
        let job = doc.clone().into_job(hold.key.clone(), repository.clone());
        let mut changed = self.changed.subscribe();
        let run = match self.executor.start(&job).await {
            Ok(started) => started.run,
            Err(fault) => {
                return Some(unspent(Failure {
                    class: FailureClass::Outage,
                    message: format!("the runner could not take the job: {fault}"),
                }));
            }
        };
        let mut backoff = Backoff::new(self.bonds.random);
        let mut next = Instant::now() + self.pace(hold);
        loop {
            match self.sight(&run).await {
                Some(Sight::Ended(ending)) => return Some(ending),
                Some(Sight::Gone) => {
                    return Some(Ending {
                        result: Err(Failure {
                            class: FailureClass::Lost,
                            message: "the runner's folder of the job is gone".into(),
                        }),
                        cost_usd: None,
                    });
                }
                Some(Sight::Waiting | Sight::Working) | None => {}
            }
            tokio::select! {
                () = self.stop_asked() => return None,
                woken = timeout_at(next, changed.changed()) => if woken.is_ok() { continue },
            }
            match self.bonds.beat(hold).await {
                Ok(beat) => {
                    backoff.reset();
                    next = Instant::now() + self.pace(hold);
                    match beat {
                        Beat::Ours => {}
                        Beat::Unwanted => self.end(&run).await,
                        Beat::NotOurs => {
                            self.lose(hold).await;
                            return None;
                        }
                    }
                }
                Err(why) => {
                    warn!(job = hold.key, "cannot be heard: {why}");
                    next = Instant::now() + backoff.next().min(self.pace(hold));
                }
            }
        }
    }

    async fn sight(&self, run: &RunId) -> Option<Sight> {
        let sights = self.executor.observe(std::slice::from_ref(run)).await;
        match sights.into_iter().next()? {
            Ok(sight) => Some(sight),
            Err(fault) => {
                warn!(job = %run, "cannot look at its folder: {fault}");
                None
            }
        }
    }

    async fn end(&self, run: &RunId) {
        if let Err(fault) = self.executor.stop(run).await {
            warn!(job = %run, "cannot be stopped, tried again soon: {fault}");
        }
    }

    /// The job is not ours any more: its work is thrown away.
    async fn lose(&self, hold: &Hold) {
        warn!(
            job = hold.key,
            "the lease is lost: the work on it is thrown away"
        );
        // First, so that nothing is pushed from now on.
        self.bonds.holds().remove(&hold.key);
        self.end(&RunId(hold.key.clone())).await;
        self.leases.forget(&hold.key);
    }

    /// Says how it ended until that is heard.
    async fn report(&self, hold: &Hold, ending: Ending) {
        let doc = &hold.doc;
        let mut result = ResultDoc::new(&self.bonds.name, doc.fence, &doc.branch, ending);
        if result.pr_url.is_some()
            && let Some(made) = self.executor.made(&hold.key).await
        {
            result.head_sha = Some(made.sha);
            result.changed_files = Some(made.files);
        }
        let mut backoff = Backoff::new(self.bonds.random);
        loop {
            match self.bonds.control.result(&doc.job, &result).await {
                Ok(Taken::Yes) => {
                    info!(job = hold.key, outcome = %result.outcome, "reported the end of a job");
                    break;
                }
                Ok(Taken::NotOurs) => {
                    warn!(
                        job = hold.key,
                        "the job was somebody else's by then: its result is thrown away"
                    );
                    break;
                }
                Ok(Taken::Refused(why)) => {
                    error!(job = hold.key, "the result will never be taken: {why}");
                    break;
                }
                Err(why) => {
                    warn!(job = hold.key, "cannot report the end of the job: {why}");
                    sleep(backoff.next()).await;
                }
            }
        }
        self.bonds.holds().remove(&hold.key);
        self.leases.forget(&hold.key);
    }

    /// How often the control plane shall hear of the job.
    fn pace(&self, hold: &Hold) -> Duration {
        let of_lease = hold
            .doc
            .lease_seconds
            .and_then(|it| Duration::try_from_secs_f64(it).ok())
            .map(|it| it / HEARTBEATS_PER_LEASE);
        of_lease.map_or(self.heartbeat, |it| it.min(self.heartbeat))
    }

    async fn stop_asked(&self) {
        let mut stopped = self.stopped.clone();
        let _ = stopped.wait_for(|it| *it).await;
    }
}

/// A failure before any agent was started.
fn unspent(failure: Failure) -> Ending {
    Ending {
        result: Err(failure),
        cost_usd: Some(0.0),
    }
}
