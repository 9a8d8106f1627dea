//! One job in our hands: heartbeats while it is worked on, its result in the
//! end, and an end at once where it is not ours any more.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use shared::issue::{
    Ending, Failure, FailureClass, Repository, RunId, Sight, TaskKind, Time, clip,
};
use shared::ports::{Executor as _, Message, Told};
use shared::runner::document::{Action, HEARTBEATS_PER_LEASE, HeartbeatDoc, JobDoc, ResultDoc};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};

use super::Backoff;
use super::control::{Control, Heard, Taken};
use super::held::{Leases, local_key};
use crate::executor::{LocalExecutor, Progress, Tenure};

/// No heartbeat comes later than this: a stop or a message comes back with it.
const HEARTBEAT_MAX: Duration = Duration::from_secs(5);
/// What a lease is taken to be where nothing tells.
const LENGTH: Duration = Duration::from_secs(90);
/// What is shown of a name from outside, in bytes.
const SHOWN_BYTES_MAX: usize = 200;

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
    /// How long a lease is, as far as that can be told.
    length: Option<Duration>,
    /// Nobody else can have it before.
    good_until: Mutex<Option<Good>>,
    /// Who says before that there is no such job is not believed.
    patience: Mutex<Instant>,
    /// What was written for its agent, and it has not got yet, oldest first.
    messages: Mutex<VecDeque<Message>>,
    /// The messages that the agent gets, by their ids.
    heard: Mutex<Vec<String>>,
}

/// How long a lease holds for sure. By two clocks, for one of them stands still
/// while the machine sleeps, and the other may be set.
#[derive(Clone, Copy)]
struct Good {
    until: Instant,
    by_the_wall: Time,
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
        // Where only a time is given, two clocks are compared; it is no more than
        // the pace of the heartbeats that depends on it.
        let seconds = doc.lease_seconds.unwrap_or_else(|| {
            let left = doc.lease_until.duration_since(self.control.now());
            left.as_secs_f64()
        });
        let length = Duration::try_from_secs_f64(seconds).ok();
        let length = length.filter(|it| !it.is_zero());
        let hold = Arc::new(Hold {
            key: key.clone(),
            doc,
            length,
            good_until: Mutex::default(),
            patience: Mutex::new(Instant::now() + length.unwrap_or(LENGTH)),
            messages: Mutex::default(),
            heard: Mutex::default(),
        });
        self.holds().insert(key, Arc::clone(&hold));
        hold
    }

    async fn beat(&self, hold: &Hold, progress: Option<Progress>) -> Result<Beat, String> {
        let progress = progress.unwrap_or_default();
        let beat = HeartbeatDoc {
            runner: self.name.clone(),
            fence: hold.doc.fence,
            cost_usd: progress.cost_usd,
            note: progress.note,
            session: progress.session,
            heard: Some(hold.heard().clone()),
        };
        // From when we asked, not from when we were answered.
        let (asked, asked_by_the_wall) = (Instant::now(), self.control.now());
        let heard = match self.control.heartbeat(&hold.doc, &beat).await? {
            Heard::Yes(heard) => heard,
            Heard::NotOurs => return Ok(Beat::NotOurs),
            Heard::Unknown(why) if Instant::now() < *hold.patience() => return Err(why),
            Heard::Unknown(_) => return Ok(Beat::NotOurs),
        };
        *hold.patience() = asked + hold.length.unwrap_or(LENGTH);
        let seconds = heard.lease_seconds.or(hold.doc.lease_seconds);
        let length = seconds.and_then(|it| Duration::try_from_secs_f64(it).ok());
        *hold.good() = length.and_then(|length| {
            Some(Good {
                until: asked.checked_add(length)?,
                by_the_wall: asked_by_the_wall.checked_add(length).ok()?,
            })
        });
        Ok(match heard.action {
            Action::Continue => Beat::Ours,
            Action::Cancel => Beat::Unwanted,
            Action::Message => {
                let message = Message {
                    // Who gives no id gives each message once.
                    id: heard
                        .message_id
                        .unwrap_or_else(|| format!("at-{}", asked_by_the_wall.as_nanosecond())),
                    text: heard.message.unwrap_or_default(),
                };
                hold.hears(message);
                Beat::Ours
            }
        })
    }

    fn still_good(&self, hold: &Hold) -> bool {
        let now = self.control.now();
        let good = *hold.good();
        good.is_some_and(|it| Instant::now() < it.until && now < it.by_the_wall)
    }

    /// A heartbeat that is repeated until it is answered.
    async fn surely(&self, hold: &Hold) -> Beat {
        let mut backoff = Backoff::new(self.random);
        loop {
            match self.beat(hold, None).await {
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
    /// What the job is called here.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    fn good(&self) -> MutexGuard<'_, Option<Good>> {
        self.good_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn patience(&self) -> MutexGuard<'_, Instant> {
        self.patience.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn messages(&self) -> MutexGuard<'_, VecDeque<Message>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a message for the agent, unless it is known: it comes again until it
    /// is known over there that we have it.
    fn hears(&self, message: Message) {
        let mut messages = self.messages();
        let waits = messages.iter().any(|it| it.id == message.id);
        if !waits && !self.heard().contains(&message.id) {
            messages.push_back(message);
        }
    }

    fn heard(&self) -> MutexGuard<'_, Vec<String>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
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
            match self.beat(&hold, None).await {
                Ok(Beat::Ours) => return true,
                Ok(Beat::Unwanted | Beat::NotOurs) => return false,
                // Asked in vain; but nobody else can have it yet.
                Err(_) if self.still_good(&hold) => return true,
                Err(why) => {
                    warn!(job = key, "waits with its push: {why}");
                    sleep(backoff.next()).await;
                }
            }
        }
    }
}

