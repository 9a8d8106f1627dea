//! How soon it is worth looking again at what runs: often around the time when
//! such runs usually end, seldom before and long after.

use super::{Issue, Task, TaskKind, TaskState, Time};

/// Between two looks at what may end any moment, in seconds …
const OFTEN_SECONDS: i64 = 10;
/// … at what has just begun to be checked …
const CHECKS_SECONDS: i64 = 15;
/// … and at what will last. As often as the schedule comes by itself.
const SELDOM_SECONDS: i64 = 60;
/// Checks that take longer than this are looked at seldom.
const CHECKS_USUALLY_SECONDS: i64 = 600;

/// In how many seconds to look at this issue again; `None`: nothing runs.
pub fn look_again_in(issue: &Issue, now: Time) -> Option<i64> {
    let waits = issue.is_watched().then_some(SELDOM_SECONDS);
    let paces = issue.tasks.iter().filter_map(|task| pace(task, now));
    paces.chain(waits).min()
}

fn pace(task: &Task, now: Time) -> Option<i64> {
    let seconds_since = |since: Time| now.duration_since(since).as_secs();
    let checks = |since: Time| {
        if seconds_since(since) < CHECKS_USUALLY_SECONDS {
            CHECKS_SECONDS
        } else {
            SELDOM_SECONDS
        }
    };
    match &task.state {
        TaskState::Running {
            stopping: Some(_), ..
        } => Some(OFTEN_SECONDS),
        TaskState::Running {
            begun: Some(begun), ..
        } => {
            let (usual, elapsed) = (usual_seconds(task.spec.kind), seconds_since(*begun));
            Some(if elapsed < usual / 2 {
                (usual / 2 - elapsed).clamp(OFTEN_SECONDS, SELDOM_SECONDS)
            } else if elapsed < usual * 2 {
                OFTEN_SECONDS
            } else {
                SELDOM_SECONDS
            })
        }
        TaskState::Running {
            begun: None, since, ..
        } => Some(checks(*since)),
        TaskState::Seeking { since } | TaskState::Queued { since, .. } => Some(checks(*since)),
        TaskState::Judging => Some(
            task.pull
                .as_ref()
                .map_or(CHECKS_SECONDS, |it| checks(it.seen)),
        ),
        TaskState::Ready => Some(SELDOM_SECONDS),
        TaskState::Todo
        | TaskState::Starting { .. }
        | TaskState::Approved { .. }
        | TaskState::Updating { .. }
        | TaskState::Merging { .. }
        | TaskState::Merged
        | TaskState::Succeeded
        | TaskState::Failed
        | TaskState::Skipped
        | TaskState::Cancelled => None,
    }
}

/// How long such a run usually takes: a first guess, in seconds.
pub(super) fn usual_seconds(kind: TaskKind) -> i64 {
    match kind {
        TaskKind::Orchestrator => 120,
        TaskKind::Reviewer | TaskKind::Verifier => 180,
        TaskKind::Scoper => 300,
        TaskKind::Builder | TaskKind::Debugger => 600,
    }
}
