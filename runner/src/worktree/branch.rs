//! Work on what is at the remote already: a worktree at one commit of a branch, and
//! a branch that is mended and pushed again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use shared::issue::{Failure, FailureClass, Repository};

use super::call::{LOCAL_MAX, REMOTE_MAX, invalid};
use super::{FETCH_TRIES_MAX, Git, Ground, PUSH_TRIES_MAX, push_failed};

/// What begins a line where git has left a conflict in a file.
const MARKERS: [&[u8]; 2] = [b"<<<<<<< ", b">>>>>>> "];
/// In a larger file nobody looks for them, bytes.
const MARKED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// The characters of a commit's name, by SHA-1 and by SHA-256.
const SHA_CHARS: [usize; 2] = [40, 64];

/// What a merge comes to that touches nobody's files.
pub(crate) enum Merged {
    /// The tree of both.
    Tree(String),
    /// The tree with the conflicts in it, and the files that have them.
    Conflicts { tree: String, files: Vec<String> },
}

impl Git {
    /// What it takes to work at one commit of a branch at the remote.
    pub(crate) async fn survey_commit(
        &self,
        repository: &Repository,
        branch: &str,
        commit: &str,
    ) -> Result<Ground, Failure> {
        let hex = commit.chars().all(|it| it.is_ascii_hexdigit());
        if !hex || !SHA_CHARS.contains(&commit.len()) {
            return Err(invalid(format!("`{commit}` is not the name of a commit")));
        }
        let (base, head) = self.survey_branch(repository, branch).await?;
        let path = Path::new(&repository.path);
        let args = ["merge-base", "--is-ancestor", commit, &head];
        if self.call(path, &args, LOCAL_MAX).await?.code != 0 {
            return Err(lost(format!(
                "the commit {commit} is not on the branch `{branch}` any more"
            )));
        }
        Ok(Ground {
            branch: None,
            base_sha: commit.to_owned(),
            merged_sha: None,
            scripts_sha: Some(base),
        })
    }

    /// What it takes to go on with a branch at the remote. `merge`: the base branch
    /// is to be merged into it.
    pub(crate) async fn survey_repair(
        &self,
        repository: &Repository,
        branch: &str,
        merge: bool,
    ) -> Result<Ground, Failure> {
        let (base, head) = self.survey_branch(repository, branch).await?;
        Ok(Ground {
            branch: Some(branch.to_owned()),
            base_sha: head,
            merged_sha: merge.then(|| base.clone()),
            scripts_sha: Some(base),
        })
    }

    /// The commits of the base branch and of a branch at the remote, as they are now.
    async fn survey_branch(
        &self,
        repository: &Repository,
        branch: &str,
    ) -> Result<(String, String), Failure> {
        self.check(repository).await?;
        let lock = self.lock(repository);
        let _one_at_a_time = lock.lock().await;
        let path = Path::new(&repository.path);
        let base = self.fetch_base(repository).await?;
        self.fit(path, branch).await?;
        let remote = format!("refs/remotes/origin/{branch}");
        let refspec = format!("+refs/heads/{branch}:{remote}");
        let args = ["fetch", "--quiet", "--no-tags", "origin", &refspec];
        let said = self.remote(path, &args, FETCH_TRIES_MAX).await?;
        if said.code != 0 && said.err.contains("couldn't find remote ref") {
            return Err(lost(format!(
                "the branch `{branch}` is not at the remote any more"
            )));
        } else if said.code != 0 {
            return Err(self.unreachable(repository, &said));
        }
        let commit = format!("{remote}^{{commit}}");
        let head = self.ask(path, &["rev-parse", "--verify", &commit]).await?;
        Ok((base, head))
    }

    /// Merges a commit into a new worktree; conflicts are left in the files.
    pub(super) async fn merge_in(&self, worktree: &Path, sha: &str) -> Result<(), Failure> {
        let who = self.who(worktree).await?;
        let mut args: Vec<&str> = who.iter().map(String::as_str).collect();
        args.extend(["merge", "--no-commit", "--no-ff"]);
        args.extend(["--no-rerere-autoupdate", sha]);
        let said = self.call(worktree, &args, REMOTE_MAX).await?;
        if said.code == 0 || (said.code == 1 && self.is_merging(worktree).await?) {
            return Ok(());
        }
        Err(invalid(format!(
            "the base branch cannot be merged into the branch: {}",
            said.complaint()
        )))
    }

    /// Is a merge under way that is not committed?
    pub(super) async fn is_merging(&self, worktree: &Path) -> Result<bool, Failure> {
        let args = ["rev-parse", "--quiet", "--verify", "MERGE_HEAD"];
        Ok(self.call(worktree, &args, LOCAL_MAX).await?.code == 0)
    }

    /// Is the first of these commits a part of the second one's history?
    pub(crate) async fn contains(
        &self,
        folder: &Path,
        early: &str,
        late: &str,
    ) -> Result<bool, Failure> {
        self.same(folder, &["merge-base", "--is-ancestor", early, late])
            .await
    }

