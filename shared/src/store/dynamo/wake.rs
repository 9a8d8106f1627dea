//! How the table wakes those who work: by what its stream tells of new items.
//! The stream's filter passes items with the attribute `wake` and no others.

use aws_sdk_dynamodb::types::ReturnConsumedCapacity;
use jiff::SignedDuration;
use serde_json::Value;

use super::DynamoLog;
use super::call::sent;
use super::item::{self, ISSUE, Item, Key};
use crate::issue::{IssueId, Time};

/// What a batch carries that leaves work for others.
const ACT: &str = "act";
/// What a hint carries.
const LOOK: &str = "look";
/// What the keys of hints begin with.
const HINT: &str = "hint#";
/// A hint has long been told by then.
const HINT_KEPT: SignedDuration = SignedDuration::from_hours(1);

/// What a record of the stream asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something is due for the issue.
    Act(IssueId),
    /// Something may have happened outside to what runs for the issue.
    Look(IssueId),
}

impl Wake {
    /// What a record of the stream asks for; `None`: it is none of ours.
    pub fn read(record: &Value) -> Option<Self> {
        let pk = record["dynamodb"]["Keys"]["pk"]["S"].as_str()?;
        let named = |prefix| {
            let name: &str = pk.strip_prefix(prefix)?;
            (!name.is_empty()).then(|| name.into())
        };
        named(ISSUE)
            .map(Self::Act)
            .or_else(|| named(HINT).map(Self::Look))
    }
}

impl DynamoLog {
    /// Has the issue looked at soon, by whoever the stream wakes. Two hints at
    /// the same moment are one.
    pub async fn hint(&self, issue: &IssueId, at: Time) -> anyhow::Result<()> {
        let key = Key {
            pk: format!("{HINT}{issue}"),
            sk: item::sortable(at),
        };
        let mut hint = key.item();
        hint.insert("wake".into(), item::text(LOOK));
        let until = (at + HINT_KEPT).as_second();
        hint.insert("expires_at".into(), item::number(until));
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(hint))
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let answer = sent(|| put.clone().send()).await?;
        self.meter.write_units(answer.consumed_capacity());
        Ok(())
    }
}

/// Marks a batch that leaves work for others.
pub(super) fn mark(batch: &mut Item) {
    batch.insert("wake".into(), item::text(ACT));
}
