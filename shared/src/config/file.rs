//! The file: Cyrus's keys and ours, as they stand there. What beats them and
//! what holds in their absence is decided elsewhere.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::read::{self, Object};
use super::repository::{self, RepositorySettings};
use super::secret::{self, Noticed, Secret, Secrets};
use super::{AgentDefaults, ModeTools, Models, Workspace, expand, expand_home, tools};
use crate::issue::{Approval, Planning, Strategy, Verbosity};

/// USD; more is a slip of the pen.
pub(super) const COST_RANGE: RangeInclusive<f64> = 0.0..=100_000.0;
const MAX_TASKS_RANGE: RangeInclusive<u32> = 1..=100;
const PARALLEL_TASKS_RANGE: RangeInclusive<u32> = 1..=1_000;
const ATTEMPTS_RANGE: RangeInclusive<u32> = 1..=100;
/// A second, up to a week.
const TASK_TIMEOUT_MINUTES_RANGE: RangeInclusive<f64> = 0.016..=10_080.0;
const CONCURRENCY_RANGE: RangeInclusive<u32> = 0..=256;
const HEARTBEAT_SECONDS_RANGE: RangeInclusive<f64> = 0.1..=3_600.0;

/// The kinds of prompt that Cyrus knows, in the order in which labels choose one.
pub(super) const MODES: [&str; 5] = [
    "debugger",
    "builder",
    "scoper",
    "orchestrator",
    "graphite-orchestrator",
];

pub(super) const STRATEGIES: &[(&str, Strategy)] = &[
    ("local-only", Strategy::LocalOnly),
    ("cloud-only", Strategy::CloudOnly),
    ("hybrid-smart", Strategy::HybridSmart),
    ("hybrid-parallel", Strategy::HybridParallel),
    ("cost-optimized", Strategy::CostOptimized),
];

/// What stands in the file; `None` where a key is absent.
#[derive(Debug)]
pub(super) struct ConfigFile {
    pub(super) codegen: Option<CodegenKeys>,
    pub(super) planning_mode: Option<Planning>,
    pub(super) planning_approval: Option<Approval>,
    pub(super) planning_max_tasks: Option<u32>,
    pub(super) planning_sub_issues: Option<bool>,
    pub(super) limits: CostKeys,
    pub(super) max_parallel_tasks: Option<u32>,
    pub(super) max_attempts: Option<u32>,
    pub(super) task_timeout_minutes: Option<f64>,
    pub(super) concurrency: Option<u32>,
    pub(super) heartbeat_seconds: Option<f64>,
    pub(super) agent_env: Vec<String>,
    pub(super) setup_script: Option<PathBuf>,
    pub(super) verbosity: Option<Verbosity>,
    pub(super) workspaces: BTreeMap<String, Workspace>,
    pub(super) agents: AgentDefaults,
    pub(super) repositories: Vec<RepositorySettings>,
}

#[derive(Debug)]
pub(super) struct CodegenKeys {
    pub(super) enabled: bool,
    pub(super) org_id: Option<String>,
    pub(super) token: Option<Secret>,
    pub(super) strategy: Option<Strategy>,
    pub(super) costs: CostKeys,
    pub(super) cost_per_run: Option<f64>,
    pub(super) parallel_execution: Option<bool>,
    pub(super) use_mcp_servers: Option<bool>,
    pub(super) enable_tracing: Option<bool>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CostKeys {
    pub(super) per_task: Option<f64>,
    pub(super) per_day: Option<f64>,
    pub(super) per_issue: Option<f64>,
}

/// Where the document lies and whose home `~` is.
pub(super) struct Whereabouts<'a> {
    /// Relative paths of secrets start here.
    pub(super) folder: &'a Path,
    pub(super) user_home: Option<&'a str>,
    /// Where worktrees go when a repository does not say.
    pub(super) worktrees: PathBuf,
    /// What was looked up in AWS.
    pub(super) secrets: &'a Secrets,
    pub(super) noticed: &'a Noticed,
}

impl ConfigFile {
    pub(super) fn read(document: Object<'_>, at: &Whereabouts<'_>) -> Self {
        let planning = document.object("planning");
        let limits = document.object("limits");
        let runner = document.object("runner");
        let mut workspaces = workspaces(&document, at);
        let file = Self {
            codegen: codegen(&document, at),
            planning_mode: planning.word("mode", PLANNING_MODES),
            planning_approval: approval(&planning),
            planning_max_tasks: planning.whole("maxTasks", MAX_TASKS_RANGE),
            planning_sub_issues: planning.flag("subIssues"),
            limits: costs(&limits),
            max_parallel_tasks: limits.whole("maxParallelTasks", PARALLEL_TASKS_RANGE),
            max_attempts: limits.whole("maxAttempts", ATTEMPTS_RANGE),
            task_timeout_minutes: limits.number("taskTimeoutMinutes", TASK_TIMEOUT_MINUTES_RANGE),
            concurrency: runner.whole("concurrency", CONCURRENCY_RANGE),
            heartbeat_seconds: runner.number("heartbeatSeconds", HEARTBEAT_SECONDS_RANGE),
            agent_env: agent_env(&runner),
            setup_script: document
                .text("global_setup_script")
                .filter(|it| !it.is_empty())
                .map(|it| expand(&it, at.user_home)),
            verbosity: document.word("verbosity", VERBOSITIES),
            agents: agents(&document, at),
            repositories: repository::read_all(&document, &mut workspaces, at),
            workspaces,
        };
        unused_by_us(&document, at);
        for object in [planning, limits, runner, document] {
            object.finish();
        }
        file
    }
}

