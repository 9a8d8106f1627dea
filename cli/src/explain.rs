//! `cyrus explain`: why each decision about an issue was taken.

use std::process::ExitCode;

use serde_json::Value;
use shared::view;

use crate::Common;
use crate::reach::{self, Reach, path_segment};

pub(crate) async fn explain(common: &Common, name: &str) -> anyhow::Result<ExitCode> {
    let reach = Reach::find(common).await?;
    let document = match &reach {
        Reach::Service { .. } => {
            let path = format!("issues/{}/explain", path_segment(name));
            reach.get(&path).await?
        }
        Reach::Store(store) => {
            let id = reach::id_of(store, name).await?;
            let records = store.log.read(&id, 0).await?;
            serde_json::to_value(view::explain::explain(&records))?
        }
    };
    if common.json {
        println!("{}", serde_json::to_string_pretty(&document)?);
        return Ok(ExitCode::SUCCESS);
    }
    for one in document["decisions"].as_array().into_iter().flatten() {
        println!(
            "{}  {:<18} {:<16} {}",
            // To the second is enough for reading.
            word(one, "at").get(..19).unwrap_or_default(),
            word(one, "about"),
            word(one, "decision"),
            word(one, "because"),
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
