//! Going on with a run that has ended: a repair is another turn of the same run.
//!
//! A resume knows no idempotency key either. It cannot set `metadata`, and the run
//! keeps its number, so the list of runs says nothing of it. Our key stands at the
//! end of the prompt instead. Where the reply to a resume was lost, three things
//! show that it was made: the run's log holds our key; the run is at work, which it
//! was not before (it was read); or it has ended with other words than before, which
//! only the process knows that read it. The log is an alpha endpoint, and what of a
//! message it shows is not documented, so it proves a resume and disproves none. Where
//! nothing shows, that is not certain. If the message then comes a second time, it
//! comes to the same run, and there never are two.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::run::Run;
use super::{
    Client, LOOKUP_SECONDS, NAME_BYTES_MAX, REQUEST_SECONDS, SETTLE_SECONDS, digest, lock, number,
    unreadable,
};
use crate::codegen::http::Gap;
use crate::issue::{FailureClass, Fault, RunId, Sight, clip};
use crate::ports::{Job, Repair, Settlement, Started};

/// A run that is at work is asked again after this long: Codegen mends red checks
/// by itself, and that takes minutes.
const AT_WORK_SECONDS: u32 = 60;
/// The newest entries of a run's log that are read. They can be long, and our
/// message is young when it is looked for.
const LOG_ENTRIES: usize = 20;
/// Resumes of which is kept what stood in the run before.
const BEFORE_MAX: usize = 1000;

// Run and log are read one after the other.
const _: () = assert!(2 * REQUEST_SECONDS <= SETTLE_SECONDS);

/// The run that a job goes on with, if it goes on with one.
pub(super) fn asked(job: &Job) -> Option<(&RunId, &Repair)> {
    let repair = job.repair.as_ref()?;
    Some((repair.run.as_ref()?, repair))
}

impl Client {
    /// Sends a run that has ended back to work.
    pub(super) async fn resume(
        &self,
        job: &Job,
        run: &RunId,
        repair: &Repair,
    ) -> Result<Started, Fault> {
        let id = number(run)?;
        let before = timeout(Duration::from_secs(LOOKUP_SECONDS), self.one(id))
            .await
            .unwrap_or_else(|_| {
                let why = format!("Codegen did not tell its run in {LOOKUP_SECONDS} s");
                Err(Fault::Transient { why })
            })?;
        let before = before.ok_or_else(|| gone(run))?;
        if before.is_at_work() {
            return Err(at_work(run));
        }
        self.remember(job, &before);
        let body = json!({ "agent_run_id": id, "prompt": follow_up(job, repair) });
        let path = self.path(&["agent", "run", "resume"])?;
        let answer = match self.http.call(Method::POST, &path, &[], Some(&body)).await {
            Ok(answer) => answer,
            Err(Gap::NotSent(fault)) => return Err(fault),
            Err(Gap::ReplyLost(why)) => return Err(Fault::Ambiguous { why }),
        };
        if answer.status.is_success() {
            let read = answer.json().ok().as_ref().and_then(Run::read);
            let read = read.filter(|it| it.id == id);
            return read.map(taken_up).ok_or_else(|| Fault::Ambiguous {
                why: unreadable(&answer).to_string(),
            });
        }
        if answer.may_have_been_done() {
            return Err(Fault::Ambiguous {
                why: answer.describe(),
            });
        }
        Err(match answer.status {
            StatusCode::NOT_FOUND => gone(run),
            // It has begun to work since it was read.
            StatusCode::CONFLICT => at_work(run),
            _ => answer.fault(),
        })
    }

    /// Finds out whether a resume whose reply was lost has been made.
    pub(super) async fn resumed(&self, job: &Job, run: &RunId) -> Result<Settlement, Fault> {
        let id = number(run)?;
        let absent = Settlement::Absent { certain: false };
        let Some(read) = self.one(id).await? else {
            return Ok(absent);
        };
        let other = lock(&self.before)
            .get(&job.key)
            .is_some_and(|it| *it != digest(&[&read.end()]));
        let found = read.is_at_work() || other || self.is_logged(job, id).await?;
        Ok(if found {
            Settlement::Found(taken_up(read))
        } else {
            absent
        })
    }

    /// Does the run's log show our message?
    async fn is_logged(&self, job: &Job, id: i64) -> Result<bool, Fault> {
        let id = id.to_string();
        let mut path = self.path(&["agent", "run", &id, "logs"])?;
        path.insert(1, "alpha");
        let limit = LOG_ENTRIES.to_string();
        let query = [
            ("skip", "0"),
            ("limit", limit.as_str()),
            ("reverse", "true"),
        ];
        let answer = self.http.call(Method::GET, &path, &query, None).await?;
        if answer.status.is_client_error() && answer.status != StatusCode::TOO_MANY_REQUESTS {
            // Alpha: it may be gone one day, or be for others.
            return Ok(false);
        }
        let logs = answer.expect_json()?["logs"].take();
        // Whichever field it stands in.
        let has_key = |it: &Value| it.to_string().contains(&key_words(job));
        Ok(logs.as_array().is_some_and(|it| it.iter().any(has_key)))
    }

    fn remember(&self, job: &Job, run: &Run) {
        let mut before = lock(&self.before);
        if before.len() >= BEFORE_MAX {
            before.clear();
        }
        before.insert(job.key.clone(), digest(&[&run.end()]));
    }
}

/// What the run reads, with what Codegen has no parameter for.
fn follow_up(job: &Job, repair: &Repair) -> String {
    let (branch, base) = (&job.branch, &job.repository.base_branch);
    let merge = if repair.conflict {
        format!(" First merge `{base}` into it, and resolve the conflicts.")
    } else {
        String::new()
    };
    format!(
        "{}\n\nGo on on the branch `{branch}`.{merge} Push to that branch; its pull request stays \
         the same one.\n\n<!-- {}-->\n",
        repair.message,
        key_words(job)
    )
}

/// By these words of a prompt a resume is known. The blank ends the key.
fn key_words(job: &Job) -> String {
    format!("cyrus-key:{} ", job.key)
}

/// A read may be behind: that it has ended says nothing of the turn that has just
/// been asked for, so it has begun only if it is seen at work.
fn taken_up(run: Run) -> Started {
    let begun = matches!(run.clone().into_sight(), Sight::Working);
    Started {
        run: RunId(run.id.to_string()),
        url: run.url,
        begun,
    }
}

fn at_work(run: &RunId) -> Fault {
    Fault::Busy {
        why: format!("the run {run} is still at work at Codegen"),
        retry_after_seconds: Some(AT_WORK_SECONDS),
    }
}

fn gone(run: &RunId) -> Fault {
    let run = clip(&run.0, NAME_BYTES_MAX);
    Fault::Permanent {
        class: FailureClass::Invalid,
        why: format!("the run {run} is gone at Codegen: it cannot be gone on with"),
    }
}
