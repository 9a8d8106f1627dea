//! Where a job stands, as the register `jobs/KEY` keeps it. Small, since it is
//! written at every heartbeat and read by everybody who looks for work; the
//! prompt lies apart. No I/O and no clock.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::document::{HeartbeatDoc, LeaseAsk, ResultDoc, usd};
use crate::issue::{Ending, Failure, FailureClass, IssueId, Sight, Time, clip};
use crate::ports::Job;

/// A job whose lease has lapsed this often is given to nobody any more.
pub(super) const LEASES_MAX: u64 = 3;
/// What a runner calls itself, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 128;
/// A note, or a session's id, in bytes.
const NOTE_BYTES_MAX: usize = 500;

/// What a register of a job holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kept {
    /// There is no such job, and a start that is still on its way comes too late.
    Barred,
    Open(Standing),
    /// It has ended. That is decided here; then it is moved to the results.
    Over(Over),
}

/// A job that has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Standing {
    pub(super) issue: IssueId,
    pub(super) repository: String,
    pub(super) program: String,
    /// The branch that was asked for.
    pub(super) branch: String,
    pub(super) queued_at: Time,
    /// How many leases there were: the number of the last one.
    pub(super) fence: u64,
    /// The last one, lapsed or not.
    pub(super) lease: Option<Lease>,
    /// A person wants no more of it.
    pub(super) cancel: bool,
    /// What the leases before the last one have cost; `None`: nobody knows.
    pub(super) lost_usd: Option<f64>,
}

/// A runner's right to work on a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub(super) runner: String,
    pub(super) until: Time,
    /// Its holder has been heard. Before that no agent runs.
    pub(super) heard: bool,
    pub(super) cost_usd: Option<f64>,
    pub(super) note: Option<String>,
    pub(super) session: Option<String>,
}

/// A job that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Over {
    pub(super) issue: IssueId,
    /// Who said so, and under which fence; `None`: we did.
    pub(super) by: Option<(String, u64)>,
    pub(super) ending: Ending,
}

impl Standing {
    pub(super) fn new(job: &Job, now: Time) -> Self {
        Self {
            issue: job.issue.clone(),
            repository: job.repository.id.clone(),
            program: job.agent.program.clone(),
            branch: job.branch.clone(),
            queued_at: now,
            fence: 0,
            lease: None,
            cancel: false,
            lost_usd: Some(0.0),
        }
    }

    /// Is it in a runner's hands?
    pub(super) fn held(&self, now: Time) -> bool {
        self.lease.as_ref().is_some_and(|it| now < it.until)
    }

    /// How it looks to who asks.
    pub(super) fn sight(&self, now: Time) -> Sight {
        let works = self
            .lease
            .as_ref()
            .is_some_and(|it| it.heard && now < it.until);
        if works {
            Sight::Working
        } else {
            Sight::Waiting
        }
    }

    /// How it ends because of what has not happened: nobody holds it, and
    /// nobody shall have it any more.
    pub(super) fn lapsed(&self, now: Time) -> Option<Over> {
        if self.held(now) {
            return None;
        }
        let failure = if self.cancel {
            cancelled()
        } else if self.fence >= LEASES_MAX {
            let holder = self.lease.as_ref().map_or("", |it| &it.runner);
            let message = format!(
                "{} runners in a row took the job and were not heard of again, at last `{holder}`",
                self.fence
            );
            let class = FailureClass::Lost;
            Failure { class, message }
        } else {
            return None;
        };
        Some(self.broken_off(failure))
    }

    /// It ends without a word of a runner.
    pub(super) fn broken_off(&self, failure: Failure) -> Over {
        let ending = Ending {
            result: Err(failure),
            cost_usd: self.cost_so_far(),
        };
        Over {
            issue: self.issue.clone(),
            by: None,
            ending,
        }
    }

    /// May this runner have it now?
    pub(super) fn suits(&self, ask: &LeaseAsk, now: Time) -> bool {
        !self.held(now)
            && !self.cancel
            && self.fence < LEASES_MAX
            && ask.repositories.contains(&self.repository)
            && ask.agents.contains(&self.program)
    }

    /// It, in this runner's hands.
    pub(super) fn leased(&self, runner: &str, until: Time) -> Self {
        Self {
            fence: self.fence + 1,
            lost_usd: self.cost_so_far(),
            lease: Some(Lease {
                runner: runner.to_owned(),
                until,
                heard: false,
                cost_usd: None,
                note: None,
                session: None,
            }),
            ..self.clone()
        }
    }

    /// Is this the word of who has it? Also after the lease has lapsed, as long
    /// as nobody else got it.
    pub(super) fn is_of(&self, runner: &str, fence: u64) -> bool {
        let ours = self.lease.as_ref().is_some_and(|it| it.runner == runner);
        ours && self.fence == fence
    }

    /// It, after its holder was heard; and whether that was for the first time.
    pub(super) fn heard(
        &self,
        beat: &HeartbeatDoc,
        now: Time,
        length: SignedDuration,
    ) -> (Self, bool) {
        let mut heard = self.clone();
        let mut first = false;
        if let Some(lease) = &mut heard.lease {
            let short = |it: &String| clip(it, NOTE_BYTES_MAX);
            first = !lease.heard;
            lease.heard = true;
            lease.until = now + length;
            lease.cost_usd = usd(beat.cost_usd).or(lease.cost_usd);
            lease.note = beat.note.as_ref().map(short).or(lease.note.take());
            lease.session = beat.session.as_ref().map(short).or(lease.session.take());
        }
        (heard, first)
    }

    /// How it ended, in its holder's words.
    pub(super) fn ended(&self, result: ResultDoc) -> Over {
        let by = Some((result.runner.clone(), result.fence));
        let mut ending = result.into_ending(&self.branch);
        ending.cost_usd = sum(self.lost_usd, ending.cost_usd);
        Over {
            issue: self.issue.clone(),
            by,
            ending,
        }
    }

    /// What all leases have cost. What a holder has spent who was not heard of
    /// again is known only where he has said so, or had not begun.
    fn cost_so_far(&self) -> Option<f64> {
        let last = match &self.lease {
            Some(lease) if lease.heard => lease.cost_usd,
            Some(_) | None => Some(0.0),
        };
        sum(self.lost_usd, last)
    }
}

impl Over {
    /// Is this the word that ended it?
    pub(super) fn is_of(&self, runner: &str, fence: u64) -> bool {
        self.by
            .as_ref()
            .is_some_and(|by| *by == (runner.to_owned(), fence))
    }
}

pub(super) fn cancelled() -> Failure {
    Failure {
        class: FailureClass::Cancelled,
        message: "the run was stopped".into(),
    }
}

fn sum(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one? + other?)
}
