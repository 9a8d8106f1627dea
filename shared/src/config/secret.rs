//! Secrets: never shown, and often only named where they lie.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use secrecy::SecretString;

use super::expand_home;
use super::file::Whereabouts;

/// The longest secret that is read from a file, in bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A secret, and where it can be read again; shown as `***`.
#[derive(Clone)]
pub struct Secret(pub SecretString, Option<Reference>);

/// Where a secret lies, instead of the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// `file:PATH`.
    File(PathBuf),
    /// `ssm:NAME`: a parameter of the Systems Manager.
    Ssm(String),
    /// `secretsmanager:ARN`, or `secretsmanager:ARN#KEY` for one key of a
    /// secret that is a JSON object.
    SecretsManager { id: String, key: Option<String> },
}

/// Secrets that were looked up, by their references.
#[derive(Clone, Default)]
pub struct Secrets(pub BTreeMap<Reference, SecretString>);

/// A secret that has to be looked up before the settings are whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// The variable or the key that names it.
    pub key: String,
    pub place: String,
    pub reference: Reference,
}

/// What was noticed about secrets while reading.
#[derive(Debug, Default)]
pub(super) struct Noticed {
    pub(super) absent: RefCell<Vec<Absent>>,
    /// Keys of the file that hold a secret itself.
    pub(super) plain: RefCell<Vec<String>>,
}

impl Secret {
    /// Where it can be read again; `None`: it was given as it is.
    pub fn reference(&self) -> Option<&Reference> {
        self.1.as_ref()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Ssm(name) => write!(f, "ssm:{name}"),
            Self::SecretsManager { id, key: None } => write!(f, "secretsmanager:{id}"),
            Self::SecretsManager { id, key: Some(key) } => write!(f, "secretsmanager:{id}#{key}"),
        }
    }
}

impl Reference {
    fn parse(text: &str, at: &Whereabouts<'_>) -> Option<Self> {
        match text.split_once(':')? {
            ("file", path) => {
                let path = at.folder.join(expand_home(path, at.user_home));
                Some(Self::File(path))
            }
            ("ssm", name) => Some(Self::Ssm(name.into())),
            ("secretsmanager", name) => {
                let (id, key) = match name.split_once('#') {
                    Some((id, key)) => (id, Some(key.to_owned())),
                    None => (name, None),
                };
                let id = id.to_owned();
                Some(Self::SecretsManager { id, key })
            }
            _ => None,
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Ssm(name) => name.is_empty(),
            Self::SecretsManager { id, key } => {
                id.is_empty() || key.as_deref().is_some_and(str::is_empty)
            }
        }
    }
}

/// The secret that `text` is or names. A file is read at once; what lies in AWS
/// was looked up before, or is noted as absent. What is wrong is said without
/// showing it.
pub(super) fn resolve(
    text: &str,
    key: &str,
    place: &str,
    at: &Whereabouts<'_>,
) -> Result<Secret, String> {
    let Some(reference) = Reference::parse(text.trim(), at) else {
        let text = plain(text).ok_or("is an empty secret")?;
        if place != super::env::PLACE {
            at.noticed.plain.borrow_mut().push(key.to_owned());
        }
        return Ok(Secret(text, None));
    };
    if reference.is_empty() {
        return Err(format!(
            "names a secret by `{reference}`, which has no name"
        ));
    }
    let text = match (&reference, at.secrets.0.get(&reference)) {
        (Reference::File(path), _) => read_file(path).map_err(|it| format!("names {it}"))?,
        (_, Some(secret)) => secret.clone(),
        (_, None) => {
            at.noticed.absent.borrow_mut().push(Absent {
                key: key.into(),
                place: place.into(),
                reference: reference.clone(),
            });
            SecretString::default()
        }
    };
    Ok(Secret(text, Some(reference)))
}

/// Reads the secret that is all of a file.
pub(crate) fn read_file(path: &std::path::Path) -> Result<SecretString, String> {
    let shown = path.display();
    let size = fs::metadata(path)
        .map_err(|it| format!("`{shown}`: {it}"))?
        .len();
    if size > SECRET_BYTES_MAX {
        return Err(format!("`{shown}`, which is too long for a secret"));
    }
    let text = fs::read_to_string(path).map_err(|it| format!("`{shown}`: {it}"))?;
    plain(&text).ok_or_else(|| format!("`{shown}`, which is empty"))
}

/// A secret without the blanks around it, if anything is left.
pub(crate) fn plain(text: &str) -> Option<SecretString> {
    let text = text.trim();
    (!text.is_empty()).then(|| SecretString::from(text))
}
