//! Pull requests and merges by git alone: a real bare remote, a clone, and somebody
//! else who pushes.

#[expect(dead_code, reason = "the other tests use the rest")]
mod common;

use std::collections::BTreeMap;
use std::fs;

use runner::GitForge;
use shared::issue::{Fault, MergeMethod, PullFacts, PullState, Repository, TaskKind};
use shared::ports::{
    BranchAsk, Forge, MergeAnswer, MergeAsk, PullAsk, UpdateAnswer, UpdateAsk, WhichPull,
};

use common::Machine;

const BRANCH: &str = "cyrus/eng-1/api";
const WHO: [&str; 4] = ["-c", "user.name=T", "-c", "user.email=t@localhost"];

struct Scene {
    machine: Machine,
    forge: GitForge,
    repository: Repository,
}

impl Scene {
    /// A second clone, `theirs`, is where branches are made: nobody's pushes are known
    /// to the first one.
    fn new() -> Self {
        let machine = Machine::new("exit 1");
        machine.git("home", &["clone", "--quiet", "../remote.git", "../theirs"]);
        let mut repository = machine.job("k", TaskKind::Builder).repository;
        repository.slug.clear();
        let env: BTreeMap<String, String> = runner::git_env(machine.agent_env.clone());
        Self {
            forge: GitForge::new(env),
            machine,
            repository,
        }
    }

    /// Pushes a commit to a branch that begins at `from`; the commit.
    fn push(&self, branch: &str, from: &str, file: &str, text: &str) -> String {
        let git = |args: &[&str]| self.machine.git("theirs", args);
        git(&["fetch", "--quiet", "origin"]);
        git(&["checkout", "--quiet", "--detach", from]);
        fs::write(self.machine.at("theirs").join(file), text).expect("a file");
        git(&["add", "--all"]);
        let commit = ["commit", "--quiet", "--message", file];
        git(&[&WHO[..], &commit[..]].concat());
        let refspec = format!("+HEAD:refs/heads/{branch}");
        git(&["push", "--quiet", "origin", &refspec]);
        git(&["rev-parse", "HEAD"])
    }

    fn at(&self, branch: &str) -> String {
        self.machine.git("remote.git", &["rev-parse", branch])
    }

    fn show(&self, what: &str) -> String {
        self.machine.git("remote.git", &["show", what])
    }

    async fn facts(&self) -> Option<PullFacts> {
        let ask = PullAsk {
            repository: self.repository.clone(),
            which: WhichPull::Branch(BRANCH.into()),
        };
        let mut facts = self.forge.facts(&[ask]).await;
        facts.remove(0).expect("facts")
    }

    async fn stands(&self) -> PullFacts {
        self.facts().await.expect("a pull request")
    }

    fn ask(&self, sha: &str, method: MergeMethod) -> MergeAsk {
        MergeAsk {
            repository: self.repository.clone(),
            number: 0,
            branch: BRANCH.into(),
            sha: sha.into(),
            method,
            title: "Say hello (ENG-1)".into(),
        }
    }

    async fn merge(&self, sha: &str, method: MergeMethod) -> MergeAnswer {
        let ask = self.ask(sha, method);
        self.forge.merge(&ask).await.expect("an answer")
    }
}

#[tokio::test]
async fn a_branch_is_its_own_pull_request() {
    let scene = Scene::new();
    assert_eq!(scene.facts().await, None);
    let sha = scene.push(BRANCH, "origin/main", "new.txt", "new\n");
    let facts = scene.stands().await;
    assert_eq!((facts.state, &facts.head_sha), (PullState::Open, &sha));
    assert_eq!(facts.files.as_deref(), Some(&["new.txt".to_owned()][..]));
    assert_eq!((facts.mergeable, facts.behind), (Some(true), false));
    assert!(facts.url.ends_with("remote.git#cyrus/eng-1/api"));
    assert_eq!((facts.base_slug.as_str(), facts.number), ("", 0));

    scene.push("main", "origin/main", "other.txt", "other\n");
    let facts = scene.stands().await;
    assert_eq!((facts.mergeable, facts.behind), (Some(true), true));
    scene.push("main", "origin/main", "new.txt", "another\n");
    assert_eq!(scene.stands().await.mergeable, Some(false));

    scene.machine.git("remote.git", &["branch", "-D", BRANCH]);
    assert_eq!(scene.stands().await.state, PullState::Closed);
}

