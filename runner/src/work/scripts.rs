//! The scripts around a worktree, as Cyrus runs them: `global_setup_script` and
//! then the repository's `cyrus-setup.sh` in a new one, `cyrus-teardown.sh` before
//! it is removed. One that fails, or takes too long, is told in the log and holds
//! up nothing.
//!
//! They run with bash, in the worktree, under a supervisor, in the environment of
//! what works there and three variables more; so no secret of ours is in it. What
//! they leave running is killed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use shared::issue::clip;
use shared::ports::Job;
use tracing::{info, warn};

use super::attend::{Over, attend};
use super::{Shop, Stop, stopped};
use crate::agent::find_program;
use crate::folder::{Exit, ExitWhy, Folder, Launch, Site};

/// How long a script may take that prepares a worktree …
const SETUP_SECONDS_MAX: u64 = 5 * 60;
/// … and the one before it is removed.
const TEARDOWN_SECONDS_MAX: u64 = 2 * 60;
/// A script that prints more than this is killed, bytes.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// The end of its standard error that is told, bytes.
const COMPLAINT_BYTES_MAX: usize = 300;
/// A title is cut after this many bytes.
const TITLE_BYTES_MAX: usize = 4 * 1024;
/// The folders of the scripts that prepare.
const GLOBAL: &str = "setup-global";
const OWN: &str = "setup";
const SETUP: &str = "cyrus-setup.sh";
const TEARDOWN: &str = "cyrus-teardown.sh";
/// Where bash is if it is not on the agents' `PATH`.
const BASH: &str = "/bin/bash";

