//! The work of one job: make a worktree, prepare it, let the agent work in it, and
//! take what came of it to the forge. Every step may be done again: whoever comes
//! next goes on from what the job's folder tells.
//!
//! * [`attend`]: one process, from its start to its end.
//! * [`scripts`]: what prepares a worktree, and what comes before it is removed.
//! * [`legs`]: one process of the agent after another.
//! * [`mail`]: messages, and when it is too late for them.
//! * [`deliver`]: from the worktree to the pull request.
//! * [`verify`]: commands instead of an agent.
//! * [`earlier`]: the run that a repair goes on with.
//! * [`progress`]: how it comes along.

mod attend;
mod deliver;
mod earlier;
mod legs;
mod mail;
mod progress;
mod scripts;
mod verify;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use shared::issue::{Ending, Failure, FailureClass, REASON_BYTES_MAX, TaskKind, clip};
use shared::ports::{Clock, Job, Publisher};
use tokio::sync::watch;

use self::deliver::deliver;
pub(crate) use self::earlier::Places;
use self::legs::{Brought, Legs, unheard};
pub(crate) use self::mail::{Mail, told};
pub(crate) use self::progress::Watcher;
use crate::agent::{Agent, at_hand, known, located};
use crate::environment::AgentEnv;
use crate::executor::Tenure;
use crate::folder::{Folder, Site};
use crate::worktree::{Git, Ground};

/// A name from outside as a part of a folder's name, characters.
const NAME_CHARS_MAX: usize = 40;

/// What all jobs work with.
pub(crate) struct Shop {
    pub(crate) git: Git,
    pub(crate) agents: BTreeMap<String, PathBuf>,
    pub(crate) agent_env: AgentEnv,
    pub(crate) supervisor: Vec<OsString>,
    pub(crate) setup_script: Option<PathBuf>,
    /// Worktrees stay when their jobs have ended.
    pub(crate) keep: bool,
    pub(crate) forge: Arc<dyn Publisher>,
    pub(crate) tenure: Arc<dyn Tenure>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where worktrees go that the configuration names no place for.
    pub(crate) worktrees: PathBuf,
    pub(crate) places: Places,
}

/// A person's wish that it ends; true once it is there.
pub(crate) type Stop = watch::Receiver<bool>;

/// Does what is left to do for a job.
pub(crate) async fn work(
    shop: &Shop,
    folder: &Folder,
    job: &Job,
    mail: &Mail,
    stop: &Stop,
) -> Ending {
    match steps(shop, folder, job, mail, stop).await {
        Ok(ending) => ending,
        Err(error) => Ending {
            result: Err(Failure {
                class: FailureClass::Outage,
                message: format!("the runner cannot use its folder for this job: {error}"),
            }),
            cost_usd: None,
            cost_is_estimate: false,
        },
    }
}

/// Clears away what an ended job left beside its folder.
pub(crate) async fn tidy(shop: &Shop, folder: &Folder, job: &Job) -> io::Result<()> {
    let Some(site) = folder.site()?.filter(|_| !shop.keep) else {
        return Ok(());
    };
    // Another job may be at work there by now.
    if !shop.places.claim(&site.worktree, &job.key) {
        return Ok(());
    }
    if site.worktree.exists() {
        let env = match (job.kind, known(&job.agent.program)) {
            (TaskKind::Verifier, _) => Some(shop.agent_env.of_none()),
            (_, Ok(agent)) => Some(shop.agent_env.of(agent)),
            (_, Err(_)) => None,
        };
        if let Some(env) = env {
            scripts::tear_down(shop, folder, job, &site, &env).await?;
        }
        shop.git.remove(&job.repository, &site.worktree).await;
        let delivered = folder.result()?.is_some_and(|it| it.result.is_ok());
        if let Some(branch) = site.branch.filter(|_| !delivered) {
            // The next attempt may have the name.
            shop.git.forget_branch(&job.repository, &branch).await;
        }
    }
    if !site.worktree.exists() {
        shop.places.release(&site.worktree, &job.key);
    }
    Ok(())
}

async fn steps(
    shop: &Shop,
    folder: &Folder,
    job: &Job,
    mail: &Mail,
    stop: &Stop,
) -> io::Result<Ending> {
    if let Some(ending) = folder.result()? {
        return Ok(ending);
    }
    if job.kind == TaskKind::Verifier {
        return verify::verify(shop, folder, job, stop).await;
    }
    let at_hand = at_hand(&job.agent.program, &shop.agents, shop.agent_env.path());
    let agent = match at_hand {
        Ok(agent) => agent,
        Err(failure) => return Ok(unspent(failure)),
    };
    let mut setup = Vec::new();
    let site = if folder.legs()? == 0 {
        let site = match begin(shop, folder, job, Some(agent), stop).await? {
            Ok(site) => site,
            Err(failure) => return Ok(unspent(failure)),
        };
        let env = shop.agent_env.of(agent);
        setup = scripts::set_up(shop, folder, job, &site, &env, stop).await?;
        if stopped(folder, stop) {
            return Ok(unspent(cancelled()));
        }
        if scripts::begun(folder)? && folder.prepared()?.is_none() {
            match shop.git.untracked(&site.worktree).await {
                Ok(files) => folder.set_prepared(&files)?,
                Err(failure) => return Ok(unspent(failure)),
            }
        }
        site
    } else {
        site(folder)?
    };
    let legs = Legs {
        shop,
        folder,
        job,
        site: &site,
        agent,
        mail,
        stop,
    };
    let Brought { result, spent } = legs.run().await?;
    mail.close();
    let result = match result {
        Ok(result) if job.makes_pull() => deliver(shop, folder, job, &site, result, stop).await,
        other => other,
    };
    let result = match result {
        Ok(result) => Ok(result),
        Err(failure) => Err(explained(failure, setup, unheard(folder)?)),
    };
    Ok(Ending {
        result,
        cost_usd: if spent.whole {
            spent.usd
        } else {
            spent.perhaps.filter(|_| agent.bills())
        },
        cost_is_estimate: !spent.whole,
    })
}

