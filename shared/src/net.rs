//! What the adapters share of HTTP: a client that trusts nobody's redirects, a
//! body that ends, and one request to a REST service. What an answer means is
//! each adapter's own business.

pub(crate) mod minted;

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Method, Response, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::time::timeout;

use crate::issue::{Fault, REASON_BYTES_MAX, clip};
use crate::secrets::Token;

/// Connecting takes longer than this only where nobody listens.
const CONNECT_SECONDS_MAX: u64 = 5;
/// A page of a hundred of GitHub's check runs, with reports of up to 128 KB each.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A service with a REST API and a bearer token.
pub(crate) struct Rest<B = Token> {
    service: Service,
    http: Http,
    base: Url,
    bearer: B,
}

/// Who has the token that goes with a call.
pub(crate) trait Bearer: Send + Sync {
    /// The token of the moment.
    fn current(&self) -> impl Future<Output = Result<SecretString, Fault>> + Send;

    /// Another token, after `refused` was refused; `None` if there is no other.
    fn after_refusal(
        &self,
        refused: &SecretString,
    ) -> impl Future<Output = Result<Option<SecretString>, Fault>> + Send;
}

impl Bearer for Token {
    async fn current(&self) -> Result<SecretString, Fault> {
        Ok(Self::current(self))
    }

    async fn after_refusal(&self, refused: &SecretString) -> Result<Option<SecretString>, Fault> {
        Ok(Self::after_refusal(self, refused).await)
    }
}

/// What is the same for all requests to one service.
pub(crate) struct Service {
    /// For messages.
    pub(crate) name: &'static str,
    /// They go with every request.
    pub(crate) headers: &'static [(&'static str, &'static str)],
    /// The whole of one call, from connecting to the last byte of the answer,
    /// with a token that is read again on the way.
    pub(crate) request_seconds: u64,
}

/// Everything that a service has said to one request.
pub(crate) struct Reply {
    /// The request, for messages.
    pub(crate) call: String,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// No usable answer came.
#[derive(Debug)]
pub(crate) enum Gap {
    /// The request did not leave: nothing was done.
    NotSent(Fault),
    /// It may have been done.
    ReplyLost(String),
}

/// Why a body was not read to its end.
pub(crate) enum Cut {
    TooLong,
    Broken(reqwest::Error),
}

impl<B: Bearer> Rest<B> {
    pub(crate) fn new(service: Service, api_url: &str, bearer: B) -> anyhow::Result<Self> {
        let name = service.name;
        let base = Url::parse(api_url.trim_end_matches('/'))
            .with_context(|| format!("the address of {name}'s API, `{api_url}`"))?;
        anyhow::ensure!(
            matches!(base.scheme(), "https" | "http"),
            "the address of {name}'s API, `{base}`, must begin with https://"
        );
        Ok(Self {
            service,
            http: Http::new("cyrus", api_url),
            base,
            bearer,
        })
    }

    /// Who has the token.
    pub(crate) fn bearer(&self) -> &B {
        &self.bearer
    }

    /// One call; once more, if the token was refused and there is another.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Reply, Gap> {
        let Service {
            name,
            request_seconds,
            ..
        } = self.service;
        let call = async {
            let token = self.bearer.current().await.map_err(Gap::NotSent)?;
            let reply = self.send(&token, method.clone(), path, query, body).await?;
            if reply.status != StatusCode::UNAUTHORIZED {
                return Ok(reply);
            }
            let fresh = self.bearer.after_refusal(&token).await;
            match fresh.map_err(Gap::NotSent)? {
                Some(fresh) => self.send(&fresh, method.clone(), path, query, body).await,
                None => Ok(reply),
            }
        };
        let limit = Duration::from_secs(request_seconds);
        timeout(limit, call).await.unwrap_or_else(|_| {
            Err(Gap::ReplyLost(format!(
                "{method} /{} at {name} failed: operation timed out",
                path.join("/")
            )))
        })
    }

