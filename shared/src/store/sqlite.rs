//! A log in one SQLite file: for one machine, one service at a time.
//!
//! Durable means an `fsync`, and an `fsync` takes milliseconds. So there is one
//! writer, and it commits together whatever has gathered while it was busy:
//! alone an append waits for one `fsync`, in a crowd a hundred share it.
//! Readers have connections of their own and never wait for the writer.

mod file;
mod statements;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};
use tokio::sync::Semaphore;

use self::file::Lock;
use self::statements::{AppendRow, RegisterRow, Write};
use self::writer::Writer;
use crate::issue::{IssueId, Record, Seq, Time};
use crate::ports::{
    Append, AppendError, Attention, Figures, Head, Log, Place, Register, RegisterWrite, Registers,
};

/// Connections that read at the same time.
const READERS: usize = 4;

/// Every issue's log, in a file.
pub struct SqliteLog {
    path: PathBuf,
    readers: Arc<Readers>,
    /// `None`: opened to read only.
    writer: Option<Writer>,
    // Dropped last: the file is ours until the writer has ended.
    _lock: Option<Lock>,
}

impl SqliteLog {
    /// Opens the store, or makes a new one. Refused while another process has
    /// it open like this, and for a file that is not ours or newer than we are.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("open the store `{}`", path.display());
        let lock = Lock::take(path).with_context(what)?;
        let connection = file::open(path).with_context(what)?;
        let readers = Readers::open(path).with_context(what)?;
        let writer = Writer::start(connection).with_context(what)?;
        Ok(Self {
            path: path.into(),
            readers,
            writer: Some(writer),
            _lock: Some(lock),
        })
    }

    /// Opens an existing store to read it, whether a service has it open or not.
    pub fn open_read_only(path: &Path) -> anyhow::Result<Self> {
        let readers = Readers::open(path)
            .with_context(|| format!("open the store `{}` to read", path.display()))?;
        Ok(Self {
            path: path.into(),
            readers,
            writer: None,
            _lock: None,
        })
    }

    /// How often the writer has committed so far: each time is one `fsync`.
    pub fn commits(&self) -> u64 {
        self.writer.as_ref().map_or(0, Writer::commits)
    }

    async fn write(&self, write: Write) -> Result<(), AppendError> {
        let Some(writer) = &self.writer else {
            return Err(anyhow!("the store `{}` is open to read only", self.path.display()).into());
        };
        writer.write(write).await
    }

    async fn query<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let readers = Arc::clone(&self.readers);
        let place = Arc::clone(&readers.places).acquire_owned().await?;
        let reading = tokio::task::spawn_blocking(move || {
            let connection = readers.lend()?;
            let answer = read(&connection);
            readers.give_back(connection);
            drop(place);
            answer
        });
        reading
            .await
            .map_err(anyhow::Error::from)
            .flatten()
            .with_context(|| format!("read the store `{}`", self.path.display()))
    }
}

#[async_trait]
impl Log for SqliteLog {
    async fn read(&self, issue: &IssueId, after: Seq) -> anyhow::Result<Vec<Record>> {
        let issue = issue.clone();
        self.query(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT seq, at, event FROM events WHERE issue = ?1 AND seq > ?2 ORDER BY seq",
            )?;
            let rows = statement.query_map(params![issue.0, column(after)?], |row| {
                Ok((
                    row.get::<_, i64>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, String>(2)?,
                ))
            })?;
            rows.map(|row| {
                let (seq, at, event) = row?;
                record(seq, at, &event).with_context(|| format!("record {seq} of `{issue}`"))
            })
            .collect()
        })
        .await
    }

    async fn append(&self, append: Append) -> Result<(), AppendError> {
        super::check_append(&append)?;
        self.write(Write::Append(AppendRow::new(append)?)).await
    }

    async fn attention(&self, now: Time, limit: usize) -> anyhow::Result<Vec<Attention>> {
        self.query(move |connection| {
            let now = nanoseconds(now);
            let mut found = attention(
                connection,
                "SELECT issue, attention_at, watching FROM heads WHERE attention_at <= ?1
                 ORDER BY attention_at, issue LIMIT ?2",
                params![now, limit_column(limit)],
            )?;
            found.extend(attention(
                connection,
                "SELECT issue, attention_at, watching FROM heads
                 WHERE watching = 1 AND (attention_at IS NULL OR attention_at > ?1)
                 ORDER BY attention_at IS NULL, attention_at, issue LIMIT ?2",
                params![now, limit_column(limit - found.len())],
            )?);
            Ok(found)
        })
        .await
    }

    async fn find(&self, name: &str) -> anyhow::Result<Option<IssueId>> {
        let name = name.to_owned();
        self.query(move |connection| {
            let mut by_id =
                connection.prepare_cached("SELECT issue FROM heads WHERE issue = ?1")?;
            let mut by_identifier = connection.prepare_cached(
                "SELECT issue FROM heads WHERE identifier = ?1 COLLATE NOCASE
                 ORDER BY started_at DESC, issue DESC LIMIT 1",
            )?;
            let found = match by_id.query_row([&name], |row| row.get(0)).optional()? {
                Some(id) => Some(id),
                None => by_identifier
                    .query_row([&name], |row| row.get(0))
                    .optional()?,
            };
            Ok(found.map(IssueId))
        })
        .await
    }

    async fn heads(&self, after: Option<&Place>, limit: usize) -> anyhow::Result<Vec<Head>> {
        let after = after.cloned();
        self.query(move |connection| match after {
            Some(after) => heads(
                connection,
                "SELECT head FROM heads WHERE (started_at, issue) < (?1, ?2)
                 ORDER BY started_at DESC, issue DESC LIMIT ?3",
                params![
                    nanoseconds(after.started_at),
                    after.issue.0,
                    limit_column(limit)
                ],
            ),
            None => heads(
                connection,
                "SELECT head FROM heads INDEXED BY heads_by_start
                 ORDER BY started_at DESC, issue DESC LIMIT ?1",
                params![limit_column(limit)],
            ),
        })
        .await
    }

    async fn accounts(&self, names: &[String]) -> anyhow::Result<Vec<Figures>> {
        let names = names.to_vec();
        self.query(move |connection| {
            let mut statement = connection
                .prepare_cached("SELECT figure, value FROM accounts WHERE account = ?1")?;
            let mut figures = |name: &String| -> anyhow::Result<Figures> {
                let rows = statement.query_map([name], |row| Ok((row.get(0)?, row.get(1)?)))?;
                Ok(rows.collect::<Result<_, _>>()?)
            };
            names.iter().map(&mut figures).collect()
        })
        .await
    }

    async fn park(&self, issue: &IssueId, why: &str) -> anyhow::Result<()> {
        let (issue, why) = (issue.clone(), why.to_owned());
        Ok(self.write(Write::Park { issue, why }).await?)
    }

    async fn rebuild(&self, head: Head) -> Result<(), AppendError> {
        self.write(Write::Rebuild(head.try_into()?)).await
    }
}

