//! Stories of one issue, told to the pure core: inputs in, log out.

mod merits;
mod retry;
mod stage;
mod sub_issues;
mod terms;

use shared::issue::{
    Activity, CancelReason, CheckState, Due, Effect, Ending, Failure, FailureClass, Fault, How,
    Input, LEASE_SECONDS_MAX, MergeMode, Outcome, Policy, PullFacts, PullState, RunResult,
    SessionId, Sight, Strategy, TaskId, frame,
};

use self::stage::{
    A, B_AFTER_A, Story, at, check, checked, ended, failure, nothing_held, plan_of, planned,
    told_to,
};

#[test]
fn an_issue_goes_from_a_session_to_a_merged_change() {
    let mut story = Story::new();
    check(
        story.open("s1"),
        &[
            "ENG-42 was handed over: Add sign-in",
            "to do: say: I have ENG-42 and am reading it.",
            "to do: read the issue",
        ],
    );
    check(
        story.make_all(nothing_held),
        &[
            "#2 is done",
            "#3 is done",
            "the issue was read; it belongs to the repository `main`, strategy hybrid-parallel",
            "to do: move the issue to started",
            "the work begins with `plan`",
            "`plan` goes to local: hybrid-parallel keeps the orchestrator on the team's machine",
            "to do: start `plan` on local (attempt 1)",
            "#7 is done",
            "#10 is done",
        ],
    );
    check(
        story.plan(&format!("{A},{B_AFTER_A}")),
        &[
            "the run of `plan` ended well ($0.00, an estimate)",
            "the plan was accepted: `a`, `b`",
            "`plan` succeeded: the plan is accepted",
            "expected: about $0.95 ($0.80 to $1.20) and 29 minutes (19 to 41)",
            "`a` goes to codegen: hybrid-parallel sends the builder to the cloud, where all can run at once",
            "to do: start `a` on codegen (attempt 1, $0.40 set aside)",
        ],
    );
    story.make_all(nothing_held);
    check(
        story.run_ends("a", 1, Ok(RunResult::default())),
        &["the run of `a` ended well ($0.40, an estimate)"],
    );
    check(
        story.sees("a", story.pull("a", 1)),
        &[
            "pull request #1 of `a` stands at 11110000",
            "to do: link PR #1 (a)",
            "11110000 of `a` may be merged: its check has succeeded on 11110000",
            "to do: merge #1 of `a` at 11110000",
        ],
    );
    assert_eq!(story.state("b"), "todo", "a dependent waits for the merge");
    story.make_all(nothing_held);
    assert_eq!((story.state("a"), story.state("b")), ("merged", "running"));
    story.run_ends("b", 1, Ok(RunResult::default()));
    story.sees("b", story.pull("b", 2));
    let end = story.make_all(nothing_held);
    assert_eq!(
        end.last().map(String::as_str),
        Some("the round ended: succeeded")
    );
    assert!(story.issue.owed.is_empty() && story.issue.attention_at().is_none());
}

#[test]
fn the_same_fact_twice_changes_nothing_the_second_time() {
    let mut story = planned();
    check(story.open("s1"), &[]);
    story.run_ends("a", 1, Ok(RunResult::default()));
    check(story.run_ends("a", 1, Ok(RunResult::default())), &[]);
    story.sees("a", story.pull("a", 1));
    check(story.sees("a", story.pull("a", 1)), &[]);
    let stop = || Input::Cancelled {
        why: CancelReason::Stop,
        at: at("2026-11-20T12:30:00Z"),
    };
    assert!(!story.hear(stop()).is_empty());
    check(story.hear(stop()), &[]);
}

#[test]
fn a_late_plan_does_not_revive_a_cancelled_issue() {
    let mut story = Story::new();
    story.open("s1");
    story.make_all(nothing_held);
    check(
        story.hear(Input::Cancelled {
            why: CancelReason::Stop,
            at: story.now,
        }),
        &[
            "a person asked to stop",
            "to do: stop the run run-plan-1 of `plan`",
        ],
    );
    check(
        story.plan(A),
        &[
            "the run of `plan` ended well ($0.00, an estimate)",
            "`plan` cancelled: stopped by a person",
            "to do: answer: I have stopped working on ENG-42: stopped by a person.",
            "the people were told how it stands",
        ],
    );
    let end = story.make_all(nothing_held);
    assert_eq!(
        end.last().map(String::as_str),
        Some("the round ended: cancelled")
    );
}

