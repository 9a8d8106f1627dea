//! Jobs for runners elsewhere, kept in registers: so any copy of us may take a
//! job in, hand it out, or hear of it, on every store.
//!
//! | shelf | a register is |
//! |---|---|
//! | `orders` | a job as it was asked for, prompt and all; written once |
//! | `jobs` | where a job stands that has not ended |
//! | `results` | how a job ended; kept for two weeks |
//! | `runners` | a runner that was heard of lately |
//!
//! Every change of a job is one write of its register in `jobs`, by who has
//! seen the present one. So of two runners that ask at once only one gets it,
//! and a result and a new lease exclude each other.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use jiff::SignedDuration;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use super::document::{HEARTBEATS_PER_LEASE, HeardDoc, HeartbeatDoc, JobDoc, LeaseAsk, ResultDoc};
use super::heard::Memory;
use super::orders::REGISTER_BYTES_MAX;
use super::push::{Answer, Push};
use super::standing::{Kept, Over, Standing};
use crate::issue::{Failure, FailureClass, IssueId, REASON_BYTES_MAX, Sight, Time, clip};
use crate::pause;
use crate::ports::{AppendError, Clock, Job, RegisterWrite, Registers};

pub(super) const JOBS: &str = "jobs";
pub(super) const ORDERS: &str = "orders";
pub(super) const RESULTS: &str = "results";
/// A runner gets at most this many jobs at once.
const JOBS_PER_LEASE_MAX: usize = 10;
/// How long it is known how a job ended.
const RESULT_KEPT: SignedDuration = SignedDuration::from_hours(14 * 24);
/// So many jobs are pushed in one go.
const OFFERS_MAX: usize = 20;
/// Pushing takes no longer than this: others are to be looked at, too.
const OFFERS_TIME_MAX: Duration = Duration::from_secs(15);
/// How often one change is tried again because somebody else wrote first.
pub(super) const CONFLICTS_MAX: usize = 20;

/// Jobs of which we remember that a cost was no cost.
const WARNED_MAX: usize = 1000;

/// The executor whose machines are elsewhere.
pub struct FarRunners {
    pub(super) registers: Arc<dyn Registers>,
    clock: Arc<dyn Clock>,
    pub(super) lease: SignedDuration,
    pub(super) heard: Memory,
    /// Jobs whose runner has told a cost that is none.
    warned: Mutex<HashSet<String>>,
    /// Runners that can be called, rather than call.
    push: Option<Push>,
    /// A job has come in.
    pub(super) arrived: Notify,
}

/// What a heartbeat came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Heartbeat {
    /// Go on, or do not. `begun`: the run of this issue has just begun.
    Heard {
        doc: HeardDoc,
        begun: Option<IssueId>,
    },
    /// The job is no longer this runner's.
    Stale,
    Unknown,
}

/// What a result came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The run of this issue has ended, now or when it was said before.
    Taken(IssueId),
    /// The job is no longer this runner's: its work does not count.
    Stale,
    Unknown,
}

enum Found {
    Open(u64, Standing),
    Over(Over),
    Nothing,
}

impl FarRunners {
    /// `heartbeat`: how often runners are to be heard.
    pub fn new(registers: Arc<dyn Registers>, clock: Arc<dyn Clock>, heartbeat: Duration) -> Self {
        let lease = heartbeat.saturating_mul(HEARTBEATS_PER_LEASE);
        Self {
            registers,
            clock,
            lease: SignedDuration::try_from(lease).unwrap_or(SignedDuration::MAX),
            heard: Memory::default(),
            warned: Mutex::default(),
            push: None,
            arrived: Notify::new(),
        }
    }

    /// One that also pushes jobs.
    pub fn pushing(self, push: Push) -> Self {
        Self {
            push: Some(push),
            ..self
        }
    }

    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// Hands out the oldest jobs that suit this runner, as many as it has slots.
    /// `here`: the URL at which it reaches us.
    pub async fn lease(&self, ask: &LeaseAsk, here: &str) -> anyhow::Result<Vec<JobDoc>> {
        self.hear(&ask.runner, Some(ask.slots_free)).await;
        let leased = self.lease_some(ask, here).await?;
        if !leased.is_empty() {
            let slots_free = ask.slots_free.saturating_sub(leased.len());
            self.hear(&ask.runner, Some(slots_free)).await;
        }
        Ok(leased)
    }

