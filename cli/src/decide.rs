//! `cyrus approve`, `cancel` and `retry`: what a person decides of an issue. Over a
//! bare store it is written down, and taken up by the service when it looks.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::json;
use shared::engine::Heard;
use shared::issue::{CancelReason, Input, TaskId};
use shared::ports::Clock as _;
use shared::view;
use shared::wire::SystemClock;

use crate::Common;
use crate::reach::{self, Reach, path_segment};

pub(crate) enum Decision {
    Approve,
    Cancel,
    /// This task, or all that failed.
    Retry(Option<String>),
}

pub(crate) async fn decide(
    common: &Common,
    name: &str,
    decision: Decision,
) -> anyhow::Result<ExitCode> {
    let (verb, done, body) = match &decision {
        Decision::Approve => ("approve", "approved", None),
        Decision::Cancel => ("cancel", "cancelled: what runs is stopped", None),
        Decision::Retry(task) => (
            "retry",
            "taken up again",
            Some(json!({ "task": task }).to_string()),
        ),
    };
    let reach = Reach::find_to_write(common).await?;
    let document = match &reach {
        Reach::Service { .. } => {
            let path = format!("issues/{}/{verb}", path_segment(name));
            reach.send(Method::POST, &path, body).await?
        }
        Reach::Store(store) => {
            let id = reach::id_of(store, name).await?;
            let input = match decision {
                Decision::Approve => Input::Approve,
                Decision::Cancel => Input::Cancelled {
                    why: CancelReason::Command,
                    at: SystemClock.now(),
                },
                Decision::Retry(task) => Input::Retry {
                    task: task.map(TaskId),
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
