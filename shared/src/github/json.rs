//! What of GitHub's JSON is read. Unknown fields and values are passed over.

use serde::Deserialize;

use crate::issue::verdict::{Check, CheckState};
use crate::issue::{Fault, PullFacts, PullState};

#[derive(Debug, Deserialize)]
pub(super) struct Pull {
    pub(super) number: u64,
    pub(super) html_url: String,
    state: String,
    /// Not in lists.
    merged: Option<bool>,
    merged_at: Option<String>,
    draft: Option<bool>,
    /// `None` until a job of GitHub's has found out; not in lists.
    pub(super) mergeable: Option<bool>,
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

    pub(super) fn into_facts(self, checks: Vec<Check>) -> Result<PullFacts, Fault> {
        let state = self.state();
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
            checks,
            files: Some(Vec::new()),
            reviews: Vec::new(),
            behind: false,
            blocked: false,
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
    name: String,
    status: Option<String>,
    conclusion: Option<String>,
}

impl From<CheckRun> for Check {
    fn from(run: CheckRun) -> Self {
        let state = match (run.status.as_deref(), run.conclusion.as_deref()) {
            (Some("completed"), Some("success" | "neutral" | "skipped")) => CheckState::Passed,
            (
                Some("completed"),
                Some(
                    "failure" | "timed_out" | "cancelled" | "action_required" | "startup_failure"
                    | "stale",
                ),
            ) => CheckState::Failed,
            // A conclusion that we don't know is neither green nor red.
            _ => CheckState::Pending,
        };
        Self {
            name: run.name,
            state,
            id: None,
            says: String::new(),
        }
    }
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
}

impl From<Status> for Check {
    fn from(status: Status) -> Self {
        let state = match status.state.as_deref() {
            Some("success") => CheckState::Passed,
            Some("failure" | "error") => CheckState::Failed,
            _ => CheckState::Pending,
        };
        Self {
            name: status.context,
            state,
            id: None,
            says: String::new(),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct MergeReply {
    pub(super) sha: String,
    pub(super) merged: bool,
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
        assert!(pull.into_facts(Vec::new()).is_err(), "its base is unknown");
    }
}
