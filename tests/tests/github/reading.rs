//! Facts about pull requests, refusals and limits.

use jiff::SignedDuration;
use shared::issue::verdict::{Check, CheckState};
use shared::issue::{FailureClass, Fault, PullFacts, PullState};
use shared::ports::{Clock, Forge, PullAsk, WhichPull};
use world::faults::Trouble;
use world::github::Ci;

use super::common::class;
use super::{BRANCH, SLUG, Stage, TOKEN, client, new, repository, status, transient};

#[tokio::test]
async fn a_branch_leads_to_its_pull_request_with_all_its_facts() {
    let stage = Stage::new().await;
    assert_eq!(
        stage.facts(WhichPull::Branch(BRANCH.into())).await,
        Ok(None)
    );

    let (number, sha) = stage.pull(BRANCH, "api.rs");
    {
        let mut github = stage.github.lock();
        github
            .set_check(SLUG, &sha, "test", Some("success"))
            .expect("a check");
        github.set_check(SLUG, &sha, "lint", None).expect("a check");
        github
            .set_status(SLUG, &sha, "deploy", "error")
            .expect("a status");
    }
    let check = |name: &str, state, id| Check {
        name: name.into(),
        state,
        id,
        says: String::new(),
    };
    let mut expected = PullFacts {
        number,
        url: format!("https://github.com/{SLUG}/pull/{number}"),
        state: PullState::Open,
        head_slug: Some(SLUG.into()),
        head_branch: BRANCH.into(),
        head_sha: sha,
        base_slug: SLUG.into(),
        base_branch: "main".into(),
        body: "Done.\n\n<!-- cyrus:ENG-42/api -->".into(),
        draft: false,
        mergeable: None,
        checks: vec![
            check("test", CheckState::Passed, Some(1)),
            check("lint", CheckState::Pending, Some(2)),
            check("deploy", CheckState::Failed, None),
        ],
        files: Some(vec!["api.rs".into()]),
        reviews: Vec::new(),
        behind: false,
        blocked: false,
        queued: false,
    };
    let first = stage.facts(WhichPull::Branch(BRANCH.into())).await;
    assert_eq!(
        first,
        Ok(Some(expected.clone())),
        "GitHub has yet to find out about the merge"
    );
    expected.mergeable = Some(true);
    assert_eq!(
        stage.facts(WhichPull::Branch(BRANCH.into())).await,
        Ok(Some(expected))
    );
    stage.check();
}

#[tokio::test]
async fn of_several_the_newest_pull_request_counts() {
    let stage = Stage::new().await;
    let (first, _) = stage.pull(BRANCH, "api.rs");
    stage
        .github
        .lock()
        .close(SLUG, first, stage.clock.now())
        .expect("closed");
    let facts = stage
        .facts(WhichPull::Branch(BRANCH.into()))
        .await
        .expect("facts");
    assert_eq!(
        facts.map(|it| (it.number, it.state)),
        Some((first, PullState::Closed))
    );

    let second = stage
        .github
        .lock()
        .open_pull(SLUG, &new(BRANCH), stage.clock.now());
    let facts = stage
        .facts(WhichPull::Branch(BRANCH.into()))
        .await
        .expect("facts");
    assert_eq!(facts.map(|it| it.number), second.ok());
    stage.check();
}

#[tokio::test]
async fn a_fork_is_not_found_by_the_branch() {
    let stage = Stage::new().await;
    stage.push(BRANCH, "api.rs", "a change\n");
    let mut numbers = Vec::new();
    // The second belongs to the same owner, which is all that GitHub's filter looks at.
    for fork in ["evil/shop", "acme/shop-fork"] {
        let mut github = stage.github.lock();
        let number = github.open_pull_from_fork(SLUG, fork, &new(BRANCH), stage.clock.now());
        numbers.push((number.expect("a pull request"), fork));
    }
    assert_eq!(
        stage.facts(WhichPull::Branch(BRANCH.into())).await,
        Ok(None)
    );
    for (number, fork) in numbers {
        let facts = stage.facts(WhichPull::Number(number)).await.expect("facts");
        assert_eq!(
            facts.expect("a pull request").head_slug.as_deref(),
            Some(fork)
        );
    }
    stage.check();
}

