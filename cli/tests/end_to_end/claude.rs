//! The same path with the real Claude Code, at the pinned version, against a
//! model service that answers by a script.

use serde_json::json;
use world::linear::NewIssue;
use world::model::{self, Conversation, Model, Reply};
use world::serve::Server;

use crate::cloud;
use crate::town::{Town, is_done, planned_issue, state};

/// Plans two tasks where a plan is asked for, and writes a file where a change is.
fn answers(it: &Conversation) -> Reply {
    let tries = it.brought().len();
    if it.called("StructuredOutput") || tries >= 2 {
        return Reply::say("It is done.");
    }
    if it.offers("StructuredOutput") {
        let task = |id: &str, on: &[&str]| json!({ "id": id, "title": format!("The {id}"), "kind": "builder", "prompt": format!("Write the {id}."), "depends_on": on });
        let tasks = [task("floor", &[]), task("roof", &["floor"])];
        return Reply::call(
            "StructuredOutput",
            json!({ "summary": "First the floor.", "tasks": tasks }),
        );
    }
    let place = it.working_directory().unwrap_or_default();
    let asked = it.asked();
    let task = asked
        .lines()
        .find_map(|line| Some(line.split_once("Task: ")?.1.trim()))
        .unwrap_or_default();
    let name = task.split(' ').next().unwrap_or_default();
    // First outside of its worktree, which it must not, then within.
    let path = if tries == 0 {
        format!("{place}/../escaped.txt")
    } else {
        format!("{place}/{name}.txt")
    };
    Reply::call("Write", json!({ "file_path": path, "content": "built\n" }))
}

async fn town(strategy: &str) -> Option<(Town, Model, Server)> {
    let program = model::pinned_claude()?;
    let mut town = Town::new(strategy, "auto", cloud).await;
    let model = Model::new(answers);
    let server = Server::start(model::router(model.clone()))
        .await
        .expect("served");
    town.variables
        .insert("CLAUDE_BIN".into(), program.to_string_lossy().into_owned());
    town.variables
        .insert("ANTHROPIC_BASE_URL".into(), server.url());
    town.variables
        .insert("ANTHROPIC_API_KEY".into(), "sk-ant-test".into());
    town.start().await;
    Some((town, model, server))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_plans_and_builds() {
    let Some((town, _model, _server)) = town("local-only").await else {
        return;
    };
    let (identifier, session) = town.hand_over(planned_issue()).await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(
        (state(&issue, "floor"), state(&issue, "roof")),
        ("merged".into(), "merged".into())
    );
    assert_eq!(town.merged_file("roof.txt").as_deref(), Some("built\n"));
    assert!(
        !town.folder.path().join("worktrees/escaped.txt").exists(),
        "it stays in its worktree"
    );
    assert!(
        issue["spent_usd"].as_f64().is_some_and(|it| it > 0.0),
        "the program says what it cost"
    );
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_plans_and_the_cloud_builds() {
    let Some((town, _model, _server)) = town("hybrid-parallel").await else {
        return;
    };
    let new = NewIssue {
        labels: vec!["orchestrator".into()],
        title: "A house".into(),
        ..NewIssue::default()
    };
    let (identifier, session) = town.hand_over(new).await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(
        town.merged_file("cloud/roof.txt").as_deref(),
        Some("done\n")
    );
    town.assert_once(&session);
}
