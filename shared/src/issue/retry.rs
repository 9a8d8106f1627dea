//! What failed is tried again because a person asks for it: failed and skipped
//! tasks, a plan that was none, an issue that could not be worked on. What was
//! achieved stays so.

use std::collections::BTreeSet;

use super::state::{Consent, Issue};
use super::task::{Task, TaskState};
use super::{Activity, Draft, Event, Tally, TaskId, Time, words};

/// An operator wants failed work tried again; `task`: that one, and what it takes.
pub(super) fn retry(draft: &mut Draft, task: Option<&TaskId>) {
    match chosen(&draft.issue, task) {
        Ok(tasks) => {
            draft.emit(Event::Renewed { tasks });
            draft.say(Activity::Thought(words::renewed(&draft.issue)));
        }
        Err(why) => draft.refusal = Some(why),
    }
}

/// The tasks that get fresh attempts, or why there are none.
fn chosen(issue: &Issue, task: Option<&TaskId>) -> Result<Vec<TaskId>, String> {
    let name = &issue.identifier;
    if issue.cancelled.is_some() {
        return Err(format!(
            "{name} was cancelled: write in its session in Linear to have it taken up again"
        ));
    }
    if issue.active() && issue.reported {
        return Err(format!(
            "{name} waits for people to merge or close its pull requests: retry it after that"
        ));
    }
    let failed =
        |it: &&Task| matches!(it.state, TaskState::Failed | TaskState::Skipped) && !it.is_judge();
    let all: BTreeSet<TaskId> = issue
        .tasks
        .iter()
        .filter(failed)
        .map(|it| it.spec.id.clone())
        .collect();
    let Some(task) = task else {
        if all.is_empty() && issue.unserved.is_none() {
            return Err(format!("nothing of {name} has failed or was skipped"));
        }
        return Ok(all.into_iter().collect());
    };
    if issue.task(task).is_none() {
        return Err(format!("{name} has no task `{task}`"));
    }
    if !all.contains(task) {
        return Err(format!(
            "`{task}` of {name} has neither failed nor was it skipped"
        ));
    }
    // What it depends on has to be achieved first, and what was skipped for it may go on.
    let mut chosen = BTreeSet::from([task.clone()]);
    for _ in 0..all.len() {
        let linked = |it: &&TaskId| {
            let on = |it: &TaskId| issue.task(it).map(|it| it.spec.depends_on.clone());
            let needs = on(it).unwrap_or_default();
            let needed = chosen.iter().filter_map(on).flatten();
            needs.iter().any(|it| chosen.contains(it)) || needed.into_iter().any(|on| on == **it)
        };
        let more: Vec<TaskId> = all.iter().filter(linked).cloned().collect();
        chosen.extend(more);
    }
    Ok(chosen.into_iter().collect())
}

/// The tasks get fresh attempts; where the round was over, another one begins.
pub(super) fn renewed(issue: &mut Issue, tasks: &[TaskId], at: Time) {
    if issue.outcome.take().is_some() {
        issue.round += 1;
        issue.round_opened_at = at;
        issue.started_at = at;
        issue.finished_at = None;
        issue.reported = false;
        issue.completing = false;
        issue.tally = Tally::default();
        issue.waits.clear();
        // It was of the whole, and has been held against what that came to.
        issue.forecast = None;
    }
    if issue.unserved.take().is_some() {
        issue.brief = None;
        issue.policy = None;
        issue.consent = Consent::NotAsked;
    }
    issue.plan_rejections = 0;
    issue.plan_rejected = None;
    for task in tasks {
        let Some(task) = issue.task_mut(task) else {
            continue;
        };
        task.state = TaskState::Todo;
        task.free_runs = task.attempt;
        task.error = None;
        task.held = None;
        task.bounces = 0;
        task.shuns = None;
        task.mend = None;
        task.run = None;
        task.session = None;
        task.repairs = 0;
        task.rejected = None;
        task.tried.clear();
        task.updates = 0;
        task.closing = false;
        task.not_before = None;
        task.finished_at = None;
    }
}