const PLANNING_MODES: &[(&str, Planning)] = &[
    ("auto", Planning::Auto),
    ("always", Planning::Always),
    ("never", Planning::Never),
];
const VERBOSITIES: &[(&str, Verbosity)] = &[
    ("quiet", Verbosity::Quiet),
    ("normal", Verbosity::Normal),
    ("verbose", Verbosity::Verbose),
];

fn codegen(document: &Object<'_>, at: &Whereabouts<'_>) -> Option<CodegenKeys> {
    let codegen = document.object("codegen");
    if !codegen.is_there() {
        return None;
    }
    let features = codegen.object("features");
    let keys = CodegenKeys {
        enabled: codegen.flag("enabled").unwrap_or(true),
        org_id: org_id(&codegen),
        token: secret(&codegen, "apiToken", at),
        strategy: codegen.word("strategy", STRATEGIES),
        costs: costs(&codegen),
        cost_per_run: codegen.number("costPerRun", COST_RANGE),
        parallel_execution: features.flag("parallelExecution"),
        use_mcp_servers: features.flag("useMcpServers"),
        enable_tracing: features.flag("enableTracing"),
    };
    features.finish();
    codegen.finish();
    Some(keys)
}

/// An organisation that is no number is kept: then the executor says what is
/// wrong, and the rest of the service works.
fn org_id(codegen: &Object<'_>) -> Option<String> {
    let value = codegen.get("orgId")?;
    match value.as_str() {
        Some(text) => Some(text.trim().to_owned()),
        None => Some(value.to_string()),
    }
}

fn costs(object: &Object<'_>) -> CostKeys {
    CostKeys {
        per_task: object.number("maxCostPerTask", COST_RANGE),
        per_day: object.number("maxCostPerDay", COST_RANGE),
        per_issue: object.number("maxCostPerIssue", COST_RANGE),
    }
}

/// How `over:USD` begins.
const OVER: &str = "over:";

fn approval(planning: &Object<'_>) -> Option<Approval> {
    let value = planning.get("approval")?;
    let over = |text: &str| {
        let usd: f64 = text.strip_prefix(OVER)?.parse().ok()?;
        COST_RANGE.contains(&usd).then_some(Approval::Over(usd))
    };
    let approval = match value.as_str() {
        Some("never") => Some(Approval::Never),
        Some("always") => Some(Approval::Always),
        Some(text) => over(text),
        None => None,
    };
    if approval.is_none() {
        let what = format!(
            "must be `never`, `always` or `over:USD`, like `over:5`, with {}",
            read::number_words(&COST_RANGE)
        );
        planning.problem("approval", what);
    }
    approval
}

/// Variables that agents may have. Our own secrets are not among them, whoever asks.
fn agent_env(runner: &Object<'_>) -> Vec<String> {
    let names = runner.texts("agentEnv").unwrap_or_default();
    for (at, name) in names.iter().enumerate() {
        if super::SECRET_VARIABLES.contains(&name.as_str()) {
            let what =
                format!("`{name}` is a secret of Cyrus's own, which no agent may see: remove it");
            runner.problem(&format!("agentEnv[{at}]"), what);
        }
    }
    names
}

fn workspaces(document: &Object<'_>, at: &Whereabouts<'_>) -> BTreeMap<String, Workspace> {
    document.deprecated(
        "linearWorkspaceSlug",
        "write it into `linearWorkspaces` as `linearWorkspaceSlug` of its workspace",
    );
    let slug = document.text("linearWorkspaceSlug");
    let workspaces = document
        .named("linearWorkspaces")
        .into_iter()
        .map(|(id, object)| {
            if object.get("linearToken").is_none() {
                object.missing("linearToken", "the workspace's access token");
            }
            let workspace = Workspace {
                token: secret(&object, "linearToken", at),
                refresh_token: secret(&object, "linearRefreshToken", at),
                slug: object.text("linearWorkspaceSlug").or_else(|| slug.clone()),
                name: object.text("linearWorkspaceName"),
            };
            object.finish();
            (id, workspace)
        });
    workspaces.collect()
}

