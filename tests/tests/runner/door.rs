//! The routes, over loopback.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use secrecy::SecretString;
use serde_json::{Value, json};
use shared::issue::IssueId;
use shared::ports::Clock as _;
use shared::runner::Gate;
use shared::runner::entry::BODY_BYTES_MAX;
use shared::runner::routes::router;
use shared::runner::signature::{SIGNATURE, Signed, TIMESTAMP, sign};
use world::serve::Server;

use crate::stage::{LEASE, Stage, result};

const TOKEN: &str = "the token of the runners";
/// Nothing that is waited for takes longer.
const LONG: Duration = Duration::from_secs(60);

struct Door {
    stage: Stage,
    server: Server,
    looked: Arc<Mutex<Vec<IssueId>>>,
    http: reqwest::Client,
}

impl Door {
    async fn open(wait_max: Duration) -> Self {
        let stage = Stage::memory();
        let looked: Arc<Mutex<Vec<IssueId>>> = Arc::default();
        let seen = Arc::clone(&looked);
        let gate = Gate {
            runners: Arc::clone(&stage.queue),
            token: SecretString::from(TOKEN),
            public_url: None,
            look: Box::new(move |issue| {
                seen.lock().expect("no poison").push(issue);
                Box::pin(std::future::ready(()))
            }),
            wait_max,
        };
        let server = Server::start(router(Arc::new(gate)))
            .await
            .expect("a server");
        Self {
            stage,
            server,
            looked,
            http: reqwest::Client::new(),
        }
    }

    /// A request signed like this; its status and what was answered.
    async fn send(&self, path: &str, body: Vec<u8>, headers: &[(&str, String)]) -> (u16, Value) {
        let mut request = self
            .http
            .post(format!("{}{path}", self.server.url()))
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = request.send().await.expect("an answer");
        (
            answer.status().as_u16(),
            answer.json().await.unwrap_or_default(),
        )
    }

    fn signed(&self, path: &str, body: &[u8]) -> Vec<(&'static str, String)> {
        let at = self.stage.clock.now().as_second();
        let token = SecretString::from(TOKEN);
        let request = Signed {
            method: "POST",
            path,
            body,
        };
        vec![
            (TIMESTAMP, at.to_string()),
            (SIGNATURE, sign(&token, at, request)),
        ]
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let body = body.to_string().into_bytes();
        let headers = self.signed(path, &body);
        self.send(path, body, &headers).await
    }

    fn looks(&self) -> usize {
        self.looked.lock().expect("no poison").len()
    }
}

fn ask(wait_seconds: u64) -> Value {
    json!({ "runner": "mac-1", "slots_free": 1, "repositories": ["app"], "agents": ["claude"],
            "wait_seconds": wait_seconds })
}

