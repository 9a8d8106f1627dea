//! What a repository demands of a merge, the queue it goes through, and merges
//! that are made in GitHub's own time.

use jiff::Timestamp;
use uuid::Uuid;

use super::place::{Place, Way};
use super::repo::{Merging, Method};
use super::{CheckRun, Denied, GitHub, Pull, State};

/// What is demanded of a merge into any branch, and which ways to merge there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The head must have all that the base has.
    pub strict: bool,
    /// These checks must have succeeded on the head.
    pub required: Vec<String>,
    /// Merges go through the queue.
    pub queue: bool,
    /// `PUT …/merge-async` is there.
    pub merge_async: bool,
    /// A merge in GitHub's own time is made at the look after so many.
    pub async_looks: u32,
}

/// A merge that was asked for and is made later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AsyncMerge {
    pub(super) uuid: String,
    number: u64,
    pub(super) sha: Option<String>,
    method: Method,
    title: String,
    looks: u32,
    pub(super) state: AsyncState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AsyncState {
    Pending,
    Merged { sha: String },
    Enqueued,
    Failed { why: String },
}

/// What GitHub answers to a merge in its own time: a status, the merge where there
/// is one, and how it stands.
pub(super) type AsyncAnswer = (u16, Option<AsyncMerge>, AsyncState);

impl GitHub {
    /// What the repository demands, to be changed.
    pub fn rules(&mut self, slug: &str) -> Result<&mut Rules, Denied> {
        Ok(&mut self.place(slug)?.rules)
    }

    /// The pull requests in the queue, in order.
    pub fn queue(&mut self, slug: &str) -> Result<Vec<u64>, Denied> {
        Ok(self.place(slug)?.queue.iter().map(|it| it.0).collect())
    }

    /// The queue merges the first that is in it, if its head has not moved.
    pub fn run_queue(&mut self, slug: &str, now: Timestamp) -> Result<Option<String>, Denied> {
        let place = self.place(slug)?;
        place.refresh(now)?;
        if place.queue.is_empty() {
            return Ok(None);
        }
        let (number, sha) = place.queue.remove(0);
        let way = Way::ThroughQueue;
        let merged = place.merge_now(number, Some(&sha), Method::Squash, "", now, way)?;
        Ok(Some(merged))
    }

