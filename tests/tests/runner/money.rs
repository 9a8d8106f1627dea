//! What leases cost that came to nothing, and what a result may hold.

use serde_json::json;
use shared::issue::{FailureClass, Sight};
use shared::runner::document::{ANSWER_BYTES_MAX, Action, HeartbeatDoc, Outcome, ResultDoc};
use shared::runner::queue::Heartbeat;

use crate::stage::{LEASE, Stage, result};

fn action(heard: &Heartbeat) -> Action {
    match heard {
        Heartbeat::Heard { doc, .. } => doc.action,
        other => panic!("it is not heard: {other:?}"),
    }
}

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

    let stage = lost_once(Some(1.05)).await;
    assert_eq!(stage.lease("mac-2").await, []);
    let ending = stage.ended("k1").await;
    let class = ending.result.expect_err("a failure").class;
    assert_eq!((class, ending.cost_usd), (FailureClass::Lost, Some(1.05)));
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

#[tokio::test]
async fn a_run_over_its_cap_is_stopped_and_that_is_why_it_ends() {
    let stage = Stage::memory();
    stage.start("k1").await;
    let leased = stage.lease_one("mac-1").await;
    stage.beat("mac-1", &leased, Some(0.5)).await;
    // An agent looks at its cap between two steps, and ends by itself.
    let near = stage.beat("mac-1", &leased, Some(1.09)).await;
    assert_eq!(action(&near), Action::Continue);
    let over = stage.beat("mac-1", &leased, Some(1.31)).await;
    assert_eq!(action(&over), Action::Cancel);
    // It stays so, whatever is said later and whoever answers.
    let again = stage.beat("mac-1", &leased, None).await;
    assert_eq!(action(&again), Action::Cancel);

    let mut stopped = result("mac-1", leased.fence);
    (stopped.outcome, stopped.cost_usd) = (Outcome::Cancelled, Some(1.4));
    stage.queue.result("k1", &stopped).await.expect("taken");
    let ending = stage.ended("k1").await;
    let failure = ending.result.expect_err("a failure");
    assert_eq!(failure.class, FailureClass::Budget);
    let words = "the run had cost 1.31 USD of the 1.00 USD that it may cost, and was stopped";
    assert_eq!(failure.message, words);
    assert_eq!(
        (ending.cost_usd, ending.cost_is_estimate),
        (Some(1.4), false)
    );

    // Who is not heard of again has been stopped for the same reason.
    stage.start("k2").await;
    let leased = stage.lease_one("mac-1").await;
    stage.beat("mac-1", &leased, Some(2.0)).await;
    stage.clock.forward(LEASE);
    let ending = stage.ended("k2").await;
    let class = ending.result.expect_err("a failure").class;
    assert_eq!((class, ending.cost_usd), (FailureClass::Budget, Some(2.0)));
    assert!(ending.cost_is_estimate, "it may have spent more since");
}

#[tokio::test]
async fn the_cap_counts_what_earlier_holders_have_spent() {
    let stage = lost_once(Some(0.75)).await;
    let second = stage.lease_one("mac-2").await;
    assert_eq!(second.limits.cost_usd, Some(0.25));
    let heard = stage.beat("mac-2", &second, Some(0.3)).await;
    assert_eq!(action(&heard), Action::Continue);
    let heard = stage.beat("mac-2", &second, Some(0.4)).await;
    assert_eq!(action(&heard), Action::Cancel);
}

#[tokio::test]
async fn a_job_that_nobody_began_has_cost_nothing() {
    let nothing = |ending: shared::issue::Ending| {
        assert_eq!(
            (ending.cost_usd, ending.cost_is_estimate),
            (Some(0.0), false)
        );
    };
    let stage = Stage::memory();
    stage.start("k1").await;
    stage.stop("k1").await;
    nothing(stage.ended("k1").await);
    // Handed out again and again, and nobody ever spoke.
    stage.start("k2").await;
    while !stage.lease("mac-1").await.is_empty() {
        stage.clock.forward(LEASE);
    }
    nothing(stage.ended("k2").await);
    // Stopped while somebody had it who had not begun.
    stage.start("k3").await;
    stage.lease_one("mac-1").await;
    stage.stop("k3").await;
    stage.clock.forward(LEASE);
    nothing(stage.ended("k3").await);
}

#[tokio::test]
async fn a_cost_that_is_none_is_passed_over() {
    for cost in [-3.0, f64::NAN, f64::INFINITY, 10_001.0, 0.1] {
        let stage = Stage::memory();
        stage.start("k1").await;
        let leased = stage.lease_one("mac-1").await;
        stage.beat("mac-1", &leased, Some(0.5)).await;
        stage.clock.forward(LEASE / 2);
        let heard = stage.beat("mac-1", &leased, Some(cost)).await;
        assert_eq!(action(&heard), Action::Continue, "{cost}");
        stage.clock.forward(LEASE);
        stage.stop("k1").await;
        assert_eq!(stage.ended("k1").await.cost_usd, Some(0.5), "{cost}");
    }
    // At the end nobody knows what it has cost in all, unless it only shrank.
    for (cost, expected) in [(-3.0, None), (f64::NAN, None), (0.1, Some(0.5))] {
        let stage = Stage::memory();
        stage.start("k1").await;
        let leased = stage.lease_one("mac-1").await;
        stage.beat("mac-1", &leased, Some(0.5)).await;
        let mut end = result("mac-1", leased.fence);
        end.cost_usd = Some(cost);
        stage.queue.result("k1", &end).await.expect("taken");
        let ending = stage.ended("k1").await;
        assert_eq!(ending.cost_usd, expected, "{cost}");
        assert_eq!(ending.cost_is_estimate, expected.is_some(), "{cost}");
        assert!(ending.result.is_ok(), "its work counts");
    }
}

#[test]
fn what_is_no_number_does_not_make_the_rest_unheard() {
    let beat = json!({ "runner": "mac-1", "fence": 1, "cost_usd": "much" });
    let beat: HeartbeatDoc = serde_json::from_value(beat).expect("it is heard");
    assert!(beat.cost_usd.is_some_and(f64::is_nan));
    let end = json!({ "runner": "mac-1", "fence": 1, "outcome": "succeeded", "cost_usd": null });
    let end: ResultDoc = serde_json::from_value(end).expect("it is heard");
    assert_eq!(end.cost_usd, None);
}
