//! AWS Lambda on this machine, without containers: the real binary of a
//! function in a process of its own, spoken to over the Runtime API.
//!
//! One environment is one process. It is started when an invocation finds none
//! idle, kept warm, frozen while it has nothing to do (`SIGSTOP`, as Lambda
//! freezes it), and killed at the end of its time or when a test says so. The
//! caller sees what Lambda would show. No memory limit, no roles, no retries:
//! those are the caller's.

mod environment;
mod schedule;
mod url;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use self::environment::{Environment, Order};
pub use self::schedule::Schedule;
pub use self::url::{Door, payload, router};

/// How long a process may take to ask for its first event. Lambda gives it 10 s;
/// a machine that does much else at the same time needs more.
const INIT_MAX: Duration = Duration::from_secs(60);
/// Lines of output that are kept of a function.
const LINES_MAX: usize = 100_000;

/// What a function is.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: String,
    pub program: PathBuf,
    /// All variables but those that Lambda sets.
    pub variables: BTreeMap<String, String>,
    pub timeout: Duration,
    /// Invocations at the same time; one more is refused.
    pub environments_max: usize,
}

/// A function that can be invoked. Cheap to clone.
#[derive(Clone)]
pub struct Function(Arc<Deployed>);

struct Deployed {
    spec: Spec,
    idle: Mutex<Vec<Environment>>,
    /// The processes that have an invocation in hand, by its id.
    busy: Mutex<BTreeMap<String, rustix::process::Pid>>,
    /// When the next invocations are to be killed, after they have begun.
    axes: Mutex<Vec<Duration>>,
    at_work: AtomicUsize,
    started: AtomicUsize,
    invoked: AtomicUsize,
    inits: Mutex<Vec<Duration>>,
    lines: Lines,
}

/// What a function has printed. Cheap to clone.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

/// Why an invocation has no result, in Lambda's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// As many as there may be are at work: `TooManyRequestsException`.
    #[error("too many invocations at once")]
    Throttled,
    /// The function failed, was killed or took too long: `FunctionError`.
    #[error("{kind}: {message}")]
    Function { kind: String, message: String },
}

impl Failed {
    fn function(kind: &str, message: String) -> Self {
        Self::Function {
            kind: kind.to_owned(),
            message,
        }
    }

    /// What kind of error the function had: `Sandbox.Timedout`, `Runtime.ExitError`, or its own.
    pub fn kind(&self) -> &str {
        match self {
            Self::Throttled => "TooManyRequestsException",
            Self::Function { kind, .. } => kind,
        }
    }
}

impl Function {
    pub fn new(spec: Spec) -> Self {
        Self(Arc::new(Deployed {
            spec,
            idle: Mutex::default(),
            busy: Mutex::default(),
            axes: Mutex::default(),
            at_work: AtomicUsize::new(0),
            started: AtomicUsize::new(0),
            invoked: AtomicUsize::new(0),
            inits: Mutex::default(),
            lines: Lines::default(),
        }))
    }

    /// Its name in ARNs.
    pub fn arn(&self) -> String {
        format!(
            "arn:aws:lambda:us-east-1:123456789012:function:{}",
            self.0.spec.name
        )
    }

    /// Invokes it with an event and waits for what it answers.
    pub async fn invoke(&self, event: &Value) -> Result<Value, Failed> {
        let _turn = self.turn()?;
        self.0.invoked.fetch_add(1, Ordering::Relaxed);
        let id = Uuid::new_v4().to_string();
        let warm = lock(&self.0.idle).pop();
        let mut environment = match warm {
            Some(environment) => environment,
            None => self.cold(&id).await?,
        };
        let axe = lock(&self.0.axes).pop();
        lock(&self.0.busy).insert(id.clone(), environment.pid);
        let answer = self.run(&mut environment, &id, event, axe).await;
        lock(&self.0.busy).remove(&id);
        match &answer {
            // What the function itself reports leaves its process in order.
            Ok(_) => lock(&self.0.idle).push(environment),
            Err(_) if environment.is_alive() => lock(&self.0.idle).push(environment),
            Err(_) => {}
        }
        answer
    }

