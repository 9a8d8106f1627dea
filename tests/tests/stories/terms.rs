//! Stories of money, approval, pauses and executors that are down: what may
//! begin, what has to wait, and what people are told of it.

use shared::issue::{
    Activity, Approval, Effect, Event, ExecutorKind, Fault, Input, Pause, Phase, RunResult, Scope,
    Sight, Strategy, Wait, micros, words,
};

use super::{Story, nothing_held};

const A: &str = r#"{"id":"a","title":"The API","kind":"builder","prompt":"Do a."}"#;
const B: &str = r#"{"id":"b","title":"The page","kind":"builder","prompt":"Do b."}"#;
const C: &str = r#"{"id":"c","title":"The docs","kind":"builder","prompt":"Do c."}"#;

/// A planned issue whose work is about to begin.
fn planned(mut story: Story, tasks: &[&str]) -> Story {
    story.open("s1");
    story.make_all(nothing_held);
    story.plan(&tasks.join(","));
    story.make_all(nothing_held);
    story
}

impl Story {
    /// The questions that were asked, oldest first.
    fn questions(&self) -> Vec<(String, Vec<String>)> {
        let asked = self.log.iter().filter_map(|it| match it {
            Event::Requested(Effect::Say {
                activity: Activity::Elicitation { question, options },
                ..
            }) => Some((question.clone(), options.clone())),
            _ => None,
        });
        asked.collect()
    }

    fn thoughts(&self, with: &str) -> usize {
        let said = |it: &&Event| {
            matches!(
                it,
                Event::Requested(Effect::Say { activity: Activity::Thought(text), .. }) if text.contains(with)
            )
        };
        self.log.iter().filter(said).count()
    }

    /// A look at everything.
    fn look(&mut self) -> Vec<String> {
        let said = self.hear(Input::Tick);
        self.make_all(nothing_held);
        said
    }

    fn ends_well(&mut self, task: &str) {
        self.run_ends(task, 1, Ok(RunResult::default()));
        self.make_all(nothing_held);
    }
}

#[test]
fn a_run_begins_only_if_all_of_it_fits_under_the_limit_of_the_issue() {
    let mut story = Story::new();
    // The plan is booked at its whole reservation, $0.10: two runs of $0.40 fit.
    story.conditions = Box::new(|it| {
        it.rules.cost_per_task_max = Some(0.5);
        it.rules.cost_per_issue_max = Some(1.4);
    });
    let mut story = planned(story, &[A, B, C]);
    assert_eq!(micros(story.issue.spent_usd), micros(0.5));
    let states = ["a", "b", "c"].map(|it| story.state(it));
    assert_eq!(states, ["running", "running", "todo"]);
    assert_eq!(story.issue.reserved(), micros(0.8));
    // What is reserved may yet cost less: nobody has to be told.
    assert_eq!(story.questions(), []);
    assert!(story.issue.waits.contains_key(&Wait::Money(Scope::Issue)));
    story.ends_well("a");
    story.ends_well("b");
    story.look();
    assert_eq!(story.issue.reserved(), 0);
    let (question, options) = story.questions().pop().expect("a question");
    assert!(question.contains("limits.maxCostPerIssue"), "{question}");
    assert!(question.contains("$0.10 are left"), "{question}");
    assert_eq!(options, ["raise issue to $2.80", "wait", "cancel"]);
    // Time alone says nothing more.
    story.later(3_600);
    assert_eq!(story.look(), Vec::<String>::new());
    story.prompt("s1", "p1", "raise to $2.80");
    story.make_all(nothing_held);
    story.look();
    assert_eq!(story.state("c"), "running");
    assert!(story.issue.waits.is_empty());
}

#[test]
fn the_day_belongs_to_all_issues() {
    let mut story = Story::new();
    story.conditions = Box::new(|it| {
        it.rules.cost_per_day_max = Some(50.0);
        it.rules.cost_per_task_max = Some(1.0);
        it.day.spent = micros(49.5);
    });
    story.open("s1");
    story.make_all(nothing_held);
    story.look();
    assert_eq!(story.state("plan"), "todo");
    let (question, _) = story.questions().pop().expect("a question");
    assert!(question.contains("tomorrow at 00:00 UTC"), "{question}");
    assert_eq!(
        story.issue.waiting_for().map(|it| it.contains("this day")),
        Some(true)
    );
    // The next day has an account of its own.
    story.conditions = Box::new(|it| {
        it.rules.cost_per_day_max = Some(50.0);
        it.rules.cost_per_task_max = Some(1.0);
    });
    story.later(86_400);
    story.look();
    assert_eq!(story.state("plan"), "running");
}

