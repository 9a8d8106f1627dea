//! Secrets that lie elsewhere: looked up at the start, and again when a service
//! says that one is no longer good. AWS is only asked when something lies there.
//!
//! What goes wrong is told by the variable that names the secret and by the
//! reference, never by the secret.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::error::DisplayErrorContext;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::aws;
use crate::config::{Absent, ConfigError, Problem, Reference, Secret, Secrets};
use crate::config::{plain, read_secret_file};
use crate::issue::{REASON_BYTES_MAX, Time, clip};
use crate::ports::Clock;

/// All that has to be looked up at once takes no longer, retries and all.
pub const LOOK_UP_SECONDS_MAX: u64 = 10;
/// One request to AWS, with its retries.
const REQUEST_SECONDS_MAX: u64 = 8;
/// One try of it.
const TRY_SECONDS_MAX: u64 = 3;
const TRIES_MAX: u32 = 3;
/// The names in one request, says the Systems Manager.
const NAMES_MAX: usize = 10;
/// A secret that is refused again and again is read again this often at most.
pub const READ_AGAIN_SECONDS: i64 = 60;

/// Where secrets are looked up.
#[derive(Default)]
pub struct Vault {
    config: OnceCell<SdkConfig>,
}

/// Why a secret is not to be had, and the remedy.
type Why = String;

impl Vault {
    /// One that asks AWS as `config` says, rather than as the environment does.
    pub fn with(config: SdkConfig) -> Self {
        Self {
            config: OnceCell::new_with(Some(config)),
        }
    }

    /// Looks up secrets that are absent. Every one that is not to be had is told.
    pub async fn look_up(&self, absent: &[Absent]) -> Result<Secrets, ConfigError> {
        let references: BTreeSet<&Reference> = absent.iter().map(|it| &it.reference).collect();
        let mut found = self.read_all(&references).await;
        let problem = |it: &Absent| {
            let why = match found.get(&it.reference) {
                Some(Ok(_)) => return None,
                Some(Err(why)) => why,
                None => "was not answered",
            };
            Some(Problem {
                key: Some(it.key.clone()),
                place: it.place.clone(),
                what: format!("names `{}`, which {why}", it.reference),
            })
        };
        let problems: Vec<Problem> = absent.iter().filter_map(problem).collect();
        if !problems.is_empty() {
            return Err(ConfigError { problems });
        }
        let secrets = references.into_iter().filter_map(|it| {
            let secret = found.remove(it)?.ok()?;
            Some((it.clone(), secret))
        });
        Ok(Secrets(secrets.collect()))
    }

    /// Reads one secret, as it is now.
    ///
    /// Boxed: whoever awaits it, in however deep a call, need not know what AWS's
    /// client is made of.
    pub fn read<'a>(
        &'a self,
        reference: &'a Reference,
    ) -> BoxFuture<'a, Result<SecretString, Why>> {
        async move {
            let mut found = self.read_all(&BTreeSet::from([reference])).await;
            found
                .remove(reference)
                .unwrap_or_else(|| Err("was not answered".into()))
        }
        .boxed()
    }

    async fn read_all(
        &self,
        references: &BTreeSet<&Reference>,
    ) -> BTreeMap<Reference, Result<SecretString, Why>> {
        let limit = Duration::from_secs(LOOK_UP_SECONDS_MAX);
        let (mut names, mut ids) = (Vec::new(), Vec::<(&String, Vec<_>)>::new());
        let mut found = BTreeMap::new();
        for reference in references {
            match reference {
                Reference::File(path) => {
                    let secret = read_secret_file(path);
                    let secret = secret.map_err(|why| format!("cannot be read: {why}"));
                    found.insert((*reference).clone(), secret);
                }
                Reference::Ssm(name) => names.push(name.clone()),
                // Several keys of one secret are next to each other, and one request.
                Reference::SecretsManager { id, key } => match ids.last_mut() {
                    Some((last, keys)) if *last == id => keys.push(key),
                    _ => ids.push((id, vec![key])),
                },
            }
        }
        if names.is_empty() && ids.is_empty() {
            return found;
        }
        let late = || {
            format!(
                "AWS did not give within {LOOK_UP_SECONDS_MAX} s: check the network, and AWS_REGION"
            )
        };
        let parameters = join_all(names.chunks(NAMES_MAX).map(async |names| {
            let answer = timeout(limit, self.parameters(names)).await;
            answer.unwrap_or_else(|_| names.iter().map(|it| (it.clone(), Err(late()))).collect())
        }));
        let secrets = join_all(ids.iter().map(async |(id, keys)| {
            let answer = timeout(limit, self.secret(id)).await;
            (*id, keys, answer.unwrap_or_else(|_| Err(late())))
        }));
        let (parameters, secrets) = tokio::join!(parameters, secrets);
        for (name, secret) in parameters.into_iter().flatten() {
            found.insert(Reference::Ssm(name), secret);
        }
        for (id, keys, secret) in secrets {
            for key in keys {
                let part = secret.clone().and_then(|it| part(&it, key.as_deref()));
                let (id, key) = (id.clone(), (*key).clone());
                found.insert(Reference::SecretsManager { id, key }, part);
            }
        }
        found
    }

    async fn parameters(&self, names: &[String]) -> Vec<(String, Result<SecretString, Why>)> {
        let client = aws_sdk_ssm::Client::new(self.config().await);
        let request = client.get_parameters().with_decryption(true);
        let answer = request.set_names(Some(names.to_vec())).send().await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let why = told("ssm:GetParameters", &DisplayErrorContext(error));
                return names
                    .iter()
                    .map(|it| (it.clone(), Err(why.clone())))
                    .collect();
            }
        };
        let secret = |name: &String| {
            let named = answer.parameters().iter().find(|it| {
                // A name may be asked for with a version or a label behind it.
                let full = [it.name(), it.selector()].into_iter().flatten();
                it.arn() == Some(name)
                    || it.name() == Some(name)
                    || full.collect::<String>() == *name
            });
            let value = named.and_then(|it| plain(it.value()?));
            value.ok_or_else(|| {
                "is not there: make the parameter (a SecureString), or correct the name".into()
            })
        };
        names
            .iter()
            .map(|name| (name.clone(), secret(name)))
            .collect()
    }

    async fn secret(&self, id: &str) -> Result<SecretString, Why> {
        let client = aws_sdk_secretsmanager::Client::new(self.config().await);
        let answer = client.get_secret_value().secret_id(id).send().await;
        match answer {
            Ok(answer) => answer.secret_string().and_then(plain).ok_or_else(|| {
                "holds no text: put the secret there as a text, not as bytes".into()
            }),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|it| it.is_resource_not_found_exception()) =>
            {
                Err("is not there: make the secret, or correct the ARN".into())
            }
            Err(error) => Err(told(
                "secretsmanager:GetSecretValue",
                &DisplayErrorContext(error),
            )),
        }
    }

    async fn config(&self) -> &SdkConfig {
        self.config
            .get_or_init(|| async {
                let timeouts = TimeoutConfig::builder()
                    .operation_timeout(Duration::from_secs(REQUEST_SECONDS_MAX))
                    .operation_attempt_timeout(Duration::from_secs(TRY_SECONDS_MAX));
                aws::environment()
                    .retry_config(RetryConfig::standard().with_max_attempts(TRIES_MAX))
                    .timeout_config(timeouts.build())
                    .load()
                    .await
            })
            .await
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault")
    }
}

