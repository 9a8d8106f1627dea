//! The money of the simulated world, by the logs alone: what was booked and set
//! aside on every day, in plain sums. The accounts must agree with it, and every
//! admission must have fitted under the limits that held for it.
//!
//! For each day, after every append: committed = booked + set aside, to the
//! millionth; neither is below zero; after an append that admits a run they are
//! together not over the limit that it was admitted under; and at any time not
//! over the highest such limit but by what runs were booked at beyond what was
//! set aside for them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use shared::issue::{
    Activity, Effect, Event, ExecutorKind, Issue, IssueId, Outcome, Record, Reservation, Rules,
    Scope, Strategy, Task, TaskId, TaskKind, Telling, Time, Wait, evolve, micros, utc_day,
};
use shared::ports::{Append, Figures};
use shared::stats;

#[derive(Debug, Default)]
pub(crate) struct Books {
    issues: BTreeMap<IssueId, Issue>,
    days: BTreeMap<Date, Day>,
    /// How often each task of a present round was tried, as it counts.
    tries: BTreeMap<(IssueId, TaskId), Tries>,
    alerts: BTreeSet<(Date, u8)>,
}

#[derive(Debug, Default)]
struct Day {
    booked: i64,
    /// The highest limit that a run was admitted under.
    ceiling: i64,
    /// What was booked beyond what was set aside.
    beyond: i64,
    /// A run was admitted without a limit.
    open: bool,
}

#[derive(Debug, Default)]
struct Tries {
    counted: u32,
    repairs: u32,
    /// The run under way is a repair.
    mends: bool,
    interrupted: bool,
}

/// What an append has brought to light.
#[derive(Default)]
pub(crate) struct News {
    pub(crate) landmarks: Vec<&'static str>,
    pub(crate) broken: Vec<String>,
}

impl Books {
    pub(crate) fn issues(&self) -> impl Iterator<Item = &Issue> {
        self.issues.values()
    }

    pub(crate) fn issue(&self, id: &IssueId) -> Option<&Issue> {
        self.issues.get(id)
    }

    pub(crate) fn days(&self) -> Vec<Date> {
        self.days.keys().copied().collect()
    }

    /// What is set aside on the account of a day.
    pub(crate) fn reserved_on(&self, day: Date) -> i64 {
        let tasks = self.issues.values().flat_map(|it| &it.tasks);
        let reserved = tasks.filter_map(|it| it.reserved.as_ref());
        reserved
            .filter(|it| it.day == day)
            .map(|it| micros(it.usd))
            .sum()
    }

    /// Enters what was written under these rules.
    pub(crate) fn enter(&mut self, append: &Append, rules: &Rules) -> News {
        let mut news = News::default();
        let id = append.issue.clone();
        let mut issue = self
            .issues
            .remove(&id)
            .unwrap_or_else(|| Issue::unknown(id.clone()));
        let mut admitted = Vec::new();
        for (seq, event) in (append.after + 1..).zip(&append.events) {
            self.spend(&issue, event, append.at, &mut news);
            self.count(&issue, event, &mut news);
            tell_landmarks(&issue, event, &mut news);
            let record = Record {
                seq,
                at: append.at,
                event: event.clone(),
            };
            evolve(&mut issue, &record);
            if let Event::Requested(Effect::Start {
                task,
                executor,
                reserved,
                ..
            }) = event
            {
                admitted.push(*reserved);
                check_place(&issue, task, *executor, rules, &mut news);
                check_limits(&issue, task, reserved.as_ref(), rules, &mut news);
            }
            if matches!(event, Event::Done { .. }) && issue.reserved() != 0 {
                news.broken
                    .push(format!("{id} is over with money set aside"));
            }
        }
        check_told(&issue, append, &mut news);
        self.issues.insert(id.clone(), issue);
        for reserved in admitted {
            self.admit(reserved, append.at, &mut news);
        }
        news
    }

    /// Is this what the accounts say of these days?
    pub(crate) fn compare(&self, accounts: &[Figures]) -> Vec<String> {
        let mut broken = Vec::new();
        for ((date, day), figures) in self.days.iter().zip(accounts) {
            let ours = (day.booked, self.reserved_on(*date));
            let theirs = stats::ledger(figures);
            if ours != theirs {
                broken.push(format!(
                    "{date}: the logs say {ours:?} is booked and set aside, the account {theirs:?}"
                ));
            }
            let (booked, reserved) = theirs;
            if booked < 0 || reserved < 0 {
                broken.push(format!("{date}: below zero: {theirs:?}"));
            }
            if !day.open && booked + reserved > day.ceiling + day.beyond {
                broken.push(format!(
                    "{date}: {theirs:?} is over {} and what was booked beyond, {}",
                    day.ceiling, day.beyond
                ));
            }
        }
        broken
    }

