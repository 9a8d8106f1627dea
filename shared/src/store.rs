//! The logs of issues: who keeps [`crate::ports::Log`], and what all of them
//! must refuse alike. What a log means is none of their business.
//!
//! One contract holds for every store, and one suite (`tests/tests/store/`)
//! checks it on each:
//!
//! * An append is written whole and durably, or not at all. When it is
//!   answered, every later read sees it.
//! * It is refused as [`Conflict`](AppendError::Conflict), and nothing is
//!   written, unless `after` is the issue's last seq (0 for a new issue). So of
//!   several writers that have seen the same, exactly one goes on.
//! * [`Failed`](AppendError::Failed) says nothing about what was written: who
//!   gets it reads again before deciding again.
//! * An entry that would bring its figure over the limit is refused as
//!   [`OverLimit`](AppendError::OverLimit), and nothing is written: no event, no
//!   head, no other entry.
//! * `attention` gives what is overdue first, the most overdue at the front;
//!   then what is only watched, by its next deadline.
//! * An identifier is found in upper and lower case; where two issues bear one
//!   (a workspace was renamed), the newer one is meant.
//! * A register that was removed or is over begins anew, at version 1. So names
//!   that come back are for holders that look before their register is over.

pub mod dynamo;
pub mod memory;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::collections::BTreeSet;

use anyhow::ensure;

use crate::issue::{Seq, Time};
use crate::ports::{Append, AppendError, Entry, RegisterWrite};

/// Refuses an append that contradicts itself: from such a log no issue could be
/// told again.
fn check_append(append: &Append) -> Result<(), AppendError> {
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
        let mut accounts = BTreeSet::new();
        for Entry { account, .. } in &append.entries {
            ensure!(
                accounts.insert(account),
                "append to `{}`: two entries in the account `{account}`",
                append.issue
            );
        }
        Ok(())
    };
    Ok(check()?)
}

/// Refuses a register that not every store can keep.
fn check_register(write: &RegisterWrite) -> Result<(), AppendError> {
    let check = || {
        ensure!(
            !write.shelf.is_empty() && !write.name.is_empty(),
            "register `{}/{}`: a shelf and a register need a name",
            write.shelf,
            write.name
        );
        Ok(())
    };
    Ok(check()?)
}

/// A register that expires then is good before that second, and gone from it on.
fn is_good(expires_at: Option<i64>, now: Time) -> bool {
    expires_at.is_none_or(|it| now.as_second() < it)
}
