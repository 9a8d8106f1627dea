//! What must hold: after every step, and when all is quiet.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::FutureExt as _;
use shared::engine::effect_id;
use shared::issue::{
    Activity, Effect, Event, Issue, IssueId, Outcome, PullState, Record, RoundOutcome, TaskState,
    Then, evolve,
};
use shared::ports::Log as _;
use shared::store::memory::MemoryLog;

use crate::people::Mail;
use crate::world::World;

/// What holds at every moment. (What a single call must not do is checked where
/// the world makes it: a second run of a key, a start before its dependencies,
/// a merge of what is not green, anything after the end of a round.)
pub(crate) fn always(world: &mut World) {
    let mut broken = Vec::new();
    for pull in &world.pulls {
        if pull.merged.len() > 1 {
            broken.push(format!("#{} was merged twice", pull.number));
        }
        if let Some((sha, _)) = pull.merged.first()
            && *sha != pull.sha
        {
            broken.push(format!(
                "#{} was merged at {sha}, but its head is {}",
                pull.number, pull.sha
            ));
        }
    }
    world.broken.append(&mut broken);
    world.check_stopped();
}

pub(crate) fn records(log: &Arc<MemoryLog>, id: &IssueId) -> Vec<Record> {
    log.read(id, 0)
        .now_or_never()
        .and_then(Result::ok)
        .expect("memory answers at once")
}

pub(crate) fn fold(id: &IssueId, records: &[Record]) -> Issue {
    let mut issue = Issue::unknown(id.clone());
    for record in records {
        evolve(&mut issue, record);
    }
    issue
}

/// Over, or never begun.
pub(crate) fn is_done(log: &Arc<MemoryLog>, id: &IssueId) -> bool {
    let head = log
        .read(id, 0)
        .now_or_never()
        .and_then(Result::ok)
        .unwrap_or_default();
    head.last()
        .is_none_or(|last| matches!(last.event, Event::Done { .. }))
}

pub(crate) fn restless(log: &Arc<MemoryLog>, world: &World) -> String {
    let mut text = String::new();
    for id in world.issues.keys().filter(|id| !is_done(log, id)) {
        let issue = fold(id, &records(log, id));
        let tasks: Vec<_> = issue
            .tasks
            .iter()
            .map(|it| (it.spec.id.0.clone(), &it.state))
            .collect();
        text += &format!(
            "\n{id}: {:?} waits {:?} cancelled {:?} owed {:?} tasks {tasks:?}",
            issue.phase(),
            issue.waits,
            issue.cancelled,
            issue.owed
        );
    }
    text
}

pub(crate) fn at_the_end(log: &Arc<MemoryLog>, world: &mut World, mail: &Mail) {
    let mut broken = Vec::new();
    for (id, session) in &mail.acknowledged {
        let issue = fold(id, &records(log, id));
        if !issue.seen.contains(&session.0) {
            broken.push(format!(
                "{id}: the session {session} was answered with 200 and lost"
            ));
        }
    }
    let ids: Vec<IssueId> = world.issues.keys().cloned().collect();
    for id in &ids {
        let records = records(log, id);
        visit_landmarks(world, id, &records);
        let issue = fold(id, &records);
        if issue.round == 0 {
            continue;
        }
        if !issue.owed.is_empty() || issue.attention_at().is_some() || !issue.watching().is_empty()
        {
            broken.push(format!("{id} is done and still owes or waits"));
        }
        last_words(world, id, &records, &mut broken);
        taken_in_once(id, &records, &mut broken);
        passed_on(world, &issue, &records, &mut broken);
        for run in world.runs.iter().filter(|run| run.job.issue == *id) {
            let given_up = issue.tasks.iter().any(|it| it.error.as_deref() == Some("its run was asked to stop and its executor never said that it did: look there whether it still works"));
            if run.alive(world.now) && !given_up {
                broken.push(format!("{} is still alive for {}", run.id, run.job.branch));
            }
        }
        for task in &issue.tasks {
            let merged = world.pulls.iter().any(|pull| {
                pull.job.issue == *id
                    && pull.job.task == task.spec.id
                    && Some(&pull.branch) == task.branch.as_ref()
                    && pull.state == PullState::Merged
            });
            if (task.state == TaskState::Merged) && !merged {
                broken.push(format!(
                    "{id}/{}: {:?}, but the forge did not merge it",
                    task.spec.id, task.state
                ));
            }
        }
        let booked: f64 = records
            .iter()
            .filter_map(|it| {
                if let Event::Ended { cost_usd, .. } = &it.event {
                    Some(*cost_usd)
                } else {
                    None
                }
            })
            .sum();
        if (booked - issue.spent_usd).abs() > 1e-9 {
            broken.push(format!(
                "{id}: spent {} but booked {booked}",
                issue.spent_usd
            ));
        }
    }
    for (stage_of, stages) in &world.stages {
        let completed = stages.iter().any(|it| it.word() == "completed");
        let merged = world
            .pulls
            .iter()
            .any(|it| it.job.issue == *stage_of && it.state == PullState::Merged);
        if completed && !merged {
            broken.push(format!("{stage_of} was shown as completed without a merge"));
        }
    }
    world.broken.append(&mut broken);
}

