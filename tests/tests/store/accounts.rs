//! What every store must keep to about accounts.

use std::sync::Arc;

use futures_util::future::join_all;
use shared::ports::{Append, AppendError, Entry, Figures, Limit, Log};

use crate::stores::Subject;
use crate::{append, head};

pub(crate) async fn entries_come_with_the_append(store: Subject) {
    let log = &store.log;
    let first = vec![
        entry("day", &[("usd", 5), ("runs", 1)]),
        entry("month", &[("usd", 5)]),
    ];
    log.append(with("a", first)).await.expect("append");
    let second = vec![
        entry("day", &[("usd", -2), ("seconds", i64::from(u32::MAX))]),
        entry("nothing", &[]),
    ];
    log.append(with("b", second)).await.expect("append");

    let day = figures(&[("runs", 1), ("seconds", i64::from(u32::MAX)), ("usd", 3)]);
    let month = figures(&[("usd", 5)]);
    let none = Figures::new();
    assert_eq!(
        read(log, &["month", "nothing", "day", "never", "month"]).await,
        [month.clone(), none.clone(), day, none, month]
    );
    assert_eq!(read(log, &[]).await, Vec::<Figures>::new());
}

pub(crate) async fn an_entry_over_its_limit_refuses_all(store: Subject) {
    let log = &store.log;
    log.append(with(
        "a",
        vec![limited("day", 7, 10), entry("month", &[("usd", 7)])],
    ))
    .await
    .expect("append");
    for entries in [
        vec![limited("day", 4, 10), entry("month", &[("usd", 4)])],
        vec![entry("month", &[("usd", 4)]), limited("day", 4, 10)],
        vec![limited("month", 1, 100), limited("day", i64::MAX, 10)],
    ] {
        let next = Append {
            entries,
            ..append("a", 1, 1)
        };
        refused(log, next, "day").await;
    }
    let new = with("new", vec![limited("day", 4, 10)]);
    refused(log, new, "day").await;

    assert_eq!(log.read(&"a".into(), 0).await.expect("read").len(), 1);
    assert_eq!(log.read(&"new".into(), 0).await.expect("read"), []);
    assert_eq!(log.heads(None, 10).await.expect("heads"), [head("a", 1)]);
    let seven = figures(&[("usd", 7)]);
    assert_eq!(read(log, &["day", "month"]).await, [seven.clone(), seven]);

    // Up to the limit, and further once something was given back.
    log.append(with("b", vec![limited("day", 3, 10)]))
        .await
        .expect("append");
    refused(log, with("c", vec![limited("day", 1, 10)]), "day").await;
    log.append(with("c", vec![limited("day", -1, 9)]))
        .await
        .expect("append");
    log.append(with("d", vec![limited("day", 1, 10)]))
        .await
        .expect("append");
    assert_eq!(read(log, &["day"]).await, [figures(&[("usd", 10)])]);
}

pub(crate) async fn a_limit_is_about_one_figure(store: Subject) {
    let log = &store.log;
    let runs = |max| {
        Some(Limit {
            figure: "runs".into(),
            max,
        })
    };
    // Nothing was ever entered: that is 0.
    for (add, max, is_refused) in [(1, 0, true), (0, 0, false), (0, -1, true), (-1, -1, false)] {
        let account = format!("{add} of {max}");
        let entry = Entry {
            account: account.clone(),
            add: figures(&[("runs", add), ("usd", 1_000)]),
            limit: runs(max),
        };
        let append = with(&account, vec![entry]);
        if is_refused {
            refused(log, append, &account).await;
        } else {
            log.append(append).await.expect("append");
        }
    }
    // Another figure is limited than those that are added to, or nothing is added at all.
    log.append(with("a", vec![entry("day", &[("runs", 2)])]))
        .await
        .expect("append");
    for add in [figures(&[("usd", 1)]), Figures::new()] {
        let entry = |max| Entry {
            account: "day".into(),
            add: add.clone(),
            limit: runs(max),
        };
        let issue = format!("with {}", add.len());
        refused(log, with(&issue, vec![entry(1)]), "day").await;
        log.append(with(&issue, vec![entry(2)]))
            .await
            .expect("append");
    }
    assert_eq!(
        read(log, &["day"]).await,
        [figures(&[("runs", 2), ("usd", 1)])]
    );
}

pub(crate) async fn who_has_not_seen_the_last_event_enters_nothing(store: Subject) {
    let log = &store.log;
    log.append(append("a", 0, 2)).await.expect("append");
    for entries in [
        vec![entry("day", &[("usd", 1)])],
        vec![limited("day", 100, 10)],
    ] {
        let late = Append {
            entries,
            ..append("a", 1, 1)
        };
        assert!(matches!(log.append(late).await, Err(AppendError::Conflict)));
    }
    assert_eq!(read(log, &["day"]).await, [Figures::new()]);
}

pub(crate) async fn of_many_entries_as_many_as_fit_are_made(store: Subject) {
    const WRITERS: usize = 24;
    const FIT: usize = 10;
    let log = &store.log;
    let tries = (0..WRITERS).map(|writer| {
        let log = Arc::clone(log);
        let entries = vec![
            limited("day", 3, 3 * FIT as i64),
            entry("all", &[("usd", 3)]),
        ];
        tokio::spawn(async move { log.append(with(&format!("issue {writer}"), entries)).await })
    });
    let mut made = 0;
    for tried in join_all(tries).await {
        match tried.expect("a writer") {
            Ok(()) => made += 1,
            Err(AppendError::OverLimit { account }) => assert_eq!(account, "day"),
            Err(other) => panic!("{other:#}"),
        }
    }
    assert_eq!(made, FIT);
    let sum = figures(&[("usd", 3 * FIT as i64)]);
    assert_eq!(read(log, &["day", "all"]).await, [sum.clone(), sum]);
    assert_eq!(log.heads(None, WRITERS).await.expect("heads").len(), FIT);
}

async fn refused(log: &Arc<dyn Log>, append: Append, by: &str) {
    match log.append(append).await {
        Err(AppendError::OverLimit { account }) => assert_eq!(account, by),
        other => panic!("{other:?}"),
    }
}

async fn read(log: &Arc<dyn Log>, names: &[&str]) -> Vec<Figures> {
    let names: Vec<String> = names.iter().map(|it| (*it).to_owned()).collect();
    log.accounts(&names).await.expect("accounts")
}

/// The first event of an issue, with these entries.
pub(crate) fn with(issue: &str, entries: Vec<Entry>) -> Append {
    Append {
        entries,
        ..append(issue, 0, 1)
    }
}

pub(crate) fn entry(account: &str, add: &[(&str, i64)]) -> Entry {
    Entry {
        account: account.into(),
        add: figures(add),
        limit: None,
    }
}

/// Adds to `usd`, of which there may be `max`.
pub(crate) fn limited(account: &str, add: i64, max: i64) -> Entry {
    Entry {
        limit: Some(Limit {
            figure: "usd".into(),
            max,
        }),
        ..entry(account, &[("usd", add)])
    }
}

pub(crate) fn figures(figures: &[(&str, i64)]) -> Figures {
    let named = figures
        .iter()
        .map(|(name, value)| ((*name).to_owned(), *value));
    named.collect()
}
