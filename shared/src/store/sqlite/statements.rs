//! What each write does, within the transaction of its group. What is refused
//! is refused before it has written anything: the rest of its group goes on.

use anyhow::Context;
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::{column, nanoseconds};
use crate::issue::{IssueId, Seq, Time};
use crate::ports::{Append, Entry, Figures, Head, RegisterWrite};
use crate::store::is_good;

/// What a write may be, as it will be stored. Made by the caller, so that the
/// writer only writes.
pub(super) enum Write {
    Append(AppendRow),
    Park { issue: IssueId, why: String },
    Rebuild(HeadRow),
    Register(RegisterRow),
}

pub(super) struct AppendRow {
    after: Seq,
    at: i64,
    events: Vec<String>,
    head: HeadRow,
    entries: Vec<Entry>,
}

pub(super) struct HeadRow {
    issue: IssueId,
    seq: i64,
    identifier: String,
    started_at: i64,
    attention_at: Option<i64>,
    watching: bool,
    head: String,
}

pub(super) struct RegisterRow {
    shelf: String,
    name: String,
    value: Option<String>,
    expires_at: Option<i64>,
    seen: u64,
    now: Time,
}

/// What became of a write in its group.
pub(super) enum Fate {
    Written,
    Conflict,
    OverLimit { account: String },
}

impl AppendRow {
    pub(super) fn new(append: Append) -> anyhow::Result<Self> {
        let events = append.events.iter().map(serde_json::to_string);
        Ok(Self {
            after: append.after,
            at: nanoseconds(append.at),
            events: events.collect::<Result<_, _>>()?,
            head: append.head.try_into()?,
            entries: append.entries,
        })
    }
}

impl TryFrom<Head> for HeadRow {
    type Error = anyhow::Error;

    fn try_from(head: Head) -> anyhow::Result<Self> {
        Ok(Self {
            seq: column(head.seq)?,
            started_at: nanoseconds(head.started_at),
            attention_at: head.attention_at.map(nanoseconds),
            watching: head.watching,
            head: serde_json::to_string(&head)?,
            identifier: head.identifier,
            issue: head.issue,
        })
    }
}

impl RegisterRow {
    pub(super) fn new(write: RegisterWrite, seen: u64, now: Time) -> anyhow::Result<Self> {
        let value = write.value.as_ref().map(serde_json::to_string);
        Ok(Self {
            value: value.transpose()?,
            expires_at: write.expires_at.map(Time::as_second),
            shelf: write.shelf,
            name: write.name,
            seen,
            now,
        })
    }
}

pub(super) struct Statements<'c> {
    seen: CachedStatement<'c>,
    event: CachedStatement<'c>,
    new_head: CachedStatement<'c>,
    head: CachedStatement<'c>,
    figure: CachedStatement<'c>,
    set_figure: CachedStatement<'c>,
    park: CachedStatement<'c>,
    last_event: CachedStatement<'c>,
    register: CachedStatement<'c>,
    set_register: CachedStatement<'c>,
    remove_register: CachedStatement<'c>,
}

