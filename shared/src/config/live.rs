//! Settings that follow what is set in the store, without a restart.
//!
//! Whoever asks which policy holds for an issue gets the one of now: a look
//! into one small register tells whether anything has changed. What was made at
//! the start (clients, the listener, the runner's places) stays as it is until
//! the next one.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use serde::Serialize;
use serde_json::Value;
use tracing::error;

use super::kept::{self, Kept, Mark};
use super::keys::{self, Entry};
use super::secret::Secrets;
use super::sources::{KEPT_PLACE, Origin};
use super::{ConfigError, Env, Loaded, Problem, Settings, Sources};
use crate::issue::{Brief, Policy, Rules};
use crate::ports::{AppendError, Clock, Policies, Registers};
use crate::secrets::Vault;

/// How often a change is tried again because somebody else wrote first.
const CONFLICTS_MAX: usize = 20;

/// Where the configuration is, all of it.
#[derive(Clone)]
pub struct Configuration {
    pub env: Env,
    /// The flag `--home`.
    pub home: Option<PathBuf>,
    /// The flag `--config`.
    pub config: Option<PathBuf>,
    pub registers: Arc<dyn Registers>,
    pub clock: Arc<dyn Clock>,
    pub vault: Arc<Vault>,
}

/// The settings of now.
pub struct Live {
    configuration: Configuration,
    now: RwLock<Arc<InForce>>,
    /// Held while they are made again, so that they are once for all who ask.
    renewing: tokio::sync::Mutex<()>,
}

struct InForce {
    sources: Sources,
    settings: Arc<Settings>,
    mark: Mark,
}

/// Why a value cannot be set; for whoever asked.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such key, or it is no key to be set.
    #[error("{0}")]
    Key(String),
    #[error(transparent)]
    Value(#[from] ConfigError),
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

/// What holds for a key after a change.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Changed {
    #[serde(flatten)]
    pub entry: Entry,
    /// It holds for what is made at the next start.
    pub at_next_start: bool,
}

impl Configuration {
    /// Sets a value, or with `None` takes it back. Refused is what would make no
    /// settings; what is wrong already can be taken back.
    pub async fn set(&self, name: &str, value: Option<Value>) -> Result<Changed, Refused> {
        let key = keys::find(name).map_err(Refused::Key)?;
        for _ in 0..CONFLICTS_MAX {
            let (mut sources, mark) = self.sources().await?;
            match &value {
                // That is how a file says nothing.
                Some(Value::Null) | None => sources.set.remove(name),
                Some(value) => sources.set.insert(name.into(), value.clone()),
            };
            let Loaded { settings, .. } = sources.settle()?;
            let (registers, now) = (self.registers.as_ref(), self.clock.now());
            match kept::write_set(registers, &sources.set, &mark, now).await {
                Ok(()) => {
                    return Ok(Changed {
                        entry: sources.entry(key, &settings),
                        at_next_start: key.at_next_start,
                    });
                }
                Err(AppendError::Conflict) => {}
                Err(error) => return Err(anyhow::Error::from(error).into()),
            }
        }
        let why = format!("the configuration kept changing for {CONFLICTS_MAX} tries");
        Err(anyhow::anyhow!(why).into())
    }

    /// Puts a copy of a `config.json` into the store, in the place of the last.
    /// Returns what its author should know.
    pub async fn import(&self, text: &str, place: &str) -> Result<Vec<String>, Refused> {
        let (present, _) = self.sources().await?;
        let copy = Sources::of_document(text, place, &self.env, &present.home);
        let mut loaded = copy.settle()?;
        if !loaded.plain_secrets.is_empty() {
            let problem = |key: String| Problem {
                key: Some(key),
                place: place.into(),
                what: "is a secret, and the store takes none: say where it lies (`ssm:NAME`, \
                       `secretsmanager:ARN` or `file:PATH`), or leave it out and set its variable"
                    .into(),
            };
            let problems = loaded.plain_secrets.into_iter().map(problem).collect();
            return Err(ConfigError { problems }.into());
        }
        self.vault.look_up(&loaded.absent).await?;
        let document: Value = serde_json::from_str(text).map_err(anyhow::Error::from)?;
        kept::write_file(self.registers.as_ref(), &document, self.clock.now()).await?;
        if present.document.origin == Origin::Named {
            let beats = present.document.place;
            loaded.warnings.push(format!(
                "{KEPT_PLACE} is not in force here: a flag or a variable names {beats}"
            ));
        }
        Ok(loaded.warnings)
    }

