//! The event source mapping between a table's stream and a function: reads the
//! stream, filters, makes batches, invokes, and tries again what failed, as
//! Lambda does for DynamoDB Streams. With trouble by seed that an emulator does
//! not show: records twice, late, lost or foreign, and two environments at once.
//!
//! Records of one item stay in order, and lanes don't wait for each other. What
//! could not be delivered ends in a list of dead letters. No shard is ever
//! split here: to the function that would look like a batch delivered by two.

mod filter;
mod reader;

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use self::filter::Filter;
use self::reader::Reader;
use crate::lambda::{Failed, Function};

/// Between two reads of the stream. Lambda reads four times a second.
const POLL: Duration = Duration::from_millis(100);
/// The first pause before a batch is tried again; it doubles with each …
const PAUSE: Duration = Duration::from_millis(100);
/// … up to this.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The latest that a record comes under bad weather.
const LATE_MS_MAX: u64 = 1_500;

/// What the template says about the event source.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub filter: Filter,
    /// `BatchSize`.
    pub batch_max: usize,
    /// `ParallelizationFactor`.
    pub lanes: usize,
    /// `MaximumRetryAttempts`.
    pub retries_max: u32,
    /// `BisectBatchOnFunctionError`.
    pub bisects: bool,
    /// `ReportBatchItemFailures`.
    pub reports_failures: bool,
}

/// What goes wrong on the way: chances in a thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// A record never comes.
    pub lost: u32,
    /// A batch comes late.
    pub late: u32,
    /// A batch comes again after it was done.
    pub twice: u32,
    /// A batch comes to two environments at once.
    pub at_once: u32,
    /// Before a record stands one that is none of ours.
    pub foreign: u32,
}

/// What could not be delivered, as the dead-letter queue is told of it.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    pub condition: &'static str,
    pub invocations: u32,
    pub error: String,
    pub records: Vec<Value>,
}

/// The mapping at work; it ends when dropped.
pub struct Pump {
    told: Arc<Mutex<Told>>,
    /// Aborts all of it.
    _work: JoinSet<anyhow::Result<()>>,
}

/// What the mapping has done so far.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Records that the stream had, and those of them that passed the filter.
    pub read: usize,
    pub passed: usize,
    pub delivered: usize,
    pub lost: usize,
    pub late: usize,
    pub twice: usize,
    pub at_once: usize,
    pub foreign: usize,
    pub retries: usize,
    pub dead: Vec<DeadLetter>,
    /// Why it cannot go on.
    pub broken: Option<String>,
}

impl Pump {
    /// Reads the stream of a table from its beginning. `url`: of the emulator.
    pub async fn start(
        url: &str,
        table: &str,
        function: Function,
        mapping: Mapping,
        weather: Weather,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let mut reader = Reader::open(url, table).await?;
        let told = Arc::new(Mutex::new(Told::default()));
        let mut work = JoinSet::new();
        let mut lanes = Vec::new();
        for at in 0..mapping.lanes.max(1) {
            let (sender, records) = mpsc::unbounded_channel();
            let lane = Lane {
                function: function.clone(),
                mapping: mapping.clone(),
                weather,
                dice: fastrand::Rng::with_seed(seed.wrapping_mul(31).wrapping_add(at as u64)),
                told: Arc::clone(&told),
            };
            work.spawn(lane.run(records));
            lanes.push(sender);
        }
        let (filter, noted) = (mapping.filter, Arc::clone(&told));
        let mut dice = fastrand::Rng::with_seed(seed);
        work.spawn(async move {
            loop {
                match reader.read().await {
                    Ok(records) => {
                        for record in records {
                            note(&noted, |it| it.read += 1);
                            if filter.passes(&record) {
                                note(&noted, |it| it.passed += 1);
                                route(record, &lanes, weather, &mut dice, &noted);
                            }
                        }
                    }
                    Err(error) => {
                        tracing::error!("the stream cannot be read: {error:#}");
                        note(&noted, |it| it.broken = Some(format!("{error:#}")));
                        return Err(error);
                    }
                }
                tokio::time::sleep(POLL).await;
            }
        });
        Ok(Self { told, _work: work })
    }

    /// What it has done so far.
    pub fn told(&self) -> Told {
        note(&self.told, |it| it.clone())
    }
}

