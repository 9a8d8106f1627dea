//! Git: a worktree for a job, and what came of it. The machine's own `git` with
//! the machine's own credentials; its answers are plain text, its failures
//! sentences for people.
//!
//! What for is said here; `branch` works on what is at the remote already, and how
//! git is called is in `call`.

mod branch;
mod call;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use shared::issue::{Failure, Repository};
use tokio::sync::Mutex;

pub(crate) use self::branch::Merged;
pub(crate) use self::call::{LOCAL_MAX, Said};
use self::call::{REMOTE_MAX, invalid};

/// What `git ls-remote --exit-code` ends with where there is no such branch.
const NO_SUCH_REF: i32 = 2;
/// How often the remote is asked before an agent has begun …
const FETCH_TRIES_MAX: u32 = 3;
/// … and how often when its work, which was paid for, is to be delivered.
const PUSH_TRIES_MAX: u32 = 7;
/// The numbers after a branch name that are tried where it is taken.
const BRANCH_SUFFIX_MAX: u32 = 50;
/// The names of changed files that are told.
const FILES_MAX: usize = 500;
/// What scripts have left in a worktree is told by its files up to so many bytes
/// of names, else by its folders: it goes on a command line.
const UNTRACKED_BYTES_MAX: usize = 64 * 1024;
/// What git calls a file, and the mode that it has in a worktree of ours.
const FILE_MODES: [(&str, u32); 2] = [("100644 ", 0o600), ("100755 ", 0o700)];
/// Who commits where git knows nobody.
const AUTHOR_NAME: &str = "Cyrus";
const AUTHOR_EMAIL: &str = "cyrus@localhost";

/// Where a worktree is made, and from what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ground {
    /// The local branch; `None`: detached.
    pub(crate) branch: Option<String>,
    pub(crate) base_sha: String,
    /// The commit of the base branch that is merged into it.
    pub(crate) merged_sha: Option<String>,
    /// The commit whose scripts are run, where those at `base_sha` may be an agent's.
    pub(crate) scripts_sha: Option<String>,
}

/// Is this a repository that a job can work in, and does its remote answer? A
/// sentence with the remedy if not.
pub async fn check_repository(
    repository: &Repository,
    env: &BTreeMap<String, String>,
) -> Result<(), Failure> {
    let git = Git::new(env.clone());
    git.check(repository).await?;
    let base = &repository.base_branch;
    let reference = format!("refs/heads/{base}");
    let args = ["ls-remote", "--exit-code", "origin", &reference];
    let said = git
        .call(Path::new(&repository.path), &args, LOCAL_MAX)
        .await?;
    match said.code {
        0 => Ok(()),
        NO_SUCH_REF => Err(no_base(repository)),
        _ => Err(git.unreachable(repository, &said)),
    }
}

pub(crate) fn no_base(
    Repository {
        id, base_branch, ..
    }: &Repository,
) -> Failure {
    invalid(format!(
        "the remote of the repository `{id}` has no branch `{base_branch}`: correct `baseBranch` \
         in the configuration"
    ))
}

/// Calls git, one fetch or worktree at a time per repository.
#[derive(Debug)]
pub(crate) struct Git {
    env: BTreeMap<String, String>,
    locks: StdMutex<HashMap<PathBuf, Arc<Mutex<()>>>>,
}

impl Git {
    pub(crate) fn new(env: BTreeMap<String, String>) -> Self {
        Self {
            env,
            locks: StdMutex::default(),
        }
    }

    pub(crate) async fn check(&self, repository: &Repository) -> Result<(), Failure> {
        let Repository { id, path, .. } = repository;
        if !Path::new(path).is_dir() {
            return Err(invalid(format!(
                "the folder `{path}` of the repository `{id}` does not exist on the runner's \
                 machine: clone the repository there, or correct `repositoryPath` in the \
                 configuration"
            )));
        }
        let said = self
            .call(Path::new(path), &["rev-parse", "--git-dir"], LOCAL_MAX)
            .await?;
        if said.code != 0 {
            return Err(invalid(format!(
                "the folder `{path}` of the repository `{id}` is not a git repository that can \
                 be used ({}): clone the repository there, or correct `repositoryPath` in the \
                 configuration",
                said.complaint()
            )));
        }
        let origin = self
            .call(Path::new(path), &["remote", "get-url", "origin"], LOCAL_MAX)
            .await?;
        if origin.code != 0 {
            return Err(invalid(format!(
                "the repository `{id}` in `{path}` has no remote called `origin`: add it with \
                 `git remote add origin URL`"
            )));
        }
        Ok(())
    }

