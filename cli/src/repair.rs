//! `cyrus repair`: an issue's head, made again from its log.

use std::process::ExitCode;

use reqwest::Method;
use serde_json::Value;
use shared::carry;

use crate::Common;
use crate::reach::{Reach, path_segment};

pub(crate) async fn repair(common: &Common, name: &str) -> anyhow::Result<ExitCode> {
    let repaired = match Reach::find_to_write(common).await? {
        service @ Reach::Service { .. } => {
            let path = format!("issues/{}/repair", path_segment(name));
            service.send(Method::POST, &path, None).await?
        }
        Reach::Store(store) => {
            serde_json::to_value(carry::repair(store.log.as_ref(), name).await?)?
        }
    };
    if common.json {
        println!("{}", serde_json::to_string_pretty(&repaired)?);
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    let (identifier, seq) = (text(&repaired["identifier"]), &repaired["seq"]);
    let changes = repaired["changes"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    if changes.is_empty() {
        println!("{identifier}: its head was as its {seq} events say");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{identifier}: its head was made again from its {seq} events");
    for change in changes {
        let (what, was, is) = (text(&change["what"]), &change["was"], &change["is"]);
        println!("  {what}: {} -> {}", text(was), text(is));
    }
    Ok(ExitCode::SUCCESS)
}