#[test]
fn a_task_that_has_used_up_its_limit_waits_for_a_person() {
    let mut story = Story::new();
    story.policy.strategy = Strategy::CloudOnly;
    story.conditions = Box::new(|it| it.rules.cost_per_task_max = Some(0.7));
    let mut story = planned(story, &[A]);
    assert_eq!(story.state("a"), "running");
    story.run_ends("a", 1, Err(super::failure("it gave up")));
    story.later(60);
    story.look();
    assert_eq!(story.state("a"), "todo");
    let (question, _) = story.questions().pop().expect("a question");
    assert!(question.contains("limits.maxCostPerTask"), "{question}");
    story.prompt("s1", "p1", "cancel");
    story.make_all(nothing_held);
    assert_eq!(story.issue.phase(), Phase::Done);
}

#[test]
fn a_capped_run_has_what_its_task_has_left() {
    let mut story = Story::new();
    story.policy.strategy = Strategy::LocalOnly;
    story.conditions = Box::new(|it| it.rules.cost_per_task_max = Some(1.0));
    let mut story = planned(story, &[A]);
    let reserved = |story: &Story| story.issue.reserved();
    assert_eq!(reserved(&story), micros(1.0));
    let mut failed = super::ended(Err(super::failure("it gave up")));
    failed.cost_usd = Some(0.3);
    let run = "run-a-1".into();
    story.hear(Input::SawRun {
        task: "a".into(),
        run,
        sight: Sight::Ended(failed),
    });
    story.later(60);
    story.look();
    assert_eq!(reserved(&story), micros(0.7));
}

#[test]
fn steps_of_a_limit_are_told_once() {
    let mut story = Story::new();
    story.policy.strategy = Strategy::CloudOnly;
    story.conditions = Box::new(|it| it.rules.cost_per_issue_max = Some(1.6));
    let mut story = planned(story, &[A, B, C]);
    assert_eq!(story.thoughts("% of what this issue may cost"), 0);
    story.ends_well("a");
    story.look();
    story.look();
    assert_eq!(story.thoughts("50 % of what this issue may cost"), 1);
    story.ends_well("b");
    story.look();
    // 75 % are no step.
    assert_eq!(story.thoughts("% of what this issue may cost"), 1);
    story.ends_well("c");
    story.look();
    assert_eq!(story.thoughts("100 % of what this issue may cost"), 1);
}

#[test]
fn a_plan_is_begun_when_a_person_has_approved_of_it() {
    let mut story = Story::new();
    story.conditions = Box::new(|it| it.rules.approval = Approval::Over(0.5));
    let mut story = planned(story, &[A, B]);
    assert_eq!(story.issue.phase(), Phase::Awaiting);
    let (question, options) = story.questions().pop().expect("a question");
    assert!(question.contains("2 tasks, about $"), "{question}");
    assert_eq!(options, ["approve", "change", "cancel"]);
    // Weeks later.
    story.later(21 * 86_400);
    assert_eq!(story.look(), Vec::<String>::new());
    story.prompt("s1", "p1", "Without the page, please");
    story.make_all(nothing_held);
    assert_eq!(story.issue.phase(), Phase::Planning);
    assert_eq!(story.state("plan"), "running");
    story.run_ends("plan", 2, Ok(super::plan_of(A)));
    story.make_all(nothing_held);
    // One task costs less than that: nobody has to be asked.
    assert_eq!(story.questions().len(), 1);
    assert_eq!(story.state("a"), "running");
}

#[test]
fn an_operator_approves_by_command_and_only_what_was_asked() {
    let mut story = Story::new();
    assert!(story.refused(Input::Approve).is_some());
    story.conditions = Box::new(|it| it.rules.approval = Approval::Always);
    let mut story = planned(story, &[A]);
    assert_eq!(story.state("a"), "todo");
    assert_eq!(story.refused(Input::Approve), None);
    assert_eq!(story.state("a"), "running");
    assert!(story.refused(Input::Approve).is_some());
}

#[test]
fn answers_that_approve() {
    for (text, begins) in [
        ("ok", true),
        ("Go ahead!", true),
        ("LGTM", true),
        ("yes, please", true),
        ("approve", true),
        ("okra is missing", false),
        ("change", false),
        ("goodness, no", false),
    ] {
        let mut story = Story::new();
        story.conditions = Box::new(|it| it.rules.approval = Approval::Always);
        let mut story = planned(story, &[A]);
        story.prompt("s1", "p1", text);
        story.make_all(nothing_held);
        let tasks = story.issue.tasks.iter();
        let begun = tasks
            .filter(|it| it.spec.id.0 == "a" && it.attempt > 0)
            .count();
        assert_eq!(begun == 1, begins, "{text}");
    }
}

