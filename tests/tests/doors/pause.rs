//! The kill switch: a register, and its two routes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use shared::issue::Pause;
use shared::pause;
use shared::ports::{RegisterWrite, Registers};
use shared::store::memory::MemoryLog;

use crate::{Door, noon};

async fn read(registers: &dyn Registers) -> Option<Pause> {
    pause::read(registers, noon()).await.expect("a switch")
}

#[tokio::test]
async fn a_pause_stays_as_it_was_asked_for_last_until_it_is_taken_back() {
    let store = MemoryLog::default();
    assert_eq!(read(&store).await, None);
    let both = Pause {
        stop_runs: true,
        merges: true,
    };
    for asked in [Pause::default(), both, both, Pause::default()] {
        let turned = pause::pause(&store, asked, noon()).await;
        turned.expect("turned");
        assert_eq!(read(&store).await, Some(asked));
    }
    let years_later = noon() + jiff::SignedDuration::from_hours(100_000);
    let there = pause::read(&store, years_later).await.expect("a switch");
    assert_eq!(there, Some(Pause::default()), "it has no expiry");
    for _ in 0..2 {
        pause::resume(&store, noon()).await.expect("turned");
        assert_eq!(read(&store).await, None);
    }
}

#[tokio::test]
async fn everybody_who_turns_it_at_once_gets_through() {
    let store = Arc::new(MemoryLog::default());
    let turns = (0..10).map(|n| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let asked = Pause {
                stop_runs: n % 2 == 0,
                merges: false,
            };
            pause::pause(store.as_ref(), asked, noon()).await
        })
    });
    for turn in turns.collect::<Vec<_>>() {
        turn.await.expect("no panic").expect("turned");
    }
    assert!(read(store.as_ref()).await.is_some());
}

#[tokio::test]
async fn a_switch_that_cannot_be_understood_is_not_taken_for_open() {
    let store = MemoryLog::default();
    let write = RegisterWrite {
        shelf: "control".into(),
        name: "pause".into(),
        value: Some(json!("yes")),
        expires_at: None,
    };
    store.put(write, 0, noon()).await.expect("written");
    pause::read(&store, noon()).await.expect_err("no switch");
    let turned = pause::pause(&store, Pause::default(), noon()).await;
    turned.expect("it can be set anew");
    assert_eq!(read(&store).await, Some(Pause::default()));
}

#[tokio::test]
async fn pause_and_resume_answer_how_it_stands_now_and_ring_for_all() {
    let door = Door::open().await;
    let paused = async |body: &str| door.post("/api/v1/pause", body).await;
    let plain = json!({ "paused": true, "pause": { "stop_runs": false, "merges": false } });
    assert_eq!(paused("").await, (200, plain.clone()));
    assert_eq!(paused("{}").await, (200, plain));
    let asked = r#"{"stop_runs": true, "merges": true}"#;
    let whole = json!({ "paused": true, "pause": { "stop_runs": true, "merges": true } });
    assert_eq!(paused(asked).await, (200, whole.clone()));
    let (_, status) = door.get("/api/v1/status").await;
    assert_eq!(
        (&status["paused"], &status["pause"]),
        (&json!(true), &whole["pause"])
    );
    assert_eq!(door.rung_for_all.load(Ordering::SeqCst), 3);
    let resumed = json!({ "paused": false, "pause": null });
    assert_eq!(door.post("/api/v1/resume", "").await, (200, resumed));
    assert_eq!(door.rung_for_all.load(Ordering::SeqCst), 4);
    let (_, status) = door.get("/api/v1/status").await;
    assert_eq!(status["paused"], json!(false));
}

#[tokio::test]
async fn a_pause_that_is_asked_for_wrongly_changes_nothing() {
    let door = Door::open().await;
    for body in [
        r#"{"stop_run": true}"#,
        r#"{"merges": "yes"}"#,
        r#"{"merges": 1}"#,
        "[]",
        "null",
        "pause",
        "{",
    ] {
        let (status, answer) = door.post("/api/v1/pause", body).await;
        assert_eq!(status, 422, "{body}");
        let why = answer["error"].as_str().unwrap_or_default();
        assert!(why.contains("stop_runs"), "{body}: {why}");
    }
    let (_, status) = door.get("/api/v1/status").await;
    assert_eq!(status["paused"], Value::Bool(false));
    assert_eq!(door.rung_for_all.load(Ordering::SeqCst), 0);
}