fn told(action: &str, error: &dyn fmt::Display) -> Why {
    let error = clip(&error.to_string(), REASON_BYTES_MAX);
    format!(
        "cannot be read: {error} (does the role allow {action} on it, and kms:Decrypt with its key?)"
    )
}

/// A secret, or what stands in it under a key.
fn part(secret: &SecretString, key: Option<&str>) -> Result<SecretString, Why> {
    let Some(key) = key else {
        return Ok(secret.clone());
    };
    let document: Option<Value> = serde_json::from_str(secret.expose_secret()).ok();
    let Some(document) = document.filter(Value::is_object) else {
        return Err("is no JSON object, so there is no key in it: leave the `#` out".into());
    };
    let value = match &document[key] {
        Value::String(text) => plain(text),
        Value::Number(number) => plain(&number.to_string()),
        _ => None,
    };
    value.ok_or_else(|| format!("has no text under the key `{key}`"))
}

/// A token to go with calls, read again when a service refuses it.
pub struct Token {
    text: Mutex<SecretString>,
    again: Option<Again>,
}

/// How a token is read again.
struct Again {
    reference: Reference,
    vault: Arc<Vault>,
    clock: Arc<dyn Clock>,
    /// When it was last. Held while it is read, so that it is read once for all
    /// who were refused.
    last: tokio::sync::Mutex<Option<Time>>,
}

impl Token {
    /// The token that the settings name; without one an empty one, which every
    /// service refuses.
    pub fn new(secret: Option<&Secret>, vault: &Arc<Vault>, clock: Arc<dyn Clock>) -> Self {
        let text = secret.map_or_else(SecretString::default, |it| it.0.clone());
        let again = secret.and_then(Secret::reference).map(|reference| Again {
            reference: reference.clone(),
            vault: Arc::clone(vault),
            clock,
            last: tokio::sync::Mutex::default(),
        });
        Self {
            text: Mutex::new(text),
            again,
        }
    }

    /// The token of the moment.
    pub fn current(&self) -> SecretString {
        self.text().clone()
    }

    /// Another token, after a service has refused `refused`; `None` if there is
    /// no other.
    pub async fn after_refusal(&self, refused: &SecretString) -> Option<SecretString> {
        let again = self.again.as_ref()?;
        let mut last = again.last.lock().await;
        let current = self.current();
        if current.expose_secret() != refused.expose_secret() {
            // Another call has read it in the meantime.
            return Some(current);
        }
        let now = again.clock.now();
        if last.is_some_and(|it| now.duration_since(it).as_secs() < READ_AGAIN_SECONDS) {
            return None;
        }
        *last = Some(now);
        let fresh = match again.vault.read(&again.reference).await {
            Ok(fresh) => fresh,
            Err(why) => {
                warn!("a token was refused, and `{}` {why}", again.reference);
                return None;
            }
        };
        if fresh.expose_secret() == refused.expose_secret() {
            return None;
        }
        info!(
            "a token was refused, and read again from `{}`",
            again.reference
        );
        *self.text() = fresh.clone();
        Some(fresh)
    }

    fn text(&self) -> std::sync::MutexGuard<'_, SecretString> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A token that is what it is, for ever.
impl From<SecretString> for Token {
    fn from(text: SecretString) -> Self {
        Self {
            text: Mutex::new(text),
            again: None,
        }
    }
}
