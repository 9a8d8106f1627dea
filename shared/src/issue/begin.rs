//! What may begin under the conditions of now: runs and merges; and what has to
//! wait, for what. Asking twice under the same conditions answers nothing the
//! second time.

use std::collections::BTreeMap;

use super::advance::{advance, stop};
use super::conditions::{Approval, Conditions, Wait};
use super::forecast::forecast;
use super::money::{Purse, Refused, Reservation, Scope};
use super::plan;
use super::route::{Ask, Choice, route};
use super::state::{Consent, Waiting};
use super::understand::tell;
use super::validate::close;
use super::{
    Activity, Draft, Effect, Event, ExecutorKind, Issue, Shun, Task, TaskId, TaskKind, TaskState,
    words,
};

/// People are told when so many percent of a limit are spent.
const ALERTS_PERCENT: [u8; 3] = [50, 80, 100];

pub(super) fn begin(draft: &mut Draft, conditions: &Conditions) {
    let issue = &draft.issue;
    if !issue.active() || issue.policy.is_none() {
        return;
    }
    let mut pass = Pass::default();
    if issue.cancelled.is_none() && issue.unserved.is_none() {
        take_back(draft, conditions);
        ask(draft, conditions);
        dispatch(draft, conditions, &mut pass);
        merge(draft, conditions, &mut pass);
    }
    wait(draft, pass);
    alert(draft, conditions);
    advance(draft);
}

/// What one pass over all that could begin has found.
#[derive(Default)]
struct Pass {
    waits: BTreeMap<Wait, (Waiting, Option<Activity>)>,
    /// It has not come to everything: what was waited for may be so still.
    partial: bool,
}

/// Stops what an operator wants stopped, and takes back what nobody has begun:
/// under a pause, and where nobody will while it could go elsewhere.
fn take_back(draft: &mut Draft, conditions: &Conditions) {
    for task in draft.issue.tasks.clone() {
        let TaskState::Running {
            run,
            stopping: None,
            ..
        } = &task.state
        else {
            continue;
        };
        let taken_back = match conditions.pause {
            Some(pause) => pause.stop_runs || task.lies_idle(),
            None => task.lies_idle() && moves(&task, conditions),
        };
        if taken_back {
            draft.emit(Event::Interrupted {
                task: task.spec.id.clone(),
            });
            stop(draft, &task, run);
        }
    }
}

/// Would it go elsewhere than where it lies, which is down?
fn moves(task: &Task, conditions: &Conditions) -> bool {
    let here = task.executor.and_then(|it| conditions.executor(it));
    let ask = Ask {
        spec: &task.spec,
        shuns: None,
        fits: ExecutorKind::ALL,
    };
    here.is_some_and(|it| it.down.is_some())
        && matches!(route(&ask, conditions), Choice::Go { executor, .. } if Some(executor) != task.executor)
}

/// Before the work begins: what it will come to, and whether a person has to
/// approve of that.
fn ask(draft: &mut Draft, conditions: &Conditions) {
    let issue = &draft.issue;
    let mut work = issue
        .tasks
        .iter()
        .filter(|it| it.spec.kind != TaskKind::Orchestrator)
        .peekable();
    if work.peek().is_none() || work.any(|it| it.attempt > 0) || issue.consent != Consent::NotAsked
    {
        return;
    }
    if issue.forecast.is_none() {
        let forecast = forecast(issue, conditions, draft.now);
        draft.emit(Event::Forecast(forecast));
    }
    let expected = draft.issue.forecast.as_ref().map(|it| it.cost_usd.expected);
    let needed = match conditions.rules.approval {
        Approval::Never => false,
        Approval::Always => true,
        Approval::Over(usd) => expected.is_some_and(|it| it > usd),
    };
    if needed {
        draft.emit(Event::ApprovalAsked);
        draft.say(words::approval(&draft.issue));
    }
}