    /// Brings the base branch up to date and finds a branch name that is free,
    /// here and at the remote.
    pub(crate) async fn survey(
        &self,
        repository: &Repository,
        branch: Option<&str>,
    ) -> Result<Ground, Failure> {
        self.check(repository).await?;
        let lock = self.lock(repository);
        let _one_at_a_time = lock.lock().await;
        let path = Path::new(&repository.path);
        let base_sha = self.fetch_base(repository).await?;
        let ground = Ground {
            branch: None,
            base_sha,
            merged_sha: None,
            scripts_sha: None,
        };
        let Some(branch) = branch else {
            return Ok(ground);
        };
        self.fit(path, branch).await?;
        let taken = self.taken(path, branch).await?;
        let branch = candidates(branch).find(|it| !taken.contains(it)).ok_or_else(|| {
            invalid(format!(
                "the branch `{branch}` and all its numbered names are taken: delete some of them"
            ))
        })?;
        Ok(Ground {
            branch: Some(branch),
            ..ground
        })
    }

    /// May a branch be called like that?
    async fn fit(&self, path: &Path, name: &str) -> Result<(), Failure> {
        let full = format!("refs/heads/{name}");
        let args = ["check-ref-format", &full];
        if self.call(path, &args, LOCAL_MAX).await?.code == 0 {
            return Ok(());
        }
        Err(invalid(format!(
            "`{name}` is not a name that a branch can have"
        )))
    }

    /// Brings the base branch up to date; its commit.
    async fn fetch_base(&self, repository: &Repository) -> Result<String, Failure> {
        let path = Path::new(&repository.path);
        let base = &repository.base_branch;
        self.fit(path, base).await?;
        let remote_base = format!("refs/remotes/origin/{base}");
        let refspec = format!("+refs/heads/{base}:{remote_base}");
        let args = ["fetch", "--quiet", "--no-tags", "origin", &refspec];
        let said = self.remote(path, &args, FETCH_TRIES_MAX).await?;
        if said.code != 0 {
            return Err(self.unreachable(repository, &said));
        }
        let commit = format!("{remote_base}^{{commit}}");
        self.ask(path, &["rev-parse", "--verify", &commit]).await
    }

    /// Makes the worktree; what a broken attempt at it left is cleared away.
    pub(crate) async fn make(
        &self,
        repository: &Repository,
        worktree: &Path,
        ground: &Ground,
    ) -> Result<(), Failure> {
        self.remove(repository, worktree).await;
        let lock = self.lock(repository);
        let _one_at_a_time = lock.lock().await;
        if let Some(folder) = worktree.parent() {
            std::fs::create_dir_all(folder).map_err(|error| {
                invalid(format!(
                    "the folder `{}` for worktrees cannot be made ({error}): correct \
                     `workspaceBaseDir` in the configuration",
                    folder.display()
                ))
            })?;
        }
        let place = worktree.to_string_lossy().into_owned();
        let path = Path::new(&repository.path);
        let add = ["worktree", "add", "--quiet"];
        let at = [place.as_str(), ground.base_sha.as_str()];
        let detached = [&add[..], &["--detach"], &at].concat();
        let said = match &ground.branch {
            // The name was free when it was chosen: a branch of that name is our own beginning.
            Some(branch) => {
                let on = [&add[..], &["--no-track", "-B", branch], &at].concat();
                let said = self.call(path, &on, REMOTE_MAX).await?;
                // A branch that is mended may still have the worktree that it was made in.
                if said.code != 0 && said.err.contains("already used by worktree") {
                    self.call(path, &detached, REMOTE_MAX).await?
                } else {
                    said
                }
            }
            None => self.call(path, &detached, REMOTE_MAX).await?,
        };
        if said.code != 0 {
            return Err(invalid(format!(
                "no worktree can be made: {}",
                said.complaint()
            )));
        }
        match &ground.merged_sha {
            Some(sha) => self.merge_in(worktree, sha).await,
            None => Ok(()),
        }
    }

    /// Removes a worktree; its branch stays.
    pub(crate) async fn remove(&self, repository: &Repository, worktree: &Path) {
        let lock = self.lock(repository);
        let _one_at_a_time = lock.lock().await;
        let path = Path::new(&repository.path);
        let place = worktree.to_string_lossy().into_owned();
        if worktree.exists() {
            let args = ["worktree", "remove", "--force", "--force", &place];
            let _ = self.call(path, &args, LOCAL_MAX).await;
        }
        if worktree.exists()
            && let Err(error) = std::fs::remove_dir_all(worktree)
        {
            tracing::warn!(%error, worktree = %place, "a worktree could not be removed");
        }
        let _ = self.call(path, &["worktree", "prune"], LOCAL_MAX).await;
    }

    /// Deletes a local branch that nobody will come back to.
    pub(crate) async fn forget_branch(&self, repository: &Repository, branch: &str) {
        let _ = self
            .call(
                Path::new(&repository.path),
                &["branch", "-D", "--", branch],
                LOCAL_MAX,
            )
            .await;
    }

