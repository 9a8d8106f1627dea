//! May this commit be merged? Facts about a pull request in, a verdict out.

use serde::{Deserialize, Serialize};

use super::{MergeMode, Policy, Task, TaskKind, Time, words_enum};

mod paths;
#[cfg(test)]
mod tests;

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

/// What a judge has found of a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub sha: String,
    pub approves: bool,
    pub text: String,
}

/// How far a judge has come with the commit in question.
#[derive(Clone, Copy, Debug)]
pub enum Judged<'a> {
    Unasked,
    Asked,
    Found(&'a Finding),
    /// It has no opinion, and will have none.
    Failed(&'a str),
}

/// All that a verdict is made of.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    pub facts: &'a PullFacts,
    pub task: &'a Task,
    pub marker: &'a str,
    pub policy: &'a Policy,
    /// Since when this head is known.
    pub seen: Time,
    pub now: Time,
    /// The repository's own commands.
    pub commands: Judged<'a>,
    /// The reviewer.
    pub review: Judged<'a>,
}

/// What the facts come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not one of ours, or not what was asked for: never touched.
    Foreign(String),
    /// Already merged, as this head.
    Merged,
    Closed,
    /// Nothing can be said yet.
    Wait(String),
    /// Nothing stands in the way but a person who has to do something.
    Person(String),
    /// These judges have to be asked.
    Ask(Vec<TaskKind>),
    Red(Red),
    /// It is good, and only a person may merge it.
    Hand(String),
    /// It may be merged. `behind`: once it is up to date.
    Green {
        why: String,
        behind: bool,
    },
}

/// Why a commit is not good enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Red {
    /// One sentence.
    pub why: String,
    /// What else would help to mend it.
    pub detail: String,
    /// The check that failed, by which its log can be had.
    pub check: Option<u64>,
    /// The base branch has to be merged in, and conflicts.
    pub conflict: bool,
}

/// Judges the head commit of a task's pull request: what is certainly wrong first,
/// then what is not known yet, then what costs money to find out, and what takes a
/// person last.
pub fn judge(case: &Case<'_>) -> Verdict {
    let Case {
        facts,
        task,
        policy,
        ..
    } = case;
    let branch = task.branch.as_deref().unwrap_or_default();
    if let Some(why) = foreign(facts, task, branch, case.marker, policy) {
        return Verdict::Foreign(why);
    }
    match facts.state {
        PullState::Merged => return Verdict::Merged,
        PullState::Closed => return Verdict::Closed,
        PullState::Open => {}
    }
    let found = red(case).map(Verdict::Red);
    if let Some(verdict) = found.or_else(|| unknown(case)).or_else(|| judges(case)) {
        return verdict;
    }
    let reasons = reasons(case);
    if policy.merge == MergeMode::Manual {
        return Verdict::Green {
            why: reasons,
            behind: false,
        };
    }
    person(case).unwrap_or_else(|| Verdict::Green {
        // Who has looked at this very commit need not do so again for an update.
        behind: facts.behind && !(policy.require_approval && approver(facts).is_some()),
        why: reasons,
    })
}

/// What is wrong with this commit, whatever else will be known of it.
fn red(case: &Case<'_>) -> Option<Red> {
    let Case {
        facts,
        task,
        policy,
        ..
    } = case;
    let sha = short(&facts.head_sha);
    if let Some(files) = &facts.files {
        if let Some(path) = files.iter().find(|it| paths::looks_secret(it)) {
            return Some(Red {
                why: format!("`{path}` in {sha} looks like a secret"),
                detail: "Secrets are never committed. If it is none, give the file another name."
                    .into(),
                ..Red::default()
            });
        }
        let allowed = &task.spec.paths;
        let outside = |it: &&String| !allowed.is_empty() && !paths::any_matches(allowed, it);
        if let Some(path) = files.iter().find(outside) {
            return Some(Red {
                why: format!("`{path}` in {sha} is none of the task's paths"),
                detail: format!(
                    "Only files that match {} are to be changed.",
                    allowed.join(", ")
                ),
                ..Red::default()
            });
        }
    }
    let failed = |it: &&Check| it.state == CheckState::Failed && counts(it, policy);
    if let Some(check) = facts.checks.iter().find(failed) {
        return Some(Red {
            why: format!("the check `{}` failed on {sha}", check.name),
            detail: check.says.clone(),
            check: check.id,
            conflict: false,
        });
    }
    let of_this = |it: &&Review| it.sha == facts.head_sha && it.opinion == Opinion::WantsChanges;
    if let Some(review) = facts.reviews.iter().find(of_this) {
        return Some(Red {
            why: format!("{} wants changes to {sha}", review.author),
            detail: review.text.clone(),
            ..Red::default()
        });
    }
    if facts.mergeable == Some(false) {
        return Some(Red {
            why: format!(
                "{sha} cannot be merged into {}: it conflicts",
                facts.base_branch
            ),
            conflict: true,
            ..Red::default()
        });
    }
    let refused = |judged: Judged<'_>, why: String| match judged {
        Judged::Found(finding) if !finding.approves => Some(Red {
            why,
            detail: finding.text.clone(),
            ..Red::default()
        }),
        Judged::Unasked | Judged::Asked | Judged::Found(_) | Judged::Failed(_) => None,
    };
    let commands = || refused(case.commands, format!("validate.commands failed on {sha}"));
    let review = || refused(case.review, format!("the reviewer wants changes to {sha}"));
    commands().or_else(review)
}

