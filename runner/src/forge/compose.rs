//! The commits that a merge makes: by `merge-tree` and `commit-tree`, so nobody's
//! files are touched, and by no name that anybody sees before it is pushed.

use std::collections::HashMap;
use std::path::Path;

use shared::issue::Fault;
use shared::ports::MergeAsk;

use super::{GitForge, fault, transient};
use crate::worktree::Merged;

/// The commits of the base branch that are looked through for a merge of ours.
const TRACE_MAX: &str = "--max-count=1000";
/// What a commit of ours says of the branch and the head that it merges.
const BRANCH: &str = "Cyrus-Branch";
const COMMIT: &str = "Cyrus-Commit";
/// A branch with more commits is not rebased.
const REBASED_MAX: usize = 200;
/// The conflicting files that are named.
const FILES_SHOWN_MAX: usize = 10;

/// The variables by which a commit keeps its author, and what git calls them.
const AUTHOR: [(&str, &str); 3] = [
    ("GIT_AUTHOR_NAME", "%an"),
    ("GIT_AUTHOR_EMAIL", "%ae"),
    ("GIT_AUTHOR_DATE", "%ad"),
];

/// What came of putting two histories together.
pub(super) enum Composed {
    Commit(String),
    /// It cannot be done; why.
    Refused(String),
}

/// What the newest commits of the base branch say that they merge.
#[derive(Debug, Default)]
pub(super) struct Trace {
    heads: HashMap<String, String>,
    branches: HashMap<String, String>,
}

impl Trace {
    /// The commit that merged a head.
    pub(super) fn of_head(&self, head: &str) -> Option<&str> {
        self.heads.get(head).map(String::as_str)
    }

    /// The head of a branch that was merged last.
    pub(super) fn of_branch(&self, branch: &str) -> Option<&str> {
        self.branches.get(branch).map(String::as_str)
    }
}