/// Finds or makes the worktree, for an agent or for commands.
async fn begin(
    shop: &Shop,
    folder: &Folder,
    job: &Job,
    agent: Option<&dyn Agent>,
    stop: &Stop,
) -> io::Result<Result<Site, Failure>> {
    if scripts::begun(folder)? {
        return site(folder).map(Ok);
    }
    if stopped(folder, stop) {
        return Ok(Err(cancelled()));
    }
    let mut asked = stop.clone();
    tokio::select! {
        biased;
        _ = asked.wait_for(|it| *it) => Ok(Err(cancelled())),
        prepared = prepare(shop, folder, job, agent) => prepared,
    }
}

async fn prepare(
    shop: &Shop,
    folder: &Folder,
    job: &Job,
    agent: Option<&dyn Agent>,
) -> io::Result<Result<Site, Failure>> {
    // Before anything is done in vain.
    if let Some(agent) = agent
        && let Err(failure) = located(agent, &shop.agents, shop.agent_env.path())
    {
        return Ok(Err(failure));
    }
    let site = match folder.site()? {
        Some(site) => site,
        None => {
            let ground = match survey(shop, job).await {
                Ok(ground) => ground,
                Err(failure) => return Ok(Err(failure)),
            };
            let site = Site {
                worktree: worktree(shop, folder, job)?,
                branch: ground.branch,
                base_sha: ground.base_sha,
                merged_sha: ground.merged_sha,
                scripts_sha: ground.scripts_sha,
            };
            folder.set_site(&site)?;
            site
        }
    };
    let ground = Ground {
        branch: site.branch.clone(),
        base_sha: site.base_sha.clone(),
        merged_sha: site.merged_sha.clone(),
        scripts_sha: site.scripts_sha.clone(),
    };
    // The branch may be there already, as ours.
    let made = shop.git.make(&job.repository, &site.worktree, &ground);
    Ok(made.await.map(|()| site))
}

/// Where a job is to be worked on.
async fn survey(shop: &Shop, job: &Job) -> Result<Ground, Failure> {
    let (git, repository) = (&shop.git, &job.repository);
    if let Some(repair) = &job.repair {
        let ground = git.survey_repair(repository, &job.branch, repair.conflict);
        return ground.await;
    }
    if let Some(commit) = &job.commit {
        let ground = git.survey_commit(repository, &job.branch, commit).await?;
        return Ok(match job.kind {
            // Its commands are the commit's own business, and so is what prepares them.
            TaskKind::Verifier => Ground {
                scripts_sha: None,
                ..ground
            },
            _ => ground,
        });
    }
    let branch = job.makes_pull().then_some(job.branch.as_str());
    git.survey(repository, branch).await
}

fn site(folder: &Folder) -> io::Result<Site> {
    let site = folder.site()?;
    site.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "site.json is gone"))
}

fn worktree(shop: &Shop, folder: &Folder, job: &Job) -> io::Result<PathBuf> {
    let earlier = earlier::earlier(folder, job)?.and_then(|it| it.site);
    if let Some(Site { worktree, .. }) = earlier
        && !worktree.exists()
        && shop.places.claim(&worktree, &job.key)
    {
        return Ok(worktree);
    }
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
    let own = base.join(format!(
        "{}-{}-{}",
        safe(&job.identifier),
        safe(&job.task.0),
        job.key
    ));
    shop.places.claim(&own, &job.key);
    Ok(own)
}

/// A failure, and what else is to be known of it.
fn explained(failure: Failure, setup: Vec<String>, unheard: Option<String>) -> Failure {
    let more: Vec<String> = setup.into_iter().chain(unheard).collect();
    if more.is_empty() {
        return failure;
    }
    let message = format!("{} ({})", failure.message, more.join("; "));
    Failure {
        message: clip(&message, REASON_BYTES_MAX),
        ..failure
    }
}

fn stopped(folder: &Folder, stop: &Stop) -> bool {
    *stop.borrow() || folder.stop_asked()
}

fn cancelled() -> Failure {
    Failure {
        class: FailureClass::Cancelled,
        message: "the run was stopped".into(),
    }
}

fn lost(message: String) -> Failure {
    Failure {
        class: FailureClass::Lost,
        message,
    }
}

/// A failure before any agent was started.
fn unspent(failure: Failure) -> Ending {
    Ending {
        result: Err(failure),
        cost_usd: Some(0.0),
        cost_is_estimate: false,
    }
}