#[tokio::test]
async fn every_page_of_checks_is_read() {
    let stage = Stage::new().await;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    {
        let mut github = stage.github.lock();
        for at in 0..250 {
            let conclusion = if at == 249 { "failure" } else { "success" };
            github
                .set_check(SLUG, &sha, &format!("run {at}"), Some(conclusion))
                .expect("a check");
        }
        for at in 0..130 {
            github
                .set_status(SLUG, &sha, &format!("status {at}"), "success")
                .expect("a status");
        }
    }
    let facts = stage.known(number).await;
    assert_eq!(facts.checks.len(), 380);
    let red: Vec<_> = facts
        .checks
        .iter()
        .filter(|it| it.state != CheckState::Passed)
        .collect();
    assert_eq!(
        red,
        [&Check {
            name: "run 249".into(),
            state: CheckState::Failed,
            id: Some(250),
            says: String::new(),
        }]
    );
    stage.check();
}

#[tokio::test]
async fn a_commit_with_too_many_checks_never_looks_green() {
    let stage = Stage::new().await;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    for at in 0..1001 {
        let mut github = stage.github.lock();
        github
            .set_status(SLUG, &sha, &format!("status {at}"), "success")
            .expect("a status");
    }
    let facts = stage.known(number).await;
    let pending = facts
        .checks
        .iter()
        .filter(|it| it.state == CheckState::Pending)
        .count();
    assert_eq!((facts.checks.len(), pending), (1001, 1));
    stage.check();
}

