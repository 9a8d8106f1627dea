//! What an event changes. Total: whatever the log holds, this never fails;
//! an event that makes no sense here changes nothing.

use std::sync::Arc;

use jiff::SignedDuration;

use super::judges;
use super::owed::{Doubt, Owed};
use super::retry;
use super::state::{Consent, Waiting};
use super::task::Pull;
use super::{
    Activity, Claim, Effect, Event, Failure, FailureClass, Fault, Issue, Mend, Outcome, Record,
    Seq, SessionId, Settled, Shun, Spec, StopReason, Stopping, Task, TaskId, TaskKind, TaskState,
    Then, Time, words,
};

/// Remembers one record.
pub fn evolve(issue: &mut Issue, record: &Record) {
    let Record { seq, at, event } = record;
    super::tally::count(issue, record);
    issue.seq = *seq;
    if *seq == 1 {
        issue.born = *at;
    }
    issue.last_at = (*at).max(issue.last_at);
    match event {
        Event::Opened(opening) => {
            if !issue.active() {
                begin_round(issue, opening.at, *at);
            }
            fill(&mut issue.identifier, &opening.identifier);
            fill(&mut issue.title, &opening.title);
            fill(&mut issue.url, &opening.url);
            issue.app_user = opening.app_user.clone().or(issue.app_user.take());
            issue.seen.insert(opening.session.0.clone());
            join(issue, &opening.session);
        }
        Event::Prompted {
            session,
            activity,
            text,
        } => {
            join(issue, session);
            issue.seen.insert(activity.clone());
            issue.notes.push(text.clone());
        }
        Event::Reopened {
            session,
            activity,
            text,
            at: opened_at,
        } => {
            begin_round(issue, *opened_at, *at);
            join(issue, session);
            issue.seen.insert(activity.clone());
            issue.notes.push(text.clone());
        }
        Event::Deferred {
            session,
            activity,
            text,
            at: asked_at,
        } => {
            issue.seen.insert(session.0.clone());
            issue.seen.extend(activity.clone());
            issue
                .deferred
                .push((session.clone(), text.clone(), *asked_at));
        }
        Event::TakenUp => {
            let deferred = std::mem::take(&mut issue.deferred);
            let opened_at = deferred.iter().map(|(_, _, at)| *at).max().unwrap_or(*at);
            begin_round(issue, opened_at, *at);
            for (session, text, _) in deferred {
                join(issue, &session);
                issue.notes.extend(text);
            }
        }
        Event::CancelAsked { why, at: asked } => {
            issue.cancelled.get_or_insert_with(|| why.clone());
            let deferred = std::mem::take(&mut issue.deferred);
            for (session, text, at) in deferred {
                if at <= *asked {
                    join(issue, &session);
                } else {
                    issue.deferred.push((session, text, at));
                }
            }
            withdraw(issue);
        }
        Event::Briefed(briefing) => {
            let brief = &briefing.brief;
            for (known, read) in [
                (&mut issue.identifier, &brief.identifier),
                (&mut issue.title, &brief.title),
                (&mut issue.url, &brief.url),
            ] {
                if known.is_empty() {
                    known.clone_from(read);
                }
            }
            issue.brief = Some(Arc::new(briefing.brief.clone()));
            issue.policy = Some(Arc::new(briefing.policy.clone()));
        }
        Event::Unserved { why } => issue.unserved = Some(why.clone()),
        Event::Laid { tasks } => add_tasks(issue, tasks),
        Event::Planned { summary, tasks } => {
            issue.summary = Some(summary.clone());
            issue.plan_rejected = None;
            add_tasks(issue, tasks);
        }
        Event::PlanRejected { why } => {
            issue.plan_rejections += 1;
            issue.plan_rejected = Some(why.clone());
        }
        Event::Held { task, why } => {
            if let Some(task) = issue.task_mut(task) {
                task.held.clone_from(why);
            }
        }
        Event::Forecast(forecast) => issue.forecast = Some(forecast.clone()),
        Event::ApprovalAsked => issue.consent = Consent::Asked,
        Event::Answered {
            session, activity, ..
        } => {
            join(issue, session);
            issue.seen.insert(activity.clone());
        }
        Event::PlanApproved => issue.consent = Consent::Given,
        Event::ChangeAsked { text } => plan_again(issue, text),
        Event::Renewed { tasks } => retry::renewed(issue, tasks, *at),
        Event::Waits {
            on,
            why,
            told,
            limit,
            enough,
        } => {
            let waiting = Waiting {
                why: why.clone(),
                told: *told,
                limit: *limit,
                enough: *enough,
            };
            issue.waits.insert(*on, waiting);
        }
        Event::Resumed { on } => drop(issue.waits.remove(on)),
        Event::Raised { scope, usd, day } => {
            issue.raised.insert(*scope, (*usd, *day));
        }
        Event::Alerted { percent, day, .. } => match day {
            Some(day) => issue.alerted_of_day = Some((*day, *percent)),
            None => issue.alerted = *percent,
        },
        Event::Routed {
            task,
            executor,
            why,
            instead_of,
        } => {
            issue.fallen.extend(instead_of);
            if let Some(task) = issue.task_mut(task) {
                task.executor = Some(*executor);
                task.why = Some(why.clone());
            }
        }
        Event::Requested(effect) => requested(issue, *seq, effect, *at),
        Event::Claimed { key, until } => {
            claimed(
                issue,
                *key,
                Claim {
                    seq: *seq,
                    until: *until,
                },
            );
        }
        Event::Performed { key, outcome } => performed(issue, *key, outcome, *at),
        Event::Faulted {
            key,
            fault,
            retry_at,
        } => {
            if let Some(owed) = issue.owed.get_mut(key) {
                owed.claimed = None;
                owed.not_before = Some(*retry_at);
                match fault {
                    // A run that never ends must not hold up its repair for ever.
                    Fault::Busy { .. }
                        if matches!(owed.effect, Effect::Start { repair: true, .. }) =>
                    {
                        owed.tries += 1;
                    }
                    Fault::Busy { .. } | Fault::Down { .. } => {}
                    Fault::Ambiguous { .. } if owed.effect.must_not_be_doubled() => {
                        owed.tries += 1;
                        owed.doubt.get_or_insert_default();
                    }
                    Fault::Transient { .. } | Fault::Ambiguous { .. } | Fault::Permanent { .. } => {
                        owed.tries += 1
                    }
                }
            }
        }
        Event::Searched { key, certain } => {
            if let Some(owed) = issue.owed.get_mut(key) {
                owed.claimed = None;
                let settled = owed.doubt.get_or_insert_default().clean_look(*at) || *certain;
                owed.not_before = (!settled).then(|| Doubt::next_look(*at));
                if settled {
                    owed.doubt = None;
                }
            }
        }
        Event::GaveUp { key, why: _ } => {
            if let Some(owed) = issue.owed.remove(key) {
                undo(issue, *key, &owed.effect);
                if let Effect::Update { task, .. } = &owed.effect {
                    change(issue, task, |task| {
                        task.updates = task.updates.saturating_sub(1)
                    });
                }
            }
        }
        Event::Began { task } => {
            if let Some(TaskState::Running { begun, .. }) = state_of(issue, task) {
                *begun = Some(*at);
            }
        }
        Event::Overran { task } => stop(issue, task, StopReason::Overran, *at),
        Event::Interrupted { task } => stop(issue, task, StopReason::Paused, *at),
        Event::Ended {
            task,
            ending,
            cost_usd,
            cost_is_estimate,
        } => {
            issue.spent_usd += cost_usd;
            change(issue, task, |task| {
                task.cost_usd += cost_usd;
                task.cost_is_estimate |= cost_is_estimate;
                task.reserved = None;
                let interrupted = |it: &Stopping| it.reason == StopReason::Paused;
                if let TaskState::Running { stopping, .. } = &task.state
                    && stopping.as_ref().is_some_and(interrupted)
                    && ending.result.is_err()
                {
                    if task.mending {
                        task.repairs = task.repairs.saturating_sub(1);
                    } else {
                        task.free_runs += 1;
                    }
                }
                task.state = TaskState::Seeking { since: *at };
                let lost = |it: &Failure| it.class == FailureClass::Lost;
                task.shuns = task
                    .executor
                    .filter(|_| ending.result.as_ref().is_err_and(lost))
                    .map(|it| (it, Shun::Lost));
                if let Ok(result) = &ending.result {
                    task.mend = None;
                    task.session.clone_from(&result.session);
                    // Of a repair a run need not tell again what it has told.
                    task.reported_pull = result.pull_url.clone().or(task.reported_pull.take());
                    task.branch = result.branch.clone().or(task.branch.take());
                    if !task.spec.kind.makes_pull() {
                        task.answer = Some(result.text.clone());
                    }
                }
            });
        }
        Event::Retried {
            task,
            not_before,
            why,
        } => change(issue, task, |task| {
            task.state = TaskState::Todo;
            task.not_before = Some(*not_before);
            task.error = Some(why.clone());
        }),
        Event::HeadSeen {
            task,
            number,
            url,
            branch: _,
            sha,
        } => change(issue, task, |task| {
            if task.pull.as_ref().is_some_and(|pull| pull.sha != *sha) {
                task.bounces = 0;
                task.refused = None;
            }
            // What waits for a person is that person's, whatever they push.
            if task.state != TaskState::Ready {
                task.state = TaskState::Judging;
            }
            task.pull = Some(Pull {
                number: *number,
                url: url.clone(),
                sha: sha.clone(),
                seen: *at,
            });
        }),
        Event::Summoned { task, sha, judge } => judges::summoned(issue, task, sha, *judge),
        Event::Judged { task, finding } => change(issue, task, |task| {
            // Meanwhile it may have been asked about another commit.
            task.state = if task.subject.as_ref() == Some(&finding.sha) {
                TaskState::Succeeded
            } else {
                TaskState::Todo
            };
            task.finding = Some(finding.clone());
            task.answer = Some(finding.text.clone());
            task.error = None;
            task.finished_at = Some(*at);
        }),
        Event::Rejected {
            task,
            sha,
            why,
            then,
        } => change(issue, task, |task| rejected(task, sha, why, then)),
        Event::Approved {
            task,
            sha,
            why: _,
            behind,
        } => {
            change(issue, task, |task| {
                task.state = TaskState::Approved {
                    sha: sha.clone(),
                    behind: *behind,
                };
                task.validated_at = Some(*at);
            });
        }
        Event::Readied { task, why } => change(issue, task, |task| {
            task.state = TaskState::Ready;
            task.error.clone_from(why);
        }),
        Event::Reconsidered { task } => change(issue, task, |task| {
            if let TaskState::Queued { sha, .. } = &task.state {
                task.refused = Some(sha.clone());
            }
            task.state = TaskState::Judging;
        }),
        Event::Merged { task, sha: _ } => {
            change(issue, task, |task| {
                task.state = TaskState::Merged;
                task.error = None;
                task.finished_at = Some(*at);
            });
            // Their base branch has moved: they are judged again.
            for other in &mut issue.tasks {
                if matches!(other.state, TaskState::Approved { .. }) {
                    other.state = TaskState::Judging;
                }
            }
        }
        Event::Settled { task, verdict, why } => change(issue, task, |task| {
            (task.state, task.error) = match verdict {
                Settled::Succeeded => (TaskState::Succeeded, None),
                Settled::Failed => (TaskState::Failed, Some(why.clone())),
                Settled::Skipped => (TaskState::Skipped, Some(why.clone())),
                Settled::Cancelled => (TaskState::Cancelled, Some(why.clone())),
            };
            task.finished_at = Some(*at);
        }),
        Event::Reported => issue.reported = true,
        Event::Done { outcome } => {
            issue.outcome = Some(*outcome);
            issue.finished_at = Some(*at);
        }
    }
}

