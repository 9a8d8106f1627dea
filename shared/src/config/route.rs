//! Which repository an issue belongs to, and which rules hold for it there.
//! The order of precedence is Cyrus's; where Cyrus would guess, the author is
//! asked to say it.

use std::collections::BTreeMap;

use super::repository::LabelPrompt;
use super::{RepositorySettings, Settings};
use crate::issue::{Brief, IssueId, Policy, Rules, SubIssue, TaskKind, clip};

/// The longest name or branch of a tag, in bytes.
const TAG_BYTES_MAX: usize = 200;
/// Works without any configuration.
const ORCHESTRATOR_LABEL: &str = "orchestrator";
const BUG_LABEL: &str = "bug";

impl Settings {
    /// The policy for an issue, or a sentence for its author: why there is
    /// none, and what to do about it.
    pub fn policy(&self, brief: &Brief) -> Result<Policy, String> {
        let (repository, branch) = self.route(brief)?;
        let prompt = prompt(repository, &lower(&brief.labels));
        let mode = prompt.map(kind);
        let mut ground = repository.ground();
        // A scoper's answer goes to Linear, no forge is needed. Else without GitHub it is
        // merged by git, in the clone: where there is none, nobody could.
        let cloned = repository.path.is_dir();
        if ground.slug.is_empty() && !cloned && mode != Some(TaskKind::Scoper) {
            return Err(format!(
                "repository `{}` has no `githubUrl`, and without GitHub it is merged in its clone \
                 at {}, which is not on this machine: add the key, or clone it there ({})",
                repository.id,
                repository.path.display(),
                self.place
            ));
        }
        ground.base_branch = branch.unwrap_or(ground.base_branch);
        Ok(Policy {
            repository: ground,
            planning: self.planning.mode,
            mode,
            bug: is_bug(&brief.labels),
            sub_issues: self.planning.sub_issues.then(|| kinds(repository, brief)),
            strategy: self.strategy,
            merge: repository.merge,
            method: repository.method,
            required_checks: repository.required_checks.clone(),
            check_grace_seconds: repository.check_grace_seconds,
            protected_paths: repository.protected_paths.clone(),
            require_approval: repository.require_approval,
            commands: repository.commands.clone(),
            reviewer: repository.reviewer,
            repairs_max: repository.repairs_max,
            keep_pulls: repository.keep_pulls,
            tasks_max: self.planning.tasks_max,
            parallel_max: self.limits.parallel_max,
            attempts_max: self.limits.attempts_max,
            task_timeout_seconds: self.limits.task_timeout_seconds,
            cost_per_run: self.costs.per_run,
            cost_per_task_max: self.costs.per_task_max,
            cost_per_issue_max: self.costs.per_issue_max,
            verbosity: self.verbosity,
            agent: self.agent(repository, brief),
            tools: self.tools(repository, prompt),
        })
    }

    /// What holds for all issues at once.
    pub fn rules(&self) -> Rules {
        Rules {
            strategy: self.strategy,
            cost_per_task_max: self.costs.per_task_max,
            cost_per_issue_max: self.costs.per_issue_max,
            cost_per_day_max: self.costs.per_day_max,
            cost_per_run: self.costs.per_run,
            approval: self.planning.approval,
        }
    }

    /// The repository of an issue, and the base branch that its author asks for.
    fn route(&self, brief: &Brief) -> Result<(&RepositorySettings, Option<String>), String> {
        let active: Vec<&RepositorySettings> =
            self.repositories.iter().filter(|it| it.active).collect();
        if active.is_empty() {
            return Err(format!(
                "no repository is configured: add one to `repositories` in {}",
                self.place
            ));
        }
        if let Some(tag) = tag(&brief.description) {
            let repository = tagged(&active, &tag)?;
            return Ok((repository, branch(&tag)?));
        }
        if let Some(repository) = labelled(&active, &lower(&brief.labels))? {
            return Ok((repository, None));
        }
        let prefix = brief
            .identifier
            .rsplit_once('-')
            .map_or("", |(prefix, _)| prefix);
        let has = |keys: &[String], key: &str| {
            !key.is_empty() && keys.iter().any(|it| it.trim().eq_ignore_ascii_case(key))
        };
        let project = brief.project.as_deref().unwrap_or_default().trim();
        let first =
            |fits: &dyn Fn(&RepositorySettings) -> bool| active.iter().copied().find(|it| fits(it));
        let found = first(&|it| has(&it.project_keys, project))
            .or_else(|| first(&|it| has(&it.team_keys, &brief.team_key)))
            .or_else(|| first(&|it| has(&it.team_keys, prefix)))
            .or_else(|| {
                first(&|it| {
                    it.project_keys.is_empty()
                        && it.team_keys.is_empty()
                        && it.routing_labels.is_empty()
                })
            });
        match (found, active.as_slice()) {
            (Some(repository), _) => Ok((repository, None)),
            (None, [only]) => Ok((only, None)),
            (None, _) => Err(format!(
                "no repository serves team `{}`: add it to the `teamKeys` of a repository in {}, \
                 or write `[repo=NAME]` into the description; there are {}",
                clip(&brief.team_key, TAG_BYTES_MAX),
                self.place,
                names(&active)
            )),
        }
    }
}

