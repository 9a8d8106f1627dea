//! A GitHub that behaves: pull requests over a repository with real branches,
//! checks that take their time, merges that refuse a stale commit.
//!
//! [`GitHub`] is a state machine without a clock; [`router`] is its HTTP skin.
//! The repository below is a [`Repo`]: a bare git repository ([`Bare`]) or one
//! in memory ([`Paper`]). GraphQL and REST tell the same.

pub mod app;
mod bare;
mod doors;
mod graph;
mod paper;
mod people;
mod place;
mod repo;
mod rules;
mod skin;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

pub use self::bare::Bare;
pub use self::paper::Paper;
pub use self::people::{Comment, Review};
use self::place::Place;
pub use self::repo::{Change, Merging, Method, Repo, Touched};
pub use self::rules::Rules;
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
    /// The App that may be used in place of the token.
    pub app: Option<app::App>,
    pub graphql: GraphQl,
    /// Requests over HTTP, by operation.
    calls: BTreeMap<String, usize>,
    /// Requests that were about a pull request, by slug and number.
    asked: BTreeMap<(String, u64), usize>,
    /// By slug in lower case.
    places: BTreeMap<String, Place>,
}

/// Which GraphQL a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphQl {
    Present,
    /// Every document is answered with 404.
    Absent,
    /// One that does not know yet what is asked for.
    Old,
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
    /// 0 until it is listed.
    pub id: u64,
    pub name: String,
    /// `None`: it still runs.
    pub conclusion: Option<String>,
    /// Title, summary and text of its report.
    pub output: [Option<String>; 3],
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

impl GitHub {
    pub fn new(token: &str) -> Self {
        Self {
            token: token.to_owned(),
            exhausted_until: None,
            app: None,
            graphql: GraphQl::Present,
            calls: BTreeMap::new(),
            asked: BTreeMap::new(),
            places: BTreeMap::new(),
        }
    }

    /// Hosts a repository as `owner/name`.
    pub fn add(&mut self, slug: &str, repo: impl Repo + 'static) {
        let place = Place::new(slug, Box::new(repo));
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
    /// object store, as they are at GitHub). What is pushed to [`branch_of_fork`] is
    /// the fork's own.
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
            id: 0,
            name: name.into(),
            conclusion: conclusion.map(str::to_owned),
            output: [const { None }; 3],
        });
        Ok(())
    }

    /// What a check run that was set says of itself: title, summary and text.
    pub fn set_output(
        &mut self,
        slug: &str,
        sha: &str,
        name: &str,
        output: [&str; 3],
    ) -> Result<(), Denied> {
        let checks = self.place(slug)?.checks.get_mut(sha);
        let check = checks.and_then(|it| it.iter_mut().find(|it| it.name == name));
        let check = check.ok_or_else(|| Denied::new(404, "Not Found"))?;
        check.output = output.map(|it| Some(it.to_owned()));
        Ok(())
    }

    /// What the job behind a check run has printed. Answers the check run's number.
    pub fn set_log(&mut self, slug: &str, sha: &str, name: &str, log: &str) -> Result<u64, Denied> {
        let place = self.place(slug)?;
        let id = place.check_id(sha, name);
        place.logs.insert(id, log.to_owned());
        Ok(id)
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
        Ok(place.checks_of(sha, now))
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

    /// Requests over HTTP, by operation.
    pub fn calls(&self) -> &BTreeMap<String, usize> {
        &self.calls
    }

    /// Requests that were about a pull request: a document that asks about many
    /// counts for each.
    pub fn asked(&self, slug: &str, number: u64) -> usize {
        let asked = self.asked.get(&(slug.to_lowercase(), number));
        asked.copied().unwrap_or_default()
    }

    fn count(&mut self, operation: &str) {
        *self.calls.entry(operation.to_owned()).or_default() += 1;
    }

    fn count_pull(&mut self, slug: &str, number: u64) {
        let key = (slug.to_lowercase(), number);
        *self.asked.entry(key).or_default() += 1;
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

impl Denied {
    fn new(status: u16, message: &str) -> Self {
        Self {
            status,
            message: message.into(),
            errors: Vec::new(),
        }
    }
}

/// Where the branch of a fork lies in the object store that it shares.
pub fn branch_of_fork(fork: &str, branch: &str) -> String {
    format!("forks/{fork}/{branch}")
}

/// The repository below failed: GitHub would answer 500, and so does this.
impl From<anyhow::Error> for Denied {
    fn from(error: anyhow::Error) -> Self {
        Self::new(500, &format!("{error:#}"))
    }
}
