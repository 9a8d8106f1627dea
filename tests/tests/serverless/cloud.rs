//! The three real functions over a DynamoDB emulator, on the world's stage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use world::codegen::{Deed, Order, Part, Script};
use world::dynamo::{Emulator, Proxy, create_table};
use world::github::Ci;
use world::lambda::{Door, Function, Schedule, Spec, router};
use world::linear::{Delivery, NewIssue, schema};
use world::serve::Server;
use world::stage::{Stage, WEBHOOK_SECRET};
use world::stream::{Mapping, Pump, Weather};

use crate::template;

pub(crate) const TABLE: &str = "cyrus";
const API_TOKEN: &str = "token-of-the-test";
const RUNNER_TOKEN: &str = "token-of-the-runners";
/// A lease of a runner lasts three of these.
const HEARTBEAT_SECONDS: f64 = 5.0;
/// Nothing that is waited for takes longer, or the test has failed. Two leases,
/// the looks for a doubtful start, and a slow machine.
const LONG: Duration = Duration::from_secs(300);
const GLANCE: Duration = Duration::from_millis(50);
/// A tick of the schedule, which on AWS comes every minute.
const TICK: Duration = Duration::from_secs(1);
/// Little enough that one tick is one look, so that looks come as often as ticks.
const POLLER_TIMEOUT: Duration = Duration::from_secs(62);
/// Invocations of a function at the same time.
const ENVIRONMENTS_MAX: usize = 6;
/// How often Linear sends what is not answered with 200.
const DELIVERIES_MAX: usize = 20;

/// What is different from one test to the other.
pub(crate) struct Setting {
    pub(crate) strategy: &'static str,
    pub(crate) door: Door,
    pub(crate) weather: Weather,
    pub(crate) seed: u64,
    pub(crate) webhook_timeout: Duration,
    /// Copies of the schedule.
    pub(crate) schedules: usize,
    /// How the orchestrator hangs on the stream.
    pub(crate) mapping: Mapping,
    /// Where a runner has its jobs pushed to.
    pub(crate) runner: Option<String>,
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            strategy: "cloud-only",
            door: Door::FunctionUrl,
            weather: Weather::default(),
            seed: 1,
            webhook_timeout: template::timeout("webhook"),
            schedules: 1,
            mapping: template::mapping(),
            runner: None,
        }
    }
}

pub(crate) struct Cloud {
    pub(crate) stage: Stage,
    pub(crate) proxy: Proxy,
    pub(crate) webhook: Function,
    pub(crate) orchestrator: Function,
    pub(crate) poller: Function,
    pub(crate) http: reqwest::Client,
    /// Of the functions, each of which gets its part of them.
    pub(crate) variables: BTreeMap<String, String>,
    setting: Setting,
    url: Server,
    wakes: Option<(Pump, Vec<Schedule>)>,
    emulator: Emulator,
    folder: TempDir,
}

impl Cloud {
    /// All of it, with stream and schedule at work.
    pub(crate) async fn begin(setting: Setting, script: impl Script + 'static) -> Self {
        let mut cloud = Self::build(setting, script).await;
        cloud.wake_up().await;
        cloud
    }