#[test]
fn a_start_whose_reply_was_lost_is_looked_for_before_it_is_made_again() {
    let mut story = Story::new();
    story.open("s1");
    story.make_all(|it| matches!(it, Effect::Start { .. }));
    let key = *story.issue.owed.keys().next().expect("the start is owed");
    let claim = story.claim()[0].claim;
    story.hear(Input::Faulted {
        key,
        claim,
        fault: Fault::Ambiguous {
            why: "timed out".into(),
        },
    });
    story.later(5);
    for _ in 0..2 {
        let due = story.claim();
        assert_eq!(due.iter().map(|it| it.how).collect::<Vec<_>>(), [How::Look]);
        story.hear(Input::Absent {
            key,
            claim: due[0].claim,
            certain: false,
        });
        assert!(
            story.issue.due(story.now).is_empty(),
            "the next look takes its time"
        );
        story.later(15);
    }
    let claim = story.claim()[0].claim;
    story.hear(Input::Absent {
        key,
        claim,
        certain: false,
    });
    let due = story.issue.due(story.now);
    assert_eq!(due.iter().map(|it| it.how).collect::<Vec<_>>(), [How::Make]);
}

#[test]
fn a_run_that_turns_up_after_all_hope_is_stopped() {
    let mut story = planned();
    let key = *story
        .issue
        .starts
        .iter()
        .find(|(_, (task, ..))| task.0 == "a")
        .expect("a start")
        .0;
    let twin = Outcome::Started {
        run: "twin".into(),
        url: None,
        begun: true,
    };
    check(
        story.hear(Input::Performed { key, outcome: twin }),
        &["to do: stop the run twin of `a`"],
    );
    let known = Outcome::Started {
        run: "run-a-1".into(),
        url: None,
        begun: true,
    };
    check(
        story.hear(Input::Performed {
            key,
            outcome: known,
        }),
        &[],
    );
}

#[test]
fn an_old_wish_to_stop_does_not_end_a_round_that_was_opened_after_it() {
    let mut story = Story::new();
    story.open("s1");
    story.make_all(nothing_held);
    let said_at = story.now;
    story.hear(Input::Cancelled {
        why: CancelReason::Stop,
        at: said_at,
    });
    story.plan(A);
    story.make_all(nothing_held);
    story.later(60);
    story.prompt("s1", "p1", "do go on");
    assert_eq!(story.issue.round, 2);
    check(
        story.hear(Input::Cancelled {
            why: CancelReason::Stop,
            at: said_at,
        }),
        &[],
    );
}

#[test]
fn somebody_elses_undelegation_is_not_ours() {
    let mut story = planned();
    let from = |who: &str| CancelReason::Undelegated {
        from: Some(who.into()),
    };
    check(
        story.hear(Input::Cancelled {
            why: from("another app"),
            at: story.now,
        }),
        &[],
    );
    assert!(
        !story
            .hear(Input::Cancelled {
                why: from("us"),
                at: story.now
            })
            .is_empty()
    );
}

