//! What people let begin: forecasts and approvals, and the kill switch.

use serde_json::{Value, json};

use crate::agents::{PLAN_USD, TASK_USD, large_issue, offered, task, waits};
use crate::far::{small_issue, until};
use crate::town::{Town, is_done, state};

fn awaits(issue: &Value) -> bool {
    issue["phase"] == "awaiting"
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_waits_for_approval_is_changed_and_outlives_a_kill() {
    let config = json!({ "planning": { "approval": "over:0.5" } });
    let mut town = Town::of_agents("local-only", config).await;
    town.plans(&["floor", "walls", "roof"]);
    town.go();
    town.start().await;
    let (identifier, session) = town.hand_over(large_issue()).await;
    let issue = town.until(&identifier, awaits).await;
    assert!(issue["waiting_for"].is_string(), "{issue:#}");
    let asked = || town.said(&session, "elicitation");
    until("people are asked", || asked().len() == 1).await;
    assert!(asked()[0].body().contains("3 tasks"), "{:?}", asked());
    assert_eq!(offered(&asked()[0]), ["approve", "change", "cancel"]);
    let first = town.document(&["forecast", &identifier]);
    let expected = first["cost_usd"]["expected"].as_f64().expect("a figure");
    assert!(expected > 0.5, "{first:#}");
    let said = format!("about ${expected:.2}");
    assert!(asked()[0].body().contains(&said), "{said} {:?}", asked());

    town.kill().await;
    town.start().await;
    let issue = town.until(&identifier, awaits).await;
    assert_eq!(
        (state(&issue, "plan").as_str(), town.begun().len()),
        ("succeeded", 0)
    );
    assert_eq!(town.document(&["forecast", &identifier]), first);

    // Free text changes the plan.
    town.plans(&["floor", "roof"]);
    town.answer(&session, "Leave the walls away.").await;
    let asked = || town.said(&session, "elicitation");
    until("people are asked again", || asked().len() == 2).await;
    assert!(asked()[1].body().contains("2 tasks"), "{:?}", asked());
    let told = town.prompt_of("plan");
    assert!(told.contains("Leave the walls away."), "{told}");
    let issue = town.until(&identifier, awaits).await;
    assert_eq!(
        (state(&issue, "walls").as_str(), town.begun().len()),
        ("", 0)
    );
    let second = town.document(&["forecast", &identifier]);
    assert!(second["cost_usd"]["expected"].as_f64() < Some(expected));

    town.well(&["approve", &identifier]);
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(issue["spent_usd"], 2.0 * PLAN_USD + 2.0 * TASK_USD);
    assert_eq!(asked().len(), 2);
    let (code, said) = town.command(&["approve", &identifier]);
    assert!(code != Some(0) && said.contains("no plan of"), "{said}");

    // The forecast stands beside what came of it.
    let after = town.document(&["forecast", &identifier]);
    assert_eq!(after["cost_usd"], second["cost_usd"]);
    assert_eq!(after["actual"]["cost_usd"], 2.0 * TASK_USD);
    assert!(after["actual"]["minutes"].is_number(), "{after:#}");
    let stats = town.document(&["stats"]);
    assert_eq!(stats["forecasts"], 1);
    let off = second["cost_usd"]["expected"].as_f64().expect("a figure");
    let off = (off - 2.0 * TASK_USD).abs() / (2.0 * TASK_USD);
    let error = stats["forecast_error"].as_f64().expect("a figure");
    assert!(
        (error - off).abs() < 0.01,
        "{error} is not {off}: {stats:#}"
    );
    town.assert_once(&session);

    // And never asks nothing.
    town.plans(&["garden"]);
    town.well(&["config", "set", "planning.approval", "never"]);
    let (identifier, session) = town.hand_over(large_issue()).await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(town.said(&session, "elicitation").len(), 0);
    assert!(town.document(&["forecast", &identifier])["cost_usd"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_linear_approves_or_cancels() {
    let config = json!({ "planning": { "approval": "always" } });
    let mut town = Town::of_agents("local-only", config).await;
    town.go();
    town.start().await;
    let (kept, session) = town.hand_over(small_issue()).await;
    let (dropped, other) = town.hand_over(small_issue()).await;
    for (identifier, session) in [(&kept, &session), (&dropped, &other)] {
        town.until(identifier, awaits).await;
        until("people are asked", || {
            town.said(session, "elicitation").len() == 1
        })
        .await;
    }
    town.pick(&session, "approve").await;
    let issue = town.until(&kept, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    town.pick(&other, "cancel").await;
    let issue = town.until(&dropped, is_done).await;
    assert_eq!(issue["outcome"], "cancelled", "{issue:#}");
    assert_eq!(
        (town.begun().len(), town.stage.github.lock().merges().len()),
        (1, 1)
    );
    for session in [session, other] {
        assert_eq!(town.said(&session, "elicitation").len(), 1);
        town.assert_once(&session);
    }
}

/// Two tasks at a time, of four; no failure is forgiven.
async fn four_tasks() -> Town {
    let limits = json!({ "maxParallelTasks": 2, "maxAttempts": 1 });
    let config = json!({ "limits": limits, "runner": { "concurrency": 2 } });
    let town = Town::of_agents("local-only", config).await;
    town.plans(&["a", "b", "c", "d"]);
    town
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_begins_nothing_and_lets_what_runs_be_merged() {
    let mut town = four_tasks().await;
    town.start().await;
    let (identifier, session) = town.hand_over(large_issue()).await;
    until("two begin", || town.begun().len() == 2).await;
    let begun = town.begun();
    town.until(&identifier, |it| {
        begun.iter().all(|id| state(it, id) == "running")
    })
    .await;
    assert_eq!(town.document(&["pause"])["paused"], true);
    assert_eq!(town.document(&["status"])["paused"], true);
    town.go();
    let merged = |it: &Value| {
        let tasks = ["a", "b", "c", "d"];
        tasks.iter().filter(|id| state(it, id) == "merged").count()
    };
    let paused = |it: &Value| merged(it) == 2 && waits(it, "cyrus resume");
    town.until(&identifier, paused).await;
    // Another issue is taken in, and does not begin, either.
    let (other, other_session) = town.hand_over(small_issue()).await;
    town.until(&other, |it| waits(it, "cyrus resume")).await;
    assert_eq!(town.begun().len(), 2);
    assert_eq!(town.thoughts(&session, "paused all new work"), 1);

    assert_eq!(town.document(&["resume"])["paused"], false);
    assert_eq!(town.document(&["status"])["paused"], false);
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(town.until(&other, is_done).await["outcome"], "succeeded");
    assert_eq!(town.begun().len(), 5, "each was begun once");
    town.assert_once(&session);
    town.assert_once(&other_session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_what_runs_and_it_is_begun_again_as_the_same_attempt() {
    let mut town = four_tasks().await;
    town.start().await;
    let (identifier, session) = town.hand_over(large_issue()).await;
    until("two begin", || town.begun().len() == 2).await;
    let interrupted = town.begun();
    town.until(&identifier, |it| {
        interrupted.iter().all(|id| state(it, id) == "running")
    })
    .await;
    town.well(&["pause", "--stop-runs"]);
    let issue = town
        .until(&identifier, |it| {
            interrupted.iter().all(|id| state(it, id) == "todo") && waits(it, "cyrus resume")
        })
        .await;
    assert_eq!(issue["reserved_usd"], 0.0, "{issue:#}");
    let status = town.document(&["status"]);
    assert_eq!(status["pause"]["stop_runs"], true);
    assert_eq!(status["executors"][0]["running"], 0, "{status:#}");
    for job in town.jobs() {
        assert!(job.join("leg-1/exit.json").exists(), "its agent is gone");
    }
    town.go();
    town.well(&["resume"]);
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(town.begun().len(), 6, "{:?}", town.begun());
    for id in ["a", "b", "c", "d"] {
        let runs = town.begun().iter().filter(|it| *it == id).count();
        assert_eq!(
            runs,
            if interrupted.iter().any(|it| it == id) {
                2
            } else {
                1
            }
        );
        assert_eq!(task(&issue, id)["error"], Value::Null, "{issue:#}");
        // What was stopped is no failure, and takes no attempt away.
        assert_eq!(town.thoughts(&session, "try again"), 0);
    }
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_with_the_service_down_holds_when_it_starts() {
    let mut town = four_tasks().await;
    town.go();
    // There is a store, and nobody holds it.
    town.start().await;
    assert!(town.terminate().await, "it ends well as soon as it listens");
    let paused = town.cyrus(&["pause", "--json"]);
    assert!(paused.status.success(), "{paused:?}");
    town.start().await;
    assert_eq!(town.document(&["status"])["paused"], true);
    let (identifier, session) = town.hand_over(large_issue()).await;
    town.until(&identifier, |it| waits(it, "cyrus resume"))
        .await;
    // Over a restart, too, and then by the store alone.
    assert!(town.terminate().await);
    let status = town.cyrus(&["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("a document");
    assert_eq!(
        (&status["paused"], &status["issues_in_flight"]),
        (&json!(true), &json!(1))
    );
    town.start().await;
    let (other, _) = town.hand_over(small_issue()).await;
    town.until(&other, |it| waits(it, "cyrus resume")).await;
    assert_eq!(town.jobs().len(), 0, "no agent, not even for the plan");
    assert!(town.terminate().await);
    let resumed = town.cyrus(&["resume"]);
    assert!(resumed.status.success(), "{resumed:?}");
    town.start().await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(town.until(&other, is_done).await["outcome"], "succeeded");
    assert_eq!(town.thoughts(&session, "paused all new work"), 1);
    town.assert_once(&session);
}
