//! What Linear answered: data, or which kind of fault. It decides nothing else.

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::issue::{FailureClass, Fault, REASON_BYTES_MAX, Time, clip};
use crate::net::{self, Cut};

/// However long Linear asks us to wait, we look again after this.
const RETRY_AFTER_SECONDS_MAX: u32 = 60 * 60;
/// The groups of headers that tell a budget, each with `-Remaining` and `-Reset`.
const BUDGETS: [&str; 3] = [
    "x-ratelimit-requests",
    "x-ratelimit-complexity",
    "x-ratelimit-endpoint-requests",
];

/// A complete answer to one operation.
pub(super) struct Answer {
    name: String,
    status: StatusCode,
    retry_after_seconds: Option<u32>,
    /// `None`: it is no GraphQL answer.
    body: Option<Body>,
}

#[derive(Deserialize)]
struct Body {
    data: Option<Value>,
    #[serde(default)]
    errors: Option<Vec<GraphqlError>>,
}

#[derive(Deserialize)]
struct GraphqlError {
    #[serde(default)]
    message: String,
    #[serde(default)]
    extensions: Option<Value>,
}

/// Reads the reply to an operation, up to `bytes_max`.
pub(super) async fn read(
    name: &str,
    reply: reqwest::Result<reqwest::Response>,
    bytes_max: usize,
    now: Time,
) -> Result<Answer, Fault> {
    let reply = reply.map_err(|error| broken(name, error))?;
    let status = reply.status();
    let retry_after_seconds = retry_after(reply.headers(), now);
    let bytes = bytes(name, reply, bytes_max).await?;
    let body = serde_json::from_slice(&bytes).ok();
    Ok(Answer {
        name: name.to_owned(),
        status,
        retry_after_seconds,
        body,
    })
}

/// The body of a reply, unless it is longer than `max`.
pub(super) async fn bytes(
    name: &str,
    reply: reqwest::Response,
    max: usize,
) -> Result<Vec<u8>, Fault> {
    net::body_of(reply, max).await.map_err(|cut| match cut {
        Cut::Broken(error) => broken(name, error),
        Cut::TooLong => Fault::Permanent {
            class: FailureClass::Invalid,
            why: format!("Linear's answer to `{name}` is longer than {max} bytes"),
        },
    })
}

impl Answer {
    /// The data, or the fault that stands in its place.
    pub(super) fn data<T: DeserializeOwned>(self) -> Result<T, Fault> {
        if let Some(fault) = self.fault() {
            return Err(fault);
        }
        let data = self.body.and_then(|it| it.data).unwrap_or_default();
        serde_json::from_value(data).map_err(|error| Fault::Permanent {
            class: FailureClass::Invalid,
            why: clip(
                &format!(
                    "Linear's answer to `{}` is not what we asked for: {error}",
                    self.name
                ),
                REASON_BYTES_MAX,
            ),
        })
    }

    /// Did it refuse to create what exists already under this id?
    pub(super) fn says_exists(&self, id: &str) -> bool {
        self.errors().iter().any(|error| {
            let shown = error.extension("userPresentableMessage");
            error.message.contains("conflict on insert")
                && (error.message.contains(id) || shown.contains(id))
        })
    }

    /// Were we too many, or too quick?
    pub(super) fn asks_to_wait(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS
            || self
                .errors()
                .iter()
                .any(|it| it.is("ratelimited", "RATELIMITED"))
    }

    /// Is the token not good (any more)?
    pub(super) fn unauthorized(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
            || self
                .errors()
                .iter()
                .any(|it| it.is("authentication error", "AUTHENTICATION_ERROR"))
    }

    /// The same with a secret blotted out, should the other side have repeated it.
    pub(super) fn without(mut self, secret: &SecretString) -> Self {
        for error in self
            .body
            .iter_mut()
            .filter_map(|it| it.errors.as_mut())
            .flatten()
        {
            error.message = blot(&error.message, secret);
        }
        self
    }

    fn errors(&self) -> &[GraphqlError] {
        self.body
            .as_ref()
            .and_then(|it| it.errors.as_deref())
            .unwrap_or_default()
    }

