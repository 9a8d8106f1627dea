//! A GitHub that behaves: pull requests over a repository with real branches,
//! checks that take their time, merges that refuse a stale commit.
//!
//! [`GitHub`] is a state machine without a clock; [`router`] is its HTTP skin.
//! The repository below is a [`Repo`]: a bare git repository ([`Bare`]) or one
//! in memory ([`Paper`]). No reviews, no branch protection, no merge queue.

mod bare;
mod paper;
mod repo;
mod skin;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

pub use self::bare::Bare;
pub use self::paper::Paper;
pub use self::repo::{Change, Merging, Method, Repo};
pub use self::skin::router;

/// Tells a skin the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The state machine and its clock, as a skin and a test share them.
#[derive(Clone)]
pub struct Shared {
    state: Arc<Mutex<GitHub>>,
    pub clock: Clock,
}

impl Shared {
    pub fn new(github: GitHub, clock: Clock) -> Self {
        Self {
            state: Arc::new(Mutex::new(github)),
            clock,
        }
    }

    /// In real time.
    pub fn now(github: GitHub) -> Self {
        Self::new(github, Arc::new(Timestamp::now))
    }

    pub fn lock(&self) -> MutexGuard<'_, GitHub> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All of GitHub: repositories with their pull requests.
pub struct GitHub {
    pub token: String,
    /// Until then every call over HTTP meets the rate limit.
    pub exhausted_until: Option<Timestamp>,
    /// By slug in lower case.
    places: BTreeMap<String, Place>,
}

/// A refusal, as GitHub answers it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct Denied {
    pub status: u16,
    pub message: String,
    /// Further sentences of a 422.
    pub errors: Vec<String>,
}

/// A check that starts by itself on every new head.
#[derive(Clone, Debug)]
pub struct Ci {
    pub name: String,
    /// Of world time, from when the head was pushed (or first looked at).
    pub delay: SignedDuration,
    pub conclusion: String,
}

/// A pull request to be opened.
#[derive(Clone, Debug, Default)]
pub struct NewPull {
    pub head: String,
    pub base: String,
    pub title: String,
    pub body: String,
    pub draft: bool,
}

/// A pull request as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pull {
    pub number: u64,
    pub title: String,
    pub body: String,
    pub draft: bool,
    pub state: State,
    /// `owner/name` of the repository of the head; another one than its own: a fork.
    pub head_slug: String,
    pub head: String,
    pub head_sha: String,
    pub base: String,
    pub base_sha: String,
    /// `None`: not found out yet. Reading it makes GitHub find out.
    pub mergeable: Option<bool>,
    pub merge_sha: Option<String>,
    pub created_at: Timestamp,
    pub closed_at: Option<Timestamp>,
    /// For which head and base it is known whether they can be merged.
    judged: Option<(String, String, bool)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    Closed,
    Merged,
}

/// A check run of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckRun {
    pub name: String,
    /// `None`: it still runs.
    pub conclusion: Option<String>,
}

/// A merge that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    pub slug: String,
    pub number: u64,
    /// The commit that the caller named.
    pub named: Option<String>,
    /// The head that was merged.
    pub head_sha: String,
    /// The new head of the base branch.
    pub sha: String,
    pub at: Timestamp,
}

struct Place {
    slug: String,
    repo: Box<dyn Repo>,
    pulls: Vec<Pull>,
    ci: Vec<Ci>,
    /// Since when a commit is known as a head.
    pushed: BTreeMap<String, Timestamp>,
    checks: BTreeMap<String, Vec<CheckRun>>,
    /// Commit statuses: context and state, by commit.
    statuses: BTreeMap<String, Vec<(String, String)>>,
    merges: Vec<Merge>,
    refused: u32,
    /// So many of the next merges find that the base has just moved.
    disturbed: u32,
    archived: bool,
}

impl GitHub {
    pub fn new(token: &str) -> Self {
        Self {
            token: token.to_owned(),
            exhausted_until: None,
            places: BTreeMap::new(),
        }
    }

    /// Hosts a repository as `owner/name`.
    pub fn add(&mut self, slug: &str, repo: impl Repo + 'static) {
        let place = Place {
            slug: slug.to_owned(),
            repo: Box::new(repo),
            pulls: Vec::new(),
            ci: Vec::new(),
            pushed: BTreeMap::new(),
            checks: BTreeMap::new(),
            statuses: BTreeMap::new(),
            merges: Vec::new(),
            refused: 0,
            disturbed: 0,
            archived: false,
        };
        self.places.insert(slug.to_lowercase(), place);
    }

    /// From now on every new head gets this check.
    pub fn add_ci(&mut self, slug: &str, ci: Ci) -> Result<(), Denied> {
        self.place(slug)?.ci.push(ci);
        Ok(())
    }

