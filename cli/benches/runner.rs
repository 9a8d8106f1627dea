//! What a runner in a process of its own costs: how soon an agent starts after
//! its job was dispatched, by push and by pull; how many processes and open
//! files are left after a hundred jobs; and how much memory it takes when it
//! idles. The real binary on the world's stage, two slots.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use world::codegen::{Deed, Order, Part};
use world::github::Ci;
use world::linear::{NewIssue, schema};
use world::stage::{Stage, WEBHOOK_SECRET};

const JOBS: usize = 100;
/// Longer than this it has hung.
const PATIENCE: Duration = Duration::from_secs(300);
const GLANCE: Duration = Duration::from_millis(10);
/// An agent that says when it starts, in nanoseconds, and makes a file.
const AGENT: &str = r#"#!/bin/sh
date +%s%N > "$HOME/starts/$(basename "$PWD")"
echo built > "$(basename "$PWD").txt"
echo '{"type":"result","subtype":"success","is_error":false,"result":"built","total_cost_usd":0.01}'
"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    for push in [true, false] {
        play(push).await?;
    }
    Ok(())
}

async fn play(push: bool) -> anyhow::Result<()> {
    let name = if push { "push" } else { "pull" };
    let folder = tempfile::tempdir()?;
    let cloud = |_: &Order| Part {
        wait: SignedDuration::ZERO,
        work: SignedDuration::ZERO,
        deed: Deed::Change { files: Vec::new() },
    };
    let ci = Ci {
        name: "ci".into(),
        delay: SignedDuration::ZERO,
        conclusion: "success".into(),
    };
    let stage = Stage::build(folder.path(), schema::embedded(), cloud, vec![ci]).await?;
    let mut config = stage.config("local-only", "auto");
    config["runner"] = json!({ "concurrency": 0 });
    stage.configure(&config)?;
    let agent = agent(folder.path().join("agent"))?;
    let mut variables = stage.variables(&agent);
    let user_home = PathBuf::from(variables.get("HOME").context("a home")?);
    fs::create_dir_all(user_home.join("starts"))?;
    let (here, door) = (free_address()?, free_address()?);
    variables.insert("CYRUS_POLL_SECONDS".into(), "1".into());
    variables.insert("CYRUS_LISTEN".into(), here.clone());
    variables.insert("CYRUS_RUNNER_TOKEN".into(), "a token".into());
    let mut arguments = vec!["runner"];
    if push {
        variables.insert("CYRUS_RUNNER_URL".into(), format!("http://{door}"));
        arguments.extend(["--listen", &door]);
    }
    let service = begin(&[], &variables, "cyrus listens on ").await?;
    let home = folder.path().join("runner");
    fs::create_dir_all(&home)?;
    config["runner"] = json!({ "concurrency": 2 });
    fs::write(home.join("config.json"), config.to_string())?;
    variables.insert("CYRUS_HOME".into(), home.to_string_lossy().into_owned());
    variables.insert("CYRUS_CONTROL_URL".into(), format!("http://{here}"));
    let runner = begin(&arguments, &variables, "cyrus runner ").await?;
    let pid = runner.id().context("it runs")?;
    let before = Looks::at(pid, &home)?;

    let http = reqwest::Client::new();
    let url = format!("http://{here}");
    let mut waits = Vec::new();
    for done in 1..=JOBS {
        let (identifier, _, deliveries) = stage.hand_over(NewIssue {
            title: "One thing".into(),
            ..NewIssue::default()
        })?;
        for delivery in deliveries {
            let mut request = http
                .post(format!("{url}/linear-webhook"))
                .body(delivery.body.clone());
            for (name, value) in delivery.headers(WEBHOOK_SECRET) {
                request = request.header(name, value);
            }
            request.send().await?.error_for_status()?;
        }
        let begun = Instant::now();
        while stage.github.lock().merges().len() < done {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "it has not come to an end");
            tokio::time::sleep(GLANCE).await;
        }
        let log = format!("{url}/api/v1/issues/{identifier}/log");
        let log: Value = http.get(log).send().await?.json().await?;
        waits.push(started(&user_home, &identifier)? - dispatched(&log)?);
    }
    waits.sort_by(f64::total_cmp);
    let after = settled(pid, &home).await?;
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize] * 1000.0;
    println!(
        "{name}: from dispatch to the agent's start: median {:.0} ms, p95 {:.0} ms, slowest {:.0} ms",
        at(0.5),
        at(0.95),
        at(1.0),
    );
    println!(
        "{name}: the runner at its start: {before}; after {JOBS} jobs: {after} ({:.2} times the memory)",
        after.rss_kb as f64 / before.rss_kb as f64
    );
    drop((service, runner));
    Ok(())
}

