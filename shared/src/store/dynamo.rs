//! A log in one DynamoDB table: for functions and services in any number.
//!
//! An issue is a partition: its head under `head`, its events in batches under
//! `log#<first seq>`, each written by one append and never changed. An append
//! is one transaction, so it costs by the items that it touches, whatever the
//! length of the log. What is asked across issues is asked of indexes that hold
//! keys only; what they name is read from the table where more is needed. An
//! index may lag behind: a head that moved on in the meantime is as good as
//! any, for who acts on it loads the issue first.
//!
//! The table itself is made by whoever deploys it, never here.

mod append;
mod call;
mod check;
mod index;
mod item;
mod registers;
mod wake;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use anyhow::Context;
use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes, ReturnConsumedCapacity};

pub use self::append::{APPEND_BYTES_MAX, CHUNK_BYTES, ENTRIES_MAX};
pub use self::call::{CALL_SECONDS_MAX, Consumed};
use self::call::{Meter, Tries, sent};
use self::item::{ISSUE, Item, Key};
pub use self::wake::Wake;
use crate::issue::{IssueId, Record, Seq, Time};
use crate::ports::{Append, AppendError, Attention, Figures, Head, Log, Place, Torn};

/// Items that one `BatchGetItem` may ask for.
const BATCH_KEYS_MAX: usize = 100;
/// How often a log is read that looks torn: an append of several items becomes
/// visible one by one, within moments.
const TORN_READS_MAX: u32 = 5;

/// Every issue's log, in a table.
pub struct DynamoLog {
    client: Client,
    table: String,
    meter: Meter,
}

impl DynamoLog {
    /// The client says where and as whom; how long and how often a call is
    /// tried is set here.
    pub fn new(client: &Client, table: impl Into<String>) -> Self {
        Self {
            client: call::patient(client),
            table: table.into(),
            meter: Meter::default(),
        }
    }

    /// What all calls so far consumed.
    pub fn consumed(&self) -> Consumed {
        self.meter.read()
    }

    /// The records after `after`, if what can be seen at this moment is whole.
    async fn read_once(
        &self,
        issue: &IssueId,
        after: Seq,
    ) -> anyhow::Result<Result<Vec<Record>, Torn>> {
        let from = Key::batch(issue, after + 1);
        let mut items = self.batches(&from, None).await?;
        let begins = items.first().and_then(item::first_seq);
        if after > 0 && begins != Some(after + 1) {
            // Nothing comes after, or it began before: in the middle of a batch.
            match self.last_batch_before(&from).await? {
                Some((first, n)) if first + n > after + 1 => {
                    let first = Key::batch(issue, first);
                    let mut before = self.batches(&first, Some(&from)).await?;
                    before.append(&mut items);
                    items = before;
                }
                Some(_) | None => {}
            }
        }
        Ok(match item::records(items)? {
            Ok(mut records) => {
                records.retain(|it| it.seq > after);
                match records.first() {
                    Some(first) if first.seq != after + 1 => Err(Torn { missing: after + 1 }),
                    Some(_) | None => Ok(records),
                }
            }
            Err(torn) => Err(torn),
        })
    }

    /// The items of batches from this key on, up to but without another.
    async fn batches(&self, from: &Key, to: Option<&Key>) -> anyhow::Result<Vec<Item>> {
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
            .expression_attribute_values(":pk", item::text(&from.pk))
            .expression_attribute_values(":from", item::text(&from.sk))
            .expression_attribute_values(":to", item::text(to.map_or(item::LOG_END, |it| &it.sk)));
        let mut items = self.query_all(query, None).await?;
        items.retain(|it| {
            to.is_none_or(|to| item::text_of(it, "sk").is_ok_and(|sk| sk < to.sk.as_str()))
        });
        Ok(items)
    }

    /// First seq and number of events of the last batch before this key.
    async fn last_batch_before(&self, before: &Key) -> anyhow::Result<Option<(Seq, u64)>> {
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
            .expression_attribute_values(":pk", item::text(&before.pk))
            .expression_attribute_values(":from", item::text(item::LOG_BEGIN))
            .expression_attribute_values(":to", item::text(&before.sk))
            .scan_index_forward(false);
        let items = self.query_all(query, Some(1)).await?;
        items.first().map(item::extent).transpose()
    }

