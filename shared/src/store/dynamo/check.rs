//! Is the table what we need? For `cyrus doctor`.

use anyhow::Context;
use aws_sdk_dynamodb::operation::describe_table::DescribeTableError;
use aws_sdk_dynamodb::types::{
    GlobalSecondaryIndexDescription, IndexStatus, KeySchemaElement, KeyType, ScalarAttributeType,
    StreamViewType, TableDescription, TableStatus, TimeToLiveStatus,
};

use super::DynamoLog;
use super::call::{Miss, Tries, again, sent, told};

/// Each index, and its keys.
const INDEXES: [(&str, [&str; 2]); 3] = [
    ("attention", ["lane", "attention_at"]),
    ("started", ["list", "started_at"]),
    ("identifier", ["identifier", "started_at"]),
];
const TTL: &str = "expires_at";
/// What helps against most of it.
const DEPLOY: &str = "deploy `template.yaml` again";

impl DynamoLog {
    /// What is wrong with the table, each with its remedy. Nothing, if all is well.
    pub async fn check(&self) -> anyhow::Result<Vec<String>> {
        let what = || format!("look at the table `{}`", self.table);
        let Some(table) = self.describe().await.with_context(what)? else {
            return Ok(vec![format!(
                "there is no table `{}`: deploy `template.yaml`, or correct CYRUS_STORE",
                self.table
            )]);
        };
        let mut wrong = self.wrong_with(&table);
        let ttl = self.client.describe_time_to_live().table_name(&self.table);
        let ttl = sent(|| ttl.clone().send()).await.with_context(what)?;
        let ttl = ttl.time_to_live_description;
        let is_on = ttl.as_ref().is_some_and(|it| {
            let status = it.time_to_live_status();
            let on = [TimeToLiveStatus::Enabled, TimeToLiveStatus::Enabling];
            status.is_some_and(|it| on.contains(it)) && it.attribute_name() == Some(TTL)
        });
        if !is_on {
            wrong.push(format!(
                "the table `{}` never deletes what is over: switch its time to live on, for the attribute `{TTL}`",
                self.table
            ));
        }
        Ok(wrong)
    }

    /// `None`: there is no such table.
    async fn describe(&self) -> anyhow::Result<Option<TableDescription>> {
        let describe = self.client.describe_table().table_name(&self.table);
        let mut tries = Tries::begin();
        loop {
            let error = match describe.clone().send().await {
                Ok(answer) => return Ok(Some(answer.table.context("an answer without a table")?)),
                Err(error) => error,
            };
            let service = error.as_service_error();
            if service.is_some_and(DescribeTableError::is_resource_not_found_exception) {
                return Ok(None);
            }
            match Miss::of(&error) {
                Miss::Busy | Miss::Unanswered => again(&mut tries, &error).await?,
                Miss::Refused => return Err(told(&error)),
            }
        }
    }

    fn wrong_with(&self, table: &TableDescription) -> Vec<String> {
        let name = &self.table;
        let mut wrong = Vec::new();
        match table.table_status() {
            Some(TableStatus::Active | TableStatus::Updating) | None => {}
            Some(status) => wrong.push(format!(
                "the table `{name}` is in the state {status}: wait until it is ACTIVE"
            )),
        }
        if !are_keys(table, table.key_schema(), ["pk", "sk"]) {
            wrong.push(format!(
                "the keys of the table `{name}` are not the texts `pk` and `sk`: it is not ours, correct CYRUS_STORE"
            ));
        }
        for (index, keys) in INDEXES {
            let mut found = table.global_secondary_indexes().iter();
            let found = found.rfind(|it| it.index_name() == Some(index));
            wrong.extend(
                wrong_with_index(table, index, keys, found)
                    .map(|it| format!("the index `{index}` of the table `{name}` {it}")),
            );
        }
        let stream = table.stream_specification().filter(|it| it.stream_enabled);
        match stream.map(|it| it.stream_view_type()) {
            None => wrong.push(format!(
                "the table `{name}` has no stream, so nothing wakes the orchestrator: {DEPLOY}"
            )),
            Some(Some(StreamViewType::NewImage | StreamViewType::NewAndOldImages)) => {}
            Some(view) => wrong.push(format!(
                "the stream of the table `{name}` shows {}, not NEW_IMAGE: {DEPLOY}",
                view.map_or("nothing", StreamViewType::as_str)
            )),
        }
        wrong
    }
}

fn wrong_with_index(
    table: &TableDescription,
    index: &str,
    keys: [&str; 2],
    found: Option<&GlobalSecondaryIndexDescription>,
) -> Option<String> {
    let Some(found) = found else {
        return Some(format!("is missing: {DEPLOY}"));
    };
    if !are_keys(table, found.key_schema(), keys) {
        let [hash, range] = keys;
        return Some(format!(
            "has other keys than the texts `{hash}` and `{range}`: {DEPLOY}"
        ));
    }
    match found.index_status() {
        Some(IndexStatus::Creating) => Some(format!(
            "is still being filled: wait until `{index}` is ACTIVE"
        )),
        _ => None,
    }
}

/// Are these keys texts of these names, to hash and to range over?
fn are_keys(table: &TableDescription, schema: &[KeySchemaElement], names: [&str; 2]) -> bool {
    let is_key = |name: &str, kind: KeyType| {
        let mut keys = schema.iter();
        keys.any(|it| it.attribute_name() == name && *it.key_type() == kind)
    };
    let is_text = |name: &str| {
        let mut attributes = table.attribute_definitions().iter();
        attributes
            .any(|it| it.attribute_name() == name && *it.attribute_type() == ScalarAttributeType::S)
    };
    let [hash, range] = names;
    schema.len() == names.len()
        && is_key(hash, KeyType::Hash)
        && is_key(range, KeyType::Range)
        && names.into_iter().all(is_text)
}
