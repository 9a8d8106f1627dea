//! What an input means: facts are written down, and what follows from them for
//! the task in question. Here is what people do; what effects came to is in
//! [`super::outcome`], what looks show in [`super::sight`]. What must happen next is [`super::advance`]'s business.

use super::answer;
use super::outcome::{absent, faulted, is_holder, performed};
use super::retry;
use super::sight::saw_run;
use super::state::Consent;
use super::validate::saw_pull;
use super::{
    Activity, CancelReason, Draft, Effect, Event, HELD_SECONDS, Input, Opening, REASON_BYTES_MAX,
    SessionId, Settled, TaskId, Time, clip, words,
};

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
        Input::Approve => answer::approve(draft),
        Input::Retry { task } => retry::retry(draft, task.as_ref()),
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
        Input::SawPull {
            task,
            facts,
            asked_at,
        } => saw_pull(draft, &task, facts, asked_at),
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
    if under_way && draft.issue.consent == Consent::Asked {
        // Who joins may answer, too.
        draft.request(Effect::Say {
            session: session.clone(),
            activity: words::approval(&draft.issue),
        });
    }
    let pulls: Vec<_> = draft
        .issue
        .tasks
        .iter()
        .filter_map(|it| Some((it.spec.id.clone(), it.pull.clone()?)))
        // Without a forge there is nothing to open.
        .filter(|(_, pull)| pull.number > 0)
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
    } else if let Some(answer) = issue.question().and_then(|it| answer::read(&it, &text)) {
        answer::answered(draft, answer, (session, activity, text), at);
    } else {
        draft.emit(Event::Prompted {
            session: session.clone(),
            activity,
            text,
        });
        let activity = Activity::Thought(words::noted(&draft.issue));
        draft.request(Effect::Say { session, activity });
        let note = draft.issue.notes.len() - 1;
        for (task, executor, run) in draft.issue.listeners() {
            draft.request(Effect::Tell {
                task,
                executor,
                run,
                note,
            });
        }
    }
}

pub(super) fn cancelled(draft: &mut Draft, why: CancelReason, at: Time) {
    let issue = &draft.issue;
    if why == CancelReason::Command && !issue.active() {
        draft.refusal = Some(format!(
            "{} is not at work: there is nothing to cancel",
            issue.identifier
        ));
    }
    // An old wish that arrives late must not stop a round that was opened after it;
    // a command is of now, whatever Linear's clock says.
    let stale = at < issue.round_opened_at && why != CancelReason::Command;
    if !issue.active() || stale {
        return;
    }
    if let (CancelReason::Undelegated { from: Some(from) }, Some(ours)) = (&why, &issue.app_user)
        && from != ours
    {
        return;
    }
    // It also holds for what was put off before it.
    let dropped: Vec<SessionId> = issue
        .deferred
        .iter()
        .filter(|(session, _, asked)| *asked <= at && !issue.sessions.contains(session))
        .map(|(session, _, _)| session.clone())
        .collect();
    let puts_off = issue.deferred.iter().any(|(_, _, asked)| *asked <= at);
    if issue.cancelled.is_some() && !puts_off {
        return;
    }
    let reported = issue.reported;
    draft.emit(Event::CancelAsked { why, at });
    // Who was not told yet how the round ended is told now, or with the others.
    for session in dropped.into_iter().filter(|_| reported) {
        let activity = words::report(&draft.issue);
        draft.request(Effect::Say { session, activity });
    }
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
pub(super) fn hold(draft: &mut Draft, id: &TaskId, why: Option<String>) {
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
pub(super) fn tell(draft: &mut Draft, activity: Option<Activity>) {
    // After the last word Linear would show the session at work again.
    if let Some(activity) = activity.filter(|_| !draft.issue.reported) {
        draft.say(activity);
    }
}
