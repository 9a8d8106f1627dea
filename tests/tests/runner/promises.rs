//! What every executor promises, kept by jobs in registers.

use shared::issue::{FailureClass, Fault, RunId, RunResult, Sight};
use shared::ports::{Executor, RegisterWrite, Registers, Settlement};

use crate::on_every_store;
use crate::stage::{Loss, Stage, ambiguous, job, local};

on_every_store! {
    the_same_key_is_the_same_run,
    what_is_not_there_can_not_turn_up_later,
    a_lost_reply_is_found,
    a_lost_request_is_no_run,
    an_end_that_was_not_filed_is_an_end,
    a_start_that_comes_after_the_end_runs_nothing,
    runs_are_looked_at_in_bulk,
}

async fn the_same_key_is_the_same_run(stage: Stage) {
    assert_eq!(stage.queue.kind(), local());
    assert_eq!(stage.sight("k1").await, Sight::Gone);
    assert!(!stage.start("k1").await, "it waits for a runner");
    assert!(!stage.start("k1").await);
    assert_eq!(stage.sight("k1").await, Sight::Waiting);
    let leased = stage.lease_one("mac-1").await;
    assert!(!stage.start("k1").await, "nobody has begun");
    stage.beat("mac-1", &leased, None).await;
    assert!(stage.start("k1").await);
    assert_eq!(stage.sight("k1").await, Sight::Working);
    stage.report("mac-1", &leased).await;
    assert!(stage.start("k1").await);
    let expected = RunResult {
        text: "All done.".into(),
        answer: None,
        pull_url: Some("https://forge.example/o/r/pull/1".into()),
        branch: None,
        changed: Some(true),
        session: None,
        unheard: false,
    };
    let ending = stage.ended("k1").await;
    assert_eq!((ending.result, ending.cost_usd), (Ok(expected), Some(0.25)));
    assert_eq!(stage.lease("mac-1").await, [], "one run for one key");
    let settled = stage.queue.settle(&job("k1")).await;
    assert!(matches!(settled, Ok(Settlement::Found(it)) if it.begun));
    // What is over weighs on nobody who looks for work.
    for shelf in ["jobs", "orders"] {
        assert_eq!(stage.shelf(shelf).await, Vec::<String>::new(), "{shelf}");
    }
    assert_eq!(stage.shelf("results").await, ["k1"]);
    stage.clock.forward(14 * 24 * 3600 + 1);
    assert_eq!(stage.sight("k1").await, Sight::Gone, "not for ever");
}

async fn what_is_not_there_can_not_turn_up_later(stage: Stage) {
    let certain = Ok(Settlement::Absent { certain: true });
    assert_eq!(stage.queue.settle(&job("k1")).await, certain);
    assert_eq!(stage.queue.settle(&job("k1")).await, certain);
    // The start that was on its way arrives now.
    let late = RegisterWrite {
        shelf: "jobs".into(),
        name: "k1".into(),
        value: Some("a job".into()),
        expires_at: None,
    };
    assert!(stage.registers.put(late, 0, stage.now()).await.is_err());
    assert_eq!(stage.sight("k1").await, Sight::Gone);
    assert_eq!(stage.lease("mac-1").await, []);
    stage.stop("k1").await;
    // One that had seen where it stood comes too late as well, once it was
    // looked for again.
    let seen = stage.registers.get("jobs", "k1", stage.now()).await;
    let seen = seen.expect("read").expect("a bar").version;
    assert_eq!(stage.queue.settle(&job("k1")).await, certain);
    let late = RegisterWrite {
        shelf: "jobs".into(),
        name: "k1".into(),
        value: Some("a job".into()),
        expires_at: None,
    };
    assert!(stage.registers.put(late, seen, stage.now()).await.is_err());
    // Made once more, it is one.
    assert!(!stage.start("k1").await);
    assert_eq!(stage.sight("k1").await, Sight::Waiting);
    let settled = stage.queue.settle(&job("k1")).await;
    assert!(matches!(settled, Ok(Settlement::Found(it)) if !it.begun));
    stage.lease_one("mac-1").await;
}

