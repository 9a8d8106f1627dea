//! What every store must keep to about registers.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};
use shared::issue::Time;
use shared::ports::{AppendError, Register, RegisterWrite, Registers};

use crate::at;
use crate::stores::Subject;

pub(crate) async fn a_register_is_replaced_by_who_has_seen_it(store: Subject) {
    let it = &store.registers;
    let now = at(0);
    assert_eq!(it.get("shelf", "a", now).await.expect("get"), None);
    conflict(it, write("a", json!(0)), 1).await;
    removed(it, "never there", 0)
        .await
        .expect("nothing to remove");

    it.put(write("a", json!({ "n": 1.5 })), 0, now)
        .await
        .expect("put");
    assert_eq!(get(it, "a", now).await, Some((1, json!({ "n": 1.5 }))));
    conflict(it, write("a", json!(2)), 0).await;
    conflict(it, write("a", json!(2)), 2).await;
    it.put(write("a", json!(null)), 1, now).await.expect("put");
    conflict(it, write("a", json!(3)), 1).await;
    assert_eq!(get(it, "a", now).await, Some((2, json!(null))));

    for seen in [0, 1, 3] {
        let conflict = removed(it, "a", seen).await;
        assert!(
            matches!(conflict, Err(AppendError::Conflict)),
            "seen {seen}"
        );
    }
    removed(it, "a", 2).await.expect("remove");
    assert_eq!(get(it, "a", now).await, None);
    it.put(write("a", json!("again")), 0, now)
        .await
        .expect("put");
    assert_eq!(get(it, "a", now).await, Some((1, json!("again"))));

    for (shelf, name) in [("", "a"), ("shelf", "")] {
        let nameless = RegisterWrite {
            shelf: shelf.into(),
            ..write(name, json!(1))
        };
        let refused = it.put(nameless, 0, now).await;
        assert!(matches!(refused, Err(AppendError::Failed(_))));
    }
}

pub(crate) async fn a_register_is_over_in_its_time(store: Subject) {
    let it = &store.registers;
    let until = |second, value| RegisterWrite {
        // To the second: the rest of it counts for nothing.
        expires_at: Some(at(second) + jiff::SignedDuration::from_millis(900)),
        ..write("lease", value)
    };
    it.put(until(10, json!(1)), 0, at(0)).await.expect("put");
    it.put(until(20, json!(2)), 1, at(5)).await.expect("put");
    assert_eq!(get(it, "lease", at(19)).await, Some((2, json!(2))));
    let last = at(20) - jiff::SignedDuration::from_nanos(1);
    assert_eq!(get(it, "lease", last).await, Some((2, json!(2))));
    assert_eq!(it.list("shelf", at(19)).await.expect("list").len(), 1);

    assert_eq!(get(it, "lease", at(20)).await, None);
    assert_eq!(it.list("shelf", at(20)).await.expect("list"), []);
    let late = it.put(until(30, json!(3)), 2, at(20)).await;
    assert!(matches!(late, Err(AppendError::Conflict)));
    let early = it.put(until(30, json!(3)), 0, at(19)).await;
    assert!(matches!(early, Err(AppendError::Conflict)));
    it.put(until(30, json!(4)), 0, at(20)).await.expect("put");
    assert_eq!(get(it, "lease", at(29)).await, Some((1, json!(4))));

    // What has no end stays.
    it.put(write("lease", json!(null)), 0, at(30))
        .await
        .expect("put");
    assert_eq!(
        get(it, "lease", at(1_000_000_000)).await,
        Some((1, json!(null)))
    );
}

pub(crate) async fn a_shelf_lists_its_registers_by_name(store: Subject) {
    let it = &store.registers;
    for (at, name) in ["b", "a/c", "ä", "a", "B", "a b"].iter().enumerate() {
        it.put(write(name, json!(at)), 0, self::at(0))
            .await
            .expect("put");
    }
    let elsewhere = RegisterWrite {
        shelf: "shelf 2".into(),
        ..write("a", json!("elsewhere"))
    };
    it.put(elsewhere, 0, at(0)).await.expect("put");
    it.put(write("b", json!(6)), 1, at(0)).await.expect("put");
    removed(it, "a/c", 1).await.expect("remove");

    let register = |name: &str, version, value| Register {
        name: name.into(),
        version,
        value,
    };
    assert_eq!(
        it.list("shelf", at(0)).await.expect("list"),
        [
            register("B", 1, json!(4)),
            register("a", 1, json!(3)),
            register("a b", 1, json!(5)),
            register("b", 2, json!(6)),
            register("ä", 1, json!(2)),
        ]
    );
    assert_eq!(
        it.list("shelf 2", at(0)).await.expect("list"),
        [register("a", 1, json!("elsewhere"))]
    );
    assert_eq!(it.list("shelf 3", at(0)).await.expect("list"), []);
}

pub(crate) async fn of_many_writers_one_wins_each_version(store: Subject) {
    const WRITERS: usize = 16;
    const ROUNDS: u64 = 10;
    let it = &store.registers;
    for seen in 0..=ROUNDS {
        // In the last round they all want to remove it.
        let value = |writer| (seen < ROUNDS).then(|| json!({ "writer": writer }));
        let tries = (0..WRITERS).map(|writer| {
            let it = Arc::clone(it);
            let write = RegisterWrite {
                value: value(writer),
                ..write("a", json!(null))
            };
            tokio::spawn(async move { (writer, it.put(write, seen, at(0)).await) })
        });
        let mut winners = Vec::new();
        for tried in join_all(tries).await {
            match tried.expect("a writer") {
                (writer, Ok(())) => winners.push(writer),
                (_, Err(AppendError::Conflict)) => {}
                (_, Err(other)) => panic!("{other:#}"),
            }
        }
        assert_eq!(winners.len(), 1, "seen {seen}");
        let expected = value(winners[0]).map(|value| (seen + 1, value));
        assert_eq!(get(it, "a", at(0)).await, expected);
    }
}

async fn get(registers: &Arc<dyn Registers>, name: &str, now: Time) -> Option<(u64, Value)> {
    let found = registers.get("shelf", name, now).await.expect("get")?;
    assert_eq!(found.name, name);
    Some((found.version, found.value))
}

async fn removed(registers: &Arc<dyn Registers>, name: &str, seen: u64) -> Result<(), AppendError> {
    let write = RegisterWrite {
        value: None,
        ..write(name, json!(null))
    };
    registers.put(write, seen, at(0)).await
}

async fn conflict(registers: &Arc<dyn Registers>, write: RegisterWrite, seen: u64) {
    let answer = registers.put(write, seen, at(0)).await;
    assert!(matches!(answer, Err(AppendError::Conflict)), "{answer:?}");
}

pub(crate) fn write(name: &str, value: Value) -> RegisterWrite {
    RegisterWrite {
        shelf: "shelf".into(),
        name: name.into(),
        value: Some(value),
        expires_at: None,
    }
}
