//! Branches brought up to date, pull requests closed, branches deleted, logs read.

use shared::issue::{FailureClass, LOG_BYTES_MAX, PullState};
use shared::ports::{
    BranchAsk, Clock, CloseAsk, Forge, LogAsk, UpdateAnswer, UpdateAsk, WhichPull,
};
use world::faults::Trouble;
use world::github::GraphQl;

use super::common::class;
use super::{BRANCH, SLUG, Stage, repository, status, transient};

const MARK: &str = "<!-- cyrus:ENG-42/api:closed -->";

fn update(number: u64, sha: &str) -> UpdateAsk {
    UpdateAsk {
        repository: repository(SLUG),
        number,
        branch: BRANCH.into(),
        sha: sha.into(),
    }
}

#[tokio::test]
async fn a_branch_is_brought_up_to_date_once() {
    for (graphql, operation) in [(GraphQl::Present, "Update"), (GraphQl::Absent, "update")] {
        let stage = Stage::new().await;
        stage.github.lock().graphql = graphql;
        let (number, sha) = stage.pull(BRANCH, "api.rs");
        let ask = update(number, &sha);
        assert_eq!(
            stage.client.update(&ask).await,
            Ok(UpdateAnswer::Done),
            "there is nothing to do"
        );
        stage.push("main", "other.rs", "the base goes on\n");

        // Nothing was done, or nobody knows.
        for trouble in [Trouble::DropBefore, status(502, "away")] {
            stage.faults.next(operation, trouble);
            transient(stage.client.update(&ask).await);
        }
        stage.faults.next(operation, Trouble::DropAfter);
        assert_eq!(stage.client.update(&ask).await, Ok(UpdateAnswer::Done));
        let facts = stage.known(number).await;
        assert_ne!(facts.head_sha, sha);
        assert!(!facts.behind);
        assert_eq!(facts.files, Some(vec!["api.rs".to_owned()]));
        assert_eq!(
            stage.client.update(&ask).await,
            Ok(UpdateAnswer::HeadMoved),
            "repeating it changes nothing"
        );
        stage.check();
    }
}

#[tokio::test]
async fn a_conflict_is_told_in_githubs_words() {
    for graphql in [GraphQl::Present, GraphQl::Absent] {
        let stage = Stage::new().await;
        stage.github.lock().graphql = graphql;
        let (number, sha) = stage.pull(BRANCH, "api.rs");
        stage.push("main", "api.rs", "the same file\n");
        let answer = stage.client.update(&update(number, &sha)).await;
        let why = "merge conflict between base and head".to_owned();
        assert_eq!(answer, Ok(UpdateAnswer::Refused { why }), "{graphql:?}");
        stage.check();
    }
}

#[tokio::test]
async fn closing_tells_why_once() {
    let stage = Stage::new().await;
    let (number, _) = stage.pull(BRANCH, "api.rs");
    let ask = CloseAsk {
        repository: repository(SLUG),
        number,
        comment: "ENG-42 was cancelled.".into(),
        mark: MARK.into(),
    };
    for at in 0..120 {
        let mut github = stage.github.lock();
        github
            .comment(SLUG, number, "ann", &format!("comment {at}"))
            .expect("a comment");
    }
    stage.faults.next("comment", Trouble::DropBefore);
    transient(stage.client.close(&ask).await);
    stage.faults.next("comment", Trouble::DropAfter);
    transient(stage.client.close(&ask).await);
    stage.faults.next("close", Trouble::DropBefore);
    transient(stage.client.close(&ask).await);
    assert_eq!(stage.client.close(&ask).await, Ok(()));
    assert_eq!(stage.client.close(&ask).await, Ok(()));
    let comments = stage
        .github
        .lock()
        .comments(SLUG, number)
        .expect("comments");
    assert_eq!(comments.len(), 121);
    assert_eq!(
        comments[120].body,
        format!("ENG-42 was cancelled.\n\n{MARK}")
    );
    let facts = stage.facts(WhichPull::Number(number)).await.expect("facts");
    assert_eq!(facts.expect("a pull request").state, PullState::Closed);

    // What somebody else has closed needs no word of ours.
    let (number, _) = stage.pull("other", "other.rs");
    stage
        .github
        .lock()
        .close(SLUG, number, stage.clock.now())
        .expect("closed");
    assert_eq!(
        stage.client.close(&CloseAsk { number, ..ask }).await,
        Ok(())
    );
    assert_eq!(
        stage
            .github
            .lock()
            .comments(SLUG, number)
            .expect("comments"),
        []
    );
    stage.check();
}

#[tokio::test]
async fn a_branch_that_is_gone_is_deleted() {
    let stage = Stage::new().await;
    stage.push(BRANCH, "api.rs", "a change\n");
    let ask = |branch: &str| BranchAsk {
        repository: repository(SLUG),
        branch: branch.into(),
    };
    stage.faults.next("delete", Trouble::DropAfter);
    transient(stage.client.delete_branch(&ask(BRANCH)).await);
    assert_eq!(stage.github.lock().head(SLUG, BRANCH), Ok(None));
    assert_eq!(stage.client.delete_branch(&ask(BRANCH)).await, Ok(()));
    stage
        .faults
        .next("delete", status(422, "Cannot delete a protected branch"));
    let (_, why) = class(stage.client.delete_branch(&ask("release")).await);
    assert!(why.contains("protected"), "{why}");
    for branch in ["main", "a/../main", ""] {
        let (kind, _) = class(stage.client.delete_branch(&ask(branch)).await);
        assert_eq!(kind, FailureClass::Invalid);
    }
    assert!(
        stage
            .github
            .lock()
            .head(SLUG, "main")
            .is_ok_and(|it| it.is_some())
    );
    stage.check();
}

#[tokio::test]
async fn a_log_is_fetched_without_our_token() {
    let stage = Stage::new().await;
    let (number, sha) = stage.pull(BRANCH, "api.rs");
    let long = format!(
        "begin\n{}\u{1b}[31merror: it broke\u{1b}[0m\n",
        "a line\n".repeat(100_000)
    );
    let id = {
        let mut github = stage.github.lock();
        for name in ["test", "lint"] {
            github
                .set_check(SLUG, &sha, name, Some("failure"))
                .expect("a check");
        }
        let output = ["2 findings", "in api.rs", "line 1, line 2"];
        github
            .set_output(SLUG, &sha, "lint", output)
            .expect("a check");
        github.set_log(SLUG, &sha, "test", &long).expect("a log")
    };
    let checks = stage.known(number).await.checks;
    assert_eq!(checks[0].id, Some(id));
    let ask = |check| LogAsk {
        repository: repository(SLUG),
        check,
    };
    let log = stage.client.log(&ask(id)).await.expect("a log");
    assert!(log.ends_with("a line\nerror: it broke"), "{log}");
    assert!(log.len() <= LOG_BYTES_MAX && log.len() > LOG_BYTES_MAX - 10);

    // What is no job of GitHub Actions says it in its report; others say nothing.
    let lint = checks[1].id.expect("an id");
    let said = "2 findings\n\nin api.rs\n\nline 1, line 2".to_owned();
    assert_eq!(stage.client.log(&ask(lint)).await, Ok(said));
    assert_eq!(stage.client.log(&ask(999)).await, Ok(String::new()));

    for trouble in [Trouble::DropBefore, status(503, "away")] {
        stage.faults.next("blob", trouble);
        transient(stage.client.log(&ask(id)).await);
    }
    // A log that is no longer there.
    stage.faults.next("blob", status(403, "expired"));
    assert_eq!(stage.client.log(&ask(id)).await, Ok(String::new()));
    stage.check();
}
