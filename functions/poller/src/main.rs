//! Looks: woken by a schedule, asks about what runs and drives what has moved.

use lambda_runtime::{Error, LambdaEvent, service_fn, tracing};
use serde_json::Value;
use shared::wire;

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let engine = &wire::function()?.engine.clone();
    lambda_runtime::run(service_fn(async move |_: LambdaEvent<Value>| {
        for issue in engine.look().await? {
            engine.act(&issue).await?;
        }
        Ok::<(), Error>(())
    }))
    .await
}
