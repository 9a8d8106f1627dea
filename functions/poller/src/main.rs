//! Looks: woken by a schedule, asks about what runs and drives what has moved.

use lambda_runtime::{Error, LambdaEvent, service_fn, tracing};
use serde_json::Value;
use shared::{serverless, wire};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing::init_default_subscriber();
    let engine = &wire::function_engine().await?;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Value>| {
        let deadline = wire::moment(event.context.deadline());
        Ok::<(), Error>(serverless::on_schedule(engine, deadline).await?)
    }))
    .await
}