    async fn run(
        &self,
        environment: &mut Environment,
        id: &str,
        event: &Value,
        axe: Option<Duration>,
    ) -> Result<Value, Failed> {
        let limit = self.0.spec.timeout;
        let mut answer = environment.give(Order {
            id: id.to_owned(),
            event: event.to_string(),
            arn: self.arn(),
            deadline: jiff::Timestamp::now() + limit,
        });
        let begun = Instant::now();
        let until = begun + axe.map_or(limit, |axe| axe.min(limit));
        let done = tokio::select! {
            // Who has answered before it ended has answered.
            biased;
            Ok(answer) = &mut answer => Some(answer),
            () = environment.ended() => None,
            () = tokio::time::sleep_until(until) => {
                environment.kill().await;
                None
            }
        };
        match done {
            Some(answer) => answer.map_err(|it| failed_by_itself(&it)),
            None if begun.elapsed() >= limit => {
                let seconds = limit.as_secs_f64();
                let message =
                    format!("RequestId: {id} Error: Task timed out after {seconds:.2} seconds");
                Err(Failed::function("Sandbox.Timedout", message))
            }
            None => {
                let how = environment.how_it_ended().await;
                let message = format!("RequestId: {id} Error: Runtime exited with error: {how}");
                Err(Failed::function("Runtime.ExitError", message))
            }
        }
    }

    /// A new process that has asked for its first event.
    async fn cold(&self, id: &str) -> Result<Environment, Failed> {
        self.0.started.fetch_add(1, Ordering::Relaxed);
        let started = Environment::start(&self.0.spec, self.0.lines.clone()).await;
        let mut environment = started.map_err(|error| {
            Failed::function(
                "Runtime.InvalidEntrypoint",
                format!("RequestId: {id} Error: {error:#}"),
            )
        })?;
        match timeout(INIT_MAX, environment.ready()).await {
            Ok(Ok(())) => {
                lock(&self.0.inits).push(environment.begun.elapsed());
                Ok(environment)
            }
            Ok(Err(Some(error))) => Err(failed_by_itself(&error)),
            Ok(Err(None)) => {
                let how = environment.how_it_ended().await;
                let message = format!("RequestId: {id} Error: Runtime exited with error: {how}");
                Err(Failed::function("Runtime.ExitError", message))
            }
            Err(_) => Err(Failed::function(
                "Sandbox.Timedout",
                format!("RequestId: {id} Error: Init timed out"),
            )),
        }
    }

    fn turn(&self) -> Result<Turn<'_>, Failed> {
        let at_work = &self.0.at_work;
        if at_work.fetch_add(1, Ordering::SeqCst) >= self.0.spec.environments_max {
            at_work.fetch_sub(1, Ordering::SeqCst);
            return Err(Failed::Throttled);
        }
        Ok(Turn(at_work))
    }

    // ───────────────────────────── what tests do to it ─────────────────────────────

    /// Kills every process that has an invocation in hand, at once, wherever it
    /// stands; answers how many.
    pub fn kill_busy(&self) -> usize {
        let busy = lock(&self.0.busy);
        let killed = busy.values().filter(|pid| environment::kill(**pid));
        killed.count()
    }

    /// Kills an invocation to come, so long after it has begun.
    pub fn kill_next_after(&self, axe: Duration) {
        lock(&self.0.axes).push(axe);
    }

    /// Kills that were planned and no invocation has come to yet.
    pub fn kills_left(&self) -> usize {
        lock(&self.0.axes).len()
    }

    /// Invocations that are under way.
    pub fn at_work(&self) -> usize {
        self.0.at_work.load(Ordering::SeqCst)
    }

    /// Processes that were started so far.
    pub fn started(&self) -> usize {
        self.0.started.load(Ordering::Relaxed)
    }

    /// Invocations so far.
    pub fn invoked(&self) -> usize {
        self.0.invoked.load(Ordering::Relaxed)
    }

    /// How long its processes took from their start to asking for an event.
    pub fn inits(&self) -> Vec<Duration> {
        lock(&self.0.inits).clone()
    }

    /// The most memory that one of its idle processes has had so far, in bytes.
    pub fn memory_peak(&self) -> u64 {
        let idle = lock(&self.0.idle);
        let peaks = idle.iter().map(|it| environment::memory_peak(it.pid));
        peaks.max().unwrap_or_default()
    }

    /// What it has printed so far, on stdout and stderr.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.0.lines.0).clone()
    }
}

/// A place among those that may be at work.
struct Turn<'f>(&'f AtomicUsize);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Lines {
    fn push(&self, line: String) {
        let mut lines = lock(&self.0);
        if lines.len() < LINES_MAX {
            lines.push(line);
        }
    }
}

/// An error that the function has reported.
fn failed_by_itself(error: &Value) -> Failed {
    let text = |key: &str, other: &str| error[key].as_str().unwrap_or(other).to_owned();
    Failed::Function {
        kind: text("errorType", "Unknown"),
        message: text("errorMessage", ""),
    }
}

/// The result of a failed invocation, as `Invoke` shows it.
impl From<&Failed> for Value {
    fn from(failed: &Failed) -> Self {
        json!({ "errorType": failed.kind(), "errorMessage": failed.to_string() })
    }
}

fn lock<T>(kept: &Mutex<T>) -> MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
