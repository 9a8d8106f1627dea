//! One call of git: what goes along with each, and what its failure means.
//!
//! The configuration of the repository may have been changed by an agent, so
//! what it could run inside of our calls (hooks, file system monitors) is off.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use shared::issue::{Failure, FailureClass, clip};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::Git;
use crate::process;

/// How long a call may take that stays on this machine.
pub(crate) const LOCAL_MAX: Duration = Duration::from_secs(120);
/// How long a call may take that speaks with the remote.
pub(super) const REMOTE_MAX: Duration = Duration::from_secs(300);
/// The pause before the remote is asked a second time; it doubles.
const REMOTE_PAUSE: Duration = Duration::from_millis(500);
/// How long another git (the user's, or one that outlived us) may hold a lock.
const LOCK_MAX: Duration = Duration::from_secs(10);
/// The pause before a lock is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(300);
/// What git says is cut after this many bytes.
const SAID_BYTES_MAX: usize = 600;

const OVERRIDES: [&str; 10] = [
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "protocol.ext.allow=never",
    "-c",
    "gc.auto=0",
    // A key may want a passphrase that nobody is there to type.
    "-c",
    "commit.gpgSign=false",
];

/// What git has said.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Git {
    /// A call whose exit code 1 means "they differ".
    pub(crate) async fn same(&self, folder: &Path, args: &[&str]) -> Result<bool, Failure> {
        let said = self.call(folder, args, LOCAL_MAX).await?;
        match said.code {
            0 => Ok(true),
            1 => Ok(false),
            _ => Err(said.failure(args)),
        }
    }

    /// A call that must succeed; what it prints, trimmed.
    pub(crate) async fn ask(&self, folder: &Path, args: &[&str]) -> Result<String, Failure> {
        let said = self.call(folder, args, LOCAL_MAX).await?;
        if said.code == 0 {
            Ok(said.out.trim().to_owned())
        } else {
            Err(said.failure(args))
        }
    }

    /// The same with variables of its own.
    pub(crate) async fn ask_as(
        &self,
        folder: &Path,
        args: &[&str],
        env: &[(&str, String)],
    ) -> Result<String, Failure> {
        let said = self.call_once(folder, args, LOCAL_MAX, env).await?;
        if said.code == 0 {
            Ok(said.out.trim().to_owned())
        } else {
            Err(said.failure(args))
        }
    }

    /// A call over the network, more than once if the network is to blame.
    pub(crate) async fn remote(
        &self,
        folder: &Path,
        args: &[&str],
        tries_max: u32,
    ) -> Result<Said, Failure> {
        let mut pause = REMOTE_PAUSE;
        let mut tries = 1;
        loop {
            let said = self.call(folder, args, REMOTE_MAX).await?;
            // 128: git could not even talk to the other side.
            if said.code != 128 || said.final_word() || tries == tries_max {
                return Ok(said);
            }
            tries += 1;
            sleep(pause).await;
            pause *= 2;
        }
    }

    /// A call that waits for whoever holds a lock of the repository.
    pub(crate) async fn call(
        &self,
        folder: &Path,
        args: &[&str],
        limit: Duration,
    ) -> Result<Said, Failure> {
        let until = Instant::now() + LOCK_MAX;
        loop {
            let said = self.call_once(folder, args, limit, &[]).await?;
            if !said.locked() {
                return Ok(said);
            }
            if Instant::now() >= until {
                // Nobody but us works in a worktree of ours: this one was left by a crash.
                return match said.stale_index().map(std::fs::remove_file) {
                    Some(Ok(())) => self.call_once(folder, args, limit, &[]).await,
                    Some(Err(_)) | None => Ok(said),
                };
            }
            sleep(LOCK_PAUSE).await;
        }
    }

    async fn call_once(
        &self,
        folder: &Path,
        args: &[&str],
        limit: Duration,
        env: &[(&str, String)],
    ) -> Result<Said, Failure> {
        let verb = verb(args);
        let mut command = Command::new("git");
        command
            .args(OVERRIDES)
            .args(args)
            .current_dir(folder)
            .env_clear()
            .envs(&self.env)
            // Nobody is there to answer a question: it is refused, not waited for.
            .envs([
                ("GIT_TERMINAL_PROMPT", "0"),
                ("SSH_ASKPASS_REQUIRE", "force"),
            ])
            .envs([
                ("SSH_ASKPASS", "false"),
                ("GIT_EDITOR", "true"),
                ("LC_ALL", "C"),
            ])
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn().map_err(|error| {
            invalid(format!(
                "git cannot be started on the runner's machine ({error}): install git, and see \
                 that it is on the PATH"
            ))
        })?;
        let group = child.id().and_then(|it| i32::try_from(it).ok());
        let output = match timeout(limit, child.wait_with_output()).await {
            Ok(output) => output.map_err(|error| outage(format!("git {verb}: {error}")))?,
            Err(_) => {
                if let Some(group) = group {
                    process::signal_group(group, Signal::KILL);
                }
                let seconds = limit.as_secs();
                return Err(outage(format!(
                    "git {verb} did not end within {seconds} seconds"
                )));
            }
        };
        Ok(Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: redact(&String::from_utf8_lossy(&output.stderr)),
        })
    }
}

