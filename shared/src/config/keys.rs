//! The keys that can be shown and set one by one, without touching the file.

use serde::Serialize;
use serde_json::{Value, json};

use super::{SECRET_VARIABLES, Settings};

/// A key of the configuration.
pub(super) struct Key {
    pub(super) name: &'static str,
    /// The same limit under another name.
    twin: Option<&'static str>,
    pub(super) variable: Option<&'static str>,
    /// What it changes is made once, at the start.
    pub(super) at_next_start: bool,
    /// What holds.
    pub(super) value: fn(&Settings) -> Value,
}

/// A value in force.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    pub key: &'static str,
    pub value: Value,
    pub source: Source,
}

/// Whose word a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `cyrus config set`.
    Set,
    Environment,
    File,
    Default,
}

const fn key(name: &'static str, value: fn(&Settings) -> Value) -> Key {
    Key {
        name,
        twin: None,
        variable: None,
        at_next_start: false,
        value,
    }
}

impl Key {
    const fn or_variable(mut self, variable: &'static str) -> Self {
        self.variable = Some(variable);
        self
    }

    const fn also_called(mut self, twin: &'static str) -> Self {
        self.twin = Some(twin);
        self
    }

    const fn at_next_start(mut self) -> Self {
        self.at_next_start = true;
        self
    }

    /// What it is called, all that is equal to it.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        [self.name].into_iter().chain(self.twin)
    }
}

pub(super) const KEYS: &[Key] = &[
    key("codegen.enabled", |it| json!(it.codegen.is_some())).at_next_start(),
    key("codegen.orgId", |it| {
        json!(it.codegen.as_ref().and_then(|it| it.org_id.clone()))
    })
    .or_variable("CODEGEN_ORG_ID")
    .at_next_start(),
    key("codegen.strategy", |it| json!(it.strategy)).or_variable("CYRUS_STRATEGY"),
    key("codegen.maxCostPerTask", |it| json!(it.costs.per_task_max))
        .or_variable("CYRUS_MAX_COST_PER_TASK")
        .also_called("limits.maxCostPerTask"),
    key("codegen.maxCostPerIssue", |it| {
        json!(it.costs.per_issue_max)
    })
    .or_variable("CYRUS_MAX_COST_PER_ISSUE")
    .also_called("limits.maxCostPerIssue"),
    key("codegen.maxCostPerDay", |it| json!(it.costs.per_day_max))
        .or_variable("CYRUS_MAX_COST_PER_DAY")
        .also_called("limits.maxCostPerDay"),
    key("codegen.costPerRun", |it| json!(it.costs.per_run)),
    key("codegen.features.parallelExecution", |it| {
        json!(it.features.parallel_execution)
    }),
    key("codegen.features.useMcpServers", |it| {
        json!(it.features.use_mcp_servers)
    }),
    key("codegen.features.enableTracing", |it| {
        json!(it.features.enable_tracing)
    })
    .at_next_start(),
    key("planning.mode", |it| json!(it.planning.mode)),
    key("planning.approval", |it| {
        json!(it.planning.approval.to_string())
    }),
    key("planning.maxTasks", |it| json!(it.planning.tasks_max)),
    key("planning.subIssues", |it| json!(it.planning.sub_issues)),
    key("limits.maxCostPerTask", |it| json!(it.costs.per_task_max))
        .or_variable("CYRUS_MAX_COST_PER_TASK")
        .also_called("codegen.maxCostPerTask"),
    key("limits.maxCostPerIssue", |it| json!(it.costs.per_issue_max))
        .or_variable("CYRUS_MAX_COST_PER_ISSUE")
        .also_called("codegen.maxCostPerIssue"),
    key("limits.maxCostPerDay", |it| json!(it.costs.per_day_max))
        .or_variable("CYRUS_MAX_COST_PER_DAY")
        .also_called("codegen.maxCostPerDay"),
    key("limits.maxParallelTasks", |it| {
        json!(it.limits.parallel_max)
    }),
    key("limits.maxAttempts", |it| json!(it.limits.attempts_max)),
    key("limits.taskTimeoutMinutes", |it| {
        json!(it.limits.task_timeout_seconds as f64 / 60.0)
    }),
    key("runner.concurrency", |it| json!(it.runner.concurrency)).at_next_start(),
    key("verbosity", |it| json!(it.verbosity)),
];

/// Why a key cannot be shown or set by itself.
pub fn check_key(name: &str) -> Result<(), String> {
    find(name).map(|_| ())
}

/// The key of that name, or why there is none that can be set.
pub(super) fn find(name: &str) -> Result<&'static Key, String> {
    if let Some(key) = KEYS.iter().find(|it| it.name == name) {
        return Ok(key);
    }
    if let Some(variable) = secret_variable(name) {
        return Err(format!(
            "`{name}` is a secret, and secrets are not kept with the configuration: set \
             {variable} to it, or to where it lies (`ssm:NAME`, `secretsmanager:ARN` or `file:PATH`)"
        ));
    }
    let is_variable = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if name.contains('_') && name.chars().all(is_variable) {
        return Err(format!(
            "`{name}` is a variable of the environment: change it there and start again"
        ));
    }
    let nearest = KEYS
        .iter()
        .map(|it| it.name)
        .min_by_key(|it| strsim::damerau_levenshtein(it, name))
        .unwrap_or_default();
    Err(format!(
        "`{name}` is no key that can be set by itself; the nearest known key is `{nearest}` \
         (all else stands in the file: change it there, or by `cyrus config import FILE`)"
    ))
}

/// The variable that holds the secret which a key would.
fn secret_variable(name: &str) -> Option<&'static str> {
    if let Some(variable) = SECRET_VARIABLES.into_iter().find(|it| *it == name) {
        return Some(variable);
    }
    let last = name.rsplit('.').next().unwrap_or(name).to_lowercase();
    let secret = ["token", "secret", "password", "apikey", "privatekey"];
    if !secret.iter().any(|it| last.ends_with(it)) {
        return None;
    }
    Some(match name.split(['.', '[']).next().unwrap_or_default() {
        "codegen" => "CODEGEN_API_TOKEN",
        "runner" => "CYRUS_RUNNER_TOKEN",
        _ => "LINEAR_API_TOKEN",
    })
}
