//! What is asked across issues, of the indexes.

use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;

use super::item::{self, Item, Key};
use super::{DynamoLog, issue_of};
use crate::issue::{IssueId, Time, words};
use crate::ports::{Attention, Head, Place};

const ATTENTION: &str = "attention";
const STARTED: &str = "started";
const IDENTIFIER: &str = "identifier";

impl DynamoLog {
    pub(super) async fn indexed_attention(
        &self,
        now: Time,
        limit: usize,
    ) -> anyhow::Result<Vec<Attention>> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let watched = self
            .index(ATTENTION)
            .key_condition_expression("lane = :lane")
            .expression_attribute_values(":lane", item::text(item::WATCHED));
        let waiting = self
            .index(ATTENTION)
            .key_condition_expression("lane = :lane AND attention_at <= :now")
            .expression_attribute_values(":lane", item::text(item::WAITING))
            .expression_attribute_values(":now", item::text(&item::sortable(now)));
        // The first ones of each lane are the first ones of both.
        let (watched, waiting) = tokio::try_join!(
            self.query_all(watched, Some(limit)),
            self.query_all(waiting, Some(limit)),
        )?;
        let shown = |item: &Item| {
            Ok(Attention {
                issue: issue_of(item)?,
                at: item::attention_at(item)?,
                watching: item::text_of(item, "lane")? == item::WATCHED,
            })
        };
        let items = watched.iter().chain(&waiting);
        let mut found: Vec<Attention> = items.map(shown).collect::<anyhow::Result<_>>()?;
        let overdue = |it: &Attention| it.at.is_some_and(|at| at <= now);
        found.sort_by_cached_key(|it| (!overdue(it), it.at.is_none(), it.at, it.issue.clone()));
        found.truncate(limit);
        Ok(found)
    }

    pub(super) async fn indexed_find(&self, name: &str) -> anyhow::Result<Option<IssueId>> {
        if name.is_empty() {
            return Ok(None);
        }
        let id = IssueId::from(name);
        if self.get(&Key::head(&id)).await?.is_some() {
            return Ok(Some(id));
        }
        let query = self
            .index(IDENTIFIER)
            .key_condition_expression("identifier = :identifier")
            .expression_attribute_values(":identifier", item::text(&name.to_ascii_lowercase()))
            .scan_index_forward(false);
        let found = self.query_all(query, Some(1)).await?;
        found.first().map(issue_of).transpose()
    }

    pub(super) async fn indexed_heads(
        &self,
        after: Option<&Place>,
        limit: usize,
    ) -> anyhow::Result<Vec<Head>> {
        let mut heads = Vec::new();
        let mut after = after.map(item::sortable_place);
        while heads.len() < limit {
            let query = self
                .index(STARTED)
                .scan_index_forward(false)
                // A word of the expression's own.
                .expression_attribute_names("#list", "list")
                .expression_attribute_values(":list", item::text(item::LIST));
            let query = match &after {
                Some(after) => query
                    .key_condition_expression("#list = :list AND started_at < :after")
                    .expression_attribute_values(":after", item::text(after)),
                None => query.key_condition_expression("#list = :list"),
            };
            let wanted = limit - heads.len();
            let listed = self.query_all(query, Some(wanted)).await?;
            let ids = listed.iter().map(issue_of);
            let keys = ids.map(|id| Ok(Key::head(&id?)));
            let keys: Vec<Key> = keys.collect::<anyhow::Result<_>>()?;
            let found = self.get_all(&keys).await?;
            for item in keys.iter().filter_map(|key| found.get(&key.pk)) {
                // One that cannot be read hides no other, nor its own issue.
                let head = item::head(item).or_else(|error| {
                    tracing::error!("a head in the store cannot be read: {error:#}");
                    let issue = issue_of(item)?;
                    let why = words::parked(&issue, "its head cannot be read");
                    item::stand_in(item, why)
                });
                match head {
                    Ok(head) => heads.push(head),
                    Err(error) => tracing::error!("nor can it be listed: {error:#}"),
                }
            }
            // Those that are gone or broken make room for others.
            match listed.last() {
                Some(last) if listed.len() == wanted => {
                    after = Some(item::text_of(last, "started_at")?.to_owned());
                }
                Some(_) | None => break,
            }
        }
        Ok(heads)
    }

    fn index(&self, name: &str) -> QueryFluentBuilder {
        self.client.query().table_name(&self.table).index_name(name)
    }
}
