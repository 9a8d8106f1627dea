//! What an operator asks for: the configuration shown and changed, the kill
//! switch turned, a head made again.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Doors, broken, problem};
use crate::carry::{self, Beyond};
use crate::config::Refused;
use crate::issue::Pause;
use crate::pause;
use crate::view::status::PauseDoc;

/// The place of a document that came over HTTP, for people.
const SENT: &str = "the configuration that was sent";

pub(super) fn routes() -> Router<Arc<Doors>> {
    Router::new()
        .route("/config", get(show).put(import))
        .route("/config/{key}", put(set).delete(unset))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
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
        Ok(changed) => {
            // What waited for a limit may begin.
            (doors.wake_all)().await;
            Json(changed).into_response()
        }
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

/// How to pause; an empty body asks for the default.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct PauseAsked {
    stop_runs: bool,
    merges: bool,
}

async fn pause(State(doors): State<Arc<Doors>>, body: Bytes) -> Response {
    let asked = match body.trim_ascii() {
        [] => Ok(PauseAsked::default()),
        // An array would do for a structure, too.
        body => serde_json::from_slice::<Map<String, Value>>(body)
            .and_then(|it| serde_json::from_value(it.into())),
    };
    let PauseAsked { stop_runs, merges } = match asked {
        Ok(asked) => asked,
        Err(error) => {
            let why = format!(r#"the body must be {{"stop_runs": bool, "merges": bool}}: {error}"#);
            return problem(StatusCode::UNPROCESSABLE_ENTITY, &why);
        }
    };
    let asked = Pause { stop_runs, merges };
    let hands = doors.engine.hands();
    let turned = pause::pause(hands.registers.as_ref(), asked, hands.clock.now()).await;
    turned_to(&doors, Some(asked), turned).await
}

async fn resume(State(doors): State<Arc<Doors>>) -> Response {
    let hands = doors.engine.hands();
    let turned = pause::resume(hands.registers.as_ref(), hands.clock.now()).await;
    turned_to(&doors, None, turned).await
}

async fn turned_to(doors: &Doors, to: Option<Pause>, turned: anyhow::Result<()>) -> Response {
    match turned {
        Ok(()) => {
            (doors.wake_all)().await;
            Json(PauseDoc::of(to)).into_response()
        }
        Err(error) => broken(&error),
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
