//! The real binary on the world's stage: started, spoken to, killed, looked at.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use apollo_compiler::Schema;
use apollo_compiler::validation::Valid;
use jiff::SignedDuration;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command as AsyncCommand};
use tokio::time::timeout;
use world::codegen::Script;
use world::github::Ci;
use world::linear::{Delivery, NewIssue, schema};
use world::stage::{Stage, WEBHOOK_SECRET};

/// Nothing that is waited for takes longer, or the test has failed.
pub(crate) const LONG: Duration = Duration::from_secs(150);
pub(crate) const GLANCE: Duration = Duration::from_millis(20);
const CYRUS: &str = env!("CARGO_BIN_EXE_cyrus");

pub(crate) struct Town {
    pub(crate) stage: Stage,
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) http: reqwest::Client,
    service: Option<(Child, String)>,
    pub(crate) folder: TempDir,
}

/// Linear's own schema where it is at hand.
fn linear_schema() -> &'static Valid<Schema> {
    schema::found()
        .expect("the schema can be read")
        .unwrap_or_else(schema::embedded)
}

impl Town {
    /// A town whose agent is the scripted one of the demo, very fast.
    pub(crate) async fn new(strategy: &str, merge: &str, script: impl Script + 'static) -> Self {
        let checks = vec![Ci {
            name: "ci".into(),
            delay: SignedDuration::from_millis(100),
            conclusion: "success".into(),
        }];
        Self::with_checks(strategy, merge, script, checks).await
    }

