//! The queue over HTTP. Before anything else a request has to prove that it is
//! a runner's; what it means is decided in [`super::queue`].

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures_util::future::BoxFuture;
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tracing::error;

use super::document::{HeartbeatDoc, JobDoc, LeaseAsk, Leased, ResultDoc};
use super::entry::{admitted, problem, text};
use super::queue::{FarRunners, Heartbeat, Report};
use super::standing::NAME_BYTES_MAX;
use crate::issue::IssueId;

/// Nobody waits longer than this for a job, where waiting is allowed at all.
pub const WAIT_MAX: Duration = Duration::from_secs(20);
/// How often somebody who waits looks for a job that another copy of us took in.
const GLANCE: Duration = Duration::from_secs(1);

/// Called when a run has begun or ended: somebody should look at its issue.
pub type Look = Box<dyn Fn(IssueId) -> BoxFuture<'static, ()> + Send + Sync>;

/// What the routes need.
pub struct Gate {
    pub runners: Arc<FarRunners>,
    pub token: SecretString,
    /// Where runners reach us; `None`: where each of them has come in.
    pub public_url: Option<String>,
    /// What is recorded is durable before this is called; it may fail.
    pub look: Look,
    /// How long a request may wait for a job. Nothing where waiting costs.
    pub wait_max: Duration,
}

/// The routes of runners.
pub fn router(gate: Arc<Gate>) -> Router {
    Router::new()
        .route("/runner/v1/lease", post(lease))
        .route("/runner/v1/jobs/{id}/heartbeat", post(heartbeat))
        .route("/runner/v1/jobs/{id}/result", post(result))
        .with_state(gate)
}

async fn lease(State(gate): State<Arc<Gate>>, request: Request) -> Response {
    let here = match &gate.public_url {
        Some(url) => url.clone(),
        None => origin(request.headers()),
    };
    let ask: LeaseAsk = match admit(&gate, request).await {
        Ok(ask) => ask,
        Err(response) => return response,
    };
    if let Some(response) = nameless(&ask.runner) {
        return response;
    }
    match wait_for_jobs(&gate, &ask, &here).await {
        Ok(jobs) if jobs.is_empty() => StatusCode::NO_CONTENT.into_response(),
        Ok(jobs) => Json(Leased { jobs }).into_response(),
        Err(error) => broken(&error),
    }
}

async fn wait_for_jobs(gate: &Gate, ask: &LeaseAsk, here: &str) -> anyhow::Result<Vec<JobDoc>> {
    let wait = Duration::from_secs(ask.wait_seconds).min(gate.wait_max.min(WAIT_MAX));
    let until = Instant::now() + wait;
    loop {
        // Before looking, so that nothing arrives in between unseen.
        let arrived = gate.runners.arrived.notified();
        let jobs = gate.runners.lease(ask, here).await?;
        let now = Instant::now();
        if !jobs.is_empty() || ask.slots_free == 0 || now >= until {
            return Ok(jobs);
        }
        let _ = timeout_at(until.min(now + GLANCE), arrived).await;
    }
}

async fn heartbeat(
    State(gate): State<Arc<Gate>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let beat: HeartbeatDoc = match admit(&gate, request).await {
        Ok(beat) => beat,
        Err(response) => return response,
    };
    if let Some(response) = nameless(&beat.runner) {
        return response;
    }
    match gate.runners.heartbeat(&id, &beat).await {
        Ok(Heartbeat::Heard { doc, begun }) => {
            if let Some(issue) = begun {
                (gate.look)(issue).await;
            }
            Json(doc).into_response()
        }
        Ok(Heartbeat::Stale) => stale(),
        Ok(Heartbeat::Unknown) => unknown(&id),
        Err(error) => broken(&error),
    }
}

async fn result(
    State(gate): State<Arc<Gate>>,
    Path(id): Path<String>,
    request: Request,
) -> Response {
    let result: ResultDoc = match admit(&gate, request).await {
        Ok(result) => result,
        Err(response) => return response,
    };
    if let Some(response) = nameless(&result.runner) {
        return response;
    }
    match gate.runners.result(&id, &result).await {
        Ok(Report::Taken(issue)) => {
            // Also the second time: the first may have crashed before it.
            (gate.look)(issue).await;
            Json(json!({})).into_response()
        }
        Ok(Report::Stale) => stale(),
        Ok(Report::Unknown) => unknown(&id),
        Err(error) => broken(&error),
    }
}

/// Where a request has come in, as far as its headers tell; a function URL and
/// every proxy name the scheme.
fn origin(headers: &HeaderMap) -> String {
    let scheme = match text(headers, "x-forwarded-proto") {
        Some("https") => "https",
        Some(_) | None => "http",
    };
    format!("{scheme}://{}", text(headers, "host").unwrap_or_default())
}

async fn admit<T: DeserializeOwned>(gate: &Gate, request: Request) -> Result<T, Response> {
    admitted(&gate.token, gate.runners.now(), request).await
}

fn nameless(runner: &str) -> Option<Response> {
    let why = format!("`runner` must be a name of at most {NAME_BYTES_MAX} bytes");
    (runner.is_empty() || runner.len() > NAME_BYTES_MAX)
        .then(|| problem(StatusCode::BAD_REQUEST, &why))
}

fn stale() -> Response {
    problem(
        StatusCode::CONFLICT,
        "the job is no longer yours: throw its work away",
    )
}

fn unknown(id: &str) -> Response {
    problem(
        StatusCode::NOT_FOUND,
        &format!("no job `{id}` is known here"),
    )
}

fn broken(error: &anyhow::Error) -> Response {
    error!("could not serve a runner: {error:#}");
    problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "the store cannot be used now, try again",
    )
}
