//! The local executor with the real Codex CLI, at the version that the tests
//! pin, against a model service that answers by a script.
//!
//! Without the program these tests say that they are skipped; under `CI=true`
//! they fail.

#[expect(dead_code, reason = "the other tests use the rest")]
mod common;

use serde_json::json;
use shared::issue::{FailureClass, TaskKind};
use shared::ports::{Job, Told};
use tokio::sync::watch;
use tokio::time::timeout;
use world::model::{self, Conversation, Model, Reply};
use world::serve::Server;

use common::{LONG, Machine, Watched};

/// A machine whose agent is the real program, and the model it speaks with.
struct Scene {
    machine: Machine,
    model: Model,
    server: Server,
}

impl Scene {
    async fn new(script: impl Fn(&Conversation) -> Reply + Send + Sync + 'static) -> Option<Self> {
        let mut machine = Machine::new("exit 1");
        machine.codex = model::pinned_codex()?;
        let model = Model::new(script);
        let server = Server::start(model::router(model.clone()))
            .await
            .expect("served");
        let url = format!("{}/v1", server.url());
        machine.agent_env.insert("OPENAI_BASE_URL".into(), url);
        machine
            .agent_env
            .insert("OPENAI_API_KEY".into(), "sk-test".into());
        Some(Self {
            machine,
            model,
            server,
        })
    }

    /// Another script, which knows of the machine.
    async fn script(&mut self, script: impl Fn(&Conversation) -> Reply + Send + Sync + 'static) {
        self.model = Model::new(script);
        self.server = Server::start(model::router(self.model.clone()))
            .await
            .expect("served");
        let url = format!("{}/v1", self.server.url());
        self.machine.agent_env.insert("OPENAI_BASE_URL".into(), url);
    }

    fn job(&self, kind: TaskKind) -> Job {
        let mut job = self.machine.job("k1", kind);
        job.agent.program = "codex".into();
        // One that it has no special tools for.
        job.agent.model = Some("gpt-5".into());
        job
    }

    async fn start(&self, job: &Job) -> Watched {
        let watched = self.machine.executor();
        watched.start(job).await;
        watched
    }
}

/// Runs a command once, then says what came of it.
fn runs(command: &str) -> impl Fn(&Conversation) -> Reply + use<> {
    let command = command.to_owned();
    move |it| match it.brought().last() {
        Some((brought, _)) => Reply::say(brought),
        None => Reply::call("exec_command", json!({ "cmd": command })),
    }
}

#[tokio::test]
async fn a_change_by_the_real_program_becomes_a_pull_request() {
    let Some(scene) = Scene::new(runs("echo hello > hello.txt; env")).await else {
        return;
    };
    let mut job = scene.job(TaskKind::Builder);
    job.agent.append_instruction = Some("Be \"kind\".".into());
    let mut watched = scene.start(&job).await;
    let ending = watched.ended("k1").await;
    let result = ending.result.expect("a success");
    assert!(result.pull_url.is_some());
    let hello = scene
        .machine
        .git("remote.git", &["show", "cyrus/eng-1/api:hello.txt"]);
    assert_eq!(hello, "hello");
    assert_eq!(ending.cost_usd, None, "it knows no prices");
    assert!(result.text.contains("HOME="), "{}", result.text);
    assert!(
        !result.text.contains("sk-"),
        "what it runs gets no key: {}",
        result.text
    );
    let seen = scene.model.seen();
    assert!(
        seen[0].asked().contains(&job.prompt),
        "the prompt arrives verbatim"
    );
    assert!(seen[0].system.contains("Be \"kind\"."));
    assert_eq!(seen[0].key.as_deref(), Some("sk-test"));
    assert_eq!(seen[0].model, "gpt-5");
}

#[tokio::test]
async fn a_plan_is_the_answer_in_the_form_asked_for() {
    let plan = json!({ "tasks": [{ "id": "api" }] });
    let answer = plan.to_string();
    let Some(scene) = Scene::new(move |_| Reply::say(&answer)).await else {
        return;
    };
    let mut job = scene.job(TaskKind::Orchestrator);
    let schema = json!({
        "type": "object", "required": ["tasks"], "additionalProperties": false,
        "properties": { "tasks": { "type": "array", "items": { "type": "object" } } },
    });
    job.answer_schema = Some(schema.to_string());
    let mut watched = scene.start(&job).await;
    let result = watched.succeeded("k1").await;
    assert_eq!(result.answer, Some(plan.to_string()));
    assert_eq!(scene.model.seen()[0].schema, Some(schema));
}

