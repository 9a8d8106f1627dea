//! Every sentence that a person or an agent reads, in one place.

mod log;
mod merits;
mod terms;

use std::fmt::Write as _;

use super::state::Issue;
use super::task::{Task, TaskState};
use super::{
    Activity, CancelReason, Effect, ExecutorKind, Failure, IssueId, RoundOutcome, TaskId, TaskKind,
    Verbosity, clip,
};

pub use self::log::{plain, sentence};
pub(super) use self::merits::*;
pub use self::merits::{repair, review_request};
pub(super) use self::terms::*;
pub use super::verdict::short;

/// The bytes of an error in the table of the last word.
const ERROR_BYTES_MAX: usize = 1_000;

/// What holds up a run that nobody has begun.
pub(super) const NO_RUNNER: &str = "no runner has a free place for it: start one, or wait";

// ───────────────────────────── names ─────────────────────────────

/// The branch of a task's run: `cyrus/eng-42/api`, with a suffix from the second
/// on, behind a dot, which no task's id can hold.
pub fn branch(issue: &Issue, task: &TaskId, attempt: u32) -> String {
    let mut branch = format!("cyrus/{}/{task}", issue.identifier.to_lowercase());
    if issue.round > 1 {
        let _ = write!(branch, ".r{}", issue.round);
    }
    if attempt > 1 {
        let _ = write!(branch, ".{attempt}");
    }
    branch
}

/// The issue that a branch of ours is for, in lower case.
pub fn issue_of(branch: &str) -> Option<&str> {
    let (issue, task) = branch.strip_prefix("cyrus/")?.split_once('/')?;
    (!issue.is_empty() && !task.is_empty()).then_some(issue)
}

/// The mark by which a pull request is known as ours.
pub fn marker(issue: &Issue, task: &TaskId) -> String {
    pull_marker(&issue.identifier, task)
}

/// The same, for the runner, which has no issue at hand.
pub fn pull_marker(identifier: &str, task: &TaskId) -> String {
    format!("<!-- cyrus:{identifier}/{task} -->")
}

/// The mark of a comment that is made for an effect.
pub fn effect_mark(id: &str) -> String {
    format!("<!-- cyrus:{id} -->")
}

pub fn pull_label(task: &TaskId, number: u64) -> String {
    format!("PR #{number} ({task})")
}

/// The title of a task's merge commit.
pub fn merge_title(issue: &Issue, task: &Task, number: u64) -> String {
    let title = format!("{}: {}", issue.identifier, task.spec.title);
    // Without a forge there are no numbers.
    match number {
        0 => title,
        number => format!("{title} (#{number})"),
    }
}

// ───────────────────────────── to people, in Linear ─────────────────────────────

pub(super) fn greeting(issue: &Issue) -> String {
    match issue.round {
        0 | 1 => format!("I have {} and am reading it.", issue.identifier),
        n => format!(
            "I take up {} again (round {n}) and am reading it.",
            issue.identifier
        ),
    }
}

/// What failed is tried again because somebody asked for it.
pub(super) fn renewed(issue: &Issue) -> String {
    let open: Vec<String> = issue
        .tasks
        .iter()
        .filter(|it| it.state == TaskState::Todo)
        .map(|it| format!("`{}`", it.spec.id))
        .collect();
    if open.is_empty() {
        return format!("I take up {} again and am reading it.", issue.identifier);
    }
    format!("I take up {} again: {}.", issue.identifier, open.join(", "))
}

pub(super) fn joined(issue: &Issue) -> String {
    format!(
        "I am already at work on {}; you will hear here how it goes.",
        issue.identifier
    )
}

