//! The one thread that writes: it takes whatever writes have gathered, and
//! commits them together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, anyhow};
use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::statements::{Fate, Statements, Write};
use crate::ports::AppendError;

/// Writes that wait for the writer; whoever comes later waits to hand over.
const QUEUE_MAX: usize = 1_024;
/// Writes that share a commit.
const GROUP_MAX: usize = 256;

pub(super) struct Writer {
    /// `None` once no more is taken.
    queue: Option<mpsc::Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    commits: Arc<AtomicU64>,
}

/// A write, and who waits for it.
struct Work {
    write: Write,
    answer: oneshot::Sender<Result<(), AppendError>>,
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

    pub(super) async fn write(&self, write: Write) -> Result<(), AppendError> {
        let gone = || anyhow!("the store's writer has ended");
        let queue = self.queue.as_ref().ok_or_else(gone)?;
        let (answer, answered) = oneshot::channel();
        let work = Work { write, answer };
        queue.send(work).await.map_err(|_| gone())?;
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

fn write_all(mut connection: Connection, mut queue: mpsc::Receiver<Work>, commits: &AtomicU64) {
    let mut group = Vec::with_capacity(GROUP_MAX);
    while queue.blocking_recv_many(&mut group, GROUP_MAX) > 0 {
        let fates = write_group(&mut connection, &group, commits);
        if let Err(error) = &fates {
            tracing::error!("make {} writes to the store: {error:#}", group.len());
        }
        for (at, work) in group.drain(..).enumerate() {
            let answer = match &fates {
                Ok(fates) => match &fates[at] {
                    Fate::Written => Ok(()),
                    Fate::Conflict => Err(AppendError::Conflict),
                    Fate::OverLimit { account } => Err(AppendError::OverLimit {
                        account: account.clone(),
                    }),
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
        .map(|work| statements.write(&work.write))
        .collect::<anyhow::Result<_>>()?;
    drop(statements);
    if fates.iter().any(|it| matches!(it, Fate::Written)) {
        transaction.commit().context("commit")?;
        commits.fetch_add(1, Ordering::Relaxed);
    }
    Ok(fates)
}
