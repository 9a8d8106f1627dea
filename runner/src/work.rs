//! The work of one job: make a worktree, let the agent work in it, and take
//! what came of it to the forge. Every step may be done again: whoever comes
//! next goes on from what the job's folder tells.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use shared::issue::words::pull_marker;
use shared::issue::{Ending, Failure, FailureClass, Fault, RunResult, clip};
use shared::ports::{Forge, Job, OpenAsk, Opened};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::agent::{Agent, Leg, known, located, outcome};
use crate::environment::AgentEnv;
use crate::executor::Tenure;
use crate::folder::{Exit, Folder, Launch, Standing};
use crate::process::{Doomed, kill_left_behind};
use crate::supervisor::{SWEEP_MAX, SWEEP_PAUSE};
use crate::worktree::{Git, Ground};

/// How often a supervisor that is not our own child is looked after.
const LOOK: Duration = Duration::from_millis(200);
/// How often a supervisor may be started that starts no agent.
const SUPERVISORS_MAX: u32 = 3;
/// How often opening a pull request is tried while the forge is down …
const OPEN_TRIES_MAX: u32 = 8;
/// … with pauses that double from here …
const OPEN_PAUSE: Duration = Duration::from_secs(1);
/// … up to here.
const OPEN_PAUSE_MAX: Duration = Duration::from_secs(60);
/// The agent's own words in a pull request, bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// The agent's own words in a sentence about its failure, bytes.
const WORDS_BYTES_MAX: usize = 500;
/// A name from outside as a part of a folder's name, characters.
const NAME_CHARS_MAX: usize = 40;

/// What all jobs work with.
pub(crate) struct Shop {
    pub(crate) git: Git,
    pub(crate) agents: BTreeMap<String, PathBuf>,
    pub(crate) agent_env: AgentEnv,
    pub(crate) supervisor: Vec<OsString>,
    pub(crate) forge: Arc<dyn Forge>,
    pub(crate) tenure: Arc<dyn Tenure>,
    /// Where worktrees go that the configuration names no place for.
    pub(crate) worktrees: PathBuf,
}

/// A person's wish that it ends; true once it is there.
pub(crate) type Stop = watch::Receiver<bool>;

/// Does what is left to do for a job.
pub(crate) async fn work(shop: &Shop, folder: &Folder, job: &Job, stop: &Stop) -> Ending {
    match steps(shop, folder, job, stop).await {
        Ok(ending) => ending,
        Err(error) => failed(Failure {
            class: FailureClass::Outage,
            message: format!("the runner cannot use its folder for this job: {error}"),
        }),
    }
}

/// Clears away what an ended job left beside its folder.
pub(crate) async fn tidy(shop: &Shop, folder: &Folder, job: &Job) -> io::Result<()> {
    let Some(launch) = folder.launch()? else {
        return Ok(());
    };
    if launch.worktree.exists() {
        shop.git.remove(&job.repository, &launch.worktree).await;
        let delivered = folder.result()?.is_some_and(|it| it.result.is_ok());
        if let Some(branch) = launch.branch.filter(|_| !delivered) {
            // The next attempt may have the name.
            shop.git.forget_branch(&job.repository, &branch).await;
        }
    }
    Ok(())
}

async fn steps(shop: &Shop, folder: &Folder, job: &Job, stop: &Stop) -> io::Result<Ending> {
    let mut supervisors = 0;
    loop {
        match folder.standing()? {
            Standing::Ended(ending) => return Ok(*ending),
            Standing::Supervised => sleep(LOOK).await,
            Standing::Exited(exit) => return finish(shop, folder, job, exit, stop).await,
            Standing::Abandoned(agent) => {
                let mut doomed = Doomed::default();
                let until = Instant::now() + SWEEP_MAX;
                while !kill_left_behind(&agent, &mut doomed) && Instant::now() < until {
                    sleep(SWEEP_PAUSE).await;
                }
                return Ok(failed(Failure {
                    class: FailureClass::Lost,
                    message: "the runner lost sight of the agent and has ended it".into(),
                }));
            }
            Standing::Fresh if stopped(folder, stop) => return Ok(unspent(cancelled())),
            Standing::Fresh if supervisors == SUPERVISORS_MAX => {
                return Ok(unspent(Failure {
                    class: FailureClass::Invalid,
                    message: "the runner's supervisor starts no agent: see `supervisor.err` in \
                              the job's folder"
                        .into(),
                }));
            }
            Standing::Fresh => {
                let mut asked = stop.clone();
                let prepared = tokio::select! {
                    biased;
                    _ = asked.wait_for(|it| *it) => return Ok(unspent(cancelled())),
                    prepared = prepare(shop, folder, job) => prepared,
                };
                match prepared? {
                    Ok(()) => supervise(shop, folder, job).await?,
                    Err(failure) => return Ok(unspent(failure)),
                }
                supervisors += 1;
            }
        }
    }
}

