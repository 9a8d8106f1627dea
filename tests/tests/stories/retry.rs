//! Stories of what failed and is tried again because a person asks for it.

use shared::issue::{Input, Phase, RunResult};

use super::{A, B_AFTER_A, Story, failure, nothing_held};

const C: &str = r#"{"id":"c","title":"C","kind":"builder","prompt":"do c"}"#;

fn retry(task: Option<&str>) -> Input {
    Input::Retry {
        task: task.map(Into::into),
    }
}

/// `a` has failed for good, `b` was skipped for it, `c` is merged.
fn failed() -> Story {
    let mut story = Story::new();
    story.policy.attempts_max = 1;
    story.open("s1");
    story.make_all(nothing_held);
    story.plan(&format!("{A},{B_AFTER_A},{C}"));
    story.make_all(nothing_held);
    story.run_ends("a", 1, Err(failure("it gave up")));
    story.run_ends("c", 1, Ok(RunResult::default()));
    story.sees("c", story.pull("c", 7));
    story.make_all(nothing_held);
    assert_eq!(
        ["a", "b", "c"].map(|it| story.state(it)),
        ["failed", "skipped", "merged"]
    );
    assert_eq!(story.issue.phase(), Phase::Done);
    story
}

#[test]
fn a_retry_takes_up_what_failed_and_leaves_what_was_achieved() {
    let mut story = failed();
    let (spent, round) = (story.issue.spent_usd, story.issue.round);
    assert_eq!(story.refused(retry(None)), None);
    assert_eq!(
        ["a", "b", "c"].map(|it| story.state(it)),
        ["running", "todo", "merged"]
    );
    assert_eq!(
        (story.issue.round, story.issue.phase()),
        (round + 1, Phase::Working)
    );
    // It has fresh attempts, on a branch of its own.
    let task = story.issue.task(&"a".into()).expect("a").clone();
    assert_eq!((task.attempts(), task.error.clone()), (1, None));
    assert_eq!(task.branch.as_deref(), Some("cyrus/eng-42/a.r2.2"));
    for (task, number) in [("a", 8), ("b", 9)] {
        let attempt = story.issue.task(&task.into()).expect("it").attempt;
        story.run_ends(task, attempt, Ok(RunResult::default()));
        let branch = story.issue.task(&task.into()).expect("it").branch.clone();
        let mut pull = story.pull(task, number);
        pull.head_branch = branch.expect("a branch");
        story.sees(task, pull);
        story.make_all(nothing_held);
    }
    assert_eq!(["a", "b", "c"].map(|it| story.state(it)), ["merged"; 3]);
    assert_eq!(story.issue.phase(), Phase::Done);
    assert!(story.issue.spent_usd > spent);
}

#[test]
fn one_task_is_retried_with_what_hangs_on_it() {
    for task in ["a", "b"] {
        let mut story = failed();
        assert_eq!(story.refused(retry(Some(task))), None, "{task}");
        assert_eq!(
            ["a", "b", "c"].map(|it| story.state(it)),
            ["running", "todo", "merged"]
        );
    }
}

#[test]
fn a_plan_that_was_none_is_made_again() {
    let mut story = Story::new();
    story.policy.attempts_max = 1;
    story.open("s1");
    story.make_all(nothing_held);
    story.run_ends("plan", 1, Err(failure("it gave up")));
    story.make_all(nothing_held);
    story.run_ends("plan", 2, Err(failure("it gave up")));
    story.make_all(nothing_held);
    assert_eq!(
        (story.state("plan"), story.issue.phase()),
        ("failed", Phase::Done)
    );
    assert_eq!(story.refused(retry(None)), None);
    assert_eq!(story.state("plan"), "running");
    story.run_ends("plan", 3, Ok(super::plan_of(A)));
    story.make_all(nothing_held);
    assert_eq!(story.state("a"), "running");
}

#[test]
fn what_cannot_be_retried_is_refused() {
    let mut story = Story::new();
    story.open("s1");
    story.make_all(nothing_held);
    let before = story.log.len();
    for (task, why) in [
        (None, "has failed"),
        (Some("plan"), "neither failed"),
        (Some("x"), "no task"),
    ] {
        let refused = story.refused(retry(task)).expect("a refusal");
        assert!(refused.contains(why), "{refused}");
    }
    assert_eq!(story.log.len(), before);
    story.hear(Input::Cancelled {
        why: shared::issue::CancelReason::Stop,
        at: story.now,
    });
    let refused = story.refused(retry(None)).expect("a refusal");
    assert!(refused.contains("was cancelled"), "{refused}");
}
