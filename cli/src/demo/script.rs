//! What is played: the issue, the plan, and what every run does and how long it takes.

use jiff::SignedDuration;
use serde_json::{Value, json};
use world::codegen::{Deed, Order, Part};

pub(super) const TITLE: &str = "Add sign-in with passkeys";
pub(super) const DESCRIPTION: &str = "People should be able to sign in without a password.

- [ ] registration and sign-in in the API
- [ ] a page to register a passkey
- [ ] a page in the handbook
- [ ] tests over all of it
";
/// How long the repository's check takes.
pub(super) const CHECK_MINUTES: f64 = 2.0;
const PLAN_MINUTES: f64 = 3.0;

/// A task as it is played.
pub(super) struct Scene {
    pub(super) id: &'static str,
    title: &'static str,
    complexity: &'static str,
    depends_on: &'static [&'static str],
    pub(super) minutes: f64,
    pub(super) path: &'static str,
    pub(super) content: &'static str,
}

pub(super) const SCENES: [Scene; 4] = [
    Scene {
        id: "api",
        title: "Registration and sign-in in the API",
        complexity: "high",
        depends_on: &[],
        minutes: 16.0,
        path: "src/passkeys.txt",
        content: "register a passkey\nsign in with a passkey\n",
    },
    Scene {
        id: "page",
        title: "A page to register a passkey",
        complexity: "medium",
        depends_on: &[],
        minutes: 12.0,
        path: "web/passkeys.txt",
        content: "a button, and a friendly word\n",
    },
    Scene {
        id: "handbook",
        title: "A page in the handbook",
        complexity: "low",
        depends_on: &[],
        minutes: 6.0,
        path: "docs/passkeys.md",
        content: "# Passkeys\n\nTouch the key, and you are in.\n",
    },
    Scene {
        id: "tests",
        title: "Tests over all of it",
        complexity: "medium",
        depends_on: &["api", "page"],
        minutes: 9.0,
        path: "tests/passkeys.txt",
        content: "registers\nsigns in\nrefuses a stranger\n",
    },
];

/// The scene of a task, and how long its run takes.
pub(super) fn scene(task: &str) -> Option<&'static Scene> {
    SCENES.iter().find(|it| it.id == task)
}

pub(super) fn minutes(task: &str) -> f64 {
    scene(task).map_or(PLAN_MINUTES, |it| it.minutes)
}

/// The answer of the orchestrator run.
pub(super) fn plan() -> Value {
    let tasks: Vec<Value> = SCENES
        .iter()
        .map(|it| {
            json!({
                "id": it.id, "title": it.title, "kind": "builder", "depends_on": it.depends_on,
                "complexity": it.complexity, "paths": [it.path],
                "prompt": format!("{}. Work in `{}`.", it.title, it.path),
                "acceptance": ["the checks are green"],
            })
        })
        .collect();
    json!({ "summary": "The API and the page can be built at the same time; tests come last.", "tasks": tasks })
}

/// What Codegen's runs do.
pub(super) fn cloud(speed: f64) -> impl FnMut(&Order) -> Part + Send + 'static {
    move |order: &Order| {
        let task = order.task();
        let seconds = minutes(task) * 60.0 / speed;
        let deed = match scene(task) {
            Some(it) => Deed::Change {
                files: vec![(it.path.to_owned(), it.content.to_owned())],
            },
            None => Deed::Say("I don't know this task.".into()),
        };
        Part {
            wait: SignedDuration::ZERO,
            work: SignedDuration::try_from_secs_f64(seconds).unwrap_or(SignedDuration::ZERO),
            deed,
        }
    }
}
