//! Agent programs: how one is started for a job, spoken to, and what its output
//! means. What is peculiar to one stays in its module; another one is a file
//! here and a line in [`AGENTS`].
//!
//! All that a program prints is untrusted: lines that are no JSON, of unknown
//! types or with unknown fields are passed over.

mod claude;
mod codex;
mod cost;
mod places;
mod seen;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use shared::issue::{Failure, FailureClass, REASON_BYTES_MAX, RunResult, clip};
use shared::ports::Job;

pub(crate) use self::cost::{Cost, Spent, spent};
pub(crate) use self::places::{at_hand, known, located};
pub use self::places::{find_program, installed, locate, programs};
pub(crate) use self::seen::{Ear, Seen};
use crate::folder::{Exit, ExitWhy};

/// The programs that the runner can work with.
pub(crate) const AGENTS: &[&dyn Agent] = &[&claude::PLAIN, &codex::Codex];

/// The end of the standard error that is told, bytes.
const COMPLAINT_BYTES_MAX: usize = 500;
/// A structured answer longer than this is none, bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// What a failure is and the sentence about it.
pub(crate) type Blame = (FailureClass, String);

/// A program that works on a prompt, one process for each [`Leg`] of a job.
pub(crate) trait Agent: Send + Sync {
    /// As jobs ask for it.
    fn name(&self) -> &'static str;

    /// What it is called on the `PATH`, where its variable names no other.
    fn binary(&self) -> &'static str;

    /// The variable that says where the program is.
    fn variable(&self) -> &'static str;

    /// What to do where the program is not there; goes on after a colon.
    fn remedy(&self) -> &'static str;

    /// The same, as it is to be spoken to where it is this very file.
    fn at(&self, _program: &Path) -> Option<&'static dyn Agent> {
        None
    }

    /// The variables that are its own access to its model, by how they begin.
    fn env_prefixes(&self) -> &'static [&'static str];

    /// What it needs in its environment; what the user sets goes before it.
    fn env(&self) -> &'static [(&'static str, &'static str)];

    /// Its arguments. The prompt is no part of them: see [`Agent::said`].
    fn args(&self, job: &Job, leg: &Leg) -> Vec<String>;

    /// Does it say what it costs? Else what its tokens tell is good for a bound and
    /// not for a bill.
    fn bills(&self) -> bool {
        true
    }

    /// Does it read further messages while it works? Else its standard input is
    /// closed after the prompt.
    fn listens(&self) -> bool;

    /// A prompt or a message as its standard input wants it. `id` tells it from
    /// all others of the session; one that the agent has got already, in this
    /// process or an earlier one, it passes over. So a leg never begins with one
    /// that an earlier leg may have got.
    fn said(&self, id: &str, text: &str) -> Vec<u8>;

    /// Takes note of one line of its output.
    fn read(&self, line: &[u8], seen: &mut Seen);

    /// What a process that ended by itself has brought. `asked`: an answer of a
    /// given form was asked for.
    fn judge(
        &self,
        seen: &Seen,
        code: i32,
        complaint: &str,
        asked: bool,
    ) -> Result<RunResult, Blame>;
}

/// One process of an agent for a job. All legs of a job share a session and a
/// worktree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Leg {
    /// The session that it takes up again.
    pub(crate) resume: Option<String>,
    /// What it may still cost, USD.
    pub(crate) cost_max: Option<f64>,
    /// Where it works.
    pub(crate) worktree: PathBuf,
    /// Where the job's `answer_schema` lies as a file; it must, where there is one.
    pub(crate) schema: Option<PathBuf>,
    /// The environment that it gets.
    pub(crate) env: BTreeMap<String, String>,
}

/// What the process of an agent has brought.
pub(crate) fn judge(
    agent: &dyn Agent,
    seen: &Seen,
    exit: &Exit,
    complaint: &str,
    asked: bool,
) -> Result<RunResult, Failure> {
    let judged = match cut_short(exit) {
        Some(blame) => Err(blame),
        None => match exit.code.unwrap_or(-1) {
            // What a shell and most programs make of TERM.
            143 if seen.end.is_none() => Err((
                FailureClass::Lost,
                "the agent was told to end by somebody else".into(),
            )),
            code => agent.judge(seen, code, complaint, asked),
        },
    };
    judged.map_err(|(class, message)| Failure {
        class,
        message: clip(message.trim(), REASON_BYTES_MAX),
    })
}

/// Whatever a program printed: what was done to it decides.
fn cut_short(exit: &Exit) -> Option<Blame> {
    Some(match &exit.why {
        ExitWhy::Exited => {
            let signal = exit.signal?;
            let message = format!("the agent was killed by signal {signal}");
            (FailureClass::Lost, message)
        }
        ExitWhy::Stopped => (FailureClass::Cancelled, "the run was stopped".into()),
        ExitWhy::Overran => {
            let message = "the agent took too long and was stopped".into();
            (FailureClass::Timeout, message)
        }
        ExitWhy::Flooded => {
            let message = "the agent printed too much and was stopped".into();
            (FailureClass::Limit, message)
        }
        ExitWhy::Interrupted => {
            let message = "the runner's machine told the agent to end".into();
            (FailureClass::Lost, message)
        }
        ExitWhy::NotStarted { why } => {
            let message = format!("the agent could not be started: {why}");
            (FailureClass::Invalid, message)
        }
    })
}

/// Of a process that ended by itself without saying how its work went.
fn no_end(seen: &Seen, code: i32, complaint: &str) -> Blame {
    let said = last_words(complaint);
    match code {
        0 => {
            let message = "the agent ended without a result".into();
            (FailureClass::Agent, message)
        }
        // Nothing was even begun: its command line or its installation.
        _ if seen.events == 0 => {
            let message = format!("the agent did not start (exit code {code}){said}");
            (FailureClass::Invalid, message)
        }
        _ => {
            let message = format!("the agent ended without a result (exit code {code}){said}");
            (FailureClass::Agent, message)
        }
    }
}

/// An answer as it is handed on, if there is one and it is not too long.
fn answer(given: Option<String>, text: &str) -> Result<String, Blame> {
    let given = given.ok_or_else(|| {
        let message = format!("the agent gave no answer of the form asked for: {text}");
        (FailureClass::Agent, message)
    })?;
    if given.len() > ANSWER_BYTES_MAX {
        let message = format!("the agent's answer is longer than {ANSWER_BYTES_MAX} bytes");
        return Err((FailureClass::Agent, message));
    }
    Ok(given)
}

fn last_words(complaint: &str) -> String {
    let mut from = complaint.len().saturating_sub(COMPLAINT_BYTES_MAX);
    while !complaint.is_char_boundary(from) {
        from += 1;
    }
    match complaint[from..].trim() {
        "" => String::new(),
        said => format!(": {said}"),
    }
}

#[cfg(test)]
mod tests;
