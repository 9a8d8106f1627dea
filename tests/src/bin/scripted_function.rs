//! A Lambda function that does what its event says: for the tests of what
//! stands around functions. `{"do": …}`, or a batch of records, each with its
//! own `NewImage.do.S`.

use std::time::Duration;

use lambda_runtime::{Error, LambdaEvent, service_fn};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    if std::env::var_os("REFUSE_TO_START").is_some() {
        return Err("THE_VARIABLE is not set".into());
    }
    println!("a process begins");
    // It would go on between invocations, if it were let.
    tokio::spawn(async {
        loop {
            println!("alive");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    lambda_runtime::run(service_fn(handle)).await
}

async fn handle(event: LambdaEvent<Value>) -> Result<Value, Error> {
    let Some(records) = event.payload["Records"].as_array() else {
        let word = event.payload["do"].as_str().unwrap_or_default();
        return obey(word, &event).await;
    };
    println!("batch of {}", records.len());
    let mut failures = Vec::new();
    for record in records {
        let number = &record["dynamodb"]["SequenceNumber"];
        println!(
            "record {}",
            record["dynamodb"]["Keys"]["sk"]["S"]
                .as_str()
                .unwrap_or_default()
        );
        match record["dynamodb"]["NewImage"]["do"]["S"].as_str() {
            Some("report") => failures.push(json!({ "itemIdentifier": number })),
            Some(word) => _ = obey(word, &event).await?,
            None => {}
        }
    }
    Ok(json!({ "batchItemFailures": failures }))
}

async fn obey(word: &str, event: &LambdaEvent<Value>) -> Result<Value, Error> {
    match word {
        "fail" => Err("it was told to".into()),
        "exit" => std::process::exit(7),
        "hang" => std::future::pending().await,
        "wait" => {
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok(json!(std::process::id()))
        }
        "context" => Ok(json!({
            "name": event.context.env_config.function_name,
            "arn": event.context.invoked_function_arn,
            "deadline": event.context.deadline,
            "id": event.context.request_id,
            "pid": std::process::id(),
        })),
        _ => Ok(Value::Null),
    }
}
