//! Looks: woken by a schedule, asks about what runs and drives what has moved.

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
        let looked = serverless::on_schedule(&parts.engine, &parts.live, deadline).await;
        telemetry.flush();
        Ok::<(), Error>(looked?)
    }))
    .await
}
