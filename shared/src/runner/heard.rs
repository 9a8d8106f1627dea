//! Which runners there are, as far as they were heard of lately, and what that
//! means for the health of them all. Each is a register on the shelf `runners`,
//! written sparsely: one that asks for jobs every few seconds costs one write in
//! a minute, and one more where it fills up or has room again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::queue::FarRunners;
use super::standing::Kept;
use crate::issue::Time;
use crate::ports::Health;

/// The shelf of the runners that were heard of.
pub(super) const RUNNERS: &str = "runners";
/// A runner that goes on is written down again after this long.
const AGAIN: SignedDuration = SignedDuration::from_secs(60);
/// Without a runner in sight a job lies for so long until they count as down.
pub const RUNNER_PATIENCE_SECONDS: i64 = 60;
/// Runners of which we remember that they are written down.
const REMEMBERED_MAX: usize = 1000;

/// What the register of a runner holds.
#[derive(Debug, Serialize, Deserialize)]
struct Heard {
    at: Time,
    /// As it said last; `None`: it has not said.
    slots_free: Option<usize>,
}

/// When this process last saw a runner written down, and whether with room.
#[derive(Default)]
pub(super) struct Memory(Mutex<HashMap<String, (Time, Option<bool>)>>);

impl Memory {
    /// Is there nothing to write? `room`: `None` where it says nothing of it.
    fn knows(&self, runner: &str, room: Option<bool>, now: Time) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(runner).is_some_and(|(at, with)| {
            now.duration_since(*at) < AGAIN && (room.is_none() || room == *with)
        })
    }

    fn remember(&self, runner: &str, room: Option<bool>, at: Time) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED_MAX {
            known.clear();
        }
        known.insert(runner.to_owned(), (at, room));
    }
}

impl FarRunners {
    /// This runner is alive. What cannot be written is written the next time.
    pub(super) async fn hear(&self, runner: &str, slots_free: Option<usize>) {
        let now = self.now();
        let room = |slots: Option<usize>| slots.map(|it| it > 0);
        if self.heard.knows(runner, room(slots_free), now) {
            return;
        }
        let written = async {
            let known = self.read::<Heard>(RUNNERS, runner).await?;
            let (seen, known) = known.map_or((0, None), |(seen, known)| (seen, Some(known)));
            let before = known.as_ref().and_then(|it| it.slots_free);
            let slots_free = slots_free.or(before);
            if let Some(known) = known.filter(|it| now.duration_since(it.at) < AGAIN)
                && room(known.slots_free) == room(slots_free)
            {
                // Another copy of us has written it.
                return anyhow::Ok((known.at, slots_free));
            }
            let heard = Heard {
                at: now,
                slots_free,
            };
            let kept = AGAIN
                + self
                    .lease
                    .max(SignedDuration::from_secs(RUNNER_PATIENCE_SECONDS));
            let until = now.checked_add(kept).ok();
            // Who was quicker has written the same.
            self.write(RUNNERS, runner, Some(&heard), until, seen)
                .await?;
            Ok((now, slots_free))
        };
        match written.await {
            Ok((at, slots_free)) => self.heard.remember(runner, room(slots_free), at),
            Err(error) => info!(runner, "could not note that the runner is alive: {error:#}"),
        }
    }

    /// Costs one small shelf; where no runner is alive, the list of the jobs, too.
    pub(super) async fn how_they_are(&self) -> anyhow::Result<Health> {
        let now = self.now();
        let alive = self.registers.list(RUNNERS, now).await?;
        if !alive.is_empty() {
            let slots = alive.into_iter().map(|it| {
                let heard: Heard = serde_json::from_value(it.value).ok()?;
                heard.slots_free
            });
            return Ok(Health {
                down: None,
                // Where one has not said, nobody knows.
                slots_free: slots.sum(),
            });
        }
        // An idle runner that waits to be called is not heard of: only a job
        // that nobody takes says that there is none.
        let mut since: Option<Time> = None;
        for (_, kept) in self.jobs().await?.into_values() {
            let Kept::Open(job) = kept else { continue };
            if job.works(now) {
                return Ok(Health::default());
            }
            if job.free(now) {
                let lies = job.free_since();
                since = Some(since.map_or(lies, |it| it.min(lies)));
            }
        }
        let seconds = since.map(|it| now.duration_since(it).as_secs());
        let down = seconds.filter(|it| *it >= RUNNER_PATIENCE_SECONDS);
        Ok(Health {
            down: down.map(|it| format!("no runner has been heard of for {it} s")),
            slots_free: None,
        })
    }
}
