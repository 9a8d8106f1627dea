//! A run in the simulated world: how it goes, and what it answers.

use shared::issue::{
    Ending, ExecutorKind, Failure, FailureClass, RunId, RunResult, TaskId, TaskKind, Time,
};
use shared::ports::{Job, Message};

use crate::ledger::Holder;

/// A run at an executor.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    pub(crate) id: RunId,
    pub(crate) executor: ExecutorKind,
    pub(crate) job: Job,
    pub(crate) created: Time,
    pub(crate) visible: Time,
    /// The runner that it works for, where it is not ours.
    pub(crate) holder: Option<Holder>,
    pub(crate) ends: Option<Time>,
    pub(crate) fate: Fate,
    /// What it says that it has cost, USD.
    pub(crate) cost: Option<f64>,
    pub(crate) stopped: Option<Time>,
    pub(crate) vanished: bool,
    pub(crate) handed_in: bool,
    /// Its machine went down with it, and nobody has gone on with it yet.
    pub(crate) broken_off: bool,
    /// What it was told while it worked.
    pub(crate) heard: Vec<Message>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fate {
    Succeeds,
    ChangesNothing,
    Fails(FailureClass),
    BadPlan,
    /// A reviewer that wants changes.
    Objects,
}

impl Run {
    pub(crate) fn alive(&self, now: Time) -> bool {
        !self.vanished
            && !self.broken_off
            && self.stopped.is_none_or(|at| now < at)
            && self.ends.is_none_or(|at| now < at)
    }
}

impl Run {
    /// A judge has ended well, and was not broken off.
    pub(crate) fn approves(&self) -> bool {
        let ended = |ends: Time| self.stopped.is_none_or(|at| ends < at);
        !self.vanished && self.ends.is_some_and(ended)
    }

    /// How it ended, if it has.
    pub(crate) fn ending(&self, now: Time) -> Ending {
        let failure = |class| Failure {
            class,
            message: format!("it ended: {class}"),
        };
        let stopped = self
            .ends
            .is_none_or(|ends| now < ends || self.stopped.is_some_and(|at| at <= ends));
        let result = match self.fate {
            _ if stopped => Err(failure(FailureClass::Cancelled)),
            Fate::Fails(class) => Err(failure(class)),
            Fate::ChangesNothing => Ok(RunResult { changed: Some(false), ..RunResult::default() }),
            Fate::BadPlan => Ok(RunResult {
                answer: Some(r#"{"tasks":[{"id":"a","title":"a","kind":"builder","prompt":"p","depends_on":["a"]}]}"#.into()),
                ..RunResult::default()
            }),
            Fate::Objects => Ok(RunResult {
                answer: Some(r#"{"verdict":"changes","summary":"no","findings":[]}"#.into()),
                ..RunResult::default()
            }),
            Fate::Succeeds => Ok(RunResult {
                text: "done".into(),
                answer: match self.job.kind {
                    TaskKind::Orchestrator => Some(plan(&self.job.key)),
                    TaskKind::Reviewer => Some(r#"{"verdict":"approve"}"#.into()),
                    _ => None,
                },
                ..RunResult::default()
            }),
        };
        Ending {
            result,
            cost_usd: self.cost,
            cost_is_estimate: false,
        }
    }

    /// Takes a message in, unless it has it. The same words under another id
    /// are a mistake of whoever sends them.
    pub(crate) fn hear(&mut self, message: &Message) -> Result<bool, String> {
        if self.heard.iter().any(|it| it.id == message.id) {
            return Ok(false);
        }
        // Only a late answer may be given twice in the same words.
        let remark = message.text.contains("mind the");
        if remark && self.heard.iter().any(|it| it.text == message.text) {
            return Err(format!("{} was told the same thing twice", self.id));
        }
        self.heard.push(message.clone());
        Ok(true)
    }
}

/// The plan that an orchestrator run answers: a graph made from its key.
pub(crate) fn plan(key: &str) -> String {
    let mut rng = fastrand::Rng::with_seed(
        key.bytes()
            .map(u64::from)
            .fold(7, |a, b| a * 31 % 1_000_003 + b),
    );
    let n = rng.usize(1..=6);
    let tasks: Vec<serde_json::Value> = (0..n)
        .map(|at| {
            let on: Vec<String> = (0..at)
                .filter(|_| rng.u8(0..3) == 0)
                .map(|on| format!("t{on}"))
                .collect();
            let complexity = if rng.bool() { "low" } else { "high" };
            serde_json::json!({
                "id": format!("t{at}"), "title": format!("Task {at}"), "kind": "builder",
                "prompt": "build it", "depends_on": on, "complexity": complexity,
            })
        })
        .collect();
    serde_json::json!({ "summary": "a plan", "tasks": tasks }).to_string()
}

pub(crate) fn depends_on(plan: &str, task: &TaskId) -> Vec<String> {
    let plan: serde_json::Value = serde_json::from_str(plan).unwrap_or_default();
    let tasks = plan["tasks"].as_array().cloned().unwrap_or_default();
    let found = tasks.iter().find(|it| it["id"] == task.0.as_str());
    let on = found
        .and_then(|it| it["depends_on"].as_array().cloned())
        .unwrap_or_default();
    on.iter()
        .filter_map(|it| it.as_str().map(str::to_owned))
        .collect()
}
