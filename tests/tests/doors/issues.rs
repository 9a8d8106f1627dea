//! Why, how much, and a person's word: `explain`, `forecast`, `approve`, `cancel`.

use serde_json::{Value, json};
use shared::issue::forecast::{Forecast, Range};
use shared::issue::plan::Spec;
use shared::issue::{
    CancelReason, Effect, Ending, Event, ExecutorKind, Reservation, RoundOutcome, RunResult, Scope,
    Settled, TaskId, TaskKind, Wait,
};

use crate::{Door, opened};

fn spec(id: &str, kind: TaskKind) -> Spec {
    Spec {
        id: id.into(),
        title: id.into(),
        kind,
        prompt: "do it".into(),
        depends_on: Vec::new(),
        complexity: None,
        requires_isolation: false,
        acceptance: Vec::new(),
        paths: Vec::new(),
        judges: None,
        issue: None,
    }
}

fn task() -> TaskId {
    "main".into()
}

fn laid() -> Event {
    Event::Laid {
        tasks: vec![spec("main", TaskKind::Builder)],
    }
}

fn forecast() -> Forecast {
    let range = |low, expected, high| Range {
        low,
        expected,
        high,
    };
    Forecast {
        cost_usd: range(0.4, 0.6, 1.2),
        minutes: range(10.0, 20.0, 40.0),
        critical_path: vec![task()],
    }
}

/// A start with 40 cents set aside, and the end of its run.
fn one_run() -> [Event; 2] {
    [
        Event::Requested(Effect::Start {
            task: task(),
            attempt: 1,
            executor: ExecutorKind::Codegen,
            reserved: Some(Reservation {
                usd: 0.4,
                day: "2026-11-20".parse().expect("a day"),
                day_max_usd: Some(50.0),
            }),
            repair: false,
        }),
        Event::Ended {
            task: task(),
            ending: Ending {
                result: Ok(RunResult::default()),
                cost_usd: None,
                cost_is_estimate: true,
            },
            cost_usd: 0.4,
            cost_is_estimate: true,
        },
    ]
}

#[tokio::test]
async fn each_decision_is_told_with_its_reason() {
    let door = Door::open().await;
    let [start, ended] = one_run();
    let why = "the limit of this day (UTC) is $50.00";
    let events = [
        opened(),
        laid(),
        Event::Forecast(forecast()),
        Event::ApprovalAsked,
        Event::PlanApproved,
        Event::Waits {
            on: Wait::Money(Scope::Day),
            why: why.into(),
            told: shared::issue::Telling::Said,
            enough: None,
            limit: Some(50_000_000),
        },
        Event::Resumed {
            on: Wait::Money(Scope::Day),
        },
        Event::Routed {
            task: task(),
            executor: ExecutorKind::Codegen,
            why: "builders build in the cloud".into(),
            instead_of: None,
        },
        start,
        ended,
        Event::Settled {
            task: task(),
            verdict: Settled::Failed,
            why: "it changed nothing".into(),
        },
        Event::Done {
            outcome: RoundOutcome::Failed,
        },
    ];
    door.write(&events).await;
    let (status, document) = door.get("/api/v1/issues/ENG-1/explain").await;
    assert_eq!(status, 200);
    let decisions = document["decisions"].as_array().expect("a list");
    let told: Vec<_> = decisions
        .iter()
        .map(|it| (it["about"].as_str(), it["decision"].as_str()))
        .collect();
    let about = |about, decision| (Some(about), Some(decision));
    assert_eq!(
        told,
        [
            about("issue", "one task"),
            about("issue", "forecast"),
            about("issue", "ask for approval"),
            about("issue", "begin"),
            about("issue", "wait"),
            about("issue", "go on"),
            about("task main", "codegen"),
            about("task main", "start"),
            about("task main", "book"),
            about("task main", "failed"),
            about("issue", "failed"),
        ]
    );
    let because = |at: usize| decisions[at]["because"].as_str().expect("a sentence");
    assert_eq!(because(4), why);
    assert_eq!(because(6), "builders build in the cloud");
    assert_eq!(
        because(7),
        "attempt 1: $0.40 are set aside for it, on the account of 2026-11-20 (UTC)"
    );
    for one in decisions {
        let keys: Vec<_> = one.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["about", "at", "because", "decision"]);
        assert!(!one["because"].as_str().unwrap_or_default().is_empty());
    }
}

#[tokio::test]
async fn the_forecast_that_was_made_stays_readable_beside_what_it_came_to() {
    let door = Door::open().await;
    door.write(&[opened(), laid(), Event::Forecast(forecast())])
        .await;
    let path = "/api/v1/issues/ENG-1/forecast";
    let mut expected = json!({
        "cost_usd": { "low": 0.4, "expected": 0.6, "high": 1.2 },
        "minutes": { "low": 10.0, "expected": 20.0, "high": 40.0 },
        "critical_path": ["main"],
        "actual": { "cost_usd": null, "minutes": null },
    });
    assert_eq!(door.get(path).await, (200, expected.clone()));
    door.write(&one_run()).await;
    assert_eq!(
        door.get(path).await.1,
        expected,
        "it is not known before the end"
    );
    door.write(&[
        Event::Settled {
            task: task(),
            verdict: Settled::Failed,
            why: "it changed nothing".into(),
        },
        Event::Done {
            outcome: RoundOutcome::Failed,
        },
    ])
    .await;
    expected["actual"]["cost_usd"] = json!(0.4);
    let (status, mut document) = door.get(path).await;
    // From the first start on, where that is known.
    document["actual"]["minutes"] = Value::Null;
    assert_eq!((status, document), (200, expected));
}

