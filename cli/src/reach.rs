//! Reaching the service: over HTTP where it runs, else in its store.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::Value;
use shared::config::{self, Env, Settings, StorePlace};
use shared::engine::Engine;
use shared::issue::{Issue, IssueId, evolve};
use shared::net::is_loopback;
use shared::store::memory::MemoryLog;
use shared::store::sqlite::SqliteLog;
use shared::view;
use shared::wire::{self, Store};

use crate::Common;

const API_TOKEN: &str = "CYRUS_API_TOKEN";
/// How long an answer of the service may take.
const ANSWER: Duration = Duration::from_secs(30);
/// Issues that are read from the store for a list.
const ISSUES_MAX: usize = 1_000;

/// What was asked for is not there.
#[derive(Debug, thiserror::Error)]
#[error("no issue `{0}` is known here")]
pub(crate) struct Unknown(String);

/// What was asked for is wrong, the service says.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misused(pub(crate) String);

/// Where the facts come from.
pub(crate) enum Reach {
    Service {
        url: String,
        token: Option<secrecy::SecretString>,
        http: reqwest::Client,
    },
    Store(Store),
}

impl Reach {
    /// The service, if it answers; else the store to read, unless a URL was asked for.
    pub(crate) async fn find(common: &Common) -> anyhow::Result<Self> {
        let env = Env::from_process();
        let settings = access(common, &env).await?;
        match Self::service(common, &env, &settings).await? {
            Some(service) => Ok(service),
            None => Ok(Self::Store(open(&settings).await?)),
        }
    }

    /// The service, if it answers.
    pub(crate) async fn running(common: &Common) -> anyhow::Result<Option<Self>> {
        let env = Env::from_process();
        let settings = access(common, &env).await?;
        Self::service(common, &env, &settings).await
    }

    /// The service, if it answers; else the store to write.
    pub(crate) async fn find_to_write(common: &Common) -> anyhow::Result<Self> {
        let env = Env::from_process();
        let settings = access(common, &env).await?;
        match Self::service(common, &env, &settings).await? {
            Some(service) => Ok(service),
            None => Ok(Self::Store(wire::open(&settings.store).await?)),
        }
    }

    async fn service(
        common: &Common,
        env: &Env,
        settings: &Settings,
    ) -> anyhow::Result<Option<Self>> {
        let asked = common
            .url
            .clone()
            .or_else(|| env.get("CYRUS_URL").map(str::to_owned));
        let url = asked
            .clone()
            .unwrap_or_else(|| format!("http://{}", settings.listen));
        let url = url.trim_end_matches('/').to_owned();
        let mut http = reqwest::Client::builder().timeout(ANSWER);
        if is_loopback(&url) {
            http = http.no_proxy();
        }
        let http = http.build()?;
        let health = http.get(format!("{url}/healthz")).send().await;
        match (health, asked) {
            (Ok(answer), _) if answer.status().is_success() => {
                let token = settings.api_token.as_ref().map(|it| it.0.clone());
                Ok(Some(Self::Service { url, token, http }))
            }
            (Ok(answer), Some(_)) => {
                anyhow::bail!("{url} answers {}, which is not cyrus", answer.status())
            }
            (Err(error), Some(_)) => {
                Err(error).with_context(|| format!("reach the service at {url}"))
            }
            (Ok(_) | Err(_), None) => Ok(None),
        }
    }

    pub(crate) async fn issues(&self, common: &Common) -> anyhow::Result<Value> {
        match self {
            Self::Service { .. } => {
                let mut all = Vec::new();
                let mut path = "issues".to_owned();
                loop {
                    let mut page = self.get(&path).await?;
                    if let Some(issues) = page["issues"].as_array_mut() {
                        all.append(issues);
                    }
                    match page["next"].as_str() {
                        Some(next) if all.len() < ISSUES_MAX => {
                            path = format!("issues?before={next}")
                        }
                        next => return Ok(serde_json::json!({ "issues": all, "next": next })),
                    }
                }
            }
            Self::Store(store) => {
                let limit_usd = settings(common, store).await?.costs.per_issue_max;
                let heads = store.log.heads(None, ISSUES_MAX).await?;
                let line = |head| view::line(head, limit_usd);
                let issues = heads.into_iter().map(line).collect();
                Ok(serde_json::to_value(view::IssueList {
                    issues,
                    next: None,
                })?)
            }
        }
    }

