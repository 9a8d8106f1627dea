//! One repository with its pull requests: what GitHub lets happen to them.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::people::{Comment, Review};
use super::repo::{Merging, Method, Repo};
use super::rules::{AsyncMerge, Rules};
use super::{CheckRun, Ci, Denied, Merge, NewPull, Pull, State};

/// How a merge comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Directly,
    ThroughQueue,
}

/// A repository with what belongs to it.
pub(super) struct Place {
    pub(super) slug: String,
    pub(super) repo: Box<dyn Repo>,
    pub(super) pulls: Vec<Pull>,
    pub(super) ci: Vec<Ci>,
    /// Since when a commit is known as a head.
    pub(super) pushed: BTreeMap<String, Timestamp>,
    pub(super) checks: BTreeMap<String, Vec<CheckRun>>,
    /// Commit statuses: context and state, by commit.
    pub(super) statuses: BTreeMap<String, Vec<(String, String)>>,
    pub(super) merges: Vec<Merge>,
    pub(super) refused: u32,
    /// So many of the next merges find that the base has just moved.
    pub(super) disturbed: u32,
    pub(super) archived: bool,
    /// Nobody pushes now: one document is answered from one state of things.
    pub(super) still: bool,
    pub(super) rules: Rules,
    /// Pull requests in the merge queue, in order, each with its head.
    pub(super) queue: Vec<(u64, String)>,
    /// Merges that were asked for and are still to be made, or have been.
    pub(super) asyncs: Vec<AsyncMerge>,
    /// Branches that will be brought up to date in a moment: the pull request's number.
    pub(super) updates: Vec<u64>,
    pub(super) reviews: Vec<Review>,
    pub(super) comments: Vec<Comment>,
    /// The numbers of check runs, by commit and name.
    pub(super) check_ids: BTreeMap<(String, String), u64>,
    /// What jobs have printed, by the number of their check run.
    pub(super) logs: BTreeMap<u64, String>,
}

impl Place {
    pub(super) fn new(slug: &str, repo: Box<dyn Repo>) -> Self {
        Self {
            slug: slug.to_owned(),
            repo,
            pulls: Vec::new(),
            ci: Vec::new(),
            pushed: BTreeMap::new(),
            checks: BTreeMap::new(),
            statuses: BTreeMap::new(),
            merges: Vec::new(),
            refused: 0,
            disturbed: 0,
            archived: false,
            still: false,
            rules: Rules::default(),
            queue: Vec::new(),
            asyncs: Vec::new(),
            updates: Vec::new(),
            reviews: Vec::new(),
            comments: Vec::new(),
            check_ids: BTreeMap::new(),
            logs: BTreeMap::new(),
        }
    }

    pub(super) fn open(
        &mut self,
        head_slug: &str,
        new: &NewPull,
        now: Timestamp,
    ) -> Result<u64, Denied> {
        self.refresh(now)?;
        let invalid = |message: String| Denied {
            status: 422,
            message: "Validation Failed".into(),
            errors: vec![message],
        };
        let (Some(head_sha), Some(base_sha)) = (
            self.head_of(head_slug, &new.head)?,
            self.repo.head(&new.base)?,
        ) else {
            return Err(invalid(format!(
                "head or base is missing: {}, {}",
                new.head, new.base
            )));
        };
        let same = |it: &&Pull| {
            it.state == State::Open
                && it.head_slug.eq_ignore_ascii_case(head_slug)
                && it.head == new.head
                && it.base == new.base
        };
        if self.pulls.iter().find(same).is_some() {
            let owner = head_slug.split('/').next().unwrap_or_default();
            return Err(invalid(format!(
                "A pull request already exists for {owner}:{}.",
                new.head
            )));
        }
        if !self.repo.is_ahead(&base_sha, &head_sha)? {
            return Err(invalid(format!(
                "No commits between {} and {}",
                new.base, new.head
            )));
        }
        let number = self.pulls.last().map_or(1, |it| it.number + 1);
        self.pushed.entry(head_sha.clone()).or_insert(now);
        self.pulls.push(Pull {
            number,
            title: new.title.clone(),
            body: new.body.clone(),
            draft: new.draft,
            state: State::Open,
            head_slug: head_slug.to_owned(),
            head: new.head.clone(),
            head_sha,
            base: new.base.clone(),
            base_sha,
            mergeable: None,
            merge_sha: None,
            created_at: now,
            closed_at: None,
            judged: None,
        });
        Ok(number)
    }

