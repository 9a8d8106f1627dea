//! Tasks and what depends on what: is a plan one, and what comes first?

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Brief, IssueId, Planning, TaskId, words_enum};

/// A task list shorter than this does not make an issue one to be planned.
pub const TASK_LIST_ITEMS_MIN: usize = 2;
/// A description longer than this, in characters, does.
pub const DESCRIPTION_CHARS_MAX: usize = 1_200;
/// So does an estimate from here on.
pub const ESTIMATE_MIN: f64 = 3.0;
/// The longest prompt of one task, in bytes.
pub const PROMPT_BYTES_MAX: usize = 32 * 1024;
pub(super) const TITLE_BYTES_MAX: usize = 200;
const SUMMARY_BYTES_MAX: usize = 4 * 1024;
const ID_CHARS_MAX: usize = 32;
/// The most lines that `acceptance` and `paths` may have, and the most dependencies.
const LINES_MAX: usize = 50;
const LINE_BYTES_MAX: usize = 1_000;

/// The task whose answer is the plan.
pub const PLAN: &str = "plan";
/// The only task of an issue that is not planned.
pub const MAIN: &str = "main";
/// A reviewer of `api` is `review-api`.
pub const REVIEW_PREFIX: &str = "review-";

words_enum! {
    /// What a task is for.
    TaskKind {
        Orchestrator = "orchestrator",
        Builder = "builder",
        Debugger = "debugger",
        Scoper = "scoper",
        Reviewer = "reviewer",
        /// Runs commands on what another task has made. Ours alone: no plan has it, and
        /// nobody is shown it as a task.
        Verifier = "verifier",
    }
}

impl TaskKind {
    /// Does a run of this kind end in a pull request, rather than an answer?
    pub fn makes_pull(self) -> bool {
        match self {
            Self::Builder | Self::Debugger => true,
            Self::Orchestrator | Self::Scoper | Self::Reviewer | Self::Verifier => false,
        }
    }
}

words_enum! {
    Complexity { Low = "low", Medium = "medium", High = "high" }
}

/// What a task is to do. Written once, never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    pub id: TaskId,
    pub title: String,
    pub kind: TaskKind,
    pub prompt: String,
    #[serde(default, deserialize_with = "or_default")]
    pub depends_on: Vec<TaskId>,
    pub complexity: Option<Complexity>,
    #[serde(default, deserialize_with = "or_default")]
    pub requires_isolation: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub acceptance: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub paths: Vec<String>,
    /// The task whose work it judges. Never of a plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub judges: Option<TaskId>,
    /// The sub-issue in Linear that it is. Never of an agent's plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue: Option<IssueId>,
}

/// Agents write `null` for what they leave out.
fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// A plan that is one: its graph has an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub summary: String,
    pub tasks: Vec<Spec>,
}

/// Why an answer is no plan; the sentence goes back to the agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("the answer is not the JSON of a plan: {0}")]
    NotJson(String),
    #[error("the plan has no task")]
    Empty,
    #[error("the plan has {have} tasks, at most {max} are allowed")]
    TooMany { have: usize, max: usize },
    #[error("the task id `{0}` is not of the form [a-z0-9][a-z0-9-]{{0,31}}")]
    BadId(String),
    #[error("the task id `{0}` is reserved")]
    ReservedId(String),
    #[error("the task id `{0}` is used twice")]
    DuplicateId(String),
    #[error("the task `{task}` depends on `{on}`, which is not in the plan")]
    UnknownDependency { task: String, on: String },
    #[error("the tasks depend on each other in a circle: {0}")]
    Cycle(String),
    #[error("the task `{task}` has no {what}")]
    Missing { task: String, what: &'static str },
    #[error("the task `{task}`: its {what} is longer than {max} bytes")]
    TooLong {
        task: String,
        what: &'static str,
        max: usize,
    },
    #[error("the task `{0}` is of a kind that a plan cannot hold")]
    Nested(String),
}

