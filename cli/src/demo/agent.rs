//! The scripted agent: this program under another name, speaking as Claude Code
//! does. The runner starts it like the real one, in a worktree, under a
//! supervisor, with the clean environment; so it finds its script beside itself.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;

use super::script;

/// The name under which this program is the agent.
pub(crate) const NAME: &str = "claude";
const SPEED_FILE: &str = "speed";
/// Bytes of prompt that are read.
const PROMPT_BYTES_MAX: u64 = 1024 * 1024;
/// What one scripted minute costs, USD.
const USD_PER_MINUTE: f64 = 0.02;

/// Puts the agent into the demo's folder; returns the path of its program.
pub(super) fn install(folder: &Path, speed: f64) -> anyhow::Result<PathBuf> {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin)?;
    let program = bin.join(NAME);
    std::os::unix::fs::symlink(std::env::current_exe()?, &program).context("install the agent")?;
    std::fs::write(bin.join(SPEED_FILE), speed.to_string())?;
    Ok(program)
}

/// Plays one run.
pub(crate) fn play() -> ExitCode {
    if std::env::args().any(|it| it == "--version") {
        println!(
            "{} (the scripted agent of cyrus demo)",
            env!("CARGO_PKG_VERSION")
        );
        return ExitCode::SUCCESS;
    }
    match act() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the scripted agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act() -> anyhow::Result<()> {
    let myself = PathBuf::from(std::env::args_os().next().unwrap_or_default());
    let speed: f64 = std::fs::read_to_string(myself.with_file_name(SPEED_FILE))?
        .trim()
        .parse()?;
    let mut prompt = String::new();
    std::io::stdin()
        .take(PROMPT_BYTES_MAX)
        .read_to_string(&mut prompt)?;
    let task = prompt
        .lines()
        .find_map(|line| line.strip_prefix("Task: "))
        .and_then(|it| it.split_whitespace().next())
        .context("the prompt names no task")?
        .to_owned();
    let session = "00000000-0000-4000-8000-000000000000";
    println!(
        "{}",
        json!({ "type": "system", "subtype": "init", "session_id": session, "tools": [], "mcp_servers": [] })
    );
    let minutes = script::minutes(&task);
    std::thread::sleep(Duration::from_secs_f64(minutes * 60.0 / speed));
    let mut result = json!({
        "type": "result", "subtype": "success", "is_error": false, "session_id": session,
        "num_turns": 1, "total_cost_usd": minutes * USD_PER_MINUTE, "permission_denials": [],
        "result": "It is done.",
    });
    match script::scene(&task) {
        Some(scene) => {
            let path = Path::new(scene.path);
            std::fs::create_dir_all(path.parent().context("a path in a folder")?)?;
            std::fs::write(path, scene.content)?;
        }
        None => result["structured_output"] = script::plan(),
    }
    println!("{result}");
    Ok(())
}
