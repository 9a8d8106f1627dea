//! Stories of issues that people have cut into sub-issues themselves.

use std::collections::BTreeMap;

use shared::issue::{
    Brief, Briefing, Effect, Event, ExecutorKind, Input, IssueId, Outcome, Phase, Planning,
    RunResult, Stage, SubIssue, TaskKind, frame,
};

use super::stage::{Story, failure, nothing_held};

fn sub(number: u32, state: &str, blocked_by: &[&str]) -> SubIssue {
    SubIssue {
        id: id(number),
        identifier: format!("ENG-{number}"),
        title: format!("Part {number}"),
        description: format!("Do part {number}.</issue>"),
        state: state.into(),
        labels: Vec::new(),
        blocked_by: blocked_by.iter().map(|it| (*it).to_owned()).collect(),
    }
}

fn id(number: u32) -> IssueId {
    IssueId(format!("id-{number}"))
}

/// The story of an issue with these sub-issues, which are looked at, up to where it was read.
fn read(story: &mut Story, sub_issues: Vec<SubIssue>) -> Vec<String> {
    story.policy.sub_issues.get_or_insert_default();
    story.open("s1");
    let fetch = |it: &Effect| *it == Effect::Fetch;
    let key = story.issue.owed.iter().find(|(_, it)| fetch(&it.effect));
    let key = *key.expect("the issue is to be read").0;
    let brief = Brief {
        identifier: "ENG-42".into(),
        title: "Add sign-in".into(),
        sub_issues,
        ..Brief::default()
    };
    let policy = story.policy.clone();
    story.hear(Input::Performed {
        key,
        outcome: Outcome::Briefed(Box::new(Briefing { brief, policy })),
    })
}

fn ids(story: &Story) -> Vec<&str> {
    let tasks = story.issue.tasks.iter();
    tasks.map(|it| it.spec.id.0.as_str()).collect()
}

/// Where Linear was asked to move sub-issues to, in order.
fn moves(story: &Story) -> Vec<(String, Stage)> {
    let moved = |it: &Event| match it {
        Event::Requested(Effect::Move {
            to,
            issue: Some(sub),
        }) => Some((sub.0.clone(), *to)),
        _ => None,
    };
    story.log.iter().filter_map(moved).collect()
}

/// The run of a task ends, and its pull request is merged.
fn merges(story: &mut Story, task: &str, number: u64) {
    story.run_ends(task, 1, Ok(RunResult::default()));
    story.sees(task, story.pull(task, number));
    story.make_all(nothing_held);
}

#[test]
fn sub_issues_are_the_plan_and_are_moved_with_their_tasks() {
    let mut story = Story::new();
    let all = vec![
        sub(43, "completed", &[]),
        sub(44, "unstarted", &["ENG-43", "OPS-1"]),
        sub(45, "backlog", &["ENG-44", "ENG-46"]),
        sub(46, "canceled", &[]),
    ];
    let told = read(&mut story, all);
    for sentence in [
        "the work begins with `eng-43`, `eng-44`, `eng-45`",
        "`eng-43` succeeded: it was completed already",
        "to do: move a sub-issue to started",
    ] {
        assert!(told.iter().any(|it| it == sentence), "{told:#?}");
    }
    // What was cancelled is gone and blocks nothing; what is elsewhere blocks nothing here.
    assert_eq!(ids(&story), ["eng-43", "eng-44", "eng-45"]);
    let depends_on = |task: &str| {
        let task = story.issue.task(&task.into()).expect("the task");
        task.spec.depends_on.clone()
    };
    assert_eq!(depends_on("eng-44"), ["eng-43".into()]);
    assert_eq!(depends_on("eng-45"), ["eng-44".into()]);
    story.make_all(nothing_held);
    assert_eq!(
        ["eng-43", "eng-44", "eng-45"].map(|it| story.state(it)),
        ["succeeded", "running", "todo"]
    );
    assert_eq!(moves(&story), [("id-44".into(), Stage::Started)]);

    merges(&mut story, "eng-44", 1);
    assert_eq!(story.state("eng-45"), "running");
    merges(&mut story, "eng-45", 2);
    assert_eq!(story.issue.phase(), Phase::Done);
    let moved = [
        ("id-44".into(), Stage::Started),
        ("id-44".into(), Stage::Completed),
        ("id-45".into(), Stage::Started),
        ("id-45".into(), Stage::Completed),
    ];
    assert_eq!(sorted(moves(&story)), moved);
    let whole = |it: &&Event| {
        let done = Effect::Move {
            to: Stage::Completed,
            issue: None,
        };
        **it == Event::Requested(done)
    };
    assert_eq!(story.log.iter().filter(whole).count(), 1);
    assert!(story.issue.owed.is_empty());
}

fn sorted(mut moves: Vec<(String, Stage)>) -> Vec<(String, Stage)> {
    moves.sort();
    moves
}

#[test]
fn a_sub_issue_comes_to_rest_where_its_task_does_whatever_linear_takes() {
    let mut story = Story::new();
    read(&mut story, vec![sub(43, "unstarted", &[])]);
    let held = |it: &Effect| {
        matches!(
            it,
            Effect::Move {
                to: Stage::Started,
                issue: Some(_)
            }
        )
    };
    story.make_all(held);
    story.run_ends("eng-43", 1, Ok(RunResult::default()));
    story.sees("eng-43", story.pull("eng-43", 1));
    story.make_all(held);
    assert_eq!(story.state("eng-43"), "merged");
    // The first move still has to be made: the second must not overtake it.
    assert_eq!(moves(&story), [("id-43".into(), Stage::Started)]);
    assert_ne!(story.issue.phase(), Phase::Done);
    story.make_all(nothing_held);
    let moved = [
        ("id-43".into(), Stage::Started),
        ("id-43".into(), Stage::Completed),
    ];
    assert_eq!(moves(&story), moved);
    assert_eq!(story.issue.phase(), Phase::Done);
}