#[derive(Deserialize)]
struct RawPlan {
    #[serde(default)]
    summary: String,
    tasks: Vec<Spec>,
}

/// Reads the answer of an orchestrator run.
pub fn parse(answer: &str, tasks_max: usize) -> Result<Plan, PlanError> {
    let mut raw: RawPlan =
        serde_json::from_str(answer).map_err(|error| PlanError::NotJson(error.to_string()))?;
    if raw.tasks.is_empty() {
        return Err(PlanError::Empty);
    }
    if raw.tasks.len() > tasks_max {
        return Err(PlanError::TooMany {
            have: raw.tasks.len(),
            max: tasks_max,
        });
    }
    let mut ids = BTreeSet::new();
    for task in &mut raw.tasks {
        // Whatever an agent writes there.
        (task.judges, task.issue) = (None, None);
    }
    for task in &raw.tasks {
        check_task(task)?;
        if !ids.insert(&task.id) {
            return Err(PlanError::DuplicateId(task.id.0.clone()));
        }
    }
    for task in &raw.tasks {
        if let Some(on) = task.depends_on.iter().find(|on| !ids.contains(on)) {
            return Err(PlanError::UnknownDependency {
                task: task.id.0.clone(),
                on: on.0.clone(),
            });
        }
    }
    if let Some(cycle) = cycle(&raw.tasks) {
        return Err(PlanError::Cycle(cycle));
    }
    Ok(Plan {
        summary: super::clip(&raw.summary, SUMMARY_BYTES_MAX),
        tasks: raw.tasks,
    })
}

fn check_task(task: &Spec) -> Result<(), PlanError> {
    let id = task.id.0.as_str();
    let shown = || super::clip(id, ID_CHARS_MAX);
    if !is_id(id) {
        return Err(PlanError::BadId(shown()));
    }
    if id == PLAN || id == MAIN || id.starts_with(REVIEW_PREFIX) {
        return Err(PlanError::ReservedId(shown()));
    }
    if matches!(task.kind, TaskKind::Orchestrator | TaskKind::Verifier) {
        return Err(PlanError::Nested(shown()));
    }
    for (what, text, max) in [
        ("title", &task.title, TITLE_BYTES_MAX),
        ("prompt", &task.prompt, PROMPT_BYTES_MAX),
    ] {
        if text.trim().is_empty() {
            return Err(PlanError::Missing {
                task: shown(),
                what,
            });
        }
        if text.len() > max {
            return Err(PlanError::TooLong {
                task: shown(),
                what,
                max,
            });
        }
    }
    for (what, lines) in [("acceptance", &task.acceptance), ("paths", &task.paths)] {
        let bytes = lines.iter().map(String::len).max().unwrap_or(0);
        if lines.len() > LINES_MAX || bytes > LINE_BYTES_MAX {
            return Err(PlanError::TooLong {
                task: shown(),
                what,
                max: LINE_BYTES_MAX,
            });
        }
    }
    Ok(())
}

/// Is it of the form of a task's id?
pub(super) fn is_id(id: &str) -> bool {
    let well_formed = |(at, c): (usize, char)| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || (at > 0 && c == '-')
    };
    (1..=ID_CHARS_MAX).contains(&id.len()) && id.chars().enumerate().all(well_formed)
}

/// A circle in the graph, spelled out, if there is one.
pub(super) fn cycle(tasks: &[Spec]) -> Option<String> {
    let mut open: BTreeMap<&TaskId, &Spec> = tasks.iter().map(|task| (&task.id, task)).collect();
    loop {
        let free: Vec<_> = open
            .iter()
            .filter(|(_, task)| !task.depends_on.iter().any(|on| open.contains_key(on)))
            .map(|(id, _)| *id)
            .collect();
        if free.is_empty() {
            break;
        }
        for id in free {
            open.remove(id);
        }
    }
    // What is left depends on something that is left: following it leads round.
    let (first, _) = open.iter().next()?;
    let mut path = vec![*first];
    loop {
        let task = open[path[path.len() - 1]];
        let next = task.depends_on.iter().find(|on| open.contains_key(on))?;
        if let Some(at) = path.iter().position(|seen| *seen == next) {
            let mut names: Vec<&str> = path[at..].iter().map(|id| id.0.as_str()).collect();
            names.push(&next.0);
            return Some(names.join(" -> "));
        }
        path.push(next);
    }
}