impl Said {
    pub(crate) fn complaint(&self) -> String {
        clip(self.err.trim(), SAID_BYTES_MAX)
    }

    /// Another git holds what this one needs.
    fn locked(&self) -> bool {
        self.code != 0
            && (self.err.contains("cannot lock ref") || self.err.contains(".lock': File exists"))
    }

    /// The lock of a worktree's own index, if that is what stands in the way.
    fn stale_index(&self) -> Option<PathBuf> {
        let path = self
            .err
            .split_once("Unable to create '")?
            .1
            .split_once('\'')?
            .0;
        let ours = path.contains("/worktrees/") && path.ends_with("/index.lock");
        ours.then(|| PathBuf::from(path))
    }

    /// Asking again would bring the same answer.
    fn final_word(&self) -> bool {
        const WORDS: [&str; 3] = [
            "couldn't find remote ref",
            "not found",
            "does not appear to be a git repository",
        ];
        self.refused() || WORDS.iter().any(|it| self.err.contains(it))
    }

    /// The remote does not let us in.
    fn refused(&self) -> bool {
        const WORDS: [&str; 5] = [
            "Authentication failed",
            "Permission denied",
            "could not read Username",
            "could not read Password",
            "error: 403",
        ];
        WORDS.iter().any(|it| self.err.contains(it))
    }

    /// What it means that the other side could not be spoken with: another run
    /// is worth its money only if that may be better then.
    pub(crate) fn class(&self) -> FailureClass {
        if self.refused() {
            FailureClass::Auth
        } else if self.code == 128 || self.locked() {
            FailureClass::Outage
        } else {
            FailureClass::Invalid
        }
    }

    fn failure(&self, args: &[&str]) -> Failure {
        let verb = verb(args);
        Failure {
            class: if self.locked() {
                FailureClass::Outage
            } else {
                FailureClass::Agent
            },
            message: format!("git {verb} failed in the worktree: {}", self.complaint()),
        }
    }
}

pub(super) fn invalid(message: String) -> Failure {
    Failure {
        class: FailureClass::Invalid,
        message,
    }
}

fn outage(message: String) -> Failure {
    Failure {
        class: FailureClass::Outage,
        message,
    }
}

/// The command among git's arguments, for messages.
fn verb<'a>(args: &[&'a str]) -> &'a str {
    args.iter()
        .find(|it| !it.starts_with('-') && !it.contains('='))
        .unwrap_or(&"")
}

/// Takes passwords out of the URLs in a text.
fn redact(text: &str) -> String {
    let mut parts = text.split("://");
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        clean.push_str("://");
        let end = part
            .find(|c: char| c == '/' || c.is_whitespace())
            .unwrap_or(part.len());
        match part[..end].rfind('@') {
            Some(at) => {
                clean.push_str("***");
                clean.push_str(&part[at..]);
            }
            None => clean.push_str(part),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn a_password_in_a_url_is_not_told() {
        assert_eq!(
            redact(
                "fatal: 'https://x:ghp_1@h.example/o/r.git/' and ssh://git@h/o: no https://h/@a"
            ),
            "fatal: 'https://***@h.example/o/r.git/' and ssh://***@h/o: no https://h/@a"
        );
        assert_eq!(redact("plain"), "plain");
    }
}
