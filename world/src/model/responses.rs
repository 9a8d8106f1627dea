//! The Responses API of OpenAI, as Codex CLI speaks it: streaming, over HTTP.

use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::{Conversation, INPUT_TOKENS, OUTPUT_TOKENS, Reply, Turn, event, hanging, text};

/// A request, in the words that both services share.
pub(super) fn read(headers: &HeaderMap, body: &Value) -> Conversation {
    let mut system = vec![text(&body["instructions"])];
    let mut turns = Vec::new();
    for item in body["input"].as_array().into_iter().flatten() {
        match item["type"].as_str() {
            Some("message") => {
                for block in item["content"].as_array().into_iter().flatten() {
                    let said = text(&block["text"]);
                    match item["role"].as_str() {
                        Some("user") => turns.push(Turn::User(said)),
                        Some("assistant") => turns.push(Turn::Assistant(said)),
                        Some(_) | None => system.push(said),
                    }
                }
            }
            Some("function_call") => turns.push(Turn::Called {
                id: text(&item["call_id"]),
                tool: text(&item["name"]),
                input: serde_json::from_str(&text(&item["arguments"])).unwrap_or_default(),
            }),
            Some("function_call_output") => {
                let output = text(&item["output"]);
                turns.push(Turn::Brought {
                    id: text(&item["call_id"]),
                    is_error: !output.contains("exited with code 0"),
                    text: output,
                });
            }
            Some(_) | None => {}
        }
    }
    let name = |it: &Value| text(it.get("name").unwrap_or(&it["type"]));
    let tools = body["tools"].as_array().into_iter().flatten().map(name);
    let key = headers.get("authorization").and_then(|it| it.to_str().ok());
    let schema = &body["text"]["format"]["schema"];
    Conversation {
        model: text(&body["model"]),
        system: system.join("\n"),
        tools: tools.collect(),
        turns,
        key: key.map(|it| it.trim_start_matches("Bearer ").to_owned()),
        schema: (!schema.is_null()).then(|| schema.clone()),
    }
}

/// The answer to the request of this number.
pub(super) fn answer(number: usize, reply: &Reply) -> Response {
    let id = format!("resp_{number}");
    let items: Vec<Value> = match reply {
        Reply::Fail {
            status,
            kind,
            message,
        } => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let body = json!({ "error": { "type": kind, "code": kind, "message": message } });
            return (status, axum::Json(body)).into_response();
        }
        Reply::Say(said) => vec![json!({
            "type": "message", "role": "assistant", "id": format!("msg_{number}"),
            "content": [{ "type": "output_text", "text": said }],
        })],
        Reply::Call(calls) => calls
            .iter()
            .enumerate()
            .map(|(at, (tool, input))| {
                json!({
                    "type": "function_call", "call_id": format!("call_{number}_{at}"),
                    "name": tool, "arguments": input.to_string(),
                })
            })
            .collect(),
        Reply::Hang => Vec::new(),
    };
    let begin = event("response.created", &json!({ "response": { "id": id } }));
    if *reply == Reply::Hang {
        return hanging(begin);
    }
    let mut stream = begin;
    for (at, item) in items.iter().enumerate() {
        let done = json!({ "output_index": at, "item": item });
        stream.push_str(&event("response.output_item.done", &done));
    }
    let usage = json!({
        "input_tokens": INPUT_TOKENS, "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": OUTPUT_TOKENS, "output_tokens_details": { "reasoning_tokens": 0 },
        "total_tokens": INPUT_TOKENS + OUTPUT_TOKENS,
    });
    let completed = json!({ "response": { "id": id, "usage": usage } });
    stream.push_str(&event("response.completed", &completed));
    ([("content-type", "text/event-stream")], stream).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_is_read_as_the_other_services_is() {
        let body = json!({
            "model": "m", "instructions": "be good", "tools": [{ "name": "exec_command" }, { "type": "web_search" }],
            "text": { "format": { "schema": { "type": "object" } } },
            "input": [
                { "type": "message", "role": "developer", "content": [{ "type": "input_text", "text": "and kind" }] },
                { "type": "message", "role": "user", "content": [{ "type": "input_text", "text": "do it" }] },
                { "type": "function_call", "call_id": "c", "name": "exec_command", "arguments": "{\"cmd\":\"ls\"}" },
                { "type": "function_call_output", "call_id": "c", "output": "Process exited with code 1" },
            ],
        });
        let mut headers = HeaderMap::new();
        headers.insert("authorization", "Bearer sk".parse().expect("a value"));
        let read = read(&headers, &body);
        assert_eq!(read.asked(), "do it");
        assert_eq!(read.system, "be good\nand kind");
        assert_eq!(read.brought(), [("Process exited with code 1", true)]);
        assert!(read.called("exec_command") && read.offers("web_search"));
        assert_eq!(read.key.as_deref(), Some("sk"));
        assert_eq!(read.schema, Some(json!({ "type": "object" })));
    }
}
