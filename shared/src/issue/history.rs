//! How runs have gone so far, by executor, kind and complexity, and what to
//! expect where nothing is known yet.

use std::collections::BTreeMap;

use super::{Complexity, ExecutorKind, TaskKind};

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
