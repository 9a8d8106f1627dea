//! What stands between the engine and an executor of others: rates, to which all
//! copies of us keep together, and a circuit breaker, so that one that is down is
//! left alone. They are kept in registers, for each account that an executor is
//! used with.
//!
//! A start needs a closed breaker and a turn. A look needs a turn only, and one
//! that is refused is simply taken later. A stop is never refused: what is not
//! stopped costs money.
//!
//! Of reads, a look counts as one before it is made (a page of the list), and
//! afterwards each run that it has seen to end as one more, since such a run is
//! read by itself; so is one that a start goes on with. Not counted are further pages, which only runs need that are
//! older than a hundred others, and the list of repositories, once in an hour.

mod turns;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::{info, warn};

pub use self::turns::Rate;
use self::turns::{Reads, Starts};
use crate::issue::{ExecutorKind, FailureClass, Fault, REASON_BYTES_MAX, RunId, Sight, Time, clip};
use crate::ports::{
    AppendError, Clock, Executor, Health, Job, Message, Register, RegisterWrite, Registers,
    Settlement, Started, Told,
};
use crate::stats;

/// The shelf of the last starts and reads.
const RATES: &str = "rates";
/// The shelf of the circuit breakers.
pub const BREAKERS: &str = "breakers";
/// Passing the guards takes longer than this only where the store is down …
const PASS_SECONDS: u64 = 7;
/// … and so does remembering how a call went.
const NOTE_SECONDS: u64 = 3;
/// What the guards add to a call. With the call itself it must fit into a claim.
pub const GUARD_SECONDS: u64 = PASS_SECONDS + NOTE_SECONDS;
/// Starts that failed one after another before an executor counts as down.
const FAILURES_MAX: u32 = 3;
/// How long one that is down is left alone, in seconds, doubled with each probe
/// that fails …
const OPEN_SECONDS: i64 = 30;
/// … up to this.
const OPEN_SECONDS_MAX: i64 = 600;
/// A probe that says nothing for this long has died with its process.
const PROBE_SECONDS: i64 = 120;
/// How often a register is read again because somebody else was quicker.
const TURNS_MAX: usize = 20;
/// A register of a rate that nobody needs is gone after this long …
const RATE_KEPT: SignedDuration = SignedDuration::from_mins(15);
/// … and one of a breaker so long after its time: then nobody starts anything there.
const BREAKER_KEPT: SignedDuration = SignedDuration::from_hours(1);

/// How an executor is guarded.
#[derive(Clone)]
pub struct Guards {
    /// Tells the accounts of one executor apart; fit for a name, and no secret.
    pub account: String,
    /// Changes with the account's secret, and does not give it away. A breaker
    /// that another secret has opened is as good as closed.
    pub credential: Arc<dyn Fn() -> String + Send + Sync>,
    pub starts: Rate,
    pub reads: Rate,
    /// As how many reads it counts to look for a run whose start is doubtful.
    pub reads_per_search: usize,
}

/// An executor with its guards.
pub struct Guarded {
    inner: Arc<dyn Executor>,
    guards: Guards,
    registers: Arc<dyn Registers>,
    clock: Arc<dyn Clock>,
}

/// A breaker that is not simply closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Breaker {
    pub state: BreakerState,
    /// Starts that failed one after another.
    pub failures: u32,
    /// What the last one said.
    pub why: String,
    /// Until then nothing is started, but for the one who probes.
    pub until: Time,
    /// How long it was last left alone.
    pub seconds: i64,
    /// With which secret.
    #[serde(default)]
    pub credential: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BreakerState {
    /// It has failed, but not often enough.
    Closed,
    Open,
    /// Its time is over, and somebody tries whether it works.
    HalfOpen,
}

/// Why an executor is down, by the registers of the breakers; that it may be
/// probed does not make it well.
pub fn broken(kind: ExecutorKind, breakers: &[Register]) -> Option<String> {
    let of_kind = |it: &&Register| it.name.split('-').next() == Some(kind.word());
    breakers.iter().filter(of_kind).find_map(|it| {
        let breaker: Breaker = serde_json::from_value(it.value.clone()).ok()?;
        (breaker.state != BreakerState::Closed).then_some(breaker.why)
    })
}

#[async_trait]
impl Executor for Guarded {
    fn kind(&self) -> ExecutorKind {
        self.inner.kind()
    }

