//! What the events of issues count up to: entries in the accounts of a day, and
//! metrics. Pure, but for the metrics, which go nowhere unless a recorder is
//! installed.

use crate::issue::{Event, Issue, Seq, Time};
use crate::ports::{Attention, Entry};

/// Appends that were refused because somebody else had written.
pub const APPEND_CONFLICTS: &str = "AppendConflicts";
/// Issues that were parked because their head contradicts their log.
pub const ISSUES_PARKED: &str = "IssuesParked";

/// Records of the table's stream that could not be read.
pub const RECORDS_SKIPPED: &str = "RecordsSkipped";
/// For how long the most overdue issue has been waiting.
pub const OVERDUE_SECONDS: &str = "OverdueSeconds";

/// Tells the metrics what there was to look at.
pub fn looked(attention: &[Attention], now: Time) {
    let overdue = attention.iter().filter_map(|it| it.at).min();
    let seconds = overdue.map_or(0.0, |at| now.duration_since(at).as_secs_f64().max(0.0));
    metrics::gauge!(OVERDUE_SECONDS).set(seconds);
}

/// What these events, the first of them at `first`, add to accounts. `issue` is
/// as they have left it.
pub fn entries(_issue: &Issue, _first: Seq, _events: &[Event]) -> Vec<Entry> {
    Vec::new()
}

/// Tells the metrics what has happened.
pub fn measure(_issue: &Issue, _first: Seq, _events: &[Event]) {}
