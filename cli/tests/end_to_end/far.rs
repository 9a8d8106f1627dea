//! The control plane in one process, runners in others, with homes of their own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::process::{Child, Command as AsyncCommand};
use tokio::time::{sleep, timeout};
use world::linear::NewIssue;

use crate::cloud;
use crate::town::{GLANCE, LONG, Town, is_done, planned_issue, state};

const CYRUS: &str = env!("CARGO_BIN_EXE_cyrus");
pub(crate) const TOKEN: &str = "the token of the runners";
/// A lease lasts three of these.
const HEARTBEAT_SECONDS: f64 = 0.5;
/// An agent that says when it begins, works when it may, and changes one file.
const PATIENT: &str = r#"#!/bin/sh
read -r prompt
exec 3<&0
(while read -r line <&3; do echo "$line" >> "$HOME/heard"; done) &
echo '{"type":"system","subtype":"init","session_id":"s","tools":[],"mcp_servers":[]}'
echo begun >> "$HOME/begun"
while [ ! -e "$HOME/go" ]; do sleep 0.05; done
echo done > done.txt
echo done > "$(basename "$PWD").txt"
echo '{"type":"result","subtype":"success","is_error":false,"result":"It is done.","total_cost_usd":0.25}'
# As the real one: it ends when nobody has more to say.
wait
"#;

/// A runner's machine.
pub(crate) struct Machine {
    home: PathBuf,
    pub(crate) variables: BTreeMap<String, String>,
    process: Option<Child>,
    /// Where jobs are pushed to; without it asks for them.
    listen: Option<String>,
}

impl Machine {
    pub(crate) fn new(town: &Town, name: &str) -> Self {
        let address = town.url().trim_start_matches("http://");
        Self::at(town, name, address)
    }

    /// For a control plane that will be at this address.
    pub(crate) fn at(town: &Town, name: &str, control: &str) -> Self {
        let home = town.folder.path().join(name);
        fs::create_dir(&home).expect("a home");
        let mut config = town.stage.config("local-only", "auto");
        config["runner"] = json!({ "heartbeatSeconds": HEARTBEAT_SECONDS, "concurrency": 2 });
        config["repositories"][0]["workspaceBaseDir"] = json!(home.join("worktrees"));
        fs::write(home.join("config.json"), config.to_string()).expect("written");
        let mut variables = town.variables.clone();
        // It needs nothing of these.
        variables.retain(|name, _| !name.starts_with("LINEAR") && !name.starts_with("CODEGEN"));
        variables.insert("CYRUS_HOME".into(), home.to_string_lossy().into_owned());
        variables.insert("CYRUS_CONTROL_URL".into(), format!("http://{control}"));
        Self {
            home,
            variables,
            process: None,
            listen: None,
        }
    }

    pub(crate) fn listen(&mut self, address: &str) {
        self.listen = Some(address.to_owned());
    }

    pub(crate) fn start(&mut self) {
        let listen = self.listen.iter().flat_map(|it| ["--listen", it]);
        let child = AsyncCommand::new(CYRUS)
            .arg("runner")
            .args(listen)
            .env_clear()
            .envs(&self.variables)
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn();
        self.process = Some(child.expect("the binary starts"));
    }

    pub(crate) async fn kill(&mut self) {
        let mut child = self.process.take().expect("it was started");
        child.kill().await.expect("it can be killed");
    }

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().and_then(Child::id);
        let pid = pid.expect("it runs").to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// SIGTERM; whether it ended well.
    pub(crate) async fn terminate(&mut self) -> bool {
        self.signal("-TERM");
        let mut child = self.process.take().expect("it was started");
        let ended = timeout(LONG, child.wait()).await.expect("it ends in time");
        ended.expect("it ended").success()
    }

    pub(crate) fn jobs(&self) -> Vec<PathBuf> {
        folders(&self.home.join("runner/jobs"))
    }

    pub(crate) fn leases(&self) -> usize {
        fs::read_dir(self.home.join("runner/leases")).map_or(0, Iterator::count)
    }

    /// What it was told of the only job that it has.
    pub(crate) fn lease(&self) -> Value {
        let leases = folders(&self.home.join("runner/leases"));
        assert_eq!(leases.len(), 1, "{leases:?}");
        serde_json::from_slice(&fs::read(&leases[0]).expect("read")).expect("JSON")
    }

    /// What it calls itself.
    pub(crate) fn name(&self) -> String {
        let number = fs::read_to_string(self.home.join("runner/number")).expect("a number");
        let host = Command::new("uname")
            .arg("-n")
            .output()
            .expect("uname runs");
        let host = String::from_utf8_lossy(&host.stdout).trim().to_owned();
        format!("{host}-{}", number.trim())
    }

