//! The work of one job: make a worktree, prepare it, let the agent work in it, and
//! take what came of it to the forge. Every step may be done again: whoever comes
//! next goes on from what the job's folder tells.
//!
//! * [`attend`]: one process, from its start to its end.
//! * [`scripts`]: what prepares a worktree, and what comes before it is removed.
//! * [`legs`]: one process of the agent after another.
//! * [`mail`]: messages, and when it is too late for them.
//! * [`deliver`]: from the worktree to the pull request.
//! * [`progress`]: how it comes along.

mod attend;
mod deliver;
mod legs;
mod mail;
mod progress;
mod scripts;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use shared::issue::{Ending, Failure, FailureClass, REASON_BYTES_MAX, clip};
use shared::ports::{Clock, Job, Publisher};
use tokio::sync::watch;

use self::deliver::deliver;
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
    if site.worktree.exists() {
        if let Ok(agent) = known(&job.agent.program) {
            scripts::tear_down(shop, folder, job, &site, agent).await?;
        }
        shop.git.remove(&job.repository, &site.worktree).await;
        let delivered = folder.result()?.is_some_and(|it| it.result.is_ok());
        if let Some(branch) = site.branch.filter(|_| !delivered) {
            // The next attempt may have the name.
            shop.git.forget_branch(&job.repository, &branch).await;
        }
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
    let at_hand = at_hand(&job.agent.program, &shop.agents, shop.agent_env.path());
    let agent = match at_hand {
        Ok(agent) => agent,
        Err(failure) => return Ok(unspent(failure)),
    };
    let mut setup = Vec::new();
    let site = if folder.legs()? == 0 {
        let site = match begin(shop, folder, job, agent, stop).await? {
            Ok(site) => site,
            Err(failure) => return Ok(unspent(failure)),
        };
        setup = scripts::set_up(shop, folder, job, &site, agent, stop).await?;
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

/// Finds or makes the worktree.
async fn begin(
    shop: &Shop,
    folder: &Folder,
    job: &Job,
    agent: &dyn Agent,
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
    agent: &dyn Agent,
) -> io::Result<Result<Site, Failure>> {
    // Before anything is done in vain.
    if let Err(failure) = located(agent, &shop.agents, shop.agent_env.path()) {
        return Ok(Err(failure));
    }
    let site = match folder.site()? {
        Some(site) => site,
        None => {
            let branch = job.makes_pull().then_some(job.branch.as_str());
            let ground = match shop.git.survey(&job.repository, branch).await {
                Ok(ground) => ground,
                Err(failure) => return Ok(Err(failure)),
            };
            let site = Site {
                worktree: worktree(shop, job),
                branch: ground.branch,
                base_sha: ground.base_sha,
            };
            folder.set_site(&site)?;
            site
        }
    };
    let ground = Ground {
        branch: site.branch.clone(),
        base_sha: site.base_sha.clone(),
    };
    // The branch may be there already, as ours.
    let made = shop.git.make(&job.repository, &site.worktree, &ground);
    Ok(made.await.map(|()| site))
}

fn site(folder: &Folder) -> io::Result<Site> {
    let site = folder.site()?;
    site.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "site.json is gone"))
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