impl<'c> Statements<'c> {
    pub(super) fn prepare(connection: &'c Connection) -> anyhow::Result<Self> {
        Ok(Self {
            seen: connection.prepare_cached(
                "SELECT seq, identifier = ?2 AND started_at = ?3 FROM heads WHERE issue = ?1",
            )?,
            event: connection.prepare_cached(
                "INSERT INTO events (issue, seq, at, event) VALUES (?1, ?2, ?3, ?4)",
            )?,
            new_head: connection.prepare_cached(
                "INSERT OR REPLACE INTO heads
                     (issue, seq, attention_at, watching, head, identifier, started_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?,
            // Names only what changes from step to step: SQLite writes the
            // indexes of all that is named.
            head: connection.prepare_cached(
                "UPDATE heads SET seq = ?2, attention_at = ?3, watching = ?4, head = ?5
                 WHERE issue = ?1",
            )?,
            figure: connection
                .prepare_cached("SELECT value FROM accounts WHERE account = ?1 AND figure = ?2")?,
            set_figure: connection.prepare_cached(
                "INSERT OR REPLACE INTO accounts (account, figure, value) VALUES (?1, ?2, ?3)",
            )?,
            // The head may be what is broken.
            park: connection.prepare_cached(
                "UPDATE heads SET attention_at = NULL, watching = 0,
                     head = CASE WHEN json_valid(head) THEN json_set(
                         head, '$.attention_at', NULL, '$.watching', json('false'),
                         '$.waiting_for', ?2
                     ) ELSE head END
                 WHERE issue = ?1",
            )?,
            last_event: connection
                .prepare_cached("SELECT max(seq) FROM events WHERE issue = ?1")?,
            register: connection.prepare_cached(
                "SELECT version, expires_at FROM registers WHERE shelf = ?1 AND name = ?2",
            )?,
            set_register: connection.prepare_cached(
                "INSERT OR REPLACE INTO registers (shelf, name, version, value, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?,
            remove_register: connection
                .prepare_cached("DELETE FROM registers WHERE shelf = ?1 AND name = ?2")?,
        })
    }

    pub(super) fn write(&mut self, write: &Write) -> anyhow::Result<Fate> {
        match write {
            Write::Append(row) => self.append(row),
            Write::Park { issue, why } => {
                self.park.execute(params![issue.0, why])?;
                Ok(Fate::Written)
            }
            Write::Rebuild(head) => self.rebuild(head),
            Write::Register(row) => self.register(row),
        }
    }

    fn append(&mut self, row: &AppendRow) -> anyhow::Result<Fate> {
        let head = &row.head;
        let issue = head.issue.0.as_str();
        let seen: Option<(i64, bool)> = self
            .seen
            .query_row(params![issue, head.identifier, head.started_at], |it| {
                Ok((it.get(0)?, it.get(1)?))
            })
            .optional()?;
        if seen.map_or(0, |(seq, _)| seq) != column(row.after)? {
            return Ok(Fate::Conflict);
        }
        let mut sums = Vec::with_capacity(row.entries.len());
        for entry in &row.entries {
            match self.sums(entry)? {
                Some(it) => sums.push((&entry.account, it)),
                None => {
                    let account = entry.account.clone();
                    return Ok(Fate::OverLimit { account });
                }
            }
        }
        for (account, figures) in sums {
            for (figure, value) in figures {
                self.set_figure.execute(params![account, figure, value])?;
            }
        }
        for (seq, event) in (column(row.after)? + 1..).zip(&row.events) {
            self.event
                .execute(params![issue, seq, row.at, event])
                .with_context(|| format!("event {seq} of `{issue}`"))?;
        }
        match seen {
            Some((_, true)) => {
                let written = self.head.execute(params![
                    issue,
                    head.seq,
                    head.attention_at,
                    head.watching,
                    head.head
                ]);
                written.with_context(|| format!("head of `{issue}`"))?;
            }
            Some((_, false)) | None => self.put_head(head)?,
        }
        Ok(Fate::Written)
    }

    /// The figures that an entry leaves behind, if its limit allows them.
    fn sums(&mut self, entry: &Entry) -> anyhow::Result<Option<Figures>> {
        let mut present = |figure: &str| {
            let value = self
                .figure
                .query_row([&entry.account, figure], |it| it.get(0));
            value.optional().map(Option::unwrap_or_default)
        };
        let mut sums = Figures::new();
        for (figure, add) in &entry.add {
            let present: i64 = present(figure)?;
            sums.insert(figure.clone(), present.saturating_add(*add));
        }
        if let Some(limit) = &entry.limit {
            let sum = match sums.get(&limit.figure) {
                Some(sum) => *sum,
                None => present(&limit.figure)?,
            };
            if sum > limit.max {
                return Ok(None);
            }
        }
        Ok(Some(sums))
    }

    fn put_head(&mut self, head: &HeadRow) -> anyhow::Result<()> {
        let written = self.new_head.execute(params![
            head.issue.0,
            head.seq,
            head.attention_at,
            head.watching,
            head.head,
            head.identifier,
            head.started_at
        ]);
        written.with_context(|| format!("head of `{}`", head.issue))?;
        Ok(())
    }

    fn rebuild(&mut self, head: &HeadRow) -> anyhow::Result<Fate> {
        let last: Option<i64> = self.last_event.query_row([&head.issue.0], |it| it.get(0))?;
        if last != Some(head.seq) {
            return Ok(Fate::Conflict);
        }
        self.put_head(head)?;
        Ok(Fate::Written)
    }

    fn register(&mut self, row: &RegisterRow) -> anyhow::Result<Fate> {
        let key = params![row.shelf, row.name];
        let present: Option<(i64, Option<i64>)> = self
            .register
            .query_row(key, |it| Ok((it.get(0)?, it.get(1)?)))
            .optional()?;
        let version = match present {
            Some((version, expires_at)) if is_good(expires_at, row.now) => version,
            Some(_) | None => 0,
        };
        if u64::try_from(version)? != row.seen {
            return Ok(Fate::Conflict);
        }
        match &row.value {
            Some(value) => self.set_register.execute(params![
                row.shelf,
                row.name,
                version + 1,
                value,
                row.expires_at
            ])?,
            None => self.remove_register.execute(key)?,
        };
        Ok(Fate::Written)
    }
}
