//! What must happen next, whatever holds outside. Looks only at the state, so
//! that asking twice answers nothing the second time, and no transition has to
//! remember to start the next one. What may begin depends on conditions:
//! [`super::begin`].

use jiff::SignedDuration;

use super::judges::dismiss;
use super::plan::{self, MAIN, PLAN, Way};
use super::sight::ended;
use super::sub_issue;
use super::understand::settle;
use super::validate::close;
use super::{
    Activity, Draft, Effect, Ending, Event, Failure, FailureClass, Policy, RunId,
    STOP_PATIENCE_SECONDS, Settled, Spec, Stage, Task, TaskId, TaskKind, TaskState, Verbosity,
    words,
};

/// Writes down all that follows from the state as it stands.
pub fn advance(draft: &mut Draft) {
    if !draft.issue.active() {
        return;
    }
    mind_deadlines(draft);
    if draft.issue.cancelled.is_some() {
        wind_down(draft);
        close_pulls(draft);
    } else if draft.issue.unserved.is_none() {
        prepare(draft);
        skip(draft);
        sub_issue::follow(draft);
        dismiss(draft);
    }
    finish(draft);
}

/// Runs that take too long are stopped, and stopped again until they are gone.
fn mind_deadlines(draft: &mut Draft) {
    for task in draft.issue.tasks.clone() {
        let (Some(deadline), TaskState::Running { run, stopping, .. }) =
            (draft.issue.deadline(&task), &task.state)
        else {
            continue;
        };
        if deadline > draft.now {
            continue;
        }
        let id = task.spec.id.clone();
        let patience = SignedDuration::from_secs(STOP_PATIENCE_SECONDS);
        match stopping {
            None => {
                draft.emit(Event::Overran { task: id.clone() });
                stop(draft, &task, run);
            }
            Some(stopping) if draft.now.duration_since(stopping.first) >= patience => {
                let failure = Failure {
                    class: FailureClass::Lost,
                    message: words::unstoppable(),
                };
                let reason = stopping.reason;
                ended(
                    draft,
                    &id,
                    Ending {
                        result: Err(failure),
                        cost_usd: None,
                        cost_is_estimate: false,
                    },
                    Some(reason),
                );
            }
            Some(_) => stop(draft, &task, run),
        }
    }
}

pub(super) fn stop(draft: &mut Draft, task: &Task, run: &RunId) {
    let asked = draft
        .issue
        .owed
        .values()
        .any(|owed| matches!(&owed.effect, Effect::Stop { run: asked, .. } if asked == run));
    if asked {
        return;
    }
    let Some(executor) = task.executor else {
        return;
    };
    draft.request(Effect::Stop {
        task: task.spec.id.clone(),
        executor,
        run: run.clone(),
    });
}

/// A person wants no more of it: what has not begun is cancelled, what runs is
/// stopped, what may be running is waited for.
fn wind_down(draft: &mut Draft) {
    for task in draft.issue.tasks.clone() {
        match &task.state {
            TaskState::Queued { .. } => {
                // The forge would merge it by itself.
                let why = words::cancelled(&draft.issue);
                settle(draft, &task.spec.id, Settled::Cancelled, why);
                close(draft, &task.spec.id, &words::closed(&draft.issue));
            }
            TaskState::Todo
            | TaskState::Seeking { .. }
            | TaskState::Judging
            | TaskState::Approved { .. }
            | TaskState::Ready => {
                let why = words::cancelled(&draft.issue);
                settle(draft, &task.spec.id, Settled::Cancelled, why);
            }
            TaskState::Running {
                run,
                stopping: None,
                ..
            } => stop(draft, &task, run),
            TaskState::Running {
                stopping: Some(_), ..
            }
            | TaskState::Starting { .. }
            | TaskState::Updating { .. }
            | TaskState::Merging { .. }
            | TaskState::Merged
            | TaskState::Succeeded
            | TaskState::Failed
            | TaskState::Skipped
            | TaskState::Cancelled => {}
        }
    }
}

/// What is over and was not merged leaves no pull request open behind it.
fn close_pulls(draft: &mut Draft) {
    if draft.issue.policy.as_ref().is_none_or(|it| it.keep_pulls) {
        return;
    }
    let left = |task: &&Task| {
        let unmerged = matches!(task.state, TaskState::Cancelled | TaskState::Failed);
        unmerged && !task.closing && task.spec.kind.makes_pull() && task.attempt > 0
    };
    let left: Vec<TaskId> = draft
        .issue
        .tasks
        .iter()
        .filter(left)
        .map(|it| it.spec.id.clone())
        .collect();
    for id in left {
        close(draft, &id, &words::closed(&draft.issue));
    }
}