    /// All of it, and nothing wakes anybody.
    pub(crate) async fn build(setting: Setting, script: impl Script + 'static) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let schema = schema::found().expect("the schema can be read");
        let checks = vec![Ci {
            name: "ci".into(),
            delay: SignedDuration::from_millis(100),
            conclusion: "success".into(),
        }];
        let stage = Stage::build(
            folder.path(),
            schema.unwrap_or_else(schema::embedded),
            script,
            checks,
        );
        let stage = stage.await.expect("the stage");
        let emulator = Emulator::start().expect("an emulator");
        create_table(&emulator.client(), TABLE)
            .await
            .expect("a table");
        let proxy = Proxy::start(&emulator).await.expect("a proxy");
        let ours = ["LINEAR_", "GITHUB_", "CODEGEN_"];
        let mut variables = stage.variables(Path::new("/nonexistent"));
        variables.retain(|name, _| ours.iter().any(|it| name.starts_with(it)));
        let config = config(&stage, setting.strategy);
        for (name, value) in [
            ("CYRUS_STORE", format!("dynamodb:{TABLE}")),
            ("CYRUS_CONFIG_JSON", config.to_string()),
            ("CYRUS_API_TOKEN", API_TOKEN.into()),
            ("CYRUS_RUNNER_TOKEN", RUNNER_TOKEN.into()),
            ("AWS_ENDPOINT_URL_DYNAMODB", proxy.url()),
            ("RUST_LOG", "info".into()),
        ] {
            variables.insert(name.into(), value);
        }
        let webhook = function("webhook", setting.webhook_timeout, &variables);
        let url = Server::start(router(webhook.clone(), setting.door, setting.seed));
        let url = url.await.expect("a door");
        if let Some(runner) = &setting.runner {
            variables.insert("CYRUS_RUNNER_URL".into(), runner.clone());
            variables.insert("CYRUS_PUBLIC_URL".into(), url.url());
        }
        let function = |name, timeout| function(name, timeout, &variables);
        Self {
            url,
            webhook,
            orchestrator: function("orchestrator", template::timeout("orchestrator")),
            poller: function("poller", POLLER_TIMEOUT),
            stage,
            proxy,
            http: reqwest::Client::new(),
            variables,
            setting,
            wakes: None,
            emulator,
            folder,
        }
    }

    /// One of the functions, deployed anew with a variable that says something
    /// else, or is not there.
    pub(crate) fn with(&self, name: &str, variable: &str, value: Option<&str>) -> Function {
        let mut variables = self.variables.clone();
        variables.remove(variable);
        if let Some(value) = value {
            variables.insert(variable.into(), value.into());
        }
        function(name, template::timeout(name), &variables)
    }

    /// From now on the stream wakes the orchestrator, and the schedule the poller.
    pub(crate) async fn wake_up(&mut self) {
        let Setting {
            weather,
            seed,
            schedules,
            ref mapping,
            ..
        } = self.setting;
        let orchestrator = self.orchestrator.clone();
        // Past the proxy, whose troubles are the functions'.
        let url = self.emulator.url();
        let pump = Pump::start(&url, TABLE, orchestrator, mapping.clone(), weather, seed);
        let pump = pump.await.expect("a stream");
        self.wakes = Some((pump, Vec::new()));
        for _ in 0..schedules {
            self.schedule();
        }
    }

    /// One more copy of the schedule.
    pub(crate) fn schedule(&mut self) {
        let (_, schedules) = self.wakes.as_mut().expect("it is awake");
        schedules.push(Schedule::start(self.poller.clone(), TICK));
    }

    /// Nobody is woken any more; what is under way comes to its end.
    pub(crate) async fn sleep(&mut self) {
        self.wakes = None;
        let rest =
            || async { (self.orchestrator.at_work() + self.poller.at_work() == 0).then_some(()) };
        until("the functions are at rest", rest).await;
    }

    pub(crate) fn pump(&self) -> &Pump {
        &self.wakes.as_ref().expect("it is awake").0
    }

    pub(crate) fn url(&self) -> String {
        self.url.url()
    }

    /// Straight to the table.
    pub(crate) fn table(&self) -> aws_sdk_dynamodb::Client {
        self.emulator.client()
    }

    /// A person hands an issue over: its identifier and session.
    pub(crate) async fn hand_over(&self, new: NewIssue) -> (String, String) {
        let (identifier, session, deliveries) = self.stage.hand_over(new).expect("an issue");
        for delivery in deliveries {
            self.deliver(&delivery).await;
        }
        (identifier, session)
    }

