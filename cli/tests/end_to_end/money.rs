//! Limits that hold: what is begun, what waits, what people are asked, and what
//! happens when they answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::agents::{PLAN_USD, TASK_USD, large_issue, offered, waits, within_a_day};
use crate::far::{small_issue, until};
use crate::town::{GLANCE, Town, is_done, state};

/// The tasks of the fan-out, and for how many of them the day pays.
const TASKS: usize = 20;
const PAID: usize = 7;

fn dollars(document: &Value, key: &str) -> f64 {
    document[key].as_f64().expect("a figure")
}

/// Looks at the budget of the day again and again until told to stop; how often,
/// and the most of it that was ever spent or reserved.
async fn watch(http: reqwest::Client, url: String, stop: Arc<AtomicBool>) -> (usize, f64) {
    let (mut looks, mut most) = (0, 0.0_f64);
    while !stop.load(Ordering::Relaxed) {
        let answer = http.get(format!("{url}/api/v1/status")).send().await;
        let status: Value = answer.expect("an answer").json().await.expect("JSON");
        let budget = &status["budget"];
        let taken = dollars(budget, "spent_usd") + dollars(budget, "reserved_usd");
        assert!(taken <= dollars(budget, "day_usd") + 1e-9, "{budget}");
        (looks, most) = (looks + 1, most.max(taken));
        sleep(GLANCE).await;
    }
    (looks, most)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_out_begins_what_the_day_pays_for_and_the_rest_when_the_limit_is_raised() {
    within_a_day().await;
    let day = PLAN_USD + PAID as f64 * TASK_USD;
    let config = json!({
        "limits": { "maxCostPerTask": TASK_USD, "maxCostPerIssue": 100, "maxCostPerDay": day, "maxParallelTasks": TASKS },
        "runner": { "concurrency": TASKS },
        "planning": { "maxTasks": TASKS },
    });
    let mut town = Town::of_agents("local-only", config).await;
    let tasks: Vec<String> = (0..TASKS).map(|it| format!("room-{it}")).collect();
    town.plans(&tasks.iter().map(String::as_str).collect::<Vec<_>>());
    town.start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let watched = watch(town.http.clone(), town.url().to_owned(), Arc::clone(&stop));
    let watched = tokio::spawn(watched);

    let (identifier, session) = town.hand_over(large_issue()).await;
    until("all that is paid for begins", || town.begun().len() == PAID).await;
    let issue = town
        .until(&identifier, |it| waits(it, "has cost less than"))
        .await;
    assert_eq!(dollars(&issue, "reserved_usd"), PAID as f64 * TASK_USD);
    let budget = town.document(&["status"])["budget"].clone();
    let expected = json!({ "day_usd": day, "spent_usd": PLAN_USD, "reserved_usd": day - PLAN_USD });
    assert_eq!(budget, expected);
    // What runs may still cost less, so there is nothing to ask.
    assert_eq!(town.said(&session, "elicitation").len(), 0);

    town.go();
    let spent = |it: &Value| dollars(it, "spent_usd") >= day - 1e-9;
    let merged = |it: &Value| tasks.iter().filter(|id| state(it, id) == "merged").count();
    town.until(&identifier, |it| {
        spent(it) && merged(it) == PAID && waits(it, "raised")
    })
    .await;
    let shown = town.document(&["show", &identifier]);
    let limit = format!("the limit of this day (UTC) is ${day:.2}, $0.00 are left");
    for words in [&limit, "tomorrow at 00:00 UTC", "limits.maxCostPerDay"] {
        assert!(waits(&shown, words), "{words}: {shown:#}");
    }
    let asked = || town.said(&session, "elicitation");
    until("people are asked", || asked().len() == 1).await;
    assert!(asked()[0].body().contains(&limit), "{:?}", asked());
    assert_eq!(
        offered(&asked()[0]),
        ["raise day to $14.50", "wait", "cancel"]
    );
    let budget = town.document(&["status"])["budget"].clone();
    let expected = json!({ "day_usd": day, "spent_usd": day, "reserved_usd": 0.0 });
    assert_eq!(budget, expected);

    // Another issue comes to the same limit: so far the service has looked again.
    let (other, other_session) = town.hand_over(small_issue()).await;
    town.until(&other, |it| waits(it, &limit)).await;
    assert_eq!((town.begun().len(), asked().len()), (PAID, 1));
    assert_eq!(town.thoughts(&session, "100 % of"), 1);
    assert_eq!(town.thoughts(&other_session, "100 % of"), 0);

    // Raised by two runs, they begin, and people are asked anew.
    let more = day + 2.0 * TASK_USD;
    town.well(&["config", "set", "limits.maxCostPerDay", &more.to_string()]);
    let limit = format!("the limit of this day (UTC) is ${more:.2}, $0.00 are left");
    town.until(&identifier, |it| waits(it, &limit)).await;
    until("people are asked again", || asked().len() == 2).await;
    assert_eq!(town.begun().len(), PAID + 2);

    let enough = (PLAN_USD + (TASKS + 1) as f64 * TASK_USD).to_string();
    town.well(&["config", "set", "limits.maxCostPerDay", &enough]);
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(
        (merged(&issue), issue["waiting_for"].clone()),
        (TASKS, Value::Null)
    );
    let single = town.until(&other, is_done).await;
    assert_eq!(state(&single, "main"), "merged", "{single:#}");
    assert_eq!(town.begun().len(), TASKS + 1, "each was begun once");
    assert_eq!(town.stage.github.lock().merges().len(), TASKS + 1);
    let budget = town.document(&["status"])["budget"].clone();
    assert_eq!(budget["spent_usd"].to_string(), enough);
    assert_eq!(budget["reserved_usd"], 0.0);
    stop.store(true, Ordering::Relaxed);
    let (looks, most) = watched.await.expect("never over the limit");
    assert!(looks > 10 && most >= more, "{looks} looks, at most {most}");
    let (_, report) = town.last_word(&session);
    assert!(report.contains("Spent: $20.25."), "{report}");
    town.assert_once(&session);
    town.assert_once(&other_session);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_in_linear_raises_the_limit_of_an_issue() {
    let issue_max = PLAN_USD + 2.0 * TASK_USD;
    let config = json!({
        "limits": { "maxCostPerTask": TASK_USD, "maxCostPerIssue": issue_max },
        "runner": { "concurrency": 5 },
    });
    let mut town = Town::of_agents("local-only", config).await;
    town.plans(&["a", "b", "c", "d", "e"]);
    town.start().await;
    town.go();
    let (identifier, session) = town.hand_over(large_issue()).await;
    let limit = format!("the limit of {identifier} is ${issue_max:.2}, $0.00 are left");
    let issue = town.until(&identifier, |it| waits(it, &limit)).await;
    assert_eq!(issue["limit_usd"], issue_max);
    let asked = || town.said(&session, "elicitation");
    until("people are asked", || asked().len() == 1).await;
    assert_eq!(
        offered(&asked()[0]),
        ["raise issue to $4.50", "wait", "cancel"]
    );

    // What raises nothing changes nothing.
    town.pick(&session, "wait").await;
    until("it says so", || {
        town.thoughts(&session, "I go on waiting") == 1
    })
    .await;
    town.answer(&session, "raise it").await;
    until("it asks for the figure", || asked().len() == 2).await;
    assert!(asked()[1].body().contains("to how much"), "{:?}", asked());
    let issue = town.until(&identifier, |it| waits(it, &limit)).await;
    assert_eq!(
        (issue["limit_usd"].clone(), town.begun().len()),
        (json!(issue_max), 2)
    );

    // Enough for one more: it asks again, for the new limit.
    town.answer(&session, "raise to $3.50").await;
    town.until(&identifier, |it| waits(it, "is $3.50, $0.25 are left"))
        .await;
    until("people are asked again", || asked().len() == 3).await;
    assert_eq!(town.begun().len(), 3);
    town.pick(&session, "raise issue to $7.00").await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(issue["spent_usd"], PLAN_USD + 5.0 * TASK_USD);
    assert_eq!((issue["limit_usd"].clone(), asked().len()), (json!(7.0), 3));
    // It holds for this issue alone.
    let set = town.document(&["config", "get", "limits.maxCostPerIssue"]);
    assert_eq!(set["values"][0]["value"], issue_max);
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_a_fan_out_to_the_cloud_opens_no_limit() {
    within_a_day().await;
    // Fewer than it takes in a minute.
    let tasks: Vec<String> = (0..9).map(|it| format!("room-{it}")).collect();
    let price = 0.5;
    let day = PLAN_USD + PAID as f64 * price;
    let config = json!({ "limits": { "maxCostPerDay": day } });
    let mut town = Town::of_agents("hybrid-parallel", config).await;
    town.plans(&tasks.iter().map(String::as_str).collect::<Vec<_>>());
    town.start().await;
    town.well(&["config", "set", "codegen.costPerRun", &price.to_string()]);
    let (identifier, session) = town.hand_over(large_issue()).await;
    let runs = || town.stage.codegen.lock().runs().len();
    until("all that is paid for begins", || runs() == PAID).await;
    town.kill().await;
    town.start().await;
    let merged = |it: &Value| tasks.iter().filter(|id| state(it, id) == "merged").count();
    let limit = format!("the limit of this day (UTC) is ${day:.2}, $0.00 are left");
    let issue = town
        .until(&identifier, |it| merged(it) == PAID && waits(it, &limit))
        .await;
    assert_eq!(issue["reserved_usd"], 0.0, "{issue:#}");
    let budget = town.document(&["status"])["budget"].clone();
    let expected = json!({ "day_usd": day, "spent_usd": day, "reserved_usd": 0.0 });
    assert_eq!(budget, expected);
    let runs = || town.stage.codegen.lock().runs().len();
    let asked = || town.said(&session, "elicitation").len();
    until("people are asked", || asked() == 1).await;
    assert_eq!(runs(), PAID);

    town.well(&["config", "set", "limits.maxCostPerDay", "10"]);
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(
        (merged(&issue), runs(), asked()),
        (tasks.len(), tasks.len(), 1)
    );
    let (_, bill) = town.last_word(&session);
    assert!(bill.contains("$0.50 (estimate) |"), "{bill}");
    assert!(bill.contains("Spent: $4.75."), "{bill}");
    town.assert_once(&session);
}
