//! Claude Code, as measured with 2.1.329: its command line, and what its
//! `stream-json` means. The output is untrusted: lines that are no JSON, of
//! unknown types or with unknown fields are passed over.

use std::io::{self, BufRead, Read};

use serde_json::Value;
use shared::issue::{
    Ending, Failure, FailureClass, REASON_BYTES_MAX, RunResult, TEXT_BYTES_MAX, TaskKind, clip,
};
use shared::ports::Job;

use crate::folder::{Exit, ExitWhy};

/// A line longer than this is passed over, bytes.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A structured answer longer than this is none, bytes.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// The names of refused tools that are told, at most.
const DENIALS_TOLD_MAX: usize = 5;
/// The end of the standard error that is told, bytes.
const COMPLAINT_BYTES_MAX: usize = 500;

/// No calls but to the model, and an end within minutes where the model
/// service refuses: by default it tries ten times, even against a wrong key.
pub(super) const ENV: [(&str, &str); 2] = [
    ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    ("CLAUDE_CODE_MAX_RETRIES", "4"),
];

/// What an agent that changes files may use where the configuration names
/// nothing: all but a shell. `Edit(**)` covers writing, within the worktree.
const WORKING_TOOLS: [&str; 8] = [
    "Read(**)",
    "Edit(**)",
    "Glob",
    "Grep",
    "Task",
    "TodoWrite",
    "WebFetch",
    "WebSearch",
];
/// What an agent that only answers may use.
const READING_TOOLS: [&str; 7] = [
    "Read(**)",
    "Glob",
    "Grep",
    "Task",
    "TodoWrite",
    "WebFetch",
    "WebSearch",
];
const CHANGING_TOOLS: [&str; 4] = ["Bash", "Edit", "Write", "NotebookEdit"];
const MCP_PREFIX: &str = "mcp__";

/// The arguments for a job.
pub(super) fn args(job: &Job) -> Vec<String> {
    let mut args: Vec<String> =
        // A repository's own settings and servers would run its commands unasked.
        ["-p", "--output-format", "stream-json", "--verbose", "--setting-sources", "user"]
            .map(str::to_owned)
            .to_vec();
    let mut many = |flag: &str, values: Vec<String>| {
        if !values.is_empty() {
            args.push(flag.to_owned());
            args.extend(values);
        }
    };
    let policy = &job.agent;
    let mut allowed = policy.allowed_tools.clone();
    let mut disallowed = policy.disallowed_tools.clone();
    if changes_files(job.kind) {
        if allowed.is_empty() {
            allowed = WORKING_TOOLS.map(str::to_owned).to_vec();
        }
    } else {
        allowed.retain(|it| it.starts_with(MCP_PREFIX));
        allowed.extend(READING_TOOLS.map(str::to_owned));
        disallowed.extend(CHANGING_TOOLS.map(str::to_owned));
    }
    many("--mcp-config", policy.mcp.clone());
    many("--allowedTools", allowed);
    many("--disallowedTools", disallowed);
    args.push("--strict-mcp-config".into());
    let mode = if changes_files(job.kind) {
        "acceptEdits"
    } else {
        "dontAsk"
    };
    let mut one = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            args.extend([flag.to_owned(), value]);
        }
    };
    one("--permission-mode", Some(mode.into()));
    one("--model", policy.model.clone());
    // It refuses to start when both are the same.
    one(
        "--fallback-model",
        policy
            .fallback_model
            .clone()
            .filter(|it| policy.model.as_ref() != Some(it)),
    );
    one("--append-system-prompt", policy.append_instruction.clone());
    one("--max-budget-usd", job.cost_max.map(|it| it.to_string()));
    one("--json-schema", job.answer_schema.clone());
    args
}

fn changes_files(kind: TaskKind) -> bool {
    match kind {
        TaskKind::Builder | TaskKind::Debugger => true,
        TaskKind::Orchestrator | TaskKind::Scoper | TaskKind::Reviewer => false,
    }
}

/// What a process that ended has brought.
///
/// It succeeded when four things agree: it ended by itself, with code 0, after a
/// result event, and that event says no error. No single one of them is enough:
/// an API error is a `success` with exit code 1, an interrupt ends with code 0.
pub(super) fn outcome(
    output: impl BufRead,
    exit: &Exit,
    complaint: &str,
    asked: bool,
) -> io::Result<Ending> {
    let seen = Seen::read(output)?;
    let unspent = matches!(exit.why, ExitWhy::NotStarted { .. }).then_some(0.0);
    let cost_usd = seen
        .result
        .as_ref()
        .and_then(|it| it.get("total_cost_usd")?.as_f64())
        .filter(|it| it.is_finite() && *it >= 0.0)
        .or(unspent);
    let result = judge(&seen, exit, complaint, asked).map_err(|(class, message)| Failure {
        class,
        message: clip(message.trim(), REASON_BYTES_MAX),
    });
    Ok(Ending { result, cost_usd })
}

/// What matters of the output.
#[derive(Default)]
struct Seen {
    events: usize,
    /// One process may print several results; the last one counts.
    result: Option<Value>,
    /// The kind of the last error of the model service.
    error: Option<String>,
}

impl Seen {
    fn read(mut output: impl BufRead) -> io::Result<Self> {
        let mut seen = Self::default();
        let mut line = Vec::new();
        while next_line(&mut output, &mut line)? {
            let Ok(event) = serde_json::from_slice::<Value>(&line) else {
                continue;
            };
            seen.events += 1;
            match event.get("type").and_then(Value::as_str) {
                Some("result") => seen.result = Some(event),
                Some("assistant") => {
                    if let Some(error) = event.get("error").and_then(Value::as_str) {
                        seen.error = Some(error.to_owned());
                    }
                }
                Some(_) | None => {}
            }
        }
        Ok(seen)
    }
}

