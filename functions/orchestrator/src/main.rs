//! Acts: woken by the table's stream, drives the issues that its records name.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;
use shared::telemetry::Telemetry;
use shared::{serverless, wire};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let telemetry = &Telemetry::start()?;
    let (_, engine) = &wire::function_engine().await?;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Value>| {
        let deadline = wire::moment(event.context.deadline());
        let answer = serverless::on_stream(engine, &event.payload, deadline).await;
        telemetry.flush();
        Ok::<Value, Error>(answer)
    }))
    .await
}