    /// The cost of a run is of the day of its admission.
    fn spend(&mut self, issue: &Issue, event: &Event, at: Time, news: &mut News) {
        let Event::Ended { task, cost_usd, .. } = event else {
            return;
        };
        let reserved = issue.task(task).and_then(|it| it.reserved);
        let day = reserved.map_or_else(|| utc_day(at), |it| it.day);
        let (cost, aside) = (micros(*cost_usd), reserved.map_or(0, |it| micros(it.usd)));
        let day = self.days.entry(day).or_default();
        day.booked += cost;
        day.beyond += (cost - aside).max(0);
        if reserved.is_some() && cost > aside {
            news.landmarks.push("a run overshot its cap");
        }
        if !cost_usd.is_finite() || cost < 0 {
            news.broken
                .push(format!("{}: {task} was booked at {cost_usd}", issue.id));
        }
    }

    fn admit(&mut self, reserved: Option<Reservation>, at: Time, news: &mut News) {
        let date = reserved.map_or_else(|| utc_day(at), |it| it.day);
        let aside = self.reserved_on(date);
        let day = self.days.entry(date).or_default();
        match reserved.and_then(|it| it.day_max_usd) {
            Some(max) => {
                day.ceiling = day.ceiling.max(micros(max));
                let committed = day.booked + aside;
                if committed > micros(max) {
                    let what = format!("{date}: a run was admitted at {committed} under {max}");
                    news.broken.push(what);
                }
            }
            None => day.open = true,
        }
    }

    fn tries_of(&mut self, issue: &IssueId, task: &TaskId) -> &mut Tries {
        let key = (issue.clone(), task.clone());
        self.tries.entry(key).or_default()
    }

    /// No task is tried more often than is allowed, but for what operators and
    /// people wanted, and a plan that was none.
    fn count(&mut self, issue: &Issue, event: &Event, news: &mut News) {
        match event {
            Event::Renewed { tasks } => {
                for task in tasks {
                    *self.tries_of(&issue.id, task) = Tries::default();
                }
            }
            Event::Performed {
                key,
                outcome: Outcome::Started { .. },
            } => {
                let Some((task, _, repair)) = issue.starts.get(key) else {
                    return;
                };
                let repairs_max = issue.policy.as_ref().map_or(0, |it| it.repairs_max);
                let judges = issue.task(task).is_some_and(Task::is_judge);
                let tries = self.tries_of(&issue.id, task);
                tries.mends = *repair;
                if *repair {
                    tries.repairs += 1;
                    if tries.repairs > repairs_max {
                        news.broken.push(format!(
                            "{}: {task} was mended more than {repairs_max} times",
                            issue.id
                        ));
                    }
                    return;
                }
                // Judges are asked about every commit.
                if judges {
                    return;
                }
                let tries = self.tries_of(&issue.id, task);
                tries.counted += 1;
                let planner = issue
                    .task(task)
                    .is_some_and(|it| it.spec.kind == TaskKind::Orchestrator);
                let more = if planner { issue.plan_rejections } else { 0 };
                let max = issue.policy.as_ref().map_or(1, |it| it.attempts_max);
                if tries.counted > max + more {
                    let tries = tries.counted;
                    news.broken
                        .push(format!("{}: {task} was tried {tries} times", issue.id));
                }
            }
            Event::Interrupted { task } => {
                self.tries_of(&issue.id, task).interrupted = true;
            }
            Event::Ended { task, ending, .. } => {
                let tries = self.tries_of(&issue.id, task);
                if std::mem::take(&mut tries.interrupted) && ending.result.is_err() {
                    if tries.mends {
                        tries.repairs = tries.repairs.saturating_sub(1);
                    } else {
                        tries.counted = tries.counted.saturating_sub(1);
                    }
                    news.landmarks.push("a run was stopped by a pause");
                }
            }
            Event::ChangeAsked { .. } | Event::Done { .. } => {
                self.tries.retain(|(id, _), _| *id != issue.id);
            }
            Event::Alerted {
                scope,
                percent,
                day,
            } => {
                let known = match day {
                    Some(day) => !self.alerts.insert((*day, *percent)),
                    None => issue.alerted >= *percent,
                };
                if known {
                    news.broken.push(format!(
                        "{percent} % of the limit of the {scope} was told twice"
                    ));
                }
                news.landmarks.push("an alert was told once");
            }
            _ => {}
        }
    }
}

fn check_place(
    issue: &Issue,
    task: &TaskId,
    executor: ExecutorKind,
    rules: &Rules,
    news: &mut News,
) {
    // Commands run on the team's machines under any strategy.
    if issue.task(task).is_some_and(|it| !it.is_shown()) {
        return;
    }
    let wrong = match rules.strategy {
        Strategy::LocalOnly => executor != ExecutorKind::Local,
        Strategy::CloudOnly => executor != ExecutorKind::Codegen,
        Strategy::HybridParallel | Strategy::HybridSmart | Strategy::CostOptimized => false,
    };
    if wrong {
        let strategy = rules.strategy;
        news.broken.push(format!(
            "{}: {task} went to {executor} under {strategy}",
            issue.id
        ));
    }
}

