//! What stands around the functions in these tests behaves as Lambda does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::{Value, json};
use world::dynamo::{Emulator, create_table};
use world::lambda::{Failed, Function, Spec};
use world::stream::{Filter, Mapping, Pump, Told, Weather};

use crate::cloud::{TABLE, until};
use crate::template::mapping;

fn scripted(timeout: Duration, variables: &[(&str, &str)]) -> Function {
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Function::new(Spec {
        name: "scripted".into(),
        program: PathBuf::from(env!("CARGO_BIN_EXE_scripted_function")),
        variables: variables.collect::<BTreeMap<_, _>>(),
        timeout,
        environments_max: 2,
    })
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_function_is_started_once_kept_warm_and_frozen_in_between() {
    let function = scripted(MINUTE, &[]);
    let first = function
        .invoke(&json!({ "do": "context" }))
        .await
        .expect("an answer");
    assert_eq!(
        (&first["name"], &first["arn"]),
        (&json!("scripted"), &json!(function.arn()))
    );
    let now = jiff::Timestamp::now().as_millisecond();
    let left = first["deadline"].as_i64().expect("a deadline") - now;
    assert!((1..=60_000).contains(&left), "{left} ms are left");
    // It is frozen as soon as it has nothing to do, so it says nothing more.
    let said = || function.lines().len();
    let still = until("it says nothing", || async {
        let before = said();
        tokio::time::sleep(Duration::from_millis(200)).await;
        (said() == before).then_some(before)
    });
    still.await;
    let second = function
        .invoke(&json!({ "do": "context" }))
        .await
        .expect("an answer");
    assert_eq!(second["pid"], first["pid"], "the same process");
    assert_ne!(second["id"], first["id"]);
    assert_eq!((function.started(), function.invoked()), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_overlaps_gets_a_process_of_its_own_up_to_a_bound() {
    let function = scripted(MINUTE, &[]);
    let event = json!({ "do": "wait" });
    let (one, two, three) = tokio::join!(
        function.invoke(&event),
        function.invoke(&event),
        function.invoke(&event)
    );
    let answers = [one, two, three];
    let refused = answers
        .iter()
        .filter(|it| **it == Err(Failed::Throttled))
        .count();
    assert_eq!((refused, function.started()), (1, 2), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_sees_what_lambda_would_show() {
    let function = scripted(Duration::from_secs(3), &[]);
    let failed = |word: &'static str| {
        let function = function.clone();
        async move {
            function
                .invoke(&json!({ "do": word }))
                .await
                .expect_err("it fails")
        }
    };
    let error = failed("fail").await;
    assert!(error.to_string().ends_with("it was told to"), "{error}");
    assert_eq!(function.started(), 1);
    let error = failed("exit").await;
    assert_eq!(error.kind(), "Runtime.ExitError");
    assert!(error.to_string().contains("exit status: 7"), "{error}");
    let error = failed("hang").await;
    assert_eq!(error.kind(), "Sandbox.Timedout");
    assert!(
        error
            .to_string()
            .ends_with("Task timed out after 3.00 seconds"),
        "{error}"
    );
    assert_eq!(
        function.started(),
        2,
        "who failed in order goes on, who ended does not"
    );
    // Killed by the test: after a time, and at once.
    function.kill_next_after(Duration::from_millis(300));
    assert_eq!(failed("hang").await.kind(), "Runtime.ExitError");
    assert_eq!(function.kills_left(), 0);
    let (error, killed) = tokio::join!(
        failed("hang"),
        until("it is killed", || async {
            (function.kill_busy() > 0).then_some(())
        })
    );
    assert_eq!((error.kind(), killed), ("Runtime.ExitError", ()));
    assert!(error.to_string().contains("signal: 9"), "{error}");
    assert!(
        function.invoke(&json!({})).await.is_ok(),
        "a new process serves"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_cannot_start_fails_its_invocation() {
    let function = scripted(MINUTE, &[("REFUSE_TO_START", "1")]);
    let error = function.invoke(&json!({})).await.expect_err("it fails");
    assert_eq!(error.kind(), "Runtime.ExitError");
    // The text is read from a pipe, a moment later.
    until("the variable is named", || async {
        let lines = function.lines();
        lines
            .iter()
            .any(|it| it.contains("THE_VARIABLE is not set"))
            .then_some(())
    })
    .await;
}

#[test]
fn a_filter_passes_what_its_pattern_says() {
    let filter = mapping().filter;
    let record =
        |name: &str, image: Value| json!({ "eventName": name, "dynamodb": { "NewImage": image } });
    let act = json!({ "wake": { "S": "act" }, "pk": { "S": "issue#1" } });
    assert!(filter.passes(&record("INSERT", act.clone())));
    assert!(!filter.passes(&record("MODIFY", act.clone())));
    assert!(!filter.passes(&record("INSERT", json!({ "wake": { "S": "rest" } }))));
    assert!(!filter.passes(&record("INSERT", json!({ "wake": { "N": "1" } }))));
    assert!(!filter.passes(&record("INSERT", json!({}))));
    assert!(!filter.passes(&json!({ "eventName": "REMOVE", "dynamodb": { "Keys": act } })));
    let parsed = |pattern: &str| Filter::parse([pattern]);
    let prefix =
        parsed(r#"{"a":{"b":[{"prefix":"x"},7]},"c":[{"exists":false}]}"#).expect("a filter");
    assert!(
        prefix.passes(&json!({ "a": { "b": "xy" } })) && prefix.passes(&json!({ "a": { "b": 7 } }))
    );
    assert!(
        !prefix.passes(&json!({ "a": { "b": "yx" } }))
            && !prefix.passes(&json!({ "a": { "b": 7 }, "c": 1 }))
    );
    for wrong in [
        "[]",
        "{}x",
        r#"{"a":"b"}"#,
        r#"{"a":[]}"#,
        r#"{"a":[{"suffix":"b"}]}"#,
    ] {
        assert!(parsed(wrong).is_err(), "{wrong}");
    }
}

/// A table whose stream feeds the scripted function.
async fn pumped(
    items: &[(&str, &str)],
    timeout: Duration,
    weather: Weather,
) -> (Emulator, Function, Pump) {
    let emulator = Emulator::start().expect("an emulator");
    let client = emulator.client();
    create_table(&client, TABLE).await.expect("a table");
    for (at, (pk, word)) in items.iter().enumerate() {
        let text = |it: &str| AttributeValue::S(it.to_owned());
        let put = client
            .put_item()
            .table_name(TABLE)
            .item("pk", text(pk))
            .item("sk", text(&format!("{at:03}")))
            .item("wake", text("act"))
            .item("do", text(word));
        put.send().await.expect("written");
    }
    let function = scripted(timeout, &[]);
    let mapping = Mapping {
        lanes: 1,
        retries_max: 2,
        ..mapping()
    };
    let url = emulator.url();
    let pump = Pump::start(&url, TABLE, function.clone(), mapping, weather, 7);
    let pump = pump.await.expect("a stream");
    (emulator, function, pump)
}

/// The sort keys of the records, as often and in the order in which they came.
fn came(function: &Function) -> Vec<String> {
    let lines = function.lines();
    lines
        .iter()
        .filter_map(|it| it.strip_prefix("record "))
        .map(str::to_owned)
        .collect()
}

fn settled(told: &Told, records: usize) -> Option<Told> {
    let dead: usize = told.dead.iter().map(|it| it.records.len()).sum();
    (told.delivered + dead == records).then(|| told.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_found_by_halving_and_stands_in_nobodys_way() {
    let items = [
        ("a", "ok"),
        ("a", "ok"),
        ("a", "fail"),
        ("a", "ok"),
        ("a", "exit"),
        ("a", "ok"),
    ];
    let (_emulator, function, pump) = pumped(&items, MINUTE, Weather::default()).await;
    let told = until("all is settled", || async {
        settled(&pump.told(), items.len())
    })
    .await;
    let dead: Vec<_> = told
        .dead
        .iter()
        .map(|it| {
            (
                it.records[0]["dynamodb"]["Keys"]["sk"]["S"].clone(),
                it.invocations,
            )
        })
        .collect();
    assert_eq!(dead, [(json!("002"), 3), (json!("004"), 3)], "{told:?}");
    assert!(
        told.dead
            .iter()
            .all(|it| it.records.len() == 1 && it.condition == "RetryAttemptsExhausted")
    );
    let came = came(&function);
    for number in ["000", "001", "003", "005"] {
        assert!(came.iter().any(|it| it == number), "{number} in {came:?}");
    }
    let record = &told.dead[0].records[0];
    assert_eq!(
        (
            &record["eventSource"],
            &record["eventName"],
            &record["dynamodb"]["StreamViewType"]
        ),
        (
            &json!("aws:dynamodb"),
            &json!("INSERT"),
            &json!("NEW_IMAGE")
        ),
    );
    assert!(
        record["dynamodb"]["ApproximateCreationDateTime"].is_number()
            && record["eventSourceARN"].is_string()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reported_failure_is_tried_again_from_the_lowest_on() {
    let items = [("a", "ok"), ("a", "report"), ("a", "ok")];
    let (_emulator, function, pump) = pumped(&items, MINUTE, Weather::default()).await;
    let told = until("all is settled", || async {
        settled(&pump.told(), items.len())
    })
    .await;
    let came = came(&function);
    assert_eq!(
        came.iter().filter(|it| *it == "000").count(),
        1,
        "what was done is not done again: {came:?}"
    );
    // With what stands behind it, since a report says no more than where it begins.
    assert_eq!(came.iter().filter(|it| *it == "001").count(), 3);
    assert_eq!((told.dead.len(), told.retries), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_comes_by_seed() {
    let items: Vec<(&str, &str)> = (0..40).map(|at| (["a", "b", "c"][at % 3], "ok")).collect();
    let all = Weather {
        lost: 200,
        late: 200,
        twice: 300,
        at_once: 300,
        foreign: 300,
    };
    let (_emulator, function, pump) = pumped(&items, MINUTE, all).await;
    let told = until("all is settled", || async {
        let told = pump.told();
        (told.delivered >= told.passed - told.lost + told.foreign && told.passed == 40)
            .then_some(told)
    });
    let told = told.await;
    assert!(told.lost > 0 && told.foreign > 0, "{told:?}");
    assert_eq!((told.passed, told.dead.len()), (40, 0));
    assert!(came(&function).len() > told.foreign, "{told:?}");
}
