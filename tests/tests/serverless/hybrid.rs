//! Some of the work in the cloud, some on a machine elsewhere, which takes its
//! jobs from the function that hears, and tells it how they ended.

use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use world::lambda::Function;

use crate::cloud::{Cloud, Setting, all, planned_issue, script};
use crate::machine::{Machine, task};

/// The next time when the function that hears has kept how a job ended, it is
/// killed before it could tell anybody. Counts how many processes were.
fn kill_behind_a_result(cloud: &Cloud) -> Arc<Mutex<usize>> {
    let killed = Arc::default();
    let (webhook, count): (Function, Arc<Mutex<usize>>) =
        (cloud.webhook.clone(), Arc::clone(&killed));
    // The first thing that is deleted is a job that has ended.
    cloud.proxy.meanwhile("DeleteItem", 0, async move {
        *count.lock().expect("one kill") += webhook.kill_busy();
    });
    killed
}

fn executor(issue: &Value, task: &str) -> String {
    let tasks = issue["tasks"].as_array().expect("tasks");
    let task = tasks.iter().find(|it| it["id"] == task).expect("the task");
    task["executor"].as_str().unwrap_or_default().to_owned()
}

fn state(issue: &Value, task: &str) -> String {
    let mut tasks = issue["tasks"].as_array().into_iter().flatten();
    let found = tasks.find(|it| it["id"] == task);
    let state = found.and_then(|it| it["state"].as_str());
    state.unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn some_work_in_the_cloud_and_some_on_a_machine_elsewhere() {
    // Both mostly wait for a runner that asks now and then.
    let mut stories = JoinSet::new();
    stories.spawn(to_merged_changes());
    stories.spawn(by_the_runners_word_alone());
    stories.spawn(pushed_by_the_functions());
    all(stories).await;
}

/// Thinking stays on the machine, building goes to the cloud; the runner is
/// killed once with an agent at work, and the function that hears once.
async fn to_merged_changes() {
    let setting = Setting {
        strategy: "hybrid-parallel",
        seed: 5,
        ..Setting::default()
    };
    let cloud = Cloud::begin(setting, script).await;
    let tasks = [
        task("survey", "scoper", "low", &[]),
        task("api", "builder", "high", &["survey"]),
        task("page", "builder", "low", &[]),
        task("handbook", "builder", "low", &[]),
        task("tests", "builder", "medium", &["api", "page"]),
        task("farewell", "scoper", "low", &["tests"]),
    ];
    let plan = json!({ "summary": "First a survey.", "tasks": tasks });
    let mut machine = Machine::new(&cloud, &plan);
    let killed = kill_behind_a_result(&cloud);
    machine.start();
    let (identifier, session) = cloud.hand_over(planned_issue()).await;
    machine.until_begun("survey").await;
    cloud
        .until(&identifier, |it| state(it, "survey") == "running")
        .await;
    machine.kill().await;
    machine.go();
    machine.start();
    let issue = cloud.until_done(&identifier).await;
    for (task, by) in [
        ("plan", "local"),
        ("survey", "local"),
        ("api", "codegen"),
        ("page", "codegen"),
        ("handbook", "codegen"),
        ("tests", "codegen"),
        ("farewell", "local"),
    ] {
        assert_eq!(executor(&issue, task), by, "{task}");
    }
    assert!(*killed.lock().expect("all is over") > 0);
    cloud.assert_once(&[&session], 1).await;
    machine.until_free().await;
    assert_eq!(machine.begun(), ["plan", "survey", "farewell"]);
    assert!(cloud.pump().told().dead.is_empty());
}

/// Nobody looks by himself: what a runner says at the door wakes the function
/// that acts, also when the first who heard it was killed before passing it on.
async fn by_the_runners_word_alone() {
    let setting = Setting {
        strategy: "hybrid-smart",
        schedules: 0,
        seed: 6,
        ..Setting::default()
    };
    let mut cloud = Cloud::begin(setting, script).await;
    let tasks = [
        task("survey", "scoper", "low", &[]),
        task("door", "builder", "low", &["survey"]),
    ];
    let plan = json!({ "summary": "A survey, then a door.", "tasks": tasks });
    let mut machine = Machine::new(&cloud, &plan);
    machine.go();
    let killed = kill_behind_a_result(&cloud);
    machine.start();
    let (identifier, session) = cloud.hand_over(planned_issue()).await;
    let issue = cloud
        .until(&identifier, |it| {
            let tasks = it["tasks"].as_array().into_iter().flatten();
            tasks.into_iter().any(|it| it["pr_url"].is_string())
        })
        .await;
    assert_eq!(cloud.poller.invoked(), 0);
    assert!(*killed.lock().expect("it is over") > 0);
    let told = machine.log();
    assert!(
        told.contains("cannot report the end"),
        "it had to say it twice: {told}"
    );
    assert_eq!(executor(&issue, "door"), "local");
    // GitHub tells nobody by itself here, so that somebody has to look at its checks.
    cloud.schedule();
    cloud.until_done(&identifier).await;
    cloud.assert_last_word(&session);
    machine.until_free().await;
    assert_eq!(machine.begun(), ["plan", "survey", "door"]);
    assert_eq!(cloud.merged_file("door.txt").as_deref(), Some("done\n"));
    let github = cloud.stage.github.lock();
    github
        .check()
        .expect("one merge, of the commit that was judged");
    assert_eq!(github.merges().len(), 1);
    assert_eq!(cloud.stage.codegen.lock().runs().len(), 0);
}

/// A runner with an address asks for nothing: the function that acts pushes what
/// it starts, and what there was no slot for is pushed when a slot is free.
async fn pushed_by_the_functions() {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
    let address = address.expect("an address").to_string();
    let setting = Setting {
        strategy: "local-only",
        seed: 7,
        runner: Some(format!("http://{address}")),
        ..Setting::default()
    };
    let cloud = Cloud::begin(setting, script).await;
    let tasks = ["survey", "chart", "sounding", "log"].map(|it| task(it, "scoper", "low", &[]));
    let plan = json!({ "summary": "Four surveys.", "tasks": tasks });
    let mut machine = Machine::new(&cloud, &plan);
    machine.listen(&address);
    machine.go();
    machine.start();
    let (identifier, session) = cloud.hand_over(planned_issue()).await;
    let issue = cloud.until_done(&identifier).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    cloud.assert_last_word(&session);
    machine.until_free().await;
    let mut begun = machine.begun();
    begun.sort();
    assert_eq!(begun, ["chart", "log", "plan", "sounding", "survey"]);
    assert!(!machine.log().contains("asks"), "{}", machine.log());
    assert!(cloud.pump().told().dead.is_empty());
}