fn stop(issue: &mut Issue, task: &TaskId, reason: StopReason, at: Time) {
    if let Some(TaskState::Running { stopping, .. }) = state_of(issue, task) {
        *stopping = Some(Stopping {
            reason,
            first: at,
            last: at,
        });
    }
}

/// What came of a task goes back to who made it, or is left behind.
fn rejected(task: &mut Task, sha: &str, why: &str, then: &Then) {
    task.state = TaskState::Todo;
    task.not_before = None;
    task.error = Some(why.to_owned());
    task.tried.push(why.to_owned());
    task.rejected = Some(sha.to_owned());
    task.updated = None;
    match then {
        Then::Mend {
            detail,
            check,
            conflict,
        } => {
            task.mend = Some(Mend {
                why: why.to_owned(),
                detail: detail.clone(),
                check: *check,
                conflict: *conflict,
            });
        }
        Then::Afresh => {
            task.mend = None;
            task.session = None;
            task.shuns = task.run.take().map(|(at, _)| (at, Shun::Rejected));
        }
    }
}

/// The plan that nobody wanted is forgotten; nothing of it has begun.
fn plan_again(issue: &mut Issue, text: &str) {
    issue.consent = Consent::NotAsked;
    issue.forecast = None;
    let planner = |task: &Task| task.spec.kind == TaskKind::Orchestrator;
    if !issue.tasks.iter().any(planner) {
        return;
    }
    issue.tasks.retain(planner);
    issue.summary = None;
    issue.plan_rejections = 0;
    issue.plan_rejected = Some(words::change_asked(text));
    for task in &mut issue.tasks {
        task.state = TaskState::Todo;
        task.finished_at = None;
        // What a person asks for is no failed attempt.
        task.free_runs = task.attempt;
    }
}

