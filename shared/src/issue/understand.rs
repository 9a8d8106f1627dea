//! What an input means: facts are written down, and what follows from them for
//! the task in question. What must happen next is [`super::advance`]'s business.

use jiff::SignedDuration;

use super::evolve::backoff;
use super::plan::{self, PLAN};
use super::verdict::{self, Verdict};
use super::{
    Activity, BOUNCES_MAX, COST_USD_MAX, CancelReason, Draft, Effect, Ending, Event, ExecutorKind,
    Failure, FailureClass, Fault, HELD_SECONDS, HELD_TRIES, Input, LAST_WORD_TRIES_MAX, MergeMode,
    Opening, Outcome, PLAN_REJECTIONS_MAX, PULL_GRACE_SECONDS, PullFacts, REASON_BYTES_MAX, RunId,
    SAY_TRIES_MAX, Seq, Settled, Sight, Stage, StopReason, TRIES_MAX, TaskId, TaskKind, TaskState,
    Time, clip, words,
};

/// How long to wait when the other side asks to wait and doesn't say how long.
const BUSY_PAUSE_SECONDS: i64 = 10;
/// A run that its executor does not know is believed to be gone after this long.
const GONE_GRACE_SECONDS: i64 = 60;
/// No answer makes us wait longer than this.
const BUSY_PAUSE_SECONDS_MAX: i64 = 3_600;

pub(super) fn understand(draft: &mut Draft, input: Input) {
    match input {
        Input::Opened(opening) => opened(draft, opening),
        Input::Prompted {
            opening,
            activity,
            text,
            at,
        } => prompted(draft, opening, activity, text, at),
        Input::Cancelled { why, at } => cancelled(draft, why, at),
        Input::Performed { key, outcome } => performed(draft, key, outcome),
        Input::Faulted { key, claim, fault } => {
            if is_holder(draft, key, claim) {
                faulted(draft, key, fault);
            }
        }
        Input::Absent {
            key,
            claim,
            certain,
        } => {
            if is_holder(draft, key, claim) {
                absent(draft, key, certain);
            }
        }
        Input::SawRun { task, run, sight } => saw_run(draft, &task, &run, sight),
        Input::SawPull { task, facts } => saw_pull(draft, &task, facts),
        Input::Unseen { task, since, fault } => {
            let blind = draft.now.duration_since(since).as_secs();
            if blind >= HELD_SECONDS && draft.issue.task(&task).is_some_and(|it| !it.over()) {
                let why = format!("it cannot be looked at ({fault})");
                hold(draft, &task, Some(why));
            }
        }
        Input::Tick => {}
    }
}

fn opened(draft: &mut Draft, opening: Opening) {
    if draft.issue.seen.contains(&opening.session.0) {
        return;
    }
    let session = opening.session.clone();
    let issue = &draft.issue;
    if issue.active() && issue.cancelled.is_some() {
        let text = words::deferred(issue);
        draft.emit(Event::Deferred {
            session: session.clone(),
            activity: None,
            text: None,
            at: opening.at,
        });
        draft.request(Effect::Say {
            session,
            activity: Activity::Thought(text),
        });
        return;
    }
    let (under_way, reported) = (issue.active(), issue.active() && issue.reported);
    draft.emit(Event::Opened(opening));
    let activity = match (under_way, reported) {
        (_, true) => words::report(&draft.issue),
        (true, false) => Activity::Thought(words::joined(&draft.issue)),
        (false, false) => Activity::Thought(words::greeting(&draft.issue)),
    };
    draft.request(Effect::Say {
        session: session.clone(),
        activity,
    });
    let pulls: Vec<_> = draft
        .issue
        .tasks
        .iter()
        .filter_map(|it| Some((it.spec.id.clone(), it.pull.clone()?)))
        .collect();
    for (task, pull) in pulls {
        let label = words::pull_label(&task, pull.number);
        draft.request(Effect::Link {
            session: session.clone(),
            label,
            url: pull.url,
        });
    }
}

