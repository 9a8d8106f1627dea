//! Trouble, switched on call by call.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// What goes wrong with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Answered with this status and body; nothing is done.
    Status {
        status: u16,
        body: String,
        retry_after: Option<u32>,
    },
    /// The connection breaks before anything is done.
    DropBefore,
    /// It is done, and then the connection breaks: the reply is lost.
    DropAfter,
    /// It is done, and then answered with this status.
    StatusAfter { status: u16, body: String },
    /// Bytes that are not what the caller expects, with status 200; nothing is done.
    Garbage,
}

impl Trouble {
    /// The ways in which a thing is done and nobody is told.
    pub fn lost_replies() -> Vec<Self> {
        let garbled = |status, body: &str| Self::StatusAfter {
            status,
            body: body.to_owned(),
        };
        vec![
            Self::DropAfter,
            garbled(502, "bad gateway"),
            garbled(200, "<html>"),
        ]
    }
}

/// The troubles that wait for the calls of one service. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    waiting: Arc<Mutex<VecDeque<(String, Trouble)>>>,
}

impl Faults {
    /// The next call of `operation` meets `trouble`. Several queue up.
    pub fn next(&self, operation: &str, trouble: Trouble) {
        self.lock().push_back((operation.to_owned(), trouble));
    }

    /// What a call of `operation` meets now.
    pub fn meet(&self, operation: &str) -> Option<Trouble> {
        let mut waiting = self.lock();
        let at = waiting.iter().position(|(it, _)| it == operation)?;
        waiting.remove(at).map(|(_, trouble)| trouble)
    }

    /// Troubles that no call has met yet: a test that plans some should see none left.
    pub fn left(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(String, Trouble)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