/// The session is told about this round. A delivery of its opening that comes
/// later opens nothing more.
fn join(issue: &mut Issue, session: &SessionId) {
    issue.seen.insert(session.0.clone());
    if !issue.sessions.contains(session) {
        issue.sessions.push(session.clone());
    }
}

/// What an event tells replaces what is known, unless it tells nothing.
fn fill(known: &mut String, told: &str) {
    if !told.is_empty() {
        told.clone_into(known);
    }
}

fn begin_round(issue: &mut Issue, opened_at: Time, at: Time) {
    let old = std::mem::replace(issue, Issue::unknown(issue.id.clone()));
    // What outlives a round: who it is, what was seen, what was spent of which
    // limits, what is owed.
    *issue = Issue {
        seq: old.seq,
        last_at: old.last_at,
        born: old.born,
        identifier: old.identifier,
        title: old.title,
        url: old.url,
        app_user: old.app_user,
        seen: old.seen,
        owed: old.owed,
        starts: old.starts,
        runs: old.runs,
        spent_usd: old.spent_usd,
        raised: old.raised,
        alerted: old.alerted,
        alerted_of_day: old.alerted_of_day,
        round: old.round + 1,
        round_opened_at: opened_at,
        started_at: at,
        ..Issue::unknown(old.id)
    };
}