fn prompted(draft: &mut Draft, opening: Opening, activity: String, text: String, at: Time) {
    if draft.issue.seen.contains(&activity) {
        return;
    }
    if draft.issue.round == 0 {
        // The delivery that opened the session has not arrived, and may never.
        opened(draft, opening.clone());
    }
    let session = opening.session;
    let issue = &draft.issue;
    if !issue.active() {
        draft.emit(Event::Reopened {
            session,
            activity,
            text,
            at,
        });
        draft.say(Activity::Thought(words::greeting(&draft.issue)));
    } else if issue.cancelled.is_some() || issue.reported {
        let answer = words::deferred(issue);
        draft.emit(Event::Deferred {
            session: session.clone(),
            activity: Some(activity),
            text: Some(text),
            at,
        });
        draft.request(Effect::Say {
            session,
            activity: Activity::Thought(answer),
        });
    } else {
        draft.emit(Event::Prompted {
            session: session.clone(),
            activity,
            text,
        });
        let activity = Activity::Thought(words::noted(&draft.issue));
        draft.request(Effect::Say { session, activity });
    }
}

fn cancelled(draft: &mut Draft, why: CancelReason, at: Time) {
    let issue = &draft.issue;
    // An old wish that arrives late must not stop a round that was opened after it.
    if !issue.active() || issue.cancelled.is_some() || at < issue.round_opened_at {
        return;
    }
    if let (CancelReason::Undelegated { from: Some(from) }, Some(ours)) = (&why, &issue.app_user)
        && from != ours
    {
        return;
    }
    draft.emit(Event::CancelAsked { why });
}

fn performed(draft: &mut Draft, key: Seq, outcome: Outcome) {
    let Some(owed) = draft.issue.owed.get(&key) else {
        performed_late(draft, key, outcome);
        return;
    };
    let effect = owed.effect.clone();
    match (effect, outcome) {
        (Effect::Fetch, Outcome::Briefed(briefing)) => {
            draft.emit(Event::Performed {
                key,
                outcome: Outcome::Done,
            });
            draft.emit(Event::Briefed(briefing));
            if draft.issue.cancelled.is_none() {
                draft.request(Effect::Move { to: Stage::Started });
            }
        }
        (Effect::Fetch, Outcome::Unserved(why)) => {
            draft.emit(Event::Performed {
                key,
                outcome: Outcome::Done,
            });
            draft.emit(Event::Unserved {
                why: clip(&why, REASON_BYTES_MAX),
            });
        }
        (Effect::Start { task, .. }, outcome @ Outcome::Started { .. }) => {
            draft.emit(Event::Performed { key, outcome });
            if draft.issue.cancelled.is_none() {
                tell(draft, words::started(&draft.issue, &task));
            }
        }
        (Effect::Merge { task, .. }, Outcome::Merged { sha }) => {
            draft.emit(Event::Performed {
                key,
                outcome: Outcome::Done,
            });
            merged(draft, &task, sha);
        }
        (Effect::Merge { task, .. }, Outcome::HeadMoved) => {
            draft.emit(Event::Performed {
                key,
                outcome: Outcome::HeadMoved,
            });
            if draft
                .issue
                .task(&task)
                .is_some_and(|it| it.bounces >= BOUNCES_MAX)
            {
                let why =
                    "GitHub says again and again that its head moved, and it has not".to_owned();
                settle(draft, &task, Settled::Failed, why);
            }
        }
        (Effect::Merge { task, .. }, Outcome::MergeRefused { why }) => {
            draft.emit(Event::Performed {
                key,
                outcome: Outcome::MergeRefused { why: why.clone() },
            });
            settle(
                draft,
                &task,
                Settled::Failed,
                format!("GitHub refused the merge: {why}"),
            );
        }
        (_, outcome) => draft.emit(Event::Performed { key, outcome }),
    }
}