/// Why a job that was pushed is not taken.
#[derive(Debug)]
pub(super) enum NotTaken {
    /// It cannot be done here; why.
    Unfit(String),
    /// It is, or was, worked on here already.
    Known,
}

/// Tends to jobs, each in a task of its own.
pub(super) struct Tender {
    pub(super) bonds: Arc<Bonds>,
    pub(super) executor: LocalExecutor,
    pub(super) leases: Leases,
    pub(super) repositories: Vec<Repository>,
    /// The agent programs that this machine has.
    pub(super) agents: Vec<String>,
    pub(super) heartbeat: Duration,
    /// A local run has begun or ended.
    pub(super) changed: watch::Sender<()>,
    pub(super) stopped: watch::Receiver<bool>,
}

impl Tender {
    /// Why a job that was pushed is not taken, if it is not.
    pub(super) fn check(&self, doc: &JobDoc) -> Result<(), NotTaken> {
        let wrong = |why: String| Err(NotTaken::Unfit(why));
        if !self.bonds.control.owns(&doc.callback) {
            return wrong(format!(
                "the callback `{}` is not under this runner's CYRUS_CONTROL_URL",
                clip(&doc.callback, SHOWN_BYTES_MAX)
            ));
        }
        let Some(key) = local_key(doc) else {
            return wrong("the job has a name that no folder can have".into());
        };
        if self.repository(doc).is_none() {
            return wrong(self.without_repository(doc));
        }
        // A verifier runs commands.
        let needs_agent = doc.task.kind != TaskKind::Verifier;
        if needs_agent && !self.agents.contains(&doc.agent.program) {
            return wrong(format!(
                "the runner `{}` has no agent program `{}`",
                self.bonds.name,
                clip(&doc.agent.program, SHOWN_BYTES_MAX)
            ));
        }
        let newer = |it: &Arc<Hold>| it.doc.job == doc.job && it.doc.fence >= doc.fence;
        if self.bonds.holds().values().any(newer) {
            return Err(NotTaken::Known);
        }
        // What has ended here is remembered for longer than any signature is good.
        if self.executor.knows(&key) {
            return Err(NotTaken::Known);
        }
        Ok(())
    }

