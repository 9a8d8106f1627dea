//! A forge of nothing but git: for repositories without a `githubUrl`. A branch of
//! ours at the remote is its own pull request, and a merge is a commit that is made
//! beside all worktrees and pushed, if nobody else has pushed meanwhile.
//!
//! * here: how a branch stands, and what is asked for.
//! * [`compose`]: the commits that a merge makes.
//!
//! What was merged is known by the history of the base branch: it contains the
//! head, or one of its newest commits names it in a trailer, for a squash leaves no
//! other trace.

mod compose;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shared::issue::{Failure, FailureClass, Fault, MergeMethod, PullFacts, PullState, Repository};
use shared::ports::{
    BranchAsk, CloseAsk, Forge, LogAsk, MergeAnswer, MergeAsk, PullAsk, UpdateAnswer, UpdateAsk,
    WhichPull,
};
use tokio::time::{Instant, timeout, timeout_at};

use self::compose::{Composed, Trace};
use crate::worktree::{Git, LOCAL_MAX, Merged, Said};

/// No question takes longer than this: others wait for theirs, and a claim lapses.
const CALL_MAX: Duration = Duration::from_secs(45);
/// How often the remote is asked in one call.
const REMOTE_TRIES_MAX: u32 = 2;
/// The changed files that are told; of more, none are.
const FILES_MAX: usize = 3_000;

/// Pull requests and merges by the machine's own git, in its clones.
pub struct GitForge {
    git: Git,
}

/// Sends what is asked of repositories without a slug to git, and the rest to GitHub.
pub struct Forges {
    git: GitForge,
    other: Arc<dyn Forge>,
}

/// What the remote's branches are at: of those that were asked for, and are there.
type Heads = HashMap<String, String>;

impl GitForge {
    /// `env`: all that git gets as its environment; see [`crate::git_env`].
    pub fn new(env: BTreeMap<String, String>) -> Self {
        Self { git: Git::new(env) }
    }

    /// Asks the remote for its base branch and these branches, and fetches what is new.
    async fn heads(&self, repository: &Repository, branches: &[&str]) -> Result<Heads, Fault> {
        let path = Path::new(&repository.path);
        self.git.check(repository).await.map_err(fault)?;
        let base = repository.base_branch.as_str();
        let mut full = vec![format!("refs/heads/{base}")];
        full.extend(branches.iter().map(|it| format!("refs/heads/{it}")));
        let mut args = vec!["ls-remote", "origin"];
        args.extend(full.iter().map(String::as_str));
        let said = self.remote(path, &args).await?;
        if said.code != 0 {
            return Err(fault(self.git.unreachable(repository, &said)));
        }
        let heads: Heads = said
            .out
            .lines()
            .filter_map(|it| it.split_once('\t'))
            .filter(|(_, name)| full.iter().any(|it| it == name))
            .filter_map(|(sha, name)| Some((name.strip_prefix("refs/heads/")?.into(), sha.into())))
            .collect();
        if !heads.contains_key(base) {
            return Err(fault(crate::worktree::no_base(repository)));
        }
        let mut fetch = vec!["fetch".to_owned(), "--quiet".into(), "--no-tags".into()];
        fetch.push("origin".into());
        let given = fetch.len();
        for (branch, sha) in &heads {
            let remote = format!("refs/remotes/origin/{branch}");
            let known = ["rev-parse", "--verify", "--quiet", &remote];
            let known = self.call(path, &known).await?;
            if known.out.trim() != sha {
                fetch.push(format!("+refs/heads/{branch}:{remote}"));
            }
        }
        if fetch.len() > given {
            let fetch: Vec<&str> = fetch.iter().map(String::as_str).collect();
            let said = self.remote(path, &fetch).await?;
            if said.code != 0 {
                return Err(fault(self.git.unreachable(repository, &said)));
            }
        }
        for sha in heads.values() {
            // Somebody pushed in between: the next look sees what.
            let there = ["cat-file", "-e", &format!("{sha}^{{commit}}")];
            if self.call(path, &there).await?.code != 0 {
                return Err(transient("the remote has just changed".into()));
            }
        }
        Ok(heads)
    }

