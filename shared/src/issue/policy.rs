//! What is known of an issue when work on it begins, and which rules hold for it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::plan::MAIN;
use super::{IssueId, Spec, TaskKind, words_enum};

/// After this long a job whose runner is silent is tried in the cloud instead.
const PATIENCE_SECONDS: i64 = 60;

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
    /// In the order in which people have put them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sub_issues: Vec<SubIssue>,
}

/// A part of the issue that people have made an issue of its own. Untrusted text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubIssue {
    pub id: IssueId,
    pub identifier: String,
    pub title: String,
    pub description: String,
    /// The type of its state in Linear.
    pub state: String,
    pub labels: Vec<String>,
    /// The identifiers of the issues that block it.
    pub blocked_by: Vec<String>,
}

impl SubIssue {
    pub fn is_completed(&self) -> bool {
        self.state == "completed"
    }

    /// People want no more of it.
    pub fn is_dropped(&self) -> bool {
        matches!(self.state.as_str(), "canceled" | "duplicate")
    }
}

/// What the configuration says about one issue, recorded when work on it begins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub repository: Repository,
    pub planning: Planning,
    /// The mode that the issue's labels ask for, if any.
    pub mode: Option<TaskKind>,
    pub bug: bool,
    /// What kind of task each sub-issue is, where its labels say so; `None`:
    /// sub-issues are not looked at.
    #[serde(default)]
    pub sub_issues: Option<BTreeMap<IssueId, TaskKind>>,
    pub strategy: Strategy,
    pub merge: MergeMode,
    pub method: MergeMethod,
    pub required_checks: Vec<String>,
    pub check_grace_seconds: i64,
    /// Globs of paths; what changes one of them only a person merges.
    #[serde(default = "usual_protected")]
    pub protected_paths: Vec<String>,
    /// A person has to approve of the very commit.
    #[serde(default)]
    pub require_approval: bool,
    /// What has to succeed in a clean worktree at the commit.
    #[serde(default)]
    pub commands: Vec<String>,
    /// Another agent has to agree to the commit.
    #[serde(default)]
    pub reviewer: bool,
    /// How often the work of a task may be sent back to be mended.
    #[serde(default)]
    pub repairs_max: u32,
    /// A cancellation leaves pull requests open.
    #[serde(default)]
    pub keep_pulls: bool,
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
    /// How agents run here; see [`Policy::agent_for`].
    pub agent: AgentPolicy,
    /// The tools of those kinds of tasks that have tools of their own.
    #[serde(default)]
    pub tools: BTreeMap<TaskKind, Tools>,
}

impl Policy {
    /// How an agent runs that does this task. The tools of a mode are for those
    /// tasks whose kind a label or the plan has named.
    pub fn agent_for(&self, spec: &Spec) -> AgentPolicy {
        let mut agent = self.agent.clone();
        let named = self.mode.is_some() || spec.id.0 != MAIN;
        if let Some(tools) = self.tools.get(&spec.kind).filter(|_| named) {
            agent.allowed_tools.clone_from(&tools.allowed);
            agent.disallowed_tools.clone_from(&tools.disallowed);
        }
        agent
    }

    /// How long a job whose runner is silent waits for another one; `None`: as
    /// long as it takes, for it may go nowhere else.
    pub fn patience_seconds(&self) -> Option<i64> {
        self.strategy.may_move().then_some(PATIENCE_SECONDS)
    }
}

/// What an agent may use without being asked, and what never.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tools {
    pub allowed: Vec<String>,
    pub disallowed: Vec<String>,
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

/// What nobody merges without looking, unless told otherwise.
const PROTECTED_PATHS: [&str; 1] = [".github/workflows/**"];

/// The paths that are protected where the configuration names none.
pub fn usual_protected() -> Vec<String> {
    PROTECTED_PATHS.map(str::to_owned).to_vec()
}

/// The agent program that is run where nobody asks for another one.
pub const PROGRAM: &str = "claude";

/// How an agent program is to be run in this repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentPolicy {
    /// Its name: `claude`, `codex`, …; which ones there are, a runner knows.
    #[serde(default = "usual_program")]
    pub program: String,
    pub model: Option<String>,
    pub fallback_model: Option<String>,
    pub allowed_tools: Vec<String>,
    pub disallowed_tools: Vec<String>,
    pub mcp: Vec<String>,
    pub append_instruction: Option<String>,
    /// The repository's own settings and servers of the agent count, too.
    #[serde(default)]
    pub trusted: bool,
}

/// A reviewer uses one of these, whichever its author does not.
const MODELS: [&str; 2] = ["opus", "sonnet"];

impl AgentPolicy {
    /// The same with another model than an author's. Only of the usual program is it
    /// known which ones there are.
    #[must_use]
    pub fn other_than(mut self, author: &Self) -> Self {
        let same = |it: &Option<String>| it == &author.model;
        if self.program != author.program || !same(&self.model) {
            return self;
        }
        self.model = match self.fallback_model.take() {
            Some(other) if author.model.as_ref() != Some(&other) => Some(other),
            _ if self.program != PROGRAM => self.model,
            _ => {
                let uses = |it: &&&str| {
                    author
                        .model
                        .as_ref()
                        .is_some_and(|model| model.contains(**it))
                };
                let used = MODELS.iter().find(uses);
                MODELS
                    .iter()
                    .find(|it| Some(*it) != used)
                    .map(|it| (*it).to_owned())
            }
        };
        self
    }
}

impl Default for AgentPolicy {
    fn default() -> Self {
        Self {
            program: usual_program(),
            model: None,
            fallback_model: None,
            allowed_tools: Vec::new(),
            disallowed_tools: Vec::new(),
            mcp: Vec::new(),
            append_instruction: None,
            trusted: false,
        }
    }
}

fn usual_program() -> String {
    PROGRAM.to_owned()
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
        CostOptimized = "cost-optimized",
    }
}
impl Strategy {
    /// May what has failed in one place be tried in another?
    pub fn may_move(self) -> bool {
        match self {
            Self::HybridSmart | Self::HybridParallel | Self::CostOptimized => true,
            Self::LocalOnly | Self::CloudOnly => false,
        }
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
