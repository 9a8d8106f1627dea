//! One execution environment: a process, and the Runtime API that it speaks to.

use std::convert::Infallible;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Lines, Spec, lock};
use crate::serve::Server;

/// The largest answer of a function.
const ANSWER_BYTES_MAX: usize = 6 * 1024 * 1024;
const MEMORY_MB: &str = "128";

/// What a function answers: its result, or the error that it reports.
type Answer = Result<Value, Value>;

/// An invocation, as the process is told of it.
pub(super) struct Order {
    pub(super) id: String,
    pub(super) event: String,
    pub(super) arn: String,
    pub(super) deadline: Timestamp,
}

/// A process with its Runtime API; it ends when dropped.
pub(super) struct Environment {
    pub(super) pid: Pid,
    pub(super) begun: Instant,
    child: Child,
    desk: Arc<Desk>,
    orders: mpsc::UnboundedSender<Order>,
    _api: Server,
}

/// What the Runtime API and the one who invokes share.
struct Desk {
    orders: AsyncMutex<mpsc::UnboundedReceiver<Order>>,
    /// The invocation in hand, and who waits for its answer.
    in_hand: Mutex<Option<oneshot::Sender<Answer>>>,
    id: Mutex<String>,
    stage: watch::Sender<Stage>,
    pid: Mutex<Option<Pid>>,
}

#[derive(Clone, Debug, PartialEq)]
enum Stage {
    Starting,
    Ready,
    /// It said that it cannot start.
    Failed(Value),
}

impl Environment {
    /// Starts the process.
    pub(super) async fn start(spec: &Spec, lines: Lines) -> anyhow::Result<Self> {
        let (orders, taken) = mpsc::unbounded_channel();
        let desk = Arc::new(Desk {
            orders: AsyncMutex::new(taken),
            in_hand: Mutex::default(),
            id: Mutex::default(),
            stage: watch::Sender::new(Stage::Starting),
            pid: Mutex::default(),
        });
        let api = Server::start(runtime_api(Arc::clone(&desk))).await?;
        let mut command = command(spec, &api.address.to_string());
        let begun = Instant::now();
        let mut child = command
            .spawn()
            .with_context(|| format!("start {}", spec.program.display()))?;
        let pid = child.id().and_then(|it| i32::try_from(it).ok());
        let pid = pid.and_then(Pid::from_raw).context("it has no pid")?;
        *lock(&desk.pid) = Some(pid);
        read(child.stdout.take(), lines.clone());
        read(child.stderr.take(), lines);
        Ok(Self {
            pid,
            begun,
            child,
            desk,
            orders,
            _api: api,
        })
    }

    /// Waits until it has asked for an event; else for the error that it
    /// reported, or that it has just ended.
    pub(super) async fn ready(&mut self) -> Result<(), Option<Value>> {
        let mut stage = self.desk.stage.subscribe();
        tokio::select! {
            biased;
            Ok(stage) = stage.wait_for(|it| *it != Stage::Starting) => match &*stage {
                Stage::Failed(error) => Err(Some(error.clone())),
                Stage::Starting | Stage::Ready => Ok(()),
            },
            _ = self.child.wait() => Err(None),
        }
    }

    /// Hands it an event; what comes out is its answer.
    pub(super) fn give(&self, order: Order) -> oneshot::Receiver<Answer> {
        let (sender, receiver) = oneshot::channel();
        *lock(&self.desk.in_hand) = Some(sender);
        (*lock(&self.desk.id)).clone_from(&order.id);
        // The other end lives in the desk.
        let _ = self.orders.send(order);
        receiver
    }

    pub(super) async fn ended(&mut self) {
        // Who cannot be waited for has ended.
        let _ = self.child.wait().await;
    }

    pub(super) fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self) {
        kill(self.pid);
        self.ended().await;
    }

    pub(super) async fn how_it_ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        }
    }
}

/// Kills a process of ours, whatever it does just now.
pub(super) fn kill(pid: Pid) -> bool {
    kill_process(pid, Signal::KILL).is_ok()
}

