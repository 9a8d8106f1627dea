//! Durable steps per second: what the store does on this machine, beside a
//! plain one that commits every step alone.
//!
//! One workflow is a plan, ten parallel tasks and an end, as the log of an
//! issue remembers them. A step is one append; it counts when it is durable.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use shared::issue::{
    Activity, Effect, Ending, Event, ExecutorKind, Outcome, Reservation, RoundOutcome, RunResult,
    Spec, TaskId, TaskKind, Time, utc_day,
};
use shared::ports::{Append, Head, Log};
use shared::store::sqlite::SqliteLog;

/// Issues in flight at the same time.
const CROWDS: [usize; 3] = [1, 32, 128];
/// How long each measurement lasts.
const LASTS: Duration = Duration::from_secs(3);
const TASKS: usize = 10;
/// What the store has to reach with the largest crowd, steps per second.
const STEPS_MIN: f64 = 20_000.0;
const SYNCS: usize = 200;

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let runtime = tokio::runtime::Runtime::new()?;
    println!(
        "one fsync of 4 KB: {:.2} ms (median)",
        median_sync(folder.path())?.as_secs_f64() * 1e3
    );
    println!(
        "\n{:>9}  {:<22} {:>9} {:>9} {:>9} {:>13}",
        "in flight", "store", "steps/s", "p50 ms", "p99 ms", "steps/commit"
    );
    let mut reached = 0.0;
    for crowd in CROWDS {
        let ours = runtime.block_on(measure_ours(folder.path(), crowd))?;
        let plain = measure_plain(folder.path(), crowd)?;
        ours.print(crowd, "group commit");
        plain.print(crowd, "one commit per append");
        println!(
            "{:>9}  {:<22} {:>8.1}x",
            "",
            "ratio",
            ours.rate() / plain.rate()
        );
        reached = ours.rate();
    }
    let (commits, steps, took) = runtime.block_on(alone(folder.path()))?;
    println!(
        "\none issue alone, its tasks driven together: {commits} commits for {steps} levels, {:.1} ms",
        took.as_secs_f64() * 1e3
    );
    let verdict = if reached >= STEPS_MIN {
        "reached"
    } else {
        "MISSED"
    };
    let largest = CROWDS[CROWDS.len() - 1];
    println!("to reach with {largest} in flight: {STEPS_MIN:.0} steps/s: {verdict} ({reached:.0})");
    Ok(())
}

/// What a measurement brought.
struct Measured {
    latencies: Vec<Duration>,
    took: Duration,
    commits: u64,
}

impl Measured {
    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    fn print(&self, crowd: usize, store: &str) {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let ms = |part: f64| {
            let at = ((sorted.len() - 1) as f64 * part) as usize;
            sorted[at].as_secs_f64() * 1e3
        };
        println!(
            "{crowd:>9}  {store:<22} {:>9.0} {:>9.2} {:>9.2} {:>13.1}",
            self.rate(),
            ms(0.5),
            ms(0.99),
            sorted.len() as f64 / self.commits as f64
        );
    }
}

async fn measure_ours(folder: &Path, crowd: usize) -> anyhow::Result<Measured> {
    let log = Arc::new(SqliteLog::open(&folder.join(format!("ours-{crowd}.db")))?);
    let start = Instant::now();
    let mut issues = tokio::task::JoinSet::new();
    for issue in 0..crowd {
        let log = Arc::clone(&log);
        issues.spawn(async move {
            let mut latencies = Vec::new();
            for round in 0.. {
                for append in workflow(&format!("issue-{issue}-{round}"), &steps(false)) {
                    if start.elapsed() > LASTS {
                        return Ok(latencies);
                    }
                    let begun = Instant::now();
                    log.append(append).await?;
                    latencies.push(begun.elapsed());
                }
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(one) = issues.join_next().await {
        latencies.extend(one??);
    }
    Ok(Measured {
        latencies,
        took: start.elapsed(),
        commits: log.commits(),
    })
}

/// The plain way: one connection behind a lock, a transaction per step.
fn measure_plain(folder: &Path, crowd: usize) -> anyhow::Result<Measured> {
    let connection = Connection::open(folder.join(format!("plain-{crowd}.db")))?;
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
         CREATE TABLE events (issue TEXT, seq INTEGER, at INTEGER, event TEXT, PRIMARY KEY (issue, seq)) WITHOUT ROWID;
         CREATE TABLE heads (issue TEXT PRIMARY KEY, seq INTEGER, attention_at INTEGER, head TEXT) WITHOUT ROWID;
         CREATE INDEX heads_by_attention ON heads (attention_at) WHERE attention_at IS NOT NULL;",
    )?;
    let connection = Mutex::new(connection);
    let commits = AtomicU64::new(0);
    let start = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..crowd)
            .map(|issue| {
                let (connection, commits) = (&connection, &commits);
                scope.spawn(move || {
                    let mut latencies = Vec::new();
                    for round in 0.. {
                        for append in workflow(&format!("issue-{issue}-{round}"), &steps(false)) {
                            if start.elapsed() > LASTS {
                                return Ok(latencies);
                            }
                            let begun = Instant::now();
                            append_plain(connection, &append)?;
                            commits.fetch_add(1, Ordering::Relaxed);
                            latencies.push(begun.elapsed());
                        }
                    }
                    anyhow::Ok(latencies)
                })
            })
            .collect();
        let mut latencies = Vec::new();
        for thread in threads {
            latencies.extend(
                thread
                    .join()
                    .map_err(|_| anyhow::anyhow!("a thread panicked"))??,
            );
        }
        anyhow::Ok(latencies)
    })?;
    Ok(Measured {
        latencies,
        took: start.elapsed(),
        commits: commits.into_inner(),
    })
}