pub(super) fn noted(issue: &Issue) -> String {
    let told: Vec<String> = issue
        .listeners()
        .iter()
        .map(|(task, ..)| format!("`{task}`"))
        .collect();
    let deaf = issue.shown_tasks().filter(|it| it.busy()).count() - told.len();
    let mut text = match told.as_slice() {
        [] => "Noted: every run that starts from now on is told.".to_owned(),
        _ => format!(
            "Noted: I pass it on to {}, and to every run that starts from now on.",
            told.join(", ")
        ),
    };
    match deaf {
        0 => {}
        1 => text.push_str(" One that is at work cannot be told."),
        n => {
            let _ = write!(text, " {n} that are at work cannot be told.");
        }
    }
    text
}

/// What was to be passed on did not reach the run.
pub(super) fn unheard(issue: &Issue, id: &TaskId) -> Option<Activity> {
    let task = issue.task(id)?;
    Some(Activity::Thought(format!(
        "{} had ended before I could pass that on; what starts from now on is told.",
        named(task)
    )))
}

pub(super) fn planned(issue: &Issue) -> Option<Activity> {
    let mut text = issue
        .summary
        .clone()
        .filter(|it| !it.is_empty())
        .unwrap_or("The plan:".into());
    text.push('\n');
    for task in issue
        .tasks
        .iter()
        .filter(|it| it.spec.kind != TaskKind::Orchestrator)
    {
        let _ = write!(
            text,
            "\n- `{}` {} ({})",
            task.spec.id, task.spec.title, task.spec.kind
        );
        if !task.spec.depends_on.is_empty() {
            let on: Vec<String> = task
                .spec
                .depends_on
                .iter()
                .map(|it| format!("`{it}`"))
                .collect();
            let _ = write!(text, ", after {}", on.join(", "));
        }
    }
    aloud(issue, Activity::Thought(text))
}

pub(super) fn plan_rejected(why: &str) -> Option<Activity> {
    Some(Activity::Thought(format!(
        "The plan cannot be used: {why}. I ask for another one."
    )))
}

pub(super) fn started(issue: &Issue, id: &TaskId) -> Option<Activity> {
    let task = issue.task(id)?;
    let executor = task.executor.map_or("an executor", executor_name);
    let again = if task.mending {
        format!(" (repair {})", task.repairs)
    } else if task.attempt > 1 {
        format!(" (attempt {})", task.attempt)
    } else {
        String::new()
    };
    aloud(
        issue,
        Activity::Action {
            action: format!("Started on {executor}{again}"),
            parameter: named(task),
            result: task.why.clone(),
        },
    )
}

pub(super) fn retried(issue: &Issue, id: &TaskId, failure: &Failure) -> Option<Activity> {
    let task = issue.task(id)?;
    aloud(
        issue,
        Activity::Action {
            action: format!("Attempt {} failed, trying again", task.attempt),
            parameter: named(task),
            result: Some(failure.message.clone()),
        },
    )
}

pub(super) fn ready(issue: &Issue, id: &TaskId) -> Option<Activity> {
    let task = issue.task(id)?;
    let url = task.pull.as_ref().map_or("", |it| &it.url);
    // A question to a person is said whatever the verbosity.
    Some(Activity::Thought(match &task.error {
        Some(why) => format!(
            "{} waits for a person to merge it, since {why}: {url}",
            named(task)
        ),
        None => format!(
            "{} is validated and waits for your merge: {url}",
            named(task)
        ),
    }))
}

pub(super) fn merged(issue: &Issue, id: &TaskId) -> Option<Activity> {
    let task = issue.task(id)?;
    let url = task.pull.as_ref().map(|it| it.url.clone());
    aloud(
        issue,
        Activity::Action {
            action: "Merged".into(),
            parameter: named(task),
            result: url,
        },
    )
}

