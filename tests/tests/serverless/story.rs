//! From a signed webhook to merged changes, through three functions.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use world::stream::Weather;

use crate::cloud::{Cloud, Setting, TASKS, planned_issue, script, until};

fn json_of(output: &std::process::Output) -> Value {
    let told = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {told}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_goes_from_a_webhook_to_merged_changes() {
    let cloud = Cloud::begin(Setting::default(), script).await;
    let (identifier, session) = cloud.hand_over(planned_issue()).await;
    let issue = cloud.until_done(&identifier).await;
    for task in TASKS {
        let tasks = issue["tasks"].as_array().expect("tasks");
        let task = tasks.iter().find(|it| it["id"] == task).expect("the task");
        assert_eq!(
            (&task["state"], &task["executor"], &task["cost_usd"]),
            (&json!("merged"), &json!("codegen"), &json!(0.4))
        );
    }
    cloud.assert_once(&[&session], 1).await;
    let merges = cloud.stage.github.lock().merges();
    let tests = issue["tasks"]
        .as_array()
        .and_then(|it| it.last())
        .expect("a task");
    let last = merges.last().expect("a merge").number;
    assert!(
        tests["pr_url"]
            .as_str()
            .is_some_and(|it| it.ends_with(&format!("/{last}"))),
        "what depends on others is merged last"
    );
    // While the functions are there, the command works on the same table.
    let shown = json_of(&cloud.cyrus(&["show", &identifier, "--json"]));
    assert_eq!(shown, issue);
    let listed = json_of(&cloud.cyrus(&["issues", "--json"]));
    assert_eq!(listed["issues"][0]["tasks_done"], 5);
    // Nothing waits any more: nothing is written, and no look costs more than to ask.
    let writes = cloud.proxy.calls("TransactWriteItems");
    let looks = cloud.poller.invoked();
    until("the poller has looked again", || async {
        (cloud.poller.invoked() > looks + 2).then_some(())
    })
    .await;
    assert_eq!(cloud.proxy.calls("TransactWriteItems"), writes);
    let told = cloud.pump().told();
    assert!(
        told.dead.is_empty() && told.passed > 0 && told.passed < told.read,
        "{told:?}"
    );
    // All that is printed is a line of JSON: a log line or metrics.
    for function in [&cloud.webhook, &cloud.orchestrator, &cloud.poller] {
        for line in function.lines() {
            assert!(
                serde_json::from_str::<Value>(&line).is_ok_and(|it| it.is_object()),
                "{line}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_stream_the_poller_makes_it_good() {
    let weather = Weather {
        lost: 1000,
        ..Weather::default()
    };
    let cloud = Cloud::begin(
        Setting {
            weather,
            ..Setting::default()
        },
        script,
    )
    .await;
    let (identifier, session) = cloud.hand_over(planned_issue()).await;
    cloud.until_done(&identifier).await;
    cloud.assert_once(&[&session], 1).await;
    assert_eq!(cloud.orchestrator.invoked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_service_on_one_machine_takes_the_table_over() {
    let mut cloud = Cloud::begin(Setting::default(), script).await;
    let (identifier, session) = cloud.hand_over(planned_issue()).await;
    // Once its plan is there, the functions are put to sleep for good.
    cloud
        .until(&identifier, |it| {
            it["tasks"].as_array().is_some_and(|it| it.len() > 1)
        })
        .await;
    cloud.sleep().await;
    let mut service = tokio::process::Command::from(cloud.cyrus_command());
    service
        .arg("start")
        .env("CYRUS_LISTEN", "127.0.0.1:0")
        .env("CYRUS_POLL_SECONDS", "0.5")
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut service = service.spawn().expect("the binary starts");
    let mut lines = BufReader::new(service.stderr.take().expect("piped")).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            eprintln!("{line}");
        }
    });
    cloud.until_done(&identifier).await;
    cloud.assert_once(&[&session], 1).await;
    assert!(
        service.try_wait().expect("it can be asked").is_none(),
        "it goes on"
    );
}
