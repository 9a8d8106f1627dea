//! Where jobs are pushed to: `POST /jobs` (contract, section 6). Answers at
//! once; the work is done by who takes from [`Incoming`].

use std::sync::Arc;

use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use shared::issue::clip;
use shared::runner::document::JobDoc;
use shared::runner::signature::{SIGNATURE, Signed, TIMESTAMP};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::{error, info, warn};

use super::tend::{NotTaken, Tender};

/// The largest job, in bytes: its prompt is bounded by what a register holds.
const BODY_BYTES_MAX: usize = 1024 * 1024;
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
    let job = match admit(&door, request).await {
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

/// The job, if the control plane says so.
async fn admit(door: &Door, request: Request) -> Result<JobDoc, Response> {
    let (parts, body) = request.into_parts();
    let body: Bytes = to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|_| refusal(StatusCode::PAYLOAD_TOO_LARGE, "a job has at most 1 MiB"))?;
    let signed = Signed {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        body: &body,
    };
    let control = &door.tender.bonds.control;
    let (timestamp, signature) = (
        text(&parts.headers, TIMESTAMP),
        text(&parts.headers, SIGNATURE),
    );
    if let Err(why) = control.check(timestamp, signature, signed) {
        warn!("refused a job: {why}");
        return Err(refusal(StatusCode::UNAUTHORIZED, &why.to_string()));
    }
    serde_json::from_slice(&body).map_err(|error| {
        let why = format!("the body is not the JSON it should be: {error}");
        refusal(StatusCode::BAD_REQUEST, &why)
    })
}

fn broken(job: &JobDoc, why: &str) -> Response {
    error!(job = job.job, "cannot take a job: {why}");
    refusal(
        StatusCode::SERVICE_UNAVAILABLE,
        "the runner cannot keep the job",
    )
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn refusal(status: StatusCode, why: &str) -> Response {
    let why = clip(why, REFUSAL_BYTES_MAX);
    (status, Json(json!({ "error": why }))).into_response()
}
