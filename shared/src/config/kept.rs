//! What the store keeps of the configuration: a copy of the file, and what was
//! set one by one. So it holds for all copies of us at once.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::issue::Time;
use crate::ports::{AppendError, RegisterWrite, Registers};

/// The shelf of both registers.
pub const SHELF: &str = "config";
/// The copy of the file.
const FILE: &str = "file";
/// What was set, and the digest of the copy: who reads this one alone, and it
/// is small, knows whether the copy has changed.
const SET: &str = "set";
/// The largest document that is kept, in bytes of compact JSON. It has to fit
/// into one item of a table (400 KB), with what goes along.
pub const FILE_BYTES_MAX: usize = 300 * 1024;
/// How often a write is tried again because somebody else wrote first.
const CONFLICTS_MAX: usize = 20;

/// The configuration in the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// The text of the copy.
    pub file: Option<String>,
    /// Values by key.
    pub set: BTreeMap<String, Value>,
    pub(super) mark: Mark,
}

/// Another one says that something has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// The version of what was set.
    pub(super) version: u64,
    digest: Option<String>,
}

impl Kept {
    /// All that is kept.
    pub async fn read(registers: &dyn Registers, now: Time) -> anyhow::Result<Self> {
        let (set, mark) = read_set(registers, now).await?;
        let file = registers.get(SHELF, FILE, now).await.with_context(what)?;
        Ok(Self {
            file: file.map(|it| it.value.to_string()),
            set,
            mark,
        })
    }
}

/// What was set, without the copy of the file.
pub(super) async fn read_set(
    registers: &dyn Registers,
    now: Time,
) -> anyhow::Result<(BTreeMap<String, Value>, Mark)> {
    let Some(register) = registers.get(SHELF, SET, now).await.with_context(what)? else {
        return Ok(Default::default());
    };
    let values = register.value["values"].as_object();
    let values = values.into_iter().flatten();
    let mark = Mark {
        version: register.version,
        digest: register.value["file"].as_str().map(str::to_owned),
    };
    Ok((values.map(|(k, v)| (k.clone(), v.clone())).collect(), mark))
}

/// Writes what is set now, if nobody has written since `mark`.
pub(super) async fn write_set(
    registers: &dyn Registers,
    set: &BTreeMap<String, Value>,
    mark: &Mark,
    now: Time,
) -> Result<(), AppendError> {
    let value = json!({ "values": set, "file": mark.digest });
    registers.put(write(SET, value), mark.version, now).await
}

/// Puts a document in the place of the copy. It was judged before.
pub(super) async fn write_file(
    registers: &dyn Registers,
    document: &Value,
    now: Time,
) -> anyhow::Result<()> {
    let text = document.to_string();
    ensure!(
        text.len() <= FILE_BYTES_MAX,
        "the configuration has {} bytes, the store takes {FILE_BYTES_MAX}: keep it in a file, and \
         name that in CYRUS_CONFIG",
        text.len()
    );
    let digest = hex::encode(Sha256::digest(&text));
    // First the copy, then the word that it is there. Who breaks off between
    // them has not said that it was done, and does it again.
    replace(registers, FILE, now, |_| document.clone()).await?;
    replace(registers, SET, now, |old| {
        let values = old.map_or_else(|| json!({}), |it| it["values"].clone());
        json!({ "values": values, "file": digest })
    })
    .await
}

/// Writes over whatever is there.
async fn replace(
    registers: &dyn Registers,
    name: &str,
    now: Time,
    value: impl Fn(Option<&Value>) -> Value,
) -> anyhow::Result<()> {
    for _ in 0..CONFLICTS_MAX {
        let register = registers.get(SHELF, name, now).await.with_context(what)?;
        let seen = register.as_ref().map_or(0, |it| it.version);
        let value = value(register.as_ref().map(|it| &it.value));
        match registers.put(write(name, value), seen, now).await {
            Ok(()) => return Ok(()),
            Err(AppendError::Conflict) => {}
            Err(error) => return Err(error).context("write the configuration to the store"),
        }
    }
    anyhow::bail!("the configuration in the store kept changing for {CONFLICTS_MAX} tries")
}

fn write(name: &str, value: Value) -> RegisterWrite {
    RegisterWrite {
        shelf: SHELF.into(),
        name: name.into(),
        value: Some(value),
        expires_at: None,
    }
}

fn what() -> &'static str {
    "read the configuration in the store"
}