/// Makes the worktree, and writes down how the agent is to be started in it.
async fn prepare(shop: &Shop, folder: &Folder, job: &Job) -> io::Result<Result<(), Failure>> {
    let (agent, program) = match agent(shop, job) {
        Ok(found) => found,
        Err(failure) => return Ok(Err(failure)),
    };
    // What was chosen once holds: the branch may be there already, as ours.
    let ground = match folder.launch()? {
        Some(Launch {
            branch, base_sha, ..
        }) => Ground { branch, base_sha },
        None => {
            let branch = job.makes_pull().then_some(job.branch.as_str());
            match shop.git.survey(&job.repository, branch).await {
                Ok(ground) => ground,
                Err(failure) => return Ok(Err(failure)),
            }
        }
    };
    let schema = match &job.answer_schema {
        Some(schema) => Some(folder.set_schema(schema)?),
        None => None,
    };
    let worktree = worktree(shop, job);
    let leg = Leg {
        resume: None,
        cost_max: job.cost_max,
        worktree: worktree.clone(),
        schema,
        env: shop.agent_env.of(agent),
    };
    let launch = Launch {
        worktree,
        branch: ground.branch.clone(),
        base_sha: ground.base_sha.clone(),
        program,
        args: agent.args(job, &leg),
        seconds_max: u64::try_from(job.seconds_max).unwrap_or_default().max(1),
    };
    folder.set_launch(&launch, &agent.said(&job.key, &job.prompt))?;
    Ok(shop
        .git
        .make(&job.repository, &launch.worktree, &ground)
        .await)
}

/// The agent that the job asks for, and its program.
fn agent(shop: &Shop, job: &Job) -> Result<(&'static dyn Agent, PathBuf), Failure> {
    let agent = known(&job.agent.program)?;
    let program = located(agent, &shop.agents, shop.agent_env.path())?;
    Ok((agent, program))
}

fn worktree(shop: &Shop, job: &Job) -> PathBuf {
    let safe = |text: &str| -> String {
        text.chars()
            .take(NAME_CHARS_MAX)
            .map(|c| {
                if c.is_ascii_alphanumeric() || c == '-' {
                    c
                } else {
                    '_'
                }
            })
            .collect()
    };
    let base = match job.repository.workspace_dir.as_str() {
        "" => shop.worktrees.clone(),
        named => PathBuf::from(named),
    };
    // The whole key: two jobs must never share a worktree.
    base.join(format!(
        "{}-{}-{}",
        safe(&job.identifier),
        safe(&job.task.0),
        job.key
    ))
}

/// Starts a supervisor and waits until it has ended.
async fn supervise(shop: &Shop, folder: &Folder, job: &Job) -> io::Result<()> {
    let agent = known(&job.agent.program).map_err(|it| io::Error::other(it.message))?;
    let (program, args) = shop
        .supervisor
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no supervisor is named"))?;
    let mut child = Command::new(program)
        .args(args)
        .arg(folder.path())
        .env_clear()
        .envs(shop.agent_env.of(agent))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(folder.path().join("supervisor.err"))?)
        .spawn()?;
    child.wait().await?;
    Ok(())
}

/// Judges what the agent has done, and takes it to the forge.
async fn finish(
    shop: &Shop,
    folder: &Folder,
    job: &Job,
    exit: Exit,
    stop: &Stop,
) -> io::Result<Ending> {
    let launch = folder
        .launch()?
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "launch.json is gone"))?;
    let Ending { result, cost_usd } = {
        let agent = known(&job.agent.program).map_err(|it| io::Error::other(it.message))?;
        let folder = folder.clone();
        let asked = job.answer_schema.is_some();
        // It may be long.
        tokio::task::spawn_blocking(move || match File::open(folder.output()) {
            Ok(file) => {
                let output = BufReader::new(file);
                outcome(agent, output, &exit, &folder.complaint(), asked)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                outcome(agent, io::empty(), &exit, &folder.complaint(), asked)
            }
            Err(error) => Err(error),
        })
        .await
        .map_err(io::Error::other)??
    };
    let result = match result {
        Ok(_) if stopped(folder, stop) => Err(cancelled()),
        Ok(result) if job.makes_pull() => deliver(shop, folder, job, &launch, result, stop).await,
        other => other,
    };
    Ok(Ending { result, cost_usd })
}

