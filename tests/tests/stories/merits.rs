//! Stories of work that is judged: sent back, begun afresh, reviewed, brought up to
//! date, and of what becomes of pull requests that nobody wants.

use shared::issue::{
    CancelReason, CheckState, Effect, Event, FailureClass, Fault, Input, MergeMode, Opinion,
    Outcome, PullFacts, PullState, Review, RunId, RunResult, Sight, TaskId, Then,
};

use super::stage::{A, Story, checked, failure, nothing_held};

/// A story in which `a` and `b` do not wait for each other and both have been made.
fn two() -> Story {
    let mut story = Story::new();
    story.policy.repairs_max = 2;
    story.policy.attempts_max = 2;
    story.open("s1");
    story.make_all(nothing_held);
    let b = A.replace("\"a\"", "\"b\"");
    story.plan(&format!("{A},{b}"));
    story.make_all(nothing_held);
    story.run_ends("a", 1, Ok(RunResult::default()));
    story.run_ends("b", 1, Ok(RunResult::default()));
    story
}

/// The same, with `a` alone.
fn one(with: impl FnOnce(&mut Story)) -> Story {
    let mut story = Story::new();
    story.policy.repairs_max = 2;
    story.policy.attempts_max = 2;
    with(&mut story);
    story.open("s1");
    story.make_all(nothing_held);
    story.plan(A);
    story.make_all(nothing_held);
    story.run_ends("a", 1, Ok(RunResult::default()));
    story
}

fn red(story: &Story, number: u64) -> PullFacts {
    PullFacts {
        checks: vec![checked("ci", CheckState::Failed)],
        ..story.pull("a", number)
    }
}

fn moved(facts: PullFacts, sha: &str) -> PullFacts {
    PullFacts {
        head_sha: sha.into(),
        ..facts
    }
}

fn requested(story: &Story, is: fn(&Effect) -> bool) -> usize {
    let wanted = |it: &&Event| matches!(it, Event::Requested(effect) if is(effect));
    story.log.iter().filter(wanted).count()
}

fn task<'a>(story: &'a Story, id: &str) -> &'a shared::issue::Task {
    story.issue.task(&TaskId::from(id)).expect("the task")
}

#[test]
fn a_red_check_goes_back_to_the_run_that_made_it() {
    let mut story = one(|_| ());
    let facts = red(&story, 1);
    let said = story.sees("a", facts.clone());
    assert!(
        said.iter().any(|it| it
            == "`a` is sent back, 11110000 is not accepted: the check `ci` failed on 11110000"),
        "{said:?}"
    );
    assert_eq!(story.state("a"), "starting");
    let starts: Vec<_> = story
        .log
        .iter()
        .filter_map(|it| match it {
            Event::Requested(Effect::Start {
                task,
                attempt,
                repair,
                executor,
                ..
            }) if task.0 == "a" => Some((*attempt, *repair, *executor)),
            _ => None,
        })
        .collect();
    assert_eq!(starts.len(), 2);
    assert_eq!(
        (starts[1].0, starts[1].1, starts[1].2),
        (1, true, starts[0].2),
        "same attempt, same place"
    );
    story.make_all(nothing_held);
    assert_eq!(task(&story, "a").branch.as_deref(), Some("cyrus/eng-42/a"));
    story.run_ends("a", 1, Ok(RunResult::default()));
    // What was sent back is not judged again as long as it has not moved.
    assert_eq!(story.sees("a", facts), Vec::<String>::new());
    story.sees("a", moved(story.pull("a", 1), "22222222"));
    story.make_all(nothing_held);
    assert_eq!(story.state("a"), "merged");
    assert_eq!(task(&story, "a").repairs, 1);
}

