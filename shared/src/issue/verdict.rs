//! May this commit be merged? Facts about a pull request in, a verdict out.

use serde::{Deserialize, Serialize};

use super::{Policy, Task, Time, words_enum};

/// A pull request as the forge tells it. Untrusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullFacts {
    pub number: u64,
    pub url: String,
    pub state: PullState,
    /// `owner/name` of the repository that the head branch lives in; `None`: deleted.
    pub head_slug: Option<String>,
    pub head_branch: String,
    pub head_sha: String,
    /// `owner/name` of the repository that it wants to change.
    pub base_slug: String,
    pub base_branch: String,
    pub body: String,
    pub draft: bool,
    /// `None`: the forge has not found out yet.
    pub mergeable: Option<bool>,
    /// Check runs and statuses of `head_sha`, all of them.
    pub checks: Vec<Check>,
    /// The paths that it changes, of what was renamed both; `None`: too many to be read.
    pub files: Option<Vec<String>>,
    /// The last word of each who may write to the repository.
    pub reviews: Vec<Review>,
    /// The base branch has commits that the head has not.
    pub behind: bool,
    /// The forge's own rules for the base branch stand in the way of a merge.
    pub blocked: bool,
    /// The forge is about to merge it: it waits in a queue, or is at work.
    pub queued: bool,
}

/// What a person thinks of one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Review {
    pub author: String,
    pub opinion: Opinion,
    /// The commit that it is about.
    pub sha: String,
    pub text: String,
}

words_enum! {
    Opinion { Approves = "approves", WantsChanges = "wants_changes" }
}

words_enum! {
    PullState { Open = "open", Closed = "closed", Merged = "merged" }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: String,
    pub state: CheckState,
    /// By which its log can be had, where it has one.
    pub id: Option<u64>,
    /// What it says of itself in a few words.
    pub says: String,
}

words_enum! {
    CheckState {
        /// Queued, running, or a conclusion that we don't know.
        Pending = "pending",
        /// Success, neutral or skipped.
        Passed = "passed",
        Failed = "failed",
    }
}

/// What the facts come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Not one of ours, or not what was asked for: never touched.
    Foreign(String),
    /// Already merged, as this head.
    Merged,
    Closed,
    /// Nothing can be said yet.
    Wait(String),
    Red(String),
    Green(String),
}

/// Judges the head commit of a task's pull request. `seen`: since when this head is known.
pub fn judge(
    facts: &PullFacts,
    task: &Task,
    marker: &str,
    policy: &Policy,
    seen: Time,
    now: Time,
) -> Verdict {
    let branch = task.branch.as_deref().unwrap_or_default();
    if let Some(why) = foreign(facts, task, branch, marker, policy) {
        return Verdict::Foreign(why);
    }
    match facts.state {
        PullState::Merged => return Verdict::Merged,
        PullState::Closed => return Verdict::Closed,
        PullState::Open => {}
    }
    let sha = short(&facts.head_sha);
    if let Some(check) = facts
        .checks
        .iter()
        .find(|it| it.state == CheckState::Failed && counts(it, policy))
    {
        return Verdict::Red(format!("the check `{}` failed on {sha}", check.name));
    }
    if facts.mergeable == Some(false) {
        return Verdict::Red(format!(
            "{sha} cannot be merged into {}: it conflicts",
            facts.base_branch
        ));
    }
    let missing = policy.required_checks.iter().find(|name| {
        !facts
            .checks
            .iter()
            .any(|it| it.name == **name && it.state == CheckState::Passed)
    });
    if let Some(name) = missing {
        return Verdict::Wait(format!(
            "the required check `{name}` has not succeeded on {sha} yet"
        ));
    }
    if policy.required_checks.is_empty() {
        if let Some(check) = facts
            .checks
            .iter()
            .find(|it| it.state == CheckState::Pending)
        {
            return Verdict::Wait(format!("the check `{}` still runs on {sha}", check.name));
        }
        // None reported: perhaps not yet.
        let waited = now.duration_since(seen).as_secs();
        if facts.checks.is_empty() && waited < policy.check_grace_seconds {
            return Verdict::Wait(format!("no check has been reported on {sha} yet"));
        }
    }
    if facts.draft {
        return Verdict::Wait(format!("{} is a draft", facts.url));
    }
    if facts.mergeable.is_none() {
        return Verdict::Wait(format!(
            "GitHub has not said yet whether {sha} can be merged"
        ));
    }
    let passed = facts
        .checks
        .iter()
        .filter(|it| it.state == CheckState::Passed)
        .count();
    Verdict::Green(match passed {
        0 => format!("the repository reports no checks, and {sha} can be merged"),
        1 => format!("its check has succeeded on {sha}"),
        n => format!("{n} checks have succeeded on {sha}"),
    })
}

fn counts(check: &Check, policy: &Policy) -> bool {
    policy.required_checks.is_empty() || policy.required_checks.contains(&check.name)
}

/// Why a pull request is not the one of this task from this branch, if it is not.
pub fn foreign(
    facts: &PullFacts,
    task: &Task,
    branch: &str,
    marker: &str,
    policy: &Policy,
) -> Option<String> {
    let repository = &policy.repository;
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    if !same(&facts.base_slug, &repository.slug) {
        return Some(format!(
            "{} belongs to {}, not to {}",
            facts.url, facts.base_slug, repository.slug
        ));
    }
    if facts.state == PullState::Open
        && !facts
            .head_slug
            .as_deref()
            .is_some_and(|it| same(it, &repository.slug))
    {
        return Some(format!("{} comes from a fork", facts.url));
    }
    if facts.base_branch != repository.base_branch {
        return Some(format!(
            "{} targets `{}` instead of `{}`",
            facts.url, facts.base_branch, repository.base_branch
        ));
    }
    if facts.head_branch != branch {
        return Some(format!(
            "{} comes from `{}` instead of `{branch}`",
            facts.url, facts.head_branch
        ));
    }
    let reported = task
        .reported_pull
        .as_deref()
        .is_some_and(|it| it == facts.url);
    if !reported && !facts.body.contains(marker) {
        return Some(format!("{} does not carry our mark", facts.url));
    }
    None
}

/// The first characters of a commit, as people write it.
pub fn short(sha: &str) -> &str {
    sha.get(..8).unwrap_or(sha)
}
