//! What a GitHub needs of the repository below it.

use jiff::Timestamp;

/// A repository with branches. Commits are named by their full hash.
pub trait Repo: Send {
    /// The commit that a branch points to.
    fn head(&self, branch: &str) -> anyhow::Result<Option<String>>;

    /// Does `head` have commits that `base` lacks?
    fn is_ahead(&self, base: &str, head: &str) -> anyhow::Result<bool>;

    /// Would a merge of these two commits conflict?
    fn conflicts(&self, base: &str, head: &str) -> anyhow::Result<bool>;

    /// Brings `head` into a branch, if the branch still points to `base`.
    fn merge(
        &mut self,
        branch: &str,
        base: &str,
        head: &str,
        method: Method,
        message: &str,
        now: Timestamp,
    ) -> anyhow::Result<Merging>;

    /// What `head` changes since it left `base`, by path.
    fn files(&self, base: &str, head: &str) -> anyhow::Result<Vec<Touched>>;

    /// How many commits `base` has that `head` lacks.
    fn behind(&self, base: &str, head: &str) -> anyhow::Result<usize>;

    /// Brings `base` into a branch by a merge commit, if the branch still points to
    /// `head`.
    fn update(
        &mut self,
        branch: &str,
        head: &str,
        base: &str,
        message: &str,
        now: Timestamp,
    ) -> anyhow::Result<Merging>;

    /// Deletes a branch. `false`: there is none.
    fn delete(&mut self, branch: &str) -> anyhow::Result<bool>;

    /// Adds a commit to a branch, which is made from `base` where it is missing.
    fn commit(
        &mut self,
        branch: &str,
        base: &str,
        change: &Change,
        now: Timestamp,
    ) -> anyhow::Result<String>;
}

/// Files to be written, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub message: String,
    /// Path and content.
    pub files: Vec<(String, String)>,
}

/// A file that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touched {
    pub path: String,
    /// GitHub's word: `added`, `modified`, `removed`, `renamed`, `copied`.
    pub status: &'static str,
    /// Its name before, where it was renamed or copied.
    pub previous: Option<String>,
}

/// How a pull request becomes part of its base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Squash,
    Merge,
    Rebase,
}

impl Method {
    /// GitHub's word for it.
    pub fn from_word(word: &str) -> Option<Self> {
        match word {
            "squash" => Some(Self::Squash),
            "merge" => Some(Self::Merge),
            "rebase" => Some(Self::Rebase),
            _ => None,
        }
    }
}

/// What came of a merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merging {
    /// The branch points to this commit now.
    Done(String),
    Conflict,
    /// The branch does not point to the base any more.
    BaseMoved,
}
