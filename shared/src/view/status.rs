//! `GET /api/v1/status`: executors, strategy, money and what is in flight.
//!
//! It costs one account, one shelf, the list of what wants attention, and for
//! the runs the logs of the issues that are watched, where those are few.

use serde::Serialize;

use crate::config::Settings;
use crate::guard::{BREAKERS, broken};
use crate::issue::{Availability, ExecutorKind, Issue, IssueId, Pause, Time, Watch};
use crate::pause;
use crate::ports::{Attention, Figures, Log, Register, Registers};
use crate::stats::{Period, accounts_of, ledger, overdue_seconds, usd};

/// The issues in flight that are told apart; beyond, their number stays there.
const ATTENTION_MAX: usize = 5_000;
/// More watched issues than this are not read for the sake of counting their runs.
pub const COUNTED_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StatusDoc {
    pub version: &'static str,
    pub paused: bool,
    /// How; `None`: it is not.
    pub pause: Option<Pause>,
    pub strategy: &'static str,
    pub executors: Vec<ExecutorStatus>,
    pub budget: Budget,
    pub issues_in_flight: usize,
    pub oldest_overdue_seconds: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExecutorStatus {
    pub name: &'static str,
    pub healthy: bool,
    /// What is wrong with it.
    pub why: Option<String>,
    /// `None`: too many issues are in flight to count.
    pub running: Option<usize>,
    /// `None`: it has no slots on this machine.
    pub slots: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Budget {
    /// `None`: no limit.
    pub day_usd: Option<f64>,
    pub spent_usd: f64,
    pub reserved_usd: f64,
}

/// What `pause` and `resume` answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PauseDoc {
    pub paused: bool,
    pub pause: Option<Pause>,
}

impl PauseDoc {
    pub fn of(pause: Option<Pause>) -> Self {
        Self {
            paused: pause.is_some(),
            pause,
        }
    }
}

/// What the store has to say.
pub struct Facts {
    attention: Vec<Attention>,
    breakers: Vec<Register>,
    today: Figures,
    pause: Option<Pause>,
}

impl Facts {
    pub async fn read(log: &dyn Log, registers: &dyn Registers, now: Time) -> anyhow::Result<Self> {
        // Every round that is not over owes something, waits for a time, or watches.
        let attention = log.attention(Time::MAX, ATTENTION_MAX).await?;
        let today = log.accounts(&accounts_of(Period::Day, now)).await?;
        Ok(Self {
            attention,
            breakers: registers.list(BREAKERS, now).await?,
            today: today.into_iter().next().unwrap_or_default(),
            pause: pause::read(registers, now).await?,
        })
    }

    /// The issues to count runs in; `None`: too many.
    pub fn watched(&self) -> Option<Vec<IssueId>> {
        let watched = self.attention.iter().filter(|it| it.watching);
        let watched: Vec<_> = watched.map(|it| it.issue.clone()).collect();
        (watched.len() <= COUNTED_MAX).then_some(watched)
    }

    /// The document. `present`: the executors there are, and how they say that they
    /// stand; `running`: whose runs are at work.
    pub fn status(
        &self,
        settings: &Settings,
        present: &[Availability],
        running: Option<&[ExecutorKind]>,
        now: Time,
    ) -> StatusDoc {
        let executor = |it: &Availability| {
            let kind = it.kind;
            let why = misconfigured(settings, kind)
                .or_else(|| it.down.clone())
                .or_else(|| broken(kind, &self.breakers));
            ExecutorStatus {
                name: kind.word(),
                healthy: why.is_none(),
                why,
                running: running.map(|all| all.iter().filter(|it| **it == kind).count()),
                slots: slots(settings, kind),
            }
        };
        let (spent, reserved) = ledger(&self.today);
        StatusDoc {
            version: env!("CARGO_PKG_VERSION"),
            paused: self.pause.is_some(),
            pause: self.pause,
            strategy: settings.strategy.word(),
            executors: present.iter().map(executor).collect(),
            budget: Budget {
                day_usd: settings.costs.per_day_max,
                spent_usd: usd(spent),
                reserved_usd: usd(reserved),
            },
            issues_in_flight: self.attention.len(),
            oldest_overdue_seconds: overdue_seconds(&self.attention, now) as i64,
        }
    }
}

/// The executors that the settings ask for; how they stand, nobody can be asked.
pub fn configured(settings: &Settings) -> Vec<Availability> {
    let is_there = |kind: &&ExecutorKind| match kind {
        ExecutorKind::Local => settings.runner.concurrency > 0 || settings.runner.token.is_some(),
        ExecutorKind::Codegen => settings.codegen.is_some(),
    };
    let there = ExecutorKind::ALL.iter().filter(is_there);
    there.map(|it| Availability::open(*it)).collect()
}

/// Where the runs of an issue are at work.
pub fn runs_of(issue: &Issue) -> impl Iterator<Item = ExecutorKind> {
    issue.watching().into_iter().filter_map(|it| match it {
        Watch::Run { executor, .. } => Some(executor),
        Watch::Pull { .. } => None,
    })
}

fn slots(settings: &Settings, kind: ExecutorKind) -> Option<usize> {
    match kind {
        ExecutorKind::Local => Some(settings.runner.concurrency).filter(|it| *it > 0),
        ExecutorKind::Codegen => None,
    }
}

/// Why an executor cannot work, whatever else.
fn misconfigured(settings: &Settings, kind: ExecutorKind) -> Option<String> {
    let codegen = match kind {
        ExecutorKind::Codegen => settings.codegen.as_ref()?,
        ExecutorKind::Local => return None,
    };
    match codegen.org_id.as_deref() {
        None => Some("CODEGEN_ORG_ID is not set, nor is `codegen.orgId`".into()),
        Some(id) if id.parse::<u64>().is_err() => {
            Some(format!("`codegen.orgId` is `{id}`, which is no number"))
        }
        // Who tells this may have no right to the token; a run that cannot start
        // for want of it opens the breaker.
        Some(_) => None,
    }
}