    async fn lease_some(&self, ask: &LeaseAsk, here: &str) -> anyhow::Result<Vec<JobDoc>> {
        let slots = ask.slots_free.min(JOBS_PER_LEASE_MAX);
        let mut leased = Vec::new();
        if slots == 0 {
            return Ok(leased);
        }
        let mut fit: Vec<(Time, String, u64, Standing)> = Vec::new();
        for (key, (version, kept)) in self.jobs().await? {
            match kept {
                Kept::Open(standing) if standing.suits(ask, self.now()) => {
                    fit.push((standing.queued_at, key, version, standing));
                }
                Kept::Open(_) | Kept::Over(_) | Kept::Barred => {}
            }
        }
        fit.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        for (_, key, version, standing) in fit {
            if leased.len() == slots {
                break;
            }
            let hand_out = self.hand_out(&key, version, &standing, Some(&ask.runner), here);
            match hand_out.await {
                Ok(handed) => leased.extend(handed.map(|(job, _)| job)),
                // What was leased by now must not wait for its lease to lapse.
                Err(error) if !leased.is_empty() => {
                    error!(job = key, "could not hand out the job: {error:#}");
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(leased)
    }

    async fn hand_out(
        &self,
        key: &str,
        version: u64,
        standing: &Standing,
        runner: Option<&str>,
        here: &str,
    ) -> anyhow::Result<Option<(JobDoc, Standing)>> {
        // What is queued has not begun, and under a pause nothing does.
        if pause::read(self.registers.as_ref(), self.now())
            .await?
            .is_some()
        {
            return Ok(None);
        }
        if self.read::<Over>(RESULTS, key).await?.is_some() {
            // A start that was late put it here again; it has had its run.
            self.write::<Kept>(JOBS, key, None, None, version).await?;
            return Ok(None);
        }
        let Some((_, job)) = self.read::<Job>(ORDERS, key).await? else {
            let message = "its order has been lost".to_owned();
            let class = FailureClass::Lost;
            let over = standing.broken_off(Failure { class, message });
            self.finish(key, version, over).await?;
            return Ok(None);
        };
        let until = self.now().checked_add(self.lease).unwrap_or(Time::MAX);
        let leased = standing.leased(runner, until);
        // What is known to be spent may not be spent again.
        let spent = leased.lost_usd.unwrap_or(0.0);
        let cost_max = job.cost_max.map(|it| it - spent);
        if spent > 0.0 && cost_max.is_some_and(|it| it <= 0.0) {
            let message = "runners that were not heard of again have spent its money".to_owned();
            let class = FailureClass::Lost;
            let over = standing.broken_off(Failure { class, message });
            self.finish(key, version, over).await?;
            return Ok(None);
        }
        let fence = leased.fence;
        if !self
            .write(JOBS, key, Some(&Kept::Open(leased.clone())), None, version)
            .await?
        {
            return Ok(None);
        }
        info!(issue = %job.issue, job = key, runner = runner.unwrap_or("by push"), fence, "leased a job to a runner");
        let callback = format!("{here}/runner/v1/jobs/{key}");
        let seconds = self.lease.as_secs_f64();
        let job = Job { cost_max, ..job };
        let job = JobDoc::new(&job, fence, until, seconds, callback);
        Ok(Some((job, leased)))
    }

    /// Pushes a job, if jobs are pushed.
    pub(super) async fn offer(&self, key: &str) {
        let Some(push) = &self.push else { return };
        let offered = async {
            if let Some((version, Kept::Open(standing))) = self.read::<Kept>(JOBS, key).await? {
                self.push_out(push, key, version, standing).await?;
            }
            anyhow::Ok(())
        };
        // It lies in the queue, and the next look offers it again.
        match timeout(OFFERS_TIME_MAX, offered).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(job = key, "could not push the job: {error:#}"),
            Err(_) => warn!(job = key, "could not push the job in time"),
        }
    }

    /// Pushes the oldest jobs that nobody has, if jobs are pushed.
    pub(super) async fn offer_all(&self) {
        let Some(push) = self.push.as_ref().filter(|it| it.may_take()) else {
            return;
        };
        let offered = async {
            let now = self.now();
            let jobs = self.jobs().await?.into_iter();
            let mut free: Vec<_> = jobs
                .filter_map(|(key, (version, kept))| match kept {
                    Kept::Open(it) if it.offers(now) => Some((it.queued_at, key, version, it)),
                    Kept::Open(_) | Kept::Over(_) | Kept::Barred => None,
                })
                .collect();
            free.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            for (_, key, version, standing) in free.into_iter().take(OFFERS_MAX) {
                if !push.may_take() {
                    break;
                }
                self.push_out(push, &key, version, standing).await?;
            }
            anyhow::Ok(())
        };
        match timeout(OFFERS_TIME_MAX, offered).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!("could not push jobs: {error:#}"),
            Err(_) => debug!("not all jobs could be pushed in time"),
        }
    }

    /// Leases a job to whoever will have it of those that can be called.
    async fn push_out(
        &self,
        push: &Push,
        key: &str,
        version: u64,
        standing: Standing,
    ) -> anyhow::Result<()> {
        let (mut version, mut standing) = (version, standing);
        for place in push.places() {
            if !standing.free(self.now()) {
                return Ok(());
            }
            let handed = self.hand_out(key, version, &standing, None, push.callback());
            let Some((job, leased)) = handed.await? else {
                return Ok(());
            };
            let at = &place.url;
            let soon = match push.post(place, &job, self.now()).await {
                Answer::Taken => {
                    self.hear(&place.name(), None).await;
                    return Ok(());
                }
                Answer::NotNow(why) => {
                    if why.is_empty() {
                        self.hear(&place.name(), None).await;
                    } else {
                        warn!(job = key, runner = %at, "the runner cannot be reached: {why}");
                    }
                    true
                }
                Answer::Refused(why) => {
                    warn!(job = key, runner = %at, "the runner would not take the job: {why}");
                    false
                }
                Answer::Doubtful(why) => {
                    warn!(job = key, runner = %at, "the runner may have taken the job: {why}");
                    return Ok(());
                }
            };
            // Nobody else gets this fence, though nobody has it.
            standing = leased.refused(self.now(), soon);
            let kept = Kept::Open(standing.clone());
            if !self
                .write(JOBS, key, Some(&kept), None, version + 1)
                .await?
            {
                return Ok(());
            }
            // The lease was one write, giving it back another.
            version += 2;
        }
        Ok(())
    }

    /// A runner says that it works on a job.
    pub async fn heartbeat(&self, key: &str, beat: &HeartbeatDoc) -> anyhow::Result<Heartbeat> {
        for _ in 0..CONFLICTS_MAX {
            let (version, standing) = match self.find(key).await? {
                Found::Open(version, standing) => (version, standing),
                Found::Over(_) => return Ok(Heartbeat::Stale),
                Found::Nothing => return Ok(Heartbeat::Unknown),
            };
            if !standing.is_of(&beat.runner, beat.fence) {
                return Ok(Heartbeat::Stale);
            }
            self.hear(&beat.runner, None).await;
            if let Some(doubt) = standing.doubts(beat.cost_usd) {
                self.warn_once(key, &beat.runner, &doubt);
            }
            let first = standing.lease.as_ref().is_some_and(|it| !it.heard);
            let (doc, heard) = standing.heard(beat, self.now(), self.lease);
            let begun = first.then_some(standing.issue);
            let Some(heard) = heard else {
                return Ok(Heartbeat::Heard { doc, begun });
            };
            if self
                .write(JOBS, key, Some(&Kept::Open(heard)), None, version)
                .await?
            {
                return Ok(Heartbeat::Heard { doc, begun });
            }
        }
        Err(contended(key))
    }

    /// A runner says how a job ended.
    pub async fn result(&self, key: &str, result: &ResultDoc) -> anyhow::Result<Report> {
        for _ in 0..CONFLICTS_MAX {
            let (version, standing) = match self.find(key).await? {
                Found::Open(version, standing) => (version, standing),
                Found::Over(over) if over.is_of(&result.runner, result.fence) => {
                    return Ok(Report::Taken(over.issue));
                }
                Found::Over(_) => return Ok(Report::Stale),
                Found::Nothing => return Ok(Report::Unknown),
            };
            if !standing.is_of(&result.runner, result.fence) {
                return Ok(Report::Stale);
            }
            if let Some(doubt) = standing.doubts(result.cost_usd) {
                self.warn_once(key, &result.runner, &doubt);
            }
            let over = bounded(standing.ended(result.clone()))?;
            if self.finish(key, version, over).await? {
                info!(issue = %standing.issue, job = key, "a runner has ended a job");
                if let Some(push) = &self.push {
                    push.has_room();
                }
                return Ok(Report::Taken(standing.issue));
            }
        }
        Err(contended(key))
    }

    /// A job's cost was not believed: said once for each job.
    fn warn_once(&self, key: &str, runner: &str, doubt: &str) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.len() >= WARNED_MAX {
            warned.clear();
        }
        if warned.insert(key.to_owned()) {
            warn!(job = key, runner, "`cost_usd` is not believed: {doubt}");
        }
    }

