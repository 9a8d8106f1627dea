//! What comes in at the door: the same request as two kinds of payload, with
//! its body encoded or not, and exactly the bytes that were sent.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use world::dynamo::refusal;
use world::faults::Trouble;
use world::lambda::{Door, payload};
use world::linear::sign;
use world::stage::WEBHOOK_SECRET;

use crate::cloud::{Cloud, Setting, planned_issue, script, until};

const MIB: usize = 1024 * 1024;
/// Enough that the dice of the door have fallen both ways.
const TIMES: usize = 8;

/// A webhook of no interest, signed over bytes that do not survive a careless reader.
fn odd_body() -> Vec<u8> {
    let at = Timestamp::now().as_millisecond();
    format!("{{ \"type\": \"Reaction\",\t\"action\":\"created\", \"webhookTimestamp\": {at}, \"data\": \"Grüße – 🔑 \\u00e9\" }}\r\n\n").into_bytes()
}

fn signed(body: &[u8]) -> Vec<(&'static str, String)> {
    vec![
        ("linear-signature", sign(WEBHOOK_SECRET, body)),
        ("content-type", "application/json; charset=utf-8".into()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn both_doors_hand_on_exactly_the_bytes_that_came() {
    for door in [Door::FunctionUrl, Door::HttpApi] {
        let cloud = Cloud::build(
            Setting {
                door,
                ..Setting::default()
            },
            script,
        )
        .await;
        for _ in 0..TIMES {
            let body = odd_body();
            let mut other = body.clone();
            other.pop();
            assert_eq!(
                cloud
                    .post("/linear-webhook", body.clone(), &signed(&body))
                    .await,
                200
            );
            assert_eq!(
                cloud.post("/linear-webhook", other, &signed(&body)).await,
                401,
                "one byte less"
            );
        }
        assert_eq!(cloud.post("/linear-webhook", odd_body(), &[]).await, 401);
        let no_json = b"no json \xff".to_vec();
        assert_eq!(
            cloud
                .post("/linear-webhook", no_json.clone(), &signed(&no_json))
                .await,
            400
        );
        for (size, status) in [(MIB, 400), (MIB + 1, 413)] {
            let body = vec![b' '; size];
            assert_eq!(
                cloud.post("/webhook", body.clone(), &signed(&body)).await,
                status,
                "{size}"
            );
        }
        // The rest of the router is behind it too.
        assert_eq!(cloud.get("/api/v1/issues").await.1["issues"], json!([]));
        assert_eq!(cloud.get("/api/v1/issues/ENG-999").await.0, 404);
        let open = cloud
            .http
            .get(format!("{}/api/v1/issues", cloud.url()))
            .send();
        assert_eq!(open.await.expect("an answer").status(), 401);
        assert_eq!(cloud.webhook.started(), 1, "one warm process did all of it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_the_same_encoded_or_plain() {
    let cloud = Cloud::build(Setting::default(), script).await;
    for (door, encoded) in [
        (Door::FunctionUrl, true),
        (Door::FunctionUrl, false),
        (Door::HttpApi, true),
        (Door::HttpApi, false),
    ] {
        let body = odd_body();
        let mut headers = axum::http::HeaderMap::new();
        headers.insert(
            "linear-signature",
            sign(WEBHOOK_SECRET, &body).parse().expect("a value"),
        );
        let uri = "/linear-webhook?from=linear".parse().expect("a path");
        let event = payload(door, "POST", &uri, &headers, &body, encoded);
        assert_eq!(event["isBase64Encoded"], encoded);
        let answer: Value = cloud.webhook.invoke(&event).await.expect("an answer");
        assert_eq!(answer["statusCode"], 200, "{door:?} {encoded}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_table_does_not_take_is_not_acknowledged() {
    let setting = Setting {
        webhook_timeout: Duration::from_secs(2),
        ..Setting::default()
    };
    let cloud = Cloud::build(setting, script).await;
    let (identifier, session, deliveries) =
        cloud.stage.hand_over(planned_issue()).expect("an issue");
    let delivery = deliveries.last().expect("the session's");
    let headers = delivery.headers(WEBHOOK_SECRET);
    let post = || cloud.post("/linear-webhook", delivery.body.clone(), &headers);
    // It is there before the first trouble, as on a usual day.
    assert_eq!(cloud.get("/healthz").await.0, 200);
    // A refusal that no repetition cures.
    cloud
        .proxy
        .faults()
        .next("TransactWriteItems", refusal("AccessDeniedException"));
    assert_eq!(post().await, 503);
    // A table that does not answer in time: the function ends at its timeout.
    cloud.proxy.meanwhile(
        "TransactWriteItems",
        0,
        tokio::time::sleep(Duration::from_secs(10)),
    );
    assert_eq!(post().await, 502);
    // A little throttling, and an answer that is lost, nobody hears of.
    cloud
        .proxy
        .faults()
        .next("TransactWriteItems", refusal("ThrottlingException"));
    cloud
        .proxy
        .faults()
        .next("TransactWriteItems", Trouble::DropAfter);
    assert_eq!(post().await, 200);
    let log = cloud
        .get(&format!("/api/v1/issues/{identifier}/log"))
        .await
        .1;
    let opened = log["events"]
        .as_array()
        .expect("a log")
        .iter()
        .filter(|it| it["event"] == "Opened")
        .count();
    assert_eq!(opened, 1, "{log:#}");
    assert_eq!((cloud.proxy.faults().left(), post().await), (0, 200));
    assert_eq!(
        log,
        cloud
            .get(&format!("/api/v1/issues/{identifier}/log"))
            .await
            .1,
        "{session}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named_at_the_start() {
    let cloud = Cloud::build(Setting::default(), script).await;
    let mut cases = vec![("webhook", "LINEAR_WEBHOOK_SECRET", None)];
    for name in ["webhook", "orchestrator", "poller"] {
        // A store that only one machine could have is none here.
        cases.extend([None, Some("sqlite:/tmp/cyrus.db")].map(|it| (name, "CYRUS_STORE", it)));
    }
    for name in ["orchestrator", "poller"] {
        cases.extend(["GITHUB_TOKEN", "LINEAR_API_TOKEN"].map(|it| (name, it, None)));
    }
    for (name, variable, value) in cases {
        let function = cloud.with(name, variable, value);
        // What the event holds is never looked at.
        let error = function.invoke(&json!({})).await.expect_err("it fails");
        assert_eq!(error.kind(), "Runtime.ExitError", "{name} {variable}");
        let named = || async {
            let lines = function.lines();
            lines.iter().any(|it| it.contains(variable)).then_some(())
        };
        until(&format!("{name} names {variable}"), named).await;
    }
}