    /// Asks page after page, to the end or until there are `limit` items.
    async fn query_all(
        &self,
        query: aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder,
        limit: Option<usize>,
    ) -> anyhow::Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut start = None;
        loop {
            let wanted = limit.map(|it| it - items.len());
            let query = query
                .clone()
                .return_consumed_capacity(ReturnConsumedCapacity::Total)
                .set_limit(wanted.map(|it| it.try_into().unwrap_or(i32::MAX)))
                .set_exclusive_start_key(start);
            let page = sent(|| query.clone().send()).await?;
            self.meter.read_units(page.consumed_capacity());
            items.extend(page.items.unwrap_or_default());
            start = page.last_evaluated_key.filter(|it| !it.is_empty());
            if start.is_none() || limit.is_some_and(|it| items.len() >= it) {
                return Ok(items);
            }
        }
    }

    async fn get(&self, key: &Key) -> anyhow::Result<Option<Item>> {
        let get = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key.item()))
            .consistent_read(true)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let answer = sent(|| get.clone().send()).await?;
        self.meter.read_units(answer.consumed_capacity());
        Ok(answer.item)
    }

    /// The items of these keys that exist, by partition. No two keys may be in one.
    async fn get_all(&self, keys: &[Key]) -> anyhow::Result<HashMap<String, Item>> {
        let mut found = HashMap::new();
        for keys in keys.chunks(BATCH_KEYS_MAX) {
            let mut tries = Tries::begin();
            let mut ask = KeysAndAttributes::builder()
                .consistent_read(true)
                .set_keys(Some(keys.iter().map(Key::item).collect()))
                .build()?;
            loop {
                let get = self
                    .client
                    .batch_get_item()
                    .request_items(&self.table, ask)
                    .return_consumed_capacity(ReturnConsumedCapacity::Total);
                let answer = sent(|| get.clone().send()).await?;
                for consumed in answer.consumed_capacity() {
                    self.meter.read_units(Some(consumed));
                }
                let items = answer.responses.and_then(|mut it| it.remove(&self.table));
                for item in items.unwrap_or_default() {
                    found.insert(item::text_of(&item, "pk")?.to_owned(), item);
                }
                let left = answer.unprocessed_keys;
                match left.and_then(|mut it| it.remove(&self.table)) {
                    Some(left) if !left.keys.is_empty() => ask = left,
                    Some(_) | None => break,
                }
                tries
                    .another()
                    .await
                    .context("the table hands out only a part of what is asked for")?;
            }
        }
        Ok(found)
    }
}

#[async_trait]
impl Log for DynamoLog {
    async fn read(&self, issue: &IssueId, after: Seq) -> anyhow::Result<Vec<Record>> {
        let what = || format!("read the log of `{issue}`");
        let mut tries = Tries::begin();
        for _ in 1..TORN_READS_MAX {
            if let Ok(records) = self.read_once(issue, after).await.with_context(what)? {
                return Ok(records);
            }
            tries.another().await.with_context(what)?;
        }
        let last = self.read_once(issue, after).await.with_context(what)?;
        Ok(last.with_context(what)?)
    }

    async fn append(&self, append: Append) -> Result<(), AppendError> {
        super::check_append(&append)?;
        self.write_append(append).await
    }

    async fn attention(&self, now: Time, limit: usize) -> anyhow::Result<Vec<Attention>> {
        let answer = self.indexed_attention(now, limit).await;
        answer.context("read the index of what needs attention")
    }

    async fn find(&self, name: &str) -> anyhow::Result<Option<IssueId>> {
        let answer = self.indexed_find(name).await;
        answer.with_context(|| format!("find the issue `{name}`"))
    }

    async fn heads(&self, after: Option<&Place>, limit: usize) -> anyhow::Result<Vec<Head>> {
        let answer = self.indexed_heads(after, limit).await;
        answer.context("read the list of issues")
    }

    async fn accounts(&self, names: &[String]) -> anyhow::Result<Vec<Figures>> {
        let keys: BTreeSet<Key> = names.iter().map(|it| Key::account(it)).collect();
        let keys: Vec<Key> = keys.into_iter().collect();
        let found = self.get_all(&keys).await.context("read accounts")?;
        let figures = |name: &String| match found.get(&Key::account(name).pk) {
            Some(item) => item::figures(item).with_context(|| format!("the account `{name}`")),
            None => Ok(BTreeMap::new()),
        };
        names.iter().map(figures).collect()
    }

    async fn park(&self, issue: &IssueId, why: &str) -> anyhow::Result<()> {
        let parked = self.write_park(issue, why).await;
        parked.with_context(|| format!("park `{issue}`"))
    }

    async fn rebuild(&self, head: Head) -> Result<(), AppendError> {
        self.write_rebuild(head).await
    }
}

impl fmt::Debug for DynamoLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DynamoLog")
            .field("table", &self.table)
            .finish_non_exhaustive()
    }
}

/// The issue that an item belongs to.
fn issue_of(item: &HashMap<String, AttributeValue>) -> anyhow::Result<IssueId> {
    let pk = item::text_of(item, "pk")?;
    let id = pk.strip_prefix(ISSUE);
    Ok(id.with_context(|| format!("`{pk}` is no issue"))?.into())
}
