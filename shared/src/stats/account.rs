//! The accounts of days: what is entered in them, and what many days come to.

use std::collections::{BTreeMap, BTreeSet};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::{Fact, Stage, history_account};
pub use crate::issue::usd;
use crate::issue::{ExecutorKind, RoundOutcome, Time, utc_day, words_enum};
use crate::ports::{Entry, Figures, Limit};

/// The days of the longest period, and so the accounts that are read for it.
const DAYS_MAX: usize = 30;

words_enum! {
    /// The days up to and including today that statistics are about.
    Period { Day = "day", Week = "week", Month = "month" }
}

impl Period {
    /// How many.
    pub fn days(self) -> usize {
        match self {
            Self::Day => 1,
            Self::Week => 7,
            Self::Month => DAYS_MAX,
        }
    }

    /// The first and the last.
    pub fn range(self, now: Time) -> (Date, Date) {
        let today = utc_day(now);
        let days = i64::try_from(self.days()).unwrap_or(1);
        let first = today.checked_sub(jiff::Span::new().days(days - 1));
        (first.unwrap_or(today), today)
    }

    /// All of them.
    pub fn dates(self, now: Time) -> impl Iterator<Item = Date> {
        let (first, last) = self.range(now);
        let days = first.series(jiff::Span::new().days(1));
        days.take_while(move |it| *it <= last)
    }
}

impl std::str::FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = Self::ALL.iter().copied().find(|it| it.word() == text);
        named.ok_or_else(|| "a `period` is `day`, `week` or `month`".to_owned())
    }
}

/// The accounts to read for a period: one a day.
pub fn accounts_of(period: Period, now: Time) -> Vec<String> {
    period.dates(now).map(day_account).collect()
}

/// What these facts add to accounts, one entry for each: to that of their day,
/// and, of money, to those of the days that it counts for. Nothing where nothing
/// counts. The figures are a bounded set of names.
pub fn entries(facts: &[Fact], at: Time) -> Vec<Entry> {
    let mut accounts: BTreeMap<String, Figures> = BTreeMap::new();
    let mut limits: BTreeMap<String, Limit> = BTreeMap::new();
    for fact in facts {
        let name = match fact {
            Fact::Reserved { day, .. } | Fact::Booked { day, .. } => day_account(*day),
            Fact::Alerted { day: Some(day), .. } => alerts_account(*day),
            Fact::Alerted { day: None, .. } => continue,
            Fact::Ran { .. }
            | Fact::Over { .. }
            | Fact::Held(_)
            | Fact::Greeted { .. }
            | Fact::Done { .. } => day_account(utc_day(at)),
        };
        limits.extend(limit(fact).map(|it| (name.clone(), it)));
        enter(accounts.entry(name).or_default(), fact);
        if let Fact::Done { learnt, .. } = fact {
            let history = accounts.entry(history_account(utc_day(at))).or_default();
            for (name, by) in learnt {
                *history.entry(name.clone()).or_default() += by;
            }
        }
    }
    let entries = accounts.into_iter().filter_map(|(account, mut add)| {
        let limit = limits.remove(&account);
        add.retain(|_, figure| *figure != 0);
        (!add.is_empty()).then_some(Entry {
            account,
            add,
            limit,
        })
    });
    entries.collect()
}

/// What may not be exceeded by this, or nothing of it all is written.
fn limit(fact: &Fact) -> Option<Limit> {
    match fact {
        Fact::Reserved {
            micros,
            max: Some(max),
            ..
        } if *micros > 0 => Some(Limit {
            figure: COMMITTED.into(),
            max: *max,
        }),
        // Each step is told once, by whoever comes first.
        Fact::Alerted {
            percent,
            day: Some(_),
            ..
        } => Some(Limit {
            figure: percent.to_string(),
            max: 1,
        }),
        Fact::Reserved { .. }
        | Fact::Alerted { .. }
        | Fact::Booked { .. }
        | Fact::Ran { .. }
        | Fact::Over { .. }
        | Fact::Held(_)
        | Fact::Greeted { .. }
        | Fact::Done { .. } => None,
    }
}