    pub(crate) async fn issue(&self, common: &Common, name: &str) -> anyhow::Result<Value> {
        match self {
            Self::Service { .. } => self.get(&format!("issues/{}", path_segment(name))).await,
            Self::Store(store) => {
                let id = id_of(store, name).await?;
                let mut issue = Issue::unknown(id.clone());
                for record in store.log.read(&id, 0).await? {
                    evolve(&mut issue, &record);
                }
                let limit_usd = settings(common, store).await?.costs.per_issue_max;
                Ok(serde_json::to_value(view::issue(&issue, limit_usd))?)
            }
        }
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, None).await
    }

    /// Asks the service for something, and returns its answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> anyhow::Result<Value> {
        let Self::Service { url, token, http } = self else {
            anyhow::bail!("there is no service")
        };
        let mut request = http.request(method, format!("{url}/api/v1/{path}"));
        if let Some(token) = token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request
                .header("content-type", "application/json")
                .body(body);
        }
        let answer = request.send().await.with_context(|| format!("ask {url}"))?;
        let status = answer.status();
        let body: Value = answer
            .json()
            .await
            .with_context(|| format!("read the answer of {url}"))?;
        if status.is_success() {
            return Ok(body);
        }
        let why = body["error"]
            .as_str()
            .map_or_else(|| status.to_string(), str::to_owned);
        match status {
            StatusCode::UNPROCESSABLE_ENTITY => Err(Misused(why).into()),
            _ => Err(anyhow::Error::msg(why)),
        }
    }
}

/// What the environment says about reaching the service. Only the token that
/// this needs is looked up.
async fn access(common: &Common, env: &Env) -> anyhow::Result<Settings> {
    let home = common.home.as_deref();
    let loaded = config::of_environment(env, home)?;
    let mut settings = loaded.settings;
    let token = loaded.absent.into_iter().find(|it| it.key == API_TOKEN);
    if let (Some(absent), Some(token)) = (token, &mut settings.api_token) {
        let mut found = settings.vault.look_up(&[absent]).await?;
        token.0 = found.0.pop_first().map_or_else(Default::default, |it| it.1);
    }
    Ok(settings)
}

async fn open(settings: &Settings) -> anyhow::Result<Store> {
    if let StorePlace::Sqlite(path) = &settings.store
        && !path.exists()
    {
        anyhow::bail!(
            "no service answers at http://{} and there is no store at {}: start it with `cyrus start`",
            settings.listen,
            path.display()
        )
    }
    store_to_read(&settings.store).await
}

/// The store, beside a service that may hold it; an empty one where there is none yet.
pub(crate) async fn store_to_read(place: &StorePlace) -> anyhow::Result<Store> {
    match place {
        StorePlace::Sqlite(path) if path.exists() => {
            Ok(Arc::new(SqliteLog::open_read_only(path)?).into())
        }
        StorePlace::Sqlite(_) => Ok(Arc::new(MemoryLog::default()).into()),
        StorePlace::Dynamodb(_) => wire::open(place).await,
    }
}

/// The id of an issue in a store.
pub(crate) async fn id_of(store: &Store, name: &str) -> anyhow::Result<IssueId> {
    let id = store.log.find(name).await?;
    Ok(id.ok_or_else(|| Unknown(name.to_owned()))?)
}

/// An engine over a bare store, to hear and to read with: nobody drives it.
pub(crate) async fn engine(
    common: &Common,
    store: &Store,
) -> anyhow::Result<(Engine, Arc<Settings>)> {
    let (live, _) = common.live(&Env::from_process(), store).await?;
    let settings = live.settings();
    let forge = Arc::new(wire::forge(&settings, &store.registers)?);
    let hands = wire::hands(&live, store.clone(), forge, None)?;
    Ok((Engine::new(hands), settings))
}

async fn settings(common: &Common, store: &Store) -> anyhow::Result<Arc<Settings>> {
    let (live, _) = common.live(&Env::from_process(), store).await?;
    Ok(live.settings())
}

/// A name that cannot leave its place in a path.
pub(crate) fn path_segment(name: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(byte);
    let mut segment = String::new();
    for byte in name.bytes() {
        if plain(&byte) {
            segment.push(char::from(byte));
        } else {
            segment.push_str(&format!("%{byte:02X}"));
        }
    }
    segment
}