/// However often a fact is delivered, it is in the log once.
fn taken_in_once(id: &IssueId, records: &[Record], broken: &mut Vec<String>) {
    let mut facts: BTreeMap<&str, usize> = BTreeMap::new();
    for record in records {
        let fact = match &record.event {
            Event::Opened(opening) => &opening.session.0,
            Event::Prompted { activity, .. }
            | Event::Answered { activity, .. }
            | Event::Reopened { activity, .. } => activity,
            Event::Deferred {
                session, activity, ..
            } => activity.as_ref().unwrap_or(&session.0),
            _ => continue,
        };
        *facts.entry(fact).or_default() += 1;
    }
    for (fact, times) in facts.into_iter().filter(|(_, times)| *times > 1) {
        broken.push(format!("{id}: {fact} was taken in {times} times"));
    }
}

/// What a person wrote while a run worked has reached it, or it was said that
/// it has not. (That nothing reaches a run twice is seen where it is heard.)
fn passed_on(world: &World, issue: &Issue, records: &[Record], broken: &mut Vec<String>) {
    for (at, record) in records.iter().enumerate() {
        let Event::Requested(Effect::Tell { task, run, .. }) = &record.event else {
            continue;
        };
        let later = &records[at..];
        let round = later
            .iter()
            .take_while(|it| !matches!(it.event, Event::Done { .. }));
        // After a stop there is nothing more to say.
        let cancelled = |it: &Record| matches!(it.event, Event::CancelAsked { .. });
        if round.clone().any(cancelled) || records[..at].iter().rev().any(cancelled) {
            continue;
        }
        let key = record.seq;
        let id = effect_id(issue, key).to_string();
        let accepted = round.clone().any(|it| {
            matches!(&it.event, Event::Performed { key: it, outcome: Outcome::Done } if *it == key)
        });
        let told = world.runs.iter().any(|it| {
            // Of runners one after another, the one whose word counts.
            let counts = it.holder.as_ref().is_some_and(|it| world.ledger.counts(it));
            let ours = it.id == *run || (it.job.key == run.0 && counts);
            ours && it.heard.iter().any(|it| it.id == id)
        });
        let admitted = round.clone().any(|it| match &it.event {
            Event::Requested(Effect::Say {
                activity: Activity::Thought(text),
                ..
            }) => text.contains("before I could pass that on"),
            Event::Requested(Effect::Say {
                activity: Activity::Response(text) | Activity::Error(text),
                ..
            }) => text.contains("may have come too late"),
            // The run failed, which is told; what comes next knows of it all.
            Event::Ended {
                task: it, ending, ..
            } => it == task && ending.result.as_ref().is_err(),
            _ => false,
        });
        let known = accepted && told || admitted;
        if !known {
            broken.push(format!(
                "{}: {run} never heard of note {key}, and nobody was told",
                issue.id
            ));
        }
    }
}

