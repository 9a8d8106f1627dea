//! What of GitHub's JSON is read. Unknown fields and values are passed over.

use serde::Deserialize;

use crate::issue::verdict::{Check, CheckState, Opinion, Review};
use crate::issue::{Fault, PullFacts, PullState, REASON_BYTES_MAX, clip};

/// What a check says of itself: a title, not a report. That is in its log.
const SAYS_BYTES_MAX: usize = 300;
/// Whose reviews count where GitHub does not say who may write.
const WRITERS: &[&str] = &["OWNER", "MEMBER", "COLLABORATOR"];

#[derive(Debug, Deserialize)]
pub(super) struct Pull {
    pub(super) number: u64,
    pub(super) html_url: String,
    /// By which GraphQL knows it.
    #[serde(default)]
    pub(super) node_id: String,
    /// How many comments there are; not in lists.
    pub(super) comments: Option<usize>,
    state: String,
    /// Not in lists.
    merged: Option<bool>,
    merged_at: Option<String>,
    draft: Option<bool>,
    /// `None` until a job of GitHub's has found out; not in lists.
    pub(super) mergeable: Option<bool>,
    mergeable_state: Option<String>,
    /// Of an open pull request this is only a trial merge.
    pub(super) merge_commit_sha: Option<String>,
    body: Option<String>,
    pub(super) head: Side,
    pub(super) base: Side,
}

#[derive(Debug, Deserialize)]
pub(super) struct Side {
    #[serde(rename = "ref")]
    pub(super) branch: String,
    pub(super) sha: String,
    /// `None`: that repository was deleted.
    repo: Option<RepositoryName>,
}

#[derive(Debug, Deserialize)]
struct RepositoryName {
    full_name: String,
}

impl Side {
    pub(super) fn is_in(&self, slug: &str) -> bool {
        self.repo
            .as_ref()
            .is_some_and(|it| it.full_name.eq_ignore_ascii_case(slug))
    }
}

impl Pull {
    pub(super) fn state(&self) -> PullState {
        if self.merged == Some(true) || self.merged_at.is_some() {
            PullState::Merged
        } else if self.state == "closed" {
            PullState::Closed
        } else {
            PullState::Open
        }
    }

