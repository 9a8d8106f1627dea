//! `cyrus forecast`: what a plan will cost and how long it will take.

use std::process::ExitCode;

use serde_json::Value;
use shared::issue::Conditions;
use shared::ports::Clock as _;
use shared::view;
use shared::view::status::configured;
use shared::wire::{Store, SystemClock};

use crate::Common;
use crate::reach::{self, Reach, path_segment};

pub(crate) async fn forecast(common: &Common, name: &str) -> anyhow::Result<ExitCode> {
    let reach = Reach::find(common).await?;
    let document = match &reach {
        Reach::Service { .. } => {
            let path = format!("issues/{}/forecast", path_segment(name));
            reach.get(&path).await?
        }
        Reach::Store(store) => read(common, store, name).await?,
    };
    if common.json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        print!("{}", describe(&document));
    }
    Ok(ExitCode::SUCCESS)
}

async fn read(common: &Common, store: &Store, name: &str) -> anyhow::Result<Value> {
    let id = reach::id_of(store, name).await?;
    let (engine, settings) = reach::engine(common, store).await?;
    let issue = engine.load(&id).await?;
    let mut conditions = Conditions::clone(&*engine.conditions().await?);
    // The executor on this machine is there when the service runs.
    for it in configured(&settings) {
        if conditions.executor(it.kind).is_none() {
            conditions.executors.push(it);
        }
    }
    let forecast = view::forecast::read(&issue, &conditions, SystemClock.now());
    Ok(serde_json::to_value(forecast.map_err(anyhow::Error::msg)?)?)
}

fn describe(forecast: &Value) -> String {
    let figure = |what: &str, key: &str| forecast[what][key].as_f64().unwrap_or_default();
    let path: Vec<&str> = forecast["critical_path"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let (cost, minutes) = (|key| figure("cost_usd", key), |key| figure("minutes", key));
    let mut lines = vec![
        format!(
            "cost           ${:.2}, between ${:.2} and ${:.2}",
            cost("expected"),
            cost("low"),
            cost("high")
        ),
        format!(
            "minutes        {:.0}, between {:.0} and {:.0}",
            minutes("expected"),
            minutes("low"),
            minutes("high")
        ),
        format!("critical path  {}", path.join(" -> ")),
    ];
    let actual = &forecast["actual"];
    if let (Some(cost), Some(minutes)) = (actual["cost_usd"].as_f64(), actual["minutes"].as_f64()) {
        lines.push(format!("it came to     ${cost:.2}, {minutes:.0} minutes"));
    }
    lines.join("\n") + "\n"
}