/// Reads the next line; one that is too long comes back empty. False at the end.
fn next_line(output: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let limit = LINE_BYTES_MAX as u64 + 1;
    if output.by_ref().take(limit).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.len() > LINE_BYTES_MAX && line.last() != Some(&b'\n') {
        line.clear();
        output.skip_until(b'\n')?;
    }
    Ok(true)
}

fn judge(
    seen: &Seen,
    exit: &Exit,
    complaint: &str,
    asked: bool,
) -> Result<RunResult, (FailureClass, String)> {
    match &exit.why {
        ExitWhy::Exited => {}
        ExitWhy::Stopped => return Err((FailureClass::Cancelled, "the run was stopped".into())),
        ExitWhy::Overran => {
            return Err((
                FailureClass::Timeout,
                "the agent took too long and was stopped".into(),
            ));
        }
        ExitWhy::Flooded => {
            return Err((
                FailureClass::Limit,
                "the agent printed too much and was stopped".into(),
            ));
        }
        ExitWhy::Interrupted => {
            return Err((
                FailureClass::Lost,
                "the runner's machine told the agent to end".into(),
            ));
        }
        ExitWhy::NotStarted { why } => {
            return Err((
                FailureClass::Invalid,
                format!("the agent could not be started: {why}"),
            ));
        }
    }
    if let Some(signal) = exit.signal {
        return Err((
            FailureClass::Lost,
            format!("the agent was killed by signal {signal}"),
        ));
    }
    let said = last_words(complaint);
    let code = exit.code.unwrap_or(-1);
    let Some(result) = &seen.result else {
        return Err(match code {
            // What a shell and most programs make of TERM.
            143 => (
                FailureClass::Lost,
                "the agent was told to end by somebody else".into(),
            ),
            0 => (
                FailureClass::Agent,
                "the agent ended without a result".into(),
            ),
            // Nothing was even begun: its command line or its installation.
            _ if seen.events == 0 => (
                FailureClass::Invalid,
                format!("the agent did not start (exit code {code}){said}"),
            ),
            _ => (
                FailureClass::Agent,
                format!("the agent ended without a result (exit code {code}){said}"),
            ),
        });
    };
    let is_error = result.get("is_error").and_then(Value::as_bool);
    if is_error != Some(false) || code != 0 {
        return Err(error(seen, result, code, &said));
    }
    let mut text = text_of(result, "result").unwrap_or_default();
    text.push_str(&denials(result));
    let mut answer = None;
    if asked {
        // The model may simply never give it: the run is a success all the same.
        let structured = result.get("structured_output").filter(|it| !it.is_null());
        let given = structured.map(Value::to_string);
        let given = given.ok_or_else(|| {
            let message = format!("the agent gave no answer of the form asked for: {text}");
            (FailureClass::Agent, message)
        })?;
        if given.len() > ANSWER_BYTES_MAX {
            let message = format!("the agent's answer is longer than {ANSWER_BYTES_MAX} bytes");
            return Err((FailureClass::Agent, message));
        }
        answer = Some(given);
    }
    Ok(RunResult {
        text: clip(&text, TEXT_BYTES_MAX),
        answer,
        ..RunResult::default()
    })
}

fn error(seen: &Seen, result: &Value, code: i32, said: &str) -> (FailureClass, String) {
    let reasons = result.get("errors").and_then(Value::as_array).map(|all| {
        all.iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join("; ")
    });
    let message = text_of(result, "result")
        .or(reasons)
        .filter(|it| !it.trim().is_empty())
        .unwrap_or_else(|| format!("exit code {code}{said}"));
    (class(seen, result), format!("the agent failed: {message}"))
}

fn class(seen: &Seen, result: &Value) -> FailureClass {
    match result.get("subtype").and_then(Value::as_str) {
        Some("error_max_turns") => return FailureClass::Limit,
        Some("error_max_budget_usd") => return FailureClass::Budget,
        Some("error_max_structured_output_retries") => return FailureClass::Agent,
        Some(_) | None => {}
    }
    if result.get("stop_reason").and_then(Value::as_str) == Some("refusal") {
        return FailureClass::Refusal;
    }
    // A spent credit comes as 400, so what the error is called goes first.
    match seen.error.as_deref() {
        Some("billing_error") => return FailureClass::Quota,
        Some("authentication_failed") => return FailureClass::Auth,
        Some(_) | None => {}
    }
    match result.get("api_error_status").and_then(Value::as_u64) {
        Some(401 | 403) => FailureClass::Auth,
        Some(402) => FailureClass::Quota,
        Some(408 | 429 | 500..) => FailureClass::Outage,
        Some(_) => FailureClass::Invalid,
        None => match text_of(result, "api_error")
            .or_else(|| seen.error.clone())
            .as_deref()
        {
            Some("connection_failed" | "rate_limit" | "overloaded" | "server_error") => {
                FailureClass::Outage
            }
            Some(_) | None => FailureClass::Agent,
        },
    }
}

/// A sentence about the tools that were refused: often the reason for a poor result.
fn denials(result: &Value) -> String {
    let Some(denied) = result.get("permission_denials").and_then(Value::as_array) else {
        return String::new();
    };
    let mut names: Vec<&str> = denied
        .iter()
        .filter_map(|it| it.get("tool_name")?.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names.truncate(DENIALS_TOLD_MAX);
    if names.is_empty() {
        return String::new();
    }
    format!(
        "\n\n(It was not allowed to use: {}.)",
        clip(&names.join(", "), REASON_BYTES_MAX)
    )
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

fn text_of(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
