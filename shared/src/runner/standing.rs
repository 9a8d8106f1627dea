//! Where a job stands, as the register `jobs/KEY` keeps it. Small, since it is
//! written at every heartbeat and read by everybody who looks for work; the
//! prompt lies apart. No I/O and no clock.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::document::{Action, HeardDoc, HeartbeatDoc, LeaseAsk, ResultDoc, usd};
use crate::issue::{COST_USD_MAX, Ending, Failure, FailureClass, IssueId, Sight, TaskKind, Time};
use crate::ports::{Job, Message};

/// A job that this many runners have begun and not been heard of again is given
/// to nobody any more.
const LOST_MAX: u32 = 3;
/// So is one that was handed out this often to nobody who ever spoke.
const UNHEARD_MAX: u32 = 20;
/// The messages of one job, and all their bytes.
const MESSAGES_MAX: usize = 50;
const MESSAGES_BYTES_MAX: usize = 128 * 1024;
/// A run that costs more than it may is stopped when it is over by this share of
/// it, and by this much at least, in USD: agents look at their cap only between
/// two steps, and are to end by themselves.
const OVER_SHARE: f64 = 0.1;
const OVER_USD_MIN: f64 = 0.05;
/// A runner that will not have a job is offered it again after this long.
const OFFER_AGAIN: SignedDuration = SignedDuration::from_secs(30);
/// What a runner calls itself, in bytes.
pub(super) const NAME_BYTES_MAX: usize = 128;

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
    /// The agent program; empty: it needs none.
    pub(super) program: String,
    /// The branch that was asked for.
    pub(super) branch: String,
    pub(super) queued_at: Time,
    /// How many leases there were: the number of the last one.
    pub(super) fence: u64,
    /// The last one, lapsed or not.
    pub(super) lease: Option<Lease>,
    /// It is to be stopped: a person wants no more of it, or it costs too much.
    pub(super) cancel: bool,
    /// What it may cost, all leases together, USD.
    #[serde(default)]
    cost_max: Option<f64>,
    /// It has cost this much, which is why it is stopped.
    #[serde(default)]
    over_usd: Option<f64>,
    /// What the leases before the last one have cost; `None`: nobody knows.
    pub(super) lost_usd: Option<f64>,
    /// Leases before the last one whose holders were heard, and then no more …
    #[serde(default)]
    lost: u32,
    /// … and those whose holders never were.
    #[serde(default)]
    unheard: u32,
    /// Since when somebody had begun it and nobody has it any more.
    #[serde(default)]
    silent_since: Option<Time>,
    /// How long that may be so, see [`Job::patience_seconds`].
    #[serde(default)]
    patience_seconds: Option<i64>,
    /// It is pushed to nobody before.
    #[serde(default)]
    pub(super) offer_at: Option<Time>,
    /// What people have written, for whoever works on it.
    #[serde(default)]
    messages: Vec<Message>,
}