/// What has to be waited for.
fn unknown(case: &Case<'_>) -> Option<Verdict> {
    let Case { facts, policy, .. } = case;
    let sha = short(&facts.head_sha);
    // Two may have one name.
    let passed = |name: &&String| {
        let mut named = facts
            .checks
            .iter()
            .filter(|it| it.name == **name)
            .peekable();
        named.peek().is_some() && named.all(|it| it.state == CheckState::Passed)
    };
    if let Some(name) = policy.required_checks.iter().find(|name| !passed(name)) {
        return Some(Verdict::Wait(format!(
            "the required check `{name}` has not succeeded on {sha} yet"
        )));
    }
    if policy.required_checks.is_empty() {
        let pending = |it: &&Check| it.state == CheckState::Pending;
        if let Some(check) = facts.checks.iter().find(pending) {
            return Some(Verdict::Wait(format!(
                "the check `{}` still runs on {sha}",
                check.name
            )));
        }
        // None reported: perhaps not yet. Without a forge nobody could.
        let waited = case.now.duration_since(case.seen).as_secs();
        let forge = !policy.repository.slug.is_empty();
        if facts.checks.is_empty() && forge && waited < policy.check_grace_seconds {
            return Some(Verdict::Wait(format!(
                "no check has been reported on {sha} yet"
            )));
        }
    }
    if facts.draft {
        return Some(Verdict::Wait(format!("{} is a draft", facts.url)));
    }
    if facts.mergeable.is_none() {
        return Some(Verdict::Wait(format!(
            "GitHub has not said yet whether {sha} can be merged"
        )));
    }
    None
}

/// Whom to ask, where that has not been done.
fn judges(case: &Case<'_>) -> Option<Verdict> {
    let Case { facts, policy, .. } = case;
    let wanted = [
        (
            !policy.commands.is_empty(),
            case.commands,
            TaskKind::Verifier,
        ),
        (policy.reviewer, case.review, TaskKind::Reviewer),
    ];
    let wanted = || wanted.iter().filter(|(wanted, ..)| *wanted);
    let unasked = wanted().filter(|(_, judged, _)| matches!(judged, Judged::Unasked));
    let unasked: Vec<TaskKind> = unasked.map(|(.., kind)| *kind).collect();
    if !unasked.is_empty() {
        return Some(Verdict::Ask(unasked));
    }
    let sha = short(&facts.head_sha);
    let waits = wanted().find_map(|(_, judged, kind)| match judged {
        Judged::Asked => Some(Verdict::Wait(format!(
            "the {kind} has not come to an end on {sha}"
        ))),
        Judged::Unasked | Judged::Found(_) | Judged::Failed(_) => None,
    });
    waits.or_else(|| {
        wanted().find_map(|(_, judged, kind)| match judged {
            Judged::Failed(why) => Some(Verdict::Hand(format!(
                "the {kind} came to no end on {sha} ({why})"
            ))),
            Judged::Unasked | Judged::Asked | Judged::Found(_) => None,
        })
    })
}

/// What only a person can do.
fn person(case: &Case<'_>) -> Option<Verdict> {
    let Case { facts, policy, .. } = case;
    let sha = short(&facts.head_sha);
    if policy.require_approval && policy.repository.slug.is_empty() {
        return Some(Verdict::Hand(format!(
            "nobody can approve {sha} where there is no GitHub"
        )));
    }
    if policy.require_approval && approver(facts).is_none() {
        return Some(Verdict::Person(format!(
            "a person has to approve {sha} of {}",
            facts.url
        )));
    }
    let Some(files) = &facts.files else {
        return Some(Verdict::Hand(format!(
            "{sha} changes more files than can be looked at"
        )));
    };
    let protected = |it: &&String| paths::any_matches(&policy.protected_paths, it);
    if let Some(path) = files.iter().find(protected) {
        return Some(Verdict::Hand(format!("`{path}` in {sha} is protected")));
    }
    // Being behind is mended by an update, whatever the rules say of it.
    if facts.blocked && !facts.behind {
        return Some(Verdict::Wait(format!(
            "the rules of `{}` do not let {sha} be merged yet: see {}",
            facts.base_branch, facts.url
        )));
    }
    None
}

/// Who approves of this very commit, where nobody who may write is against it.
fn approver(facts: &PullFacts) -> Option<&str> {
    let of_this = |it: &&Review| it.sha == facts.head_sha && it.opinion == Opinion::Approves;
    let review = facts.reviews.iter().find(of_this)?;
    Some(&review.author)
}

/// Why a commit may be merged.
fn reasons(case: &Case<'_>) -> String {
    let facts = case.facts;
    let sha = short(&facts.head_sha);
    let passed = facts.checks.iter();
    let passed = passed.filter(|it| it.state == CheckState::Passed).count();
    let mut reasons = match passed {
        0 => format!("the repository reports no checks, and {sha} can be merged"),
        1 => format!("its check has succeeded on {sha}"),
        n => format!("{n} checks have succeeded on {sha}"),
    };
    if let Judged::Found(_) = case.commands {
        reasons.push_str(", its commands have succeeded");
    }
    if let Judged::Found(_) = case.review {
        reasons.push_str(", its reviewer agrees");
    }
    if let Some(author) = approver(facts) {
        reasons.push_str(", approved by ");
        reasons.push_str(author);
    }
    reasons
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
    // Without a forge a branch is all there is, and carries nothing.
    if !repository.slug.is_empty() && !reported && !facts.body.contains(marker) {
        return Some(format!("{} does not carry our mark", facts.url));
    }
    None
}

/// The first characters of a commit, as people write it.
pub fn short(sha: &str) -> &str {
    sha.get(..8).unwrap_or(sha)
}
