//! `cyrus pause` and `cyrus resume`: the kill switch.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};
use shared::issue::Pause;
use shared::pause;
use shared::ports::Clock as _;
use shared::view::status::PauseDoc;
use shared::wire::SystemClock;

use crate::Common;
use crate::reach::Reach;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Stop what runs, too; it is begun again afterwards, and counts as no attempt
    #[arg(long)]
    stop_runs: bool,
    /// Merge nothing, either
    #[arg(long)]
    merges: bool,
}

pub(crate) async fn pause(common: &Common, options: &Options) -> anyhow::Result<ExitCode> {
    let Options { stop_runs, merges } = *options;
    let asked = Pause { stop_runs, merges };
    let document = match Reach::find_to_write(common).await? {
        service @ Reach::Service { .. } => {
            let body = json!({ "stop_runs": stop_runs, "merges": merges });
            service
                .send(Method::POST, "pause", Some(body.to_string()))
                .await?
        }
        Reach::Store(store) => {
            pause::pause(store.registers.as_ref(), asked, SystemClock.now()).await?;
            serde_json::to_value(PauseDoc::of(Some(asked)))?
        }
    };
    tell(common, &document)
}

pub(crate) async fn resume(common: &Common) -> anyhow::Result<ExitCode> {
    let document = match Reach::find_to_write(common).await? {
        service @ Reach::Service { .. } => service.send(Method::POST, "resume", None).await?,
        Reach::Store(store) => {
            pause::resume(store.registers.as_ref(), SystemClock.now()).await?;
            serde_json::to_value(PauseDoc::of(None))?
        }
    };
    tell(common, &document)
}

fn tell(common: &Common, document: &Value) -> anyhow::Result<ExitCode> {
    if common.json {
        println!("{}", serde_json::to_string_pretty(document)?);
    } else {
        println!("{}", sentence(document));
    }
    Ok(ExitCode::SUCCESS)
}

/// How the switch stands, of a document that has `paused` and `pause`.
pub(crate) fn sentence(document: &Value) -> String {
    if document["paused"] != true {
        return "Work goes on.".into();
    }
    let runs = if document["pause"]["stop_runs"] == true {
        "what ran is stopped"
    } else {
        "what runs goes on"
    };
    let merges = if document["pause"]["merges"] == true {
        "nothing is merged"
    } else {
        "merging goes on"
    };
    format!("Paused: no run starts, {runs}, {merges}. `cyrus resume` ends it.")
}
