//! The variables of the environment, read once and passed around.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use super::file::Whereabouts;
use super::read::{self, Findings};
use super::secret::{self, Secret};
use crate::net::check_private;

/// Where a wrong variable stands.
pub(super) const PLACE: &str = "the environment";

/// Variables by name. An empty one is like none.
#[derive(Clone, Default)]
pub struct Env(pub BTreeMap<String, String>);

impl Env {
    /// The environment of this process. Variables that are no text are left out.
    pub fn from_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(|it| it.trim())
            .filter(|it| !it.is_empty())
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

/// Names only: many values are secrets.
impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Reads variables, and tells what is wrong with them.
pub(super) struct Variables<'a> {
    pub(super) env: &'a Env,
    pub(super) findings: &'a Findings,
    pub(super) at: &'a Whereabouts<'a>,
}

impl Variables<'_> {
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.env.get(name).map(str::to_owned)
    }

    pub(super) fn problem(&self, name: &str, what: impl Into<String>) {
        self.findings.problem(name, PLACE, what);
    }

    /// A problem is told, and then it is as if the variable were not there.
    pub(super) fn parsed<T>(
        &self,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        parse(self.env.get(name)?)
            .map_err(|what| self.problem(name, what))
            .ok()
    }

    pub(super) fn number(&self, name: &str, range: RangeInclusive<f64>) -> Option<f64> {
        self.parsed(name, |text| match text.parse::<f64>() {
            Ok(number) => read::in_range(number, &range),
            Err(_) => Err(format!(
                "is no number, must be {}",
                read::number_words(&range)
            )),
        })
    }

    pub(super) fn secret(&self, name: &str) -> Option<Secret> {
        self.parsed(name, |text| secret::resolve(text, name, PLACE, self.at))
    }

    /// An address of HTTP, without a slash at its end.
    pub(super) fn url(&self, name: &str) -> Option<String> {
        self.parsed(name, url)
    }

    /// Addresses that are separated by commas, none of which may be listened to.
    pub(super) fn private_urls(&self, name: &str) -> Vec<String> {
        let urls = self.parsed(name, |text| {
            text.split(',')
                .map(|it| {
                    let url = url(it.trim())?;
                    check_private(&url)?;
                    Ok(url)
                })
                .collect::<Result<Vec<_>, String>>()
        });
        urls.unwrap_or_default()
    }
}

fn url(text: &str) -> Result<String, String> {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    match rest {
        Some(rest) if !rest.is_empty() && !rest.contains(char::is_whitespace) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        Some(_) | None => Err("must be an address that begins with `https://` or `http://`".into()),
    }
}
