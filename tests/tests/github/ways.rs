//! GraphQL and REST tell the same; where GraphQL is missing, REST takes its place.

use shared::issue::verdict::{Opinion, Review};
use shared::issue::{FailureClass, Fault, PullFacts};
use shared::ports::{Clock, Forge, MergeAnswer, PullAsk, WhichPull};
use world::faults::Trouble;
use world::github::{Change, GraphQl, Repo};

use super::common::class;
use super::{BRANCH, SLUG, Stage, client, new, repository, status, transient};

/// The same by both ways, as a fresh client reads it.
async fn both(stage: &Stage, number: u64) -> PullFacts {
    let mut told = Vec::new();
    for graphql in [GraphQl::Present, GraphQl::Absent, GraphQl::Old] {
        stage.github.lock().graphql = graphql;
        let client = client(&stage.server.url(), super::TOKEN, &stage.clock);
        for which in [
            WhichPull::Number(number),
            WhichPull::Number(number),
            WhichPull::Branch(BRANCH.into()),
        ] {
            let ask = PullAsk {
                repository: repository(SLUG),
                which,
            };
            let facts = client.facts(&[ask]).await.remove(0);
            told.push((graphql, facts.expect("facts").expect("a pull request")));
        }
    }
    stage.github.lock().graphql = GraphQl::Present;
    // The first look makes GitHub find out whether it can be merged.
    let (_, first) = told.pop().expect("facts");
    for (way, facts) in told.into_iter().skip(1) {
        assert_eq!(facts, first, "{way:?}");
    }
    first
}

#[tokio::test]
async fn graphql_and_rest_tell_the_same() {
    let stage = Stage::new().await;
    let now = stage.clock.now();
    stage.push("main", "old.rs", "a file of some lines\nthat is moved\n");
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    {
        let mut github = stage.github.lock();
        for (at, conclusion) in [
            "success",
            "neutral",
            "skipped",
            "failure",
            "timed_out",
            "cancelled",
            "action_required",
            "startup_failure",
            "stale",
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("run {at}");
            github
                .set_check(SLUG, &sha, &name, Some(conclusion))
                .expect("a check");
        }
        github
            .set_output(SLUG, &sha, "run 3", ["2 of 9 failed", "a report", ""])
            .expect("a check");
        github
            .set_check(SLUG, &sha, "at work", None)
            .expect("a check");
        for state in ["success", "failure", "error", "pending"] {
            github
                .set_status(SLUG, &sha, state, state)
                .expect("a status");
        }
        for (author, association, state) in [
            ("ann", "OWNER", "CHANGES_REQUESTED"),
            ("ann", "OWNER", "APPROVED"),
            ("ann", "OWNER", "COMMENTED"),
            ("bob", "COLLABORATOR", "APPROVED"),
            ("bob", "COLLABORATOR", "CHANGES_REQUESTED"),
            ("carl", "MEMBER", "APPROVED"),
            ("carl", "MEMBER", "DISMISSED"),
            ("mallory", "CONTRIBUTOR", "APPROVED"),
        ] {
            github
                .review(SLUG, number, (author, association), state, "well", now)
                .expect("a review");
        }
    }
    stage.push("main", "other.rs", "the base goes on\n");
    let facts = both(&stage, number).await;
    let review = |author: &str, opinion| Review {
        author: author.into(),
        opinion,
        sha: sha.clone(),
        text: "well".into(),
    };
    assert_eq!(
        facts.reviews,
        [
            review("ann", Opinion::Approves),
            review("bob", Opinion::WantsChanges)
        ]
    );
    assert_eq!(
        (facts.behind, facts.blocked, facts.queued),
        (true, false, false)
    );
    assert_eq!(facts.files, Some(vec!["api.rs".to_owned()]));
    let red = facts
        .checks
        .iter()
        .find(|it| it.name == "run 3")
        .expect("a check");
    assert_eq!((red.id, red.says.as_str()), (Some(4), "2 of 9 failed"));
    assert_eq!(facts.checks.len(), 14);

    // What the branch protection says.
    stage.github.lock().rules(SLUG).expect("rules").required = vec!["missing".into()];
    assert!(both(&stage, number).await.blocked);
    stage
        .github
        .lock()
        .close(SLUG, number, now)
        .expect("closed");
    let closed = both(&stage, number).await;
    assert_eq!(
        (closed.blocked, closed.behind, closed.checks.len()),
        (false, false, 0)
    );
    stage.check();
}