#[tokio::test]
async fn each_way_of_merging_is_known_afterwards_and_made_once() {
    for method in [MergeMethod::Squash, MergeMethod::Merge, MergeMethod::Rebase] {
        let scene = Scene::new();
        scene.push(BRANCH, "origin/main", "a.txt", "a\n");
        let sha = scene.push(BRANCH, &format!("origin/{BRANCH}"), "b.txt", "b\n");
        let base = scene.push("main", "origin/main", "other.txt", "other\n");
        let MergeAnswer::Merged { sha: merged } = scene.merge(&sha, method).await else {
            panic!("{method} did not merge");
        };
        assert_eq!(scene.at("main"), merged);
        assert_eq!(scene.show("main:b.txt"), "b");
        assert_eq!(scene.show("main:other.txt"), "other");
        let count = ["rev-list", "--count", &format!("{base}..main")];
        let commits = scene.machine.git("remote.git", &count);
        let expected = match method {
            MergeMethod::Squash => "1",
            MergeMethod::Rebase => "2",
            MergeMethod::Merge => "3",
        };
        assert_eq!(commits, expected, "{method}");
        // Nobody's files were touched.
        let clone = scene.machine.git("clone", &["status", "--porcelain"]);
        assert_eq!(clone, "");

        // A reply that was lost: the same answer, and no second commit.
        scene.push("main", "origin/main", "later.txt", "later\n");
        let again = scene.merge(&sha, method).await;
        let MergeAnswer::Merged { sha: again } = again else {
            panic!("{again:?}");
        };
        let known = ["merge-base", "--is-ancestor", &again, "main"];
        scene.machine.git("remote.git", &known);
        assert_eq!(scene.stands().await.state, PullState::Merged);

        let gone = BranchAsk {
            repository: scene.repository.clone(),
            branch: BRANCH.into(),
        };
        for _ in 0..2 {
            scene.forge.delete_branch(&gone).await.expect("deleted");
        }
        assert!(scene.machine.pushed().is_empty());
        let facts = scene.stands().await;
        assert_eq!((facts.state, facts.head_sha), (PullState::Merged, sha));
    }
}

#[tokio::test]
async fn a_rebase_that_need_not_be_one_is_a_fast_forward_and_keeps_the_author_else() {
    let scene = Scene::new();
    let sha = scene.push(BRANCH, "origin/main", "a.txt", "a\n");
    let merged = scene.merge(&sha, MergeMethod::Rebase).await;
    assert_eq!(merged, MergeAnswer::Merged { sha: sha.clone() });
    assert_eq!(scene.at("main"), sha);

    let sha = scene.push(BRANCH, "origin/main~1", "c.txt", "c\n");
    scene.merge(&sha, MergeMethod::Rebase).await;
    let form = ["log", "-1", "--format=%an|%cn|%s", "main"];
    let about = scene.machine.git("remote.git", &form);
    assert_eq!(about, "T|Cyrus|c.txt");
}

#[tokio::test]
async fn a_head_that_moved_is_not_merged_and_a_conflict_is_said() {
    let scene = Scene::new();
    let judged = scene.push(BRANCH, "origin/main", "a.txt", "a\n");
    let moved = scene.push(BRANCH, &format!("origin/{BRANCH}"), "b.txt", "b\n");
    for method in [MergeMethod::Squash, MergeMethod::Merge, MergeMethod::Rebase] {
        let answer = scene.merge(&judged, method).await;
        assert_eq!(answer, MergeAnswer::HeadMoved);
    }
    let base = scene.push("main", "origin/main", "a.txt", "another\n");
    for method in [MergeMethod::Squash, MergeMethod::Merge, MergeMethod::Rebase] {
        let answer = scene.merge(&moved, method).await;
        let why = "it conflicts in `a.txt`".to_owned();
        assert_eq!(answer, MergeAnswer::Refused { why });
    }
    assert_eq!(scene.at("main"), base);
}

