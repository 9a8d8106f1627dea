//! Acts: woken by the table's stream, drives the issues that its records name.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;
use shared::serverless;
use shared::telemetry::Telemetry;
use shared::wire::{self, Function};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let telemetry = &Telemetry::start()?;
    let function = &Function::that_acts().await?;
    lambda_runtime::run(service_fn(async move |event: LambdaEvent<Value>| {
        let parts = function.parts().await?;
        let deadline = wire::moment(event.context.deadline());
        let answer = serverless::on_stream(&parts.engine, &event.payload, deadline).await;
        telemetry.flush();
        Ok::<Value, Error>(answer)
    }))
    .await
}
