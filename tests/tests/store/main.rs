//! What every store must keep to, checked on each of them; and what single
//! stores are for beyond that: a file is there after a crash, and nobody
//! else's; a table answers in its own time, or not at all.

mod accounts;
mod contract;
mod dynamo;
mod file;
mod registers;
mod stores;
mod table;
mod upkeep;

use std::future::Future;
use std::time::Duration;

use shared::issue::{Event, Record, Seq, Time};
use shared::ports::{Append, Head};

/// The longest that anything here may take: only something that hangs does.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("it hangs")
}

/// `n` events for an issue whose last seq is `after`.
pub(crate) fn append(issue: &str, after: Seq, n: u64) -> Append {
    let events = (after + 1..=after + n)
        .map(|seq| event(&format!("{issue} {seq}")))
        .collect();
    let at = self::at(after.cast_signed());
    Append {
        issue: issue.into(),
        after,
        at,
        events,
        head: head(issue, after + n),
        entries: vec![],
    }
}

/// What [`append`] after `after` wrote at `seq`.
pub(crate) fn record(issue: &str, seq: Seq, after: Seq) -> Record {
    Record {
        seq,
        at: at(after.cast_signed()),
        event: event(&format!("{issue} {seq}")),
    }
}

pub(crate) fn event(text: &str) -> Event {
    Event::Prompted {
        session: "session".into(),
        activity: "activity".into(),
        text: text.into(),
    }
}

pub(crate) fn head(issue: &str, seq: Seq) -> Head {
    Head {
        issue: issue.into(),
        seq,
        identifier: issue.to_uppercase(),
        title: "a title".into(),
        url: "https://linear.app/acme/issue/ENG-1".into(),
        phase: "working".into(),
        outcome: None,
        waiting_for: None,
        spent_usd: 0.25,
        reserved_usd: 0.0,
        raised_usd: Some(10.0),
        tasks_done: 1,
        tasks_total: 3,
        started_at: at(0),
        finished_at: None,
        attention_at: None,
        watching: false,
    }
}

pub(crate) fn at(second: i64) -> Time {
    Time::from_second(1_790_000_000 + second).expect("a time")
}
