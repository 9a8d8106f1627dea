//! All that settings are made of, kept together, so that they can be made again
//! when something was set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::env::Variables;
use super::file::{ConfigFile, Whereabouts};
use super::kept::Kept;
use super::keys::{Entry, KEYS, Key, Source};
use super::read::{Findings, Object};
use super::secret::{Noticed, Secrets};
use super::settle::{settle, store_place};
use super::{
    ConfigError, Env, Loaded, Problem, Settings, StorePlace, alone, expand, home_folder, read_file,
};
use crate::secrets::Vault;

/// Where a value stands that `cyrus config set` has put into the store.
const SET_PLACE: &str = "what `cyrus config set` has put into the store";
/// The place of the copy in the store, for people.
pub(super) const KEPT_PLACE: &str = "the copy in the store";
/// What stands in for a document where there is none.
const NO_DOCUMENT: &str = r#"{"repositories":[]}"#;

/// The environment, the document, what was set, and the secrets that were looked up.
#[derive(Clone, Debug)]
pub struct Sources {
    pub(super) env: Env,
    pub(super) home: PathBuf,
    pub(super) document: Document,
    /// Values by key. They beat variables, which beat the document.
    pub(super) set: BTreeMap<String, Value>,
    pub secrets: Secrets,
    pub vault: Arc<Vault>,
}

/// The text of a `config.json`.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) text: Arc<str>,
    /// For people.
    pub(super) place: String,
    /// Relative paths of secrets start here, else in the home folder.
    pub(super) folder: Option<PathBuf>,
    pub(super) origin: Origin,
}

/// Why it is this document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A flag or a variable names it: nothing in the store can replace it.
    Named,
    Kept,
    Home,
    /// There is none.
    Nowhere,
}

impl Sources {
    /// Finds the document: `config` (the flag `--config`), else `CYRUS_CONFIG`,
    /// else the text in `CYRUS_CONFIG_JSON`, else the copy in the store, else
    /// `config.json` in the home folder, which is `home` (the flag `--home`),
    /// else `CYRUS_HOME`, else `~/.cyrus`.
    pub fn find(
        env: &Env,
        home: Option<&Path>,
        config: Option<&Path>,
        kept: &Kept,
    ) -> Result<Self, ConfigError> {
        let home = home_folder(env, home)?;
        Ok(Self {
            env: env.clone(),
            document: document(env, &home, config, kept)?,
            home,
            set: kept.set.clone(),
            secrets: Secrets::default(),
            vault: Arc::default(),
        })
    }

    /// These with another document, as if nothing had been set.
    pub(super) fn of_document(text: &str, place: &str, env: &Env, home: &Path) -> Self {
        Self {
            env: env.clone(),
            home: home.into(),
            document: Document {
                text: text.into(),
                place: place.into(),
                folder: None,
                origin: Origin::Named,
            },
            set: BTreeMap::new(),
            secrets: Secrets::default(),
            vault: Arc::default(),
        }
    }

    /// The settings that all of it adds up to. Pure, but for files that hold
    /// secrets and the origins of clones.
    pub fn settle(&self) -> Result<Loaded, ConfigError> {
        let place = self.document.place.as_str();
        let (document, env) = self.overlaid()?;
        let noticed = Noticed::default();
        let at = Whereabouts {
            folder: self.document.folder.as_deref().unwrap_or(&self.home),
            user_home: env.get("HOME"),
            worktrees: self.home.join("worktrees"),
            secrets: &self.secrets,
            noticed: &noticed,
        };
        let findings = Findings::default();
        let file = ConfigFile::read(Object::document(&document, place, &findings)?, &at);
        let variables = Variables {
            env: &env,
            findings: &findings,
            at: &at,
        };
        let vault = Arc::clone(&self.vault);
        let settings = settle(file, &variables, place, &self.home, vault);
        let concluded = findings.conclude(settings);
        let (settings, mut warnings) = concluded.map_err(|error| self.blame(error))?;
        if self.document.origin == Origin::Nowhere {
            warnings.push(format!("there is no {place}: no repository is configured"));
        }
        Ok(Loaded {
            settings,
            warnings,
            absent: noticed.absent.into_inner(),
            plain_secrets: noticed.plain.into_inner(),
        })
    }

    /// Each value that can be shown, with its source.
    pub fn entries(&self, settings: &Settings) -> Vec<Entry> {
        KEYS.iter().map(|key| self.entry(key, settings)).collect()
    }

    /// One of them.
    pub(super) fn entry(&self, key: &Key, settings: &Settings) -> Entry {
        let document = self.parsed().unwrap_or_default();
        Entry {
            key: key.name,
            value: (key.value)(settings),
            source: self.source(key, &document),
        }
    }