    /// The files of a worktree that git does not know and does not ignore.
    pub(crate) async fn untracked(&self, worktree: &Path) -> Result<Vec<String>, Failure> {
        let args = ["ls-files", "--others", "--exclude-standard", "-z"];
        let files = |said: String| -> Vec<String> {
            let names = said.split('\0').filter(|it| !it.is_empty());
            names
                .map(|it| it.trim_end_matches('/').to_owned())
                .collect()
        };
        let each = files(self.ask(worktree, &args).await?);
        if each.iter().map(String::len).sum::<usize>() <= UNTRACKED_BYTES_MAX {
            return Ok(each);
        }
        // Whole folders, where nothing in them is known.
        let args = [&args[..], &["--directory"]].concat();
        let mut bytes = 0;
        let folders = files(self.ask(worktree, &args).await?).into_iter();
        let told = folders.take_while(|it| {
            bytes += it.len();
            bytes <= UNTRACKED_BYTES_MAX
        });
        Ok(told.collect())
    }

    /// Commits what is not committed, but for new files called as in `leave`. The
    /// head, if it holds any change over the base.
    pub(crate) async fn take(
        &self,
        worktree: &Path,
        base_sha: &str,
        message: &str,
        leave: &[String],
    ) -> Result<Option<String>, Failure> {
        let leave: Vec<String> = leave
            .iter()
            .map(|it| format!(":(top,exclude,literal){it}"))
            .collect();
        let mut args = vec!["add", "--all", "--", ":/"];
        args.extend(leave.iter().map(String::as_str));
        self.ask(worktree, &args).await?;
        let merging = self.is_merging(worktree).await?;
        let staged = ["diff", "--cached", "--quiet"];
        if merging || !self.same(worktree, &staged).await? {
            let who = self.who(worktree).await?;
            let mut args: Vec<&str> = who.iter().map(String::as_str).collect();
            args.extend(["commit", "--quiet", "--no-verify", "--message", message]);
            self.ask(worktree, &args).await?;
        }
        let head = self
            .ask(worktree, &["rev-parse", "--verify", "HEAD^{commit}"])
            .await?;
        // Commits that come to nothing are no change either, but for a merge.
        let changed = head != base_sha
            && (merging
                || !self
                    .same(worktree, &["diff", "--quiet", base_sha, &head])
                    .await?);
        Ok(changed.then_some(head))
    }

    /// Who commits, as arguments, where git knows nobody.
    pub(crate) async fn who(&self, folder: &Path) -> Result<Vec<String>, Failure> {
        let known = [
            "-c",
            "user.useConfigOnly=true",
            "var",
            "GIT_COMMITTER_IDENT",
        ];
        if self.call(folder, &known, LOCAL_MAX).await?.code == 0 {
            return Ok(Vec::new());
        }
        let name = format!("user.name={AUTHOR_NAME}");
        let email = format!("user.email={AUTHOR_EMAIL}");
        Ok(["-c".to_owned(), name, "-c".to_owned(), email].into())
    }

    /// Puts a file of the worktree's top folder into a folder as it was in a commit,
    /// whatever is there by now. `None`: the commit has no such file.
    pub(crate) async fn restore(
        &self,
        worktree: &Path,
        sha: &str,
        name: &str,
        into: &Path,
    ) -> Result<Option<PathBuf>, Failure> {
        // What an agent has put in place of an object does not count.
        const AS_IT_WAS: &str = "--no-replace-objects";
        let entry = [AS_IT_WAS, "ls-tree", sha, "--", name];
        let entry = self.ask(worktree, &entry).await?;
        let Some(mode) = FILE_MODES.iter().find(|it| entry.starts_with(it.0)) else {
            return Ok(None);
        };
        let blob = format!("{sha}:{name}");
        let args = [AS_IT_WAS, "cat-file", "blob", &blob];
        let said = self.call(worktree, &args, LOCAL_MAX).await?;
        if said.code != 0 {
            return Err(invalid(format!(
                "`{name}` cannot be read: {}",
                said.complaint()
            )));
        }
        let path = into.join(name);
        put(&path, said.out.as_bytes(), mode.1)
            .map_err(|error| invalid(format!("`{}` cannot be written: {error}", path.display())))?;
        Ok(Some(path))
    }

    /// The files in which a commit differs from the one that it started from.
    pub(crate) async fn changed(
        &self,
        repository: &Repository,
        base_sha: &str,
        sha: &str,
    ) -> Result<Vec<String>, Failure> {
        let path = Path::new(&repository.path);
        let args = ["diff", "--name-only", "--no-renames", base_sha, sha];
        let files = self.ask(path, &args).await?;
        Ok(files.lines().take(FILES_MAX).map(str::to_owned).collect())
    }