    async fn start(&self, job: &Job) -> Result<Started, Fault> {
        let pass = timeout(Duration::from_secs(PASS_SECONDS), self.pass());
        pass.await.unwrap_or_else(|_| {
            Err(Fault::Transient {
                why: format!("the store has said nothing for {PASS_SECONDS} s"),
            })
        })?;
        let started = self.inner.start(job).await;
        let note = timeout(Duration::from_secs(NOTE_SECONDS), self.note(&started));
        let goes_on = job.repair.as_ref().is_some_and(|it| it.run.is_some());
        let read = self.count_reads(usize::from(goes_on), None);
        if tokio::join!(note, read).0.is_err() {
            info!(executor = %self.kind(), "could not note in time how a start went");
        }
        started.map_err(of_all)
    }

    async fn settle(&self, job: &Job) -> Result<Settlement, Fault> {
        self.take_reads(self.guards.reads_per_search).await?;
        let settled = self.inner.settle(job).await;
        self.count_reads(0, asked_to_wait(settled.as_ref().err()))
            .await;
        settled
    }

    async fn observe(&self, runs: &[RunId]) -> Vec<Result<Sight, Fault>> {
        if runs.is_empty() {
            return Vec::new();
        }
        if let Err(fault) = self.take_reads(1).await {
            return runs.iter().map(|_| Err(fault.clone())).collect();
        }
        let sights = self.inner.observe(runs).await;
        let ended = |it: &&Result<Sight, Fault>| matches!(it, Ok(Sight::Ended(_) | Sight::Gone));
        let alone = sights.iter().filter(ended).count();
        let wait = sights
            .iter()
            .filter_map(|it| asked_to_wait(it.as_ref().err()));
        self.count_reads(alone, wait.max()).await;
        sights
    }

    async fn stop(&self, run: &RunId) -> Result<(), Fault> {
        self.inner.stop(run).await
    }

    async fn tell(&self, run: &RunId, message: &Message) -> Result<Told, Fault> {
        self.inner.tell(run, message).await
    }

    /// Down while a start would be refused with [`Fault::Down`], and not when its
    /// time is over, so that somebody comes and probes. Costs one read.
    async fn health(&self) -> Health {
        let health = self.inner.health().await;
        let (kind, name) = (self.kind(), self.name());
        let read = async {
            let now = self.clock.now();
            let register = self.registers.get(BREAKERS, &name, now).await?;
            let breaker = register.and_then(|it| serde_json::from_value(it.value).ok());
            anyhow::Ok(self.ours(breaker).and_then(|it| it.refuses(now)))
        };
        let down = match timeout(Duration::from_secs(PASS_SECONDS), read).await {
            Ok(Ok(down)) => down,
            Ok(Err(error)) => {
                info!(executor = %kind, "could not read its breaker: {error:#}");
                None
            }
            Err(_) => None,
        };
        open_gauge(kind, down.is_some());
        Health {
            down: down.or(health.down),
            ..health
        }
    }
}

impl Breaker {
    /// Why nothing may be started now; `None`: one may pass.
    fn refuses(self, now: Time) -> Option<String> {
        (self.state != BreakerState::Closed && now < self.until).then_some(self.why)
    }
}

/// What a register shall become, and what that means for who asked.
enum Turn<V, T> {
    Keep(T),
    Write(V, T),
    Remove(T),
}