    /// The same with checks of its own; none: a test sets them.
    pub(crate) async fn with_checks(
        strategy: &str,
        merge: &str,
        script: impl Script + 'static,
        checks: Vec<Ci>,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let stage = Stage::build(folder.path(), linear_schema(), script, checks)
            .await
            .expect("the stage");
        stage
            .configure(&stage.config(strategy, merge))
            .expect("a configuration");
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).expect("a folder");
        std::os::unix::fs::symlink(CYRUS, bin.join("claude")).expect("the scripted agent");
        std::fs::write(bin.join("speed"), "2000").expect("its speed");
        let mut variables = stage.variables(&bin.join("claude"));
        variables.insert("CYRUS_POLL_SECONDS".into(), "0.1".into());
        Self {
            stage,
            variables,
            http: reqwest::Client::new(),
            service: None,
            folder,
        }
    }

    /// Starts `cyrus start` and waits until it listens.
    pub(crate) async fn start(&mut self) {
        let mut child = AsyncCommand::new(CYRUS)
            .arg("start")
            .env_clear()
            .envs(&self.variables)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let url = timeout(LONG, async {
            while let Some(line) = lines.next_line().await.expect("a line") {
                if let Some((_, url)) = line.split_once("cyrus listens on ") {
                    return Some(url.trim().to_owned());
                }
                eprintln!("{line}");
            }
            None
        });
        let url = url.await.expect("it listens in time").expect("it listens");
        // Its log goes on; nobody reads it, and it must not block on that.
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                eprintln!("{line}")
            }
        });
        self.service = Some((child, url));
    }

    pub(crate) fn url(&self) -> &str {
        &self.service.as_ref().expect("it was started").1
    }

    /// SIGKILL, in the middle of whatever it does.
    pub(crate) async fn kill(&mut self) {
        let (mut child, _) = self.service.take().expect("it was started");
        child.kill().await.expect("it can be killed");
    }

    /// SIGTERM; returns whether it ended well.
    pub(crate) async fn terminate(&mut self) -> bool {
        let (mut child, _) = self.service.take().expect("it was started");
        let pid = child.id().expect("it runs").to_string();
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill");
        timeout(LONG, child.wait())
            .await
            .expect("it ends in time")
            .expect("it ended")
            .success()
    }

    /// A person hands an issue over; returns its identifier and session.
    pub(crate) async fn hand_over(&self, new: NewIssue) -> (String, String) {
        let (identifier, session, deliveries) = self.stage.hand_over(new).expect("an issue");
        for delivery in deliveries {
            assert_eq!(self.deliver(&delivery).await, 200);
        }
        (identifier, session)
    }

    pub(crate) async fn deliver(&self, delivery: &Delivery) -> u16 {
        let headers = delivery.headers(WEBHOOK_SECRET);
        self.post(delivery.body.clone(), &headers).await
    }

    pub(crate) async fn post(&self, body: Vec<u8>, headers: &[(&str, String)]) -> u16 {
        let mut request = self
            .http
            .post(format!("{}/linear-webhook", self.url()))
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.send().await.expect("an answer").status().as_u16()
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self
            .http
            .get(format!("{}{path}", self.url()))
            .send()
            .await
            .expect("an answer");
        (
            answer.status().as_u16(),
            answer.json().await.unwrap_or_default(),
        )
    }

    /// The issue's document, as soon as it is as it should be.
    pub(crate) async fn until(
        &self,
        identifier: &str,
        mut is: impl FnMut(&Value) -> bool,
    ) -> Value {
        let wait = async {
            loop {
                let (_, issue) = self.get(&format!("/api/v1/issues/{identifier}")).await;
                if is(&issue) {
                    return issue;
                }
                tokio::time::sleep(GLANCE).await;
            }
        };
        match timeout(LONG, wait).await {
            Ok(issue) => issue,
            Err(_) => panic!(
                "{identifier} has not come that far: {:#}",
                self.get(&format!("/api/v1/issues/{identifier}")).await.1
            ),
        }
    }

    /// The same, where also the last seq of its log counts.
    pub(crate) async fn until_seq(
        &self,
        identifier: &str,
        is: impl Fn(&Value, u64) -> bool,
    ) -> Value {
        let wait = async {
            loop {
                let seq = self.seq(identifier).await;
                let (_, issue) = self.get(&format!("/api/v1/issues/{identifier}")).await;
                if is(&issue, seq) {
                    return issue;
                }
                tokio::time::sleep(GLANCE).await;
            }
        };
        timeout(LONG, wait)
            .await
            .expect("it comes that far in time")
    }

    /// The last seq of the issue's log.
    pub(crate) async fn seq(&self, identifier: &str) -> u64 {
        let (_, log) = self.get(&format!("/api/v1/issues/{identifier}/log")).await;
        log["events"]
            .as_array()
            .and_then(|it| it.last())
            .and_then(|it| it["seq"].as_u64())
            .unwrap_or(0)
    }

    /// Runs another command of the binary in the same surroundings.
    pub(crate) fn cyrus(&self, arguments: &[&str]) -> Output {
        Command::new(CYRUS)
            .args(arguments)
            .env_clear()
            .envs(&self.variables)
            .output()
            .expect("the binary runs")
    }

    /// What was said last in a session: its type and its text.
    pub(crate) fn last_word(&self, session: &str) -> (String, String) {
        let linear = self.stage.linear();
        let last = linear
            .session(session)
            .expect("the session")
            .activities
            .last()
            .cloned();
        last.map_or_else(Default::default, |it| (it.kind().to_owned(), it.body()))
    }

    /// Nothing was done twice: runs, merges, last words, agents.
    pub(crate) fn assert_once(&self, session: &str) {
        self.stage.codegen.lock().check().expect("one run per key");
        self.stage
            .github
            .lock()
            .check()
            .expect("one merge per pull request, at the commit named");
        let linear = self.stage.linear();
        let said = &linear.session(session).expect("the session").activities;
        let last_words = said
            .iter()
            .filter(|it| matches!(it.kind(), "response" | "error"))
            .count();
        assert_eq!(last_words, 1, "{said:#?}");
        for job in self.jobs() {
            let told = std::fs::read(job.join("job.json")).expect("what it is");
            let told: Value = serde_json::from_slice(&told).expect("a job");
            // Commands need no agent.
            if told["job"]["kind"] == "verifier" {
                continue;
            }
            let output = std::fs::read_to_string(job.join("leg-1/output")).unwrap_or_default();
            assert_eq!(
                output.matches("\"subtype\":\"init\"").count(),
                1,
                "one agent in {}",
                job.display()
            );
        }
    }

    /// The folders of the local jobs.
    pub(crate) fn jobs(&self) -> Vec<PathBuf> {
        let folder = self.stage.home().join("jobs");
        let entries =
            std::fs::read_dir(folder).map(|it| it.flatten().map(|it| it.path()).collect());
        let jobs: Vec<PathBuf> = entries.unwrap_or_default();
        jobs.into_iter().filter(|it| it.is_dir()).collect()
    }

    /// All that stands on the base branch of the repository, by path.
    pub(crate) fn merged_tree(&self) -> BTreeMap<String, String> {
        let remote = self.stage.remote();
        let listed = Command::new("git")
            .arg("--git-dir")
            .arg(remote.path())
            .args(["ls-tree", "-r", "--name-only", world::stage::BASE])
            .output()
            .expect("git");
        assert!(listed.status.success(), "the base branch is there");
        let paths = String::from_utf8(listed.stdout).expect("names");
        let text = |path: &str| self.merged_file(path).expect("it is listed");
        paths
            .lines()
            .map(|path| (path.to_owned(), text(path)))
            .collect()
    }

    /// A file on the base branch of the repository.
    pub(crate) fn merged_file(&self, path: &str) -> Option<String> {
        self.stage
            .remote()
            .file(world::stage::BASE, path)
            .expect("git answers")
    }
}

/// An issue that asks for the demo's plan.
pub(crate) fn planned_issue() -> NewIssue {
    NewIssue {
        title: "Add sign-in with passkeys".into(),
        description: "- [ ] the API\n- [ ] the page\n".into(),
        ..NewIssue::default()
    }
}

/// The task's state in an issue's document.
pub(crate) fn state(issue: &Value, task: &str) -> String {
    let tasks = issue["tasks"].as_array().cloned().unwrap_or_default();
    let found = tasks.iter().find(|it| it["id"] == task);
    found
        .and_then(|it| it["state"].as_str())
        .unwrap_or_default()
        .to_owned()
}

pub(crate) fn is_done(issue: &Value) -> bool {
    issue["phase"] == "done"
}
