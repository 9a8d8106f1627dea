//! What every log must keep to, checked on each of them; and what a file is
//! for beyond that: to be there after a crash, and nobody else's.

use std::collections::BTreeSet;
use std::future::Future;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use shared::issue::{Event, IssueId, Record, Seq, Time};
use shared::ports::{Append, AppendError, Head, Log};
use shared::store::memory::MemoryLog;
use shared::store::sqlite::SqliteLog;

/// The longest that anything here may take: only something that hangs does.
const PATIENCE: Duration = Duration::from_secs(60);
/// Names the store that a child of the crash test writes to.
const CHILD_STORE: &str = "STORE_TEST_CHILD_PATH";
/// Issues that the child writes to at the same time.
const CHILD_ISSUES: usize = 8;
/// Acknowledged appends after which the child is killed.
const CHILD_ACKS: usize = 200;

macro_rules! every_log_keeps_to {
    ($($claim:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $claim() {
                super::in_time(super::$claim(super::Arc::new(super::MemoryLog::default()))).await;
            })*
        }
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")] async fn $claim() {
                let folder = tempfile::tempdir().expect("a folder");
                let log = super::SqliteLog::open(&folder.path().join("cyrus.db")).expect("a new store");
                super::in_time(super::$claim(super::Arc::new(log))).await;
            })*
        }
    };
}

every_log_keeps_to! {
    what_was_appended_is_read_again,
    a_conflict_writes_nothing,
    what_contradicts_itself_is_refused,
    of_many_writers_one_wins_each_seq,
    issues_do_not_stand_in_each_others_way,
    attention_goes_to_the_most_overdue,
    an_issue_is_found_by_id_and_by_identifier,
    heads_come_newest_first_and_in_pages,
}

async fn what_was_appended_is_read_again(log: Arc<dyn Log>) {
    assert_eq!(log.read(&"a".into(), 0).await.expect("read"), []);
    log.append(append("a", 0, 2)).await.expect("append");
    log.append(append("a", 2, 1)).await.expect("append");
    log.append(append("b", 0, 1)).await.expect("append");

    let all = [record("a", 1, 0), record("a", 2, 0), record("a", 3, 2)];
    assert_eq!(log.read(&"a".into(), 0).await.expect("read"), all);
    assert_eq!(log.read(&"a".into(), 1).await.expect("read"), all[1..]);
    assert_eq!(log.read(&"a".into(), 3).await.expect("read"), []);
    assert_eq!(
        log.read(&"b".into(), 0).await.expect("read"),
        [record("b", 1, 0)]
    );
    let heads = log.heads(None, 10).await.expect("heads");
    assert_eq!(heads, [head("a", 3), head("b", 1)]);
}

async fn a_conflict_writes_nothing(log: Arc<dyn Log>) {
    log.append(append("a", 0, 2)).await.expect("append");
    for after in [0, 1, 3, 100] {
        let mut late = append("a", after, 2);
        late.head.title = "never".into();
        late.head.watching = true;
        assert!(
            matches!(log.append(late).await, Err(AppendError::Conflict)),
            "after {after}"
        );
    }
    assert!(matches!(
        log.append(append("new", 1, 1)).await,
        Err(AppendError::Conflict)
    ));

    assert_eq!(log.read(&"a".into(), 0).await.expect("read").len(), 2);
    assert_eq!(log.read(&"new".into(), 0).await.expect("read"), []);
    assert_eq!(log.heads(None, 10).await.expect("heads"), [head("a", 2)]);
    assert_eq!(log.attention(at(1_000), 10).await.expect("attention"), []);
    log.append(append("a", 2, 1))
        .await
        .expect("a conflict does no lasting harm");
}

async fn what_contradicts_itself_is_refused(log: Arc<dyn Log>) {
    let nothing = Append {
        events: vec![],
        ..append("a", 0, 1)
    };
    let elsewhere = Append {
        head: head("b", 1),
        ..append("a", 0, 1)
    };
    let elsewhen = Append {
        head: head("a", 2),
        ..append("a", 0, 1)
    };
    for wrong in [nothing, elsewhere, elsewhen] {
        assert!(matches!(
            log.append(wrong).await,
            Err(AppendError::Failed(_))
        ));
    }
    assert_eq!(log.heads(None, 10).await.expect("heads"), []);
}

async fn of_many_writers_one_wins_each_seq(log: Arc<dyn Log>) {
    const WRITERS: usize = 16;
    const ROUNDS: u64 = 20;
    for round in 0..ROUNDS {
        let tries = (0..WRITERS).map(|writer| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut append = append("a", round, 1);
                append.events = vec![event(&format!("writer {writer}"))];
                (writer, log.append(append).await)
            })
        });
        let mut winners = Vec::new();
        for tried in join_all(tries).await {
            match tried.expect("a writer") {
                (writer, Ok(())) => winners.push(event(&format!("writer {writer}"))),
                (_, Err(AppendError::Conflict)) => {}
                (_, Err(AppendError::Failed(error))) => panic!("{error:#}"),
            }
        }
        let written = log.read(&"a".into(), round).await.expect("read");
        let written: Vec<Event> = written.into_iter().map(|it| it.event).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(written, winners, "round {round}");
    }
}