#[test]
fn after_the_repairs_a_fresh_attempt_and_after_that_a_person_with_all_that_was_tried() {
    let mut story = one(|_| ());
    for n in 0..2 {
        story.sees("a", moved(red(&story, 1), &format!("{n}{n}{n}{n}0000")));
        story.make_all(nothing_held);
        story.run_ends("a", 1, Ok(RunResult::default()));
    }
    story.sees("a", moved(red(&story, 1), "33330000"));
    // A fresh run, from the base branch, and the old pull request is closed.
    assert!(matches!(
        story
            .log
            .iter()
            .rev()
            .find(|it| matches!(it, Event::Rejected { .. })),
        Some(Event::Rejected {
            then: Then::Afresh,
            ..
        })
    ));
    assert_eq!(
        requested(
            &story,
            |it| matches!(it, Effect::Close { branch, .. } if branch == "cyrus/eng-42/a")
        ),
        1
    );
    story.make_all(nothing_held);
    assert_eq!(task(&story, "a").attempt, 2);
    assert_eq!(
        task(&story, "a").branch.as_deref(),
        Some("cyrus/eng-42/a.2")
    );
    assert!(task(&story, "a").pull.is_none());
    story.run_ends("a", 2, Ok(RunResult::default()));
    let facts = PullFacts {
        head_branch: "cyrus/eng-42/a.2".into(),
        ..red(&story, 2)
    };
    story.sees("a", facts);
    story.make_all(nothing_held);
    assert_eq!(story.state("a"), "failed");
    let error = task(&story, "a").error.clone().unwrap_or_default();
    assert!(
        error.contains("2 attempts and 2 repairs did not mend it"),
        "{error}"
    );
    assert_eq!(
        error.matches("the check `ci` failed on").count(),
        4,
        "{error}"
    );
}

#[test]
fn a_repair_that_changes_nothing_is_no_repair() {
    let mut story = one(|it| it.policy.repairs_max = 1);
    let facts = red(&story, 1);
    story.sees("a", facts.clone());
    story.make_all(nothing_held);
    story.run_ends("a", 1, Ok(RunResult::default()));
    story.sees("a", facts.clone());
    assert_eq!(story.state("a"), "validating", "it may not be seen yet");
    story.later(120);
    story.sees("a", facts);
    story.make_all(nothing_held);
    assert_eq!(task(&story, "a").attempt, 2);
}

#[test]
fn a_run_that_was_gone_on_with_may_look_ended_for_a_moment() {
    let mut story = one(|_| ());
    story.sees("a", red(&story, 1));
    // The answer does not say that it works.
    let due = story.claim();
    for it in due {
        let outcome = match &it.effect {
            Effect::Start { .. } => Outcome::Started {
                run: RunId::from("run-a-1"),
                url: None,
                begun: false,
            },
            _ => Outcome::Done,
        };
        story.hear(Input::Performed {
            key: it.key,
            outcome,
        });
    }
    assert_eq!(story.state("a"), "running");
    story.run_ends("a", 1, Ok(RunResult::default()));
    assert_eq!(story.state("a"), "running", "this is how it ended before");
    story.hear(Input::SawRun {
        task: "a".into(),
        run: RunId::from("run-a-1"),
        sight: Sight::Working,
    });
    story.run_ends("a", 1, Ok(RunResult::default()));
    assert_eq!(story.state("a"), "validating");
}

#[test]
fn a_conflict_between_two_tasks_is_a_repair_of_the_later_one() {
    let mut story = two();
    story.sees("b", story.pull("b", 2));
    story.sees("a", story.pull("a", 1));
    story.make_all(nothing_held);
    let merged: Vec<&str> = ["a", "b"]
        .into_iter()
        .filter(|it| story.state(it) == "merged")
        .collect();
    assert_eq!(merged, ["b"], "it was approved first");
    assert_eq!(
        story.state("a"),
        "validating",
        "its base has moved: it is judged again"
    );
    story.sees(
        "a",
        PullFacts {
            mergeable: Some(false),
            behind: true,
            ..story.pull("a", 1)
        },
    );
    assert!(
        task(&story, "a")
            .mend
            .as_ref()
            .is_some_and(|it| it.conflict)
    );
    story.make_all(nothing_held);
    story.run_ends("a", 1, Ok(RunResult::default()));
    story.sees("a", moved(story.pull("a", 1), "33333333"));
    story.make_all(nothing_held);
    assert_eq!(story.state("a"), "merged");
    assert_eq!(
        requested(&story, |it| matches!(it, Effect::Prune { .. })),
        2
    );
}

#[test]
fn what_is_behind_is_brought_up_to_date_and_judged_again_before_it_is_merged() {
    let mut story = two();
    let behind = |story: &Story| PullFacts {
        behind: true,
        ..story.pull("a", 1)
    };
    story.sees("a", behind(&story));
    assert_eq!(
        requested(&story, |it| matches!(it, Effect::Update { .. })),
        1
    );
    assert_eq!(
        requested(&story, |it| matches!(it, Effect::Merge { .. })),
        0
    );
    story.make_all(nothing_held);
    // It is the next in line: another one that is good waits for it.
    story.sees("b", story.pull("b", 2));
    story.make_all(nothing_held);
    assert_eq!(story.state("b"), "validating");
    assert_eq!(
        story.sees("a", behind(&story)),
        Vec::<String>::new(),
        "not seen yet"
    );
    story.sees("a", moved(story.pull("a", 1), "22221111"));
    story.make_all(nothing_held);
    assert_eq!(story.state("a"), "merged");
    // The other is judged again on the base that has moved.
    story.sees("b", story.pull("b", 2));
    story.make_all(nothing_held);
    assert_eq!(story.state("b"), "merged");
}

