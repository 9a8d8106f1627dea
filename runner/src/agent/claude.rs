//! Claude Code, as measured with 2.1.329 (and, where said, 2.1.197).
//!
//! It runs with `-p`, reads its prompt and all further messages as lines of JSON
//! on its standard input, and prints lines of JSON. A program that is called
//! `claude` and is not what Anthropic installs (a wrapper, a script) gets the
//! prompt alone, as a text that ends: that is what such programs rely on. Messages
//! for it make further legs.
//!
//! What it does with messages (2.1.329, each seen more than once):
//!
//! * A message with a `uuid` is followed by `command_lifecycle` events: `queued`
//!   when it was read, `started` when it was taken in, `completed` when it was
//!   answered. Those of a turn's first message come after the `result`.
//! * One that comes while a tool runs is taken in after that tool, in the same
//!   turn, beside what the tool brought: no `result` of its own. One that comes while the model speaks waits
//!   for the end of the turn; all that wait then are one turn together. So
//!   results cannot be counted against messages.
//! * A `uuid` that the session has got before, in this process or before
//!   `--resume`, is passed over: `completed` at once and, if nothing else is
//!   there to do, no `result` ever.
//! * A line that is no JSON ends the process with code 1, an unknown type does
//!   not.
//! * It ends when its standard input is closed, after it has answered all that
//!   was written before; so closing early loses nothing. Until then it waits,
//!   after a failure too, and the last result decides its exit code.
//! * With `--max-budget-usd` used up, each further message brings
//!   `error_max_budget_usd` at once.
//! * 2.1.197 does the same, but has no `command_lifecycle`: it counts as idle at
//!   each result, which loses nothing either.
//!
//! What it says about cost: `total_cost_usd` counts up from result to result,
//! and after `--resume` goes on from where the session stood on 2.1.329 but from
//! zero on 2.1.197; only the newer one has `model_usage_since_last_result`,
//! which tells them apart. A process that got TERM has written its cost into the
//! session's count, one that got KILL has not: the count after it is too low.
//! `--max-budget-usd` looks at the process alone, after each turn.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::issue::{FailureClass, REASON_BYTES_MAX, RunResult, TEXT_BYTES_MAX, clip};
use shared::ports::Job;

use super::{Agent, Blame, Cost, Leg, Seen, answer, last_words, no_end};

/// The names of refused tools that are told, at most.
const DENIALS_TOLD_MAX: usize = 5;

/// No calls but to the model, and an end within minutes where the model
/// service refuses: by default it tries ten times, even against a wrong key.
const ENV: [(&str, &str); 2] = [
    ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
    ("CLAUDE_CODE_MAX_RETRIES", "4"),
];

/// How it is called whatever the job.
const ALWAYS: [&str; 4] = ["-p", "--output-format", "stream-json", "--verbose"];
/// How it is called to listen.
const LISTENING: [&str; 2] = ["--input-format", "stream-json"];
/// Where the real program lies: `…/@anthropic-ai/claude-code…/` by npm,
/// `…/claude/versions/2.1.329` by its own installer, `…/claude-code/…` by Homebrew.
const PACKAGE: &str = "claude-code";
const VERSIONS: &str = "claude/versions";

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

/// USD for a million tokens, in and out, by what a model's name contains: list
/// prices, those of Sonnet as Claude Code 2.1.329 counts them, the others from
/// memory. They only bound what a process may have spent that died.
const PRICES: [(&str, (f64, f64)); 2] = [("haiku", (1.0, 5.0)), ("sonnet", (3.0, 15.0))];
const DEAREST: (f64, f64) = (15.0, 75.0);
/// As many times the price of what goes in.
const CACHE_WRITE: f64 = 2.0;
const CACHE_READ: f64 = 0.1;
/// A token is not shorter on average, written as JSON.
const BYTES_PER_TOKEN: f64 = 2.0;
/// Longer ids are not told apart, bytes.
const ID_BYTES_MAX: usize = 128;

/// The inputs of tools that say what a call is about.
const TELLING_INPUTS: [&str; 5] = ["file_path", "command", "pattern", "description", "url"];

pub(super) struct Claude {
    listens: bool,
}

/// A program of which nothing is known but its name.
pub(super) const PLAIN: Claude = Claude { listens: false };
static REAL: Claude = Claude { listens: true };

