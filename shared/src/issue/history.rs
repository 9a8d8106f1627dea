//! How runs have gone so far, by executor, kind and complexity, and what to
//! expect of the next one. What is measured weighs more the more of it there
//! is; without any, a first guess stands.

use std::collections::BTreeMap;

use super::{Complexity, ExecutorKind, Spec, TaskKind, pace};

/// The first guess weighs as much as so many runs of the very same sort …
const PRIOR_RUNS: f64 = 4.0;
/// … and so many runs of the kind move the guess for its other complexities.
const KIND_RUNS: f64 = 8.0;
/// No sort of run is taken to succeed more seldom than this: prices are divided by it.
pub const SUCCESS_RATE_MIN: f64 = 0.02;
const MICROS_PER_USD: f64 = 1_000_000.0;

/// What is known of the tasks of some days that are over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History(pub BTreeMap<Cell, Past>);

/// Tasks that are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    pub executor: ExecutorKind,
    pub kind: TaskKind,
    /// `None`: the plan does not say.
    pub complexity: Option<Complexity>,
}

/// How they went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Tasks that were merged, succeeded or failed.
    pub tasks: i64,
    /// Those among them that were merged or succeeded.
    pub achieved: i64,
    /// Their runs, all attempts.
    pub runs: i64,
    /// What those have cost, millionths of a USD.
    pub micros: i64,
    /// How long those worked, one after another.
    pub run_seconds: i64,
}

impl History {
    /// The share of runs after which the task is achieved. Over 0, at most 1.
    pub fn success_rate(&self, cell: Cell) -> f64 {
        let achieved = |past: &Past| count(past.achieved.min(past.runs));
        self.per_run(cell, achieved, usual_success_rate)
            .clamp(SUCCESS_RATE_MIN, 1.0)
    }

    /// What a run costs, USD. `cost_per_run`: what one is booked at whose
    /// executor reports no cost, which is all that there is to know of it.
    pub fn usd_per_run(&self, cell: Cell, cost_per_run: f64) -> f64 {
        if cell.executor.reports_cost() {
            let cost = |past: &Past| count(past.micros) / MICROS_PER_USD;
            self.per_run(cell, cost, usual_usd)
        } else {
            cost_per_run.max(0.0)
        }
    }

    /// How long a run works.
    pub fn seconds_per_run(&self, cell: Cell) -> f64 {
        self.per_run(cell, |past| count(past.run_seconds), usual_seconds)
    }

    /// What it costs until such a task is achieved, USD: the price of a run
    /// over the share of runs that succeed.
    pub fn usd_to_succeed(&self, cell: Cell, cost_per_run: f64) -> f64 {
        self.usd_per_run(cell, cost_per_run) / self.success_rate(cell)
    }

    /// The mean over the runs of a cell, where the usual value stands for
    /// [`PRIOR_RUNS`] more: as usual as the other complexities of the kind were.
    fn per_run(&self, cell: Cell, sum: impl Fn(&Past) -> f64, usual: fn(Cell) -> f64) -> f64 {
        let mut as_usual = (KIND_RUNS, KIND_RUNS);
        for (other, past) in &self.0 {
            if (other.executor, other.kind) == (cell.executor, cell.kind) && *other != cell {
                as_usual.0 += sum(past) / usual(*other);
                as_usual.1 += count(past.runs);
            }
        }
        let prior = usual(cell) * as_usual.0 / as_usual.1;
        let past = self.0.get(&cell).copied().unwrap_or_default();
        (sum(&past) + PRIOR_RUNS * prior) / (count(past.runs) + PRIOR_RUNS)
    }
}

impl Cell {
    /// That of a task on an executor.
    pub fn of(executor: ExecutorKind, spec: &Spec) -> Self {
        Self {
            executor,
            kind: spec.kind,
            complexity: spec.complexity,
        }
    }
}

/// What was counted; a figure below zero is none.
fn count(figure: i64) -> f64 {
    figure.max(0) as f64
}

// ───────────────────────── first guesses: all over 0 ─────────────────────────

fn usual_success_rate(cell: Cell) -> f64 {
    use Complexity::{High, Low, Medium};
    match (cell.kind, cell.executor, cell.complexity) {
        (TaskKind::Orchestrator | TaskKind::Scoper | TaskKind::Reviewer, _, _) => 0.95,
        (_, _, Some(Low)) => 0.9,
        (_, ExecutorKind::Local, Some(Medium) | None) => 0.75,
        (_, ExecutorKind::Local, Some(High)) => 0.55,
        (_, ExecutorKind::Codegen, Some(Medium) | None) => 0.8,
        (_, ExecutorKind::Codegen, Some(High)) => 0.65,
    }
}

