//! A model service as agent programs see it: the Messages API of Anthropic for
//! Claude Code, the Responses API of OpenAI for Codex CLI, both streaming. What it
//! answers is a script's business, which looks at the conversation and never at
//! the order of requests: agents ask in parallel.
//!
//! It proves what the program does with given bytes, not what the real service
//! sends.

mod responses;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};

use crate::faults::Faults;
use crate::serve::meet;

/// What every answer is said to have cost.
pub const INPUT_TOKENS: u64 = 1_000;
pub const OUTPUT_TOKENS: u64 = 50;
/// The largest request that is read, bytes: agents send their whole history.
const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Where `npm ci` in `target/tools` puts Claude Code …
const CLAUDE: [&str; 2] = [
    "@anthropic-ai/claude-code-linux-x64/claude",
    "@anthropic-ai/claude-code/bin/claude.exe",
];
/// … and Codex CLI.
const CODEX: [&str; 4] = [
    "@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex",
    "@openai/codex-linux-arm64/vendor/aarch64-unknown-linux-musl/bin/codex",
    "@openai/codex-darwin-x64/vendor/x86_64-apple-darwin/bin/codex",
    "@openai/codex-darwin-arm64/vendor/aarch64-apple-darwin/bin/codex",
];

/// Under this name the troubles of a call are planned in [`Model::faults`].
pub const MESSAGES: &str = "messages";
pub const RESPONSES: &str = "responses";

type Script = dyn Fn(&Conversation) -> Reply + Send + Sync;

/// The model service. Cheap to clone; all clones are the same one.
#[derive(Clone)]
pub struct Model {
    /// Trouble for the next calls, before the script is asked.
    pub faults: Faults,
    script: Arc<Script>,
    seen: Arc<Mutex<Vec<Conversation>>>,
}

/// What the service answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Text, and the turn is over.
    Say(String),
    /// Calls of tools, by name and input; the agent comes back with what they brought.
    Call(Vec<(String, Value)>),
    /// An error of the service.
    Fail {
        status: u16,
        kind: String,
        message: String,
    },
    /// The answer begins and never goes on.
    Hang,
}

impl Reply {
    pub fn say(text: &str) -> Self {
        Self::Say(text.to_owned())
    }

    /// A call of one tool.
    pub fn call(tool: &str, input: Value) -> Self {
        Self::Call(vec![(tool.to_owned(), input)])
    }

    pub fn fail(status: u16, kind: &str, message: &str) -> Self {
        Self::Fail {
            status,
            kind: kind.to_owned(),
            message: message.to_owned(),
        }
    }
}

/// A request: everything that was said so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    pub model: String,
    pub system: String,
    /// The tools that the agent offers, by name.
    pub tools: Vec<String>,
    pub turns: Vec<Turn>,
    /// The key that came along.
    pub key: Option<String>,
    /// The form that the answer shall have, where the service itself sees to it.
    pub schema: Option<Value>,
}

/// One part of one message.
#[derive(Clone, Debug, PartialEq)]
pub enum Turn {
    User(String),
    Assistant(String),
    Called {
        id: String,
        tool: String,
        input: Value,
    },
    Brought {
        id: String,
        text: String,
        is_error: bool,
    },
}

