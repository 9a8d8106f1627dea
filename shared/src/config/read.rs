//! Reading a JSON document whose author is a person: every mistake is told
//! with its key, its place and the remedy, and all of them at once.
//!
//! What is asked for is known; what was never asked for is told with the
//! nearest key that was.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// A wrong value is shown up to this many bytes.
const SHOWN_BYTES_MAX: usize = 80;

/// What is wrong with the configuration: everything that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key's whole path, or a variable's name; `None`: the document itself.
    pub key: Option<String>,
    /// A file, or the environment.
    pub place: String,
    /// What is wrong and what would be right. Never shows a secret.
    pub what: String,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.problems.iter().enumerate() {
            let newline = if at == 0 { "" } else { "\n" };
            write!(f, "{newline}{problem}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "`{key}` in {}: {}", self.place, self.what),
            None => write!(f, "{}: {}", self.place, self.what),
        }
    }
}

/// What was found while reading.
#[derive(Debug, Default)]
pub(super) struct Findings {
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<String>>,
}

impl Findings {
    /// The same problem is told once.
    pub(super) fn problem(&self, key: &str, place: &str, what: impl Into<String>) {
        let problem = Problem {
            key: Some(key.into()),
            place: place.into(),
            what: what.into(),
        };
        let mut problems = self.problems.borrow_mut();
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }

    /// The same warning is given once.
    pub(super) fn warn(&self, warning: String) {
        let mut warnings = self.warnings.borrow_mut();
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// The value, with the warnings, if nothing was wrong.
    pub(super) fn conclude<T>(self, value: T) -> Result<(T, Vec<String>), ConfigError> {
        let problems = self.problems.into_inner();
        if problems.is_empty() {
            Ok((value, self.warnings.into_inner()))
        } else {
            Err(ConfigError { problems })
        }
    }
}

/// An object of the document. Absent, it is like an empty one.
pub(super) struct Object<'a> {
    pub(super) findings: &'a Findings,
    pub(super) place: &'a str,
    /// With its dot at the end; empty at the top.
    prefix: String,
    map: Option<&'a Map<String, Value>>,
    asked: RefCell<Vec<&'static str>>,
}

impl<'a> Object<'a> {
    /// The document as a whole.
    pub(super) fn document(
        value: &'a Value,
        place: &'a str,
        findings: &'a Findings,
    ) -> Result<Self, ConfigError> {
        let Some(map) = value.as_object() else {
            let what = format!("is {}, must be an object", kind(value));
            return Err(ConfigError {
                problems: vec![Problem {
                    key: None,
                    place: place.into(),
                    what,
                }],
            });
        };
        Ok(Self::new(findings, place, String::new(), Some(map)))
    }

    fn new(
        findings: &'a Findings,
        place: &'a str,
        prefix: String,
        map: Option<&'a Map<String, Value>>,
    ) -> Self {
        Self {
            findings,
            place,
            prefix,
            map,
            asked: RefCell::default(),
        }
    }

    /// Warns of the keys that nobody has asked for.
    pub(super) fn finish(self) {
        let asked = self.asked.borrow();
        for key in self.map.into_iter().flat_map(Map::keys) {
            if asked.iter().any(|it| it == key) {
                continue;
            }
            let nearest = asked
                .iter()
                .min_by_key(|it| strsim::damerau_levenshtein(it, key));
            let nearest = nearest.map_or_else(String::new, |it| {
                format!("; the nearest known key is `{}{it}`", self.prefix)
            });
            self.findings.warn(format!(
                "`{}` in {}: unknown key, ignored{nearest}",
                self.path(key),
                self.place
            ));
        }
    }

    /// Is it there at all?
    pub(super) fn is_there(&self) -> bool {
        self.map.is_some()
    }

    pub(super) fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(super) fn problem(&self, key: &str, what: impl Into<String>) {
        self.findings.problem(&self.path(key), self.place, what);
    }