/// Starts what may start, the longest way to the end first.
fn dispatch(draft: &mut Draft, conditions: &Conditions, pass: &mut Pass) {
    let issue = &draft.issue;
    let depths = plan::depths(issue.tasks.iter().map(|task| task.spec.as_ref()));
    let mut startable: Vec<&Task> = issue.startable(draft.now).collect();
    startable.sort_by_key(|task| std::cmp::Reverse(depths[&task.spec.id]));
    // What pauses between two tries is not over.
    let resting = |task: &Task| {
        task.state == TaskState::Todo && task.not_before.is_some_and(|it| it > draft.now)
    };
    pass.partial = issue.tasks.iter().any(resting);
    if conditions.pause.is_some() && !startable.is_empty() {
        pass.waits.insert(Wait::Pause, words::paused());
        pass.partial = true;
        return;
    }
    let mut chosen: Vec<Start> = Vec::new();
    let mut conditions = conditions.clone();
    let day = conditions.clone();
    let mut purse = Purse::of(issue, &day, draft.changes_of(day.day.date));
    for task in startable {
        if chosen.len() >= issue.places_free() {
            pass.partial = true;
            break;
        }
        let fits = |kind: &&ExecutorKind| purse.check(task, **kind).is_ok();
        let fits: Vec<ExecutorKind> = ExecutorKind::ALL.iter().filter(fits).copied().collect();
        let ask = Ask {
            spec: &task.spec,
            shuns: shuns(issue, task),
            fits: &fits,
        };
        let choice = goes_on(task, &conditions).unwrap_or_else(|| route(&ask, &conditions));
        let (executor, why, instead_of) = match choice {
            Choice::Go {
                executor,
                why,
                instead_of,
            } => (executor, why, instead_of),
            Choice::Wait { executor, why } => {
                let wait = words::waits_for_executor(&why);
                pass.waits.entry(Wait::Executor(executor)).or_insert(wait);
                continue;
            }
        };
        // Whether one that was down takes something again, one task finds out.
        let probed = |it: &Start| it.executor == executor;
        if was_down(issue, executor) && (chosen.iter().any(probed) || tries(issue, executor)) {
            pass.partial = true;
            continue;
        }
        match purse.admit(task, executor) {
            Ok(reserved) => {
                let free = conditions
                    .executors
                    .iter_mut()
                    .find(|it| it.kind == executor);
                if let Some(slots) = free.and_then(|it| it.slots_free.as_mut()) {
                    *slots = slots.saturating_sub(1);
                }
                chosen.push(Start {
                    task: task.spec.id.clone(),
                    attempt: task.attempt + u32::from(task.mend.is_none()),
                    repair: task.mend.is_some(),
                    executor,
                    why,
                    instead_of,
                    reserved,
                });
            }
            Err(refused) => {
                let Refused { scope, .. } = refused;
                let wait = words::waits_for_money(issue, task, &refused);
                pass.waits.entry(Wait::Money(scope)).or_insert(wait);
                // What comes first gets the money first; only a task's own limit
                // stands in nobody's way.
                if scope != Scope::Task {
                    pass.partial = true;
                    break;
                }
            }
        }
    }
    for start in chosen {
        start.request(draft);
    }
}

/// A repair goes to where the work was done, as long as that takes something.
fn goes_on(task: &Task, conditions: &Conditions) -> Option<Choice> {
    task.mend.as_ref()?;
    let (executor, _) = task.run.as_ref()?;
    let executor = *executor;
    let takes = conditions
        .executor(executor)
        .is_some_and(|it| it.down.is_none());
    takes.then(|| Choice::Go {
        executor,
        why: words::mends_there().to_owned(),
        instead_of: None,
    })
}

/// Where a task should not go: a reviewer not to where the work was done.
fn shuns(issue: &Issue, task: &Task) -> Option<(ExecutorKind, Shun)> {
    let of = task.spec.judges.as_ref().and_then(|it| issue.task(it));
    let author = of.and_then(|it| it.run.as_ref());
    task.shuns.or(author.map(|(at, _)| (*at, Shun::Author)))
}

struct Start {
    task: TaskId,
    attempt: u32,
    repair: bool,
    executor: ExecutorKind,
    why: String,
    instead_of: Option<ExecutorKind>,
    reserved: Option<Reservation>,
}

impl Start {
    /// What an earlier attempt has opened, nobody comes back to.
    fn leave_behind(&self, draft: &mut Draft) {
        let left = draft.issue.task(&self.task).filter(|it| {
            let used = it.attempt > 0 && it.branch.is_some() && it.spec.kind.makes_pull();
            !self.repair && used && !it.closing
        });
        if let Some(why) = left.map(|it| it.error.clone().unwrap_or_default()) {
            close(draft, &self.task, &words::superseded(&why));
        }
    }