/// The most memory that a process has had, in bytes; 0 for one that is gone.
pub(super) fn memory_peak(pid: Pid) -> u64 {
    let status = format!("/proc/{}/status", pid.as_raw_nonzero());
    let status = std::fs::read_to_string(status).unwrap_or_default();
    let peak = status.lines().find_map(|it| it.strip_prefix("VmHWM:"));
    let kilobytes = peak.and_then(|it| it.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}

fn command(spec: &Spec, api: &str) -> Command {
    let folder = spec.program.parent().unwrap_or(Path::new("/"));
    let mut command = Command::new(&spec.program);
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LANG", "en_US.UTF-8")
        .env("TZ", ":UTC")
        .env("_HANDLER", "bootstrap")
        .env("LAMBDA_TASK_ROOT", folder)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_SESSION_TOKEN", "test")
        .env("AWS_LAMBDA_RUNTIME_API", api)
        .env("AWS_LAMBDA_FUNCTION_NAME", &spec.name)
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", MEMORY_MB)
        .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
        .env("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
        .env("AWS_LAMBDA_LOG_FORMAT", "JSON")
        .env(
            "AWS_LAMBDA_LOG_GROUP_NAME",
            format!("/cyrus/test/{}", spec.name),
        )
        .env(
            "AWS_LAMBDA_LOG_STREAM_NAME",
            Uuid::new_v4().simple().to_string(),
        )
        .envs(&spec.variables)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Keeps what comes out, line by line.
fn read(output: Option<impl AsyncRead + Unpin + Send + 'static>, lines: Lines) {
    let Some(output) = output else {
        return;
    };
    let mut output = BufReader::new(output).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = output.next_line().await {
            lines.push(line);
        }
    });
}

fn runtime_api(desk: Arc<Desk>) -> Router {
    let version = Router::new()
        .route("/runtime/invocation/next", get(next))
        .route("/runtime/invocation/{id}/response", post(response))
        .route("/runtime/invocation/{id}/error", post(error))
        .route("/runtime/init/error", post(init_error))
        .layer(DefaultBodyLimit::max(ANSWER_BYTES_MAX));
    Router::new().nest("/2018-06-01", version).with_state(desk)
}

/// The process asks for an event, and is frozen until there is one.
async fn next(State(desk): State<Arc<Desk>>) -> Result<Response, Infallible> {
    desk.stage.send_if_modified(|stage| {
        let first = *stage == Stage::Starting;
        if first {
            *stage = Stage::Ready;
        }
        first
    });
    let mut orders = desk.orders.lock().await;
    let order = match orders.try_recv() {
        Ok(order) => Some(order),
        Err(_) => {
            desk.signal(Signal::STOP);
            let order = orders.recv().await;
            desk.signal(Signal::CONT);
            order
        }
    };
    let Some(order) = order else {
        return Ok(StatusCode::GONE.into_response());
    };
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("lambda-runtime-aws-request-id", order.id),
        (
            "lambda-runtime-deadline-ms",
            order.deadline.as_millisecond().to_string(),
        ),
        ("lambda-runtime-invoked-function-arn", order.arn),
        ("lambda-runtime-trace-id", trace_id()),
    ];
    Ok((headers, order.event).into_response())
}

async fn response(
    State(desk): State<Arc<Desk>>,
    UrlPath(id): UrlPath<String>,
    body: Bytes,
) -> Response {
    let answer = serde_json::from_slice(&body).map_err(|error| {
        json!({ "errorType": "Runtime.InvalidResponse", "errorMessage": error.to_string() })
    });
    desk.answer(&id, answer)
}

async fn error(
    State(desk): State<Arc<Desk>>,
    UrlPath(id): UrlPath<String>,
    body: Bytes,
) -> Response {
    desk.answer(&id, Err(serde_json::from_slice(&body).unwrap_or_default()))
}

async fn init_error(State(desk): State<Arc<Desk>>, body: Bytes) -> Response {
    desk.stage.send_replace(Stage::Failed(
        serde_json::from_slice(&body).unwrap_or_default(),
    ));
    accepted()
}

impl Desk {
    fn answer(&self, id: &str, answer: Answer) -> Response {
        let known = *lock(&self.id) == id;
        match lock(&self.in_hand).take_if(|_| known) {
            // Who waited may have gone: its time was over.
            Some(waiting) => {
                let _ = waiting.send(answer);
                accepted()
            }
            None => {
                let body = json!({ "errorType": "InvalidRequestID", "errorMessage": "Invalid request ID" });
                (StatusCode::FORBIDDEN, Json(body)).into_response()
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = *lock(&self.pid) {
            // It may have been killed meanwhile.
            let _ = kill_process(pid, signal);
        }
    }
}

fn accepted() -> Response {
    (StatusCode::ACCEPTED, Json(json!({ "status": "OK" }))).into_response()
}

/// As X-Ray writes it; nobody follows it.
fn trace_id() -> String {
    let id = Uuid::new_v4().simple().to_string();
    format!(
        "Root=1-{}-{};Parent={};Sampled=0",
        &id[..8],
        &id[8..],
        &id[..16]
    )
}