fn add_tasks(issue: &mut Issue, specs: &[Spec]) {
    issue
        .tasks
        .extend(specs.iter().map(|spec| Task::new(Arc::new(spec.clone()))));
}

fn requested(issue: &mut Issue, key: Seq, effect: &Effect, at: Time) {
    issue.owed.insert(key, Owed::new(effect.clone()));
    match effect {
        Effect::Start {
            task,
            attempt,
            executor,
            reserved,
            repair,
        } => {
            issue.starts.insert(key, (task.clone(), *executor, *repair));
            let branch = words::branch(issue, task, *attempt);
            change(issue, task, |task| {
                task.state = TaskState::Starting { key };
                task.attempt = *attempt;
                task.reserved = *reserved;
                task.validated_at = None;
                task.not_before = None;
                task.mending = *repair;
                task.judged.clone_from(&task.subject);
                task.started_at.get_or_insert(at);
                if *repair {
                    task.repairs += 1;
                } else {
                    task.branch = Some(branch);
                    task.run_url = None;
                    task.reported_pull = None;
                    task.pull = None;
                    task.closing = false;
                }
            });
        }
        Effect::Stop {
            task,
            executor: _,
            run: stopped,
        } => {
            if let Some(TaskState::Running { run, stopping, .. }) = state_of(issue, task)
                && run == stopped
            {
                let fresh = Stopping {
                    reason: StopReason::Cancelled,
                    first: at,
                    last: at,
                };
                stopping.get_or_insert(fresh).last = at;
            }
        }
        Effect::Merge { task, .. } => {
            change(issue, task, |task| task.state = TaskState::Merging { key });
        }
        Effect::Update { task, .. } => {
            change(issue, task, |task| {
                task.state = TaskState::Updating { key };
                task.updates += 1;
            });
        }
        Effect::Close { task, .. } => {
            if let Some(task) = issue.task_mut(task) {
                task.closing = true;
            }
        }
        Effect::Move {
            to: super::Stage::Completed,
            issue: None,
        } => issue.completing = true,
        Effect::Move {
            to,
            issue: Some(sub),
        } => {
            let its = |it: &&mut Task| it.spec.issue.as_ref() == Some(sub);
            if let Some(task) = issue.tasks.iter_mut().find(its) {
                task.moved = Some(*to);
            }
        }
        Effect::Move { issue: None, .. }
        | Effect::Fetch
        | Effect::Say { .. }
        | Effect::ShowPlan { .. }
        | Effect::Link { .. }
        | Effect::Tell { .. }
        | Effect::Prune { .. } => {}
    }
}

