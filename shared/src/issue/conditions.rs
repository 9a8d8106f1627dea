//! What holds beyond one issue at the moment of a decision: what the
//! configuration says of places and money, how the executors stand, what the
//! day has left, how such runs usually go. Read by the engine when something is
//! to be begun; what was decided on it is in the log.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::history::History;
use super::money::Scope;
use super::{ExecutorKind, Policy, Strategy, Time};

/// Everything that is decided on beside the issue itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Conditions {
    pub rules: Rules,
    /// An operator has put a stop to all that is new.
    pub pause: Option<Pause>,
    /// The executors that there are.
    pub executors: Vec<Availability>,
    pub day: DayLedger,
    pub history: Arc<History>,
}

/// The part of the configuration that holds at once for issues in flight, too.
/// USD; `None`: no limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    pub strategy: Strategy,
    pub cost_per_task_max: Option<f64>,
    pub cost_per_issue_max: Option<f64>,
    /// Over all issues, in a day of UTC.
    pub cost_per_day_max: Option<f64>,
    /// What a run, resume or repair is booked at whose executor reports no cost.
    pub cost_per_run: f64,
    pub approval: Approval,
}

/// Whether a person has to approve before the work begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    #[default]
    Never,
    Always,
    /// Where the expected cost is over this, USD.
    Over(f64),
}

impl std::fmt::Display for Approval {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Never => f.write_str("never"),
            Self::Always => f.write_str("always"),
            Self::Over(usd) => write!(f, "over:{usd}"),
        }
    }
}

/// No new run of any kind starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// What runs is stopped, too, and begun again afterwards.
    #[serde(default)]
    pub stop_runs: bool,
    /// Nothing is merged, either.
    #[serde(default)]
    pub merges: bool,
}

/// What the beginning of something can wait for, beside the issue itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// An operator's word.
    Pause,
    /// There is too little left under this limit.
    Money(Scope),
    /// It may only go there, and nothing is sent there now.
    Executor(ExecutorKind),
}

/// How an executor stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Availability {
    pub kind: ExecutorKind,
    /// Why nothing is sent there now.
    pub down: Option<String>,
    /// How many runs would begin at once; `None`: there is no such bound, or
    /// nobody knows.
    pub slots_free: Option<usize>,
}

/// The account of a day, over all issues. Millionths of a USD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DayLedger {
    pub date: Date,
    /// Booked, by runs that were admitted on that day.
    pub spent: i64,
    /// Reserved by runs that are under way.
    pub reserved: i64,
    /// The percentages of the limit that people were told of.
    pub alerted: BTreeSet<u8>,
}

impl Conditions {
    /// All is well, and nothing is limited but by the policy itself.
    pub fn fair(policy: Option<&Policy>, now: Time) -> Self {
        Self {
            rules: policy.map_or(Rules::NONE, Rules::of),
            pause: None,
            executors: ExecutorKind::ALL
                .iter()
                .map(|kind| Availability::open(*kind))
                .collect(),
            day: DayLedger::empty(now),
            history: Arc::default(),
        }
    }

    /// How an executor stands, if there is one of that kind.
    pub fn executor(&self, kind: ExecutorKind) -> Option<&Availability> {
        self.executors.iter().find(|it| it.kind == kind)
    }
}

impl Rules {
    const NONE: Self = Self {
        strategy: Strategy::LocalOnly,
        cost_per_task_max: None,
        cost_per_issue_max: None,
        cost_per_day_max: None,
        cost_per_run: 0.0,
        approval: Approval::Never,
    };

    /// Those that held when the issue was read.
    pub fn of(policy: &Policy) -> Self {
        Self {
            strategy: policy.strategy,
            cost_per_task_max: policy.cost_per_task_max,
            cost_per_issue_max: policy.cost_per_issue_max,
            cost_per_day_max: None,
            cost_per_run: policy.cost_per_run,
            approval: Approval::Never,
        }
    }
}

impl Availability {
    /// It takes whatever comes.
    pub fn open(kind: ExecutorKind) -> Self {
        Self {
            kind,
            down: None,
            slots_free: None,
        }
    }
}

impl DayLedger {
    pub fn empty(now: Time) -> Self {
        Self {
            date: utc_day(now),
            spent: 0,
            reserved: 0,
            alerted: BTreeSet::new(),
        }
    }
}

/// The day of UTC that a moment belongs to: limits of days hold for those.
pub fn utc_day(at: Time) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}
