//! What holds of everything that was said: the variable, else the file, else the
//! default. What contradicts itself is told here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::env::Variables;
use super::file::{COST_RANGE, CodegenKeys, ConfigFile, CostKeys, STRATEGIES};
use super::{
    AgentDefaults, CodegenSettings, Costs, Env, Features, GithubApp, GithubSettings, Limits,
    LinearClient, LinearSettings, PlanningSettings, RunnerSettings, Settings, StorePlace,
    Workspace, agents, expand, expand_home, read,
};
use crate::issue::{Planning, Strategy, Verbosity};
use crate::secrets::Vault;

const LINEAR_API_URL: &str = "https://api.linear.app/graphql";
const LINEAR_OAUTH_URL: &str = "https://api.linear.app/oauth/token";
const GITHUB_API_URL: &str = "https://api.github.com";
const CODEGEN_API_URL: &str = "https://api.codegen.com";
const PORT: u16 = 3456;
const POLL_SECONDS: f64 = 10.0;
const POLL_SECONDS_RANGE: RangeInclusive<f64> = 0.05..=3_600.0;
/// What a run is booked at where its executor reports no cost, USD.
const COST_PER_RUN: f64 = 0.40;
/// The limits of a configuration with a `codegen` section, USD.
const COSTS: CostKeys = CostKeys {
    per_task: Some(1.0),
    per_day: Some(50.0),
    per_issue: Some(10.0),
};
const MAX_TASKS: u32 = 20;
const PARALLEL_TASKS: u32 = 10;
const ATTEMPTS: u32 = 3;
const TASK_TIMEOUT_MINUTES: f64 = 120.0;
const CONCURRENCY: u32 = 2;
const HEARTBEAT_SECONDS: f64 = 30.0;
/// How the variables end that name a program.
const PROGRAM_SUFFIX: &str = "_BIN";

pub(super) fn settle(
    file: ConfigFile,
    variables: &Variables<'_>,
    place: &str,
    home: &Path,
    vault: Arc<Vault>,
) -> Settings {
    let findings = variables.findings;
    let strategy = strategy(&file, variables, place);
    let costs = costs(&file, variables, place);
    // Without the section everything is as Cyrus had it: planned on demand only.
    let planning = if file.codegen.is_some() {
        Planning::Auto
    } else {
        Planning::Labelled
    };
    let parallel_execution = file
        .codegen
        .as_ref()
        .and_then(|it| it.parallel_execution)
        .unwrap_or(true);
    let parallel_max = file.max_parallel_tasks.unwrap_or(PARALLEL_TASKS) as usize;
    let timeout_minutes = file.task_timeout_minutes.unwrap_or(TASK_TIMEOUT_MINUTES);
    let api_token = variables.secret("CYRUS_API_TOKEN");
    if file.workspaces.len() > 1 && variables.env.get("LINEAR_API_TOKEN").is_none() {
        findings.warn(format!(
            "`linearWorkspaces` in {place}: this version serves one workspace, the first; name its \
             token in LINEAR_API_TOKEN to choose another"
        ));
    }
    Settings {
        home: home.into(),
        place: place.into(),
        store: variables
            .parsed("CYRUS_STORE", |_| store_place(variables.env, home))
            .unwrap_or_else(|| StorePlace::Sqlite(home.join("cyrus.db"))),
        listen: listen(variables, api_token.is_some()),
        public_url: variables
            .url("CYRUS_PUBLIC_URL")
            .or_else(|| variables.url("CYRUS_BASE_URL")),
        api_token,
        poll: seconds(
            variables.number("CYRUS_POLL_SECONDS", POLL_SECONDS_RANGE),
            POLL_SECONDS,
        ),
        strategy,
        planning: PlanningSettings {
            mode: file.planning_mode.unwrap_or(planning),
            approval: file.planning_approval.unwrap_or_default(),
            tasks_max: file.planning_max_tasks.unwrap_or(MAX_TASKS) as usize,
            sub_issues: file.planning_sub_issues.unwrap_or(true),
        },
        costs,
        limits: Limits {
            parallel_max: if parallel_execution { parallel_max } else { 1 },
            attempts_max: file.max_attempts.unwrap_or(ATTEMPTS),
            // In range, as the reader has made sure.
            task_timeout_seconds: (timeout_minutes * 60.0).ceil() as i64,
        },
        features: Features {
            parallel_execution,
            use_mcp_servers: file
                .codegen
                .as_ref()
                .and_then(|it| it.use_mcp_servers)
                .unwrap_or(true),
            enable_tracing: file
                .codegen
                .as_ref()
                .and_then(|it| it.enable_tracing)
                .unwrap_or(true),
        },
        verbosity: file.verbosity.unwrap_or(Verbosity::Normal),
        runner: RunnerSettings {
            concurrency: file.concurrency.unwrap_or(CONCURRENCY) as usize,
            heartbeat: seconds(file.heartbeat_seconds, HEARTBEAT_SECONDS),
            agent_env: file.agent_env,
            programs: programs(variables),
            setup_script: file.setup_script,
            token: variables.secret("CYRUS_RUNNER_TOKEN"),
            urls: variables.private_urls("CYRUS_RUNNER_URL"),
            control_url: variables.url("CYRUS_CONTROL_URL"),
        },
        linear: linear(variables, file.workspaces),
        github: github(variables),
        codegen: codegen(variables, file.codegen),
        repositories: file.repositories,
        vault,
        agents: AgentDefaults {
            program: file.agents.program.or_else(|| {
                agents::program_of_keys(|it| variables.env.get(it).is_some_and(|it| !it.is_empty()))
            }),
            ..file.agents
        },
    }
}

