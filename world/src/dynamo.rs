//! DynamoDB on this machine: emulators as processes of their own, the table,
//! and a proxy that makes trouble on the way.
//!
//! An emulator ends when the process that started it ends, however that ends:
//! it reads its stdin, and stops when that is closed.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, bail, ensure};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::operation::create_table::builders::CreateTableFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, StreamSpecification, StreamViewType,
    TimeToLiveSpecification,
};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::{Value, json};

use crate::faults::{Faults, Trouble};
use crate::serve::{Server, broken, meet};

/// The attributes that are keys, of the table or of an index. All are texts.
const KEYS: [&str; 7] = [
    "pk",
    "sk",
    "lane",
    "attention_at",
    "list",
    "started_at",
    "identifier",
];
/// Each index, and its keys.
const INDEXES: [(&str, [&str; 2]); 3] = [
    ("attention", ["lane", "attention_at"]),
    ("started", ["list", "started_at"]),
    ("identifier", ["identifier", "started_at"]),
];
/// What moto may take of the memory: it copies its tables for each transaction.
const MOTO_BYTES_MAX: u64 = 4 << 30;
const MOTO: &str = "
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False)
server.start()
print('%s:%s' % server.get_host_and_port(), flush=True)
sys.stdin.read()
";
/// Headers of a request that DynamoDB's answer depends on.
const FORWARDED: [&str; 4] = [
    "x-amz-target",
    "content-type",
    "authorization",
    "x-amz-date",
];

/// A DynamoDB that nobody else uses; it ends when dropped.
#[derive(Debug)]
pub struct Emulator {
    pub address: SocketAddr,
    child: Child,
}

impl Emulator {
    /// An empty one, in memory. The first call builds the program if it must.
    pub fn start() -> anyhow::Result<Self> {
        static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        let program = PROGRAM.get_or_init(|| build().map_err(|error| format!("{error:#}")));
        match program {
            Ok(program) => Self::run(&mut Command::new(program)),
            Err(error) => bail!("{error}"),
        }
    }

    /// Another kind, written by others. It keeps the tables of each region
    /// apart, and lets the transactions of one region spoil each other: one test
    /// per region, one call at a time. `None`: it is not installed.
    pub fn start_moto() -> anyhow::Result<Option<Self>> {
        let python = root().join("target/tools/venv/moto/bin/python3");
        if !python.exists() {
            return Ok(None);
        }
        let mut moto = Command::new("prlimit");
        moto.arg(format!("--as={MOTO_BYTES_MAX}"))
            .arg(python)
            .args(["-c", MOTO])
            .env("MOTO_ALLOW_NONEXISTENT_REGION", "true")
            .stderr(Stdio::null());
        Self::run(&mut moto).map(Some)
    }

