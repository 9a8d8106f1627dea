//! `cyrus stats`: what the last days came to.

use std::process::ExitCode;

use serde_json::Value;
use shared::ports::Clock as _;
use shared::stats::Period;
use shared::view;
use shared::wire::{Store, SystemClock};

use crate::Common;
use crate::reach::Reach;

pub(crate) async fn stats(common: &Common, period: Period) -> anyhow::Result<ExitCode> {
    let reach = Reach::find(common).await?;
    let stats = match &reach {
        Reach::Service { .. } => reach.get(&format!("stats?period={period}")).await?,
        Reach::Store(Store { log, .. }) => {
            let stats = view::stats::read(log.as_ref(), period, SystemClock.now()).await?;
            serde_json::to_value(stats)?
        }
    };
    if common.json {
        println!("{}", serde_json::to_string_pretty(&stats)?);
    } else {
        print!("{}", describe(&stats));
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(stats: &Value) -> String {
    let number = |key: &str| stats[key].as_f64().unwrap_or_default();
    let mut lines = vec![
        format!("{} to {}", word(stats, "from"), word(stats, "to")),
        format!(
            "tasks           {} ({} local, {} cloud), {} succeeded",
            stats["tasks"],
            stats["local"],
            stats["cloud"],
            percent(&stats["success_rate"]),
        ),
        format!("outcomes        {}", counts(&stats["by_outcome"])),
        format!("issues ended    {}", counts(&stats["issues"])),
        format!("cost            ${:.2}", number("cost_usd")),
    ];
    if let Some(usd) = stats["cost_per_merge_usd"].as_f64() {
        lines.push(format!(
            "cost of a merge ${usd:.2} ({} merges)",
            stats["merges"]
        ));
    }
    lines.push(format!(
        "time saved      {:.0} min",
        number("time_saved_minutes")
    ));
    lines.push(format!("held up         {}", counts(&stats["waiting"])));
    let off = |key: &str| percent(&stats[key]);
    lines.push(match stats["forecasts"].as_i64() {
        Some(0) | None => "forecasts       none".into(),
        Some(forecasts) => format!(
            "forecasts       {forecasts}, off by {} of the cost and {} of the time on average",
            off("forecast_error"),
            off("forecast_minutes_error"),
        ),
    });
    for one in items(&stats["by_executor"]) {
        lines.push(format!(
            "{:<15} {} tasks, {} succeeded, {} runs of {:.0} min in all, ${:.2}",
            word(one, "executor"),
            one["tasks"],
            percent(&one["success_rate"]),
            one["runs"],
            one["run_minutes"].as_f64().unwrap_or_default(),
            one["cost_usd"].as_f64().unwrap_or_default(),
        ));
    }
    for one in items(&stats["by_kind"]) {
        lines.push(format!(
            "{:<15} {}: {} tasks, {} succeeded, ${:.2}",
            word(one, "kind"),
            word(one, "executor"),
            one["tasks"],
            percent(&one["success_rate"]),
            one["cost_usd"].as_f64().unwrap_or_default(),
        ));
    }
    lines.join("\n") + "\n"
}

fn percent(share: &Value) -> String {
    share
        .as_f64()
        .map_or("none".into(), |it| format!("{:.0} %", it * 100.0))
}

/// What there is any of.
fn counts(counts: &Value) -> String {
    let some = items(counts).iter().filter(|it| it["count"] != 0);
    let words: Vec<String> = some
        .map(|it| format!("{} {}", it["count"], word(it, "name")))
        .collect();
    if words.is_empty() {
        "none".into()
    } else {
        words.join(", ")
    }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
