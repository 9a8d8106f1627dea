//! One request to GitHub, and what its answer means where that is the same for all.

use std::sync::Arc;

use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::REQUEST_SECONDS;
use super::app::Access;
use crate::issue::{FailureClass, Fault, REASON_BYTES_MAX, clip};
pub(super) use crate::net::Gap;
use crate::net::{Bearer, Rest, Service, number};
use crate::ports::Clock;

/// What GitHub asks to wait after a secondary limit that names no time.
const LIMITED_SECONDS: u32 = 60;
/// GitHub's limits are per hour: nothing further away is believed.
const LIMITED_SECONDS_MAX: u32 = 3600;
const GITHUB: Service = Service {
    name: "GitHub",
    headers: &[
        ("accept", "application/vnd.github+json"),
        // The version of the API that the shapes in `json` are of.
        ("x-github-api-version", "2022-11-28"),
    ],
    request_seconds: REQUEST_SECONDS,
};

pub(super) struct Http<B = Access> {
    rest: Rest<B>,
    clock: Arc<dyn Clock>,
}

/// Everything that GitHub has said to one request.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The request, for messages.
    call: String,
    body: Vec<u8>,
    /// Seconds to wait, where GitHub asks for it.
    limited: Option<u32>,
    /// Where the other pages are.
    links: Option<String>,
}

impl<B: Bearer> Http<B> {
    pub(super) fn new(api_url: &str, bearer: B, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        Ok(Self {
            rest: Rest::new(GITHUB, api_url, bearer)?,
            clock,
        })
    }

    /// Who has the token.
    pub(super) fn bearer(&self) -> &B {
        self.rest.bearer()
    }

    pub(super) async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, Gap> {
        let reply = self.rest.call(method, path, query, body).await?;
        let waits = waits(&reply.headers, self.clock.now().as_second());
        let links = reply.headers.get("link").and_then(|it| it.to_str().ok());
        let mut answer = Answer {
            status: reply.status,
            call: reply.call,
            body: reply.body,
            limited: None,
            links: links.map(str::to_owned),
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

    /// The parameter `name` of the address of the next page, if there is one.
    pub(super) fn next(&self, name: &str) -> Option<String> {
        let mut links = self.links.as_deref()?.split(',');
        let next = links.find(|it| it.contains("rel=\"next\""))?;
        let url = next.split_once('<')?.1.split_once('>')?.0;
        let url = Url::parse(url).ok()?;
        let mut pairs = url.query_pairs();
        pairs.find_map(|(key, value)| (key == name).then(|| value.into_owned()))
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

/// How long GitHub's headers ask to wait.
fn waits(headers: &HeaderMap, now: i64) -> Option<u32> {
    let seconds = match number(headers, "retry-after") {
        Some(seconds) => seconds,
        None if number(headers, "x-ratelimit-remaining") == Some(0) => {
            number(headers, "x-ratelimit-reset")?.saturating_sub(now)
        }
        None => return None,
    };
    u32::try_from(seconds.clamp(1, LIMITED_SECONDS_MAX.into())).ok()
}