    /// Pushes a commit under a branch name that is ours alone; the name in the end.
    pub(crate) async fn push(
        &self,
        worktree: &Path,
        sha: &str,
        base_sha: &str,
        branch: &str,
    ) -> Result<String, Failure> {
        for branch in candidates(branch) {
            let full = format!("refs/heads/{branch}");
            let said = self
                .remote(worktree, &["ls-remote", "origin", &full], PUSH_TRIES_MAX)
                .await?;
            if said.code != 0 {
                return Err(push_failed(&said));
            }
            let there = said
                .out
                .lines()
                .filter_map(|line| line.split_once('\t'))
                .find(|(_, name)| *name == full)
                .map(|(there, _)| there.to_owned());
            match there.as_deref() {
                Some(there) if there == sha => return Ok(branch),
                Some(there) if !self.on_the_way(worktree, base_sha, there, sha).await? => continue,
                Some(_) | None => {}
            }
            // Only if the name still is what we have just seen: absent, or our own.
            let lease = format!(
                "--force-with-lease={full}:{}",
                there.as_deref().unwrap_or_default()
            );
            let refspec = format!("{sha}:{full}");
            let args = ["push", "--quiet", "--no-verify", &lease, "origin", &refspec];
            let said = self.remote(worktree, &args, PUSH_TRIES_MAX).await?;
            if said.code == 0 {
                return Ok(branch);
            }
            if !said.err.contains("stale info") && !said.err.contains("already exists") {
                return Err(push_failed(&said));
            }
        }
        Err(invalid(format!(
            "the branch `{branch}` and all its numbered names are taken"
        )))
    }

    /// Is `there` one of the commits between the base and `sha`? Then the agent
    /// itself has pushed it.
    async fn on_the_way(
        &self,
        worktree: &Path,
        base_sha: &str,
        there: &str,
        sha: &str,
    ) -> Result<bool, Failure> {
        let before = |a: String, b: String| async move {
            let args = ["merge-base", "--is-ancestor", &a, &b];
            Ok::<bool, Failure>(self.call(worktree, &args, LOCAL_MAX).await?.code == 0)
        };
        Ok(before(there.into(), sha.into()).await?
            && !before(there.into(), base_sha.into()).await?)
    }

    /// The names like `branch` that exist here or at the remote.
    async fn taken(&self, path: &Path, branch: &str) -> Result<BTreeSet<String>, Failure> {
        let full = format!("refs/heads/{branch}");
        let numbered = format!("{full}.n*");
        let there = self
            .remote(
                path,
                &["ls-remote", "--heads", "origin", &full, &numbered],
                FETCH_TRIES_MAX,
            )
            .await?;
        if there.code != 0 {
            return Err(push_failed(&there));
        }
        let here = self
            .ask(
                path,
                &["for-each-ref", "--format=x\t%(refname)", &full, &numbered],
            )
            .await?;
        Ok(there
            .out
            .lines()
            .chain(here.lines())
            .filter_map(|line| line.split_once('\t')?.1.strip_prefix("refs/heads/"))
            .map(str::to_owned)
            .collect())
    }

    pub(crate) fn unreachable(&self, repository: &Repository, said: &Said) -> Failure {
        let (id, path) = (&repository.id, &repository.path);
        if said.err.contains("couldn't find remote ref") {
            return no_base(repository);
        }
        Failure {
            class: said.class(),
            message: format!(
                "the remote of the repository `{id}` cannot be reached ({}): see that `git -C \
                 {path} fetch origin` works on the runner's machine",
                said.complaint()
            ),
        }
    }

    pub(crate) fn lock(&self, repository: &Repository) -> Arc<Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(locks.entry(PathBuf::from(&repository.path)).or_default())
    }
}

/// Writes a new file in place of whatever is there, and through no link.
fn put(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    match path.symlink_metadata() {
        Ok(it) if it.is_dir() => fs::remove_dir_all(path)?,
        Ok(_) => fs::remove_file(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(mode)
        .open(path)?
        .write_all(bytes)
}

fn push_failed(said: &Said) -> Failure {
    Failure {
        class: said.class(),
        message: format!(
            "the branch cannot be pushed ({}): see that the runner's machine may push to the \
             repository's `origin`",
            said.complaint()
        ),
    }
}

/// `branch`, `branch-2`, `branch-3`, …
fn candidates(branch: &str) -> impl Iterator<Item = String> {
    let numbered = (2..=BRANCH_SUFFIX_MAX).map(move |n| format!("{branch}.n{n}"));
    std::iter::once(branch.to_owned()).chain(numbered)
}

#[cfg(test)]
mod tests {
    use super::candidates;

    #[test]
    fn a_taken_name_gets_a_number() {
        let names: Vec<String> = candidates("a/b").take(3).collect();
        assert_eq!(names, ["a/b", "a/b.n2", "a/b.n3"]);
    }
}
