//! Since when something cannot be looked at. Kept in a register, since who
//! looks next may be another process that has just begun.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::SignedDuration;
use serde_json::{Value, json};
use tracing::{debug, warn};

use crate::issue::{Fault, IssueId, TaskId, Time};
use crate::ports::{AppendError, Clock, Hands, RegisterWrite, Registers};

const SHELF: &str = "blind";
/// Who has not failed for this long begins anew when it fails again. Longer
/// than the longest pause between two looks.
const FORGOTTEN_SECONDS: i64 = 180;
/// How often a blindness that lasts is written down again.
const RENEWED_SECONDS: i64 = 60;

pub(super) struct Blind {
    registers: Arc<dyn Registers>,
    clock: Arc<dyn Clock>,
    /// What this process knows to be unseen. Another one's is left to expire.
    known: Mutex<BTreeSet<String>>,
}

impl Blind {
    pub(super) fn new(hands: &Hands) -> Self {
        Self {
            registers: Arc::clone(&hands.registers),
            clock: Arc::clone(&hands.clock),
            known: Mutex::default(),
        }
    }

    /// A look at a task went well.
    pub(super) async fn sees(&self, issue: &IssueId, task: &TaskId) {
        let name = name(issue, task);
        if !self.known(|it| it.remove(&name)) {
            return;
        }
        let now = self.clock.now();
        if let Err(error) = self.forget(&name, now).await {
            warn!(%issue, %task, "could not note that it is seen again: {error:#}");
        }
    }

    /// A look at a task failed: since when it does.
    pub(super) async fn fails(&self, issue: &IssueId, task: &TaskId, fault: &Fault) -> Time {
        match fault {
            // We know that it goes by.
            Fault::Busy { .. } => debug!(%issue, %task, "did not look: {fault}"),
            Fault::Transient { .. }
            | Fault::Ambiguous { .. }
            | Fault::Down { .. }
            | Fault::Permanent { .. } => warn!(%issue, %task, "could not look: {fault}"),
        }
        let name = name(issue, task);
        let now = self.clock.now();
        self.known(|it| it.insert(name.clone()));
        match self.remember(&name, now).await {
            Ok(since) => since,
            Err(error) => {
                warn!(%issue, %task, "could not note since when: {error:#}");
                now
            }
        }
    }

    async fn remember(&self, name: &str, now: Time) -> anyhow::Result<Time> {
        let register = self.registers.get(SHELF, name, now).await?;
        let seen = register.as_ref().map_or(0, |it| it.version);
        let moment = |key: &str| register.as_ref()?.value.get(key)?.as_str()?.parse().ok();
        let since: Time = moment("since").unwrap_or(now);
        let noted: Option<Time> = moment("noted");
        if noted.is_some_and(|it| now.duration_since(it).as_secs() < RENEWED_SECONDS) {
            return Ok(since);
        }
        let write = RegisterWrite {
            shelf: SHELF.into(),
            name: name.into(),
            value: Some(json!({ "since": since, "noted": now })),
            expires_at: Some(now + SignedDuration::from_secs(FORGOTTEN_SECONDS)),
        };
        // Who was quicker has written the same.
        quicker(self.registers.put(write, seen, now).await)?;
        Ok(since)
    }

    async fn forget(&self, name: &str, now: Time) -> anyhow::Result<()> {
        let Some(register) = self.registers.get(SHELF, name, now).await? else {
            return Ok(());
        };
        let write = RegisterWrite {
            shelf: SHELF.into(),
            name: name.into(),
            value: None::<Value>,
            expires_at: None,
        };
        quicker(self.registers.put(write, register.version, now).await)
    }

    fn known<T>(&self, change: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        change(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn quicker(put: Result<(), AppendError>) -> anyhow::Result<()> {
    match put {
        Ok(()) | Err(AppendError::Conflict) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn name(issue: &IssueId, task: &TaskId) -> String {
    format!("{issue}/{task}")
}