/// Every variable that names a program. A bare name is looked for on the agents' PATH.
fn programs(variables: &Variables<'_>) -> BTreeMap<String, PathBuf> {
    let named = variables.env.0.iter();
    let named = named.filter(|(name, place)| name.ends_with(PROGRAM_SUFFIX) && !place.is_empty());
    named
        .map(|(name, place)| (name.clone(), expand_home(place, variables.at.user_home)))
        .collect()
}

fn strategy(file: &ConfigFile, variables: &Variables<'_>, place: &str) -> Strategy {
    let enabled = file.codegen.as_ref().is_some_and(|it| it.enabled);
    let disabled = file.codegen.is_some() && !enabled;
    let default = if enabled {
        Strategy::HybridSmart
    } else {
        Strategy::LocalOnly
    };
    let from_variable = variables.parsed("CYRUS_STRATEGY", |text| read::one_of(text, STRATEGIES));
    let strategy = from_variable
        .or_else(|| file.codegen.as_ref().and_then(|it| it.strategy))
        .unwrap_or(default);
    match strategy {
        Strategy::CloudOnly if disabled => {
            let what = "is false, but the strategy `cloud-only` runs everything there: enable it, \
                        or choose another strategy";
            variables.findings.problem("codegen.enabled", place, what);
        }
        Strategy::HybridSmart | Strategy::HybridParallel | Strategy::CostOptimized if disabled => {
            variables.findings.warn(format!(
                "`codegen.enabled` in {place} is false: instead of `{strategy}`, everything runs \
                 on this machine"
            ));
            return Strategy::LocalOnly;
        }
        Strategy::LocalOnly
        | Strategy::CloudOnly
        | Strategy::HybridSmart
        | Strategy::HybridParallel
        | Strategy::CostOptimized => {}
    }
    strategy
}

fn costs(file: &ConfigFile, variables: &Variables<'_>, place: &str) -> Costs {
    let default = if file.codegen.is_some() {
        COSTS
    } else {
        CostKeys::default()
    };
    let codegen = file.codegen.as_ref().map(|it| it.costs).unwrap_or_default();
    let limit = |variable: &str, of: fn(&CostKeys) -> Option<f64>| {
        let lower = of(&codegen)
            .into_iter()
            .chain(of(&file.limits))
            .reduce(f64::min);
        variables
            .number(variable, COST_RANGE)
            .or(lower)
            .or(of(&default))
    };
    let per_task_max = limit("CYRUS_MAX_COST_PER_TASK", |it| it.per_task);
    let asked = file.codegen.as_ref().and_then(|it| it.cost_per_run);
    let mut per_run = asked.unwrap_or(COST_PER_RUN);
    if let Some(max) = per_task_max.filter(|max| per_run > *max) {
        if file.codegen.is_some() {
            let default = if asked.is_some() {
                ""
            } else {
                " (the default)"
            };
            let what = format!(
                "is {per_run}{default}, above what a task may cost (`maxCostPerTask`, {max}): \
                 lower the one or raise the other"
            );
            variables
                .findings
                .problem("codegen.costPerRun", place, what);
        }
        // No such key stands there: then a run is booked at what it may cost at most.
        per_run = max;
    }
    Costs {
        per_task_max,
        per_issue_max: limit("CYRUS_MAX_COST_PER_ISSUE", |it| it.per_issue),
        per_day_max: limit("CYRUS_MAX_COST_PER_DAY", |it| it.per_day),
        per_run,
    }
}

