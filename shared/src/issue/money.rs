//! Limits, reservations and what is left. A run is admitted only if the most
//! that it may cost fits under every limit; what it did cost takes the place of
//! its reservation. Pure: the day's account is kept with the log's appends.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::words_enum;

const MICROS_PER_USD: f64 = 1_000_000.0;

words_enum! {
    /// What a limit is on.
    Scope { Task = "task", Issue = "issue", Day = "day" }
}

/// The most that a run may cost, set aside for it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reservation {
    pub usd: f64,
    /// Whose limit it counts for, until the end: the day of UTC of its admission.
    pub day: Date,
    /// The limit of that day, as it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day_max_usd: Option<f64>,
}

/// Whole millionths of a USD, in which sums are exact.
pub fn micros(usd: f64) -> i64 {
    (usd * MICROS_PER_USD).round() as i64
}

/// USD, of millionths.
pub fn usd(micros: i64) -> f64 {
    micros as f64 / MICROS_PER_USD
}
