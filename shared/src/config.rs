//! `config.json`, the environment and what was set become [`Settings`]; decides
//! nothing about a single issue but which repository and which rules it falls
//! under. [`Sources`] are made into settings without asking anybody; [`Live`]
//! are the settings that follow what is set.
//!
//! What was set beats a variable, a variable beats the file, the file beats the
//! default. Nothing wrong is passed over: an unknown key is a warning, a wrong value an error that names
//! the key, the place and the remedy.

mod agents;
mod env;
mod file;
mod kept;
mod keys;
mod live;
mod read;
mod repository;
mod route;
mod secret;
mod settle;
mod sources;
mod tools;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use self::env::Env;
pub use self::kept::{FILE_BYTES_MAX, Kept, SHELF};
pub use self::keys::{Entry, Source, check_key};
pub use self::live::{Changed, Configuration, Live, Refused};
pub use self::read::{ConfigError, Problem};
pub use self::repository::RepositorySettings;
pub use self::secret::{Absent, Reference, Secret, Secrets};
pub(crate) use self::secret::{plain, read_file as read_secret_file};
pub use self::sources::{Sources, of_environment, place_of_store};
use crate::issue::{Approval, Planning, Strategy, Verbosity};
use crate::secrets::Vault;

/// The largest configuration that is read, in bytes.
const CONFIG_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Variables that hold secrets of ours: no agent ever sees them.
pub const SECRET_VARIABLES: [&str; 11] = [
    "CYRUS_API_TOKEN",
    "CYRUS_CONFIG_JSON",
    "CYRUS_RUNNER_TOKEN",
    "LINEAR_API_TOKEN",
    "LINEAR_CLIENT_SECRET",
    "LINEAR_WEBHOOK_SECRET",
    "GITHUB_TOKEN",
    "GITHUB_APP_PRIVATE_KEY",
    "GITHUB_WEBHOOK_SECRET",
    "CODEGEN_API_TOKEN",
    "CODEGEN_WEBHOOK_SECRET",
];

/// Everything that can be configured, with its defaults filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    pub home: PathBuf,
    /// Where the configuration was read from, for people.
    pub place: String,
    pub store: StorePlace,
    pub listen: SocketAddr,
    /// Where others reach this service.
    pub public_url: Option<String>,
    /// `None`: `/api` is open, on loopback only.
    pub api_token: Option<Secret>,
    pub poll: Duration,
    pub strategy: Strategy,
    pub planning: PlanningSettings,
    pub costs: Costs,
    pub limits: Limits,
    pub features: Features,
    pub verbosity: Verbosity,
    pub runner: RunnerSettings,
    pub linear: LinearSettings,
    pub github: GithubSettings,
    /// `None`: nothing is ever sent to Codegen.
    pub codegen: Option<CodegenSettings>,
    pub repositories: Vec<RepositorySettings>,
    /// Where secrets are read again.
    pub vault: Arc<Vault>,
    agents: AgentDefaults,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorePlace {
    Sqlite(PathBuf),
    /// The name of a table.
    Dynamodb(String),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanningSettings {
    pub mode: Planning,
    pub approval: Approval,
    pub tasks_max: usize,
    pub sub_issues: bool,
}

/// USD. `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    pub per_task_max: Option<f64>,
    pub per_issue_max: Option<f64>,
    pub per_day_max: Option<f64>,
    pub per_run: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub parallel_max: usize,
    pub attempts_max: u32,
    pub task_timeout_seconds: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    pub parallel_execution: bool,
    pub use_mcp_servers: bool,
    pub enable_tracing: bool,
}

#[derive(Clone, Debug)]
pub struct RunnerSettings {
    /// Agents at the same time on this machine; 0: none run here.
    pub concurrency: usize,
    pub heartbeat: Duration,
    /// Variables that agents get beside the fixed list.
    pub agent_env: Vec<String>,
    /// Where agent programs are, by the variable that says so: `CLAUDE_BIN`, ….
    pub programs: BTreeMap<String, PathBuf>,
    /// Runs in every new worktree, before the repository's own script.
    pub setup_script: Option<PathBuf>,
    pub token: Option<Secret>,
    /// Runners that jobs are pushed to.
    pub urls: Vec<String>,
    /// Where a runner asks for jobs.
    pub control_url: Option<String>,
}

#[derive(Clone, Debug)]
pub struct LinearSettings {
    pub api_url: String,
    pub oauth_url: String,
    pub webhook_secret: Option<Secret>,
    /// Beats the tokens of the workspaces.
    pub api_token: Option<Secret>,
    pub client: Option<LinearClient>,
    /// By Linear's id.
    pub workspaces: BTreeMap<String, Workspace>,
}

#[derive(Clone, Debug)]
pub struct LinearClient {
    pub id: String,
    pub secret: Secret,
}

/// A workspace of Linear's, as `linearWorkspaces` has it.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// `None` only where an error about it was told.
    pub token: Option<Secret>,
    pub refresh_token: Option<Secret>,
    pub slug: Option<String>,
    pub name: Option<String>,
}

