//! The same story when records come twice, late, or are none of ours, and beside
//! an issue that cannot go on.

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;
use world::stream::{Mapping, Weather};

use crate::cloud::{Cloud, Setting, TABLE, planned_issue, script, until};
use crate::template::mapping;

/// The stream at its worst, but for what is lost.
pub(crate) const STORM: Weather = Weather {
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
    let lines = cloud.orchestrator.lines();
    for said in ["skipped a record", "\"RecordsSkipped\":"] {
        assert!(lines.iter().any(|it| it.contains(said)), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_always_fails_is_a_dead_letter_and_in_nobodys_way() {
    // All records go one way, so that each has to pass the one that fails.
    let mapping = Mapping {
        lanes: 1,
        ..mapping()
    };
    let setting = Setting {
        mapping,
        ..Setting::default()
    };
    let mut cloud = Cloud::build(setting, script).await;
    // An issue whose log a later version has written.
    let text = |it: &str| AttributeValue::S(it.to_owned());
    let one = || AttributeValue::N("1".into());
    let put = cloud.table().put_item().table_name(TABLE);
    let put = put
        .item("pk", text("issue#of-another-version"))
        .item("sk", text("log#00000000000000000001"))
        .item("wake", text("act"))
        .item("at", text("2026-01-01T00:00:00Z"))
        .item("n", one())
        .item("parts", one())
        .item("events", text(r#"[{"Dreamt":{"of":"electric sheep"}}]"#));
    put.send().await.expect("written");
    let (identifier, session) = cloud.hand_over(planned_issue()).await;
    cloud.wake_up().await;
    cloud.until_done(&identifier).await;
    cloud.assert_once(&[&session], 1).await;
    let told = cloud.pump().told();
    assert_eq!(told.dead.len(), 1, "{told:?}");
    let letter = &told.dead[0];
    let keys = &letter.records[0]["dynamodb"]["Keys"];
    assert_eq!(keys["pk"]["S"], "issue#of-another-version");
    assert_eq!(
        letter.invocations as usize,
        told.retries + 1,
        "nothing else was tried again"
    );
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
