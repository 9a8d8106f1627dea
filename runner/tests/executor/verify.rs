//! Commands at a commit, and a reviewer at one: no branch, no change.

use std::fs;

use shared::issue::{FailureClass, LOG_BYTES_MAX, TaskKind};
use shared::ports::Job;

use super::common::Machine;

const BRANCH: &str = "cyrus/eng-1/api";

/// A branch with one commit over the base; the commit.
pub(super) fn branch(machine: &Machine, file: &str, text: &str) -> String {
    let who = ["-c", "user.name=T", "-c", "user.email=t@localhost"];
    machine.git(
        "clone",
        &["checkout", "--quiet", "-B", "work", "origin/main"],
    );
    fs::write(machine.at("clone").join(file), text).expect("a file");
    machine.git("clone", &["add", "--all"]);
    let commit = ["commit", "--quiet", "--message", "work"];
    machine.git("clone", &[&who[..], &commit[..]].concat());
    let refspec = format!("+HEAD:refs/heads/{BRANCH}");
    machine.git("clone", &["push", "--quiet", "origin", &refspec]);
    let sha = machine.git("clone", &["rev-parse", "HEAD"]);
    machine.git("clone", &["checkout", "--quiet", "main"]);
    sha
}

fn verifier(machine: &Machine, commit: &str, commands: &[&str]) -> Job {
    let mut job = machine.job("v1", TaskKind::Verifier);
    // No such agent is anywhere.
    job.agent.program = "none".into();
    job.commit = Some(commit.to_owned());
    job.commands = commands.iter().map(|it| (*it).to_owned()).collect();
    job
}

#[tokio::test]
async fn commands_run_at_the_commit_and_without_access_to_any_model() {
    let machine = Machine::new("exit 1");
    let sha = branch(&machine, "new.txt", "new\n");
    // The branch has moved on: the commit is what counts.
    let later = branch(&machine, "new.txt", "newer\n");
    machine.git("remote.git", &["update-ref", "refs/heads/old", &sha]);
    let mut job = verifier(
        &machine,
        &sha,
        &[
            "test \"$(cat new.txt)\" = new && git status --porcelain > \"$HOME/state\"",
            "env > \"$HOME/env\"; test -z \"$ANTHROPIC_API_KEY\"",
        ],
    );
    job.branch = "old".into();
    let mut watched = machine.executor();
    watched.start(&job).await;
    let ending = watched.ended("v1").await;
    let result = ending.result.expect("a success");
    assert!(result.text.contains(&sha), "{}", result.text);
    assert_eq!(ending.cost_usd, Some(0.0));
    assert_eq!(machine.noted("state"), "");
    let env = machine.noted("env");
    assert!(env.contains("LINEAR_ISSUE_IDENTIFIER=ENG-1"), "{env}");
    assert!(!env.contains("sk-ant-test"), "{env}");
    watched.tidied(&machine).await;
    assert_eq!(machine.runs(), 0, "no agent was started");

    // On the branch that it is said to be on, it is not.
    let mut job = verifier(&machine, &later, &["true"]);
    job.key = "v2".into();
    job.branch = "old".into();
    watched.start(&job).await;
    watched.failed_as("v2", FailureClass::Lost).await;
}

#[tokio::test]
async fn the_first_command_that_fails_is_the_verdict_with_the_end_of_what_it_said() {
    let machine = Machine::new("exit 1");
    let sha = branch(&machine, "new.txt", "new\n");
    let noisy = "for i in $(seq 5000); do echo \"line $i\"; done; echo why >&2; exit 3";
    let job = verifier(&machine, &sha, &["true", noisy, "touch \"$HOME/third\""]);
    let mut watched = machine.executor();
    watched.start(&job).await;
    let ending = watched.ended("v1").await;
    let failure = ending.result.expect_err("a failure");
    assert_eq!(failure.class, FailureClass::Agent);
    let head = format!("`{noisy}` failed with 3:\n");
    assert!(failure.message.starts_with(&head), "{}", failure.message);
    assert!(
        failure.message.ends_with("line 5000\nwhy"),
        "{}",
        failure.message
    );
    assert!(failure.message.len() <= LOG_BYTES_MAX);
    assert_eq!(ending.cost_usd, Some(0.0));
    assert!(!machine.at("home/third").exists());
    watched.tidied(&machine).await;
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_ended_and_is_no_verdict() {
    let machine = Machine::new("exit 1");
    let sha = branch(&machine, "new.txt", "new\n");
    let mut job = verifier(&machine, &sha, &["echo $$ > \"$HOME/pid\"; sleep 1000"]);
    job.seconds_max = 1;
    let mut watched = machine.executor();
    watched.start(&job).await;
    watched.failed_as("v1", FailureClass::Timeout).await;
    assert!(!super::lives(machine.noted("pid").trim()));
}

#[tokio::test]
async fn a_reviewer_reads_the_commit() {
    let answer = r#"echo '{"type":"result","is_error":false,"result":"ok","structured_output":{"ok":true},"total_cost_usd":0.1}'"#;
    let machine = Machine::new(&format!("cp new.txt \"$HOME/read\"\n{answer}"));
    // What an agent has put there in place of the repository's script is not run.
    machine.script("cyrus-setup.sh", "touch \"$HOME/set-up\"");
    let sha = branch(&machine, "new.txt", "new\n");
    let mut job = machine.job("r1", TaskKind::Reviewer);
    job.commit = Some(sha);
    job.answer_schema = Some(r#"{"type":"object"}"#.into());
    let mut watched = machine.executor();
    watched.start(&job).await;
    let result = watched.succeeded("r1").await;
    assert_eq!(result.answer.as_deref(), Some(r#"{"ok":true}"#));
    assert_eq!(machine.noted("read"), "new\n");
    assert!(machine.at("home/set-up").exists());
}
