//! Who has a job, who had it, and who gets it next.

use std::sync::Arc;

use futures_util::future::join_all;
use shared::issue::{FailureClass, Sight};
use shared::runner::document::{Action, JobDoc, LeaseAsk};
use shared::runner::queue::{Heartbeat, Report};

use crate::on_every_store;
use crate::stage::{HERE, LEASE, Stage, ask, job, result};

on_every_store! {
    a_runner_gets_the_oldest_jobs_that_it_can_do,
    of_many_runners_one_gets_the_job,
    a_lease_that_lapses_goes_to_another_and_the_first_is_not_heard,
    who_wakes_up_before_another_has_it_goes_on,
    after_three_lapsed_leases_the_run_is_lost,
    a_stop_before_anybody_has_it_is_its_end,
    a_stop_is_told_to_who_has_it,
    a_stop_of_what_nobody_is_heard_of_is_its_end,
    only_the_first_result_counts,
}

fn action(heard: &Heartbeat) -> Option<Action> {
    match heard {
        Heartbeat::Heard { doc, .. } => Some(doc.action),
        Heartbeat::Stale | Heartbeat::Unknown => None,
    }
}

async fn a_runner_gets_the_oldest_jobs_that_it_can_do(stage: Stage) {
    for key in ["c", "a", "b"] {
        stage.start(key).await;
        stage.clock.forward(1);
    }
    let other = LeaseAsk {
        repositories: vec!["elsewhere".into()],
        ..ask("mac-1", 5)
    };
    assert_eq!(
        stage.queue.lease(&other, HERE).await.expect("an answer"),
        []
    );
    let other = LeaseAsk {
        agents: vec!["codex".into()],
        ..ask("mac-1", 5)
    };
    assert_eq!(
        stage.queue.lease(&other, HERE).await.expect("an answer"),
        []
    );
    let full = stage.queue.lease(&ask("mac-1", 0), HERE).await;
    assert_eq!(full.expect("an answer"), []);
    let two = stage
        .queue
        .lease(&ask("mac-1", 2), HERE)
        .await
        .expect("jobs");
    let names: Vec<&str> = two.iter().map(|it| it.job.as_str()).collect();
    assert_eq!(names, ["c", "a"]);
    let until = stage.now() + jiff::SignedDuration::from_secs(LEASE);
    let expected = JobDoc::new(
        &job("c"),
        1,
        until,
        90.0,
        "https://cyrus.example/runner/v1/jobs/c".into(),
    );
    assert_eq!(two[0], expected);
    let rest = stage
        .queue
        .lease(&ask("mac-2", 5), HERE)
        .await
        .expect("jobs");
    assert_eq!(rest.len(), 1);
    assert_eq!(stage.lease("mac-3").await, []);
}

async fn of_many_runners_one_gets_the_job(stage: Stage) {
    const RUNNERS: usize = 16;
    for round in 0..4 {
        stage.start(&format!("k{round}")).await;
        let asks = (0..RUNNERS).map(|runner| {
            let queue = Arc::clone(&stage.queue);
            tokio::spawn(async move { queue.lease(&ask(&format!("r{runner}"), 1), HERE).await })
        });
        let mut got = 0;
        for answer in join_all(asks).await {
            got += answer.expect("no panic").expect("an answer").len();
        }
        assert_eq!(got, 1, "round {round}");
    }
}

async fn a_lease_that_lapses_goes_to_another_and_the_first_is_not_heard(stage: Stage) {
    stage.start("k1").await;
    let first = stage.lease_one("mac-1").await;
    stage.beat("mac-1", &first, None).await;
    stage.clock.forward(LEASE - 1);
    assert_eq!(stage.lease("mac-2").await, [], "it still holds");
    stage.clock.forward(1);
    assert_eq!(stage.sight("k1").await, Sight::Waiting);
    let second = stage.lease_one("mac-2").await;
    assert_eq!((first.fence, second.fence), (1, 2));
    let before = stage.registers_of("k1").await;
    assert_eq!(
        stage.beat("mac-1", &first, Some(9.0)).await,
        Heartbeat::Stale
    );
    assert_eq!(stage.report("mac-1", &first).await, Report::Stale);
    // Nor under the number of another.
    assert_eq!(stage.beat("mac-1", &second, None).await, Heartbeat::Stale);
    assert_eq!(stage.report("mac-1", &second).await, Report::Stale);
    assert_eq!(
        stage.registers_of("k1").await,
        before,
        "nothing has changed"
    );
    assert_eq!(
        stage.report("mac-2", &second).await,
        Report::Taken("5e1c".into())
    );
    assert_eq!(stage.report("mac-1", &first).await, Report::Stale);
    assert_eq!(stage.beat("mac-2", &second, None).await, Heartbeat::Stale);
}