#[tokio::test]
async fn where_there_is_no_plan_there_is_no_forecast() {
    let door = Door::open().await;
    let path = "/api/v1/issues/ENG-1/forecast";
    assert_eq!(door.get(path).await.0, 404);
    door.write(&[opened()]).await;
    let why = "ENG-1 has no plan yet: there is nothing to forecast";
    assert_eq!(door.get(path).await, (409, json!({ "error": why })));
    let plan = Event::Laid {
        tasks: vec![spec("plan", TaskKind::Orchestrator)],
    };
    door.write(&[plan]).await;
    assert_eq!(door.get(path).await.0, 409);
}

#[tokio::test]
async fn a_plan_is_approved_where_that_was_asked_for() {
    let door = Door::open().await;
    let path = "/api/v1/issues/ENG-1/approve";
    assert_eq!(door.post(path, "").await.0, 404);
    door.write(&[opened(), laid()]).await;
    let (status, answer) = door.post(path, "").await;
    assert_eq!(status, 409);
    assert!(
        answer["error"]
            .as_str()
            .is_some_and(|it| it.contains("ENG-1"))
    );
    door.write(&[Event::Forecast(forecast()), Event::ApprovalAsked])
        .await;
    let (status, document) = door.post(path, "").await;
    assert_eq!((status, &document["identifier"]), (202, &json!("ENG-1")));
    assert!(door.events().await.contains(&Event::PlanApproved));
    assert_eq!(door.post(path, "").await.0, 409, "it was approved");
}

#[tokio::test]
async fn an_issue_is_cancelled_once_and_only_while_it_is_at_work() {
    let door = Door::open().await;
    let path = "/api/v1/issues/ENG-1/cancel";
    assert_eq!(door.post(path, "").await.0, 404);
    door.write(&[opened(), laid()]).await;
    for _ in 0..2 {
        assert_eq!(door.post(path, "").await.0, 202);
    }
    let asked = |it: &&Event| {
        let command = CancelReason::Command;
        matches!(it, Event::CancelAsked { why, .. } if *why == command)
    };
    let events = door.events().await;
    assert_eq!(events.iter().filter(asked).count(), 1);
    door.write(&[Event::Done {
        outcome: RoundOutcome::Cancelled,
    }])
    .await;
    let (status, answer) = door.post(path, "").await;
    assert_eq!(status, 409);
    assert!(
        answer["error"]
            .as_str()
            .is_some_and(|it| it.contains("ENG-1"))
    );
}

#[tokio::test]
async fn what_failed_is_retried_and_nothing_else() {
    let door = Door::open().await;
    let path = "/api/v1/issues/ENG-1/retry";
    assert_eq!(door.post(path, "").await.0, 404);
    door.write(&[opened(), laid()]).await;
    assert_eq!(door.post(path, "").await.0, 409, "nothing has failed");
    assert_eq!(door.post(path, r#"{"task":"x"}"#).await.0, 409);
    for wrong in ["{", r#"{"task":1}"#, r#"{"tasks":"main"}"#] {
        assert_eq!(door.post(path, wrong).await.0, 422, "{wrong}");
    }
    door.write(&[
        Event::Settled {
            task: task(),
            verdict: Settled::Failed,
            why: "it gave up".into(),
        },
        Event::Reported,
        Event::Done {
            outcome: RoundOutcome::Failed,
        },
    ])
    .await;
    let (status, document) = door.post(path, r#"{"task":"main"}"#).await;
    assert_eq!((status, &document["outcome"]), (202, &json!(null)));
    assert_eq!(document["tasks"][0]["state"], "todo");
    let renewed = Event::Renewed {
        tasks: vec![task()],
    };
    assert!(door.events().await.contains(&renewed));
    assert_eq!(door.post(path, "").await.0, 409, "it is being tried");
}

#[tokio::test]
async fn an_issue_shows_what_is_reserved_and_the_limit_of_now() {
    let door = Door::open().await;
    let [start, _] = one_run();
    door.write(&[opened(), laid(), start]).await;
    let money = |it: &Value| (it["reserved_usd"].clone(), it["limit_usd"].clone());
    let (_, issue) = door.get("/api/v1/issues/ENG-1").await;
    let (_, list) = door.get("/api/v1/issues").await;
    assert_eq!(money(&issue), (json!(0.4), json!(7.0)));
    assert_eq!(money(&list["issues"][0]), (json!(0.4), json!(7.0)));
    let set = door.put("/api/v1/config/limits.maxCostPerIssue", r#"{"value": 3}"#);
    assert_eq!(set.await.0, 200);
    let (_, issue) = door.get("/api/v1/issues/ENG-1").await;
    assert_eq!(money(&issue).1, json!(3.0));
    let scope = Scope::Issue;
    door.write(&[Event::Raised {
        scope,
        usd: 20.0,
        day: None,
    }])
    .await;
    let (_, issue) = door.get("/api/v1/issues/ENG-1").await;
    assert_eq!(money(&issue).1, json!(20.0), "a person raised it");
}