/// Beyond loopback nothing is served to everybody.
fn listen(variables: &Variables<'_>, has_token: bool) -> SocketAddr {
    let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let Some(address) = variables.parsed("CYRUS_LISTEN", |text| {
        let text = text.replacen("localhost:", "127.0.0.1:", 1);
        text.parse::<SocketAddr>()
            .map_err(|_| "must be an address and a port, like `127.0.0.1:3456`".to_owned())
    }) else {
        let port = variables.parsed("CYRUS_SERVER_PORT", |text| {
            text.parse::<u16>()
                .map_err(|_| "must be a port, a number up to 65535".to_owned())
        });
        return local(port.unwrap_or(PORT));
    };
    if !address.ip().is_loopback() && !has_token {
        let what = format!(
            "is {address}, which others can reach, and CYRUS_API_TOKEN is not set: set it, or \
             listen on 127.0.0.1"
        );
        variables.problem("CYRUS_LISTEN", what);
    }
    address
}

/// Where the store is.
pub(super) fn store_place(env: &Env, home: &Path) -> Result<StorePlace, String> {
    let Some(text) = env.get("CYRUS_STORE") else {
        return Ok(StorePlace::Sqlite(home.join("cyrus.db")));
    };
    match text.split_once(':') {
        Some(("sqlite", path)) if !path.is_empty() => {
            Ok(StorePlace::Sqlite(expand(path, env.get("HOME"))))
        }
        Some(("dynamodb", table)) if !table.is_empty() => Ok(StorePlace::Dynamodb(table.into())),
        Some(_) | None => Err("must be `sqlite:PATH` or `dynamodb:TABLE`".into()),
    }
}

fn linear(variables: &Variables<'_>, workspaces: BTreeMap<String, Workspace>) -> LinearSettings {
    let client = (
        variables.text("LINEAR_CLIENT_ID"),
        variables.secret("LINEAR_CLIENT_SECRET"),
    );
    LinearSettings {
        api_url: variables
            .url("LINEAR_API_URL")
            .unwrap_or_else(|| LINEAR_API_URL.into()),
        oauth_url: variables
            .url("LINEAR_OAUTH_URL")
            .unwrap_or_else(|| LINEAR_OAUTH_URL.into()),
        webhook_secret: variables.secret("LINEAR_WEBHOOK_SECRET"),
        api_token: variables.secret("LINEAR_API_TOKEN"),
        client: match client {
            (Some(id), Some(secret)) => Some(LinearClient { id, secret }),
            (None, _) | (_, None) => None,
        },
        workspaces,
    }
}

fn installation(text: &str) -> Result<String, String> {
    if text.bytes().all(|it| it.is_ascii_digit()) {
        return Ok(text.to_owned());
    }
    Err("must be the number at the end of the address of the installation's settings".into())
}

fn github(variables: &Variables<'_>) -> GithubSettings {
    let app = (
        variables.text("GITHUB_APP_ID"),
        variables.parsed("GITHUB_APP_INSTALLATION_ID", installation),
        variables.secret("GITHUB_APP_PRIVATE_KEY"),
    );
    GithubSettings {
        api_url: variables
            .url("GITHUB_API_URL")
            .unwrap_or_else(|| GITHUB_API_URL.into()),
        token: variables.secret("GITHUB_TOKEN"),
        app: match app {
            (Some(id), Some(installation_id), Some(private_key)) => Some(GithubApp {
                id,
                installation_id,
                private_key,
            }),
            (None, None, None) => None,
            (id, installation_id, private_key) => {
                for (name, is_there) in [
                    ("GITHUB_APP_ID", id.is_some()),
                    ("GITHUB_APP_INSTALLATION_ID", installation_id.is_some()),
                    ("GITHUB_APP_PRIVATE_KEY", private_key.is_some()),
                ] {
                    // One that is there and wrong was told.
                    if !is_there && variables.text(name).is_none() {
                        let what = "is not set: an App needs its id, the id of its installation \
                                    and its key";
                        variables.problem(name, what);
                    }
                }
                None
            }
        },
        webhook_secret: variables.secret("GITHUB_WEBHOOK_SECRET"),
    }
}

fn codegen(variables: &Variables<'_>, keys: Option<CodegenKeys>) -> Option<CodegenSettings> {
    let token = variables.secret("CODEGEN_API_TOKEN");
    let org_id = variables.text("CODEGEN_ORG_ID");
    let webhook_secret = variables.secret("CODEGEN_WEBHOOK_SECRET");
    let api_url = variables
        .url("CODEGEN_API_URL")
        .unwrap_or_else(|| CODEGEN_API_URL.into());
    let (key_org_id, key_token) = match keys {
        Some(keys) if !keys.enabled => return None,
        Some(keys) => (keys.org_id, keys.token),
        // Without a section, a strategy from a variable may still need it.
        None if token.is_none() && org_id.is_none() => return None,
        None => (None, None),
    };
    Some(CodegenSettings {
        api_url,
        org_id: org_id.or(key_org_id),
        token: token.or(key_token),
        webhook_secret,
    })
}

fn seconds(given: Option<f64>, default: f64) -> Duration {
    // In range, as the reader has made sure.
    Duration::from_secs_f64(given.unwrap_or(default))
}
