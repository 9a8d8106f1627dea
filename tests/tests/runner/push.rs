//! Jobs that are pushed to runners that can be called.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use secrecy::SecretString;
use serde_json::Value;
use shared::issue::{RunId, Sight, Time};
use shared::ports::Executor as _;
use shared::runner::document::JobDoc;
use shared::runner::push::Push;
use shared::runner::queue::{Heartbeat, Report};
use shared::runner::signature::{SIGNATURE, Signed, TIMESTAMP, check};
use world::serve::Server;

use crate::stage::{LEASE, Stage};

const TOKEN: &str = "the token of the runners";
const CALLBACK: &str = "https://cyrus.example";

/// A runner that answers what it is told to, and 202 after that.
#[derive(Clone, Default)]
struct Runner {
    answers: Arc<Mutex<VecDeque<u16>>>,
    got: Arc<Mutex<Vec<JobDoc>>>,
}

impl Runner {
    async fn serve(&self) -> Server {
        let router = Router::new()
            .route("/some/where/jobs", post(Self::take))
            .with_state(self.clone());
        Server::start(router).await.expect("a server")
    }

    async fn take(State(runner): State<Self>, headers: HeaderMap, body: Bytes) -> StatusCode {
        let text = |name| headers.get(name).and_then(|it| it.to_str().ok());
        let sent: i64 = text(TIMESTAMP).expect("a time").parse().expect("a number");
        let signed = Signed {
            method: "POST",
            path: "/some/where/jobs",
            body: &body,
        };
        let now = Time::from_second(sent).expect("a time");
        let token = SecretString::from(TOKEN);
        let checked = check(&token, text(TIMESTAMP), text(SIGNATURE), signed, now);
        checked.expect("it is signed");
        let job = serde_json::from_slice(&body).expect("a job");
        let answer = runner.answers.lock().expect("no poison").pop_front();
        let answer = answer.unwrap_or(202);
        if answer == 202 {
            runner.got.lock().expect("no poison").push(job);
        }
        StatusCode::from_u16(answer).expect("a status")
    }

    fn answers(&self, answers: &[u16]) {
        self.answers.lock().expect("no poison").extend(answers);
    }

    fn got(&self) -> Vec<JobDoc> {
        self.got.lock().expect("no poison").clone()
    }
}

fn stage(servers: &[&Server]) -> Stage {
    let urls: Vec<String> = servers
        .iter()
        .map(|it| format!("{}/some/where", it.url()))
        .collect();
    let push = Push::new(&urls, SecretString::from(TOKEN), CALLBACK.into());
    Stage::pushing(push.expect("addresses"))
}

#[tokio::test]
async fn a_job_is_pushed_at_once_and_is_whose_who_speaks_first() {
    let runner = Runner::default();
    let server = runner.serve().await;
    let stage = stage(&[&server]);
    stage.start("k1").await;
    let job = runner.got().pop().expect("a job");
    assert_eq!((job.job.as_str(), job.fence), ("k1", 1));
    assert_eq!(job.callback, format!("{CALLBACK}/runner/v1/jobs/k1"));
    assert_eq!(stage.sight("k1").await, Sight::Waiting, "it has not spoken");
    assert_eq!(stage.lease("mac-2").await, [], "it is in somebody's hands");
    let heard = stage.beat("mac-1", &job, None).await;
    assert!(matches!(heard, Heartbeat::Heard { begun: Some(_), .. }));
    assert_eq!(stage.beat("mac-2", &job, None).await, Heartbeat::Stale);
    assert_eq!(stage.report("mac-2", &job).await, Report::Stale);
    assert_eq!(stage.sight("k1").await, Sight::Working);
    assert_eq!(
        stage.report("mac-1", &job).await,
        Report::Taken("5e1c".into())
    );
    assert_eq!(runner.got().len(), 1);
}

