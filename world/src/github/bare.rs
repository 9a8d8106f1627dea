//! A real bare git repository, driven by the git program. Merges and commits
//! are made with plumbing, so there is no work tree and nothing to clean up.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;

use super::repo::{Change, Merging, Method, Repo, Touched};

/// The repository.
#[derive(Clone, Debug)]
pub struct Bare {
    path: PathBuf,
}

impl Bare {
    /// Makes a repository with one commit on a branch; what is there is kept.
    pub fn init(path: &Path, branch: &str, first: &Change, now: Timestamp) -> anyhow::Result<Self> {
        let bare = Self {
            path: path.to_owned(),
        };
        std::fs::create_dir_all(path).with_context(|| format!("make {}", path.display()))?;
        bare.git(
            &["init", "--quiet", "--bare", "--initial-branch", branch],
            now,
        )?;
        if bare.head(branch)?.is_none() {
            let sha = bare.write(None, first, now)?;
            bare.git(&["update-ref", &reference(branch), &sha], now)?;
        }
        Ok(bare)
    }

    /// The repository that is there already.
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of a file at a branch or commit.
    pub fn file(&self, at: &str, path: &str) -> anyhow::Result<Option<String>> {
        let output = self.run(&["cat-file", "-p", &format!("{at}:{path}")], None, &[])?;
        Ok(output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// A commit on top of another: its tree with some files changed.
    fn write(&self, onto: Option<&str>, change: &Change, now: Timestamp) -> anyhow::Result<String> {
        // An index of its own, so that commits do not get in each other's way.
        let scratch = tempfile::tempdir().context("make a folder for the index")?;
        let index = scratch.path().join("index");
        let index = [("GIT_INDEX_FILE", index.display().to_string())];
        if let Some(onto) = onto {
            self.expect(&["read-tree", onto], None, &index)?;
        }
        for (path, content) in &change.files {
            let blob = self.expect(&["hash-object", "-w", "--stdin"], Some(content), &index)?;
            let entry = format!("100644,{blob},{path}");
            self.expect(
                &["update-index", "--add", "--cacheinfo", &entry],
                None,
                &index,
            )?;
        }
        let tree = self.expect(&["write-tree"], None, &index)?;
        let parents: Vec<&str> = onto.into_iter().collect();
        self.commit_tree(&tree, &parents, &change.message, now)
    }

    fn commit_tree(
        &self,
        tree: &str,
        parents: &[&str],
        message: &str,
        now: Timestamp,
    ) -> anyhow::Result<String> {
        let mut arguments = vec!["commit-tree", tree, "-F", "-"];
        for parent in parents {
            arguments.extend(["-p", parent]);
        }
        self.expect(&arguments, Some(message), &dates(now))
    }

    /// The tree of two commits merged; `None`: they conflict.
    fn merged_tree(
        &self,
        ancestor: Option<&str>,
        ours: &str,
        theirs: &str,
    ) -> anyhow::Result<Option<String>> {
        let ancestor = ancestor.map(|it| format!("--merge-base={it}"));
        let mut arguments = vec!["merge-tree", "--write-tree", "--no-messages", "--name-only"];
        arguments.extend(ancestor.as_deref());
        arguments.extend([ours, theirs]);
        let output = self.run(&arguments, None, &[])?;
        match output.status.code() {
            Some(0) => {
                let text = String::from_utf8_lossy(&output.stdout);
                let tree = text
                    .lines()
                    .next()
                    .context("git merge-tree answered nothing")?;
                Ok(Some(tree.to_owned()))
            }
            Some(1) => Ok(None),
            _ => bail!(
                "git merge-tree: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        }
    }

    /// The commits of `head` that `base` lacks, each put on top of the one before.
    fn rebased(&self, base: &str, head: &str, now: Timestamp) -> anyhow::Result<Option<String>> {
        let range = format!("{base}..{head}");
        let commits = self.git(&["rev-list", "--reverse", "--no-merges", &range], now)?;
        let mut onto = base.to_owned();
        for commit in commits.lines() {
            let parent = self.git(&["rev-parse", "--verify", &format!("{commit}^")], now)?;
            let Some(tree) = self.merged_tree(Some(&parent), &onto, commit)? else {
                return Ok(None);
            };
            let message = self.git(&["log", "-1", "--format=%B", commit], now)?;
            onto = self.commit_tree(&tree, &[&onto], &message, now)?;
        }
        Ok(Some(onto))
    }

    fn git(&self, arguments: &[&str], now: Timestamp) -> anyhow::Result<String> {
        self.expect(arguments, None, &dates(now))
    }

    /// What git prints, trimmed, if it succeeds.
    fn expect(
        &self,
        arguments: &[&str],
        input: Option<&str>,
        environment: &[(&str, String)],
    ) -> anyhow::Result<String> {
        let output = self.run(arguments, input, environment)?;
        ensure!(
            output.status.success(),
            "git {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn run(
        &self,
        arguments: &[&str],
        input: Option<&str>,
        environment: &[(&str, String)],
    ) -> anyhow::Result<Output> {
        let mut command = Command::new("git");
        // Nothing of the machine's own configuration may change what happens here.
        command.env_clear();
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
            .env("GIT_DIR", &self.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .envs(environment.iter().map(|(key, value)| (key, value)))
            .envs([
                ("GIT_AUTHOR_NAME", "octocat"),
                ("GIT_COMMITTER_NAME", "octocat"),
            ])
            .envs([("GIT_AUTHOR_EMAIL", "octocat@example.com")])
            .envs([("GIT_COMMITTER_EMAIL", "octocat@example.com")])
            .args(arguments)
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().context("start git")?;
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input.as_bytes()).context("write to git")?;
        }
        child.wait_with_output().context("wait for git")
    }
}

impl Repo for Bare {
    fn head(&self, branch: &str) -> anyhow::Result<Option<String>> {
        let output = self.run(
            &[
                "rev-parse",
                "--verify",
                "--quiet",
                &format!("{}^{{commit}}", reference(branch)),
            ],
            None,
            &[],
        )?;
        let sha = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok((output.status.success() && !sha.is_empty()).then_some(sha))
    }

    fn is_ahead(&self, base: &str, head: &str) -> anyhow::Result<bool> {
        let range = format!("{base}..{head}");
        Ok(self.expect(&["rev-list", "--count", &range], None, &[])? != "0")
    }

    fn conflicts(&self, base: &str, head: &str) -> anyhow::Result<bool> {
        Ok(self.merged_tree(None, base, head)?.is_none())
    }

    fn merge(
        &mut self,
        branch: &str,
        base: &str,
        head: &str,
        method: Method,
        message: &str,
        now: Timestamp,
    ) -> anyhow::Result<Merging> {
        let sha = match method {
            Method::Rebase => self.rebased(base, head, now)?,
            Method::Squash | Method::Merge => match self.merged_tree(None, base, head)? {
                Some(tree) => {
                    let parents = if method == Method::Squash {
                        vec![base]
                    } else {
                        vec![base, head]
                    };
                    Some(self.commit_tree(&tree, &parents, message, now)?)
                }
                None => None,
            },
        };
        let Some(sha) = sha else {
            return Ok(Merging::Conflict);
        };
        // Only if the branch is still where it was: others push to it too.
        let update = self.run(
            &["update-ref", &reference(branch), &sha, base],
            None,
            &dates(now),
        )?;
        Ok(if update.status.success() {
            Merging::Done(sha)
        } else {
            Merging::BaseMoved
        })
    }

    fn files(&self, base: &str, head: &str) -> anyhow::Result<Vec<Touched>> {
        let range = format!("{base}...{head}");
        let told = self.expect(&["diff", "--name-status", "-M", "-z", &range], None, &[])?;
        let mut fields = told.split('\0').filter(|it| !it.is_empty());
        let mut files = Vec::new();
        while let Some(status) = fields.next() {
            let status = match status.as_bytes()[0] {
                b'A' => "added",
                b'D' => "removed",
                b'R' => "renamed",
                b'C' => "copied",
                _ => "modified",
            };
            let mut path = || {
                fields
                    .next()
                    .map(str::to_owned)
                    .context("git names no file")
            };
            let first = path()?;
            let (path, previous) = match status {
                "renamed" | "copied" => (path()?, Some(first)),
                _ => (first, None),
            };
            files.push(Touched {
                path,
                status,
                previous,
            });
        }
        Ok(files)
    }

    fn behind(&self, base: &str, head: &str) -> anyhow::Result<usize> {
        let range = format!("{head}..{base}");
        let count = self.expect(&["rev-list", "--count", &range], None, &[])?;
        count.parse().context("git counts commits")
    }

    fn update(
        &mut self,
        branch: &str,
        head: &str,
        base: &str,
        message: &str,
        now: Timestamp,
    ) -> anyhow::Result<Merging> {
        // The same merge, the other way round.
        self.merge(branch, head, base, Method::Merge, message, now)
    }

    fn delete(&mut self, branch: &str) -> anyhow::Result<bool> {
        if self.head(branch)?.is_none() {
            return Ok(false);
        }
        self.expect(&["update-ref", "-d", &reference(branch)], None, &[])?;
        Ok(true)
    }

    fn commit(
        &mut self,
        branch: &str,
        base: &str,
        change: &Change,
        now: Timestamp,
    ) -> anyhow::Result<String> {
        let old = self.head(branch)?;
        let onto = match &old {
            Some(sha) => sha.clone(),
            None => self
                .head(base)?
                .with_context(|| format!("there is no branch `{base}`"))?,
        };
        let sha = self.write(Some(&onto), change, now)?;
        // An empty old value: the branch must not exist yet.
        let old = old.unwrap_or_default();
        self.git(&["update-ref", &reference(branch), &sha, &old], now)?;
        Ok(sha)
    }
}

fn reference(branch: &str) -> String {
    format!("refs/heads/{branch}")
}

fn dates(now: Timestamp) -> [(&'static str, String); 2] {
    let date = format!("{} +0000", now.as_second());
    [
        ("GIT_AUTHOR_DATE", date.clone()),
        ("GIT_COMMITTER_DATE", date),
    ]
}
