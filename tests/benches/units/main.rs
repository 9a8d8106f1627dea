//! What an issue costs in capacity units of DynamoDB, from the webhook to the
//! last word, as the emulator counts them: for issues of several sizes, on an
//! empty table and on one where many issues lie that are over.
//!
//! Three engines on one table, as the three functions are: one hears, one is
//! woken by what is left to do, one looks and drives what has moved. Calls to
//! the outside take their time, so nothing is cheaper here for being quick.

mod meter;
mod stand_ins;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use shared::engine::Engine;
use shared::issue::{IssueId, Time};
use shared::ports::{Append, Clock as _, Hands, Log};
use shared::store::dynamo::{Consumed, DynamoLog};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;
use world::dynamo::{Emulator, create_table};

use self::meter::{Count, Meter};
use self::stand_ins::{Outside, delegation};

/// The sizes of issues, in tasks.
const SIZES: [usize; 3] = [1, 5, 20];
/// What each task more may cost, from its start to its merge.
const WRITE_UNITS_PER_TASK_MAX: f64 = 60.0;
/// The issues that are over in the table of the second round.
const OVER: usize = 200;
/// By how much the second round may differ: which answers come back together
/// is left to chance.
const DIFFERENCE_MAX: f64 = 0.15;
/// From the stream to the function, about a tenth of what it takes on AWS.
const HOP: Duration = Duration::from_millis(20);
/// The schedule wakes the poller this often.
const SCHEDULE: SignedDuration = SignedDuration::from_mins(1);
/// The poller does not look again sooner than this.
const PAUSE_MIN: SignedDuration = SignedDuration::from_secs(2);
/// An issue that takes more looks than this has hung.
const LOOKS_MAX: usize = 2_000;
/// The commonest appends that are shown.
const KINDS_SHOWN: usize = 20;
const TABLE: &str = "cyrus";

/// What one issue came to.
struct Measured {
    tasks: usize,
    units: Consumed,
    count: Count,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let emulator = Emulator::start()?;
    let client = emulator.client();
    create_table(&client, TABLE).await?;
    println!("on an empty table");
    let first = round(&client, 0).await?;
    let sample = &first[0].count.written;
    fill(&DynamoLog::new(&client, TABLE), sample).await?;
    println!("\nwith {OVER} issues that are over");
    let second = round(&client, SIZES.len()).await?;
    show_kinds(&first[SIZES.len() - 1].count);
    Ok(judge(&first, &second))
}

/// An issue of each size.
async fn round(client: &aws_sdk_dynamodb::Client, from: usize) -> anyhow::Result<Vec<Measured>> {
    println!(
        "{:>6} {:>12} {:>9} {:>11} {:>9} {:>8} {:>9} {:>8} {:>7} {:>12} {:>11}",
        "tasks",
        "write units",
        "per task",
        "read units",
        "per task",
        "appends",
        "per task",
        "refused",
        "moves",
        "batch bytes",
        "head bytes"
    );
    let mut all = Vec::new();
    for (at, tasks) in SIZES.into_iter().enumerate() {
        let store = Arc::new(DynamoLog::new(client, TABLE));
        let count = play(&store, tasks, from + at).await?;
        let measured = Measured {
            tasks,
            units: store.consumed(),
            count,
        };
        measured.print();
        all.push(measured);
    }
    Ok(all)
}