    /// How a branch stands.
    async fn stands(
        &self,
        repository: &Repository,
        branch: &str,
        heads: &Heads,
    ) -> Result<Option<PullFacts>, Fault> {
        let path = Path::new(&repository.path);
        let base = &heads[repository.base_branch.as_str()];
        let trace = self.trace(path, base).await?;
        let (head, state) = match heads.get(branch) {
            Some(head) => match self.merged_as(path, base, head, &trace).await? {
                Some(_) => (head.clone(), PullState::Merged),
                None => (head.clone(), PullState::Open),
            },
            None => match (trace.of_branch(branch), self.last_seen(path, branch).await?) {
                (Some(head), _) => (head.to_owned(), PullState::Merged),
                (None, Some(head)) => match self.merged_as(path, base, &head, &trace).await? {
                    Some(_) => (head, PullState::Merged),
                    // Somebody has deleted it.
                    None => (head, PullState::Closed),
                },
                (None, None) => return Ok(None),
            },
        };
        let open = state == PullState::Open;
        let mut facts = PullFacts {
            number: 0,
            url: self.url(path, branch).await?,
            state,
            head_slug: Some(repository.slug.clone()),
            head_branch: branch.to_owned(),
            head_sha: head.clone(),
            base_slug: repository.slug.clone(),
            base_branch: repository.base_branch.clone(),
            body: String::new(),
            draft: false,
            mergeable: None,
            checks: Vec::new(),
            files: None,
            reviews: Vec::new(),
            behind: false,
            blocked: false,
            queued: false,
        };
        if open {
            facts.files = self.files(path, base, &head).await?;
            facts.behind = !self.contains(path, base, &head).await?;
            let merged = self.git.merged(path, base, &head, None).await;
            let merged = merged.map_err(fault)?;
            facts.mergeable = Some(matches!(merged, Merged::Tree(_)));
        }
        Ok(Some(facts))
    }

    /// As which commit of the base branch a head was merged, if it was.
    async fn merged_as(
        &self,
        path: &Path,
        base: &str,
        head: &str,
        trace: &Trace,
    ) -> Result<Option<String>, Fault> {
        if let Some(commit) = trace.of_head(head) {
            return Ok(Some(commit.to_owned()));
        }
        let contained = self.contains(path, head, base).await?;
        Ok(contained.then(|| head.to_owned()))
    }

    /// What a branch was at when we last saw it.
    async fn last_seen(&self, path: &Path, branch: &str) -> Result<Option<String>, Fault> {
        let remote = format!("refs/remotes/origin/{branch}^{{commit}}");
        let args = ["rev-parse", "--verify", "--quiet", &remote];
        let said = self.call(path, &args).await?;
        Ok((said.code == 0).then(|| said.out.trim().to_owned()))
    }

    /// The paths that a head changes since it left the base branch.
    async fn files(
        &self,
        path: &Path,
        base: &str,
        head: &str,
    ) -> Result<Option<Vec<String>>, Fault> {
        let since = format!("{base}...{head}");
        let args = ["diff", "--name-only", "--no-renames", "-z", &since];
        let said = self.call(path, &args).await?;
        if said.code != 0 {
            return Err(transient(format!(
                "the changes cannot be read: {}",
                said.complaint()
            )));
        }
        let files = said.out.split('\0').filter(|it| !it.is_empty());
        let files: Vec<String> = files.map(str::to_owned).collect();
        Ok((files.len() <= FILES_MAX).then_some(files))
    }

    /// What stands for a pull request's address.
    async fn url(&self, path: &Path, branch: &str) -> Result<String, Fault> {
        let said = self.call(path, &["remote", "get-url", "origin"]).await?;
        Ok(format!("{}#{branch}", clean(said.out.trim())))
    }

