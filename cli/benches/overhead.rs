//! How much longer an issue takes than its work: three independent tasks of the
//! same length, from the webhook to the last merge, over planning plus one
//! task. The real binary on the world's stage, `CYRUS_POLL_SECONDS=1`.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::SignedDuration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use world::codegen::{Deed, Order, Part};
use world::github::Ci;
use world::linear::{NewIssue, schema};
use world::stage::{Stage, WEBHOOK_SECRET};

const PLAN_SECONDS: u32 = 2;
const TASK_SECONDS: u32 = 10;
/// Longer than this it has hung.
const PATIENCE: Duration = Duration::from_secs(120);
const GLANCE: Duration = Duration::from_millis(10);

/// An agent that plans for a while, or builds for a while.
const AGENT: &str = r#"#!/bin/sh
prompt=$(cat)
task=$(printf '%s\n' "$prompt" | sed -n 's/^Task: \([^ ]*\).*/\1/p' | head -1)
if [ "$task" = plan ]; then
  sleep PLAN
  plan='{"summary":"three","tasks":[{"id":"a","title":"A","kind":"builder","prompt":"a"},{"id":"b","title":"B","kind":"builder","prompt":"b"},{"id":"c","title":"C","kind":"builder","prompt":"c"}]}'
  printf '{"type":"result","subtype":"success","is_error":false,"result":"","total_cost_usd":0.01,"structured_output":%s}\n' "$plan"
else
  sleep TASK
  echo built > "$task.txt"
  printf '{"type":"result","subtype":"success","is_error":false,"result":"built","total_cost_usd":0.01}\n'
fi
"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    println!(
        "planning {PLAN_SECONDS} s, three tasks of {TASK_SECONDS} s at once, polls every second"
    );
    for strategy in ["hybrid-parallel", "local-only"] {
        let took = play(strategy).await?.as_secs_f64();
        let work = f64::from(PLAN_SECONDS + TASK_SECONDS);
        println!(
            "{strategy:<16} {took:.2} s from webhook to last merge, {:.3} times planning + one task",
            took / work
        );
    }
    Ok(())
}

async fn play(strategy: &str) -> anyhow::Result<Duration> {
    let folder = tempfile::tempdir()?;
    let cloud = |order: &Order| Part {
        wait: SignedDuration::ZERO,
        work: SignedDuration::from_secs(TASK_SECONDS.into()),
        deed: Deed::Change {
            files: vec![(format!("{}.txt", order.task()), "built\n".into())],
        },
    };
    let ci = Ci {
        name: "ci".into(),
        delay: SignedDuration::ZERO,
        conclusion: "success".into(),
    };
    let stage = Stage::build(folder.path(), schema::embedded(), cloud, vec![ci]).await?;
    let mut config = stage.config(strategy, "auto");
    config["runner"] = serde_json::json!({ "concurrency": 3 });
    stage.configure(&config)?;
    let mut variables = stage.variables(&agent(folder.path().join("agent"))?);
    variables.insert("CYRUS_POLL_SECONDS".into(), "1".into());
    let mut service = Command::new(env!("CARGO_BIN_EXE_cyrus"))
        .env_clear()
        .envs(&variables)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(service.stderr.take().context("piped")?).lines();
    let url = loop {
        let line = lines
            .next_line()
            .await?
            .context("it ended before it listened")?;
        if let Some((_, url)) = line.split_once("cyrus listens on ") {
            break url.trim().to_owned();
        }
    };
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let new = NewIssue {
        description: "- [ ] one\n- [ ] two\n".into(),
        title: "Three things".into(),
        ..NewIssue::default()
    };
    let (_, _, deliveries) = stage.hand_over(new)?;
    let http = reqwest::Client::new();
    let begun = Instant::now();
    for delivery in deliveries {
        let mut request = http
            .post(format!("{url}/linear-webhook"))
            .body(delivery.body.clone());
        for (name, value) in delivery.headers(WEBHOOK_SECRET) {
            request = request.header(name, value);
        }
        request.send().await?.error_for_status()?;
    }
    while stage.github.lock().merges().len() < 3 {
        anyhow::ensure!(begun.elapsed() < PATIENCE, "it has not come to an end");
        tokio::time::sleep(GLANCE).await;
    }
    Ok(begun.elapsed())
}

fn agent(path: PathBuf) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let text = AGENT
        .replace("PLAN", &PLAN_SECONDS.to_string())
        .replace("TASK", &TASK_SECONDS.to_string());
    std::fs::write(&path, text)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