#[tokio::test]
async fn checks_of_the_ci_conclude_in_their_time() {
    let stage = Stage::new().await;
    let ci = Ci {
        name: "test".into(),
        delay: SignedDuration::from_secs(60),
        conclusion: "success".into(),
    };
    stage.github.lock().add_ci(SLUG, ci).expect("a CI");
    let (number, _) = stage.pull(BRANCH, "api.rs");
    let state = |facts: PullFacts| {
        facts
            .checks
            .into_iter()
            .map(|it| it.state)
            .collect::<Vec<_>>()
    };
    assert_eq!(state(stage.known(number).await), [CheckState::Pending]);
    stage.clock.forward(60);
    assert_eq!(state(stage.known(number).await), [CheckState::Passed]);
    stage.push(BRANCH, "api.rs", "another change\n");
    assert_eq!(
        state(stage.known(number).await),
        [CheckState::Pending],
        "a new head starts anew"
    );
    stage.check();
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_questions() {
    let stage = Stage::new().await;
    let mut asks = Vec::new();
    for at in 0..12 {
        let (number, _) = stage.pull(&format!("branch-{at}"), &format!("{at}.rs"));
        asks.push(PullAsk {
            repository: repository(SLUG),
            which: WhichPull::Number(number),
        });
    }
    asks[5].repository = repository("acme/unknown");
    asks[7].which = WhichPull::Branch("nowhere".into());
    let answers = stage.client.facts(&asks).await;
    let numbers: Vec<Option<u64>> = answers
        .into_iter()
        .map(|it| it.ok().and_then(|it| it.map(|it| it.number)))
        .collect();
    let expected: Vec<Option<u64>> = (1..=12)
        .map(|it| (it != 6 && it != 8).then_some(it))
        .collect();
    assert_eq!(numbers, expected);
    stage.check();
}

#[tokio::test]
async fn limits_ask_to_wait() {
    let stage = Stage::rest().await;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    let wait = |answer: Result<Option<PullFacts>, Fault>| match answer {
        Err(Fault::Busy {
            retry_after_seconds,
            ..
        }) => retry_after_seconds,
        other => panic!("not busy: {other:?}"),
    };
    let limited = |status, retry_after| Trouble::Status {
        status,
        body: "{\"message\":\"You have exceeded a secondary rate limit\"}".into(),
        retry_after,
    };
    for (trouble, seconds) in [
        (limited(403, Some(7)), 7),
        (limited(403, None), 60),
        (limited(429, Some(9)), 9),
        (limited(429, None), 60),
    ] {
        stage.faults.next("pull", trouble);
        assert_eq!(
            wait(stage.facts(WhichPull::Number(number)).await),
            Some(seconds)
        );
    }
    let until = stage.clock.now() + SignedDuration::from_secs(90);
    stage.github.lock().exhausted_until = Some(until);
    assert_eq!(wait(stage.facts(WhichPull::Number(number)).await), Some(90));
    let merge = stage.merge(number, &sha).await;
    assert!(
        matches!(
            merge,
            Err(Fault::Busy {
                retry_after_seconds: Some(90),
                ..
            })
        ),
        "{merge:?}"
    );
    stage.clock.forward(90);
    assert!(stage.facts(WhichPull::Number(number)).await.is_ok());
    stage.check();
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let stage = Stage::rest().await;
    let (number, _) = stage.pull(BRANCH, "api.rs");
    for (trouble, expected, word) in [
        (
            status(401, "Bad credentials"),
            FailureClass::Auth,
            "GITHUB_TOKEN",
        ),
        (
            status(403, "Resource not accessible"),
            FailureClass::Auth,
            "Resource not accessible",
        ),
        (status(404, "Not Found"), FailureClass::Invalid, SLUG),
        (
            status(301, "Moved Permanently"),
            FailureClass::Invalid,
            "present name",
        ),
        (status(410, "Gone"), FailureClass::Invalid, "410"),
    ] {
        stage.faults.next("pull", trouble);
        let (kind, why) = class(stage.facts(WhichPull::Number(number)).await);
        assert_eq!(kind, expected);
        assert!(why.contains(word), "{why}");
        assert!(!why.contains(TOKEN), "{why}");
    }
    // Checks that may not be read must not look like none.
    stage
        .faults
        .next("check-runs", status(403, "Resource not accessible"));
    assert_eq!(
        class(stage.facts(WhichPull::Number(number)).await).0,
        FailureClass::Auth
    );
    stage.check();
}

#[tokio::test]
async fn nonsense_and_outages_pass() {
    let bodies = [
        "",
        "null",
        "[]",
        "{\"number\":\"one\"}",
        "[{\"number\":1}]",
        "\u{0}",
    ];
    for operation in [
        "pulls",
        "pull",
        "check-runs",
        "status",
        "compare",
        "reviews",
    ] {
        // A fresh one each, since a request that was given up may arrive late.
        let stage = Stage::rest().await;
        stage.pull(BRANCH, "api.rs");
        for trouble in [Trouble::Garbage, Trouble::DropBefore, status(503, "away")] {
            stage.faults.next(operation, trouble);
            transient(stage.facts(WhichPull::Branch(BRANCH.into())).await);
        }
        for body in bodies {
            stage.faults.next(
                operation,
                Trouble::Status {
                    status: 200,
                    body: body.to_owned(),
                    retry_after: None,
                },
            );
            let answer = stage.facts(WhichPull::Branch(BRANCH.into())).await;
            // An empty list of pull requests is a true one, and so is one of reviews.
            let none = operation == "pulls" && answer == Ok(None)
                || operation == "reviews" && body == "[]" && answer.is_ok();
            assert!(
                none || matches!(answer, Err(Fault::Transient { .. })),
                "{answer:?}"
            );
        }
        assert!(matches!(
            stage.facts(WhichPull::Branch(BRANCH.into())).await,
            Ok(Some(_))
        ));
        stage.check();
    }
}

#[tokio::test]
async fn access_is_checked_before_it_is_needed() {
    let stage = Stage::new().await;
    assert_eq!(stage.client.check_access(SLUG).await, Ok(()));
    let (kind, why) = class(stage.client.check_access("acme/unknown").await);
    assert_eq!(kind, FailureClass::Invalid);
    assert!(why.contains("acme/unknown"), "{why}");

    let read_only = "{\"permissions\":{\"push\":false}}".to_owned();
    stage.faults.next(
        "repo",
        Trouble::Status {
            status: 200,
            body: read_only,
            retry_after: None,
        },
    );
    assert_eq!(
        class(stage.client.check_access(SLUG).await).0,
        FailureClass::Auth
    );

    stage.github.lock().archive(SLUG).expect("a repository");
    let (_, why) = class(stage.client.check_access(SLUG).await);
    assert!(why.contains("archived"), "{why}");

    let stranger = client(&stage.server.url(), "wrong", &stage.clock);
    assert_eq!(
        class(stranger.check_access(SLUG).await).0,
        FailureClass::Auth
    );
    stage.check();
}

#[tokio::test]
async fn names_from_outside_do_not_leave_their_place_in_the_path() {
    let stage = Stage::new().await;
    for slug in ["acme/shop/../../user", "acme", "acme/..", "acme/shop?x=1"] {
        assert_eq!(
            class(stage.client.check_access(slug).await).0,
            FailureClass::Invalid
        );
    }
    assert_eq!(class(stage.merge(1, "../1").await).0, FailureClass::Invalid);
    // In a query everything is escaped.
    let odd = WhichPull::Branch("a&state=open#é/b c".into());
    assert_eq!(stage.facts(odd).await, Ok(None));
    stage.check();
}
