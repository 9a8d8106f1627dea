//! Changes: merges and pull requests that are opened, and the repository below.

use std::process::Command;

use jiff::Timestamp;
use shared::issue::{FailureClass, MergeMethod, PullState};
use shared::ports::{Clock, Forge, MergeAnswer, OpenAsk, Opened, Publisher, WhichPull};
use world::faults::Trouble;
use world::github::{Bare, Merging, Method, NewPull, Paper, Repo};

use super::common::{Hands, START, class};
use super::{BRANCH, SLUG, Stage, TOKEN, ask, change, client, new, status, transient};

#[tokio::test]
async fn exactly_the_named_commit_is_merged() {
    let stage = Stage::new().await;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    let before = stage.main();
    let answer = stage.merge(number, &sha).await.expect("an answer");
    assert_eq!(answer, MergeAnswer::Merged { sha: stage.main() });
    assert_ne!(stage.main(), before);
    assert_eq!(
        stage.bare.file("main", "api.rs").expect("git").as_deref(),
        Some("a change\n")
    );

    let facts = stage.facts(WhichPull::Number(number)).await.expect("facts");
    let facts = facts.expect("a pull request");
    assert_eq!(
        (facts.state, facts.head_sha),
        (PullState::Merged, sha.clone())
    );

    assert_eq!(
        stage.merge(number, &sha).await,
        Ok(answer),
        "repeating it changes nothing"
    );
    assert_eq!(stage.github.lock().merges().len(), 1);
    stage.check();
}

#[tokio::test]
async fn a_stale_commit_is_not_merged() {
    let stage = Stage::new().await;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    let before = stage.main();
    let newer = stage.push(BRANCH, "api.rs", "something else\n");
    assert_eq!(stage.merge(number, &sha).await, Ok(MergeAnswer::HeadMoved));
    assert_eq!(stage.main(), before);

    // A person merges the newer one: that is no merge of ours.
    let now = stage.clock.now();
    let merged = stage
        .github
        .lock()
        .merge(SLUG, number, Some(&newer), Method::Squash, "", now);
    assert!(merged.is_ok());
    assert_eq!(stage.merge(number, &sha).await, Ok(MergeAnswer::HeadMoved));
    stage.check();
}

#[tokio::test]
async fn a_merge_whose_reply_is_lost_is_one_merge() {
    let empty = Trouble::StatusAfter {
        status: 200,
        body: "{\"merged\":false,\"sha\":\"\"}".into(),
    };
    for trouble in Trouble::lost_replies().into_iter().chain([empty]) {
        let stage = Stage::new().await;
        let (number, sha) = stage.pull(BRANCH, "api.rs");
        stage.faults.next("merge", trouble.clone());
        let answer = stage.merge(number, &sha).await;
        assert_eq!(
            answer,
            Ok(MergeAnswer::Merged { sha: stage.main() }),
            "{trouble:?}"
        );
        assert_eq!(stage.github.lock().merges().len(), 1, "{trouble:?}");
        stage.check();
    }
}

#[tokio::test]
async fn a_merge_that_was_not_made_is_worth_another_try() {
    for trouble in [Trouble::DropBefore, status(500, "oops"), Trouble::Garbage] {
        let stage = Stage::new().await;
        let (number, sha) = stage.pull(BRANCH, "api.rs");
        stage.faults.next("merge", trouble.clone());
        transient(stage.merge(number, &sha).await);
        assert_eq!(stage.github.lock().merges(), [], "{trouble:?}");
        let answer = stage.merge(number, &sha).await;
        assert_eq!(answer, Ok(MergeAnswer::Merged { sha: stage.main() }));
        stage.check();
    }
}

#[tokio::test]
async fn doubt_stays_while_the_pull_request_cannot_be_read() {
    let stage = Stage::new().await;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    stage.faults.next("merge", Trouble::DropAfter);
    stage.faults.next("pull", Trouble::DropBefore);
    transient(stage.merge(number, &sha).await);
    // The second time GitHub says 405, and the pull request says why.
    let answer = stage.merge(number, &sha).await;
    assert_eq!(answer, Ok(MergeAnswer::Merged { sha: stage.main() }));
    assert_eq!(stage.github.lock().merges().len(), 1);
    stage.check();
}