/// Just after a run was admitted.
fn check_limits(
    issue: &Issue,
    task: &TaskId,
    reserved: Option<&Reservation>,
    rules: &Rules,
    news: &mut News,
) {
    let id = &issue.id;
    let raised = |scope: Scope, rule: Option<f64>| {
        let raised = issue.raised.get(&scope);
        let raised = raised.filter(|(_, day)| day.is_none() || *day == reserved.map(|it| it.day));
        rule.map(|rule| micros(raised.map_or(rule, |(usd, _)| usd.max(rule))))
    };
    let task_max = raised(Scope::Task, rules.cost_per_task_max);
    let issue_max = raised(Scope::Issue, rules.cost_per_issue_max);
    let day_max = raised(Scope::Day, rules.cost_per_day_max);
    // Commands cost nothing.
    let free = issue.task(task).is_some_and(|it| !it.is_shown());
    let Some(reserved) = reserved else {
        if !free && [task_max, issue_max, day_max].iter().any(Option::is_some) {
            news.broken
                .push(format!("{id}: nothing is set aside for {task}"));
        }
        return;
    };
    let aside = micros(reserved.usd);
    let cost = issue.task(task).map_or(0, |it| micros(it.cost_usd));
    if aside <= 0 {
        news.broken
            .push(format!("{id}: {aside} is set aside for {task}"));
    }
    if task_max.is_some_and(|max| cost + aside > max) {
        let what = format!("{id}: {task} may cost {cost} and {aside} now, over {task_max:?}");
        news.broken.push(what);
    }
    let (spent, set_aside) = (micros(issue.spent_usd), issue.reserved());
    if issue_max.is_some_and(|max| spent + set_aside > max) {
        let what = format!("{id}: {spent} is spent and {set_aside} set aside, over {issue_max:?}");
        news.broken.push(what);
    }
    match (day_max, reserved.day_max_usd.map(micros)) {
        (Some(max), Some(under)) if under <= max => {}
        (None, None) => {}
        (max, under) => news
            .broken
            .push(format!("{id}: a day of {max:?} was taken for {under:?}")),
    }
}

/// What people have to know of a wait is told with it.
fn check_told(issue: &Issue, append: &Append, news: &mut News) {
    let says = |wanted: fn(&Activity) -> bool| {
        append.events.iter().any(
            |it| matches!(it, Event::Requested(Effect::Say { activity, .. }) if wanted(activity)),
        )
    };
    for event in &append.events {
        let Event::Waits { on, told, .. } = event else {
            continue;
        };
        let told = match told {
            Telling::Silent => continue,
            Telling::Said => says(|it| matches!(it, Activity::Thought(_))),
            Telling::Asked => says(|it| matches!(it, Activity::Elicitation { .. })),
        };
        if !told && !issue.reported {
            news.broken.push(format!(
                "{} waits for {on:?}, and nobody was told",
                issue.id
            ));
        }
    }
}

fn tell_landmarks(issue: &Issue, event: &Event, news: &mut News) {
    let landmarks = &mut news.landmarks;
    match event {
        Event::Waits { on, .. } => landmarks.push(match on {
            Wait::Pause => "something waited for the end of a pause",
            Wait::Money(Scope::Task) => "a run was refused by the limit of a task",
            Wait::Money(Scope::Issue) => "a run was refused by the limit of an issue",
            Wait::Money(Scope::Day) => "a run was refused by the limit of a day",
            Wait::Executor(_) => "a task waited for its executor",
        }),
        Event::Resumed { on: Wait::Money(_) } => landmarks.push("there was money again"),
        Event::Resumed {
            on: Wait::Executor(_),
        } => landmarks.push("an executor that was waited for was back"),
        Event::Routed {
            instead_of: Some(_),
            ..
        } => landmarks.push("an executor was down and a task went elsewhere"),
        Event::Raised { .. } => landmarks.push("a person raised a limit"),
        Event::ApprovalAsked => landmarks.push("an approval was asked for"),
        Event::PlanApproved => landmarks.push("an approval was given"),
        Event::ChangeAsked { .. } => landmarks.push("a person wanted another plan"),
        Event::CancelAsked { .. } if issue.phase().word() == "awaiting" => {
            landmarks.push("an approval was refused");
        }
        Event::GaveUp { why, .. } if why.contains("an operator has paused") => {
            landmarks.push("a start was refused by the switch at the last moment");
        }
        _ => {}
    }
}