impl Guarded {
    pub fn new(
        inner: Arc<dyn Executor>,
        guards: Guards,
        registers: Arc<dyn Registers>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            inner,
            guards,
            registers,
            clock,
        }
    }

    /// The name of the account's registers.
    fn name(&self) -> String {
        format!("{}-{}", self.kind(), self.guards.account)
    }

    /// The breaker, unless another secret has opened it.
    fn ours(&self, breaker: Option<Breaker>) -> Option<Breaker> {
        let ours = (self.guards.credential)();
        breaker.filter(|it| it.credential == ours)
    }

    async fn pass(&self) -> Result<(), Fault> {
        let probes = self.pass_breaker().await?;
        let taken = self.take_start().await;
        if taken.is_err() && probes {
            // Nothing was probed: the next may.
            self.give_probe_back().await?;
        }
        taken
    }

    /// Refuses while the executor is down, but for one probe when its time is
    /// over: is it ours?
    async fn pass_breaker(&self) -> Result<bool, Fault> {
        let name = self.name();
        let passed = self.change(BREAKERS, &name, BREAKER_KEPT, |breaker, now| {
            let Some(breaker) = self.ours(breaker) else {
                return Turn::Keep(Ok(false));
            };
            if breaker.state == BreakerState::Closed {
                return Turn::Keep(Ok(false));
            }
            if let Some(why) = breaker.clone().refuses(now) {
                return Turn::Keep(Err(Fault::Down { why }));
            }
            let probe = Breaker {
                state: BreakerState::HalfOpen,
                until: now + SignedDuration::from_secs(PROBE_SECONDS),
                ..breaker
            };
            Turn::Write(probe, Ok(true))
        });
        let passed = passed.await?;
        open_gauge(self.kind(), passed.is_err());
        passed
    }

    async fn give_probe_back(&self) -> Result<(), Fault> {
        let name = self.name();
        let back = self.change(BREAKERS, &name, BREAKER_KEPT, |breaker, now| {
            match self.ours(breaker) {
                Some(breaker) if breaker.state == BreakerState::HalfOpen => {
                    let open = Breaker {
                        state: BreakerState::Open,
                        until: now,
                        ..breaker
                    };
                    Turn::Write(open, ())
                }
                Some(_) | None => Turn::Keep(()),
            }
        });
        back.await
    }

    /// Remembers how a start went.
    async fn note(&self, started: &Result<Started, Fault>) {
        let (kind, fault) = (self.kind(), started.as_ref().err());
        if let Some(seconds) = asked_to_wait(fault) {
            self.close_starts(seconds).await;
        }
        let down = match fault {
            Some(Fault::Transient { why } | Fault::Ambiguous { why }) => {
                Some((clip(why, REASON_BYTES_MAX), 1))
            }
            // A refused token or an empty purse is no affair of one run.
            Some(
                Fault::Down { why }
                | Fault::Permanent {
                    class: FailureClass::Auth | FailureClass::Quota,
                    why,
                },
            ) => Some((clip(why, REASON_BYTES_MAX), FAILURES_MAX)),
            Some(Fault::Busy { .. } | Fault::Permanent { .. }) | None => None,
        };
        let name = self.name();
        let noted = self.change(BREAKERS, &name, BREAKER_KEPT, |breaker, now| {
            let Some((why, weight)) = &down else {
                // Whoever has opened it: it takes starts.
                return match breaker {
                    Some::<Breaker>(_) => Turn::Remove(None),
                    None => Turn::Keep(None),
                };
            };
            let breaker = self.ours(breaker);
            // It was opened while this start was under way, which says nothing new.
            if let Some(open) = &breaker
                && open.state == BreakerState::Open
                && now < open.until
            {
                return Turn::Keep(None);
            }
            let credential = (self.guards.credential)();
            let breaker = failed(breaker, *weight, why.clone(), credential, now);
            Turn::Write(breaker.clone(), Some(breaker))
        });
        match noted.await {
            Ok(Some(breaker)) if breaker.state == BreakerState::Open => {
                warn!(executor = %kind, "left alone for {} s: {}", breaker.seconds, breaker.why);
                open_gauge(kind, true);
            }
            Ok(_) => {}
            // The start itself was made or not, whatever we remember of it.
            Err(fault) => info!(executor = %kind, "could not note how a start went: {fault}"),
        }
    }

    /// Takes one of the starts that the rate allows.
    async fn take_start(&self) -> Result<(), Fault> {
        let rate = self.guards.starts;
        let name = self.name();
        let taken = self.change(RATES, &name, RATE_KEPT, |starts, now| {
            let mut starts: Starts = starts.unwrap_or_default();
            match starts.take(rate, now) {
                Ok(()) => Turn::Write(starts, Ok(())),
                Err(wait) => Turn::Keep(Err(self.too_many("starts", rate, wait))),
            }
        });
        taken.await?
    }

    /// No copy of us starts anything for this long, since the other side asks so.
    async fn close_starts(&self, seconds: u32) {
        let name = self.name();
        let closed = self.change(RATES, &name, RATE_KEPT, |starts, now| {
            let mut starts: Starts = starts.unwrap_or_default();
            starts.close(now + SignedDuration::from_secs(seconds.into()));
            Turn::Write(starts, ())
        });
        if let Err(fault) = closed.await {
            info!(executor = %self.kind(), "could not note that it asks to wait: {fault}");
        }
    }

    /// Takes some of the reads that the rate allows. Where that cannot be found
    /// out, they are made: what is not looked at costs money.
    async fn take_reads(&self, count: usize) -> Result<(), Fault> {
        let rate = self.guards.reads;
        let name = self.reads_name();
        let taken = self.change(RATES, &name, RATE_KEPT, |reads, now| {
            let mut reads: Reads = reads.unwrap_or_default();
            match reads.take(count, rate, now) {
                Ok(()) => Turn::Write(reads, Ok(())),
                Err(wait) => Turn::Keep(Err(self.too_many("reads", rate, wait))),
            }
        });
        match timeout(Duration::from_secs(PASS_SECONDS), taken).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(fault)) => {
                info!(executor = %self.kind(), "could not count a read: {fault}");
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// Counts reads that were made beyond the turns taken for them.
    async fn count_reads(&self, count: usize, wait: Option<u32>) {
        if count == 0 && wait.is_none() {
            return;
        }
        let name = self.reads_name();
        let counted = self.change(RATES, &name, RATE_KEPT, |reads, now| {
            let mut reads: Reads = reads.unwrap_or_default();
            reads.add(count, self.guards.reads, now);
            if let Some(seconds) = wait {
                reads.close(now + SignedDuration::from_secs(seconds.into()));
            }
            Turn::Write(reads, ())
        });
        match timeout(Duration::from_secs(NOTE_SECONDS), counted).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => info!(executor = %self.kind(), "could not count reads: {fault}"),
            Err(_) => info!(executor = %self.kind(), "could not count reads in time"),
        }
    }

    fn reads_name(&self) -> String {
        format!("{}-reads", self.name())
    }

    fn too_many(&self, what: &str, rate: Rate, wait: i64) -> Fault {
        let Rate { turns, seconds } = rate;
        Fault::Busy {
            why: format!(
                "the executor `{}` takes {turns} {what} in {seconds} s",
                self.kind()
            ),
            retry_after_seconds: u32::try_from(wait).ok(),
        }
    }

    /// Reads a register, decides, and writes unless somebody else was quicker;
    /// then again.
    async fn change<V: Serialize + DeserializeOwned, T>(
        &self,
        shelf: &str,
        name: &str,
        kept: SignedDuration,
        decide: impl Fn(Option<V>, Time) -> Turn<V, T>,
    ) -> Result<T, Fault> {
        let broken = |error: anyhow::Error| Fault::Transient {
            why: format!("the register `{shelf}/{name}`: {error:#}"),
        };
        for _ in 0..TURNS_MAX {
            let now = self.clock.now();
            let register = self.registers.get(shelf, name, now).await.map_err(broken)?;
            let seen = register.as_ref().map_or(0, |it| it.version);
            // One that another version of us wrote is as good as none.
            let value = register.and_then(|it| serde_json::from_value(it.value).ok());
            let (value, answer) = match decide(value, now) {
                Turn::Keep(answer) => return Ok(answer),
                Turn::Write(value, answer) => (Some(value), answer),
                Turn::Remove(answer) => (None, answer),
            };
            let value = value.map(serde_json::to_value).transpose();
            let write = RegisterWrite {
                shelf: shelf.into(),
                name: name.into(),
                value: value.map_err(|error| broken(error.into()))?,
                expires_at: Some(now + kept),
            };
            match self.registers.put(write, seen, now).await {
                Ok(()) => return Ok(answer),
                Err(AppendError::Conflict) => {}
                Err(error) => return Err(broken(error.into())),
            }
        }
        Err(Fault::Busy {
            why: format!("too many want to write the register `{shelf}/{name}`"),
            retry_after_seconds: None,
        })
    }
}