/// Every session of every round gets exactly one last word.
fn last_words(world: &World, id: &IssueId, records: &[Record], broken: &mut Vec<String>) {
    let mut owed: BTreeMap<_, usize> = BTreeMap::new();
    for record in records {
        if let Event::Requested(Effect::Say {
            session,
            activity: Activity::Response(_) | Activity::Error(_),
        }) = &record.event
        {
            *owed.entry(session.clone()).or_default() += 1;
        }
    }
    let rounds = records
        .iter()
        .filter(|it| matches!(it.event, Event::Done { .. }))
        .count();
    if owed.is_empty() {
        broken.push(format!("{id} ended without a word"));
    }
    for (session, times) in owed {
        let said = world.said.get(&session).map_or(&[][..], Vec::as_slice);
        let last: Vec<_> = said
            .iter()
            .filter(|(_, it)| matches!(it, Activity::Response(_) | Activity::Error(_)))
            .collect();
        if last.len() != times || times > rounds {
            broken.push(format!(
                "{id}: {session} heard {} last words in {rounds} rounds, {times} were meant",
                last.len()
            ));
        }
    }
}

fn visit_landmarks(world: &mut World, id: &IssueId, records: &[Record]) {
    let mut issue = Issue::unknown(id.clone());
    for record in records {
        match &record.event {
            Event::CancelAsked { .. } => {
                let any = |f: fn(&TaskState) -> bool| issue.tasks.iter().any(|it| f(&it.state));
                if any(|it| matches!(it, TaskState::Starting { .. })) {
                    world.visit("a round was cancelled while a start was under way");
                }
                if any(|it| matches!(it, TaskState::Merging { .. })) {
                    world.visit("a round was cancelled while a merge was under way");
                }
                if issue.phase().word() == "planning" {
                    world.visit("a round was cancelled while it was planned");
                }
            }
            Event::Claimed { key, .. } if issue.owed.get(key).is_some_and(|it| it.claimed.is_some()) => {
                world.visit("a claim lapsed");
            }
            Event::Claimed { key, .. }
                if issue.owed.get(key).is_some_and(|it| {
                    it.tries > 0 && it.doubt.is_none() && !it.withdrawn && matches!(it.effect, Effect::Start { .. })
                }) && records.iter().any(|it| matches!(&it.event, Event::Searched { key: k, certain: false } if k == key)) =>
            {
                world.visit("a far run was created again after clean looks");
            }
            Event::Rejected {
                then: Then::Afresh, ..
            } => world.visit("what was not good enough was begun afresh"),
            Event::Settled { why, .. } if why.contains("did not mend it") => {
                world.visit("a task was given up after repairs and attempts");
            }
            Event::Interrupted { task }
                if issue.task(task).is_some_and(|it| it.is_judge() && it.judged != it.subject) =>
            {
                world.visit("a judge was sent away because the head had moved");
            }
            Event::PlanRejected { .. } => world.visit("a plan was refused"),
            Event::Retried { .. } => world.visit("a run was tried again"),
            Event::Overran { .. } => world.visit("a run overran"),
            Event::Reopened { .. } => world.visit("a round was opened again"),
            Event::TakenUp => world.visit("a round was taken up after a cancellation"),
            Event::Renewed { .. } if issue.outcome.is_some() => {
                world.visit("what failed was taken up again when all was over");
            }
            Event::Renewed { .. } => {
                world.visit("what failed was taken up again while others worked");
            }
            Event::Held { why: Some(_), .. } => world.visit("something was held up"),
            Event::Settled { verdict, .. } if verdict.word() == "skipped" => world.visit("a task was skipped"),
            Event::Done { outcome } => world.visit(match outcome {
                RoundOutcome::Succeeded => "a round succeeded",
                RoundOutcome::Failed => "a round failed",
                RoundOutcome::Cancelled => "a round was cancelled",
            }),
            _ => {}
        }
        evolve(&mut issue, record);
    }
}
