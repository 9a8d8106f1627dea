//! The same story when processes are killed, records come twice, late or never,
//! and the services outside lose their replies.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use tokio::task::JoinSet;
use world::codegen::{Order, Part};
use world::dynamo::refusal;
use world::faults::Trouble;
use world::lambda::Function;
use world::stream::Weather;

use crate::cloud::{Cloud, Setting, TABLE, all, planned_issue, script, until};

/// Moments at which something is killed, in one story.
const KILLS: usize = 8;
const BETWEEN_KILLS_MS: std::ops::Range<u64> = 300..1_500;

/// The stream at its worst, but for what is lost.
const STORM: Weather = Weather {
    lost: 0,
    late: 300,
    twice: 700,
    at_once: 700,
    foreign: 1000,
};

#[tokio::test(flavor = "multi_thread")]
async fn records_late_twice_at_once_and_foreign_change_nothing() {
    let setting = Setting {
        weather: STORM,
        seed: 3,
        schedules: 2,
        ..Setting::default()
    };
    let cloud = Cloud::begin(setting, script).await;
    let (first, one) = cloud.hand_over(planned_issue()).await;
    let (second, two) = cloud.hand_over(planned_issue()).await;
    cloud.until_done(&first).await;
    cloud.until_done(&second).await;
    cloud.assert_once(&[&one, &two], 2).await;
    let told = cloud.pump().told();
    assert!(
        told.foreign > 0 && told.at_once + told.twice > 0,
        "there was trouble: {told:?}"
    );
    assert!(
        told.dead.is_empty(),
        "nothing stands in the way of anything: {told:?}"
    );
    let skipped = cloud.orchestrator.lines();
    assert!(
        skipped.iter().any(|it| it.contains("skipped a record")),
        "it says what it cannot read"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_finishes_and_does_nothing_twice() {
    let mut seeds = JoinSet::new();
    for seed in [11, 12] {
        seeds.spawn(killed(seed));
    }
    all(seeds).await;
}

async fn killed(seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let weather = Weather { lost: 200, ..STORM };
    let setting = Setting {
        weather,
        seed,
        schedules: 2,
        ..Setting::default()
    };
    let cloud = Cloud::begin(setting, script).await;
    cloud
        .stage
        .codegen_faults
        .next("create", Trouble::DropAfter);
    cloud.stage.github_faults.next("merge", Trouble::DropAfter);
    cloud
        .stage
        .linear_faults
        .next("AgentActivityCreate", Trouble::DropAfter);
    cloud
        .stage
        .linear_faults
        .next("IssueBrief", Trouble::DropBefore);
    for _ in 0..4 {
        cloud
            .proxy
            .faults()
            .next("TransactWriteItems", refusal("ThrottlingException"));
    }
    cloud
        .proxy
        .faults()
        .next("TransactWriteItems", Trouble::DropAfter);
    cloud
        .webhook
        .kill_next_after(Duration::from_millis(dice.u64(0..30)));
    let (identifier, session) = cloud.hand_over(planned_issue()).await;
    let mut killed = 0;
    for _ in 0..KILLS {
        // A little further each time, then the axe, wherever they stand just then.
        tokio::time::sleep(Duration::from_millis(dice.u64(BETWEEN_KILLS_MS))).await;
        let function = if dice.bool() {
            &cloud.orchestrator
        } else {
            &cloud.poller
        };
        function.kill_next_after(Duration::from_millis(dice.u64(0..250)));
        killed += function.kill_busy();
    }
    let planned = KILLS - cloud.orchestrator.kills_left() - cloud.poller.kills_left();
    cloud.until_done(&identifier).await;
    cloud.assert_once(&[&session], 1).await;
    assert!(killed + planned > 0, "somebody was killed");
    assert_eq!(
        cloud.stage.codegen_faults.left()
            + cloud.stage.github_faults.left()
            + cloud.stage.linear_faults.left(),
        0
    );
    assert_eq!(cloud.proxy.faults().left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_a_create_and_its_reply_it_finds_the_run() {
    // Who calls while the run is being created dies before it hears of it.
    let callers: Arc<Mutex<Vec<Function>>> = Arc::default();
    let (axe, struck) = (Arc::clone(&callers), Arc::new(Mutex::new(0)));
    let blow = Arc::clone(&struck);
    let deadly = move |order: &Order| -> Part {
        let mut struck = blow.lock().expect("one create at a time");
        if order.task() == "api" && *struck == 0 {
            for function in axe.lock().expect("set before").iter() {
                *struck += function.kill_busy();
            }
        }
        script(order)
    };
    let cloud = Cloud::build(Setting::default(), deadly).await;
    let mut cloud = cloud;
    callers
        .lock()
        .expect("nobody else")
        .extend([cloud.orchestrator.clone(), cloud.poller.clone()]);
    cloud.wake_up().await;
    let (identifier, session) = cloud.hand_over(planned_issue()).await;
    cloud.until_done(&identifier).await;
    assert!(
        *struck.lock().expect("all is over") > 0,
        "somebody was killed"
    );
    cloud.assert_once(&[&session], 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_with_a_torn_head_is_parked_and_the_others_finish() {
    let mut cloud = Cloud::build(Setting::default(), script).await;
    let (torn, _) = cloud.hand_over(planned_issue()).await;
    let id = cloud
        .stage
        .linear()
        .issue(&torn)
        .expect("the issue")
        .id
        .clone();
    // Somebody's hand in the table: the head says what no event does.
    let table = cloud.table();
    let text = |it: &str| AttributeValue::S(it.to_owned());
    let key =
        |item: aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder| {
            item.table_name(TABLE)
                .key("pk", text(&format!("issue#{id}")))
                .key("sk", text("head"))
        };
    let tear = key(table.update_item())
        .update_expression("SET seq = :seq")
        .expression_attribute_values(":seq", AttributeValue::N("99".into()));
    tear.send().await.expect("torn");
    cloud.wake_up().await;
    let (whole, session) = cloud.hand_over(planned_issue()).await;
    cloud.until_done(&whole).await;
    cloud.assert_once(&[&session], 1).await;
    let parked = || async {
        let (_, list) = cloud.get("/api/v1/issues").await;
        let issues = list["issues"].as_array().cloned().unwrap_or_default();
        let torn = issues
            .into_iter()
            .find(|it| it["identifier"] == torn.as_str());
        torn.and_then(|it| it["waiting_for"].as_str().map(str::to_owned))
    };
    let why = until("it says what it waits for", parked).await;
    assert!(why.contains("cyrus repair"), "{why}");
    // Nobody takes it up any more, and nothing of it lies in anybody's way.
    assert!(cloud.pump().told().dead.is_empty());
    let lines = cloud.orchestrator.lines();
    assert!(
        lines
            .iter()
            .chain(&cloud.poller.lines())
            .any(|it| it.contains("parked"))
    );
    // Its head is made again from the log, and it goes its way.
    let repaired = cloud.cyrus(&["repair", &torn]);
    assert!(
        repaired.status.success(),
        "{}",
        String::from_utf8_lossy(&repaired.stderr)
    );
    let done = |it: &Value| it["phase"] == "done";
    cloud.until(&torn, done).await;
}
