//! What every log must keep to.

use std::sync::Arc;

use futures_util::future::join_all;
use shared::issue::{Event, Seq, TEXT_BYTES_MAX, Time};
use shared::ports::{Append, AppendError, Attention, Place};

use crate::stores::Subject;
use crate::{accounts, append, at, event, head, record};

pub(crate) async fn what_was_appended_is_read_again(store: Subject) {
    let log = &store.log;
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
    assert_eq!(heads, [head("b", 1), head("a", 3)]);
}

pub(crate) async fn a_conflict_writes_nothing(store: Subject) {
    let log = &store.log;
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

pub(crate) async fn what_contradicts_itself_is_refused(store: Subject) {
    let log = &store.log;
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
    let twice = accounts::with("a", vec![accounts::entry("day", &[]); 2]);
    for wrong in [nothing, elsewhere, elsewhen, twice] {
        assert!(matches!(
            log.append(wrong).await,
            Err(AppendError::Failed(_))
        ));
    }
    assert_eq!(log.heads(None, 10).await.expect("heads"), []);
}

pub(crate) async fn of_many_writers_one_wins_each_seq(store: Subject) {
    let log = &store.log;
    const WRITERS: usize = 16;
    const ROUNDS: u64 = 20;
    for round in 0..ROUNDS {
        let tries = (0..WRITERS).map(|writer| {
            let log = Arc::clone(log);
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
                (_, Err(other)) => panic!("{other:#}"),
            }
        }
        let written = log.read(&"a".into(), round).await.expect("read");
        let written: Vec<Event> = written.into_iter().map(|it| it.event).collect();
        assert_eq!(winners.len(), 1, "round {round}");
        assert_eq!(written, winners, "round {round}");
    }
}

pub(crate) async fn issues_do_not_stand_in_each_others_way(store: Subject) {
    let log = &store.log;
    const ISSUES: usize = 100;
    const APPENDS: u64 = 10;
    let writers = (0..ISSUES).map(|issue| {
        let log = Arc::clone(log);
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

pub(crate) async fn attention_goes_to_the_most_overdue(store: Subject) {
    let log = &store.log;
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
    let seen = log.attention(at(40), 10).await.expect("attention");
    let expected = [
        ("watched and due", Some(20), true),
        ("due", Some(30), false),
        ("on the second", Some(40), false),
        ("watched, later", Some(60), true),
    ];
    let expected = expected.map(|(name, at, watching)| Attention {
        issue: name.into(),
        at: at.map(self::at),
        watching,
    });
    assert_eq!(seen, expected);
    assert_eq!(log.attention(at(9), 10).await.expect("attention").len(), 2);
    assert_eq!(
        log.attention(Time::MAX, 10).await.expect("attention").len(),
        5
    );
}

pub(crate) async fn an_issue_is_found_by_id_and_by_identifier(store: Subject) {
    let log = &store.log;
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

pub(crate) async fn heads_come_newest_first_and_in_pages(store: Subject) {
    let log = &store.log;
    for started in [3, 1, 4, 2, 5] {
        let mut append = append(&format!("issue {started}"), 0, 1);
        append.head.started_at = at(started);
        log.append(append).await.expect("append");
    }
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = log.heads(after.as_ref(), 2).await.expect("heads");
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        after = Some(last.place());
        seen.extend(page.into_iter().map(|it| it.started_at));
    }
    assert_eq!(seen, [5, 4, 3, 2, 1].map(at));
    assert_eq!(log.heads(None, 0).await.expect("heads"), []);
}

pub(crate) async fn heads_that_started_at_once_have_an_order(store: Subject) {
    let log = &store.log;
    for (issue, started) in [("b", 0), ("d", 0), ("z", -1), ("c", 0), ("a", 1), ("a1", 0)] {
        let mut append = append(issue, 0, 1);
        append.head.started_at = at(0) + jiff::SignedDuration::from_nanos(started);
        log.append(append).await.expect("append");
    }
    let order = ["a", "d", "c", "b", "a1", "z"];
    let all = log.heads(None, 10).await.expect("heads");
    let names: Vec<&str> = all.iter().map(|it| it.issue.0.as_str()).collect();
    assert_eq!(names, order);
    for (skipped, head) in all.iter().enumerate() {
        let rest = log.heads(Some(&head.place()), 10).await.expect("heads");
        assert_eq!(rest, all[skipped + 1..]);
    }
    // The place need not be that of an issue.
    let between = Place {
        started_at: at(0),
        issue: "c1".into(),
    };
    let rest = log.heads(Some(&between), 1).await.expect("heads");
    assert_eq!(rest, all[2..3]);
}

pub(crate) async fn a_log_is_read_from_anywhere(store: Subject) {
    const BATCHES: [u64; 5] = [1, 3, 1, 12, 2];
    let log = &store.log;
    let mut after = 0;
    let mut all = Vec::new();
    for n in BATCHES {
        log.append(append("a", after, n)).await.expect("append");
        all.extend((after + 1..=after + n).map(|seq| record("a", seq, after)));
        after += n;
    }
    // A neighbour, whose name begins alike.
    log.append(append("a1", 0, 3)).await.expect("append");
    for after in 0..=all.len() {
        let rest = log.read(&"a".into(), after as Seq).await.expect("read");
        assert_eq!(rest, all[after..], "after {after}");
    }
    assert_eq!(log.read(&"a".into(), 1_000).await.expect("read"), []);
}

pub(crate) async fn long_texts_come_back_as_they_were(store: Subject) {
    const TEXTS: u64 = 20;
    let log = &store.log;
    // Characters of one to four bytes, and such that JSON writes in another way.
    let text = "Straße 🚧 \"€\"\n".repeat(TEXT_BYTES_MAX / 20);
    let long = |after: Seq, n: u64| Append {
        events: (after + 1..=after + n)
            .map(|seq| event(&format!("{seq} {text}")))
            .collect(),
        ..append("a", after, n)
    };
    log.append(append("a", 0, 1)).await.expect("append");
    log.append(long(1, TEXTS)).await.expect("append");
    log.append(append("a", TEXTS + 1, 1)).await.expect("append");

    let all = log.read(&"a".into(), 0).await.expect("read");
    assert_eq!(all.len() as u64, TEXTS + 2);
    let texts = all.iter().map(|it| it.event.clone());
    let mut expected = append("a", 0, 1).events;
    expected.extend(long(1, TEXTS).events);
    expected.extend(append("a", TEXTS + 1, 1).events);
    assert_eq!(texts.collect::<Vec<_>>(), expected);
    for after in [1, 2, 15, 20, 21, 22] {
        let rest = log.read(&"a".into(), after).await.expect("read");
        assert_eq!(rest, all[after as usize..], "after {after}");
    }
    log.rebuild(head("a", TEXTS + 2)).await.expect("rebuild");
}
