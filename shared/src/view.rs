//! The documents of `/api/v1`, which the commands print with `--json`. Their
//! keys are public interface (contract, section 4).

pub mod explain;
pub mod forecast;
pub mod stats;
pub mod status;

use serde::Serialize;

use crate::issue::{
    Conditions, ExecutorKind, Issue, Record, Scope, Spec, Task, Time, route, usd, words,
};
use crate::ports::Head;

/// `GET /api/v1/issues/{issue}`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IssueDoc {
    pub id: String,
    pub identifier: String,
    pub title: String,
    pub url: String,
    pub phase: &'static str,
    pub outcome: Option<&'static str>,
    pub waiting_for: Option<String>,
    pub spent_usd: f64,
    pub reserved_usd: f64,
    pub limit_usd: Option<f64>,
    pub started_at: Time,
    pub finished_at: Option<Time>,
    pub tasks: Vec<TaskDoc>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskDoc {
    pub id: String,
    pub title: String,
    pub kind: &'static str,
    pub depends_on: Vec<String>,
    pub state: &'static str,
    pub executor: Option<&'static str>,
    pub why: Option<String>,
    pub attempt: u32,
    pub run_url: Option<String>,
    pub pr_url: Option<String>,
    pub branch: Option<String>,
    pub head_sha: Option<String>,
    pub cost_usd: f64,
    pub cost_is_estimate: bool,
    pub error: Option<String>,
    pub started_at: Option<Time>,
    pub finished_at: Option<Time>,
}

/// `GET /api/v1/issues`: the document above without tasks, and their number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IssueLine {
    pub id: String,
    pub identifier: String,
    pub title: String,
    pub url: String,
    pub phase: String,
    pub outcome: Option<String>,
    pub waiting_for: Option<String>,
    pub spent_usd: f64,
    pub reserved_usd: f64,
    pub limit_usd: Option<f64>,
    pub started_at: Time,
    pub finished_at: Option<Time>,
    pub tasks_done: usize,
    pub tasks_total: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct IssueList {
    pub issues: Vec<IssueLine>,
    pub next: Option<String>,
}

/// `GET /api/v1/issues/{issue}/log`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogDoc {
    pub events: Vec<LogLine>,
    pub next: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LogLine {
    pub seq: u64,
    pub at: Time,
    pub event: String,
    pub text: String,
}

/// One issue with its tasks. `limit_usd`: what an issue may cost by the settings of now.
pub fn issue(issue: &Issue, limit_usd: Option<f64>) -> IssueDoc {
    IssueDoc {
        id: issue.id.0.clone(),
        identifier: issue.identifier.clone(),
        title: issue.title.clone(),
        url: issue.url.clone(),
        phase: issue.phase().word(),
        outcome: issue.outcome.map(|it| it.word()),
        waiting_for: issue.waiting_for(),
        spent_usd: issue.spent_usd,
        reserved_usd: usd(issue.reserved()),
        limit_usd: or_raised(limit_usd, raised(issue)),
        started_at: issue.started_at,
        finished_at: issue.finished_at,
        tasks: issue.shown_tasks().map(|it| task(issue, it)).collect(),
    }
}

fn task(issue: &Issue, task: &Task) -> TaskDoc {
    // Where a task will go is known before it goes.
    let conditions = Conditions::fair(issue.policy.as_deref(), issue.last_at);
    let ask = route::Ask {
        spec: &task.spec,
        shuns: task.shuns,
        fits: ExecutorKind::ALL,
    };
    let planned = match route::route(&ask, &conditions) {
        route::Choice::Go { executor, why, .. } | route::Choice::Wait { executor, why } => {
            issue.policy.as_ref().map(|_| (executor, why))
        }
    };
    let (executor, why) = planned.unzip();
    TaskDoc {
        id: task.spec.id.0.clone(),
        title: task.spec.title.clone(),
        kind: task.spec.kind.word(),
        depends_on: depends_on(&task.spec),
        state: task.word(),
        executor: task.executor.or(executor).map(|it| it.word()),
        why: task.why.clone().or(why),
        attempt: task.attempt,
        run_url: task.run_url.clone(),
        pr_url: task
            .pull
            .as_ref()
            .filter(|it| it.number > 0)
            .map(|it| it.url.clone()),
        branch: task.branch.clone(),
        head_sha: task.pull.as_ref().map(|it| it.sha.clone()),
        cost_usd: task.cost_usd,
        cost_is_estimate: task.cost_is_estimate,
        error: task.error.clone(),
        started_at: task.started_at,
        finished_at: task.finished_at,
    }
}

/// What a task waits for; a judge waits for what it judges.
fn depends_on(spec: &Spec) -> Vec<String> {
    let on = spec.depends_on.iter().chain(&spec.judges);
    on.map(|it| it.0.clone()).collect()
}

/// What a person has raised the issue's limit to.
fn raised(issue: &Issue) -> Option<f64> {
    issue.raised.get(&Scope::Issue).map(|(usd, _)| *usd)
}

/// A limit of now, or what a person has raised it to.
fn or_raised(limit_usd: Option<f64>, raised: Option<f64>) -> Option<f64> {
    limit_usd.map(|usd| raised.map_or(usd, |raised| usd.max(raised)))
}

/// The head that is stored beside the log.
pub fn head(issue: &Issue) -> Head {
    Head {
        issue: issue.id.clone(),
        seq: issue.seq,
        identifier: issue.identifier.clone(),
        title: crate::issue::clip(&issue.title, 300),
        url: issue.url.clone(),
        phase: issue.phase().word().to_owned(),
        outcome: issue.outcome.map(|it| it.word().to_owned()),
        waiting_for: issue.waiting_for().map(|it| crate::issue::clip(&it, 500)),
        spent_usd: issue.spent_usd,
        reserved_usd: usd(issue.reserved()),
        raised_usd: raised(issue),
        tasks_done: issue.shown_tasks().filter(|it| it.over()).count(),
        tasks_total: issue.shown_tasks().count(),
        started_at: issue.started_at,
        finished_at: issue.finished_at,
        attention_at: issue.attention_at(),
        watching: issue.is_watched(),
    }
}

/// One issue of the list. `limit_usd`: what an issue may cost by the settings of now.
pub fn line(head: Head, limit_usd: Option<f64>) -> IssueLine {
    IssueLine {
        id: head.issue.0,
        identifier: head.identifier,
        title: head.title,
        url: head.url,
        phase: head.phase,
        outcome: head.outcome,
        waiting_for: head.waiting_for,
        spent_usd: head.spent_usd,
        reserved_usd: head.reserved_usd,
        limit_usd: or_raised(limit_usd, head.raised_usd),
        started_at: head.started_at,
        finished_at: head.finished_at,
        tasks_done: head.tasks_done,
        tasks_total: head.tasks_total,
    }
}

/// One record of the timeline.
pub fn log_line(record: &Record) -> LogLine {
    // The name of a variant is the first word of its JSON.
    let json = serde_json::to_value(&record.event).unwrap_or_default();
    let event = match &json {
        serde_json::Value::String(name) => name.clone(),
        serde_json::Value::Object(map) => map.keys().next().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    LogLine {
        seq: record.seq,
        at: record.at,
        event,
        text: words::sentence(&record.event),
    }
}
