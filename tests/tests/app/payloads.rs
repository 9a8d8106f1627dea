//! GitHub's own examples of what it delivers: are they heard as what they are?

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use secrecy::SecretString;
use serde_json::Value;
use shared::github::webhook::{Hint, hear};
use world::linear::people::sign;

const SECRET: &str = "It's a Secret to Everybody";
const EXAMPLES: &str =
    "../target/tools/node_modules/@octokit/webhooks-examples/api.github.com/index.json";

/// An event, with all its examples.
struct Event {
    name: String,
    examples: Vec<Value>,
}

fn examples() -> Vec<Event> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(EXAMPLES);
    let text = std::fs::read(&file).unwrap_or_else(|error| {
        panic!(
            "GitHub's examples are not installed ({}: {error}): `cargo xtask test` puts them into \
             target/tools",
            file.display()
        )
    });
    let events: Vec<Value> = serde_json::from_slice(&text).expect("a list");
    let event = |it: &Value| Event {
        name: it["name"].as_str().expect("a name").to_owned(),
        examples: it["examples"].as_array().expect("examples").clone(),
    };
    events.iter().map(event).collect()
}

fn heard(event: &str, body: &Value) -> Hint {
    let body = body.to_string();
    let signature = format!("sha256={}", sign(SECRET, body.as_bytes()));
    let secrets = [SecretString::from(SECRET)];
    let hint = hear(&secrets, Some(&signature), Some(event), body.as_bytes());
    hint.unwrap_or_else(|refused| panic!("{event} is refused: {refused}"))
}

fn text<'a>(body: &'a Value, pointer: &str) -> Option<&'a str> {
    body.pointer(pointer)?.as_str()
}

/// What an example should be heard as, by where GitHub documents the branch.
fn expected(event: &str, body: &Value) -> Hint {
    let branch = match event {
        "pull_request" | "pull_request_review" => {
            let of_fork = text(body, "/pull_request/head/repo/full_name")
                != text(body, "/repository/full_name");
            text(body, "/pull_request/head/ref").filter(|_| !of_fork)
        }
        "check_suite" => text(body, "/check_suite/head_branch"),
        "check_run" => text(body, "/check_run/check_suite/head_branch"),
        "workflow_run" => text(body, "/workflow_run/head_branch"),
        "status" => {
            let branches = body["branches"].as_array().expect("branches");
            let names = branches
                .iter()
                .map(|it| it["name"].as_str().expect("a name"));
            return Hint::Branches(names.map(str::to_owned).collect());
        }
        "merge_group" => return Hint::Everything,
        _ => return Hint::Nothing,
    };
    branch.map_or(Hint::Nothing, |it| Hint::Branches([it.to_owned()].into()))
}

#[test]
fn the_examples_of_github_are_heard_as_what_they_are() {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    let mut events = BTreeSet::new();
    for Event { name, examples } in examples() {
        for body in &examples {
            let hint = heard(&name, body);
            assert_eq!(hint, expected(&name, body), "{name}: {body}");
            if hint != Hint::Nothing {
                *told.entry(name.clone()).or_default() += 1;
            }
        }
        events.insert(name);
    }
    // None of ours was missing, and none was heard as nothing.
    let told: Vec<(&str, usize)> = told
        .iter()
        .map(|(name, count)| (name.as_str(), *count))
        .collect();
    assert_eq!(
        told,
        [
            ("check_run", 9),
            ("check_suite", 9),
            ("merge_group", 2),
            ("pull_request", 29),
            ("pull_request_review", 4),
            ("status", 4),
            ("workflow_run", 5),
        ]
    );
    assert!(events.len() > told.len(), "and others, which are not heard");
}

/// The same examples from a fork: whatever their branch is called, they are not ours.
#[test]
fn a_pull_request_from_a_fork_is_of_no_interest() {
    let mut count = 0;
    for Event { name, examples } in examples() {
        if !matches!(name.as_str(), "pull_request" | "pull_request_review") {
            continue;
        }
        for mut body in examples {
            body["pull_request"]["head"]["repo"]["full_name"] = "mallory/Hello-World".into();
            assert_eq!(heard(&name, &body), Hint::Nothing, "{name}: {body}");
            // The fork was deleted.
            body["pull_request"]["head"]["repo"] = Value::Null;
            assert_eq!(heard(&name, &body), Hint::Nothing, "{name}: {body}");
            count += 1;
        }
    }
    assert_eq!(count, 33);
}
