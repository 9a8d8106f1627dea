//! Reads a table's stream, all shards from their beginning, over plain HTTP:
//! what the API answers is nearly what a function is handed.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

/// The records of one read.
const RECORDS_MAX: usize = 1_000;
/// What an emulator wants to see, and does not check.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dynamodb/aws4_request, SignedHeaders=host;x-amz-date, Signature=0";

pub(super) struct Reader {
    http: reqwest::Client,
    url: String,
    stream: String,
    /// The iterator of each shard; none where the shard is closed and read.
    shards: BTreeMap<String, Option<String>>,
}

impl Reader {
    pub(super) async fn open(url: &str, table: &str) -> anyhow::Result<Self> {
        let mut reader = Self {
            http: reqwest::Client::new(),
            url: url.to_owned(),
            stream: String::new(),
            shards: BTreeMap::new(),
        };
        let described = reader
            .call(
                "DynamoDB_20120810.DescribeTable",
                &json!({ "TableName": table }),
            )
            .await?;
        let stream = described["Table"]["LatestStreamArn"].as_str();
        reader.stream = stream
            .with_context(|| format!("the table `{table}` has no stream"))?
            .to_owned();
        Ok(reader)
    }

    /// What is new, as records of a stream event.
    pub(super) async fn read(&mut self) -> anyhow::Result<Vec<Value>> {
        self.find_shards().await?;
        let mut all = Vec::new();
        let iterators: Vec<(String, String)> = self
            .shards
            .iter()
            .filter_map(|(shard, it)| Some((shard.clone(), it.clone()?)))
            .collect();
        for (shard, iterator) in iterators {
            let ask = json!({ "ShardIterator": iterator, "Limit": RECORDS_MAX });
            let answer = self
                .call("DynamoDBStreams_20120810.GetRecords", &ask)
                .await?;
            let next = answer["NextShardIterator"].as_str().map(str::to_owned);
            self.shards.insert(shard, next);
            for record in answer["Records"].as_array().into_iter().flatten() {
                all.push(self.event_record(record));
            }
        }
        Ok(all)
    }

    async fn find_shards(&mut self) -> anyhow::Result<()> {
        let ask = json!({ "StreamArn": self.stream });
        let described = self
            .call("DynamoDBStreams_20120810.DescribeStream", &ask)
            .await?;
        let shards = described["StreamDescription"]["Shards"].as_array().cloned();
        for shard in shards.unwrap_or_default() {
            let id = shard["ShardId"].as_str().context("a shard has no id")?;
            if self.shards.contains_key(id) {
                continue;
            }
            let ask = json!({ "StreamArn": self.stream, "ShardId": id, "ShardIteratorType": "TRIM_HORIZON" });
            let answer = self
                .call("DynamoDBStreams_20120810.GetShardIterator", &ask)
                .await?;
            let iterator = answer["ShardIterator"].as_str().map(str::to_owned);
            self.shards.insert(id.to_owned(), iterator);
        }
        Ok(())
    }

    /// A record as Lambda hands it on.
    fn event_record(&self, record: &Value) -> Value {
        json!({
            "eventID": record["eventID"],
            "eventName": record["eventName"],
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": "us-east-1",
            "dynamodb": record["dynamodb"],
            "eventSourceARN": self.stream,
        })
    }

    async fn call(&self, target: &str, body: &Value) -> anyhow::Result<Value> {
        let request = self
            .http
            .post(&self.url)
            .header("x-amz-target", target)
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-date", "20260101T000000Z")
            .header("authorization", AUTHORIZATION)
            .body(body.to_string());
        let answer = request
            .send()
            .await
            .with_context(|| format!("ask for {target}"))?;
        let (status, text) = (answer.status(), answer.text().await?);
        if !status.is_success() {
            bail!("{target} is answered {status}: {text}");
        }
        Ok(serde_json::from_str(&text)?)
    }
}
