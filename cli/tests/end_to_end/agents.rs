//! A town whose agents do what a test tells them: they plan from a file, work
//! when they may, and have a price.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use tokio::time::sleep;
use world::linear::{Activity, Delivery, NewIssue};

use crate::cloud;
use crate::town::Town;

/// What a plan costs, USD …
pub(crate) const PLAN_USD: f64 = 0.25;
/// … and what every other run does.
pub(crate) const TASK_USD: f64 = 1.0;
/// A limit of a day is tested within one day: so much of it has to be left.
const DAY_LEFT_SECONDS: i64 = 180;

/// Speaks as Claude Code does, reads the whole prompt, and keeps what it read.
/// In `$HOME`: `plan.json`, which it answers for a plan, `go`, which everything else
/// waits for, and `broken-TASK`, with which it changes nothing.
const AGENT: &str = r#"#!/bin/sh
prompt=$(cat)
task=$(printf '%s\n' "$prompt" | sed -n 's/^Task: \([^ ]*\).*/\1/p' | head -n 1)
printf '%s\n' "$prompt" > "$HOME/prompt-$task"
echo '{"type":"system","subtype":"init","session_id":"s","tools":[],"mcp_servers":[]}'
echo "$task" >> "$HOME/begun"
if [ "$task" = plan ]; then
  plan=$(cat "$HOME/plan.json")
  printf '{"type":"result","subtype":"success","is_error":false,"result":"","total_cost_usd":PLAN_USD,"structured_output":%s}\n' "$plan"
  exit
fi
while [ ! -e "$HOME/go" ]; do sleep 0.05; done
[ -e "$HOME/broken-$task" ] || echo done > "$task.txt"
echo '{"type":"result","subtype":"success","is_error":false,"result":"It is done.","total_cost_usd":TASK_USD}'
"#;

impl Town {
    /// A town of these agents. `config` replaces or adds whole sections.
    pub(crate) async fn of_agents(strategy: &str, config: Value) -> Self {
        let mut town = Self::new(strategy, "auto", cloud).await;
        let mut whole = town.stage.config(strategy, "auto");
        for (section, value) in config.as_object().expect("sections") {
            whole[section] = value.clone();
        }
        town.stage.configure(&whole).expect("a configuration");
        let agent = town.folder.path().join("bin/agent");
        let script = AGENT
            .replace("PLAN_USD", &PLAN_USD.to_string())
            .replace("TASK_USD", &TASK_USD.to_string());
        fs::write(&agent, script).expect("written");
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).expect("executable");
        let agent = agent.to_string_lossy().into_owned();
        town.variables.insert("CLAUDE_BIN".into(), agent);
        town
    }

    /// What the next plans are.
    pub(crate) fn plans(&self, tasks: &[&str]) {
        let task = |id: &&str| json!({ "id": id, "title": format!("The {id}"), "kind": "builder", "prompt": format!("Write the {id}.") });
        let tasks: Vec<Value> = tasks.iter().map(task).collect();
        let plan = json!({ "summary": "All at once.", "tasks": tasks });
        self.write("plan.json", &plan.to_string());
    }

    /// From now on the agents work.
    pub(crate) fn go(&self) {
        self.write("go", "");
    }

    /// The agent of a task changes nothing, or does again.
    pub(crate) fn breaks(&self, task: &str, broken: bool) {
        let name = format!("broken-{task}");
        if broken {
            self.write(&name, "");
        } else {
            fs::remove_file(self.folder.path().join("home").join(name)).expect("it was broken");
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join("home").join(name), text).expect("written");
    }

    /// What the agent of a task was told last.
    pub(crate) fn prompt_of(&self, task: &str) -> String {
        let file = self.folder.path().join(format!("home/prompt-{task}"));
        fs::read_to_string(file).expect("it was started")
    }

    /// The tasks whose agents have begun, plans aside, in order; each as often as it was.
    pub(crate) fn begun(&self) -> Vec<String> {
        let lines = fs::read_to_string(self.folder.path().join("home/begun")).unwrap_or_default();
        let tasks = lines.lines().filter(|it| *it != "plan");
        tasks.map(str::to_owned).collect()
    }

    /// A command of the binary about the running service: its status and what it says.
    pub(crate) fn command(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let mut whole = vec!["--url", self.url()];
        whole.extend(arguments);
        let output = self.cyrus(&whole);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        (output.status.code(), said)
    }

    /// One that has to go well.
    pub(crate) fn well(&self, arguments: &[&str]) -> String {
        let (code, said) = self.command(arguments);
        assert_eq!(code, Some(0), "cyrus {}: {said}", arguments.join(" "));
        said
    }

    /// The document that a command prints.
    pub(crate) fn document(&self, arguments: &[&str]) -> Value {
        let mut whole = arguments.to_vec();
        whole.push("--json");
        serde_json::from_str(&self.well(&whole)).expect("a document")
    }

    /// What the app has said in a session, of one kind.
    pub(crate) fn said(&self, session: &str, kind: &str) -> Vec<Activity> {
        let linear = self.stage.linear();
        let activities = &linear.session(session).expect("the session").activities;
        activities
            .iter()
            .filter(|it| it.kind() == kind)
            .cloned()
            .collect()
    }

    /// How many thoughts in a session have these words.
    pub(crate) fn thoughts(&self, session: &str, words: &str) -> usize {
        let thoughts = self.said(session, "thought");
        thoughts
            .iter()
            .filter(|it| it.body().contains(words))
            .count()
    }

    /// A person writes in a session.
    pub(crate) async fn answer(&self, session: &str, text: &str) {
        let delivery = self
            .stage
            .linear()
            .prompt(session, text, Timestamp::now())
            .expect("a prompt");
        assert_eq!(self.deliver(&delivery).await, 200);
    }

    /// A person picks one of the answers that the last question offers.
    pub(crate) async fn pick(&self, session: &str, choice: &str) {
        let picked: Delivery = self
            .stage
            .linear()
            .pick(session, choice, Timestamp::now())
            .expect("the question offers it");
        assert_eq!(self.deliver(&picked).await, 200);
    }
}

/// An issue that is planned.
pub(crate) fn large_issue() -> NewIssue {
    NewIssue {
        title: "A house".into(),
        labels: vec!["orchestrator".into()],
        ..NewIssue::default()
    }
}

/// How people are offered to answer.
pub(crate) fn offered(question: &Activity) -> Vec<String> {
    question.options.iter().map(|it| it.value.clone()).collect()
}

/// The task in an issue's document.
pub(crate) fn task<'a>(issue: &'a Value, id: &str) -> &'a Value {
    let tasks = issue["tasks"].as_array().expect("tasks");
    let found = tasks.iter().find(|it| it["id"] == id);
    found.unwrap_or_else(|| panic!("no task {id} in {issue:#}"))
}

/// Does the issue wait for something that is told with these words?
pub(crate) fn waits(issue: &Value, words: &str) -> bool {
    issue["waiting_for"]
        .as_str()
        .is_some_and(|it| it.contains(words))
}

/// Waits, where the day of UTC is about to end, for the next one.
pub(crate) async fn within_a_day() {
    let now = Timestamp::now().to_zoned(TimeZone::UTC);
    let tomorrow = now.tomorrow().and_then(|it| it.start_of_day());
    let left = tomorrow
        .expect("there is a tomorrow")
        .timestamp()
        .as_second()
        - Timestamp::now().as_second();
    if left < DAY_LEFT_SECONDS {
        sleep(std::time::Duration::from_secs(left.unsigned_abs() + 1)).await;
    }
}
