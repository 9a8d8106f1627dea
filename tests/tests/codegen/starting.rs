//! Runs are created once, or it is said why not.

use jiff::SignedDuration;
use serde_json::json;
use shared::issue::{ExecutorKind, FailureClass, Fault, RunId};
use shared::ports::{Executor, Job, Settlement, Started};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use world::faults::Trouble;

use super::common::{Hands, class};
use super::{SLUG, Stage, TOKEN, client, is_transient, job, status};

#[tokio::test]
async fn a_start_is_a_run_with_our_key() {
    let stage = Stage::new().await;
    assert_eq!(stage.client.kind(), ExecutorKind::Codegen);
    let mut job = job();
    job.agent.model = Some("a-model".into());
    let started = stage.client.start(&job).await.expect("a start");
    let expected = Started {
        run: "5001".into(),
        url: Some("https://codegen.com/agent/trace/5001".into()),
        begun: true,
    };
    assert_eq!(started, expected);
    let runs = stage.codegen.lock().runs().to_vec();
    assert_eq!(runs.len(), 1);
    let order = &runs[0].order;
    assert_eq!(order.prompt, job.prompt, "the prompt goes along verbatim");
    assert_eq!(order.repository.as_deref(), Some(SLUG));
    assert_eq!(order.model.as_deref(), None);
    let metadata = json!({ "cyrus_key": "issue-1-17", "issue": "ENG-42", "task": "api" });
    assert_eq!(order.metadata, metadata);
    stage.check();
}

#[tokio::test]
async fn a_create_whose_reply_is_lost_is_found_not_repeated() {
    let empty = Trouble::StatusAfter {
        status: 200,
        body: "{\"id\":null}".into(),
    };
    for trouble in Trouble::lost_replies().into_iter().chain([empty]) {
        let stage = Stage::new().await;
        stage.runs(3);
        stage.faults.next("create", trouble.clone());
        let answer = stage.client.start(&job()).await;
        assert!(
            matches!(answer, Err(Fault::Ambiguous { .. })),
            "{trouble:?}: {answer:?}"
        );
        let started = Started {
            run: "5004".into(),
            url: Some("https://codegen.com/agent/trace/5004".into()),
            begun: true,
        };
        assert_eq!(
            stage.client.settle(&job()).await,
            Ok(Settlement::Found(started))
        );
        assert_eq!(stage.codegen.lock().runs_per_key()["issue-1-17"], 1);
        stage.check();
    }
}

#[tokio::test]
async fn a_doubtful_create_that_was_none_is_absent_but_not_for_certain() {
    for trouble in [
        Trouble::DropBefore,
        Trouble::Garbage,
        status(500, ""),
        status(504, "{}"),
    ] {
        let stage = Stage::new().await;
        stage.faults.next("create", trouble.clone());
        let answer = stage.client.start(&job()).await;
        assert!(
            matches!(answer, Err(Fault::Ambiguous { .. })),
            "{trouble:?}: {answer:?}"
        );
        let settled = stage.client.settle(&job()).await;
        assert_eq!(settled, Ok(Settlement::Absent { certain: false }));
        stage.check();
    }
}

#[tokio::test]
async fn a_run_that_shows_up_late_is_found_later() {
    let stage = Stage::new().await;
    stage.codegen.lock().lag = SignedDuration::from_secs(20);
    stage.faults.next("create", Trouble::DropAfter);
    assert!(stage.client.start(&job()).await.is_err());
    let absent = Ok(Settlement::Absent { certain: false });
    assert_eq!(stage.client.settle(&job()).await, absent);
    stage.clock.forward(19);
    assert_eq!(stage.client.settle(&job()).await, absent);
    stage.clock.forward(1);
    assert!(matches!(
        stage.client.settle(&job()).await,
        Ok(Settlement::Found(_))
    ));
    stage.check();
}

#[tokio::test]
async fn the_list_is_searched_page_by_page() {
    let stage = Stage::new().await;
    stage.client.start(&job()).await.expect("a start");
    stage.runs(250);
    assert!(
        matches!(stage.client.settle(&job()).await, Ok(Settlement::Found(it)) if it.run.0 == "5001")
    );
    // Looking that failed has not found out anything.
    stage.faults.next("list", status(503, ""));
    assert!(is_transient(&stage.client.settle(&job()).await));
    stage.faults.next("list", Trouble::Garbage);
    assert!(is_transient(&stage.client.settle(&job()).await));
    stage.check();
}

#[tokio::test]
async fn nobody_there_is_no_run() {
    // Lists its repositories to one caller and is gone before that one has the answer.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let once = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a caller");
        drop(listener);
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(socket.read_u8().await.expect("a request"));
        }
        let body = format!("{{\"items\":[{{\"id\":1,\"full_name\":\"{SLUG}\"}}]}}");
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        socket
            .write_all(answer.as_bytes())
            .await
            .expect("an answer");
        String::from_utf8(request).expect("a request in text")
    });
    let client = client(&url, "323", TOKEN, &Hands::new());
    let started = client.start(&job()).await;
    assert!(is_transient(&started), "{started:?}");
    assert!(
        once.await
            .expect("one call")
            .starts_with("GET /v1/organizations/323/repos?")
    );
    for answer in [
        client.stop(&"5001".into()).await,
        client.settle(&job()).await.map(|_| ()),
    ] {
        assert!(is_transient(&answer), "{answer:?}");
    }
}

