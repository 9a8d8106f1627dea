//! A run as Codegen tells it, and what that means.

use serde_json::Value;

use super::KEY;
use crate::issue::{
    Ending, Failure, FailureClass, REASON_BYTES_MAX, RunResult, Sight, TEXT_BYTES_MAX, clip,
};

/// Longer addresses are none that we show.
const URL_BYTES_MAX: usize = 2048;
/// Bytes of a status within a sentence.
const STATUS_BYTES_MAX: usize = 60;

/// One run. Nearly every field is nullable in the schema.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) id: i64,
    /// An untyped string at Codegen, in any case.
    pub(super) status: Option<String>,
    pub(super) url: Option<String>,
    key: Option<String>,
    text: String,
    pull_url: Option<String>,
}

/// What a status means.
enum Meaning {
    Waiting,
    Working,
    Unknown,
    Complete,
    Failed(FailureClass),
}

impl Run {
    /// `None`: it has no number, so it is no run.
    pub(super) fn read(value: &Value) -> Option<Self> {
        let text = |key: &str| value[key].as_str().filter(|it| !it.trim().is_empty());
        let pulls = value["github_pull_requests"].as_array().map(Vec::as_slice);
        Some(Self {
            id: value["id"].as_i64()?,
            status: text("status").map(|it| clip(it.trim(), STATUS_BYTES_MAX)),
            url: text("web_url").and_then(url),
            key: value["metadata"][KEY].as_str().map(str::to_owned),
            text: text("result")
                .or(text("summary"))
                .unwrap_or_default()
                .to_owned(),
            pull_url: pulls
                .unwrap_or_default()
                .iter()
                .find_map(|it| url(it["url"].as_str()?)),
        })
    }

    pub(super) fn has_key(&self, key: &str) -> bool {
        self.key.as_deref() == Some(key)
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.meaning(), Meaning::Complete | Meaning::Failed(_))
    }

    /// It does something now, so that it takes no message. One that was paused is
    /// what the API's resume was made for.
    pub(super) fn is_at_work(&self) -> bool {
        let paused = |it: &String| it.eq_ignore_ascii_case("PAUSED");
        !self.has_ended() && !self.status.as_ref().is_some_and(paused)
    }

    /// What changes when it has had another turn.
    pub(super) fn end(&self) -> String {
        let status = self.status.as_deref().unwrap_or_default();
        format!("{status}\n{}", self.text)
    }

    pub(super) fn is_unknown(&self) -> bool {
        matches!(self.meaning(), Meaning::Unknown)
    }

    pub(super) fn into_sight(self) -> Sight {
        let result = match self.meaning() {
            Meaning::Waiting => return Sight::Waiting,
            // What is not known is taken to work: the task's deadline ends it.
            Meaning::Working | Meaning::Unknown => return Sight::Working,
            Meaning::Complete => Ok(RunResult {
                answer: answer(&self.text),
                text: clip(&self.text, TEXT_BYTES_MAX),
                pull_url: self.pull_url,
                branch: None,
                changed: None,
                session: None,
                unheard: false,
            }),
            Meaning::Failed(class) => {
                let status = self.status.unwrap_or_default();
                let message = match self.text.trim() {
                    "" => format!("Codegen ended the run as {status}"),
                    text => format!("Codegen ended the run as {status}: {text}"),
                };
                Err(Failure {
                    class,
                    message: clip(&message, REASON_BYTES_MAX),
                })
            }
        };
        Sight::Ended(Ending {
            result,
            cost_usd: None,
            cost_is_estimate: false,
        })
    }

    fn meaning(&self) -> Meaning {
        let Some(status) = &self.status else {
            return Meaning::Working;
        };
        match status.to_uppercase().as_str() {
            "PENDING" | "QUEUED" => Meaning::Waiting,
            "ACTIVE" | "RUNNING" | "EVALUATION" | "PAUSED" => Meaning::Working,
            "COMPLETE" | "COMPLETED" => Meaning::Complete,
            "ERROR" | "FAILED" => Meaning::Failed(FailureClass::Agent),
            "CANCELLED" | "CANCELED" | "STOPPED" => Meaning::Failed(FailureClass::Cancelled),
            "TIMEOUT" => Meaning::Failed(FailureClass::Timeout),
            "MAX_ITERATIONS_REACHED" | "OUT_OF_TOKENS" => Meaning::Failed(FailureClass::Limit),
            _ => Meaning::Unknown,
        }
    }
}

/// The JSON object that a text is, or that it ends with in a fenced block.
/// Codegen cannot be held to a schema, so an answer is looked for in the words.
fn answer(text: &str) -> Option<String> {
    let object = |text: &str| {
        let text = text.trim();
        let is = text.len() <= TEXT_BYTES_MAX
            && serde_json::from_str::<Value>(text).is_ok_and(|it| it.is_object());
        is.then(|| text.to_owned())
    };
    // Of several blocks the last: what comes before it was an example or a draft.
    object(text).or_else(|| fenced(text).into_iter().rev().find_map(object))
}

/// The fenced blocks of a text that are JSON or say nothing about what they are.
fn fenced(text: &str) -> Vec<&str> {
    let mut blocks = Vec::new();
    let mut open: Option<(bool, usize)> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let Some(rest) = line.trim().strip_prefix("```") else {
            continue;
        };
        match open.take() {
            None => {
                let language = rest.trim();
                open = Some((
                    language.is_empty() || language.eq_ignore_ascii_case("json"),
                    at,
                ));
            }
            // A fence with a language cannot close: it stands inside the block.
            Some(block) if !rest.trim().is_empty() => open = Some(block),
            Some((wanted, from)) => {
                if wanted {
                    blocks.push(&text[from..start]);
                }
            }
        }
    }
    blocks
}

