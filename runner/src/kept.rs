//! The folders of all jobs: which there are, and which of the ended ones are
//! thrown away. They hold what a job was and how it ended, for people; and they
//! keep a job that comes a second time from being done again.

use std::fs;
use std::io;
use std::path::Path;

use jiff::SignedDuration;
use shared::issue::Time;

use crate::folder::{Accepted, Folder};

/// How long the folder of an ended job is kept …
const KEPT_DAYS: i64 = 30;
/// … unless there are more than this …
const KEPT_MAX: usize = 1_000;
/// … or they have more bytes together; but never for less than …
const KEPT_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// … this, for somebody may not have asked yet how it ended.
const KEPT_HOURS_MIN: i64 = 24;
/// How deep the folder of a job is.
const DEPTH_MAX: usize = 3;

/// Every job that was ever accepted and not yet thrown away.
pub(crate) fn known(jobs: &Path) -> io::Result<Vec<(Folder, Accepted)>> {
    let entries = match fs::read_dir(jobs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut known = Vec::new();
    for entry in entries {
        let folder = Folder::at(&entry?.path());
        match folder.accepted() {
            Ok(Some(accepted)) => known.push((folder, accepted)),
            // Its start was never answered.
            Ok(None) => {}
            Err(error) => {
                let path = folder.path().display();
                tracing::error!(%error, %path, "a job cannot be read and is left alone");
            }
        }
    }
    Ok(known)
}

/// Throws away the folders of ended jobs that are too old, or too many.
/// `keep`: worktrees are not removed, so a folder may go before its worktree.
pub(crate) fn forget(jobs: &Path, keep: bool, now: Time) -> io::Result<()> {
    let mut ended = Vec::new();
    for (folder, accepted) in known(jobs)? {
        let tidied = keep || folder.site()?.is_none_or(|it| !it.worktree.exists());
        if tidied && folder.result()?.is_some() {
            ended.push((accepted.at, size(folder.path(), DEPTH_MAX), folder));
        }
    }
    ended.sort_by_key(|it| std::cmp::Reverse(it.0));
    let ages: Vec<(Time, u64)> = ended.iter().map(|it| (it.0, it.1)).collect();
    for (old, (.., folder)) in old(&ages, now).into_iter().zip(&ended) {
        if old {
            fs::remove_dir_all(folder.path())?;
        }
    }
    Ok(())
}

/// Which of these, the newest first, are thrown away: by when they began, and
/// their bytes.
fn old(ended: &[(Time, u64)], now: Time) -> Vec<bool> {
    let mut bytes = 0_u64;
    let judge = |(n, (at, size)): (usize, &(Time, u64))| {
        bytes = bytes.saturating_add(*size);
        let age = now.duration_since(*at);
        let too_many = n >= KEPT_MAX || bytes > KEPT_BYTES_MAX;
        age > SignedDuration::from_hours(24 * KEPT_DAYS)
            || (too_many && age > SignedDuration::from_hours(KEPT_HOURS_MIN))
    };
    ended.iter().enumerate().map(judge).collect()
}

fn size(path: &Path, depth: usize) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(it) if it.is_dir() && depth > 1 => size(&entry.path(), depth - 1),
            Ok(it) => it.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_jobs_are_bounded_in_age_number_and_bytes() {
        let now = Time::UNIX_EPOCH + SignedDuration::from_hours(24 * 365);
        let ago = |hours| now - SignedDuration::from_hours(hours);
        let long = 24 * KEPT_DAYS + 1;
        assert_eq!(old(&[(ago(1), 1), (ago(long), 1)], now), [false, true]);

        let many = vec![(ago(48), 1); KEPT_MAX + 2];
        assert_eq!(old(&many, now).iter().filter(|it| **it).count(), 2);

        let half = KEPT_BYTES_MAX / 2 + 1;
        let large = [(ago(1), half), (ago(2), half), (ago(48), half)];
        assert_eq!(old(&large, now), [false, false, true], "none of today's");
    }
}