    fn request(self, draft: &mut Draft) {
        let news = self
            .instead_of
            .is_some_and(|it| !draft.issue.fallen.contains(&it));
        if news {
            tell(draft, words::fell_back(&self.why));
        }
        self.leave_behind(draft);
        draft.emit(Event::Routed {
            task: self.task.clone(),
            executor: self.executor,
            why: self.why,
            instead_of: self.instead_of,
        });
        draft.request(Effect::Start {
            task: self.task,
            attempt: self.attempt,
            executor: self.executor,
            reserved: self.reserved,
            repair: self.repair,
        });
    }
}

fn merge(draft: &mut Draft, conditions: &Conditions, pass: &mut Pass) {
    let Some((task, pull, sha, update)) = draft.issue.mergeable() else {
        return;
    };
    if conditions.pause.is_some_and(|it| it.merges) {
        pass.waits.entry(Wait::Pause).or_insert_with(words::paused);
        return;
    }
    let (task, number, sha) = (task.spec.id.clone(), pull.number, sha.to_owned());
    draft.request(if update {
        Effect::Update { task, number, sha }
    } else {
        Effect::Merge { task, number, sha }
    });
}

/// Writes down what is waited for now, and tells people what they have to know, once.
fn wait(draft: &mut Draft, pass: Pass) {
    let Pass { waits, partial } = pass;
    let issue = &draft.issue;
    let over = |on: &Wait| match on {
        // Nothing is lost when this is asked again; and no limit stands in its way.
        Wait::Pause => true,
        Wait::Executor(executor) => !partial && !tries(issue, *executor),
        Wait::Money(_) => !partial,
    };
    let known = issue.waits.keys();
    let over: Vec<Wait> = known
        .filter(|on| !waits.contains_key(on) && over(on))
        .copied()
        .collect();
    for on in over {
        draft.emit(Event::Resumed { on });
    }
    for (on, (waiting, activity)) in waits {
        // What is left changes all the time; that is no news. Another limit is.
        let known = draft.issue.waits.get(&on);
        let same = |it: &Waiting| it.limit == waiting.limit && it.told >= waiting.told;
        if known.is_some_and(same) {
            continue;
        }
        let Waiting {
            why,
            told,
            limit,
            enough,
        } = waiting;
        draft.emit(Event::Waits {
            on,
            why,
            told,
            limit,
            enough,
        });
        if let Some(activity) = activity.filter(|_| !draft.issue.reported) {
            draft.say(activity);
        }
    }
}

/// Is it being tried just now whether the executor takes something?
fn tries(issue: &Issue, executor: ExecutorKind) -> bool {
    let starting = |task: &Task| {
        matches!(task.state, TaskState::Starting { .. }) && task.executor == Some(executor)
    };
    issue.tasks.iter().any(starting)
}

/// It was down when something was last to go there.
fn was_down(issue: &Issue, executor: ExecutorKind) -> bool {
    issue.fallen.contains(&executor) || issue.waits.contains_key(&Wait::Executor(executor))
}

/// Tells how much of a limit is spent, once for each step; a day's by the first
/// issue in which it can still be said.
fn alert(draft: &mut Draft, conditions: &Conditions) {
    if draft.issue.cancelled.is_some() || draft.issue.reported {
        return;
    }
    let changes = draft.changes_of(conditions.day.date);
    let purse = Purse::of(&draft.issue, conditions, changes);
    let reached = |(spent, max): (i64, Option<i64>)| {
        let max = max.filter(|it| *it > 0)?;
        let percent = spent.saturating_mul(100) / max;
        let step = |it: &&u8| i64::from(**it) <= percent;
        let percent = *ALERTS_PERCENT.iter().rev().find(step)?;
        Some((percent, spent, max))
    };
    let mut alerts = Vec::new();
    if let Some((percent, spent, max)) = reached(purse.of_issue())
        && draft.issue.alerted < percent
    {
        alerts.push((Scope::Issue, percent, None, spent, max));
    }
    if let Some((percent, spent, max)) = reached(purse.of_day())
        && conditions.day.alerted.iter().all(|it| *it < percent)
        && draft
            .issue
            .alerted_of_day
            .is_none_or(|told| told < (conditions.day.date, percent))
    {
        alerts.push((Scope::Day, percent, Some(conditions.day.date), spent, max));
    }
    for (scope, percent, day, spent, max) in alerts {
        draft.emit(Event::Alerted {
            scope,
            percent,
            day,
        });
        draft.say(words::alert(scope, percent, spent, max));
    }
}