pub(super) fn settled(issue: &Issue, id: &TaskId) -> Option<Activity> {
    let task = issue.task(id)?;
    let action = match task.state {
        TaskState::Failed => "Failed",
        TaskState::Skipped => "Skipped",
        TaskState::Cancelled => "Cancelled",
        // What judges say is told where they say it.
        _ if task.is_judge() && task.state != TaskState::Failed => return None,
        TaskState::Succeeded if task.spec.kind == TaskKind::Orchestrator => return None,
        TaskState::Succeeded => "Done",
        TaskState::Todo
        | TaskState::Starting { .. }
        | TaskState::Running { .. }
        | TaskState::Seeking { .. }
        | TaskState::Judging
        | TaskState::Approved { .. }
        | TaskState::Updating { .. }
        | TaskState::Merging { .. }
        | TaskState::Queued { .. }
        | TaskState::Ready
        | TaskState::Merged => return None,
    };
    let result = task.error.clone().or_else(|| task.answer.clone());
    aloud(
        issue,
        Activity::Action {
            action: action.into(),
            parameter: named(task),
            result,
        },
    )
}

pub(super) fn skipped(issue: &Issue, on: &TaskId) -> String {
    let how = issue
        .task(on)
        .map_or("is not there", |task| match task.state {
            TaskState::Failed => "failed",
            TaskState::Skipped => "was skipped",
            _ => "was cancelled",
        });
    format!("it depends on `{on}`, which {how}")
}

pub(super) fn cancelled(issue: &Issue) -> String {
    match &issue.cancelled {
        Some(CancelReason::Stop) => "stopped by a person".into(),
        Some(CancelReason::Undelegated { .. }) => "the issue was taken away from the app".into(),
        Some(CancelReason::State(kind)) => format!("the issue was moved to a state of type {kind}"),
        Some(CancelReason::Removed) => "the issue was removed".into(),
        Some(CancelReason::Command) => "cancelled by an operator".into(),
        None => "cancelled".into(),
    }
}

pub(super) fn overran(issue: &Issue) -> String {
    let minutes = issue
        .policy
        .as_ref()
        .map_or(0, |it| it.task_timeout_seconds / 60);
    format!(
        "its run took longer than {minutes} minutes and was stopped (limits.taskTimeoutMinutes)"
    )
}

pub(super) fn unstoppable() -> String {
    "its run was asked to stop and its executor never said that it did: look there whether it still works".into()
}

pub(super) fn no_pull(issue: &Issue, id: &TaskId) -> String {
    let branch = issue
        .task(id)
        .and_then(|it| it.branch.clone())
        .unwrap_or_default();
    let url = issue
        .task(id)
        .and_then(|it| it.run_url.clone())
        .unwrap_or_default();
    format!("its run says it is done, but there is no pull request from `{branch}` {url}")
        .trim_end()
        .to_owned()
}

pub(super) fn deferred(issue: &Issue) -> String {
    match issue.waiting_for() {
        Some(waits) => {
            format!("I take this up in a round of its own, when this one is over: {waits}.")
        }
        None => "I bring the last round to its end, then I take this up.".into(),
    }
}

pub(super) fn held(issue: &Issue, id: &TaskId, why: &str) -> Option<Activity> {
    let task = issue.task(id)?;
    // What people have to look after is said whatever the verbosity.
    Some(Activity::Thought(format!("{} waits: {why}", named(task))))
}

/// Why an effect that is tried again and again is not made.
pub(super) fn not_made(effect: &Effect, why: &str) -> String {
    let what = match effect {
        Effect::Start { .. } => "its run cannot be started, or found",
        Effect::Merge { .. } => "it cannot be merged",
        Effect::Update { .. } => "it cannot be brought up to date",
        Effect::Close { .. } => "its pull request cannot be closed",
        Effect::Prune { .. } => "its branch cannot be deleted",
        Effect::Stop { .. } => "its run cannot be stopped",
        Effect::Tell { .. } => "its run cannot be told",
        Effect::Fetch
        | Effect::Say { .. }
        | Effect::ShowPlan { .. }
        | Effect::Link { .. }
        | Effect::Move { .. } => "Linear cannot be told",
    };
    format!("{what} ({why}); it is tried again")
}

