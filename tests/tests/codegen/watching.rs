//! How runs stand, how they end, and how they are stopped.

use jiff::{SignedDuration, Timestamp};
use shared::issue::{Ending, Failure, FailureClass, Fault, RunResult, Sight};
use shared::ports::{Clock, Executor, Job};
use tempfile::TempDir;
use world::codegen::{Case, Deed, Order, Part, Status};
use world::faults::Trouble;
use world::github::{Bare, Change, GitHub};

use super::common::{START, class};
use super::{BRANCH, MARKER, SLUG, Stage, is_transient, job, status};

#[tokio::test]
async fn a_run_ends_with_its_pull_request_whatever_the_case_of_its_status() {
    for case in [Case::Upper, Case::Lower, Case::Mixed] {
        let stage = Stage::with(|_: &Order| {
            let part = Part::change(SignedDuration::from_mins(10), "api.rs", "fn api() {}");
            Part {
                wait: SignedDuration::from_mins(1),
                ..part
            }
        })
        .await;
        stage.codegen.lock().case = case;
        let started = stage.client.start(&job()).await.expect("a start");
        assert!(!started.begun, "{case:?}");
        let run = started.run;
        assert_eq!(stage.sight(&run).await, Ok(Sight::Waiting), "{case:?}");
        stage.clock.forward(60);
        assert_eq!(stage.sight(&run).await, Ok(Sight::Working), "{case:?}");
        stage.clock.forward(600);
        let url = format!("https://github.com/{SLUG}/pull/1");
        let result = RunResult {
            text: format!("I have opened {url}."),
            answer: None,
            pull_url: Some(url),
            branch: None,
            changed: None,
            session: None,
            unheard: false,
        };
        let ended = Sight::Ended(Ending {
            result: Ok(result),
            cost_usd: None,
            cost_is_estimate: false,
        });
        assert_eq!(stage.sight(&run).await, Ok(ended), "{case:?}");

        let mut hub = stage.codegen.github.lock();
        let pull = hub
            .pull(SLUG, 1, stage.clock.now())
            .expect("a pull request");
        assert_eq!((pull.head.as_str(), pull.base.as_str()), (BRANCH, "main"));
        assert!(pull.body.contains(MARKER), "{}", pull.body);
        drop(hub);
        stage.check();
    }
}

#[tokio::test]
async fn a_run_pushes_to_a_real_repository() {
    let folder: TempDir = tempfile::tempdir().expect("a folder");
    let first = Change {
        message: "First".into(),
        files: vec![("a".into(), "1\n".into())],
    };
    let start = Timestamp::from_second(START).expect("a time");
    let bare = Bare::init(&folder.path().join("shop.git"), "main", &first, start);
    let bare = bare.expect("a bare repository");
    let mut hub = GitHub::new("");
    hub.add(SLUG, bare.clone());
    let stage = Stage::over(hub, |_: &Order| {
        Part::change(SignedDuration::from_mins(10), "src/api.rs", "fn api() {}\n")
    })
    .await;
    let run = stage.client.start(&job()).await.expect("a start").run;
    stage.clock.forward(600);
    assert!(matches!(
        stage.sight(&run).await,
        Ok(Sight::Ended(Ending { result: Ok(_), .. }))
    ));
    let file = |at: &str, path: &str| bare.file(at, path).expect("git");
    assert_eq!(file(BRANCH, "src/api.rs").as_deref(), Some("fn api() {}\n"));
    assert_eq!(file(BRANCH, "a").as_deref(), Some("1\n"));
    assert_eq!(file("main", "src/api.rs"), None);
    stage.check();
}

