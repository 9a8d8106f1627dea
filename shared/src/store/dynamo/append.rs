//! What changes a log or a head: one transaction or one conditional write each.
//!
//! When a try is not answered and the next one says that somebody has written,
//! that somebody may be the first try. So every append signs what it writes.

use anyhow::{Context, ensure};
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    ConditionCheck, Put, ReturnConsumedCapacity, TransactWriteItem, Update,
};
use uuid::Uuid;

use super::DynamoLog;
use super::call::{Miss, Tries, again, told};
use super::item::{self, Item, Key};
use super::wake;
use crate::issue::{IssueId, leaves_work};
use crate::ports::{Append, AppendError, Entry, Head};

/// The events of an append lie in items of at most so much of their text. An
/// item holds 400 KB, its keys and names included.
pub const CHUNK_BYTES: usize = 350 * 1024;
/// The text of all events of an append, at most: a transaction holds 4 MB, and
/// head and accounts are in it too.
pub const APPEND_BYTES_MAX: usize = 10 * CHUNK_BYTES;
/// Entries of an append, at most: a transaction holds 100 items, and head and
/// events are in it too.
pub const ENTRIES_MAX: usize = 80;

/// Who signs a head that was rebuilt.
const REBUILT: &str = "rebuilt";
/// Why a transaction was canceled, item by item.
const FINE: &str = "None";
const CONDITION_FAILED: &str = "ConditionalCheckFailed";
const BUSY_REASONS: [&str; 3] = [
    "TransactionConflict",
    "ThrottlingError",
    "ProvisionedThroughputExceeded",
];

/// What a transaction without success means.
enum Canceled {
    /// An item of the issue is not as it should be.
    Conflict,
    /// This entry would go over its limit.
    OverLimit(usize),
    Busy,
    Unanswered,
    Refused,
}

impl DynamoLog {
    pub(super) async fn write_append(&self, append: Append) -> Result<(), AppendError> {
        let sign = Uuid::new_v4();
        let signed = sign.simple().to_string();
        let batch = Key::batch(&append.issue, append.after + 1);
        let mut items = vec![self.head_put(&append, &signed)?];
        items.extend(self.batch_puts(&append, &signed)?);
        let of_issue = items.len();
        let entries = append.entries.iter();
        let entries = entries.filter(|it| !it.add.is_empty() || it.limit.is_some());
        let entries: Vec<&Entry> = entries.collect();
        for entry in &entries {
            items.push(self.entry_write(entry)?);
        }
        let write = self
            .client
            .transact_write_items()
            .set_transact_items(Some(items))
            .client_request_token(sign.to_string())
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let what = || format!("append to `{}`", append.issue);

        let mut tries = Tries::begin();
        let mut is_doubtful = false;
        loop {
            let error = match write.clone().send().await {
                Ok(answer) => {
                    self.meter.transaction(answer.consumed_capacity());
                    return Ok(());
                }
                Err(error) => error,
            };
            let refusal = match Canceled::of(&error, of_issue) {
                Canceled::Busy => None,
                Canceled::Unanswered => {
                    is_doubtful = true;
                    None
                }
                Canceled::Conflict => Some(AppendError::Conflict),
                Canceled::OverLimit(at) => Some(AppendError::OverLimit {
                    account: entries[at].account.clone(),
                }),
                Canceled::Refused => Some(told(&error).context(what()).into()),
            };
            match refusal {
                None => again(&mut tries, &error).await.with_context(what)?,
                Some(_) if is_doubtful && self.is_signed(&batch, &signed).await? => return Ok(()),
                Some(refusal) => return Err(refusal),
            }
        }
    }

    /// Is this item there, and by us?
    pub(super) async fn is_signed(&self, key: &Key, sign: &str) -> anyhow::Result<bool> {
        let found = self.get(key).await.context("see who has written")?;
        Ok(found.is_some_and(|it| item::text_of(&it, "append").is_ok_and(|it| it == sign)))
    }

