//! Issues: what they are, why, what they will cost, and what people decide of them.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tracing::error;

use super::{Doors, broken, problem};
use crate::engine::Heard;
use crate::issue::{CancelReason, Input, IssueId, TaskId};
use crate::ports::Place;
use crate::view;

/// The issues of one page of the list.
const ISSUES_PER_PAGE: usize = 100;
/// The events of one page of a log.
const EVENTS_PER_PAGE: usize = 1_000;

pub(super) fn routes() -> Router<Arc<Doors>> {
    Router::new()
        .route("/issues", get(issues))
        .route("/issues/{issue}", get(issue))
        .route("/issues/{issue}/log", get(log))
        .route("/issues/{issue}/explain", get(explain))
        .route("/issues/{issue}/forecast", get(forecast))
        .route("/issues/{issue}/approve", post(approve))
        .route("/issues/{issue}/cancel", post(cancel))
        .route("/issues/{issue}/retry", post(retry))
}

#[derive(Deserialize)]
struct IssuesPage {
    /// The `next` of the page before, or a moment.
    before: Option<String>,
}

async fn issues(State(doors): State<Arc<Doors>>, Query(page): Query<IssuesPage>) -> Response {
    let place = page.before.map(|it| it.parse::<Place>()).transpose();
    let Ok(place) = place else {
        return problem(
            StatusCode::BAD_REQUEST,
            "`before` is the `next` of a page, or a moment like 2026-01-31T12:00:00Z",
        );
    };
    let limit_usd = limit(&doors).await;
    let log = &doors.engine.hands().log;
    match log.heads(place.as_ref(), ISSUES_PER_PAGE).await {
        Ok(heads) => {
            let full = heads.len() == ISSUES_PER_PAGE;
            let next = heads
                .last()
                .filter(|_| full)
                .map(|it| it.place().to_string());
            let line = |head| view::line(head, limit_usd);
            let issues = heads.into_iter().map(line).collect();
            Json(view::IssueList { issues, next }).into_response()
        }
        Err(error) => broken(&error),
    }
}

async fn issue(State(doors): State<Arc<Doors>>, Path(name): Path<String>) -> Response {
    let id = match find(&doors, &name).await {
        Ok(id) => id,
        Err(response) => return response,
    };
    document(&doors, &id, StatusCode::OK).await
}

#[derive(Deserialize)]
struct LogPage {
    #[serde(default)]
    after: u64,
}

async fn log(
    State(doors): State<Arc<Doors>>,
    Path(name): Path<String>,
    Query(page): Query<LogPage>,
) -> Response {
    let id = match find(&doors, &name).await {
        Ok(id) => id,
        Err(response) => return response,
    };
    match doors.engine.hands().log.read(&id, page.after).await {
        Ok(mut records) => {
            let more = records.len() > EVENTS_PER_PAGE;
            records.truncate(EVENTS_PER_PAGE);
            let next = records.last().filter(|_| more).map(|it| it.seq.to_string());
            let events = records.iter().map(view::log_line).collect();
            Json(view::LogDoc { events, next }).into_response()
        }
        Err(error) => broken(&error),
    }
}

async fn explain(State(doors): State<Arc<Doors>>, Path(name): Path<String>) -> Response {
    let id = match find(&doors, &name).await {
        Ok(id) => id,
        Err(response) => return response,
    };
    match doors.engine.hands().log.read(&id, 0).await {
        Ok(records) => Json(view::explain::explain(&records)).into_response(),
        Err(error) => broken(&error),
    }
}

async fn forecast(State(doors): State<Arc<Doors>>, Path(name): Path<String>) -> Response {
    let id = match find(&doors, &name).await {
        Ok(id) => id,
        Err(response) => return response,
    };
    let known = tokio::try_join!(doors.engine.load(&id), doors.engine.conditions());
    let (issue, conditions) = match known {
        Ok(known) => known,
        Err(error) => return broken(&error),
    };
    let now = doors.engine.hands().clock.now();
    match view::forecast::read(&issue, &conditions, now) {
        Ok(forecast) => Json(forecast).into_response(),
        Err(why) => problem(StatusCode::CONFLICT, &why),
    }
}

async fn approve(State(doors): State<Arc<Doors>>, Path(name): Path<String>) -> Response {
    decide(&doors, &name, Input::Approve).await
}

async fn cancel(State(doors): State<Arc<Doors>>, Path(name): Path<String>) -> Response {
    let input = Input::Cancelled {
        why: CancelReason::Command,
        at: doors.engine.hands().clock.now(),
    };
    decide(&doors, &name, input).await
}

/// What is to be tried again; without a body: all that failed.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryAsk {
    task: Option<String>,
}

async fn retry(
    State(doors): State<Arc<Doors>>,
    Path(name): Path<String>,
    body: String,
) -> Response {
    let asked = if body.trim().is_empty() {
        Ok(RetryAsk::default())
    } else {
        serde_json::from_str::<RetryAsk>(&body)
    };
    match asked {
        Ok(RetryAsk { task }) => {
            let task = task.map(TaskId);
            decide(&doors, &name, Input::Retry { task }).await
        }
        Err(error) => {
            let why = format!(r#"the body must be {{"task": "…"}}, or nothing: {error}"#);
            problem(StatusCode::UNPROCESSABLE_ENTITY, &why)
        }
    }
}

async fn decide(doors: &Doors, name: &str, input: Input) -> Response {
    let id = match find(doors, name).await {
        Ok(id) => id,
        Err(response) => return response,
    };
    match doors.engine.hear(&id, input).await {
        Ok(Heard::Recorded | Heard::Nothing) => {
            (doors.wake)(id.clone());
            document(doors, &id, StatusCode::ACCEPTED).await
        }
        Ok(Heard::Refused(why)) => problem(StatusCode::CONFLICT, &why),
        Err(error) => {
            error!(issue = %id, "could not record what was decided: {error:#}");
            problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "it could not be stored, ask again",
            )
        }
    }
}

async fn document(doors: &Doors, id: &IssueId, status: StatusCode) -> Response {
    let limit_usd = limit(doors).await;
    match doors.engine.load(id).await {
        Ok(issue) => (status, Json(view::issue(&issue, limit_usd))).into_response(),
        Err(error) => broken(&error),
    }
}

/// What an issue may cost, USD, as the settings of now say.
async fn limit(doors: &Doors) -> Option<f64> {
    doors.live.renewed().await.costs.per_issue_max
}

async fn find(doors: &Doors, name: &str) -> Result<IssueId, Response> {
    match doors.engine.hands().log.find(name).await {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(problem(
            StatusCode::NOT_FOUND,
            &format!("no issue `{name}` is known here"),
        )),
        Err(error) => Err(broken(&error)),
    }
}
