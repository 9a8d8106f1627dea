//! What the tests of several clients share.

use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use shared::issue::{FailureClass, Fault, Time};
use shared::ports::Clock;

/// When every test begins.
pub(crate) const START: i64 = 1_800_000_000;

/// A clock that tests move, for client and stand-in alike.
#[derive(Clone)]
pub(crate) struct Hands(Arc<Mutex<Timestamp>>);

impl Hands {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(
            Timestamp::from_second(START).expect("a time"),
        )))
    }

    pub(crate) fn forward(&self, seconds: i64) {
        *self.0.lock().expect("a clock") += SignedDuration::from_secs(seconds);
    }
}

impl Clock for Hands {
    fn now(&self) -> Time {
        *self.0.lock().expect("a clock")
    }
}

/// The class and the sentence of an answer that no repetition will change.
pub(crate) fn class<T: std::fmt::Debug>(answer: Result<T, Fault>) -> (FailureClass, String) {
    match answer {
        Err(Fault::Permanent { class, why }) => (class, why),
        other => panic!("not permanent: {other:?}"),
    }
}
