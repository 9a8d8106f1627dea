//! What is verified of a commit: commands of the configuration, one after another in
//! a worktree of that commit, until one fails. No agent has a part in it, and what
//! gives agents access to their models is not in its environment.
//!
//! That a command failed is a verdict about the commit; it says so by the class
//! [`FailureClass::Agent`]. All else that may go wrong is none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use jiff::SignedDuration;
use shared::issue::{Ending, Failure, FailureClass, LOG_BYTES_MAX, RunResult, clip};
use shared::ports::Job;

use super::attend::{Over, attend};
use super::scripts::{about, bash};
use super::{Shop, Stop, cancelled, lost, scripts, stopped, unspent};
use crate::folder::{Exit, ExitWhy, Folder, Launch, ProcessFolder, Site};

/// A command that prints more than this is killed, bytes.
const OUTPUT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// A command is named up to so many bytes of it.
const COMMAND_BYTES_MAX: usize = 500;
/// Both of what it prints go to one place, so that they stay in their order.
const TOGETHER: &str = r#"exec "$0" -c "$1" 2>&1"#;
/// The signals by which the machine ends what it has no room for.
const KILL: i32 = 9;
const TERM: i32 = 15;

/// Runs all commands of a job, or finds out how they went.
pub(super) async fn verify(
    shop: &Shop,
    folder: &Folder,
    job: &Job,
    stop: &Stop,
) -> io::Result<Ending> {
    let env = shop.agent_env.of_none();
    let begun = folder.process(&name(1)).launch()?.is_some();
    let site = if begun {
        super::site(folder)?
    } else {
        match super::begin(shop, folder, job, None, stop).await? {
            Ok(site) => site,
            Err(failure) => return Ok(unspent(no_verdict(failure))),
        }
    };
    let setup = if begun {
        Vec::new()
    } else {
        scripts::set_up(shop, folder, job, &site, &env, stop).await?
    };
    let mut ran = Vec::new();
    for (n, command) in job.commands.iter().enumerate() {
        let check = Check {
            shop,
            folder,
            job,
            site: &site,
            process: folder.process(&name(n + 1)),
            command,
        };
        if let Err(failure) = check.run(&env, &setup, stop).await? {
            return Ok(unspent(failure));
        }
        ran.push(format!("`{}`", shown(command)));
    }
    let text = match (ran.as_slice(), job.commit.as_deref()) {
        ([], _) => "There was nothing to run.".to_owned(),
        (ran, commit) => {
            let at = commit.unwrap_or(&site.base_sha);
            format!("On {at} succeeded: {}.", ran.join(", "))
        }
    };
    Ok(Ending {
        result: Ok(RunResult {
            text: clip(&text, shared::issue::TEXT_BYTES_MAX),
            ..RunResult::default()
        }),
        cost_usd: Some(0.0),
        cost_is_estimate: false,
    })
}

/// The folder of the nth command, from 1.
fn name(n: usize) -> String {
    format!("command-{n}")
}

/// What went wrong before anything was run says nothing about the commit.
fn no_verdict(failure: Failure) -> Failure {
    match failure.class {
        FailureClass::Agent => Failure {
            class: FailureClass::Outage,
            ..failure
        },
        _ => failure,
    }
}

/// One command of a job.
struct Check<'a> {
    shop: &'a Shop,
    folder: &'a Folder,
    job: &'a Job,
    site: &'a Site,
    process: ProcessFolder,
    command: &'a str,
}

impl Check<'_> {
    async fn run(
        &self,
        env: &BTreeMap<String, String>,
        setup: &[String],
        stop: &Stop,
    ) -> io::Result<Result<(), Failure>> {
        if self.process.launch()?.is_none() {
            if stopped(self.folder, stop) {
                return Ok(Err(cancelled()));
            }
            let Some(seconds) = self.left()? else {
                return Ok(Err(overran(self.command)));
            };
            let bash = bash(self.shop);
            let args = ["-c", TOGETHER, &bash.to_string_lossy(), self.command];
            let launch = Launch {
                args: args.map(str::to_owned).to_vec(),
                program: bash,
                cwd: self.site.worktree.clone(),
                seconds_max: seconds,
                bytes_max: OUTPUT_BYTES_MAX,
                heeds_stop: true,
                leg: None,
            };
            self.process.set_launch(&launch, b"")?;
        }
        let mut env = env.clone();
        env.extend(about(self.job));
        let attended = attend(self.shop, &self.process, &env).await?;
        let exit = match attended.over {
            Over::Exited(exit) => exit,
            Over::Died | Over::Astray => {
                let message = format!("the runner lost sight of `{}`", shown(self.command));
                return Ok(Err(lost(message)));
            }
            Over::NeverBegun => {
                return Ok(Err(Failure {
                    class: FailureClass::Invalid,
                    message: "the runner's supervisor starts no command: see `supervisor.err` in \
                              the job's folder"
                        .into(),
                }));
            }
        };
        let said = end_of(&self.process.output(), LOG_BYTES_MAX)?;
        Ok(judged(self.command, &exit, setup, &said))
    }

    /// The seconds that all commands together have left, if any.
    fn left(&self) -> io::Result<Option<u64>> {
        let now = self.shop.clock.now();
        let from = match self.folder.checked_from()? {
            Some(from) => from,
            None => {
                self.folder.set_checked_from(now)?;
                now
            }
        };
        // A clock that was set back gives no time.
        let gone = now.duration_since(from).max(SignedDuration::ZERO);
        let left = self.job.seconds_max - gone.as_secs();
        Ok(u64::try_from(left).ok().filter(|it| *it > 0))
    }
}

