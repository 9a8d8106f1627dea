//! GitHub's refusals, in the words of both of its APIs, as faults with their remedies.

use serde::Deserialize;
use serde_json::Value;

use crate::issue::{FailureClass, Fault, REASON_BYTES_MAX, clip};

/// What GitHub calls a refusal because of too many requests.
const LIMITS: &[&str] = &["RATE_LIMITED", "RATE_LIMIT"];

/// Why a part of a GraphQL document was not answered.
#[derive(Debug, Deserialize)]
pub(super) struct GraphError {
    #[serde(default)]
    message: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    path: Vec<Value>,
    #[serde(default)]
    extensions: Value,
}

impl GraphError {
    pub(super) fn message(&self) -> String {
        clip(&self.message, REASON_BYTES_MAX)
    }

    /// Is it about what was asked for under this name, or about the whole document?
    pub(super) fn concerns(&self, alias: &str) -> bool {
        self.path.first().is_none_or(|it| it == alias)
    }

    pub(super) fn is_limit(&self) -> bool {
        self.is(LIMITS)
    }

    pub(super) fn has_code(&self, codes: &[&str]) -> bool {
        self.extensions["code"]
            .as_str()
            .is_some_and(|it| codes.contains(&it))
    }

    /// GitHub's judgement on what was asked for, rather than trouble of its own.
    pub(super) fn is_refusal(&self) -> bool {
        self.is(&[
            "UNPROCESSABLE",
            "NOT_FOUND",
            "FORBIDDEN",
            "INSUFFICIENT_SCOPES",
        ])
    }

    pub(super) fn is_forbidden(&self) -> bool {
        self.is(&["FORBIDDEN", "INSUFFICIENT_SCOPES"])
    }

    pub(super) fn fault(&self, slug: &str) -> Fault {
        if self.is_forbidden() {
            return forbidden(slug, &self.message());
        }
        if self.is(&["NOT_FOUND"]) {
            return hidden(slug, &self.message());
        }
        // Without a kind it is trouble of GitHub's own, mostly that it took too long.
        Fault::Transient {
            why: format!("GitHub could not answer about {slug}: {}", self.message()),
        }
    }

    fn is(&self, kinds: &[&str]) -> bool {
        self.kind.as_deref().is_some_and(|it| kinds.contains(&it))
    }
}

/// The token may not do it.
pub(super) fn forbidden(slug: &str, message: &str) -> Fault {
    Fault::Permanent {
        class: FailureClass::Auth,
        why: format!(
            "the GitHub token may not do this in {slug} ({message}): give it write access to \
             contents and pull requests, and read access to checks and commit statuses"
        ),
    }
}

/// It is not there, or not for this token.
pub(super) fn hidden(slug: &str, what: &str) -> Fault {
    Fault::Permanent {
        class: FailureClass::Invalid,
        why: format!(
            "GitHub does not show {slug} to this token, or not what was asked for there \
             ({what}): check the repository's address in the configuration, and the token's \
             access to it"
        ),
    }
}
