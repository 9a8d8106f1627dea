//! The folder of one job: what is known of it, in files, so that whoever comes
//! next can go on where the last one stopped. Does nothing about it.
//!
//! | path | written by | says |
//! |---|---|---|
//! | `job.json` | the executor | the job was accepted |
//! | `site.json` | the executor | where it is worked on; it has had its slot |
//! | `messages/N.json` | the executor | the Nth message for its agent |
//! | `setup-global`, `setup` | see [`process`] | the scripts that prepare the worktree |
//! | `prepared.json` | the executor | the files that those scripts have left there |
//! | `leg-N` | see [`process`] | the Nth process of its agent |
//! | `checked.json` | the executor | when the first command of a verifier was made ready |
//! | `command-N` | see [`process`] | the Nth command of a verifier |
//! | `pushed.json` | the executor | the commit that is its change |
//! | `stop` | the executor | a person wants no more of it |
//! | `result.json` | the executor | how the run ended; nothing changes afterwards |
//! | `teardown` | see [`process`] | the script before the worktree is removed |

mod process;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::issue::{Ending, Time};
use shared::ports::{Job, Message};

pub(crate) use self::process::{
    Account, Begun, Exit, ExitWhy, Launch, ProcessFolder, Standing, Terms,
};

/// A longer key is no file name everywhere, bytes.
const KEY_BYTES_MAX: usize = 128;
/// The messages of one job …
pub(crate) const MESSAGES_MAX: usize = 100;
/// … and all their bytes.
pub(crate) const MESSAGES_BYTES_MAX: usize = 512 * 1024;

/// `job.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) at: Time,
    pub(crate) job: Job,
}

/// `site.json`: where a job is worked on. What was chosen once holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Site {
    pub(crate) worktree: PathBuf,
    /// The local branch that the worktree is on; `None`: detached, its changes are thrown away.
    pub(crate) branch: Option<String>,
    /// The commit it started from.
    pub(crate) base_sha: String,
    /// The commit of the base branch that was merged into it, conflicts and all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) merged_sha: Option<String>,
    /// The commit whose scripts are run, where another one's are than where it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scripts_sha: Option<String>,
}

/// Why a message cannot be kept.
#[derive(Debug)]
pub(crate) enum Unkept {
    /// There are as many as there may be, or as long ones.
    Full,
    Disk(io::Error),
}

