//! One request to GitHub, and what its answer means where that is the same for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use futures_util::future::BoxFuture;
use reqwest::header::{HeaderMap, LOCATION};
use reqwest::{Method, StatusCode, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::REQUEST_SECONDS;
use super::app::Access;
use super::errors::{GraphError, forbidden, hidden};
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

/// What a server does not have is asked for again after this long.
const ABSENT_SECONDS: i64 = 3600;
/// What GitHub calls a document that asks for what it does not know.
const UNKNOWN_TO_SERVER: &[&str] = &["undefinedField", "undefinedType", "argumentNotAccepted"];

pub(super) struct Http<B = Access> {
    rest: Rest<B>,
    /// The version in the path of an Enterprise server's REST API. Its GraphQL has none.
    version: Option<&'static str>,
    pub(super) clock: Arc<dyn Clock>,
    graph: Absence,
}

/// Something that not every server has.
#[derive(Default)]
pub(super) struct Absence {
    until: AtomicI64,
}

impl Absence {
    pub(super) fn is_known(&self, clock: &dyn Clock) -> bool {
        clock.now().as_second() < self.until.load(Ordering::Relaxed)
    }

    pub(super) fn remember(&self, clock: &dyn Clock) {
        let until = clock.now().as_second() + ABSENT_SECONDS;
        self.until.store(until, Ordering::Relaxed);
    }
}

/// What came of a GraphQL document.
pub(super) enum Graph {
    /// This server has no GraphQL, or not one that knows what we ask for.
    Absent,
    /// Nothing was done.
    Refused(Fault),
    Answered {
        data: Value,
        errors: Vec<GraphError>,
    },
}

#[derive(Deserialize)]
struct GraphReply {
    #[serde(default)]
    data: Value,
    #[serde(default)]
    errors: Vec<GraphError>,
}

/// Everything that GitHub has said to one request.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The request, for messages.
    call: String,
    body: Vec<u8>,
    /// Seconds to wait, if nothing is left of the limit.
    waits: Option<u32>,
    /// Seconds to wait, where GitHub asks for it.
    limited: Option<u32>,
    /// Where it sends us instead.
    pub(super) location: Option<String>,
    /// Where the other pages are.
    links: Option<String>,
}

impl<B: Bearer> Http<B> {
    pub(super) fn new(api_url: &str, bearer: B, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let url = api_url.trim_end_matches('/');
        let (root, version) = match url.strip_suffix("/v3") {
            Some(root) if root.ends_with("/api") => (root, Some("v3")),
            _ => (url, None),
        };
        Ok(Self {
            rest: Rest::new(GITHUB, root, bearer)?,
            version,
            clock,
            graph: Absence::default(),
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
        let version = self.version.into_iter();
        let path: Vec<&str> = version.chain(path.iter().copied()).collect();
        self.send(method, &path, query, body).await
    }

    /// One document. An error is about the field at its path; the rest of the data holds.
    pub(super) async fn graph(
        &self,
        slug: &str,
        document: &str,
        variables: &Value,
    ) -> Result<Graph, Gap> {
        if self.graph.is_known(&*self.clock) {
            return Ok(Graph::Absent);
        }
        let body = json!({ "query": document, "variables": variables });
        let answer = self
            .send(Method::POST, &["graphql"], &[], Some(&body))
            .await?;
        match answer.status {
            StatusCode::NOT_FOUND => {
                self.graph.remember(&*self.clock);
                return Ok(Graph::Absent);
            }
            status if status.is_server_error() => return Err(Gap::ReplyLost(answer.describe())),
            status if status.is_success() => {}
            _ => return Ok(Graph::Refused(answer.fault(slug))),
        }
        let GraphReply { data, errors } = answer.json()?;
        if let Some(error) = errors.iter().find(|it| it.is_limit()) {
            return Ok(Graph::Refused(Fault::Busy {
                why: format!("GitHub asks to wait: {}", error.message()),
                retry_after_seconds: Some(answer.waits.unwrap_or(LIMITED_SECONDS)),
            }));
        }
        if data.is_null() {
            if errors.iter().any(|it| it.has_code(UNKNOWN_TO_SERVER)) {
                self.graph.remember(&*self.clock);
                return Ok(Graph::Absent);
            }
            if errors.is_empty() {
                let why = "GitHub answered a GraphQL document with nothing";
                return Err(Gap::ReplyLost(why.into()));
            }
        }
        Ok(Graph::Answered { data, errors })
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, Gap> {
        // Boxed: the compiler gives up on futures that are nested as deep as those of a
        // token that is minted on the way.
        let call: BoxFuture<'_, _> = Box::pin(self.rest.call(method, path, query, body));
        let reply = call.await?;
        let waits = waits(&reply.headers, self.clock.now().as_second());
        let location = reply.headers.get(LOCATION).and_then(|it| it.to_str().ok());
        let links = reply.headers.get("link").and_then(|it| it.to_str().ok());
        let mut answer = Answer {
            status: reply.status,
            call: reply.call,
            body: reply.body,
            waits,
            limited: None,
            location: location.map(str::to_owned),
            links: links.map(str::to_owned),
        };
        answer.limited = answer.is_limit();
        Ok(answer)
    }
}

impl Answer {
    /// The body where it is no JSON.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn is_limited(&self) -> bool {
        self.limited.is_some()
    }

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
            403 => return forbidden(slug, &self.message()),
            404 => return hidden(slug, &self.call),
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
    fn is_limit(&self) -> Option<u32> {
        let waits = self.waits;
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
