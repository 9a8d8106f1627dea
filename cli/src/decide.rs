//! `cyrus approve` and `cyrus cancel`: what a person decides of an issue. Over a
//! bare store it is written down, and taken up by the service when it looks.

use std::process::ExitCode;

use reqwest::Method;
use shared::engine::Heard;
use shared::issue::{CancelReason, Input};
use shared::ports::Clock as _;
use shared::view;
use shared::wire::SystemClock;

use crate::Common;
use crate::reach::{self, Reach, path_segment};

#[derive(Clone, Copy)]
pub(crate) enum Decision {
    Approve,
    Cancel,
}

pub(crate) async fn decide(
    common: &Common,
    name: &str,
    decision: Decision,
) -> anyhow::Result<ExitCode> {
    let (verb, done) = match decision {
        Decision::Approve => ("approve", "approved"),
        Decision::Cancel => ("cancel", "cancelled: what runs is stopped"),
    };
    let reach = Reach::find_to_write(common).await?;
    let document = match &reach {
        Reach::Service { .. } => {
            let path = format!("issues/{}/{verb}", path_segment(name));
            reach.send(Method::POST, &path, None).await?
        }
        Reach::Store(store) => {
            let id = reach::id_of(store, name).await?;
            let input = match decision {
                Decision::Approve => Input::Approve,
                Decision::Cancel => Input::Cancelled {
                    why: CancelReason::Command,
                    at: SystemClock.now(),
                },
            };
            let (engine, settings) = reach::engine(common, store).await?;
            if let Heard::Refused(why) = engine.hear(&id, input).await? {
                anyhow::bail!(why);
            }
            let issue = engine.load(&id).await?;
            serde_json::to_value(view::issue(&issue, settings.costs.per_issue_max))?
        }
    };
    if common.json {
        println!("{}", serde_json::to_string_pretty(&document)?);
    } else {
        println!(
            "{} is {done}",
            document["identifier"].as_str().unwrap_or(name)
        );
    }
    Ok(ExitCode::SUCCESS)
}