#[tokio::test]
async fn a_base_that_moved_meanwhile_is_no_refusal() {
    let stage = Stage::new().await;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    stage.known(number).await;
    stage
        .github
        .lock()
        .disturb_merges(SLUG, 1)
        .expect("a disturbance");
    let why = transient(stage.merge(number, &sha).await);
    assert!(why.contains("Base branch was modified"), "{why}");
    assert!(matches!(
        stage.merge(number, &sha).await,
        Ok(MergeAnswer::Merged { .. })
    ));
    stage.check();
}

#[tokio::test]
async fn what_cannot_be_merged_is_refused_with_githubs_words() {
    let stage = Stage::new().await;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    stage.push("main", "api.rs", "the same file\n");
    // Until GitHub has found out, "not mergeable" may mean nothing.
    transient(stage.merge(number, &sha).await);
    let refused = |why: &str| Ok(MergeAnswer::Refused { why: why.into() });
    assert_eq!(stage.known(number).await.mergeable, Some(false));
    assert_eq!(
        stage.merge(number, &sha).await,
        refused("Pull Request is not mergeable")
    );

    let sha = stage.push("draft", "draft.rs", "a change\n");
    let draft = NewPull {
        draft: true,
        ..new("draft")
    };
    let number = stage
        .github
        .lock()
        .open_pull(SLUG, &draft, stage.clock.now());
    let number = number.expect("a draft");
    assert!(stage.known(number).await.draft);
    assert_eq!(
        stage.merge(number, &sha).await,
        refused("Pull Request is still a draft")
    );

    let (number, sha) = stage.pull("closed", "closed.rs");
    stage
        .github
        .lock()
        .close(SLUG, number, stage.clock.now())
        .expect("closed");
    // Not a verdict of GitHub's on the commit: the next look hears who closed it.
    assert_eq!(stage.merge(number, &sha).await, Ok(MergeAnswer::HeadMoved));
    stage.check();
}

#[tokio::test]
async fn each_method_leaves_its_own_history() {
    for (method, parents, commits) in [
        (MergeMethod::Squash, 1, 2),
        (MergeMethod::Merge, 2, 4),
        (MergeMethod::Rebase, 1, 3),
    ] {
        let stage = Stage::new().await;
        stage.push(BRANCH, "one.rs", "1\n");
        let (number, sha) = stage.pull(BRANCH, "two.rs");
        let answer = stage.client.merge(&ask(number, &sha, method)).await;
        assert_eq!(
            answer,
            Ok(MergeAnswer::Merged { sha: stage.main() }),
            "{method}"
        );
        let git = |arguments: &[&str]| {
            let mut git = Command::new("git");
            git.arg("--git-dir").arg(stage.bare.path()).args(arguments);
            String::from_utf8(git.output().expect("git").stdout)
                .expect("text")
                .trim()
                .to_owned()
        };
        let line = git(&["rev-list", "--parents", "-1", "main"]);
        assert_eq!(line.split(' ').count(), 1 + parents, "{method}");
        assert_eq!(
            git(&["rev-list", "--count", "main"]),
            commits.to_string(),
            "{method}"
        );
        for file in ["README.md", "one.rs", "two.rs"] {
            assert!(
                stage.bare.file("main", file).expect("git").is_some(),
                "{method} {file}"
            );
        }
        if method != MergeMethod::Rebase {
            assert_eq!(
                git(&["log", "-1", "--format=%s", "main"]),
                "ENG-42: the API"
            );
        }
        stage.check();
    }
}

