//! Deliveries of an App's webhook that have failed are asked for again, for GitHub
//! never tries twice. Nothing depends on it: a delivery is a hint, and what one
//! would have told is seen by the next look at the issue, only later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use reqwest::Method;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, info, warn};

use super::app::App;
use super::webhook;
use crate::issue::{Fault, Time};
use crate::ports::{AppendError, Clock, RegisterWrite, Registers};

/// How often GitHub is asked, by all copies of us together.
const DELIVERIES_SECONDS: u64 = 300;
/// All of one time takes no longer.
const ASKING_SECONDS_MAX: u64 = 40;
/// Deliveries come in pages of this size (GitHub's greatest) …
const PAGE_SIZE: &str = "100";
/// … and at most this many pages of the failed and of the others are read.
const PAGES_MAX: usize = 3;
/// How many are asked for again at a time.
const AGAIN_MAX: usize = 20;
/// How many times one is delivered, the first time counted.
const TRIES_MAX: usize = 3;
/// The shelf of the register that says who has asked last.
const SHELF: &str = "deliveries";

/// The failed deliveries of an App.
pub struct Deliveries {
    app: App,
    registers: Arc<dyn Registers>,
    clock: Arc<dyn Clock>,
}

/// One try of GitHub's to deliver something.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
struct Delivery {
    id: u64,
    /// The same for all tries.
    guid: String,
    delivered_at: Time,
    event: String,
    installation_id: Option<u64>,
}

impl Deliveries {
    pub fn new(app: App, registers: Arc<dyn Registers>, clock: Arc<dyn Clock>) -> Self {
        Self {
            app,
            registers,
            clock,
        }
    }

