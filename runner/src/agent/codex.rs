//! Codex CLI, as measured with 0.169.0: `codex exec --json`.
//!
//! What of a job it takes: the prompt (over standard input), the model, the
//! appended instruction, the schema of the answer, whether the repository is
//! trusted, and whether the task changes files. What it has no counterpart for,
//! and what is therefore ignored: the lists of tools (its sandbox decides: the
//! worktree and temporary folders can be written, or nothing; no network either
//! way), the MCP configuration (its servers are in the user's `config.toml`),
//! the fallback model and the cap in USD, for it knows no prices.
//!
//! What was seen:
//!
//! * Its sandbox makes `.git` read-only, so it cannot commit: the runner does.
//! * `OPENAI_API_KEY` and `OPENAI_BASE_URL` in the environment alone mean
//!   nothing to it. With a key there, a provider of ours that uses it is named;
//!   without one it must be logged in (`codex login`).
//! * Of a folder's `.codex` nothing is read unless the folder, or the repository
//!   that it is a worktree of, is trusted; what we say of the worktree goes
//!   before what the user has said of the repository.
//! * While nothing can be connected to, it would wait for the network for ever.
//! * `item.completed` with an item of type `error` is a warning, and so is an
//!   `error` event that is not followed by `turn.failed`.
//! * `--output-schema` is only sent to the model; what comes back is not
//!   checked.
//! * It reads no message while it works. A session is taken up by
//!   `exec … resume ID`; its tokens count on then.
//! * Told to end, it prints nothing more: INT is exit code 1, TERM signal 15.

use serde_json::Value;
use shared::issue::{FailureClass, RunResult};
use shared::ports::Job;

use super::{Agent, Blame, Leg, Seen, answer, last_words, no_end};

/// Where OpenAI's service is, unless `OPENAI_BASE_URL` names another one.
const BASE_URL: &str = "https://api.openai.com/v1";

/// No calls but to the model, an end where it cannot be reached, nobody to ask,
/// and no key of ours in the environment of what it runs.
const ALWAYS: [&str; 6] = [
    "approval_policy=\"never\"",
    "analytics.enabled=false",
    "features.plugins=false",
    "features.apps=false",
    "features.unbounded_connection_retries=false",
    "shell_environment_policy.exclude=[\"OPENAI_*\"]",
];

/// USD for a million tokens, in and out: twice the list prices of GPT-5, from
/// memory. They only bound what a job may spend that is taken up again.
const PRICES: (f64, f64) = (2.5, 20.0);

pub(super) struct Codex;

impl Agent for Codex {
    fn name(&self) -> &'static str {
        "codex"
    }

    fn binary(&self) -> &'static str {
        "codex"
    }

    fn variable(&self) -> &'static str {
        "CODEX_BIN"
    }

    fn remedy(&self) -> &'static str {
        "install Codex CLI there (`npm install -g @openai/codex`), or name the program in CODEX_BIN"
    }

    fn env_prefixes(&self) -> &'static [&'static str] {
        &["OPENAI_"]
    }

    fn env(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    fn args(&self, job: &Job, leg: &Leg) -> Vec<String> {
        let sandbox = if job.makes_pull() {
            "workspace-write"
        } else {
            "read-only"
        };
        let mut args: Vec<String> = ["exec", "--json", "--sandbox", sandbox]
            .map(str::to_owned)
            .to_vec();
        let mut set = |what: String| args.extend(["-c".to_owned(), what]);
        for what in ALWAYS {
            set(what.to_owned());
        }
        let trust = if job.agent.trusted {
            "trusted"
        } else {
            "untrusted"
        };
        let worktree = toml(&leg.worktree.to_string_lossy());
        set(format!(
            "projects={{{worktree}={{trust_level=\"{trust}\"}}}}"
        ));
        for what in provider(leg) {
            set(what);
        }
        if let Some(text) = &job.agent.append_instruction {
            set(format!("developer_instructions={}", toml(text)));
        }
        if let Some(model) = &job.agent.model {
            args.extend(["--model".to_owned(), model.clone()]);
        }
        if let Some(schema) = &leg.schema {
            let schema = schema.to_string_lossy().into_owned();
            args.extend(["--output-schema".to_owned(), schema]);
        }
        if let Some(session) = &leg.resume {
            args.extend(["resume".to_owned(), session.clone()]);
        }
        args.push("-".to_owned());
        args
    }

    fn bills(&self) -> bool {
        false
    }

    fn listens(&self) -> bool {
        false
    }

    fn said(&self, _: &str, text: &str) -> Vec<u8> {
        text.into()
    }

    fn read(&self, line: &[u8], seen: &mut Seen) {
        let Some(event) = seen.event(line) else {
            return;
        };
        let text = |key: &str| event.get(key).and_then(Value::as_str);
        match text("type") {
            Some("thread.started") => {
                if let Some(session) = text("thread_id") {
                    seen.set_session(session);
                }
                seen.at_work();
            }
            Some("turn.started") => seen.at_work(),
            Some("item.started" | "item.completed") => {
                seen.at_work();
                if let Some(item) = event.get("item") {
                    note(item, seen);
                }
            }
            Some("error") => seen.set_note(text("message").unwrap_or_default()),
            Some("turn.completed") => {
                seen.guess_in_all = Some(guess(&event));
                seen.end = Some(event);
                seen.rests();
            }
            Some("turn.failed") => {
                let message = event.get("error").and_then(|it| it.get("message"));
                seen.set_error(message.and_then(Value::as_str).unwrap_or_default());
                seen.end = Some(event);
                seen.rests();
            }
            Some(_) | None => {}
        }
    }

    /// It succeeded when it ended by itself, with code 0, after a turn that was
    /// completed.
    fn judge(
        &self,
        seen: &Seen,
        code: i32,
        complaint: &str,
        asked: bool,
    ) -> Result<RunResult, Blame> {
        let Some(end) = &seen.end else {
            // The machine was set up anew, or its home was cleared.
            if seen.events == 0 && complaint.contains("no rollout found") {
                let message = "the agent's session is gone".into();
                return Err((FailureClass::Lost, message));
            }
            return Err(no_end(seen, code, complaint));
        };
        let completed = end.get("type").and_then(Value::as_str) == Some("turn.completed");
        if !completed || code != 0 {
            let said = seen.error.as_deref().filter(|it| !it.is_empty());
            let said = said.map_or_else(
                || format!("exit code {code}{}", last_words(complaint)),
                str::to_owned,
            );
            return Err((class(&said), format!("the agent failed: {said}")));
        }
        let text = seen.text();
        let is_json = |it: &&String| serde_json::from_str::<Value>(it).is_ok();
        let answer = asked
            .then(|| answer(seen.words.as_ref().filter(is_json).cloned(), &text))
            .transpose()?;
        Ok(RunResult {
            text,
            answer,
            ..RunResult::default()
        })
    }
}

