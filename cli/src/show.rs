//! `cyrus issues` and `cyrus show`: the documents of the API, for people.

use std::process::ExitCode;

use serde_json::Value;

use crate::Common;
use crate::reach::Reach;

pub(crate) async fn issues(common: &Common) -> anyhow::Result<ExitCode> {
    let list = Reach::find(common).await?.issues(common).await?;
    if common.json {
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(ExitCode::SUCCESS);
    }
    let issues = list["issues"].as_array().map_or(&[][..], Vec::as_slice);
    if issues.is_empty() {
        println!("No issue yet: assign one to the app in Linear.");
    }
    for issue in issues {
        println!(
            "{:<10} {:<10} {:>2}/{:<2} ${:<7.2} {}",
            text(issue, "identifier"),
            issue["outcome"]
                .as_str()
                .unwrap_or_else(|| text(issue, "phase")),
            issue["tasks_done"],
            issue["tasks_total"],
            issue["spent_usd"].as_f64().unwrap_or_default(),
            text(issue, "title"),
        );
        if let Some(waiting) = issue["waiting_for"].as_str() {
            println!("           waits: {waiting}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn show(common: &Common, name: &str) -> anyhow::Result<ExitCode> {
    let issue = Reach::find(common).await?.issue(common, name).await?;
    if common.json {
        println!("{}", serde_json::to_string_pretty(&issue)?);
    } else {
        print!("{}", describe(&issue));
    }
    Ok(ExitCode::SUCCESS)
}

/// An issue's document, for a terminal.
pub(crate) fn describe(issue: &Value) -> String {
    let mut lines = vec![
        format!("{} {}", text(issue, "identifier"), text(issue, "title")),
        text(issue, "url").to_owned(),
    ];
    let stands = match issue["outcome"].as_str() {
        Some(outcome) => format!("{} ({outcome})", text(issue, "phase")),
        None => text(issue, "phase").to_owned(),
    };
    let limit = issue["limit_usd"]
        .as_f64()
        .map_or(String::new(), |it| format!(" of ${it:.2}"));
    let reserved = issue["reserved_usd"]
        .as_f64()
        .filter(|it| *it > 0.0)
        .map_or(String::new(), |it| {
            format!(", ${it:.2} set aside for what runs")
        });
    lines.push(format!(
        "{stands}, spent ${:.2}{limit}{reserved}",
        issue["spent_usd"].as_f64().unwrap_or_default()
    ));
    if let Some(waiting) = issue["waiting_for"].as_str() {
        lines.push(format!("waits: {waiting}"));
    }
    lines.push(String::new());
    for task in issue["tasks"].as_array().map_or(&[][..], Vec::as_slice) {
        describe_task(task, &mut lines);
    }
    lines.join("\n") + "\n"
}

fn describe_task(task: &Value, lines: &mut Vec<String>) {
    let on: Vec<&str> = task["depends_on"]
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let after = if on.is_empty() {
        String::new()
    } else {
        format!(", after {}", on.join(", "))
    };
    let estimate = if task["cost_is_estimate"] == true {
        " estimated"
    } else {
        ""
    };
    lines.push(format!(
        "{:<12} {:<11} {} ({}{after})",
        text(task, "id"),
        text(task, "state"),
        text(task, "title"),
        text(task, "kind"),
    ));
    if let Some(executor) = task["executor"].as_str() {
        let cost = task["cost_usd"].as_f64().unwrap_or_default();
        lines.push(format!(
            "{:<12} {executor}, attempt {}, ${cost:.2}{estimate}: {}",
            "",
            task["attempt"],
            text(task, "why"),
        ));
    }
    for key in ["pr_url", "run_url", "error"] {
        if let Some(value) = task[key].as_str() {
            lines.push(format!("{:<12} {value}", ""));
        }
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
