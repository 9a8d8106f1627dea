//! `cyrus demo`: one issue from webhook to merge, with nothing installed but
//! this program and git. The engine, the runner and the store are the real
//! ones; Linear, GitHub and Codegen are the stand-ins that the tests use.

pub(crate) mod agent;
mod script;
mod story;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::SignedDuration;
use serde_json::Value;
use shared::config::{self, Env};
use shared::wire;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use world::github::Ci;
use world::linear::{Delivery, NewIssue, schema};
use world::stage::{Stage, WEBHOOK_SECRET};

use self::story::Story;
use crate::start::Service;
use crate::{EXIT_FAILED, log_to_stderr};

/// How often the story looks at how things stand.
const GLANCE: Duration = Duration::from_millis(150);
/// The poller's pause in the demo, in seconds: Codegen takes 60 reads in 30 s.
const POLL_SECONDS: &str = "0.75";
/// How long the whole of it may take, at the default speed.
const PATIENCE: Duration = Duration::from_secs(180);
const SPEED: f64 = 60.0;

#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// How many times faster than real the scripted runs are
    #[arg(long, value_name = "N", default_value_t = SPEED, value_parser = speed)]
    speed: f64,
    /// Play in this empty folder, and leave everything there
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

fn speed(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(speed) if (0.1..=10_000.0).contains(&speed) => Ok(speed),
        Ok(_) | Err(_) => Err("must be a number from 0.1 to 10000".into()),
    }
}

/// Was this program started under the name of the agent that the demo scripts?
pub(crate) fn is_agent() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.as_deref()
        .and_then(Path::file_name)
        .is_some_and(|it| it == agent::NAME)
}

pub(crate) async fn demo(options: &Options, json: bool) -> anyhow::Result<ExitCode> {
    log_to_stderr("warn");
    let temporary;
    let folder = match &options.keep {
        Some(folder) => {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("make {}", folder.display()))?;
            let empty = std::fs::read_dir(folder)?.next().is_none();
            anyhow::ensure!(
                empty,
                "{} is not empty: name a new folder",
                folder.display()
            );
            folder.canonicalize()?
        }
        None => {
            temporary = tempfile::tempdir().context("make a folder for the demo")?;
            temporary.path().to_owned()
        }
    };
    let outcome = play(options, json, &folder).await;
    if options.keep.is_some() {
        eprintln!("Everything is left in {}.", folder.display());
    }
    outcome
}

async fn play(options: &Options, json: bool, folder: &Path) -> anyhow::Result<ExitCode> {
    let speed = options.speed;
    let checks = vec![Ci {
        name: "ci".into(),
        delay: SignedDuration::try_from_secs_f64(script::CHECK_MINUTES * 60.0 / speed)?,
        conclusion: "success".into(),
    }];
    let stage = Stage::build(folder, schema::embedded(), script::cloud(speed), checks).await?;
    stage.configure(&stage.config("hybrid-smart", "auto"))?;
    let claude = agent::install(folder, speed)?;
    let mut variables = stage.variables(&claude);
    variables.insert("CYRUS_POLL_SECONDS".into(), POLL_SECONDS.into());
    let env = Env(variables);
    let store = wire::open(&config::place_of_store(&env, None)?).await?;
    let (live, _) = wire::live(&env, None, None, &store).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let service = Service::build(live, store, &env, listener.local_addr()?)?;
    let url = format!("http://{}", listener.local_addr()?);
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(service.run(listener, async {
        let _ = stopped.await;
    }));
    let new = NewIssue {
        title: script::TITLE.into(),
        description: script::DESCRIPTION.into(),
        ..NewIssue::default()
    };
    let (identifier, session, deliveries) = stage.hand_over(new)?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    for delivery in deliveries {
        post(&http, &url, &delivery).await?;
    }
    let mut story = Story::begin(&identifier, script::TITLE, &url, speed, json);
    let patience = PATIENCE.max(PATIENCE.mul_f64(SPEED / speed));
    let done = watch(&http, &url, &identifier, patience, &mut story).await?;
    // The last step of the log is the service's; what Linear shows is Linear's.
    let last_word = stage
        .linear()
        .session(&session)
        .ok()
        .and_then(|it| it.activities.last().map(|it| it.body()));
    story.end(&done, last_word.as_deref(), &stage.github.lock().merges());
    let _ = stop.send(());
    serving.await??;
    let succeeded = done["outcome"] == "succeeded";
    Ok(if succeeded {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_FAILED)
    })
}

async fn post(http: &reqwest::Client, url: &str, delivery: &Delivery) -> anyhow::Result<()> {
    let mut request = http
        .post(format!("{url}/linear-webhook"))
        .body(delivery.body.clone());
    for (name, value) in delivery.headers(WEBHOOK_SECRET) {
        request = request.header(name, value);
    }
    let answer = request.send().await?;
    anyhow::ensure!(
        answer.status() == 200,
        "the webhook was answered {}",
        answer.status()
    );
    Ok(())
}

/// Follows the log until the round is over, and returns the issue's document.
async fn watch(
    http: &reqwest::Client,
    url: &str,
    identifier: &str,
    patience: Duration,
    story: &mut Story,
) -> anyhow::Result<Value> {
    let begun = Instant::now();
    let mut after = 0;
    loop {
        let get = async |path: String| -> anyhow::Result<Value> {
            Ok(http
                .get(format!("{url}/api/v1/issues/{path}"))
                .send()
                .await?
                .json()
                .await?)
        };
        let issue = get(identifier.to_owned()).await?;
        let log = get(format!("{identifier}/log?after={after}")).await?;
        for event in log["events"].as_array().into_iter().flatten() {
            after = event["seq"].as_u64().unwrap_or(after);
            story.tell(event);
        }
        story.show(&issue);
        if issue["phase"] == "done" {
            return Ok(issue);
        }
        anyhow::ensure!(
            begun.elapsed() < patience,
            "the story has not come to an end within {patience:?}"
        );
        tokio::time::sleep(GLANCE).await;
    }
}
