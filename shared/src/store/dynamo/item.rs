//! What lies in the table: keys, and what the items say. Pure.

use std::collections::HashMap;

use anyhow::{Context, bail};
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::Value;

use crate::issue::{Event, IssueId, Record, Seq, Time};
use crate::ports::{Figures, Head, Place, Torn};

pub(super) type Item = HashMap<String, AttributeValue>;

/// What the keys of issues begin with.
pub(super) const ISSUE: &str = "issue#";
const LOG: &str = "log#";
/// Before and after all batches of an issue, as sort keys go.
pub(super) const LOG_BEGIN: &str = "log#";
pub(super) const LOG_END: &str = "log#~";
const HEAD: &str = "head";
const ACCOUNT: &str = "account";
/// The lanes of what needs attention: asked about all the time, or at a time.
pub(super) const WATCHED: &str = "watched";
pub(super) const WAITING: &str = "waiting";
/// An `attention_at` that sorts after all times.
const NEVER: &str = "never";
/// The one list of heads.
pub(super) const LIST: &str = "issues";
/// What [`head_json`] leaves out, because attributes say it.
const ATTRIBUTES: [&str; 5] = ["issue", "seq", "started_at", "attention_at", "watching"];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) pk: String,
    pub(super) sk: String,
}

impl Key {
    pub(super) fn head(issue: &IssueId) -> Self {
        Self {
            pk: format!("{ISSUE}{issue}"),
            sk: HEAD.into(),
        }
    }

    pub(super) fn batch(issue: &IssueId, first: Seq) -> Self {
        Self {
            pk: format!("{ISSUE}{issue}"),
            sk: format!("{LOG}{first:020}"),
        }
    }

    /// What didn't fit into the batch's own item, from part 1 on.
    pub(super) fn part(issue: &IssueId, first: Seq, part: usize) -> Self {
        Self {
            pk: format!("{ISSUE}{issue}"),
            sk: format!("{LOG}{first:020}#{part:03}"),
        }
    }

    pub(super) fn account(name: &str) -> Self {
        Self {
            pk: format!("account#{name}"),
            sk: ACCOUNT.into(),
        }
    }

    pub(super) fn register(shelf: &str, name: &str) -> Self {
        Self {
            pk: format!("shelf#{shelf}"),
            sk: name.into(),
        }
    }

    pub(super) fn item(&self) -> Item {
        Item::from([("pk".into(), text(&self.pk)), ("sk".into(), text(&self.sk))])
    }
}

pub(super) fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn number(number: impl ToString) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn text_of<'i>(item: &'i Item, name: &str) -> anyhow::Result<&'i str> {
    let text = item.get(name).and_then(|it| it.as_s().ok());
    Ok(text.with_context(|| format!("an item without a text `{name}`"))?)
}

pub(super) fn number_of<N: std::str::FromStr>(item: &Item, name: &str) -> anyhow::Result<N> {
    let number = item.get(name).and_then(|it| it.as_n().ok());
    let number = number.and_then(|it| it.parse().ok());
    number.with_context(|| format!("an item without a number `{name}`"))
}

/// A moment in a form that sorts as moments do.
pub(super) fn sortable(at: Time) -> String {
    format!("{at:.9}")
}

/// A place in the list of heads, in a form that sorts as places do.
pub(super) fn sortable_place(place: &Place) -> String {
    format!("{}#{}", sortable(place.started_at), place.issue)
}

/// The lane and the time at which a head is found by who looks after issues.
fn lane(head: &Head) -> Option<(&'static str, String)> {
    match (head.watching, head.attention_at) {
        (true, at) => Some((WATCHED, at.map_or_else(|| NEVER.into(), sortable))),
        (false, Some(at)) => Some((WAITING, sortable(at))),
        (false, None) => None,
    }
}

/// When it needs attention, by its place in the index.
pub(super) fn attention_at(item: &Item) -> anyhow::Result<Option<Time>> {
    match text_of(item, "attention_at")? {
        NEVER => Ok(None),
        at => Ok(Some(
            at.parse().with_context(|| format!("the time `{at}`"))?,
        )),
    }
}

/// A head as it is stored. `append`: who wrote it.
pub(super) fn head_item(head: &Head, append: &str) -> anyhow::Result<Item> {
    let mut item = Key::head(&head.issue).item();
    let mut put = |name: &str, value| item.insert(name.into(), value);
    put("seq", number(head.seq));
    put("append", text(append));
    put("head", text(&head_json(head)?));
    put("list", text(LIST));
    put("started_at", text(&sortable_place(&head.place())));
    // A key of an index may not be empty.
    if !head.identifier.is_empty() {
        put("identifier", text(&head.identifier.to_ascii_lowercase()));
    }
    if let Some((lane, at)) = lane(head) {
        put("lane", text(lane));
        put("attention_at", text(&at));
    }
    Ok(item)
}