    fn source(&self, key: &Key, document: &Value) -> Source {
        let stands = |key: &str| {
            let path = format!("/{}", key.replace('.', "/"));
            document.pointer(&path).is_some_and(|it| !it.is_null())
        };
        if key.names().any(|it| self.set.contains_key(it)) {
            Source::Set
        } else if key.variable.is_some_and(|it| self.env.get(it).is_some()) {
            Source::Environment
        } else if key.names().any(stands) {
            Source::File
        } else {
            Source::Default
        }
    }

    /// The document with what was set written into it, and the environment
    /// without the variables that this beats.
    fn overlaid(&self) -> Result<(Value, Env), ConfigError> {
        let (mut document, mut env) = (self.parsed()?, self.env.clone());
        let keys = KEYS.iter().filter(|it| self.set.contains_key(it.name));
        for key in keys.clone() {
            if let Some(variable) = key.variable {
                env.0.remove(variable);
            }
            // Two keys that mean the same: the one that was set is meant now.
            for name in key.names() {
                put(&mut document, name, Value::Null);
            }
        }
        for key in keys {
            put(&mut document, key.name, self.set[key.name].clone());
        }
        Ok((document, env))
    }

    fn parsed(&self) -> Result<Value, ConfigError> {
        serde_json::from_str(&self.document.text).map_err(|error| {
            alone(
                &self.document.place,
                format!("is not the JSON it should be: {error}"),
            )
        })
    }

    /// A problem with what was set is not the file's.
    fn blame(&self, mut error: ConfigError) -> ConfigError {
        for problem in &mut error.problems {
            let Problem { key, place, what } = problem;
            if let Some(key) = key.as_ref().filter(|it| self.set.contains_key(*it)) {
                *place = SET_PLACE.into();
                what.push_str(&format!(" (`cyrus config unset {key}` takes it back)"));
            }
        }
        error
    }
}

/// What the environment says, whatever stands in a file: enough to reach a service.
pub fn of_environment(env: &Env, home: Option<&Path>) -> Result<Loaded, ConfigError> {
    let home = home_folder(env, home)?;
    Sources::of_document(NO_DOCUMENT, "nothing", env, &home).settle()
}

/// Where the store is, which has to be known before anything in it is.
pub fn place_of_store(env: &Env, home: Option<&Path>) -> Result<StorePlace, ConfigError> {
    let home = home_folder(env, home)?;
    store_place(env, &home).map_err(|what| ConfigError {
        problems: vec![Problem {
            key: Some("CYRUS_STORE".into()),
            place: super::env::PLACE.into(),
            what,
        }],
    })
}

fn document(
    env: &Env,
    home: &Path,
    config: Option<&Path>,
    kept: &Kept,
) -> Result<Document, ConfigError> {
    let named = config.map(Path::to_path_buf);
    let named = named.or_else(|| {
        env.get("CYRUS_CONFIG")
            .map(|it| expand(it, env.get("HOME")))
    });
    if let Some(path) = named {
        return Ok(Document {
            text: read_file(&path)?.into(),
            place: path.display().to_string(),
            folder: path.parent().map(Path::to_path_buf),
            origin: Origin::Named,
        });
    }
    let here = |text: &str, place: &str, origin| Document {
        text: text.into(),
        place: place.into(),
        folder: None,
        origin,
    };
    if let Some(text) = env.get("CYRUS_CONFIG_JSON") {
        return Ok(here(text, "CYRUS_CONFIG_JSON", Origin::Named));
    }
    if let Some(text) = &kept.file {
        return Ok(here(text, KEPT_PLACE, Origin::Kept));
    }
    let path = home.join("config.json");
    let place = path.display().to_string();
    if path.exists() {
        return Ok(here(&read_file(&path)?, &place, Origin::Home));
    }
    Ok(here(NO_DOCUMENT, &place, Origin::Nowhere))
}

/// Writes a value to where the key leads, with the objects on the way; null
/// removes it, and makes no way.
fn put(document: &mut Value, key: &str, value: Value) {
    let mut place = document;
    let mut names = key.split('.').peekable();
    while let Some(name) = names.next() {
        // What is no object is told by who reads it.
        let Some(object) = place.as_object_mut() else {
            return;
        };
        if names.peek().is_none() {
            if value.is_null() {
                object.remove(name);
            } else {
                object.insert(name.into(), value);
            }
            return;
        }
        if value.is_null() && !object.contains_key(name) {
            return;
        }
        let next = object.entry(name).or_insert(Value::Null);
        if next.is_null() {
            *next = Value::Object(Map::new());
        }
        place = next;
    }
}
