//! Which executor runs a task, and the sentence that says why.

use super::{Complexity, Conditions, ExecutorKind, Spec, Strategy, TaskKind};

/// What is asked for a place.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub spec: &'a Spec,
    /// Where its last run was lost, or could not be started.
    pub lost: Option<ExecutorKind>,
    /// The executors whose reservation for it would fit under all limits now.
    pub fits: &'a [ExecutorKind],
}

/// What the router says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// It goes there. `instead_of`: it would have gone elsewhere, which is down.
    Go {
        executor: ExecutorKind,
        why: String,
        instead_of: Option<ExecutorKind>,
    },
    /// It may only go there, and nothing is sent there now.
    Wait { executor: ExecutorKind, why: String },
}

/// The choice for a task under the rules of now.
pub fn route(ask: &Ask<'_>, conditions: &Conditions) -> Choice {
    let (executor, why) = preferred(ask.spec, conditions.rules.strategy, ask.lost);
    Choice::Go {
        executor,
        why,
        instead_of: None,
    }
}

fn preferred(
    spec: &Spec,
    strategy: Strategy,
    lost: Option<ExecutorKind>,
) -> (ExecutorKind, String) {
    use ExecutorKind::{Codegen, Local};
    if strategy.may_move() && lost == Some(Local) {
        let why = format!(
            "{strategy}: its last run on the team's machines was lost, so it goes to the cloud"
        );
        return (Codegen, why);
    }
    let thinks = match spec.kind {
        TaskKind::Orchestrator | TaskKind::Scoper | TaskKind::Reviewer => true,
        TaskKind::Builder | TaskKind::Debugger => false,
    };
    let kind = spec.kind;
    match strategy {
        Strategy::LocalOnly => (
            Local,
            "local-only keeps every task on the team's machine".into(),
        ),
        Strategy::CloudOnly => (Codegen, "cloud-only sends every task to the cloud".into()),
        Strategy::HybridParallel | Strategy::HybridSmart | Strategy::CostOptimized if thinks => (
            Local,
            format!("{strategy} keeps the {kind} on the team's machine"),
        ),
        Strategy::HybridParallel => (
            Codegen,
            format!("hybrid-parallel sends the {kind} to the cloud, where all can run at once"),
        ),
        Strategy::HybridSmart | Strategy::CostOptimized if spec.requires_isolation => (
            Codegen,
            "hybrid-smart: the plan asks for isolation, so it goes to the cloud".into(),
        ),
        Strategy::HybridSmart | Strategy::CostOptimized => match spec.complexity {
            Some(Complexity::Low) => (
                Local,
                format!("hybrid-smart: a small {kind} stays on the team's machine"),
            ),
            Some(Complexity::Medium | Complexity::High) | None => (
                Codegen,
                format!("hybrid-smart: a {kind} that is not small goes to the cloud"),
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_by_kind() {
        use ExecutorKind::{Codegen, Local};
        let choice = |strategy, kind, complexity| {
            let spec = Spec {
                id: "a".into(),
                title: String::new(),
                kind,
                prompt: String::new(),
                depends_on: vec![],
                complexity,
                requires_isolation: false,
                acceptance: vec![],
                paths: vec![],
            };
            let lost = preferred(&spec, strategy, Some(Local)).0;
            let to_cloud = strategy != Strategy::LocalOnly;
            assert_eq!(lost, if to_cloud { Codegen } else { Local });
            preferred(&spec, strategy, None).0
        };
        for kind in TaskKind::ALL.iter().copied() {
            assert_eq!(choice(Strategy::LocalOnly, kind, None), Local);
            assert_eq!(choice(Strategy::CloudOnly, kind, None), Codegen);
            let hybrid = if kind.makes_pull() { Codegen } else { Local };
            assert_eq!(choice(Strategy::HybridParallel, kind, None), hybrid);
            assert_eq!(
                choice(Strategy::HybridSmart, kind, Some(Complexity::High)),
                hybrid
            );
            assert_eq!(
                choice(Strategy::HybridSmart, kind, Some(Complexity::Low)),
                Local
            );
        }
    }
}
