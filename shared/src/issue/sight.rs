//! What a look shows of runs, and what that means. Of pull requests: [`super::validate`].

use super::evolve::backoff;
use super::judges::found;
use super::plan::{self, PLAN};
use super::review;
use super::understand::{hold, settle, tell};
use super::validate::begin_afresh;
use super::{
    COST_USD_MAX, Draft, Ending, Event, Failure, FailureClass, HELD_SECONDS, LOG_BYTES_MAX,
    PLAN_REJECTIONS_MAX, REASON_BYTES_MAX, RESUME_GRACE_SECONDS, Reservation, RunId, Settled,
    Sight, StopReason, TaskId, TaskKind, TaskState, clip, words,
};

/// A run that its executor does not know is believed to be gone after this long.
const GONE_GRACE_SECONDS: i64 = 60;

pub(super) fn saw_run(draft: &mut Draft, id: &TaskId, run: &RunId, sight: Sight) {
    let Some(task) = draft.issue.task(id) else {
        return;
    };
    let TaskState::Running {
        run: ours,
        since,
        begun,
        stopping,
    } = &task.state
    else {
        return;
    };
    if ours != run {
        return;
    }
    let (since, begun, stopping) = (*since, *begun, *stopping);
    let stale = task.resumed
        && begun.is_none()
        && draft.now.duration_since(since).as_secs() < RESUME_GRACE_SECONDS;
    // What holds up its end is not over because it can be seen to work.
    if stopping.is_none() {
        let waits = draft.now.duration_since(since).as_secs() >= HELD_SECONDS
            && matches!(sight, Sight::Waiting);
        hold(draft, id, waits.then(|| words::NO_RUNNER.to_owned()));
    }
    match sight {
        // It has just been gone on with: this is how it ended before.
        Sight::Ended(_) if stale => {}
        // What was made a moment ago may not have reached every reader over there.
        Sight::Gone if draft.now.duration_since(since).as_secs() < GONE_GRACE_SECONDS => {}
        Sight::Waiting => {}
        Sight::Working if begun.is_none() => draft.emit(Event::Began { task: id.clone() }),
        Sight::Working => {}
        Sight::Gone => {
            let message = "the executor does not know its run any more".to_owned();
            let failure = Failure {
                class: FailureClass::Lost,
                message,
            };
            let ending = Ending {
                result: Err(failure),
                cost_usd: None,
                cost_is_estimate: false,
            };
            ended(draft, id, ending, stopping.map(|it| it.reason));
        }
        Sight::Ended(ending) => ended(draft, id, ending, stopping.map(|it| it.reason)),
    }
}

/// A run is over: its cost is booked, and its result is looked into.
pub(super) fn ended(draft: &mut Draft, id: &TaskId, ending: Ending, stopped: Option<StopReason>) {
    let Some(task) = draft.issue.task(id) else {
        return;
    };
    let (kind, reserved) = (task.spec.kind, task.reserved);
    let mut ending = ending;
    if let Ok(result) = &mut ending.result {
        result.text = clip(&result.text, super::TEXT_BYTES_MAX);
    }
    if let Err(failure) = &mut ending.result {
        let max = match kind {
            TaskKind::Verifier => LOG_BYTES_MAX,
            _ => REASON_BYTES_MAX,
        };
        failure.message = clip(&failure.message, max);
    }
    let (cost_usd, cost_is_estimate) = book(&ending, reserved.as_ref());
    // The answer is written once, where the plan is; here it would be written twice.
    let result = ending.result.clone();
    if let Ok(result) = &mut ending.result {
        result.answer = None;
    }
    draft.emit(Event::Ended {
        task: id.clone(),
        ending,
        cost_usd,
        cost_is_estimate,
    });
    if draft.issue.cancelled.is_some() {
        let why = match &result {
            // Nobody knows that it has stopped; people should.
            Err(failure) if failure.class == FailureClass::Lost => failure.message.clone(),
            Ok(_) | Err(_) => words::cancelled(&draft.issue),
        };
        settle(draft, id, Settled::Cancelled, why);
        return;
    }
    if result.as_ref().is_ok_and(|it| it.unheard) {
        tell(draft, words::unheard(&draft.issue, id));
    }
    match result {
        Ok(result) => match kind {
            TaskKind::Orchestrator => planned(draft, result.answer.as_deref()),
            TaskKind::Scoper => settle(draft, id, Settled::Succeeded, "it has answered".into()),
            TaskKind::Reviewer => reviewed(draft, id, result.answer.as_deref()),
            TaskKind::Verifier => found(draft, id, true, result.text),
            TaskKind::Builder | TaskKind::Debugger if result.changed == Some(false) => {
                let message = "the agent changed nothing".to_owned();
                failed(
                    draft,
                    id,
                    Failure {
                        class: FailureClass::Agent,
                        message,
                    },
                );
            }
            TaskKind::Builder | TaskKind::Debugger => {}
        },
        // One that nobody knows to be dead is not begun again just like that.
        Err(failure)
            if stopped == Some(StopReason::Paused) && failure.class != FailureClass::Lost =>
        {
            draft.emit(Event::Retried {
                task: id.clone(),
                not_before: draft.now,
                why: words::interrupted(),
            });
        }
        // What the commands say is a finding, and so is that they come to no end.
        Err(failure)
            if kind == TaskKind::Verifier
                && (stopped == Some(StopReason::Overran)
                    || matches!(failure.class, FailureClass::Agent | FailureClass::Timeout)) =>
        {
            let text = match stopped {
                Some(StopReason::Overran) => words::overran(&draft.issue),
                _ => failure.message,
            };
            found(draft, id, false, text);
        }
        Err(_) if stopped == Some(StopReason::Overran) => {
            let message = words::overran(&draft.issue);
            failed(
                draft,
                id,
                Failure {
                    class: FailureClass::Timeout,
                    message,
                },
            );
        }
        // An agent that answers with no plan has answered with a bad one.
        Err(failure) if kind == TaskKind::Orchestrator && failure.class == FailureClass::Agent => {
            plan_rejected(draft, &failure.message);
        }
        Err(failure) => failed(draft, id, failure),
    }
}

