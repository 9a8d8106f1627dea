//! A run that has ended is gone on with, once, or it is said why not.

use jiff::SignedDuration;
use shared::issue::{Ending, FailureClass, Fault, RunId, RunResult, Sight};
use shared::ports::{Executor, Job, Repair, Settlement, Started};
use world::codegen::{Deed, Order, Part};
use world::faults::Trouble;
use world::github::{Bare, Change, GitHub};

use super::common::{START, class};
use super::{BRANCH, SLUG, Stage, is_transient, job, status};

const TURN: SignedDuration = SignedDuration::from_mins(10);

/// The first turn writes `api.rs`, the second mends it.
fn script(order: &Order) -> Part {
    let content = if order.turn() == 1 {
        "fn api("
    } else {
        "fn api() {}"
    };
    Part::change(TURN, "api.rs", content)
}

fn repair(run: &RunId) -> Job {
    Job {
        key: "issue-1-1".into(),
        repair: Some(Repair {
            run: Some(run.clone()),
            session: None,
            message: "The check `ci` failed: unclosed delimiter.".into(),
            conflict: false,
        }),
        ..job()
    }
}

/// A stage whose first run has come to its end.
async fn ended() -> (Stage, RunId) {
    let stage = Stage::with(script).await;
    let run = first(&stage).await;
    (stage, run)
}

async fn first(stage: &Stage) -> RunId {
    let run = stage.client.start(&job()).await.expect("a start").run;
    stage.clock.forward(600);
    assert!(matches!(stage.sight(&run).await, Ok(Sight::Ended(_))));
    run
}

fn turns(stage: &Stage) -> Vec<usize> {
    let codegen = stage.codegen.lock();
    codegen.runs().iter().map(|it| it.order.turn()).collect()
}

#[tokio::test]
async fn a_repair_is_another_turn_of_the_run_on_the_same_branch() {
    let folder = tempfile::tempdir().expect("a folder");
    let first_commit = Change {
        message: "First".into(),
        files: vec![("a".into(), "1\n".into())],
    };
    let start = jiff::Timestamp::from_second(START).expect("a time");
    let path = folder.path().join("shop.git");
    let bare = Bare::init(&path, "main", &first_commit, start).expect("a bare repository");
    let mut hub = GitHub::new("");
    hub.add(SLUG, bare.clone());
    let stage = Stage::over(hub, script).await;
    let run = first(&stage).await;

    let mut job = repair(&run);
    job.repository.base_branch = "trunk".into();
    if let Some(repair) = &mut job.repair {
        repair.conflict = true;
    }
    let started = Started {
        run: run.clone(),
        url: Some("https://codegen.com/agent/trace/5001".into()),
        begun: true,
    };
    assert_eq!(stage.client.start(&job).await, Ok(started));
    let told = stage.codegen.lock().runs()[0].order.follow_ups.clone();
    let expected = format!(
        "The check `ci` failed: unclosed delimiter.\n\nGo on on the branch `{BRANCH}`. First merge \
         `trunk` into it, and resolve the conflicts. Push to that branch; its pull request stays \
         the same one.\n\n<!-- cyrus-key:issue-1-1 -->\n"
    );
    assert_eq!(told, [expected]);
    assert_eq!(stage.sight(&run).await, Ok(Sight::Working));
    stage.clock.forward(600);
    let url = format!("https://github.com/{SLUG}/pull/1");
    let result = RunResult {
        text: format!("I have pushed to {url} (2)."),
        pull_url: Some(url),
        ..RunResult::default()
    };
    let ending = Ending {
        result: Ok(result),
        cost_usd: None,
        cost_is_estimate: false,
    };
    assert_eq!(stage.sight(&run).await, Ok(Sight::Ended(ending)));
    let file = |path: &str| bare.file(BRANCH, path).expect("git");
    assert_eq!(file("api.rs").as_deref(), Some("fn api() {}"));
    assert_eq!(turns(&stage), [2]);
    stage.check();
}

