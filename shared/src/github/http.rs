//! One request to GitHub, and what its answer means where that is the same for all.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Method, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Options, REQUEST_SECONDS};
use crate::issue::{FailureClass, Fault, REASON_BYTES_MAX, clip};
use crate::ports::Clock;

const CONNECT_SECONDS: u64 = 5;
/// A page of check runs carries the reports of a hundred checks, up to 128 KB each.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What GitHub asks to wait after a secondary limit that names no time.
const LIMITED_SECONDS: u32 = 60;
/// GitHub's limits are per hour: nothing further away is believed.
const LIMITED_SECONDS_MAX: u32 = 3600;
/// The version of the API that the shapes in `json` are of.
const API_VERSION: &str = "2022-11-28";

pub(super) struct Http {
    client: reqwest::Client,
    base: Url,
    token: SecretString,
    clock: Arc<dyn Clock>,
}

/// No usable answer came.
#[derive(Debug)]
pub(super) enum Gap {
    /// The request did not leave: nothing was done.
    NotSent(String),
    /// It may have been done.
    ReplyLost(String),
}

/// Everything that GitHub has said to one request.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The request, for messages.
    call: String,
    body: Vec<u8>,
    /// Seconds to wait, where GitHub asks for it.
    limited: Option<u32>,
}

impl Http {
    pub(super) fn new(options: Options) -> anyhow::Result<Self> {
        let base = Url::parse(options.api_url.trim_end_matches('/'))
            .with_context(|| format!("the address of GitHub's API, `{}`", options.api_url))?;
        anyhow::ensure!(
            matches!(base.scheme(), "https" | "http"),
            "the address of GitHub's API, `{base}`, must begin with https://"
        );
        let client = reqwest::Client::builder()
            .user_agent("cyrus")
            .connect_timeout(Duration::from_secs(CONNECT_SECONDS))
            .timeout(Duration::from_secs(REQUEST_SECONDS))
            // Followed, a redirected merge would become a harmless-looking GET.
            .redirect(Policy::none())
            .build()
            .context("set up the client of GitHub's API")?;
        Ok(Self {
            client,
            base,
            token: options.token,
            clock: options.clock,
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
            .bearer_auth(self.token.expose_secret())
            .header("accept", "application/vnd.github+json")
            .header("x-github-api-version", API_VERSION);
        if let Some(body) = body {
            request = request.json(body);
        }
        let lost = |error: reqwest::Error| {
            let why = format!("{call} at GitHub failed: {}", chain(&error.without_url()));
            Gap::ReplyLost(why)
        };
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() || error.is_builder() => {
                return Err(Gap::NotSent(format!(
                    "GitHub could not be reached: {}",
                    chain(&error.without_url())
                )));
            }
            Err(error) => return Err(lost(error)),
        };
        let status = response.status();
        let waits = waits(response.headers(), self.clock.now().as_second());
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if bytes.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(Gap::ReplyLost(format!(
                    "GitHub's answer to {call} is over {BODY_BYTES_MAX} bytes"
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        let mut answer = Answer {
            status,
            call,
            body: bytes,
            limited: None,
        };
        answer.limited = answer.is_limit(waits);
        Ok(answer)
    }
}

impl Answer {
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Gap> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Gap::ReplyLost(format!(
                "GitHub's answer to {} cannot be read: {error}",
                self.call
            ))
        })
    }

    /// GitHub's own words about what went wrong.
    pub(super) fn message(&self) -> String {
        let Ok(body) = serde_json::from_slice::<Value>(&self.body) else {
            return format!("status {}", self.status.as_u16());
        };
        let message = body["message"].as_str().unwrap_or_default();
        let details = body["errors"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let details = details
            .iter()
            .filter_map(|it| it.as_str().or(it["message"].as_str()));
        let parts: Vec<&str> = std::iter::once(message)
            .chain(details)
            .filter(|it| !it.is_empty())
            .collect();
        if parts.is_empty() {
            return format!("status {}", self.status.as_u16());
        }
        clip(&parts.join(": "), REASON_BYTES_MAX)
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "GitHub answered {} to {}: {}",
            self.status.as_u16(),
            self.call,
            self.message()
        )
    }

    /// What an answer that is no success means, where the caller expects no other.
    pub(super) fn fault(&self, slug: &str) -> Fault {
        if let Some(seconds) = self.limited {
            return Fault::Busy {
                why: format!("GitHub asks to wait: {}", self.message()),
                retry_after_seconds: Some(seconds),
            };
        }
        let (class, why) = match self.status.as_u16() {
            401 => (
                FailureClass::Auth,
                format!(
                    "GitHub does not accept the token ({}): set GITHUB_TOKEN to a valid one",
                    self.message()
                ),
            ),
            403 => (
                FailureClass::Auth,
                format!(
                    "the GitHub token may not do this in {slug} ({}): give it write access to \
                     contents and pull requests, and read access to checks and commit statuses",
                    self.message()
                ),
            ),
            404 => (
                FailureClass::Invalid,
                format!(
                    "GitHub does not show {slug} to this token, or not what was asked for there \
                     ({}): check the repository's address in the configuration, and the token's \
                     access to it",
                    self.call
                ),
            ),
            300..=399 => (
                FailureClass::Invalid,
                format!(
                    "{slug} has moved, says GitHub: put its present name into the configuration"
                ),
            ),
            408 | 500..=599 => {
                return Fault::Transient {
                    why: self.describe(),
                };
            }
            _ => (FailureClass::Invalid, self.describe()),
        };
        Fault::Permanent { class, why }
    }

    /// Seconds to wait, if this is a refusal because of too many requests.
    fn is_limit(&self, waits: Option<u32>) -> Option<u32> {
        let limit = match self.status.as_u16() {
            429 => true,
            // Also a plain refusal: what tells them apart is that it says how
            // long to wait, or says so in words.
            403 => waits.is_some() || self.message().to_lowercase().contains("rate limit"),
            _ => false,
        };
        limit.then(|| waits.unwrap_or(LIMITED_SECONDS))
    }
}

impl Gap {
    pub(super) fn why(self) -> String {
        match self {
            Self::NotSent(why) | Self::ReplyLost(why) => why,
        }
    }
}

/// For calls that may be repeated without harm, which are all but merges.
impl From<Gap> for Fault {
    fn from(gap: Gap) -> Self {
        Self::Transient { why: gap.why() }
    }
}

/// How long GitHub's headers ask to wait.
fn waits(headers: &HeaderMap, now: i64) -> Option<u32> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<i64>().ok();
    let seconds = match number("retry-after") {
        Some(seconds) => seconds,
        None if number("x-ratelimit-remaining") == Some(0) => {
            number("x-ratelimit-reset")?.saturating_sub(now)
        }
        None => return None,
    };
    u32::try_from(seconds.clamp(1, LIMITED_SECONDS_MAX.into())).ok()
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
