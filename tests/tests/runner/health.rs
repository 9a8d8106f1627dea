//! Whether there is a runner at all, and how many runs would begin at once.

use shared::ports::{Executor as _, Health, Registers as _};
use shared::runner::RUNNER_PATIENCE_SECONDS;

use crate::on_every_store;
use crate::stage::{HERE, LEASE, Loss, Stage, ask};

on_every_store! {
    without_a_runner_they_are_down_as_soon_as_a_job_has_waited,
    a_runner_that_asks_is_alive_and_says_its_slots,
}

async fn health(stage: &Stage) -> Health {
    stage.queue.health().await
}

async fn without_a_runner_they_are_down_as_soon_as_a_job_has_waited(stage: Stage) {
    // A fresh install: nobody knows yet.
    assert_eq!(health(&stage).await, Health::default());
    stage.clock.forward(3_600);
    stage.start("k1").await;
    stage.clock.forward(RUNNER_PATIENCE_SECONDS - 1);
    assert_eq!(health(&stage).await, Health::default());
    stage.clock.forward(6);
    stage.start("k2").await;
    let down = health(&stage).await.down;
    let words = "no runner has been heard of for 65 s";
    assert_eq!(down.as_deref(), Some(words));

    // One comes, and goes with the job in its hands.
    let leased = stage.lease_one("mac-1").await;
    assert_eq!(health(&stage).await.down, None);
    stage.beat("mac-1", &leased, None).await;
    stage.clock.forward(LEASE);
    assert_eq!(health(&stage).await.down, None, "it may come again");
    stage.clock.forward(LEASE);
    assert!(health(&stage).await.down.is_some());
    // Who does its work is alive, though it asks for nothing.
    let leased = stage.lease_one("mac-1").await;
    for _ in 0..10 {
        stage.clock.forward(LEASE / 3);
        stage.beat("mac-1", &leased, None).await;
        assert_eq!(health(&stage).await.down, None);
    }
}

async fn a_runner_that_asks_is_alive_and_says_its_slots(stage: Stage) {
    let asks = async |runner: &str, slots: usize| {
        let jobs = stage.queue.lease(&ask(runner, slots), HERE).await;
        jobs.expect("an answer").len()
    };
    asks("mac-1", 2).await;
    asks("mac-2", 1).await;
    assert_eq!(health(&stage).await.slots_free, Some(3));
    stage.start("k1").await;
    assert_eq!(asks("mac-2", 1).await, 1);
    assert_eq!(health(&stage).await.slots_free, Some(2), "one is taken");
    // One is gone for good, and no job lies about: that is no outage.
    for _ in 0..6 {
        stage.clock.forward(LEASE / 3);
        asks("mac-1", 2).await;
    }
    let well = Health {
        down: None,
        slots_free: Some(2),
    };
    assert_eq!(health(&stage).await, well);
    assert_eq!(stage.shelf("runners").await, ["mac-1"]);
}

#[tokio::test]
async fn a_runner_that_asks_every_second_is_written_down_once_in_a_minute() {
    let stage = Stage::memory();
    for _ in 0..300 {
        stage.lease("mac-1").await;
        stage.clock.forward(1);
    }
    let register = stage.registers.get("runners", "mac-1", stage.now()).await;
    let writes = register.expect("read").expect("it is there").version;
    assert!((4..=6).contains(&writes), "{writes}");
}

#[tokio::test]
async fn what_cannot_be_noted_keeps_no_runner_from_its_job() {
    let stage = Stage::memory();
    stage.start("k1").await;
    stage.registers.lose("runners", Loss::Request);
    stage.lease_one("mac-1").await;
}
