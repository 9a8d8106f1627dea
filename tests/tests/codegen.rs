//! The Codegen client against the stand-in, over loopback.

mod common;
#[path = "codegen/resuming.rs"]
mod resuming;
#[path = "codegen/starting.rs"]
mod starting;
#[path = "codegen/watching.rs"]
mod watching;

use std::sync::Arc;

use jiff::SignedDuration;
use serde_json::json;
use shared::codegen::{Client, Options};
use shared::issue::{AgentPolicy, Fault, Repository, RunId, Sight, TaskKind};
use shared::ports::{Clock, Executor, Job};
use world::codegen::{Codegen, Order, Part, Shared, router};
use world::faults::{Faults, Trouble};
use world::github::{self, GitHub, Paper};
use world::serve::Server;

use common::Hands;

const SLUG: &str = "acme/shop";
const BRANCH: &str = "cyrus/eng-42/api";
const MARKER: &str = "<!-- cyrus:ENG-42/api -->";
const TOKEN: &str = "sk-secret";
const ORG: i64 = 323;

struct Stage {
    codegen: Shared,
    faults: Faults,
    clock: Hands,
    client: Client,
    server: Server,
}

fn client(url: &str, org: &str, token: &str, clock: &Hands) -> Client {
    let options = Options {
        api_url: url.into(),
        org_id: org.into(),
        token: secrecy::SecretString::from(token).into(),
        clock: Arc::new(clock.clone()),
    };
    Client::new(options).expect("a client")
}

impl Stage {
    /// Runs of ten minutes that change a file.
    async fn new() -> Self {
        Self::with(|_: &Order| Part::change(SignedDuration::from_mins(10), "api.rs", "fn api() {}"))
            .await
    }

    async fn with(script: impl FnMut(&Order) -> Part + Send + 'static) -> Self {
        let mut hub = GitHub::new("");
        hub.add(SLUG, Paper::new("main"));
        Self::over(hub, script).await
    }

    async fn over(hub: GitHub, script: impl FnMut(&Order) -> Part + Send + 'static) -> Self {
        let clock = Hands::new();
        let tell = clock.clone();
        let mut codegen = Codegen::new(ORG, TOKEN, script);
        codegen.connect("acme/other");
        codegen.connect(SLUG);
        let hub = github::Shared::new(hub, Arc::new(move || tell.now()));
        let codegen = Shared::new(codegen, hub);
        let faults = Faults::default();
        let server = Server::start(router(codegen.clone(), faults.clone())).await;
        let server = server.expect("a server");
        let client = client(&server.url(), &ORG.to_string(), TOKEN, &clock);
        Self {
            codegen,
            faults,
            clock,
            client,
            server,
        }
    }

    async fn sight(&self, run: &RunId) -> Result<Sight, Fault> {
        let mut answers = self.client.observe(std::slice::from_ref(run)).await;
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// Runs made behind the client's back, as another client would; no rate is kept.
    fn runs(&self, count: usize) -> Vec<RunId> {
        let mut made = Vec::new();
        for at in 0..count {
            if at % 10 == 0 {
                self.clock.forward(60);
            }
            let now = self.clock.now();
            let run = self
                .codegen
                .lock()
                .create("work", json!({}), None, None, now);
            made.push(RunId(run.expect("a run").order.id.to_string()));
        }
        made
    }

    /// What must hold after every test.
    fn check(&self) {
        assert_eq!(self.codegen.lock().check(), Ok(()));
        assert_eq!(self.faults.left(), 0, "a trouble that no call has met");
    }
}

fn job() -> Job {
    Job {
        key: "issue-1-17".into(),
        issue: "issue-1".into(),
        identifier: "ENG-42".into(),
        issue_title: "A shop".into(),
        issue_url: "https://linear.app/acme/issue/ENG-42".into(),
        task: "api".into(),
        kind: TaskKind::Builder,
        title: "The API".into(),
        prompt: format!("Write it.\n\nBranch: {BRANCH}\nBase branch: main\nMark: {MARKER}\n"),
        answer_schema: None,
        repository: Repository {
            slug: "Acme/Shop".into(),
            ..Repository::default()
        },
        branch: BRANCH.into(),
        agent: AgentPolicy::default(),
        cost_max: None,
        seconds_max: 7200,
        patience_seconds: None,
        commit: None,
        commands: Vec::new(),
        repair: None,
    }
}

fn status(status: u16, body: &str) -> Trouble {
    Trouble::Status {
        status,
        body: body.into(),
        retry_after: None,
    }
}

fn is_transient<T>(answer: &Result<T, Fault>) -> bool {
    matches!(answer, Err(Fault::Transient { .. }))
}
