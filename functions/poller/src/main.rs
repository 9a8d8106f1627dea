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
        let look = serverless::on_schedule(&parts.engine, &parts.live, deadline);
        // What it does is bounded, and nothing depends on it.
        let redeliver = async {
            if let Some(deliveries) = &parts.deliveries {
                deliveries.look().await;
            }
        };
        let (looked, ()) = tokio::join!(look, redeliver);
        telemetry.flush();
        Ok::<(), Error>(looked?)
    }))
    .await
}