#[test]
fn a_base_that_never_rests_is_not_run_after_for_ever() {
    let mut story = one(|_| ());
    for n in 0..10 {
        let facts = PullFacts {
            behind: true,
            ..moved(story.pull("a", 1), &format!("aaaa000{n}"))
        };
        story.sees("a", facts);
        story.make_all(nothing_held);
    }
    assert_eq!(story.state("a"), "merged");
    assert_eq!(
        requested(&story, |it| matches!(it, Effect::Update { .. })),
        5
    );
}

#[test]
fn a_reviewer_reads_the_very_commit_and_its_findings_go_back() {
    let mut story = one(|it| it.policy.reviewer = true);
    story.sees("a", story.pull("a", 1));
    story.make_all(nothing_held);
    let review = task(&story, "review-a");
    assert_eq!(
        (review.word(), review.judged.as_deref()),
        ("running", Some("111100000000"))
    );
    assert_ne!(review.executor, task(&story, "a").executor, "somebody else");
    let answer = |verdict: &str| RunResult {
        answer: Some(format!(
            r#"{{"verdict":"{verdict}","summary":"hm","findings":[{{"path":"a.rs","line":3,"severity":"blocker","comment":"off by one"}}]}}"#
        )),
        ..RunResult::default()
    };
    story.run_ends("review-a", 1, Ok(answer("changes")));
    story.sees("a", story.pull("a", 1));
    let mend = task(&story, "a").mend.clone().expect("something to mend");
    assert!(mend.detail.contains("a.rs:3: off by one"), "{mend:?}");
    story.make_all(nothing_held);
    story.run_ends("a", 1, Ok(RunResult::default()));
    let head = moved(story.pull("a", 1), "22220000");
    story.sees("a", head.clone());
    story.make_all(nothing_held);
    assert_eq!(
        task(&story, "review-a").judged.as_deref(),
        Some("22220000"),
        "asked anew"
    );
    let fine = RunResult {
        answer: Some(r#"{"verdict":"approve","summary":"ok","findings":[]}"#.into()),
        ..RunResult::default()
    };
    story.run_ends("review-a", 2, Ok(fine));
    story.sees("a", head);
    story.make_all(nothing_held);
    assert_eq!(
        (story.state("a"), story.state("review-a")),
        ("merged", "succeeded")
    );
    assert_eq!(story.issue.outcome.map(|it| it.word()), Some("succeeded"));
}

#[test]
fn what_is_found_of_one_commit_says_nothing_of_the_next() {
    let mut story = one(|it| it.policy.commands = vec!["cargo test".into()]);
    story.sees("a", story.pull("a", 1));
    story.make_all(nothing_held);
    assert_eq!(task(&story, "a.checks").word(), "running");
    // A late push: who is at work on the old commit is stopped.
    let head = moved(story.pull("a", 1), "22220000");
    story.sees("a", head.clone());
    assert_eq!(requested(&story, |it| matches!(it, Effect::Stop { .. })), 1);
    story.make_all(nothing_held);
    story.run_ends(
        "a.checks",
        1,
        Ok(RunResult {
            text: "all well".into(),
            ..RunResult::default()
        }),
    );
    story.sees("a", head.clone());
    assert_eq!(story.state("a"), "validating", "that was of the old one");
    story.make_all(nothing_held);
    assert_eq!(task(&story, "a.checks").judged.as_deref(), Some("22220000"));
    story.run_ends(
        "a.checks",
        2,
        Err(failure("`cargo test` failed with 101:\nthread panicked")),
    );
    story.sees("a", head.clone());
    let mend = task(&story, "a").mend.clone().expect("something to mend");
    assert!(mend.detail.contains("thread panicked"), "{mend:?}");
    assert!(task(&story, "a").mend.is_some());
    // People are not shown the verifier as a task.
    assert!(
        story
            .issue
            .shown_tasks()
            .all(|it| it.spec.id.0 != "a.checks")
    );
}

#[test]
fn a_person_approves_of_one_commit() {
    let mut story = one(|it| it.policy.require_approval = true);
    let said = story.sees("a", story.pull("a", 1));
    assert!(
        said.iter()
            .any(|it| it.starts_with("`a` waits: a person has to approve")),
        "{said:?}"
    );
    let approved = |sha: &str, facts: PullFacts| PullFacts {
        reviews: vec![Review {
            author: "ann".into(),
            opinion: Opinion::Approves,
            sha: sha.into(),
            text: String::new(),
        }],
        ..facts
    };
    story.sees(
        "a",
        approved("111100000000", moved(story.pull("a", 1), "22220000")),
    );
    assert_eq!(story.state("a"), "validating", "it was another commit");
    story.sees(
        "a",
        approved(
            "22220000",
            PullFacts {
                behind: true,
                ..moved(story.pull("a", 1), "22220000")
            },
        ),
    );
    story.make_all(nothing_held);
    assert_eq!(story.state("a"), "merged");
    assert_eq!(
        requested(&story, |it| matches!(it, Effect::Update { .. })),
        0
    );
}

#[test]
fn what_is_protected_waits_for_a_persons_merge() {
    let mut story = one(|it| it.policy.protected_paths = vec![".github/workflows/**".into()]);
    let facts = PullFacts {
        files: Some(vec![".github/workflows/ci.yml".into()]),
        ..story.pull("a", 1)
    };
    story.sees("a", facts.clone());
    assert_eq!(story.state("a"), "ready");
    assert!(
        story
            .issue
            .waiting_for()
            .is_some_and(|it| it.contains("a person has to merge"))
    );
    story.sees(
        "a",
        PullFacts {
            state: PullState::Merged,
            ..facts
        },
    );
    story.make_all(nothing_held);
    assert_eq!(story.state("a"), "merged");
}

#[test]
fn a_merge_that_is_refused_twice_is_for_a_person() {
    let mut story = one(|_| ());
    for (n, state) in [(1, "validating"), (2, "ready")] {
        story.sees("a", story.pull("a", 1));
        let due = story.claim();
        for it in due {
            let outcome = match &it.effect {
                Effect::Merge { .. } => Outcome::MergeRefused {
                    why: "not allowed".into(),
                },
                _ => Outcome::Done,
            };
            story.hear(Input::Performed {
                key: it.key,
                outcome,
            });
        }
        assert_eq!(story.state("a"), state, "{n}");
    }
}

#[test]
fn what_the_forge_merges_by_itself_is_watched() {
    let mut story = one(|_| ());
    story.sees("a", story.pull("a", 1));
    for it in story.claim() {
        let outcome = match &it.effect {
            Effect::Merge { .. } => Outcome::Queued,
            _ => Outcome::Done,
        };
        story.hear(Input::Performed {
            key: it.key,
            outcome,
        });
    }
    story.later(600);
    story.sees(
        "a",
        PullFacts {
            queued: true,
            ..story.pull("a", 1)
        },
    );
    assert_eq!(story.state("a"), "validating");
    story.sees(
        "a",
        PullFacts {
            state: PullState::Merged,
            ..story.pull("a", 1)
        },
    );
    story.make_all(nothing_held);
    assert_eq!(story.state("a"), "merged");
}

#[test]
fn a_cancelled_issue_leaves_no_pull_request_open_unless_it_is_told_to() {
    for keep in [false, true] {
        let mut story = one(|it| {
            it.policy.keep_pulls = keep;
            it.policy.merge = MergeMode::Manual;
        });
        story.sees("a", story.pull("a", 1));
        assert_eq!(story.state("a"), "ready");
        let now = story.now;
        story.hear(Input::Cancelled {
            why: CancelReason::Command,
            at: now,
        });
        story.make_all(nothing_held);
        assert_eq!(story.state("a"), "cancelled");
        let closed = requested(
            &story,
            |it| matches!(it, Effect::Close { branch, .. } if branch == "cyrus/eng-42/a"),
        );
        assert_eq!(closed, usize::from(!keep));
        assert!(story.issue.outcome.is_some());
    }
}

#[test]
fn the_pull_request_of_a_later_attempt_is_closed_by_a_cancellation_too() {
    let mut story = one(|it| it.policy.repairs_max = 0);
    story.sees("a", red(&story, 1));
    story.make_all(nothing_held);
    story.run_ends("a", 2, Ok(RunResult::default()));
    let now = story.now;
    story.hear(Input::Cancelled {
        why: CancelReason::Command,
        at: now,
    });
    let of = |branch: &str| {
        let close = |it: &&Event| matches!(it, Event::Requested(Effect::Close { branch: of, .. }) if of == branch);
        story.log.iter().filter(close).count()
    };
    assert_eq!((of("cyrus/eng-42/a"), of("cyrus/eng-42/a.2")), (1, 1));
}

#[test]
fn a_repair_of_a_run_that_never_ends_is_not_waited_for_for_ever() {
    let mut story = one(|_| ());
    story.sees("a", red(&story, 1));
    let mut told = 0;
    for _ in 0..60 {
        story.later(61);
        for it in story.claim() {
            let busy = Fault::Busy {
                why: "it is at work".into(),
                retry_after_seconds: Some(60),
            };
            let input = match &it.effect {
                Effect::Start { repair: true, .. } => Input::Faulted {
                    key: it.key,
                    claim: it.claim,
                    fault: busy,
                },
                Effect::Start { .. } => continue,
                _ => Input::Performed {
                    key: it.key,
                    outcome: Outcome::Done,
                },
            };
            let said = story.hear(input);
            told += said.iter().filter(|it| it.starts_with("`a` waits")).count();
        }
    }
    assert_eq!((told, task(&story, "a").attempt), (1, 2));
}

#[test]
fn a_person_may_push_to_what_waits_for_them() {
    let mut story = one(|it| it.policy.merge = MergeMode::Manual);
    story.sees("a", story.pull("a", 1));
    assert_eq!(story.state("a"), "ready");
    story.sees("a", moved(red(&story, 1), "22220000"));
    assert_eq!(story.state("a"), "ready", "it is theirs");
    let pull = task(&story, "a").pull.clone().expect("a pull request");
    assert_eq!(pull.sha, "22220000");
}

#[test]
fn facts_from_before_a_merge_let_nothing_through() {
    let mut story = two();
    let asked_at = story.now;
    story.later(1);
    story.sees("a", story.pull("a", 1));
    story.make_all(nothing_held);
    assert_eq!(story.state("a"), "merged");
    story.hear(Input::SawPull {
        task: TaskId::from("b"),
        facts: Some(story.pull("b", 2)),
        asked_at,
    });
    assert_eq!(
        requested(&story, |it| matches!(it, Effect::Merge { .. })),
        1
    );
}

#[test]
fn commands_that_come_to_no_end_are_a_fault_of_the_work() {
    let mut story = one(|it| it.policy.commands = vec!["make test".into()]);
    story.sees("a", story.pull("a", 1));
    story.make_all(nothing_held);
    story.later(story.policy.task_timeout_seconds + 1);
    story.hear(Input::Tick);
    story.make_all(nothing_held);
    let stopped = shared::issue::Failure {
        class: FailureClass::Cancelled,
        message: "stopped".into(),
    };
    story.run_ends("a.checks", 1, Err(stopped));
    story.sees("a", story.pull("a", 1));
    assert!(task(&story, "a").mend.is_some());
}

#[test]
fn what_waits_in_a_queue_is_taken_out_of_it_by_a_cancellation() {
    let mut story = one(|it| it.policy.keep_pulls = true);
    story.sees("a", story.pull("a", 1));
    for it in story.claim() {
        let outcome = match &it.effect {
            Effect::Merge { .. } => Outcome::Queued,
            _ => Outcome::Done,
        };
        let key = it.key;
        story.hear(Input::Performed { key, outcome });
    }
    let now = story.now;
    story.hear(Input::Cancelled {
        why: CancelReason::Command,
        at: now,
    });
    assert_eq!(
        requested(&story, |it| matches!(it, Effect::Close { .. })),
        1
    );
}

#[test]
fn a_check_that_was_run_again_needs_no_other_head() {
    let mut story = one(|_| ());
    story.sees("a", red(&story, 1));
    story.make_all(nothing_held);
    story.run_ends("a", 1, Ok(RunResult::default()));
    story.later(120);
    story.sees("a", story.pull("a", 1));
    story.make_all(nothing_held);
    assert_eq!(story.state("a"), "merged");
}

#[test]
fn a_run_that_cannot_be_gone_on_with_is_begun_afresh() {
    let mut story = one(|_| ());
    story.sees("a", red(&story, 1));
    let due = story.claim();
    let start = due
        .iter()
        .find(|it| matches!(it.effect, Effect::Start { .. }))
        .expect("a start");
    story.hear(Input::Faulted {
        key: start.key,
        claim: start.claim,
        fault: Fault::Permanent {
            class: FailureClass::Invalid,
            why: "the run is gone".into(),
        },
    });
    story.make_all(nothing_held);
    let a = task(&story, "a");
    assert_eq!((a.attempt, a.repairs, story.state("a")), (2, 0, "running"));
}
