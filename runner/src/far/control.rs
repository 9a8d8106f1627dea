//! The control plane, as a runner calls it. Says what was answered; what to do
//! about it is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode, Url};
use secrecy::SecretString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::issue::{Time, clip};
use shared::net::is_loopback;
use shared::ports::Clock;
use shared::runner::document::{HeardDoc, HeartbeatDoc, JobDoc, LeaseAsk, Leased, ResultDoc};
use shared::runner::signature::{SIGNATURE, Signed, TIMESTAMP, sign};

/// Connecting takes longer than this only where nobody listens.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The whole of one request, with the time that asking for work is held back.
const REQUEST_MAX: Duration = Duration::from_secs(60);
/// Ten jobs of 350 KB, with room.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What is shown of a refusal, in bytes.
const REFUSAL_BYTES_MAX: usize = 500;

pub(super) struct Control {
    client: reqwest::Client,
    base: Url,
    token: SecretString,
    clock: Arc<dyn Clock>,
}

/// What became of a heartbeat.
pub(super) enum Heard {
    Yes(HeardDoc),
    /// The job is somebody else's.
    NotOurs,
    /// There is no such job; or this is not the control plane, but what stands
    /// before it while it is away.
    Unknown(String),
}

/// What became of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    /// The job is somebody else's.
    NotOurs,
    /// As of a heartbeat.
    Unknown(String),
    /// It will never be taken like this; why.
    Refused(String),
}

impl Control {
    pub(super) fn new(
        url: &str,
        token: SecretString,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let base =
            Url::parse(url).with_context(|| format!("the control plane's address `{url}`"))?;
        let mut client = reqwest::Client::builder();
        if is_loopback(url) {
            client = client.no_proxy();
        }
        let client = client
            .user_agent("cyrus")
            .connect_timeout(CONNECT_MAX)
            .timeout(REQUEST_MAX)
            // Nobody else shall get what is meant for it.
            .redirect(Policy::none())
            .build()
            .context("set up the client of the control plane")?;
        Ok(Self {
            client,
            base,
            token,
            clock,
        })
    }

    /// Does it live? How far our clock is ahead of its clock, in seconds, if it
    /// tells the time.
    pub(super) async fn ahead(&self) -> Result<Option<i64>, String> {
        let asked = self.clock.now();
        let answer = self.client.get(self.under(&["healthz"])).send().await;
        let answer = answer.map_err(|error| lost(&error.without_url()))?;
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        let date = answer.headers().get(reqwest::header::DATE);
        let date = date.and_then(|it| jiff::fmt::rfc2822::parse(it.to_str().ok()?).ok());
        // It was sent at some time between asking and being answered.
        Ok(date.map(|it| {
            let there = it.timestamp().as_second();
            let (asked, answered) = (asked.as_second(), self.clock.now().as_second());
            if asked > there {
                asked - there
            } else {
                answered.min(there) - there
            }
        }))
    }

    /// Jobs that are ours from now on.
    pub(super) async fn lease(&self, ask: &LeaseAsk) -> Result<Vec<JobDoc>, String> {
        let place = self.under(&["runner", "v1", "lease"]);
        let answer = self.post(place, ask).await?;
        match answer.status() {
            StatusCode::NO_CONTENT => Ok(Vec::new()),
            StatusCode::OK => Ok(read::<Leased>(answer).await?.jobs),
            _ => Err(refusal(answer).await),
        }
    }

    /// Is this a place where the control plane can be called back?
    pub(super) fn owns(&self, callback: &str) -> bool {
        let Ok(callback) = Url::parse(callback) else {
            return false;
        };
        let plain = callback.username().is_empty()
            && callback.password().is_none()
            && callback.query().is_none()
            && callback.fragment().is_none();
        let base = self.base.path().trim_end_matches('/');
        let under = callback.path().strip_prefix(base);
        plain
            && callback.origin() == self.base.origin()
            && under.is_some_and(|it| it.starts_with('/'))
    }

