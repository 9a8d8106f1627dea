//! What a file is for beyond the contract.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use futures_util::future::join_all;
use futures_util::poll;
use shared::issue::{IssueId, Seq};
use shared::ports::{Append, AppendError, Log};
use shared::store::sqlite::SqliteLog;

use crate::accounts::{figures, limited};
use crate::{append, head, in_time};

/// Names the store that a child of the crash test writes to.
const CHILD_STORE: &str = "STORE_TEST_CHILD_PATH";
/// Issues that the child writes to at the same time.
const CHILD_ISSUES: usize = 8;
/// Acknowledged appends after which the child is killed.
const CHILD_ACKS: usize = 200;

#[tokio::test]
async fn a_file_is_as_it_was_when_it_is_opened_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deep/cyrus.db");
    let log = SqliteLog::open(&path).expect("a new store");
    log.append(append("a", 0, 2)).await.expect("append");
    drop(log);

    let log = SqliteLog::open(&path).expect("the same store");
    assert_eq!(log.read(&"a".into(), 0).await.expect("read").len(), 2);
    assert_eq!(log.heads(None, 10).await.expect("heads"), [head("a", 2)]);
    log.append(append("a", 2, 1)).await.expect("append");
    assert_eq!(log.commits(), 1);
    drop(log);
    // Closed properly, all of it is in one file.
    assert!(!folder.path().join("deep/cyrus.db-wal").exists());
}

#[tokio::test]
async fn a_file_of_the_first_schema_is_brought_up_to_date() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cyrus.db");
    let log = SqliteLog::open(&path).expect("a new store");
    log.append(append("a", 0, 2)).await.expect("append");
    drop(log);
    // As the first release left it.
    let old = rusqlite::Connection::open(&path).expect("the same file");
    old.execute_batch("DROP TABLE accounts; DROP TABLE registers; PRAGMA user_version = 1")
        .expect("the first schema");
    drop(old);

    let early = SqliteLog::open_read_only(&path).expect_err("it is too old to be read");
    assert!(
        format!("{early:#}").contains("an older version"),
        "{early:#}"
    );
    let log = SqliteLog::open(&path).expect("the same store");
    let next = Append {
        entries: vec![limited("day", 3, 3)],
        ..append("a", 2, 1)
    };
    log.append(next).await.expect("append");
    assert_eq!(log.read(&"a".into(), 0).await.expect("read").len(), 3);
    let day = log.accounts(&["day".into()]).await.expect("accounts");
    assert_eq!(day, [figures(&[("usd", 3)])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_shares_its_commits() {
    // All are handed over within one poll, of which a task has only so many in a row.
    const APPENDS: u64 = 50;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cyrus.db");
    let log = SqliteLog::open(&path).expect("a new store");
    // While somebody else holds the file, nothing can be written, and all of them gather.
    let other = rusqlite::Connection::open(&path).expect("the same file");
    other
        .execute_batch("BEGIN IMMEDIATE")
        .expect("a transaction");
    let mut appends =
        join_all((0..APPENDS).map(|issue| log.append(append(&format!("issue {issue}"), 0, 1))));
    assert!(poll!(&mut appends).is_pending());
    other.execute_batch("ROLLBACK").expect("the end of it");
    for answer in in_time(appends).await {
        answer.expect("append");
    }
    assert!(log.commits() <= 2, "{} commits", log.commits());
    assert_eq!(
        log.heads(None, 1_000).await.expect("heads").len() as u64,
        APPENDS
    );
}

#[tokio::test]
async fn one_service_writes_and_others_may_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cyrus.db");
    let nothing = SqliteLog::open_read_only(&path).expect_err("there is none yet");
    assert!(
        format!("{nothing:#}").contains("there is no such file"),
        "{nothing:#}"
    );

    let log = SqliteLog::open(&path).expect("a new store");
    let second = SqliteLog::open(&path).expect_err("it is in use");
    assert!(
        format!("{second:#}").contains("another service has it open"),
        "{second:#}"
    );

    let beside = SqliteLog::open_read_only(&path).expect("a store to read");
    log.append(append("a", 0, 1)).await.expect("append");
    assert_eq!(beside.heads(None, 10).await.expect("heads"), [head("a", 1)]);
    assert!(matches!(
        beside.append(append("a", 1, 1)).await,
        Err(AppendError::Failed(_))
    ));
    drop((log, beside));

    let after = SqliteLog::open_read_only(&path).expect("a store to read");
    assert_eq!(after.heads(None, 10).await.expect("heads"), [head("a", 1)]);
    let _again = SqliteLog::open(&path).expect("a reader is in nobody's way");
}

#[test]
fn a_file_that_is_not_ours_is_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |name: &str, make: &dyn Fn(&Path), expected: &str| {
        let path = folder.path().join(name);
        make(&path);
        let before = std::fs::read(&path).expect("a file");
        for error in [SqliteLog::open(&path), SqliteLog::open_read_only(&path)] {
            let error = error.expect_err(name);
            assert!(format!("{error:#}").contains(expected), "{error:#}");
            assert!(format!("{error:#}").contains(name), "{error:#}");
        }
        assert_eq!(std::fs::read(&path).expect("a file"), before, "{name}");
    };
    let text = |path: &Path| std::fs::write(path, "dear diary ".repeat(1_000)).expect("a file");
    check("diary.txt", &text, "it is not a SQLite database");
    let other = |path: &Path| {
        let other = rusqlite::Connection::open(path).expect("a database");
        other
            .execute_batch("CREATE TABLE recipes (name TEXT)")
            .expect("a table");
    };
    check("recipes.db", &other, "it belongs to another program");
    let newer = |path: &Path| {
        drop(SqliteLog::open(path).expect("a new store"));
        let newer = rusqlite::Connection::open(path).expect("a database");
        newer
            .pragma_update(None, "user_version", 99)
            .expect("a version");
    };
    check(
        "newer.db",
        &newer,
        "it was written by a newer version (schema 99",
    );
}

