//! The way in, at the control plane and at a runner alike: before anything else
//! a request has to prove that it comes from who has the token.

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::warn;

use super::signature::{self, SIGNATURE, Signed, TIMESTAMP};
use crate::issue::Time;

/// The largest body that either side may send, in bytes.
pub const BODY_BYTES_MAX: usize = 1024 * 1024;

/// What the other side says, or the answer to who is not the other side: 413,
/// 401 or 400.
pub async fn admitted<T: DeserializeOwned>(
    token: &SecretString,
    now: Time,
    request: Request,
) -> Result<T, Response> {
    let (parts, body) = request.into_parts();
    let body: Bytes = to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|_| problem(StatusCode::PAYLOAD_TOO_LARGE, "a request has at most 1 MiB"))?;
    let signed = Signed {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        body: &body,
    };
    let (timestamp, signature) = (
        text(&parts.headers, TIMESTAMP),
        text(&parts.headers, SIGNATURE),
    );
    if let Err(why) = signature::check(token, timestamp, signature, signed, now) {
        warn!("refused a request: {why}");
        return Err(problem(StatusCode::UNAUTHORIZED, &why.to_string()));
    }
    serde_json::from_slice(&body).map_err(|error| {
        problem(
            StatusCode::BAD_REQUEST,
            &format!("the body is not the JSON it should be: {error}"),
        )
    })
}

/// A refusal, with the reason.
pub fn problem(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
}

pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
