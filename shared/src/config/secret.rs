//! Secrets: never shown, and often only named where they lie.

use std::fmt;
use std::fs;
use std::path::Path;

use secrecy::SecretString;

use super::expand_home;

/// The longest secret that is read from a file, in bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A secret; shown as `***`.
#[derive(Clone)]
pub struct Secret(pub SecretString);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The secret that `text` is or names: `file:PATH` is read, from `folder` if
/// the path is relative. What is wrong is said without showing it.
pub(super) fn resolve(
    text: &str,
    folder: &Path,
    user_home: Option<&str>,
) -> Result<Secret, String> {
    let plain = |text: &str| {
        let text = text.trim();
        if text.is_empty() {
            return Err("is an empty secret".to_owned());
        }
        Ok(Secret(SecretString::from(text)))
    };
    match text.split_once(':') {
        Some(("file", path)) => {
            let path = folder.join(expand_home(path, user_home));
            let shown = path.display();
            let size = fs::metadata(&path)
                .map_err(|it| format!("names `{shown}`: {it}"))?
                .len();
            if size > SECRET_BYTES_MAX {
                return Err(format!("names `{shown}`, which is too long for a secret"));
            }
            let text = fs::read_to_string(&path).map_err(|it| format!("names `{shown}`: {it}"))?;
            plain(&text).map_err(|_| format!("names `{shown}`, which is empty"))
        }
        Some((service @ ("ssm" | "secretsmanager"), _)) => Err(format!(
            "names a secret in AWS (`{service}:`), which this build cannot read: it comes with \
             the deployment to AWS; until then give `file:PATH` or the secret itself"
        )),
        _ => plain(text),
    }
}