#[tokio::test]
async fn an_answer_in_no_form_is_a_failure() {
    let Some(scene) = Scene::new(|_| Reply::say("I will not.")).await else {
        return;
    };
    let mut job = scene.job(TaskKind::Orchestrator);
    job.answer_schema = Some(r#"{"type":"object"}"#.into());
    let mut watched = scene.start(&job).await;
    watched.failed_as("k1", FailureClass::Agent).await;
}

#[tokio::test]
async fn an_agent_that_may_only_read_writes_nothing() {
    let Some(scene) = Scene::new(runs("echo hello > hello.txt")).await else {
        return;
    };
    let mut watched = scene.start(&scene.job(TaskKind::Scoper)).await;
    let result = watched.succeeded("k1").await;
    assert!(
        result.text.contains("Read-only file system"),
        "{}",
        result.text
    );
}

#[tokio::test]
async fn a_message_is_the_beginning_of_a_next_process_that_resumes_the_session() {
    let Some(mut scene) = Scene::new(|_| Reply::Hang).await else {
        return;
    };
    let (asked, mut hears) = watch::channel(());
    let gate = scene.machine.at("home/go");
    let works = runs(&format!("head -n 1 '{}'", gate.display()));
    scene
        .script(move |it| {
            asked.send_replace(());
            if it.asked().contains("And greet.") {
                return Reply::say("Hello.");
            }
            works(it)
        })
        .await;
    let mut go = scene.machine.gate("go");
    let mut watched = scene.start(&scene.job(TaskKind::Scoper)).await;
    timeout(LONG, hears.changed())
        .await
        .expect("in time")
        .expect("asked");
    let told = watched.tell("k1", "m1", "And greet.").await;
    assert_eq!(told, Told::Accepted);
    go.tell().await;
    let result = watched.succeeded("k1").await;
    assert_eq!(result.text, "Hello.");
    let last = scene.model.seen().pop().expect("a request");
    assert!(
        last.called("exec_command"),
        "the session is the same: {last:?}"
    );
    assert!(last.asked().contains("Write hello.txt."), "{last:?}");
}

#[tokio::test]
async fn a_repository_brings_servers_of_its_own_only_if_it_is_trusted() {
    for trusted in [false, true] {
        let Some(scene) = Scene::new(runs("echo hello > hello.txt")).await else {
            return;
        };
        let ran = scene.machine.at("ran");
        let config = format!(
            "[mcp_servers.x]\ncommand = \"/bin/sh\"\nargs = [\"-c\", \"touch '{}'; cat\"]\n",
            ran.display()
        );
        std::fs::create_dir(scene.machine.at("clone/.codex")).expect("a folder");
        std::fs::write(scene.machine.at("clone/.codex/config.toml"), config).expect("written");
        scene.machine.publish();
        let mut job = scene.job(TaskKind::Builder);
        job.agent.trusted = trusted;
        let mut watched = scene.start(&job).await;
        watched.succeeded("k1").await;
        assert_eq!(ran.exists(), trusted);
    }
}

#[tokio::test]
async fn a_refused_key_is_told_apart_from_a_refused_request() {
    for (status, class) in [(401, FailureClass::Auth), (400, FailureClass::Invalid)] {
        let Some(scene) = Scene::new(move |_| Reply::fail(status, "x", "no")).await else {
            return;
        };
        let mut watched = scene.start(&scene.job(TaskKind::Builder)).await;
        watched.failed_as("k1", class).await;
    }
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_is_not_waited_for_without_end() {
    let Some(mut scene) = Scene::new(|_| Reply::say("never")).await else {
        return;
    };
    // Nobody listens there.
    let nowhere = "http://127.0.0.1:9/v1".to_owned();
    let url = scene.machine.agent_env.get_mut("OPENAI_BASE_URL");
    *url.expect("it is set") = nowhere;
    let mut watched = scene.start(&scene.job(TaskKind::Builder)).await;
    watched.failed_as("k1", FailureClass::Outage).await;
}
