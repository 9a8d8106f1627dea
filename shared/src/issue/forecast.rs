//! What a plan will cost and how long it will take, before it is begun.

use serde::{Deserialize, Serialize};

use super::{Conditions, Issue, TaskId, Time};

/// A guess with its bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Range {
    pub low: f64,
    pub expected: f64,
    pub high: f64,
}

/// What the tasks that are left will come to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    pub cost_usd: Range,
    pub minutes: Range,
    /// The longest way through the plan, as far as it is known.
    pub critical_path: Vec<TaskId>,
}

/// Forecasts the tasks of an issue that have not been begun.
pub fn forecast(issue: &Issue, conditions: &Conditions, now: Time) -> Forecast {
    let _ = (issue, conditions, now);
    Forecast::default()
}
