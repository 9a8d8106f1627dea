//! Hears: Linear's webhooks, runners and the API, behind a function URL or an HTTP API.

use shared::{http, wire};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    lambda_http::tracing::init_default_subscriber();
    lambda_http::run(http::router(wire::function_doors().await?)).await
}
