//! A repository on paper: commits are sets of file names, two sides conflict
//! when both have changed the same file. Deterministic and fast, for simulation.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::repo::{Change, Merging, Method, Repo, Touched};

/// Hex digits of a commit's name, as git has them.
const SHA_DIGITS: usize = 40;

/// The repository.
#[derive(Clone, Debug)]
pub struct Paper {
    branches: BTreeMap<String, String>,
    commits: BTreeMap<String, Commit>,
}

#[derive(Clone, Debug)]
struct Commit {
    /// Position in the order of making: parents come before children.
    at: usize,
    parents: Vec<String>,
    files: BTreeSet<String>,
}

impl Paper {
    /// A repository with one commit on this branch.
    pub fn new(branch: &str) -> Self {
        let mut paper = Self {
            branches: BTreeMap::new(),
            commits: BTreeMap::new(),
        };
        let root = paper.add(Vec::new(), BTreeSet::new(), "first");
        paper.branches.insert(branch.to_owned(), root);
        paper
    }

    /// The files that a branch's commits have changed, each with how often.
    pub fn changes(&self, branch: &str) -> BTreeMap<String, usize> {
        let mut changes = BTreeMap::new();
        let head = self.branches.get(branch);
        for sha in head.map(|it| self.reach(it)).unwrap_or_default() {
            for file in &self.commits[sha].files {
                *changes.entry(file.clone()).or_default() += 1;
            }
        }
        changes
    }

    fn add(&mut self, parents: Vec<String>, files: BTreeSet<String>, message: &str) -> String {
        let at = self.commits.len();
        let mut hash = Sha256::new();
        // The position makes every commit another one, as its time does in git.
        hash.update(format!("{at}\n{parents:?}\n{files:?}\n{message}"));
        let mut sha = hex::encode(hash.finalize());
        sha.truncate(SHA_DIGITS);
        self.commits
            .insert(sha.clone(), Commit { at, parents, files });
        sha
    }

    /// A commit and all that is behind it.
    fn reach<'a>(&'a self, from: &'a str) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(sha) = open.pop() {
            if reached.insert(sha)
                && let Some(commit) = self.commits.get(sha)
            {
                open.extend(commit.parents.iter().map(String::as_str));
            }
        }
        reached
    }

    /// What `head` has and `base` lacks, oldest first.
    fn between(&self, base: &str, head: &str) -> Vec<&Commit> {
        let behind = self.reach(base);
        let ahead = self.reach(head);
        let mut commits: Vec<_> = ahead
            .difference(&behind)
            .filter_map(|it| self.commits.get(*it))
            .collect();
        commits.sort_by_key(|it| it.at);
        commits
    }
}

impl Repo for Paper {
    fn head(&self, branch: &str) -> anyhow::Result<Option<String>> {
        Ok(self.branches.get(branch).cloned())
    }

    fn is_ahead(&self, base: &str, head: &str) -> anyhow::Result<bool> {
        Ok(!self.between(base, head).is_empty())
    }

    fn conflicts(&self, base: &str, head: &str) -> anyhow::Result<bool> {
        let files = |commits: Vec<&Commit>| -> BTreeSet<String> {
            commits
                .into_iter()
                .flat_map(|it| it.files.iter().cloned())
                .collect()
        };
        let theirs = files(self.between(head, base));
        let ours = files(self.between(base, head));
        Ok(!theirs.is_disjoint(&ours))
    }

    fn merge(
        &mut self,
        branch: &str,
        base: &str,
        head: &str,
        method: Method,
        message: &str,
        _: Timestamp,
    ) -> anyhow::Result<Merging> {
        if self.branches.get(branch).map(String::as_str) != Some(base) {
            return Ok(Merging::BaseMoved);
        }
        if self.conflicts(base, head)? {
            return Ok(Merging::Conflict);
        }
        let steps: Vec<BTreeSet<String>> = self
            .between(base, head)
            .into_iter()
            .map(|it| it.files.clone())
            .collect();
        let sha = match method {
            Method::Squash => {
                let files = steps.into_iter().flatten().collect();
                self.add(vec![base.into()], files, message)
            }
            // Its commits come along with their own files.
            Method::Merge => self.add(vec![base.into(), head.into()], BTreeSet::new(), message),
            Method::Rebase => steps.into_iter().fold(base.to_owned(), |onto, files| {
                self.add(vec![onto], files, message)
            }),
        };
        self.branches.insert(branch.to_owned(), sha.clone());
        Ok(Merging::Done(sha))
    }

    fn files(&self, base: &str, head: &str) -> anyhow::Result<Vec<Touched>> {
        let commits = self.between(base, head);
        let paths: BTreeSet<&String> = commits.iter().flat_map(|it| &it.files).collect();
        let touched = |path: &String| Touched {
            path: path.clone(),
            status: "modified",
            previous: None,
        };
        Ok(paths.into_iter().map(touched).collect())
    }

    fn behind(&self, base: &str, head: &str) -> anyhow::Result<usize> {
        Ok(self.between(head, base).len())
    }

    fn update(
        &mut self,
        branch: &str,
        head: &str,
        base: &str,
        message: &str,
        now: Timestamp,
    ) -> anyhow::Result<Merging> {
        self.merge(branch, head, base, Method::Merge, message, now)
    }

    fn delete(&mut self, branch: &str) -> anyhow::Result<bool> {
        Ok(self.branches.remove(branch).is_some())
    }

    fn commit(
        &mut self,
        branch: &str,
        base: &str,
        change: &Change,
        _: Timestamp,
    ) -> anyhow::Result<String> {
        let onto = self
            .branches
            .get(branch)
            .or_else(|| self.branches.get(base))
            .cloned();
        let onto = onto.with_context(|| format!("there is no branch `{base}`"))?;
        let files = change.files.iter().map(|(path, _)| path.clone()).collect();
        let sha = self.add(vec![onto], files, &format!("{branch}: {}", change.message));
        self.branches.insert(branch.to_owned(), sha.clone());
        Ok(sha)
    }
}