/// From a bare issue to its first task.
fn prepare(draft: &mut Draft) {
    let (Some(brief), Some(policy)) = (draft.issue.brief.clone(), draft.issue.policy.clone())
    else {
        if !draft
            .issue
            .owed
            .values()
            .any(|owed| owed.effect == Effect::Fetch)
        {
            draft.request(Effect::Fetch);
        }
        return;
    };
    if !draft.issue.tasks.is_empty() {
        return;
    }
    match sub_issue::tasks(&brief, &policy) {
        Some(Ok(tasks)) => return sub_issue::lay(draft, &brief, tasks),
        Some(Err(why)) => return draft.emit(Event::Unserved { why }),
        None => {}
    }
    let (id, kind) = match plan::way(&brief, policy.planning, policy.mode, policy.bug) {
        Way::Planned => (PLAN, TaskKind::Orchestrator),
        Way::Single(kind) => (MAIN, kind),
    };
    let title = if kind == TaskKind::Orchestrator {
        "Plan the work".into()
    } else {
        brief.title.clone()
    };
    let spec = Spec {
        id: TaskId::from(id),
        title,
        kind,
        // The issue itself is the prompt; the frame quotes it.
        prompt: String::new(),
        depends_on: Vec::new(),
        complexity: None,
        requires_isolation: false,
        acceptance: Vec::new(),
        paths: Vec::new(),
        judges: None,
        issue: None,
    };
    draft.emit(Event::Laid { tasks: vec![spec] });
}

/// What depends on something that will never be is skipped.
fn skip(draft: &mut Draft) {
    // Each round skips at least one task or is the last.
    for _ in 0..draft.issue.tasks.len() {
        let hopeless = draft.issue.tasks.iter().find_map(|task| {
            let lost = |on: &&TaskId| {
                draft
                    .issue
                    .task(on)
                    .is_none_or(|on| on.over() && !on.achieved())
            };
            let on = task.spec.depends_on.iter().find(lost)?;
            (task.state == TaskState::Todo).then(|| (task.spec.id.clone(), on.clone()))
        });
        let Some((task, on)) = hopeless else { return };
        let why = words::skipped(&draft.issue, &on);
        settle(draft, &task, Settled::Skipped, why);
    }
}

/// Shows the plan where it is out of date, tells how it ended, and ends it.
fn finish(draft: &mut Draft) {
    let issue = &draft.issue;
    let planned = !issue.tasks.is_empty();
    let at_rest = planned || issue.cancelled.is_some() || issue.unserved.is_some();
    let over = at_rest && issue.tasks.iter().all(Task::over);
    let ready_or_over = at_rest
        && issue
            .work()
            .all(|it| it.over() || it.state == TaskState::Ready);
    // After a stop nothing moves in Linear until all is quiet.
    if planned && (issue.cancelled.is_none() || over) {
        show_plan(draft);
    }
    let outcome = draft.issue.ending();
    if over && draft.issue.all_merged() && !draft.issue.completing {
        draft.request(Effect::Move {
            to: Stage::Completed,
            issue: None,
        });
    }
    if ready_or_over && !draft.issue.reported {
        draft.say(words::report(&draft.issue));
        draft.emit(Event::Reported);
    }
    if over && draft.issue.reported && draft.issue.owed.is_empty() {
        draft.emit(Event::Done { outcome });
        if !draft.issue.deferred.is_empty() {
            draft.emit(Event::TakenUp);
            draft.say(Activity::Thought(words::greeting(&draft.issue)));
        }
    }
}

fn show_plan(draft: &mut Draft) {
    let quiet = |policy: &Policy| policy.verbosity == Verbosity::Quiet;
    if draft.issue.policy.as_deref().is_none_or(quiet) {
        return;
    }
    let words = draft.issue.plan_words();
    for session in draft.issue.sessions.clone() {
        let coming = draft.issue.owed.values().any(|owed| {
            owed.claimed.is_none()
                && matches!(&owed.effect, Effect::ShowPlan { session: to } if *to == session)
        });
        if !coming && draft.issue.shown.get(&session) != Some(&words) {
            draft.request(Effect::ShowPlan { session });
        }
    }
}
