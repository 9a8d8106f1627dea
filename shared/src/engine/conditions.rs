//! Reads the conditions under which something may begin: the rules of now, the
//! kill switch, the executors, the day's account, how such runs have gone.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use jiff::SignedDuration;

use crate::issue::history::History;
use crate::issue::{Availability, Conditions, DayLedger, Time, utc_day};
use crate::pause;
use crate::ports::{Executor, Hands};
use crate::stats;

/// What was read is good for so long, for whoever can live with that: the
/// store refuses what would go over a limit, and each start asks for the kill
/// switch again.
const FRESH: SignedDuration = SignedDuration::from_secs(2);
/// How runs have gone is read again after this long.
const HISTORY_FRESH: SignedDuration = SignedDuration::from_mins(10);

/// What was read last, and when.
#[derive(Default)]
pub(super) struct Known {
    conditions: Mutex<Option<(Time, Arc<Conditions>)>>,
    paused: Mutex<Option<(Time, bool)>>,
    history: Mutex<Option<(Time, Arc<History>)>>,
}

impl Known {
    /// The conditions of now, or of a moment ago.
    pub(super) async fn recent(&self, hands: &Hands) -> anyhow::Result<Arc<Conditions>> {
        let now = hands.clock.now();
        let known = lock(&self.conditions).clone();
        match known.filter(|(at, _)| now.duration_since(*at).abs() <= FRESH) {
            Some((_, conditions)) => Ok(conditions),
            None => self.read(hands).await,
        }
    }

    /// Is all paused now, or was it a moment ago? Asked of what runs anyway, where
    /// nothing else of the conditions matters.
    pub(super) async fn paused(&self, hands: &Hands) -> anyhow::Result<bool> {
        let now = hands.clock.now();
        let known = *lock(&self.paused);
        if let Some((_, paused)) = known.filter(|(at, _)| now.duration_since(*at).abs() <= FRESH) {
            return Ok(paused);
        }
        let paused = pause::read(hands.registers.as_ref(), now).await?.is_some();
        *lock(&self.paused) = Some((now, paused));
        Ok(paused)
    }

    /// The conditions of now.
    pub(super) async fn read(&self, hands: &Hands) -> anyhow::Result<Arc<Conditions>> {
        let now = hands.clock.now();
        let day = utc_day(now);
        let accounts = [stats::day_account(day), stats::alerts_account(day)];
        let (rules, pause, accounts, executors, history) = tokio::join!(
            hands.policies.rules(),
            pause::read(hands.registers.as_ref(), now),
            hands.log.accounts(&accounts),
            join_all(hands.executors.iter().map(|it| availability(it.as_ref()))),
            self.history(hands, now),
        );
        let accounts = accounts?;
        let figures = |at: usize| accounts.get(at).cloned().unwrap_or_default();
        let (spent, reserved) = stats::ledger(&figures(0));
        let conditions = Arc::new(Conditions {
            rules,
            pause: pause?,
            executors,
            day: DayLedger {
                date: day,
                spent,
                reserved,
                alerted: stats::alerts_of(&figures(1)),
            },
            history: history?,
        });
        *lock(&self.conditions) = Some((now, Arc::clone(&conditions)));
        Ok(conditions)
    }

    async fn history(&self, hands: &Hands, now: Time) -> anyhow::Result<Arc<History>> {
        let known = lock(&self.history).clone();
        if let Some((_, history)) =
            known.filter(|(at, _)| now.duration_since(*at).abs() <= HISTORY_FRESH)
        {
            return Ok(history);
        }
        let days = hands.log.accounts(&stats::accounts_of_history(now)).await?;
        let history = Arc::new(stats::history_of(&days));
        *lock(&self.history) = Some((now, Arc::clone(&history)));
        Ok(history)
    }
}

async fn availability(executor: &dyn Executor) -> Availability {
    let health = executor.health().await;
    Availability {
        kind: executor.kind(),
        down: health.down,
        slots_free: health.slots_free,
    }
}

fn lock<T>(known: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}
