//! Where jobs are pushed to: `POST /jobs` (contract, section 6). Answers at
//! once; the work is done by who takes from [`Incoming`].

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use shared::issue::clip;
use shared::runner::document::JobDoc;
use shared::runner::entry::{admitted, problem};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::{error, info};

use super::tend::{NotTaken, Tender};

/// What is shown of a refusal, in bytes.
const REFUSAL_BYTES_MAX: usize = 1024;

/// Jobs that were taken, each with its slot.
pub(super) type Incoming = mpsc::Receiver<(JobDoc, OwnedSemaphorePermit)>;

pub(super) struct Door {
    tender: Arc<Tender>,
    slots: Arc<Semaphore>,
    taken: mpsc::Sender<(JobDoc, OwnedSemaphorePermit)>,
    /// Held while a job is taken, so that no job is taken twice.
    taking: Mutex<()>,
}

impl Door {
    /// A door, and what comes through it. `slots`: those that are free.
    pub(super) fn new(tender: Arc<Tender>, slots: Arc<Semaphore>, size: usize) -> (Self, Incoming) {
        let (taken, incoming) = mpsc::channel(size.max(1));
        let door = Self {
            tender,
            slots,
            taken,
            taking: Mutex::default(),
        };
        (door, incoming)
    }

    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/jobs", post(take))
            .route("/healthz", get(|| async { "ok" }))
            .with_state(Arc::new(self))
    }
}

async fn take(State(door): State<Arc<Door>>, request: Request) -> Response {
    let control = &door.tender.bonds.control;
    let job: JobDoc = match admitted(control.token(), control.now(), request).await {
        Ok(job) => job,
        Err(refusal) => return refusal,
    };
    let _one_at_a_time = door.taking.lock().await;
    match door.tender.check(&job) {
        Ok(()) => {}
        Err(NotTaken::Unfit(why)) => return refusal(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Err(NotTaken::Known) => {
            return refusal(StatusCode::CONFLICT, "the job is worked on here already");
        }
    }
    let Ok(slot) = Arc::clone(&door.slots).try_acquire_owned() else {
        return refusal(StatusCode::TOO_MANY_REQUESTS, "there is no free slot");
    };
    if let Err(error) = door.tender.keep(&job) {
        return broken(&job, &error.to_string());
    }
    info!(job = job.job, task = %job.task.id, issue = job.issue.identifier, "took a job");
    // There is room for as many as there are slots. Where nobody takes it any
    // more the runner is stopping, and the next start takes it up.
    let _ = door.taken.send((job, slot)).await;
    (StatusCode::ACCEPTED, Json(json!({}))).into_response()
}

fn broken(job: &JobDoc, why: &str) -> Response {
    error!(job = job.job, "cannot take a job: {why}");
    refusal(
        StatusCode::SERVICE_UNAVAILABLE,
        "the runner cannot keep the job",
    )
}

fn refusal(status: StatusCode, why: &str) -> Response {
    problem(status, &clip(why, REFUSAL_BYTES_MAX))
}