/// Says what each task more costs, from one size to the next, and whether that
/// is little enough and the same with and without what is over.
fn judge(first: &[Measured], second: &[Measured]) -> ExitCode {
    let mut good = true;
    let mut mind = |holds: bool, what: String| {
        println!("{} {what}", if holds { "reached:" } else { "MISSED:" });
        good &= holds;
    };
    println!();
    for round in [first, second] {
        for pair in round.windows(2) {
            let [small, large] = pair else { continue };
            let more = (large.units.write - small.units.write) / (large.tasks - small.tasks) as f64;
            let sizes = format!("from {} to {} tasks", small.tasks, large.tasks);
            mind(
                more <= WRITE_UNITS_PER_TASK_MAX,
                format!(
                    "{sizes}: {more:.1} write units for each task more, of {WRITE_UNITS_PER_TASK_MAX}"
                ),
            );
        }
    }
    for (before, after) in first.iter().zip(second) {
        for (what, before, after) in [
            ("write", before.units.write, after.units.write),
            ("read", before.units.read, after.units.read),
        ] {
            mind(
                after <= before * (1.0 + DIFFERENCE_MAX),
                format!("{before} {what} units, and {after} with {OVER} issues that are over"),
            );
        }
    }
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

impl Measured {
    fn print(&self) {
        let (count, tasks) = (&self.count, self.tasks as f64);
        println!(
            "{:>6} {:>12} {:>9.1} {:>11} {:>9.1} {:>8} {:>9.1} {:>8} {:>7} {:>12} {:>11}",
            self.tasks,
            self.units.write,
            self.units.write / tasks,
            self.units.read,
            self.units.read / tasks,
            count.appends,
            count.appends as f64 / tasks,
            count.refused,
            count.moves,
            count.event_bytes,
            count.head_bytes,
        );
    }
}

fn show_kinds(count: &Count) {
    println!("\nthe commonest appends of the largest issue");
    let mut kinds: Vec<_> = count.kinds.iter().collect();
    kinds.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
    for (kind, n) in kinds.into_iter().take(KINDS_SHOWN) {
        println!("{n:>6}  {kind}");
    }
}

/// Writes the same appends again, for many issues with other names.
async fn fill(log: &DynamoLog, sample: &[Append]) -> anyhow::Result<()> {
    for at in 0..OVER {
        let issue = IssueId(Uuid::from_u64_pair(u64::MAX, at as u64).to_string());
        for append in sample {
            let mut append = append.clone();
            append.issue = issue.clone();
            append.head.issue = issue.clone();
            append.head.identifier = format!("OLD-{at}");
            log.append(append).await?;
        }
    }
    Ok(())
}

/// One issue from its delegation to its last word.
async fn play(store: &Arc<DynamoLog>, tasks: usize, at: usize) -> anyhow::Result<Count> {
    let outside = Outside::new(tasks as u64);
    let (bell, rings) = mpsc::unbounded_channel();
    let meter = Arc::new(Meter::new(Arc::clone(store) as Arc<dyn Log>, bell));
    let engine = || {
        Engine::new(Hands {
            log: Arc::clone(&meter) as Arc<dyn Log>,
            registers: Arc::clone(store) as Arc<dyn shared::ports::Registers>,
            tracker: Arc::new(outside.clone()),
            forge: Arc::new(outside.clone()),
            executors: vec![Arc::new(outside.clone())],
            policies: Arc::new(outside.clone()),
            clock: Arc::new(outside.clone()),
        })
    };
    let (hears, acts, looks) = (engine(), engine(), engine());
    let (at_work, mut works) = watch::channel(true);
    let orchestrator = tokio::spawn(orchestrate(acts, rings, at_work));
    let (issue, input) = delegation(at, tasks, outside.now());
    hears.hear(&issue, input).await?;
    for _ in 0..LOOKS_MAX {
        works.wait_for(|it| !it).await?;
        let survey = looks.survey().await?;
        for work in looks.look_at(&survey.watching, Time::MAX).await? {
            looks.drive(work, Time::MAX).await?;
        }
        for id in &survey.due {
            looks.act(id, Time::MAX).await?;
        }
        if meter.is_over() {
            orchestrator.abort();
            return Ok(meter.take());
        }
        let now = outside.now();
        let next = looks.again_at(&survey).unwrap_or(Time::MAX);
        outside.pass_until(next.clamp(now + PAUSE_MIN, now + SCHEDULE));
    }
    anyhow::bail!("the issue with {tasks} tasks has not come to its end")
}

/// Drives what the stream names, as a mapping does it: one invocation at a time
/// for an issue, with all that has come together by then.
async fn orchestrate(
    engine: Engine,
    mut rings: UnboundedReceiver<IssueId>,
    at_work: watch::Sender<bool>,
) -> anyhow::Result<()> {
    loop {
        if rings.is_empty() {
            at_work.send_replace(false);
        }
        let Some(first) = rings.recv().await else {
            return Ok(());
        };
        at_work.send_replace(true);
        let mut issues = BTreeSet::from([first]);
        tokio::time::sleep(HOP).await;
        while let Ok(issue) = rings.try_recv() {
            issues.insert(issue);
        }
        for issue in issues {
            engine.act(&issue, Time::MAX).await?;
        }
    }
}