/// A worktree with changes becomes a pull request.
async fn deliver(
    shop: &Shop,
    folder: &Folder,
    job: &Job,
    launch: &Launch,
    result: RunResult,
    stop: &Stop,
) -> Result<RunResult, Failure> {
    if !launch.worktree.is_dir() {
        return Err(Failure {
            class: FailureClass::Lost,
            message: format!(
                "the worktree `{}` has been removed",
                launch.worktree.display()
            ),
        });
    }
    let title = format!("{} ({})", one_line(&job.title), job.identifier);
    let base = &launch.base_sha;
    let Some(sha) = shop.git.take(&launch.worktree, base, &title).await? else {
        return Err(Failure {
            class: FailureClass::Agent,
            message: format!(
                "the agent changed nothing; it said: {}",
                clip(result.text.trim(), WORDS_BYTES_MAX)
            ),
        });
    };
    if stopped(folder, stop) || !still_ours(shop, job, stop).await {
        return Err(cancelled());
    }
    let wanted = launch.branch.as_deref().unwrap_or(&job.branch);
    let branch = shop.git.push(&launch.worktree, &sha, base, wanted).await?;
    if stopped(folder, stop) {
        return Err(cancelled());
    }
    let ask = OpenAsk {
        slug: job.repository.slug.clone(),
        branch: branch.clone(),
        base: job.repository.base_branch.clone(),
        title,
        body: body(job, &result.text),
    };
    let opened = open(shop.forge.as_ref(), &ask).await?;
    Ok(RunResult {
        pull_url: Some(opened.url),
        branch: (branch != job.branch).then_some(branch),
        changed: Some(true),
        ..result
    })
}

/// Opens the pull request, or finds it open: so asking again is safe.
async fn open(forge: &dyn Forge, ask: &OpenAsk) -> Result<Opened, Failure> {
    let mut pause = OPEN_PAUSE;
    let mut tries = 1;
    loop {
        let fault = match forge.open(ask).await {
            Ok(opened) => return Ok(opened),
            Err(fault) => fault,
        };
        let message = format!("the pull request cannot be opened: {fault}");
        let wait = match fault {
            Fault::Permanent { class, .. } => return Err(Failure { class, message }),
            Fault::Busy {
                retry_after_seconds,
                ..
            } => retry_after_seconds.map_or(pause, |it| Duration::from_secs(it.into())),
            Fault::Transient { .. } | Fault::Ambiguous { .. } => pause,
        };
        if tries == OPEN_TRIES_MAX {
            return Err(Failure {
                class: FailureClass::Outage,
                message,
            });
        }
        tries += 1;
        sleep(wait.min(OPEN_PAUSE_MAX)).await;
        pause = (pause * 2).min(OPEN_PAUSE_MAX);
    }
}

fn body(job: &Job, text: &str) -> String {
    // The agent's words must not carry a mark of their own.
    let said = clip(text.trim(), BODY_BYTES_MAX).replace("<!--", "&lt;!--");
    let Job {
        identifier,
        issue_url,
        task,
        ..
    } = job;
    let mark = pull_marker(identifier, task);
    format!("{said}\n\n[{identifier}]({issue_url})\n\n{mark}\n")
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn stopped(folder: &Folder, stop: &Stop) -> bool {
    *stop.borrow() || folder.stop_asked()
}

/// The answer may take its time; nobody waits for it who is stopped meanwhile.
async fn still_ours(shop: &Shop, job: &Job, stop: &Stop) -> bool {
    let mut asked = stop.clone();
    tokio::select! {
        _ = asked.wait_for(|it| *it) => false,
        ours = shop.tenure.holds(&job.key) => ours,
    }
}

fn cancelled() -> Failure {
    Failure {
        class: FailureClass::Cancelled,
        message: "the run was stopped".into(),
    }
}

/// A failure before any agent was started.
fn unspent(failure: Failure) -> Ending {
    Ending {
        result: Err(failure),
        cost_usd: Some(0.0),
    }
}

/// A failure whose cost nobody knows.
fn failed(failure: Failure) -> Ending {
    Ending {
        result: Err(failure),
        cost_usd: None,
    }
}

#[cfg(test)]
mod tests;
