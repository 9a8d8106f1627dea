//! An executor that takes nothing: where its tasks go, who is told, and what the
//! bill says.

use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use world::codegen::{Order, Part};
use world::faults::{Faults, Trouble};

use crate::agents::{task, waits};
use crate::cloud;
use crate::far::{small_issue, until};
use crate::town::{Town, is_done, planned_issue, state};

/// More creates than are tried.
const REFUSALS: usize = 20;
const QUOTA: &str = "Alloted agent runs for the current billing plan have been reached";

fn no_more_runs() -> Trouble {
    Trouble::Status {
        status: 402,
        body: format!("{{\"detail\":\"{QUOTA}\"}}"),
        retry_after: None,
    }
}

/// How Codegen stands.
fn cloud_of(status: &Value) -> &Value {
    let executors = status["executors"].as_array().expect("executors");
    let codegen = executors.iter().find(|it| it["name"] == "codegen");
    codegen.expect("Codegen is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_an_issue_the_cloud_is_used_up_and_the_rest_is_done_here() {
    let faults: Arc<OnceLock<Faults>> = Arc::default();
    let known = Arc::clone(&faults);
    // The first run is the last that is paid for.
    let script = move |order: &Order| -> Part {
        let faults = known.get().expect("it is known by now");
        if faults.left() == 0 {
            (0..REFUSALS).for_each(|_| faults.next("create", no_more_runs()));
        }
        cloud(order)
    };
    let mut town = Town::new("hybrid-parallel", "auto", script).await;
    let mut config = town.stage.config("hybrid-parallel", "auto");
    // One create after the other.
    config["limits"] = json!({ "maxParallelTasks": 1 });
    town.stage.configure(&config).expect("a configuration");
    faults.set(town.stage.codegen_faults.clone()).expect("once");
    town.start().await;
    let (identifier, session) = town.hand_over(planned_issue()).await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    let ids = ["api", "page", "handbook", "tests"];
    let (far, here): (Vec<&str>, Vec<&str>) = ids
        .iter()
        .partition(|id| task(&issue, id)["executor"] == "codegen");
    assert_eq!((far.len(), here.len()), (1, 3), "{issue:#}");
    assert_eq!(town.stage.codegen.lock().runs().len(), 1);
    for id in ids {
        assert_eq!(
            (state(&issue, id).as_str(), &task(&issue, id)["attempt"]),
            ("merged", &1.into())
        );
    }

    // One sentence in Linear; one for each decision for who asks why.
    assert_eq!(town.thoughts(&session, "it goes to the team's machine"), 1);
    let explained = town.document(&["explain", &identifier]);
    let decisions = explained["decisions"].as_array().expect("decisions");
    for id in here {
        let moved = decisions.iter().any(|it| {
            it["about"] == format!("task {id}")
                && it["decision"] == "local"
                && it["because"]
                    .as_str()
                    .is_some_and(|why| why.contains("takes nothing now"))
        });
        assert!(moved, "{id}: {explained:#}");
        let why = task(&issue, id)["why"].as_str().expect("a sentence");
        assert!(why.contains("it goes to the team's machine"), "{why}");
    }
    let status = town.document(&["status"]);
    let codegen = cloud_of(&status);
    assert_eq!(codegen["healthy"], false);
    let why = codegen["why"].as_str().expect("a sentence");
    assert!(why.contains(QUOTA), "{why}");

    // The bill: every task with its place, its runs and its cost.
    let (kind, bill) = town.last_word(&session);
    assert_eq!(kind, "response");
    let mut sum = 0.0;
    for id in ["plan", "api", "page", "handbook", "tests"] {
        let it = task(&issue, id);
        let cost = it["cost_usd"].as_f64().expect("a figure");
        let (place, mark) = match it["executor"].as_str() {
            Some("codegen") => ("Codegen", " (estimate)"),
            _ => ("the team's machine", ""),
        };
        let cells = format!("| {place} | 1 | ${cost:.2}{mark} |");
        let row = bill
            .lines()
            .find(|row| row.starts_with(&format!("| `{id}`")));
        assert!(
            row.is_some_and(|row| row.ends_with(&cells)),
            "{cells}\n{bill}"
        );
        sum += cost;
    }
    assert!(
        bill.contains(&format!("Spent: ${sum:.2}.")),
        "{sum}\n{bill}"
    );
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_cloud_only_an_issue_waits_until_the_cloud_is_well_again() {
    let mut town = Town::new("cloud-only", "auto", cloud).await;
    town.stage.codegen.lock().exhausted = true;
    town.start().await;
    let (identifier, session) = town.hand_over(small_issue()).await;
    let issue = town
        .until(&identifier, |it| waits(it, "the cloud takes nothing now"))
        .await;
    for words in [
        QUOTA,
        "because cloud-only does not let it go to the team's machine",
    ] {
        assert!(waits(&issue, words), "{words}: {issue:#}");
    }
    until("people are told", || {
        town.thoughts(&session, "I wait: ") == 1
    })
    .await;
    town.stage.codegen.lock().exhausted = false;
    // It is left alone for half a minute, then probed.
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(task(&issue, "main")["attempt"], 1);
    assert_eq!(town.thoughts(&session, "I wait: "), 1);
    let status = town.document(&["status"]);
    assert_eq!(cloud_of(&status)["healthy"], true, "{status:#}");
    assert_eq!(
        (town.jobs().len(), town.stage.codegen.lock().runs().len()),
        (0, 1)
    );
    town.assert_once(&session);
}
