//! The file: whose it is, which schema it has, and that one service has it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

/// How long a connection waits for another's lock. Only a recovery after a
/// crash ever holds one that long.
const BUSY: Duration = Duration::from_secs(10);
/// Pages of write-ahead log after which it is folded into the file (16 MB): a
/// longer log means fewer pauses, and a longer recovery after a crash.
const CHECKPOINT_PAGES: u32 = 4_096;
/// Statements that a connection keeps prepared: all that we have.
const STATEMENTS: usize = 32;
/// Marks the file as ours: "Cyrs".
const APPLICATION_ID: i32 = 0x4379_7273;

/// The schema's steps; their number is the file's `user_version`. Never change
/// one that was released: add another.
const MIGRATIONS: &[&str] = &[
    "
    -- In the order of writing, whatever the issue: what is committed together
    -- lies together, and a commit writes few pages.
    CREATE TABLE events (
        issue TEXT NOT NULL,
        seq INTEGER NOT NULL,
        at INTEGER NOT NULL,
        event TEXT NOT NULL,
        UNIQUE (issue, seq)
    ) STRICT;

    CREATE TABLE heads (
        issue TEXT NOT NULL PRIMARY KEY,
        seq INTEGER NOT NULL,
        identifier TEXT NOT NULL,
        started_at INTEGER NOT NULL,
        attention_at INTEGER,
        watching INTEGER NOT NULL,
        head TEXT NOT NULL
    ) WITHOUT ROWID, STRICT;

    CREATE INDEX heads_by_attention ON heads (attention_at) WHERE attention_at IS NOT NULL;
    CREATE INDEX heads_watched ON heads (issue) WHERE watching = 1;
    CREATE INDEX heads_by_identifier ON heads (identifier COLLATE NOCASE);
    CREATE INDEX heads_by_start ON heads (started_at);
",
    "
    CREATE TABLE accounts (
        account TEXT NOT NULL,
        figure TEXT NOT NULL,
        value INTEGER NOT NULL,
        PRIMARY KEY (account, figure)
    ) WITHOUT ROWID, STRICT;

    -- expires_at: in seconds since 1970.
    CREATE TABLE registers (
        shelf TEXT NOT NULL,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        value TEXT NOT NULL,
        expires_at INTEGER,
        PRIMARY KEY (shelf, name)
    ) WITHOUT ROWID, STRICT;
",
];

/// The right to write, held by one process at a time.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(store: &Path) -> anyhow::Result<Self> {
        if let Some(folder) = store.parent() {
            fs::create_dir_all(folder).with_context(|| format!("make `{}`", folder.display()))?;
        }
        let path = beside(store, ".lock");
        let file = private(&path).with_context(|| format!("open `{}`", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {
                bail!("another service has it open: stop that one, or give this one another store")
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("lock `{}`", path.display()))
            }
        }
    }
}

/// Opens the file to write, made new or brought up to date where it must be.
pub(super) fn open(path: &Path) -> anyhow::Result<Connection> {
    // Made beforehand, because SQLite would let everybody read it.
    private(path)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection)?;
    let version = version(&connection)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    ensure!(
        mode == "wal",
        "its file system does not allow a write-ahead log"
    );
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    migrate(&mut connection, version)?;
    Ok(connection)
}

/// Opens the file to read.
pub(super) fn open_read_only(path: &Path) -> anyhow::Result<Connection> {
    ensure!(
        path.exists(),
        "there is no such file: has `cyrus start` run here?"
    );
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    prepare(&connection)?;
    let version = version(&connection)?;
    ensure!(
        version == MIGRATIONS.len(),
        "it was written by an older version (schema {version}, now {}): start the service once, \
         which brings it up to date",
        MIGRATIONS.len()
    );
    Ok(connection)
}

fn prepare(connection: &Connection) -> anyhow::Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(())
}

/// The schema that the file has, once it is clear that the file is ours or empty.
fn version(connection: &Connection) -> anyhow::Result<usize> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i32>(0));
    let application = match number("PRAGMA application_id") {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
            bail!("it is not a SQLite database")
        }
        answer => answer?,
    };
    let is_empty = number("SELECT count(*) FROM sqlite_schema")? == 0;
    ensure!(
        application == APPLICATION_ID || (application == 0 && is_empty),
        "it belongs to another program"
    );
    let version = usize::try_from(number("PRAGMA user_version")?).context("its schema's number")?;
    ensure!(
        version <= MIGRATIONS.len(),
        "it was written by a newer version (schema {version}, this program knows {}): update this program",
        MIGRATIONS.len()
    );
    Ok(version)
}

fn migrate(connection: &mut Connection, from: usize) -> anyhow::Result<()> {
    if from == MIGRATIONS.len() {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in &MIGRATIONS[from..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len())?)?;
    transaction.commit().context("bring the schema up to date")
}

/// Opens or makes a file that only its owner can read.
fn private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