    /// Runs a program that says its address on its first line.
    fn run(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the emulator")?;
        let stdout = child.stdout.take().context("the emulator's output")?;
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line)?;
        let address = line.trim().parse();
        let address = address.with_context(|| format!("the emulator says `{line}`"))?;
        Ok(Self { address, child })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn client(&self) -> Client {
        client(&self.url(), "us-east-1")
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn build() -> anyhow::Result<PathBuf> {
    let target = root().join("target/emulator");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--locked", "--manifest-path"])
        .arg(root().join("tests/emulator/Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "the emulator cannot be built");
    Ok(target.join("debug/emulator"))
}

/// A client of whatever listens there.
pub fn client(url: &str, region: &str) -> Client {
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .endpoint_url(url)
        .region(Region::new(region.to_owned()))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .build();
    Client::from_conf(config)
}

/// Makes the table as `template.yaml` does.
pub async fn create_table(client: &Client, name: &str) -> anyhow::Result<()> {
    table_request(client, name)?.send().await?;
    let ttl = TimeToLiveSpecification::builder()
        .enabled(true)
        .attribute_name("expires_at")
        .build()?;
    client
        .update_time_to_live()
        .table_name(name)
        .time_to_live_specification(ttl)
        .send()
        .await?;
    Ok(())
}

/// The request that makes it, without its time to live.
pub fn table_request(client: &Client, name: &str) -> anyhow::Result<CreateTableFluentBuilder> {
    let mut table = client
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest)
        .set_key_schema(Some(keys(["pk", "sk"])?));
    for key in KEYS {
        let attribute = AttributeDefinition::builder()
            .attribute_name(key)
            .attribute_type(ScalarAttributeType::S)
            .build()?;
        table = table.attribute_definitions(attribute);
    }
    for (name, of) in INDEXES {
        let projection = Projection::builder()
            .projection_type(ProjectionType::KeysOnly)
            .build();
        let index = GlobalSecondaryIndex::builder()
            .index_name(name)
            .set_key_schema(Some(keys(of)?))
            .projection(projection)
            .build()?;
        table = table.global_secondary_indexes(index);
    }
    let stream = StreamSpecification::builder()
        .stream_enabled(true)
        .stream_view_type(StreamViewType::NewImage)
        .build()?;
    Ok(table.stream_specification(stream))
}

fn keys([hash, range]: [&str; 2]) -> anyhow::Result<Vec<KeySchemaElement>> {
    let key = |name: &str, kind| {
        let element = KeySchemaElement::builder()
            .attribute_name(name)
            .key_type(kind);
        element.build()
    };
    Ok(vec![key(hash, KeyType::Hash)?, key(range, KeyType::Range)?])
}

type Meanwhile = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Stands between a client and an emulator, and makes trouble call by call.
#[derive(Debug)]
pub struct Proxy {
    server: Server,
    way: Arc<Way>,
}

struct Way {
    to: String,
    http: reqwest::Client,
    faults: Faults,
    meanwhile: Mutex<Vec<(String, usize, Meanwhile)>>,
    partial: Mutex<usize>,
    page: Mutex<Option<u64>>,
    calls: Mutex<Vec<String>>,
}

impl Proxy {
    pub async fn start(to: &Emulator) -> anyhow::Result<Self> {
        let way = Arc::new(Way {
            to: to.url(),
            http: reqwest::Client::new(),
            faults: Faults::default(),
            meanwhile: Mutex::default(),
            partial: Mutex::default(),
            page: Mutex::default(),
            calls: Mutex::default(),
        });
        let router = Router::new()
            .fallback(pass)
            .layer(DefaultBodyLimit::disable())
            .with_state(Arc::clone(&way));
        let server = Server::start(router).await?;
        Ok(Self { server, way })
    }

    pub fn url(&self) -> String {
        self.server.url()
    }

    pub fn client(&self) -> Client {
        client(&self.url(), "us-east-1")
    }

    /// What goes wrong, by operation: `TransactWriteItems`.
    pub fn faults(&self) -> &Faults {
        &self.way.faults
    }

    /// Something that happens just before a call of `operation`, after `skip` of them.
    pub fn meanwhile(
        &self,
        operation: &str,
        skip: usize,
        what: impl Future<Output = ()> + Send + 'static,
    ) {
        lock(&self.way.meanwhile).push((operation.into(), skip, Box::pin(what)));
    }

    /// The next `times` calls of `BatchGetItem` get their first key only, and are
    /// told to ask again for the rest.
    pub fn hand_out_one_by_one(&self, times: usize) {
        *lock(&self.way.partial) = times;
    }

    /// From now on no answer to a `Query` holds more than `max` items.
    pub fn page(&self, max: u64) {
        *lock(&self.way.page) = Some(max);
    }

    /// How often an operation was called.
    pub fn calls(&self, operation: &str) -> usize {
        let calls = lock(&self.way.calls);
        calls.iter().filter(|it| *it == operation).count()
    }
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Way")
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

/// DynamoDB refuses a call with this code; nothing is done.
pub fn refusal(code: &str) -> Trouble {
    Trouble::Status {
        status: 400,
        body:
            json!({ "__type": format!("com.amazonaws.dynamodb.v20120810#{code}"), "message": "no" })
                .to_string(),
        retry_after: None,
    }
}

/// A transaction is canceled, item by item for these reasons; nothing is done.
pub fn canceled(reasons: &[&str]) -> Trouble {
    let reasons = reasons.iter().map(|it| json!({ "Code": it }));
    Trouble::Status {
        status: 400,
        body: json!({
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "Message": "Transaction cancelled",
            "CancellationReasons": reasons.collect::<Vec<_>>(),
        })
        .to_string(),
        retry_after: None,
    }
}

async fn pass(State(way): State<Arc<Way>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers.get("x-amz-target").and_then(|it| it.to_str().ok());
    let operation = target
        .and_then(|it| it.split('.').next_back())
        .unwrap_or("");
    lock(&way.calls).push(operation.to_owned());
    if let Some(meanwhile) = way.take_meanwhile(operation) {
        meanwhile.await;
    }
    let trouble = way.faults.meet(operation);
    meet(trouble, async {
        let answer = way.answer(operation, &headers, body).await;
        answer.unwrap_or_else(|error| {
            tracing::error!("the emulator behind the proxy: {error:#}");
            broken()
        })
    })
    .await
}

impl Way {
    fn take_meanwhile(&self, operation: &str) -> Option<Meanwhile> {
        let mut meanwhile = lock(&self.meanwhile);
        let at = meanwhile.iter().position(|(it, _, _)| it == operation)?;
        if meanwhile[at].1 > 0 {
            meanwhile[at].1 -= 1;
            return None;
        }
        Some(meanwhile.remove(at).2)
    }

    async fn answer(
        &self,
        operation: &str,
        headers: &HeaderMap,
        body: Bytes,
    ) -> anyhow::Result<Response> {
        if operation == "BatchGetItem" && self.is_partial() {
            let mut ask: Value = serde_json::from_slice(&body)?;
            let rest = keep_first_keys(&mut ask).context("a BatchGetItem without keys")?;
            let (status, answer) = self.forward(headers, ask.to_string().into()).await?;
            let mut answer: Value = serde_json::from_slice(&answer)?;
            answer["UnprocessedKeys"] = rest;
            return respond(status, answer.to_string().into());
        }
        let page = *lock(&self.page);
        let body = match page {
            Some(max) if operation == "Query" => {
                let mut ask: Value = serde_json::from_slice(&body)?;
                let limit = ask["Limit"].as_u64().map_or(max, |it| it.min(max));
                ask["Limit"] = limit.into();
                ask.to_string().into()
            }
            Some(_) | None => body,
        };
        let (status, answer) = self.forward(headers, body).await?;
        respond(status, answer)
    }

    fn is_partial(&self) -> bool {
        let mut left = lock(&self.partial);
        let is_partial = *left > 0;
        *left = left.saturating_sub(1);
        is_partial
    }

    async fn forward(&self, headers: &HeaderMap, body: Bytes) -> anyhow::Result<(u16, Bytes)> {
        let mut request = self.http.post(&self.to).body(body);
        for name in FORWARDED {
            if let Some(value) = headers.get(name) {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await?;
        Ok((answer.status().as_u16(), answer.bytes().await?))
    }
}

/// Leaves the first key of each table in the request, and gives back the rest.
fn keep_first_keys(ask: &mut Value) -> Option<Value> {
    let tables = ask.get_mut("RequestItems")?.as_object_mut()?;
    let mut rest = tables.clone();
    for (table, asked) in tables {
        let keys = asked.get_mut("Keys")?.as_array_mut()?;
        rest[table]["Keys"] = keys.split_off(1).into();
    }
    rest.retain(|_, it| it["Keys"].as_array().is_some_and(|it| !it.is_empty()));
    Some(rest.into())
}

fn respond(status: u16, body: Bytes) -> anyhow::Result<Response> {
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/x-amz-json-1.0");
    Ok(response.body(body.into())?)
}

fn lock<T>(kept: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}
