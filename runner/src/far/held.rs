//! The jobs that are ours, on the disk: so a restart knows what to go on with,
//! and under which fence.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use shared::runner::document::JobDoc;

use crate::folder::{Folder, write};

pub(super) struct Leases {
    folder: PathBuf,
}

/// What a leased job is called on this machine. A lease anew is work anew, so
/// it shares nothing with an earlier one that may still be dying here.
/// `None`: what nothing on a disk can be called.
pub(super) fn local_key(job: &JobDoc) -> Option<String> {
    let key = format!("{}.{}", job.job, job.fence);
    Folder::of(Path::new(""), &key).map(|_| key)
}

impl Leases {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Durable when this returns.
    pub(super) fn keep(&self, key: &str, job: &JobDoc) -> io::Result<()> {
        write(&self.folder, &format!("{key}.json"), job)
    }

    pub(super) fn forget(&self, key: &str) {
        match fs::remove_file(self.path(key)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // It is asked about once more at the next start, and refused.
            Err(error) => tracing::warn!(%error, key, "a lease could not be removed"),
        }
    }

    pub(super) fn all(&self) -> io::Result<Vec<JobDoc>> {
        let mut jobs = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_none_or(|it| it != "json") {
                continue;
            }
            match serde_json::from_slice(&fs::read(&path)?) {
                Ok(job) => jobs.push(job),
                Err(error) => {
                    let path = path.display();
                    tracing::error!(%error, %path, "a lease cannot be read and is left alone");
                }
            }
        }
        Ok(jobs)
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.json"))
    }
}
