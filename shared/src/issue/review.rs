//! The answer of a reviewer (contract, section 5). Untrusted.

use std::fmt::Write as _;

use serde::Deserialize;
use serde_json::json;

use super::{LOG_BYTES_MAX, clip};

/// More findings than these help nobody.
const FINDINGS_MAX: usize = 50;
const COMMENT_BYTES_MAX: usize = 1_000;

#[derive(Deserialize)]
struct Answer {
    verdict: Word,
    #[serde(default)]
    summary: String,
    #[serde(default)]
    findings: Vec<Remark>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Approve,
    Changes,
}

#[derive(Deserialize)]
struct Remark {
    path: Option<String>,
    line: Option<u64>,
    severity: Option<String>,
    comment: String,
}

/// What a review comes to: does it approve, and what does it say?
pub(super) fn parse(answer: &str) -> Result<(bool, String), String> {
    let answer: Answer = serde_json::from_str(answer)
        .map_err(|error| format!("its answer is not the JSON of a review: {error}"))?;
    let blocks = |it: &Remark| it.severity.as_deref() == Some("blocker");
    // Who names what must not be merged has not approved, whatever the verdict says.
    let approves = answer.verdict == Word::Approve && !answer.findings.iter().any(blocks);
    let mut text = clip(answer.summary.trim(), COMMENT_BYTES_MAX);
    for remark in answer.findings.iter().take(FINDINGS_MAX) {
        let place = match (&remark.path, remark.line) {
            (Some(path), Some(line)) => format!("{path}:{line}: "),
            (Some(path), None) => format!("{path}: "),
            (None, _) => String::new(),
        };
        let severity = remark.severity.as_deref().unwrap_or("minor");
        let comment = clip(remark.comment.trim(), COMMENT_BYTES_MAX);
        let _ = write!(text, "\n- {place}{comment} ({severity})");
    }
    Ok((approves, clip(text.trim(), LOG_BYTES_MAX)))
}

/// The JSON Schema of a review.
pub(super) fn schema() -> String {
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["verdict", "summary", "findings"],
        "properties": {
            "verdict": { "type": "string", "enum": ["approve", "changes"] },
            "summary": { "type": "string" },
            "findings": { "type": "array", "maxItems": FINDINGS_MAX, "items": {
                "type": "object",
                "additionalProperties": false,
                "required": ["path", "severity", "comment"],
                "properties": {
                    "path": { "type": "string" },
                    "line": { "type": "integer" },
                    "severity": { "type": "string", "enum": ["blocker", "minor"] },
                    "comment": { "type": "string" },
                },
            } },
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_review_is_read() {
        let said = parse(
            r#"{"verdict":"changes","summary":"Close.","findings":[
                {"path":"src/a.rs","line":3,"severity":"blocker","comment":"off by one"},
                {"path":"src/b.rs","severity":"minor","comment":"name"},
                {"comment":"tests?"}]}"#,
        );
        let text = "Close.\n- src/a.rs:3: off by one (blocker)\n- src/b.rs: name (minor)\n- tests? (minor)";
        assert_eq!(said, Ok((false, text.to_owned())));
        let said = parse(r#"{"verdict":"approve"}"#);
        assert_eq!(said, Ok((true, String::new())));
    }

    #[test]
    fn who_names_a_blocker_has_not_approved() {
        let said =
            parse(r#"{"verdict":"approve","findings":[{"severity":"blocker","comment":"no"}]}"#);
        assert!(matches!(said, Ok((false, _))), "{said:?}");
    }

    #[test]
    fn what_is_no_review_says_why() {
        for text in ["", "LGTM", "{}", r#"{"verdict":"fine"}"#] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
