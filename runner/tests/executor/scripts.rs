//! The scripts around a worktree, and worktrees that are kept.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use shared::issue::{FailureClass, TaskKind};

use super::WRITES;
use super::common::{CONTENT, Machine, lives, write_script};
use super::crashes::{now, until_killed};

/// A machine with a script for all repositories, and an agent that is content.
fn prepared(global: &str) -> Machine {
    let mut machine = Machine::new(&format!(
        "echo agent >> \"$HOME/order\"\n{WRITES}\n{CONTENT}"
    ));
    let script = machine.at("home/global.sh");
    write_script(&script, &format!("{global}\n"), 0o755);
    machine.setup_script = Some("~/global.sh".into());
    machine
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).expect("a file")).expect("JSON")
}

#[tokio::test]
async fn scripts_prepare_a_worktree_in_their_order_before_the_agent_begins() {
    let machine = prepared("echo global >> \"$HOME/order\"; touch of-all");
    machine.script(
        "cyrus-setup.sh",
        "ls of-all && echo own >> \"$HOME/order\"
        printf '%s' \"$LINEAR_ISSUE_TITLE\" > \"$HOME/title\"
        printf '%s' \"$LINEAR_ISSUE_ID $LINEAR_ISSUE_IDENTIFIER\" > \"$HOME/issue\"",
    );
    let mut watched = machine.executor();
    let mut job = machine.job("k1", TaskKind::Builder);
    job.issue_title =
        "'; touch \"$HOME/hacked\" $(touch \"$HOME/hacked\")\n`touch ~/hacked`".into();
    watched.start(&job).await;
    watched.succeeded("k1").await;
    assert_eq!(machine.noted("order"), "global\nown\nagent\n");
    assert_eq!(
        machine.noted("title"),
        job.issue_title,
        "nothing but a text"
    );
    assert!(!machine.at("home/hacked").exists());
    assert_eq!(machine.noted("issue"), "5e1c ENG-1");
    let launch = read_json(&machine.at("cyrus/jobs/k1/setup/launch.json"));
    assert_eq!(launch["seconds_max"], 300, "as long as Cyrus waits");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_script_sees_the_agents_environment_and_the_issue() {
    let machine = Machine::new(&format!("{WRITES}\n{CONTENT}"));
    machine.script(
        "cyrus-setup.sh",
        "tr '\\0' '\\n' < /proc/$$/environ > \"$HOME/env\"",
    );
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    watched.succeeded("k1").await;
    let noted = machine.noted("env");
    let mut names: Vec<&str> = noted
        .lines()
        .filter_map(|it| Some(it.split_once('=')?.0))
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "ANTHROPIC_API_KEY",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
            "CLAUDE_CODE_MAX_RETRIES",
            "HOME",
            "LINEAR_ISSUE_ID",
            "LINEAR_ISSUE_IDENTIFIER",
            "LINEAR_ISSUE_TITLE",
            "PATH",
        ]
    );
}

#[tokio::test]
async fn a_script_that_fails_holds_up_nothing_and_is_named_where_the_agent_fails_too() {
    let machine = prepared("exit 4");
    machine.script("cyrus-setup.sh", "echo no database >&2; exit 3");
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    watched.succeeded("k1").await;
    assert_eq!(machine.noted("order"), "agent\n");

    let machine = Machine::new("exit 1");
    machine.script("cyrus-setup.sh", "echo no database >&2; exit 3");
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    let failure = watched.failed("k1").await;
    let message = failure.message;
    assert!(
        message.contains("cyrus-setup.sh` failed: exit code 3"),
        "{message}"
    );
    // What it said may be a secret, and the result is for everybody.
    assert!(!message.contains("database"), "{message}");
}

#[tokio::test]
async fn a_script_that_is_not_executable_is_left_out() {
    let machine = Machine::new(&format!("{WRITES}\n{CONTENT}"));
    let text = "#!/bin/bash\ntouch \"$HOME/ran\"\n";
    write_script(&machine.at("clone/cyrus-setup.sh"), text, 0o644);
    machine.publish();
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    watched.succeeded("k1").await;
    assert!(!machine.at("home/ran").exists());
}

#[test]
fn what_takes_too_long_or_prints_too_much_is_killed() {
    for (limit, body, why) in [
        ("seconds_max", "sleep 1000", "overran"),
        ("bytes_max", "yes", "flooded"),
    ] {
        let job = tempfile::tempdir().expect("a folder");
        let folder = job.path().join("setup");
        fs::create_dir(&folder).expect("a folder");
        let mut launch = json!({
            "program": "/bin/sh", "args": ["-c", body], "cwd": job.path(),
            "seconds_max": 300, "bytes_max": 1_000_000, "heeds_stop": true, "leg": null,
        });
        launch[limit] = json!(1);
        fs::write(folder.join("launch.json"), launch.to_string()).expect("written");
        fs::write(folder.join("input"), "").expect("written");
        let supervisor = Command::new(env!("CARGO_BIN_EXE_cyrus-job-supervisor"))
            .arg(&folder)
            .status();
        assert!(supervisor.expect("it runs").success());
        assert_eq!(read_json(&folder.join("exit.json"))["why"], why);
    }
}

