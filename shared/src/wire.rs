//! Settings in, hands out: the only place where adapters are chosen.

mod function;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

#[cfg(feature = "sqlite")]
use anyhow::Context as _;
use secrecy::SecretString;

#[cfg(feature = "sqlite")]
use crate::config::StorePlace;
use crate::config::{Configuration, Env, Live, Secret, Settings};
use crate::github::app::{Access, App, AppOptions};
use crate::github::deliveries::Deliveries;
use crate::guard::Guarded;
use crate::issue::Time;
use crate::linear::client::{self, Auth};
use crate::ports::{Clock, Executor, Forge, Hands, Log, Policies, Registers};
use crate::runner::push::Push;
use crate::runner::{FarRunners, Gate, Look};
use crate::secrets::Token;
use crate::store::dynamo::DynamoLog;
use crate::{aws, codegen, github, linear};

pub use self::function::Function;

/// The system's clock; the only one there is.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Time {
        Time::now()
    }
}

/// A moment as the standard library tells it, for instance the deadline of an invocation.
pub fn moment(at: SystemTime) -> Time {
    Time::try_from(at).unwrap_or(Time::MAX)
}

/// What is missing for the service to work, and how to give it.
#[derive(Debug, thiserror::Error)]
#[error("{what} is not set: {remedy}")]
pub struct Missing {
    pub what: &'static str,
    pub remedy: &'static str,
}

/// Where everything is kept that outlives a process.
#[derive(Clone)]
pub struct Store {
    pub log: Arc<dyn Log>,
    pub registers: Arc<dyn Registers>,
}

impl<S: Log + Registers + 'static> From<Arc<S>> for Store {
    fn from(store: Arc<S>) -> Self {
        Self {
            log: Arc::clone(&store) as Arc<dyn Log>,
            registers: store,
        }
    }
}

/// Opens the store that the settings name.
#[cfg(feature = "sqlite")]
pub async fn open(place: &StorePlace) -> anyhow::Result<Store> {
    match place {
        StorePlace::Sqlite(path) => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("make {}", folder.display()))?;
            }
            Ok(Arc::new(crate::store::sqlite::SqliteLog::open(path)?).into())
        }
        StorePlace::Dynamodb(name) => Ok(Arc::new(table(name).await).into()),
    }
}

/// The table of that name, with the region and the rights of the environment.
pub async fn table(name: &str) -> DynamoLog {
    let config = aws::environment().load().await;
    DynamoLog::new(&aws_sdk_dynamodb::Client::new(&config), name)
}

/// The settings of now, with all secrets, and what their author should know.
/// `home` and `config`: the flags of these names.
pub async fn live(
    env: &Env,
    home: Option<&Path>,
    config: Option<&Path>,
    store: &Store,
) -> anyhow::Result<(Arc<Live>, Vec<String>)> {
    let (live, warnings) = Live::load(configuration(env, home, config, store)).await?;
    Ok((Arc::new(live), warnings))
}

/// Where the configuration is.
pub fn configuration(
    env: &Env,
    home: Option<&Path>,
    config: Option<&Path>,
    store: &Store,
) -> Configuration {
    Configuration {
        env: env.clone(),
        home: home.map(Path::to_path_buf),
        config: config.map(Path::to_path_buf),
        registers: Arc::clone(&store.registers),
        clock: Arc::new(SystemClock),
        vault: Arc::default(),
    }
}

/// The hands that the settings describe. `local`: the executor on this machine, if there is one.
pub fn hands(
    live: &Arc<Live>,
    store: Store,
    forge: Arc<dyn Forge>,
    local: Option<Arc<dyn Executor>>,
) -> anyhow::Result<Hands> {
    let settings = live.settings();
    let mut executors: Vec<Arc<dyn Executor>> = local.into_iter().collect();
    if let Some(codegen) = codegen(&settings)? {
        let codegen = Arc::new(codegen);
        let guards = codegen.guards();
        executors.push(Arc::new(Guarded::new(
            codegen,
            guards,
            Arc::clone(&store.registers),
            Arc::new(SystemClock),
        )));
    }
    let Store { log, registers } = store;
    Ok(Hands {
        log,
        tracker: Arc::new(linear(&settings, &registers)),
        forge,
        executors,
        policies: Arc::clone(live) as Arc<dyn Policies>,
        clock: Arc::new(SystemClock),
        registers,
    })
}

/// Runners elsewhere, where there is a token that they sign with.
/// Fails where jobs are to be pushed and the runners cannot reach us.
/// `here`: where we listen.
pub fn runners(
    settings: &Settings,
    store: &Store,
    here: Option<SocketAddr>,
) -> anyhow::Result<Option<Arc<FarRunners>>> {
    let Some(token) = &settings.runner.token else {
        return match settings.runner.urls.as_slice() {
            [] => Ok(None),
            _ => Err(Missing {
                what: "CYRUS_RUNNER_TOKEN",
                remedy: "jobs are pushed to CYRUS_RUNNER_URL: give both sides the same token, it \
                         signs all that is said",
            }
            .into()),
        };
    };
    let runners = FarRunners::new(
        Arc::clone(&store.registers),
        Arc::new(SystemClock),
        settings.runner.heartbeat,
    );
    if settings.runner.urls.is_empty() {
        return Ok(Some(Arc::new(runners)));
    }
    let here = here
        .filter(|it| it.ip().is_loopback())
        .map(|it| format!("http://{it}"));
    let callback = settings.public_url.clone().or(here).ok_or(Missing {
        what: "CYRUS_PUBLIC_URL",
        remedy: "jobs are pushed to CYRUS_RUNNER_URL, and its runners call back there: say where \
                 they reach this service",
    })?;
    let push = Push::new(&settings.runner.urls, token.0.clone(), callback)?;
    Ok(Some(Arc::new(runners.pushing(push))))
}

