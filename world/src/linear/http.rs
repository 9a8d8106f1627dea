//! The workspace behind `POST /graphql` and `POST /oauth/token`.
//!
//! The name under which a call meets trouble is the name of its operation, and
//! `Token` for the minting of a token.

use std::sync::{Arc, Mutex, PoisonError};

use apollo_compiler::Schema;
use apollo_compiler::validation::Valid;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Form, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use axum::routing::post;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Linear;
use super::execute::execute;
use crate::faults::Faults;
use crate::serve::{broken, meet};

/// How long a minted token is good, as Linear says.
const MINTED_SECONDS: u32 = 2_591_999;

/// A workspace that a server and a test look at together.
pub type Shared = Arc<Mutex<Linear>>;

#[derive(Clone)]
struct Skin {
    linear: Shared,
    schema: &'static Valid<Schema>,
    faults: Faults,
}

/// Serves a workspace; documents are executed against `schema`.
pub fn router(linear: Shared, schema: &'static Valid<Schema>, faults: Faults) -> Router {
    Router::new()
        .route("/graphql", post(graphql))
        .route("/oauth/token", post(token))
        .with_state(Skin {
            linear,
            schema,
            faults,
        })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    query: String,
    operation_name: Option<String>,
    variables: Option<Map<String, Value>>,
}

async fn graphql(State(skin): State<Skin>, headers: HeaderMap, body: Bytes) -> Response {
    let Ok(request) = serde_json::from_slice::<Request>(&body) else {
        let error = error(
            "the body is no GraphQL request",
            "graphql error",
            "BAD_REQUEST",
            400,
        );
        return reply(400, &[], &error);
    };
    let name = request.operation_name.clone().unwrap_or_default();
    let trouble = skin.faults.meet(&name);
    meet(trouble, async { skin.answer(&headers, &request, &name) }).await
}

impl Skin {
    fn answer(&self, headers: &HeaderMap, request: &Request, name: &str) -> Response {
        let mut linear = self.linear.lock().unwrap_or_else(PoisonError::into_inner);
        let authorization = headers
            .get(header::AUTHORIZATION)
            .and_then(|it| it.to_str().ok());
        if !authorization.is_some_and(|it| linear.access.allows(it)) {
            let message = "Authentication required, not authenticated";
            let kind = "authentication error";
            return reply(401, &[], &error(message, kind, "AUTHENTICATION_ERROR", 401));
        }
        linear.calls.push(name.to_owned());
        if let Some(limit) = linear.limits.pop_front() {
            let error = error(
                "Rate limit exceeded",
                "ratelimited",
                "RATELIMITED",
                limit.status,
            );
            return reply(limit.status, &limit.headers, &error);
        }
        let variables = request.variables.clone().unwrap_or_default();
        let operation = request.operation_name.as_deref();
        let (status, body) = execute(
            &mut linear,
            self.schema,
            &request.query,
            operation,
            &variables,
        );
        reply(status, &[], &body)
    }
}

#[derive(Deserialize)]
struct Grant {
    grant_type: String,
    client_id: String,
    client_secret: String,
}

async fn token(State(skin): State<Skin>, Form(grant): Form<Grant>) -> Response {
    let trouble = skin.faults.meet("Token");
    meet(trouble, async { skin.mint(&grant) }).await
}

impl Skin {
    fn mint(&self, grant: &Grant) -> Response {
        if grant.grant_type != "client_credentials" {
            return reply(400, &[], &json!({ "error": "unsupported_grant_type" }));
        }
        let mut linear = self.linear.lock().unwrap_or_else(PoisonError::into_inner);
        match linear.access.mint(&grant.client_id, &grant.client_secret) {
            Some(token) => {
                let body = json!({
                    "access_token": token, "token_type": "Bearer", "expires_in": MINTED_SECONDS,
                });
                reply(200, &[], &body)
            }
            None => reply(401, &[], &json!({ "error": "invalid_client" })),
        }
    }
}

fn error(message: &str, kind: &str, code: &str, status: u16) -> Value {
    let extensions = json!({ "type": kind, "code": code, "statusCode": status });
    json!({ "errors": [{ "message": message, "extensions": extensions }], "data": null })
}

fn reply(status: u16, headers: &[(&'static str, String)], body: &Value) -> Response {
    let mut builder = Response::builder()
        .status(status)
        .header("content-type", "application/json");
    for (name, value) in headers {
        builder = builder.header(*name, value);
    }
    builder
        .body(Body::from(body.to_string()))
        .unwrap_or_else(|_| broken())
}