/// The child is this same test program; it writes until it is killed.
#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cyrus.db");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "file::child_writes_until_it_is_killed",
            "--ignored",
            "--nocapture",
        ])
        .env(CHILD_STORE, &path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let output = BufReader::new(child.stdout.take().expect("its output"));

    // Reads to the end, which comes because the child is killed on the way.
    let mut acks = Vec::new();
    for line in output.lines() {
        let Ok(line) = line else { break };
        // What is complete names an issue and a seq; the rest is the test harness talking.
        let Some((issue, seq)) = line.strip_prefix("ack ").and_then(|it| it.split_once(' ')) else {
            continue;
        };
        acks.push((IssueId::from(issue), seq.parse::<Seq>().expect("a seq")));
        if acks.len() == CHILD_ACKS {
            child.kill().expect("kill");
        }
    }
    assert!(!child.wait().expect("its end").success());
    assert!(
        acks.len() >= CHILD_ACKS,
        "the child wrote {} times only",
        acks.len()
    );

    let log = SqliteLog::open(&path).expect("the store as it was left");
    for issue in acks.iter().map(|(issue, _)| issue).collect::<BTreeSet<_>>() {
        let seqs: Vec<Seq> = log
            .read(issue, 0)
            .await
            .expect("read")
            .iter()
            .map(|it| it.seq)
            .collect();
        let contiguous: Vec<Seq> = (1..=seqs.len() as Seq).collect();
        assert_eq!(seqs, contiguous);
        let acknowledged = acks
            .iter()
            .filter(|(it, _)| it == issue)
            .map(|(_, seq)| *seq)
            .max();
        assert!(
            acknowledged <= seqs.last().copied(),
            "{issue}: {acknowledged:?} is lost"
        );
        let head = log.heads(None, CHILD_ISSUES).await.expect("heads");
        assert!(
            head.iter()
                .any(|it| it.issue == *issue && Some(&it.seq) == seqs.last())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a part of what_was_acknowledged_survives_a_kill, which starts it"]
async fn child_writes_until_it_is_killed() {
    let path = PathBuf::from(std::env::var_os(CHILD_STORE).expect("the place of the store"));
    let log = SqliteLog::open(&path).expect("a new store");
    let writers = (0..CHILD_ISSUES).map(|issue| {
        let (log, issue) = (&log, format!("issue-{issue}"));
        async move {
            for after in 0.. {
                log.append(append(&issue, after, 1)).await.expect("append");
                println!("ack {issue} {}", after + 1);
            }
        }
    });
    join_all(writers).await;
}