#[test]
fn a_plan_that_is_none_is_sent_back_once() {
    let mut story = Story::new();
    story.open("s1");
    story.make_all(nothing_held);
    let loops = r#"{"id":"a","title":"A","kind":"builder","prompt":"p","depends_on":["a"]}"#;
    let got = story.plan(loops);
    assert!(
        got.contains(
            &"the plan was refused: the tasks depend on each other in a circle: a -> a".to_owned()
        ),
        "{got:?}"
    );
    let plan = story
        .issue
        .task(&TaskId::from("plan"))
        .expect("the plan task");
    let framed = frame::frame(&story.issue, plan, shared::issue::ExecutorKind::Local, "");
    assert!(
        framed.contains("could not be used: the tasks depend on each other in a circle"),
        "{framed}"
    );
    story.make_all(nothing_held);
    let answer = Some(format!(r#"{{"tasks":[{loops}]}}"#));
    story.run_ends(
        "plan",
        2,
        Ok(RunResult {
            answer,
            ..RunResult::default()
        }),
    );
    let end = story.make_all(nothing_held);
    assert_eq!(
        end.last().map(String::as_str),
        Some("the round ended: failed")
    );
}

#[test]
fn a_failed_tasks_dependents_are_skipped_and_the_rest_goes_on() {
    let mut story = Story::new();
    story.open("s1");
    story.make_all(nothing_held);
    let c = r#"{"id":"c","title":"C","kind":"builder","prompt":"do c"}"#;
    story.plan(&format!("{A},{B_AFTER_A},{c}"));
    story.make_all(nothing_held);
    let failure = Failure {
        class: FailureClass::Refusal,
        message: "it will not".into(),
    };
    story.run_ends("a", 1, Err(failure));
    assert_eq!(
        [story.state("a"), story.state("b"), story.state("c")],
        ["failed", "skipped", "running"]
    );
}

#[test]
fn a_failed_run_is_tried_again_as_often_as_allowed() {
    let mut story = planned();
    let failure = || {
        Err(Failure {
            class: FailureClass::Agent,
            message: "it gave up".into(),
        })
    };
    story.run_ends("a", 1, failure());
    assert_eq!(story.state("a"), "todo");
    story.later(60);
    story.hear(Input::Tick);
    story.make_all(nothing_held);
    assert_eq!(
        story
            .issue
            .task(&TaskId::from("a"))
            .and_then(|it| it.branch.clone())
            .as_deref(),
        Some("cyrus/eng-42/a.2")
    );
    story.run_ends("a", 2, failure());
    assert_eq!(story.state("a"), "failed");
}

#[test]
fn a_head_that_moved_is_judged_again() {
    let mut story = planned();
    story.run_ends("a", 1, Ok(RunResult::default()));
    story.sees("a", story.pull("a", 1));
    let moved = PullFacts {
        head_sha: "beef".repeat(3),
        ..story.pull("a", 1)
    };
    let key = story
        .issue
        .owed
        .iter()
        .find(|(_, it)| matches!(it.effect, Effect::Merge { .. }))
        .map(|(key, _)| *key);
    story.hear(Input::Performed {
        key: key.expect("a merge is owed"),
        outcome: Outcome::HeadMoved,
    });
    let got = story.sees("a", moved);
    assert_eq!(
        got.last().map(String::as_str),
        Some("to do: merge #1 of `a` at beefbeef")
    );
}

#[test]
fn under_manual_a_person_merges() {
    let mut story = Story::new();
    story.policy.merge = MergeMode::Manual;
    story.open("s1");
    story.make_all(nothing_held);
    story.plan(A);
    story.make_all(nothing_held);
    story.run_ends("a", 1, Ok(RunResult::default()));
    story.sees("a", story.pull("a", 1));
    story.make_all(nothing_held);
    assert_eq!(
        (story.state("a"), story.issue.phase().word()),
        ("ready", "merging")
    );
    assert_eq!(
        story.issue.waiting_for().as_deref(),
        Some("a person has to merge https://github.com/acme/app/pull/1")
    );
    assert!(story.issue.reported);
    story.sees(
        "a",
        PullFacts {
            state: PullState::Merged,
            ..story.pull("a", 1)
        },
    );
    let end = story.make_all(nothing_held);
    assert_eq!(
        end.last().map(String::as_str),
        Some("the round ended: succeeded")
    );
}

#[test]
fn a_closed_pull_request_cancels_its_task() {
    let mut story = planned();
    story.run_ends("a", 1, Ok(RunResult::default()));
    story.sees(
        "a",
        PullFacts {
            state: PullState::Closed,
            ..story.pull("a", 1)
        },
    );
    assert_eq!(
        (story.state("a"), story.state("b")),
        ("cancelled", "skipped")
    );
    let end = story.make_all(nothing_held);
    assert_eq!(
        end.last().map(String::as_str),
        Some("the round ended: cancelled")
    );
}

#[test]
fn a_pull_request_that_is_not_ours_is_never_touched() {
    let foreign: [fn(&mut PullFacts); 5] = [
        |it| it.base_slug = "evil/app".into(),
        |it| it.head_slug = Some("evil/app".into()),
        |it| it.base_branch = "release".into(),
        |it| it.head_branch = "cyrus/eng-42/other".into(),
        |it| it.body = "no mark".into(),
    ];
    for spoil in foreign {
        let mut story = planned();
        story.run_ends("a", 1, Ok(RunResult::default()));
        let mut facts = story.pull("a", 1);
        spoil(&mut facts);
        let got = story.sees("a", facts);
        assert!(
            got[0].starts_with("`a` failed: its pull request is not ours"),
            "{got:?}"
        );
    }
}

#[test]
fn only_green_is_green() {
    let verdict = |spoil: fn(&mut PullFacts, &mut Policy)| {
        let mut story = Story::new();
        let mut facts = story.pull("a", 1);
        let mut policy = story.policy.clone();
        // What is red is red for good.
        policy.attempts_max = 1;
        spoil(&mut facts, &mut policy);
        story.policy = policy;
        story.open("s1");
        story.make_all(nothing_held);
        story.plan(A);
        story.make_all(nothing_held);
        story.run_ends("a", 1, Ok(RunResult::default()));
        story.sees("a", facts.clone());
        let early = story.state("a");
        story.later(60);
        story.sees("a", facts);
        let merging = story
            .issue
            .owed
            .values()
            .any(|it| matches!(it.effect, Effect::Merge { .. }));
        (early, merging)
    };
    let no_checks: fn(&mut PullFacts, &mut Policy) = |facts, _| facts.checks.clear();
    assert_eq!(verdict(|_, _| {}), ("validating", true));
    assert_eq!(
        verdict(no_checks),
        ("validating", false),
        "the required check is not there"
    );
    assert_eq!(
        verdict(|facts, _| facts.mergeable = None),
        ("validating", false)
    );
    assert_eq!(
        verdict(|facts, _| facts.mergeable = Some(false)).0,
        "failed"
    );
    assert_eq!(
        verdict(|facts, _| facts.checks[0].state = CheckState::Pending),
        ("validating", false)
    );
    assert_eq!(
        verdict(|facts, _| facts.checks[0].state = CheckState::Failed).0,
        "failed"
    );
    assert_eq!(
        verdict(|facts, policy| {
            facts.checks.clear();
            policy.required_checks.clear();
        }),
        ("validating", true),
        "after the grace a repository that reports none has none"
    );
    assert_eq!(
        verdict(|facts, policy| {
            facts.checks.push(checked("other", CheckState::Failed));
            policy.required_checks = vec!["ci".into()];
        }),
        ("validating", true),
        "only the required ones count"
    );
}

#[test]
fn a_remark_goes_along_with_what_starts_later() {
    let mut story = planned();
    story.prompt("s1", "p1", "use tabs");
    check(story.prompt("s1", "p1", "use tabs"), &[]);
    let b = story.issue.task(&TaskId::from("b")).expect("b");
    let framed = frame::frame(&story.issue, b, shared::issue::ExecutorKind::Codegen, "");
    assert!(
        framed.contains("- use tabs") && framed.contains("\ndo b\n"),
        "{framed}"
    );
}

#[test]
fn a_remark_is_passed_on_to_the_runs_that_hear() {
    let mut story = Story::new();
    story.open("s1");
    story.make_all(nothing_held);
    let told = story.prompt("s1", "p1", "use tabs");
    assert!(
        told.iter().any(|it| it.contains("I pass it on to `plan`"))
            && told
                .iter()
                .any(|it| it == "to do: tell the run of `plan` what was written"),
        "{told:?}"
    );
    let tell = |story: &Story| {
        let tells = |it: &&Due| matches!(it.effect, Effect::Tell { .. });
        story
            .issue
            .due(story.now)
            .iter()
            .find(tells)
            .map(|it| it.key)
    };
    let key = tell(&story).expect("it is owed");
    let said = story.hear(Input::Performed {
        key,
        outcome: Outcome::Unheard,
    });
    assert!(
        said.iter()
            .any(|it| it.contains("before I could pass that on")),
        "{said:?}"
    );
    // A stop leaves nobody to tell.
    story.prompt("s1", "p2", "use spaces");
    assert!(tell(&story).is_some());
    story.hear(Input::Cancelled {
        why: CancelReason::Stop,
        at: story.now,
    });
    assert_eq!(tell(&story), None);
    // Codegen's runs hear nothing while they work.
    let mut story = planned();
    let told = story.prompt("s1", "p1", "use tabs");
    assert!(
        told.iter()
            .any(|it| it.contains("One that is at work cannot be told")),
        "{told:?}"
    );
    assert_eq!(tell(&story), None);
}

#[test]
fn what_a_run_has_not_heard_is_said() {
    let mut story = planned();
    let result = RunResult {
        unheard: true,
        ..RunResult::default()
    };
    let said = story.run_ends("a", 1, Ok(result));
    assert!(
        said.iter()
            .any(|it| it.contains("before I could pass that on")),
        "{said:?}"
    );
    // The round ends before it is known what became of a remark: nothing can be
    // said afterwards.
    let mut story = Story::new();
    story.open("s1");
    story.make_all(nothing_held);
    story.prompt("s1", "p1", "use tabs");
    let failure = Failure {
        class: FailureClass::Refusal,
        message: "it will not".into(),
    };
    story.run_ends("plan", 1, Err(failure));
    let last = story.issue.owed.values().find_map(|it| match &it.effect {
        Effect::Say {
            activity: Activity::Error(text),
            ..
        } => Some(text),
        _ => None,
    });
    let last = last.expect("a last word");
    assert!(last.contains("may have come too late"), "{last}");
}

#[test]
fn what_was_lost_on_the_teams_machine_goes_to_the_cloud_where_the_strategy_allows_it() {
    for (strategy, goes) in [
        (Strategy::HybridParallel, "codegen"),
        (Strategy::LocalOnly, "local"),
    ] {
        let mut story = Story::new();
        story.policy.strategy = strategy;
        story.open("s1");
        story.make_all(nothing_held);
        let lost = Failure {
            class: FailureClass::Lost,
            message: "its runner was not heard of again".into(),
        };
        story.run_ends("plan", 1, Err(lost));
        story.later(60);
        story.hear(Input::Tick);
        let plan = story.issue.task(&TaskId::from("plan")).expect("the plan");
        assert_eq!(plan.executor.map(|it| it.word()), Some(goes));
    }
}

#[test]
fn every_session_gets_a_last_word() {
    let mut story = planned();
    story.open("s2");
    story.hear(Input::Cancelled {
        why: CancelReason::Removed,
        at: story.now,
    });
    story.run_ends(
        "a",
        1,
        Err(Failure {
            class: FailureClass::Cancelled,
            message: "stopped".into(),
        }),
    );
    let stop = story
        .issue
        .owed
        .iter()
        .find(|(_, it)| matches!(it.effect, Effect::Stop { .. }))
        .map(|(key, _)| *key);
    story.hear(Input::Performed {
        key: stop.expect("a stop is owed"),
        outcome: Outcome::Done,
    });
    assert!(told_to(&story.issue, "s1") > 0 && told_to(&story.issue, "s2") > 0);
    let end = story.make_all(nothing_held);
    assert_eq!(
        end.last().map(String::as_str),
        Some("the round ended: cancelled")
    );
}

#[test]
fn the_word_of_a_holder_whose_claim_has_lapsed_does_not_count() {
    let mut story = Story::new();
    story.open("s1");
    story.make_all(|it| matches!(it, Effect::Start { .. }));
    let slow = story.claim().pop().expect("the start is due");
    story.later(LEASE_SECONDS_MAX);
    let other = story.claim().pop().expect("the claim has lapsed");
    assert_eq!((other.key, other.how), (slow.key, How::Look));
    let busy = Fault::Busy {
        why: "wait".into(),
        retry_after_seconds: None,
    };
    check(
        story.hear(Input::Faulted {
            key: slow.key,
            claim: slow.claim,
            fault: busy,
        }),
        &[],
    );
    check(
        story.hear(Input::Absent {
            key: slow.key,
            claim: slow.claim,
            certain: true,
        }),
        &[],
    );
    assert!(story.claim().is_empty(), "the other one still has it");
}

#[test]
fn who_comes_back_during_a_cancellation_is_served_after_it() {
    let mut story = planned();
    story.hear(Input::Cancelled {
        why: CancelReason::Stop,
        at: story.now,
    });
    story.later(1);
    story.open("s2");
    story.prompt("s1", "p1", "on second thought: go on");
    check(story.prompt("s1", "p1", "on second thought: go on"), &[]);
    let failure = Failure {
        class: FailureClass::Cancelled,
        message: "stopped".into(),
    };
    story.run_ends("a", 1, Err(failure));
    let end = story.make_all(nothing_held);
    assert!(
        end.contains(&"the round ended: cancelled".to_owned()),
        "{end:?}"
    );
    assert!(
        end.contains(&"what was put off is taken up in a new round".to_owned()),
        "{end:?}"
    );
    assert_eq!((story.issue.round, story.issue.sessions.len()), (2, 2));
    assert_eq!(story.issue.notes, ["on second thought: go on"]);
    assert_eq!(story.state("plan"), "running");
}

#[test]
fn a_prompt_that_overtakes_its_session_opens_it() {
    let mut story = Story::new();
    story.prompt("s1", "p1", "and be quick");
    assert_eq!(
        (story.issue.round, story.issue.notes.as_slice()),
        (1, &["and be quick".to_owned()][..])
    );
    check(story.open("s1"), &[]);
}

#[test]
fn a_merge_that_is_refused_for_the_token_waits_and_says_so() {
    let mut story = planned();
    story.run_ends("a", 1, Ok(RunResult::default()));
    story.sees("a", story.pull("a", 1));
    let due = story
        .claim()
        .into_iter()
        .find(|it| matches!(it.effect, Effect::Merge { .. }))
        .expect("a merge");
    let fault = || Fault::Permanent {
        class: FailureClass::Auth,
        why: "the token may not merge".into(),
    };
    story.hear(Input::Faulted {
        key: due.key,
        claim: due.claim,
        fault: fault(),
    });
    assert_eq!(story.state("a"), "validating");
    let waits = "`a`: it cannot be merged (the token may not merge); it is tried again";
    assert_eq!(story.issue.waiting_for().as_deref(), Some(waits));
    story.later(600);
    let due = story
        .claim()
        .into_iter()
        .find(|it| matches!(it.effect, Effect::Merge { .. }))
        .expect("again");
    let again = story.hear(Input::Faulted {
        key: due.key,
        claim: due.claim,
        fault: fault(),
    });
    assert_eq!(again.len(), 1, "it is said once: {again:?}");
}

#[test]
fn what_cannot_be_judged_for_long_is_told_once() {
    let mut story = planned();
    story.run_ends("a", 1, Ok(RunResult::default()));
    let pending = || PullFacts {
        checks: vec![],
        ..Story::new().pull("a", 1)
    };
    story.sees("a", pending());
    story.later(599);
    check(story.sees("a", pending()), &[]);
    story.later(1);
    let told = story.sees("a", pending());
    assert!(
        told[0].starts_with("`a` waits: the required check `ci` has not succeeded"),
        "{told:?}"
    );
    assert!(story.issue.waiting_for().is_some());
    check(story.sees("a", pending()), &[]);
    let fault = Fault::Transient { why: "down".into() };
    let since = story.now;
    story.later(700);
    let unseen = Input::Unseen {
        task: TaskId::from("a"),
        since,
        fault,
    };
    check(story.hear(unseen), &[]);
    story.sees("a", story.pull("a", 1));
    assert_eq!(story.issue.waiting_for(), None);
}

#[test]
fn a_run_that_no_runner_takes_up_is_told_once() {
    let mut story = planned();
    let saw = |sight| Input::SawRun {
        task: TaskId::from("a"),
        run: "run-a-1".into(),
        sight,
    };
    story.later(599);
    check(story.hear(saw(Sight::Waiting)), &[]);
    story.later(1);
    let told = story.hear(saw(Sight::Waiting));
    assert!(
        told[0].starts_with("`a` waits: no runner has a free place"),
        "{told:?}"
    );
    assert!(story.issue.waiting_for().is_some());
    check(story.hear(saw(Sight::Waiting)), &[]);
    story.hear(saw(Sight::Working));
    assert_eq!(story.issue.waiting_for(), None);
}

#[test]
fn an_absurd_cost_is_no_cost() {
    for absurd in [f64::NAN, f64::INFINITY, 1.5e308, -1.0] {
        let mut story = planned();
        story.hear(Input::SawRun {
            task: TaskId::from("a"),
            run: "run-a-1".into(),
            sight: Sight::Ended(Ending {
                result: Ok(RunResult::default()),
                cost_usd: Some(absurd),
                cost_is_estimate: false,
            }),
        });
        assert!((story.issue.spent_usd - 0.4).abs() < 1e-9);
    }
}

#[test]
fn not_all_merged_is_not_completed() {
    let mut story = Story::new();
    story.open("s1");
    story.make_all(nothing_held);
    let c = r#"{"id":"c","title":"C","kind":"builder","prompt":"do c"}"#;
    story.plan(&format!("{A},{c}"));
    story.make_all(nothing_held);
    story.run_ends("a", 1, Ok(RunResult::default()));
    story.run_ends("c", 1, Ok(RunResult::default()));
    story.sees("a", story.pull("a", 1));
    story.sees(
        "c",
        PullFacts {
            state: PullState::Closed,
            ..story.pull("c", 2)
        },
    );
    let end = story.make_all(nothing_held);
    assert!(
        end.contains(&"to do: answer: ENG-42 is done in part.".to_owned()),
        "{end:?}"
    );
    assert!(
        !end.contains(&"to do: move the issue to completed".to_owned()),
        "{end:?}"
    );
}

#[test]
fn a_stop_that_cannot_be_made_is_told_once() {
    let mut story = planned();
    story.later(7_200);
    story.hear(Input::Tick);
    let mut told = 0;
    for _ in 0..12 {
        story.later(70);
        let due = story.claim();
        for it in due
            .iter()
            .filter(|it| matches!(it.effect, Effect::Stop { .. }))
        {
            let fault = Fault::Transient { why: "down".into() };
            let said = story.hear(Input::Faulted {
                key: it.key,
                claim: it.claim,
                fault,
            });
            told += said.iter().filter(|it| it.starts_with("`a` waits")).count();
        }
        story.hear(Input::SawRun {
            task: TaskId::from("a"),
            run: "run-a-1".into(),
            sight: Sight::Working,
        });
    }
    assert_eq!(told, 1);
}

#[test]
fn a_second_stop_also_ends_what_was_put_off() {
    let mut story = planned();
    let stop = |at| Input::Cancelled {
        why: CancelReason::Stop,
        at,
    };
    story.hear(stop(story.now));
    story.later(1);
    story.open("s2");
    story.later(1);
    story.hear(stop(story.now));
    check(story.hear(stop(story.now)), &[]);
    let failure = Failure {
        class: FailureClass::Cancelled,
        message: "stopped".into(),
    };
    story.run_ends("a", 1, Err(failure));
    let end = story.make_all(nothing_held);
    assert_eq!(
        end.last().map(String::as_str),
        Some("the round ended: cancelled")
    );
    assert_eq!(story.issue.round, 1);
    assert!(
        story.issue.sessions.contains(&SessionId::from("s2")),
        "it hears how it ended"
    );
}

#[test]
fn a_session_whose_prompt_came_first_is_told_once() {
    let mut story = planned();
    story.hear(Input::Cancelled {
        why: CancelReason::Stop,
        at: story.now,
    });
    let failure = Failure {
        class: FailureClass::Cancelled,
        message: "stopped".into(),
    };
    story.run_ends("a", 1, Err(failure));
    story.make_all(nothing_held);
    story.later(60);
    story.prompt("s2", "p1", "go on");
    check(story.open("s2"), &[]);
    assert_eq!(story.issue.sessions, [SessionId::from("s2")]);
}
