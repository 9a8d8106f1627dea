//! How a pull request stands, and what follows for its task: it is judged, sent
//! back, handed to a person, or let through.

use super::understand::{hold, settle, tell};
use super::verdict::{self, Case, Red, Verdict};
use super::{
    Draft, Effect, Event, Failure, FailureClass, HEAD_GRACE_SECONDS, HELD_SECONDS, Issue,
    LOG_BYTES_MAX, MergeMode, PULL_GRACE_SECONDS, PullFacts, QUEUE_GRACE_SECONDS, REASON_BYTES_MAX,
    Settled, Task, TaskId, TaskKind, TaskState, Then, Time, clip, words,
};

/// `asked_at`: when the facts were asked for. What was merged after that they do not
/// know of.
pub(super) fn saw_pull(draft: &mut Draft, id: &TaskId, facts: Option<PullFacts>, asked_at: Time) {
    let merged = draft
        .issue
        .tasks
        .iter()
        .filter(|it| it.state == TaskState::Merged);
    if merged
        .filter_map(|it| it.finished_at)
        .any(|it| it > asked_at)
    {
        return;
    }
    let Some(task) = draft.issue.task(id) else {
        return;
    };
    let since = match &task.state {
        TaskState::Seeking { since } => Some(*since),
        TaskState::Judging
        | TaskState::Approved { .. }
        | TaskState::Queued { .. }
        | TaskState::Ready => None,
        TaskState::Todo
        | TaskState::Starting { .. }
        | TaskState::Running { .. }
        | TaskState::Updating { .. }
        | TaskState::Merging { .. }
        | TaskState::Merged
        | TaskState::Succeeded
        | TaskState::Failed
        | TaskState::Skipped
        | TaskState::Cancelled => return,
    };
    let waited = since.map(|since| draft.now.duration_since(since).as_secs());
    let Some(facts) = facts else {
        if waited.is_some_and(|it| it >= PULL_GRACE_SECONDS) {
            let message = words::no_pull(&draft.issue, id);
            super::sight::failed(
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
    if facts.state == verdict::PullState::Open {
        if is_stale(task, &facts, draft.now) {
            return;
        }
        // What was sent back has not moved: what mends it may not be seen yet. After a
        // while it is judged once more, for checks are run again, too.
        let rejected = task.rejected.as_deref() == Some(&facts.head_sha);
        if rejected && waited.is_some_and(|it| it < HEAD_GRACE_SECONDS) {
            return;
        }
    }
    see(draft, id, &facts);
}

/// What was asked for a moment ago has not been seen to happen yet.
fn is_stale(task: &Task, facts: &PullFacts, now: Time) -> bool {
    let young = |at: Time, grace: i64| now.duration_since(at).as_secs() < grace;
    let updated = task.updated.as_ref();
    updated.is_some_and(|(sha, at)| *sha == facts.head_sha && young(*at, HEAD_GRACE_SECONDS))
}

/// Judges a head, and writes down what has changed by it.
fn see(draft: &mut Draft, id: &TaskId, facts: &PullFacts) {
    let (Some(task), Some(policy)) = (draft.issue.task(id), draft.issue.policy.clone()) else {
        return;
    };
    let known = task.pull.as_ref().filter(|pull| pull.sha == facts.head_sha);
    let (is_new, seen) = (known.is_none(), known.map_or(draft.now, |pull| pull.seen));
    let first_sight = task.pull.is_none();
    let sha = facts.head_sha.as_str();
    let verdict = verdict::judge(&Case {
        facts,
        task,
        marker: &words::marker(&draft.issue, id),
        policy: &policy,
        seen,
        now: draft.now,
        commands: draft.issue.judged(id, TaskKind::Verifier, sha),
        review: draft.issue.judged(id, TaskKind::Reviewer, sha),
    });
    if let Verdict::Foreign(why) = verdict {
        let why = format!("its pull request is not ours: {why}");
        settle(draft, id, Settled::Failed, why);
        return;
    }
    if is_new || matches!(task.state, TaskState::Seeking { .. }) {
        draft.emit(Event::HeadSeen {
            task: id.clone(),
            number: facts.number,
            url: facts.url.clone(),
            branch: facts.head_branch.clone(),
            sha: facts.head_sha.clone(),
        });
    }
    if first_sight && facts.number > 0 {
        let label = words::pull_label(id, facts.number);
        for session in draft.issue.sessions.clone() {
            draft.request(Effect::Link {
                session,
                label: label.clone(),
                url: facts.url.clone(),
            });
        }
    }
    conclude(draft, id, facts, verdict, seen, policy.merge);
}

fn conclude(
    draft: &mut Draft,
    id: &TaskId,
    facts: &PullFacts,
    verdict: Verdict,
    seen: Time,
    mode: MergeMode,
) {
    let Some(task) = draft.issue.task(id) else {
        return;
    };
    let (judging, ready) = (
        task.state == TaskState::Judging,
        task.state == TaskState::Ready,
    );
    // What waits for a person has been judged, and is that person's to judge.
    let hands_off = ready && !matches!(verdict, Verdict::Merged | Verdict::Closed);
    if hands_off {
        return;
    }
    if let TaskState::Queued { since, .. } = &task.state
        && facts.state == verdict::PullState::Open
        // What the forge has in its queue is the forge's until it is out of it.
        && (facts.queued || !matches!(verdict, Verdict::Red(_)))
    {
        let waited = draft.now.duration_since(*since).as_secs();
        if !facts.queued && waited >= QUEUE_GRACE_SECONDS {
            let again = was_refused(&draft.issue, id, &facts.head_sha);
            draft.emit(Event::Reconsidered { task: id.clone() });
            if again {
                let why = "the merge queue has put it out again".to_owned();
                ready_for(draft, id, Some(why));
            }
        }
        return;
    }
    match verdict {
        Verdict::Merged => merged(draft, id, facts.head_sha.clone()),
        Verdict::Closed => {
            let why = format!("{} was closed without a merge", facts.url);
            settle(draft, id, Settled::Cancelled, why);
        }
        Verdict::Red(red) => reject(draft, id, &facts.head_sha, red),
        Verdict::Ask(kinds) if judging => {
            for judge in kinds {
                draft.emit(Event::Summoned {
                    task: id.clone(),
                    sha: facts.head_sha.clone(),
                    judge,
                });
            }
        }
        Verdict::Green { why, behind } if judging => {
            let sha = facts.head_sha.clone();
            draft.emit(Event::Approved {
                task: id.clone(),
                sha,
                why,
                behind,
            });
            if mode == MergeMode::Manual {
                ready_for(draft, id, None);
            }
        }
        Verdict::Hand(why) if judging => ready_for(draft, id, Some(why)),
        Verdict::Person(why) if judging => hold(draft, id, Some(why)),
        Verdict::Wait(why)
            if judging && draft.now.duration_since(seen).as_secs() >= HELD_SECONDS =>
        {
            hold(draft, id, Some(why));
        }
        // It is approved, and not good enough any more: it is judged again.
        Verdict::Ask(_) | Verdict::Hand(_) | Verdict::Person(_) | Verdict::Wait(_) => {
            if !judging {
                draft.emit(Event::Reconsidered { task: id.clone() });
            }
            hold(draft, id, None);
        }
        Verdict::Green { behind, .. } => {
            // Its base has moved since.
            if draft.issue.task(id).is_some_and(|it| moved_on(it, behind)) {
                draft.emit(Event::Reconsidered { task: id.clone() });
            }
            hold(draft, id, None);
        }
        Verdict::Foreign(_) => {}
    }
}

/// It was approved as it stood to its base, and stands otherwise.
fn moved_on(task: &Task, now_behind: bool) -> bool {
    matches!(&task.state, TaskState::Approved { behind, .. } if *behind != now_behind)
}

/// It waits for a person's merge.
pub(super) fn ready_for(draft: &mut Draft, id: &TaskId, why: Option<String>) {
    let why = why.map(|it| clip(&it, REASON_BYTES_MAX));
    draft.emit(Event::Readied {
        task: id.clone(),
        why,
    });
    tell(draft, words::ready(&draft.issue, id));
}

/// Has the forge refused to merge this head before? Once may be a matter of the
/// moment; twice is one for a person.
pub(super) fn was_refused(issue: &Issue, id: &TaskId, sha: &str) -> bool {
    let task = issue.task(id);
    task.is_some_and(|it| it.refused.as_deref() == Some(sha))
}

/// What came of a task is not good enough: back to who made it, a bounded number of
/// times; then a fresh run; then a person.
pub(super) fn reject(draft: &mut Draft, id: &TaskId, sha: &str, red: Red) {
    let (Some(task), Some(policy)) = (draft.issue.task(id), draft.issue.policy.clone()) else {
        return;
    };
    let why = clip(&red.why, REASON_BYTES_MAX);
    let sha = sha.to_owned();
    if task.repairs < policy.repairs_max && task.run.is_some() {
        let then = Then::Mend {
            detail: clip(&red.detail, LOG_BYTES_MAX),
            check: red.check,
            conflict: red.conflict,
        };
        draft.emit(Event::Rejected {
            task: id.clone(),
            sha,
            why,
            then,
        });
        tell(draft, words::sent_back(&draft.issue, id));
    } else {
        begin_afresh(draft, id, &sha, why);
    }
}

/// What came of a task is not good enough and cannot be mended: a fresh run, or a
/// person, with all that was tried.
pub(super) fn begin_afresh(draft: &mut Draft, id: &TaskId, sha: &str, why: String) {
    let Some(task) = draft.issue.task(id) else {
        return;
    };
    let attempts_max = draft.issue.policy.as_ref().map_or(1, |it| it.attempts_max);
    if task.attempts() >= attempts_max {
        let why = words::given_up(task, &why);
        settle(draft, id, Settled::Failed, why);
        return;
    }
    close(draft, id, &words::superseded(&why));
    draft.emit(Event::Rejected {
        task: id.clone(),
        sha: sha.to_owned(),
        why,
        then: Then::Afresh,
    });
    tell(draft, words::begun_afresh(&draft.issue, id));
}

/// Closes the pull request of the task's present branch, if there is one.
pub(super) fn close(draft: &mut Draft, id: &TaskId, why: &str) {
    let Some(branch) = draft.issue.task(id).and_then(|it| it.branch.clone()) else {
        return;
    };
    draft.request(Effect::Close {
        task: id.clone(),
        branch,
        why: why.to_owned(),
    });
}

pub(super) fn merged(draft: &mut Draft, id: &TaskId, sha: String) {
    draft.emit(Event::Merged {
        task: id.clone(),
        sha,
    });
    tell(draft, words::merged(&draft.issue, id));
    let branch = draft.issue.task(id).and_then(|it| it.branch.clone());
    // Another name than one of ours was made by somebody else.
    if let Some(branch) = branch.filter(|it| words::issue_of(it).is_some()) {
        draft.request(Effect::Prune {
            task: id.clone(),
            branch,
        });
    }
}
