//! What the control plane has said to runners, as it is seen from outside: who
//! was given which job, whose result was taken. What it says later must agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use shared::issue::Time;
use shared::runner::document::JobDoc;

/// After fair weather has come, nobody works on longer than this on what is not
/// wanted: a heartbeat, with a calm stretch of time before it and a call after
/// it, and the time that an agent takes to end.
const AFTERLIFE_SECONDS_MAX: i64 = 200;

/// A runner with a job, under the number of its lease.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) job: String,
    pub(crate) fence: u64,
    pub(crate) runner: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short: String = self.job.chars().take(8).collect();
        write!(f, "{}({short}.{})", self.runner, self.fence)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Who was given a job under which fence, and when.
    given: BTreeMap<(String, u64), (String, Time)>,
    /// Since when nobody is to work on a job any more.
    stopped: BTreeMap<String, Time>,
    /// Whose result was taken, and when.
    taken: BTreeMap<String, (Holder, Time)>,
    /// Whose result may have been: nobody saw how it went on.
    perhaps: BTreeSet<Holder>,
    /// Who was told to end what it does.
    told: BTreeSet<Holder>,
    /// Since when the weather is fair.
    calm_since: Option<Time>,
}

/// What somebody who was heard may conclude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    GoOn,
    End,
}

impl Ledger {
    pub(crate) fn calm(&mut self, now: Time) {
        self.calm_since = Some(now);
    }

    /// A job was given away. The landmark that this is, or what is wrong with it.
    pub(crate) fn give(
        &mut self,
        doc: &JobDoc,
        runner: &str,
        asked: Time,
        now: Time,
    ) -> Result<Option<&'static str>, String> {
        let job = &doc.job;
        let before = doc.fence.checked_sub(1);
        let before = before.and_then(|it| self.given.get(&(job.clone(), it)));
        let moved = before.is_some_and(|(it, _)| it != runner);
        let lapsed = before.is_some();
        let given = self
            .given
            .insert((job.clone(), doc.fence), (runner.to_owned(), now));
        if let Some((other, _)) = given {
            return Err(format!(
                "{job} was given to {other} and to {runner} under one fence"
            ));
        }
        if let Some((holder, at)) = self.taken.get(job)
            && *at < asked
        {
            return Err(format!(
                "{job} was given to {runner} after the result of {holder} was taken"
            ));
        }
        if self.stopped.get(job).is_some_and(|at| *at < asked) {
            return Err(format!("{job} was given to {runner} after it was stopped"));
        }
        Ok(match (moved, lapsed) {
            (true, _) => Some("a lease lapsed and another runner took the job"),
            (false, true) => Some("a lease lapsed and the same runner took the job again"),
            (false, false) => None,
        })
    }

    /// The queue has taken it in that nobody shall work on a job any more.
    pub(crate) fn stop(&mut self, job: &str, now: Time) {
        self.stopped.entry(job.to_owned()).or_insert(now);
    }

    /// A heartbeat that began at `asked` was answered.
    pub(crate) fn beat(
        &mut self,
        holder: &Holder,
        answer: Answer,
        asked: Time,
    ) -> Result<(), String> {
        match answer {
            Answer::End => {
                self.told.insert(holder.clone());
                Ok(())
            }
            Answer::GoOn => match self.unwanted_since(holder).filter(|at| *at < asked) {
                Some(_) => Err(format!(
                    "{holder} was told to go on with what is not its own"
                )),
                None => Ok(()),
            },
        }
    }

    /// A result was taken. True where that is nothing new.
    pub(crate) fn take(&mut self, holder: &Holder, asked: Time, now: Time) -> Result<bool, String> {
        if let Some((known, _)) = self.taken.get(&holder.job) {
            return if known == holder {
                Ok(true)
            } else {
                Err(format!(
                    "the results of {known} and {holder} were both taken"
                ))
            };
        }
        if self.follower(holder).is_some_and(|at| at < asked) {
            return Err(format!(
                "the result of {holder} was taken, and somebody else has the job"
            ));
        }
        let again = self.perhaps.contains(holder);
        self.taken.insert(holder.job.clone(), (holder.clone(), now));
        Ok(again)
    }

    /// A result has come in; who is heard of no more may have had it taken.
    pub(crate) fn hear_result(&mut self, holder: &Holder) {
        self.perhaps.insert(holder.clone());
    }

    /// A result was refused.
    pub(crate) fn refuse(&mut self, holder: &Holder) -> Result<(), String> {
        self.perhaps.remove(holder);
        match self.taken.get(&holder.job) {
            Some((known, _)) if known == holder => {
                Err(format!("a repeated result of {holder} was refused"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// May what this runner has made be merged?
    pub(crate) fn counts(&self, holder: &Holder) -> bool {
        match self.taken.get(&holder.job) {
            Some((known, _)) => known == holder,
            None => self.perhaps.contains(holder),
        }
    }

    /// Was it told to end what it does?
    pub(crate) fn was_told(&self, holder: &Holder) -> bool {
        self.told.contains(holder)
    }

    /// Does somebody work on longer than can be explained?
    pub(crate) fn outlived(&self, holder: &Holder, now: Time) -> bool {
        let (Some(calm), Some(unwanted)) = (self.calm_since, self.unwanted_since(holder)) else {
            return false;
        };
        now.duration_since(calm.max(unwanted)).as_secs() > AFTERLIFE_SECONDS_MAX
    }

    /// Since when its work is for nothing, as far as that was seen.
    fn unwanted_since(&self, holder: &Holder) -> Option<Time> {
        let over = self.taken.get(&holder.job).map(|(_, at)| *at);
        let stopped = self.stopped.get(&holder.job).copied();
        [over, stopped, self.follower(holder)]
            .into_iter()
            .flatten()
            .min()
    }

    /// When the job was given away again.
    fn follower(&self, holder: &Holder) -> Option<Time> {
        let later = (holder.job.clone(), holder.fence + 1)..=(holder.job.clone(), u64::MAX);
        self.given.range(later).map(|(_, (_, at))| *at).min()
    }
}
