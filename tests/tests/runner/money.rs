//! What leases cost that came to nothing, and what a result may hold.

use shared::issue::{FailureClass, Sight};
use shared::runner::document::{ANSWER_BYTES_MAX, Outcome};

use crate::stage::{LEASE, Stage, result};

/// A queue whose job was leased, heard of with this cost, and lost.
async fn lost_once(usd: Option<f64>) -> Stage {
    let stage = Stage::memory();
    stage.start("k1").await;
    let first = stage.lease_one("mac-1").await;
    assert_eq!(first.limits.cost_usd, Some(1.0));
    stage.beat("mac-1", &first, usd).await;
    stage.clock.forward(LEASE);
    stage
}

#[tokio::test]
async fn what_a_lost_holder_has_spent_is_not_spent_again() {
    let stage = lost_once(Some(0.75)).await;
    let second = stage.lease_one("mac-2").await;
    assert_eq!(second.limits.cost_usd, Some(0.25));
    stage.report("mac-2", &second).await;
    assert_eq!(stage.ended("k1").await.cost_usd, Some(1.0));

    let stage = lost_once(Some(1.25)).await;
    assert_eq!(stage.lease("mac-2").await, []);
    let ending = stage.ended("k1").await;
    let class = ending.result.expect_err("a failure").class;
    assert_eq!((class, ending.cost_usd), (FailureClass::Lost, Some(1.25)));
}

#[tokio::test]
async fn what_nobody_knows_is_not_taken_for_nothing() {
    let stage = lost_once(None).await;
    let second = stage.lease_one("mac-2").await;
    stage.report("mac-2", &second).await;
    assert_eq!(stage.ended("k1").await.cost_usd, None);
    // A figure that is none.
    let stage = lost_once(Some(-3.0)).await;
    stage.stop("k1").await;
    assert_eq!(stage.ended("k1").await.cost_usd, None);
}

#[tokio::test]
async fn what_is_too_long_to_be_kept_is_cut_or_refused() {
    let stage = Stage::memory();
    let end = async |key: &str, text: String, answer: Option<String>| {
        stage.start(key).await;
        let leased = stage.lease_one("mac-1").await;
        let mut result = result("mac-1", leased.fence);
        (result.text, result.answer) = (text, answer);
        stage.queue.result(key, &result).await.expect("taken");
        stage.ended(key).await.result
    };
    let cut = end("k1", "\u{1}".repeat(500_000), None)
        .await
        .expect("a success");
    assert!(cut.text.len() < 70_000, "{}", cut.text.len());
    let long = "1".repeat(ANSWER_BYTES_MAX + 1);
    let failure = end("k2", String::new(), Some(long))
        .await
        .expect_err("a failure");
    assert_eq!(failure.class, FailureClass::Agent);
    let escaped = "\u{1}".repeat(ANSWER_BYTES_MAX);
    let failure = end("k3", String::new(), Some(escaped))
        .await
        .expect_err("a failure");
    assert_eq!(failure.class, FailureClass::Agent);
}

#[tokio::test]
async fn a_failure_keeps_its_class_and_a_taken_branch_its_name() {
    let stage = Stage::memory();
    stage.start("k1").await;
    let leased = stage.lease_one("mac-1").await;
    let mut failed = result("mac-1", leased.fence);
    failed.outcome = Outcome::Failed;
    failed.class = Some(FailureClass::Quota);
    failed.text = "no credit".into();
    stage.queue.result("k1", &failed).await.expect("taken");
    let failure = stage.ended("k1").await.result.expect_err("a failure");
    assert_eq!(
        (failure.class, failure.message.as_str()),
        (FailureClass::Quota, "no credit")
    );

    stage.start("k2").await;
    let leased = stage.lease_one("mac-1").await;
    let mut renamed = result("mac-1", leased.fence);
    renamed.branch = Some("cyrus/eng-1/api-2".into());
    stage.queue.result("k2", &renamed).await.expect("taken");
    let Sight::Ended(ending) = stage.sight("k2").await else {
        panic!("it has ended");
    };
    let branch = ending.result.expect("a success").branch;
    assert_eq!(branch.as_deref(), Some("cyrus/eng-1/api-2"));
}
