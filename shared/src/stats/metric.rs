//! The metrics: their names, units and dimensions, and where facts go. Every
//! dimension has few values, all known here.

use serde::{Deserialize, Serialize};

use super::account::{ledger, usd};
use super::{Fact, OUTCOMES, Stage};
use crate::issue::{ExecutorKind, Scope, Time, words_enum};
use crate::ports::{Attention, Figures};

/// For how long the most overdue issue has been waiting.
const OVERDUE_SECONDS: &str = "OverdueSeconds";
/// What was spent today, in percent of the limit.
const DAY_SPEND_PERCENT: &str = "DaySpendPercent";
/// An executor is left alone (1), or not (0).
pub const CIRCUIT_OPEN: &str = "CircuitOpen";
/// Webhooks that were not taken.
const WEBHOOK_REFUSED: &str = "WebhookRefused";
/// Issues that were parked because their head contradicts their log.
pub const ISSUES_PARKED: &str = "IssuesParked";
/// Records of the table's stream that could not be read.
pub const RECORDS_SKIPPED: &str = "RecordsSkipped";
/// Appends that were refused because somebody else had written.
pub const APPEND_CONFLICTS: &str = "AppendConflicts";
/// Requests to Linear.
pub const LINEAR_CALLS: &str = "LinearCalls";
/// Those that Linear answered with a wish to wait.
pub const LINEAR_WAITS: &str = "LinearWaits";
/// Tasks that are over.
const TASKS: &str = "Tasks";
/// How long a run worked on a task.
const TASK_SECONDS: &str = "TaskSeconds";
/// What a run cost.
const COST_USD: &str = "CostUsd";
/// Tasks that began to be held up, by the stage.
const HELD_TASKS: &str = "HeldTasks";
/// From the moment when a round was heard of, by our clock, to that when its
/// first thought was in Linear.
const FIRST_THOUGHT_MILLIS: &str = "FirstThoughtMillis";
/// Steps of a limit (50, 80, 100 percent) that were reached, by the limit.
const BUDGET_ALERTS: &str = "BudgetAlerts";
/// Looks at what runs.
const LOOKS: &str = "Looks";

const EXECUTOR: &str = "Executor";
const OUTCOME: &str = "Outcome";
const REASON: &str = "Reason";
const SCOPE: &str = "Scope";
/// The executor of a task that never went to one.
const NONE: &str = "none";

words_enum! {
    /// Why a webhook was not taken.
    WebhookRefusal {
        Signature = "signature",
        Malformed = "malformed",
        TooLarge = "too_large",
        NotStored = "not_stored",
    }
}

/// One metric.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    pub name: &'static str,
    /// What it is told apart by.
    pub dimensions: &'static [&'static str],
    /// CloudWatch's word.
    pub unit: &'static str,
}

macro_rules! table {
    ($($name:ident [$($dimension:ident)*] $unit:literal;)*) => {
        &[$(Metric { name: $name, dimensions: &[$($dimension),*], unit: $unit }),*]
    };
}

/// All there are.
pub const METRICS: &[Metric] = table! {
    OVERDUE_SECONDS [] "Seconds";
    DAY_SPEND_PERCENT [] "Percent";
    CIRCUIT_OPEN [EXECUTOR] "Count";
    WEBHOOK_REFUSED [REASON] "Count";
    ISSUES_PARKED [] "Count";
    RECORDS_SKIPPED [] "Count";
    TASKS [EXECUTOR OUTCOME] "Count";
    TASK_SECONDS [EXECUTOR] "Seconds";
    COST_USD [EXECUTOR] "None";
    HELD_TASKS [REASON] "Count";
    FIRST_THOUGHT_MILLIS [] "Milliseconds";
    BUDGET_ALERTS [SCOPE] "Count";
    LOOKS [] "Count";
    LINEAR_CALLS [] "Count";
    LINEAR_WAITS [] "Count";
    APPEND_CONFLICTS [] "Count";
};

/// The values that a dimension may have.
pub fn values_of(dimension: &str) -> Vec<&'static str> {
    let executors = ExecutorKind::ALL.iter().map(|it| it.word());
    match dimension {
        EXECUTOR => executors.chain([NONE]).collect(),
        OUTCOME => OUTCOMES.to_vec(),
        SCOPE => Scope::ALL.iter().map(|it| it.word()).collect(),
        REASON => {
            let refusals = WebhookRefusal::ALL.iter().map(|it| it.word());
            refusals
                .chain(Stage::ALL.iter().map(|it| it.word()))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// Tells the metrics what has happened.
pub fn measure(facts: &[Fact]) {
    for fact in facts {
        match fact {
            Fact::Ran {
                executor,
                seconds,
                cost_usd,
            } => {
                let executor = executor.word();
                metrics::histogram!(TASK_SECONDS, EXECUTOR => executor).record(*seconds as f64);
                metrics::histogram!(COST_USD, EXECUTOR => executor).record(*cost_usd);
            }
            Fact::Over { executor, outcome } => {
                let executor = executor.map_or(NONE, ExecutorKind::word);
                metrics::counter!(TASKS, EXECUTOR => executor, OUTCOME => *outcome).increment(1);
            }
            Fact::Held(stage) => {
                metrics::counter!(HELD_TASKS, REASON => stage.word()).increment(1);
            }
            Fact::Greeted { millis } => {
                metrics::histogram!(FIRST_THOUGHT_MILLIS).record(*millis as f64);
            }
            Fact::Alerted { scope, .. } => {
                metrics::counter!(BUDGET_ALERTS, SCOPE => scope.word()).increment(1);
            }
            Fact::Reserved { .. } | Fact::Booked { .. } | Fact::Done { .. } => {}
        }
    }
}

/// Tells the metrics what a look had to look at.
pub fn looked(attention: &[Attention], now: Time) {
    metrics::counter!(LOOKS).increment(1);
    metrics::gauge!(OVERDUE_SECONDS).set(overdue_seconds(attention, now));
}

/// Tells the metrics what today's account says, where the day has a limit.
pub fn spent(today: &Figures, day_usd_max: f64) {
    if day_usd_max > 0.0 {
        let percent = usd(ledger(today).0) / day_usd_max * 100.0;
        metrics::gauge!(DAY_SPEND_PERCENT).set(percent);
    }
}

/// Tells the metrics that a webhook was not taken.
pub fn refused(why: WebhookRefusal) {
    metrics::counter!(WEBHOOK_REFUSED, REASON => why.word()).increment(1);
}

/// For how long the most overdue issue has been waiting.
pub fn overdue_seconds(attention: &[Attention], now: Time) -> f64 {
    let first = attention.iter().filter_map(|it| it.at).min();
    first.map_or(0.0, |at| now.duration_since(at).as_secs_f64().max(0.0))
}