    async fn try_merge(&self, ask: &MergeAsk) -> Result<MergeAnswer, Fault> {
        let repository = &ask.repository;
        let path = Path::new(&repository.path);
        let lock = self.git.lock(repository);
        let _one_at_a_time = lock.lock().await;
        let heads = self.heads(repository, &[&ask.branch]).await?;
        let base_branch = repository.base_branch.as_str();
        let base = &heads[base_branch];
        let trace = self.trace(path, base).await?;
        let known = ["cat-file", "-e", &format!("{}^{{commit}}", ask.sha)];
        if self.call(path, &known).await?.code == 0
            && let Some(sha) = self.merged_as(path, base, &ask.sha, &trace).await?
        {
            return Ok(MergeAnswer::Merged { sha });
        }
        if heads.get(&ask.branch) != Some(&ask.sha) {
            return Ok(MergeAnswer::HeadMoved);
        }
        let composed = match ask.method {
            MergeMethod::Merge => self.merge_commit(path, base, ask).await?,
            MergeMethod::Squash => self.squashed(path, base, ask).await?,
            MergeMethod::Rebase => self.rebased(path, base, ask).await?,
        };
        let sha = match composed {
            Composed::Commit(sha) => sha,
            Composed::Refused(why) => return Ok(MergeAnswer::Refused { why }),
        };
        // Both as they were seen, or nothing.
        let full = format!("refs/heads/{base_branch}");
        let base_lease = format!("--force-with-lease={full}:{base}");
        let head_full = format!("refs/heads/{}", ask.branch);
        let head_lease = format!("--force-with-lease={head_full}:{}", ask.sha);
        let (to_base, to_head) = (format!("{sha}:{full}"), format!("{}:{head_full}", ask.sha));
        let args = [
            "push",
            "--quiet",
            "--no-verify",
            "--atomic",
            &base_lease,
            &head_lease,
        ];
        let args = [&args[..], &["origin", &to_base, &to_head]].concat();
        match self.push(path, &args).await? {
            Pushed::Done => Ok(MergeAnswer::Merged { sha }),
            // Whichever of them it was, the next try sees it.
            Pushed::Stale => Err(transient(format!(
                "`{base_branch}` or `{}` was pushed to in the same moment",
                ask.branch
            ))),
            Pushed::Refused(why) => Ok(MergeAnswer::Refused { why }),
        }
    }

    async fn try_update(&self, ask: &UpdateAsk) -> Result<UpdateAnswer, Fault> {
        let repository = &ask.repository;
        let path = Path::new(&repository.path);
        let lock = self.git.lock(repository);
        let _one_at_a_time = lock.lock().await;
        let heads = self.heads(repository, &[&ask.branch]).await?;
        let base_branch = repository.base_branch.as_str();
        let base = &heads[base_branch];
        if heads.get(&ask.branch) != Some(&ask.sha) {
            return Ok(UpdateAnswer::HeadMoved);
        }
        if self.contains(path, base, &ask.sha).await? {
            return Ok(UpdateAnswer::Done);
        }
        let title = format!("Merge branch '{base_branch}' into {}", ask.branch);
        let parents = [ask.sha.as_str(), base];
        let sha = match self.merge_of(path, parents, &parents, &title).await? {
            Composed::Commit(sha) => sha,
            Composed::Refused(why) => return Ok(UpdateAnswer::Refused { why }),
        };
        let full = format!("refs/heads/{}", ask.branch);
        let lease = format!("--force-with-lease={full}:{}", ask.sha);
        let refspec = format!("{sha}:{full}");
        let args = ["push", "--quiet", "--no-verify", &lease, "origin", &refspec];
        Ok(match self.push(path, &args).await? {
            Pushed::Done => UpdateAnswer::Done,
            Pushed::Stale => UpdateAnswer::HeadMoved,
            Pushed::Refused(why) => UpdateAnswer::Refused { why },
        })
    }