    /// Linear sends it until it is answered with 200.
    pub(crate) async fn deliver(&self, delivery: &Delivery) {
        let headers = delivery.headers(WEBHOOK_SECRET);
        let mut statuses = Vec::new();
        for _ in 0..DELIVERIES_MAX {
            let status = self
                .post("/linear-webhook", delivery.body.clone(), &headers)
                .await;
            if status == 200 {
                return;
            }
            statuses.push(status);
        }
        panic!("Linear gave up: {statuses:?}");
    }

    pub(crate) async fn post(&self, path: &str, body: Vec<u8>, headers: &[(&str, String)]) -> u16 {
        let mut request = self.http.post(format!("{}{path}", self.url())).body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        request.send().await.expect("an answer").status().as_u16()
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        let request = self
            .http
            .get(format!("{}{path}", self.url()))
            .bearer_auth(API_TOKEN);
        let answer = request.send().await.expect("an answer");
        (
            answer.status().as_u16(),
            answer.json().await.unwrap_or_default(),
        )
    }

    /// The issue's document, as soon as it is as it should be.
    pub(crate) async fn until(&self, identifier: &str, is: impl Fn(&Value) -> bool) -> Value {
        let path = format!("/api/v1/issues/{identifier}");
        let last = std::sync::Mutex::new(Value::Null);
        let wait = async {
            loop {
                let (_, issue) = self.get(&path).await;
                if is(&issue) {
                    return issue;
                }
                *last.lock().expect("one reader") = issue;
                tokio::time::sleep(GLANCE * 4).await;
            }
        };
        match tokio::time::timeout(LONG, wait).await {
            Ok(issue) => issue,
            Err(_) => panic!(
                "{identifier} has not come that far: {:#}",
                last.lock().expect("one reader")
            ),
        }
    }

    pub(crate) async fn until_done(&self, identifier: &str) -> Value {
        let issue = self.until(identifier, |it| it["phase"] == "done").await;
        assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
        issue
    }

    /// Nothing was done twice, nothing is left undone: runs, merges, last words, files.
    pub(crate) async fn assert_once(&self, sessions: &[&str], issues: usize) {
        self.stage.codegen.lock().check().expect("one run per key");
        let github = &self.stage.github;
        github
            .lock()
            .check()
            .expect("one merge per pull request, at the commit named");
        assert_eq!(github.lock().merges().len(), issues * TASKS.len());
        // In the cloud it plans too.
        let plans = usize::from(self.setting.strategy == "cloud-only");
        let runs = self.stage.codegen.lock().runs().len();
        assert_eq!(runs, issues * (TASKS.len() + plans));
        for session in sessions {
            self.assert_last_word(session);
        }
        for task in TASKS {
            let file = self.merged_file(&format!("cloud/{task}.txt"));
            assert_eq!(file.as_deref(), Some("done\n"), "{task}");
        }
    }

    /// One last word was said, and nothing after it.
    pub(crate) fn assert_last_word(&self, session: &str) {
        let linear = self.stage.linear();
        let said = &linear.session(session).expect("the session").activities;
        let mut last = said.iter().map(|it| it.kind());
        assert_eq!(last.next_back(), Some("response"), "{said:#?}");
        assert!(
            !last.any(|it| matches!(it, "response" | "error")),
            "{said:#?}"
        );
    }

    /// A file on the base branch of the repository.
    pub(crate) fn merged_file(&self, path: &str) -> Option<String> {
        let file = self.stage.remote().file(world::stage::BASE, path);
        file.expect("git answers")
    }

    /// What a team would write into `config.json`.
    pub(crate) fn config(&self) -> Value {
        config(&self.stage, self.setting.strategy)
    }

    /// A folder of this test's own.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs the command with the table as its store.
    pub(crate) fn cyrus(&self, arguments: &[&str]) -> Output {
        self.cyrus_command()
            .args(arguments)
            .output()
            .expect("the binary runs")
    }