    /// Its facts, without checks, files and reviews, which are elsewhere.
    pub(super) fn into_facts(self) -> Result<PullFacts, Fault> {
        let state = self.state();
        let open = state == PullState::Open;
        let Some(base) = self.base.repo else {
            return Err(Fault::Transient {
                why: format!(
                    "GitHub does not say to which repository {} belongs",
                    self.html_url
                ),
            });
        };
        Ok(PullFacts {
            number: self.number,
            url: self.html_url,
            state,
            head_slug: self.head.repo.map(|it| it.full_name),
            head_branch: self.head.branch,
            head_sha: self.head.sha,
            base_slug: base.full_name,
            base_branch: self.base.branch,
            body: self.body.unwrap_or_default(),
            draft: self.draft.unwrap_or_default(),
            mergeable: self.mergeable,
            checks: Vec::new(),
            files: Some(Vec::new()),
            reviews: Vec::new(),
            behind: false,
            blocked: open && self.mergeable_state.as_deref() == Some("blocked"),
            // Only GraphQL tells.
            queued: false,
        })
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct CheckRuns {
    pub(super) total_count: Option<usize>,
    pub(super) check_runs: Vec<CheckRun>,
}

#[derive(Debug, Deserialize)]
pub(super) struct CheckRun {
    id: Option<u64>,
    name: String,
    status: Option<String>,
    conclusion: Option<String>,
    output: Option<Output>,
}

/// What a check run tells people.
#[derive(Debug, Deserialize)]
pub(super) struct Output {
    title: Option<String>,
    summary: Option<String>,
    text: Option<String>,
}

impl Output {
    /// All of it, as one text.
    pub(super) fn whole(self) -> String {
        let parts = [self.title, self.summary, self.text];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        parts.join("\n\n")
    }
}

/// One check run, with all that it says.
#[derive(Debug, Deserialize)]
pub(super) struct CheckRunReply {
    pub(super) output: Option<Output>,
}

impl From<CheckRun> for Check {
    fn from(run: CheckRun) -> Self {
        Self {
            name: run.name,
            state: run_state(run.status.as_deref(), run.conclusion.as_deref()),
            id: run.id,
            says: says(run.output.and_then(|it| it.title)),
        }
    }
}

/// REST and GraphQL have the same words for it, one in small letters.
pub(super) fn run_state(status: Option<&str>, conclusion: Option<&str>) -> CheckState {
    if !status.is_some_and(|it| it.eq_ignore_ascii_case("completed")) {
        return CheckState::Pending;
    }
    match conclusion.unwrap_or_default().to_ascii_lowercase().as_str() {
        "success" | "neutral" | "skipped" => CheckState::Passed,
        "failure" | "timed_out" | "cancelled" | "action_required" | "startup_failure" | "stale" => {
            CheckState::Failed
        }
        // A conclusion that we don't know is neither green nor red.
        _ => CheckState::Pending,
    }
}

pub(super) fn status_state(state: Option<&str>) -> CheckState {
    match state.unwrap_or_default().to_ascii_lowercase().as_str() {
        "success" => CheckState::Passed,
        "failure" | "error" => CheckState::Failed,
        _ => CheckState::Pending,
    }
}

pub(super) fn says(text: Option<String>) -> String {
    clip(text.as_deref().unwrap_or_default().trim(), SAYS_BYTES_MAX)
}

#[derive(Debug, Deserialize)]
pub(super) struct Statuses {
    pub(super) total_count: Option<usize>,
    pub(super) statuses: Vec<Status>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Status {
    context: String,
    state: Option<String>,
    description: Option<String>,
}

impl From<Status> for Check {
    fn from(status: Status) -> Self {
        Self {
            name: status.context,
            state: status_state(status.state.as_deref()),
            id: None,
            says: says(status.description),
        }
    }
}

/// What lies between two commits.
#[derive(Debug, Deserialize)]
pub(super) struct Compared {
    pub(super) behind_by: u64,
    files: Option<Vec<ComparedFile>>,
}

#[derive(Debug, Deserialize)]
struct ComparedFile {
    filename: String,
    status: String,
    previous_filename: Option<String>,
}

impl Compared {
    /// Every path that is changed; `None`: not all of them are here.
    pub(super) fn paths(self, files_max: usize) -> Option<Vec<String>> {
        let files = self.files.filter(|it| it.len() < files_max)?;
        let mut paths = Vec::new();
        for file in files {
            // What was copied is still there.
            if file.status == "renamed" {
                paths.push(file.previous_filename?);
            }
            paths.push(file.filename);
        }
        Some(ordered(paths))
    }
}

pub(super) fn ordered(mut paths: Vec<String>) -> Vec<String> {
    paths.sort();
    paths.dedup();
    paths
}

#[derive(Debug, Deserialize)]
pub(super) struct ReviewReply {
    user: Option<User>,
    state: String,
    body: Option<String>,
    commit_id: Option<String>,
    author_association: Option<String>,
}

#[derive(Debug, Deserialize)]
struct User {
    login: String,
}

/// The last word of each writer; `replies` are in the order in which they were given.
pub(super) fn last_words(replies: Vec<ReviewReply>) -> Vec<Review> {
    let mut last = std::collections::BTreeMap::new();
    for reply in replies {
        let association = reply.author_association.unwrap_or_default();
        let Some(user) = reply.user else { continue };
        if !WRITERS.contains(&association.as_str()) {
            continue;
        }
        match opinion(&reply.state) {
            Said::Nothing => {}
            Said::Withdrawn => {
                last.remove(&user.login);
            }
            Said::Opinion(opinion) => {
                let (sha, text) = (reply.commit_id, reply.body);
                last.insert(user.login.clone(), review(user.login, opinion, sha, text));
            }
        }
    }
    last.into_values().collect()
}

/// What a review's state says.
pub(super) enum Said {
    Opinion(Opinion),
    /// It was dismissed.
    Withdrawn,
    /// A comment takes nothing back.
    Nothing,
}

pub(super) fn opinion(state: &str) -> Said {
    match state {
        "APPROVED" => Said::Opinion(Opinion::Approves),
        "CHANGES_REQUESTED" => Said::Opinion(Opinion::WantsChanges),
        "DISMISSED" => Said::Withdrawn,
        _ => Said::Nothing,
    }
}

pub(super) fn review(
    author: String,
    opinion: Opinion,
    sha: Option<String>,
    text: Option<String>,
) -> Review {
    Review {
        author,
        opinion,
        sha: sha.unwrap_or_default(),
        text: clip(&text.unwrap_or_default(), REASON_BYTES_MAX),
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Comment {
    pub(super) body: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct MergeReply {
    pub(super) sha: String,
    pub(super) merged: bool,
}

/// How a merge stands that GitHub makes in its own time.
#[derive(Debug, Deserialize)]
pub(super) struct AsyncReply {
    pub(super) status: String,
    #[serde(default)]
    pub(super) details: AsyncDetails,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct AsyncDetails {
    #[serde(default)]
    pub(super) message: String,
    pub(super) uuid: Option<String>,
    pub(super) sha: Option<String>,
    pub(super) expected_head_sha: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct RepositoryReply {
    #[serde(default)]
    pub(super) archived: bool,
    pub(super) permissions: Option<Permissions>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Permissions {
    #[serde(default)]
    pub(super) push: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{CheckRun, Pull, Status};
    use crate::issue::PullState;
    use crate::issue::verdict::{Check, CheckState};

    #[test]
    fn only_a_known_good_end_is_green() {
        let check = |status: &str, conclusion: Option<&str>| {
            let run: CheckRun = serde_json::from_value(
                json!({ "name": "ci", "status": status, "conclusion": conclusion, "id": 1 }),
            )
            .expect("a check run");
            Check::from(run).state
        };
        for good in ["success", "neutral", "skipped"] {
            assert_eq!(check("completed", Some(good)), CheckState::Passed, "{good}");
            assert_eq!(
                check("in_progress", Some(good)),
                CheckState::Pending,
                "{good}"
            );
        }
        for bad in [
            "failure",
            "timed_out",
            "cancelled",
            "action_required",
            "startup_failure",
            "stale",
        ] {
            assert_eq!(check("completed", Some(bad)), CheckState::Failed, "{bad}");
        }
        assert_eq!(check("completed", Some("brand_new")), CheckState::Pending);
        assert_eq!(check("completed", None), CheckState::Pending);
        assert_eq!(check("queued", None), CheckState::Pending);
    }

    #[test]
    fn statuses_have_words_of_their_own() {
        for (word, state) in [
            ("success", CheckState::Passed),
            ("failure", CheckState::Failed),
            ("error", CheckState::Failed),
            ("pending", CheckState::Pending),
            ("brand_new", CheckState::Pending),
        ] {
            let status: Status = serde_json::from_value(json!({ "context": "ci", "state": word }))
                .expect("a status");
            assert_eq!(Check::from(status).state, state, "{word}");
        }
    }

    #[test]
    fn a_list_tells_a_merge_by_its_time_only() {
        let side = json!({ "ref": "x", "sha": "0", "repo": null });
        let pull: Pull = serde_json::from_value(json!({
            "number": 1, "html_url": "u", "state": "closed", "merged_at": "2026-01-01T00:00:00Z",
            "head": side, "base": side,
        }))
        .expect("a pull request of a list");
        assert_eq!(pull.state(), PullState::Merged);
        assert!(pull.into_facts().is_err(), "its base is unknown");
    }
}