async fn who_wakes_up_before_another_has_it_goes_on(stage: Stage) {
    stage.start("k1").await;
    let leased = stage.lease_one("mac-1").await;
    let heard = stage.beat("mac-1", &leased, None).await;
    assert!(matches!(&heard, Heartbeat::Heard { begun: Some(it), .. } if it.0 == "5e1c"));
    stage.clock.forward(10 * LEASE);
    let heard = stage.beat("mac-1", &leased, None).await;
    match heard {
        Heartbeat::Heard { doc, begun } => {
            let until = stage.now() + jiff::SignedDuration::from_secs(LEASE);
            assert_eq!((doc.lease_until, doc.action), (until, Action::Continue));
            assert_eq!(begun, None, "it had begun");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.sight("k1").await, Sight::Working);
    assert_eq!(stage.lease("mac-2").await, []);
    stage.clock.forward(2 * LEASE);
    assert_eq!(
        stage.report("mac-1", &leased).await,
        Report::Taken("5e1c".into())
    );
}

async fn after_three_lapsed_leases_the_run_is_lost(stage: Stage) {
    stage.start("k1").await;
    for fence in 1..=3 {
        let leased = stage.lease_one("mac-1").await;
        assert_eq!(leased.fence, fence);
        assert_eq!(stage.sight("k1").await, Sight::Waiting, "nobody has begun");
        stage.clock.forward(LEASE);
    }
    assert_eq!(stage.lease("mac-1").await, []);
    let ending = stage.ended("k1").await;
    let failure = ending.result.expect_err("a failure");
    assert_eq!(failure.class, FailureClass::Lost);
    assert!(failure.message.contains("`mac-1`"), "{failure:?}");
    assert_eq!(ending.cost_usd, Some(0.0), "no agent was ever started");
    assert_eq!(stage.shelf("jobs").await, Vec::<String>::new());
}

async fn a_stop_before_anybody_has_it_is_its_end(stage: Stage) {
    stage.start("k1").await;
    stage.stop("k1").await;
    let ending = stage.ended("k1").await;
    let failure = ending.result.expect_err("a failure");
    assert_eq!(failure.class, FailureClass::Cancelled);
    assert_eq!(ending.cost_usd, Some(0.0));
    assert_eq!(stage.lease("mac-1").await, []);
    stage.stop("k1").await;
    stage.stop("never").await;
}

async fn a_stop_is_told_to_who_has_it(stage: Stage) {
    stage.start("k1").await;
    let leased = stage.lease_one("mac-1").await;
    let heard = stage.beat("mac-1", &leased, None).await;
    assert_eq!(action(&heard), Some(Action::Continue));
    stage.stop("k1").await;
    stage.stop("k1").await;
    assert_eq!(
        stage.sight("k1").await,
        Sight::Working,
        "it has not ended yet"
    );
    for _ in 0..2 {
        let heard = stage.beat("mac-1", &leased, None).await;
        assert_eq!(action(&heard), Some(Action::Cancel));
    }
    let mut cancelled = result("mac-1", leased.fence);
    cancelled.outcome = shared::runner::document::Outcome::Cancelled;
    let report = stage
        .queue
        .result("k1", &cancelled)
        .await
        .expect("an answer");
    assert_eq!(report, Report::Taken("5e1c".into()));
    let failure = stage.ended("k1").await.result.expect_err("a failure");
    assert_eq!(failure.class, FailureClass::Cancelled);
}

async fn a_stop_of_what_nobody_is_heard_of_is_its_end(stage: Stage) {
    for (key, before) in [("k1", true), ("k2", false)] {
        stage.start(key).await;
        let leased = stage.lease_one("mac-1").await;
        stage.beat("mac-1", &leased, Some(0.5)).await;
        if before {
            stage.stop(key).await;
            stage.clock.forward(LEASE);
        } else {
            stage.clock.forward(LEASE);
            stage.stop(key).await;
        }
        let ending = stage.ended(key).await;
        let failure = ending.result.expect_err("a failure");
        assert_eq!(failure.class, FailureClass::Cancelled);
        assert_eq!(ending.cost_usd, Some(0.5), "as far as it is known");
        assert_eq!(stage.lease("mac-2").await, []);
        assert_eq!(stage.report("mac-1", &leased).await, Report::Stale);
        assert_eq!(stage.beat("mac-1", &leased, None).await, Heartbeat::Stale);
    }
}

async fn only_the_first_result_counts(stage: Stage) {
    stage.start("k1").await;
    let leased = stage.lease_one("mac-1").await;
    let reports = (0..8).map(|at| {
        let queue = Arc::clone(&stage.queue);
        let mut result = result("mac-1", leased.fence);
        result.text = format!("word {at}");
        tokio::spawn(async move { queue.result("k1", &result).await })
    });
    for report in join_all(reports).await {
        let report = report.expect("no panic").expect("an answer");
        assert_eq!(report, Report::Taken("5e1c".into()));
    }
    let word = stage.ended("k1").await.result.expect("a success").text;
    let mut again = result("mac-1", leased.fence);
    again.text = "another word".into();
    let report = stage.queue.result("k1", &again).await.expect("an answer");
    assert_eq!(report, Report::Taken("5e1c".into()));
    assert_eq!(
        stage.ended("k1").await.result.expect("a success").text,
        word
    );
    let unknown = stage.queue.result("k9", &again).await.expect("an answer");
    assert_eq!(unknown, Report::Unknown);
}