    async fn try_delete(&self, ask: &BranchAsk) -> Result<(), Fault> {
        let repository = &ask.repository;
        if ask.branch == repository.base_branch {
            return Err(Fault::Permanent {
                class: FailureClass::Invalid,
                why: format!("`{}` is the base branch: it is never deleted", ask.branch),
            });
        }
        self.git.check(repository).await.map_err(fault)?;
        let path = Path::new(&repository.path);
        let refspec = format!(":refs/heads/{}", ask.branch);
        let args = ["push", "--quiet", "--no-verify", "origin", &refspec];
        let said = self.remote(path, &args).await?;
        if said.code != 0 && !said.err.contains("remote ref does not exist") {
            return Err(fault(self.git.unreachable(repository, &said)));
        }
        // What is left of it here would look as if somebody had deleted it.
        let remote = format!("refs/remotes/origin/{}", ask.branch);
        self.call(path, &["update-ref", "-d", &remote]).await?;
        self.git.forget_branch(repository, &ask.branch).await;
        Ok(())
    }

    async fn push(&self, path: &Path, args: &[&str]) -> Result<Pushed, Fault> {
        let said = self.remote(path, args).await?;
        let says = |words: &[&str]| words.iter().any(|it| said.err.contains(it));
        if said.code == 0 {
            return Ok(Pushed::Done);
        }
        if says(&[
            "stale info",
            "cannot lock ref",
            "failed to update ref",
            "fetch first",
        ]) {
            return Ok(Pushed::Stale);
        }
        if says(&["[remote rejected]"]) {
            return Ok(Pushed::Refused(said.complaint()));
        }
        Err(fault(Failure {
            class: said.class(),
            message: format!("the remote cannot be pushed to: {}", said.complaint()),
        }))
    }

    async fn contains(&self, path: &Path, early: &str, late: &str) -> Result<bool, Fault> {
        self.git.contains(path, early, late).await.map_err(fault)
    }

    async fn call(&self, path: &Path, args: &[&str]) -> Result<Said, Fault> {
        self.git.call(path, args, LOCAL_MAX).await.map_err(fault)
    }

    async fn remote(&self, path: &Path, args: &[&str]) -> Result<Said, Fault> {
        let said = self.git.remote(path, args, REMOTE_TRIES_MAX);
        said.await.map_err(fault)
    }
}

/// What became of a push.
enum Pushed {
    Done,
    /// The remote has something else by now.
    Stale,
    /// The remote would not have it; its words.
    Refused(String),
}

#[async_trait]
impl Forge for GitForge {
    async fn facts(&self, asks: &[PullAsk]) -> Vec<Result<Option<PullFacts>, Fault>> {
        // The remote is asked once for all branches of a repository.
        let mut groups: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
        let mut answers: Vec<Result<Option<PullFacts>, Fault>> = Vec::new();
        for (n, ask) in asks.iter().enumerate() {
            let Repository {
                path, base_branch, ..
            } = &ask.repository;
            groups.entry((path, base_branch)).or_default().push(n);
            answers.push(Err(transient("git has not answered in time".into())));
        }
        let until = Instant::now() + CALL_MAX;
        for numbers in groups.values() {
            let repository = &asks[numbers[0]].repository;
            let branches: Vec<&str> = numbers.iter().filter_map(|n| branch(&asks[*n])).collect();
            let Ok(heads) = timeout_at(until, self.heads(repository, &branches)).await else {
                continue;
            };
            for n in numbers {
                let answer = match (&heads, branch(&asks[*n])) {
                    (Err(fault), _) => Err(fault.clone()),
                    (Ok(_), None) => Err(Fault::Permanent {
                        class: FailureClass::Invalid,
                        why: "without GitHub a pull request is known by its branch alone".into(),
                    }),
                    (Ok(heads), Some(branch)) => {
                        let stands = self.stands(repository, branch, heads);
                        match timeout_at(until, stands).await {
                            Ok(answer) => answer,
                            Err(_) => continue,
                        }
                    }
                };
                answers[*n] = answer;
            }
        }
        answers
    }

    async fn merge(&self, ask: &MergeAsk) -> Result<MergeAnswer, Fault> {
        in_time(self.try_merge(ask)).await
    }

    async fn update(&self, ask: &UpdateAsk) -> Result<UpdateAnswer, Fault> {
        in_time(self.try_update(ask)).await
    }

