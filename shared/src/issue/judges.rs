//! Who judges what a task has made: a reviewer, which is another agent, and a
//! verifier, which runs the repository's own commands. Each is a task beside the one
//! that it judges, and is asked anew about every head.

use std::sync::Arc;

use super::advance::stop;
use super::plan::REVIEW_PREFIX;
use super::understand::settle;
use super::verdict::{Finding, Judged};
use super::{Draft, Event, Issue, Policy, Settled, Spec, Task, TaskId, TaskKind, TaskState, words};

/// An acceptance line that begins with this is a command.
const COMMAND_PREFIX: &str = "$ ";
/// No task of a plan can have a dot in its name.
const VERIFIER_SUFFIX: &str = ".checks";

/// The name of the judge of a task.
fn judge_id(of: &TaskId, kind: TaskKind) -> TaskId {
    match kind {
        TaskKind::Verifier => TaskId(format!("{of}{VERIFIER_SUFFIX}")),
        _ => TaskId(format!("{REVIEW_PREFIX}{of}")),
    }
}

/// What the commands are that a commit of this task has to stand.
pub fn commands(policy: &Policy, spec: &Spec) -> Vec<String> {
    let accepted = spec.acceptance.iter();
    let accepted = accepted.filter_map(|it| it.trim().strip_prefix(COMMAND_PREFIX));
    let own = policy.commands.iter().map(String::as_str);
    own.chain(accepted).map(str::to_owned).collect()
}

impl Issue {
    /// The work itself, without those who judge it.
    pub fn work(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter().filter(|it| !it.is_judge())
    }

    /// What people are shown as tasks.
    pub fn shown_tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.iter().filter(|it| it.is_shown())
    }

    /// How far a judge of a task has come with a commit.
    pub(super) fn judged(&self, of: &TaskId, kind: TaskKind, sha: &str) -> Judged<'_> {
        let judge = self.task(&judge_id(of, kind));
        let Some(judge) = judge.filter(|it| it.subject.as_deref() == Some(sha)) else {
            return Judged::Unasked;
        };
        if let Some(finding) = judge.finding.as_ref().filter(|it| it.sha == sha) {
            return Judged::Found(finding);
        }
        match judge.state {
            TaskState::Failed | TaskState::Skipped | TaskState::Cancelled => {
                Judged::Failed(judge.error.as_deref().unwrap_or("it failed"))
            }
            _ => Judged::Asked,
        }
    }

    /// Does anybody wait for what this judge has to say, or would say next?
    pub(super) fn awaited(&self, judge: &Task) -> bool {
        let Some(of) = judge.spec.judges.as_ref().and_then(|it| self.task(it)) else {
            return true;
        };
        let about = match judge.state {
            TaskState::Todo => &judge.subject,
            _ => &judge.judged,
        };
        let head = of.pull.as_ref().map(|it| it.sha.as_str());
        of.state == TaskState::Judging && head.is_some() && about.as_deref() == head
    }
}

/// A judge is asked about a commit; who is at work on another one is asked after that.
pub(super) fn summoned(issue: &mut Issue, of: &TaskId, sha: &str, kind: TaskKind) {
    let Some(title) = issue.task(of).map(|it| it.spec.title.clone()) else {
        return;
    };
    let id = judge_id(of, kind);
    if issue.task(&id).is_none() {
        let spec = Spec {
            id: id.clone(),
            title: words::judge_title(kind, &title),
            kind,
            // The frame tells what is to be judged, as it stands then.
            prompt: String::new(),
            depends_on: Vec::new(),
            complexity: None,
            requires_isolation: false,
            acceptance: Vec::new(),
            paths: Vec::new(),
            judges: Some(of.clone()),
            issue: None,
        };
        issue.tasks.push(Task::new(Arc::new(spec)));
    }
    if let Some(judge) = issue.task_mut(&id) {
        judge.subject = Some(sha.to_owned());
        if judge.over() {
            judge.state = TaskState::Todo;
            judge.error = None;
            judge.finished_at = None;
        }
        // Each commit is a question of its own.
        judge.free_runs = judge.attempt;
        judge.not_before = None;
    }
}

/// A judge has come to an end with a commit.
pub(super) fn found(draft: &mut Draft, id: &TaskId, approves: bool, text: String) {
    let Some(judge) = draft.issue.task(id) else {
        return;
    };
    let finding = Finding {
        sha: judge.judged.clone().unwrap_or_default(),
        approves,
        text,
    };
    draft.emit(Event::Judged {
        task: id.clone(),
        finding,
    });
}

/// Sends those away for whom nobody waits any more.
pub(super) fn dismiss(draft: &mut Draft) {
    for judge in draft.issue.tasks.clone() {
        let Some(of) = &judge.spec.judges else {
            continue;
        };
        let over = draft.issue.task(of).is_none_or(Task::over);
        match &judge.state {
            TaskState::Running {
                run,
                stopping: None,
                ..
            } if !draft.issue.awaited(&judge) => {
                draft.emit(Event::Interrupted {
                    task: judge.spec.id.clone(),
                });
                stop(draft, &judge, run);
            }
            TaskState::Todo if over => {
                let why = "there is nothing to judge any more".to_owned();
                settle(draft, &judge.spec.id, Settled::Cancelled, why);
            }
            _ => {}
        }
    }
}
