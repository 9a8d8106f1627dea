//! The logs of issues: who keeps [`crate::ports::Log`], and what all of them
//! must refuse alike. What a log means is none of their business.
//!
//! One contract holds for every store, and one suite (`tests/tests/store.rs`)
//! checks it on each:
//!
//! * An append is written whole and durably, or not at all. When it is
//!   answered, every later read sees it.
//! * It is refused as [`Conflict`](AppendError::Conflict), and nothing is
//!   written, unless `after` is the issue's last seq (0 for a new issue). So of
//!   several writers that have seen the same, exactly one goes on.
//! * [`Failed`](AppendError::Failed) says nothing about what was written: who
//!   gets it reads again before deciding again.
//! * `attention` gives what is overdue first, the most overdue at the front;
//!   then what is only watched, by its next deadline.
//! * An identifier is found in upper and lower case; where two issues bear one
//!   (a workspace was renamed), the newer one is meant.

pub mod memory;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use anyhow::ensure;

use crate::issue::Seq;
use crate::ports::{Append, AppendError};

/// The seq of the last event, once this append is written. Refuses an append
/// that contradicts itself: from such a log no issue could be told again.
fn last_seq(append: &Append) -> Result<Seq, AppendError> {
    let check = || {
        let last = append.after + append.events.len() as Seq;
        ensure!(
            !append.events.is_empty(),
            "append to `{}`: there is no event in it",
            append.issue
        );
        ensure!(
            append.head.issue == append.issue,
            "append to `{}`: its head is that of `{}`",
            append.issue,
            append.head.issue
        );
        ensure!(
            append.head.seq == last,
            "append to `{}`: its head stands at {}, its last event at {last}",
            append.issue,
            append.head.seq
        );
        Ok(last)
    };
    Ok(check()?)
}