impl GitForge {
    /// Looks through the newest commits of a base branch.
    pub(super) async fn trace(&self, path: &Path, base: &str) -> Result<Trace, Fault> {
        let value = |key: &str| format!("%(trailers:key={key},valueonly,separator=%x0A)");
        let form = format!("--format=%x1e%H%x1f{}%x1f{}", value(BRANCH), value(COMMIT));
        let args = ["log", "--first-parent", TRACE_MAX, &form, base];
        let said = self.call(path, &args).await?;
        if said.code != 0 {
            let why = said.complaint();
            return Err(transient(format!("the base branch cannot be read: {why}")));
        }
        let mut trace = Trace::default();
        for record in said.out.split('\u{1e}') {
            let mut fields = record.trim().split('\u{1f}');
            let (Some(commit), Some(branch), Some(head)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            // Ours are the last ones of a message, whatever an agent wrote above.
            let last = |text: &str| text.lines().last().unwrap_or_default().trim().to_owned();
            let (branch, head) = (last(branch), last(head));
            if branch.is_empty() || head.is_empty() {
                continue;
            }
            // The newest come first.
            let commit = commit.to_owned();
            trace.heads.entry(head.clone()).or_insert(commit);
            trace.branches.entry(branch).or_insert(head);
        }
        Ok(trace)
    }

    /// A commit with both as its parents.
    pub(super) async fn merge_commit(
        &self,
        path: &Path,
        base: &str,
        ask: &MergeAsk,
    ) -> Result<Composed, Fault> {
        let parents = [base, ask.sha.as_str()];
        self.merge_of(path, parents, &parents, &message(ask)).await
    }

    /// One commit on top of the base branch.
    pub(super) async fn squashed(
        &self,
        path: &Path,
        base: &str,
        ask: &MergeAsk,
    ) -> Result<Composed, Fault> {
        let both = [base, ask.sha.as_str()];
        self.merge_of(path, both, &[base], &message(ask)).await
    }

    /// The tree of both, under these parents.
    pub(super) async fn merge_of(
        &self,
        path: &Path,
        [ours, theirs]: [&str; 2],
        parents: &[&str],
        message: &str,
    ) -> Result<Composed, Fault> {
        let merged = self.git.merged(path, ours, theirs, None).await;
        let tree = match merged.map_err(fault)? {
            Merged::Tree(tree) => tree,
            Merged::Conflicts { files, .. } => return Ok(Composed::Refused(conflicts(&files))),
        };
        self.commit(path, &tree, parents, message, &[])
            .await
            .map(Composed::Commit)
    }

    /// The commits of the branch one after another on top of the base branch; as they
    /// are, where they are on top of it already.
    pub(super) async fn rebased(
        &self,
        path: &Path,
        base: &str,
        ask: &MergeAsk,
    ) -> Result<Composed, Fault> {
        if self.contains(path, base, &ask.sha).await? {
            return Ok(Composed::Commit(ask.sha.clone()));
        }
        let range = format!("{base}..{}", ask.sha);
        let list = [
            "rev-list",
            "--reverse",
            "--no-merges",
            "--topo-order",
            &range,
        ];
        let list = self.git.ask(path, &list).await.map_err(fault)?;
        let commits: Vec<&str> = list.lines().collect();
        if commits.len() > REBASED_MAX {
            return Ok(Composed::Refused(format!(
                "it has {} commits, and no more than {REBASED_MAX} are rebased: squash it",
                commits.len()
            )));
        }
        let mut top = base.to_owned();
        for (n, commit) in commits.iter().enumerate() {
            let parent = format!("{commit}^");
            let merged = self.git.merged(path, &top, commit, Some(&parent)).await;
            let tree = match merged.map_err(fault)? {
                Merged::Tree(tree) => tree,
                Merged::Conflicts { files, .. } => {
                    return Ok(Composed::Refused(conflicts(&files)));
                }
            };
            let form = format!(
                "--format={}%x00%B",
                AUTHOR.map(|(_, field)| field).join("%x00")
            );
            let show = ["log", "-1", "--date=raw", &form, commit];
            let about = self.git.ask(path, &show).await.map_err(fault)?;
            let mut fields = about.splitn(AUTHOR.len() + 1, '\0');
            let mut author = Vec::new();
            for (name, _) in AUTHOR {
                author.push((name, fields.next().unwrap_or_default().to_owned()));
            }
            let said = without_ours(fields.next().unwrap_or_default());
            let last = n + 1 == commits.len();
            let said = if last {
                format!("{said}\n\n{}", trailers(ask))
            } else {
                said
            };
            top = self.commit(path, &tree, &[&top], &said, &author).await?;
        }
        Ok(Composed::Commit(top))
    }

    async fn commit(
        &self,
        path: &Path,
        tree: &str,
        parents: &[&str],
        message: &str,
        author: &[(&str, String)],
    ) -> Result<String, Fault> {
        let who = self.git.who(path).await.map_err(fault)?;
        let mut args: Vec<&str> = who.iter().map(String::as_str).collect();
        args.extend(["commit-tree", tree]);
        for parent in parents {
            args.extend(["-p", parent]);
        }
        args.extend(["-m", message]);
        let made = self.git.ask_as(path, &args, author).await;
        made.map_err(fault)
    }
}

fn message(ask: &MergeAsk) -> String {
    let title: Vec<&str> = ask.title.split_whitespace().collect();
    format!("{}\n\n{}", title.join(" "), trailers(ask))
}

fn trailers(ask: &MergeAsk) -> String {
    format!("{BRANCH}: {}\n{COMMIT}: {}", ask.branch, ask.sha)
}

/// A message that an agent may have written, without what only we may say.
fn without_ours(message: &str) -> String {
    let ours = |line: &&str| {
        let key = line.split(':').next().unwrap_or_default().trim();
        !key.eq_ignore_ascii_case(BRANCH) && !key.eq_ignore_ascii_case(COMMIT)
    };
    let lines: Vec<&str> = message.lines().filter(ours).collect();
    lines.join("\n").trim().to_owned()
}

fn conflicts(files: &[String]) -> String {
    let shown: Vec<String> = files
        .iter()
        .take(FILES_SHOWN_MAX)
        .map(|it| format!("`{it}`"))
        .collect();
    let more = match files.len().saturating_sub(FILES_SHOWN_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("it conflicts in {}{more}", shown.join(", "))
}