    pub(crate) fn cyrus_command(&self) -> Command {
        let mut command = Command::new(cyrus());
        command
            .env_clear()
            .envs(&self.variables)
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("HOME", self.folder.path())
            .env("CYRUS_HOME", self.folder.path().join("home"))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "test")
            .env("AWS_SECRET_ACCESS_KEY", "test");
        command
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (name, function) in [
            ("webhook", &self.webhook),
            ("orchestrator", &self.orchestrator),
            ("poller", &self.poller),
        ] {
            eprintln!(
                "──── {name}: {} invocations, {} processes",
                function.invoked(),
                function.started()
            );
            for line in function.lines() {
                eprintln!("{line}");
            }
        }
        if let Some((pump, _)) = &self.wakes {
            eprintln!("──── {:?}", pump.told());
        }
    }
}

/// What the plan asks for, in an order that its graph allows.
pub(crate) const TASKS: [&str; 4] = ["api", "page", "handbook", "tests"];

/// An issue that is planned.
pub(crate) fn planned_issue() -> NewIssue {
    NewIssue {
        title: "Add sign-in with passkeys – überall".into(),
        description: "- [ ] the API\n- [ ] the page\n".into(),
        ..NewIssue::default()
    }
}

/// Codegen's runs: one plans, the others each change a file of their own.
pub(crate) fn script(order: &Order) -> Part {
    let task = |id: &str, on: &[&str]| json!({ "id": id, "title": format!("The {id}"), "kind": "builder", "prompt": format!("Write the {id}."), "depends_on": on });
    let deed = if order.task() == "plan" {
        let tasks = [
            task("api", &[]),
            task("page", &[]),
            task("handbook", &[]),
            task("tests", &["api", "page"]),
        ];
        Deed::Say(json!({ "summary": "First the API.", "tasks": tasks }).to_string())
    } else {
        Deed::Change {
            files: vec![(format!("cloud/{}.txt", order.task()), "done\n".into())],
        }
    };
    Part {
        wait: SignedDuration::ZERO,
        work: SignedDuration::from_millis(200),
        deed,
    }
}

/// Asks until there is an answer.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let wait = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(GLANCE).await;
        }
    };
    let answer = tokio::time::timeout(LONG, wait).await;
    answer.unwrap_or_else(|_| panic!("{what}: not within {LONG:?}"))
}

fn config(stage: &Stage, strategy: &str) -> Value {
    let mut config = stage.config(strategy, "auto");
    config["runner"] = json!({ "heartbeatSeconds": HEARTBEAT_SECONDS, "concurrency": 2 });
    config
}

/// One of the three, with those of the variables that the template gives it.
fn function(name: &str, timeout: Duration, variables: &BTreeMap<String, String>) -> Function {
    let mut variables = variables.clone();
    variables.retain(|variable, _| template::gives(name, variable));
    Function::new(Spec {
        name: name.into(),
        program: programs().join(name),
        variables,
        timeout,
        environments_max: ENVIRONMENTS_MAX,
    })
}

/// The folder of the real programs, all built when the first of them is needed:
/// nobody shall wait for a compiler in the middle of a story.
fn programs() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        cargo_build(&["webhook", "orchestrator", "poller"]);
        // Apart from the functions: its features must not become theirs.
        cargo_build(&["cyrus"]);
        // Beside the test's own program, in the folder that all programs of this build lie in.
        let own = Path::new(env!("CARGO_BIN_EXE_scripted_function"));
        own.parent().expect("a folder").to_owned()
    })
}

pub(crate) fn cyrus() -> PathBuf {
    programs().join("cyrus")
}

fn cargo_build(packages: &[&str]) {
    let mut build = Command::new(env!("CARGO"));
    build
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["build", "--quiet"]);
    for package in packages {
        build.args(["--package", package]);
    }
    assert!(
        build.status().expect("cargo runs").success(),
        "{packages:?} can be built"
    );
}

/// Waits for all of them, and fails as soon as one does.
pub(crate) async fn all(mut tasks: JoinSet<()>) {
    while let Some(done) = tasks.join_next().await {
        done.expect("it went well");
    }
}
