//! What `template.yaml` says about the functions, so that these tests cannot
//! believe anything else.

use std::time::Duration;

use world::stream::{Filter, Mapping};

fn text() -> &'static str {
    include_str!("../../../template.yaml")
}

/// The part of the template that describes a resource.
fn resource(name: &str) -> &'static str {
    let begin = format!("\n  {name}:\n");
    let from = text()
        .find(&begin)
        .unwrap_or_else(|| panic!("no resource `{name}`"))
        + begin.len();
    let rest = &text()[from..];
    // The next line with the same indentation ends it.
    let ends = rest.match_indices("\n  ").find(|(at, _)| {
        rest[at + 3..]
            .chars()
            .next()
            .is_some_and(|it| !it.is_whitespace())
    });
    &rest[..ends.map_or(rest.len(), |(at, _)| at)]
}

/// A value in a resource, by its key.
fn value(resource: &'static str, key: &str) -> &'static str {
    let line = resource.lines().find_map(|line| {
        line.trim_start_matches([' ', '-'])
            .strip_prefix(key)?
            .strip_prefix(": ")
    });
    line.unwrap_or_else(|| panic!("no `{key}` in\n{resource}"))
        .trim()
}

fn number<N: std::str::FromStr>(resource: &'static str, key: &str) -> N {
    let text = value(resource, key);
    text.parse()
        .ok()
        .unwrap_or_else(|| panic!("`{key}` is `{text}`"))
}

/// Whether a function gets a variable. Addresses are the test's own affair: the
/// services stand on this machine.
pub(crate) fn gives(function: &str, variable: &str) -> bool {
    let line = format!("\n          {variable}: ");
    let address = variable.starts_with("AWS_") || variable.ends_with("_URL");
    address || resource(function).contains(&line)
}

/// How long a function may take.
pub(crate) fn timeout(function: &str) -> Duration {
    Duration::from_secs(number(resource(function), "Timeout"))
}

/// How the orchestrator hangs on the stream.
pub(crate) fn mapping() -> Mapping {
    let it = resource("orchestrator");
    let patterns = it
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- Pattern: "));
    let patterns = patterns.map(|it| it.trim_matches('\''));
    Mapping {
        filter: Filter::parse(patterns).expect("a filter that is understood here"),
        batch_max: number(it, "BatchSize"),
        lanes: number(it, "ParallelizationFactor"),
        retries_max: number(it, "MaximumRetryAttempts"),
        bisects: number(it, "BisectBatchOnFunctionError"),
        reports_failures: value(it, "FunctionResponseTypes").contains("ReportBatchItemFailures"),
    }
}