    /// Where a job is spoken of: where it says, if that is the control plane.
    fn place(&self, job: &JobDoc, what: &str) -> Url {
        let said = Url::parse(&job.callback).ok();
        let mut url = match said.filter(|_| self.owns(&job.callback)) {
            Some(url) => url,
            None => self.under(&["runner", "v1", "jobs", &job.job]),
        };
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(what);
        }
        url
    }

    fn under(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// What it signs with, and we too.
    pub(super) fn token(&self) -> &SecretString {
        &self.token
    }

    pub(super) fn now(&self) -> Time {
        self.clock.now()
    }

    /// What to do with a job.
    pub(super) async fn heartbeat(
        &self,
        job: &JobDoc,
        beat: &HeartbeatDoc,
    ) -> Result<Heard, String> {
        let answer = self.post(self.place(job, "heartbeat"), beat).await?;
        match answer.status() {
            StatusCode::OK => Ok(Heard::Yes(read(answer).await?)),
            StatusCode::CONFLICT => Ok(Heard::NotOurs),
            StatusCode::NOT_FOUND => Ok(Heard::Unknown(refusal(answer).await)),
            _ => Err(refusal(answer).await),
        }
    }

    pub(super) async fn result(&self, job: &JobDoc, result: &ResultDoc) -> Result<Taken, String> {
        let answer = self.post(self.place(job, "result"), result).await?;
        match answer.status() {
            StatusCode::OK => Ok(Taken::Yes),
            StatusCode::CONFLICT => Ok(Taken::NotOurs),
            StatusCode::NOT_FOUND => Ok(Taken::Unknown(refusal(answer).await)),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE => {
                Ok(Taken::Refused(refusal(answer).await))
            }
            _ => Err(refusal(answer).await),
        }
    }

    async fn post(&self, url: Url, body: &impl Serialize) -> Result<Response, String> {
        let body = serde_json::to_vec(body).map_err(|error| error.to_string())?;
        let sent = self.clock.now().as_second();
        let signature = sign(
            &self.token,
            sent,
            Signed {
                method: "POST",
                path: url.path(),
                body: &body,
            },
        );
        self.client
            .post(url)
            .header(TIMESTAMP, sent)
            .header(SIGNATURE, signature)
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(body)
            .send()
            .await
            .map_err(|error| lost(&error.without_url()))
    }
}

async fn read<T: DeserializeOwned>(answer: Response) -> Result<T, String> {
    let body = body_of(answer, BODY_BYTES_MAX).await?;
    serde_json::from_slice(&body)
        .map_err(|error| format!("the control plane's answer is not what it should be: {error}"))
}

async fn body_of(mut answer: Response, max: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| lost(&error))? {
        if body.len() + chunk.len() > max {
            return Err(format!("the control plane's answer is over {max} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

async fn refusal(answer: Response) -> String {
    let status = answer.status();
    let body = body_of(answer, BODY_BYTES_MAX).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&body);
    let hint = if status == StatusCode::UNAUTHORIZED {
        " (is CYRUS_RUNNER_TOKEN the same there, and is the clock right?)"
    } else if status == StatusCode::NOT_FOUND {
        " (is CYRUS_RUNNER_TOKEN set there, and is this its address?)"
    } else {
        ""
    };
    format!(
        "the control plane answers {status}{hint}: {}",
        clip(said.trim(), REFUSAL_BYTES_MAX)
    )
}

fn lost(error: &reqwest::Error) -> String {
    let mut text = format!("the control plane cannot be reached: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(it) = cause {
        text.push_str(": ");
        text.push_str(&it.to_string());
        cause = it.source();
    }
    clip(&text, REFUSAL_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> Time {
            Time::UNIX_EPOCH
        }
    }

    #[test]
    fn a_callback_is_the_control_planes_or_none() {
        let control = |url| Control::new(url, "t".into(), Arc::new(Noon)).expect("a client");
        let plain = control("https://c.example");
        let below = control("https://c.example/prod/");
        for (callback, of_plain, of_below) in [
            ("https://c.example/runner/v1/jobs/1", true, false),
            ("https://c.example/prod/runner/v1/jobs/1", true, true),
            ("https://c.example:443/prod/x", true, true),
            ("https://c.example/production/x", true, false),
            ("https://c.example/prod/../x", true, false),
            ("https://c.example/prod/%2e%2e/x", true, false),
            ("http://c.example/prod/x", false, false),
            ("https://c.example:8443/prod/x", false, false),
            ("https://c.example.evil/prod/x", false, false),
            ("https://c.example@evil/prod/x", false, false),
            ("https://u:p@c.example/prod/x", false, false),
            ("https://c.example/prod/x?to=evil", false, false),
            ("file:///etc/passwd", false, false),
            ("", false, false),
        ] {
            assert_eq!(plain.owns(callback), of_plain, "{callback}");
            assert_eq!(below.owns(callback), of_below, "{callback}");
        }
    }
}
