//! What effects came to: made, failed, or looked for in vain.

use jiff::SignedDuration;

use super::evolve::backoff;
use super::understand::{hold, settle, tell};
use super::validate::{begin_afresh, merged, ready_for, was_refused};
use super::{
    Activity, BOUNCES_MAX, Draft, Effect, Event, FailureClass, Fault, HELD_TRIES,
    LAST_WORD_TRIES_MAX, Outcome, REASON_BYTES_MAX, REPAIR_TRIES_MAX, RunId, SAY_TRIES_MAX, Seq,
    Settled, Stage, TRIES_MAX, Task, TaskState, clip, words,
};

/// How long to wait when the other side asks to wait and doesn't say how long.
const BUSY_PAUSE_SECONDS: i64 = 10;
/// Before a start that found its executor down is considered again: by then all
/// copies of us can know it.
const DOWN_PAUSE_SECONDS: i64 = 1;
/// No answer makes us wait longer than this.
const BUSY_PAUSE_SECONDS_MAX: i64 = 3_600;

pub(super) fn performed(draft: &mut Draft, key: Seq, outcome: Outcome) {
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
                draft.request(Effect::Move {
                    to: Stage::Started,
                    issue: None,
                });
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
        // If it conflicts, the next look says so.
        (
            Effect::Merge { task, sha, .. } | Effect::Update { task, sha, .. },
            Outcome::MergeRefused { why },
        ) => {
            let again = was_refused(&draft.issue, &task, &sha);
            draft.emit(Event::Performed {
                key,
                outcome: Outcome::MergeRefused { why: why.clone() },
            });
            if again && draft.issue.cancelled.is_none() {
                let why = format!("the forge refuses to merge it: {why}");
                ready_for(draft, &task, Some(why));
            }
        }
        (Effect::Tell { task, .. }, Outcome::Unheard) => {
            draft.emit(Event::Performed {
                key,
                outcome: Outcome::Unheard,
            });
            if draft.issue.cancelled.is_none() {
                tell(draft, words::unheard(&draft.issue, &task));
            }
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
    let Some((task, executor, repair)) = draft.issue.starts.get(&key).cloned() else {
        return;
    };
    let ours = draft.issue.task(&task).is_some_and(
        |task| matches!(&task.state, TaskState::Running { run: known, .. } if *known == run),
    );
    let stopping =
        draft.issue.owed.values().any(
            |owed| matches!(&owed.effect, Effect::Stop { run: stopped, .. } if *stopped == run),
        );
    // One that was gone on with is known, and lives again.
    let known = draft.issue.runs.contains(&run) && !repair;
    if !ours && !stopping && !known {
        draft.request(Effect::Stop {
            task,
            executor,
            run,
        });
    }
}

/// Is the effect still claimed by whom we hear of?
pub(super) fn is_holder(draft: &Draft, key: Seq, claim: Seq) -> bool {
    let held = draft.issue.owed.get(&key).and_then(|owed| owed.claimed);
    held.is_some_and(|it| it.seq == claim)
}

pub(super) fn faulted(draft: &mut Draft, key: Seq, fault: Fault) {
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
        Fault::Transient { why }
        | Fault::Busy { why, .. }
        | Fault::Down { why }
        | Fault::Ambiguous { why } => (false, why),
    };
    let why = clip(why, REASON_BYTES_MAX);
    let refused = matches!(fault, Fault::Permanent { .. });
    let busy = matches!(fault, Fault::Busy { .. } | Fault::Down { .. });
    // All merges are paused: it is judged again, and waits for that with the others.
    let put_off = matches!(fault, Fault::Down { .. });
    let mends = matches!(effect, Effect::Start { repair: true, .. });
    let worn_out = |max: u32| hopeless || (!busy && tries >= max);
    let moot_stop = |run: &RunId| {
        let works =
            |task: &Task| matches!(&task.state, TaskState::Running { run: it, .. } if it == run);
        draft.issue.runs.contains(run) && !draft.issue.tasks.iter().any(works)
    };
    let give_up = match &effect {
        // After a cancellation nobody waits for these.
        Effect::Fetch
        | Effect::ShowPlan { .. }
        | Effect::Link { .. }
        | Effect::Move { .. }
        | Effect::Tell { .. }
        | Effect::Say {
            activity: Activity::Thought(_) | Activity::Action { .. } | Activity::Elicitation { .. },
            ..
        } if withdrawn => true,
        // What is asked is waited for.
        Effect::Say {
            activity: Activity::Response(_) | Activity::Error(_) | Activity::Elicitation { .. },
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
        Effect::Tell { .. } => worn_out(TRIES_MAX),
        // Whether a run exists has to be found out, however long it takes.
        Effect::Start { .. } if doubtful => false,
        Effect::Start { .. } => match &fault {
            Fault::Permanent { .. } => true,
            Fault::Ambiguous { .. } => false,
            Fault::Transient { .. } => withdrawn || worn_out(TRIES_MAX),
            // Another executor may take it, as soon as it is known how they stand.
            Fault::Down { .. } => true,
            Fault::Busy { .. } => withdrawn || (mends && tries >= REPAIR_TRIES_MAX),
        },
        // An outage or a token that is not good is no verdict on the commit.
        Effect::Merge { .. } => hopeless || put_off || (withdrawn && worn_out(TRIES_MAX)),
        Effect::Update { .. } => withdrawn || put_off || worn_out(TRIES_MAX),
        // What is open may still be merged, by whomever.
        Effect::Close { .. } => worn_out(LAST_WORD_TRIES_MAX),
        Effect::Prune { .. } => worn_out(TRIES_MAX),
        // What is not stopped costs money; what has ended needs no stop.
        Effect::Stop { run, .. } => moot_stop(run),
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
            Fault::Down { .. } => SignedDuration::from_secs(BUSY_PAUSE_SECONDS),
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
        if let Effect::Start { task, .. }
        | Effect::Merge { task, .. }
        | Effect::Update { task, .. }
        | Effect::Close { task, .. }
        | Effect::Stop { task, .. } = &effect
            && (!busy || mends)
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
        Effect::Fetch if !withdrawn => draft.emit(Event::Unserved { why }),
        Effect::Start { task, .. } if !withdrawn && matches!(fault, Fault::Down { .. }) => {
            let not_before = draft.now + SignedDuration::from_secs(DOWN_PAUSE_SECONDS);
            draft.emit(Event::Retried {
                task,
                not_before,
                why,
            });
        }
        Effect::Start {
            task, repair: true, ..
        } if !withdrawn => {
            let known = draft.issue.task(&task).and_then(|it| it.rejected.clone());
            let why = format!("it could not be mended: {why}");
            begin_afresh(draft, &task, &known.unwrap_or_default(), why);
        }
        Effect::Start { task, .. } if !withdrawn => {
            settle(
                draft,
                &task,
                Settled::Failed,
                format!("its run could not be started: {why}"),
            );
        }
        Effect::Merge { task, .. } if !withdrawn && !put_off => {
            settle(
                draft,
                &task,
                Settled::Failed,
                format!("it could not be merged: {why}"),
            );
        }
        Effect::Tell { task, .. } if !withdrawn => {
            tell(draft, words::unheard(&draft.issue, &task));
        }
        Effect::Update { task, .. } if !withdrawn && !put_off => {
            let why = format!("it cannot be brought up to date: {why}");
            ready_for(draft, &task, Some(why));
        }
        Effect::Fetch
        | Effect::Start { .. }
        | Effect::Merge { .. }
        | Effect::Update { .. }
        | Effect::Close { .. }
        | Effect::Prune { .. }
        | Effect::Say { .. }
        | Effect::ShowPlan { .. }
        | Effect::Link { .. }
        | Effect::Move { .. }
        | Effect::Tell { .. }
        | Effect::Stop { .. } => {}
    }
}

pub(super) fn absent(draft: &mut Draft, key: Seq, certain: bool) {
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