    async fn send(
        &self,
        token: &SecretString,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Reply, Gap> {
        let name = self.service.name;
        let call = format!("{method} /{}", path.join("/"));
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().extend(path);
            }
            Err(()) => return Err(Gap::not_sent(format!("`{}` takes no path", self.base))),
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let client = self.http.client().map_err(Gap::not_sent)?;
        let mut request = client
            .request(method, url)
            .bearer_auth(token.expose_secret());
        for (header, value) in self.service.headers {
            request = request.header(*header, *value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let lost = |error| Gap::ReplyLost(format!("{call} at {name} failed: {}", chain(error)));
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() || error.is_builder() => {
                let why = format!("{name} could not be reached: {}", chain(error));
                return Err(Gap::not_sent(why));
            }
            Err(error) => return Err(lost(error)),
        };
        let status = response.status();
        let headers = std::mem::take(response.headers_mut());
        let body = match body_of(response, BODY_BYTES_MAX).await {
            Ok(body) => body,
            Err(Cut::Broken(error)) => return Err(lost(error)),
            Err(Cut::TooLong) => {
                let why = format!("{name}'s answer to {call} is over {BODY_BYTES_MAX} bytes");
                return Err(Gap::ReplyLost(why));
            }
        };
        Ok(Reply {
            call,
            status,
            headers,
            body,
        })
    }
}

impl Gap {
    fn not_sent(why: String) -> Self {
        Self::NotSent(Fault::Transient { why })
    }

    pub(crate) fn why(self) -> String {
        match self {
            Self::NotSent(fault) => fault.to_string(),
            Self::ReplyLost(why) => why,
        }
    }
}

/// For calls that may be repeated without harm; the others look at the gap.
impl From<Gap> for Fault {
    fn from(gap: Gap) -> Self {
        match gap {
            Gap::NotSent(fault) => fault,
            Gap::ReplyLost(why) => Self::Transient { why },
        }
    }
}

/// The client of one service, made when it is first needed: a function that only
/// hears starts sooner without it.
pub(crate) struct Http {
    user_agent: &'static str,
    /// The service is on this machine.
    near: bool,
    client: OnceLock<reqwest::Client>,
}

impl Http {
    /// `target`: a URL of the service.
    pub(crate) fn new(user_agent: &'static str, target: &str) -> Self {
        Self {
            user_agent,
            near: is_loopback(target),
            client: OnceLock::new(),
        }
    }

    /// Fails where this machine has no TLS to offer.
    pub(crate) fn client(&self) -> Result<&reqwest::Client, String> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let mut builder = reqwest::Client::builder();
        if self.near {
            builder = builder.no_proxy();
        }
        let client = builder
            .user_agent(self.user_agent)
            .connect_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
            // No service sends us elsewhere; whoever does should not get our token,
            // and a redirected write would become a harmless-looking GET.
            .redirect(Policy::none())
            .build()
            .map_err(chain)?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// Does a URL lead to this machine? No proxy stands between it and itself.
pub fn is_loopback(url: &str) -> bool {
    let host = Url::parse(url)
        .ok()
        .and_then(|it| Some(it.host_str()?.to_owned()));
    host.is_some_and(|host| {
        let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
        host == "localhost" || address.is_ok_and(|it| it.is_loopback())
    })
}

/// Why an address cannot be used for what nobody else shall read, and the remedy.
pub fn check_private(url: &str) -> Result<(), String> {
    if url.starts_with("https://") || is_loopback(url) {
        return Ok(());
    }
    Err(format!(
        "`{url}` would carry prompts and results over the network for everybody to read: use https://"
    ))
}

/// The body of an answer, unless it is longer than `max`.
pub(crate) async fn body_of(mut response: Response, max: usize) -> Result<Vec<u8>, Cut> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Cut::Broken)? {
        if body.len() + chunk.len() > max {
            return Err(Cut::TooLong);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The whole number in a header.
pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<i64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// An error with its causes, since the outermost says only that it failed.
/// Without the address, which a caller names where it helps.
pub(crate) fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(it) = cause {
        text.push_str(": ");
        text.push_str(&it.to_string());
        cause = it.source();
    }
    clip(&text, REASON_BYTES_MAX)
}