/// `weight`: how many failures of the common kind it is worth.
fn failed(
    breaker: Option<Breaker>,
    weight: u32,
    why: String,
    credential: String,
    now: Time,
) -> Breaker {
    let failures = breaker
        .as_ref()
        .map_or(0, |it| it.failures)
        .saturating_add(weight);
    let opened_for = breaker.as_ref().map_or(0, |it| it.seconds);
    let (state, seconds) = if failures >= FAILURES_MAX {
        let seconds = (opened_for * 2).clamp(OPEN_SECONDS, OPEN_SECONDS_MAX);
        (BreakerState::Open, seconds)
    } else {
        (BreakerState::Closed, 0)
    };
    Breaker {
        state,
        failures,
        why,
        until: now + SignedDuration::from_secs(seconds),
        seconds,
        credential,
    }
}

/// A start that was refused for the sake of the whole account: no run was made,
/// and no other start would fare better.
fn of_all(fault: Fault) -> Fault {
    match fault {
        Fault::Permanent {
            class: FailureClass::Auth | FailureClass::Quota,
            why,
        } => Fault::Down { why },
        other => other,
    }
}

/// For how long the other side asks to be left alone.
fn asked_to_wait(fault: Option<&Fault>) -> Option<u32> {
    match fault {
        Some(Fault::Busy {
            retry_after_seconds,
            ..
        }) => *retry_after_seconds,
        Some(_) | None => None,
    }
}

fn open_gauge(kind: ExecutorKind, open: bool) {
    let open = if open { 1.0 } else { 0.0 };
    metrics::gauge!(stats::CIRCUIT_OPEN, "Executor" => kind.word()).set(open);
}
