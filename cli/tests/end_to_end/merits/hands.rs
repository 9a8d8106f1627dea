//! Agents that play a part a turn, and a CI that a test conducts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use jiff::Timestamp;
use serde_json::{Value, json};
use world::codegen::Script;
use world::github::{Ci, Comment, Pull, State};
use world::stage::SLUG;

use crate::town::Town;

/// The check that the repository requires.
pub(super) const CHECK: &str = "ci";

/// Enough for some repairs, and for all tasks at once.
const TASK_USD_MAX: f64 = 2.0;
const ISSUE_USD_MAX: f64 = 20.0;
/// Whoever has asked so often since something was set knows of it.
const ASKED: usize = 4;

/// Speaks as Claude Code does, in a session of the task's own. What it does in each
/// turn of a task stands in `$HOME/do-TASK-TURN`; what that prints is its answer.
const AGENT: &str = r#"#!/bin/sh
prompt=$(cat)
case "$*" in
  *--resume*) task=$(printf '%s\n' "$*" | sed -n 's/.*--resume s-\([^ ]*\).*/\1/p') ;;
  *) task=$(printf '%s\n' "$prompt" | sed -n 's/^Task: \([^ ]*\).*/\1/p' | head -n 1) ;;
esac
echo "$*" >> "$HOME/turns-$task"
turn=$(($(wc -l < "$HOME/turns-$task")))
printf '%s\n' "$prompt" > "$HOME/told-$task-$turn"
printf '{"type":"system","subtype":"init","session_id":"s-%s","tools":[],"mcp_servers":[]}\n' "$task"
answer=$(sh "$HOME/do-$task-$turn")
printf '{"type":"result","subtype":"success","is_error":false,"session_id":"s-%s","result":"It is done.","total_cost_usd":0.1,"structured_output":%s}\n' "$task" "${answer:-null}"
"#;

impl Town {
    /// A town of these agents. `shape` changes its repository; `checks`: CI that
    /// works by itself, else [`Checks`] does. Repairs are paid for.
    pub(super) async fn of_merits(
        strategy: &str,
        script: impl Script + 'static,
        checks: Vec<Ci>,
        shape: impl FnOnce(&mut Value),
    ) -> Self {
        let mut town = Self::with_checks(strategy, "auto", script, checks).await;
        let mut config = town.stage.config(strategy, "auto");
        config["limits"] =
            json!({ "maxCostPerTask": TASK_USD_MAX, "maxCostPerIssue": ISSUE_USD_MAX });
        shape(&mut config["repositories"][0]);
        town.stage.configure(&config).expect("a configuration");
        let agent = town.folder.path().join("bin/agent");
        fs::write(&agent, AGENT).expect("written");
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).expect("executable");
        let agent = agent.to_string_lossy().into_owned();
        town.variables.insert("CLAUDE_BIN".into(), agent);
        town
    }

    /// What the agent of a task does in one of its turns.
    pub(super) fn acts(&self, task: &str, turn: usize, script: &str) {
        let file = self.folder.path().join(format!("home/do-{task}-{turn}"));
        fs::write(file, script).expect("written");
    }

    /// What the planner answers.
    pub(super) fn lays(&self, tasks: &[(&str, &str)]) {
        let task = |(id, complexity): &(&str, &str)| {
            json!({ "id": id, "title": format!("The {id}"), "kind": "builder", "complexity": complexity,
                    "prompt": format!("Write the {id}.") })
        };
        let tasks: Vec<Value> = tasks.iter().map(task).collect();
        let plan = json!({ "summary": "Side by side.", "tasks": tasks });
        self.acts("plan", 1, &format!("cat <<'END'\n{plan}\nEND\n"));
    }

    /// What the agent of a task was told in one of its turns.
    pub(super) fn told(&self, task: &str, turn: usize) -> String {
        let file = self.folder.path().join(format!("home/told-{task}-{turn}"));
        fs::read_to_string(file).expect("it had that turn")
    }

    /// The arguments of each turn of a task's agent.
    pub(super) fn turns(&self, task: &str) -> Vec<String> {
        let file = self.folder.path().join(format!("home/turns-{task}"));
        let lines = fs::read_to_string(file).unwrap_or_default();
        lines.lines().map(str::to_owned).collect()
    }

    /// All pull requests, oldest first.
    pub(super) fn pulls(&self) -> Vec<Pull> {
        let mut github = self.stage.github.lock();
        let mut pulls = github
            .pulls(SLUG, None, false, Timestamp::now())
            .expect("the repository");
        pulls.reverse();
        pulls
    }

    /// The pull request of a task.
    pub(super) fn pull_of(&self, identifier: &str, task: &str) -> Pull {
        let marker = format!("<!-- cyrus:{identifier}/{task} -->");
        let pulls = self.pulls();
        let ours = |it: &&Pull| it.head_slug == SLUG && it.body.contains(&marker);
        let found = pulls.iter().find(ours).cloned();
        found.unwrap_or_else(|| panic!("no pull request of {task} in {pulls:#?}"))
    }

    pub(super) fn comments(&self, number: u64) -> Vec<Comment> {
        let mut github = self.stage.github.lock();
        github.comments(SLUG, number).expect("the pull request")
    }

    /// A file at any commit.
    pub(super) fn file_at(&self, sha: &str, path: &str) -> Option<String> {
        self.stage.remote().file(sha, path).expect("git answers")
    }

    /// Waits until a pull request has been looked at anew, by whoever began after this.
    pub(super) async fn looked_at(&self, identifier: &str, number: u64) {
        let asked = || self.stage.github.lock().asked(SLUG, number);
        let before = asked();
        self.until(identifier, |_| asked() >= before + ASKED).await;
    }

    /// Why something was decided about a task, each time, as `explain` tells it.
    pub(super) async fn decided(
        &self,
        identifier: &str,
        task: &str,
        decision: &str,
    ) -> Vec<String> {
        let path = format!("/api/v1/issues/{identifier}/explain");
        let (_, document) = self.get(&path).await;
        let about = format!("task {task}");
        let decisions = document["decisions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        decisions
            .iter()
            .filter(|it| it["about"] == about.as_str() && it["decision"] == decision)
            .map(|it| it["because"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

/// The CI of a test: it judges every head of ours once.
#[derive(Default)]
pub(super) struct Checks {
    /// The heads that passed, and when.
    pub(super) passed: BTreeMap<String, Timestamp>,
    failed: Vec<String>,
}

impl Checks {
    /// Judges what is new. `judge`: does this head of this branch pass? `None`: its
    /// check still runs.
    pub(super) fn work(
        &mut self,
        town: &Town,
        judge: impl Fn(&Pull) -> Option<Result<(), String>>,
    ) {
        for pull in town.pulls() {
            let sha = &pull.head_sha;
            let known = self.passed.contains_key(sha) || self.failed.contains(sha);
            if pull.state != State::Open || pull.head_slug != SLUG || known {
                continue;
            }
            let found = judge(&pull);
            let mut github = town.stage.github.lock();
            let mut set = |conclusion| {
                github
                    .set_check(SLUG, sha, CHECK, conclusion)
                    .expect("the repository");
            };
            match found {
                None => set(None),
                Some(Ok(())) => {
                    set(Some("success"));
                    self.passed.insert(sha.clone(), Timestamp::now());
                }
                Some(Err(log)) => {
                    set(Some("failure"));
                    github
                        .set_log(SLUG, sha, CHECK, &log)
                        .expect("the repository");
                    self.failed.push(sha.clone());
                }
            }
        }
    }
}
