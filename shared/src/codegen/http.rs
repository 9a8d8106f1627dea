//! One request to Codegen, and what its answer means where that is the same for all.

use std::time::Duration;

use anyhow::Context;
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::REQUEST_SECONDS;
use crate::issue::{FailureClass, Fault, REASON_BYTES_MAX, clip};

const CONNECT_SECONDS: u64 = 5;
/// A page of a hundred runs with their results.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Codegen's limits are per minute: a longer wait is not believed.
const LIMITED_SECONDS_MAX: u32 = 600;

pub(super) struct Http {
    client: reqwest::Client,
    base: Url,
    token: SecretString,
}

/// No usable answer came.
#[derive(Debug)]
pub(super) enum Gap {
    /// The request did not leave: nothing was done.
    NotSent(String),
    /// It may have been done.
    ReplyLost(String),
}

/// Everything that Codegen has said to one request.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The request, for messages.
    pub(super) call: String,
    body: Vec<u8>,
    retry_after: Option<u32>,
}

impl Http {
    pub(super) fn new(api_url: &str, token: SecretString) -> anyhow::Result<Self> {
        let base = Url::parse(api_url.trim_end_matches('/'))
            .with_context(|| format!("the address of Codegen's API, `{api_url}`"))?;
        anyhow::ensure!(
            matches!(base.scheme(), "https" | "http"),
            "the address of Codegen's API, `{base}`, must begin with https://"
        );
        let client = reqwest::Client::builder()
            .user_agent("cyrus")
            .connect_timeout(Duration::from_secs(CONNECT_SECONDS))
            .timeout(Duration::from_secs(REQUEST_SECONDS))
            // Followed, a redirected create would become a GET of something else.
            .redirect(Policy::none())
            .build()
            .context("set up the client of Codegen's API")?;
        Ok(Self {
            client,
            base,
            token,
        })
    }

    pub(super) async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, Gap> {
        let call = format!("{method} /{}", path.join("/"));
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().extend(path);
            }
            Err(()) => return Err(Gap::NotSent(format!("`{}` takes no path", self.base))),
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self
            .client
            .request(method, url)
            .bearer_auth(self.token.expose_secret());
        if let Some(body) = body {
            request = request.json(body);
        }
        let lost = |error: reqwest::Error| {
            let why = format!("{call} at Codegen failed: {}", chain(&error.without_url()));
            Gap::ReplyLost(why)
        };
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() || error.is_builder() => {
                return Err(Gap::NotSent(format!(
                    "Codegen could not be reached: {}",
                    chain(&error.without_url())
                )));
            }
            Err(error) => return Err(lost(error)),
        };
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|it| it.to_str().ok()?.trim().parse::<u32>().ok())
            .map(|it| it.clamp(1, LIMITED_SECONDS_MAX));
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if bytes.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(Gap::ReplyLost(format!(
                    "Codegen's answer to {call} is over {BODY_BYTES_MAX} bytes"
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Answer {
            status,
            call,
            body: bytes,
            retry_after,
        })
    }
}

impl Answer {
    pub(super) fn json(&self) -> Result<Value, Fault> {
        serde_json::from_slice(&self.body).map_err(|error| Fault::Transient {
            why: format!("Codegen's answer to {} cannot be read: {error}", self.call),
        })
    }

    /// The JSON of a success; anything else is a fault.
    pub(super) fn expect_json(&self) -> Result<Value, Fault> {
        if self.status.is_success() {
            self.json()
        } else {
            Err(self.fault())
        }
    }

    /// Somebody on the way gave up, perhaps after Codegen had done it.
    pub(super) fn may_have_been_done(&self) -> bool {
        self.status.is_server_error() || self.status == StatusCode::REQUEST_TIMEOUT
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "Codegen answered {} to {}: {}",
            self.status.as_u16(),
            self.call,
            self.message()
        )
    }

    /// What an answer that is no success means, where the call may be repeated.
    pub(super) fn fault(&self) -> Fault {
        let message = self.message();
        let (class, why) = match self.status.as_u16() {
            429 => {
                return Fault::Busy {
                    why: format!("Codegen asks to wait: {message}"),
                    retry_after_seconds: self.retry_after,
                };
            }
            408 | 500..=599 => {
                return Fault::Transient {
                    why: self.describe(),
                };
            }
            401 => (
                FailureClass::Auth,
                format!(
                    "Codegen does not accept the token ({message}): set CODEGEN_API_TOKEN to a \
                     valid one"
                ),
            ),
            403 => (
                FailureClass::Auth,
                format!(
                    "the Codegen token has no access to this organization ({message}): check \
                     codegen.orgId and whose token it is"
                ),
            ),
            402 => (
                FailureClass::Quota,
                format!("the runs of Codegen's plan are used up: {message}"),
            ),
            300..=399 => (
                FailureClass::Invalid,
                "Codegen's API is at another address: check CODEGEN_API_URL".to_owned(),
            ),
            _ => (FailureClass::Invalid, self.describe()),
        };
        Fault::Permanent { class, why }
    }

    /// Codegen's own words about what went wrong: `message`, else `detail` (a
    /// text or a list), else `error`.
    fn message(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let detail = &body["detail"];
        let listed = detail.as_array().map(|items| {
            let texts = items.iter().filter_map(|it| {
                let place = it["loc"]
                    .as_array()
                    .and_then(|it| it.last())
                    .and_then(Value::as_str);
                let text = it["msg"].as_str()?;
                Some(place.map_or_else(|| text.to_owned(), |place| format!("{place}: {text}")))
            });
            texts.collect::<Vec<_>>().join(", ")
        });
        let candidates = [
            body["message"].as_str().map(str::to_owned),
            detail.as_str().map(str::to_owned),
            listed,
            body["error"].as_str().map(str::to_owned),
        ];
        let found = candidates.into_iter().flatten().find(|it| !it.is_empty());
        clip(
            &found.unwrap_or_else(|| format!("status {}", self.status.as_u16())),
            REASON_BYTES_MAX,
        )
    }
}

/// For calls that may be repeated without harm, which are all but creates.
impl From<Gap> for Fault {
    fn from(gap: Gap) -> Self {
        match gap {
            Gap::NotSent(why) | Gap::ReplyLost(why) => Self::Transient { why },
        }
    }
}

/// An error with its causes, since the outermost says only that it failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(it) = cause {
        text.push_str(": ");
        text.push_str(&it.to_string());
        cause = it.source();
    }
    clip(&text, REASON_BYTES_MAX)
}
