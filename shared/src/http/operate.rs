//! What an operator asks for: the configuration shown and changed, a head made
//! again.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::{Doors, broken, problem};
use crate::carry::{self, Beyond};
use crate::config::Refused;

/// The place of a document that came over HTTP, for people.
const SENT: &str = "the configuration that was sent";

pub(super) fn routes() -> Router<Arc<Doors>> {
    Router::new()
        .route("/config", get(show).put(import))
        .route("/config/{key}", put(set).delete(unset))
        .route("/issues/{issue}/repair", post(repair))
}

async fn show(State(doors): State<Arc<Doors>>) -> Response {
    match doors.live.entries().await {
        Ok(values) => Json(json!({ "values": values })).into_response(),
        Err(error) => broken(&error),
    }
}

async fn import(State(doors): State<Arc<Doors>>, document: String) -> Response {
    let configuration = doors.live.configuration();
    match configuration.import(&document, SENT).await {
        Ok(warnings) => Json(json!({ "warnings": warnings })).into_response(),
        Err(refused) => refuse(&refused),
    }
}

async fn set(State(doors): State<Arc<Doors>>, Path(key): Path<String>, body: String) -> Response {
    let value = serde_json::from_str::<Value>(&body).ok();
    let Some(value) = value.and_then(|it| it.get("value").cloned()) else {
        let why = r#"the body must be {"value": …}"#;
        return problem(StatusCode::UNPROCESSABLE_ENTITY, why);
    };
    change(&doors, &key, Some(value)).await
}

async fn unset(State(doors): State<Arc<Doors>>, Path(key): Path<String>) -> Response {
    change(&doors, &key, None).await
}

async fn change(doors: &Doors, key: &str, value: Option<Value>) -> Response {
    match doors.live.configuration().set(key, value).await {
        Ok(changed) => Json(changed).into_response(),
        Err(refused) => refuse(&refused),
    }
}

fn refuse(refused: &Refused) -> Response {
    match refused {
        Refused::Key(_) | Refused::Value(_) => {
            problem(StatusCode::UNPROCESSABLE_ENTITY, &refused.to_string())
        }
        Refused::Failed(error) => broken(error),
    }
}

async fn repair(State(doors): State<Arc<Doors>>, Path(name): Path<String>) -> Response {
    match carry::repair(doors.engine.hands().log.as_ref(), &name).await {
        Ok(repaired) => {
            (doors.wake)(repaired.id.clone());
            Json(repaired).into_response()
        }
        Err(why @ Beyond::Unknown(_)) => problem(StatusCode::NOT_FOUND, &why.to_string()),
        Err(why @ Beyond::Torn { .. }) => problem(StatusCode::CONFLICT, &why.to_string()),
        Err(Beyond::Failed(error)) => broken(&error),
    }
}