fn head_json(head: &Head) -> anyhow::Result<String> {
    let mut value = serde_json::to_value(head)?;
    if let Value::Object(map) = &mut value {
        map.retain(|name, value| !value.is_null() && !ATTRIBUTES.contains(&name.as_str()));
    }
    Ok(value.to_string())
}

pub(super) fn head(item: &Item) -> anyhow::Result<Head> {
    let issue = super::issue_of(item)?;
    let what = || format!("the head of `{issue}`");
    let read = || {
        let mut value: Value = serde_json::from_str(text_of(item, "head")?)?;
        let seq: Seq = number_of(item, "seq")?;
        let started_at = text_of(item, "started_at")?.split('#').next();
        let (attention_at, lane) = match item.get("lane") {
            Some(lane) => (attention_at(item)?, lane.as_s().ok()),
            None => (None, None),
        };
        value["issue"] = issue.0.as_str().into();
        value["seq"] = seq.into();
        value["started_at"] = started_at.into();
        value["attention_at"] = serde_json::to_value(attention_at)?;
        value["watching"] = (lane.map(String::as_str) == Some(WATCHED)).into();
        if let Some(why) = item.get("parked").and_then(|it| it.as_s().ok()) {
            value["waiting_for"] = why.as_str().into();
        }
        anyhow::Ok(serde_json::from_value(value)?)
    };
    read().with_context(what)
}

/// What stands in for a head that cannot be read, so that its issue is listed and
/// exported: its keys tell who it is, and its log the rest.
pub(super) fn stand_in(item: &Item, why: String) -> anyhow::Result<Head> {
    let started_at = text_of(item, "started_at")?;
    let started_at = started_at.split('#').next().unwrap_or_default();
    Ok(Head {
        issue: super::issue_of(item)?,
        seq: 0,
        identifier: text_of(item, "identifier")
            .map(str::to_ascii_uppercase)
            .unwrap_or_default(),
        title: String::new(),
        url: String::new(),
        phase: "planning".into(),
        outcome: None,
        waiting_for: Some(why),
        spent_usd: 0.0,
        reserved_usd: 0.0,
        raised_usd: None,
        tasks_done: 0,
        tasks_total: 0,
        started_at: started_at.parse().context("when it started")?,
        finished_at: None,
        attention_at: None,
        watching: false,
    })
}

/// The figures of an account: all of its numbers.
pub(super) fn figures(item: &Item) -> anyhow::Result<Figures> {
    let numbers = item.iter().filter(|(_, value)| value.is_n());
    let figure = |(name, _): (&String, &AttributeValue)| {
        let value: i128 = number_of(item, name)?;
        let clamped = value.clamp(i64::MIN.into(), i64::MAX.into());
        Ok((name.clone(), i64::try_from(clamped)?))
    };
    numbers.map(figure).collect()
}

/// Where the batch of this item begins.
pub(super) fn first_seq(item: &Item) -> Option<Seq> {
    let sk = text_of(item, "sk").ok()?.strip_prefix(LOG)?;
    sk.get(..20)?.parse().ok()
}

/// First seq and number of events of the batch that an item belongs to.
pub(super) fn extent(item: &Item) -> anyhow::Result<(Seq, u64)> {
    let first = first_seq(item).context("a batch without a seq")?;
    Ok((first, number_of(item, "n")?))
}

/// The records that these items of batches hold, which are in the order of
/// their keys. Whole batches only.
pub(super) fn records(items: Vec<Item>) -> anyhow::Result<Result<Vec<Record>, Torn>> {
    let mut records: Vec<Record> = Vec::new();
    let mut items = items.into_iter().peekable();
    while let Some(item) = items.next() {
        let (first, n) = extent(&item)?;
        let expected = records.last().map_or(first, |it| it.seq + 1);
        let is_part = text_of(&item, "sk")?.len() > LOG.len() + 20;
        if is_part || first != expected {
            return Ok(Err(Torn { missing: expected }));
        }
        let mut json = text_of(&item, "events")?.to_owned();
        let parts: usize = number_of(&item, "parts")?;
        for _ in 1..parts {
            match items.next_if(|it| first_seq(it) == Some(first)) {
                Some(part) => json.push_str(text_of(&part, "events")?),
                None => return Ok(Err(Torn { missing: first })),
            }
        }
        let at: Time = text_of(&item, "at")?.parse()?;
        let events: Vec<Event> =
            serde_json::from_str(&json).with_context(|| format!("the events from {first} on"))?;
        if events.len() as u64 != n {
            bail!(
                "the batch at {first} says {n} events, and holds {}",
                events.len()
            );
        }
        let numbered = (first..).zip(events);
        records.extend(numbered.map(|(seq, event)| Record { seq, at, event }));
    }
    Ok(Ok(records))
}

/// Cuts a text into parts of at most `max` bytes, between characters.
pub(super) fn cut(text: &str, max: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    while rest.len() > max {
        let (part, after) = rest.split_at(rest.floor_char_boundary(max));
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    parts
}
