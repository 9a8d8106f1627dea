//! The run that a repair goes on with, where this machine has it: its session, and
//! its place. Agents keep a session by the folder that it was in (Claude Code does so up
//! to 2.1.197), and a session speaks of its files by their paths: so the worktree of
//! the repair is made where the first one was, if nobody else has that place.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::ports::Job;

use crate::folder::{Folder, Site};

/// What an earlier run has left.
pub(super) struct Earlier {
    pub(super) session: String,
    pub(super) site: Option<Site>,
    /// What its session has cost by its own count, USD.
    pub(super) cost: f64,
}

/// The run that a job goes on with; `None`: it begins anew.
pub(super) fn earlier(folder: &Folder, job: &Job) -> io::Result<Option<Earlier>> {
    let Some(repair) = &job.repair else {
        return Ok(None);
    };
    let (Some(run), Some(session)) = (&repair.run, &repair.session) else {
        return Ok(None);
    };
    let Some(jobs) = folder.path().parent() else {
        return Ok(None);
    };
    for key in keys(jobs, &run.0)? {
        let Some(before) = Folder::of(jobs, &key) else {
            continue;
        };
        let same = before
            .accepted()?
            .is_some_and(|it| it.job.agent.program == job.agent.program);
        let ended = before.result()?.and_then(|it| it.result.ok());
        // Only what this machine has seen itself goes on a command line.
        if same && ended.and_then(|it| it.session).as_ref() == Some(session) {
            return Ok(Some(Earlier {
                session: session.clone(),
                site: before.site()?,
                cost: cost(&before)?,
            }));
        }
    }
    Ok(None)
}

/// What a run may be called here: a job that was leased has the number of its lease.
fn keys(jobs: &Path, run: &str) -> io::Result<Vec<String>> {
    let leased = format!("{run}.");
    let mut keys = Vec::new();
    for entry in fs::read_dir(jobs)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name == run || name.starts_with(&leased) {
            keys.push(name);
        }
    }
    Ok(keys)
}

fn cost(before: &Folder) -> io::Result<f64> {
    let mut most = 0.0_f64;
    for n in 1..=before.legs()? {
        let launch = before.leg(n).launch()?.and_then(|it| it.leg);
        let taken_up = launch.and_then(|it| it.taken_up).unwrap_or_default();
        let cost = before.leg(n).account()?.and_then(|it| it.cost);
        let session = cost.and_then(|it| it.session);
        most = most.max(session.map_or(0.0, |it| it + taken_up));
    }
    Ok(most)
}

/// Which job has which worktree: two must never share one.
#[derive(Debug, Default)]
pub(crate) struct Places(Mutex<BTreeMap<PathBuf, String>>);

impl Places {
    /// True if it is this job's from now on.
    pub(crate) fn claim(&self, worktree: &Path, key: &str) -> bool {
        let mut places = self.places();
        let owner = places.entry(worktree.to_owned());
        owner.or_insert_with(|| key.to_owned()) == key
    }

    pub(crate) fn release(&self, worktree: &Path, key: &str) {
        let mut places = self.places();
        if places.get(worktree).is_some_and(|it| it == key) {
            places.remove(worktree);
        }
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<PathBuf, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
