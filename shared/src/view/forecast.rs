//! `GET /api/v1/issues/{issue}/forecast`: what a plan will cost and how long it
//! will take, and beside it what it did.

use serde::Serialize;

use crate::issue::forecast::{Range, came_to, forecast};
use crate::issue::{Conditions, Issue, Task, TaskKind, Time};

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ForecastDoc {
    pub cost_usd: Range,
    pub minutes: Range,
    pub critical_path: Vec<String>,
    pub actual: Actual,
}

/// What it came to, of the same tasks: those of the plan, without making it.
/// `None`: they are not over.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Actual {
    pub cost_usd: Option<f64>,
    /// From the first start to the last end.
    pub minutes: Option<f64>,
}

/// The forecast that was written down before the work began, else one of now.
/// Where there can be none, a sentence says why.
pub fn read(issue: &Issue, conditions: &Conditions, now: Time) -> Result<ForecastDoc, String> {
    let forecast = match &issue.forecast {
        Some(forecast) => forecast.clone(),
        None if work(issue).next().is_none() => {
            return Err(format!(
                "{} has no plan yet: there is nothing to forecast",
                issue.identifier
            ));
        }
        None if !issue.active() => {
            return Err(format!(
                "no forecast was made of {} before its work began, and that is over",
                issue.identifier
            ));
        }
        None => forecast(issue, conditions, now),
    };
    Ok(ForecastDoc {
        cost_usd: forecast.cost_usd,
        minutes: forecast.minutes,
        critical_path: forecast.critical_path.into_iter().map(|it| it.0).collect(),
        actual: actual(issue),
    })
}

fn actual(issue: &Issue) -> Actual {
    if issue.active() {
        return Actual::default();
    }
    let (cost_usd, minutes) = came_to(issue);
    Actual {
        cost_usd: Some(cost_usd),
        minutes,
    }
}

/// The tasks that a forecast is of.
fn work(issue: &Issue) -> impl Iterator<Item = &Task> {
    issue
        .tasks
        .iter()
        .filter(|it| it.spec.kind != TaskKind::Orchestrator)
}