fn append_plain(connection: &Mutex<Connection>, append: &Append) -> anyhow::Result<()> {
    let mut connection = connection
        .lock()
        .map_err(|_| anyhow::anyhow!("another thread panicked"))?;
    let issue = append.issue.0.as_str();
    let nanoseconds = |at: Time| i64::try_from(at.as_nanosecond());
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let seq: Option<i64> = transaction
        .prepare_cached("SELECT seq FROM heads WHERE issue = ?1")?
        .query_row([issue], |row| row.get(0))
        .optional()?;
    anyhow::ensure!(
        seq.unwrap_or(0) == append.after.cast_signed(),
        "the issue has moved on"
    );
    for (seq, event) in (append.after.cast_signed() + 1..).zip(&append.events) {
        transaction
            .prepare_cached("INSERT INTO events VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![
                issue,
                seq,
                nanoseconds(append.at)?,
                serde_json::to_string(event)?
            ])?;
    }
    let head = &append.head;
    transaction
        .prepare_cached("INSERT OR REPLACE INTO heads VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            issue,
            head.seq.cast_signed(),
            head.attention_at.map(nanoseconds).transpose()?,
            serde_json::to_string(head)?
        ])?;
    transaction.commit()?;
    Ok(())
}

/// One issue alone waits for one commit per level of its graph, because what
/// its tasks do at the same time is one step.
async fn alone(folder: &Path) -> anyhow::Result<(u64, usize, Duration)> {
    let log = SqliteLog::open(&folder.join("alone.db"))?;
    let steps = steps(true);
    let start = Instant::now();
    for append in workflow("issue", &steps) {
        log.append(append).await?;
    }
    Ok((log.commits(), steps.len(), start.elapsed()))
}

/// What one task does at one level of the graph.
type Level<'a> = &'a dyn Fn(&TaskId) -> Vec<Event>;