impl Conversation {
    /// All that people, and the program in their name, have said.
    pub fn asked(&self) -> String {
        let texts = self.turns.iter().filter_map(|it| match it {
            Turn::User(text) => Some(text.as_str()),
            Turn::Assistant(_) | Turn::Called { .. } | Turn::Brought { .. } => None,
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    /// What the tools brought so far, oldest first: text, and whether it is an error.
    pub fn brought(&self) -> Vec<(&str, bool)> {
        self.turns
            .iter()
            .filter_map(|it| match it {
                Turn::Brought { text, is_error, .. } => Some((text.as_str(), *is_error)),
                Turn::User(_) | Turn::Assistant(_) | Turn::Called { .. } => None,
            })
            .collect()
    }

    /// Did people say this? What they say while a tool works comes beside what
    /// the tool brought.
    pub fn heard(&self, words: &str) -> bool {
        self.asked().contains(words) || self.brought().iter().any(|(it, _)| it.contains(words))
    }

    /// Was this tool called before?
    pub fn called(&self, name: &str) -> bool {
        self.turns
            .iter()
            .any(|it| matches!(it, Turn::Called { tool, .. } if tool == name))
    }

    pub fn offers(&self, name: &str) -> bool {
        self.tools.iter().any(|it| it == name)
    }

    /// The folder that the program says it works in.
    pub fn working_directory(&self) -> Option<String> {
        let told = format!("{}\n{}", self.system, self.asked());
        let line = told
            .lines()
            .find(|line| line.to_lowercase().contains("working directory:"))?;
        Some(line.split_once(": ")?.1.trim().to_owned())
    }

    fn read(headers: &HeaderMap, body: &Value) -> Self {
        let mut turns = Vec::new();
        for message in body["messages"].as_array().into_iter().flatten() {
            let from_user = message["role"] == "user";
            let said = |text: &str| {
                let text = text.to_owned();
                if from_user {
                    Turn::User(text)
                } else {
                    Turn::Assistant(text)
                }
            };
            if let Some(text) = message["content"].as_str() {
                turns.push(said(text));
            }
            for block in message["content"].as_array().into_iter().flatten() {
                match block["type"].as_str() {
                    Some("text") => turns.push(said(&text(&block["text"]))),
                    Some("tool_use") => turns.push(Turn::Called {
                        id: text(&block["id"]),
                        tool: text(&block["name"]),
                        input: block["input"].clone(),
                    }),
                    Some("tool_result") => turns.push(Turn::Brought {
                        id: text(&block["tool_use_id"]),
                        text: flat(&block["content"]),
                        is_error: block["is_error"] == true,
                    }),
                    Some(_) | None => {}
                }
            }
        }
        let key = headers
            .get("x-api-key")
            .or_else(|| headers.get("authorization"));
        Self {
            model: text(&body["model"]),
            system: flat(&body["system"]),
            tools: body["tools"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|it| text(&it["name"]))
                .collect(),
            turns,
            key: key.and_then(|it| it.to_str().ok()).map(str::to_owned),
            schema: None,
        }
    }
}

impl Model {
    pub fn new(script: impl Fn(&Conversation) -> Reply + Send + Sync + 'static) -> Self {
        Self {
            faults: Faults::default(),
            script: Arc::new(script),
            seen: Arc::default(),
        }
    }

    /// Every request so far, in the order in which they came.
    pub fn seen(&self) -> Vec<Conversation> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Conversation>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of this request, and what the script says to it.
    fn hear(&self, conversation: &Conversation) -> (usize, Reply) {
        let number = {
            let mut seen = self.lock();
            seen.push(conversation.clone());
            seen.len()
        };
        (number, (self.script)(conversation))
    }

    fn answer(&self, headers: &HeaderMap, body: &Bytes) -> Response {
        let Ok(body) = serde_json::from_slice::<Value>(body) else {
            return failure(400, "invalid_request_error", "the body is not JSON");
        };
        let conversation = Conversation::read(headers, &body);
        let (number, reply) = self.hear(&conversation);
        if let Reply::Fail {
            status,
            kind,
            message,
        } = &reply
        {
            return failure(*status, kind, message);
        }
        let blocks = match &reply {
            Reply::Say(text) => vec![json!({ "type": "text", "text": text })],
            Reply::Call(calls) => calls
                .iter()
                .enumerate()
                .map(|(at, (tool, input))| {
                    let id = format!("toolu_{number}_{at}");
                    json!({ "type": "tool_use", "id": id, "name": tool, "input": input })
                })
                .collect(),
            Reply::Fail { .. } | Reply::Hang => Vec::new(),
        };
        let stop = if matches!(reply, Reply::Call(_)) {
            "tool_use"
        } else {
            "end_turn"
        };
        let message = json!({
            "id": format!("msg_{number}"), "type": "message", "role": "assistant",
            "model": conversation.model, "content": [], "stop_reason": null, "stop_sequence": null,
            "usage": { "input_tokens": INPUT_TOKENS, "output_tokens": 1 },
        });
        if body["stream"] != true {
            let mut message = message;
            message["content"] = json!(blocks);
            message["stop_reason"] = json!(stop);
            message["usage"]["output_tokens"] = json!(OUTPUT_TOKENS);
            return axum::Json(message).into_response();
        }
        let begin = event("message_start", &json!({ "message": message }));
        if reply == Reply::Hang {
            return hanging(begin);
        }
        let mut stream = begin;
        for (at, block) in blocks.iter().enumerate() {
            stream.push_str(&stream_block(at, block));
        }
        stream.push_str(&event(
            "message_delta",
            &json!({
                "delta": { "stop_reason": stop, "stop_sequence": null },
                "usage": { "output_tokens": OUTPUT_TOKENS },
            }),
        ));
        stream.push_str(&event("message_stop", &json!({})));
        ([("content-type", "text/event-stream")], stream).into_response()
    }
}

/// Claude Code at the version that the tests pin, or the one that
/// `CLAUDE_BIN_FOR_TESTS` names. `None`: it is not installed, and the test says
/// that it is skipped; under `CI=true` it fails.
pub fn pinned_claude() -> Option<PathBuf> {
    pinned("Claude Code", "CLAUDE_BIN_FOR_TESTS", &CLAUDE)
}

/// Codex CLI, likewise; `CODEX_BIN_FOR_TESTS` names another one.
pub fn pinned_codex() -> Option<PathBuf> {
    pinned("Codex CLI", "CODEX_BIN_FOR_TESTS", &CODEX)
}

fn pinned(what: &str, variable: &str, places: &[&str]) -> Option<PathBuf> {
    let named = std::env::var_os(variable).map(PathBuf::from);
    let modules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/node_modules");
    let installed = places.iter().map(|it| modules.join(it));
    let found = named.into_iter().chain(installed).find(|it| it.is_file());
    if found.is_none() {
        let how = format!("{what} is not installed: `cargo xtask test` puts it into target/tools");
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{how}");
        eprintln!("SKIPPED, nothing was tested. {how}");
    }
    found
}

/// The service's routes.
pub fn router(model: Model) -> Router {
    Router::new()
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count))
        .route("/v1/responses", post(respond))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(model)
}

async fn messages(State(model): State<Model>, headers: HeaderMap, body: Bytes) -> Response {
    let trouble = model.faults.meet(MESSAGES);
    meet(trouble, async { model.answer(&headers, &body) }).await
}

async fn respond(State(model): State<Model>, headers: HeaderMap, body: Bytes) -> Response {
    let trouble = model.faults.meet(RESPONSES);
    meet(trouble, async {
        let Ok(body) = serde_json::from_slice::<Value>(&body) else {
            let reply = Reply::fail(400, "invalid_request_error", "the body is not JSON");
            return responses::answer(0, &reply);
        };
        let (number, reply) = model.hear(&responses::read(&headers, &body));
        responses::answer(number, &reply)
    })
    .await
}

async fn count() -> Response {
    axum::Json(json!({ "input_tokens": INPUT_TOKENS })).into_response()
}

fn stream_block(at: usize, block: &Value) -> String {
    let (start, delta) = if block["type"] == "text" {
        (
            json!({ "type": "text", "text": "" }),
            json!({ "type": "text_delta", "text": block["text"] }),
        )
    } else {
        let mut start = block.clone();
        let input = start["input"].take();
        start["input"] = json!({});
        (
            start,
            json!({ "type": "input_json_delta", "partial_json": input.to_string() }),
        )
    };
    event(
        "content_block_start",
        &json!({ "index": at, "content_block": start }),
    ) + &event(
        "content_block_delta",
        &json!({ "index": at, "delta": delta }),
    ) + &event("content_block_stop", &json!({ "index": at }))
}

fn event(kind: &str, rest: &Value) -> String {
    let mut data = rest.clone();
    data["type"] = json!(kind);
    format!("event: {kind}\ndata: {data}\n\n")
}

fn hanging(begin: String) -> Response {
    use axum::body::Body;
    use futures_util::{StreamExt, stream};
    let begin = stream::iter([Ok::<_, std::convert::Infallible>(begin)]);
    let body = Body::from_stream(begin.chain(stream::pending()));
    ([("content-type", "text/event-stream")], body).into_response()
}

fn failure(status: u16, kind: &str, message: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = json!({ "type": "error", "error": { "type": kind, "message": message } });
    (status, axum::Json(body)).into_response()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The text of something that is either a text or a list of blocks.
fn flat(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None => {
            let blocks = value.as_array().into_iter().flatten();
            blocks
                .map(|it| text(&it["text"]))
                .collect::<Vec<_>>()
                .join("\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_read_whatever_form_it_has() {
        let body = json!({
            "model": "m", "system": [{ "type": "text", "text": "be good" }],
            "tools": [{ "name": "Write" }],
            "messages": [
                { "role": "user", "content": "do it" },
                { "role": "assistant", "content": [
                    { "type": "thinking", "thinking": "?" },
                    { "type": "tool_use", "id": "t1", "name": "Write", "input": { "a": 1 } } ] },
                { "role": "user", "content": [
                    { "type": "tool_result", "tool_use_id": "t1", "is_error": true,
                      "content": [{ "type": "text", "text": "no" }] } ] },
            ],
        });
        let read = Conversation::read(&HeaderMap::new(), &body);
        assert_eq!(read.asked(), "do it");
        assert_eq!(read.brought(), [("no", true)]);
        assert!(read.called("Write") && read.offers("Write") && !read.offers("Bash"));
        assert_eq!((read.system.as_str(), read.key), ("be good", None));
    }
}