    /// The next `count` merges are refused because the base moved meanwhile.
    pub fn disturb_merges(&mut self, slug: &str, count: u32) -> Result<(), Denied> {
        self.place(slug)?.disturbed = count;
        Ok(())
    }

    pub fn archive(&mut self, slug: &str) -> Result<(), Denied> {
        self.place(slug)?.archived = true;
        Ok(())
    }

    /// Is it archived? An error where there is no such repository.
    pub fn is_archived(&mut self, slug: &str) -> Result<bool, Denied> {
        Ok(self.place(slug)?.archived)
    }

    /// The commit that a branch points to.
    pub fn head(&mut self, slug: &str, branch: &str) -> Result<Option<String>, Denied> {
        Ok(self.place(slug)?.repo.head(branch)?)
    }

    /// Commits a change to a branch, as a push does; the branch is made from
    /// `base` where it is missing.
    pub fn push(
        &mut self,
        slug: &str,
        branch: &str,
        base: &str,
        change: &Change,
        now: Timestamp,
    ) -> Result<String, Denied> {
        let place = self.place(slug)?;
        let sha = place.repo.commit(branch, base, change, now)?;
        place.refresh(now)?;
        Ok(sha)
    }

    /// Opens a pull request from a branch of the repository itself.
    pub fn open_pull(&mut self, slug: &str, new: &NewPull, now: Timestamp) -> Result<u64, Denied> {
        let place = self.place(slug)?;
        let slug = place.slug.clone();
        place.open(&slug, new, now)
    }

    /// Opens a pull request from a branch of a fork (its commits are in the same
    /// object store, as they are at GitHub).
    pub fn open_pull_from_fork(
        &mut self,
        slug: &str,
        fork: &str,
        new: &NewPull,
        now: Timestamp,
    ) -> Result<u64, Denied> {
        self.place(slug)?.open(fork, new, now)
    }

    /// Pull requests, newest first. `head`: owner and branch.
    pub fn pulls(
        &mut self,
        slug: &str,
        head: Option<(&str, &str)>,
        open_only: bool,
        now: Timestamp,
    ) -> Result<Vec<Pull>, Denied> {
        let place = self.place(slug)?;
        place.refresh(now)?;
        let wanted = |it: &&Pull| {
            let owner = it.head_slug.split('/').next().unwrap_or_default();
            head.is_none_or(|(user, branch)| owner.eq_ignore_ascii_case(user) && it.head == branch)
                && (!open_only || it.state == State::Open)
        };
        Ok(place.pulls.iter().rev().filter(wanted).cloned().collect())
    }

    /// One pull request. The first look after head or base has changed does not
    /// tell yet whether it can be merged.
    pub fn pull(&mut self, slug: &str, number: u64, now: Timestamp) -> Result<Pull, Denied> {
        let place = self.place(slug)?;
        place.refresh(now)?;
        let at = place.index(number)?;
        place.look(at)
    }

    /// Merges, if the head is still `sha`; answers the new head of the base.
    pub fn merge(
        &mut self,
        slug: &str,
        number: u64,
        sha: Option<&str>,
        method: Method,
        title: &str,
        now: Timestamp,
    ) -> Result<String, Denied> {
        let place = self.place(slug)?;
        let merged = place.merge(number, sha, method, title, now);
        if merged.is_err() {
            place.refused += 1;
        }
        merged
    }

    /// Closes a pull request without merging it.
    pub fn close(&mut self, slug: &str, number: u64, now: Timestamp) -> Result<(), Denied> {
        let place = self.place(slug)?;
        place.refresh(now)?;
        let at = place.index(number)?;
        let pull = &mut place.pulls[at];
        if pull.state == State::Open {
            pull.state = State::Closed;
            pull.closed_at = Some(now);
        }
        Ok(())
    }

    /// Changes the text of a pull request, as anybody with access can.
    pub fn edit(&mut self, slug: &str, number: u64, body: &str) -> Result<(), Denied> {
        let place = self.place(slug)?;
        let at = place.index(number)?;
        body.clone_into(&mut place.pulls[at].body);
        Ok(())
    }

    /// Sets a check run of a commit, over one of the same name. `None`: it runs.
    pub fn set_check(
        &mut self,
        slug: &str,
        sha: &str,
        name: &str,
        conclusion: Option<&str>,
    ) -> Result<(), Denied> {
        let checks = self.place(slug)?.checks.entry(sha.to_owned()).or_default();
        checks.retain(|it| it.name != name);
        checks.push(CheckRun {
            name: name.into(),
            conclusion: conclusion.map(str::to_owned),
        });
        Ok(())
    }

