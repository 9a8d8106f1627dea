//! The local executor with the real Claude Code, at the version that the tests
//! pin, against a model service that answers by a script.
//!
//! Without the program these tests say that they are skipped; under `CI=true`
//! they fail.

#[expect(dead_code, reason = "the other tests use the rest")]
mod common;

use std::path::Path;

use serde_json::json;
use shared::issue::{FailureClass, TaskKind};
use shared::ports::{Job, Repair, Told};
use tokio::sync::watch;
use tokio::time::timeout;
use world::model::{self, Conversation, Model, Reply};
use world::serve::Server;

use common::{LONG, Machine, Watched};

/// A machine whose agent is the real program, and the model it speaks with.
struct Scene {
    machine: Machine,
    model: Model,
    _server: Server,
}

impl Scene {
    async fn new(script: impl Fn(&Conversation) -> Reply + Send + Sync + 'static) -> Option<Self> {
        let mut machine = Machine::new("exit 1");
        machine.claude = model::pinned_claude()?;
        let model = Model::new(script);
        let server = Server::start(model::router(model.clone()))
            .await
            .expect("served");
        machine
            .agent_env
            .insert("ANTHROPIC_BASE_URL".into(), server.url());
        Some(Self {
            machine,
            model,
            _server: server,
        })
    }

    fn job(&self, kind: TaskKind) -> Job {
        let mut job = self.machine.job("k1", kind);
        job.agent.model = Some("claude-sonnet-4-5".into());
        job
    }

    async fn start(&self, job: &Job) -> Watched {
        let watched = self.machine.executor();
        watched.start(job).await;
        watched
    }
}

/// Writes `hello.txt` in the worktree once, then is content.
fn writes(it: &Conversation) -> Reply {
    if it.called("Write") {
        return Reply::say("I wrote hello.txt.");
    }
    let place = it.working_directory().unwrap_or_default();
    Reply::call(
        "Write",
        json!({ "file_path": format!("{place}/hello.txt"), "content": "hello\n" }),
    )
}

#[tokio::test]
async fn a_change_by_the_real_program_becomes_a_pull_request() {
    let Some(scene) = Scene::new(writes).await else {
        return;
    };
    let job = scene.job(TaskKind::Builder);
    let mut watched = scene.start(&job).await;
    let ending = watched.ended("k1").await;
    let result = ending.result.expect("a success");
    assert_eq!(result.text, "I wrote hello.txt.");
    assert!(result.pull_url.is_some());
    let hello = scene
        .machine
        .git("remote.git", &["show", "cyrus/eng-1/api:hello.txt"]);
    assert_eq!(hello, "hello");
    assert!(
        ending.cost_usd.is_some_and(|it| it > 0.0),
        "{:?}",
        ending.cost_usd
    );
    let seen = scene.model.seen();
    assert!(
        seen[0].asked().contains(&job.prompt),
        "the prompt arrives verbatim"
    );
    assert_eq!(seen[0].key.as_deref(), Some("sk-ant-test"));
}

#[tokio::test]
async fn a_repair_goes_on_where_the_first_run_stopped() {
    let Some(scene) = Scene::new(|it| {
        if it.asked().contains("It is too short.") && !it.heard("longer.txt") {
            let place = it.working_directory().unwrap_or_default();
            let path = format!("{place}/longer.txt");
            return Reply::call("Write", json!({ "file_path": path, "content": "longer\n" }));
        }
        writes(it)
    })
    .await
    else {
        return;
    };
    let job = scene.job(TaskKind::Builder);
    let mut watched = scene.start(&job).await;
    let first = watched.ended("k1").await;
    let session = first.result.expect("a success").session;
    assert!(session.is_some());
    watched.tidied(&scene.machine).await;

    let mut mend = scene.job(TaskKind::Builder);
    mend.key = "k2".into();
    mend.prompt = "Not to be said.".into();
    mend.repair = Some(Repair {
        run: Some("k1".into()),
        session: session.clone(),
        message: "It is too short.".into(),
        conflict: false,
    });
    watched.start(&mend).await;
    let ending = watched.ended("k2").await;
    let result = ending.result.expect("a success");
    assert_eq!(result.session, session);
    let show = |file: &str| {
        let what = format!("cyrus/eng-1/api:{file}");
        scene.machine.git("remote.git", &["show", &what])
    };
    assert_eq!(
        (show("hello.txt"), show("longer.txt")),
        ("hello".into(), "longer".into())
    );
    // The session knows what was said first, and it was not said again.
    let last = scene.model.seen().pop().expect("a request");
    assert!(last.asked().contains(&job.prompt), "{last:?}");
    assert!(!last.asked().contains("Not to be said."), "{last:?}");
    // What the first run has cost is not counted twice.
    let (first, second) = (first.cost_usd, ending.cost_usd);
    assert!(
        second
            .zip(first)
            .is_some_and(|(second, first)| second < 1.5 * first)
    );
}