/// The steps of a workflow; `together`: what all tasks do at once is one step.
fn steps(together: bool) -> Vec<Vec<Event>> {
    let session = || "9c1f3c5e-6c0e-4d0a-8f0e-1a2b3c4d5e6f".into();
    let say = |text: &str| {
        Event::Requested(Effect::Say {
            session: session(),
            activity: Activity::Thought(text.repeat(4)),
        })
    };
    let start = |task: &TaskId| {
        [
            Event::Routed {
                task: task.clone(),
                executor: ExecutorKind::Codegen,
                why: "hybrid-parallel sends a builder to the cloud, where all can run at once"
                    .into(),
                instead_of: None,
            },
            Event::Requested(Effect::Start {
                task: task.clone(),
                attempt: 1,
                executor: ExecutorKind::Codegen,
                reserved: Some(Reservation {
                    usd: 0.4,
                    day: utc_day(at(60)),
                    day_max_usd: Some(50.0),
                }),
                repair: false,
            }),
        ]
    };
    let claimed = || Event::Claimed {
        key: 7,
        until: at(60),
    };
    let done = |outcome: Outcome| Event::Performed { key: 7, outcome };
    let run = || Outcome::Started {
        run: "123456".into(),
        url: None,
        begun: true,
    };
    let ended = |task: &TaskId| Event::Ended {
        task: task.clone(),
        ending: Ending {
            result: Ok(RunResult {
                text: "Added the endpoint and its tests. ".repeat(20),
                ..RunResult::default()
            }),
            cost_usd: None,
            cost_is_estimate: false,
        },
        cost_usd: 0.4,
        cost_is_estimate: true,
    };
    let plan = TaskId::from("plan");
    let tasks: Vec<TaskId> = (0..TASKS).map(|it| TaskId(format!("task-{it}"))).collect();
    let planned = Event::Planned {
        summary: "Ten changes that do not depend on each other".into(),
        tasks: tasks.iter().map(spec).collect(),
    };
    let sha = || "0123456789abcdef0123456789abcdef01234567".to_owned();

    let mut steps = vec![
        vec![
            Event::Prompted {
                session: session(),
                activity: "a".into(),
                text: "Please do it".into(),
            },
            say("I have received your request. "),
            Event::Requested(Effect::Fetch),
        ],
        vec![claimed(), claimed()],
        [
            vec![
                done(Outcome::Done),
                done(Outcome::Done),
                Event::Laid {
                    tasks: vec![spec(&plan)],
                },
            ],
            start(&plan).to_vec(),
        ]
        .concat(),
        vec![claimed()],
        vec![done(run())],
        [
            vec![ended(&plan), planned],
            tasks.iter().flat_map(start).collect(),
        ]
        .concat(),
    ];
    let levels: [Level<'_>; 6] = [
        &|_| vec![claimed()],
        &|_| vec![done(run())],
        &|task| vec![ended(task)],
        &|task| {
            vec![
                Event::HeadSeen {
                    task: task.clone(),
                    number: 17,
                    url: "https://github.com/acme/shop/pull/17".into(),
                    branch: format!("cyrus/eng-42/{task}"),
                    sha: sha(),
                },
                Event::Approved {
                    task: task.clone(),
                    sha: sha(),
                    why: "2 checks have succeeded".into(),
                    behind: false,
                },
                Event::Requested(Effect::Merge {
                    task: task.clone(),
                    number: 17,
                    sha: sha(),
                }),
            ]
        },
        &|_| vec![claimed()],
        &|task| {
            vec![
                done(Outcome::Merged { sha: sha() }),
                Event::Merged {
                    task: task.clone(),
                    sha: sha(),
                },
            ]
        },
    ];
    for level in levels {
        let of_tasks = tasks.iter().map(level);
        if together {
            steps.push(of_tasks.flatten().collect());
        } else {
            steps.extend(of_tasks);
        }
    }
    steps.extend([
        vec![Event::Reported, say("All ten changes are merged. ")],
        vec![claimed()],
        vec![
            done(Outcome::Done),
            Event::Done {
                outcome: RoundOutcome::Succeeded,
            },
        ],
    ]);
    steps
}

/// The appends of an issue's steps, one after another.
fn workflow(issue: &str, steps: &[Vec<Event>]) -> impl Iterator<Item = Append> + Send {
    let issue = issue.to_owned();
    let last = steps.len() - 1;
    let steps = steps.to_vec();
    steps
        .into_iter()
        .enumerate()
        .scan(0, move |seq, (step, events)| {
            let after = *seq;
            *seq += events.len() as u64;
            let head = Head {
                issue: issue.as_str().into(),
                seq: *seq,
                identifier: issue.clone(),
                title: "Shop: ten small changes".into(),
                url: "https://linear.app/acme/issue/ENG-42/shop-ten-small-changes".into(),
                phase: "working".into(),
                outcome: None,
                waiting_for: None,
                spent_usd: 0.4,
                reserved_usd: 0.0,
                raised_usd: Some(10.0),
                tasks_done: 3,
                tasks_total: TASKS + 1,
                started_at: at(0),
                finished_at: None,
                attention_at: (step < last).then(|| at(step as i64)),
                watching: step > 3 && step < last,
            };
            Some(Append {
                issue: issue.as_str().into(),
                after,
                at: at(step as i64),
                events,
                head,
                entries: Vec::new(),
            })
        })
}

fn spec(task: &TaskId) -> Spec {
    Spec {
        id: task.clone(),
        title: format!("Change {task}"),
        kind: TaskKind::Builder,
        prompt: "Add the endpoint, validate its input, and write tests for both. ".repeat(8),
        depends_on: vec![],
        complexity: None,
        requires_isolation: false,
        acceptance: vec!["cargo test passes".into()],
        paths: vec!["src/**".into()],
        judges: None,
        issue: None,
    }
}

fn at(second: i64) -> Time {
    Time::UNIX_EPOCH + jiff::SignedDuration::from_secs(1_790_000_000 + second)
}

/// What the disk itself takes to make a page durable.
fn median_sync(folder: &Path) -> anyhow::Result<Duration> {
    use std::io::Write;
    let mut file = std::fs::File::create(folder.join("sync"))?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all(&[0; 4096])?;
        let begun = Instant::now();
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(times[SYNCS / 2])
}
