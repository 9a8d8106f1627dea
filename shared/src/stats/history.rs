//! The accounts of history: what the tasks of a day came to, by executor, kind
//! and complexity, and how good forecasts were. Entered with the end of a round,
//! for all of its tasks at once; read to route, to forecast, and for statistics.

use jiff::civil::Date;

use super::Period;
use crate::issue::forecast::{Forecast, came_to};
use crate::issue::history::{Cell, History, Past};
use crate::issue::{Complexity, ExecutorKind, Issue, RoundOutcome, Task, TaskKind, Time};
use crate::ports::Figures;

/// A forecast that is further off than this, in thousandths, counts as this far:
/// one that went astray must not be all that is seen.
const ERROR_PERMILLE_MAX: i64 = 10_000;

/// What the end of its round adds to the history account of the day. A round
/// that a person cancelled says nothing of how such tasks go.
pub(super) fn learnt(issue: &Issue, outcome: RoundOutcome) -> Figures {
    let mut figures = Figures::new();
    if outcome == RoundOutcome::Cancelled {
        return figures;
    }
    let mut add = |name: String, by: i64| *figures.entry(name).or_default() += by;
    for task in issue.tasks.iter().filter(|it| tried(issue, it)) {
        let Some(executor) = task.executor else {
            continue;
        };
        let cell = Cell::of(executor, &task.spec);
        add(name(cell, TASKS), 1);
        add(name(cell, ACHIEVED), i64::from(task.achieved()));
    }
    // Runs count where they were made: a task may have moved.
    for ((id, executor), work) in &issue.tally.work {
        let Some(task) = issue.task(id).filter(|it| tried(issue, it)) else {
            continue;
        };
        let cell = Cell::of(*executor, &task.spec);
        add(name(cell, RUNS), work.runs);
        add(name(cell, MICROS), work.micros);
        add(name(cell, RUN_SECONDS), work.seconds);
    }
    if let Some((cost, minutes)) = issue.forecast.as_ref().and_then(|it| errors(issue, it)) {
        add(FORECASTS.into(), 1);
        add(COST_ERROR.into(), cost);
        add(MINUTES_ERROR.into(), minutes);
    }
    figures.retain(|_, figure| *figure != 0);
    figures
}

/// It ran in this round, and was not called off.
fn tried(issue: &Issue, task: &Task) -> bool {
    let failed = task.over() && task.word() == "failed";
    let of_this_round = task.finished_at.is_some_and(|it| it >= issue.started_at);
    of_this_round && task.attempt > 0 && task.is_shown() && (task.achieved() || failed)
}

/// How far the forecast was from what came, in thousandths of that.
fn errors(issue: &Issue, forecast: &Forecast) -> Option<(i64, i64)> {
    let (cost, minutes) = came_to(issue);
    Some((
        error_permille(forecast.cost_usd.expected, cost),
        error_permille(forecast.minutes.expected, minutes?),
    ))
}

/// The distance of a guess from the truth, in thousandths of the truth.
pub fn error_permille(guess: f64, truth: f64) -> i64 {
    if guess == truth {
        0
    } else {
        // Of a truth of 0 any other guess is infinitely far; the conversion is
        // saturating, and what is not a number is 0.
        let error = (guess - truth).abs() / truth.abs() * 1_000.0;
        (error.round() as i64).min(ERROR_PERMILLE_MAX)
    }
}

// ───────────────────────────── reading ─────────────────────────────

/// The accounts of history to read for a period: one a day.
pub fn history_accounts(period: Period, now: Time) -> Vec<String> {
    period.dates(now).map(history_account).collect()
}

/// The accounts that routing and forecasts rest on.
pub fn accounts_of_history(now: Time) -> Vec<String> {
    history_accounts(Period::Month, now)
}

/// What these accounts say together.
pub fn history_of(days: &[Figures]) -> History {
    let mut history = History::default();
    for (name, figure) in days.iter().flatten() {
        let Some((cell, what)) = parse(name) else {
            continue;
        };
        let past = history.0.entry(cell).or_default();
        let sum = match what {
            TASKS => &mut past.tasks,
            ACHIEVED => &mut past.achieved,
            RUNS => &mut past.runs,
            MICROS => &mut past.micros,
            RUN_SECONDS => &mut past.run_seconds,
            _ => continue,
        };
        *sum = sum.saturating_add(*figure);
    }
    history.0.retain(|_, past| *past != Past::default());
    history
}

/// How good forecasts were: how many, and how far off they were on average, in
/// shares of what came, in cost and in time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ForecastErrors {
    pub forecasts: i64,
    pub cost: f64,
    pub minutes: f64,
}

/// `None`: there was no forecast.
pub fn forecast_errors_of(days: &[Figures]) -> Option<ForecastErrors> {
    let sum = |name: &str| -> i64 {
        let figures = days.iter().filter_map(|it| it.get(name));
        figures.fold(0, |sum, it| sum.saturating_add(*it))
    };
    let forecasts = sum(FORECASTS);
    let mean = |name| sum(name) as f64 / forecasts as f64 / 1_000.0;
    (forecasts > 0).then(|| ForecastErrors {
        forecasts,
        cost: mean(COST_ERROR),
        minutes: mean(MINUTES_ERROR),
    })
}

// ───────────────────────────── names ─────────────────────────────

const TASKS: &str = "tasks";
const ACHIEVED: &str = "achieved";
const RUNS: &str = "runs";
const MICROS: &str = "micros";
const RUN_SECONDS: &str = "seconds";
const FORECASTS: &str = "forecasts";
const COST_ERROR: &str = "forecasts.cost_permille";
const MINUTES_ERROR: &str = "forecasts.minutes_permille";
/// Where the plan does not say how complex a task is.
const ANY: &str = "any";

/// The account of history of a day.
pub fn history_account(day: Date) -> String {
    format!("history/{day}")
}

/// Such as `codegen.builder.low.tasks`.
fn name(cell: Cell, what: &str) -> String {
    let complexity = cell.complexity.map_or(ANY, Complexity::word);
    format!("{}.{}.{complexity}.{what}", cell.executor, cell.kind)
}

fn parse(name: &str) -> Option<(Cell, &str)> {
    let mut parts = name.splitn(4, '.');
    let executor = find(ExecutorKind::ALL, ExecutorKind::word, parts.next()?)?;
    let kind = find(TaskKind::ALL, TaskKind::word, parts.next()?)?;
    let complexity = match parts.next()? {
        ANY => None,
        word => Some(find(Complexity::ALL, Complexity::word, word)?),
    };
    let cell = Cell {
        executor,
        kind,
        complexity,
    };
    Some((cell, parts.next()?))
}

fn find<T: Copy>(all: &[T], word: fn(T) -> &'static str, wanted: &str) -> Option<T> {
    all.iter().copied().find(|it| word(*it) == wanted)
}