    fn fault(&self) -> Option<Fault> {
        let errors = self.errors();
        let limited = self.asks_to_wait();
        let told = errors
            .first()
            .map(|it| it.message.clone())
            .filter(|it| !it.is_empty());
        let told = told.unwrap_or_else(|| format!("HTTP status {}", self.status.as_u16()));
        let why = clip(
            &format!("Linear refused `{}`: {told}", self.name),
            REASON_BYTES_MAX,
        );
        if limited {
            return Some(Fault::Busy {
                why,
                retry_after_seconds: self.retry_after_seconds,
            });
        }
        if self.unauthorized() {
            return Some(Fault::Permanent {
                class: FailureClass::Auth,
                why,
            });
        }
        if self.status.is_server_error() || errors.iter().any(GraphqlError::passes) {
            return Some(Fault::Transient { why });
        }
        if let Some(error) = errors.first() {
            return Some(Fault::Permanent {
                class: error.class(),
                why,
            });
        }
        if self.body.is_none() {
            // A proxy's page, or half an answer.
            let why = format!(
                "what came back for `{}` is no answer of Linear's: {told}",
                self.name
            );
            return Some(Fault::Transient { why });
        }
        (!self.status.is_success()).then_some(Fault::Permanent {
            class: FailureClass::Invalid,
            why,
        })
    }
}

impl GraphqlError {
    /// Linear writes the kind of an error twice, and not always both times.
    fn is(&self, kind: &str, code: &str) -> bool {
        self.extension("type").eq_ignore_ascii_case(kind) || self.extension("code") == code
    }

    /// Is it likely to be gone the next time?
    fn passes(&self) -> bool {
        let kind = self.extension("type");
        matches!(
            kind,
            "internal error" | "lock timeout" | "network error" | "bootstrap error"
        ) || matches!(
            self.extension("code"),
            "INTERNAL_SERVER_ERROR" | "LOCK_TIMEOUT"
        )
    }

    fn class(&self) -> FailureClass {
        match self.extension("type") {
            "forbidden" => FailureClass::Auth,
            "feature not accessible" | "usage limit exceeded" => FailureClass::Quota,
            _ => FailureClass::Invalid,
        }
    }

    fn extension(&self, key: &str) -> &str {
        self.extensions
            .as_ref()
            .and_then(|it| it.get(key))
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

/// How long Linear wants us to wait, from whichever header tells.
pub(super) fn retry_after(headers: &HeaderMap, now: Time) -> Option<u32> {
    let number = |name: &str| net::number(headers, name);
    let plain = number(RETRY_AFTER.as_str());
    let seconds = plain.or_else(|| {
        let used_up = |it: &str| number(&format!("{it}-remaining")) == Some(0);
        let reset = |it: &str| {
            // Milliseconds of the epoch, not seconds.
            let at = Time::from_millisecond(number(&format!("{it}-reset"))?).ok()?;
            let wait = at.duration_since(now);
            Some(wait.as_secs() + i64::from(wait.subsec_nanos() > 0))
        };
        let last = BUDGETS
            .iter()
            .filter(|it| used_up(it))
            .filter_map(|it| reset(it))
            .max();
        last.or_else(|| {
            BUDGETS
                .iter()
                .filter_map(|it| reset(it))
                .filter(|it| *it > 0)
                .min()
        })
    })?;
    let bounded = seconds.clamp(1, i64::from(RETRY_AFTER_SECONDS_MAX));
    u32::try_from(bounded).ok()
}

/// A call that got no complete answer. Says what happened, without the URL.
pub(super) fn broken(name: &str, error: reqwest::Error) -> Fault {
    let what = if error.is_timeout() {
        "it took too long".to_owned()
    } else {
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        cause.to_string()
    };
    let why = clip(
        &format!("Linear could not be asked `{name}`: {what}"),
        REASON_BYTES_MAX,
    );
    Fault::Transient { why }
}

/// A text of the other side, in which a secret of ours must not stand.
pub(super) fn blot(text: &str, secret: &SecretString) -> String {
    let secret = secret.expose_secret();
    if secret.is_empty() {
        text.to_owned()
    } else {
        text.replace(secret, "***")
    }
}
