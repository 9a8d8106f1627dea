//! A machine elsewhere: a real `cyrus runner` with a home and an agent of its
//! own, that asks the function which hears for work.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::cloud::{Cloud, cyrus, until};

/// An agent that says what it begins, waits for a word with what is surveyed,
/// and changes a file where that is asked for.
const AGENT: &str = r#"#!/bin/sh
task=$(sed -n 's/^Task: \([^ ]*\).*/\1/p')
answer='"result":"It is done."'
echo '{"type":"system","subtype":"init","session_id":"s","tools":[],"mcp_servers":[]}'
echo "$task" >> "$HOME/begun"
case "$task" in
plan) answer="\"structured_output\":$(cat "$HOME/plan.json")" ;;
survey) while [ ! -e "$HOME/go" ]; do sleep 0.05; done ;;
door) echo done > door.txt ;;
esac
echo '{"type":"result","subtype":"success","is_error":false,"total_cost_usd":0.25,'"$answer"'}'
"#;

pub(crate) struct Machine {
    home: PathBuf,
    variables: BTreeMap<String, String>,
    process: Option<Child>,
    /// Where its jobs are pushed to; without it asks for them.
    listen: Option<String>,
}

impl Machine {
    /// Its agent answers with this plan where it is asked for one.
    pub(crate) fn new(cloud: &Cloud, plan: &Value) -> Self {
        let home = cloud.folder().join("mac");
        fs::create_dir(&home).expect("a home");
        let agent = home.join("agent");
        fs::write(&agent, AGENT).expect("written");
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).expect("made executable");
        fs::write(home.join("plan.json"), plan.to_string()).expect("written");
        fs::write(home.join("config.json"), cloud.config().to_string()).expect("written");
        let mut variables = cloud.stage.variables(&agent);
        // It needs nothing of these.
        variables.retain(|name, _| !name.starts_with("LINEAR") && !name.starts_with("CODEGEN"));
        let text = home.to_string_lossy().into_owned();
        for (name, value) in [
            ("HOME", text.clone()),
            ("CYRUS_HOME", text),
            ("CYRUS_CONTROL_URL", cloud.url()),
        ] {
            variables.insert(name.into(), value);
        }
        let token = cloud.variables["CYRUS_RUNNER_TOKEN"].clone();
        variables.insert("CYRUS_RUNNER_TOKEN".into(), token);
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
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.join("log"));
        let child = Command::new(cyrus())
            .arg("runner")
            .args(self.listen.iter().flat_map(|it| ["--listen", it]))
            .env_clear()
            .envs(&self.variables)
            .stderr(log.expect("a log"))
            .kill_on_drop(true)
            .spawn();
        self.process = Some(child.expect("the binary starts"));
    }

    /// SIGKILL; its agents work on.
    pub(crate) async fn kill(&mut self) {
        let mut child = self.process.take().expect("it was started");
        child.kill().await.expect("it can be killed");
    }

    /// An agent has begun with this task.
    pub(crate) async fn until_begun(&self, task: &str) {
        let begun = || async { self.begun().iter().any(|it| it == task).then_some(()) };
        until(&format!("an agent begins with `{task}`"), begun).await;
    }

    /// The tasks that agents have begun with.
    pub(crate) fn begun(&self) -> Vec<String> {
        let text = fs::read_to_string(self.home.join("begun")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The word that the survey waits for.
    pub(crate) fn go(&self) {
        fs::write(self.home.join("go"), "").expect("written");
    }

    /// What it has logged, over all its starts.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.home.join("log")).unwrap_or_default()
    }

    /// It has nothing left that it would have to say.
    pub(crate) async fn until_free(&self) {
        let leases = self.home.join("runner/leases");
        let free = || async {
            let left = fs::read_dir(&leases).map_or(0, Iterator::count);
            (left == 0).then_some(())
        };
        until("all leases are given back", free).await;
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("──── cyrus runner\n{}", self.log());
        }
    }
}

/// A task of a plan.
pub(crate) fn task(id: &str, kind: &str, complexity: &str, on: &[&str]) -> Value {
    json!({
        "id": id, "title": format!("The {id}"), "kind": kind, "complexity": complexity,
        "prompt": format!("See to the {id}."), "depends_on": on,
    })
}
