//! What failed is tried again by command, and nothing else.

use serde_json::{Value, json};

use crate::agents::{PLAN_USD, TASK_USD, large_issue};
use crate::town::{Town, is_done};

fn states(issue: &Value) -> Vec<(String, String)> {
    let tasks = issue["tasks"].as_array().into_iter().flatten();
    let word = |task: &Value, key: &str| task[key].as_str().unwrap_or_default().to_owned();
    tasks
        .map(|it| (word(it, "id"), word(it, "state")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_is_retried_and_the_issue_finishes() {
    // Fresh attempts are no fresh money.
    let config = json!({
        "limits": { "maxAttempts": 1, "maxCostPerTask": 3.0 * TASK_USD },
        "runner": { "concurrency": 2 },
    });
    let mut town = Town::of_agents("local-only", config).await;
    town.plans(&["a", "b"]);
    town.breaks("a", true);
    town.go();
    town.start().await;
    let (identifier, session) = town.hand_over(large_issue()).await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "failed", "{issue:#}");
    let expected = [("plan", "succeeded"), ("a", "failed"), ("b", "merged")];
    assert_eq!(
        states(&issue),
        expected.map(|(id, state)| (id.into(), state.into()))
    );
    assert_eq!(town.said(&session, "error").len(), 1);

    let (code, said) = town.command(&["retry", &identifier, "b"]);
    assert_eq!(
        (code, said.contains("neither failed")),
        (Some(1), true),
        "{said}"
    );
    town.breaks("a", false);
    let taken_up = town.document(&["retry", &identifier, "a"]);
    assert_eq!(taken_up["identifier"], identifier.as_str());
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    let expected = [("plan", "succeeded"), ("a", "merged"), ("b", "merged")];
    assert_eq!(
        states(&issue),
        expected.map(|(id, state)| (id.into(), state.into()))
    );
    assert_eq!(issue["spent_usd"], PLAN_USD + 3.0 * TASK_USD);
    assert_eq!(town.begun(), ["a", "b", "a"]);
    // One last word a round.
    assert_eq!(town.said(&session, "error").len(), 1);
    assert_eq!(town.said(&session, "response").len(), 1);
    let (code, said) = town.command(&["retry", &identifier]);
    assert_eq!(
        (code, said.contains("nothing of")),
        (Some(1), true),
        "{said}"
    );
}
