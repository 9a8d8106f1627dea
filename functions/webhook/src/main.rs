//! Hears: Linear's webhooks and the API, behind a function URL.

use shared::{http, wire};

#[tokio::main]
async fn main() -> Result<(), lambda_http::Error> {
    lambda_http::tracing::init_default_subscriber();
    lambda_http::run(http::router(wire::function()?)).await
}