/// A runner's right to work on a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Lease {
    /// `None`: it was pushed, and who has taken it has not spoken yet.
    pub(super) runner: Option<String>,
    pub(super) until: Time,
    /// Its holder has been heard. Before that no agent runs.
    pub(super) heard: bool,
    pub(super) cost_usd: Option<f64>,
    /// How many of the messages its holder has.
    #[serde(default)]
    passed_on: usize,
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
            program: match job.kind {
                // It runs commands.
                TaskKind::Verifier => String::new(),
                _ => job.agent.program.clone(),
            },
            branch: job.branch.clone(),
            queued_at: now,
            fence: 0,
            lease: None,
            cancel: false,
            cost_max: job.cost_max,
            over_usd: None,
            lost_usd: Some(0.0),
            lost: 0,
            unheard: 0,
            silent_since: None,
            patience_seconds: job.patience_seconds,
            offer_at: None,
            messages: Vec::new(),
        }
    }

    /// Is it in a runner's hands?
    pub(super) fn held(&self, now: Time) -> bool {
        self.lease.as_ref().is_some_and(|it| now < it.until)
    }

    /// How it looks to who asks.
    pub(super) fn sight(&self, now: Time) -> Sight {
        if self.works(now) {
            Sight::Working
        } else {
            Sight::Waiting
        }
    }

    /// Is a runner at work on it, that has been heard?
    pub(super) fn works(&self, now: Time) -> bool {
        self.lease
            .as_ref()
            .is_some_and(|it| it.heard && now < it.until)
    }

    /// Since when nobody has had it, for one that nobody has.
    pub(super) fn free_since(&self) -> Time {
        let lapsed = self.lease.as_ref().map(|it| it.until);
        let last = lapsed.into_iter().chain(self.silent_since).max();
        last.unwrap_or(self.queued_at).max(self.queued_at)
    }

    /// How it ends because of what has not happened: nobody holds it, and
    /// nobody shall have it any more.
    pub(super) fn lapsed(&self, now: Time) -> Option<Over> {
        if self.held(now) {
            return None;
        }
        let last = self.without_lease();
        let holder = self.lease.as_ref().and_then(|it| it.runner.as_deref());
        let holder = holder.unwrap_or("an unknown one");
        let lost = |message| Failure {
            class: FailureClass::Lost,
            message,
        };
        let failure = if self.cancel {
            self.stopped()
        } else if last.lost >= LOST_MAX {
            let n = last.lost;
            lost(format!(
                "{n} runners took the job and were not heard of again, at last `{holder}`"
            ))
        } else if last.unheard >= UNHEARD_MAX {
            let n = last.unheard;
            lost(format!(
                "the job was handed out {n} times, and nobody who got it was ever heard"
            ))
        } else if last.out_of_patience(now) {
            lost("its runner was not heard of again, and no other has taken it".into())
        } else {
            return None;
        };
        Some(self.broken_off(failure))
    }

    fn out_of_patience(&self, now: Time) -> bool {
        let (Some(since), Some(patience)) = (self.silent_since, self.patience_seconds) else {
            return false;
        };
        now.duration_since(since).as_secs() >= patience
    }

    /// It ends without a word of a runner.
    pub(super) fn broken_off(&self, failure: Failure) -> Over {
        let ending = Ending {
            result: Err(failure),
            cost_usd: self.cost_so_far(),
            // What a holder said last is not the last that it has spent.
            cost_is_estimate: self.without_lease().lost > 0,
        };
        Over {
            issue: self.issue.clone(),
            by: None,
            ending,
        }
    }

    /// May this runner have it now?
    pub(super) fn suits(&self, ask: &LeaseAsk, now: Time) -> bool {
        self.free(now)
            && ask.repositories.contains(&self.repository)
            && (self.program.is_empty() || ask.agents.contains(&self.program))
    }

    /// May it be pushed now?
    pub(super) fn offers(&self, now: Time) -> bool {
        self.free(now) && self.offer_at.is_none_or(|at| at <= now)
    }

    /// Nobody has it, and somebody may.
    pub(super) fn free(&self, now: Time) -> bool {
        !self.held(now) && !self.cancel && self.lapsed(now).is_none()
    }

    /// It, in this runner's hands, or in the hands of whoever it is pushed to.
    pub(super) fn leased(&self, runner: Option<&str>, until: Time) -> Self {
        Self {
            fence: self.fence + 1,
            lost_usd: self.cost_so_far(),
            lease: Some(Lease {
                runner: runner.map(str::to_owned),
                until,
                heard: false,
                cost_usd: None,
                passed_on: 0,
            }),
            ..self.without_lease()
        }
    }

    /// It, after whoever it was pushed to would not have it. `soon`: there was
    /// only no room.
    pub(super) fn refused(&self, now: Time, soon: bool) -> Self {
        let again = (!soon).then(|| now + OFFER_AGAIN);
        Self {
            lease: None,
            offer_at: again.or(self.offer_at),
            ..self.clone()
        }
    }

    /// It in nobody's hands; the last lease has lapsed.
    fn without_lease(&self) -> Self {
        let mut bare = self.clone();
        if let Some(lease) = bare.lease.take() {
            if lease.heard {
                bare.lost += 1;
                bare.silent_since = Some(lease.until);
            } else {
                bare.unheard += 1;
            }
        }
        bare
    }

    /// Is this the word of who has it? Also after the lease has lapsed, as long
    /// as nobody else got it. Who has it after a push is who speaks first.
    pub(super) fn is_of(&self, runner: &str, fence: u64) -> bool {
        let ours = |lease: &Lease| lease.runner.as_ref().is_none_or(|it| it == runner);
        self.fence == fence && self.lease.as_ref().is_some_and(ours)
    }

    /// What its holder is told, and how it stands afterwards, where that has
    /// changed: a lease that has just begun is not written at every heartbeat.
    pub(super) fn heard(
        &self,
        beat: &HeartbeatDoc,
        now: Time,
        length: SignedDuration,
    ) -> (HeardDoc, Option<Self>) {
        let mut heard = self.clone();
        let over = self.over_cap(usd(beat.cost_usd));
        let over = over.filter(|_| !self.cancel);
        let (mut worth_it, mut until) = (false, now);
        let mut message = None;
        if let Some(lease) = &mut heard.lease {
            let left = lease.until.duration_since(now);
            worth_it = !lease.heard || left.saturating_mul(3) < length.saturating_mul(2);
            // The next message, until its holder says that it has it; one that
            // says nothing of that gets each once.
            let has = |it: &Message| beat.heard.as_ref().is_some_and(|ids| ids.contains(&it.id));
            while heard.messages.get(lease.passed_on).is_some_and(has) {
                lease.passed_on += 1;
                worth_it = true;
            }
            message = heard.messages.get(lease.passed_on).cloned();
            if message.is_some() && beat.heard.is_none() {
                lease.passed_on += 1;
                worth_it = true;
            }
            // Whatever else: what stops a run is written.
            worth_it |= over.is_some();
            if worth_it {
                lease.heard = true;
                lease.runner = Some(beat.runner.clone());
                lease.until = now + length;
                // A figure that shrinks is an old one.
                lease.cost_usd = usd(beat.cost_usd)
                    .into_iter()
                    .chain(lease.cost_usd)
                    .reduce(f64::max);
            }
            until = lease.until;
        }
        if over.is_some() {
            (heard.cancel, heard.over_usd) = (true, over);
        }
        heard.silent_since = None;
        let message = message.filter(|_| !heard.cancel);
        let doc = HeardDoc {
            lease_until: until,
            lease_seconds: Some(until.duration_since(now).as_secs_f64()),
            action: match &message {
                _ if heard.cancel => Action::Cancel,
                Some(_) => Action::Message,
                None => Action::Continue,
            },
            message_id: message.as_ref().map(|it| it.id.clone()),
            message: message.map(|it| it.text),
        };
        (doc, worth_it.then_some(heard))
    }

    /// It, with one message more; `None`: it has that one. An error says why
    /// there is no room.
    pub(super) fn told(&self, message: &Message) -> Result<Option<Self>, String> {
        if self.messages.iter().any(|it| it.id == message.id) {
            return Ok(None);
        }
        let bytes: usize = self.messages.iter().map(|it| it.text.len()).sum();
        if self.messages.len() >= MESSAGES_MAX || bytes + message.text.len() > MESSAGES_BYTES_MAX {
            return Err("too much has been written to this run already".into());
        }
        let mut told = self.clone();
        told.messages.push(message.clone());
        Ok(Some(told))
    }

    /// How it ended, in its holder's words.
    pub(super) fn ended(&self, result: ResultDoc) -> Over {
        let by = Some((result.runner.clone(), result.fence));
        let heard = result.heard.clone().unwrap_or_default();
        let mut ending = result.into_ending(&self.branch);
        // A figure that shrinks is not believed, and what was told before is no end.
        let before = self.lease.as_ref().and_then(|it| it.cost_usd);
        if let (Some(cost), Some(before)) = (ending.cost_usd, before)
            && cost < before
        {
            ending.cost_usd = Some(before);
            ending.cost_is_estimate = true;
        }
        if let Err(failure) = &mut ending.result
            && failure.class == FailureClass::Cancelled
            && self.over_usd.is_some()
        {
            *failure = self.stopped();
        }
        ending.cost_usd = sum(self.lost_usd, ending.cost_usd);
        ending.cost_is_estimate |= self.lost > 0;
        let passed_on = self.lease.as_ref().map_or(0, |it| it.passed_on);
        let mut rest = self.messages.iter().skip(passed_on);
        if let Ok(result) = &mut ending.result
            && rest.any(|it| !heard.contains(&it.id))
        {
            result.unheard = true;
        }
        Over {
            issue: self.issue.clone(),
            by,
            ending,
        }
    }

    /// Why a cost that its holder tells is not to be believed.
    pub(super) fn doubts(&self, cost: Option<f64>) -> Option<String> {
        let cost = cost?;
        let before = self.lease.as_ref().and_then(|it| it.cost_usd);
        match before {
            _ if usd(Some(cost)).is_none() => {
                Some(format!("{cost} is no figure from 0 to {COST_USD_MAX}"))
            }
            Some(before) if cost < before => Some(format!("{cost} after {before}")),
            Some(_) | None => None,
        }
    }

    /// What it has cost in all, if that is over what it may cost by more than
    /// can happen to an honest agent.
    fn over_cap(&self, cost: Option<f64>) -> Option<f64> {
        let (cost, max) = (cost? + self.lost_usd.unwrap_or(0.0), self.cost_max?);
        let margin = (max * OVER_SHARE).max(OVER_USD_MIN);
        (cost > max + margin).then_some(cost)
    }

    /// How it ends when it is stopped.
    pub(super) fn stopped(&self) -> Failure {
        match (self.over_usd, self.cost_max) {
            (Some(over), Some(max)) => Failure {
                class: FailureClass::Budget,
                message: format!(
                    "the run had cost {over:.2} USD of the {max:.2} USD that it may cost, and \
                     was stopped"
                ),
            },
            _ => Failure {
                class: FailureClass::Cancelled,
                message: "the run was stopped".into(),
            },
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

fn sum(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    Some(one? + other?)
}
