//! Every sentence that a person or an agent reads, in one place.

mod terms;

use std::fmt::Write as _;

use super::state::{Issue, Task, TaskState};
use super::verdict::short;
use super::{
    Activity, CancelReason, Effect, Ending, Event, ExecutorKind, Failure, IssueId, RoundOutcome,
    Spec, TaskId, TaskKind, Verbosity, clip,
};

pub(super) use self::terms::*;

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

/// The mark by which a pull request is known as ours.
pub fn marker(issue: &Issue, task: &TaskId) -> String {
    pull_marker(&issue.identifier, task)
}

/// The same, for the runner, which has no issue at hand.
pub fn pull_marker(identifier: &str, task: &TaskId) -> String {
    format!("<!-- cyrus:{identifier}/{task} -->")
}

pub fn pull_label(task: &TaskId, number: u64) -> String {
    format!("PR #{number} ({task})")
}

/// The title of a task's merge commit.
pub fn merge_title(issue: &Issue, task: &Task, number: u64) -> String {
    format!("{}: {} (#{number})", issue.identifier, task.spec.title)
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
    let deaf = issue.tasks.iter().filter(|it| it.busy()).count() - told.len();
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
    let again = if task.attempt > 1 {
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
    Some(Activity::Thought(format!(
        "{} is validated and waits for your merge: {url}",
        named(task)
    )))
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
        TaskState::Succeeded if task.spec.kind == TaskKind::Orchestrator => return None,
        TaskState::Succeeded => "Done",
        TaskState::Todo
        | TaskState::Starting { .. }
        | TaskState::Running { .. }
        | TaskState::Seeking { .. }
        | TaskState::Judging
        | TaskState::Approved { .. }
        | TaskState::Merging { .. }
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
        RoundOutcome::Succeeded if issue.tasks.iter().all(Task::achieved) => {
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
        .tasks
        .iter()
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
            (None, Some(pull)) => format!("{} [#{}]({})", task.word(), pull.number, pull.url),
            (None, None) => task.word().to_owned(),
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
            task.attempt,
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

// ───────────────────────────── to people, of the log ─────────────────────────────

/// One sentence about an event, for the timeline.
pub fn sentence(event: &Event) -> String {
    match event {
        Event::Opened(opening) => {
            format!("{} was handed over: {}", opening.identifier, opening.title)
        }
        Event::Prompted { text, .. } => format!("a person wrote: {}", clip(&one_line(text), 200)),
        Event::Reopened { text, .. } => {
            format!("a person opened it again: {}", clip(&one_line(text), 200))
        }
        Event::Deferred { text, .. } => match text {
            Some(text) => format!(
                "a person wrote, for the next round: {}",
                clip(&one_line(text), 200)
            ),
            None => "a person opened it again, for the next round".into(),
        },
        Event::TakenUp => "what was put off is taken up in a new round".into(),
        Event::CancelAsked { why, .. } => match why {
            CancelReason::Stop => "a person asked to stop".into(),
            CancelReason::Undelegated { .. } => "the issue was taken away from the app".into(),
            CancelReason::State(kind) => format!("the issue was moved to a state of type {kind}"),
            CancelReason::Removed => "the issue was removed".into(),
            CancelReason::Command => "an operator cancelled it".into(),
        },
        Event::Briefed(briefing) => format!(
            "the issue was read; it belongs to the repository `{}`, strategy {}",
            briefing.policy.repository.id, briefing.policy.strategy
        ),
        Event::Unserved { why } => format!("it cannot be worked on: {why}"),
        Event::Laid { tasks } => format!("the work begins with {}", ids(tasks)),
        Event::Planned { tasks, .. } => format!("the plan was accepted: {}", ids(tasks)),
        Event::PlanRejected { why } => format!("the plan was refused: {why}"),
        Event::Held {
            task,
            why: Some(why),
        } => format!("`{task}` waits: {why}"),
        Event::Held { task, why: None } => format!("nothing holds `{task}` up any more"),
        Event::Forecast(forecast) => format!("expected: {}", forecast_words(forecast)),
        Event::ApprovalAsked => "a person was asked to approve".into(),
        Event::Answered { text, .. } => {
            format!("a person answered: {}", clip(&one_line(text), 200))
        }
        Event::PlanApproved => "it was approved".into(),
        Event::ChangeAsked { .. } => "it is planned again, as a person asked".into(),
        Event::Waits { why, .. } => format!("it waits: {why}"),
        Event::Resumed { on } => format!("it waits no more {}", wait_words(*on)),
        Event::Raised { scope, usd, .. } => {
            format!("a person raised the limit of the {scope} to ${usd:.2}")
        }
        Event::Alerted { scope, percent, .. } => {
            format!("{percent} % of the limit of the {scope} are spent")
        }
        Event::Interrupted { task } => format!("the run of `{task}` is stopped by an operator"),
        Event::Routed {
            task,
            executor,
            why,
            ..
        } => format!("`{task}` goes to {executor}: {why}"),
        Event::Requested(effect) => format!("to do: {}", effect_words(effect)),
        Event::Claimed { key, until } => format!("#{key} is being done (claimed until {until})"),
        Event::Performed { key, .. } => format!("#{key} is done"),
        Event::Faulted {
            key,
            fault,
            retry_at,
        } => format!("#{key} went wrong, next try at {retry_at}: {fault}"),
        Event::Searched { key, certain: true } => {
            format!("#{key} was looked for: it never happened")
        }
        Event::Searched {
            key,
            certain: false,
        } => format!("#{key} was looked for and not found"),
        Event::GaveUp { key, why } => format!("#{key} was given up: {why}"),
        Event::Began { task } => format!("the run of `{task}` works now"),
        Event::Overran { task } => format!("the run of `{task}` takes too long"),
        Event::Ended {
            task,
            ending,
            cost_usd,
            cost_is_estimate,
        } => {
            let mark = if *cost_is_estimate {
                ", an estimate"
            } else {
                ""
            };
            match &ending.result {
                Ok(_) => format!("the run of `{task}` ended well (${cost_usd:.2}{mark})"),
                Err(failure) => format!(
                    "the run of `{task}` failed: {} (${cost_usd:.2}{mark})",
                    failure.message
                ),
            }
        }
        Event::Retried { task, why, .. } => format!("`{task}` is tried again: {why}"),
        Event::HeadSeen {
            task, number, sha, ..
        } => {
            format!(
                "pull request #{number} of `{task}` stands at {}",
                short(sha)
            )
        }
        Event::Approved { task, sha, why } => {
            format!("{} of `{task}` may be merged: {why}", short(sha))
        }
        Event::Readied { task } => format!("`{task}` waits for a person's merge"),
        Event::Merged { task, sha } => format!("`{task}` is merged as {}", short(sha)),
        Event::Settled { task, verdict, why } => format!("`{task}` {verdict}: {why}"),
        Event::Reported => "the people were told how it stands".into(),
        Event::Done { outcome } => format!("the round ended: {outcome}"),
    }
}

/// The same for an operator's log: no text of the issue, of people or of agents
/// stands in it.
pub fn plain(event: &Event) -> String {
    match event {
        Event::Opened(opening) => format!("{} was handed over", opening.identifier),
        Event::Prompted { .. } => "a person wrote".into(),
        Event::Reopened { .. } => "a person opened it again".into(),
        Event::Deferred { .. } => "a person came back, for the next round".into(),
        Event::PlanRejected { .. } => "the plan was refused".into(),
        Event::Answered { .. } => "a person answered".into(),
        Event::Requested(Effect::Say { activity, .. }) => match activity {
            Activity::Thought(_) | Activity::Action { .. } => "to do: say something".into(),
            Activity::Elicitation { .. } => "to do: ask".into(),
            Activity::Response(_) => "to do: answer".into(),
            Activity::Error(_) => "to do: report".into(),
        },
        Event::Ended {
            task,
            ending: Ending {
                result: Err(failure),
                ..
            },
            cost_usd,
            ..
        } => format!(
            "the run of `{task}` failed: {} (${cost_usd:.2})",
            failure.class
        ),
        Event::Retried { task, .. } => format!("`{task}` is tried again"),
        Event::Settled { task, verdict, .. } => format!("`{task}` {verdict}"),
        Event::TakenUp
        | Event::CancelAsked { .. }
        | Event::Briefed(_)
        | Event::Unserved { .. }
        | Event::Laid { .. }
        | Event::Planned { .. }
        | Event::Forecast(_)
        | Event::ApprovalAsked
        | Event::PlanApproved
        | Event::ChangeAsked { .. }
        | Event::Waits { .. }
        | Event::Resumed { .. }
        | Event::Raised { .. }
        | Event::Alerted { .. }
        | Event::Interrupted { .. }
        | Event::Held { .. }
        | Event::Routed { .. }
        | Event::Requested(_)
        | Event::Claimed { .. }
        | Event::Performed { .. }
        | Event::Faulted { .. }
        | Event::Searched { .. }
        | Event::GaveUp { .. }
        | Event::Began { .. }
        | Event::Overran { .. }
        | Event::Ended { .. }
        | Event::HeadSeen { .. }
        | Event::Approved { .. }
        | Event::Readied { .. }
        | Event::Merged { .. }
        | Event::Reported
        | Event::Done { .. } => sentence(event),
    }
}

fn effect_words(effect: &Effect) -> String {
    match effect {
        Effect::Fetch => "read the issue".into(),
        Effect::Say { activity, .. } => match activity {
            Activity::Thought(text) => format!("say: {}", first_line(text)),
            Activity::Action {
                action, parameter, ..
            } => format!("say: {action}, {parameter}"),
            Activity::Elicitation { question, .. } => format!("ask: {}", first_line(question)),
            Activity::Response(text) => format!("answer: {}", first_line(text)),
            Activity::Error(text) => format!("report: {}", first_line(text)),
        },
        Effect::ShowPlan { .. } => "show the plan".into(),
        Effect::Link { label, .. } => format!("link {label}"),
        Effect::Move { to } => format!("move the issue to {to}"),
        Effect::Start {
            task,
            attempt,
            executor,
            reserved,
        } => {
            let reserved =
                reserved.map_or(String::new(), |it| format!(", ${:.2} set aside", it.usd));
            format!("start `{task}` on {executor} (attempt {attempt}{reserved})")
        }
        Effect::Stop { task, run, .. } => format!("stop the run {run} of `{task}`"),
        Effect::Tell { task, .. } => format!("tell the run of `{task}` what was written"),
        Effect::Merge { task, number, sha } => {
            format!("merge #{number} of `{task}` at {}", short(sha))
        }
    }
}

fn first_line(text: &str) -> String {
    clip(text.lines().next().unwrap_or_default(), 200)
}

fn ids(tasks: &[Spec]) -> String {
    tasks
        .iter()
        .map(|it| format!("`{}`", it.id))
        .collect::<Vec<_>>()
        .join(", ")
}

/// What the list shows of an issue that was parked.
pub fn parked(issue: &IssueId, why: &str) -> String {
    format!("{why}: an operator has to run `cyrus repair {issue}`")
}