#[tokio::test]
async fn of_what_was_renamed_both_names_are_known() {
    let stage = Stage::new().await;
    let text = "the first line\nthe second line\nthe third line\n";
    let before = stage.push("main", "secret/old.rs", text);
    let git = |arguments: &[&str]| {
        let folder = stage.bare.path().join("work");
        let mut git = std::process::Command::new("git");
        git.args(["-C", &folder.display().to_string()])
            .args(arguments);
        git.envs([("GIT_AUTHOR_NAME", "a"), ("GIT_AUTHOR_EMAIL", "a@b.c")]);
        git.envs([
            ("GIT_COMMITTER_NAME", "a"),
            ("GIT_COMMITTER_EMAIL", "a@b.c"),
        ]);
        assert!(git.status().expect("git").success(), "{arguments:?}");
    };
    let folder = stage.bare.path().join("work");
    std::fs::create_dir_all(&folder).expect("a folder");
    git(&["init", "--quiet"]);
    git(&["fetch", "--quiet", "..", "main"]);
    git(&["checkout", "--quiet", "-b", BRANCH, &before]);
    git(&["mv", "secret/old.rs", "new.rs"]);
    git(&["commit", "--quiet", "-m", "Move it"]);
    git(&["push", "--quiet", "..", BRANCH]);
    let number = stage
        .github
        .lock()
        .open_pull(SLUG, &new(BRANCH), stage.clock.now());
    let facts = both(&stage, number.expect("a pull request")).await;
    let both = ["new.rs", "secret/old.rs"].map(str::to_owned);
    assert_eq!(facts.files, Some(both.to_vec()));
    stage.check();
}

#[tokio::test]
async fn more_files_than_are_told_are_not_taken_for_all() {
    let stage = Stage::new().await;
    for (count, known) in [(101, true), (299, true), (301, false)] {
        let branch = format!("files-{count}");
        let change = Change {
            message: "Many files".into(),
            files: (0..count)
                .map(|at| (format!("{at}.rs"), at.to_string()))
                .collect(),
        };
        let now = stage.clock.now();
        let mut bare = stage.bare.clone();
        bare.commit(&branch, "main", &change, now)
            .expect("a commit");
        let number = stage.github.lock().open_pull(SLUG, &new(&branch), now);
        let facts = stage.known(number.expect("a pull request")).await;
        assert_eq!(facts.files.map(|it| it.len()), known.then_some(count));
    }
    stage.check();
}

#[tokio::test]
async fn many_pull_requests_are_one_request() {
    let stage = Stage::new().await;
    let mut asks = Vec::new();
    for at in 0..25 {
        let (number, _) = stage.pull(&format!("branch-{at}"), &format!("{at}.rs"));
        asks.push(PullAsk {
            repository: repository(SLUG),
            which: WhichPull::Number(number),
        });
    }
    // One that is missing spoils nothing but itself.
    asks[3].which = WhichPull::Number(99);
    let requests = |stage: &Stage| stage.github.lock().calls().values().sum::<usize>();
    stage.client.facts(&asks).await;
    let before = requests(&stage);
    let answers = stage.client.facts(&asks).await;
    assert_eq!(requests(&stage) - before, 2, "20 and 5");
    for (at, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(Some(facts)) => assert_eq!(facts.number, at as u64 + 1),
            other => assert_eq!((at, class(other).0), (3, FailureClass::Invalid)),
        }
    }
    stage.check();
}

#[tokio::test]
async fn graphql_has_limits_and_outages_of_its_own() {
    let stage = Stage::new().await;
    let (number, _) = stage.pull(BRANCH, "api.rs");
    let said = |kind: &str, data: &str| Trouble::Status {
        status: 200,
        body: format!(
            "{{\"data\":{data},\"errors\":[{{\"type\":\"{kind}\",\"message\":\"no\",\"path\":[\"p0\"]}}]}}"
        ),
        retry_after: None,
    };
    stage.faults.next("Facts", said("RATE_LIMITED", "null"));
    let answer = stage.facts(WhichPull::Number(number)).await;
    assert!(
        matches!(
            answer,
            Err(Fault::Busy {
                retry_after_seconds: Some(60),
                ..
            })
        ),
        "{answer:?}"
    );
    stage
        .faults
        .next("Facts", said("FORBIDDEN", "{\"p0\":null}"));
    let (kind, why) = class(stage.facts(WhichPull::Number(number)).await);
    assert_eq!(kind, FailureClass::Auth);
    assert!(why.contains("checks and commit statuses"), "{why}");
    for trouble in [
        said("SOMETHING", "{\"p0\":null}"),
        status(502, "away"),
        Trouble::DropBefore,
        Trouble::Garbage,
    ] {
        stage.faults.next("Facts", trouble);
        transient(stage.facts(WhichPull::Number(number)).await);
    }
    // A part that was kept back is not taken for nothing.
    let body = "{\"data\":{\"p0\":{\"pullRequest\":{\"number\":1}}}}".to_owned();
    let trouble = Trouble::Status {
        status: 200,
        body,
        retry_after: None,
    };
    stage.faults.next("Facts", trouble);
    transient(stage.facts(WhichPull::Number(number)).await);
    assert!(stage.facts(WhichPull::Number(number)).await.is_ok());
    stage.check();
}