/// Was one of the scripts begun that prepare a worktree? Then it is there.
pub(super) fn begun(folder: &Folder) -> io::Result<bool> {
    for name in [GLOBAL, OWN] {
        if folder.process(name).launch()?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Runs what prepares a new worktree. What went wrong, in a sentence each.
pub(super) async fn set_up(
    shop: &Shop,
    folder: &Folder,
    job: &Job,
    site: &Site,
    env: &BTreeMap<String, String>,
    stop: &Stop,
) -> io::Result<Vec<String>> {
    let mut complaints = Vec::new();
    let home = shop.agent_env.home();
    let global = shop.setup_script.as_ref().map(|it| expand(it, home));
    // A repository may have one that it does not keep in git.
    let own = [
        theirs(shop, folder, job, site).await,
        Path::new(&job.repository.path).join(SETUP),
    ]
    .into_iter()
    .find(|it| it.exists());
    for (name, script) in [(GLOBAL, global), (OWN, own)] {
        // One that was begun is seen to its end.
        if stopped(folder, stop) && folder.process(name).launch()?.is_none() {
            continue;
        }
        let run = Run {
            name,
            script,
            seconds_max: SETUP_SECONDS_MAX,
            heeds_stop: true,
        };
        complaints.extend(run.in_worktree(shop, folder, job, site, env).await?);
    }
    Ok(complaints)
}

/// Where the repository's own script to prepare is. Where an agent has worked on the
/// commit, it is the one that the base branch has.
async fn theirs(shop: &Shop, folder: &Folder, job: &Job, site: &Site) -> PathBuf {
    let Some(sha) = &site.scripts_sha else {
        return site.worktree.join(SETUP);
    };
    let into = folder.path();
    match shop.git.restore(&site.worktree, sha, SETUP, into).await {
        Ok(_) => {}
        Err(failure) => warn!(key = job.key, "{SETUP} is not run: {}", failure.message),
    }
    into.join(SETUP)
}

/// Runs what comes before a worktree is removed, as the commit has it that the
/// worktree was made from: what an agent wrote there is not run unasked.
pub(super) async fn tear_down(
    shop: &Shop,
    folder: &Folder,
    job: &Job,
    site: &Site,
    env: &BTreeMap<String, String>,
) -> io::Result<()> {
    let sha = site.scripts_sha.as_ref().unwrap_or(&site.base_sha);
    let restored = shop
        .git
        .restore(&site.worktree, sha, TEARDOWN, &site.worktree);
    let script = match restored.await {
        Ok(Some(script)) => Some(script),
        Ok(None) => Some(Path::new(&job.repository.path).join(TEARDOWN)).filter(|it| it.exists()),
        Err(failure) => {
            warn!(key = job.key, "{TEARDOWN} is not run: {}", failure.message);
            None
        }
    };
    let run = Run {
        name: "teardown",
        script,
        seconds_max: TEARDOWN_SECONDS_MAX,
        heeds_stop: false,
    };
    run.in_worktree(shop, folder, job, site, env).await?;
    Ok(())
}

/// A script that is to be run, once.
struct Run {
    /// Its folder in the job's.
    name: &'static str,
    /// `None`: there is none, unless it was begun when there was one.
    script: Option<PathBuf>,
    seconds_max: u64,
    heeds_stop: bool,
}

impl Run {
    /// Runs it, or finds out how it went. What went wrong, in a sentence.
    async fn in_worktree(
        self,
        shop: &Shop,
        folder: &Folder,
        job: &Job,
        site: &Site,
        env: &BTreeMap<String, String>,
    ) -> io::Result<Option<String>> {
        let process = folder.process(self.name);
        let launch = match (process.launch()?, self.script) {
            (Some(launch), _) => launch,
            (None, None) => return Ok(None),
            (None, Some(script)) => {
                if let Err(why) = executable(&script) {
                    let said = format!("the script `{}` was not run: {why}", script.display());
                    warn!(key = job.key, "{said}");
                    return Ok(Some(said));
                }
                let script = std::path::absolute(script)?;
                let launch = Launch {
                    program: bash(shop),
                    args: vec![script.to_string_lossy().into_owned()],
                    cwd: site.worktree.clone(),
                    seconds_max: self.seconds_max,
                    bytes_max: OUTPUT_BYTES_MAX,
                    heeds_stop: self.heeds_stop,
                    leg: None,
                };
                process.set_launch(&launch, b"")?;
                launch
            }
        };
        let script = launch.args.first().map_or("", String::as_str);
        let mut env = env.clone();
        env.extend(about(job));
        let attended = attend(shop, &process, &env).await?;
        let failed = match &attended.over {
            Over::Exited(exit) => how(exit, self.seconds_max),
            Over::Died | Over::Astray => Some("the runner lost sight of it".into()),
            Over::NeverBegun => Some("the runner's supervisor does not start it".into()),
        };
        match &failed {
            None => info!(key = job.key, "ran the script `{script}`"),
            Some(why) => {
                // Only here: who reads the result need not be who may read what it says.
                let said = process.complaint();
                let from = said.len().saturating_sub(COMPLAINT_BYTES_MAX);
                let from = (from..=said.len()).find(|it| said.is_char_boundary(*it));
                let said = &said[from.unwrap_or(said.len())..];
                warn!(key = job.key, said, "the script `{script}` failed: {why}");
            }
        }
        Ok(failed.map(|why| format!("the script `{script}` failed: {why}")))
    }
}

/// Where bash is.
pub(super) fn bash(shop: &Shop) -> PathBuf {
    let bash = find_program(Path::new("bash"), shop.agent_env.path());
    bash.unwrap_or_else(|| BASH.into())
}

/// How a script failed, if it did.
fn how(exit: &Exit, seconds_max: u64) -> Option<String> {
    Some(match (&exit.why, exit.code, exit.signal) {
        (ExitWhy::Exited, Some(0), _) => return None,
        (ExitWhy::Exited, Some(code), _) => format!("exit code {code}"),
        (ExitWhy::Exited, None, signal) => {
            format!("it was killed by signal {}", signal.unwrap_or_default())
        }
        (ExitWhy::Stopped, ..) => "the run was stopped".into(),
        (ExitWhy::Overran, ..) => format!("it took longer than {seconds_max} seconds"),
        (ExitWhy::Flooded, ..) => format!("it printed more than {OUTPUT_BYTES_MAX} bytes"),
        (ExitWhy::Interrupted, ..) => "the runner's machine told it to end".into(),
        (ExitWhy::NotStarted { why }, ..) => format!("it could not be started: {why}"),
    })
}

/// What scripts are told of the issue. Anybody may have written the title: it is
/// a variable, and never a part of a command.
pub(super) fn about(job: &Job) -> BTreeMap<String, String> {
    let clean = |text: &str| clip(&text.replace('\0', " "), TITLE_BYTES_MAX);
    [
        ("LINEAR_ISSUE_ID", clean(&job.issue.0)),
        ("LINEAR_ISSUE_IDENTIFIER", clean(&job.identifier)),
        ("LINEAR_ISSUE_TITLE", clean(&job.issue_title)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Cyrus, too, leaves out a script that is not meant to be run.
fn executable(script: &Path) -> Result<(), String> {
    let about = fs::metadata(script).map_err(|error| error.to_string())?;
    if !about.is_file() {
        return Err("it is no file".into());
    }
    if about.permissions().mode() & 0o100 == 0 {
        return Err(format!(
            "make it executable: `chmod +x {}`",
            script.display()
        ));
    }
    Ok(())
}

/// `~` is the home of whoever runs us.
fn expand(path: &Path, home: Option<&str>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => Path::new(home).join(rest),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_found_at_home() {
        let of = |path: &str| expand(Path::new(path), Some("/home/u"));
        assert_eq!(of("~/bin/s.sh"), Path::new("/home/u/bin/s.sh"));
        assert_eq!(of("/opt/~/s.sh"), Path::new("/opt/~/s.sh"));
        assert_eq!(expand(Path::new("~/s"), None), Path::new("~/s"));
    }

    #[test]
    fn how_a_script_failed_is_a_sentence() {
        let ended = |why, code, signal| {
            let told = 0;
            how(
                &Exit {
                    why,
                    code,
                    signal,
                    told,
                },
                300,
            )
        };
        assert_eq!(ended(ExitWhy::Exited, Some(0), None), None);
        let failed = ended(ExitWhy::Exited, Some(3), None);
        assert_eq!(failed.as_deref(), Some("exit code 3"));
        let killed = ended(ExitWhy::Exited, None, Some(9));
        assert_eq!(killed.as_deref(), Some("it was killed by signal 9"));
        let late = ended(ExitWhy::Overran, None, Some(15));
        assert_eq!(late.as_deref(), Some("it took longer than 300 seconds"));
    }
}