    /// What it adds up to, without looking anything up in AWS.
    pub async fn judge(&self) -> anyhow::Result<Loaded> {
        Ok(self.sources().await?.0.settle()?)
    }

    /// Settings with all their secrets, of which some are known, and what their
    /// author should know.
    async fn make(&self, kept: Kept, known: Secrets) -> anyhow::Result<(InForce, Vec<String>)> {
        let (mut sources, mark) = self.found(kept)?;
        sources.secrets = known;
        let mut loaded = sources.settle()?;
        if !loaded.absent.is_empty() {
            let found = self.vault.look_up(&loaded.absent).await?;
            sources.secrets.0.extend(found.0);
            loaded = sources.settle()?;
        }
        let settings = Arc::new(loaded.settings);
        let in_force = InForce {
            sources,
            settings,
            mark,
        };
        Ok((in_force, loaded.warnings))
    }

    async fn sources(&self) -> anyhow::Result<(Sources, Mark)> {
        self.found(self.kept().await?)
    }

    async fn kept(&self) -> anyhow::Result<Kept> {
        Kept::read(self.registers.as_ref(), self.clock.now()).await
    }

    fn found(&self, kept: Kept) -> anyhow::Result<(Sources, Mark)> {
        let (home, config) = (self.home.as_deref(), self.config.as_deref());
        let mut sources = Sources::find(&self.env, home, config, &kept)?;
        sources.vault = Arc::clone(&self.vault);
        Ok((sources, kept.mark))
    }
}

impl Live {
    /// Loads the settings, with all secrets, and what their author should know.
    pub async fn load(configuration: Configuration) -> anyhow::Result<(Self, Vec<String>)> {
        Self::of(configuration, Secrets::default()).await
    }

    /// The same with what another store holds. Secrets that are known are not
    /// looked up again.
    pub async fn over(&self, registers: Arc<dyn Registers>) -> anyhow::Result<(Self, Vec<String>)> {
        let configuration = Configuration {
            registers,
            ..self.configuration.clone()
        };
        Self::of(configuration, self.in_force().sources.secrets.clone()).await
    }

    async fn of(
        configuration: Configuration,
        known: Secrets,
    ) -> anyhow::Result<(Self, Vec<String>)> {
        let kept = configuration.kept().await?;
        let (in_force, warnings) = configuration.make(kept, known).await?;
        let live = Self {
            configuration,
            now: RwLock::new(Arc::new(in_force)),
            renewing: tokio::sync::Mutex::default(),
        };
        Ok((live, warnings))
    }

    /// Where they come from.
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The settings as they were last seen.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.in_force().settings)
    }

    /// The settings as they are now. Where the store cannot be read, or holds
    /// what makes no settings, those that were last good.
    pub async fn renewed(&self) -> Arc<Settings> {
        if let Err(error) = self.renew().await {
            error!("what was set cannot be taken up, the settings stay as they were: {error:#}");
        }
        self.settings()
    }

    /// Each value with its source.
    pub async fn entries(&self) -> anyhow::Result<Vec<Entry>> {
        self.renew().await?;
        let in_force = self.in_force();
        Ok(in_force.sources.entries(&in_force.settings))
    }

    /// Takes up what has changed in the store.
    async fn renew(&self) -> anyhow::Result<()> {
        let _one = self.renewing.lock().await;
        let Configuration {
            registers, clock, ..
        } = &self.configuration;
        let (_, mark) = kept::read_set(registers.as_ref(), clock.now()).await?;
        let before = self.in_force();
        if before.mark == mark {
            return Ok(());
        }
        let (kept, known) = (
            self.configuration.kept().await?,
            before.sources.secrets.clone(),
        );
        let (in_force, _) = self.configuration.make(kept, known).await?;
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(in_force);
        Ok(())
    }

    fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.now.read().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait]
impl Policies for Live {
    async fn policy(&self, brief: &Brief) -> Result<Policy, String> {
        self.renewed().await.policy(brief)
    }

    async fn rules(&self) -> Rules {
        self.renewed().await.rules()
    }
}