#[tokio::test]
async fn a_server_without_graphql_is_not_asked_for_it_each_time() {
    let stage = Stage::rest().await;
    let (number, _) = stage.pull(BRANCH, "api.rs");
    let asked = |stage: &Stage| stage.github.lock().calls().get("Facts").copied();
    stage.known(number).await;
    assert_eq!(asked(&stage), Some(1));
    stage.clock.forward(3600);
    stage.known(number).await;
    assert_eq!(asked(&stage), Some(2), "it may have been updated");
    stage.check();
}

#[tokio::test]
async fn a_merge_in_githubs_own_time() {
    let stage = Stage::new().await;
    let now = stage.clock.now();
    stage.github.lock().rules(SLUG).expect("rules").merge_async = true;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    let answer = stage.merge(number, &sha).await;
    assert_eq!(answer, Ok(MergeAnswer::Merged { sha: stage.main() }));
    assert_eq!(stage.merge(number, &sha).await, answer, "already merged");

    // It takes longer than we look, and a second try finds it at work.
    stage.github.lock().rules(SLUG).expect("rules").async_looks = 100;
    let (number, sha) = stage.pull("slow", "slow.rs");
    assert_eq!(stage.merge(number, &sha).await, Ok(MergeAnswer::Queued));
    stage
        .github
        .lock()
        .finish_merges(SLUG, now)
        .expect("merged");
    let answer = stage.merge(number, &sha).await;
    assert_eq!(answer, Ok(MergeAnswer::Merged { sha: stage.main() }));
    stage.github.lock().rules(SLUG).expect("rules").async_looks = 0;
    stage.check();
}

#[tokio::test]
async fn a_lost_answer_in_githubs_own_time_is_one_merge() {
    for trouble in Trouble::lost_replies() {
        let stage = Stage::new().await;
        stage.github.lock().rules(SLUG).expect("rules").merge_async = true;
        let (number, sha) = stage.pull(BRANCH, "api.rs");
        stage.faults.next("merge-async", trouble.clone());
        transient(stage.merge(number, &sha).await);
        let answer = stage.merge(number, &sha).await;
        let merged = MergeAnswer::Merged { sha: stage.main() };
        assert_eq!(answer, Ok(merged), "{trouble:?}");
        assert_eq!(stage.github.lock().merges().len(), 1);
        stage.check();
    }
}

#[tokio::test]
async fn refusals_in_githubs_own_time() {
    let stage = Stage::new().await;
    stage.github.lock().rules(SLUG).expect("rules").merge_async = true;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    let newer = stage.push(BRANCH, "api.rs", "another change\n");
    assert_eq!(stage.merge(number, &sha).await, Ok(MergeAnswer::HeadMoved));

    stage.push("main", "api.rs", "the same file\n");
    assert_eq!(stage.known(number).await.mergeable, Some(false));
    let answer = stage.merge(number, &newer).await;
    assert!(
        matches!(answer, Ok(MergeAnswer::Refused { .. })),
        "{answer:?}"
    );
    assert_eq!(stage.github.lock().merges(), []);
    stage.check();
}

#[tokio::test]
async fn rules_refuse_a_merge_in_their_own_words() {
    let stage = Stage::new().await;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    stage.push("main", "other.rs", "the base goes on\n");
    assert!(stage.known(number).await.behind);
    stage.github.lock().rules(SLUG).expect("rules").strict = true;
    let answer = stage.merge(number, &sha).await;
    let Ok(MergeAnswer::Refused { why }) = answer else {
        panic!("{answer:?}");
    };
    assert!(why.contains("out of date"), "{why}");
    stage.github.lock().rules(SLUG).expect("rules").required = vec!["ci".into()];
    let answer = stage.merge(number, &sha).await;
    let Ok(MergeAnswer::Refused { why }) = answer else {
        panic!("{answer:?}");
    };
    assert!(why.contains("\"ci\" is expected"), "{why}");
    stage.check();
}

#[tokio::test]
async fn where_there_is_a_queue_it_is_used() {
    for merge_async in [false, true] {
        let stage = Stage::new().await;
        {
            let mut github = stage.github.lock();
            let rules = github.rules(SLUG).expect("rules");
            rules.queue = true;
            rules.merge_async = merge_async;
        }
        let (number, sha) = stage.pull(BRANCH, "api.rs");
        assert!(!stage.known(number).await.queued);
        for _ in 0..2 {
            assert_eq!(stage.merge(number, &sha).await, Ok(MergeAnswer::Queued));
        }
        assert_eq!(stage.github.lock().queue(SLUG).expect("a queue"), [number]);
        assert!(stage.known(number).await.queued);
        let now = stage.clock.now();
        stage.github.lock().run_queue(SLUG, now).expect("a merge");
        let answer = stage.merge(number, &sha).await;
        assert_eq!(answer, Ok(MergeAnswer::Merged { sha: stage.main() }));
        stage.check();
    }
    // Without GraphQL there is no other way in.
    let stage = Stage::rest().await;
    stage.github.lock().rules(SLUG).expect("rules").queue = true;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    let answer = stage.merge(number, &sha).await;
    assert!(
        matches!(answer, Ok(MergeAnswer::Refused { .. })),
        "{answer:?}"
    );
}