#[tokio::test]
async fn refusals_of_a_create_promise_that_there_is_no_run() {
    let stage = Stage::new().await;
    let validation = "{\"detail\":[{\"loc\":[\"body\",\"model\"],\"msg\":\"unknown\"}]}";
    for (code, body, expected, word) in [
        (
            402,
            "{\"message\":\"runs are used up\"}",
            FailureClass::Quota,
            "runs are used up",
        ),
        (
            401,
            "{\"detail\":\"bad token\"}",
            FailureClass::Auth,
            "CODEGEN_API_TOKEN",
        ),
        (
            403,
            "{\"error\":\"no access\"}",
            FailureClass::Auth,
            "no access",
        ),
        (
            404,
            "{\"message\":\"No repos found\"}",
            FailureClass::Invalid,
            "No repos found",
        ),
        (422, validation, FailureClass::Invalid, "model: unknown"),
        (400, "<html>", FailureClass::Invalid, "400"),
        (308, "", FailureClass::Invalid, "CODEGEN_API_URL"),
    ] {
        stage.faults.next("create", status(code, body));
        let (kind, why) = class(stage.client.start(&job()).await);
        assert_eq!(kind, expected, "{code}");
        assert!(why.contains(word), "{why}");
        assert!(!why.contains(TOKEN), "{why}");
    }
    let limited = Trouble::Status {
        status: 429,
        body: "{}".into(),
        retry_after: Some(12),
    };
    stage.faults.next("create", limited);
    let answer = stage.client.start(&job()).await;
    assert!(
        matches!(
            answer,
            Err(Fault::Busy {
                retry_after_seconds: Some(12),
                ..
            })
        ),
        "{answer:?}"
    );
    stage.codegen.lock().exhausted = true;
    assert_eq!(
        class(stage.client.start(&job()).await).0,
        FailureClass::Quota
    );
    assert_eq!(stage.codegen.lock().runs(), []);
    stage.check();
}

#[tokio::test]
async fn the_eleventh_create_of_a_minute_has_to_wait() {
    let stage = Stage::new().await;
    for at in 0..10 {
        let job = Job {
            key: format!("issue-1-{at}"),
            ..job()
        };
        stage.client.start(&job).await.expect("a start");
    }
    let job = Job {
        key: "issue-1-10".into(),
        ..job()
    };
    let answer = stage.client.start(&job).await;
    assert!(matches!(answer, Err(Fault::Busy { .. })), "{answer:?}");
    stage.clock.forward(60);
    assert!(stage.client.start(&job).await.is_ok());
    assert_eq!(stage.codegen.lock().runs().len(), 11);
    stage.check();
}

#[tokio::test]
async fn a_repository_that_codegen_does_not_know_is_said_by_name() {
    let stage = Stage::new().await;
    let mut unknown = job();
    unknown.repository.slug = "acme/unknown".into();
    let (kind, why) = class(stage.client.start(&unknown).await);
    assert_eq!(kind, FailureClass::Invalid);
    assert!(
        why.contains("acme/unknown") && why.contains("connect it"),
        "{why}"
    );
    assert_eq!(stage.codegen.lock().runs(), []);

    // It is connected, far down the list.
    for at in 0..150 {
        stage.codegen.lock().connect(&format!("acme/other-{at}"));
    }
    stage.codegen.lock().connect("acme/unknown");
    assert!(stage.client.start(&unknown).await.is_ok());
    stage.check();
}

#[tokio::test]
async fn a_repository_is_looked_up_once_in_a_while() {
    let stage = Stage::new().await;
    stage.client.start(&job()).await.expect("a start");
    stage.faults.next("repos", status(503, ""));
    stage
        .client
        .start(&Job {
            key: "issue-1-18".into(),
            ..job()
        })
        .await
        .expect("a start");
    assert_eq!(stage.faults.left(), 1, "nobody has asked");
    stage.clock.forward(3600);
    let job = Job {
        key: "issue-1-19".into(),
        ..job()
    };
    assert!(
        is_transient(&stage.client.start(&job).await),
        "a lookup makes no run"
    );
    stage.client.start(&job).await.expect("a start");

    // A create that finds it gone makes us ask again, too.
    stage
        .faults
        .next("create", status(404, "{\"message\":\"Repo not found\"}"));
    assert_eq!(
        class(stage.client.start(&job).await).0,
        FailureClass::Invalid
    );
    stage.faults.next("repos", Trouble::DropBefore);
    assert!(is_transient(&stage.client.start(&job).await));
    stage.check();
}

#[tokio::test]
async fn an_organization_that_is_no_number_makes_every_call_say_so() {
    let stage = Stage::new().await;
    let client = client(&stage.server.url(), "my-org", TOKEN, &stage.clock);
    let run = RunId::from("5001");
    let reasons = [
        class(client.start(&job()).await),
        class(client.settle(&job()).await),
        class(client.observe(std::slice::from_ref(&run)).await.remove(0)),
        class(client.stop(&run).await),
        class(client.check().await),
    ];
    for (kind, why) in reasons {
        assert_eq!(kind, FailureClass::Invalid);
        assert!(why.starts_with("codegen.orgId must be a number"), "{why}");
        assert!(why.contains("my-org"), "{why}");
    }
    stage.check();
}

#[tokio::test]
async fn token_and_organization_are_proved() {
    let stage = Stage::new().await;
    assert_eq!(stage.client.check().await, Ok("octocat".into()));
    let url = stage.server.url();
    let stranger = client(&url, "323", "wrong", &stage.clock);
    assert_eq!(class(stranger.check().await).0, FailureClass::Auth);
    let elsewhere = client(&url, " 324 ", TOKEN, &stage.clock);
    let (kind, why) = class(elsewhere.check().await);
    assert_eq!(kind, FailureClass::Auth);
    assert!(why.contains("codegen.orgId"), "{why}");
    stage.faults.next("me", Trouble::Garbage);
    assert!(is_transient(&stage.client.check().await));
    stage.check();
}