    /// Sets a commit status, over one of the same context.
    pub fn set_status(
        &mut self,
        slug: &str,
        sha: &str,
        context: &str,
        state: &str,
    ) -> Result<(), Denied> {
        let statuses = self
            .place(slug)?
            .statuses
            .entry(sha.to_owned())
            .or_default();
        statuses.retain(|(it, _)| it != context);
        statuses.push((context.into(), state.into()));
        Ok(())
    }

    /// The check runs of a commit: those that were set, and those of the CI.
    pub fn checks(
        &mut self,
        slug: &str,
        sha: &str,
        now: Timestamp,
    ) -> Result<Vec<CheckRun>, Denied> {
        let place = self.place(slug)?;
        place.refresh(now)?;
        let mut checks = place.checks.get(sha).cloned().unwrap_or_default();
        if let Some(pushed) = place.pushed.get(sha) {
            for ci in &place.ci {
                if checks.iter().all(|it| it.name != ci.name) {
                    let over = now.duration_since(*pushed) >= ci.delay;
                    let conclusion = over.then(|| ci.conclusion.clone());
                    checks.push(CheckRun {
                        name: ci.name.clone(),
                        conclusion,
                    });
                }
            }
        }
        Ok(checks)
    }

    /// The commit statuses of a commit: context and state.
    pub fn statuses(&mut self, slug: &str, sha: &str) -> Result<Vec<(String, String)>, Denied> {
        Ok(self
            .place(slug)?
            .statuses
            .get(sha)
            .cloned()
            .unwrap_or_default())
    }

    /// Every merge that was done, in all repositories, in order for each.
    pub fn merges(&self) -> Vec<Merge> {
        self.places
            .values()
            .flat_map(|it| it.merges.iter().cloned())
            .collect()
    }

    /// How many merges were refused.
    pub fn refused(&self) -> u32 {
        self.places.values().map(|it| it.refused).sum()
    }

    /// What must hold whatever callers do, or a sentence that says what does not:
    /// nothing was merged without naming its commit, or twice.
    pub fn check(&self) -> Result<(), String> {
        let mut merged = std::collections::BTreeSet::new();
        for place in self.places.values() {
            for merge in &place.merges {
                let Merge {
                    slug,
                    number,
                    head_sha,
                    ..
                } = merge;
                if merge.named.as_ref() != Some(head_sha) {
                    return Err(format!(
                        "{slug}#{number} was merged at {head_sha}, and the caller named {:?}",
                        merge.named
                    ));
                }
                if !merged.insert((slug, number)) {
                    return Err(format!("{slug}#{number} was merged twice"));
                }
            }
        }
        Ok(())
    }

    fn place(&mut self, slug: &str) -> Result<&mut Place, Denied> {
        self.places
            .get_mut(&slug.to_lowercase())
            .ok_or_else(|| Denied::new(404, "Not Found"))
    }

    /// The name of a repository in the spelling of its owner.
    fn spelled(&mut self, slug: &str) -> Result<String, Denied> {
        Ok(self.place(slug)?.slug.clone())
    }
}

impl Place {
    fn open(&mut self, head_slug: &str, new: &NewPull, now: Timestamp) -> Result<u64, Denied> {
        self.refresh(now)?;
        let invalid = |message: String| Denied {
            status: 422,
            message: "Validation Failed".into(),
            errors: vec![message],
        };
        let (Some(head_sha), Some(base_sha)) =
            (self.repo.head(&new.head)?, self.repo.head(&new.base)?)
        else {
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
    fn refresh(&mut self, now: Timestamp) -> Result<(), Denied> {
        for pull in self.pulls.iter_mut().filter(|it| it.state == State::Open) {
            let (head, base) = (self.repo.head(&pull.head)?, self.repo.head(&pull.base)?);
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

    fn look(&mut self, at: usize) -> Result<Pull, Denied> {
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

    fn merge(
        &mut self,
        number: u64,
        sha: Option<&str>,
        method: Method,
        title: &str,
        now: Timestamp,
    ) -> Result<String, Denied> {
        self.refresh(now)?;
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

    fn index(&self, number: u64) -> Result<usize, Denied> {
        let found = self.pulls.iter().position(|it| it.number == number);
        found.ok_or_else(|| Denied::new(404, "Not Found"))
    }
}

impl Denied {
    fn new(status: u16, message: &str) -> Self {
        Self {
            status,
            message: message.into(),
            errors: Vec::new(),
        }
    }
}

/// The repository below failed: GitHub would answer 500, and so does this.
impl From<anyhow::Error> for Denied {
    fn from(error: anyhow::Error) -> Self {
        Self::new(500, &format!("{error:#}"))
    }
}
