//! The log in sentences: for people, and for an operator's log.

use super::super::verdict::short;
use super::super::{Activity, CancelReason, Effect, Ending, Event, Spec, TaskId, Then, clip};
use super::merits::rejected;
use super::one_line;
use super::terms::{forecast_words, wait_words};

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
        Event::Renewed { tasks } if tasks.is_empty() => {
            "it is read again, as a person asked".into()
        }
        Event::Renewed { tasks } => {
            format!("fresh attempts for {}, as a person asked", task_ids(tasks))
        }
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
        Event::Summoned { task, sha, judge } => {
            format!("a {judge} is asked about {} of `{task}`", short(sha))
        }
        Event::Judged { task, finding } => {
            let opinion = if finding.approves {
                "accepts"
            } else {
                "does not accept"
            };
            format!(
                "`{task}` {opinion} {}: {}",
                short(&finding.sha),
                clip(&one_line(&finding.text), 500)
            )
        }
        Event::Rejected {
            task,
            sha,
            why,
            then,
        } => rejected(task, sha, why, matches!(then, Then::Mend { .. })),
        Event::Approved {
            task,
            sha,
            why,
            behind,
        } => {
            let once = if *behind {
                " once it is up to date"
            } else {
                ""
            };
            format!("{} of `{task}` may be merged{once}: {why}", short(sha))
        }
        Event::Readied { task, why: None } => format!("`{task}` waits for a person's merge"),
        Event::Readied {
            task,
            why: Some(why),
        } => format!("`{task}` waits for a person's merge: {why}"),
        Event::Reconsidered { task } => format!("`{task}` is judged again"),
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
        Event::Judged { task, finding } => {
            let opinion = if finding.approves {
                "accepts"
            } else {
                "does not accept"
            };
            format!("`{task}` {opinion} {}", short(&finding.sha))
        }
        Event::Rejected { task, sha, .. } => format!("{} of `{task}` is not accepted", short(sha)),
        Event::Readied { task, .. } => format!("`{task}` waits for a person's merge"),
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
        | Event::Renewed { .. }
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
        | Event::Summoned { .. }
        | Event::Approved { .. }
        | Event::Reconsidered { .. }
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
        Effect::Move { to, issue: None } => format!("move the issue to {to}"),
        Effect::Move { to, .. } => format!("move a sub-issue to {to}"),
        Effect::Start {
            task,
            attempt,
            executor,
            reserved,
            repair,
        } => {
            let what = if *repair { "mend" } else { "start" };
            let reserved =
                reserved.map_or(String::new(), |it| format!(", ${:.2} set aside", it.usd));
            format!("{what} `{task}` on {executor} (attempt {attempt}{reserved})")
        }
        Effect::Stop { task, run, .. } => format!("stop the run {run} of `{task}`"),
        Effect::Tell { task, .. } => format!("tell the run of `{task}` what was written"),
        Effect::Merge { task, number, sha } => {
            format!("merge #{number} of `{task}` at {}", short(sha))
        }
        Effect::Update { task, number, sha } => {
            format!("bring #{number} of `{task}` up to date from {}", short(sha))
        }
        Effect::Close { task, branch, .. } => {
            format!("close the pull request of `{task}` from `{branch}`")
        }
        Effect::Prune { branch, .. } => format!("delete the branch `{branch}`"),
    }
}

fn first_line(text: &str) -> String {
    clip(text.lines().next().unwrap_or_default(), 200)
}

fn ids(tasks: &[Spec]) -> String {
    task_ids(tasks.iter().map(|it| &it.id))
}

fn task_ids<'a>(tasks: impl IntoIterator<Item = &'a TaskId>) -> String {
    let ids: Vec<String> = tasks.into_iter().map(|it| format!("`{it}`")).collect();
    ids.join(", ")
}