fn usual_usd(cell: Cell) -> f64 {
    match cell.kind {
        TaskKind::Reviewer => 0.1,
        TaskKind::Verifier => 0.0,
        TaskKind::Orchestrator | TaskKind::Scoper => 0.2,
        TaskKind::Builder | TaskKind::Debugger => match cell.complexity {
            Some(Complexity::Low) => 0.15,
            Some(Complexity::Medium) | None => 0.45,
            Some(Complexity::High) => 0.9,
        },
    }
}

fn usual_seconds(cell: Cell) -> f64 {
    let usual = pace::usual_seconds(cell.kind) as f64;
    match cell.complexity {
        Some(Complexity::Low) => usual * 0.6,
        Some(Complexity::Medium) | None => usual,
        Some(Complexity::High) => usual * 1.8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELL: Cell = Cell {
        executor: ExecutorKind::Local,
        kind: TaskKind::Builder,
        complexity: Some(Complexity::Low),
    };

    /// So many runs, half of which achieved their task, of 1 USD and 100 s each.
    fn past(runs: i64) -> Past {
        Past {
            tasks: runs / 2,
            achieved: runs / 2,
            runs,
            micros: runs * 1_000_000,
            run_seconds: runs * 100,
        }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 0.01 * b.abs().max(0.01)
    }

    #[test]
    fn without_history_the_first_guess_stands() {
        let none = History::default();
        assert!(near(none.success_rate(CELL), 0.9));
        assert!(near(none.usd_per_run(CELL, 0.4), 0.15));
        assert!(near(none.usd_to_succeed(CELL, 0.4), 0.15 / 0.9));
        assert!(near(none.seconds_per_run(CELL), 360.0));
    }

    #[test]
    fn much_history_outweighs_the_guess_and_little_moves_it() {
        let much = History(BTreeMap::from([(CELL, past(10_000))]));
        assert!(near(much.success_rate(CELL), 0.5));
        assert!(near(much.usd_per_run(CELL, 0.4), 1.0));
        assert!(near(much.seconds_per_run(CELL), 100.0));
        let little = History(BTreeMap::from([(CELL, past(4))]));
        assert!(near(
            little.usd_per_run(CELL, 0.4),
            (4.0 + 4.0 * 0.15) / 8.0
        ));
    }

    #[test]
    fn what_the_kind_cost_moves_the_guess_for_a_complexity_never_seen() {
        let high = Cell {
            complexity: Some(Complexity::High),
            ..CELL
        };
        let seen = History(BTreeMap::from([(CELL, past(10_000))]));
        let price = seen.usd_per_run(high, 0.4);
        assert!(near(price, 0.9 / 0.15), "{price}");
        let reviewer = Cell {
            kind: TaskKind::Reviewer,
            ..CELL
        };
        assert!(near(seen.usd_per_run(reviewer, 0.4), 0.1));
    }

    #[test]
    fn codegen_costs_what_it_is_booked_at() {
        let cell = Cell {
            executor: ExecutorKind::Codegen,
            ..CELL
        };
        let seen = History(BTreeMap::from([(cell, past(1_000))]));
        assert_eq!(seen.usd_per_run(cell, 0.4), 0.4);
        assert_eq!(seen.usd_per_run(cell, f64::NAN), 0.0);
    }

    #[test]
    fn no_figure_makes_an_estimate_absurd() {
        let figures = [i64::MIN, -1, 0, 1, i64::MAX];
        for (a, b) in figures.iter().flat_map(|a| figures.map(|b| (*a, b))) {
            let odd = Past {
                tasks: a,
                achieved: b,
                runs: a,
                micros: b,
                run_seconds: b,
            };
            let history = History(BTreeMap::from([(CELL, odd)]));
            for kind in TaskKind::ALL {
                for complexity in [None, Some(Complexity::Low), Some(Complexity::High)] {
                    let cell = Cell {
                        kind: *kind,
                        complexity,
                        ..CELL
                    };
                    let rate = history.success_rate(cell);
                    assert!((SUCCESS_RATE_MIN..=1.0).contains(&rate), "{rate}");
                    for sum in [
                        history.usd_to_succeed(cell, 0.4),
                        history.seconds_per_run(cell),
                    ] {
                        assert!(sum.is_finite() && sum >= 0.0, "{sum}");
                    }
                }
            }
        }
    }
}
