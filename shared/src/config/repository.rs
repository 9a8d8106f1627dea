//! One entry of `repositories`: Cyrus's keys, `merge` and `validate`.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::file::{self, MODES, Whereabouts, mode_tools, paths, secret};
use super::read::{self, Object};
use super::{ModeTools, Workspace, expand};
use crate::github::slug_of;
use crate::issue::{MergeMethod, MergeMode, Repository, usual_protected};

const CHECK_GRACE_SECONDS: f64 = 60.0;
const CHECK_GRACE_SECONDS_RANGE: RangeInclusive<f64> = 0.0..=86_400.0;
const REPAIRS_MAX: u32 = 3;
const REPAIRS_RANGE: RangeInclusive<u32> = 0..=100;
/// The workspace of a token that stands in a repository without one.
const WORKSPACE_UNNAMED: &str = "default";
/// The longest `.git/config` that is read, in bytes.
const GIT_CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// A repository that issues may be worked on in.
#[derive(Clone, Debug)]
pub struct RepositorySettings {
    pub id: String,
    pub name: String,
    pub path: PathBuf,
    pub base_branch: String,
    pub workspace_dir: PathBuf,
    /// `owner/name`, from `githubUrl`, else from the clone's origin.
    pub slug: Option<String>,
    pub active: bool,
    pub team_keys: Vec<String>,
    pub routing_labels: Vec<String>,
    pub project_keys: Vec<String>,
    pub model: Option<String>,
    pub fallback_model: Option<String>,
    pub allowed_tools: Option<Vec<String>>,
    pub disallowed_tools: Option<Vec<String>>,
    pub mcp: Vec<String>,
    pub append_instruction: Option<String>,
    /// Its own settings and servers of the agent count, too: they run commands.
    pub trusted: bool,
    pub(super) label_prompts: BTreeMap<&'static str, LabelPrompt>,
    /// Labels that, beside an orchestrator label, ask for stacked changes.
    pub(super) graphite_labels: Vec<String>,
    pub merge: MergeMode,
    pub method: MergeMethod,
    pub required_checks: Vec<String>,
    pub check_grace_seconds: i64,
    pub protected_paths: Vec<String>,
    pub require_approval: bool,
    pub commands: Vec<String>,
    pub reviewer: bool,
    pub repairs_max: u32,
    /// A cancellation leaves pull requests open.
    pub keep_pulls: bool,
}

impl RepositorySettings {
    /// Where the work happens; without a slug where none is known.
    pub fn ground(&self) -> Repository {
        Repository {
            id: self.id.clone(),
            path: self.path.to_string_lossy().into_owned(),
            workspace_dir: self.workspace_dir.to_string_lossy().into_owned(),
            base_branch: self.base_branch.clone(),
            slug: self.slug.clone().unwrap_or_default(),
        }
    }
}

/// The labels that ask for a mode, and the tools that it has.
#[derive(Clone, Debug, Default)]
pub(super) struct LabelPrompt {
    pub(super) labels: Vec<String>,
    pub(super) tools: ModeTools,
}

/// Reads `repositories`, and moves the tokens that older files keep there to `workspaces`.
pub(super) fn read_all(
    document: &Object<'_>,
    workspaces: &mut BTreeMap<String, Workspace>,
    at: &Whereabouts<'_>,
) -> Vec<RepositorySettings> {
    let Some(objects) = document.objects("repositories") else {
        if document.get("repositories").is_none() {
            document.missing("repositories", "an array of objects (it may be empty)");
        }
        return Vec::new();
    };
    let mut repositories: Vec<RepositorySettings> = Vec::new();
    for object in objects {
        legacy_token(&object, workspaces, at);
        let repository = read(&object, at);
        if !repository.id.is_empty() && repositories.iter().any(|it| it.id == repository.id) {
            let what = format!(
                "`{}` is used twice, each repository needs its own",
                repository.id
            );
            object.problem("id", what);
        }
        object.finish();
        repositories.push(repository);
    }
    repositories
}

fn read(object: &Object<'_>, at: &Whereabouts<'_>) -> RepositorySettings {
    let path = expand(&object.required("repositoryPath"), at.user_home);
    let merge = merge(object);
    let validate = validate(object);
    let (label_prompts, graphite_labels) = label_prompts(object);
    let workspace_dir = object
        .text("workspaceBaseDir")
        .map(|it| expand(&it, at.user_home));
    file::access_control(object);
    for key in ["gitlabUrl", "promptTemplatePath"] {
        object.text(key);
    }
    RepositorySettings {
        id: object.required("id"),
        name: object.required("name"),
        base_branch: object.required("baseBranch"),
        slug: slug(object).or_else(|| slug_of(&origin(&path)?)),
        workspace_dir: workspace_dir.unwrap_or_else(|| at.worktrees.clone()),
        path,
        active: object.flag("isActive").unwrap_or(true),
        team_keys: object.texts("teamKeys").unwrap_or_default(),
        routing_labels: object.texts("routingLabels").unwrap_or_default(),
        project_keys: object.texts("projectKeys").unwrap_or_default(),
        model: object.text("model"),
        fallback_model: object.text("fallbackModel"),
        allowed_tools: object.texts("allowedTools"),
        disallowed_tools: object.texts("disallowedTools"),
        mcp: mcp(object, at),
        append_instruction: object.text("appendInstruction"),
        trusted: object.flag("trusted").unwrap_or(false),
        label_prompts,
        graphite_labels,
        merge: merge.mode,
        method: merge.method,
        required_checks: validate.required_checks,
        check_grace_seconds: validate.check_grace_seconds,
        protected_paths: merge.protected_paths,
        require_approval: merge.require_approval,
        commands: validate.commands,
        reviewer: validate.reviewer,
        repairs_max: validate.repairs_max,
        keep_pulls: merge.keep_pulls,
    }
}