/// Through whom it reaches its model: by the key in its environment, if there is
/// one, else as the user has set it up.
fn provider(leg: &Leg) -> Vec<String> {
    let var = |name: &str| leg.env.get(name).filter(|it| !it.is_empty());
    let url = var("OPENAI_BASE_URL").map(String::as_str);
    if var("OPENAI_API_KEY").is_none() {
        return url
            .map(|it| format!("openai_base_url={}", toml(it)))
            .into_iter()
            .collect();
    }
    let url = toml(url.unwrap_or(BASE_URL));
    // The key itself is on no command line.
    let provider = format!(
        "model_providers.cyrus={{name=\"OpenAI\",base_url={url},env_key=\"OPENAI_API_KEY\",\
         wire_api=\"responses\",env_http_headers={{\"OpenAI-Organization\"=\"OPENAI_ORGANIZATION\",\
         \"OpenAI-Project\"=\"OPENAI_PROJECT\"}}}}"
    );
    vec!["model_provider=\"cyrus\"".to_owned(), provider]
}

/// A text as TOML has it, which differs from JSON in one character.
fn toml(text: &str) -> String {
    Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

fn note(item: &Value, seen: &mut Seen) {
    let text = |key: &str| item.get(key).and_then(Value::as_str).unwrap_or_default();
    match text("type") {
        "agent_message" => seen.set_words(text("text")),
        "command_execution" => seen.set_note(&format!("runs {}", text("command"))),
        "file_change" => seen.set_note("changes files"),
        "mcp_tool_call" => seen.set_note(&format!("calls {}", text("tool"))),
        "web_search" => seen.set_note(&format!("searches the web for {}", text("query"))),
        _ => {}
    }
}

/// It tells errors by their text alone.
fn class(said: &str) -> FailureClass {
    let lower = said.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|it| lower.contains(it));
    if says(&[
        "insufficient_quota",
        "exceeded your current quota",
        "usage limit",
    ]) {
        return FailureClass::Quota;
    }
    if says(&["context window"]) {
        return FailureClass::Limit;
    }
    match status(&lower) {
        Some(401 | 403) => return FailureClass::Auth,
        Some(402) => return FailureClass::Quota,
        Some(408 | 429 | 500..) => return FailureClass::Outage,
        Some(_) => return FailureClass::Invalid,
        None => {}
    }
    if says(&[
        "rate limit",
        "high demand",
        "overloaded",
        "connection failed",
        "stream disconnected",
    ]) {
        return FailureClass::Outage;
    }
    // Of a refused request the body is told, and nothing else.
    let body = serde_json::from_str::<Value>(said).ok();
    if body.is_some_and(|it| it.get("error").is_some()) {
        return FailureClass::Invalid;
    }
    FailureClass::Agent
}

/// `unexpected status 401 Unauthorized`, `last status: 429 Too Many Requests`.
fn status(said: &str) -> Option<u16> {
    let (_, rest) = said.split_once("status")?;
    let rest = rest.trim_start_matches([':', ' ']);
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// What the tokens of a session may have cost so far.
fn guess(completed: &Value) -> f64 {
    let tokens = |key: &str| {
        let count = completed.get("usage").and_then(|it| it.get(key)?.as_f64());
        count.filter(|it| *it >= 0.0).unwrap_or_default()
    };
    let (input, output) = PRICES;
    (tokens("input_tokens") * input + tokens("output_tokens") * output) / 1e6
}

#[cfg(test)]
mod tests;
