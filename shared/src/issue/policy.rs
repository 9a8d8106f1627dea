//! What is known of an issue when work on it begins, and which rules hold for it.

use serde::{Deserialize, Serialize};

use super::{TaskKind, words_enum};

/// The issue as read from Linear, and the policy for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Briefing {
    pub brief: Brief,
    pub policy: Policy,
}

/// What Linear knows about the issue that matters for the work. Untrusted text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Brief {
    pub identifier: String,
    pub title: String,
    pub description: String,
    pub url: String,
    pub team_key: String,
    pub project: Option<String>,
    pub labels: Vec<String>,
    pub estimate: Option<f64>,
}

/// What the configuration says about one issue, recorded when work on it begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub repository: Repository,
    pub planning: Planning,
    /// The mode that the issue's labels ask for, if any.
    pub mode: Option<TaskKind>,
    pub bug: bool,
    pub strategy: Strategy,
    pub merge: MergeMode,
    pub method: MergeMethod,
    pub required_checks: Vec<String>,
    pub check_grace_seconds: i64,
    pub tasks_max: usize,
    pub parallel_max: usize,
    pub attempts_max: u32,
    pub task_timeout_seconds: i64,
    /// What a run without a reported cost is booked at, USD.
    pub cost_per_run: f64,
    /// The cap of one run, USD.
    pub cost_per_task_max: Option<f64>,
    pub cost_per_issue_max: Option<f64>,
    pub verbosity: Verbosity,
    pub agent: AgentPolicy,
}

/// Where the work happens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    /// Its id in `config.json`.
    pub id: String,
    /// The clone on the runner's machine.
    pub path: String,
    pub workspace_dir: String,
    pub base_branch: String,
    /// `owner/name` at the forge.
    pub slug: String,
}

/// How an agent program is to be run in this repository.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentPolicy {
    pub model: Option<String>,
    pub fallback_model: Option<String>,
    pub allowed_tools: Vec<String>,
    pub disallowed_tools: Vec<String>,
    pub mcp: Vec<String>,
    pub append_instruction: Option<String>,
}

words_enum! {
    /// When an issue is planned.
    Planning {
        Auto = "auto",
        Always = "always",
        Never = "never",
        /// Only under an orchestrator label: a configuration without a `codegen` section.
        Labelled = "labelled",
    }
}
words_enum! {
    /// Which executors may be used for what.
    Strategy {
        LocalOnly = "local-only",
        CloudOnly = "cloud-only",
        HybridSmart = "hybrid-smart",
        HybridParallel = "hybrid-parallel",
    }
}
words_enum! {
    /// Who merges.
    MergeMode { Auto = "auto", Manual = "manual" }
}
words_enum! {
    /// How a pull request becomes part of the base branch.
    MergeMethod { Squash = "squash", Merge = "merge", Rebase = "rebase" }
}
words_enum! {
    /// How much is said in Linear.
    Verbosity { Quiet = "quiet", Normal = "normal", Verbose = "verbose" }
}
