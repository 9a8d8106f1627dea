//! What the three functions work with.
//!
//! At the start only what the variables say is judged, and the secrets are looked
//! up that they name: whoever waits for a function waits for its start. The store
//! is asked at the first event, and clients are made when they are needed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::response::IntoResponse as _;
use futures_util::future::join_all;
use tokio::sync::Mutex;
use tower::ServiceExt as _;
use tracing::{error, warn};

use super::{Store, SystemClock};
use super::{
    check_github, check_linear, codegen_secret, configuration, deliveries, forge, gate,
    github_secrets, hands, linear_secrets, runners, table,
};
use crate::config::{self, Env, Live, Settings, StorePlace};
use crate::engine::Engine;
use crate::github::deliveries::Deliveries;
use crate::http::{self, Doors};
use crate::ports::{Clock as _, Executor};
use crate::runner::{FarRunners, Look};
use crate::stats::{self, WebhookRefusal};
use crate::store::dynamo::DynamoLog;
use crate::store::memory::MemoryLog;

/// The issues that are hinted at when something changes for all of them.
const HINTS_MAX: usize = 100;

/// A function that has started.
pub struct Function {
    /// What the variables come to, whatever the store holds.
    live: Live,
    table: String,
    parts: Mutex<Option<Arc<Parts>>>,
}

/// What the first event has made, and the first one after a change of settings.
pub struct Parts {
    pub live: Arc<Live>,
    pub engine: Arc<Engine>,
    /// Those of GitHub that have failed, where they can be asked for again.
    pub deliveries: Option<Deliveries>,
    /// Those that all of it was made of.
    settings: Arc<Settings>,
    table: Arc<DynamoLog>,
    runners: Option<Arc<FarRunners>>,
}

impl Function {
    /// One that acts or looks. Fails by the name of what is missing.
    pub async fn that_acts() -> anyhow::Result<Self> {
        let function = Self::start().await?;
        let settings = function.live.settings();
        check_linear(&settings)?;
        check_github(&settings)?;
        Ok(function)
    }

    /// The one that hears. Fails by the name of what is missing.
    pub async fn that_hears() -> anyhow::Result<Router> {
        let function = Self::start().await?;
        linear_secrets(&function.live.settings())?;
        let function = Arc::new(function);
        Ok(Router::new().fallback(move |request: Request<Body>| {
            let function = Arc::clone(&function);
            async move {
                match function.router().await {
                    Ok(router) => router.oneshot(request).await.into_response(),
                    Err(error) => {
                        stats::refused(WebhookRefusal::NotStored);
                        error!("could not begin to hear: {error:#}");
                        let text = "the configuration cannot be read, see the log";
                        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
                    }
                }
            }
        }))
    }

    async fn start() -> anyhow::Result<Self> {
        let env = Env::from_process();
        // Nothing is kept there, but whoever names no home has none in a function.
        let home = env.get("CYRUS_HOME").is_none().then(std::env::temp_dir);
        let home = home.as_deref();
        let StorePlace::Dynamodb(table) = config::place_of_store(&env, home)? else {
            bail!("CYRUS_STORE must be dynamodb:TABLE in a Lambda function");
        };
        let nothing = Store::from(Arc::new(MemoryLog::default()));
        let (live, _) = Live::load(configuration(&env, home, None, &nothing)).await?;
        Ok(Self {
            live,
            table,
            parts: Mutex::default(),
        })
    }

    /// What an event is worked on with.
    pub async fn parts(&self) -> anyhow::Result<Arc<Parts>> {
        let mut parts = self.parts.lock().await;
        if let Some(parts) = parts.as_ref() {
            let settings = parts.live.renewed().await;
            if Arc::ptr_eq(&settings, &parts.settings) {
                return Ok(Arc::clone(parts));
            }
        }
        let made = Arc::new(self.make().await?);
        Ok(Arc::clone(parts.insert(made)))
    }

    async fn make(&self) -> anyhow::Result<Parts> {
        let table = Arc::new(table(&self.table).await);
        let store = Store::from(Arc::clone(&table));
        let (live, warnings) = self.live.over(Arc::clone(&store.registers)).await?;
        for warning in warnings {
            warn!("{warning}");
        }
        let live = Arc::new(live);
        let settings = live.settings();
        let forge = Arc::new(forge(&settings, &store.registers)?);
        let runners = runners(&settings, &store, None)?;
        let local = runners.clone().map(|it| it as Arc<dyn Executor>);
        let deliveries = deliveries(&settings, &store.registers)?;
        let engine = Arc::new(Engine::new(hands(&live, store, forge, local)?));
        Ok(Parts {
            live,
            engine,
            deliveries,
            settings,
            table,
            runners,
        })
    }

    async fn router(&self) -> anyhow::Result<Router> {
        let parts = self.parts().await?;
        let Parts {
            live,
            engine,
            settings,
            runners,
            ..
        } = parts.as_ref();
        let table = Arc::clone(&parts.table);
        let everybody = (Arc::clone(engine), Arc::clone(&table));
        let look = || -> Look {
            let table = Arc::clone(&table);
            Box::new(move |issue| {
                let table = Arc::clone(&table);
                Box::pin(async move {
                    // Looking takes rights and time that only the others have.
                    if let Err(error) = table.hint(&issue, SystemClock.now()).await {
                        warn!(%issue, "could not have the issue looked at, the poller will: {error:#}");
                    }
                })
            })
        };
        Ok(http::router(Arc::new(Doors {
            // An invocation costs while it waits.
            runners: runners
                .clone()
                .and_then(|it| gate(settings, it, look(), Duration::ZERO)),
            engine: Arc::clone(engine),
            // The table's stream wakes the orchestrator.
            wake: Box::new(|_| ()),
            wake_all: Box::new(move || {
                let (engine, table) = (Arc::clone(&everybody.0), Arc::clone(&everybody.1));
                Box::pin(async move { hint_all(&engine, &table).await })
            }),
            look: look(),
            github_secrets: github_secrets(settings),
            codegen_secret: codegen_secret(settings),
            linear_secrets: linear_secrets(settings)?,
            api_token: settings.api_token.as_ref().map(|it| it.0.clone()),
            live: Arc::clone(live),
        })))
    }
}

/// Has what runs or waits looked at now. Whoever is beyond the bound, or cannot be
/// hinted at, is looked at by the schedule within a minute.
async fn hint_all(engine: &Engine, table: &DynamoLog) {
    let survey = match engine.survey().await {
        Ok(survey) => survey,
        Err(error) => return warn!("could not have anything looked at: {error:#}"),
    };
    let watched = survey.watching.iter().take(HINTS_MAX);
    let hints = watched.map(|issue| table.hint(issue, SystemClock.now()));
    for hinted in join_all(hints).await {
        if let Err(error) = hinted {
            warn!("could not have an issue looked at: {error:#}");
        }
    }
}