fn claimed(issue: &mut Issue, key: Seq, claim: Claim) {
    let Some(owed) = issue.owed.get_mut(&key) else {
        return;
    };
    if owed.claimed.is_some() && owed.effect.must_not_be_doubled() {
        // The last holder vanished without a word: it may have made the effect.
        owed.doubt.get_or_insert_default();
    }
    owed.claimed = Some(claim);
    if let Effect::ShowPlan { session } = &owed.effect {
        let (session, words) = (session.clone(), issue.plan_words());
        issue.shown.insert(session, words);
    }
}

fn performed(issue: &mut Issue, key: Seq, outcome: &Outcome, at: Time) {
    let Some(owed) = issue.owed.remove(&key) else {
        return;
    };
    match (&owed.effect, outcome) {
        (Effect::Start { task, executor, .. }, Outcome::Started { run, url, begun }) => {
            issue.fallen.remove(executor);
            issue.runs.insert(run.clone());
            change(issue, task, |task| {
                if task.state == (TaskState::Starting { key }) {
                    task.resumed = task.run.as_ref().is_some_and(|(_, it)| it == run);
                    task.run = Some((*executor, run.clone()));
                    task.run_url.clone_from(url);
                    task.state = TaskState::Running {
                        run: run.clone(),
                        since: at,
                        begun: begun.then_some(at),
                        stopping: None,
                    };
                }
            });
        }
        (effect, outcome) => {
            undo(issue, key, effect);
            match (effect, outcome) {
                (Effect::Merge { task, .. }, Outcome::HeadMoved) => {
                    change(issue, task, |task| task.bounces += 1);
                }
                (
                    Effect::Merge { task, sha, .. } | Effect::Update { task, sha, .. },
                    Outcome::MergeRefused { .. },
                ) => {
                    change(issue, task, |task| task.refused = Some(sha.clone()));
                }
                (Effect::Merge { task, sha, .. }, Outcome::Queued) => change(issue, task, |task| {
                    task.state = TaskState::Queued {
                        sha: sha.clone(),
                        since: at,
                    };
                }),
                (Effect::Update { task, sha, .. }, Outcome::Done) => {
                    change(issue, task, |task| task.updated = Some((sha.clone(), at)));
                }
                _ => {}
            }
        }
    }
}