/// When the start was asked for, seconds.
fn dispatched(log: &Value) -> anyhow::Result<f64> {
    let events = log["events"].as_array().context("events")?;
    let start = events
        .iter()
        .find(|it| {
            let text = it["text"].as_str().unwrap_or_default();
            it["event"] == "Requested" && text.contains("start `main`")
        })
        .context("a start")?;
    let at: Timestamp = start["at"].as_str().context("a time")?.parse()?;
    Ok(at.as_nanosecond() as f64 / 1e9)
}

fn started(home: &Path, identifier: &str) -> anyhow::Result<f64> {
    for entry in fs::read_dir(home.join("starts"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&format!("{identifier}-")) {
            let nanoseconds: f64 = fs::read_to_string(entry.path())?.trim().parse()?;
            return Ok(nanoseconds / 1e9);
        }
    }
    anyhow::bail!("no agent of {identifier} has started")
}

/// What the system knows of a process.
struct Looks {
    rss_kb: u64,
    files: usize,
    /// Those under it, and supervisors that it has left to themselves.
    processes: usize,
}

impl Looks {
    fn at(pid: u32, home: &Path) -> anyhow::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rss = status.lines().find_map(|it| it.strip_prefix("VmRSS:"));
        let rss = rss.and_then(|it| it.split_whitespace().next());
        let mut processes = 0;
        for entry in fs::read_dir("/proc")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.parse::<u32>().is_err() || name == pid.to_string() {
                continue;
            }
            let read = |file| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            let stat = read("stat");
            let parent = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
            let parent = parent.split_whitespace().nth(1).unwrap_or_default();
            let supervises = read("cmdline").contains(&*home.to_string_lossy());
            processes += usize::from(parent == pid.to_string() || supervises);
        }
        Ok(Self {
            rss_kb: rss.context("its memory")?.parse()?,
            // Only root may list them; how many there are, the system tells anybody.
            files: match fs::read_dir(format!("/proc/{pid}/fd")) {
                Ok(files) => files.count(),
                Err(_) => fs::metadata(format!("/proc/{pid}/fd"))?.len().try_into()?,
            },
            processes,
        })
    }
}

impl std::fmt::Display for Looks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            rss_kb,
            files,
            processes,
        } = self;
        let mb = *rss_kb as f64 / 1024.0;
        write!(
            f,
            "{mb:.1} MB, {files} open files, {processes} processes beside it"
        )
    }
}

/// Once the last job is tidied up.
async fn settled(pid: u32, home: &Path) -> anyhow::Result<Looks> {
    let begun = Instant::now();
    loop {
        let looks = Looks::at(pid, home)?;
        if looks.processes == 0 || begun.elapsed() > Duration::from_secs(10) {
            return Ok(looks);
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// Starts the binary, and waits until it says this.
async fn begin(
    arguments: &[&str],
    variables: &BTreeMap<String, String>,
    sign: &str,
) -> anyhow::Result<Child> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_cyrus"))
        .args(arguments)
        .env_clear()
        .envs(variables)
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("piped")?).lines();
    loop {
        let line = lines.next_line().await?;
        if line.context("it ended before it was there")?.contains(sign) {
            break;
        }
    }
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(child)
}

fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

fn agent(path: PathBuf) -> anyhow::Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::write(&path, AGENT)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