#[tokio::test]
async fn opening_twice_is_one_pull_request() {
    let stage = Stage::new().await;
    stage.push(BRANCH, "api.rs", "a change\n");
    let ask = OpenAsk {
        slug: SLUG.into(),
        branch: BRANCH.into(),
        base: "main".into(),
        title: "The API".into(),
        body: "<!-- cyrus:ENG-42/api -->".into(),
    };
    stage.faults.next("open", Trouble::DropAfter);
    transient(stage.client.open(&ask).await);
    let url = format!("https://github.com/{SLUG}/pull/1");
    let opened = Ok(Opened { number: 1, url });
    assert_eq!(stage.client.open(&ask).await, opened);
    assert_eq!(stage.client.open(&ask).await, opened);
    let now = stage.clock.now();
    let pulls = stage
        .github
        .lock()
        .pulls(SLUG, None, false, now)
        .expect("pull requests");
    assert_eq!(pulls.len(), 1);
    assert_eq!(pulls[0].body, ask.body);

    let missing = OpenAsk {
        branch: "nowhere".into(),
        ..ask.clone()
    };
    let (kind, why) = class(stage.client.open(&missing).await);
    assert_eq!(kind, FailureClass::Invalid);
    assert!(why.contains("head or base is missing"), "{why}");
    stage.github.lock().close(SLUG, 1, now).expect("closed");
    let same = OpenAsk {
        branch: "main".into(),
        ..ask
    };
    let (_, why) = class(stage.client.open(&same).await);
    assert!(why.contains("No commits between main and main"), "{why}");
    stage.check();
}

#[tokio::test]
async fn nobody_there_is_no_merge() {
    let clock = Hands::new();
    // Bound and not listening: the port stays ours, and refuses.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket
        .bind("127.0.0.1:0".parse().expect("an address"))
        .expect("a port");
    let url = format!("http://{}", socket.local_addr().expect("an address"));
    let client = client(&url, TOKEN, &clock);
    let why = transient(
        client
            .merge(&ask(1, &"a".repeat(40), MergeMethod::Squash))
            .await,
    );
    assert!(why.contains("could not be reached"), "{why}");
}

/// The repository on paper stands for the real one in simulations.
#[test]
fn paper_behaves_like_git() {
    let folder = tempfile::tempdir().expect("a folder");
    let now = Timestamp::from_second(START).expect("a time");
    let first = change("README.md", "# Shop\n");
    let bare = Bare::init(&folder.path().join("shop.git"), "main", &first, now).expect("git");

    fn story(mut repo: impl Repo, now: Timestamp) -> Vec<String> {
        let mut told = Vec::new();
        let push = |repo: &mut dyn Repo, branch: &str, path: &str, content: &str| {
            repo.commit(branch, "main", &change(path, content), now)
                .expect("a commit")
        };
        let head = |repo: &dyn Repo, branch: &str| repo.head(branch).expect("a repository");
        told.push(format!("{:?}", head(&repo, "nowhere")));
        let base = head(&repo, "main").expect("main");
        let one = push(&mut repo, "one", "one.rs", "1\n");
        push(&mut repo, "two", "two.rs", "2\n");
        let two = push(&mut repo, "two", "two.rs", "2!\n");
        let same = push(&mut repo, "same", "one.rs", "another 1\n");
        told.push(format!(
            "ahead {:?}",
            repo.is_ahead(&base, &one).expect("a repository")
        ));
        told.push(format!(
            "ahead {:?}",
            repo.is_ahead(&one, &base).expect("a repository")
        ));
        told.push(format!(
            "ahead {:?}",
            repo.is_ahead(&base, &base).expect("a repository")
        ));
        for (head_sha, method, from) in [
            (&one, Method::Squash, None),
            (&two, Method::Rebase, Some(&base)),
            (&two, Method::Rebase, None),
            (&same, Method::Squash, None),
            (&same, Method::Rebase, None),
        ] {
            let main = head(&repo, "main").expect("main");
            let conflicts = repo.conflicts(&main, head_sha).expect("a repository");
            let from = from.unwrap_or(&main);
            let merged = repo.merge("main", from, head_sha, method, "merged", now);
            let word = match merged.expect("a repository") {
                Merging::Done(sha) => {
                    assert_eq!(head(&repo, "main"), Some(sha));
                    "done"
                }
                Merging::Conflict => "conflict",
                Merging::BaseMoved => "base moved",
            };
            told.push(format!("conflicts {conflicts}, {word}"));
        }
        told
    }

    let told = story(Paper::new("main"), now);
    assert_eq!(
        told,
        [
            "None",
            "ahead true",
            "ahead false",
            "ahead false",
            "conflicts false, done",
            "conflicts false, base moved",
            "conflicts false, done",
            "conflicts true, conflict",
            "conflicts true, conflict",
        ]
    );
    assert_eq!(story(bare, now), told);
}