#[tokio::test]
async fn a_job_comes_and_goes_as_the_contract_says() {
    let door = Door::open(Duration::ZERO).await;
    assert_eq!(
        door.post("/runner/v1/lease", &ask(20)).await,
        (204, Value::Null)
    );
    door.stage.start("k1").await;
    let (status, leased) = door.post("/runner/v1/lease", &ask(0)).await;
    assert_eq!(status, 200);
    let job = &leased["jobs"][0];
    let keys = |value: &Value| -> Vec<String> {
        value
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect()
    };
    for key in [
        "job",
        "fence",
        "lease_until",
        "callback",
        "issue",
        "task",
        "repository",
        "base_branch",
        "branch",
        "agent",
        "limits",
    ] {
        assert!(job.get(key).is_some(), "no `{key}` in {job}");
    }
    assert_eq!(keys(&job["issue"]), ["id", "identifier", "title", "url"]);
    assert_eq!(
        keys(&job["task"]),
        ["answer_schema", "id", "kind", "prompt", "title"]
    );
    assert_eq!(job["limits"], json!({ "cost_usd": 1.0, "seconds": 7200 }));
    assert_eq!(job["agent"]["program"], "claude");
    // It is known from the request where we are.
    let job_url = format!("{}/runner/v1/jobs/k1", door.server.url());
    assert_eq!(job["callback"], job_url);
    assert_eq!(
        (&job["task"]["kind"], &job["fence"]),
        (&json!("builder"), &json!(1))
    );

    let beat =
        json!({ "runner": "mac-1", "fence": 1, "cost_usd": 0.12, "note": "…", "session": "s" });
    let (status, heard) = door.post("/runner/v1/jobs/k1/heartbeat", &beat).await;
    assert_eq!(
        (status, &heard["action"], &heard["message"]),
        (200, &json!("continue"), &Value::Null)
    );
    assert!(heard["lease_until"].is_string());
    assert_eq!(door.looks(), 1, "it has begun");
    door.post("/runner/v1/jobs/k1/heartbeat", &beat).await;
    assert_eq!(door.looks(), 1, "that is no news");
    let stale = json!({ "runner": "mac-1", "fence": 2 });
    assert_eq!(
        door.post("/runner/v1/jobs/k1/heartbeat", &stale).await.0,
        409
    );
    assert_eq!(
        door.post("/runner/v1/jobs/k2/heartbeat", &beat).await.0,
        404
    );

    let good = serde_json::to_value(result("mac-1", 1)).expect("JSON");
    let bad = serde_json::to_value(result("mac-1", 2)).expect("JSON");
    assert_eq!(door.post("/runner/v1/jobs/k1/result", &bad).await.0, 409);
    assert_eq!(door.post("/runner/v1/jobs/k2/result", &good).await.0, 404);
    assert_eq!(door.looks(), 1);
    for _ in 0..2 {
        assert_eq!(door.post("/runner/v1/jobs/k1/result", &good).await.0, 200);
    }
    assert_eq!(
        door.looks(),
        3,
        "also when it is said again: the first may have crashed"
    );
    assert_eq!(
        door.post("/runner/v1/jobs/k1/heartbeat", &beat).await.0,
        409
    );
    assert_eq!(door.post("/runner/v1/jobs/k1/result", &bad).await.0, 409);
}

#[tokio::test]
async fn nobody_speaks_here_who_does_not_sign() {
    let door = Door::open(Duration::ZERO).await;
    door.stage.start("k1").await;
    let path = "/runner/v1/lease";
    let body = ask(0).to_string().into_bytes();
    let good = door.signed(path, &body);
    let with = |name: &str, value: &str| -> Vec<(&'static str, String)> {
        let value = value.to_owned();
        let swap = |(key, old)| {
            if key == name {
                (key, value.clone())
            } else {
                (key, old)
            }
        };
        good.clone().into_iter().map(swap).collect()
    };
    let other_path = door.signed("/runner/v1/jobs/k1/result", &body);
    let other_body = door.signed(path, b"{}");
    let cases = [
        (body.clone(), vec![]),
        (body.clone(), good[..1].to_vec()),
        (body.clone(), good[1..].to_vec()),
        (body.clone(), with(SIGNATURE, "v1=00")),
        (body.clone(), with(TIMESTAMP, "1")),
        (body.clone(), other_path),
        (body.clone(), other_body),
        // Not even what is no JSON is read before.
        (b"no json".to_vec(), good.clone()),
    ];
    for (at, (body, headers)) in cases.into_iter().enumerate() {
        assert_eq!(door.send(path, body, &headers).await.0, 401, "case {at}");
    }
    door.stage.clock.forward(301);
    assert_eq!(door.send(path, body.clone(), &good).await.0, 401, "too old");
    door.stage.clock.forward(-301);
    assert_eq!(door.send(path, body.clone(), &good).await.0, 200);
    // A replay takes no second job and no other's.
    assert_eq!(door.send(path, body, &good).await.0, 204);
    let get = door
        .http
        .get(format!("{}{path}", door.server.url()))
        .send()
        .await;
    assert_eq!(get.expect("an answer").status(), 405);
}