    fn head_put(&self, append: &Append, sign: &str) -> anyhow::Result<TransactWriteItem> {
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(item::head_item(&append.head, sign)?));
        let put = match append.after {
            0 => put.condition_expression("attribute_not_exists(pk)"),
            after => put
                .condition_expression("seq = :loaded")
                .expression_attribute_values(":loaded", item::number(after)),
        };
        Ok(TransactWriteItem::builder().put(put.build()?).build())
    }

    /// The events: one item, or as many as their text needs.
    fn batch_puts(&self, append: &Append, sign: &str) -> anyhow::Result<Vec<TransactWriteItem>> {
        let json = serde_json::to_string(&append.events)?;
        let entries = append.entries.len();
        ensure!(
            json.len() <= APPEND_BYTES_MAX,
            "append to `{}`: its events have {} bytes, at most {APPEND_BYTES_MAX} can be written at once",
            append.issue,
            json.len()
        );
        ensure!(
            entries <= ENTRIES_MAX,
            "append to `{}`: it has {entries} entries, at most {ENTRIES_MAX} can be written at once",
            append.issue,
        );
        let first = append.after + 1;
        let chunks = item::cut(&json, CHUNK_BYTES);
        let parts = chunks.len();
        let put = |(at, chunk): (usize, &str)| {
            let mut item = match at {
                0 => batch_item(append, sign, parts),
                _ => Key::part(&append.issue, first, at).item(),
            };
            item.insert("n".into(), item::number(append.events.len()));
            item.insert("events".into(), item::text(chunk));
            let put = Put::builder()
                .table_name(&self.table)
                .set_item(Some(item))
                .condition_expression("attribute_not_exists(pk)")
                .build()?;
            Ok(TransactWriteItem::builder().put(put).build())
        };
        chunks.into_iter().enumerate().map(put).collect()
    }

    fn entry_write(&self, entry: &Entry) -> anyhow::Result<TransactWriteItem> {
        let key = Key::account(&entry.account).item();
        let mut names = Vec::new();
        let mut values = Vec::new();
        let mut sums = Vec::new();
        for (at, (figure, add)) in entry.add.iter().enumerate() {
            names.push((format!("#f{at}"), figure.clone()));
            values.push((format!(":f{at}"), item::number(add)));
            sums.push(format!("#f{at} :f{at}"));
        }
        let condition = entry.limit.as_ref().map(|limit| {
            let add = entry.add.get(&limit.figure).copied().unwrap_or(0);
            let room = i128::from(limit.max) - i128::from(add);
            names.push(("#limited".into(), limit.figure.clone()));
            values.push((":room".into(), item::number(room)));
            // A figure that was never entered is 0.
            if room >= 0 {
                "attribute_not_exists(#limited) OR #limited <= :room"
            } else {
                "#limited <= :room"
            }
        });
        let names = Some(names.into_iter().collect());
        let values = Some(values.into_iter().collect());
        let item = TransactWriteItem::builder();
        Ok(match condition {
            Some(condition) if sums.is_empty() => item.condition_check(
                ConditionCheck::builder()
                    .table_name(&self.table)
                    .set_key(Some(key))
                    .condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .build()?,
            ),
            condition => item.update(
                Update::builder()
                    .table_name(&self.table)
                    .set_key(Some(key))
                    .update_expression(format!("ADD {}", sums.join(", ")))
                    .set_condition_expression(condition.map(str::to_owned))
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .build()?,
            ),
        }
        .build())
    }

    pub(super) async fn write_park(&self, issue: &IssueId, why: &str) -> anyhow::Result<()> {
        let update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(Key::head(issue).item()))
            .update_expression("SET parked = :why REMOVE lane, attention_at")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":why", item::text(why))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let mut tries = Tries::begin();
        loop {
            let error = match update.clone().send().await {
                Ok(answer) => {
                    self.meter.write_units(answer.consumed_capacity());
                    return Ok(());
                }
                Err(error) => error,
            };
            let service = error.as_service_error();
            if service.is_some_and(UpdateItemError::is_conditional_check_failed_exception) {
                // There is no such issue.
                return Ok(());
            }
            match Miss::of(&error) {
                Miss::Busy | Miss::Unanswered => again(&mut tries, &error).await?,
                Miss::Refused => return Err(told(&error)),
            }
        }
    }

    pub(super) async fn write_rebuild(&self, head: Head) -> Result<(), AppendError> {
        let what = || format!("rebuild the head of `{}`", head.issue);
        let next = Key::batch(&head.issue, head.seq + 1);
        let last = self.last_batch_before(&next).await.with_context(what)?;
        if last.map(|(first, n)| first + n) != Some(head.seq + 1) {
            return Err(AppendError::Conflict);
        }
        // What is written is never changed, so only the next batch can be in the way.
        let put = Put::builder()
            .table_name(&self.table)
            .set_item(Some(item::head_item(&head, REBUILT)?))
            .build()
            .map_err(anyhow::Error::from)?;
        let is_last = ConditionCheck::builder()
            .table_name(&self.table)
            .set_key(Some(next.item()))
            .condition_expression("attribute_not_exists(pk)")
            .build()
            .map_err(anyhow::Error::from)?;
        let write = self
            .client
            .transact_write_items()
            .transact_items(TransactWriteItem::builder().put(put).build())
            .transact_items(
                TransactWriteItem::builder()
                    .condition_check(is_last)
                    .build(),
            )
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        // Putting the same head twice does no harm: nothing came after it.
        let mut tries = Tries::begin();
        loop {
            let error = match write.clone().send().await {
                Ok(answer) => {
                    self.meter.transaction(answer.consumed_capacity());
                    return Ok(());
                }
                Err(error) => error,
            };
            match Canceled::of(&error, 2) {
                Canceled::Busy | Canceled::Unanswered => {
                    again(&mut tries, &error).await.with_context(what)?;
                }
                Canceled::Conflict => return Err(AppendError::Conflict),
                Canceled::OverLimit(_) | Canceled::Refused => {
                    return Err(told(&error).context(what()).into());
                }
            }
        }
    }
}

