//! Registers: one item each, replaced under a condition.

use std::collections::HashMap;

use anyhow::Context;
use async_trait::async_trait;
use aws_sdk_dynamodb::config::http::HttpResponse;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{AttributeValue, ReturnConsumedCapacity};
use uuid::Uuid;

use super::DynamoLog;
use super::call::{Miss, Tries, again, told};
use super::item::{self, Item, Key};
use crate::issue::Time;
use crate::ports::{AppendError, Register, RegisterWrite, Registers};
use crate::store::{check_register, is_good};

const CONDITION_FAILED: &str = "ConditionalCheckFailedException";

#[async_trait]
impl Registers for DynamoLog {
    async fn get(&self, shelf: &str, name: &str, now: Time) -> anyhow::Result<Option<Register>> {
        let what = || format!("read the register `{shelf}/{name}`");
        let found = Self::get(self, &Key::register(shelf, name)).await;
        match found.with_context(what)? {
            Some(item) => register(&item, now).with_context(what),
            None => Ok(None),
        }
    }

    async fn list(&self, shelf: &str, now: Time) -> anyhow::Result<Vec<Register>> {
        let what = || format!("read the registers of `{shelf}`");
        let query = self
            .client
            .query()
            .table_name(&self.table)
            .consistent_read(true)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", item::text(&Key::register(shelf, "").pk));
        let items = self.query_all(query, None).await.with_context(what)?;
        let registers = items.iter().filter_map(|it| register(it, now).transpose());
        registers.collect::<anyhow::Result<_>>().with_context(what)
    }

    async fn put(&self, write: RegisterWrite, seen: u64, now: Time) -> Result<(), AppendError> {
        check_register(&write)?;
        let what = || format!("write the register `{}/{}`", write.shelf, write.name);
        let key = Key::register(&write.shelf, &write.name);
        let (condition, values) = condition(seen, now);
        let Some(value) = &write.value else {
            let delete = self
                .client
                .delete_item()
                .table_name(&self.table)
                .set_key(Some(key.item()))
                .condition_expression(condition)
                .set_expression_attribute_values(Some(values))
                .return_consumed_capacity(ReturnConsumedCapacity::Total);
            // Who removed it cannot be told from what is left: after a lost
            // answer it was somebody else, and who hears so looks again.
            let answer = conditional(|| delete.clone().send())
                .await
                .with_context(what)?;
            let answer = answer.map_err(|_| AppendError::Conflict)?;
            self.meter.write_units(answer.consumed_capacity());
            return Ok(());
        };
        let sign = Uuid::new_v4().simple().to_string();
        let mut item = key.item();
        let mut set = |name: &str, value| item.insert(name.into(), value);
        set("version", item::number(seen + 1));
        set("value", item::text(&value.to_string()));
        set("append", item::text(&sign));
        if let Some(at) = write.expires_at {
            set("expires_at", item::number(at.as_second()));
        }
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression(condition)
            .set_expression_attribute_values(Some(values))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        match conditional(|| put.clone().send())
            .await
            .with_context(what)?
        {
            Ok(answer) => self.meter.write_units(answer.consumed_capacity()),
            Err(Refusal { is_doubtful: false }) => return Err(AppendError::Conflict),
            Err(Refusal { is_doubtful: true }) => {
                if !self.is_signed(&key, &sign).await? {
                    return Err(AppendError::Conflict);
                }
            }
        }
        Ok(())
    }
}

/// The register is at version `seen`.
fn condition(seen: u64, now: Time) -> (&'static str, HashMap<String, AttributeValue>) {
    let mut values = HashMap::from([(":now".into(), item::number(now.as_second()))]);
    if seen == 0 {
        return ("attribute_not_exists(pk) OR expires_at <= :now", values);
    }
    values.insert(":seen".into(), item::number(seen));
    (
        "version = :seen AND (attribute_not_exists(expires_at) OR expires_at > :now)",
        values,
    )
}

/// The condition of a write was not met.
struct Refusal {
    /// An earlier try was not answered, and may be what is in the way.
    is_doubtful: bool,
}

async fn conditional<T, E, F>(send: impl Fn() -> F) -> anyhow::Result<Result<T, Refusal>>
where
    F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let mut tries = Tries::begin();
    let mut is_doubtful = false;
    loop {
        let error = match send().await {
            Ok(answer) => return Ok(Ok(answer)),
            Err(error) => error,
        };
        if error.code() == Some(CONDITION_FAILED) {
            return Ok(Err(Refusal { is_doubtful }));
        }
        match Miss::of(&error) {
            Miss::Busy => {}
            Miss::Unanswered => is_doubtful = true,
            Miss::Refused => return Err(told(&error)),
        }
        again(&mut tries, &error).await?;
    }
}

/// What an item holds, if it is still good.
fn register(item: &Item, now: Time) -> anyhow::Result<Option<Register>> {
    let expires_at = match item.get("expires_at") {
        Some(_) => Some(item::number_of(item, "expires_at")?),
        None => None,
    };
    if !is_good(expires_at, now) {
        return Ok(None);
    }
    Ok(Some(Register {
        name: item::text_of(item, "sk")?.to_owned(),
        version: item::number_of(item, "version")?,
        value: serde_json::from_str(item::text_of(item, "value")?)?,
    }))
}