#[tokio::test]
async fn many_runs_are_observed_with_few_requests() {
    let stage = Stage::with(|_: &Order| Part {
        wait: SignedDuration::ZERO,
        work: SignedDuration::ZERO,
        deed: Deed::Hang,
    })
    .await;
    let mut runs = stage.runs(250);
    stage.faults.next("get", status(500, ""));
    let sights = stage.client.observe(&runs).await;
    assert!(
        sights.iter().all(|it| *it == Ok(Sight::Working)),
        "{sights:?}"
    );
    assert_eq!(stage.faults.left(), 1, "no run was read by itself");
    // Three pages are enough for 250, and those that fit on one cost one.
    for _ in 0..3 {
        stage.faults.next("list", status(500, ""));
    }
    assert!(is_transient(&stage.sight(&runs[249]).await));
    assert_eq!(stage.faults.left(), 3);
    assert!(is_transient(&stage.sight(&runs[249]).await));
    assert!(is_transient(&stage.sight(&runs[249]).await));

    // Beyond the pages that are read, a run is read by itself.
    stage.runs(300);
    runs.truncate(1);
    runs.push("999999".into());
    runs.push("not-a-number".into());
    let sights = stage.client.observe(&runs).await;
    assert!(is_transient(&sights[0]), "{sights:?}");
    assert_eq!(sights[1], Ok(Sight::Gone));
    assert_eq!(class(sights[2].clone()).0, FailureClass::Invalid);
    assert_eq!(stage.sight(&runs[0]).await, Ok(Sight::Working));
    assert_eq!(stage.client.observe(&[]).await, []);
    stage.check();
}

#[tokio::test]
async fn an_end_is_confirmed_by_a_second_look() {
    let stage = Stage::with(|_: &Order| Part {
        wait: SignedDuration::ZERO,
        work: SignedDuration::ZERO,
        deed: Deed::Say("nothing to do".into()),
    })
    .await;
    let run = stage.client.start(&job()).await.expect("a start").run;
    stage.faults.next("get", Trouble::Garbage);
    assert!(is_transient(&stage.sight(&run).await));
    stage
        .faults
        .next("get", status(200, "{\"id\":5001,\"status\":\"RUNNING\"}"));
    assert_eq!(
        stage.sight(&run).await,
        Ok(Sight::Working),
        "it has gone on"
    );
    let other = "{\"id\":5002,\"status\":\"FAILED\"}";
    stage.faults.next("get", status(200, other));
    assert!(
        is_transient(&stage.sight(&run).await),
        "another run says nothing about this one"
    );
    assert!(matches!(stage.sight(&run).await, Ok(Sight::Ended(_))));
    stage.check();
}

#[tokio::test]
async fn failures_are_told_apart() {
    for (word, expected) in [
        ("FAILED", FailureClass::Agent),
        ("ERROR", FailureClass::Agent),
        ("STOPPED", FailureClass::Cancelled),
        ("TIMEOUT", FailureClass::Timeout),
        ("MAX_ITERATIONS_REACHED", FailureClass::Limit),
        ("OUT_OF_TOKENS", FailureClass::Limit),
    ] {
        let stage = Stage::with(move |_: &Order| Part {
            wait: SignedDuration::ZERO,
            work: SignedDuration::ZERO,
            deed: Deed::Fail {
                status: word,
                text: "that is why".into(),
            },
        })
        .await;
        let run = stage.client.start(&job()).await.expect("a start").run;
        let failure = Failure {
            class: expected,
            message: format!("Codegen ended the run as {word}: that is why"),
        };
        let ended = Sight::Ended(Ending {
            result: Err(failure),
            cost_usd: None,
            cost_is_estimate: false,
        });
        assert_eq!(stage.sight(&run).await, Ok(ended));
        stage.check();
    }
}

#[tokio::test]
async fn an_unknown_status_means_still_at_work() {
    let stage = Stage::with(|_: &Order| Part {
        wait: SignedDuration::ZERO,
        work: SignedDuration::ZERO,
        deed: Deed::Fail {
            status: "PONDERING",
            text: String::new(),
        },
    })
    .await;
    let run = stage.client.start(&job()).await.expect("a start").run;
    assert_eq!(stage.sight(&run).await, Ok(Sight::Working));
    for page in [
        "{\"items\":[{\"id\":5001,\"status\":null}]}",
        "{\"items\":[7,{\"id\":\"x\"},{\"id\":5001,\"status\":{\"odd\":1},\"metadata\":[]}]}",
    ] {
        stage.faults.next("list", status(200, page));
        assert_eq!(stage.sight(&run).await, Ok(Sight::Working));
    }
    stage.check();
}

