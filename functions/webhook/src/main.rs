//! Hears: Linear's webhooks, runners and the API, behind a function URL or an HTTP API.

use shared::telemetry::Telemetry;
use shared::{http, wire};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let telemetry = Telemetry::start()?;
    let router = http::router(wire::function_doors().await?);
    lambda_http::run(telemetry.flushing(router)).await
}
