//! What the client makes of a Linear that is down, busy or confused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use shared::issue::{Activity, FailureClass, Fault, LEASE_SECONDS};
use shared::ports::Tracker;
use uuid::Uuid;
use world::faults::Trouble;
use world::linear::RateLimit;
use world::serve::Server;

use crate::{Scene, TOKEN, client_of, given, noon};

const ID: Uuid = Uuid::from_u128(0x0011_2233_4455_4677_8899_aabb_ccdd_eeff);
const SAY: &str = "AgentActivityCreate";

impl Scene {
    async fn say(&self, text: &str) -> Result<(), Fault> {
        self.client
            .say(
                ID,
                &self.session.as_str().into(),
                &Activity::Thought(text.into()),
            )
            .await
    }

    /// Says something while Linear answers with this status and body.
    async fn say_against(&self, status: u16, body: impl Into<String>) -> Result<(), Fault> {
        self.faults.next(
            SAY,
            Trouble::Status {
                status,
                body: body.into(),
                retry_after: None,
            },
        );
        let said = self.say("Hello").await;
        assert_eq!(self.faults.left(), 0, "the call met its trouble");
        said
    }
}

fn refusal(message: &str, extensions: serde_json::Value) -> String {
    json!({ "errors": [{ "message": message, "extensions": extensions }], "data": null })
        .to_string()
}

fn permanent(class: FailureClass, told: &str) -> Result<(), Fault> {
    Err(Fault::Permanent {
        class,
        why: format!("Linear refused `{SAY}`: {told}"),
    })
}

fn transient(fault: &Result<(), Fault>) -> bool {
    matches!(fault, Err(Fault::Transient { .. }))
}

#[tokio::test]
async fn a_lost_reply_and_its_repeat_are_one_activity() {
    for trouble in Trouble::lost_replies() {
        let scene = Scene::new().await;
        scene.faults.next(SAY, trouble.clone());
        let said = scene.say("Hello").await;
        assert!(transient(&said), "{trouble:?}: {said:?}");
        assert_eq!(scene.say("Hello").await, Ok(()), "{trouble:?}");
        assert_eq!(scene.said().len(), 1, "{trouble:?}");
        assert_eq!(scene.linear().refused_duplicates(), 1, "{trouble:?}");
    }
}