    /// Writes down a job: it is taken. [`Tender::begin`] begins it.
    pub(super) fn keep(&self, doc: &JobDoc) -> io::Result<()> {
        let Some(key) = local_key(doc) else {
            return Err(io::ErrorKind::InvalidFilename.into());
        };
        self.leases.keep(&key, doc)?;
        self.bonds.take(key, doc.clone());
        Ok(())
    }

    fn repository(&self, doc: &JobDoc) -> Option<&Repository> {
        self.repositories.iter().find(|it| it.id == doc.repository)
    }

    fn without_repository(&self, doc: &JobDoc) -> String {
        format!(
            "the runner `{}` has no repository `{}`: add it to its config.json, or take it out \
             there so that another runner gets the job",
            self.bonds.name,
            clip(&doc.repository, SHOWN_BYTES_MAX)
        )
    }

    /// A job that was just leased: written down, confirmed, done. It is written
    /// down first: who has confirmed it and knows of it no more seems to have begun.
    pub(super) async fn begin(&self, doc: JobDoc) {
        let Some(key) = local_key(&doc) else {
            error!(job = doc.job, "a job has a name that no folder can have");
            return;
        };
        let kept = self.leases.keep(&key, &doc);
        let hold = self.bonds.take(key, doc);
        if let Err(why) = kept {
            let failure = Failure {
                class: FailureClass::Outage,
                message: format!("the runner cannot write down that it has the job: {why}"),
            };
            return self.report(&hold, unspent(failure)).await;
        }
        let confirmed = tokio::select! {
            beat = self.bonds.surely(&hold) => beat,
            () = self.stop_asked() => return,
        };
        match confirmed {
            Beat::Ours => {}
            Beat::Unwanted => return self.report(&hold, unspent(not_begun())).await,
            Beat::NotOurs => return self.lose(&hold).await,
        }
        info!(job = hold.key, task = %hold.doc.task.id, issue = hold.doc.issue.identifier, "took a job");
        self.tend(hold).await;
    }