/// The prompt that the labels ask for, by Cyrus's name: first stacked
/// orchestration, then the more special mode before the more general.
fn prompt(repository: &RepositorySettings, labels: &[String]) -> Option<&'static str> {
    let any = |wanted: &[String]| lower(wanted).iter().any(|it| labels.contains(it));
    let asks_for = |mode: &str| {
        let configured = repository
            .label_prompts
            .get(mode)
            .map(|LabelPrompt { labels, .. }| labels);
        configured.is_some_and(|it| any(it))
            || (mode == ORCHESTRATOR_LABEL && labels.iter().any(|it| it == ORCHESTRATOR_LABEL))
    };
    let stacked = any(&repository.graphite_labels) && asks_for("orchestrator");
    if stacked {
        return Some("graphite-orchestrator");
    }
    super::file::MODES.into_iter().find(|mode| asks_for(mode))
}

fn is_bug(labels: &[String]) -> bool {
    let is = |it: &String| it.trim().eq_ignore_ascii_case(BUG_LABEL);
    labels.iter().any(is)
}

/// The kinds that the labels of sub-issues ask for. None is planned itself.
fn kinds(repository: &RepositorySettings, brief: &Brief) -> BTreeMap<IssueId, TaskKind> {
    let kind_of = |it: &SubIssue| {
        let asked = prompt(repository, &lower(&it.labels)).map(kind);
        let asked = asked.or(is_bug(&it.labels).then_some(TaskKind::Debugger))?;
        (asked != TaskKind::Orchestrator).then(|| (it.id.clone(), asked))
    };
    brief.sub_issues.iter().filter_map(kind_of).collect()
}

fn kind(prompt: &str) -> TaskKind {
    match prompt {
        "debugger" => TaskKind::Debugger,
        "builder" => TaskKind::Builder,
        "scoper" => TaskKind::Scoper,
        _ => TaskKind::Orchestrator,
    }
}

/// What stands in `[repo=…]` or `[repos=…]`, or after a bare `repos=`.
fn tag(description: &str) -> Option<String> {
    let bare = || {
        unescaped(description)
            .split_whitespace()
            .find_map(|word| word.strip_prefix("repos=").map(str::to_owned))
            .filter(|it| !it.is_empty())
    };
    tag_of(description, &["repos", "repo"]).or_else(bare)
}

/// The first `[NAME=VALUE]` of a description with one of these names.
pub(super) fn tag_of(description: &str, names: &[&str]) -> Option<String> {
    let text = unescaped(description);
    let value = text.split('[').skip(1).find_map(|rest| {
        let (inside, _) = rest.split_once(']')?;
        let (name, value) = inside.split_once('=')?;
        names.contains(&name).then(|| value.trim().to_owned())
    });
    value.filter(|it| !it.is_empty())
}

/// Linear escapes brackets that are no link.
fn unescaped(description: &str) -> String {
    description
        .replace("\\[", "[")
        .replace("\\]", "]")
        .replace("\\_", "_")
}

fn tagged<'a>(
    active: &[&'a RepositorySettings],
    tag: &str,
) -> Result<&'a RepositorySettings, String> {
    let name = tag.split_once('#').map_or(tag, |(name, _)| name).trim();
    let shown = clip(name, TAG_BYTES_MAX);
    if name.contains(',') {
        return Err(format!(
            "the description names several repositories (`{shown}`), but an issue is worked on in \
             one: name one, and make sub-issues for the others"
        ));
    }
    let is = |repository: &RepositorySettings| {
        let slug = repository.slug.as_deref();
        let last = slug
            .and_then(|it| it.rsplit_once('/'))
            .map(|(_, last)| last);
        let of_url = crate::github::slug_of(name);
        [
            Some(repository.name.as_str()),
            Some(&repository.id),
            slug,
            last,
        ]
        .into_iter()
        .flatten()
        .any(|it| it.eq_ignore_ascii_case(name) || of_url.as_deref() == Some(it))
    };
    active.iter().copied().find(|it| is(it)).ok_or_else(|| {
        format!(
            "the description names the repository `{shown}`, which is not configured; there are {}",
            names(active)
        )
    })
}

/// The branch after `#`. It becomes an argument of git's, so it has to look like one.
fn branch(tag: &str) -> Result<Option<String>, String> {
    let Some((_, branch)) = tag.split_once('#') else {
        return Ok(None);
    };
    let branch = branch.trim();
    let good = branch.len() <= TAG_BYTES_MAX
        && branch.starts_with(|c: char| c.is_ascii_alphanumeric())
        && branch
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./+".contains(c))
        && !["..", "//", "/."].iter().any(|it| branch.contains(it))
        && ![".", "/", ".lock"].iter().any(|it| branch.ends_with(it));
    if good {
        return Ok(Some(branch.to_owned()));
    }
    Err(format!(
        "the description names the branch `{}`, which is none: write `[repo=NAME#BRANCH]`",
        clip(branch, TAG_BYTES_MAX)
    ))
}

fn labelled<'a>(
    active: &[&'a RepositorySettings],
    labels: &[String],
) -> Result<Option<&'a RepositorySettings>, String> {
    let wanted = |it: &RepositorySettings| {
        lower(&it.routing_labels)
            .iter()
            .any(|it| labels.contains(it))
    };
    let fitting: Vec<&RepositorySettings> =
        active.iter().copied().filter(|it| wanted(it)).collect();
    match fitting.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => Err(format!(
            "the labels ask for several repositories ({}), but an issue is worked on in one: \
             remove labels, or write `[repo=NAME]` into the description",
            names(several)
        )),
    }
}

fn names(repositories: &[&RepositorySettings]) -> String {
    let names: Vec<String> = repositories
        .iter()
        .map(|it| format!("`{}`", it.name))
        .collect();
    names.join(", ")
}

pub(super) fn lower(labels: &[String]) -> Vec<String> {
    labels.iter().map(|it| it.trim().to_lowercase()).collect()
}