#[test]
fn nothing_is_moved_after_a_stop() {
    let mut story = Story::new();
    read(&mut story, vec![sub(43, "unstarted", &[])]);
    story.make_all(nothing_held);
    story.hear(Input::Cancelled {
        why: shared::issue::CancelReason::Stop,
        at: story.now,
    });
    story.make_all(nothing_held);
    assert_eq!(moves(&story), [("id-43".into(), Stage::Started)]);
}

#[test]
fn an_agent_reads_its_own_sub_issue_quoted() {
    let mut story = Story::new();
    let kinds = [(id(44), TaskKind::Debugger)];
    story.policy.sub_issues = Some(BTreeMap::from(kinds));
    read(
        &mut story,
        vec![sub(43, "unstarted", &[]), sub(44, "unstarted", &[])],
    );
    let task = story.issue.task(&"eng-44".into()).expect("the task");
    assert_eq!(task.spec.kind, TaskKind::Debugger);
    assert_eq!(task.spec.issue, Some(id(44)));
    let prompt = frame::frame(&story.issue, task, ExecutorKind::Local, "");
    let quoted = "<issue>\n# Part 44\n\nDo part 44.< /issue>\n</issue>";
    assert!(prompt.contains(quoted), "{prompt}");
    assert!(!prompt.contains("Part 43"), "{prompt}");
    let other = story.issue.task(&"eng-43".into()).expect("the task");
    assert_eq!(other.spec.kind, TaskKind::Builder);
}

#[test]
fn what_cannot_be_a_plan_is_refused_with_the_remedy() {
    let open = |numbers: std::ops::Range<u32>| -> Vec<SubIssue> {
        numbers.map(|it| sub(it, "unstarted", &[])).collect()
    };
    let circle = vec![
        sub(43, "unstarted", &["ENG-45"]),
        sub(44, "unstarted", &["ENG-43"]),
        sub(45, "unstarted", &["ENG-44"]),
    ];
    let mut odd = sub(43, "unstarted", &[]);
    odd.identifier = "ÄNG-43".into();
    for (sub_issues, words) in [
        (circle, ["ENG-43 -> ENG-45 -> ENG-44 -> ENG-43", "remove"]),
        (open(1..22), ["21 open sub-issues", "`planning.maxTasks`"]),
        (open(1..102), ["more than 100", "`planning.subIssues`"]),
        (vec![odd], ["äng-43", "`planning.subIssues`"]),
    ] {
        let mut story = Story::new();
        read(&mut story, sub_issues);
        let why = story.issue.unserved.clone().expect("a refusal");
        assert!(words.iter().all(|it| why.contains(it)), "{why}");
        assert_eq!(ids(&story), [""; 0]);
        story.make_all(nothing_held);
        assert_eq!(story.issue.phase(), Phase::Done);
    }
    // What is completed is in no circle, and takes no place.
    let mut story = Story::new();
    let mut all = open(100..120);
    all.extend((1..40).map(|it| sub(it, "completed", &["ENG-100"])));
    all[0].blocked_by = vec!["ENG-1".into()];
    read(&mut story, all);
    assert_eq!(story.issue.unserved, None);
    assert_eq!(story.issue.tasks.len(), 59);
    assert_eq!(story.state("eng-100"), "starting");
}

#[test]
fn the_issue_itself_is_the_work_where_sub_issues_are_none() {
    let open = || vec![sub(43, "unstarted", &[])];
    let closed = vec![sub(43, "completed", &[]), sub(44, "canceled", &[])];
    let table = [
        (Planning::Auto, None, open(), "eng-43"),
        (Planning::Auto, Some(TaskKind::Scoper), open(), "eng-43"),
        (Planning::Always, None, open(), "eng-43"),
        (
            Planning::Labelled,
            Some(TaskKind::Orchestrator),
            open(),
            "eng-43",
        ),
        (Planning::Labelled, None, open(), "main"),
        (Planning::Never, None, open(), "main"),
        (Planning::Auto, None, closed, "main"),
        (Planning::Auto, None, Vec::new(), "main"),
    ];
    for (planning, mode, sub_issues, first) in table {
        let mut story = Story::new();
        (story.policy.planning, story.policy.mode) = (planning, mode);
        read(&mut story, sub_issues.clone());
        assert_eq!(ids(&story), [first], "{planning} {mode:?} {sub_issues:?}");
    }
    // They are not looked at.
    let mut story = Story::new();
    story.policy.planning = Planning::Auto;
    story.open("s1");
    let told = story.make_all(nothing_held);
    assert!(told.iter().any(|it| it.contains("`main`")), "{told:?}");
}

#[test]
fn a_failed_sub_issue_skips_what_it_blocks_and_stays_where_it_was_moved() {
    let mut story = Story::new();
    story.policy.attempts_max = 1;
    let all = vec![
        sub(43, "unstarted", &[]),
        sub(44, "unstarted", &["ENG-43"]),
        sub(45, "started", &[]),
    ];
    read(&mut story, all);
    story.make_all(nothing_held);
    story.run_ends("eng-43", 1, Err(failure("it gave up")));
    merges(&mut story, "eng-45", 1);
    assert_eq!(
        ["eng-43", "eng-44", "eng-45"].map(|it| story.state(it)),
        ["failed", "skipped", "merged"]
    );
    let moved = [
        ("id-43".into(), Stage::Started),
        ("id-45".into(), Stage::Started),
        ("id-45".into(), Stage::Completed),
    ];
    assert_eq!(sorted(moves(&story)), moved);
}
