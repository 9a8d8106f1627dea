//! What the service says about itself: statistics and status.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;

use super::{Doors, broken, problem};
use crate::stats::Period;
use crate::view;
use crate::view::status::{Facts, StatusDoc, runs_of};

pub(super) fn routes() -> Router<Arc<Doors>> {
    Router::new()
        .route("/stats", get(stats))
        .route("/status", get(status))
}

#[derive(Deserialize)]
struct Asked {
    /// A week, if nothing else is asked for.
    period: Option<String>,
}

async fn stats(State(doors): State<Arc<Doors>>, Query(asked): Query<Asked>) -> Response {
    let period = asked.period.map(|it| it.parse::<Period>());
    let period = match period.unwrap_or(Ok(Period::Week)) {
        Ok(period) => period,
        Err(why) => return problem(StatusCode::UNPROCESSABLE_ENTITY, &why),
    };
    let hands = doors.engine.hands();
    match view::stats::read(hands.log.as_ref(), period, hands.clock.now()).await {
        Ok(stats) => Json(stats).into_response(),
        Err(error) => broken(&error),
    }
}

async fn status(State(doors): State<Arc<Doors>>) -> Response {
    match stand(&doors).await {
        Ok(status) => Json(status).into_response(),
        Err(error) => broken(&error),
    }
}

async fn stand(doors: &Doors) -> anyhow::Result<StatusDoc> {
    let settings = doors.live.renewed().await;
    let hands = doors.engine.hands();
    let now = hands.clock.now();
    let facts = Facts::read(hands.log.as_ref(), hands.registers.as_ref(), now).await?;
    let mut running = None;
    if let Some(watched) = facts.watched() {
        let mut runs = Vec::new();
        for id in watched {
            // Most are known to this process already.
            runs.extend(runs_of(&*doors.engine.load(&id).await?));
        }
        running = Some(runs);
    }
    let conditions = doors.engine.conditions().await?;
    Ok(facts.status(&settings, &conditions.executors, running.as_deref(), now))
}
