//! Delivery: a worktree with changes becomes a branch and a pull request. May be
//! done again: what was pushed or opened is found.

use std::io;
use std::time::Duration;

use shared::issue::words::pull_marker;
use shared::issue::{Failure, FailureClass, Fault, RunResult, clip};
use shared::ports::{Job, OpenAsk, Opened, Publisher};
use tokio::time::sleep;

use super::{Shop, Stop, cancelled, stopped};
use crate::folder::{Folder, Site};

/// How often opening a pull request is tried while the forge is down …
const OPEN_TRIES_MAX: u32 = 8;
/// … with pauses that double from here …
const OPEN_PAUSE: Duration = Duration::from_secs(1);
/// … up to here.
const OPEN_PAUSE_MAX: Duration = Duration::from_secs(60);
/// The agent's own words in a pull request, bytes.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// The files with conflicts that are named.
const FILES_SHOWN_MAX: usize = 10;
/// The agent's own words in a sentence about its failure, bytes.
const WORDS_BYTES_MAX: usize = 500;

/// A worktree with changes becomes a pull request.
pub(super) async fn deliver(
    shop: &Shop,
    folder: &Folder,
    job: &Job,
    site: &Site,
    result: RunResult,
    stop: &Stop,
) -> Result<RunResult, Failure> {
    if !site.worktree.is_dir() {
        return Err(Failure {
            class: FailureClass::Lost,
            message: format!(
                "the worktree `{}` has been removed",
                site.worktree.display()
            ),
        });
    }
    let title = format!("{} ({})", one_line(&job.title), job.identifier);
    let base = &site.base_sha;
    let prepared = folder.prepared().map_err(unusable)?;
    let leave = prepared.unwrap_or_default();
    if let Some(merged) = &site.merged_sha {
        let left = shop.git.unresolved(&site.worktree, base, merged).await?;
        if !left.is_empty() {
            return Err(unresolved(&left));
        }
    }
    let taken = shop.git.take(&site.worktree, base, &title, &leave);
    let Some(sha) = taken.await? else {
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
    if let Some(merged) = &site.merged_sha
        && !shop.git.contains(&site.worktree, merged, &sha).await?
    {
        return Err(Failure {
            class: FailureClass::Agent,
            message: format!(
                "the agent dropped the merge of the branch `{}`, which it was to bring to an end",
                job.repository.base_branch
            ),
        });
    }
    // Wherever the agent has left its branches, this is what it has made.
    folder.set_pushed(&sha).map_err(unusable)?;
    let wanted = site.branch.as_deref().unwrap_or(&job.branch);
    let branch = if job.repair.is_some() {
        let over = shop.git.push_over(&site.worktree, &sha, base, wanted);
        over.await.map(|()| wanted.to_owned())?
    } else {
        shop.git.push(&site.worktree, &sha, base, wanted).await?
    };
    if stopped(folder, stop) {
        return Err(cancelled());
    }
    let result = RunResult {
        branch: (branch != job.branch).then(|| branch.clone()),
        changed: Some(true),
        ..result
    };
    // No GitHub: the branch is all that is handed in.
    if job.repository.slug.is_empty() {
        return Ok(result);
    }
    let ask = OpenAsk {
        slug: job.repository.slug.clone(),
        branch,
        base: job.repository.base_branch.clone(),
        title,
        body: body(job, &result.text),
    };
    let mut asked = stop.clone();
    let opened = tokio::select! {
        biased;
        _ = asked.wait_for(|it| *it) => return Err(cancelled()),
        opened = open(shop.forge.as_ref(), &ask) => opened?,
    };
    Ok(RunResult {
        pull_url: Some(opened.url),
        ..result
    })
}

fn unresolved(files: &[String]) -> Failure {
    let shown: Vec<String> = files
        .iter()
        .take(FILES_SHOWN_MAX)
        .map(|it| format!("`{it}`"))
        .collect();
    let more = match files.len().saturating_sub(FILES_SHOWN_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Failure {
        class: FailureClass::Agent,
        message: format!("the agent left conflicts in {}{more}", shown.join(", ")),
    }
}

fn unusable(error: io::Error) -> Failure {
    Failure {
        class: FailureClass::Outage,
        message: format!("the runner cannot use its folder for this job: {error}"),
    }
}

/// Opens the pull request, or finds it open: so asking again is safe.
async fn open(forge: &dyn Publisher, ask: &OpenAsk) -> Result<Opened, Failure> {
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
            Fault::Transient { .. } | Fault::Ambiguous { .. } | Fault::Down { .. } => pause,
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

/// The answer may take its time; nobody waits for it who is stopped meanwhile.
async fn still_ours(shop: &Shop, job: &Job, stop: &Stop) -> bool {
    let mut asked = stop.clone();
    tokio::select! {
        _ = asked.wait_for(|it| *it) => false,
        ours = shop.tenure.holds(&job.key) => ours,
    }
}

#[cfg(test)]
mod tests;
