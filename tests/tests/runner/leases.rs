//! Who has a job, who had it, and who gets it next.

use std::sync::Arc;

use futures_util::future::join_all;
use shared::issue::{FailureClass, Fault, RunId, Sight, TaskKind};
use shared::ports::{Executor as _, Job, Message, Repair, Told};
use shared::runner::document::{Action, HeartbeatDoc, JobDoc, LeaseAsk};
use shared::runner::queue::{Heartbeat, Report};

use crate::on_every_store;
use crate::stage::{HERE, LEASE, Stage, ask, job, result};

on_every_store! {
    a_runner_gets_the_oldest_jobs_that_it_can_do,
    what_is_verified_needs_no_agent_and_what_is_repaired_comes_whole,
    of_many_runners_one_gets_the_job,
    a_lease_that_lapses_goes_to_another_and_the_first_is_not_heard,
    who_wakes_up_before_another_has_it_goes_on,
    after_three_runners_that_fell_silent_the_run_is_lost,
    who_never_spoke_had_not_begun,
    a_job_that_may_go_elsewhere_does_not_wait_for_a_silent_runner,
    a_heartbeat_that_changes_nothing_writes_nothing,
    what_people_write_reaches_whoever_works_on_it,
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

async fn what_is_verified_needs_no_agent_and_what_is_repaired_comes_whole(stage: Stage) {
    let verifier = Job {
        kind: TaskKind::Verifier,
        commit: Some("ab".repeat(20)),
        commands: vec!["make test".into()],
        ..job("a")
    };
    let mended = Job {
        repair: Some(Repair {
            run: Some("a".into()),
            session: Some("s-1".into()),
            message: "It is red.".into(),
            conflict: true,
        }),
        ..job("b")
    };
    for job in [&verifier, &mended] {
        stage.queue.start(job).await.expect("accepted");
        stage.clock.forward(1);
    }
    let bare = LeaseAsk {
        agents: Vec::new(),
        ..ask("mac-1", 5)
    };
    let leased = stage.queue.lease(&bare, HERE).await.expect("an answer");
    assert_eq!(leased.len(), 1);
    let rest = stage.lease("mac-2").await;
    assert_eq!(rest[0].agent.resume.as_deref(), Some("s-1"));
    for (doc, job) in leased.into_iter().chain(rest).zip([verifier, mended]) {
        // As it comes over the wire.
        let text = serde_json::to_string(&doc).expect("JSON");
        let doc: JobDoc = serde_json::from_str(&text).expect("a job");
        let read = doc.into_job(job.key.clone(), job.repository.clone());
        let known = |it: &Job| (it.commit.clone(), it.commands.clone(), it.repair.clone());
        assert_eq!(known(&read), known(&job));
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

async fn after_three_runners_that_fell_silent_the_run_is_lost(stage: Stage) {
    stage.start("k1").await;
    for fence in 1..=3 {
        let leased = stage.lease_one("mac-1").await;
        assert_eq!(leased.fence, fence);
        stage.beat("mac-1", &leased, Some(0.25)).await;
        stage.clock.forward(LEASE);
    }
    assert_eq!(stage.lease("mac-1").await, []);
    let ending = stage.ended("k1").await;
    let failure = ending.result.expect_err("a failure");
    assert_eq!(failure.class, FailureClass::Lost);
    assert!(failure.message.contains("`mac-1`"), "{failure:?}");
    assert_eq!(ending.cost_usd, Some(0.75), "what they said");
    assert_eq!(stage.shelf("jobs").await, Vec::<String>::new());
}

async fn who_never_spoke_had_not_begun(stage: Stage) {
    stage.start("k1").await;
    let mut leased = 0;
    while let Some(job) = stage.lease("mac-1").await.pop() {
        leased += 1;
        assert_eq!(job.fence, leased);
        assert_eq!(stage.sight("k1").await, Sight::Waiting, "nobody has begun");
        stage.clock.forward(LEASE);
        assert!(leased <= 100, "somebody has to give up");
    }
    assert!(
        leased > 3,
        "an answer that is lost now and then is no verdict"
    );
    let ending = stage.ended("k1").await;
    let failure = ending.result.expect_err("a failure");
    assert_eq!(failure.class, FailureClass::Lost);
    assert_eq!(ending.cost_usd, Some(0.0), "no agent was ever started");
}

async fn a_job_that_may_go_elsewhere_does_not_wait_for_a_silent_runner(stage: Stage) {
    for (key, patience_seconds) in [("k1", Some(60)), ("k2", None)] {
        let job = Job {
            patience_seconds,
            ..job(key)
        };
        stage.queue.start(&job).await.expect("accepted");
        // As long as it takes until somebody has begun.
        stage.clock.forward(10_000);
        assert_eq!(stage.sight(key).await, Sight::Waiting);
        let leased = stage.lease_one("mac-1").await;
        stage.beat("mac-1", &leased, None).await;
        stage.clock.forward(LEASE + 59);
        assert_eq!(stage.sight(key).await, Sight::Waiting);
        stage.clock.forward(1);
        match (patience_seconds, stage.sight(key).await) {
            (Some(_), Sight::Ended(ending)) => {
                let failure = ending.result.expect_err("a failure");
                assert_eq!(failure.class, FailureClass::Lost);
                assert_eq!(stage.report("mac-1", &leased).await, Report::Stale);
            }
            (None, Sight::Waiting) => {
                let issue = Report::Taken("5e1c".into());
                assert_eq!(stage.report("mac-1", &leased).await, issue);
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn a_heartbeat_that_changes_nothing_writes_nothing(stage: Stage) {
    stage.start("k1").await;
    let leased = stage.lease_one("mac-1").await;
    let until = |heard: &Heartbeat| match heard {
        Heartbeat::Heard { doc, .. } => doc.lease_until,
        other => panic!("{other:?}"),
    };
    let first = until(&stage.beat("mac-1", &leased, None).await);
    let kept = stage.registers_of("k1").await;
    stage.clock.forward(LEASE / 3);
    let again = stage.beat("mac-1", &leased, None).await;
    assert_eq!(until(&again), first, "what it is told is what holds");
    match again {
        Heartbeat::Heard { doc, .. } => assert_eq!(doc.lease_seconds, Some(60.0)),
        other => panic!("{other:?}"),
    }
    assert_eq!(stage.registers_of("k1").await, kept);
    stage.clock.forward(1);
    let later = until(&stage.beat("mac-1", &leased, None).await);
    assert_eq!(later.duration_since(first).as_secs(), LEASE / 3 + 1);
}

async fn what_people_write_reaches_whoever_works_on_it(stage: Stage) {
    let tell = async |id: &str| {
        let message = Message {
            id: id.into(),
            text: format!("text of {id}"),
        };
        let told = stage.queue.tell(&RunId::from("k1"), &message).await;
        told.expect("an answer")
    };
    let beat = async |job: &JobDoc, heard: Option<&[&str]>| {
        let heard = heard.map(|ids| ids.iter().map(|it| (*it).to_owned()).collect());
        let beat = HeartbeatDoc {
            runner: "mac-1".into(),
            fence: job.fence,
            cost_usd: None,
            note: None,
            session: None,
            heard,
        };
        match stage.queue.heartbeat("k1", &beat).await {
            Ok(Heartbeat::Heard { doc, .. }) => (doc.action, doc.message_id),
            other => panic!("{other:?}"),
        }
    };
    let message = |id: &str| (Action::Message, Some(id.to_owned()));
    let none = (Action::Continue, None);
    assert_eq!(tell("m0").await, Told::TooLate, "there is no such run");
    stage.start("k1").await;
    let leased = stage.lease_one("mac-1").await;
    beat(&leased, Some(&[])).await;
    for id in ["m1", "m2", "m1"] {
        assert_eq!(tell(id).await, Told::Accepted);
    }
    // Again and again, until it is known to be there.
    assert_eq!(beat(&leased, Some(&[])).await, message("m1"));
    assert_eq!(beat(&leased, Some(&[])).await, message("m1"));
    assert_eq!(beat(&leased, Some(&["m1"])).await, message("m2"));
    assert_eq!(beat(&leased, Some(&["m1", "m2"])).await, none);
    // The next holder has heard nothing of it; this one does not say what it has.
    stage.clock.forward(LEASE);
    let leased = stage.lease_one("mac-1").await;
    assert_eq!(beat(&leased, None).await, message("m1"));
    assert_eq!(beat(&leased, None).await, message("m2"));
    assert_eq!(beat(&leased, None).await, none);
    // What comes too late is said.
    assert_eq!(tell("m3").await, Told::Accepted);
    stage.report("mac-1", &leased).await;
    assert_eq!(tell("m4").await, Told::TooLate);
    let ended = stage.ended("k1").await.result.expect("a success");
    assert!(ended.unheard, "{ended:?}");
    // But what its holder had by then did not.
    stage.start("k3").await;
    let leased = stage.lease_one("mac-1").await;
    let message = Message {
        id: "m5".into(),
        text: "Just in time.".into(),
    };
    let told = stage.queue.tell(&RunId::from("k3"), &message).await;
    assert_eq!(told, Ok(Told::Accepted));
    let mut last = result("mac-1", leased.fence);
    last.heard = Some(vec!["m5".into()]);
    stage.queue.result("k3", &last).await.expect("an answer");
    let ended = stage.ended("k3").await.result.expect("a success");
    assert!(!ended.unheard, "{ended:?}");
    // There is a bound.
    stage.start("k2").await;
    let long = Message {
        id: "m".into(),
        text: "x".repeat(200_000),
    };
    let told = stage.queue.tell(&RunId::from("k2"), &long).await;
    assert!(matches!(told, Err(Fault::Permanent { .. })), "{told:?}");
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
