//! Limits, reservations and what is left. A run is admitted only if the most
//! that it may cost fits under every limit; what it did cost takes the place of
//! its reservation. Pure: the day's account is kept with the log's appends.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::{Conditions, ExecutorKind, Issue, Task, TaskKind, words_enum};

const MICROS_PER_USD: f64 = 1_000_000.0;
/// A further run of a task is not worth beginning with less, USD.
const RUN_USD_MIN: f64 = 0.05;

words_enum! {
    /// What a limit is on.
    Scope { Task = "task", Issue = "issue", Day = "day" }
}

/// The most that a run may cost, set aside for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reservation {
    pub usd: f64,
    /// Whose limit it counts for, until the end: the day of UTC of its admission.
    pub day: Date,
    /// The limit of that day, as it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day_max_usd: Option<f64>,
}

/// What may be spent still, in the course of one decision. Millionths of a USD.
pub struct Purse<'a> {
    issue: &'a Issue,
    conditions: &'a Conditions,
    issue_max: Option<i64>,
    issue_spent: i64,
    issue_reserved: i64,
    day_max: Option<i64>,
    day_spent: i64,
    day_reserved: i64,
}

/// Why a run was not admitted. Millionths of a USD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub scope: Scope,
    pub max: i64,
    /// What is neither spent nor reserved.
    pub left: i64,
    /// What the run may cost.
    pub need: i64,
    /// It will fit as soon as what is reserved now is settled for less.
    pub frees: bool,
    /// Runs of this very issue have something set aside.
    pub ours: bool,
}

impl<'a> Purse<'a> {
    /// `changes`: what this decision itself has booked on the day, and set aside on it.
    pub(super) fn of(issue: &'a Issue, conditions: &'a Conditions, changes: (i64, i64)) -> Self {
        let rules = &conditions.rules;
        let day = &conditions.day;
        Self {
            issue,
            conditions,
            issue_max: raised(issue, conditions, Scope::Issue, rules.cost_per_issue_max),
            issue_spent: micros(issue.spent_usd),
            issue_reserved: issue.reserved(),
            day_max: raised(issue, conditions, Scope::Day, rules.cost_per_day_max),
            day_spent: day.spent + changes.0,
            day_reserved: day.reserved + changes.1,
        }
    }

    /// What is booked for the issue, and its limit.
    pub(super) fn of_issue(&self) -> (i64, Option<i64>) {
        (self.issue_spent, self.issue_max)
    }

    /// The same of the day.
    pub(super) fn of_day(&self) -> (i64, Option<i64>) {
        (self.day_spent, self.day_max)
    }

    /// The most that a run of this task may cost there; `None`: nothing limits it.
    fn need(&self, task: &Task, executor: ExecutorKind) -> Option<i64> {
        // Commands cost nothing that is counted.
        if task.spec.kind == TaskKind::Verifier {
            return None;
        }
        if !executor.reports_cost() {
            // Nor can it be capped: each run is booked at a flat price.
            return Some(micros(self.conditions.rules.cost_per_run));
        }
        let own = self.task_max().map(|max| max - micros(task.cost_usd));
        // Without a limit of its own a task has its share of the others. What is
        // spent of them is nobody's: else no further run would ever fit.
        let parts = if own.is_some() {
            1
        } else {
            self.parallel().max(1)
        };
        let part = |max: i64, spent: i64| {
            let binds = own.is_none_or(|own| max / parts <= own);
            let least = micros(RUN_USD_MIN).min(max);
            binds.then(|| (max / parts).min((max - spent).max(least)))
        };
        let of_issue = self.issue_max.and_then(|max| part(max, self.issue_spent));
        let of_day = self.day_max.and_then(|max| part(max, self.day_spent));
        let need = [own, of_issue, of_day].into_iter().flatten().min();
        // A limit of nothing lets nothing begin.
        need.map(|it| it.max(1))
    }

    fn parallel(&self) -> i64 {
        let max = self.issue.policy.as_ref().map_or(1, |it| it.parallel_max);
        i64::try_from(max).unwrap_or(i64::MAX)
    }

    fn task_max(&self) -> Option<i64> {
        let rule = self.conditions.rules.cost_per_task_max;
        raised(self.issue, self.conditions, Scope::Task, rule)
    }

    /// Would a run of this task there fit under all limits?
    pub(super) fn check(
        &self,
        task: &Task,
        executor: ExecutorKind,
    ) -> Result<Option<i64>, Refused> {
        let Some(need) = self.need(task, executor) else {
            return Ok(None);
        };
        if let Some(max) = self.task_max() {
            let left = max - micros(task.cost_usd);
            let least = micros(RUN_USD_MIN).min(max).max(1);
            let enough = if executor.reports_cost() { least } else { need };
            if left < enough {
                return Err(Refused {
                    scope: Scope::Task,
                    max,
                    left,
                    need: enough,
                    frees: false,
                    ours: false,
                });
            }
        }
        let scopes = [
            (
                Scope::Issue,
                self.issue_max,
                self.issue_spent,
                self.issue_reserved,
            ),
            (Scope::Day, self.day_max, self.day_spent, self.day_reserved),
        ];
        for (scope, max, spent, reserved) in scopes {
            let Some(max) = max else { continue };
            let left = max - spent - reserved;
            if left < need {
                let frees = max - spent >= need;
                return Err(Refused {
                    scope,
                    max,
                    left,
                    need,
                    frees,
                    ours: self.issue_reserved > 0,
                });
            }
        }
        Ok(Some(need))
    }

    /// Sets aside what a run of this task may cost there.
    pub(super) fn admit(
        &mut self,
        task: &Task,
        executor: ExecutorKind,
    ) -> Result<Option<Reservation>, Refused> {
        let Some(need) = self.check(task, executor)? else {
            return Ok(None);
        };
        self.issue_reserved += need;
        self.day_reserved += need;
        Ok(Some(Reservation {
            usd: usd(need),
            day: self.conditions.day.date,
            day_max_usd: self.day_max.map(usd),
        }))
    }
}

/// A limit, or what a person has raised it to for this issue.
fn raised(issue: &Issue, conditions: &Conditions, scope: Scope, rule: Option<f64>) -> Option<i64> {
    let raised = issue.raised.get(&scope);
    let raised = raised.filter(|(_, day)| day.is_none_or(|it| it == conditions.day.date));
    let rule = rule?;
    Some(micros(raised.map_or(rule, |(usd, _)| usd.max(rule))))
}

/// Whole millionths of a USD, in which sums are exact.
pub fn micros(usd: f64) -> i64 {
    (usd * MICROS_PER_USD).round() as i64
}

/// USD, of millionths.
pub fn usd(micros: i64) -> f64 {
    micros as f64 / MICROS_PER_USD
}