/// What agents get in every repository that does not say otherwise.
fn agents(document: &Object<'_>, at: &Whereabouts<'_>) -> AgentDefaults {
    document.deprecated("defaultModel", "use `claudeDefaultModel`");
    document.deprecated("defaultFallbackModel", "use `claudeDefaultFallbackModel`");
    document.deprecated("defaultAllowedTools", "use `linearAllowedTools`");
    let older = |newer: Option<String>, key| newer.or_else(|| document.text(key));
    let prompts = document.object("promptDefaults");
    let by_mode = MODES.into_iter().filter_map(|mode| {
        let object = prompts.object(mode);
        let there = object.is_there();
        let tools = mode_tools(&object);
        object.finish();
        there.then_some((mode, tools))
    });
    let by_mode = by_mode.collect();
    prompts.finish();
    let models = |model, fallback_model| Models {
        model,
        fallback_model,
    };
    let claude = models(
        older(document.text("claudeDefaultModel"), "defaultModel"),
        older(
            document.text("claudeDefaultFallbackModel"),
            "defaultFallbackModel",
        ),
    );
    let cursor = models(
        document.text("cursorDefaultModel"),
        document.text("cursorDefaultFallbackModel"),
    );
    AgentDefaults {
        program: document.word("defaultRunner", RUNNERS).map(str::to_owned),
        models: BTreeMap::from([
            ("claude", claude),
            ("codex", models(document.text("codexDefaultModel"), None)),
            ("gemini", models(document.text("geminiDefaultModel"), None)),
            ("cursor", cursor),
        ]),
        allowed_tools: document
            .texts("linearAllowedTools")
            .or_else(|| document.texts("defaultAllowedTools")),
        disallowed_tools: document.texts("defaultDisallowedTools").unwrap_or_default(),
        by_mode,
        mcp: paths(document.texts("linearMcpConfigs"), at),
    }
}

/// The agent programs that Cyrus knows.
const RUNNERS: &[(&str, &str)] = &[
    ("claude", "claude"),
    ("gemini", "gemini"),
    ("codex", "codex"),
    ("cursor", "cursor"),
];

/// Cyrus's keys that mean nothing to us; their types are checked all the same.
fn unused_by_us(document: &Object<'_>, at: &Whereabouts<'_>) {
    const TUNNEL: &str = "ngrokAuthToken";
    if document
        .text(TUNNEL)
        .is_some_and(|it| !it.trim().is_empty())
    {
        at.noticed.plain.borrow_mut().push(document.path(TUNNEL));
    }
    document.text("stripeCustomerId");
    for key in [
        "slackAllowedTools",
        "githubAllowedTools",
        "slackMcpConfigs",
        "githubMcpConfigs",
    ] {
        document.texts(key);
    }
    for key in [
        "issueUpdateTrigger",
        "slackThreadFollowing",
        "prReviewTrigger",
    ] {
        document.flag(key);
    }
    access_control(document);
    let sandbox = document.object("sandbox");
    if sandbox.flag("enabled") == Some(true) {
        document.findings.warn(format!(
            "`sandbox.enabled` in {}: this version does not filter what agents reach on the network",
            document.place
        ));
    }
    for key in ["httpProxyPort", "socksProxyPort"] {
        sandbox.whole(key, 0..=u32::from(u16::MAX));
    }
    for key in ["systemWideCert", "logRequests"] {
        sandbox.flag(key);
    }
    sandbox.object("networkPolicy");
    sandbox.finish();
}

/// Who may start work. It is not kept yet, and that must not be silent.
pub(super) fn access_control(object: &Object<'_>) {
    let control = object.object("userAccessControl");
    if control.is_there() {
        object.findings.warn(format!(
            "`{}` in {}: this version does not restrict who may start work; Linear does, by who \
             may delegate issues to the app",
            object.path("userAccessControl"),
            object.place
        ));
    }
    for key in ["allowedUsers", "blockedUsers"] {
        if let Some(value) = control.get(key)
            && !value.is_array()
        {
            control.wrong_type(key, value, "an array of users");
        }
    }
    control.word("blockBehavior", &[("silent", ()), ("comment", ())]);
    control.text("blockMessage");
    control.finish();
}

/// The tools of one mode: the keys `allowedTools` and `disallowedTools`.
pub(super) fn mode_tools(object: &Object<'_>) -> ModeTools {
    let allowed = object.get("allowedTools").and_then(|value| {
        let tools = tools::parse(value);
        tools
            .map_err(|what| object.problem("allowedTools", what))
            .ok()
    });
    ModeTools {
        allowed,
        disallowed: object.texts("disallowedTools"),
    }
}

pub(super) fn secret(
    object: &Object<'_>,
    key: &'static str,
    at: &Whereabouts<'_>,
) -> Option<Secret> {
    let text = object.text(key)?;
    let secret = secret::resolve(&text, &object.path(key), object.place, at);
    secret.map_err(|what| object.problem(key, what)).ok()
}

pub(super) fn paths(texts: Option<Vec<String>>, at: &Whereabouts<'_>) -> Vec<String> {
    let expanded = texts
        .into_iter()
        .flatten()
        .map(|it| expand_home(&it, at.user_home));
    expanded
        .map(|it| it.to_string_lossy().into_owned())
        .collect()
}