#[tokio::test]
async fn a_base_that_is_pushed_to_in_the_same_moment_is_never_pushed_over() {
    let scene = Scene::new();
    let sha = scene.push(BRANCH, "origin/main", "a.txt", "a\n");
    let base = scene.at("main");
    // Somebody else is first, between our look and our push.
    let theirs = scene.push("aside", "origin/main", "b.txt", "b\n");
    let hook = format!(
        "#!/bin/sh\nunset GIT_QUARANTINE_PATH\nif [ ! -e raced ]; then touch raced; \
         git update-ref refs/heads/main {theirs} {base}; fi\n"
    );
    let path = scene.machine.at("remote.git/hooks/pre-receive");
    common::write_script(&path, &hook, 0o755);
    let ask = scene.ask(&sha, MergeMethod::Squash);
    let raced = scene.forge.merge(&ask).await;
    assert!(matches!(raced, Err(Fault::Transient { .. })), "{raced:?}");
    assert_eq!(scene.at("main"), theirs);
    let merged = scene.forge.merge(&ask).await.expect("the second try");
    assert!(matches!(merged, MergeAnswer::Merged { .. }), "{merged:?}");
    assert_eq!(scene.show("main:b.txt"), "b");
    assert_eq!(scene.show("main:a.txt"), "a");
}

#[tokio::test]
async fn two_who_merge_at_once_both_get_in_and_nothing_is_lost() {
    let scene = Scene::new();
    scene
        .machine
        .git("home", &["clone", "--quiet", "../remote.git", "../second"]);
    let one = scene.push(BRANCH, "origin/main", "a.txt", "a\n");
    let two = scene.push("cyrus/eng-1/web", "origin/main", "b.txt", "b\n");
    let other = GitForge::new(runner::git_env(scene.machine.agent_env.clone()));
    let mut second = scene.ask(&two, MergeMethod::Squash);
    second.branch = "cyrus/eng-1/web".into();
    second.repository.path = scene.machine.at("second").to_string_lossy().into_owned();
    let first = scene.ask(&one, MergeMethod::Squash);
    let until_merged = async |forge: &GitForge, ask: &MergeAsk| {
        for _ in 0..3 {
            match forge.merge(ask).await {
                Ok(MergeAnswer::Merged { .. }) => return,
                Err(Fault::Transient { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("it never got in");
    };
    tokio::join!(
        until_merged(&scene.forge, &first),
        until_merged(&other, &second)
    );
    assert_eq!(scene.show("main:a.txt"), "a");
    assert_eq!(scene.show("main:b.txt"), "b");
    let count = scene
        .machine
        .git("remote.git", &["rev-list", "--count", "main"]);
    assert_eq!(count, "3");
}

#[tokio::test]
async fn a_branch_is_brought_up_to_date() {
    let scene = Scene::new();
    let sha = scene.push(BRANCH, "origin/main", "a.txt", "a\n");
    let base = scene.push("main", "origin/main", "b.txt", "b\n");
    let ask = |sha: &str| UpdateAsk {
        repository: scene.repository.clone(),
        number: 0,
        branch: BRANCH.into(),
        sha: sha.into(),
    };
    let update = async |sha: &str| scene.forge.update(&ask(sha)).await.expect("an answer");
    assert_eq!(update(&sha).await, UpdateAnswer::Done);
    let head = scene.at(BRANCH);
    let parents = scene
        .machine
        .git("remote.git", &["log", "-1", "--format=%P", BRANCH]);
    assert_eq!(parents, format!("{sha} {base}"));
    assert!(!scene.stands().await.behind);
    assert_eq!(update(&sha).await, UpdateAnswer::HeadMoved);
    assert_eq!(update(&head).await, UpdateAnswer::Done);
    assert_eq!(scene.at(BRANCH), head, "there was nothing to do");

    scene.push("main", "origin/main", "a.txt", "another\n");
    let why = "it conflicts in `a.txt`".to_owned();
    assert_eq!(update(&head).await, UpdateAnswer::Refused { why });
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_apart() {
    let scene = Scene::new();
    let sha = scene.push(BRANCH, "origin/main", "a.txt", "a\n");
    let mut ask = scene.ask(&sha, MergeMethod::Squash);
    ask.repository.path = "/nowhere".into();
    let missing = scene.forge.merge(&ask).await;
    assert!(
        matches!(missing, Err(Fault::Permanent { .. })),
        "{missing:?}"
    );
    let moved = scene.machine.at("moved.git");
    fs::rename(scene.machine.at("remote.git"), moved).expect("moved");
    let ask = scene.ask(&sha, MergeMethod::Squash);
    let away = scene.forge.merge(&ask).await;
    assert!(matches!(away, Err(Fault::Transient { .. })), "{away:?}");
}
