//! One invocation of a function that acts or looks. What woke it carries no
//! data but ids: lost, doubled or reordered, it does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{Instrument as _, error, info, warn};

use crate::config::Live;
use crate::engine::{Engine, Parked, Rest, Work};
use crate::issue::{IssueId, LEASE_SECONDS, Time};
use crate::stats;
use crate::store::dynamo::Wake;

/// Drives of issues at the same time in one invocation.
const DRIVES_AT_ONCE: usize = 16;
/// Nothing is begun in the last part of an invocation, so that every call which
/// is under way comes to its end before the platform kills us.
const LAST_CALLS: SignedDuration = SignedDuration::from_secs(LEASE_SECONDS);
/// How long one tick of the schedule looks, before the next one takes over.
const LOOKING: SignedDuration = SignedDuration::from_secs(50);
/// So much longer than a tick a look may take, to write down what it saw.
const LOOK_GRACE: Duration = Duration::from_secs(30);
/// A look is never repeated sooner than this.
const PAUSE_MIN: SignedDuration = SignedDuration::from_secs(2);
/// Records of which it is worth telling why they were skipped.
const SKIPPED_TOLD_MAX: usize = 1;

/// A batch of the table's stream: drives the issues that it names. Answers with
/// the records that shall be delivered again (`batchItemFailures`): those whose
/// issue could not be driven to its rest. What cannot be read is skipped, or it
/// would stand in the way of everything behind it.
pub async fn on_stream(engine: &Arc<Engine>, event: &Value, deadline: Time) -> Value {
    let mut records: BTreeMap<IssueId, Vec<&str>> = BTreeMap::new();
    let mut looks = BTreeSet::new();
    let mut skipped = 0;
    for record in event["Records"].as_array().into_iter().flatten() {
        let number = record["dynamodb"]["SequenceNumber"].as_str();
        match number.zip(Wake::read(record)) {
            Some((number, Wake::Act(issue))) => records.entry(issue).or_default().push(number),
            // Nothing is lost with a hint: the schedule looks too.
            Some((_, Wake::Look(issue))) => drop(looks.insert(issue)),
            None => {
                skipped += 1;
                metrics::counter!(stats::RECORDS_SKIPPED).increment(1);
                if skipped <= SKIPPED_TOLD_MAX {
                    let id = record["eventID"].as_str().unwrap_or_default();
                    error!("skipped a record of the stream that is none of ours: `{id}`");
                }
            }
        }
    }
    if !event["Records"].is_array() {
        metrics::counter!(stats::RECORDS_SKIPPED).increment(1);
        error!("skipped an event that is no batch of the stream");
    }
    let until = deadline - LAST_CALLS;
    let looks: Vec<IssueId> = looks.into_iter().collect();
    let named = records.keys().cloned().map(Job::Act);
    let (unrest, _) = tokio::join!(
        drive(engine, named, until),
        look_and_drive(engine, &looks, until)
    );
    let again: Vec<Value> = unrest
        .iter()
        .filter_map(|issue| records.get(issue))
        .flatten()
        .map(|number| json!({ "itemIdentifier": number }))
        .collect();
    json!({ "batchItemFailures": again })
}

/// A tick of the schedule: looks at what runs and drives what has moved, again
/// and again while it is worth it. Where nothing waits it asks once and is gone.
pub async fn on_schedule(engine: &Arc<Engine>, live: &Live, deadline: Time) -> anyhow::Result<()> {
    let clock = Arc::clone(&engine.hands().clock);
    let until = (clock.now() + LOOKING).min(deadline - LAST_CALLS);
    let mut idle = true;
    loop {
        let survey = engine.survey().await?;
        idle &= survey.watching.is_empty() && survey.due.is_empty();
        let due = survey.due.iter().cloned().map(Job::Act);
        // Who is slow to answer holds up nobody for whom something is due.
        tokio::join!(
            drive(engine, due, until),
            look_and_drive(engine, &survey.watching, until)
        );
        let now = clock.now();
        let again_at = engine.again_at(&survey).map(|at| at.max(now + PAUSE_MIN));
        idle &= again_at.is_none();
        let Some(again_at) = again_at.filter(|at| *at < until) else {
            // Where nothing runs nothing is spent.
            if !idle && let Some(max) = live.renewed().await.costs.per_day_max {
                tell_spent(engine, max).await;
            }
            return Ok(());
        };
        sleep(again_at.duration_since(now).unsigned_abs()).await;
    }
}

async fn tell_spent(engine: &Engine, day_usd_max: f64) {
    let hands = engine.hands();
    let today = stats::accounts_of(stats::Period::Day, hands.clock.now());
    match hands.log.accounts(&today).await {
        Ok(accounts) => {
            let today = accounts.into_iter().next().unwrap_or_default();
            stats::spent(&today, day_usd_max);
        }
        Err(error) => warn!("could not read what was spent today: {error:#}"),
    }
}

/// Looks at issues and drives those where something has moved. A look that does
/// not come to its end is given up: what it has seen so far is seen again.
async fn look_and_drive(engine: &Arc<Engine>, issues: &[IssueId], until: Time) {
    let left = until
        .duration_since(engine.hands().clock.now())
        .unsigned_abs();
    let work = match timeout(left + LOOK_GRACE, engine.look_at(issues, until)).await {
        Ok(Ok(work)) => work,
        Ok(Err(error)) => return error!("could not look at what runs: {error:#}"),
        Err(_) => return error!("the look at {} issues took too long", issues.len()),
    };
    drive(engine, work.into_iter().map(Job::Drive), until).await;
}

/// How an issue is taken up.
enum Job {
    Act(IssueId),
    /// From what was claimed for it.
    Drive(Work),
}

/// Drives issues until nothing is due, and returns those that did not come to
/// their rest.
async fn drive(engine: &Arc<Engine>, jobs: impl Iterator<Item = Job>, until: Time) -> Vec<IssueId> {
    let mut waiting: Vec<Job> = jobs.collect();
    // The first one is taken from the end.
    waiting.reverse();
    let mut work = JoinSet::new();
    let mut names = BTreeMap::new();
    let mut unrest = Vec::new();
    loop {
        while work.len() < DRIVES_AT_ONCE
            && let Some(job) = waiting.pop()
        {
            let engine = Arc::clone(engine);
            let issue = match &job {
                Job::Act(id) => id.clone(),
                Job::Drive(work) => work.issue().clone(),
            };
            let drive = async move {
                match job {
                    Job::Act(id) => engine.act(&id, until).await,
                    Job::Drive(work) => engine.drive(work, until).await,
                }
            };
            // What it logs belongs to this invocation.
            let drive = work.spawn(drive.in_current_span());
            names.insert(drive.id(), issue);
        }
        let Some(done) = work.join_next_with_id().await else {
            return unrest;
        };
        let (id, driven) = match done {
            Ok((id, driven)) => (id, driven),
            // A bug: said once, loudly; the issue is tried again, the others go on.
            Err(error) => (
                error.id(),
                Err(anyhow::anyhow!("the drive broke off: {error}")),
            ),
        };
        let Some(issue) = names.remove(&id) else {
            continue;
        };
        match driven {
            Ok(Rest::Reached) => {}
            Ok(Rest::OutOfTime) => {
                info!(%issue, "out of time: another invocation goes on");
                unrest.push(issue);
            }
            Err(error) if error.is::<Parked>() => {
                warn!(%issue, "passed over a parked issue");
            }
            Err(error) => {
                error!(%issue, "could not drive the issue: {error:#}");
                unrest.push(issue);
            }
        }
    }
}
