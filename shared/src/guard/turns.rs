//! How many calls an account takes in a while. Pure: what lies in a register,
//! and what one turn more makes of it.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use crate::issue::Time;

/// Reads are counted in this many parts of their rate's span, so that what is
/// written at each look stays small: at most 8 pairs of numbers.
const PARTS: i64 = 6;

/// So many turns in so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub turns: usize,
    pub seconds: i64,
}

/// The starts of the last while, one by one: a bucket that refills would let
/// twice the rate through in a window.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Starts {
    last: Vec<Time>,
    /// The other side has asked to be left alone until then.
    closed_until: Option<Time>,
}

/// The reads of the last while, counted by parts of it. Never more than the
/// rate in any window; up to a part of a window less.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Reads {
    /// The number of a part since 1970, and the reads in it.
    parts: Vec<(i64, usize)>,
    closed_until: Option<Time>,
}

impl Starts {
    /// Takes a turn, or says for how many seconds there is none.
    pub(super) fn take(&mut self, rate: Rate, now: Time) -> Result<(), i64> {
        let window = SignedDuration::from_secs(rate.seconds);
        // One from a clock far ahead of ours would hold us up for as long.
        let counts = |at: &Time| now.duration_since(*at).abs() < window;
        self.last.retain(counts);
        closed(&mut self.closed_until, now)?;
        match self.last.iter().min() {
            Some(first) if self.last.len() >= rate.turns => Err(wait(*first + window, now)),
            Some(_) | None => {
                self.last.push(now);
                Ok(())
            }
        }
    }

    /// Gives none before this.
    pub(super) fn close(&mut self, until: Time) {
        self.closed_until = self.closed_until.max(Some(until));
    }
}

impl Reads {
    /// Takes this many turns, or says for how many seconds there are not so many.
    pub(super) fn take(&mut self, count: usize, rate: Rate, now: Time) -> Result<(), i64> {
        self.forget(rate, now);
        closed(&mut self.closed_until, now)?;
        let mut over = self.used() + count.min(rate.turns);
        for (part, used) in &self.parts {
            if over <= rate.turns {
                break;
            }
            over -= used;
            if over <= rate.turns {
                return Err((ends(*part, rate) - now.as_second()).max(1));
            }
        }
        self.add(count, rate, now);
        Ok(())
    }

    /// Counts reads that were made, whether there was a turn for them or not.
    pub(super) fn add(&mut self, count: usize, rate: Rate, now: Time) {
        self.forget(rate, now);
        let part = now.as_second().div_euclid(length(rate));
        match self.parts.iter_mut().find(|it| it.0 == part) {
            Some((_, used)) => *used += count,
            None => self.parts.push((part, count)),
        }
        self.parts.sort_unstable();
    }

    /// Gives none before this.
    pub(super) fn close(&mut self, until: Time) {
        self.closed_until = self.closed_until.max(Some(until));
    }

    fn used(&self) -> usize {
        self.parts.iter().map(|(_, used)| used).sum()
    }

    fn forget(&mut self, rate: Rate, now: Time) {
        let now = now.as_second();
        // One from a clock ahead of ours counts where it may be of now.
        let here = now.div_euclid(length(rate));
        self.parts
            .retain(|(part, _)| ends(*part, rate) > now && *part <= here + 1);
    }
}

fn length(rate: Rate) -> i64 {
    (rate.seconds / PARTS).max(1)
}

/// When the last read of a part leaves every window, in seconds since 1970.
fn ends(part: i64, rate: Rate) -> i64 {
    (part + 1) * length(rate) + rate.seconds
}

fn closed(until: &mut Option<Time>, now: Time) -> Result<(), i64> {
    match until.filter(|it| now < *it) {
        Some(until) => Err(wait(until, now)),
        None => {
            *until = None;
            Ok(())
        }
    }
}

/// Whole seconds until it is so for sure.
fn wait(until: Time, now: Time) -> i64 {
    until.duration_since(now).as_secs() + 1
}

#[cfg(test)]
mod tests {
    use super::{Rate, Reads};
    use crate::issue::Time;

    const RATE: Rate = Rate {
        turns: 60,
        seconds: 30,
    };

    fn at(second: i64) -> Time {
        Time::from_second(1_000_000 + second).expect("a moment")
    }

    #[test]
    fn no_window_sees_more_reads_than_the_rate_and_little_is_given_away() {
        for counts in [[1, 1, 1], [7, 3, 20], [60, 1, 59]] {
            let mut reads = Reads::default();
            let mut made: Vec<(i64, usize)> = Vec::new();
            for second in 0..600 {
                for count in counts {
                    if reads.take(count, RATE, at(second)).is_ok() {
                        made.push((second, count));
                    }
                }
                let text = serde_json::to_string(&reads).expect("JSON");
                assert!(text.len() < 250, "{text}");
            }
            for from in 0..600 {
                let window = made.iter().filter(|it| (from..from + 30).contains(&it.0));
                let sum: usize = window.map(|it| it.1).sum();
                assert!(sum <= RATE.turns, "{sum} from {from}");
            }
            let sum: usize = made.iter().map(|it| it.1).sum();
            assert!(sum > 600 / 35 * 55, "{sum}");
        }
    }

    #[test]
    fn the_wait_is_long_enough_and_no_longer() {
        let mut reads = Reads::default();
        reads.take(40, RATE, at(0)).expect("the first");
        reads.take(20, RATE, at(12)).expect("the rest");
        let wait = reads.take(1, RATE, at(13)).expect_err("none is left");
        assert!(reads.take(1, RATE, at(13 + wait - 1)).is_err());
        reads
            .take(40, RATE, at(13 + wait))
            .expect("its time has come");
        reads
            .take(1, RATE, at(13 + wait))
            .expect_err("20 still count");
        // More than there ever are at once is as much as there is.
        let mut reads = Reads::default();
        reads.take(100, RATE, at(0)).expect("once");
        assert!(reads.take(1, RATE, at(0)).is_err());
    }
}