    /// Asks again and again, for ever.
    pub async fn watch(&self) {
        let mut ticks = interval(Duration::from_secs(DELIVERIES_SECONDS));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look().await;
        }
    }

    /// Has what failed delivered again, unless one of us has asked just now.
    /// What goes wrong is told, and nothing else.
    pub async fn look(&self) {
        match self.take_turn().await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return warn!("could not see who asks for failed deliveries: {error:#}"),
        }
        let limit = Duration::from_secs(ASKING_SECONDS_MAX);
        match timeout(limit, self.redeliver()).await {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => info!(count, "GitHub delivers again what could not be delivered"),
            Ok(Err(fault)) => warn!("could not have failed deliveries repeated: {fault}"),
            Err(_) => warn!("having failed deliveries repeated took too long"),
        }
    }

    /// Is it our turn to ask?
    async fn take_turn(&self) -> anyhow::Result<bool> {
        let name = hex::encode(&Sha256::digest(self.app.identity())[..8]);
        let now = self.clock.now();
        if self.registers.get(SHELF, &name, now).await?.is_some() {
            return Ok(false);
        }
        // A tick that is a little early shall not wait for a whole turn more.
        let turn = Duration::from_secs(DELIVERIES_SECONDS - 1);
        let write = RegisterWrite {
            shelf: SHELF.into(),
            name,
            value: Some(json!({ "asked_at": now })),
            expires_at: Some(now + SignedDuration::try_from(turn)?),
        };
        match self.registers.put(write, 0, now).await {
            Ok(()) => Ok(true),
            Err(AppendError::Conflict) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn redeliver(&self) -> Result<usize, Fault> {
        let failed = self.list("failure", None).await?;
        let Some(oldest) = failed.iter().map(|it| it.delivered_at).min() else {
            return Ok(0);
        };
        let delivered = self.list("success", Some(oldest)).await?;
        let mut count = 0;
        for id in choose(&failed, &delivered, self.app.installation()) {
            let id = id.to_string();
            let path = ["app", "hook", "deliveries", &id, "attempts"];
            let answer = self.app.call(Method::POST, &path, &[]).await?;
            if answer.status.is_success() {
                count += 1;
                continue;
            }
            let fault = answer.fault("the App");
            let Fault::Permanent { .. } = fault else {
                return Err(fault);
            };
            // One that is too old, for instance.
            debug!("delivery {id} is not repeated: {}", answer.describe());
        }
        Ok(count)
    }

    /// The tries that ended in one way, newest first; those before `since` may be missing.
    async fn list(&self, status: &str, since: Option<Time>) -> Result<Vec<Delivery>, Fault> {
        let mut found: Vec<Delivery> = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..PAGES_MAX {
            let mut query = vec![("status", status), ("per_page", PAGE_SIZE)];
            query.extend(cursor.as_deref().map(|it| ("cursor", it)));
            let path = ["app", "hook", "deliveries"];
            let answer = self.app.call(Method::GET, &path, &query).await?;
            if !answer.status.is_success() {
                return Err(answer.fault("the App"));
            }
            found.extend(answer.json::<Vec<Delivery>>()?);
            let oldest = found.last().map(|it| it.delivered_at);
            cursor = answer.next("cursor");
            if cursor.is_none() || oldest < since {
                break;
            }
        }
        Ok(found)
    }
}

/// What to ask for again, newest first: what is for us, never arrived and was
/// not tried too often.
fn choose(failed: &[Delivery], delivered: &[Delivery], installation: &str) -> Vec<u64> {
    let arrived: BTreeSet<&str> = delivered.iter().map(|it| it.guid.as_str()).collect();
    let mut tries: BTreeMap<&str, Vec<&Delivery>> = BTreeMap::new();
    for delivery in failed {
        let ours = delivery
            .installation_id
            .is_none_or(|it| it.to_string() == installation);
        if ours && webhook::is_heard(&delivery.event) && !arrived.contains(delivery.guid.as_str()) {
            tries.entry(&delivery.guid).or_default().push(delivery);
        }
    }
    let mut last: Vec<&Delivery> = tries
        .into_values()
        .filter(|it| it.len() < TRIES_MAX)
        .filter_map(|it| it.into_iter().max_by_key(|it| (it.delivered_at, it.id)))
        .collect();
    last.sort_by_key(|it| std::cmp::Reverse((it.delivered_at, it.id)));
    last.iter().take(AGAIN_MAX).map(|it| it.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "7";

    fn at(id: u64, guid: &str, second: i64) -> Delivery {
        Delivery {
            id,
            guid: guid.into(),
            delivered_at: Time::from_second(second).expect("a moment"),
            event: "check_suite".into(),
            installation_id: Some(7),
        }
    }

    #[test]
    fn what_never_arrived_is_asked_for_again_newest_first() {
        let chosen = |failed: &[Delivery], delivered: &[Delivery]| choose(failed, delivered, OURS);
        let (a, b) = (at(1, "a", 10), at(2, "b", 20));
        assert_eq!(chosen(&[], std::slice::from_ref(&a)), Vec::<u64>::new());
        assert_eq!(chosen(&[a.clone(), b.clone()], &[]), [2, 1]);
        // The second try of `a` arrived.
        assert_eq!(chosen(&[a.clone(), b.clone()], &[at(3, "a", 30)]), [2]);
        // Two tries have failed: the last one is repeated, and a third time is the last.
        let twice = [a.clone(), at(3, "a", 30), b.clone()];
        assert_eq!(chosen(&twice, &[]), [3, 2]);
        let thrice = [a.clone(), at(3, "a", 30), at(4, "a", 40), b.clone()];
        assert_eq!(chosen(&thrice, &[]), [2]);
        // Of no interest, or for another account.
        let push = Delivery {
            event: "push".into(),
            ..a.clone()
        };
        let theirs = Delivery {
            installation_id: Some(8),
            ..b.clone()
        };
        let nobodys = Delivery {
            installation_id: None,
            ..b.clone()
        };
        assert_eq!(chosen(&[push, theirs], &[]), Vec::<u64>::new());
        assert_eq!(chosen(&[nobodys], &[]), [2]);
    }

    #[test]
    fn no_more_than_a_few_are_asked_for_at_a_time() {
        let many: Vec<Delivery> = (0..100).map(|it| at(it, &it.to_string(), 100)).collect();
        let newest: Vec<u64> = (80..100).rev().collect();
        assert_eq!(choose(&many, &[], OURS), newest);
    }
}