async fn a_lost_reply_is_found(stage: Stage) {
    stage.registers.lose("jobs", Loss::Reply);
    let started = stage.queue.start(&job("k1")).await;
    assert!(ambiguous(&started), "{started:?}");
    let settled = stage.queue.settle(&job("k1")).await;
    assert!(matches!(settled, Ok(Settlement::Found(_))), "{settled:?}");
}

async fn a_lost_request_is_no_run(stage: Stage) {
    stage.registers.lose("orders", Loss::Reply);
    let started = stage.queue.start(&job("k1")).await;
    assert!(
        matches!(started, Err(Fault::Transient { .. })),
        "{started:?}"
    );
    stage.registers.lose("jobs", Loss::Request);
    assert!(ambiguous(&stage.queue.start(&job("k1")).await));
    let settled = stage.queue.settle(&job("k1")).await;
    assert_eq!(settled, Ok(Settlement::Absent { certain: true }));
    assert!(!stage.start("k1").await);
    assert_eq!(stage.lease_one("mac-1").await.task.prompt, job("k1").prompt);
}

async fn an_end_that_was_not_filed_is_an_end(stage: Stage) {
    for (key, shelf) in [("k1", "results"), ("k2", "orders")] {
        stage.start(key).await;
        let leased = stage.lease_one("mac-1").await;
        stage.registers.lose(shelf, Loss::Request);
        stage.report("mac-1", &leased).await;
        assert!(stage.ended(key).await.result.is_ok());
        assert_eq!(stage.lease("mac-2").await, []);
    }
    assert_eq!(stage.shelf("jobs").await, Vec::<String>::new());
    assert_eq!(stage.shelf("results").await, ["k1", "k2"]);
}

async fn a_start_that_comes_after_the_end_runs_nothing(stage: Stage) {
    stage.start("k1").await;
    let there = stage
        .registers
        .get("jobs", "k1", stage.now())
        .await
        .expect("read")
        .expect("a job");
    let leased = stage.lease_one("mac-1").await;
    stage.report("mac-1", &leased).await;
    // It had looked for a result before there was one.
    let late = RegisterWrite {
        shelf: "jobs".into(),
        name: "k1".into(),
        value: Some(there.value),
        expires_at: None,
    };
    stage
        .registers
        .put(late, 0, stage.now())
        .await
        .expect("written");
    assert_eq!(stage.lease("mac-2").await, []);
    assert!(stage.ended("k1").await.result.is_ok());
}

async fn runs_are_looked_at_in_bulk(stage: Stage) {
    for key in ["k1", "k2", "k3"] {
        stage.start(key).await;
        stage.clock.forward(1);
    }
    let first = stage.lease_one("mac-1").await;
    stage.beat("mac-1", &first, None).await;
    let second = stage.lease_one("mac-1").await;
    stage.report("mac-1", &second).await;
    let runs: Vec<RunId> = ["k3", "k0", "k2", "k1"].map(RunId::from).to_vec();
    let sights = stage.queue.observe(&runs).await;
    assert!(
        matches!(
            &sights[..],
            [Ok(Sight::Waiting), Ok(Sight::Gone), Ok(Sight::Ended(it)), Ok(Sight::Working)] if it.result.is_ok()
        ),
        "{sights:?}"
    );
    assert_eq!(stage.queue.observe(&[]).await, []);
}

#[tokio::test]
async fn a_job_that_no_store_can_keep_is_refused() {
    let stage = Stage::memory();
    let mut long = job("k1");
    long.prompt = "x".repeat(400_000);
    let started = stage.queue.start(&long).await;
    let class = FailureClass::Invalid;
    assert!(
        matches!(&started, Err(Fault::Permanent { class: it, .. }) if *it == class),
        "{started:?}"
    );
    assert_eq!(stage.shelf("orders").await, Vec::<String>::new());
}