#[test]
fn a_pause_stops_what_is_new_and_on_request_what_runs() {
    let story = planned(
        Story::new(),
        &[
            A,
            r#"{"id":"b","title":"B","kind":"builder","prompt":"b","depends_on":["a"]}"#,
        ],
    );
    let mut story = story;
    story.conditions = Box::new(|it| it.pause = Some(Pause::default()));
    story.look();
    assert_eq!(story.state("a"), "running");
    story.conditions = Box::new(|it| {
        it.pause = Some(Pause {
            stop_runs: true,
            merges: false,
        });
    });
    story.look();
    let mut stopped = super::ended(Err(super::failure("stopped")));
    stopped.cost_usd = Some(0.1);
    story.hear(Input::SawRun {
        task: "a".into(),
        run: "run-a-1".into(),
        sight: Sight::Ended(stopped),
    });
    story.make_all(nothing_held);
    assert_eq!(story.state("a"), "todo");
    assert_eq!(
        story.issue.task(&"a".into()).map(|it| it.attempts()),
        Some(0)
    );
    assert_eq!(story.thoughts("paused"), 1);
    assert_eq!(micros(story.issue.spent_usd), micros(0.1));
    story.conditions = Box::new(|_| ());
    story.look();
    assert_eq!(story.state("a"), "running");
    assert_eq!(
        story.issue.task(&"a".into()).map(|it| it.attempts()),
        Some(1)
    );
}

#[test]
fn a_start_that_finds_its_executor_down_goes_elsewhere_or_waits() {
    for (strategy, goes) in [
        (Strategy::HybridParallel, Some(ExecutorKind::Local)),
        (Strategy::CloudOnly, None),
    ] {
        let mut story = Story::new();
        story.policy.strategy = strategy;
        story.open("s1");
        story.make_all(nothing_held);
        story.plan(A);
        let due = story.claim();
        let start = due
            .iter()
            .find(|it| matches!(it.effect, Effect::Start { .. }));
        let start = start.expect("a start").clone();
        story.conditions = Box::new(|it| it.executors[1].down = Some("402: no runs left".into()));
        story.hear(Input::Faulted {
            key: start.key,
            claim: start.claim,
            fault: Fault::Down {
                why: "402: no runs left".into(),
            },
        });
        assert_eq!(story.issue.reserved(), 0, "nothing was begun");
        story.later(2);
        story.look();
        let task = story.issue.task(&"a".into()).expect("a").clone();
        if goes.is_some() {
            assert_eq!(task.executor, goes);
            assert_eq!((task.word(), task.attempts()), ("running", 1));
            assert!(
                task.why.as_ref().is_some_and(|it| it.contains("402")),
                "{task:?}"
            );
            assert_eq!(story.thoughts("402: no runs left"), 1);
        } else {
            assert_eq!((task.word(), task.attempts()), ("todo", 0));
            assert!(
                story
                    .issue
                    .waits
                    .contains_key(&Wait::Executor(ExecutorKind::Codegen))
            );
            story.conditions = Box::new(|_| ());
            story.look();
            assert_eq!(story.state("a"), "running");
        }
    }
}

#[test]
fn a_cancelled_issue_has_nothing_reserved() {
    let mut story = planned(Story::new(), &[A, B]);
    assert!(story.issue.reserved() > 0);
    story.hear(Input::Cancelled {
        why: shared::issue::CancelReason::Command,
        at: story.now,
    });
    story.make_all(nothing_held);
    for task in ["a", "b"] {
        story.run_ends(task, 1, Err(super::failure("stopped")));
    }
    story.make_all(nothing_held);
    assert_eq!(story.issue.phase(), Phase::Done);
    assert_eq!(story.issue.reserved(), 0);
    assert_eq!(
        words::sentence(story.log.last().expect("an end")),
        "the round ended: cancelled"
    );
}