impl Agent for Claude {
    fn name(&self) -> &'static str {
        "claude"
    }

    fn binary(&self) -> &'static str {
        "claude"
    }

    fn variable(&self) -> &'static str {
        "CLAUDE_BIN"
    }

    fn remedy(&self) -> &'static str {
        "install Claude Code there (`npm install -g @anthropic-ai/claude-code`), or name the \
         program in CLAUDE_BIN"
    }

    fn at(&self, program: &Path) -> Option<&'static dyn Agent> {
        let real = std::fs::canonicalize(program).ok()?;
        let folder = real.parent()?;
        let packed = folder
            .components()
            .any(|it| it.as_os_str().to_string_lossy().starts_with(PACKAGE));
        (packed || folder.ends_with(VERSIONS)).then_some(&REAL as &dyn Agent)
    }

    fn env_prefixes(&self) -> &'static [&'static str] {
        &["ANTHROPIC_", "CLAUDE_CODE_"]
    }

    fn env(&self) -> &'static [(&'static str, &'static str)] {
        &ENV
    }

    fn args(&self, job: &Job, leg: &Leg) -> Vec<String> {
        let mut args = args(job, leg);
        if self.listens {
            args.extend(LISTENING.map(str::to_owned));
        }
        args
    }

    fn listens(&self) -> bool {
        self.listens
    }

    fn said(&self, id: &str, text: &str) -> Vec<u8> {
        if !self.listens {
            return text.as_bytes().to_vec();
        }
        let message = json!({
            "type": "user",
            "uuid": uuid(id),
            "message": { "role": "user", "content": text },
        });
        format!("{message}\n").into_bytes()
    }

    fn read(&self, line: &[u8], seen: &mut Seen) {
        let Some(event) = seen.event(line) else {
            return;
        };
        if let Some(session) = event.get("session_id").and_then(Value::as_str) {
            seen.set_session(session);
        }
        let text = |key: &str| event.get(key).and_then(Value::as_str);
        match (text("type"), text("subtype")) {
            (Some("result"), _) => {
                seen.cost = cost(&event, seen.cost);
                if seen.cost.is_some() {
                    seen.guess = Some(0.0);
                }
                seen.end = Some(event);
                seen.rests();
            }
            (Some("assistant"), _) => {
                if let Some(error) = text("error") {
                    seen.set_error(error);
                }
                seen.at_work();
                count(&event, seen);
                note(&event, seen);
            }
            (Some("user"), _) | (Some("system"), Some("init")) => {
                seen.at_work();
                seen.guess.get_or_insert(0.0);
            }
            (Some("system"), Some("api_retry")) => {
                let why = text("error").unwrap_or("it gave no reason");
                seen.set_note(&format!("asks the model service again: {why}"));
            }
            (Some("command_lifecycle"), _) => {
                let Some(message) = text("command_uuid") else {
                    return;
                };
                match text("state") {
                    Some("queued") => seen.queued(message),
                    Some("started") => {
                        seen.taken(message);
                        seen.at_work();
                    }
                    Some(_) | None => seen.taken(message),
                }
            }
            _ => {}
        }
    }

    /// It succeeded when four things agree: it ended by itself, with code 0, after
    /// a result event, and that event says no error. No single one of them is
    /// enough: an API error is a `success` with exit code 1, an interrupt ends with
    /// code 0.
    fn judge(
        &self,
        seen: &Seen,
        code: i32,
        complaint: &str,
        asked: bool,
    ) -> Result<RunResult, Blame> {
        let Some(result) = &seen.end else {
            return Err(no_end(seen, code, complaint));
        };
        let is_error = result.get("is_error").and_then(Value::as_bool);
        if is_error != Some(false) || code != 0 {
            return Err(error(seen, result, code, &last_words(complaint)));
        }
        let mut text = text_of(result, "result").unwrap_or_default();
        text.push_str(&denials(result));
        // The model may simply never give it: the run is a success all the same.
        let structured = result.get("structured_output").filter(|it| !it.is_null());
        let answer = asked
            .then(|| answer(structured.map(Value::to_string), &text))
            .transpose()?;
        Ok(RunResult {
            text: clip(&text, TEXT_BYTES_MAX),
            answer,
            ..RunResult::default()
        })
    }
}

/// It drops messages whose id it knows, and takes ids of this form only.
fn uuid(id: &str) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&Sha256::digest(id)[..16]);
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}