    /// Merges two commits beside all worktrees.
    pub(crate) async fn merged(
        &self,
        folder: &Path,
        ours: &str,
        theirs: &str,
        base: Option<&str>,
    ) -> Result<Merged, Failure> {
        let base = base.map(|it| format!("--merge-base={it}"));
        let mut args = vec!["merge-tree", "--write-tree", "--name-only", "-z"];
        args.push("--no-messages");
        args.extend(base.as_deref());
        args.extend([ours, theirs]);
        let said = self.call(folder, &args, LOCAL_MAX).await?;
        let mut parts = said.out.split('\0').map(str::to_owned);
        let tree = parts.next().unwrap_or_default();
        match said.code {
            0 => Ok(Merged::Tree(tree)),
            1 => Ok(Merged::Conflicts {
                tree,
                files: parts.filter(|it| !it.is_empty()).collect(),
            }),
            _ => Err(invalid(format!(
                "{theirs} cannot be merged with {ours}: {}",
                said.complaint()
            ))),
        }
    }

    /// The files of a worktree in which the conflicts of [`Git::merge_in`] are left.
    pub(crate) async fn unresolved(
        &self,
        worktree: &Path,
        before: &str,
        merged: &str,
    ) -> Result<Vec<String>, Failure> {
        let (tree, files) = match self.merged(worktree, before, merged, None).await? {
            Merged::Tree(_) => return Ok(Vec::new()),
            Merged::Conflicts { tree, files } => (tree, files),
        };
        let unmerged = ["diff", "--name-only", "--diff-filter=U", "-z"];
        let unmerged = self.ask(worktree, &unmerged).await?;
        let unmerged: BTreeSet<&str> = unmerged.split('\0').collect();
        let mut left = Vec::new();
        for file in files {
            let path = worktree.join(&file);
            let about = path.symlink_metadata();
            let Some(bytes) = about.ok().filter(|it| it.is_file()).map(|it| it.len()) else {
                continue;
            };
            let marked = bytes <= MARKED_BYTES_MAX && fs::read(&path).is_ok_and(|it| marked(&it));
            // Where git can mark nothing (one side deleted it, or it is no text), the
            // file has to be another one than git left, or to be added.
            let untouched = unmerged.contains(file.as_str()) && {
                let as_left = format!("{tree}:{file}");
                let as_left = ["rev-parse", "--verify", "--quiet", &as_left];
                let as_left = self.call(worktree, &as_left, LOCAL_MAX).await?;
                let now = self.ask(worktree, &["hash-object", "--", &file]).await?;
                as_left.out.trim() == now
            };
            if marked || untouched {
                left.push(file);
            }
        }
        Ok(left)
    }

    /// Pushes a commit over the one that a branch was at when it was fetched.
    pub(crate) async fn push_over(
        &self,
        worktree: &Path,
        sha: &str,
        before: &str,
        branch: &str,
    ) -> Result<(), Failure> {
        let full = format!("refs/heads/{branch}");
        let there = self.at_remote(worktree, &full).await?;
        let there = match there.as_deref() {
            Some(there) if there == sha => return Ok(()),
            Some(there) if there == before => before,
            Some(there) if self.on_the_way(worktree, before, there, sha).await? => there,
            Some(there) => return Err(overtaken(branch, there)),
            None => {
                return Err(lost(format!(
                    "the branch `{branch}` was deleted while it was worked on"
                )));
            }
        };
        let lease = format!("--force-with-lease={full}:{there}");
        let refspec = format!("{sha}:{full}");
        let args = ["push", "--quiet", "--no-verify", &lease, "origin", &refspec];
        let said = self.remote(worktree, &args, PUSH_TRIES_MAX).await?;
        if said.code == 0 {
            return Ok(());
        }
        // The reply of the first try may have been lost.
        match self.at_remote(worktree, &full).await? {
            Some(now) if now == sha => Ok(()),
            Some(now) if now != there => Err(overtaken(branch, &now)),
            Some(_) | None => Err(push_failed(&said)),
        }
    }

    /// The commit that a reference of the remote names.
    async fn at_remote(&self, folder: &Path, full: &str) -> Result<Option<String>, Failure> {
        let args = ["ls-remote", "origin", full];
        let said = self.remote(folder, &args, PUSH_TRIES_MAX).await?;
        if said.code != 0 {
            return Err(push_failed(&said));
        }
        let mut lines = said.out.lines().filter_map(|it| it.split_once('\t'));
        let found = lines.find(|(_, name)| *name == full);
        Ok(found.map(|(sha, _)| sha.to_owned()))
    }
}

fn marked(bytes: &[u8]) -> bool {
    let mut lines = bytes.split(|it| *it == b'\n');
    lines.any(|line| MARKERS.iter().any(|it| line.starts_with(it)))
}

fn overtaken(branch: &str, there: &str) -> Failure {
    lost(format!(
        "somebody else has pushed {there} to the branch `{branch}` while it was worked on: what \
         was made of it is not pushed over that"
    ))
}

fn lost(message: String) -> Failure {
    Failure {
        class: FailureClass::Lost,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::marked;

    #[test]
    fn a_conflict_is_known_by_its_markers_and_a_heading_is_none() {
        assert!(marked(b"a\n<<<<<<< HEAD\nb\n=======\nc\n>>>>>>> x\n"));
        assert!(!marked(b"Install\n=======\nab <<<<<<< c\n"));
    }
}
