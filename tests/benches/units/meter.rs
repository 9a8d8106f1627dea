//! A log that counts what goes through it, and rings for what others must do.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::Value;
use shared::issue::{Event, IssueId, Record, Seq, Time, leaves_work};
use shared::ports::{Append, AppendError, Attention, Figures, Head, Log, Place};
use tokio::sync::mpsc::UnboundedSender;

/// What was written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    pub(crate) appends: usize,
    /// Because somebody else had written. They are paid for like the others.
    pub(crate) refused: usize,
    pub(crate) events: usize,
    pub(crate) event_bytes: usize,
    pub(crate) head_bytes: usize,
    /// Appends by what is in them.
    pub(crate) kinds: BTreeMap<String, usize>,
    /// Appends that moved the issue in the index of attention.
    pub(crate) moves: usize,
    /// In the order of the log.
    pub(crate) written: Vec<Append>,
}

pub(crate) struct Meter {
    log: Arc<dyn Log>,
    count: Mutex<Count>,
    bell: UnboundedSender<IssueId>,
}

impl Meter {
    pub(crate) fn new(log: Arc<dyn Log>, bell: UnboundedSender<IssueId>) -> Self {
        Self {
            log,
            count: Mutex::default(),
            bell,
        }
    }

    /// What was written since this was asked last.
    pub(crate) fn take(&self) -> Count {
        let mut count = std::mem::take(&mut *self.count());
        count.written.sort_by_key(|it| it.after);
        count
    }

    /// Is the last word said, and nothing owed?
    pub(crate) fn is_over(&self) -> bool {
        let count = self.count();
        let last = count.written.iter().max_by_key(|it| it.after);
        last.is_some_and(|it| {
            it.head.phase == "done" && it.head.attention_at.is_none() && !it.head.watching
        })
    }

    fn count(&self) -> MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Count {
    fn add(&mut self, append: Append) {
        let json = |it: Result<String, serde_json::Error>| it.map_or(0, |it| it.len());
        self.appends += 1;
        self.events += append.events.len();
        self.event_bytes += json(serde_json::to_string(&append.events));
        self.head_bytes += json(serde_json::to_string(&append.head));
        let names: Vec<String> = append.events.iter().map(name).collect();
        *self.kinds.entry(names.join(" ")).or_default() += 1;
        let moved = self.written.last().is_none_or(|it| {
            it.head.attention_at != append.head.attention_at
                || it.head.watching != append.head.watching
        });
        self.moves += usize::from(moved);
        self.written.push(append);
    }
}

#[async_trait]
impl Log for Meter {
    async fn read(&self, issue: &IssueId, after: Seq) -> anyhow::Result<Vec<Record>> {
        self.log.read(issue, after).await
    }

    async fn append(&self, append: Append) -> Result<(), AppendError> {
        let written = self.log.append(append.clone()).await;
        match &written {
            Ok(()) => {
                let (issue, wakes) = (append.issue.clone(), leaves_work(&append.events));
                self.count().add(append);
                if wakes {
                    // Nobody listens any more once everything is over.
                    let _ = self.bell.send(issue);
                }
            }
            Err(AppendError::Conflict) => self.count().refused += 1,
            Err(AppendError::OverLimit { .. } | AppendError::Failed(_)) => {}
        }
        written
    }

    async fn attention(&self, now: Time, limit: usize) -> anyhow::Result<Vec<Attention>> {
        self.log.attention(now, limit).await
    }

    async fn find(&self, name: &str) -> anyhow::Result<Option<IssueId>> {
        self.log.find(name).await
    }

    async fn heads(&self, after: Option<&Place>, limit: usize) -> anyhow::Result<Vec<Head>> {
        self.log.heads(after, limit).await
    }

    async fn accounts(&self, names: &[String]) -> anyhow::Result<Vec<Figures>> {
        self.log.accounts(names).await
    }

    async fn park(&self, issue: &IssueId, why: &str) -> anyhow::Result<()> {
        self.log.park(issue, why).await
    }

    async fn rebuild(&self, head: Head) -> Result<(), AppendError> {
        self.log.rebuild(head).await
    }
}

/// What an event is, in a word: `Requested(Say)`.
fn name(event: &Event) -> String {
    let first = |it: &Value| match it {
        Value::String(name) => name.clone(),
        Value::Object(map) => map.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let json = serde_json::to_value(event).unwrap_or_default();
    match (event, &json) {
        (Event::Requested(_), Value::Object(map)) => {
            format!("wish:{}", map.values().map(first).collect::<String>())
        }
        _ => first(&json),
    }
}
