//! The patterns of `FilterCriteria`, as far as we use them. What is not
//! understood here is refused, so that a test never passes by a rule that only
//! this matcher has.

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

/// Patterns of which a record has to match one.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Vec<Value>);

impl Filter {
    /// From the JSON of each pattern.
    pub fn parse<'p>(patterns: impl IntoIterator<Item = &'p str>) -> anyhow::Result<Self> {
        let mut parsed = Vec::new();
        for pattern in patterns {
            let value: Value = serde_json::from_str(pattern).context("a pattern is JSON")?;
            check(&value)?;
            parsed.push(value);
        }
        ensure!(!parsed.is_empty(), "a filter needs a pattern");
        Ok(Self(parsed))
    }

    pub fn passes(&self, record: &Value) -> bool {
        self.0.iter().any(|pattern| matches(pattern, record))
    }
}

fn check(pattern: &Value) -> anyhow::Result<()> {
    let Value::Object(fields) = pattern else {
        bail!("`{pattern}` stands where an object should");
    };
    for (name, rule) in fields {
        match rule {
            Value::Object(_) => check(rule)?,
            Value::Array(rules) => {
                ensure!(!rules.is_empty(), "`{name}` has an empty list");
                for rule in rules {
                    check_rule(rule).with_context(|| format!("the rule for `{name}`"))?;
                }
            }
            other => bail!("`{name}` has `{other}`, and a leaf is a list"),
        }
    }
    Ok(())
}

fn check_rule(rule: &Value) -> anyhow::Result<()> {
    match rule {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
        Value::Object(map) if map.len() == 1 && map.get("prefix").is_some_and(Value::is_string) => {
            Ok(())
        }
        Value::Object(map)
            if map.len() == 1 && map.get("exists").is_some_and(Value::is_boolean) =>
        {
            Ok(())
        }
        other => bail!("`{other}` is not understood here"),
    }
}

fn matches(pattern: &Value, value: &Value) -> bool {
    match pattern {
        Value::Object(fields) => fields
            .iter()
            .all(|(name, rule)| match (rule, value.get(name)) {
                (Value::Array(rules), found) => rules.iter().any(|rule| fits(rule, found)),
                (rule, Some(found)) => matches(rule, found),
                (_, None) => matches(rule, &Value::Null),
            }),
        _ => false,
    }
}

fn fits(rule: &Value, found: Option<&Value>) -> bool {
    if let Value::Object(rule) = rule {
        if let Some(exists) = rule.get("exists") {
            return *exists == found.is_some_and(|it| !it.is_object());
        }
        let prefix = rule.get("prefix").and_then(Value::as_str);
        return match (prefix, found) {
            (Some(prefix), Some(Value::String(text))) => text.starts_with(prefix),
            _ => false,
        };
    }
    found == Some(rule)
}
