//! The one thread that writes: it takes whatever appends have gathered, and
//! commits them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use rusqlite::{CachedStatement, Connection, OptionalExtension, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

use super::{column, nanoseconds};
use crate::issue::{IssueId, Seq};
use crate::ports::{Append, AppendError};

/// Appends that wait for the writer; whoever comes later waits to hand over.
const QUEUE_MAX: usize = 1_024;
/// Appends that share a commit.
const GROUP_MAX: usize = 256;

pub(super) struct Writer {
    /// `None` once no more is taken.
    queue: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    commits: Arc<AtomicU64>,
}

/// An append, and who waits for it.
struct Work {
    row: Row,
    answer: oneshot::Sender<Result<(), AppendError>>,
}

/// An append as it will be stored. Made by the caller, so that the writer only writes.
struct Row {
    issue: IssueId,
    after: Seq,
    at: i64,
    events: Vec<String>,
    last: i64,
    identifier: String,
    started_at: i64,
    attention_at: Option<i64>,
    watching: bool,
    head: String,
}

/// What became of an append in its group.
enum Fate {
    Written,
    Conflict,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> anyhow::Result<Self> {
        let (queue, work) = mpsc::channel(QUEUE_MAX);
        let commits = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&commits);
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || write_all(connection, work, &count))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            commits,
        })
    }

    pub(super) async fn write(&self, append: Append) -> Result<(), AppendError> {
        let gone = || anyhow!("the store's writer has ended");
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        let (answer, answered) = oneshot::channel();
        let row = Row::new(append)?;
        queue.send(Work { row, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }

    pub(super) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if self.thread.take().is_some_and(|it| it.join().is_err()) {
            tracing::error!("the store's writer ended in a panic");
        }
    }
}

impl Row {
    fn new(append: Append) -> anyhow::Result<Self> {
        let head = append.head;
        let events = append.events.iter().map(serde_json::to_string);
        Ok(Self {
            at: nanoseconds(append.at),
            events: events.collect::<Result<_, _>>()?,
            last: column(head.seq)?,
            started_at: nanoseconds(head.started_at),
            attention_at: head.attention_at.map(nanoseconds),
            watching: head.watching,
            head: serde_json::to_string(&head)?,
            identifier: head.identifier,
            issue: append.issue,
            after: append.after,
        })
    }
}

fn write_all(mut connection: Connection, mut queue: mpsc::Receiver<Work>, commits: &AtomicU64) {
    let mut group = Vec::with_capacity(GROUP_MAX);
    while queue.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
        let fates = write_group(&mut connection, &group, commits);
        if let Err(error) = &fates {
            tracing::error!("write {} appends to the store: {error:#}", group.len());
        }
        for (at, work) in group.drain(..).enumerate() {
            let answer = match &fates {
                Ok(fates) => match fates[at] {
                    Fate::Written => Ok(()),
                    Fate::Conflict => Err(AppendError::Conflict),
                },
                Err(error) => Err(anyhow!("write to the store: {error:#}").into()),
            };
            // Who doesn't wait any more will read what became of it.
            let _ = work.answer.send(answer);
        }
    }
}

/// One transaction, one `fsync`. An error means that nothing of it is written.
fn write_group(
    connection: &mut Connection,
    group: &[Work],
    commits: &AtomicU64,
) -> anyhow::Result<Vec<Fate>> {
    if !connection.is_autocommit() {
        // The last group could not even be rolled back.
        connection
            .execute_batch("ROLLBACK")
            .context("give up a broken transaction")?;
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut statements = Statements::prepare(&transaction)?;
    let fates: Vec<Fate> = group
        .iter()
        .map(|work| statements.write(&work.row))
        .collect::<anyhow::Result<_>>()?;
    drop(statements);
    if fates.iter().any(|it| matches!(it, Fate::Written)) {
        transaction.commit().context("commit")?;
        commits.fetch_add(1, Ordering::Relaxed);
    }
    Ok(fates)
}

struct Statements<'c> {
    seen: CachedStatement<'c>,
    event: CachedStatement<'c>,
    new_head: CachedStatement<'c>,
    head: CachedStatement<'c>,
}

impl<'c> Statements<'c> {
    fn prepare(connection: &'c Connection) -> anyhow::Result<Self> {
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
        })
    }

    fn write(&mut self, row: &Row) -> anyhow::Result<Fate> {
        let issue = row.issue.0.as_str();
        let seen: Option<(i64, bool)> = self
            .seen
            .query_row(params![issue, row.identifier, row.started_at], |it| {
                Ok((it.get(0)?, it.get(1)?))
            })
            .optional()?;
        if seen.map_or(0, |(seq, _)| seq) != column(row.after)? {
            return Ok(Fate::Conflict);
        }
        for (seq, event) in (column(row.after)? + 1..).zip(&row.events) {
            self.event
                .execute(params![issue, seq, row.at, event])
                .with_context(|| format!("event {seq} of `{issue}`"))?;
        }
        let head = params![issue, row.last, row.attention_at, row.watching, row.head];
        let written = match seen {
            Some((_, true)) => self.head.execute(head),
            Some((_, false)) | None => self.new_head.execute(params![
                issue,
                row.last,
                row.attention_at,
                row.watching,
                row.head,
                row.identifier,
                row.started_at
            ]),
        };
        written.with_context(|| format!("head of `{issue}`"))?;
        Ok(Fate::Written)
    }
}