fn url(text: &str) -> Option<String> {
    let text = text.trim();
    let web = text.starts_with("https://") || text.starts_with("http://");
    (web && text.len() <= URL_BYTES_MAX).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Run, answer};
    use crate::issue::{Ending, Failure, FailureClass, RunResult, Sight};

    fn sight(value: Value) -> Sight {
        Run::read(&value).expect("a run").into_sight()
    }

    /// Every status that Codegen is known to give, and what is none: has the run
    /// ended, and as what failure?
    #[test]
    fn every_status_has_its_meaning_in_any_case() {
        use FailureClass::{Agent, Cancelled, Limit, Timeout};
        const WORKS: (bool, Option<FailureClass>) = (false, None);
        const SUCCEEDED: (bool, Option<FailureClass>) = (true, None);
        let failed = |class| (true, Some(class));
        let table = [
            ("PENDING", WORKS),
            ("QUEUED", WORKS),
            ("ACTIVE", WORKS),
            ("RUNNING", WORKS),
            ("EVALUATION", WORKS),
            // Waits for a person over there, or nobody knows: its deadline ends it.
            ("PAUSED", WORKS),
            ("SOMETHING_NEW", WORKS),
            ("", WORKS),
            ("COMPLETE", SUCCEEDED),
            ("COMPLETED", SUCCEEDED),
            ("ERROR", failed(Agent)),
            ("FAILED", failed(Agent)),
            ("CANCELLED", failed(Cancelled)),
            ("CANCELED", failed(Cancelled)),
            ("STOPPED", failed(Cancelled)),
            ("TIMEOUT", failed(Timeout)),
            ("MAX_ITERATIONS_REACHED", failed(Limit)),
            ("OUT_OF_TOKENS", failed(Limit)),
        ];
        for (status, expected) in table {
            let mut title = status.to_lowercase();
            title.get_mut(..1).map(str::make_ascii_uppercase);
            for word in [status, &status.to_lowercase(), &title] {
                let run = json!({ "id": 1, "status": word });
                let ended = Run::read(&run).expect("a run").has_ended();
                let class = match sight(run) {
                    Sight::Ended(ending) => {
                        assert_eq!(ending.cost_usd, None, "{word}");
                        ending.result.err().map(|it| it.class)
                    }
                    Sight::Waiting => {
                        assert!(matches!(status, "PENDING" | "QUEUED"), "{word}");
                        None
                    }
                    Sight::Working | Sight::Gone => None,
                };
                assert_eq!((ended, class), expected, "{word}");
            }
        }
        for none in [
            json!({ "id": 1, "status": null }),
            json!({ "id": 1 }),
            json!({ "id": 1, "status": 7 }),
        ] {
            assert_eq!(sight(none), Sight::Working);
        }
    }

    #[test]
    fn an_end_tells_text_and_pull_request() {
        let ended = sight(json!({
            "id": 1, "status": "COMPLETE", "result": "", "summary": "did it",
            "github_pull_requests": [
                { "id": 1, "url": null }, "nonsense", { "id": 2, "url": "javascript:alert(1)" },
                { "id": 3, "url": "https://github.com/acme/shop/pull/7" },
            ],
        }));
        let result = RunResult {
            text: "did it".into(),
            answer: None,
            pull_url: Some("https://github.com/acme/shop/pull/7".into()),
            branch: None,
            changed: None,
            session: None,
            unheard: false,
        };
        assert_eq!(
            ended,
            Sight::Ended(Ending {
                result: Ok(result),
                cost_usd: None,
                cost_is_estimate: false
            })
        );
    }

    #[test]
    fn a_failure_says_what_codegen_says() {
        let ended = sight(json!({ "id": 1, "status": "ERROR", "result": "no space left" }));
        let failure = Failure {
            class: FailureClass::Agent,
            message: "Codegen ended the run as ERROR: no space left".into(),
        };
        assert_eq!(
            ended,
            Sight::Ended(Ending {
                result: Err(failure),
                cost_usd: None,
                cost_is_estimate: false
            })
        );
    }

    #[test]
    fn what_has_no_number_is_no_run() {
        for value in [
            json!(null),
            json!([]),
            json!("run"),
            json!({}),
            json!({ "id": "x" }),
        ] {
            assert!(Run::read(&value).is_none(), "{value}");
        }
    }

    #[test]
    fn an_answer_is_found_in_the_words() {
        let found = |text: &str| answer(text);
        assert_eq!(found(" {\"a\": 1}\n").as_deref(), Some("{\"a\": 1}"));
        assert_eq!(
            found("Here:\n```json\n{\"a\": 1}\n```\nand\n```JSON\n{\"a\": 2}\n```\nbye").as_deref(),
            Some("{\"a\": 2}")
        );
        assert_eq!(found("```\n{\"a\": 1}\n```").as_deref(), Some("{\"a\": 1}"));
        // A prompt with a fence of its own, within a string.
        assert_eq!(
            found("```json\n{\"a\": \"x\\n```sh\\nls\\n```\"}\n```").as_deref(),
            Some("{\"a\": \"x\\n```sh\\nls\\n```\"}")
        );
        for none in [
            "",
            "done",
            "[1]",
            "{",
            "```json\n[1]\n```",
            "```rust\n{}\n```",
            "```json\n{\"a\": 1}",
        ] {
            assert_eq!(found(none), None, "{none}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(found(&format!("{{\"a\": {deep}")), None);
    }
}
