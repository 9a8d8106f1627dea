//! A log that lives as long as the process: for the simulator and for tests.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::issue::{IssueId, Record, Seq, Time};
use crate::ports::{
    Append, AppendError, Attention, Figures, Head, Log, Place, Register, RegisterWrite, Registers,
};

/// Every issue's log, in memory.
#[derive(Debug, Default)]
pub struct MemoryLog {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    issues: BTreeMap<IssueId, KeptIssue>,
    accounts: BTreeMap<String, Figures>,
    registers: BTreeMap<(String, String), KeptRegister>,
}

#[derive(Debug)]
struct KeptIssue {
    records: Vec<Record>,
    head: Head,
}

#[derive(Debug)]
struct KeptRegister {
    version: u64,
    value: serde_json::Value,
    expires_at: Option<Time>,
}

#[async_trait]
impl Log for MemoryLog {
    async fn read(&self, issue: &IssueId, after: Seq) -> anyhow::Result<Vec<Record>> {
        let kept = self.lock();
        let records = kept.issues.get(issue).map(|it| it.records.as_slice());
        let records = records.unwrap_or_default().iter();
        Ok(records.filter(|it| it.seq > after).cloned().collect())
    }

    async fn append(&self, append: Append) -> Result<(), AppendError> {
        super::check_append(&append)?;
        let mut kept = self.lock();
        let seq = kept.issues.get(&append.issue).map_or(0, |it| it.head.seq);
        if seq != append.after {
            return Err(AppendError::Conflict);
        }
        let mut accounts = Vec::new();
        for entry in append.entries {
            let mut figures = kept
                .accounts
                .get(&entry.account)
                .cloned()
                .unwrap_or_default();
            for (name, add) in entry.add {
                let figure = figures.entry(name).or_default();
                *figure = figure.saturating_add(add);
            }
            if let Some(limit) = entry.limit
                && figures.get(&limit.figure).copied().unwrap_or(0) > limit.max
            {
                let account = entry.account;
                return Err(AppendError::OverLimit { account });
            }
            accounts.push((entry.account, figures));
        }
        kept.accounts.extend(accounts);
        let head = append.head.clone();
        let issue = kept
            .issues
            .entry(append.issue)
            .or_insert_with(|| KeptIssue {
                records: Vec::new(),
                head,
            });
        let numbered = (append.after + 1..).zip(append.events);
        issue.records.extend(numbered.map(|(seq, event)| Record {
            seq,
            at: append.at,
            event,
        }));
        issue.head = append.head;
        Ok(())
    }

    async fn attention(&self, now: Time, limit: usize) -> anyhow::Result<Vec<Attention>> {
        let kept = self.lock();
        let heads = kept.issues.values().map(|it| Attention {
            issue: it.head.issue.clone(),
            at: it.head.attention_at,
            watching: it.head.watching,
        });
        let overdue = |it: &Attention| it.at.is_some_and(|at| at <= now);
        let mut attention: Vec<_> = heads.filter(|it| it.watching || overdue(it)).collect();
        attention.sort_by_cached_key(|it| (!overdue(it), it.at.is_none(), it.at, it.issue.clone()));
        attention.truncate(limit);
        Ok(attention)
    }

    async fn find(&self, name: &str) -> anyhow::Result<Option<IssueId>> {
        let kept = self.lock();
        let id = IssueId::from(name);
        if kept.issues.contains_key(&id) {
            return Ok(Some(id));
        }
        let heads = kept.issues.values().map(|it| &it.head);
        let named = heads.filter(|it| it.identifier.eq_ignore_ascii_case(name));
        let newest = named.max_by_key(|it| (it.started_at, &it.issue));
        Ok(newest.map(|it| it.issue.clone()))
    }

    async fn heads(&self, after: Option<&Place>, limit: usize) -> anyhow::Result<Vec<Head>> {
        let kept = self.lock();
        let heads = kept.issues.values().map(|it| &it.head);
        let mut heads: Vec<Head> = heads
            .filter(|head| after.is_none_or(|after| head.place() < *after))
            .cloned()
            .collect();
        heads.sort_by_cached_key(|it| std::cmp::Reverse(it.place()));
        heads.truncate(limit);
        Ok(heads)
    }

    async fn accounts(&self, names: &[String]) -> anyhow::Result<Vec<Figures>> {
        let kept = self.lock();
        let figures = |name| kept.accounts.get(name).cloned().unwrap_or_default();
        Ok(names.iter().map(figures).collect())
    }

    async fn park(&self, issue: &IssueId, why: &str) -> anyhow::Result<()> {
        if let Some(issue) = self.lock().issues.get_mut(issue) {
            issue.head.park(why);
        }
        Ok(())
    }

    async fn rebuild(&self, head: Head) -> Result<(), AppendError> {
        let mut kept = self.lock();
        let issue = kept.issues.get_mut(&head.issue);
        match issue.filter(|it| it.records.last().map(|it| it.seq) == Some(head.seq)) {
            Some(issue) => issue.head = head,
            None => return Err(AppendError::Conflict),
        }
        Ok(())
    }
}

#[async_trait]
impl Registers for MemoryLog {
    async fn get(&self, shelf: &str, name: &str, now: Time) -> anyhow::Result<Option<Register>> {
        let kept = self.lock();
        let register = kept.registers.get(&(shelf.to_owned(), name.to_owned()));
        Ok(register.filter(|it| it.good(now)).map(|it| it.named(name)))
    }

    async fn list(&self, shelf: &str, now: Time) -> anyhow::Result<Vec<Register>> {
        let kept = self.lock();
        let of_shelf = kept.registers.iter().filter(|((it, _), _)| it == shelf);
        Ok(of_shelf
            .filter(|(_, it)| it.good(now))
            .map(|((_, name), it)| it.named(name))
            .collect())
    }

    async fn put(&self, write: RegisterWrite, seen: u64, now: Time) -> Result<(), AppendError> {
        super::check_register(&write)?;
        let mut kept = self.lock();
        let slot = kept.registers.entry((write.shelf, write.name));
        let version = match &slot {
            Slot::Occupied(it) if it.get().good(now) => it.get().version,
            Slot::Occupied(_) | Slot::Vacant(_) => 0,
        };
        if version != seen {
            return Err(AppendError::Conflict);
        }
        match (write.value, slot) {
            (Some(value), slot) => {
                slot.insert_entry(KeptRegister {
                    version: version + 1,
                    value,
                    expires_at: write.expires_at,
                });
            }
            (None, Slot::Occupied(it)) => {
                it.remove();
            }
            (None, Slot::Vacant(_)) => {}
        }
        Ok(())
    }
}

impl KeptRegister {
    fn good(&self, now: Time) -> bool {
        self.expires_at
            .is_none_or(|it| now.as_second() < it.as_second())
    }

    fn named(&self, name: &str) -> Register {
        Register {
            name: name.to_owned(),
            version: self.version,
            value: self.value.clone(),
        }
    }
}

impl MemoryLog {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
