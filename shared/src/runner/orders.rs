//! The runners elsewhere as an executor: what the engine asks of them becomes
//! changes in the queue.

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::SignedDuration;
use tracing::info;

use super::queue::{CONFLICTS_MAX, FarRunners, JOBS, ORDERS, RESULTS, contended};
use super::standing::{Kept, Over, Standing};
use crate::issue::{ExecutorKind, FailureClass, Fault, REASON_BYTES_MAX, RunId, Sight, clip};
use crate::ports::{Executor, Health, Job, Message, Settlement, Started, Told};

/// What one register may hold, in bytes of JSON: DynamoDB takes 400 KB.
pub(super) const REGISTER_BYTES_MAX: usize = 350_000;
/// How long an order may lie; only those that nobody took in lie so long.
const ORDER_KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);
/// No start is on its way for longer than this.
const BARRED: SignedDuration = SignedDuration::from_secs(300);

#[async_trait]
impl Executor for FarRunners {
    fn kind(&self) -> ExecutorKind {
        ExecutorKind::Local
    }

    async fn start(&self, job: &Job) -> Result<Started, Fault> {
        let key = &job.key;
        let size = serde_json::to_vec(job).map_or(usize::MAX, |it| it.len());
        if size > REGISTER_BYTES_MAX {
            return Err(Fault::Permanent {
                class: FailureClass::Invalid,
                why: format!(
                    "the job has {size} bytes, a runner gets at most {REGISTER_BYTES_MAX}"
                ),
            });
        }
        let known = self.read::<Over>(RESULTS, key).await.map_err(transient)?;
        if known.is_some() {
            return Ok(started(key, true));
        }
        let until = self.now().checked_add(ORDER_KEPT).ok();
        self.write(ORDERS, key, Some(job), until, 0)
            .await
            .map_err(transient)?;
        let kept = Kept::Open(Standing::new(job, self.now()));
        for tries in 0..CONFLICTS_MAX {
            let seen = match self.read::<Kept>(JOBS, key).await.map_err(transient)? {
                Some((_, Kept::Open(it))) => {
                    let begun = it.sight(self.now()) == Sight::Working;
                    return Ok(started(key, begun));
                }
                Some((_, Kept::Over(_))) => return Ok(started(key, true)),
                // Put there before us: we are the start that comes after it.
                Some((version, Kept::Barred)) if tries == 0 => version,
                // Somebody has found out meanwhile that there is no such job.
                Some((_, Kept::Barred)) => {
                    return Err(Fault::Transient {
                        why: "the job was looked for while it was put into the queue".into(),
                    });
                }
                None => 0,
            };
            // From here on it may have come in although we are told otherwise.
            if self
                .write(JOBS, key, Some(&kept), None, seen)
                .await
                .map_err(ambiguous)?
            {
                self.arrived.notify_waiters();
                self.offer(key).await;
                return Ok(started(key, false));
            }
        }
        Err(ambiguous(contended(key)))
    }

    async fn settle(&self, job: &Job) -> Result<Settlement, Fault> {
        let key = &job.key;
        let known = self.read::<Over>(RESULTS, key).await.map_err(transient)?;
        if known.is_some() {
            return Ok(Settlement::Found(started(key, true)));
        }
        for _ in 0..CONFLICTS_MAX {
            let seen = match self.read::<Kept>(JOBS, key).await.map_err(transient)? {
                Some((_, Kept::Open(it))) => {
                    let begun = it.sight(self.now()) == Sight::Working;
                    return Ok(Settlement::Found(started(key, begun)));
                }
                Some((_, Kept::Over(_))) => return Ok(Settlement::Found(started(key, true))),
                Some((version, Kept::Barred)) => version,
                None => 0,
            };
            // The write whose answer was lost may still be on its way. Written
            // anew where it stands already, for that write may have seen it.
            let until = self.now().checked_add(BARRED).ok();
            let bar = Some(&Kept::Barred);
            if !self
                .write(JOBS, key, bar, until, seen)
                .await
                .map_err(transient)?
            {
                continue;
            }
            // Once more: it may have come and ended since.
            let known = self.read::<Over>(RESULTS, key).await.map_err(transient)?;
            return Ok(match known {
                Some(_) => Settlement::Found(started(key, true)),
                None => Settlement::Absent { certain: true },
            });
        }
        Err(transient(contended(key)))
    }

    async fn observe(&self, runs: &[RunId]) -> Vec<Result<Sight, Fault>> {
        self.offer_all().await;
        let jobs = match runs {
            [] => return Vec::new(),
            // The list is for many.
            [_] => BTreeMap::new(),
            _ => match self.jobs().await {
                Ok(jobs) => jobs,
                Err(error) => {
                    let fault = transient(error);
                    return runs.iter().map(|_| Err(fault.clone())).collect();
                }
            },
        };
        let mut sights = Vec::new();
        for RunId(key) in runs {
            let sight = self.sight(key, jobs.get(key).cloned()).await;
            sights.push(sight.map_err(transient));
        }
        sights
    }

    async fn stop(&self, RunId(key): &RunId) -> Result<(), Fault> {
        for _ in 0..CONFLICTS_MAX {
            let (version, standing) = match self.read::<Kept>(JOBS, key).await.map_err(transient)? {
                Some((version, Kept::Open(standing))) => (version, standing),
                Some((_, Kept::Over(_) | Kept::Barred)) | None => return Ok(()),
            };
            let wanted = if standing.held(self.now()) {
                if standing.cancel {
                    return Ok(());
                }
                let mut standing = standing;
                standing.cancel = true;
                self.write(JOBS, key, Some(&Kept::Open(standing)), None, version)
                    .await
            } else {
                let over = standing.broken_off(standing.stopped());
                self.finish(key, version, over).await
            };
            if wanted.map_err(transient)? {
                return Ok(());
            }
        }
        Err(transient(contended(key)))
    }

    async fn tell(&self, RunId(key): &RunId, message: &Message) -> Result<Told, Fault> {
        for _ in 0..CONFLICTS_MAX {
            let (version, standing) = match self.read::<Kept>(JOBS, key).await.map_err(transient)? {
                Some((version, Kept::Open(standing))) => (version, standing),
                Some((_, Kept::Over(_) | Kept::Barred)) | None => return Ok(Told::TooLate),
            };
            let told = standing.told(message).map_err(|why| Fault::Permanent {
                class: FailureClass::Invalid,
                why,
            })?;
            let Some(told) = told else {
                return Ok(Told::Accepted);
            };
            if self
                .write(JOBS, key, Some(&Kept::Open(told)), None, version)
                .await
                .map_err(transient)?
            {
                return Ok(Told::Accepted);
            }
        }
        Err(transient(contended(key)))
    }

    async fn health(&self) -> Health {
        self.how_they_are().await.unwrap_or_else(|error| {
            info!("could not find out how the runners are: {error:#}");
            Health::default()
        })
    }
}

fn started(key: &str, begun: bool) -> Started {
    Started {
        run: RunId(key.to_owned()),
        url: None,
        begun,
    }
}

fn transient(error: anyhow::Error) -> Fault {
    Fault::Transient {
        why: clip(
            &format!("the jobs of the runners cannot be reached: {error:#}"),
            REASON_BYTES_MAX,
        ),
    }
}

fn ambiguous(error: anyhow::Error) -> Fault {
    Fault::Ambiguous {
        why: clip(
            &format!("the job may not have been kept: {error:#}"),
            REASON_BYTES_MAX,
        ),
    }
}