    /// Takes in what was pushed since the last look.
    pub(super) fn refresh(&mut self, now: Timestamp) -> Result<(), Denied> {
        if self.still {
            return Ok(());
        }
        self.bring_up_to_date(now)?;
        for at in 0..self.pulls.len() {
            let pull = &self.pulls[at];
            if pull.state != State::Open {
                continue;
            }
            let head = self.head_of(&pull.head_slug, &pull.head)?;
            let base = self.repo.head(&pull.base)?;
            let pull = &mut self.pulls[at];
            let (Some(head), Some(base)) = (head, base) else {
                // GitHub closes what has lost its branch.
                pull.state = State::Closed;
                pull.closed_at = Some(now);
                continue;
            };
            self.pushed.entry(head.clone()).or_insert(now);
            pull.head_sha = head;
            pull.base_sha = base;
        }
        Ok(())
    }

    /// The commit of a branch, here or in a fork. A fork's own branches lie in the same
    /// object store; one that it has not got is taken for a copy of ours.
    fn head_of(&self, slug: &str, branch: &str) -> Result<Option<String>, Denied> {
        if !slug.eq_ignore_ascii_case(&self.slug)
            && let Some(sha) = self.repo.head(&super::branch_of_fork(slug, branch))?
        {
            return Ok(Some(sha));
        }
        Ok(self.repo.head(branch)?)
    }

    pub(super) fn look(&mut self, at: usize) -> Result<Pull, Denied> {
        let pull = &mut self.pulls[at];
        pull.mergeable = None;
        if pull.state == State::Open {
            match &pull.judged {
                Some((head, base, mergeable))
                    if *head == pull.head_sha && *base == pull.base_sha =>
                {
                    pull.mergeable = Some(*mergeable);
                }
                _ => {
                    let mergeable = !self.repo.conflicts(&pull.base_sha, &pull.head_sha)?;
                    pull.judged = Some((pull.head_sha.clone(), pull.base_sha.clone(), mergeable));
                }
            }
        }
        Ok(pull.clone())
    }

    pub(super) fn merge(
        &mut self,
        number: u64,
        sha: Option<&str>,
        method: Method,
        title: &str,
        now: Timestamp,
    ) -> Result<String, Denied> {
        self.refresh(now)?;
        self.merge_now(number, sha, method, title, now, Way::Directly)
    }

    pub(super) fn merge_now(
        &mut self,
        number: u64,
        sha: Option<&str>,
        method: Method,
        title: &str,
        now: Timestamp,
        way: Way,
    ) -> Result<String, Denied> {
        let at = self.index(number)?;
        let pull = self.pulls[at].clone();
        match pull.state {
            State::Open if pull.draft => {
                return Err(Denied::new(405, "Pull Request is still a draft"));
            }
            State::Open => {}
            State::Closed | State::Merged => {
                return Err(Denied::new(405, "Pull Request is not mergeable"));
            }
        }
        if sha.is_some_and(|it| !it.eq_ignore_ascii_case(&pull.head_sha)) {
            return Err(Denied::new(
                409,
                "Head branch was modified. Review and try the merge again.",
            ));
        }
        if way == Way::Directly {
            self.check_rules(at, now)?;
        }
        let modified = || {
            Denied::new(
                405,
                "Base branch was modified. Review and try the merge again.",
            )
        };
        if self.disturbed > 0 {
            self.disturbed -= 1;
            return Err(modified());
        }
        let message = if title.is_empty() {
            format!("{} (#{number})", pull.title)
        } else {
            title.to_owned()
        };
        let merged = self.repo.merge(
            &pull.base,
            &pull.base_sha,
            &pull.head_sha,
            method,
            &message,
            now,
        )?;
        let merge_sha = match merged {
            Merging::Done(sha) => sha,
            Merging::Conflict => return Err(Denied::new(405, "Pull Request is not mergeable")),
            Merging::BaseMoved => return Err(modified()),
        };
        let pull = &mut self.pulls[at];
        pull.state = State::Merged;
        pull.merge_sha = Some(merge_sha.clone());
        pull.closed_at = Some(now);
        self.merges.push(Merge {
            slug: self.slug.clone(),
            number,
            named: sha.map(str::to_lowercase),
            head_sha: pull.head_sha.clone(),
            sha: merge_sha.clone(),
            at: now,
        });
        Ok(merge_sha)
    }

    pub(super) fn index(&self, number: u64) -> Result<usize, Denied> {
        let found = self.pulls.iter().position(|it| it.number == number);
        found.ok_or_else(|| Denied::new(404, "Not Found"))
    }
}