fn args(job: &Job, leg: &Leg) -> Vec<String> {
    let mut args: Vec<String> = ALWAYS.map(str::to_owned).to_vec();
    let mut many = |flag: &str, values: Vec<String>| {
        if !values.is_empty() {
            args.push(flag.to_owned());
            args.extend(values);
        }
    };
    let policy = &job.agent;
    let mut allowed = policy.allowed_tools.clone();
    let mut disallowed = policy.disallowed_tools.clone();
    if job.makes_pull() {
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
    // The settings and servers of a repository run its commands unasked.
    if !policy.trusted {
        args.push("--strict-mcp-config".into());
    }
    let sources = if policy.trusted {
        "user,project,local"
    } else {
        "user"
    };
    let mode = if job.makes_pull() {
        "acceptEdits"
    } else {
        "dontAsk"
    };
    let mut one = |flag: &str, value: Option<String>| {
        if let Some(value) = value {
            args.extend([flag.to_owned(), value]);
        }
    };
    one("--setting-sources", Some(sources.into()));
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
    one("--max-budget-usd", leg.cost_max.map(|it| it.to_string()));
    one("--json-schema", job.answer_schema.clone());
    one("--resume", leg.resume.clone());
    args
}

/// What a result says about cost, after what the one before it said.
fn cost(result: &Value, before: Option<Cost>) -> Option<Cost> {
    let usd = |it: &Value| it.as_f64().filter(|it| it.is_finite() && *it >= 0.0);
    let total = usd(result.get("total_cost_usd")?)?;
    let since = result.get("model_usage_since_last_result");
    Some(match since.and_then(Value::as_object) {
        Some(models) => {
            let models = models.values().filter_map(|it| usd(it.get("costUSD")?));
            Cost {
                own: before.map_or(0.0, |it| it.own) + models.sum::<f64>(),
                session: Some(total),
                ..Cost::default()
            }
        }
        None => Cost {
            own: total,
            ..Cost::default()
        },
    })
}

/// Counts what a message of the model may cost. It comes in pieces, each with
/// the whole of what went in; what came out is told only at the end, by `result`.
fn count(event: &Value, seen: &mut Seen) {
    let Some(message) = event.get("message") else {
        return;
    };
    let text = |key: &str| message.get(key).and_then(Value::as_str);
    let model = text("model").unwrap_or_default();
    let prices = PRICES.iter().find(|(family, _)| model.contains(family));
    let (input, output) = prices.map_or(DEAREST, |(_, prices)| *prices);
    let tokens = |key: &str| {
        let count = message.get("usage").and_then(|it| it.get(key)?.as_f64());
        count.filter(|it| *it >= 0.0).unwrap_or_default()
    };
    let written = message.get("content").map_or(0, |it| it.to_string().len()) as f64;
    let mut usd = (written / BYTES_PER_TOKEN).max(tokens("output_tokens")) * output;
    let id = text("id").map(|it| clip(it, ID_BYTES_MAX));
    if id.is_none() || seen.counted != id {
        seen.counted = id;
        let cached = tokens("cache_creation_input_tokens") * CACHE_WRITE
            + tokens("cache_read_input_tokens") * CACHE_READ;
        usd += (tokens("input_tokens") + cached) * input;
    }
    seen.guess = Some(seen.guess.unwrap_or_default() + usd / 1e6);
}

/// What a message of the model says that it does.
fn note(event: &Value, seen: &mut Seen) {
    let content = event.get("message").and_then(|it| it.get("content"));
    for block in content.and_then(Value::as_array).into_iter().flatten() {
        let text = |key: &str| block.get(key).and_then(Value::as_str);
        match text("type") {
            Some("text") => seen.set_note(text("text").unwrap_or_default()),
            Some("tool_use") => {
                let input = |key: &&str| block.get("input")?.get(*key)?.as_str();
                let on = TELLING_INPUTS.iter().find_map(input).unwrap_or_default();
                seen.set_note(&format!("{} {on}", text("name").unwrap_or("a tool")));
            }
            Some(_) | None => {}
        }
    }
}

fn error(seen: &Seen, result: &Value, code: i32, said: &str) -> Blame {
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
    // The machine was set up anew, or its home was cleared.
    let errors = result.get("errors").map(Value::to_string);
    if errors.is_some_and(|it| it.contains("No conversation found")) {
        return FailureClass::Lost;
    }
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

fn text_of(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
