//! `GET /api/v1/stats`: what some days came to, from two small accounts a day,
//! one of what happened and one of how tasks went; 60 of them at most, in one
//! request of the store, and no issue is read.

use serde::Serialize;

use crate::issue::history::{History, Past};
use crate::issue::{ExecutorKind, RoundOutcome, TaskKind, Time};
use crate::ports::{Figures, Log};
use crate::stats::{
    OUTCOMES, Period, Stage, Sums, accounts_of, forecast_errors_of, history_accounts, history_of,
    usd,
};

/// What a period came to. A share of nothing is `null`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatsDoc {
    pub period: &'static str,
    /// The first and the last day, UTC.
    pub from: String,
    pub to: String,
    /// Tasks that were merged, succeeded or failed.
    pub tasks: i64,
    pub local: i64,
    pub cloud: i64,
    pub success_rate: Option<f64>,
    pub cost_usd: f64,
    pub merges: i64,
    pub cost_per_merge_usd: Option<f64>,
    /// What running the same runs one after another would have taken longer.
    pub time_saved_minutes: f64,
    /// Rounds that ended and had been forecast …
    pub forecasts: i64,
    /// … and how far off those were on average: the share of what came by which
    /// the expected cost was too high or too low …
    pub forecast_error: Option<f64>,
    /// … and the expected time.
    pub forecast_minutes_error: Option<f64>,
    pub by_executor: Vec<ExecutorStats>,
    /// Of rounds that ended; what nobody did is left out.
    pub by_kind: Vec<KindStats>,
    pub by_outcome: Vec<Count>,
    /// Rounds of issues that ended, by outcome.
    pub issues: Vec<Count>,
    /// Tasks that began to be held up, by the stage.
    pub waiting: Vec<Count>,
    pub first_thought_millis: Option<f64>,
    /// Of the rounds that ended: effects at Linear, and those it asked to wait.
    pub linear_calls: i64,
    pub linear_waits: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExecutorStats {
    pub executor: &'static str,
    pub tasks: i64,
    pub success_rate: Option<f64>,
    pub cost_usd: f64,
    pub runs: i64,
    pub run_minutes: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindStats {
    pub kind: &'static str,
    pub executor: &'static str,
    pub tasks: i64,
    pub success_rate: Option<f64>,
    pub cost_usd: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Count {
    pub name: &'static str,
    pub count: i64,
}

/// Reads the accounts of a period and adds them up.
pub async fn read(log: &dyn Log, period: Period, now: Time) -> anyhow::Result<StatsDoc> {
    let mut names = accounts_of(period, now);
    let days = names.len();
    names.extend(history_accounts(period, now));
    let accounts = log.accounts(&names).await?;
    let (days, history) = accounts.split_at_checked(days).unwrap_or_default();
    Ok(stats(period, now, days, history))
}

/// The document of a period whose days these are, and whose accounts of history.
pub fn stats(period: Period, now: Time, days: &[Figures], history: &[Figures]) -> StatsDoc {
    let sums = Sums::of(days);
    let errors = forecast_errors_of(history);
    let (from, to) = period.range(now);
    let by_executor: Vec<_> = ExecutorKind::ALL.iter().map(|it| of(&sums, *it)).collect();
    let total = |what: fn(&Sums, ExecutorKind) -> i64| -> i64 {
        ExecutorKind::ALL.iter().map(|it| what(&sums, *it)).sum()
    };
    let spent = total(Sums::spent_micros);
    let (tasks, achieved, merges) = (total(tasks), total(achieved), total(merges));
    let (greeted, greeted_millis) = sums.greeted();
    let (linear_calls, linear_waits) = sums.linear();
    StatsDoc {
        period: period.word(),
        from: from.to_string(),
        to: to.to_string(),
        tasks,
        local: self::tasks(&sums, ExecutorKind::Local),
        cloud: self::tasks(&sums, ExecutorKind::Codegen),
        success_rate: share(achieved as f64, tasks),
        cost_usd: usd(spent),
        merges,
        cost_per_merge_usd: share(usd(spent), merges),
        time_saved_minutes: sums.seconds_saved() as f64 / 60.0,
        forecasts: errors.map_or(0, |it| it.forecasts),
        forecast_error: errors.map(|it| it.cost),
        forecast_minutes_error: errors.map(|it| it.minutes),
        by_executor,
        by_kind: by_kind(&history_of(history)),
        by_outcome: counts(OUTCOMES, |name| {
            let with = |it: &ExecutorKind| sums.over(Some(*it), name);
            ExecutorKind::ALL.iter().map(with).sum::<i64>() + sums.over(None, name)
        }),
        issues: RoundOutcome::ALL
            .iter()
            .map(|it| Count {
                name: it.word(),
                count: sums.rounds(*it),
            })
            .collect(),
        waiting: Stage::ALL
            .iter()
            .map(|it| Count {
                name: it.word(),
                count: sums.held(*it),
            })
            .collect(),
        first_thought_millis: share(greeted_millis as f64, greeted),
        linear_calls,
        linear_waits,
    }
}

fn of(sums: &Sums, executor: ExecutorKind) -> ExecutorStats {
    let tasks = tasks(sums, executor);
    ExecutorStats {
        executor: executor.word(),
        tasks,
        success_rate: share(achieved(sums, executor) as f64, tasks),
        cost_usd: usd(sums.spent_micros(executor)),
        runs: sums.runs(executor),
        run_minutes: sums.run_seconds_of(executor) as f64 / 60.0,
    }
}

fn by_kind(history: &History) -> Vec<KindStats> {
    let every = TaskKind::ALL
        .iter()
        .flat_map(|kind| ExecutorKind::ALL.iter().map(|it| (*kind, *it)));
    let of = |(kind, executor): (TaskKind, ExecutorKind)| {
        let alike = history.0.iter();
        let alike = alike.filter(|(cell, _)| (cell.kind, cell.executor) == (kind, executor));
        let sum = |figure: fn(&Past) -> i64| -> i64 { alike.clone().map(|it| figure(it.1)).sum() };
        let (tasks, runs) = (sum(|it| it.tasks), sum(|it| it.runs));
        (tasks != 0 || runs != 0).then(|| KindStats {
            kind: kind.word(),
            executor: executor.word(),
            tasks,
            success_rate: share(sum(|it| it.achieved) as f64, tasks),
            cost_usd: usd(sum(|it| it.micros)),
        })
    };
    every.filter_map(of).collect()
}

fn merges(sums: &Sums, executor: ExecutorKind) -> i64 {
    sums.over(Some(executor), "merged")
}

fn achieved(sums: &Sums, executor: ExecutorKind) -> i64 {
    merges(sums, executor) + sums.over(Some(executor), "succeeded")
}

fn tasks(sums: &Sums, executor: ExecutorKind) -> i64 {
    achieved(sums, executor) + sums.over(Some(executor), "failed")
}

fn counts<const N: usize>(
    names: [&'static str; N],
    count: impl Fn(&'static str) -> i64,
) -> Vec<Count> {
    let counted = |name| Count {
        name,
        count: count(name),
    };
    names.into_iter().map(counted).collect()
}

/// `None`: of nothing there is no share.
fn share(part: f64, whole: i64) -> Option<f64> {
    (whole != 0).then(|| part / whole as f64)
}
