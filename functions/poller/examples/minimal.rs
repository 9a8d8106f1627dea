//! The least that a function can be. `cargo xtask bench functions` measures the
//! three of the product against it; it is deployed nowhere.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    lambda_runtime::run(service_fn(async |event: LambdaEvent<Value>| {
        Ok::<_, Error>(event.payload)
    }))
    .await
}