#[derive(Clone, Debug)]
pub struct GithubSettings {
    pub api_url: String,
    pub token: Option<Secret>,
    pub app: Option<GithubApp>,
    pub webhook_secret: Option<Secret>,
}

#[derive(Clone, Debug)]
pub struct GithubApp {
    pub id: String,
    pub installation_id: String,
    pub private_key: Secret,
}

#[derive(Clone, Debug)]
pub struct CodegenSettings {
    pub api_url: String,
    /// As it was written: what is no number makes the executor unhealthy, nothing else.
    pub org_id: Option<String>,
    pub token: Option<Secret>,
    pub webhook_secret: Option<Secret>,
}

/// What agents get in every repository that does not say otherwise.
#[derive(Clone, Debug, Default)]
struct AgentDefaults {
    /// The program that is run where an issue does not ask for another one.
    program: Option<String>,
    /// By program.
    models: BTreeMap<&'static str, Models>,
    allowed_tools: Option<Vec<String>>,
    disallowed_tools: Vec<String>,
    by_mode: BTreeMap<&'static str, ModeTools>,
    mcp: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Models {
    model: Option<String>,
    fallback_model: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct ModeTools {
    allowed: Option<Vec<String>>,
    disallowed: Option<Vec<String>>,
}

/// Settings, and what their author should know about them.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub warnings: Vec<String>,
    /// Secrets that must be looked up before the settings are whole.
    pub absent: Vec<Absent>,
    /// Keys of the file that hold a secret itself, rather than say where it lies.
    pub plain_secrets: Vec<String>,
}

/// Loads the configuration without asking anybody: neither the store, which may
/// keep a copy of it, nor AWS, where secrets may lie. See [`Sources::find`] for
/// the order of places.
pub fn load(env: &Env, home: Option<&Path>, config: Option<&Path>) -> Result<Loaded, ConfigError> {
    Sources::find(env, home, config, &Kept::default())?.settle()
}

/// Makes settings of a document's text. `place` names it for people; relative
/// paths of secrets start in `folder`, else in `home`.
pub fn parse(
    text: &str,
    place: &str,
    folder: Option<&Path>,
    env: &Env,
    home: &Path,
) -> Result<Loaded, ConfigError> {
    let mut sources = Sources::of_document(text, place, env, home);
    sources.document.folder = folder.map(Path::to_path_buf);
    sources.settle()
}

impl LinearSettings {
    /// The token to speak to Linear with.
    pub fn token(&self) -> Option<&Secret> {
        let of_workspace = || self.workspaces.values().find_map(|it| it.token.as_ref());
        self.api_token.as_ref().or_else(of_workspace)
    }
}

/// The home folder: `home` (the flag `--home`), else `CYRUS_HOME`, else `~/.cyrus`.
pub fn home_folder(env: &Env, home: Option<&Path>) -> Result<PathBuf, ConfigError> {
    let user_home = env.get("HOME");
    let of_variable = || env.get("CYRUS_HOME").map(|it| expand(it, user_home));
    let default = || user_home.map(|it| Path::new(it).join(".cyrus"));
    home.map(Path::to_path_buf)
        .or_else(of_variable)
        .or_else(default)
        .map(absolute)
        .ok_or_else(|| {
            let what =
                "is not set, nor is HOME: say where the home folder is, by it or by `--home`";
            let key = Some("CYRUS_HOME".to_owned());
            ConfigError {
                problems: vec![Problem {
                    key,
                    place: env::PLACE.into(),
                    what: what.into(),
                }],
            }
        })
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let place = path.display().to_string();
    let size =
        fs::metadata(path).map_err(|error| alone(&place, format!("cannot be read: {error}")))?;
    if size.len() > CONFIG_BYTES_MAX {
        return Err(alone(
            &place,
            format!("is larger than {CONFIG_BYTES_MAX} bytes"),
        ));
    }
    fs::read_to_string(path).map_err(|error| alone(&place, format!("cannot be read: {error}")))
}

/// A problem of the whole document.
fn alone(place: &str, what: String) -> ConfigError {
    ConfigError {
        problems: vec![Problem {
            key: None,
            place: place.into(),
            what,
        }],
    }
}

/// A path, with `~` for the user's home.
fn expand(path: &str, user_home: Option<&str>) -> PathBuf {
    absolute(expand_home(path, user_home))
}

/// Programs are started in other folders, where a relative path means something else.
fn absolute(path: PathBuf) -> PathBuf {
    std::path::absolute(&path).unwrap_or(path)
}

fn expand_home(path: &str, user_home: Option<&str>) -> PathBuf {
    match (path.strip_prefix('~'), user_home) {
        (Some(""), Some(home)) => home.into(),
        (Some(rest), Some(home)) if rest.starts_with('/') => {
            Path::new(home).join(rest.trim_start_matches('/'))
        }
        _ => path.into(),
    }
}