    /// The worktrees that are there.
    pub(crate) fn worktrees(&self) -> usize {
        fs::read_dir(self.home.join("worktrees")).map_or(0, Iterator::count)
    }

    /// No job had two agents.
    pub(crate) fn assert_one_agent_each(&self, jobs: usize) {
        assert_eq!(self.jobs().len(), jobs, "{:?}", self.jobs());
        for job in self.jobs() {
            let output = fs::read_to_string(job.join("leg-1/output")).unwrap_or_default();
            let agents = output.matches("\"subtype\":\"init\"").count();
            assert_eq!(agents, 1, "in {}", job.display());
        }
    }
}

fn folders(path: &PathBuf) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).map(|it| it.flatten().map(|it| it.path()).collect());
    entries.unwrap_or_default()
}

pub(crate) async fn until(what: &str, is: impl Fn() -> bool) {
    let wait = async {
        while !is() {
            sleep(GLANCE).await;
        }
    };
    timeout(LONG, wait)
        .await
        .unwrap_or_else(|_| panic!("{what} in time"));
}

/// A service without agents of its own.
pub(crate) async fn control_plane() -> Town {
    control_plane_with_heartbeats(HEARTBEAT_SECONDS).await
}

/// The same, which wants to hear of its runners this often: a lease is three times as long.
pub(crate) async fn control_plane_with_heartbeats(heartbeat_seconds: f64) -> Town {
    let mut town = Town::new("local-only", "auto", cloud).await;
    let mut config = town.stage.config("local-only", "auto");
    config["runner"] = json!({ "concurrency": 0, "heartbeatSeconds": heartbeat_seconds });
    town.stage.configure(&config).expect("a configuration");
    town.variables
        .insert("CYRUS_RUNNER_TOKEN".into(), TOKEN.into());
    town
}

/// One with an agent that waits for a word.
pub(crate) async fn patient_control_plane() -> Town {
    let mut town = control_plane().await;
    // Where the real program would lie: so it is spoken to while it works.
    let agent = town.folder.path().join("bin/claude-code/patient");
    fs::create_dir(town.folder.path().join("bin/claude-code")).expect("a folder");
    fs::write(&agent, PATIENT).expect("written");
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).expect("made executable");
    town.variables
        .insert("CLAUDE_BIN".into(), agent.to_string_lossy().into_owned());
    town
}

pub(crate) fn small_issue() -> NewIssue {
    NewIssue {
        title: "Mend the door".into(),
        ..NewIssue::default()
    }
}

pub(crate) fn begun(town: &Town) -> usize {
    let file = town.folder.path().join("home/begun");
    fs::read_to_string(file).map_or(0, |it| it.lines().count())
}

pub(crate) fn go(town: &Town) {
    fs::write(town.folder.path().join("home/go"), "").expect("written");
}