fn note<T>(told: &Mutex<Told>, change: impl FnOnce(&mut Told) -> T) -> T {
    change(&mut told.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Puts a record into the lane of its item's partition, or loses it.
fn route(
    record: Value,
    lanes: &[mpsc::UnboundedSender<Value>],
    weather: Weather,
    dice: &mut fastrand::Rng,
    told: &Mutex<Told>,
) {
    let mut hasher = DefaultHasher::new();
    record["dynamodb"]["Keys"]["pk"]
        .to_string()
        .hash(&mut hasher);
    let lane = &lanes[hasher.finish() as usize % lanes.len()];
    if chance(dice, weather.foreign) {
        note(told, |it| it.foreign += 1);
        let _ = lane.send(foreign(&record, dice));
    }
    if chance(dice, weather.lost) {
        note(told, |it| it.lost += 1);
        return;
    }
    // The lanes end with us.
    let _ = lane.send(record);
}

fn chance(dice: &mut fastrand::Rng, in_a_thousand: u32) -> bool {
    dice.u32(0..1000) < in_a_thousand
}

/// A record that is none of ours: of another version, or not what it should be.
fn foreign(like: &Value, dice: &mut fastrand::Rng) -> Value {
    let mut record = like.clone();
    record["eventID"] = json!(format!("foreign-{:08x}", dice.u32(..)));
    match dice.u8(0..5) {
        0 => record["dynamodb"]["Keys"]["pk"] = json!({ "S": "elsewhere#1" }),
        1 => record["dynamodb"]["Keys"] = json!({ "id": { "N": "7" } }),
        2 => {
            record["eventVersion"] = json!("9.9");
            let change = record.as_object_mut().and_then(|it| it.remove("dynamodb"));
            record["change"] = change.unwrap_or_default();
        }
        3 => record["dynamodb"]["NewImage"] = json!("a text"),
        _ => record["dynamodb"]["Keys"]["pk"] = json!({ "S": "issue#" }),
    }
    record
}

/// One of the mapping's ways to the function: one batch after the other.
struct Lane {
    function: Function,
    mapping: Mapping,
    weather: Weather,
    dice: fastrand::Rng,
    told: Arc<Mutex<Told>>,
}

/// Records to be delivered, and how often that has failed.
struct Batch {
    records: Vec<Value>,
    tries: u32,
}

impl Lane {
    async fn run(mut self, mut records: mpsc::UnboundedReceiver<Value>) -> anyhow::Result<()> {
        while let Some(first) = records.recv().await {
            let mut batch = vec![first];
            while batch.len() < self.mapping.batch_max
                && let Ok(record) = records.try_recv()
            {
                batch.push(record);
            }
            self.deliver(batch).await;
        }
        Ok(())
    }

    /// Delivers a batch, whatever it takes; in order, and nothing after it before.
    async fn deliver(&mut self, records: Vec<Value>) {
        if chance(&mut self.dice, self.weather.late) {
            note(&self.told, |it| it.late += 1);
            let wait = Duration::from_millis(self.dice.u64(0..LATE_MS_MAX));
            tokio::time::sleep(wait).await;
        }
        let again = chance(&mut self.dice, self.weather.twice).then(|| records.clone());
        self.try_until_done(records).await;
        if let Some(records) = again {
            note(&self.told, |it| it.twice += 1);
            self.try_until_done(records).await;
        }
    }

    async fn try_until_done(&mut self, records: Vec<Value>) {
        let mut waiting = VecDeque::from([Batch { records, tries: 0 }]);
        while let Some(Batch { records, tries }) = waiting.pop_front() {
            let error = match self.invoke(&records).await {
                Ok(None) => {
                    note(&self.told, |it| it.delivered += records.len());
                    continue;
                }
                Ok(Some(from)) => {
                    note(&self.told, |it| it.delivered += from);
                    let records = records[from..].to_vec();
                    let error = "the function reports that it failed".to_owned();
                    self.again(&mut waiting, records, tries, error).await;
                    continue;
                }
                // Nobody was asked, so nobody has failed.
                Err(Failed::Throttled) => {
                    tokio::time::sleep(PAUSE).await;
                    waiting.push_front(Batch { records, tries });
                    continue;
                }
                Err(error @ Failed::Function { .. }) => error.to_string(),
            };
            if self.mapping.bisects && records.len() > 1 {
                // This does not count as a try.
                let (first, second) = records.split_at(records.len() / 2);
                for half in [second, first] {
                    let records = half.to_vec();
                    waiting.push_front(Batch { records, tries });
                }
                continue;
            }
            self.again(&mut waiting, records, tries, error).await;
        }
    }

    /// Another try, or none.
    async fn again(
        &self,
        waiting: &mut VecDeque<Batch>,
        records: Vec<Value>,
        tries: u32,
        error: String,
    ) {
        if tries >= self.mapping.retries_max {
            let letter = DeadLetter {
                condition: "RetryAttemptsExhausted",
                invocations: tries + 1,
                error,
                records,
            };
            note(&self.told, |it| it.dead.push(letter));
            return;
        }
        note(&self.told, |it| it.retries += 1);
        tokio::time::sleep((PAUSE * 2_u32.pow(tries)).min(PAUSE_MAX)).await;
        let tries = tries + 1;
        waiting.push_front(Batch { records, tries });
    }

    /// One invocation, or two at once: from which record on it failed, if it did.
    async fn invoke(&mut self, records: &[Value]) -> Result<Option<usize>, Failed> {
        let event = json!({ "Records": records });
        let answer = if chance(&mut self.dice, self.weather.at_once) {
            note(&self.told, |it| it.at_once += 1);
            let twin = (self.function.clone(), event.clone());
            let twin = tokio::spawn(async move { twin.0.invoke(&twin.1).await });
            let answer = self.function.invoke(&event).await;
            // Whose word counts is the one that holds the shard.
            let _ = twin.await;
            answer?
        } else {
            self.function.invoke(&event).await?
        };
        if !self.mapping.reports_failures {
            return Ok(None);
        }
        lowest_failure(&answer, records).map_err(|why| Failed::Function {
            kind: "InvalidBatchItemFailures".into(),
            message: why,
        })
    }
}

/// Where the first record stands that failed. A report that cannot be read is a
/// failure of all of them.
fn lowest_failure(answer: &Value, records: &[Value]) -> Result<Option<usize>, String> {
    let failures = match &answer["batchItemFailures"] {
        Value::Null => return Ok(None),
        Value::Array(failures) => failures,
        other => return Err(format!("batchItemFailures is `{other}`")),
    };
    let mut lowest = None;
    for failure in failures {
        let number = failure["itemIdentifier"].as_str().unwrap_or_default();
        let at = records
            .iter()
            .position(|it| it["dynamodb"]["SequenceNumber"] == number);
        let at = at.ok_or_else(|| format!("no record has the number `{number}`"))?;
        lowest = Some(lowest.map_or(at, |it: usize| it.min(at)));
    }
    Ok(lowest)
}
