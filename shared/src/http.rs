//! One router for all that comes over HTTP: webhooks and the API. Doors only:
//! what a request means is decided elsewhere.

mod facts;
mod hints;
mod issues;
mod operate;

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::future::BoxFuture;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tracing::{error, info, warn};

use crate::config::Live;
use crate::engine::{Engine, Heard};
use crate::issue::{IssueId, Time};
use crate::linear::webhook::{self, Refused};
use crate::runner;
use crate::stats::{self, WebhookRefusal};

/// The largest body of a webhook, in bytes (contract, section 4).
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What the router needs.
pub struct Doors {
    pub engine: Arc<Engine>,
    /// Called after something was recorded for an issue. Carries no data, and may be lost.
    pub wake: Box<dyn Fn(IssueId) + Send + Sync>,
    /// Called after something has changed that holds for all issues. May be lost, too.
    pub wake_all: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
    /// Called when something may have changed outside for an issue. May be lost, too.
    pub look: runner::Look,
    /// The secrets that sign GitHub's webhooks; with none, none is heard.
    pub github_secrets: Vec<SecretString>,
    /// What is in the path of Codegen's webhook; none leaves it shut.
    pub codegen_secret: Option<SecretString>,
    /// The secrets that sign Linear's webhooks: the one in force, and during a rotation the last one.
    pub linear_secrets: Vec<SecretString>,
    /// The bearer token of `/api`; none leaves it open.
    pub api_token: Option<SecretString>,
    /// The settings, to be shown and changed.
    pub live: Arc<Live>,
    /// Where runners elsewhere come in; none leaves it shut.
    pub runners: Option<Arc<runner::Gate>>,
}

/// All routes.
pub fn router(doors: Arc<Doors>) -> Router {
    let api = Router::new()
        .merge(issues::routes())
        .merge(facts::routes())
        .merge(operate::routes())
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "there is nothing under this path") })
        .layer(middleware::from_fn_with_state(
            Arc::clone(&doors),
            authenticate,
        ));
    let runners = doors.runners.clone();
    let router = Router::new()
        .route("/linear-webhook", post(linear_webhook))
        .route("/webhook", post(linear_webhook))
        .merge(hints::routes())
        .route("/healthz", get(|| async { "ok" }))
        .route("/status", get(status))
        .route(
            "/version",
            get(|| async { Json(json!({ "version": env!("CARGO_PKG_VERSION") })) }),
        )
        .nest("/api/v1", api)
        .with_state(doors);
    match runners {
        Some(gate) => router.merge(runner::routes::router(gate)),
        None => router,
    }
}

/// Linear tells something. 200 only once it is durable, or of no interest.
async fn linear_webhook(
    State(doors): State<Arc<Doors>>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        stats::refused(WebhookRefusal::TooLarge);
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "a webhook has at most 1 MiB");
    };
    let signature = headers
        .get("linear-signature")
        .and_then(|it| it.to_str().ok());
    let now = doors.engine.hands().clock.now();
    let (issue, input) = match webhook::hear(&doors.linear_secrets, signature, &body, now) {
        Ok(Some(heard)) => heard,
        Ok(None) => return "of no interest".into_response(),
        Err(Refused::Unauthorized(why)) => {
            stats::refused(WebhookRefusal::Signature);
            warn!("refused a webhook: {why}");
            return problem(StatusCode::UNAUTHORIZED, why);
        }
        Err(Refused::Malformed(why)) => {
            stats::refused(WebhookRefusal::Malformed);
            warn!("cannot read a webhook: {why}");
            return problem(StatusCode::BAD_REQUEST, &why);
        }
    };
    match doors.engine.hear(&issue, input).await {
        Ok(Heard::Recorded) => {
            info!(%issue, "heard from Linear");
            (doors.wake)(issue);
            "accepted".into_response()
        }
        Ok(Heard::Nothing | Heard::Refused(_)) => {
            // A second delivery may be the trace of a crash before the wake-up.
            (doors.wake)(issue);
            "known".into_response()
        }
        Err(error) => {
            stats::refused(WebhookRefusal::NotStored);
            error!(%issue, "could not record a webhook: {error:#}");
            problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "it could not be stored, send it again",
            )
        }
    }
}

async fn authenticate(State(doors): State<Arc<Doors>>, request: Request, next: Next) -> Response {
    let Some(token) = &doors.api_token else {
        return next.run(request).await;
    };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|it| it.to_str().ok())
        .and_then(|it| it.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map_or("", |(_, token)| token.trim());
    // Digests take the same time to compare wherever they differ.
    if Sha256::digest(given) == Sha256::digest(token.expose_secret()) {
        return next.run(request).await;
    }
    problem(
        StatusCode::UNAUTHORIZED,
        "this needs `Authorization: Bearer` with CYRUS_API_TOKEN",
    )
}

async fn status(State(doors): State<Arc<Doors>>) -> Response {
    // Every round that is not over owes something, waits for a time, or watches.
    match doors.engine.hands().log.attention(Time::MAX, 1).await {
        Ok(heads) => {
            let status = if heads.is_empty() { "idle" } else { "busy" };
            Json(json!({ "status": status })).into_response()
        }
        Err(error) => broken(&error),
    }
}

fn broken(error: &anyhow::Error) -> Response {
    error!("could not read the store: {error:#}");
    problem(
        StatusCode::INTERNAL_SERVER_ERROR,
        "the store could not be read; the log has the cause",
    )
}

fn problem(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}
