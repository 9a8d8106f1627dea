//! Which executor runs a task, and the sentence that says why. Pure; it knows
//! what an executor can do, not how it is reached, and it reserves no money.

use super::history::Cell;
use super::{Complexity, Conditions, ExecutorKind, Shun, Spec, Strategy, TaskKind};

#[cfg(test)]
mod tests;

/// What is expected to cost less than this, USD, is not worth the way to the cloud.
const CHEAP_USD: f64 = 0.10;
/// An executor whose runs succeed more seldom than this is no bargain at any
/// price: it is chosen only if no other is better.
const SUCCESS_RATE_ENOUGH: f64 = 0.35;

/// What is asked for a place.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub spec: &'a Spec,
    /// Where it should not go, if it can be helped.
    pub shuns: Option<(ExecutorKind, Shun)>,
    /// The executors whose reservation for it would fit under all limits now.
    pub fits: &'a [ExecutorKind],
}

/// What the router says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It goes there. `instead_of`: it would have gone elsewhere, but that is
    /// down or has lost its last run.
    Go {
        executor: ExecutorKind,
        why: String,
        instead_of: Option<ExecutorKind>,
    },
    /// It may only go there, and nothing is sent there now.
    Wait { executor: ExecutorKind, why: String },
}

impl ExecutorKind {
    /// Does each of its runs have a machine to itself?
    pub fn isolates(self) -> bool {
        match self {
            Self::Local => false,
            Self::Codegen => true,
        }
    }

    /// Does it tell what a run has cost? If not, a run is booked at the price
    /// of the configuration.
    pub fn reports_cost(self) -> bool {
        match self {
            Self::Local => true,
            Self::Codegen => false,
        }
    }

    fn other(self) -> Self {
        match self {
            Self::Local => Self::Codegen,
            Self::Codegen => Self::Local,
        }
    }

    fn place(self) -> &'static str {
        match self {
            Self::Local => "the team's machine",
            Self::Codegen => "the cloud",
        }
    }
}

/// The choice for a task under the rules of now.
///
/// Where its place takes nothing, or has lost its last run, it goes to the other
/// one, if there is one that takes it and the strategy allows it. Otherwise it
/// waits for a place that is down, and goes back to one that only lost a run.
/// An executor that the configuration does not have is no alternative; one that
/// the strategy names goes uncontested, and its start fails with the remedy.
pub fn route(ask: &Ask<'_>, conditions: &Conditions) -> Choice {
    if ask.spec.kind == TaskKind::Verifier {
        return verified(conditions);
    }
    let (executor, why) = preferred(ask, conditions);
    let down = down(executor, conditions);
    let shun = ask
        .shuns
        .filter(|(at, _)| *at == executor)
        .map(|(_, why)| why);
    if down.is_none() && shun.is_none() {
        return Choice::Go {
            executor,
            why,
            instead_of: None,
        };
    }
    let other = executor.other();
    let (place, there) = (executor.place(), other.place());
    let refusal = refusal(other, ask, conditions);
    match (down, refusal) {
        (Some(down), None) => Choice::Go {
            executor: other,
            why: format!("{why}, but {place} takes nothing now ({down}): it goes to {there}"),
            instead_of: Some(executor),
        },
        (None, None) => Choice::Go {
            executor: other,
            why: format!("{why}, but {}: it goes to {there}", shunned(shun)),
            // Only a place that may be down is one that it was kept from.
            instead_of: (shun == Some(Shun::Lost)).then_some(executor),
        },
        (Some(down), Some(refusal)) => Choice::Wait {
            executor,
            why: format!(
                "{why}, but {place} takes nothing now ({down}): it waits for that, {refusal}"
            ),
        },
        (None, Some(refusal)) => Choice::Go {
            executor,
            why: format!("{why}, although {}, {refusal}", shunned(shun)),
            instead_of: None,
        },
    }
}

/// Commands run where the team's own machines are, whatever the strategy says of agents.
fn verified(conditions: &Conditions) -> Choice {
    let executor = ExecutorKind::Local;
    let place = executor.place();
    match down(executor, conditions) {
        None => Choice::Go {
            executor,
            why: format!("the repository's commands run on {place}"),
            instead_of: None,
        },
        Some(down) => Choice::Wait {
            executor,
            why: format!(
                "the repository's commands run on {place}, which takes nothing now ({down})"
            ),
        },
    }
}

fn shunned(shun: Option<Shun>) -> &'static str {
    match shun {
        Some(Shun::Rejected) => "what was made there was not accepted",
        Some(Shun::Author) => "what it judges was made there",
        Some(Shun::Lost) | None => "its last run there was lost",
    }
}

fn down(kind: ExecutorKind, conditions: &Conditions) -> Option<&str> {
    conditions.executor(kind)?.down.as_deref()
}

/// Why a task cannot move there.
fn refusal(to: ExecutorKind, ask: &Ask<'_>, conditions: &Conditions) -> Option<String> {
    let strategy = conditions.rules.strategy;
    let place = to.place();
    if !strategy.may_move() {
        return Some(format!("because {strategy} does not let it go to {place}"));
    }
    if conditions.executor(to).is_none() {
        return Some(format!("because {place} is not set up"));
    }
    if !capable(to, ask.spec) {
        return Some(format!(
            "because the plan asks for isolation, which {place} does not give"
        ));
    }
    down(to, conditions).map(|down| format!("because {place} takes nothing now ({down})"))
}

/// What changes nothing needs no machine of its own.
fn capable(kind: ExecutorKind, spec: &Spec) -> bool {
    kind.isolates() || !spec.requires_isolation || !spec.kind.makes_pull()
}