    /// What stands there; `null` is nothing.
    pub(super) fn get(&self, key: &'static str) -> Option<&'a Value> {
        self.asked.borrow_mut().push(key);
        self.map?.get(key).filter(|it| !it.is_null())
    }

    /// Something is required here and missing.
    pub(super) fn missing(&self, key: &'static str, what: &str) {
        self.problem(key, format!("is missing, must be {what}"));
    }

    pub(super) fn text(&self, key: &'static str) -> Option<String> {
        let value = self.get(key)?;
        let text = value.as_str();
        if text.is_none() {
            self.wrong_type(key, value, "a string");
        }
        text.map(str::to_owned)
    }

    /// A text that must be there and not empty.
    pub(super) fn required(&self, key: &'static str) -> String {
        const WHAT: &str = "a string that is not empty";
        match self.get(key) {
            None => self.missing(key, WHAT),
            Some(Value::String(text)) if !text.trim().is_empty() => return text.clone(),
            Some(Value::String(_)) => self.problem(key, format!("is empty, must be {WHAT}")),
            Some(value) => self.wrong_type(key, value, WHAT),
        }
        String::new()
    }

    pub(super) fn flag(&self, key: &'static str) -> Option<bool> {
        let value = self.get(key)?;
        let flag = value.as_bool();
        if flag.is_none() {
            self.wrong_type(key, value, "true or false");
        }
        flag
    }

    pub(super) fn number(&self, key: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.get(key)?;
        match value.as_f64() {
            None => self.wrong_type(key, value, &number_words(&range)),
            Some(number) => match in_range(number, &range) {
                Ok(number) => return Some(number),
                Err(what) => self.problem(key, what),
            },
        }
        None
    }

    pub(super) fn whole(&self, key: &'static str, range: RangeInclusive<u32>) -> Option<u32> {
        let value = self.get(key)?;
        let whole = value.as_f64().filter(|it| it.fract() == 0.0);
        let inside = |it: &f64| (f64::from(*range.start())..=f64::from(*range.end())).contains(it);
        match whole.filter(inside) {
            // In range and without a fraction: exactly that number.
            Some(whole) => return Some(whole as u32),
            None => {
                let must = format!("a whole number from {} to {}", range.start(), range.end());
                match value {
                    Value::Number(number) => {
                        self.problem(key, format!("is {number}, must be {must}"))
                    }
                    _ => self.wrong_type(key, value, &must),
                }
            }
        }
        None
    }

    /// One of some words.
    pub(super) fn word<T: Copy>(&self, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let value = self.get(key)?;
        match value.as_str() {
            None => self.wrong_type(key, value, &word_list(words)),
            Some(text) => match one_of(text, words) {
                Ok(word) => return Some(word),
                Err(what) => self.problem(key, what),
            },
        }
        None
    }

    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<String>> {
        let value = self.get(key)?;
        let texts = texts(value);
        if texts.is_none() {
            self.wrong_type(key, value, "an array of strings");
        }
        texts
    }

    /// The object under a key. One of a wrong type is told and then like an absent one.
    pub(super) fn object(&self, key: &'static str) -> Self {
        let map = self.get(key).and_then(|value| {
            if !value.is_object() {
                self.wrong_type(key, value, "an object");
            }
            value.as_object()
        });
        Self::new(
            self.findings,
            self.place,
            format!("{}.", self.path(key)),
            map,
        )
    }

    /// The objects of an array; `None`: there is no array.
    pub(super) fn objects(&self, key: &'static str) -> Option<Vec<Self>> {
        let value = self.get(key)?;
        let Some(array) = value.as_array() else {
            self.wrong_type(key, value, "an array of objects");
            return None;
        };
        let objects = array.iter().enumerate().filter_map(|(at, value)| {
            let path = self.path(&format!("{key}[{at}]"));
            if !value.is_object() {
                let what = format!("is {}, must be an object", kind(value));
                self.findings.problem(&path, self.place, what);
            }
            Some(Self::new(
                self.findings,
                self.place,
                format!("{path}."),
                Some(value.as_object()?),
            ))
        });
        Some(objects.collect())
    }

    /// The objects under a key by their names, which are anybody's choice.
    pub(super) fn named(&self, key: &'static str) -> Vec<(String, Self)> {
        let map = self.object(key).map;
        let objects = map.into_iter().flatten().filter_map(|(name, value)| {
            let path = self.path(&format!("{key}.{name}"));
            if !value.is_object() {
                let what = format!("is {}, must be an object", kind(value));
                self.findings.problem(&path, self.place, what);
            }
            let object = Self::new(
                self.findings,
                self.place,
                format!("{path}."),
                Some(value.as_object()?),
            );
            Some((name.clone(), object))
        });
        objects.collect()
    }

    pub(super) fn wrong_type(&self, key: &str, value: &Value, must: &str) {
        self.problem(key, format!("is {}, must be {must}", kind(value)));
    }

    /// Tells once that a key is deprecated, wherever it stands.
    pub(super) fn deprecated(&self, key: &'static str, instead: &str) {
        if self.get(key).is_some() {
            let path = general(&self.path(key));
            self.findings.warn(format!(
                "`{path}` in {} is deprecated: {instead}",
                self.place
            ));
        }
    }
}

/// The strings of an array, if it is one.
pub(super) fn texts(value: &Value) -> Option<Vec<String>> {
    value
        .as_array()?
        .iter()
        .map(|it| it.as_str().map(str::to_owned))
        .collect()
}

pub(super) fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let shown = crate::issue::clip(text, SHOWN_BYTES_MAX);
        format!("is `{shown}`, must be {}", word_list(words))
    })
}

pub(super) fn in_range(number: f64, range: &RangeInclusive<f64>) -> Result<f64, String> {
    if range.contains(&number) {
        return Ok(number);
    }
    Err(format!("is {number}, must be {}", number_words(range)))
}

pub(super) fn number_words(range: &RangeInclusive<f64>) -> String {
    format!("a number from {} to {}", range.start(), range.end())
}

fn word_list<T>(words: &[(&str, T)]) -> String {
    let words: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
    match words.as_slice() {
        [only] => only.clone(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
        [] => String::new(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A path without its numbers: `repositories[3].x` is `repositories[].x`.
fn general(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|c| {
            inside = match c {
                '[' => true,
                ']' => false,
                _ => inside,
            };
            !inside || *c == '['
        })
        .collect()
}