fn slug(object: &Object<'_>) -> Option<String> {
    let url = object.text("githubUrl")?;
    // People leave the scheme out.
    let slug = slug_of(&url).or_else(|| slug_of(&format!("https://{url}")));
    if slug.is_none() {
        object.problem("githubUrl", "must be like `https://github.com/OWNER/NAME`");
    }
    slug
}

fn mcp(object: &Object<'_>, at: &Whereabouts<'_>) -> Vec<String> {
    let Some(value) = object.get("mcpConfigPath") else {
        return Vec::new();
    };
    let texts = value
        .as_str()
        .map(|it| vec![it.to_owned()])
        .or_else(|| read::texts(value));
    if texts.is_none() {
        object.wrong_type("mcpConfigPath", value, "a string or an array of strings");
    }
    paths(texts, at)
}

/// What `merge` says.
struct Merge {
    mode: MergeMode,
    method: MergeMethod,
    protected_paths: Vec<String>,
    require_approval: bool,
    keep_pulls: bool,
}

fn merge(object: &Object<'_>) -> Merge {
    let merge = object.object("merge");
    let mode = merge.word(
        "mode",
        &[("auto", MergeMode::Auto), ("manual", MergeMode::Manual)],
    );
    let method = merge.word(
        "method",
        &[
            ("squash", MergeMethod::Squash),
            ("merge", MergeMethod::Merge),
            ("rebase", MergeMethod::Rebase),
        ],
    );
    let read = Merge {
        mode: mode.unwrap_or(MergeMode::Manual),
        method: method.unwrap_or(MergeMethod::Squash),
        protected_paths: merge
            .texts("protectedPaths")
            .unwrap_or_else(usual_protected),
        require_approval: merge.flag("requireApproval").unwrap_or(false),
        keep_pulls: !merge.flag("closeOnCancel").unwrap_or(true),
    };
    merge.finish();
    read
}

/// What `validate` says.
struct Validate {
    required_checks: Vec<String>,
    check_grace_seconds: i64,
    commands: Vec<String>,
    reviewer: bool,
    repairs_max: u32,
}

fn validate(object: &Object<'_>) -> Validate {
    let validate = object.object("validate");
    let grace = validate.number("checkGraceSeconds", CHECK_GRACE_SECONDS_RANGE);
    let read = Validate {
        required_checks: validate.texts("requiredChecks").unwrap_or_default(),
        check_grace_seconds: grace.unwrap_or(CHECK_GRACE_SECONDS).ceil() as i64,
        commands: validate.texts("commands").unwrap_or_default(),
        reviewer: validate.flag("reviewer").unwrap_or(false),
        repairs_max: validate
            .whole("maxRepairs", REPAIRS_RANGE)
            .unwrap_or(REPAIRS_MAX),
    };
    validate.finish();
    read
}

fn label_prompts(object: &Object<'_>) -> (BTreeMap<&'static str, LabelPrompt>, Vec<String>) {
    let prompts = object.object("labelPrompts");
    let labels_of = |key: &'static str| {
        let value = prompts.get(key)?;
        if let Some(labels) = read::texts(value) {
            return Some(LabelPrompt {
                labels,
                tools: ModeTools::default(),
            });
        }
        if !value.is_object() {
            prompts.wrong_type(key, value, "an array of labels or an object with `labels`");
            return None;
        }
        let object = prompts.object(key);
        let tools = mode_tools(&object);
        let labels = object.texts("labels");
        if object.get("labels").is_none() {
            object.missing("labels", "an array of strings");
        }
        object.finish();
        Some(LabelPrompt {
            labels: labels?,
            tools,
        })
    };
    let by_mode = MODES
        .into_iter()
        .filter_map(|mode| Some((mode, labels_of(mode)?)))
        .collect();
    let graphite = labels_of("graphite")
        .map(|it| it.labels)
        .unwrap_or_default();
    prompts.finish();
    (by_mode, graphite)
}

/// Older files keep a workspace's token in each of its repositories.
fn legacy_token(
    object: &Object<'_>,
    workspaces: &mut BTreeMap<String, Workspace>,
    at: &Whereabouts<'_>,
) {
    for key in ["linearToken", "linearRefreshToken", "linearWorkspaceName"] {
        object.deprecated(
            key,
            "it belongs into `linearWorkspaces`, from where it is read if it stands there",
        );
    }
    let id = object
        .text("linearWorkspaceId")
        .unwrap_or_else(|| WORKSPACE_UNNAMED.to_owned());
    let refresh_token = secret(object, "linearRefreshToken", at);
    let name = object.text("linearWorkspaceName");
    if let Some(token) = secret(object, "linearToken", at) {
        workspaces.entry(id).or_insert(Workspace {
            token: Some(token),
            refresh_token,
            slug: None,
            name,
        });
    }
}

/// The URL of a clone's origin, as its configuration has it.
fn origin(clone: &Path) -> Option<String> {
    let config = [clone.join(".git/config"), clone.join("config")]
        .into_iter()
        .find(|path| {
            fs::metadata(path).is_ok_and(|it| it.is_file() && it.len() <= GIT_CONFIG_BYTES_MAX)
        })?;
    let text = fs::read_to_string(config).ok()?;
    let mut lines = text.lines().map(str::trim);
    lines.by_ref().find(|it| *it == r#"[remote "origin"]"#)?;
    let url = lines
        .take_while(|it| !it.starts_with('['))
        .filter_map(|it| it.split_once('='))
        .find(|(key, _)| key.trim() == "url")?
        .1;
    Some(url.trim().to_owned())
}