/// The answer of a call that was given up for lost. A run that came of it is
/// nobody's: it must not live.
fn performed_late(draft: &mut Draft, key: Seq, outcome: Outcome) {
    let Outcome::Started { run, .. } = outcome else {
        return;
    };
    let Some((task, executor)) = draft.issue.starts.get(&key).cloned() else {
        return;
    };
    let ours = draft.issue.task(&task).is_some_and(
        |task| matches!(&task.state, TaskState::Running { run: known, .. } if *known == run),
    );
    let stopping =
        draft.issue.owed.values().any(
            |owed| matches!(&owed.effect, Effect::Stop { run: stopped, .. } if *stopped == run),
        );
    let known = draft.issue.runs.contains(&run);
    if !ours && !stopping && !known {
        draft.request(Effect::Stop {
            task,
            executor,
            run,
        });
    }
}

/// Is the effect still claimed by whom we hear of?
fn is_holder(draft: &Draft, key: Seq, claim: Seq) -> bool {
    let held = draft.issue.owed.get(&key).and_then(|owed| owed.claimed);
    held.is_some_and(|it| it.seq == claim)
}

fn faulted(draft: &mut Draft, key: Seq, fault: Fault) {
    let Some(owed) = draft.issue.owed.get(&key) else {
        return;
    };
    let effect = owed.effect.clone();
    let (tries, doubtful, withdrawn) = (owed.tries + 1, owed.doubt.is_some(), owed.withdrawn);
    let (hopeless, why) = match &fault {
        Fault::Permanent {
            class: FailureClass::Auth | FailureClass::Quota,
            why,
        } => (false, why),
        Fault::Permanent { class: _, why } => (true, why),
        Fault::Transient { why } | Fault::Busy { why, .. } | Fault::Ambiguous { why } => {
            (false, why)
        }
    };
    let why = clip(why, REASON_BYTES_MAX);
    let refused = matches!(fault, Fault::Permanent { .. });
    let busy = matches!(fault, Fault::Busy { .. });
    let worn_out = |max: u32| hopeless || (!busy && tries >= max);
    let give_up = match &effect {
        Effect::Say {
            activity: Activity::Response(_) | Activity::Error(_),
            ..
        }
        | Effect::Fetch => worn_out(LAST_WORD_TRIES_MAX),
        Effect::ShowPlan { .. } | Effect::Link { .. } | Effect::Move { .. } => {
            worn_out(LAST_WORD_TRIES_MAX)
        }
        Effect::Say {
            activity: Activity::Thought(_) | Activity::Action { .. },
            ..
        } => worn_out(SAY_TRIES_MAX),
        // Whether a run exists has to be found out, however long it takes.
        Effect::Start { .. } if doubtful => false,
        Effect::Start { .. } => match fault {
            Fault::Permanent { .. } => true,
            Fault::Ambiguous { .. } => false,
            Fault::Transient { .. } => withdrawn || worn_out(TRIES_MAX),
            Fault::Busy { .. } => withdrawn,
        },
        // An outage or a token that is not good is no verdict on the commit.
        Effect::Merge { .. } => hopeless || (withdrawn && worn_out(TRIES_MAX)),
        // What is not stopped costs money.
        Effect::Stop { .. } => false,
    };
    if !give_up {
        let pause = match &fault {
            Fault::Busy {
                retry_after_seconds,
                ..
            } => {
                let seconds = retry_after_seconds.map_or(BUSY_PAUSE_SECONDS, i64::from);
                SignedDuration::from_secs(seconds.clamp(1, BUSY_PAUSE_SECONDS_MAX))
            }
            Fault::Transient { .. } | Fault::Ambiguous { .. } | Fault::Permanent { .. } => {
                backoff(tries - 1, key)
            }
        };
        let retry_at = draft.now + pause;
        draft.emit(Event::Faulted {
            key,
            fault,
            retry_at,
        });
        if let Effect::Start { task, .. } | Effect::Merge { task, .. } | Effect::Stop { task, .. } =
            &effect
            && !busy
            && (refused || tries >= HELD_TRIES)
        {
            let why = words::not_made(&effect, &why);
            hold(draft, task, Some(why));
        }
        return;
    }
    draft.emit(Event::GaveUp {
        key,
        why: why.clone(),
    });
    match effect {
        Effect::Fetch => draft.emit(Event::Unserved { why }),
        Effect::Start { task, .. } if !withdrawn => {
            settle(
                draft,
                &task,
                Settled::Failed,
                format!("its run could not be started: {why}"),
            );
        }
        Effect::Merge { task, .. } if !withdrawn => {
            settle(
                draft,
                &task,
                Settled::Failed,
                format!("it could not be merged: {why}"),
            );
        }
        Effect::Start { .. }
        | Effect::Merge { .. }
        | Effect::Say { .. }
        | Effect::ShowPlan { .. }
        | Effect::Link { .. }
        | Effect::Move { .. }
        | Effect::Stop { .. } => {}
    }
}

