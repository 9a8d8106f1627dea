//! `cyrus config`: the configuration shown, changed, and put into the store.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use reqwest::Method;
use serde_json::{Value, json};
use shared::config::{self, Env, Refused};

use crate::Common;
use crate::reach::{self, Misused, Reach, path_segment};

#[derive(Subcommand)]
pub(crate) enum Action {
    /// Show the value of one key
    Get { key: String },
    /// Set a value, in the store: it beats variable and file
    Set { key: String, value: String },
    /// Take back what was set
    Unset { key: String },
    /// Show each value with its source
    List,
    /// Put a copy of a configuration file into the store
    Import { file: PathBuf },
    /// Judge a configuration file
    Check {
        /// [default: the one in force]
        file: Option<PathBuf>,
    },
}

pub(crate) async fn config(common: &Common, action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::Get { key } => get(common, &key).await?,
        Action::List => show(common, &values(common).await?)?,
        Action::Set { key, value } => change(common, &key, Some(parse(&value))).await?,
        Action::Unset { key } => change(common, &key, None).await?,
        Action::Import { file } => import(common, &file).await?,
        Action::Check { file } => check(common, file.as_deref()).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(common: &Common, key: &str) -> anyhow::Result<()> {
    let mut all = values(common).await?;
    all.retain(|it| it["key"] == key);
    if all.is_empty() {
        config::check_key(key).map_err(Misused)?;
    }
    match all.as_slice() {
        [only] if !common.json => println!("{}", text(&only["value"])),
        _ => show(common, &all)?,
    }
    Ok(())
}

async fn values(common: &Common) -> anyhow::Result<Vec<Value>> {
    let mut document = match Reach::running(common).await? {
        Some(service) => service.get("config").await?,
        None => {
            let env = Env::from_process();
            let store = reach::store_to_read(&common.store_place(&env)?).await?;
            let (live, _) = common.live(&env, &store).await?;
            json!({ "values": live.entries().await? })
        }
    };
    let values = document["values"].as_array_mut();
    Ok(values.map(std::mem::take).unwrap_or_default())
}

fn show(common: &Common, values: &[Value]) -> anyhow::Result<()> {
    if common.json {
        let document = json!({ "values": values });
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    for entry in values {
        let (key, source) = (text(&entry["key"]), text(&entry["source"]));
        println!("{key:<34} {:<16} {source}", text(&entry["value"]));
    }
    Ok(())
}

async fn change(common: &Common, key: &str, value: Option<Value>) -> anyhow::Result<()> {
    let changed = match Reach::find_to_write(common).await? {
        service @ Reach::Service { .. } => {
            let path = format!("config/{}", path_segment(key));
            let body = value.map(|it| json!({ "value": it }).to_string());
            let method = if body.is_some() {
                Method::PUT
            } else {
                Method::DELETE
            };
            service.send(method, &path, body).await?
        }
        Reach::Store(store) => {
            let configuration = common.configuration(&Env::from_process(), &store);
            let changed = configuration.set(key, value).await.map_err(misused)?;
            serde_json::to_value(changed)?
        }
    };
    let entry =
        json!({ "key": changed["key"], "value": changed["value"], "source": changed["source"] });
    show(common, &[entry])?;
    if changed["at_next_start"] == true {
        eprintln!("cyrus: `{key}` holds for what is made at the next start");
    }
    Ok(())
}

async fn import(common: &Common, file: &Path) -> anyhow::Result<()> {
    let what = || format!("read {}", file.display());
    let document = std::fs::read_to_string(file).with_context(what)?;
    let place = file.display().to_string();
    let warnings = match Reach::find_to_write(common).await? {
        service @ Reach::Service { .. } => {
            let answer = service.send(Method::PUT, "config", Some(document)).await?;
            let warnings = answer["warnings"].as_array().cloned();
            warnings.iter().flatten().map(text).collect()
        }
        Reach::Store(store) => {
            let configuration = common.configuration(&Env::from_process(), &store);
            configuration
                .import(&document, &place)
                .await
                .map_err(misused)?
        }
    };
    for warning in &warnings {
        eprintln!("cyrus: {warning}");
    }
    if common.json {
        println!("{}", json!({ "imported": place, "warnings": warnings }));
    } else {
        println!("{place} is in the store now");
    }
    Ok(())
}

async fn check(common: &Common, file: Option<&Path>) -> anyhow::Result<()> {
    let env = Env::from_process();
    let (loaded, what) = match file {
        // As a file it is judged, whatever was set.
        Some(file) => {
            let loaded = config::load(&env, common.home.as_deref(), Some(file))?;
            (loaded, file.display().to_string())
        }
        None => {
            let store = reach::store_to_read(&common.store_place(&env)?).await?;
            let loaded = common.configuration(&env, &store).judge().await?;
            let place = loaded.settings.place.clone();
            (loaded, place)
        }
    };
    if common.json {
        let document = json!({ "file": what, "ok": true, "warnings": loaded.warnings });
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(());
    }
    for warning in &loaded.warnings {
        println!("note: {warning}");
    }
    println!("{what} is good");
    Ok(())
}

fn misused(refused: Refused) -> anyhow::Error {
    match refused {
        Refused::Key(why) => Misused(why).into(),
        Refused::Value(error) => error.into(),
        Refused::Failed(error) => error,
    }
}

/// What a person has typed: JSON where it is a number, a boolean or null.
fn parse(value: &str) -> Value {
    match serde_json::from_str(value) {
        Ok(it @ (Value::Number(_) | Value::Bool(_) | Value::Null)) => it,
        _ => value.into(),
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