#[tokio::test]
async fn a_repair_without_a_run_is_a_fresh_run() {
    let (stage, run) = ended().await;
    let mut fresh = repair(&run);
    if let Some(repair) = &mut fresh.repair {
        repair.run = None;
    }
    let started = stage.client.start(&fresh).await.expect("a start");
    assert_eq!(started.run.0, "5002");
    assert_eq!(stage.codegen.lock().runs()[1].order.prompt, fresh.prompt);
    assert_eq!(turns(&stage), [1, 1]);
    stage.check();
}

#[tokio::test]
async fn a_run_at_work_is_not_disturbed() {
    let stage = Stage::with(script).await;
    let run = stage.client.start(&job()).await.expect("a start").run;
    // It is seen to be at work, or is found so when it is too late to see.
    for trouble in [None, Some(status(409, "{\"message\":\"still active\"}"))] {
        if let Some(trouble) = trouble {
            stage.clock.forward(600);
            stage.faults.next("resume", trouble);
        }
        let answer = stage.client.start(&repair(&run)).await;
        assert!(
            matches!(
                &answer,
                Err(Fault::Busy {
                    retry_after_seconds: Some(60),
                    ..
                })
            ),
            "{answer:?}"
        );
    }
    assert_eq!(turns(&stage), [1]);
    stage.check();
}

#[tokio::test]
async fn refusals_of_a_resume_promise_that_nothing_was_begun() {
    let (stage, run) = ended().await;
    let (kind, why) = class(stage.client.start(&repair(&"999".into())).await);
    assert_eq!(kind, FailureClass::Invalid);
    assert!(why.contains("999") && why.contains("gone"), "{why}");
    assert_eq!(
        class(stage.client.start(&repair(&"x".into())).await).0,
        FailureClass::Invalid
    );
    for (code, body, expected) in [
        (
            404,
            "{\"message\":\"Agent run not found\"}",
            FailureClass::Invalid,
        ),
        (402, "{\"message\":\"used up\"}", FailureClass::Quota),
        (401, "{}", FailureClass::Auth),
        (403, "{}", FailureClass::Auth),
        (422, "{\"detail\":\"no\"}", FailureClass::Invalid),
    ] {
        stage.faults.next("resume", status(code, body));
        assert_eq!(
            class(stage.client.start(&repair(&run)).await).0,
            expected,
            "{code}"
        );
    }
    let limited = |retry_after| Trouble::Status {
        status: 429,
        body: "{}".into(),
        retry_after,
    };
    for operation in ["get", "resume"] {
        stage.faults.next(operation, limited(Some(9)));
        let answer = stage.client.start(&repair(&run)).await;
        assert!(
            matches!(
                &answer,
                Err(Fault::Busy {
                    retry_after_seconds: Some(9),
                    ..
                })
            ),
            "{operation}: {answer:?}"
        );
    }
    // What cannot be read was not sent back to work.
    stage.faults.next("get", Trouble::DropBefore);
    assert!(is_transient(&stage.client.start(&repair(&run)).await));
    assert_eq!(turns(&stage), [1]);
    stage.check();
}

#[tokio::test]
async fn a_resume_whose_reply_is_lost_is_found_not_repeated() {
    let other = Trouble::StatusAfter {
        status: 200,
        body: "{\"id\":7}".into(),
    };
    for trouble in Trouble::lost_replies().into_iter().chain([other]) {
        let (stage, run) = ended().await;
        stage.faults.next("resume", trouble.clone());
        let job = repair(&run);
        let answer = stage.client.start(&job).await;
        assert!(
            matches!(answer, Err(Fault::Ambiguous { .. })),
            "{trouble:?}: {answer:?}"
        );
        let found = |begun| {
            Ok(Settlement::Found(Started {
                run: run.clone(),
                url: Some("https://codegen.com/agent/trace/5001".into()),
                begun,
            }))
        };
        assert_eq!(stage.client.settle(&job).await, found(true), "{trouble:?}");
        // It has ended meanwhile: its log tells.
        stage.clock.forward(600);
        assert_eq!(stage.client.settle(&job).await, found(false), "{trouble:?}");
        assert_eq!(turns(&stage), [2]);
        stage.check();
    }
}