/// What the end of a command says about the commit.
fn judged(command: &str, exit: &Exit, setup: &[String], said: &str) -> Result<(), Failure> {
    let shown = shown(command);
    let other = |class, message: String| Err(Failure { class, message });
    let how = match (&exit.why, exit.code, exit.signal) {
        (ExitWhy::Exited, Some(0), _) => return Ok(()),
        (ExitWhy::Exited, Some(code), _) => code.to_string(),
        (ExitWhy::Exited, None, Some(signal)) if signal != KILL && signal != TERM => {
            format!("signal {signal}")
        }
        (ExitWhy::Exited, None, signal) => {
            let signal = signal.unwrap_or(KILL);
            let message = format!("`{shown}` was killed by signal {signal}, by somebody else");
            return other(FailureClass::Lost, message);
        }
        (ExitWhy::Stopped, ..) => return Err(cancelled()),
        (ExitWhy::Overran, ..) => return Err(overran(command)),
        (ExitWhy::Flooded, ..) => {
            let message = format!("`{shown}` printed more than {OUTPUT_BYTES_MAX} bytes");
            return other(FailureClass::Limit, message);
        }
        (ExitWhy::Interrupted, ..) => {
            let message = format!("the runner's machine told `{shown}` to end");
            return other(FailureClass::Lost, message);
        }
        (ExitWhy::NotStarted { why }, ..) => {
            let message = format!("bash could not be started for `{shown}`: {why}");
            return other(FailureClass::Invalid, message);
        }
    };
    let before = match setup {
        [] => String::new(),
        all => format!(" ({})", clip(&all.join("; "), COMMAND_BYTES_MAX)),
    };
    let head = format!("`{shown}` failed with {how}{before}:\n");
    let end = tail(said.trim_end(), LOG_BYTES_MAX - head.len());
    let message = format!("{head}{end}");
    other(FailureClass::Agent, message)
}

fn overran(command: &str) -> Failure {
    Failure {
        class: FailureClass::Timeout,
        message: format!(
            "the time for the commands was over at `{}`: give the task more, or the commands less \
             to do",
            shown(command)
        ),
    }
}

fn shown(command: &str) -> String {
    clip(command.trim(), COMMAND_BYTES_MAX)
}

/// The end of a text, from a character on.
fn tail(text: &str, max: usize) -> &str {
    let mut from = text.len().saturating_sub(max);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// The last bytes of a file, as a text.
fn end_of(path: &Path, max: usize) -> io::Result<String> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let max = max as u64;
    let from = file.metadata()?.len().saturating_sub(max);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(why: ExitWhy, code: Option<i32>, signal: Option<i32>) -> Exit {
        Exit {
            why,
            code,
            signal,
            told: 0,
        }
    }

    #[test]
    fn only_a_command_that_failed_is_a_verdict() {
        let class = |why, code, signal| {
            let judged = judged("make", &exit(why, code, signal), &[], "no");
            judged.map_err(|it| it.class)
        };
        assert_eq!(class(ExitWhy::Exited, Some(0), None), Ok(()));
        let red = Err(FailureClass::Agent);
        assert_eq!(class(ExitWhy::Exited, Some(2), None), red);
        assert_eq!(class(ExitWhy::Exited, None, Some(11)), red);
        let lost = Err(FailureClass::Lost);
        assert_eq!(class(ExitWhy::Exited, None, Some(KILL)), lost);
        assert_eq!(class(ExitWhy::Interrupted, None, Some(TERM)), lost);
        let late = Err(FailureClass::Timeout);
        assert_eq!(class(ExitWhy::Overran, None, Some(TERM)), late);
        let stopped = Err(FailureClass::Cancelled);
        assert_eq!(class(ExitWhy::Stopped, None, None), stopped);
    }

    #[test]
    fn the_end_of_what_it_printed_is_told_within_bounds() {
        let said = format!("{}äthe end\n", "ä".repeat(LOG_BYTES_MAX));
        let setup = ["the script `s` failed: exit code 3".to_owned()];
        let ended = exit(ExitWhy::Exited, Some(1), None);
        let failure = judged("make", &ended, &setup, &said).expect_err("a failure");
        let head = "`make` failed with 1 (the script `s` failed: exit code 3):\nä";
        assert!(failure.message.starts_with(head), "{}", failure.message);
        assert!(failure.message.ends_with("äthe end"));
        assert!(failure.message.len() <= LOG_BYTES_MAX);
    }
}