/// The last word of a round.
pub(super) fn report(issue: &Issue) -> Activity {
    let outcome = issue.ending();
    let waits = issue.tasks.iter().any(|it| it.state == TaskState::Ready);
    let id = &issue.identifier;
    let mut text = match outcome {
        RoundOutcome::Succeeded if waits => {
            format!("{id} is ready: everything is validated and waits for your merge.")
        }
        RoundOutcome::Succeeded if issue.work().all(Task::achieved) => {
            format!("{id} is done.")
        }
        RoundOutcome::Succeeded => format!("{id} is done in part."),
        RoundOutcome::Cancelled if issue.cancelled.is_none() => {
            format!("{id} ended without a change: its pull requests were closed.")
        }
        RoundOutcome::Cancelled => format!("I have stopped working on {id}: {}.", cancelled(issue)),
        RoundOutcome::Failed => match &issue.unserved {
            Some(why) => format!("I cannot work on {id}: {why}."),
            None => format!("{id} could not be finished."),
        },
    };
    let mut tasks = issue
        .shown_tasks()
        .filter(|it| it.attempt > 0 || it.over())
        .peekable();
    if tasks.peek().is_some() {
        text.push_str(
            "\n\n| task | how it ended | executor | runs | cost |\n|---|---|---|---|---|",
        );
    }
    for task in tasks {
        let how = match (&task.error, &task.pull) {
            (Some(error), _) => format!(
                "{}: {}",
                task.word(),
                clip(&one_line(error), ERROR_BYTES_MAX)
            ),
            (None, Some(pull)) if pull.number > 0 => {
                format!("{} [#{}]({})", task.word(), pull.number, pull.url)
            }
            (None, _) => task.word().to_owned(),
        };
        let executor = task.executor.map_or("", executor_name);
        let mark = if task.cost_is_estimate {
            " (estimate)"
        } else {
            ""
        };
        let _ = write!(
            text,
            "\n| `{}` {} | {how} | {executor} | {} | ${:.2}{mark} |",
            task.spec.id,
            one_line(&task.spec.title),
            task.attempt + task.repairs,
            task.cost_usd,
        );
    }
    if issue.spent_usd > 0.0 {
        let _ = write!(text, "\n\nSpent: ${:.2}.", issue.spent_usd);
    }
    if let Some(forecast) = &issue.forecast {
        text.push_str(&against_forecast(issue, forecast));
    }
    for task in issue
        .tasks
        .iter()
        .filter(|it| it.spec.kind == TaskKind::Scoper)
    {
        if let Some(answer) = &task.answer {
            let _ = write!(text, "\n\n## {}\n\n{answer}", one_line(&task.spec.title));
        }
    }
    // Nothing is said after this, so it is said now.
    if issue.cancelled.is_none()
        && issue
            .owed
            .values()
            .any(|it| matches!(it.effect, Effect::Tell { .. }))
    {
        text.push_str("\n\nWhat was written last may have come too late for what ran then.");
    }
    if outcome == RoundOutcome::Failed && !waits {
        text.push_str("\n\nWrite here to have me try again.");
    }
    match outcome {
        RoundOutcome::Succeeded | RoundOutcome::Cancelled => Activity::Response(text),
        RoundOutcome::Failed => Activity::Error(text),
    }
}

fn executor_name(executor: ExecutorKind) -> &'static str {
    match executor {
        ExecutorKind::Local => "the team's machine",
        ExecutorKind::Codegen => "Codegen",
    }
}

fn named(task: &Task) -> String {
    format!("`{}` {}", task.spec.id, one_line(&task.spec.title))
}

pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

/// What is said in passing, unless the team wants it quiet.
fn aloud(issue: &Issue, activity: Activity) -> Option<Activity> {
    let verbosity = issue
        .policy
        .as_ref()
        .map_or(Verbosity::Normal, |it| it.verbosity);
    (verbosity != Verbosity::Quiet).then_some(activity)
}

/// What the list shows of an issue that was parked.
pub fn parked(issue: &IssueId, why: &str) -> String {
    format!("{why}: an operator has to run `cyrus repair {issue}`")
}