#[tokio::test]
async fn what_a_script_leaves_in_the_worktree_is_not_delivered() {
    let setup = "mkdir -p 'a b'; echo secret > .env; echo x > 'a b/*x'; echo y >> README.md";
    let machine = Machine::new(&format!("{WRITES}; echo new > 'a b/new'\n{CONTENT}"));
    machine.script("cyrus-setup.sh", setup);
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    watched.succeeded("k1").await;
    let range = "main..cyrus/eng-1/api";
    let changed = machine.git("remote.git", &["diff", "--name-only", range]);
    assert_eq!(changed, "README.md\na b/new\nhello.txt\nprompt.txt");

    let machine = Machine::new(CONTENT);
    machine.script("cyrus-setup.sh", "echo secret > .env");
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    let failure = watched.failed("k1").await;
    assert!(failure.message.contains("changed nothing"), "{failure:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_a_script_leaves_running_is_gone_before_the_agent_begins() {
    let machine = Machine::new(&format!(
        "kill -0 $(cat \"$HOME/left.pid\") && echo lives > \"$HOME/lives\"\n{WRITES}\n{CONTENT}"
    ));
    machine.script(
        "cyrus-setup.sh",
        "setsid sleep 1000 > /dev/null 2>&1 & echo $! > \"$HOME/left.pid\"",
    );
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    watched.succeeded("k1").await;
    assert!(!machine.at("home/lives").exists());
    assert!(!lives(machine.noted("left.pid").trim()));
}

#[tokio::test]
async fn a_stop_ends_a_script_and_no_agent_begins() {
    let machine = Machine::new(CONTENT);
    machine.script("cyrus-setup.sh", "echo $$ > \"$HOME/started\"; sleep 1000");
    let mut started = machine.gate("started");
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    let script = started.hear().await;
    watched.stop("k1").await;
    let ending = watched.ended("k1").await;
    assert_eq!(
        ending.result.map_err(|it| it.class),
        Err(FailureClass::Cancelled)
    );
    assert_eq!((ending.cost_usd, machine.runs()), (Some(0.0), 0));
    assert!(!lives(&script));
}

#[test]
fn a_script_is_run_once_though_we_die_meanwhile() {
    let machine = Machine::new(&format!("{WRITES}\n{CONTENT}"));
    machine.script(
        "cyrus-setup.sh",
        "echo setup >> \"$HOME/order\"; echo $$ > \"$HOME/started\"; read go < \"$HOME/go\"",
    );
    until_killed(&machine, async |watched| {
        let mut started = machine.gate("started");
        watched.start(&machine.job("k1", TaskKind::Builder)).await;
        started.hear().await;
    });
    now(async {
        let mut go = machine.gate("go");
        let mut watched = machine.executor();
        watched.executor.resume().await.expect("resumed");
        go.tell().await;
        watched.succeeded("k1").await;
        assert_eq!(machine.noted("order"), "setup\n");
        assert_eq!(machine.runs(), 1);
    });
}

#[tokio::test]
async fn the_last_script_is_the_commits_own_and_not_what_the_agent_made_of_it() {
    let machine = Machine::new(&format!(
        "rm cyrus-teardown.sh; printf '#!/bin/bash\\ntouch \"$HOME/hacked\"\\n' > hacked.sh
        chmod +x hacked.sh; ln -s hacked.sh cyrus-teardown.sh\n{WRITES}\n{CONTENT}"
    ));
    machine.script(
        "cyrus-teardown.sh",
        "echo \"$LINEAR_ISSUE_IDENTIFIER $(cat hello.txt)\" >> \"$HOME/torn\"; exit 1",
    );
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    watched.succeeded("k1").await;
    watched.tidied(&machine).await;
    assert_eq!(machine.noted("torn"), "ENG-1 hello\n");
    assert!(!machine.at("home/hacked").exists());
}

#[tokio::test]
async fn worktrees_are_kept_as_long_as_that_is_wanted() {
    let mut machine = Machine::new(&format!("{WRITES}\n{CONTENT}"));
    machine.script("cyrus-teardown.sh", "echo torn >> \"$HOME/torn\"");
    machine.keep = true;
    let mut watched = machine.executor();
    for key in ["k1", "k2"] {
        watched.start(&machine.job(key, TaskKind::Scoper)).await;
        watched.succeeded(key).await;
    }
    assert_eq!(
        (machine.worktrees(), machine.noted("torn").as_str()),
        (2, "")
    );
    machine.keep = false;
    let mut watched = machine.executor();
    watched.executor.resume().await.expect("resumed");
    watched.tidied(&machine).await;
    assert_eq!(machine.noted("torn"), "torn\ntorn\n");
}
