//! Who tells that something may have changed: GitHub and Codegen. What they say
//! is a hint to look now; what holds is read from them.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use tracing::{error, warn};

use super::{BODY_BYTES_MAX, Doors, problem};
use crate::delivery::Refused;
use crate::github::webhook::{Hint, hear};
use crate::issue::words;
use crate::stats::{self, WebhookRefusal};

pub(super) fn routes() -> Router<Arc<Doors>> {
    Router::new()
        .route("/github-webhook", post(github))
        .route("/codegen-webhook/{secret}", post(codegen))
}

async fn github(State(doors): State<Arc<Doors>>, headers: HeaderMap, body: Body) -> Response {
    let Ok(body) = to_bytes(body, BODY_BYTES_MAX).await else {
        stats::refused(WebhookRefusal::TooLarge);
        return problem(StatusCode::PAYLOAD_TOO_LARGE, "a webhook has at most 1 MiB");
    };
    let header = |name: &str| headers.get(name).and_then(|it| it.to_str().ok());
    let (signature, event) = (header("x-hub-signature-256"), header("x-github-event"));
    let branches = match hear(&doors.github_secrets, signature, event, &body) {
        Ok(Hint::Branches(branches)) => branches,
        Ok(Hint::Everything) => {
            (doors.wake_all)().await;
            return "accepted".into_response();
        }
        Ok(Hint::Nothing) => return "of no interest".into_response(),
        Err(Refused::Unauthorized(why)) => {
            stats::refused(WebhookRefusal::Signature);
            warn!("refused a webhook of GitHub's: {why}");
            return problem(StatusCode::UNAUTHORIZED, why);
        }
        Err(Refused::Malformed(why)) => {
            stats::refused(WebhookRefusal::Malformed);
            warn!("cannot read a webhook of GitHub's: {why}");
            return problem(StatusCode::BAD_REQUEST, &why);
        }
    };
    for identifier in branches.iter().filter_map(|it| words::issue_of(it)) {
        match doors.engine.hands().log.find(identifier).await {
            Ok(Some(issue)) => (doors.look)(issue).await,
            Ok(None) => {}
            Err(error) => {
                stats::refused(WebhookRefusal::NotStored);
                error!("could not find the issue of a webhook of GitHub's: {error:#}");
                return problem(StatusCode::SERVICE_UNAVAILABLE, "send it again");
            }
        }
    }
    "accepted".into_response()
}

/// Codegen signs nothing; who knows the path may ask for a look, and for no more.
async fn codegen(State(doors): State<Arc<Doors>>, Path(secret): Path<String>) -> Response {
    let known = doors.codegen_secret.as_ref().is_some_and(|it| {
        let known = it.expose_secret();
        // Digests take the same time to compare wherever they differ.
        !known.is_empty() && Sha256::digest(known) == Sha256::digest(&secret)
    });
    if !known {
        return problem(StatusCode::NOT_FOUND, "there is nothing under this path");
    }
    (doors.wake_all)().await;
    StatusCode::ACCEPTED.into_response()
}