#[tokio::test]
async fn what_may_be_gone_next_time_is_transient() {
    let scene = Scene::new().await;
    for trouble in [Trouble::DropBefore, Trouble::Garbage] {
        scene.faults.next(SAY, trouble.clone());
        let said = scene.say("Hello").await;
        assert!(transient(&said), "{trouble:?}: {said:?}");
    }
    let internal = refusal("Oops", json!({ "type": "internal error", "code": "X" }));
    let locked = refusal("Try again", json!({ "type": "lock timeout" }));
    for (status, body) in [
        (500, ""),
        (502, "<html>"),
        (503, internal.as_str()),
        (200, internal.as_str()),
        (200, locked.as_str()),
        (400, locked.as_str()),
        (200, ""),
        (200, "[]"),
        (302, ""),
        (200, r#"{"data":{"agentActivityCreate":{"success":false}}}"#),
    ] {
        let said = scene.say_against(status, body).await;
        assert!(transient(&said), "{status} {body}: {said:?}");
    }
    assert_eq!(scene.said(), []);
}

#[tokio::test]
async fn nobody_listening_is_transient() {
    let scene = Scene::new().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    let server = Server::start(axum::Router::new())
        .await
        .expect("a port on loopback");
    let mut gone = server;
    gone.address = address;
    let client = client_of(&gone, given(TOKEN));
    let fault = client
        .read(&scene.issue.as_str().into())
        .await
        .expect_err("nobody is there");
    assert!(matches!(fault, Fault::Transient { .. }), "{fault:?}");
}

#[tokio::test]
async fn an_answer_that_never_comes_is_not_waited_for_longer_than_a_claim_holds() {
    let first = Arc::new(AtomicBool::new(true));
    let router = axum::Router::new().fallback(move || {
        let first = first.swap(false, Ordering::SeqCst);
        async move {
            if !first {
                std::future::pending::<()>().await;
            }
            let viewer = json!({ "id": "i", "name": "n" });
            json!({ "data": { "viewer": viewer, "organization": { "name": "o" } } }).to_string()
        }
    });
    let server = Server::start(router).await.expect("a port on loopback");
    let client = client_of(&server, given(TOKEN));
    client.viewer().await.expect("the first answer comes");
    // From here on the connection stands, and time runs as soon as all wait.
    tokio::time::pause();
    let asked = tokio::time::Instant::now();
    let why = "Linear did not answer `Viewer` within 20 s".into();
    assert_eq!(client.viewer().await, Err(Fault::Transient { why }));
    assert!(asked.elapsed().as_secs() < LEASE_SECONDS.unsigned_abs());
}

#[tokio::test]
async fn what_is_wrong_stays_wrong() {
    let scene = Scene::new().await;
    let table = [
        (
            200,
            json!({ "type": "invalid input", "code": "INPUT_ERROR" }),
            FailureClass::Invalid,
        ),
        (
            400,
            json!({ "code": "GRAPHQL_VALIDATION_FAILED" }),
            FailureClass::Invalid,
        ),
        (200, json!({ "type": "forbidden" }), FailureClass::Auth),
        (
            200,
            json!({ "type": "usage limit exceeded" }),
            FailureClass::Quota,
        ),
        (
            200,
            json!({ "type": "a kind that is new" }),
            FailureClass::Invalid,
        ),
        (200, json!(null), FailureClass::Invalid),
        (401, json!({}), FailureClass::Auth),
        (
            200,
            json!({ "code": "AUTHENTICATION_ERROR" }),
            FailureClass::Auth,
        ),
        (
            400,
            json!({ "type": "authentication error" }),
            FailureClass::Auth,
        ),
    ];
    for (status, extensions, class) in table {
        let said = scene
            .say_against(status, refusal("No", extensions.clone()))
            .await;
        assert_eq!(said, permanent(class, "No"), "{status} {extensions}");
    }
}

#[tokio::test]
async fn a_conflict_over_another_id_is_no_success() {
    let scene = Scene::new().await;
    let shown = "Entity AgentActivity with id 12345678-aaaa-4aaa-8aaa-aaaaaaaaaaaa already exists.";
    let extensions = json!({ "type": "invalid input", "userPresentableMessage": shown });
    let said = scene.say_against(
        200,
        refusal("conflict on insert of AgentActivity", extensions),
    );
    let expected = permanent(FailureClass::Invalid, "conflict on insert of AgentActivity");
    assert_eq!(said.await, expected);
}

#[tokio::test]
async fn a_limit_is_busy_under_each_status_and_each_name() {
    let scene = Scene::new().await;
    for status in [200, 400, 429] {
        scene.linear().limit_next(RateLimit {
            status,
            headers: Vec::new(),
        });
        let why = format!("Linear refused `{SAY}`: Rate limit exceeded");
        let expected = Err(Fault::Busy {
            why,
            retry_after_seconds: None,
        });
        assert_eq!(scene.say("Hello").await, expected, "{status}");
        for extensions in [
            json!({ "code": "RATELIMITED" }),
            json!({ "type": "ratelimited" }),
        ] {
            let said = scene
                .say_against(status, refusal("Slow down", extensions.clone()))
                .await;
            assert!(
                matches!(said, Err(Fault::Busy { .. })),
                "{status} {extensions}: {said:?}"
            );
        }
    }
    let said = scene.say_against(429, "slow down").await;
    assert!(matches!(said, Err(Fault::Busy { .. })), "{said:?}");
    assert_eq!(scene.say("Hello").await, Ok(()), "and later it works");
}

#[tokio::test]
async fn linear_tells_when_to_come_again() {
    let after = |seconds: i64| {
        let at: Timestamp = noon() + SignedDuration::from_secs(seconds);
        at.as_millisecond().to_string()
    };
    let requests = |remaining: &str, seconds| {
        vec![
            ("x-ratelimit-requests-remaining", remaining.to_owned()),
            ("x-ratelimit-requests-reset", after(seconds)),
        ]
    };
    let complexity = |remaining: &str, seconds| {
        vec![
            ("x-ratelimit-complexity-remaining", remaining.to_owned()),
            ("x-ratelimit-complexity-reset", after(seconds)),
        ]
    };
    let table = [
        (vec![("retry-after", "7".to_owned())], Some(7)),
        (
            [vec![("retry-after", "7".to_owned())], requests("0", 90)].concat(),
            Some(7),
        ),
        (requests("0", 90), Some(90)),
        // Only the budget that is used up has to fill again.
        (
            [requests("12", 5), complexity("0", 200)].concat(),
            Some(200),
        ),
        (
            [requests("0", 90), complexity("0", 200)].concat(),
            Some(200),
        ),
        (
            [requests("12", 50), complexity("7", 200)].concat(),
            Some(50),
        ),
        (
            vec![("x-ratelimit-endpoint-requests-reset", after(3))],
            Some(3),
        ),
        // Over already, or beyond reason.
        (requests("0", -5), Some(1)),
        (requests("0", 86_400), Some(3600)),
        (vec![("retry-after", "soon".to_owned())], None),
        (
            vec![(
                "x-ratelimit-requests-reset",
                "99999999999999999999".to_owned(),
            )],
            None,
        ),
        (Vec::new(), None),
    ];
    let scene = Scene::new().await;
    for (headers, expected) in table {
        scene.linear().limit_next(RateLimit {
            status: 400,
            headers: headers.clone(),
        });
        match scene.say("Hello").await {
            Err(Fault::Busy {
                retry_after_seconds,
                ..
            }) => {
                assert_eq!(retry_after_seconds, expected, "{headers:?}");
            }
            other => panic!("{headers:?}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_answer_without_an_end_is_not_read_to_its_end() {
    let scene = Scene::new().await;
    let said = scene.say_against(200, " ".repeat(5 * 1024 * 1024)).await;
    assert!(
        matches!(
            said,
            Err(Fault::Permanent {
                class: FailureClass::Invalid,
                ..
            })
        ),
        "{said:?}"
    );
}

#[tokio::test]
async fn data_of_another_shape_is_a_fault_and_no_panic() {
    let scene = Scene::new().await;
    for body in [
        "{}",
        r#"{"data":null}"#,
        r#"{"data":{}}"#,
        r#"{"data":{"agentActivityCreate":null}}"#,
        r#"{"data":[1,2]}"#,
    ] {
        let said = scene.say_against(200, body).await;
        let invalid = matches!(
            said,
            Err(Fault::Permanent {
                class: FailureClass::Invalid,
                ..
            })
        );
        assert!(invalid, "{body}: {said:?}");
    }
}

#[tokio::test]
async fn unknown_fields_are_passed_over() {
    let scene = Scene::new().await;
    let body = json!({
        "data": { "agentActivityCreate": { "success": true, "new": [1] }, "more": {} },
        "extensions": { "cost": 3 },
        "errors": null,
    });
    assert_eq!(scene.say_against(200, body.to_string()).await, Ok(()));
}

#[tokio::test]
async fn a_token_that_linear_repeats_is_blotted_out() {
    let scene = Scene::new().await;
    let message = format!("the token {TOKEN} is odd");
    let said = scene
        .say_against(400, refusal(&message, json!({ "type": "user error" })))
        .await;
    assert_eq!(
        said,
        permanent(FailureClass::Invalid, "the token *** is odd")
    );
}
