//! What the functions cost where Lambda charges for it: the time from the start
//! of the process to its first question for an event, beside the least that a
//! function can be, and memory over a story from the webhook to the merges.
//! Release builds for this machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::http::{HeaderMap, Uri};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use world::codegen::{Deed, Order, Part};
use world::dynamo::{Emulator, create_table};
use world::github::Ci;
use world::lambda::{Door, Function, Schedule, Spec, payload, router};
use world::linear::{NewIssue, schema};
use world::serve::Server;
use world::stage::{Stage, WEBHOOK_SECRET};
use world::stream::{Filter, Mapping, Pump, Weather};

/// The three, and what they are measured against.
const FUNCTIONS: [&str; 3] = ["webhook", "orchestrator", "poller"];
const MINIMAL: &str = "minimal";
/// Cold starts of each, one after the other in turns.
const ROUNDS: usize = 30;
const INIT_RATIO_MAX: f64 = 1.5;
const MEMORY_BYTES_MAX: u64 = 64_000_000;
/// The tasks of the story.
const TASKS: usize = 10;
const STORY_MAX: Duration = Duration::from_secs(300);
const TABLE: &str = "cyrus";
const API_TOKEN: &str = "token-of-the-bench";

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    build(root)?;
    let mut missed = Vec::new();
    let mut judge = |what: String, reached: bool| {
        println!("{}: {what}", if reached { "reached" } else { "MISSED" });
        if !reached {
            missed.push(what);
        }
    };
    let place = Place::new(root).await?;
    let inits = place.inits().await?;
    let least = inits[MINIMAL];
    println!("{MINIMAL}: {least:.1?} to its first question (median of {ROUNDS})");
    for name in FUNCTIONS {
        let ratio = inits[name].as_secs_f64() / least.as_secs_f64();
        let what = format!(
            "{name}: {:.1?}, {ratio:.2} times the least, of {INIT_RATIO_MAX}",
            inits[name]
        );
        judge(what, ratio <= INIT_RATIO_MAX);
    }
    for (name, bytes) in place.story().await? {
        let what = format!("{name}: {bytes} bytes of memory at most, of {MEMORY_BYTES_MAX}");
        judge(what, bytes <= MEMORY_BYTES_MAX);
    }
    Ok(if missed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn build(root: &Path) -> anyhow::Result<()> {
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(root);
    build.args(["build", "--release", "--locked", "--bins", "--examples"]);
    build.args(FUNCTIONS.iter().flat_map(|it| ["--package", it]));
    ensure!(build.status()?.success(), "the functions cannot be built");
    Ok(())
}

/// Everything that the functions speak to.
struct Place {
    root: PathBuf,
    stage: Stage,
    emulator: Emulator,
    variables: BTreeMap<String, String>,
    _folder: tempfile::TempDir,
}

impl Place {
    async fn new(root: &Path) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let schema = schema::found()?.unwrap_or_else(schema::embedded);
        let checks = vec![Ci {
            name: "ci".into(),
            delay: SignedDuration::from_millis(100),
            conclusion: "success".into(),
        }];
        let stage = Stage::build(folder.path(), schema, part, checks).await?;
        let emulator = Emulator::start()?;
        create_table(&emulator.client(), TABLE).await?;
        let mut variables = stage.variables(Path::new("/nonexistent"));
        let config = stage.config("cloud-only", "auto").to_string();
        variables.extend(
            [
                ("CYRUS_STORE", format!("dynamodb:{TABLE}")),
                ("CYRUS_CONFIG_JSON", config),
                ("CYRUS_API_TOKEN", API_TOKEN.into()),
                ("AWS_ENDPOINT_URL_DYNAMODB", emulator.url()),
                ("RUST_LOG", "info".into()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        Ok(Self {
            root: root.to_owned(),
            stage,
            emulator,
            variables,
            _folder: folder,
        })
    }

    fn function(&self, name: &str, timeout: Duration, environments_max: usize) -> Function {
        let folder = self.root.join("target/release");
        let program = match name {
            MINIMAL => folder.join("examples").join(name),
            _ => folder.join(name),
        };
        Function::new(Spec {
            name: name.into(),
            program,
            variables: self.variables.clone(),
            timeout,
            environments_max,
        })
    }

    /// The median time of each to its first question.
    async fn inits(&self) -> anyhow::Result<BTreeMap<&'static str, Duration>> {
        let mut all: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
        let (path, headers) = (Uri::from_static("/healthz"), HeaderMap::new());
        let get = payload(Door::FunctionUrl, "GET", &path, &headers, &[], false);
        for _ in 0..ROUNDS {
            for name in [MINIMAL].into_iter().chain(FUNCTIONS) {
                let function = self.function(name, Duration::from_secs(150), 1);
                let event = match name {
                    "webhook" => get.clone(),
                    "orchestrator" => json!({ "Records": [] }),
                    _ => json!({}),
                };
                function.invoke(&event).await?;
                all.entry(name).or_default().extend(function.inits());
            }
        }
        Ok(all
            .into_iter()
            .map(|(name, mut times)| {
                times.sort();
                (name, times[times.len() / 2])
            })
            .collect())
    }

    /// An issue from its webhook to its last merge: the memory of each function.
    async fn story(&self) -> anyhow::Result<Vec<(&'static str, u64)>> {
        let seconds = Duration::from_secs;
        let webhook = self.function("webhook", seconds(29), 2);
        let orchestrator = self.function("orchestrator", seconds(150), 2);
        let poller = self.function("poller", seconds(62), 2);
        let door = Server::start(router(webhook.clone(), Door::FunctionUrl, 1)).await?;
        let mapping = Mapping {
            filter: Filter::parse([
                r#"{"eventName":["INSERT"],"dynamodb":{"NewImage":{"wake":{"S":["act","look"]}}}}"#,
            ])?,
            batch_max: 10,
            lanes: 2,
            retries_max: 3,
            bisects: true,
            reports_failures: true,
        };
        let url = self.emulator.url();
        let weather = Weather::default();
        let pump = Pump::start(&url, TABLE, orchestrator.clone(), mapping, weather, 1).await?;
        let schedule = Schedule::start(poller.clone(), seconds(1));
        let new = NewIssue {
            title: "A story of many parts".into(),
            ..NewIssue::default()
        };
        let (identifier, _, deliveries) = self.stage.hand_over(new)?;
        let http = reqwest::Client::new();
        for delivery in deliveries {
            let mut post = http.post(format!("{}/linear-webhook", door.url()));
            for (name, value) in delivery.headers(WEBHOOK_SECRET) {
                post = post.header(name, value);
            }
            post.body(delivery.body.clone())
                .send()
                .await?
                .error_for_status()?;
        }
        let done = async {
            loop {
                let get = http.get(format!("{}/api/v1/issues/{identifier}", door.url()));
                let issue: Value = get.bearer_auth(API_TOKEN).send().await?.json().await?;
                if issue["phase"] == "done" {
                    return anyhow::Ok(issue);
                }
                sleep(seconds(1)).await;
            }
        };
        let issue = timeout(STORY_MAX, done)
            .await
            .context("the story hangs")??;
        ensure!(issue["outcome"] == "succeeded", "the story failed: {issue}");
        drop((pump, schedule));
        while orchestrator.at_work() + poller.at_work() > 0 {
            sleep(Duration::from_millis(100)).await;
        }
        let all = [webhook, orchestrator, poller];
        let peaks = FUNCTIONS
            .into_iter()
            .zip(all.iter().map(Function::memory_peak));
        Ok(peaks.collect())
    }
}

/// Codegen's runs: one plans, the others each change a file of their own.
fn part(order: &Order) -> Part {
    let deed = if order.task() == "plan" {
        let tasks: Vec<Value> = (1..=TASKS)
            .map(|it| json!({ "id": format!("part-{it}"), "title": format!("Part {it}"), "kind": "builder", "prompt": "Write it." }))
            .collect();
        Deed::Say(json!({ "summary": "Part by part.", "tasks": tasks }).to_string())
    } else {
        Deed::Change {
            files: vec![(format!("parts/{}.txt", order.task()), "done\n".into())],
        }
    };
    Part {
        wait: SignedDuration::ZERO,
        work: SignedDuration::from_millis(200),
        deed,
    }
}