/// The folder of one job.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// The folder of the job with this key, if a key may look like that.
    pub(crate) fn of(jobs: &Path, key: &str) -> Option<Self> {
        let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let named = !key.is_empty() && key.len() <= KEY_BYTES_MAX;
        (named && key.chars().all(fit) && !key.starts_with('.')).then(|| Self {
            path: jobs.join(key),
        })
    }

    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Accepts a job. After this it is known, whatever happens.
    pub(crate) fn accept(&self, accepted: &Accepted) -> io::Result<()> {
        make(&self.path)?;
        write(&self.path, "job.json", accepted)?;
        self.path
            .parent()
            .map_or(Ok(()), |jobs| File::open(jobs)?.sync_all())
    }

    pub(crate) fn accepted(&self) -> io::Result<Option<Accepted>> {
        read(&self.path, "job.json")
    }

    pub(crate) fn site(&self) -> io::Result<Option<Site>> {
        read(&self.path, "site.json")
    }

    pub(crate) fn set_site(&self, site: &Site) -> io::Result<()> {
        write(&self.path, "site.json", site)
    }

    pub(crate) fn pushed(&self) -> io::Result<Option<String>> {
        read(&self.path, "pushed.json")
    }

    pub(crate) fn set_pushed(&self, sha: &str) -> io::Result<()> {
        write(&self.path, "pushed.json", &sha)
    }

    pub(crate) fn checked_from(&self) -> io::Result<Option<Time>> {
        read(&self.path, "checked.json")
    }

    pub(crate) fn set_checked_from(&self, at: Time) -> io::Result<()> {
        write(&self.path, "checked.json", &at)
    }

    pub(crate) fn prepared(&self) -> io::Result<Option<Vec<String>>> {
        read(&self.path, "prepared.json")
    }

    pub(crate) fn set_prepared(&self, files: &[String]) -> io::Result<()> {
        write(&self.path, "prepared.json", &files)
    }

    pub(crate) fn result(&self) -> io::Result<Option<Ending>> {
        read(&self.path, "result.json")
    }

    pub(crate) fn set_result(&self, ending: &Ending) -> io::Result<()> {
        write(&self.path, "result.json", ending)
    }

    pub(crate) fn stop_asked(&self) -> bool {
        self.path.join("stop").exists()
    }

    pub(crate) fn ask_to_stop(&self) -> io::Result<()> {
        write_bytes(&self.path, "stop", b"")
    }

    /// The folder of one of its processes.
    pub(crate) fn process(&self, name: &str) -> ProcessFolder {
        ProcessFolder::at(&self.path.join(name))
    }

    /// The folder of the nth leg, from 1.
    pub(crate) fn leg(&self, n: usize) -> ProcessFolder {
        self.process(&format!("leg-{n}"))
    }

    /// How many legs were ever to be started.
    pub(crate) fn legs(&self) -> io::Result<usize> {
        let mut n = 0;
        while self.leg(n + 1).launch()?.is_some() {
            n += 1;
        }
        Ok(n)
    }

    /// The nth message, from 1.
    pub(crate) fn message(&self, n: usize) -> io::Result<Option<Message>> {
        read(&self.path.join("messages"), &format!("{n}.json"))
    }

    /// All messages, in their order.
    pub(crate) fn messages(&self) -> io::Result<Vec<Message>> {
        let mut all = Vec::new();
        while let Some(message) = self.message(all.len() + 1)? {
            all.push(message);
        }
        Ok(all)
    }

    /// Keeps a message, unless it is kept already. One at a time per job.
    pub(crate) fn keep_message(&self, message: &Message) -> Result<(), Unkept> {
        let all = self.messages().map_err(Unkept::Disk)?;
        if all.iter().any(|it| it.id == message.id) {
            return Ok(());
        }
        let bytes: usize = all.iter().map(|it| it.text.len()).sum();
        if all.len() == MESSAGES_MAX || bytes + message.text.len() > MESSAGES_BYTES_MAX {
            return Err(Unkept::Full);
        }
        let folder = self.path.join("messages");
        make(&folder)
            .and_then(|()| write(&folder, &format!("{}.json", all.len() + 1), message))
            .map_err(Unkept::Disk)
    }
}

/// Prompts and outputs are nobody else's business.
fn make(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> io::Result<Option<T>> {
    match fs::read(folder.join(name)) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// All of it or nothing, and on the disk before this returns.
pub(crate) fn write<T: Serialize>(folder: &Path, name: &str, value: &T) -> io::Result<()> {
    write_bytes(folder, name, &serde_json::to_vec(value)?)
}

fn write_bytes(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = folder.join(format!("{name}.draft"));
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, folder.join(name))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_leaves_the_folder_of_jobs() {
        let jobs = Path::new("jobs");
        assert!(Folder::of(jobs, "0f3c-7_1.a").is_some());
        for bad in [
            "",
            ".",
            "..",
            "../x",
            "a/b",
            "a b",
            "ä",
            &"a".repeat(KEY_BYTES_MAX + 1),
        ] {
            assert!(Folder::of(jobs, bad).is_none(), "{bad}");
        }
    }

    fn message(id: &str, text: &str) -> Message {
        Message {
            id: id.into(),
            text: text.into(),
        }
    }

    #[test]
    fn a_message_is_kept_once_and_in_its_order() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = Folder::of(home.path(), "k").expect("a key");
        fs::create_dir(folder.path()).expect("a folder");
        for (id, text) in [("b", "one"), ("a", "two"), ("b", "other")] {
            folder.keep_message(&message(id, text)).expect("kept");
        }
        let all = folder.messages().expect("read");
        assert_eq!(all, [message("b", "one"), message("a", "two")]);
    }

    #[test]
    fn messages_are_bounded_in_number_and_bytes() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = Folder::of(home.path(), "k").expect("a key");
        fs::create_dir(folder.path()).expect("a folder");
        let long = "x".repeat(MESSAGES_BYTES_MAX + 1);
        let refused = folder.keep_message(&message("long", &long));
        assert!(matches!(refused, Err(Unkept::Full)), "{refused:?}");
        for n in 0..MESSAGES_MAX {
            folder
                .keep_message(&message(&n.to_string(), "x"))
                .expect("kept");
        }
        let refused = folder.keep_message(&message("more", "x"));
        assert!(matches!(refused, Err(Unkept::Full)), "{refused:?}");
        // The one that is there is no new one.
        folder.keep_message(&message("7", "x")).expect("kept");
    }
}