/// Where the strategy sends it if all is well there.
fn preferred(ask: &Ask<'_>, conditions: &Conditions) -> (ExecutorKind, String) {
    use ExecutorKind::{Codegen, Local};
    let spec = ask.spec;
    let kind = spec.kind;
    let strategy = conditions.rules.strategy;
    match strategy {
        Strategy::LocalOnly => (
            Local,
            "local-only keeps every task on the team's machine".into(),
        ),
        Strategy::CloudOnly => (Codegen, "cloud-only sends every task to the cloud".into()),
        Strategy::HybridParallel | Strategy::HybridSmart | Strategy::CostOptimized
            if !kind.makes_pull() =>
        {
            (
                Local,
                format!("{strategy} keeps the {kind} on the team's machine"),
            )
        }
        Strategy::HybridParallel => (
            Codegen,
            format!("hybrid-parallel sends the {kind} to the cloud, where all can run at once"),
        ),
        Strategy::HybridSmart | Strategy::CostOptimized if spec.requires_isolation => (
            Codegen,
            format!("{strategy}: the plan asks for isolation, so it goes to the cloud"),
        ),
        Strategy::HybridSmart => by_size(spec, conditions),
        Strategy::CostOptimized => by_price(ask, conditions),
    }
}

fn by_size(spec: &Spec, conditions: &Conditions) -> (ExecutorKind, String) {
    use ExecutorKind::{Codegen, Local};
    let kind = spec.kind;
    let slots = conditions.executor(Local).and_then(|it| it.slots_free);
    match spec.complexity {
        Some(Complexity::Low) if slots == Some(0) && conditions.executor(Codegen).is_some() => (
            Codegen,
            format!(
                "hybrid-smart: all slots of the team's machine are taken, so a small {kind} goes to the cloud"
            ),
        ),
        Some(Complexity::Low) => (
            Local,
            format!("hybrid-smart: a small {kind} stays on the team's machine"),
        ),
        Some(Complexity::Medium | Complexity::High) | None => (
            Codegen,
            format!("hybrid-smart: a {kind} that is not small goes to the cloud"),
        ),
    }
}

/// The cheapest that is expected to succeed, as far as the money goes.
fn by_price(ask: &Ask<'_>, conditions: &Conditions) -> (ExecutorKind, String) {
    use ExecutorKind::{Codegen, Local};
    let spec = ask.spec;
    let local = Offer::of(Local, spec, conditions);
    let cloud = Offer::of(Codegen, spec, conditions);
    let what = spec.complexity.map_or_else(
        || spec.kind.to_string(),
        |it| format!("{} of {it} complexity", spec.kind),
    );
    let expected = format!(
        "cost-optimized: a {what} is expected to cost ${:.2} on the team's machine and ${:.2} in the cloud",
        local.usd, cloud.usd
    );
    for (kind, missing) in [(Local, Codegen), (Codegen, Local)] {
        if conditions.executor(missing).is_none() {
            let why = format!(
                "{expected}, but {} is not set up: it goes to {}",
                missing.place(),
                kind.place()
            );
            return (kind, why);
        }
    }
    let (executor, because) = bargain(&local, &cloud);
    let other = executor.other();
    let fits = |kind| ask.fits.contains(&kind);
    if !fits(executor) && fits(other) {
        let why = format!(
            "{expected}; {because}, but the money left does not pay for {}: it goes to {}",
            executor.place(),
            other.place()
        );
        (other, why)
    } else {
        (
            executor,
            format!("{expected}; {because}: it goes to {}", executor.place()),
        )
    }
}

/// What a task is expected to cost somewhere until it is achieved, and how often
/// a run there achieves it.
struct Offer {
    usd: f64,
    success_rate: f64,
}

impl Offer {
    fn of(executor: ExecutorKind, spec: &Spec, conditions: &Conditions) -> Self {
        let cell = Cell::of(executor, spec);
        let history = &conditions.history;
        Self {
            usd: history.usd_to_succeed(cell, conditions.rules.cost_per_run),
            success_rate: history.success_rate(cell),
        }
    }

    fn succeeds(&self) -> bool {
        self.success_rate >= SUCCESS_RATE_ENOUGH
    }
}

fn bargain(local: &Offer, cloud: &Offer) -> (ExecutorKind, String) {
    use ExecutorKind::{Codegen, Local};
    let percent = |offer: &Offer| format!("{:.0} %", offer.success_rate * 100.0);
    match (local.succeeds(), cloud.succeeds()) {
        (true, _) if local.usd < CHEAP_USD => {
            (Local, format!("under ${CHEAP_USD:.2} the cloud is no gain"))
        }
        (true, true) if local.usd <= cloud.usd => {
            (Local, "the team's machine is the cheaper one".into())
        }
        (true, true) => (Codegen, "the cloud is the cheaper one".into()),
        (true, false) => {
            let cloud = percent(cloud);
            (
                Local,
                format!("only {cloud} of such runs succeed in the cloud"),
            )
        }
        (false, true) => {
            let local = percent(local);
            let why = format!("only {local} of such runs succeed on the team's machine");
            (Codegen, why)
        }
        (false, false) => {
            let best = if local.success_rate >= cloud.success_rate {
                Local
            } else {
                Codegen
            };
            let (local, cloud) = (percent(local), percent(cloud));
            let why = format!(
                "such runs seldom succeed, {local} on the team's machine and {cloud} in the cloud"
            );
            (best, why)
        }
    }
}