fn book(ending: &Ending, reserved: Option<&Reservation>) -> (f64, bool) {
    match ending
        .cost_usd
        .filter(|usd| (0.0..=COST_USD_MAX).contains(usd))
    {
        Some(usd) => (usd, ending.cost_is_estimate),
        // What is not known counts as all that it may have cost; for an executor
        // that reports nothing that is its flat price.
        None => (reserved.map_or(0.0, |it| it.usd), true),
    }
}

fn planned(draft: &mut Draft, answer: Option<&str>) {
    let id = TaskId::from(PLAN);
    let tasks_max = draft.issue.policy.as_ref().map_or(0, |it| it.tasks_max);
    let plan = match answer {
        Some(answer) => plan::parse(answer, tasks_max),
        None => Err(plan::PlanError::NotJson(
            "there was no structured answer".into(),
        )),
    };
    match plan {
        Ok(plan) => {
            draft.emit(Event::Planned {
                summary: plan.summary,
                tasks: plan.tasks,
            });
            settle(
                draft,
                &id,
                Settled::Succeeded,
                "the plan is accepted".into(),
            );
            tell(draft, words::planned(&draft.issue));
        }
        Err(error) => plan_rejected(draft, &error.to_string()),
    }
}

/// The answer was no plan: once more with the reason, or the plan has failed.
fn plan_rejected(draft: &mut Draft, why: &str) {
    let id = TaskId::from(PLAN);
    let why = clip(why, REASON_BYTES_MAX);
    let last = draft.issue.plan_rejections >= PLAN_REJECTIONS_MAX;
    draft.emit(Event::PlanRejected { why: why.clone() });
    if last {
        let why = format!("there is no usable plan: {why}");
        settle(draft, &id, Settled::Failed, why);
    } else {
        tell(draft, words::plan_rejected(&why));
        draft.emit(Event::Retried {
            task: id,
            not_before: draft.now,
            why,
        });
    }
}

/// What a reviewer has answered.
fn reviewed(draft: &mut Draft, id: &TaskId, answer: Option<&str>) {
    let review = match answer {
        Some(answer) => review::parse(answer),
        None => Err("there was no structured answer".into()),
    };
    match review {
        Ok((approves, text)) => {
            found(draft, id, approves, text);
            tell(draft, words::reviewed(&draft.issue, id));
        }
        Err(message) => failed(
            draft,
            id,
            Failure {
                class: FailureClass::Agent,
                message: clip(&message, REASON_BYTES_MAX),
            },
        ),
    }
}

/// A run failed: once more, or the task has failed.
pub(super) fn failed(draft: &mut Draft, id: &TaskId, failure: Failure) {
    let Some(task) = draft.issue.task(id) else {
        return;
    };
    let (attempts_max, repairs_max) = draft
        .issue
        .policy
        .as_ref()
        .map_or((1, 0), |it| (it.attempts_max, it.repairs_max));
    let mends = task.mend.is_some() && task.mending;
    let left = if mends {
        task.repairs < repairs_max
    } else {
        task.attempts() < attempts_max
    };
    if failure.class.worth_another_run() && mends && !left {
        let sha = task.rejected.clone().unwrap_or_default();
        let why = format!("its repair failed: {}", failure.message);
        begin_afresh(draft, id, &sha, why);
    } else if failure.class.worth_another_run() && left {
        let not_before = draft.now + backoff(task.attempt, draft.issue.seq);
        tell(draft, words::retried(&draft.issue, id, &failure));
        draft.emit(Event::Retried {
            task: id.clone(),
            not_before,
            why: failure.message,
        });
    } else {
        settle(draft, id, Settled::Failed, failure.message);
    }
}