fn absent(draft: &mut Draft, key: Seq, certain: bool) {
    draft.emit(Event::Searched { key, certain });
    let settled = draft
        .issue
        .owed
        .get(&key)
        .is_some_and(|owed| owed.withdrawn && owed.doubt.is_none());
    if settled {
        draft.emit(Event::GaveUp {
            key,
            why: "it is not wanted any more".into(),
        });
    }
}

fn saw_run(draft: &mut Draft, id: &TaskId, run: &RunId, sight: Sight) {
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
    hold(draft, id, None);
    match sight {
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
    let (kind, executor) = (task.spec.kind, task.executor);
    let mut ending = ending;
    if let Ok(result) = &mut ending.result {
        result.text = clip(&result.text, super::TEXT_BYTES_MAX);
    }
    if let Err(failure) = &mut ending.result {
        failure.message = clip(&failure.message, REASON_BYTES_MAX);
    }
    let (cost_usd, cost_is_estimate) = book(draft, ending.cost_usd, executor);
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
        settle(
            draft,
            id,
            Settled::Cancelled,
            words::cancelled(&draft.issue),
        );
        return;
    }
    match result {
        Ok(result) => match kind {
            TaskKind::Orchestrator => planned(draft, result.answer.as_deref()),
            TaskKind::Scoper | TaskKind::Reviewer => {
                settle(draft, id, Settled::Succeeded, "it has answered".into());
            }
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

fn book(draft: &Draft, reported: Option<f64>, executor: Option<ExecutorKind>) -> (f64, bool) {
    let policy = draft.issue.policy.as_ref();
    match reported.filter(|usd| (0.0..=COST_USD_MAX).contains(usd)) {
        Some(usd) => (usd, false),
        // Codegen reports nothing: a run is booked at a flat price.
        None if executor == Some(ExecutorKind::Codegen) => {
            (policy.map_or(0.0, |it| it.cost_per_run), true)
        }
        // What is not known counts as all that it may have cost.
        None => (
            policy.and_then(|it| it.cost_per_task_max).unwrap_or(0.0),
            true,
        ),
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

/// A run failed: once more, or the task has failed.
fn failed(draft: &mut Draft, id: &TaskId, failure: Failure) {
    let Some(task) = draft.issue.task(id) else {
        return;
    };
    let attempts_max = draft.issue.policy.as_ref().map_or(1, |it| it.attempts_max);
    if failure.class.worth_another_run() && task.attempt < attempts_max {
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

fn saw_pull(draft: &mut Draft, id: &TaskId, facts: Option<PullFacts>) {
    let (Some(task), Some(policy)) = (draft.issue.task(id), draft.issue.policy.clone()) else {
        return;
    };
    let since = match &task.state {
        TaskState::Seeking { since } => Some(*since),
        TaskState::Judging | TaskState::Approved { .. } | TaskState::Ready => None,
        TaskState::Todo
        | TaskState::Starting { .. }
        | TaskState::Running { .. }
        | TaskState::Merging { .. }
        | TaskState::Merged
        | TaskState::Succeeded
        | TaskState::Failed
        | TaskState::Skipped
        | TaskState::Cancelled => return,
    };
    let Some(facts) = facts else {
        let waited = since.map(|since| draft.now.duration_since(since).as_secs());
        if waited.is_some_and(|it| it >= PULL_GRACE_SECONDS) {
            let message = words::no_pull(&draft.issue, id);
            failed(
                draft,
                id,
                Failure {
                    class: FailureClass::Agent,
                    message,
                },
            );
        }
        return;
    };
    let known = task.pull.as_ref().filter(|pull| pull.sha == facts.head_sha);
    let (is_new, seen) = (known.is_none(), known.map_or(draft.now, |pull| pull.seen));
    let first_sight = task.pull.is_none();
    let marker = words::marker(&draft.issue, id);
    let verdict = verdict::judge(&facts, task, &marker, &policy, seen, draft.now);
    if let Verdict::Foreign(why) = verdict {
        settle(
            draft,
            id,
            Settled::Failed,
            format!("its pull request is not ours: {why}"),
        );
        return;
    }
    if is_new {
        draft.emit(Event::HeadSeen {
            task: id.clone(),
            number: facts.number,
            url: facts.url.clone(),
            branch: facts.head_branch.clone(),
            sha: facts.head_sha.clone(),
        });
    }
    if first_sight {
        let label = words::pull_label(id, facts.number);
        for session in draft.issue.sessions.clone() {
            draft.request(Effect::Link {
                session,
                label: label.clone(),
                url: facts.url.clone(),
            });
        }
    }
    let judging = draft
        .issue
        .task(id)
        .is_some_and(|it| it.state == TaskState::Judging);
    match verdict {
        Verdict::Merged => merged(draft, id, facts.head_sha),
        Verdict::Closed => {
            settle(
                draft,
                id,
                Settled::Cancelled,
                format!("{} was closed without a merge", facts.url),
            );
        }
        // What waits for a person is that person's to judge.
        Verdict::Red(why)
            if draft
                .issue
                .task(id)
                .is_some_and(|it| it.state != TaskState::Ready) =>
        {
            settle(draft, id, Settled::Failed, why);
        }
        Verdict::Green(why) if judging => {
            draft.emit(Event::Approved {
                task: id.clone(),
                sha: facts.head_sha,
                why,
            });
            if policy.merge == MergeMode::Manual {
                draft.emit(Event::Readied { task: id.clone() });
                tell(draft, words::ready(&draft.issue, id));
            }
        }
        Verdict::Wait(why) if draft.now.duration_since(seen).as_secs() >= HELD_SECONDS => {
            hold(draft, id, Some(why));
        }
        Verdict::Wait(_) => hold(draft, id, None),
        Verdict::Red(_) | Verdict::Green(_) | Verdict::Foreign(_) => {}
    }
}

fn merged(draft: &mut Draft, id: &TaskId, sha: String) {
    draft.emit(Event::Merged {
        task: id.clone(),
        sha,
    });
    tell(draft, words::merged(&draft.issue, id));
}

pub(super) fn settle(draft: &mut Draft, id: &TaskId, verdict: Settled, why: String) {
    let why = clip(&why, REASON_BYTES_MAX);
    draft.emit(Event::Settled {
        task: id.clone(),
        verdict,
        why,
    });
    if draft.issue.cancelled.is_none() {
        tell(draft, words::settled(&draft.issue, id));
    }
}

/// Tells people what holds a task up, once, or forgets it.
fn hold(draft: &mut Draft, id: &TaskId, why: Option<String>) {
    let held = draft.issue.task(id).is_some_and(|it| it.held.is_some());
    if held == why.is_some() {
        return;
    }
    let why = why.map(|it| clip(&it, REASON_BYTES_MAX));
    draft.emit(Event::Held {
        task: id.clone(),
        why: why.clone(),
    });
    if let Some(why) = why.filter(|_| draft.issue.cancelled.is_none()) {
        tell(draft, words::held(&draft.issue, id, &why));
    }
}

/// Says something in passing, if the team wants to hear such things.
fn tell(draft: &mut Draft, activity: Option<Activity>) {
    // After the last word Linear would show the session at work again.
    if let Some(activity) = activity.filter(|_| !draft.issue.reported) {
        draft.say(activity);
    }
}
