//! Reaching the service: over HTTP where it runs, else in its store.

use std::time::Duration;

use anyhow::Context as _;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use shared::config::{Settings, StorePlace};
use shared::issue::{Issue, evolve};
use shared::net::is_loopback;
use shared::ports::Log as _;
use shared::store::sqlite::SqliteLog;
use shared::view;

use crate::Common;

/// How long an answer of the service may take.
const ANSWER: Duration = Duration::from_secs(30);
/// Issues that are read from the store for a list.
const ISSUES_MAX: usize = 1_000;

/// What was asked for is not there.
#[derive(Debug, thiserror::Error)]
#[error("no issue `{0}` is known here")]
pub(crate) struct Unknown(String);

/// Where the facts come from.
pub(crate) enum Reach {
    Service {
        url: String,
        token: Option<secrecy::SecretString>,
        http: reqwest::Client,
    },
    Store(SqliteLog),
}

impl Reach {
    /// The service, if it answers; else the store, unless a URL was asked for.
    pub(crate) async fn find(common: &Common) -> anyhow::Result<Self> {
        let (loaded, env) = common.load()?;
        let settings = loaded.settings;
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
                let token = settings.api_token.map(|it| it.0);
                Ok(Self::Service { url, token, http })
            }
            (Ok(answer), Some(_)) => {
                anyhow::bail!("{url} answers {}, which is not cyrus", answer.status())
            }
            (Err(error), Some(_)) => {
                Err(error).with_context(|| format!("reach the service at {url}"))
            }
            (Ok(_) | Err(_), None) => Ok(Self::Store(open(&settings)?)),
        }
    }

    pub(crate) async fn issues(&self) -> anyhow::Result<Value> {
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
            Self::Store(log) => {
                let heads = log.heads(None, ISSUES_MAX).await?;
                let issues = heads.into_iter().map(view::line).collect();
                Ok(serde_json::to_value(view::IssueList {
                    issues,
                    next: None,
                })?)
            }
        }
    }

    pub(crate) async fn issue(&self, name: &str) -> anyhow::Result<Value> {
        match self {
            Self::Service { .. } => self.get(&format!("issues/{}", path_segment(name))).await,
            Self::Store(log) => {
                let id = log
                    .find(name)
                    .await?
                    .ok_or_else(|| Unknown(name.to_owned()))?;
                let mut issue = Issue::unknown(id.clone());
                for record in log.read(&id, 0).await? {
                    evolve(&mut issue, &record);
                }
                Ok(serde_json::to_value(view::issue(&issue))?)
            }
        }
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let Self::Service { url, token, http } = self else {
            anyhow::bail!("there is no service")
        };
        let mut request = http.get(format!("{url}/api/v1/{path}"));
        if let Some(token) = token {
            request = request.bearer_auth(token.expose_secret());
        }
        let answer = request.send().await.with_context(|| format!("ask {url}"))?;
        let status = answer.status();
        let body: Value = answer
            .json()
            .await
            .with_context(|| format!("read the answer of {url}"))?;
        anyhow::ensure!(
            status.is_success(),
            "{}",
            body["error"]
                .as_str()
                .map_or_else(|| status.to_string(), str::to_owned)
        );
        Ok(body)
    }
}

fn open(settings: &Settings) -> anyhow::Result<SqliteLog> {
    match &settings.store {
        StorePlace::Sqlite(path) if path.exists() => SqliteLog::open_read_only(path),
        StorePlace::Sqlite(path) => anyhow::bail!(
            "no service answers at http://{} and there is no store at {}: start it with `cyrus start`",
            settings.listen,
            path.display()
        ),
        StorePlace::Dynamodb(table) => {
            anyhow::bail!(
                "no service answers at http://{}, and the table `{table}` cannot be read here",
                settings.listen
            )
        }
    }
}

/// A name that cannot leave its place in a path.
fn path_segment(name: &str) -> String {
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