#[tokio::test]
async fn a_bad_request_gets_a_clear_no() {
    let door = Door::open(Duration::ZERO).await;
    let long =
        json!({ "runner": "x".repeat(200), "slots_free": 1, "repositories": [], "agents": [] });
    let nameless = json!({ "runner": "", "slots_free": 1, "repositories": [], "agents": [] });
    for body in [json!([]), json!({}), json!("text"), long, nameless] {
        let (status, said) = door.post("/runner/v1/lease", &body).await;
        assert_eq!(status, 400, "{body}");
        assert!(said["error"].is_string(), "{said}");
    }
    let path = "/runner/v1/jobs/k1/result";
    let body = b"no json".to_vec();
    let headers = door.signed(path, &body);
    assert_eq!(door.send(path, body, &headers).await.0, 400);
    let body = vec![b' '; BODY_BYTES_MAX + 1];
    let headers = door.signed(path, &body);
    assert_eq!(door.send(path, body, &headers).await.0, 413);
}

#[tokio::test]
async fn who_waits_gets_the_job_when_it_comes() {
    let door = Door::open(LONG).await;
    let ask = ask(60);
    let waits = door.post("/runner/v1/lease", &ask);
    let comes = async {
        // Wherever the other one stands just then: asked, or about to.
        tokio::task::yield_now().await;
        door.stage.start("k1").await;
    };
    let ((status, leased), ()) = tokio::time::timeout(LONG, async { tokio::join!(waits, comes) })
        .await
        .expect("not for ever");
    assert_eq!((status, &leased["jobs"][0]["job"]), (200, &json!("k1")));
    // A job that another copy of the service took in, or that lapses, is found as well.
    let waits = door.post("/runner/v1/lease", &ask);
    let lapses = async {
        tokio::task::yield_now().await;
        door.stage.clock.forward(LEASE);
    };
    let ((status, leased), ()) = tokio::time::timeout(LONG, async { tokio::join!(waits, lapses) })
        .await
        .expect("not for ever");
    assert_eq!((status, &leased["jobs"][0]["fence"]), (200, &json!(2)));
}

#[tokio::test]
async fn a_runner_that_is_none_of_ours_is_understood() {
    let door = Door::open(Duration::ZERO).await;
    let result = |more: Value| {
        let mut result =
            json!({ "runner": "mac-1", "fence": 1, "outcome": "failed", "text": "No." });
        for (key, value) in more.as_object().expect("an object") {
            result[key] = value.clone();
        }
        result
    };
    for (key, more) in [
        // A class that we have no word for, an answer that is no text, a cost that is a guess.
        ("k1", json!({ "class": "error" })),
        (
            "k2",
            json!({ "outcome": "succeeded", "answer": { "summary": "a" } }),
        ),
        ("k3", json!({ "cost_usd": 0.5, "cost_is_estimate": true })),
    ] {
        door.stage.start(key).await;
        assert_eq!(door.post("/runner/v1/lease", &ask(0)).await.0, 200);
        let path = format!("/runner/v1/jobs/{key}/result");
        assert_eq!(door.post(&path, &result(more)).await.0, 200, "{key}");
    }
    let failure = door.stage.ended("k1").await.result.expect_err("a failure");
    assert_eq!(failure.class.word(), "agent");
    let answer = door
        .stage
        .ended("k2")
        .await
        .result
        .expect("a success")
        .answer;
    assert_eq!(answer.as_deref(), Some(r#"{"summary":"a"}"#));
    let ending = door.stage.ended("k3").await;
    assert_eq!(
        (ending.cost_usd, ending.cost_is_estimate),
        (Some(0.5), true)
    );
    // A name that no register can hold.
    door.stage.start("k4").await;
    assert_eq!(door.post("/runner/v1/lease", &ask(0)).await.0, 200);
    let long = json!({ "runner": "x".repeat(200), "fence": 1 });
    assert_eq!(
        door.post("/runner/v1/jobs/k4/heartbeat", &long).await.0,
        400
    );
}
