//! Jobs for runners that can be called: `POST CYRUS_RUNNER_URL/jobs` (contract,
//! section 6). Says what a runner answered; what that means for the job is the
//! queue's business.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use reqwest::{StatusCode, Url};
use secrecy::SecretString;
use tokio::time::Instant;

use super::document::JobDoc;
use super::signature::{SIGNATURE, Signed, TIMESTAMP, sign};
use crate::issue::{Time, clip};
use crate::net::{Http, body_of, chain};

/// A runner answers at once.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// A runner without a slot is left alone for this long, unless one ends a job.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// So is one that cannot be reached: it may be just starting …
const AWAY_PAUSE: Duration = Duration::from_secs(5);
/// … and one that does not answer.
const DOWN_PAUSE: Duration = Duration::from_secs(15);
/// The longest refusal that is read, and what is told of it, in bytes.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;
const REFUSAL_TOLD_BYTES_MAX: usize = 500;

/// The runners that can be called.
pub struct Push {
    places: Vec<Place>,
    token: SecretString,
    callback: String,
}

/// One of them.
pub(super) struct Place {
    /// Where its jobs go.
    pub(super) url: Url,
    http: Http,
    rest: Mutex<Option<Rest>>,
}

#[derive(Clone, Copy)]
struct Rest {
    until: Instant,
    full: bool,
}

/// What a runner said to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has it, now or already.
    Taken,
    /// It certainly does not have it: it has no slot (nothing to say), or it
    /// cannot be reached, and why.
    NotNow(String),
    /// It certainly does not have it, and will not have it like this.
    Refused(String),
    /// It may have it.
    Doubtful(String),
}

impl Push {
    /// `runners`: their addresses, without `/jobs`. `callback`: where they reach
    /// us, without a slash at its end.
    pub fn new(runners: &[String], token: SecretString, callback: String) -> anyhow::Result<Self> {
        let place = |runner: &String| {
            let mut url =
                Url::parse(runner).with_context(|| format!("the runner's address `{runner}`"))?;
            if let Ok(mut segments) = url.path_segments_mut() {
                segments.pop_if_empty().push("jobs");
            }
            Ok(Place {
                http: Http::new("cyrus", runner),
                url,
                rest: Mutex::default(),
            })
        };
        Ok(Self {
            places: runners.iter().map(place).collect::<anyhow::Result<_>>()?,
            token,
            callback,
        })
    }

    pub(super) fn callback(&self) -> &str {
        &self.callback
    }

    /// Is there one that may have room?
    pub(super) fn may_take(&self) -> bool {
        self.places.iter().any(Place::may_take)
    }

    /// Those that may have room.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(|it| it.may_take())
    }

    /// A runner has ended a job: whichever was full may not be any more.
    pub(super) fn has_room(&self) {
        for place in &self.places {
            place.rest().take_if(|it| it.full);
        }
    }

    pub(super) async fn post(&self, place: &Place, job: &JobDoc, now: Time) -> Answer {
        let answer = self.send(place, job, now).await;
        let answer = match answer {
            Ok(answer) => judge(answer).await,
            Err(answer) => answer,
        };
        match &answer {
            Answer::NotNow(why) if why.is_empty() => place.leave_alone(FULL_PAUSE, true),
            Answer::NotNow(_) => place.leave_alone(AWAY_PAUSE, false),
            Answer::Doubtful(_) => place.leave_alone(DOWN_PAUSE, false),
            Answer::Refused(_) | Answer::Taken => {}
        }
        answer
    }

    async fn send(
        &self,
        place: &Place,
        job: &JobDoc,
        now: Time,
    ) -> Result<reqwest::Response, Answer> {
        let body = serde_json::to_vec(job).map_err(|it| Answer::Refused(it.to_string()))?;
        let sent = now.as_second();
        let signed = Signed {
            method: "POST",
            path: place.url.path(),
            body: &body,
        };
        let request = place
            .http
            .client()
            .map_err(Answer::Refused)?
            .post(place.url.clone())
            .timeout(REQUEST_MAX)
            .header(TIMESTAMP, sent)
            .header(SIGNATURE, sign(&self.token, sent, signed))
            .header(reqwest::header::CONTENT_TYPE, "application/json")
            .body(body);
        request.send().await.map_err(|error| {
            if error.is_connect() {
                Answer::NotNow(chain(error))
            } else {
                Answer::Doubtful(chain(error))
            }
        })
    }
}

impl Place {
    /// What it is called among the runners that were heard of.
    pub(super) fn name(&self) -> String {
        let host = self.url.host_str().unwrap_or_default();
        match self.url.port_or_known_default() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    fn may_take(&self) -> bool {
        self.rest().is_none_or(|it| it.until <= Instant::now())
    }

    fn leave_alone(&self, pause: Duration, full: bool) {
        let until = Instant::now() + pause;
        *self.rest() = Some(Rest { until, full });
    }

    fn rest(&self) -> MutexGuard<'_, Option<Rest>> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn judge(answer: reqwest::Response) -> Answer {
    let status = answer.status();
    match status {
        // Already running: by this very push, whose answer was lost, or under an
        // older fence, which it gives up when it next asks.
        StatusCode::CONFLICT => return Answer::Taken,
        StatusCode::TOO_MANY_REQUESTS => return Answer::NotNow(String::new()),
        _ if status.is_success() => return Answer::Taken,
        _ if status.is_server_error() => return Answer::Doubtful(format!("it answers {status}")),
        _ => {}
    }
    let hint = if status == StatusCode::UNAUTHORIZED {
        " (is CYRUS_RUNNER_TOKEN the same there, and is the clock right?)"
    } else {
        ""
    };
    let body = body_of(answer, REFUSAL_BYTES_MAX).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&body);
    let said = clip(said.trim(), REFUSAL_TOLD_BYTES_MAX);
    Answer::Refused(format!("it answers {status}{hint}: {said}"))
}