/// How many tasks the longest way from each task to the end of the graph has:
/// the one with the longest way goes first.
pub fn depths<'a>(specs: impl Iterator<Item = &'a Spec> + Clone) -> BTreeMap<TaskId, usize> {
    let mut depths: BTreeMap<TaskId, usize> = specs.clone().map(|it| (it.id.clone(), 1)).collect();
    // A graph of n tasks settles within n rounds.
    for _ in 0..depths.len() {
        let mut changed = false;
        for spec in specs.clone() {
            let behind = depths[&spec.id] + 1;
            for on in &spec.depends_on {
                if let Some(depth) = depths.get_mut(on).filter(|depth| **depth < behind) {
                    *depth = behind;
                    changed = true;
                }
            }
        }
        if !changed {
            break;
        }
    }
    depths
}

/// Is the issue to be planned, or is it one task of some kind?
pub fn way(brief: &Brief, planning: Planning, mode: Option<TaskKind>, bug: bool) -> Way {
    let single = if bug {
        TaskKind::Debugger
    } else {
        TaskKind::Builder
    };
    match mode {
        Some(TaskKind::Orchestrator) => return Way::Planned,
        Some(kind) if planning != Planning::Always => return Way::Single(kind),
        Some(_) | None => {}
    }
    match planning {
        Planning::Always => Way::Planned,
        Planning::Never | Planning::Labelled => Way::Single(single),
        Planning::Auto if looks_big(brief) => Way::Planned,
        Planning::Auto => Way::Single(single),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Planned,
    Single(TaskKind),
}

fn looks_big(brief: &Brief) -> bool {
    let is_item = |line: &str| {
        let line = line.trim_start();
        [
            "- [ ]", "* [ ]", "+ [ ]", "- [x]", "- [X]", "* [x]", "* [X]",
        ]
        .iter()
        .any(|mark| line.starts_with(mark))
    };
    brief
        .description
        .lines()
        .filter(|line| is_item(line))
        .count()
        >= TASK_LIST_ITEMS_MIN
        || brief.description.chars().count() > DESCRIPTION_CHARS_MAX
        || brief.estimate.is_some_and(|it| it >= ESTIMATE_MIN)
}

/// The JSON Schema of a plan, given to the agent program.
pub fn schema(tasks_max: usize) -> String {
    let words = |all: Vec<&str>| serde_json::json!({ "type": "string", "enum": all });
    let lines = serde_json::json!({ "type": "array", "items": { "type": "string" } });
    let kinds = TaskKind::ALL
        .iter()
        .filter(|it| **it != TaskKind::Orchestrator);
    serde_json::json!({
        "type": "object",
        "required": ["summary", "tasks"],
        "additionalProperties": false,
        "properties": {
            "summary": { "type": "string" },
            "tasks": {
                "type": "array", "minItems": 1, "maxItems": tasks_max,
                "items": {
                    "type": "object",
                    "required": ["id", "title", "kind", "prompt"],
                    "additionalProperties": false,
                    "properties": {
                        "id": { "type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,31}$" },
                        "title": { "type": "string" },
                        "kind": words(kinds.map(|it| it.word()).collect()),
                        "prompt": { "type": "string" },
                        "depends_on": lines,
                        "complexity": words(Complexity::ALL.iter().map(|it| it.word()).collect()),
                        "requires_isolation": { "type": "boolean" },
                        "acceptance": lines,
                        "paths": lines,
                    },
                },
            },
        },
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: &str, depends_on: &[&str]) -> serde_json::Value {
        serde_json::json!({ "id": id, "title": id, "kind": "builder", "prompt": "do it", "depends_on": depends_on })
    }

    fn check(tasks: &[serde_json::Value], expected: Result<&[&str], &str>) {
        let answer = serde_json::json!({ "summary": "s", "tasks": tasks }).to_string();
        let got = parse(&answer, 3)
            .map(|plan| plan.tasks.into_iter().map(|it| it.id.0).collect::<Vec<_>>())
            .map_err(|it| it.to_string());
        let expected = expected
            .map(|ids| ids.iter().map(|it| (*it).to_owned()).collect())
            .map_err(str::to_owned);
        assert_eq!(got, expected);
    }

    #[test]
    fn a_plan_is_a_graph_with_an_order() {
        check(&[task("a", &[]), task("b", &["a"])], Ok(&["a", "b"]));
        check(&[], Err("the plan has no task"));
        check(
            &[task("a", &["b"])],
            Err("the task `a` depends on `b`, which is not in the plan"),
        );
        check(
            &[task("a", &[]), task("a", &[])],
            Err("the task id `a` is used twice"),
        );
        check(
            &[task("a", &["c"]), task("b", &["a"]), task("c", &["b"])],
            Err("the tasks depend on each other in a circle: a -> c -> b -> a"),
        );
        check(
            &[task("a", &["a"])],
            Err("the tasks depend on each other in a circle: a -> a"),
        );
        check(
            &[
                task("a", &[]),
                task("b", &[]),
                task("c", &[]),
                task("d", &[]),
            ],
            Err("the plan has 4 tasks, at most 3 are allowed"),
        );
        check(&[task("plan", &[])], Err("the task id `plan` is reserved"));
        check(
            &[task("review-a", &[])],
            Err("the task id `review-a` is reserved"),
        );
        for bad in ["", "-a", "A", "a_b", "ä", &"a".repeat(33)] {
            assert!(matches!(
                parse(
                    &serde_json::json!({ "tasks": [task(bad, &[])] }).to_string(),
                    3
                ),
                Err(PlanError::BadId(_))
            ));
        }
        assert!(matches!(parse("no plan", 3), Err(PlanError::NotJson(_))));
    }

    #[test]
    fn the_longest_way_to_the_end_counts() {
        let specs: Vec<Spec> = [
            task("a", &[]),
            task("b", &["a"]),
            task("c", &["b"]),
            task("d", &["a"]),
        ]
        .into_iter()
        .map(|it| serde_json::from_value(it).expect("a task"))
        .collect();
        let depths: Vec<_> = depths(specs.iter()).into_values().collect();
        assert_eq!(depths, [3, 2, 1, 1]);
    }

    #[test]
    fn labels_beat_looks() {
        let big = Brief {
            description: "- [ ] one\n- [ ] two".into(),
            ..Brief::default()
        };
        let small = Brief {
            description: "one".into(),
            ..Brief::default()
        };
        assert_eq!(way(&big, Planning::Auto, None, false), Way::Planned);
        assert_eq!(
            way(&small, Planning::Auto, None, false),
            Way::Single(TaskKind::Builder)
        );
        assert_eq!(
            way(&small, Planning::Auto, None, true),
            Way::Single(TaskKind::Debugger)
        );
        assert_eq!(
            way(&big, Planning::Auto, Some(TaskKind::Scoper), false),
            Way::Single(TaskKind::Scoper)
        );
        assert_eq!(
            way(
                &small,
                Planning::Labelled,
                Some(TaskKind::Orchestrator),
                false
            ),
            Way::Planned
        );
        assert_eq!(
            way(&big, Planning::Labelled, None, false),
            Way::Single(TaskKind::Builder)
        );
        assert_eq!(way(&small, Planning::Always, None, false), Way::Planned);
    }
}