    /// The job ends like this, unless somebody else has written first.
    pub(super) async fn finish(&self, key: &str, version: u64, over: Over) -> anyhow::Result<bool> {
        let kept = Kept::Over(over);
        if !self.write(JOBS, key, Some(&kept), None, version).await? {
            return Ok(false);
        }
        if let Kept::Over(over) = kept {
            self.file(key, version + 1, &over).await;
        }
        Ok(true)
    }

    /// Moves what has ended to the results. Where that fails, the next who
    /// comes across it does it.
    async fn file(&self, key: &str, version: u64, over: &Over) {
        let filed = async {
            let until = self.now().checked_add(RESULT_KEPT).ok();
            self.write(RESULTS, key, Some(over), until, 0).await?;
            self.write::<Kept>(JOBS, key, None, None, version).await?;
            // It was written once, so it is at its first version.
            self.write::<Job>(ORDERS, key, None, None, 1).await
        };
        if let Err(error) = filed.await {
            warn!(job = key, "could not move a result to its shelf: {error:#}");
        }
    }

    async fn find(&self, key: &str) -> anyhow::Result<Found> {
        match self.read::<Kept>(JOBS, key).await? {
            Some((version, Kept::Open(standing))) => return Ok(Found::Open(version, standing)),
            Some((version, Kept::Over(over))) => {
                self.file(key, version, &over).await;
                return Ok(Found::Over(over));
            }
            Some((_, Kept::Barred)) | None => {}
        }
        // Looked at last: whoever takes it away there has put it here before.
        Ok(match self.read::<Over>(RESULTS, key).await? {
            Some((_, over)) => Found::Over(over),
            None => Found::Nothing,
        })
    }