fn enter(figures: &mut Figures, fact: &Fact) {
    let mut add = |name: String, by: i64| *figures.entry(name).or_default() += by;
    match fact {
        Fact::Ran {
            executor,
            seconds,
            cost_usd,
        } => {
            add(runs(*executor), 1);
            add(run_seconds(*executor), *seconds);
            add(micros(*executor), crate::issue::micros(*cost_usd));
        }
        Fact::Reserved { micros, .. } => {
            add(COMMITTED.into(), *micros);
            add(RESERVED.into(), *micros);
        }
        Fact::Booked { micros, .. } => add(COMMITTED.into(), *micros),
        Fact::Alerted { percent, .. } => add(percent.to_string(), 1),
        Fact::Over { executor, outcome } => add(over(*executor, outcome), 1),
        Fact::Held(stage) => add(held(*stage), 1),
        // Entered when the round is over: an append of its own is not worth it.
        Fact::Greeted { .. } => {}
        Fact::Done {
            outcome,
            run_seconds,
            busy_seconds,
            greeted_millis,
            linear_calls,
            linear_waits,
            // In an account of its own: see `entries`.
            learnt: _,
        } => {
            add(rounds(*outcome), 1);
            add(RUN_SECONDS.into(), *run_seconds);
            add(BUSY_SECONDS.into(), *busy_seconds);
            if let Some(millis) = greeted_millis {
                add(GREETED.into(), 1);
                add(GREETED_MILLIS.into(), *millis);
            }
            add(LINEAR_CALLS.into(), *linear_calls);
            add(LINEAR_WAITS.into(), *linear_waits);
        }
    }
}

/// What was booked on the day of this account, and what is reserved on it, in
/// millionths of a USD.
pub fn ledger(figures: &Figures) -> (i64, i64) {
    let get = |name: &str| figures.get(name).copied().unwrap_or(0);
    (get(COMMITTED) - get(RESERVED), get(RESERVED))
}

/// The account that says of which steps of a day's limit people were told.
pub fn alerts_account(day: Date) -> String {
    format!("alerts/{day}")
}

/// Those steps, in percent.
pub fn alerts_of(figures: &Figures) -> BTreeSet<u8> {
    figures.keys().filter_map(|it| it.parse().ok()).collect()
}

/// Figures of several days, added up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sums(Figures);

impl Sums {
    pub fn of(days: &[Figures]) -> Self {
        let mut sums = Figures::new();
        for (name, figure) in days.iter().flatten() {
            let sum = sums.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*figure);
        }
        Self(sums)
    }

    fn get(&self, name: &str) -> i64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Tasks that are over, by outcome; `None`: those that never went to an executor.
    pub fn over(&self, executor: Option<ExecutorKind>, outcome: &str) -> i64 {
        self.get(&over(executor, outcome))
    }

    pub fn runs(&self, executor: ExecutorKind) -> i64 {
        self.get(&runs(executor))
    }

    pub fn run_seconds_of(&self, executor: ExecutorKind) -> i64 {
        self.get(&run_seconds(executor))
    }

    pub fn spent_micros(&self, executor: ExecutorKind) -> i64 {
        self.get(&micros(executor))
    }

    pub fn held(&self, stage: Stage) -> i64 {
        self.get(&held(stage))
    }

    pub fn rounds(&self, outcome: RoundOutcome) -> i64 {
        self.get(&rounds(outcome))
    }

    /// What running the same runs one after another would have taken longer.
    pub fn seconds_saved(&self) -> i64 {
        self.get(RUN_SECONDS) - self.get(BUSY_SECONDS)
    }

    /// Rounds whose people were greeted, and after how long, summed up.
    pub fn greeted(&self) -> (i64, i64) {
        (self.get(GREETED), self.get(GREETED_MILLIS))
    }

    /// Effects at Linear that were tried, and those that were asked to wait.
    pub fn linear(&self) -> (i64, i64) {
        (self.get(LINEAR_CALLS), self.get(LINEAR_WAITS))
    }
}

// ───────────────────────────── names ─────────────────────────────

/// Booked and reserved money together: what a day's limit is on …
const COMMITTED: &str = "committed";
/// … and what is reserved of it.
const RESERVED: &str = "reserved";
const RUN_SECONDS: &str = "rounds.run_seconds";
const BUSY_SECONDS: &str = "rounds.busy_seconds";
const GREETED: &str = "greeted";
const GREETED_MILLIS: &str = "greeted_millis";
const LINEAR_CALLS: &str = "linear_calls";
const LINEAR_WAITS: &str = "linear_waits";

/// The account of a day.
pub fn day_account(day: Date) -> String {
    format!("day/{day}")
}

fn over(executor: Option<ExecutorKind>, outcome: &str) -> String {
    match executor {
        Some(executor) => format!("{executor}.{outcome}"),
        None => outcome.to_owned(),
    }
}

fn runs(executor: ExecutorKind) -> String {
    format!("{executor}.runs")
}

fn run_seconds(executor: ExecutorKind) -> String {
    format!("{executor}.run_seconds")
}

fn micros(executor: ExecutorKind) -> String {
    format!("{executor}.micros")
}

fn held(stage: Stage) -> String {
    format!("held.{stage}")
}

fn rounds(outcome: RoundOutcome) -> String {
    format!("rounds.{outcome}")
}