    /// There is nothing that could be closed, and nobody to comment to.
    async fn close(&self, _: &CloseAsk) -> Result<(), Fault> {
        Ok(())
    }

    async fn delete_branch(&self, ask: &BranchAsk) -> Result<(), Fault> {
        in_time(self.try_delete(ask)).await
    }

    /// No checks, no logs.
    async fn log(&self, _: &LogAsk) -> Result<String, Fault> {
        Ok(String::new())
    }
}

impl Forges {
    pub fn new(git: GitForge, other: Arc<dyn Forge>) -> Self {
        Self { git, other }
    }

    fn of(&self, repository: &Repository) -> &dyn Forge {
        if repository.slug.is_empty() {
            &self.git
        } else {
            self.other.as_ref()
        }
    }
}

#[async_trait]
impl Forge for Forges {
    async fn facts(&self, asks: &[PullAsk]) -> Vec<Result<Option<PullFacts>, Fault>> {
        let by_git = |it: &&PullAsk| it.repository.slug.is_empty();
        let (git, other): (Vec<&PullAsk>, Vec<&PullAsk>) = asks.iter().partition(by_git);
        let owned = |asks: Vec<&PullAsk>| asks.into_iter().cloned().collect::<Vec<_>>();
        let (git, other) = (owned(git), owned(other));
        let (git, other) = tokio::join!(
            async {
                match git.as_slice() {
                    [] => Vec::new(),
                    asks => self.git.facts(asks).await,
                }
            },
            async {
                match other.as_slice() {
                    [] => Vec::new(),
                    asks => self.other.facts(asks).await,
                }
            }
        );
        let (mut git, mut other) = (git.into_iter(), other.into_iter());
        let next = |ask: &PullAsk| {
            let answers = if by_git(&ask) { &mut git } else { &mut other };
            let none = || Err(transient("the forge has not answered".into()));
            answers.next().unwrap_or_else(none)
        };
        asks.iter().map(next).collect()
    }

    async fn merge(&self, ask: &MergeAsk) -> Result<MergeAnswer, Fault> {
        self.of(&ask.repository).merge(ask).await
    }

    async fn update(&self, ask: &UpdateAsk) -> Result<UpdateAnswer, Fault> {
        self.of(&ask.repository).update(ask).await
    }

    async fn close(&self, ask: &CloseAsk) -> Result<(), Fault> {
        self.of(&ask.repository).close(ask).await
    }

    async fn delete_branch(&self, ask: &BranchAsk) -> Result<(), Fault> {
        self.of(&ask.repository).delete_branch(ask).await
    }

    async fn log(&self, ask: &LogAsk) -> Result<String, Fault> {
        self.of(&ask.repository).log(ask).await
    }
}

fn branch(ask: &PullAsk) -> Option<&str> {
    match &ask.which {
        WhichPull::Branch(branch) => Some(branch),
        WhichPull::Number(_) => None,
    }
}

async fn in_time<T>(call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(CALL_MAX, call)
        .await
        .unwrap_or_else(|_| Err(transient("git has not answered in time".into())))
}

fn transient(why: String) -> Fault {
    Fault::Transient { why }
}

fn fault(failure: Failure) -> Fault {
    match failure.class {
        class @ (FailureClass::Auth | FailureClass::Invalid) => Fault::Permanent {
            class,
            why: failure.message,
        },
        _ => transient(failure.message),
    }
}

/// A URL without the credentials that may be in it.
fn clean(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rfind('@').map_or(0, |it| it + 1);
    format!("{scheme}://{}", &rest[host..])
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn an_address_has_no_credentials_in_it() {
        let of = |url: &str| clean(url);
        assert_eq!(of("https://u:p@h.example/r.git"), "https://h.example/r.git");
        assert_eq!(of("ssh://git@h:22/r"), "ssh://h:22/r");
        assert_eq!(of("git@h.example:o/r"), "git@h.example:o/r");
        assert_eq!(of("/srv/r@2.git"), "/srv/r@2.git");
    }
}
