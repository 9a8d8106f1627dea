//! `cyrus start`: the three roles, the local runner and the API in one process.

use std::collections::BTreeMap;
use std::future::{pending, ready};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use runner::{Forges, GitForge, LocalExecutor};
use shared::config::{Env, Live, Settings, StorePlace};
use shared::engine::Engine;
use shared::github::deliveries::Deliveries;
use shared::http::{self, Doors};
use shared::ports::{Executor, Publisher};
use shared::runner::Look;
use shared::runner::routes::WAIT_MAX;
use shared::service::{self, Bell, Wakes};
use shared::wire::{self, Store};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::{Common, log_to_stderr};

/// How long requests that are under way may take after a stop was asked for.
const LAST_REQUESTS: Duration = Duration::from_secs(5);

pub(crate) async fn start(common: &Common) -> anyhow::Result<ExitCode> {
    log_to_stderr("info");
    let env = Env::from_process();
    let store = wire::open(&common.store_place(&env)?).await?;
    let (live, warnings) = common.live(&env, &store).await?;
    for warning in &warnings {
        warn!("{warning}");
    }
    let settings = live.settings();
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("listen on {} (CYRUS_LISTEN)", settings.listen))?;
    let service = Service::build(live, store, &env, listener.local_addr()?)?;
    // Whoever reads that it listens may ask it to end.
    let shutdown = shutdown();
    info!("cyrus listens on http://{}", listener.local_addr()?);
    service.run(listener, shutdown).await?;
    Ok(ExitCode::SUCCESS)
}

/// Everything that `cyrus start` is made of, not yet running.
pub(crate) struct Service {
    engine: Arc<Engine>,
    doors: Arc<Doors>,
    wakes: Wakes,
    bell: Bell,
    local: Option<LocalExecutor>,
    /// Those of GitHub that have failed, where they can be asked for again.
    deliveries: Option<Deliveries>,
    poll_seconds: f64,
    /// Nobody else works on the store.
    alone: bool,
}

impl Service {
    /// `here`: where it will listen.
    pub(crate) fn build(
        live: Arc<Live>,
        store: Store,
        env: &Env,
        here: SocketAddr,
    ) -> anyhow::Result<Self> {
        let settings = live.settings();
        let linear_secrets = wire::linear_secrets(&settings)?;
        wire::check_linear(&settings)?;
        if let Err(missing) = wire::check_github(&settings) {
            warn!("{missing}");
        }
        let (bell, wakes) = service::bell();
        let github = Arc::new(wire::forge(&settings, &store.registers)?);
        let git = GitForge::new(runner::git_env(env.0.clone()));
        let forge = Arc::new(Forges::new(git, github.clone()));
        let runners = wire::runners(&settings, &store, Some(here))?;
        let publisher: Arc<dyn Publisher> = github;
        let local = local(&settings, env, publisher, bell.clone())?;
        let executor = match (&local, &runners) {
            (Some(local), _) => Some(Arc::new(local.clone()) as Arc<dyn Executor>),
            (None, Some(runners)) => Some(Arc::clone(runners) as Arc<dyn Executor>),
            (None, None) => None,
        };
        if local.is_some() && runners.is_some() {
            warn!(
                "CYRUS_RUNNER_TOKEN is set, but agents run on this machine: runners elsewhere get \
                 work only where `runner.concurrency` is 0"
            );
        }
        let deliveries = wire::deliveries(&settings, &store.registers)?;
        let engine = Arc::new(Engine::new(wire::hands(&live, store, forge, executor)?));
        let (wake, wake_all) = (bell.clone(), bell.clone());
        let look = || -> Look {
            let bell = bell.clone();
            Box::new(move |id| {
                bell.look(id);
                Box::pin(ready(()))
            })
        };
        let runners = runners.and_then(|it| wire::gate(&settings, it, look(), WAIT_MAX));
        let doors = Arc::new(Doors {
            engine: Arc::clone(&engine),
            wake: Box::new(move |id| wake.act(id)),
            wake_all: Box::new(move || {
                wake_all.look_at_all();
                Box::pin(std::future::ready(()))
            }),
            look: look(),
            github_secrets: wire::github_secrets(&settings),
            codegen_secret: wire::codegen_secret(&settings),
            linear_secrets,
            api_token: settings.api_token.as_ref().map(|it| it.0.clone()),
            live,
            runners,
        });
        let poll_seconds = settings.poll.as_secs_f64();
        Ok(Self {
            engine,
            doors,
            wakes,
            bell,
            local,
            deliveries,
            poll_seconds,
            alone: matches!(settings.store, StorePlace::Sqlite(_)),
        })
    }