#[async_trait]
impl Registers for SqliteLog {
    async fn get(&self, shelf: &str, name: &str, now: Time) -> anyhow::Result<Option<Register>> {
        let (shelf, name) = (shelf.to_owned(), name.to_owned());
        self.query(move |connection| {
            let found = registers(
                connection,
                "SELECT name, version, value, expires_at FROM registers
                 WHERE shelf = ?1 AND name = ?2",
                params![shelf, name],
                now,
            )?;
            Ok(found.into_iter().next())
        })
        .await
    }

    async fn list(&self, shelf: &str, now: Time) -> anyhow::Result<Vec<Register>> {
        let shelf = shelf.to_owned();
        self.query(move |connection| {
            registers(
                connection,
                "SELECT name, version, value, expires_at FROM registers
                 WHERE shelf = ?1 ORDER BY name",
                params![shelf],
                now,
            )
        })
        .await
    }

    async fn put(&self, write: RegisterWrite, seen: u64, now: Time) -> Result<(), AppendError> {
        super::check_register(&write)?;
        self.write(Write::Register(RegisterRow::new(write, seen, now)?))
            .await
    }
}

impl Drop for SqliteLog {
    fn drop(&mut self) {
        // The last connection to close folds the write-ahead log into the file,
        // and only the writer may: so the readers go first.
        self.readers.close();
        self.writer = None;
    }
}

impl fmt::Debug for SqliteLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteLog")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// The connections that read.
struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    places: Arc<Semaphore>,
}

impl Readers {
    fn open(path: &Path) -> anyhow::Result<Arc<Self>> {
        let first = file::open_read_only(path)?;
        Ok(Arc::new(Self {
            path: path.into(),
            idle: Mutex::new(vec![first]),
            places: Arc::new(Semaphore::new(READERS)),
        }))
    }

    fn lend(&self) -> anyhow::Result<Connection> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        idle.map_or_else(|| file::open_read_only(&self.path), Ok)
    }

    fn give_back(&self, connection: Connection) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
    }

    fn close(&self) {
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

fn heads(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> anyhow::Result<Vec<Head>> {
    let mut statement = connection.prepare_cached(sql)?;
    let rows = statement.query_map(params, |row| row.get::<_, String>(0))?;
    let mut heads = Vec::new();
    for row in rows {
        // One that cannot be read must not hide the others.
        match serde_json::from_str(&row?) {
            Ok(head) => heads.push(head),
            Err(error) => tracing::error!("a head in the store cannot be read: {error}"),
        }
    }
    Ok(heads)
}

fn attention(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
) -> anyhow::Result<Vec<Attention>> {
    let mut statement = connection.prepare_cached(sql)?;
    let columns = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
    let rows = statement.query_map(params, columns)?;
    rows.map(|row| {
        let (issue, at, watching): (String, Option<i64>, bool) = row?;
        Ok(Attention {
            issue: IssueId(issue),
            at: at.map(|it| Time::from_nanosecond(it.into())).transpose()?,
            watching,
        })
    })
    .collect()
}

/// The registers that are still good.
fn registers(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    now: Time,
) -> anyhow::Result<Vec<Register>> {
    let mut statement = connection.prepare_cached(sql)?;
    let columns = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let rows = statement.query_map(params, columns)?;
    let mut registers = Vec::new();
    for row in rows {
        let (name, version, value, expires_at): (String, i64, String, Option<i64>) = row?;
        if super::is_good(expires_at, now) {
            registers.push(Register {
                version: version.try_into()?,
                value: serde_json::from_str(&value)
                    .with_context(|| format!("the register `{name}`"))?,
                name,
            });
        }
    }
    Ok(registers)
}

fn record(seq: i64, at: i64, event: &str) -> anyhow::Result<Record> {
    Ok(Record {
        seq: u64::try_from(seq)?,
        at: Time::from_nanosecond(at.into())?,
        event: serde_json::from_str(event)?,
    })
}

/// A moment as it is stored: nanoseconds since 1970. What lies beyond the
/// three centuries that fit is as good as never.
fn nanoseconds(at: Time) -> i64 {
    let never = if at < Time::UNIX_EPOCH {
        i64::MIN
    } else {
        i64::MAX
    };
    i64::try_from(at.as_nanosecond()).unwrap_or(never)
}

fn column(seq: Seq) -> anyhow::Result<i64> {
    i64::try_from(seq).context("a seq beyond all logs")
}

fn limit_column(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
