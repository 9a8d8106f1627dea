//! What people decide by command, through the service and over a bare store.

use std::process::Output;

use serde_json::{Value, json};

use super::cloud;
use super::town::{Town, is_done, planned_issue};

fn document(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// It failed with a sentence in which this stands.
fn refused(output: &Output, part: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(part), "{text}");
}

fn waits_for(part: &'static str) -> impl Fn(&Value) -> bool {
    move |issue| {
        let waiting = issue["waiting_for"].as_str();
        waiting.is_some_and(|it| it.contains(part))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_issue_waits_is_forecast_and_approved_and_tells_why() {
    let mut town = Town::new("hybrid-parallel", "auto", cloud).await;
    let set = town.cyrus(&["config", "set", "planning.approval", "always"]);
    assert_eq!(set.status.code(), Some(0));
    // Over the bare store, before anything runs.
    let paused = json!({ "paused": true, "pause": { "stop_runs": false, "merges": true } });
    assert_eq!(
        document(&town.cyrus(&["pause", "--merges", "--json"])),
        paused
    );
    town.start().await;
    town.variables
        .insert("CYRUS_URL".into(), town.url().to_owned());
    let (identifier, session) = town.hand_over(planned_issue()).await;
    town.until(&identifier, waits_for("paused")).await;
    let status = document(&town.cyrus(&["status", "--json"]));
    assert_eq!(
        (&status["paused"], &status["pause"]),
        (&json!(true), &paused["pause"])
    );
    refused(&town.cyrus(&["forecast", &identifier]), "no plan yet");
    refused(&town.cyrus(&["approve", &identifier]), &identifier);

    // Through the service.
    let resumed = document(&town.cyrus(&["resume", "--json"]));
    assert_eq!(resumed, json!({ "paused": false, "pause": null }));
    let awaits = |issue: &Value| issue["phase"] == "awaiting";
    town.until(&identifier, awaits).await;
    let forecast = document(&town.cyrus(&["forecast", &identifier, "--json"]));
    assert!(forecast["cost_usd"]["expected"].as_f64() > Some(0.0));
    let nothing_yet = json!({ "cost_usd": null, "minutes": null });
    assert_eq!(forecast["actual"], nothing_yet);

    // Over the bare store again; the service takes it up when it is back.
    town.variables.remove("CYRUS_URL");
    assert!(town.terminate().await, "it ends well when asked to");
    let again = document(&town.cyrus(&["--json", "forecast", &identifier]));
    assert_eq!(again, forecast, "the forecast that was made stays");
    let approved = document(&town.cyrus(&["approve", &identifier, "--json"]));
    assert_eq!(approved["identifier"], json!(identifier));
    refused(&town.cyrus(&["approve", &identifier]), &identifier);
    town.start().await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(issue["reserved_usd"], 0.0);
    town.assert_once(&session);

    town.variables
        .insert("CYRUS_URL".into(), town.url().to_owned());
    refused(&town.cyrus(&["cancel", &identifier]), &identifier);
    let forecast = document(&town.cyrus(&["forecast", &identifier, "--json"]));
    assert_eq!(forecast["actual"]["cost_usd"], json!(1.6));
    let explained = document(&town.cyrus(&["explain", &identifier, "--json"]));
    let decisions = explained["decisions"].as_array().expect("a list");
    let first = |about: &str, decision: &str| {
        let is = |it: &&Value| it["about"] == about && it["decision"] == decision;
        decisions.iter().position(|it| is(&it))
    };
    let order = [
        first("issue", "wait"),
        first("issue", "go on"),
        first("issue", "accept the plan"),
        first("issue", "forecast"),
        first("issue", "ask for approval"),
        first("issue", "begin"),
        first("task api", "codegen"),
        first("task api", "start"),
        first("task api", "book"),
        first("task api", "allow the merge"),
        first("task api", "merge"),
        first("issue", "succeeded"),
    ];
    assert!(
        order.iter().all(Option::is_some) && order.is_sorted(),
        "{order:?}\n{explained:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_is_cancelled_by_command_and_starts_nothing_more() {
    let mut town = Town::new("hybrid-parallel", "auto", cloud).await;
    let set = town.cyrus(&["config", "set", "planning.approval", "always"]);
    assert_eq!(set.status.code(), Some(0));
    town.start().await;
    town.variables
        .insert("CYRUS_URL".into(), town.url().to_owned());
    let (identifier, session) = town.hand_over(planned_issue()).await;
    let awaits = |issue: &Value| issue["phase"] == "awaiting";
    town.until(&identifier, awaits).await;
    let cancelled = document(&town.cyrus(&["cancel", &identifier, "--json"]));
    assert_eq!(cancelled["identifier"], json!(identifier));
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "cancelled", "{issue:#}");
    let begun = issue["tasks"].as_array().into_iter().flatten();
    let begun = begun.filter(|it| it["attempt"] != 0).count();
    assert_eq!(begun, 1, "only the plan was made");
    town.assert_once(&session);
    refused(&town.cyrus(&["cancel", &identifier]), &identifier);
}
