//! The door before a function: a function URL, or an API Gateway HTTP API.
//! Requests become events of payload format 2.0, and answers responses again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Failed, Function, lock};

/// The largest request that Lambda takes.
const REQUEST_BYTES_MAX: usize = 6 * 1024 * 1024;

/// What stands before the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    FunctionUrl,
    HttpApi,
}

#[derive(Clone)]
struct Shown {
    function: Function,
    door: Door,
    dice: Arc<Mutex<fastrand::Rng>>,
}

/// Serves a function. Which bodies are encoded says the seed: AWS goes by the
/// type of the content, and one door by another list than the other.
pub fn router(function: Function, door: Door, seed: u64) -> Router {
    let dice = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
    Router::new().fallback(pass).with_state(Shown {
        function,
        door,
        dice,
    })
}

async fn pass(State(shown): State<Shown>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, REQUEST_BYTES_MAX).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let encoded = lock(&shown.dice).bool();
    let event = payload(
        shown.door,
        parts.method.as_str(),
        &parts.uri,
        &parts.headers,
        &body,
        encoded,
    );
    let answer = match shown.function.invoke(&event).await {
        Ok(answer) => answer,
        Err(Failed::Throttled) => return StatusCode::TOO_MANY_REQUESTS.into_response(),
        Err(error @ Failed::Function { .. }) => {
            tracing::warn!("the function behind the door failed: {error}");
            // As each of them says it.
            return match shown.door {
                Door::FunctionUrl => {
                    (StatusCode::BAD_GATEWAY, "Internal Server Error").into_response()
                }
                Door::HttpApi => (
                    StatusCode::INTERNAL_SERVER_ERROR,
                    r#"{"message":"Internal Server Error"}"#,
                )
                    .into_response(),
            };
        }
    };
    respond(&answer).unwrap_or_else(|error| {
        tracing::warn!("the function behind the door answers what is no response: {error:#}");
        StatusCode::BAD_GATEWAY.into_response()
    })
}

/// The event that a request becomes. A body that is no text is always encoded.
pub fn payload(
    door: Door,
    method: &str,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
    encoded: bool,
) -> Value {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let texts = texts.entry(name.as_str().to_owned());
        texts
            .and_modify(|it| *it = format!("{it},{value}"))
            .or_insert_with(|| value.clone().into_owned());
    }
    let cookies = texts.remove("cookie");
    let cookies = cookies.map(|it| it.split("; ").map(str::to_owned).collect::<Vec<_>>());
    let plain = std::str::from_utf8(body).ok().filter(|_| !encoded);
    let (route, host) = match door {
        Door::FunctionUrl => ("$default", "abcdefghij.lambda-url.us-east-1.on.aws"),
        Door::HttpApi => (
            "ANY /{proxy+}",
            "abcdefghij.execute-api.us-east-1.amazonaws.com",
        ),
    };
    texts.insert("host".into(), host.into());
    texts.insert("x-forwarded-proto".into(), "https".into());
    let now = Timestamp::now();
    let mut event = json!({
        "version": "2.0",
        "routeKey": route,
        "rawPath": uri.path(),
        "rawQueryString": uri.query().unwrap_or_default(),
        "headers": texts,
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "abcdefghij",
            "domainName": host,
            "domainPrefix": "abcdefghij",
            "http": {
                "method": method,
                "path": uri.path(),
                "protocol": "HTTP/1.1",
                "sourceIp": "127.0.0.1",
                "userAgent": texts.get("user-agent"),
            },
            "requestId": Uuid::new_v4(),
            "routeKey": route,
            "stage": "$default",
            "time": now.strftime("%d/%b/%Y:%H:%M:%S %z").to_string(),
            "timeEpoch": now.as_millisecond(),
        },
        "isBase64Encoded": plain.is_none() && !body.is_empty(),
    });
    if let Some(cookies) = cookies {
        event["cookies"] = json!(cookies);
    }
    if !body.is_empty() {
        event["body"] = plain
            .map_or_else(|| BASE64_STANDARD.encode(body), str::to_owned)
            .into();
    }
    if door == Door::HttpApi {
        event["pathParameters"] = json!({ "proxy": uri.path().trim_start_matches('/') });
        event["requestContext"]["accountId"] = "123456789012".into();
    }
    event
}

/// What a function answers, as a response; what is no such thing is one with 200.
fn respond(answer: &Value) -> anyhow::Result<Response> {
    let Some(status) = answer["statusCode"].as_u64() else {
        return Ok(axum::Json(answer.clone()).into_response());
    };
    let mut response = Response::builder().status(u16::try_from(status)?);
    for (name, value) in answer["headers"].as_object().into_iter().flatten() {
        response = response.header(name, value.as_str().unwrap_or_default());
    }
    for cookie in answer["cookies"].as_array().into_iter().flatten() {
        response = response.header("set-cookie", cookie.as_str().unwrap_or_default());
    }
    let body = answer["body"].as_str().unwrap_or_default();
    let body = if answer["isBase64Encoded"] == true {
        BASE64_STANDARD.decode(body)?
    } else {
        body.as_bytes().to_vec()
    };
    Ok(response.body(Body::from(body))?)
}
