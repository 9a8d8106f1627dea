//! What stands between the engine and an executor of others: a rate, to which all
//! copies of us keep together, and a circuit breaker, so that one that is down is
//! left alone. Both are kept in registers.
//!
//! Only starts are guarded. To look at what runs is never refused: what is not
//! looked at costs money.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::issue::{ExecutorKind, FailureClass, Fault, REASON_BYTES_MAX, RunId, Sight, Time, clip};
use crate::ports::{
    AppendError, Clock, Executor, Job, Message, RegisterWrite, Registers, Settlement, Started, Told,
};
use crate::stats;

/// The shelf of the last starts.
const RATES: &str = "rates";
/// The shelf of the circuit breakers; the name is the executor's word.
pub const BREAKERS: &str = "breakers";
/// Passing the guards takes longer than this only where the store is down. With
/// the start itself it must fit into a claim.
pub const GUARD_SECONDS: u64 = 10;
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
/// A register that nobody needs is gone after this long.
const KEPT: SignedDuration = SignedDuration::from_hours(24);

/// So many starts in so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub starts: usize,
    pub seconds: i64,
}

/// An executor with its guards.
pub struct Guarded {
    inner: Arc<dyn Executor>,
    rate: Rate,
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

#[async_trait]
impl Executor for Guarded {
    fn kind(&self) -> ExecutorKind {
        self.inner.kind()
    }

    async fn start(&self, job: &Job) -> Result<Started, Fault> {
        let guards = async {
            self.pass_breaker().await?;
            self.take_turn().await
        };
        let in_time = timeout(Duration::from_secs(GUARD_SECONDS), guards).await;
        in_time.unwrap_or_else(|_| {
            Err(Fault::Transient {
                why: format!("the store has said nothing for {GUARD_SECONDS} s"),
            })
        })?;
        let started = self.inner.start(job).await;
        self.note(started.as_ref().err()).await;
        started
    }

    async fn settle(&self, job: &Job) -> Result<Settlement, Fault> {
        self.inner.settle(job).await
    }

    async fn observe(&self, runs: &[RunId]) -> Vec<Result<Sight, Fault>> {
        self.inner.observe(runs).await
    }

    async fn stop(&self, run: &RunId) -> Result<(), Fault> {
        self.inner.stop(run).await
    }

    async fn tell(&self, run: &RunId, message: &Message) -> Result<Told, Fault> {
        self.inner.tell(run, message).await
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
        rate: Rate,
        registers: Arc<dyn Registers>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            inner,
            rate,
            registers,
            clock,
        }
    }

    /// Refuses while the executor is down, but for one probe when its time is over.
    async fn pass_breaker(&self) -> Result<(), Fault> {
        let kind = self.kind();
        let passed = self.change(BREAKERS, kind.word(), |breaker: Option<Breaker>, now| {
            let Some(breaker) = breaker else {
                return Turn::Keep(Ok(()));
            };
            if breaker.state == BreakerState::Closed {
                return Turn::Keep(Ok(()));
            }
            if now < breaker.until {
                let seconds = breaker.until.duration_since(now).as_secs() + 1;
                return Turn::Keep(Err(Fault::Busy {
                    why: format!(
                        "the executor `{kind}` is left alone, it is down: {}",
                        breaker.why
                    ),
                    retry_after_seconds: u32::try_from(seconds).ok(),
                }));
            }
            let probe = Breaker {
                state: BreakerState::HalfOpen,
                until: now + SignedDuration::from_secs(PROBE_SECONDS),
                ..breaker
            };
            Turn::Write(probe, Ok(()))
        });
        let passed = passed.await?;
        let open = if passed.is_err() { 1.0 } else { 0.0 };
        metrics::gauge!(stats::CIRCUIT_OPEN, "Executor" => kind.word()).set(open);
        passed
    }

    /// Remembers how a start went.
    async fn note(&self, fault: Option<&Fault>) {
        let kind = self.kind();
        let down = match fault {
            Some(Fault::Transient { why } | Fault::Ambiguous { why }) => {
                Some((clip(why, REASON_BYTES_MAX), 1))
            }
            // A refused token or an empty purse is no affair of one run.
            Some(Fault::Permanent {
                class: FailureClass::Auth | FailureClass::Quota,
                why,
            }) => Some((clip(why, REASON_BYTES_MAX), FAILURES_MAX)),
            Some(Fault::Busy { .. } | Fault::Down { .. } | Fault::Permanent { .. }) | None => None,
        };
        let noted = self.change(
            BREAKERS,
            kind.word(),
            |breaker: Option<Breaker>, now| match (&down, breaker) {
                (None, None) => Turn::Keep(None),
                (None, Some(_)) => Turn::Remove(None),
                (Some((why, weight)), breaker) => {
                    let breaker = failed(breaker, *weight, why.clone(), now);
                    Turn::Write(breaker.clone(), Some(breaker))
                }
            },
        );
        match noted.await {
            Ok(Some(breaker)) if breaker.state == BreakerState::Open => {
                warn!(executor = %kind, "left alone for {} s: {}", breaker.seconds, breaker.why);
                metrics::gauge!(stats::CIRCUIT_OPEN, "Executor" => kind.word()).set(1.0);
            }
            Ok(_) => {}
            // The start itself was made or not, whatever we remember of it.
            Err(fault) => info!(executor = %kind, "could not note how a start went: {fault}"),
        }
    }

    /// Takes one of the starts that the rate allows. The last starts are kept one
    /// by one: a bucket that refills would let twice the rate through in a window.
    async fn take_turn(&self) -> Result<(), Fault> {
        let kind = self.kind();
        let Rate { starts, seconds } = self.rate;
        let window = SignedDuration::from_secs(seconds);
        let taken = self.change(RATES, kind.word(), |last: Option<Vec<Time>>, now| {
            let mut last = last.unwrap_or_default();
            last.retain(|at| now.duration_since(*at) < window);
            match last.first() {
                Some(first) if last.len() >= starts => {
                    let wait = (*first + window).duration_since(now).as_secs() + 1;
                    Turn::Keep(Err(Fault::Busy {
                        why: format!("the executor `{kind}` takes {starts} starts in {seconds} s"),
                        retry_after_seconds: u32::try_from(wait).ok(),
                    }))
                }
                Some(_) | None => {
                    last.push(now);
                    Turn::Write(last, Ok(()))
                }
            }
        });
        taken.await?
    }

    /// Reads a register, decides, and writes unless somebody else was quicker;
    /// then again.
    async fn change<V: Serialize + DeserializeOwned, T>(
        &self,
        shelf: &str,
        name: &str,
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
                expires_at: Some(now + KEPT),
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
fn failed(breaker: Option<Breaker>, weight: u32, why: String, now: Time) -> Breaker {
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
    }
}
