//! What a Lambda function tells about itself on its standard output: a line of
//! JSON for each log event, and the metrics of an invocation at its end. The
//! command needs none of it: its logs are for people, and nobody counts along.
//!
//! A log event has the fields `timestamp`, `level`, `message`, `issue`, `task`
//! and `key` where it is about one, and `span.requestId`, the invocation's.

mod emf;

use std::io::{self, Write as _};

use anyhow::Context as _;
use axum::Router;
use axum::middleware::{self, Next};
use tracing::error;
use tracing_subscriber::EnvFilter;

pub use self::emf::{Emf, NAMESPACE};
use crate::config::Env;
use crate::ports::Clock as _;
use crate::wire::SystemClock;

/// From this level on, where no variable says otherwise.
const DEFAULT_LEVEL: &str = "info";
/// The span that carries an invocation's id, which a warning needs as well.
const INVOCATION_SPAN: &str = "lambda_runtime::layers=info";

/// The log and the metrics of this function.
pub struct Telemetry {
    metrics: Emf,
}

impl Telemetry {
    /// Begins to tell. Once in a process, before anything else in it.
    pub fn start() -> anyhow::Result<Self> {
        tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .with_env_filter(filter(&Env::from_process()))
            .with_writer(io::stdout)
            .try_init()
            .map_err(anyhow::Error::from_boxed)
            .context("begin the log")?;
        let metrics = Emf::default();
        metrics::set_global_recorder(metrics.clone())
            .map_err(|_| anyhow::anyhow!("metrics are recorded already"))?;
        Ok(Self { metrics })
    }

    /// Tells the metrics since the last time. Before an invocation answers: after
    /// that the process may be frozen.
    pub fn flush(&self) {
        let mut lines = String::new();
        self.metrics.write(SystemClock.now(), &mut lines);
        // In one piece, so that no line of the log stands in the middle.
        if let Err(error) = io::stdout().write_all(lines.as_bytes()) {
            error!("could not tell the metrics: {error}");
        }
    }

    /// A router that flushes after each request.
    pub fn flushing(self, router: Router) -> Router {
        let this = std::sync::Arc::new(self);
        router.layer(middleware::from_fn(move |request, next: Next| {
            let this = std::sync::Arc::clone(&this);
            async move {
                let response = next.run(request).await;
                this.flush();
                response
            }
        }))
    }
}

/// What `RUST_LOG` asks for, else the level that Lambda's own setting names.
fn filter(env: &Env) -> EnvFilter {
    let level = || match env.get("AWS_LAMBDA_LOG_LEVEL")? {
        "FATAL" => Some("error"),
        level => Some(level),
    };
    let asked = env.get("RUST_LOG").or_else(level).unwrap_or(DEFAULT_LEVEL);
    EnvFilter::builder().parse_lossy(format!("{INVOCATION_SPAN},{asked}"))
}