/// Where they come in. `wait_max`: how long one may wait for a job.
pub fn gate(
    settings: &Settings,
    runners: Arc<FarRunners>,
    look: Look,
    wait_max: Duration,
) -> Option<Arc<Gate>> {
    let token = settings.runner.token.as_ref()?.0.clone();
    Some(Arc::new(Gate {
        runners,
        token,
        public_url: settings.public_url.clone(),
        look,
        wait_max,
    }))
}

/// Linear, by the token that the settings name; one that is minted is shared in
/// the registers. Without either every call is refused.
pub fn linear(settings: &Settings, registers: &Arc<dyn Registers>) -> linear::client::Client {
    let linear = &settings.linear;
    let auth = match (&linear.api_token, &linear.client) {
        (None, Some(client)) => Auth::Client(client::App {
            oauth_url: linear.oauth_url.clone(),
            id: client.id.clone(),
            secret: client.secret.0.clone(),
            registers: Arc::clone(registers),
        }),
        (Some(_), _) | (None, None) => Auth::Token(token(settings, linear.token())),
    };
    linear::client::Client::new(linear::client::Options {
        api_url: linear.api_url.clone(),
        auth,
        clock: Arc::new(SystemClock),
    })
}

/// Whoever acts needs a way to speak to Linear.
pub fn check_linear(settings: &Settings) -> Result<(), Missing> {
    let linear = &settings.linear;
    if linear.token().is_some() || linear.client.is_some() {
        return Ok(());
    }
    Err(Missing {
        what: "LINEAR_API_TOKEN",
        remedy: "give a token of the app, or LINEAR_CLIENT_ID and LINEAR_CLIENT_SECRET, or \
                 linearWorkspaces in config.json",
    })
}

/// GitHub, by the token that the settings name, else as the App; its token is
/// shared in the registers. Without either every call is refused, with the remedy.
pub fn forge(
    settings: &Settings,
    registers: &Arc<dyn Registers>,
) -> anyhow::Result<github::Client> {
    let github = &settings.github;
    let access = match (&github.token, github_app(settings, registers)?) {
        (None, Some(app)) => Access::App(Box::new(app)),
        (given, _) => Access::Token(token(settings, given.as_ref())),
    };
    github::Client::new(github::Options {
        api_url: github.api_url.clone(),
        token: access,
        clock: Arc::new(SystemClock),
    })
}

/// GitHub's App, where there is one. Fails where its key is none.
pub fn github_app(
    settings: &Settings,
    registers: &Arc<dyn Registers>,
) -> anyhow::Result<Option<App>> {
    let Some(app) = &settings.github.app else {
        return Ok(None);
    };
    let app = App::new(AppOptions {
        api_url: settings.github.api_url.clone(),
        id: app.id.clone(),
        installation_id: app.installation_id.clone(),
        key: token(settings, Some(&app.private_key)),
        registers: Arc::clone(registers),
        clock: Arc::new(SystemClock),
    })?;
    Ok(Some(app))
}

/// The deliveries of the App's webhook, whatever token goes with other calls.
pub fn deliveries(
    settings: &Settings,
    registers: &Arc<dyn Registers>,
) -> anyhow::Result<Option<Deliveries>> {
    let app = github_app(settings, registers)?;
    Ok(app.map(|app| Deliveries::new(app, Arc::clone(registers), Arc::new(SystemClock))))
}

/// Whoever acts needs a way to speak to GitHub.
pub fn check_github(settings: &Settings) -> Result<(), Missing> {
    if settings.github.token.is_some() || settings.github.app.is_some() {
        return Ok(());
    }
    Err(Missing {
        what: "GITHUB_TOKEN",
        remedy: "give a token, or an App by GITHUB_APP_ID, GITHUB_APP_PRIVATE_KEY and \
                 GITHUB_APP_INSTALLATION_ID: without either no pull request can be opened, judged \
                 or merged",
    })
}

/// Codegen, where it is configured.
pub fn codegen(settings: &Settings) -> anyhow::Result<Option<codegen::Client>> {
    let Some(codegen) = &settings.codegen else {
        return Ok(None);
    };
    Ok(Some(codegen::Client::new(codegen::Options {
        api_url: codegen.api_url.clone(),
        org_id: codegen.org_id.clone().unwrap_or_default(),
        token: token(settings, codegen.token.as_ref()),
        clock: Arc::new(SystemClock),
    })?))
}

/// A token that is read again when it is refused.
fn token(settings: &Settings, secret: Option<&Secret>) -> Token {
    Token::new(secret, &settings.vault, Arc::new(SystemClock))
}

/// The secrets that sign GitHub's webhooks.
pub fn github_secrets(settings: &Settings) -> Vec<SecretString> {
    let secret = settings.github.webhook_secret.iter();
    secret.map(|it| it.0.clone()).collect()
}

/// What is in the path of Codegen's webhook.
pub fn codegen_secret(settings: &Settings) -> Option<SecretString> {
    let codegen = settings.codegen.as_ref()?;
    Some(codegen.webhook_secret.as_ref()?.0.clone())
}

/// The secrets that sign Linear's webhooks.
pub fn linear_secrets(settings: &Settings) -> Result<Vec<SecretString>, Missing> {
    match &settings.linear.webhook_secret {
        Some(secret) => Ok(vec![secret.0.clone()]),
        None => Err(Missing {
            what: "LINEAR_WEBHOOK_SECRET",
            remedy: "Linear shows it where the webhook is configured; without it no webhook can be trusted",
        }),
    }
}