#[tokio::test]
async fn a_runner_without_a_slot_is_asked_again_and_another_may_have_it() {
    let (full, free) = (Runner::default(), Runner::default());
    full.answers(&[429]);
    let (first, second) = (full.serve().await, free.serve().await);
    let alone = stage(&[&first]);
    alone.start("k1").await;
    assert_eq!(full.got(), []);
    // A runner that asks by itself gets it meanwhile.
    let leased = alone.lease_one("mac-9").await;
    assert_eq!(leased.fence, 2, "no number twice");
    full.answers(&[429]);
    let both = stage(&[&first, &second]);
    both.start("k2").await;
    assert_eq!(full.got(), []);
    assert_eq!(free.got().len(), 1, "the next one has it");
}

#[tokio::test]
async fn a_runner_that_cannot_do_a_job_does_not_keep_it_from_others() {
    let (unfit, fit) = (Runner::default(), Runner::default());
    unfit.answers(&[422]);
    let (first, second) = (unfit.serve().await, fit.serve().await);
    let stage = stage(&[&first, &second]);
    stage.start("k1").await;
    assert_eq!(unfit.got(), []);
    assert_eq!(fit.got().len(), 1);
}

#[tokio::test]
async fn when_a_job_ends_the_next_is_pushed() {
    let runner = Runner::default();
    runner.answers(&[202, 429]);
    let server = runner.serve().await;
    let stage = stage(&[&server]);
    stage.start("k1").await;
    stage.clock.forward(1);
    stage.start("k2").await;
    let first = runner.got().pop().expect("a job");
    assert_eq!((runner.got().len(), first.job.as_str()), (1, "k1"));
    stage.beat("mac-1", &first, None).await;
    stage.report("mac-1", &first).await;
    // Whoever looks at the one that has ended brings the other on its way.
    stage.sight("k1").await;
    let second = runner.got().pop().expect("a job");
    assert_eq!((runner.got().len(), second.job.as_str()), (2, "k2"));
}

#[tokio::test]
async fn a_refused_job_rests_and_a_doubtful_one_is_nobody_elses() {
    let runner = Runner::default();
    runner.answers(&[422]);
    let server = runner.serve().await;
    let stage = stage(&[&server]);
    stage.start("k1").await;
    stage.sight("k1").await;
    assert_eq!(runner.got(), [], "not at once again");
    stage.clock.forward(30);
    stage.sight("k1").await;
    let job = runner.got().pop().expect("a job");
    stage.report("mac-1", &job).await;
    // An answer that says nothing of what became of the job.
    runner.answers(&[500]);
    stage.start("k2").await;
    assert_eq!(stage.lease("mac-2").await, []);
    stage.clock.forward(LEASE);
    assert_eq!(stage.lease_one("mac-2").await.fence, 2);
}

#[tokio::test]
async fn who_has_it_already_has_it() {
    let runner = Runner::default();
    runner.answers(&[409]);
    let server = runner.serve().await;
    let stage = stage(&[&server]);
    stage.start("k1").await;
    assert_eq!(stage.lease("mac-2").await, []);
}

#[tokio::test]
async fn a_stop_before_it_has_spoken_is_told_when_it_does() {
    let runner = Runner::default();
    let server = runner.serve().await;
    let stage = stage(&[&server]);
    stage.start("k1").await;
    let job = runner.got().pop().expect("a job");
    stage.queue.stop(&RunId::from("k1")).await.expect("stopped");
    match stage.beat("mac-1", &job, None).await {
        Heartbeat::Heard { doc, .. } => assert_eq!(doc.action.word(), "cancel"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nobody_there_is_no_reason_to_lose_a_job() {
    let server = Runner::default().serve().await;
    let stage = stage(&[&server]);
    drop(server);
    stage.start("k1").await;
    assert_eq!(stage.sight("k1").await, Sight::Waiting);
    let job = stage.lease_one("mac-1").await;
    let document = serde_json::to_value(&job).expect("JSON");
    assert_eq!(document["fence"], Value::from(2));
}