    /// A job that the last start had. `None`: it is not ours any more, and its
    /// agent ends.
    pub(super) async fn reclaim(&self, doc: JobDoc) -> Option<Arc<Hold>> {
        let key = local_key(&doc)?;
        let hold = self.bonds.take(key, doc);
        match self.bonds.surely(&hold).await {
            Beat::Ours => Some(hold),
            Beat::Unwanted if !self.executor.knows(&hold.key) => {
                self.report(&hold, unspent(not_begun())).await;
                None
            }
            // It is told so again by the next heartbeat.
            Beat::Unwanted => Some(hold),
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
        let Some(repository) = self.repository(doc) else {
            // It may be at work since an earlier start.
            let begun = self.executor.knows(&hold.key);
            self.end(&RunId(hold.key.clone())).await;
            let failure = Failure {
                class: FailureClass::Invalid,
                message: self.without_repository(doc),
            };
            return Some(Ending {
                result: Err(failure),
                cost_usd: (!begun).then_some(0.0),
                cost_is_estimate: false,
            });
        };
        let job = doc.clone().into_job(hold.key.clone(), repository.clone());
        let mut changed = self.changed.subscribe();
        let run = match self.executor.start(&job).await {
            Ok(started) => started.run,
            Err(fault) => {
                // It may be on the disk, and must not begin at the next start.
                self.end(&RunId(hold.key.clone())).await;
                return Some(unspent(Failure {
                    class: FailureClass::Outage,
                    message: format!("the runner could not take the job: {fault}"),
                }));
            }
        };
        // What came with the first heartbeat.
        self.pass_on(hold, &run).await;
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
                        cost_is_estimate: false,
                    });
                }
                Some(Sight::Waiting | Sight::Working) | None => {}
            }
            tokio::select! {
                () = self.stop_asked() => return None,
                woken = timeout_at(next, changed.changed()) => if woken.is_ok() { continue },
            }
            let progress = self.executor.progress(&run.0);
            match self.bonds.beat(hold, progress).await {
                Ok(beat) => {
                    backoff.reset();
                    next = Instant::now() + self.pace(hold);
                    match beat {
                        Beat::Ours => {
                            if self.pass_on(hold, &run).await {
                                // There may be more.
                                next = Instant::now();
                            }
                        }
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

    /// Gives the agent what was written for it; true when it has it.
    async fn pass_on(&self, hold: &Hold, run: &RunId) -> bool {
        let Some(message) = hold.messages().front().cloned() else {
            return false;
        };
        match self.executor.tell(run, &message).await {
            Ok(Told::Accepted) => {
                hold.messages().pop_front();
                hold.heard().push(message.id);
                true
            }
            // The run has ended, and says so next: with its result it is told
            // that this did not reach it.
            Ok(Told::TooLate) => false,
            Err(fault) => {
                warn!(job = hold.key, "cannot be told, tried again soon: {fault}");
                false
            }
        }
    }

    pub(super) async fn end(&self, run: &RunId) {
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
        if result.branch.is_some()
            && let Some(made) = self.executor.made(&hold.key).await
        {
            result.head_sha = Some(made.sha);
            result.changed_files = Some(made.files);
        }
        result.unheard |= !hold.messages().is_empty();
        result.heard = Some(hold.heard().clone());
        let mut backoff = Backoff::new(self.bonds.random);
        loop {
            match self.bonds.control.result(doc, &result).await {
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
                Ok(Taken::Unknown(why)) if Instant::now() >= *hold.patience() => {
                    warn!(job = hold.key, "nobody knows of the job any more: {why}");
                    break;
                }
                Ok(Taken::Refused(why)) => {
                    error!(job = hold.key, "the result will never be taken: {why}");
                    break;
                }
                Ok(Taken::Unknown(why)) | Err(why) => {
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
        let of_lease = hold.length.map(|it| it / HEARTBEATS_PER_LEASE);
        let pace = self.heartbeat.min(HEARTBEAT_MAX);
        of_lease.map_or(pace, |it| it.min(pace))
    }

    async fn stop_asked(&self) {
        let mut stopped = self.stopped.clone();
        let _ = stopped.wait_for(|it| *it).await;
    }
}

fn not_begun() -> Failure {
    Failure {
        class: FailureClass::Cancelled,
        message: "the run was stopped before it began".into(),
    }
}

/// A failure before any agent was started.
fn unspent(failure: Failure) -> Ending {
    Ending {
        result: Err(failure),
        cost_usd: Some(0.0),
        cost_is_estimate: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_waits_for_its_turn_and_is_kept_once() {
        let doc = serde_json::json!({
            "job": "k", "fence": 1, "lease_until": "2026-01-01T00:00:00Z", "callback": "",
            "issue": { "id": "i", "identifier": "ENG-1", "title": "", "url": "" },
            "task": { "id": "t", "kind": "builder", "title": "", "prompt": "" },
            "repository": "app", "base_branch": "main", "branch": "b",
            "agent": { "program": "claude", "model": null, "resume": null,
                       "allowed_tools": [], "disallowed_tools": [], "mcp": [] },
            "limits": { "cost_usd": null, "seconds": 1 },
        });
        let hold = Hold {
            key: "k.1".into(),
            doc: serde_json::from_value(doc).expect("a job"),
            length: None,
            good_until: Mutex::default(),
            patience: Mutex::new(Instant::now()),
            messages: Mutex::default(),
            heard: Mutex::new(vec!["m0".into()]),
        };
        // One that the agent has already, and one that comes again while it waits.
        for id in ["m0", "m1", "m2", "m1"] {
            hold.hears(Message {
                id: id.into(),
                text: String::new(),
            });
        }
        let waiting: Vec<String> = hold.messages().iter().map(|it| it.id.clone()).collect();
        assert_eq!(waiting, ["m1", "m2"]);
    }
}