/// The effect under `key` is not under way any more.
fn undo(issue: &mut Issue, key: Seq, effect: &Effect) {
    let (Effect::Start { task, .. } | Effect::Merge { task, .. } | Effect::Update { task, .. }) =
        effect
    else {
        return;
    };
    change(issue, task, |task| {
        if task.state == (TaskState::Starting { key }) {
            // No run was made: it was no attempt, and nothing is spent.
            task.state = TaskState::Todo;
            if task.mending {
                task.repairs = task.repairs.saturating_sub(1);
            } else {
                task.attempt = task.attempt.saturating_sub(1);
            }
            task.reserved = None;
        } else if task.state == (TaskState::Merging { key })
            || task.state == (TaskState::Updating { key })
        {
            task.state = TaskState::Judging;
        }
    });
}

/// A person wants no more of it: what nobody has begun is dropped, what may
/// have happened is only looked for from now on.
fn withdraw(issue: &mut Issue) {
    let untouched = |owed: &Owed| owed.claimed.is_none() && owed.doubt.is_none();
    let mut dropped = Vec::new();
    for (key, owed) in &mut issue.owed {
        owed.withdrawn = match &owed.effect {
            Effect::Say {
                activity: Activity::Response(_) | Activity::Error(_),
                ..
            }
            | Effect::Stop { .. }
            | Effect::Close { .. }
            | Effect::Prune { .. } => false,
            Effect::Start { .. }
            | Effect::Merge { .. }
            | Effect::Update { .. }
            | Effect::Fetch
            | Effect::ShowPlan { .. }
            | Effect::Link { .. }
            | Effect::Move { .. }
            | Effect::Tell { .. }
            | Effect::Say { .. } => true,
        };
        match &owed.effect {
            Effect::Start { .. } | Effect::Merge { .. } | Effect::Update { .. } => {
                if untouched(owed) {
                    dropped.push(*key);
                }
            }
            Effect::Fetch
            | Effect::ShowPlan { .. }
            | Effect::Link { .. }
            | Effect::Move { .. }
            | Effect::Tell { .. } => {
                if untouched(owed) {
                    dropped.push(*key);
                }
            }
            // Linear wants no more actions after a stop, but for the last word.
            Effect::Say {
                activity:
                    Activity::Thought(_) | Activity::Action { .. } | Activity::Elicitation { .. },
                ..
            } => {
                if untouched(owed) {
                    dropped.push(*key);
                }
            }
            Effect::Say {
                activity: Activity::Response(_) | Activity::Error(_),
                ..
            }
            | Effect::Stop { .. }
            | Effect::Close { .. }
            | Effect::Prune { .. } => {}
        }
    }
    for key in dropped {
        if let Some(owed) = issue.owed.remove(&key) {
            undo(issue, key, &owed.effect);
        }
    }
}

fn state_of<'a>(issue: &'a mut Issue, task: &TaskId) -> Option<&'a mut TaskState> {
    issue.task_mut(task).map(|task| &mut task.state)
}

/// Changes a task: what held it up does so no more.
fn change(issue: &mut Issue, task: &TaskId, with: impl FnOnce(&mut Task)) {
    if let Some(task) = issue.task_mut(task) {
        with(task);
        task.held = None;
    }
}

/// The pause before a try after `tries` that failed. `salt` spreads the tries
/// of many issues, as the same log must always say the same.
pub(super) fn backoff(tries: u32, salt: Seq) -> SignedDuration {
    let seconds = 1_i64.checked_shl(tries.min(16)).unwrap_or(i64::MAX);
    let jitter_ms = i64::try_from((salt.wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 54).unwrap_or(0);
    SignedDuration::from_secs(seconds.min(super::BACKOFF_SECONDS_MAX))
        + SignedDuration::from_millis(jitter_ms)
}