async fn issues_do_not_stand_in_each_others_way(log: Arc<dyn Log>) {
    const ISSUES: usize = 100;
    const APPENDS: u64 = 10;
    let writers = (0..ISSUES).map(|issue| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            let name = format!("issue-{issue}");
            for after in 0..APPENDS {
                log.append(append(&name, after, 1)).await.expect("append");
                // What was answered is there for everybody.
                let last = log.read(&name.as_str().into(), after).await.expect("read");
                assert_eq!(last, [record(&name, after + 1, after)]);
            }
        })
    });
    for writer in join_all(writers).await {
        writer.expect("a writer");
    }
    let heads = log.heads(None, ISSUES + 1).await.expect("heads");
    assert_eq!(heads.len(), ISSUES);
    assert!(heads.iter().all(|it| it.seq == APPENDS));
}

async fn attention_goes_to_the_most_overdue(log: Arc<dyn Log>) {
    for (name, attention_at, watching) in [
        ("idle", None, false),
        ("later", Some(50), false),
        ("due", Some(30), false),
        ("overdue", Some(10), false),
        ("on the second", Some(40), false),
        ("watched", None, true),
        ("watched and due", Some(20), true),
        ("watched, later", Some(60), true),
    ] {
        let mut append = append(name, 0, 1);
        append.head.attention_at = attention_at.map(at);
        append.head.watching = watching;
        log.append(append).await.expect("append");
    }
    let order = [
        "overdue",
        "watched and due",
        "due",
        "on the second",
        "watched, later",
        "watched",
    ];
    for limit in 0..=order.len() + 1 {
        let heads = log.attention(at(40), limit).await.expect("attention");
        let names: Vec<&str> = heads.iter().map(|it| it.issue.0.as_str()).collect();
        assert_eq!(names, order[..limit.min(order.len())]);
    }

    // What was seen to is not shown again.
    let mut done = append("overdue", 1, 1);
    done.head.attention_at = None;
    log.append(done).await.expect("append");
    let mut unwatched = append("watched", 1, 1);
    unwatched.head.watching = false;
    log.append(unwatched).await.expect("append");
    let heads = log.attention(at(40), 10).await.expect("attention");
    let names: Vec<&str> = heads.iter().map(|it| it.issue.0.as_str()).collect();
    assert_eq!(names, order[1..5]);
}

async fn an_issue_is_found_by_id_and_by_identifier(log: Arc<dyn Log>) {
    let id = "7c3f0a5e-0000-4000-8000-000000000001";
    let mut one = append(id, 0, 1);
    one.head.identifier = "ENG-42".into();
    log.append(one).await.expect("append");
    let find = async |name: &str| log.find(name).await.expect("find").map(|it| it.0);

    assert_eq!(find(id).await.as_deref(), Some(id));
    assert_eq!(find("ENG-42").await.as_deref(), Some(id));
    assert_eq!(find("eng-42").await.as_deref(), Some(id));
    assert_eq!(find("ENG-4").await, None);
    assert_eq!(find("ENG-4_").await, None);
    assert_eq!(find("ENG-%").await, None);

    let mut moved = append(id, 1, 1);
    moved.head.identifier = "OPS-1".into();
    log.append(moved).await.expect("append");
    assert_eq!(find("ENG-42").await, None);
    assert_eq!(find("ops-1").await.as_deref(), Some(id));

    let mut newer = append("newer", 0, 1);
    newer.head.identifier = "ops-1".into();
    newer.head.started_at = at(1);
    log.append(newer).await.expect("append");
    assert_eq!(find("OPS-1").await.as_deref(), Some("newer"));
}

async fn heads_come_newest_first_and_in_pages(log: Arc<dyn Log>) {
    for started in [3, 1, 4, 2, 5] {
        let mut append = append(&format!("issue {started}"), 0, 1);
        append.head.started_at = at(started);
        log.append(append).await.expect("append");
    }
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let page = log.heads(before, 2).await.expect("heads");
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        before = Some(last.started_at);
        seen.extend(page.into_iter().map(|it| it.started_at));
    }
    assert_eq!(seen, [5, 4, 3, 2, 1].map(at));
}

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
            "child_writes_until_it_is_killed",
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

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("it hangs")
}

/// `n` events for an issue whose last seq is `after`.
fn append(issue: &str, after: Seq, n: u64) -> Append {
    let events = (after + 1..=after + n)
        .map(|seq| event(&format!("{issue} {seq}")))
        .collect();
    let at = self::at(after.cast_signed());
    Append {
        issue: issue.into(),
        after,
        at,
        events,
        head: head(issue, after + n),
    }
}

/// What [`append`] after `after` wrote at `seq`.
fn record(issue: &str, seq: Seq, after: Seq) -> Record {
    Record {
        seq,
        at: at(after.cast_signed()),
        event: event(&format!("{issue} {seq}")),
    }
}

fn event(text: &str) -> Event {
    Event::Prompted {
        session: "session".into(),
        activity: "activity".into(),
        text: text.into(),
    }
}

fn head(issue: &str, seq: Seq) -> Head {
    Head {
        issue: issue.into(),
        seq,
        identifier: issue.to_uppercase(),
        title: "a title".into(),
        url: "https://linear.app/acme/issue/ENG-1".into(),
        phase: "working".into(),
        outcome: None,
        waiting_for: None,
        spent_usd: 0.25,
        limit_usd: Some(10.0),
        tasks_done: 1,
        tasks_total: 3,
        started_at: at(0),
        finished_at: None,
        attention_at: None,
        watching: false,
    }
}

fn at(second: i64) -> Time {
    Time::from_second(1_790_000_000 + second).expect("a time")
}
