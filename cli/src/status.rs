//! `cyrus status`: executors, strategy, money and what is in flight.

use std::process::ExitCode;

use serde_json::Value;
use shared::config::Env;
use shared::issue::{Issue, evolve};
use shared::ports::Clock as _;
use shared::view::status::{Facts, configured, runs_of};
use shared::wire::{Store, SystemClock};

use crate::reach::Reach;
use crate::{Common, pause};

pub(crate) async fn status(common: &Common) -> anyhow::Result<ExitCode> {
    let reach = Reach::find(common).await?;
    let status = match &reach {
        Reach::Service { .. } => reach.get("status").await?,
        Reach::Store(store) => read(common, store).await?,
    };
    if common.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", describe(&status));
    }
    Ok(ExitCode::SUCCESS)
}

async fn read(common: &Common, store: &Store) -> anyhow::Result<Value> {
    let (live, _) = common.live(&Env::from_process(), store).await?;
    let settings = live.settings();
    let now = SystemClock.now();
    let log = store.log.as_ref();
    let facts = Facts::read(log, store.registers.as_ref(), now).await?;
    let mut running = None;
    if let Some(watched) = facts.watched() {
        let mut runs = Vec::new();
        for id in watched {
            let mut issue = Issue::unknown(id.clone());
            for record in log.read(&id, 0).await? {
                evolve(&mut issue, &record);
            }
            runs.extend(runs_of(&issue));
        }
        running = Some(runs);
    }
    let status = facts.status(&settings, &configured(&settings), running.as_deref(), now);
    Ok(serde_json::to_value(status)?)
}

fn describe(status: &Value) -> String {
    let budget = &status["budget"];
    let limit = budget["day_usd"]
        .as_f64()
        .map_or("no limit".to_owned(), |it| format!("of ${it:.2}"));
    let dollars = |key: &str| budget[key].as_f64().unwrap_or_default();
    let mut lines = vec![format!(
        "cyrus {}, {}",
        word(status, "version"),
        word(status, "strategy")
    )];
    if status["paused"] == true {
        lines.push(pause::sentence(status));
    }
    lines.extend([
        format!(
            "issues in flight {}, most overdue by {} s",
            status["issues_in_flight"], status["oldest_overdue_seconds"]
        ),
        format!(
            "money today      ${:.2} spent, ${:.2} reserved, {limit}",
            dollars("spent_usd"),
            dollars("reserved_usd")
        ),
    ]);
    for one in status["executors"].as_array().into_iter().flatten() {
        let health = match one["why"].as_str() {
            None => "healthy".to_owned(),
            Some(why) => format!("not healthy: {why}"),
        };
        let running = one["running"]
            .as_u64()
            .map_or("many".to_owned(), |it| it.to_string());
        let slots = one["slots"]
            .as_u64()
            .map_or(String::new(), |it| format!(" of {it}"));
        lines.push(format!(
            "{:<16} {running}{slots} at work, {health}",
            word(one, "name")
        ));
    }
    lines.join("\n") + "\n"
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