pub(crate) fn all_tasks_are_merged(issue: &Value) {
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    for task in ["api", "page", "handbook", "tests"] {
        assert_eq!(state(issue, task), "merged");
    }
    for task in issue["tasks"].as_array().expect("tasks") {
        assert_eq!(task["executor"], "local");
        assert_eq!(task["cost_is_estimate"], false, "the agent's own figure");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_elsewhere_does_the_work() {
    let mut town = control_plane().await;
    town.start().await;
    let mut machine = Machine::new(&town, "mac");
    machine.start();
    let (identifier, session) = town.hand_over(planned_issue()).await;
    let issue = town.until(&identifier, is_done).await;
    all_tasks_are_merged(&issue);
    town.assert_once(&session);
    assert_eq!(town.jobs().len(), 0, "no agent ran at the control plane");
    until("all leases are given back", || machine.leases() == 0).await;
    machine.assert_one_agent_each(5);
    assert!(machine.terminate().await, "it ends well when asked to");
    assert!(town.terminate().await);
    // Nothing of ours is near an agent.
    for job in machine.jobs() {
        for file in folders(&job) {
            let text = fs::read(&file).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).into_owned();
            assert!(!text.contains(TOKEN), "the token is in {}", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_is_killed_goes_on_where_it_was() {
    let mut town = patient_control_plane().await;
    town.start().await;
    let mut machine = Machine::new(&town, "mac");
    machine.start();
    let (identifier, session) = town.hand_over(small_issue()).await;
    until("an agent begins", || begun(&town) == 1).await;
    town.until(&identifier, |it| state(it, "main") == "running")
        .await;
    machine.kill().await;
    machine.start();
    // And once while the agent ends.
    machine.kill().await;
    go(&town);
    until("the agent ends without us", || {
        machine
            .jobs()
            .iter()
            .any(|it| it.join("leg-1/exit.json").exists())
    })
    .await;
    machine.start();
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(issue["tasks"][0]["attempt"], 1);
    assert_eq!((begun(&town), machine.jobs().len()), (1, 1));
    assert_eq!(town.merged_file("done.txt").as_deref(), Some("done\n"));
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_is_asked_to_end_leaves_its_agents_at_work() {
    let mut town = patient_control_plane().await;
    town.start().await;
    let mut machine = Machine::new(&town, "mac");
    machine.start();
    let (identifier, session) = town.hand_over(small_issue()).await;
    until("an agent begins", || begun(&town) == 1).await;
    assert!(machine.terminate().await);
    assert_eq!(machine.leases(), 1);
    let exit = machine.jobs()[0].join("leg-1/exit.json");
    assert!(!exit.exists(), "the agent works on");
    go(&town);
    until("the agent ends without us", || exit.exists()).await;
    machine.start();
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(begun(&town), 1);
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sleeps_through_a_lease_pushes_nothing_when_waking_up() {
    let mut town = patient_control_plane().await;
    town.start().await;
    let mut sleeper = Machine::new(&town, "sleeper");
    sleeper.start();
    let (identifier, session) = town.hand_over(small_issue()).await;
    until("an agent begins", || begun(&town) == 1).await;
    sleeper.signal("-STOP");
    let mut other = Machine::new(&town, "other");
    other.start();
    until("another one has the job", || begun(&town) == 2).await;
    // Both agents end now; the sleeper's with nobody to take its work.
    go(&town);
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(issue["tasks"][0]["attempt"], 1);
    let exit = sleeper.jobs()[0].join("leg-1/exit.json");
    until("the sleeper's agent ends", || exit.exists()).await;
    sleeper.signal("-CONT");
    until("the sleeper gives up", || {
        sleeper.leases() == 0 && sleeper.jobs()[0].join("result.json").exists()
    })
    .await;
    let result = fs::read_to_string(sleeper.jobs()[0].join("result.json")).expect("a result");
    assert!(result.contains("cancelled"), "{result}");
    assert_eq!(town.stage.github.lock().merges().len(), 1);
    let branches = Command::new("git")
        .args(["branch", "--list", "cyrus/*"])
        .current_dir(town.folder.path().join("remote.git"))
        .output()
        .expect("git runs");
    let branches = String::from_utf8_lossy(&branches.stdout).into_owned();
    assert!(branches.lines().count() <= 1, "{branches}");
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_reaches_an_agent_elsewhere() {
    let mut town = patient_control_plane().await;
    town.start().await;
    let mut machine = Machine::new(&town, "mac");
    machine.start();
    let (identifier, session) = town.hand_over(small_issue()).await;
    until("an agent begins", || begun(&town) == 1).await;
    town.until(&identifier, |it| state(it, "main") == "running")
        .await;
    let stop = town
        .stage
        .linear()
        .stop(&session, Timestamp::now())
        .expect("a stop");
    assert_eq!(town.deliver(&stop).await, 200);
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "cancelled", "{issue:#}");
    assert!(
        machine.jobs()[0].join("leg-1/exit.json").exists(),
        "its agent is gone"
    );
    until("its lease is given back", || machine.leases() == 0).await;
    assert_eq!(town.stage.github.lock().merges().len(), 0);
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_that_cannot_work_says_why() {
    let mut town = control_plane().await;
    town.start().await;
    let machine = Machine::new(&town, "mac");
    let run = |arguments: &[&str], change: &dyn Fn(&mut BTreeMap<String, String>)| {
        let mut variables = machine.variables.clone();
        change(&mut variables);
        let output = Command::new(CYRUS)
            .arg("runner")
            .args(arguments)
            .env_clear()
            .envs(variables)
            .output()
            .expect("the binary runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        said
    };
    let without = |name: &'static str| {
        move |variables: &mut BTreeMap<String, String>| drop(variables.remove(name))
    };
    for name in ["CYRUS_RUNNER_TOKEN", "CYRUS_CONTROL_URL"] {
        assert!(run(&[], &without(name)).contains(name), "{name}");
    }
    let said = run(&["--control", "http://cyrus.example"], &|_| ());
    assert!(
        said.contains("--control") && said.contains("https://"),
        "{said}"
    );
    let said = run(&[], &|it| {
        drop(it.insert("CLAUDE_BIN".into(), "/nowhere/claude".into()))
    });
    assert!(said.contains("CLAUDE_BIN"), "{said}");
    // And where nobody has set a token, there is no such door.
    assert!(town.terminate().await);
    town.variables.remove("CYRUS_RUNNER_TOKEN");
    town.start().await;
    let lease = format!("{}/runner/v1/lease", town.url());
    let answer = town
        .http
        .post(lease)
        .body("{}")
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 404);
}