#[tokio::test]
async fn a_plan_is_the_structured_answer() {
    let plan = json!({ "tasks": [{ "id": "api" }] });
    let answer = plan.clone();
    let Some(scene) = Scene::new(move |it| {
        if it.called("StructuredOutput") || !it.offers("StructuredOutput") {
            return Reply::say("ok");
        }
        Reply::call("StructuredOutput", answer.clone())
    })
    .await
    else {
        return;
    };
    let mut job = scene.job(TaskKind::Orchestrator);
    let schema = json!({
        "type": "object", "required": ["tasks"],
        "properties": { "tasks": { "type": "array", "items": { "type": "object" } } },
    });
    job.answer_schema = Some(schema.to_string());
    let mut watched = scene.start(&job).await;
    let result = watched.succeeded("k1").await;
    let given = result.answer.expect("an answer");
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&given).expect("JSON"),
        plan
    );
}

#[tokio::test]
async fn an_answer_that_never_comes_is_a_failure() {
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
    let Some(scene) = Scene::new(writes).await else {
        return;
    };
    let mut watched = scene.start(&scene.job(TaskKind::Scoper)).await;
    watched.succeeded("k1").await;
    let last = scene.model.seen().pop().expect("a request");
    let brought = last.brought();
    assert!(brought.iter().all(|(_, is_error)| *is_error), "{brought:?}");
    assert!(!brought.is_empty());
}

#[tokio::test]
async fn a_tool_that_is_not_allowed_is_denied_and_that_is_said() {
    let Some(scene) = Scene::new(|it| {
        let tries = it.brought().len();
        match tries {
            0 => Reply::call(
                "Write",
                json!({ "file_path": format!("{}/a", it.working_directory().unwrap_or_default()), "content": "a" }),
            ),
            // Outside of the worktree.
            1 => Reply::call("Write", json!({ "file_path": "/escaped.txt", "content": "x" })),
            _ => Reply::say("I tried."),
        }
    })
    .await
    else {
        return;
    };
    let mut watched = scene.start(&scene.job(TaskKind::Builder)).await;
    let result = watched.succeeded("k1").await;
    assert!(
        result.text.contains("It was not allowed to use: Write."),
        "{}",
        result.text
    );
    assert!(!Path::new("/escaped.txt").exists());
}

#[tokio::test]
async fn a_refused_key_is_told_apart_from_a_service_that_is_down() {
    for (status, kind, class) in [
        (401, "authentication_error", FailureClass::Auth),
        (529, "overloaded_error", FailureClass::Outage),
    ] {
        let Some(mut scene) = Scene::new(move |_| Reply::fail(status, kind, "no")).await else {
            return;
        };
        scene
            .machine
            .agent_env
            .insert("CLAUDE_CODE_MAX_RETRIES".into(), "1".into());
        let mut watched = scene.start(&scene.job(TaskKind::Builder)).await;
        watched.failed_as("k1", class).await;
    }
}

#[tokio::test]
async fn an_agent_that_goes_on_for_ever_ends_at_its_budget() {
    let Some(scene) = Scene::new(|_| Reply::call("Glob", json!({ "pattern": "*" }))).await else {
        return;
    };
    let mut job = scene.job(TaskKind::Builder);
    job.cost_max = Some(0.01);
    let mut watched = scene.start(&job).await;
    let ending = watched.ended("k1").await;
    assert_eq!(
        ending.result.map_err(|it| it.class),
        Err(FailureClass::Budget)
    );
    assert!(
        ending.cost_usd.is_some_and(|it| it >= 0.01),
        "{:?}",
        ending.cost_usd
    );
}

#[tokio::test]
async fn an_agent_that_runs_out_of_turns_has_reached_a_limit() {
    use std::os::unix::fs::PermissionsExt as _;
    let script = |_: &Conversation| Reply::call("Glob", json!({ "pattern": "*" }));
    let Some(mut scene) = Scene::new(script).await else {
        return;
    };
    // We set no limit of turns; whoever does, by settings or a wrapper, hears of it.
    let wrapper = scene.machine.at("two-turns");
    let program = scene.machine.claude.display();
    let text = format!("#!/bin/sh\nexec '{program}' --max-turns 2 \"$@\"\n");
    std::fs::write(&wrapper, text).expect("written");
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&wrapper, executable).expect("made executable");
    scene.machine.claude = wrapper;
    let job = scene.job(TaskKind::Builder);
    let mut watched = scene.start(&job).await;
    watched.failed_as("k1", FailureClass::Limit).await;
}