#[tokio::test]
async fn other_last_words_tell_of_a_resume_where_the_log_does_not() {
    let (stage, run) = ended().await;
    stage.codegen.lock().silent_logs = true;
    stage.faults.next("resume", Trouble::DropAfter);
    let job = repair(&run);
    assert!(stage.client.start(&job).await.is_err());
    stage.clock.forward(600);
    assert!(matches!(
        stage.client.settle(&job).await,
        Ok(Settlement::Found(it)) if !it.begun
    ));
    // Another process has not read what stood there before, and cannot know.
    let url = stage.server.url();
    let elsewhere = super::client(&url, &super::ORG.to_string(), super::TOKEN, &stage.clock);
    let absent = Ok(Settlement::Absent { certain: false });
    assert_eq!(elsewhere.settle(&job).await, absent);
    stage.check();
}

#[tokio::test]
async fn a_doubtful_resume_that_was_none_is_absent_but_not_for_certain() {
    let absent = Ok(Settlement::Absent { certain: false });
    for trouble in [Trouble::DropBefore, Trouble::Garbage, status(500, "")] {
        let (stage, run) = ended().await;
        stage.faults.next("resume", trouble.clone());
        let job = repair(&run);
        let answer = stage.client.start(&job).await;
        assert!(
            matches!(answer, Err(Fault::Ambiguous { .. })),
            "{trouble:?}: {answer:?}"
        );
        assert_eq!(stage.client.settle(&job).await, absent, "{trouble:?}");
        // An alpha endpoint may be gone; one that fails has not said anything.
        stage.faults.next("logs", status(404, "{}"));
        assert_eq!(stage.client.settle(&job).await, absent);
        for operation in ["get", "logs"] {
            stage.faults.next(operation, status(503, ""));
            assert!(is_transient(&stage.client.settle(&job).await));
        }
        // The key of another effect, which begins alike, is not ours.
        let mut longer = repair(&run);
        longer.key = "issue-1-12".into();
        stage.client.start(&longer).await.expect("a resume");
        stage.clock.forward(600);
        let elsewhere = Job {
            key: "issue-1-3".into(),
            ..repair(&run)
        };
        assert_eq!(stage.client.settle(&elsewhere).await, absent);
        assert_eq!(turns(&stage), [2]);
        stage.check();
    }
}

#[tokio::test]
async fn a_read_that_is_behind_does_not_say_that_the_repair_has_begun() {
    let (stage, run) = ended().await;
    stage.codegen.lock().stale = SignedDuration::from_secs(30);
    let job = repair(&run);
    let started = stage.client.start(&job).await.expect("a resume");
    assert_eq!((started.run.clone(), started.begun), (run.clone(), false));
    assert!(matches!(stage.sight(&run).await, Ok(Sight::Ended(_))));
    assert!(matches!(
        stage.client.settle(&job).await,
        Ok(Settlement::Found(it)) if !it.begun
    ));
    stage.clock.forward(30);
    assert_eq!(stage.sight(&run).await, Ok(Sight::Working));
    stage.check();
}

#[tokio::test]
async fn a_second_turn_can_fail_or_change_nothing() {
    let deeds = [
        Deed::Say("there was nothing to do".into()),
        Deed::Fail {
            status: "OUT_OF_TOKENS",
            text: String::new(),
        },
    ];
    for deed in deeds {
        let second = deed.clone();
        let stage = Stage::with(move |order: &Order| {
            let first = script(order);
            if order.turn() == 1 {
                return first;
            }
            Part {
                wait: SignedDuration::from_mins(1),
                deed: second.clone(),
                ..first
            }
        })
        .await;
        let run = first(&stage).await;
        let started = stage.client.start(&repair(&run)).await.expect("a resume");
        assert!(!started.begun, "it waits for its turn");
        stage.clock.forward(660);
        let Ok(Sight::Ended(ending)) = stage.sight(&run).await else {
            panic!("{deed:?} has not ended");
        };
        let failed = ending.result.err().map(|it| it.class);
        let expected = matches!(deed, Deed::Fail { .. }).then_some(FailureClass::Limit);
        assert_eq!(failed, expected);
        stage.check();
    }
}
