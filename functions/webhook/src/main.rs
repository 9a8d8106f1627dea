//! Hears: Linear's webhooks, runners and the API, behind a function URL or an HTTP API.

use shared::telemetry::Telemetry;
use shared::wire::Function;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let telemetry = Telemetry::start()?;
    let router = Function::that_hears().await?;
    lambda_http::run(telemetry.flushing(router)).await
}