#[test]
fn what_was_set_aside_yesterday_gives_nothing_back_today() {
    let mut story = Story::new();
    story.policy.strategy = Strategy::LocalOnly;
    story.policy.parallel_max = 2;
    let rules = |it: &mut shared::issue::Conditions| {
        it.rules.cost_per_task_max = Some(1.0);
        it.rules.cost_per_day_max = Some(3.0);
    };
    story.conditions = Box::new(rules);
    let mut story = planned(story, &[A, B, C]);
    assert_eq!(story.issue.reserved(), micros(2.0));
    story.later(86_400 - 3_600 * 11);
    // Others have taken all of the new day.
    story.conditions = Box::new(move |it| {
        rules(it);
        it.day.spent = micros(1.0);
        it.day.reserved = micros(2.0);
    });
    let mut cheap = super::ended(Err(super::failure("it gave up")));
    cheap.cost_usd = Some(0.3);
    story.hear(Input::SawRun {
        task: "a".into(),
        run: "run-a-1".into(),
        sight: Sight::Ended(cheap),
    });
    story.make_all(nothing_held);
    story.later(60);
    story.look();
    let states = ["a", "b", "c"].map(|it| story.state(it));
    assert_eq!(states, ["todo", "running", "todo"]);
}

#[test]
fn an_answer_raises_the_limit_that_it_names_and_only_as_far_as_needed() {
    let mut story = Story::new();
    story.policy.strategy = Strategy::CloudOnly;
    story.policy.parallel_max = 3;
    story.conditions = Box::new(|it| {
        it.rules.cost_per_task_max = Some(0.5);
        it.rules.cost_per_issue_max = Some(1.3);
    });
    // The plan and two tasks are paid for; then `a` has used up its own limit.
    let mut story = planned(story, &[A, B, C]);
    story.run_ends("a", 1, Err(super::failure("it gave up")));
    story.run_ends("b", 1, Err(super::failure("it gave up")));
    story.later(60);
    story.look();
    let asked = |story: &Story, scope| {
        let waiting = story.issue.waits.get(&Wait::Money(scope));
        waiting.is_some_and(|it| it.told == shared::issue::Telling::Asked)
    };
    assert!(
        asked(&story, Scope::Task) && asked(&story, Scope::Issue),
        "{:?}",
        story.issue.waits
    );
    for unclear in [
        "raise",
        "raise to 20",
        "raise ENG-42 to 20",
        "raise issue by 5",
        "raise issue to 1.31",
    ] {
        story.prompt("s1", unclear, unclear);
        story.make_all(nothing_held);
        assert!(story.issue.raised.is_empty(), "{unclear}");
    }
    story.prompt("s1", "good", "Raise issue to $20.00, please.");
    story.make_all(nothing_held);
    let raised: Vec<_> = story.issue.raised.iter().collect();
    assert_eq!(raised, [(&Scope::Issue, &(20.0, None))]);
}

#[test]
fn what_was_asked_stays_asked_while_other_things_stand_in_the_way() {
    let mut story = Story::new();
    story.policy.strategy = Strategy::CloudOnly;
    let rules = |it: &mut shared::issue::Conditions| it.rules.cost_per_task_max = Some(0.5);
    story.conditions = Box::new(rules);
    let mut story = planned(story, &[A]);
    story.run_ends("a", 1, Err(super::failure("it gave up")));
    story.later(60);
    story.look();
    assert_eq!(story.questions().len(), 1);
    story.conditions = Box::new(move |it| {
        rules(it);
        it.pause = Some(Pause::default());
    });
    story.look();
    story.conditions = Box::new(rules);
    story.look();
    assert_eq!(story.questions().len(), 1);
    story.prompt("s1", "p1", "raise task to $2");
    story.make_all(nothing_held);
    story.look();
    assert_eq!(story.state("a"), "running");
}

#[test]
fn a_job_that_no_runner_takes_goes_elsewhere_when_none_is_alive() {
    let mut story = Story::new();
    story.policy.strategy = Strategy::HybridParallel;
    story.open("s1");
    story.make_all(|it| matches!(it, Effect::Start { .. }));
    let start = story
        .issue
        .due(story.now)
        .into_iter()
        .find(|it| matches!(it.effect, Effect::Start { .. }));
    story.hear(Input::Performed {
        key: start.expect("a start").key,
        outcome: shared::issue::Outcome::Started {
            run: "job-1".into(),
            url: None,
            begun: false,
        },
    });
    story.make_all(nothing_held);
    story.conditions =
        Box::new(|it| it.executors[0].down = Some("no runner has been heard of".into()));
    story.look();
    let mut nothing = super::ended(Err(super::failure("stopped")));
    nothing.cost_usd = Some(0.0);
    story.hear(Input::SawRun {
        task: "plan".into(),
        run: "job-1".into(),
        sight: Sight::Ended(nothing),
    });
    story.make_all(nothing_held);
    let plan = story.issue.task(&"plan".into()).expect("the plan").clone();
    assert_eq!(plan.executor, Some(ExecutorKind::Codegen));
    assert_eq!((plan.word(), plan.attempts()), ("running", 1));
}