    /// Serves until `stop`; what is owed then is taken up at the next start.
    pub(crate) async fn run(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let Self {
            engine,
            doors,
            wakes,
            bell,
            local,
            deliveries,
            poll_seconds,
            alone,
        } = self;
        if let Some(local) = &local {
            let jobs = local
                .resume()
                .await
                .context("take up the jobs of the last start")?;
            if jobs > 0 {
                info!(jobs, "took up the jobs that the last start left");
            }
        }
        drop(bell);
        // A file is held by one process, so whoever claimed something in it is gone.
        if alone {
            engine
                .take_over()
                .await
                .context("take over from the last start")?;
        }
        let (stopping, stopped) = watch::channel(false);
        let server = {
            let mut stopped = stopped.clone();
            let gone = async move {
                let _ = stopped.wait_for(|it| *it).await;
            };
            tokio::spawn(
                axum::serve(listener, http::router(doors))
                    .with_graceful_shutdown(gone)
                    .into_future(),
            )
        };
        let watch = deliveries.map(|it| tokio::spawn(async move { it.watch().await }));
        service::run(engine, wakes, poll_seconds, stop).await;
        if let Some(watch) = watch {
            watch.abort();
        }
        let _ = stopping.send(true);
        match timeout(LAST_REQUESTS, server).await {
            Ok(served) => served?.context("serve HTTP"),
            // Somebody who never finishes a request does not keep us.
            Err(_) => Ok(()),
        }
    }
}

fn local(
    settings: &Settings,
    env: &Env,
    publisher: Arc<dyn Publisher>,
    bell: Bell,
) -> anyhow::Result<Option<LocalExecutor>> {
    // Who names a runner wants it to do the work.
    if settings.runner.concurrency == 0 || !settings.runner.urls.is_empty() {
        return Ok(None);
    }
    let this_program = std::env::current_exe().context("find this program")?;
    Ok(Some(LocalExecutor::new(runner::Options {
        home: settings.home.clone(),
        concurrency: settings.runner.concurrency,
        supervisor: vec![this_program.into(), "job".into()],
        setup_script: settings.runner.setup_script.clone(),
        keep: false,
        agents: agent_programs(settings),
        agent_env: runner::agent_env(env.0.clone(), &settings.runner.agent_env),
        git_env: runner::git_env(env.0.clone()),
        forge: publisher,
        clock: Arc::new(wire::SystemClock),
        wake: Arc::new(move |id| bell.look(id)),
    })))
}

/// Where the agent programs are to be looked for.
pub(crate) fn agent_programs(settings: &Settings) -> BTreeMap<String, PathBuf> {
    runner::programs(|variable| settings.runner.programs.get(variable).cloned())
}

/// Comes about with the first SIGINT or SIGTERM from now on.
pub(crate) fn shutdown() -> impl Future<Output = ()> {
    let heard = |kind: SignalKind| {
        let signal = signal(kind);
        async move {
            match signal {
                Ok(mut signal) => drop(signal.recv().await),
                Err(error) => {
                    warn!("cannot wait for signal {}: {error}", kind.as_raw_value());
                    pending().await
                }
            }
        }
    };
    let (interrupt, terminate) = (
        heard(SignalKind::interrupt()),
        heard(SignalKind::terminate()),
    );
    async move {
        tokio::select! {
            () = interrupt => {}
            () = terminate => {}
        }
    }
}