    /// How a run stands; `listed`: what a list said of it.
    pub(super) async fn sight(
        &self,
        key: &str,
        listed: Option<(u64, Kept)>,
    ) -> anyhow::Result<Sight> {
        let kept = match listed {
            Some(it) => Some(it),
            None => self.read(JOBS, key).await?,
        };
        let (version, standing) = match kept {
            Some((version, Kept::Open(standing))) => (version, standing),
            Some((version, Kept::Over(over))) => {
                self.file(key, version, &over).await;
                return Ok(Sight::Ended(over.ending));
            }
            Some((_, Kept::Barred)) | None => {
                let over = self.read::<Over>(RESULTS, key).await?;
                return Ok(over.map_or(Sight::Gone, |(_, over)| Sight::Ended(over.ending)));
            }
        };
        let now = self.now();
        if let Some(over) = standing.lapsed(now) {
            let ending = over.ending.clone();
            if self.finish(key, version, over).await? {
                return Ok(Sight::Ended(ending));
            }
        }
        Ok(standing.sight(now))
    }

    pub(super) async fn jobs(&self) -> anyhow::Result<BTreeMap<String, (u64, Kept)>> {
        let registers = self.registers.list(JOBS, self.now()).await?;
        let mut jobs = BTreeMap::new();
        for it in registers {
            match serde_json::from_value(it.value) {
                Ok(kept) => {
                    jobs.insert(it.name, (it.version, kept));
                }
                // One that cannot be read must not keep the others from being done.
                Err(error) => warn!(job = it.name, "a job cannot be read: {error}"),
            }
        }
        Ok(jobs)
    }

    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        shelf: &str,
        key: &str,
    ) -> anyhow::Result<Option<(u64, T)>> {
        let Some(it) = self.registers.get(shelf, key, self.now()).await? else {
            return Ok(None);
        };
        let value = serde_json::from_value(it.value)
            .with_context(|| format!("the register `{shelf}/{key}` cannot be read"))?;
        Ok(Some((it.version, value)))
    }

    /// Writes a register that is still as it was seen, or removes it. `false`:
    /// somebody else was quicker.
    pub(super) async fn write<T: Serialize>(
        &self,
        shelf: &str,
        key: &str,
        value: Option<&T>,
        expires_at: Option<Time>,
        seen: u64,
    ) -> anyhow::Result<bool> {
        let write = RegisterWrite {
            shelf: shelf.to_owned(),
            name: key.to_owned(),
            value: value.map(serde_json::to_value).transpose()?,
            expires_at,
        };
        match self.registers.put(write, seen, self.now()).await {
            Ok(()) => Ok(true),
            Err(AppendError::Conflict) => Ok(false),
            Err(error @ (AppendError::OverLimit { .. } | AppendError::Failed(_))) => {
                Err(error).with_context(|| format!("write the register `{shelf}/{key}`"))
            }
        }
    }
}

/// What a register can hold of it.
fn bounded(mut over: Over) -> anyhow::Result<Over> {
    if serde_json::to_vec(&over)?.len() <= REGISTER_BYTES_MAX {
        return Ok(over);
    }
    // Only a text full of control characters comes to this.
    if let Ok(result) = &mut over.ending.result {
        result.text = clip(&result.text, REASON_BYTES_MAX);
    }
    if serde_json::to_vec(&over)?.len() > REGISTER_BYTES_MAX {
        over.ending.result = Err(Failure {
            class: FailureClass::Agent,
            message: "the agent's answer is too long to be kept".into(),
        });
    }
    Ok(over)
}

pub(super) fn contended(key: &str) -> anyhow::Error {
    anyhow::anyhow!("the job `{key}` kept changing for {CONFLICTS_MAX} tries")
}