    pub(super) fn enqueue(
        &mut self,
        slug: &str,
        number: u64,
        sha: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Denied> {
        let place = self.place(slug)?;
        place.refresh(now)?;
        place.enqueue(number, sha)
    }

    /// Will bring a pull request's branch up to date, a moment after the answer.
    pub(super) fn update_branch(
        &mut self,
        slug: &str,
        number: u64,
        sha: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Denied> {
        let place = self.place(slug)?;
        place.refresh(now)?;
        let at = place.index(number)?;
        let pull = &place.pulls[at];
        let invalid = |why: &str| Err(Denied::new(422, why));
        if pull.state != State::Open {
            return invalid("Pull request is closed.");
        }
        if sha.is_some_and(|it| !it.eq_ignore_ascii_case(&pull.head_sha)) {
            return invalid("expected head sha didn’t match current head ref.");
        }
        if place.repo.behind(&pull.base_sha, &pull.head_sha)? == 0 {
            return invalid("There are no new commits on the base branch.");
        }
        if place.repo.conflicts(&pull.base_sha, &pull.head_sha)? {
            return invalid("merge conflict between base and head");
        }
        place.updates.push(number);
        Ok(())
    }

    pub(super) fn merge_async(
        &mut self,
        slug: &str,
        number: u64,
        (sha, method, title): (Option<&str>, Method, &str),
        now: Timestamp,
    ) -> Result<AsyncAnswer, Denied> {
        let place = self.place(slug)?;
        if !place.rules.merge_async {
            return Err(Denied::new(404, "Not Found"));
        }
        place.refresh(now)?;
        let at = place.index(number)?;
        let pull = &place.pulls[at];
        let failed = |why: &str| AsyncState::Failed { why: why.into() };
        match pull.state {
            State::Merged => {
                let sha = pull.merge_sha.clone().unwrap_or_default();
                return Ok((200, None, AsyncState::Merged { sha }));
            }
            State::Closed => return Ok((400, None, failed("Pull request is closed."))),
            State::Open if pull.draft => {
                return Ok((400, None, failed("Pull Request is still a draft")));
            }
            State::Open if place.queue.iter().any(|it| it.0 == number) => {
                return Ok((200, None, AsyncState::Enqueued));
            }
            State::Open => {}
        }
        let at_work = |it: &&AsyncMerge| it.number == number && it.state == AsyncState::Pending;
        if let Some(it) = place.asyncs.iter().find(at_work) {
            return Ok((409, Some(it.clone()), AsyncState::Pending));
        }
        let merge = AsyncMerge {
            uuid: Uuid::from_u64_pair(number, place.asyncs.len() as u64).to_string(),
            number,
            sha: sha.map(str::to_owned),
            method,
            title: title.to_owned(),
            looks: place.rules.async_looks,
            state: AsyncState::Pending,
        };
        place.asyncs.push(merge.clone());
        Ok((202, Some(merge), AsyncState::Pending))
    }

    /// How a merge in GitHub's own time stands; it is made when it is looked at.
    pub(super) fn async_merge(
        &mut self,
        slug: &str,
        uuid: &str,
        now: Timestamp,
    ) -> Result<AsyncMerge, Denied> {
        let place = self.place(slug)?;
        place.refresh(now)?;
        let at = place.asyncs.iter().position(|it| it.uuid == uuid);
        let at = at.ok_or_else(|| Denied::new(404, "Not Found"))?;
        let merge = &mut place.asyncs[at];
        if merge.state == AsyncState::Pending {
            match merge.looks.checked_sub(1) {
                Some(left) => merge.looks = left,
                None => place.make(at, now),
            }
        }
        Ok(place.asyncs[at].clone())
    }

    /// Makes every merge that was asked for, whether anybody looks or not.
    pub fn finish_merges(&mut self, slug: &str, now: Timestamp) -> Result<(), Denied> {
        let place = self.place(slug)?;
        place.refresh(now)?;
        for at in 0..place.asyncs.len() {
            if place.asyncs[at].state == AsyncState::Pending {
                place.make(at, now);
            }
        }
        Ok(())
    }

    /// What lies between a base branch and a commit: how far it is behind, and what
    /// it changes.
    pub(super) fn compare(
        &mut self,
        slug: &str,
        base: &str,
        head: &str,
    ) -> Result<(usize, Vec<super::Touched>), Denied> {
        let place = self.place(slug)?;
        let base = place.repo.head(base)?;
        let base = base.ok_or_else(|| Denied::new(404, "Not Found"))?;
        Ok((
            place.repo.behind(&base, head)?,
            place.repo.files(&base, head)?,
        ))
    }

    /// Deletes a branch; what came from it is closed.
    pub(super) fn delete_branch(
        &mut self,
        slug: &str,
        branch: &str,
        now: Timestamp,
    ) -> Result<(), Denied> {
        let place = self.place(slug)?;
        if !place.repo.delete(branch)? {
            return Err(Denied::new(422, "Reference does not exist"));
        }
        place.refresh(now)
    }
}

impl Place {
    /// Does what was asked for when the caller had its answer already.
    pub(super) fn bring_up_to_date(&mut self, now: Timestamp) -> Result<(), Denied> {
        for number in std::mem::take(&mut self.updates) {
            let at = self.index(number)?;
            let pull = &self.pulls[at];
            let (head, base) = (self.repo.head(&pull.head)?, self.repo.head(&pull.base)?);
            let (Some(head), Some(base)) = (head, base) else {
                continue;
            };
            let message = format!("Merge branch '{}' into {}", pull.base, pull.head);
            let branch = pull.head.clone();
            // Whoever pushes meanwhile is first, and the update is not made.
            match self.repo.update(&branch, &head, &base, &message, now)? {
                Merging::Done(_) | Merging::Conflict | Merging::BaseMoved => {}
            }
        }
        Ok(())
    }

    /// Refuses a direct merge that the rules do not allow.
    pub(super) fn check_rules(&mut self, at: usize, now: Timestamp) -> Result<(), Denied> {
        if self.rules.queue {
            let why = "Changes must be made through the merge queue";
            return Err(Denied::new(405, why));
        }
        if let Some(name) = self.missing(at, now) {
            let why = format!("Required status check \"{name}\" is expected.");
            return Err(Denied::new(405, &why));
        }
        let pull = &self.pulls[at];
        if self.rules.strict && self.repo.behind(&pull.base_sha, &pull.head_sha)? > 0 {
            let why = "Head branch is out of date. Review and try the merge again.";
            return Err(Denied::new(405, why));
        }
        Ok(())
    }

    /// The required check that has not succeeded on the head, if there is one.
    fn missing(&mut self, at: usize, now: Timestamp) -> Option<String> {
        let sha = self.pulls[at].head_sha.clone();
        let checks = self.checks_of(&sha, now);
        let statuses = self.statuses.get(&sha).cloned().unwrap_or_default();
        let passed = |name: &String| {
            let is =
                |it: &CheckRun| it.name == *name && it.conclusion.as_deref() == Some("success");
            checks.iter().any(is) || statuses.contains(&(name.clone(), "success".to_owned()))
        };
        self.rules.required.iter().find(|it| !passed(it)).cloned()
    }

    /// GitHub's word for how a merge stands, in capitals as GraphQL has it.
    pub(super) fn merge_state(
        &mut self,
        pull: &Pull,
        now: Timestamp,
    ) -> Result<&'static str, Denied> {
        let at = self.index(pull.number)?;
        let behind = match self.rules.strict {
            true => self.repo.behind(&pull.base_sha, &pull.head_sha)? > 0,
            false => false,
        };
        Ok(match pull.mergeable {
            _ if pull.state != State::Open => "UNKNOWN",
            None => "UNKNOWN",
            Some(false) => "DIRTY",
            Some(true) if pull.draft => "DRAFT",
            Some(true) if self.missing(at, now).is_some() => "BLOCKED",
            Some(true) if behind => "BEHIND",
            Some(true) => "CLEAN",
        })
    }

    pub(super) fn checks_of(&mut self, sha: &str, now: Timestamp) -> Vec<CheckRun> {
        let mut checks = self.checks.get(sha).cloned().unwrap_or_default();
        if let Some(pushed) = self.pushed.get(sha) {
            for ci in &self.ci {
                if checks.iter().all(|it| it.name != ci.name) {
                    let over = now.duration_since(*pushed) >= ci.delay;
                    checks.push(CheckRun {
                        id: 0,
                        name: ci.name.clone(),
                        conclusion: over.then(|| ci.conclusion.clone()),
                        output: [const { None }; 3],
                    });
                }
            }
        }
        for check in &mut checks {
            check.id = self.check_id(sha, &check.name);
        }
        checks
    }

    pub(super) fn check_id(&mut self, sha: &str, name: &str) -> u64 {
        let next = self.check_ids.len() as u64 + 1;
        let key = (sha.to_owned(), name.to_owned());
        *self.check_ids.entry(key).or_insert(next)
    }

    /// The commit and the name of a check run.
    pub(super) fn check_of(&self, id: u64) -> Result<(String, String), Denied> {
        let found = self.check_ids.iter().find(|(_, it)| **it == id);
        let found = found.map(|(key, _)| key.clone());
        found.ok_or_else(|| Denied::new(404, "Not Found"))
    }

    fn enqueue(&mut self, number: u64, sha: Option<&str>) -> Result<(), Denied> {
        let at = self.index(number)?;
        let pull = &self.pulls[at];
        let invalid = |why: &str| Err(Denied::new(422, why));
        if !self.rules.queue {
            return invalid("The merge queue is not enabled");
        }
        if pull.state != State::Open || pull.draft {
            return invalid("Pull request is not open");
        }
        if sha.is_some_and(|it| !it.eq_ignore_ascii_case(&pull.head_sha)) {
            return invalid("Head branch was modified");
        }
        if self.queue.iter().any(|it| it.0 == number) {
            return invalid("Pull request is already in the queue");
        }
        self.queue.push((number, pull.head_sha.clone()));
        Ok(())
    }

    fn make(&mut self, at: usize, now: Timestamp) {
        let AsyncMerge {
            number,
            sha,
            method,
            title,
            ..
        } = self.asyncs[at].clone();
        let done = match self.rules.queue {
            true => self
                .enqueue(number, sha.as_deref())
                .map(|()| AsyncState::Enqueued),
            false => self
                .merge(number, sha.as_deref(), method, &title, now)
                .map(|sha| AsyncState::Merged { sha }),
        };
        self.asyncs[at].state = done.unwrap_or_else(|denied| AsyncState::Failed {
            why: denied.message,
        });
    }
}
