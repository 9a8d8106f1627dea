//! What was made is not good enough: it is mended on its branch.

use std::fs;

use shared::issue::{FailureClass, RunId, RunResult, TaskKind};
use shared::ports::{Job, Repair};

use super::common::{CONTENT, INIT, Machine, Watched};
use super::verify::branch;

const BRANCH: &str = "cyrus/eng-1/api";

/// Says something, and writes `$said` where it works.
fn writes(more: &str) -> String {
    format!("{INIT}\npwd >> \"$HOME/places\"\n{more}\n{CONTENT}")
}

fn repair(machine: &Machine, key: &str, session: Option<&str>, conflict: bool) -> Job {
    let mut job = machine.job(key, TaskKind::Builder);
    job.prompt = "All of it, and what was wrong.".into();
    job.repair = Some(Repair {
        run: Some(RunId::from("k1")),
        session: session.map(str::to_owned),
        message: "The check failed.".into(),
        conflict,
    });
    job
}

async fn first(machine: &Machine, watched: &mut Watched) -> RunResult {
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    let result = watched.succeeded("k1").await;
    watched.tidied(machine).await;
    result
}

#[tokio::test]
async fn a_repair_goes_on_in_the_session_and_on_the_branch_of_the_first_run() {
    let machine = Machine::new(&writes("echo more >> hello.txt"));
    let mut watched = machine.executor();
    let result = first(&machine, &mut watched).await;
    assert_eq!(result.session.as_deref(), Some("s-1"));
    let before = machine.git("remote.git", &["rev-parse", BRANCH]);

    watched
        .start(&repair(&machine, "k2", Some("s-1"), false))
        .await;
    let result = watched.succeeded("k2").await;
    assert_eq!(result.session.as_deref(), Some("s-1"));
    assert_eq!(result.branch, None);
    assert!(result.pull_url.is_some());
    assert_eq!(machine.said()[1], "The check failed.");
    let args = machine.noted("args");
    assert!(args.lines().nth(1).expect("two").contains("--resume s-1"));
    let places = machine.noted("places");
    let places: Vec<&str> = places.lines().collect();
    assert_eq!(places[0], places[1], "the session is looked for there");
    let parent = machine.git("remote.git", &["rev-parse", &format!("{BRANCH}^")]);
    assert_eq!(parent, before);
    let hello = machine.git("remote.git", &["show", &format!("{BRANCH}:hello.txt")]);
    assert_eq!(hello, "more\nmore");
    let opened = machine.forge.opened.lock().expect("no poison").len();
    assert_eq!(opened, 1, "it was found");
    watched.tidied(&machine).await;
}

#[tokio::test]
async fn without_its_session_a_repair_begins_anew_and_is_told_all() {
    // A session that this machine never saw, and one that the agent has lost.
    let lost = r#"case "$*" in *--resume*) echo '{"type":"result","subtype":"error_during_execution","is_error":true,"errors":["No conversation found with session ID: s-1"],"total_cost_usd":0}'; exit 1;; esac"#;
    for (session, runs) in [("s-9", 2), ("s-1", 3)] {
        let machine = Machine::new(&format!("{lost}\n{}", writes("echo more >> hello.txt")));
        let mut watched = machine.executor();
        first(&machine, &mut watched).await;
        let mut job = repair(&machine, "k2", Some(session), false);
        job.cost_max = Some(1.0);
        watched.start(&job).await;
        let ending = watched.ended("k2").await;
        ending.result.expect("a success");
        assert_eq!(ending.cost_usd, Some(0.25));
        assert_eq!(machine.runs(), runs);
        assert_eq!(machine.said()[runs - 1], job.prompt);
    }
}

#[tokio::test]
async fn a_repair_that_changes_nothing_has_failed() {
    let machine = Machine::new(&writes("echo hello > hello.txt"));
    let mut watched = machine.executor();
    first(&machine, &mut watched).await;
    watched.start(&repair(&machine, "k2", None, false)).await;
    let failure = watched.failed("k2").await;
    assert!(failure.message.starts_with("the agent changed nothing"));
}

#[tokio::test]
async fn a_conflict_is_resolved_by_the_agent_and_becomes_a_merge() {
    for (resolves, ends_well) in [("echo both > README.md", true), ("true", false)] {
        let machine = Machine::new(&writes(&format!(
            "cp README.md \"$HOME/seen\"; {resolves}; echo x > x.txt"
        )));
        let ours = branch(&machine, "README.md", "ours\n");
        fs::write(machine.at("clone/README.md"), "theirs\n").expect("a file");
        machine.publish();
        let theirs = machine.git("clone", &["rev-parse", "HEAD"]);
        let mut watched = machine.executor();
        watched.start(&repair(&machine, "k2", None, true)).await;
        if ends_well {
            watched.succeeded("k2").await;
            let form = ["log", "-1", "--format=%P", BRANCH];
            let parents = machine.git("remote.git", &form);
            assert_eq!(parents, format!("{ours} {theirs}"));
            let show = |it: &str| machine.git("remote.git", &["show", it]);
            assert_eq!(show(&format!("{BRANCH}:README.md")), "both");
        } else {
            let failure = watched.failed("k2").await;
            assert_eq!(failure.class, FailureClass::Agent);
            assert_eq!(failure.message, "the agent left conflicts in `README.md`");
            let head = machine.git("remote.git", &["rev-parse", BRANCH]);
            assert_eq!(head, ours, "nothing was pushed");
        }
        let seen = machine.noted("seen");
        assert!(
            seen.contains("<<<<<<<") && seen.contains("theirs"),
            "{seen}"
        );
    }
}

#[tokio::test]
async fn what_somebody_else_pushes_meanwhile_is_never_pushed_over() {
    let machine = Machine::new(&writes(
        "echo more >> hello.txt; echo here > \"$HOME/started\"; read it < \"$HOME/go\"",
    ));
    branch(&machine, "hello.txt", "hello\n");
    let (mut started, mut go) = (machine.gate("started"), machine.gate("go"));
    let mut watched = machine.executor();
    watched.start(&repair(&machine, "k2", None, false)).await;
    started.hear().await;
    let foreign = branch(&machine, "hello.txt", "by hand\n");
    go.tell().await;
    let failure = watched.failed("k2").await;
    assert_eq!(failure.class, FailureClass::Lost);
    assert!(failure.message.contains(&foreign), "{}", failure.message);
    let head = machine.git("remote.git", &["rev-parse", BRANCH]);
    assert_eq!(head, foreign);
}

#[tokio::test]
async fn without_github_the_branch_is_all_that_is_handed_in() {
    let machine = Machine::new(&writes("echo hello > hello.txt"));
    let mut watched = machine.executor();
    let mut job = machine.job("k1", TaskKind::Builder);
    job.repository.slug.clear();
    watched.start(&job).await;
    let result = watched.succeeded("k1").await;
    assert_eq!((result.pull_url, result.changed), (None, Some(true)));
    assert_eq!(machine.pushed(), [BRANCH]);
    assert!(machine.forge.opened.lock().expect("no poison").is_empty());
}