impl Canceled {
    /// What this error means for a transaction whose first items are an issue's.
    fn of(error: &SdkError<TransactWriteItemsError, HttpResponse>, of_issue: usize) -> Self {
        let Some(TransactWriteItemsError::TransactionCanceledException(canceled)) =
            error.as_service_error()
        else {
            return match Miss::of(error) {
                Miss::Busy => Self::Busy,
                Miss::Unanswered => Self::Unanswered,
                Miss::Refused => Self::Refused,
            };
        };
        let reasons = canceled.cancellation_reasons().iter().map(|it| it.code());
        let reasons: Vec<&str> = reasons.map(|it| it.unwrap_or(FINE)).collect();
        let (issue, entries) = reasons.split_at(of_issue.min(reasons.len()));
        if issue.contains(&CONDITION_FAILED) {
            return Self::Conflict;
        }
        // What only had no turn may still conflict.
        if reasons.iter().any(|it| BUSY_REASONS.contains(it)) {
            return Self::Busy;
        }
        let over = entries.iter().position(|it| *it == CONDITION_FAILED);
        over.map_or(Self::Refused, Self::OverLimit)
    }
}

fn batch_item(append: &Append, sign: &str, parts: usize) -> Item {
    let first = append.after + 1;
    let mut item = Key::batch(&append.issue, first).item();
    let mut put = |name: &str, value| item.insert(name.into(), value);
    put("at", item::text(&item::sortable(append.at)));
    put("append", item::text(sign));
    put("parts", item::number(parts));
    if leaves_work(&append.events) {
        wake::mark(&mut item);
    }
    item
}