#[tokio::test]
async fn an_answer_is_taken_from_the_words() {
    let stage = Stage::with(|_: &Order| Part {
        wait: SignedDuration::ZERO,
        work: SignedDuration::ZERO,
        deed: Deed::Say("My plan:\n```json\n{\"tasks\": []}\n```\n".into()),
    })
    .await;
    let job = Job {
        answer_schema: Some("{\"type\":\"object\"}".into()),
        ..job()
    };
    let run = stage.client.start(&job).await.expect("a start").run;
    let prompt = stage.codegen.lock().runs()[0].order.prompt.clone();
    assert!(prompt.starts_with(&job.prompt) && prompt.contains("{\"type\":\"object\"}"));
    match stage.sight(&run).await {
        Ok(Sight::Ended(Ending {
            result: Ok(result), ..
        })) => {
            assert_eq!(result.answer.as_deref(), Some("{\"tasks\": []}"));
            assert!(result.text.starts_with("My plan"));
        }
        other => panic!("not ended well: {other:?}"),
    }
    stage.check();
}

#[tokio::test]
async fn stopping_is_asked_for_until_it_is_heard() {
    let stage = Stage::new().await;
    let run = stage.client.start(&job()).await.expect("a start").run;
    for trouble in [Trouble::DropBefore, status(500, ""), Trouble::DropAfter] {
        stage.faults.next("ban", trouble);
        assert!(is_transient(&stage.client.stop(&run).await));
    }
    assert_eq!(stage.codegen.lock().runs()[0].status, Status::Cancelled);
    assert_eq!(
        stage.client.stop(&run).await,
        Ok(()),
        "what has ended may be stopped"
    );
    assert_eq!(
        stage.client.stop(&"999999".into()).await,
        Ok(()),
        "so may what nobody knows"
    );
    match stage.sight(&run).await {
        Ok(Sight::Ended(Ending {
            result: Err(failure),
            ..
        })) => {
            assert_eq!(failure.class, FailureClass::Cancelled);
        }
        other => panic!("not cancelled: {other:?}"),
    }
    stage.clock.forward(600);
    stage.codegen.tick();
    assert_eq!(
        stage.codegen.lock().runs()[0].pull,
        None,
        "a stopped run delivers nothing"
    );
    stage.check();
}

#[tokio::test]
async fn a_limit_on_reads_asks_to_wait() {
    let stage = Stage::with(|_: &Order| Part {
        wait: SignedDuration::ZERO,
        work: SignedDuration::ZERO,
        deed: Deed::Say("done".into()),
    })
    .await;
    let runs = stage.runs(20);
    let limited = Trouble::Status {
        status: 429,
        body: "{}".into(),
        retry_after: Some(5),
    };
    let busy = |it: &Result<Sight, Fault>| {
        matches!(
            it,
            Err(Fault::Busy {
                retry_after_seconds: Some(5),
                ..
            })
        )
    };
    stage.faults.next("list", limited.clone());
    let sights = stage.client.observe(&runs).await;
    assert!(sights.iter().all(busy), "{sights:?}");

    // Once asked to wait, what has not been sent is not sent.
    for _ in 0..20 {
        stage.faults.next("get", limited.clone());
    }
    let sights = stage.client.observe(&runs).await;
    assert!(sights.iter().all(busy), "{sights:?}");
    assert!(
        stage.faults.left() >= 12,
        "{} are left",
        stage.faults.left()
    );
    assert_eq!(stage.codegen.lock().check(), Ok(()));
}
