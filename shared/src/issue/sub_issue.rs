//! Sub-issues that people have made are the plan of their issue, and follow in
//! Linear what becomes of their tasks.

use std::collections::BTreeSet;

use super::plan::{self, TITLE_BYTES_MAX};
use super::{
    Brief, Draft, Effect, Event, IssueId, Planning, Policy, Settled, Spec, Stage, SubIssue, Task,
    TaskId, TaskKind, clip, frame,
};

/// Of more sub-issues nobody would know what they come to; none more are read.
pub const SUB_ISSUES_MAX: usize = 100;
/// Of a description so much goes into the prompt, bytes.
pub const SUB_ISSUE_BYTES_MAX: usize = 16 * 1024;

/// The tasks that the sub-issues of an issue are, or a sentence for its author: why
/// they cannot be. `None`: they are not its plan.
///
/// What was cancelled is left out, and blocks nothing any more, as in Linear. Where
/// none is open, the issue itself is what is left to do.
pub(super) fn tasks(brief: &Brief, policy: &Policy) -> Option<Result<Vec<Spec>, String>> {
    let kinds = policy.sub_issues.as_ref()?;
    let may_plan = match policy.planning {
        Planning::Auto | Planning::Always => true,
        Planning::Never | Planning::Labelled => policy.mode == Some(TaskKind::Orchestrator),
    };
    let issues = || brief.sub_issues.iter().filter(|it| !it.is_dropped());
    let open = issues().filter(|it| !it.is_completed()).count();
    if !may_plan || open == 0 {
        return None;
    }
    let (name, max) = (&brief.identifier, policy.tasks_max);
    if brief.sub_issues.len() > SUB_ISSUES_MAX {
        return Some(Err(format!(
            "{name} has more than {SUB_ISSUES_MAX} sub-issues: split it, or set \
             `planning.subIssues` to false to have it worked on as one"
        )));
    }
    if open > max {
        return Some(Err(format!(
            "{name} has {open} open sub-issues, and at most {max} tasks are allowed: close or \
             move some, or raise `planning.maxTasks`"
        )));
    }
    let ids: BTreeSet<TaskId> = issues().map(task_id).collect();
    if let Some(bad) = ids.iter().find(|it| !plan::is_id(&it.0)) {
        return Some(Err(format!(
            "the identifier of the sub-issue `{}` cannot name a task: set `planning.subIssues` to \
             false to have {name} worked on as one",
            clip(&bad.0, TITLE_BYTES_MAX)
        )));
    }
    let spec = |it: &SubIssue| Spec {
        id: task_id(it),
        title: clip(&it.title, TITLE_BYTES_MAX),
        kind: kinds.get(&it.id).copied().unwrap_or(TaskKind::Builder),
        prompt: frame::quoted(&it.title, &it.description),
        depends_on: depends_on(it, &ids),
        complexity: None,
        requires_isolation: false,
        acceptance: Vec::new(),
        paths: Vec::new(),
        judges: None,
        issue: Some(it.id.clone()),
    };
    // What is completed waits for nothing, so it is in no circle.
    let waiting: Vec<Spec> = issues().filter(|it| !it.is_completed()).map(spec).collect();
    if let Some(circle) = plan::cycle(&waiting) {
        return Some(Err(format!(
            "the sub-issues of {name} block each other in a circle ({}): remove one of these \
             relations in Linear, and write here again",
            circle.to_uppercase()
        )));
    }
    Some(Ok(issues().map(spec).collect()))
}

/// Lays the tasks; those whose sub-issues are completed have succeeded.
pub(super) fn lay(draft: &mut Draft, brief: &Brief, tasks: Vec<Spec>) {
    draft.emit(Event::Laid { tasks });
    for it in brief.sub_issues.iter().filter(|it| it.is_completed()) {
        draft.emit(Event::Settled {
            task: task_id(it),
            verdict: Settled::Succeeded,
            why: "it was completed already".into(),
        });
    }
}

/// Has the sub-issues moved in Linear as their tasks have gone on.
pub(super) fn follow(draft: &mut Draft) {
    let issue = &draft.issue;
    let moving = |sub: &IssueId| {
        let moves = |it: &Effect| matches!(it, Effect::Move { issue: Some(it), .. } if it == sub);
        issue.owed.values().any(|it| moves(&it.effect))
    };
    let behind = |task: &Task| {
        let sub = task.spec.issue.as_ref()?;
        let to = stage(task)?;
        // One after another, so that the first cannot come last.
        (task.moved < Some(to) && !moving(sub)).then(|| (sub.clone(), to))
    };
    let wanted: Vec<(IssueId, Stage)> = issue.tasks.iter().filter_map(behind).collect();
    for (sub, to) in wanted {
        draft.request(Effect::Move {
            to,
            issue: Some(sub),
        });
    }
}

/// Where a task's sub-issue belongs; `None`: nothing of it was begun here.
fn stage(task: &Task) -> Option<Stage> {
    if task.attempt == 0 {
        None
    } else if task.achieved() {
        Some(Stage::Completed)
    } else {
        Some(Stage::Started)
    }
}

fn task_id(issue: &SubIssue) -> TaskId {
    TaskId(issue.identifier.to_lowercase())
}

/// Only what is a task itself can be waited for.
fn depends_on(issue: &SubIssue, ids: &BTreeSet<TaskId>) -> Vec<TaskId> {
    let blockers = issue.blocked_by.iter().map(|it| TaskId(it.to_lowercase()));
    let blockers: BTreeSet<TaskId> = blockers.filter(|it| ids.contains(it)).collect();
    blockers.into_iter().collect()
}
