//! A log that lives as long as the process: for the simulator and for tests.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::issue::{IssueId, Record, Seq, Time};
use crate::ports::{Append, AppendError, Head, Log};

/// Every issue's log, in memory.
#[derive(Debug, Default)]
pub struct MemoryLog {
    issues: Mutex<BTreeMap<IssueId, Kept>>,
}

#[derive(Debug)]
struct Kept {
    records: Vec<Record>,
    head: Head,
}

#[async_trait]
impl Log for MemoryLog {
    async fn read(&self, issue: &IssueId, after: Seq) -> anyhow::Result<Vec<Record>> {
        let issues = self.lock();
        let records = issues
            .get(issue)
            .map(|it| it.records.as_slice())
            .unwrap_or_default();
        Ok(records
            .iter()
            .filter(|it| it.seq > after)
            .cloned()
            .collect())
    }

    async fn append(&self, append: Append) -> Result<(), AppendError> {
        super::last_seq(&append)?;
        let mut issues = self.lock();
        if issues.get(&append.issue).map_or(0, |it| it.head.seq) != append.after {
            return Err(AppendError::Conflict);
        }
        let head = append.head.clone();
        let kept = issues.entry(append.issue).or_insert_with(|| Kept {
            records: Vec::new(),
            head,
        });
        let numbered = (append.after + 1..).zip(append.events);
        kept.records.extend(numbered.map(|(seq, event)| Record {
            seq,
            at: append.at,
            event,
        }));
        kept.head = append.head;
        Ok(())
    }

    async fn attention(&self, now: Time, limit: usize) -> anyhow::Result<Vec<Head>> {
        let overdue = |head: &Head| head.attention_at.is_some_and(|at| at <= now);
        let mut heads: Vec<Head> = self
            .lock()
            .values()
            .map(|it| &it.head)
            .filter(|head| head.watching || overdue(head))
            .cloned()
            .collect();
        heads.sort_by_cached_key(|it| {
            (
                !overdue(it),
                it.attention_at.is_none(),
                it.attention_at,
                it.issue.clone(),
            )
        });
        heads.truncate(limit);
        Ok(heads)
    }

    async fn find(&self, name: &str) -> anyhow::Result<Option<IssueId>> {
        let issues = self.lock();
        let id = IssueId::from(name);
        if issues.contains_key(&id) {
            return Ok(Some(id));
        }
        let named = issues
            .values()
            .filter(|it| it.head.identifier.eq_ignore_ascii_case(name));
        let newest = named.max_by_key(|it| (it.head.started_at, Reverse(&it.head.issue)));
        Ok(newest.map(|it| it.head.issue.clone()))
    }

    async fn heads(&self, before: Option<Time>, limit: usize) -> anyhow::Result<Vec<Head>> {
        let mut heads: Vec<Head> = self
            .lock()
            .values()
            .map(|it| &it.head)
            .filter(|head| before.is_none_or(|before| head.started_at < before))
            .cloned()
            .collect();
        heads.sort_by_cached_key(|it| (Reverse(it.started_at), it.issue.clone()));
        heads.truncate(limit);
        Ok(heads)
    }
}

impl MemoryLog {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<IssueId, Kept>> {
        self.issues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
