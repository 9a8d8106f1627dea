//! `GET /api/v1/issues/{issue}/explain`: why each decision was taken, as the log
//! tells it. What only carries decisions out is left to the log itself.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::issue::{Effect, Event, Record, Reservation, Seq, TaskId, TaskKind, Then, Time, words};

/// The decisions of an issue, oldest first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExplainDoc {
    pub decisions: Vec<Decision>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    pub at: Time,
    /// `task api`, or `issue`.
    pub about: String,
    /// An executor's name, or what is done: `wait`, `start`, `merge`, …
    pub decision: String,
    /// One sentence.
    pub because: String,
}

/// Tells the decisions from the records of an issue, from the first one on.
pub fn explain(records: &[Record]) -> ExplainDoc {
    let mut starts = BTreeMap::new();
    let mut decisions = Vec::new();
    for record in records {
        let Record { seq, at, event } = record;
        if let Event::Requested(Effect::Start { task, .. }) = event {
            starts.insert(*seq, task);
        }
        let Some((decision, because)) = decided(event, &starts) else {
            continue;
        };
        let given_up = match event {
            Event::GaveUp { key, .. } => starts.get(key).copied(),
            _ => None,
        };
        let about = event.task().or(given_up);
        decisions.push(Decision {
            at: *at,
            about: about.map_or("issue".into(), |task| format!("task {task}")),
            decision: decision.into(),
            because,
        });
    }
    ExplainDoc { decisions }
}

/// What was decided, and why; `None`: it is no decision of its own.
fn decided(event: &Event, starts: &BTreeMap<Seq, &TaskId>) -> Option<(&'static str, String)> {
    let plain = |decision| Some((decision, words::sentence(event)));
    match event {
        Event::Briefed(_) => plain("serve"),
        Event::Unserved { why } => Some(("refuse", why.clone())),
        Event::Laid { tasks } => {
            let planned = tasks.iter().any(|it| it.kind == TaskKind::Orchestrator);
            let given = tasks.iter().any(|it| it.issue.is_some());
            plain(match (planned, given) {
                (true, _) => "plan",
                (false, true) => "the sub-issues are the plan",
                (false, false) => "one task",
            })
        }
        Event::Planned { .. } => plain("accept the plan"),
        Event::PlanRejected { why } => Some(("refuse the plan", why.clone())),
        Event::Forecast(_) => plain("forecast"),
        Event::ApprovalAsked => plain("ask for approval"),
        Event::PlanApproved => plain("begin"),
        Event::ChangeAsked { .. } => plain("plan again"),
        Event::Renewed { .. } => plain("retry"),
        Event::CancelAsked { .. } => plain("cancel"),
        Event::Waits { why, .. } => Some(("wait", why.clone())),
        Event::Resumed { .. } => plain("go on"),
        Event::Raised { .. } => plain("raise the limit"),
        Event::Alerted { .. } => plain("alert"),
        Event::Held { why: Some(why), .. } => Some(("wait", why.clone())),
        Event::Held { why: None, .. } => plain("go on"),
        Event::Routed { executor, why, .. } => Some((executor.word(), why.clone())),
        Event::Requested(effect) => requested(effect),
        Event::GaveUp { key, why } => starts
            .contains_key(key)
            .then(|| ("give the start up", why.clone())),
        Event::Overran { .. } | Event::Interrupted { .. } => plain("stop"),
        Event::Ended { .. } => plain("book"),
        Event::Retried { why, .. } => Some(("try again", why.clone())),
        Event::Summoned { .. } => plain("ask for a judgement"),
        Event::Judged { finding, .. } => plain(if finding.approves { "accept" } else { "refuse" }),
        Event::Rejected { why, then, .. } => Some(match then {
            Then::Mend { .. } => ("send it back", why.clone()),
            Then::Afresh => ("begin afresh", why.clone()),
        }),
        Event::Approved { why, .. } => Some(("allow the merge", why.clone())),
        Event::Readied { .. } => plain("wait"),
        Event::Reconsidered { .. } => plain("judge again"),
        Event::Merged { .. } => plain("merge"),
        Event::Settled { verdict, why, .. } => Some((verdict.word(), why.clone())),
        Event::Done { outcome } => Some((outcome.word(), words::sentence(event))),
        // What people do, and what carries out what was decided.
        Event::Opened(_)
        | Event::Prompted { .. }
        | Event::Reopened { .. }
        | Event::Deferred { .. }
        | Event::TakenUp
        | Event::Answered { .. }
        | Event::Claimed { .. }
        | Event::Performed { .. }
        | Event::Faulted { .. }
        | Event::Searched { .. }
        | Event::Began { .. }
        | Event::HeadSeen { .. }
        | Event::Reported => None,
    }
}

fn requested(effect: &Effect) -> Option<(&'static str, String)> {
    match effect {
        Effect::Start {
            attempt,
            reserved,
            repair,
            ..
        } => {
            let money = reserved.as_ref().map_or_else(
                || "nothing limits what it may cost".into(),
                |Reservation { usd, day, .. }| {
                    format!("${usd:.2} are set aside for it, on the account of {day} (UTC)")
                },
            );
            Some(if *repair {
                ("mend", format!("what attempt {attempt} has made: {money}"))
            } else {
                ("start", format!("attempt {attempt}: {money}"))
            })
        }
        // The event before says why.
        Effect::Stop { .. } | Effect::Merge { .. } => None,
        Effect::Update { sha, .. } => Some((
            "bring up to date",
            format!("its base branch has moved since {}", words::short(sha)),
        )),
        Effect::Close { why, .. } => Some(("close the pull request", why.clone())),
        Effect::Fetch
        | Effect::Say { .. }
        | Effect::ShowPlan { .. }
        | Effect::Link { .. }
        | Effect::Move { .. }
        | Effect::Tell { .. }
        | Effect::Prune { .. } => None,
    }
}