#[tokio::test]
async fn a_message_reaches_the_real_program_while_it_works() {
    let (asked, mut hears) = watch::channel(());
    // It looks around until it hears that it may end.
    let Some(scene) = Scene::new(move |it| {
        asked.send_replace(());
        if it.heard("You may end.") {
            return Reply::say("I heard.");
        }
        Reply::call("Glob", json!({ "pattern": "*" }))
    })
    .await
    else {
        return;
    };
    let mut watched = scene.start(&scene.job(TaskKind::Scoper)).await;
    timeout(LONG, hears.changed())
        .await
        .expect("in time")
        .expect("asked");
    let told = watched.tell("k1", "m1", "You may end.").await;
    assert_eq!(told, Told::Accepted);
    let ending = watched.ended("k1").await;
    assert_eq!(ending.result.map(|it| it.text), Ok("I heard.".into()));
    assert!(ending.cost_usd.is_some_and(|it| it > 0.0));
    let second = scene.machine.at("cyrus/jobs/k1/leg-2");
    assert!(!second.exists(), "it was the same process");
}

#[tokio::test]
async fn a_repository_brings_hooks_of_its_own_only_if_it_is_trusted() {
    for trusted in [false, true] {
        let Some(scene) = Scene::new(writes).await else {
            return;
        };
        let ran = scene.machine.at("ran");
        let command = format!("touch '{}'", ran.display());
        let hook = json!([{ "hooks": [{ "type": "command", "command": command }] }]);
        let settings = json!({ "hooks": { "SessionStart": hook } });
        std::fs::create_dir(scene.machine.at("clone/.claude")).expect("a folder");
        let path = scene.machine.at("clone/.claude/settings.json");
        std::fs::write(path, settings.to_string()).expect("written");
        scene.machine.publish();
        let mut job = scene.job(TaskKind::Builder);
        job.agent.trusted = trusted;
        let mut watched = scene.start(&job).await;
        watched.succeeded("k1").await;
        assert_eq!(ran.exists(), trusted);
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_real_program_goes_on_with_its_session_when_its_supervisor_has_died() {
    let (asked, mut hears) = watch::channel(());
    let Some(scene) = Scene::new(move |it| {
        asked.send_replace(());
        if it.asked().contains("You were cut off") {
            return writes(it);
        }
        // What it did before is a part of what it goes on from.
        if it.called("Glob") {
            return Reply::Hang;
        }
        Reply::call("Glob", json!({ "pattern": "*" }))
    })
    .await
    else {
        return;
    };
    let mut watched = scene.start(&scene.job(TaskKind::Builder)).await;
    while !scene.model.seen().iter().any(|it| it.called("Glob")) {
        timeout(LONG, hears.changed())
            .await
            .expect("in time")
            .expect("asked");
    }
    let supervisor = scene.machine.at("cyrus/jobs/k1/leg-1/begun.json");
    let begun = std::fs::read(supervisor).expect("it runs");
    let begun: serde_json::Value = serde_json::from_slice(&begun).expect("JSON");
    let pid = begun["session"]
        .as_i64()
        .and_then(|it| i32::try_from(it).ok());
    let pid = pid
        .and_then(rustix::process::Pid::from_raw)
        .expect("a number");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");

    let result = watched.succeeded("k1").await;
    assert_eq!(result.text, "I wrote hello.txt.");
    let last = scene.model.seen().pop().expect("a request");
    // The session is the same: it begins with the prompt, which was not said again.
    // Its last turn may not have been on the disk yet when it was killed.
    assert!(last.asked().contains("Write hello.txt."), "{last:?}");
    let launch = scene.machine.at("cyrus/jobs/k1/leg-2/launch.json");
    let launch = std::fs::read_to_string(launch).expect("a second leg");
    assert!(launch.contains("--resume"), "{launch}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_killed_agent_leaves_no_process() {
    let (asked, mut hears) = watch::channel(());
    let Some(scene) = Scene::new(move |_| {
        asked.send_replace(());
        Reply::Hang
    })
    .await
    else {
        return;
    };
    let mut watched = scene.start(&scene.job(TaskKind::Builder)).await;
    timeout(LONG, hears.changed())
        .await
        .expect("in time")
        .expect("asked");
    assert!(!at_work(&scene).is_empty());
    watched.stop("k1").await;
    watched.failed_as("k1", FailureClass::Cancelled).await;
    assert_eq!(at_work(&scene), Vec::<String>::new());
}

/// The processes that know this scene's model: the supervisor, the agent, its tools.
#[cfg(target_os = "linux")]
fn at_work(scene: &Scene) -> Vec<String> {
    let url = format!(
        "ANTHROPIC_BASE_URL={}",
        scene.machine.agent_env["ANTHROPIC_BASE_URL"]
    );
    std::fs::read_dir("/proc")
        .expect("processes")
        .filter_map(|it| it.ok()?.file_name().into_string().ok())
        .filter(|pid| {
            let env = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            common::text(&env).split('\0').any(|it| it == url) && common::lives(pid)
        })
        .collect()
}
