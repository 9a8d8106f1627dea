//! The demo's story on a terminal: a line for what happens, a bar for what is
//! at work; plain lines where there is no terminal.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::Timestamp;
use serde_json::Value;
use world::github::Merge;

/// Events that are told; the others are how it is done, not what.
const TOLD: [&str; 13] = [
    "Opened",
    "Briefed",
    "Unserved",
    "Planned",
    "PlanRejected",
    "Routed",
    "Ended",
    "Retried",
    "HeadSeen",
    "Approved",
    "Merged",
    "Settled",
    "Done",
];
const BAR_TICK: Duration = Duration::from_millis(120);

pub(super) struct Story {
    begun: Instant,
    speed: f64,
    /// One document at the end, and no story.
    json: bool,
    bars: Option<(MultiProgress, BTreeMap<String, ProgressBar>)>,
}

impl Story {
    pub(super) fn begin(identifier: &str, title: &str, url: &str, speed: f64, json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal() && !json;
        let story = Self {
            begun: Instant::now(),
            speed,
            json,
            bars: terminal.then(|| (MultiProgress::new(), BTreeMap::new())),
        };
        story.line(&format!("{identifier} \"{title}\" was assigned to cyrus (scripted runs, {speed} times as fast as real ones)"));
        story.line(&format!("while it runs: {url}/api/v1/issues/{identifier}"));
        story
    }

    /// Tells an event of the log, if it is one to tell.
    pub(super) fn tell(&self, event: &Value) {
        let name = event["event"].as_str().unwrap_or_default();
        if TOLD.contains(&name) {
            let minutes = self.begun.elapsed().as_secs_f64() * self.speed / 60.0;
            self.line(&format!(
                "{minutes:>5.1} min  {}",
                event["text"].as_str().unwrap_or_default()
            ));
        }
    }

    /// Shows what is at work.
    pub(super) fn show(&mut self, issue: &Value) {
        let Some((screen, bars)) = &mut self.bars else {
            return;
        };
        for task in tasks(issue) {
            let (id, state) = (text(task, "id"), text(task, "state"));
            let at_work = matches!(state, "starting" | "running" | "validating");
            if at_work {
                let bar = bars.entry(id.to_owned()).or_insert_with(|| {
                    let bar = screen.add(ProgressBar::new_spinner());
                    if let Ok(style) = ProgressStyle::with_template("  {spinner} {msg}") {
                        bar.set_style(style);
                    }
                    bar.enable_steady_tick(BAR_TICK);
                    bar
                });
                bar.set_message(format!("{id:<10} {state:<11} {}", text(task, "executor")));
            } else if let Some(bar) = bars.remove(id) {
                bar.finish_and_clear();
            }
        }
    }

    /// The bill, and what was saved.
    pub(super) fn end(&mut self, issue: &Value, last_word: Option<&str>, merges: &[Merge]) {
        if let Some((screen, _)) = &self.bars {
            let _ = screen.clear();
        }
        let minutes_each: f64 = tasks(issue).filter_map(|it| minutes(it, self.speed)).sum();
        let minutes_all = minutes(issue, self.speed).unwrap_or_default();
        let minutes_saved = (minutes_each - minutes_all).max(0.0);
        if self.json {
            let bill = serde_json::json!({
                "issue": issue, "minutes_one_after_another": minutes_each,
                "minutes_together": minutes_all, "minutes_saved": minutes_saved,
                "merged": merges.len(), "linear": last_word,
            });
            println!("{bill:#}");
            return;
        }
        println!();
        println!(
            "{:<10} {:<10} {:<9} {:>9} {:>8}",
            "task", "state", "executor", "took", "cost"
        );
        for task in tasks(issue) {
            let took = minutes(task, self.speed).unwrap_or_default();
            println!(
                "{:<10} {:<10} {:<9} {:>5.1} min {:>8}",
                text(task, "id"),
                text(task, "state"),
                text(task, "executor"),
                took,
                cost(task),
            );
        }
        println!();
        println!(
            "The bill: ${:.2} (* booked at a flat price: Codegen reports none).",
            issue["spent_usd"].as_f64().unwrap_or_default()
        );
        println!(
            "One after another: {minutes_each:.1} min. Together: {minutes_all:.1} min. Saved: \
             {minutes_saved:.1} min."
        );
        println!(
            "Merged on GitHub: {} pull requests, each at the commit that was judged.",
            merges.len()
        );
        if let Some(word) = last_word.and_then(|it| it.lines().next()) {
            println!("Linear shows: {word}");
        }
        println!("Played in {:.1} s.", self.begun.elapsed().as_secs_f64());
    }

    fn line(&self, line: &str) {
        if self.json {
            return;
        }
        match &self.bars {
            Some((screen, _)) => {
                let _ = screen.println(line);
            }
            None => println!("{line}"),
        }
    }
}

/// What it took in story time.
fn minutes(of: &Value, speed: f64) -> Option<f64> {
    let time = |key: &str| of[key].as_str()?.parse::<Timestamp>().ok();
    let took = time("finished_at")?.duration_since(time("started_at")?);
    Some(took.as_secs_f64() * speed / 60.0)
}

fn cost(task: &Value) -> String {
    let mark = if task["cost_is_estimate"] == true {
        "*"
    } else {
        " "
    };
    format!(
        "${:.2}{mark}",
        task["cost_usd"].as_f64().unwrap_or_default()
    )
}

fn tasks(issue: &Value) -> impl Iterator<Item = &Value> {
    issue["tasks"].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
