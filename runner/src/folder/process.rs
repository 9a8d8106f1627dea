//! The folder of one process of a job: a leg of its agent, or a script.
//!
//! | file | written by | says |
//! |---|---|---|
//! | `launch.json`, `input` | the executor | how it is to be started, and what it reads first |
//! | `schema.json` | the executor | the form of the answer, where one is asked for |
//! | `lock` | the supervisor | held: it lives |
//! | `begun.json` | the supervisor | the process was, or is just being, started |
//! | `output` | the process | its standard output |
//! | `complaint` | the supervisor | the end of its standard error |
//! | `exit.json` | the supervisor | it and all its children are gone |
//! | `account.json` | the executor | what the output of a leg came to |
//! | `supervisor.err` | the supervisor | why it could not do its work |

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use shared::issue::Time;

use super::{Folder, make, read, write, write_bytes};
use crate::agent::Cost;

/// `launch.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// Where it works: the worktree.
    pub(crate) cwd: PathBuf,
    /// It is killed after this long …
    pub(crate) seconds_max: u64,
    /// … or when it has printed more than this.
    pub(crate) bytes_max: u64,
    /// It is killed when a person wants no more of the job.
    pub(crate) heeds_stop: bool,
    /// Of a leg; a script has none.
    pub(crate) leg: Option<Terms>,
}

/// What a leg of an agent was started with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// The agent, by name.
    pub(crate) agent: String,
    /// When it was made ready.
    pub(crate) at: Time,
    /// The session that it takes up again.
    pub(crate) resume: Option<String>,
    /// Of a session of an earlier run: what it had cost by then, USD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) taken_up: Option<f64>,
    /// What it may cost, USD.
    pub(crate) cost_max: Option<f64>,
    /// How many of the job's messages the agent had before …
    pub(crate) had: usize,
    /// … and how many it has with this leg's input.
    pub(crate) told: usize,
    /// How many of the legs before it died.
    pub(crate) deaths: u32,
}

/// `begun.json`: by what a supervisor that died would have known its process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Begun {
    /// The supervisor's session; the process is a part of it.
    pub(crate) session: i32,
    /// When the supervisor started, in the kernel's own count since boot.
    pub(crate) session_started: Option<u64>,
    pub(crate) boot: Option<String>,
    /// The process group; absent until it runs.
    pub(crate) group: Option<i32>,
}

/// `exit.json`: how the process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) why: ExitWhy,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    /// How many of the job's messages the agent surely has.
    #[serde(default)]
    pub(crate) told: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ExitWhy {
    /// By itself.
    #[default]
    Exited,
    /// Killed: a person wanted no more of it.
    Stopped,
    /// Killed: it took too long.
    Overran,
    /// Killed: it printed too much.
    Flooded,
    /// Killed, because the supervisor was told to end: the machine goes down.
    Interrupted,
    /// It could not be started.
    NotStarted { why: String },
}

/// `account.json`: what the output of a leg came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) session: Option<String>,
    pub(crate) cost: Option<Cost>,
    /// It has begun with what it was told.
    pub(crate) spoke: bool,
}

/// Where a process stands, as its folder tells.
#[derive(Debug)]
pub(crate) enum Standing {
    /// It was never started.
    Fresh,
    /// A supervisor lives.
    Supervised,
    /// It is gone, and left word.
    Exited(Exit),
    /// The supervisor died and left no word.
    Abandoned(Begun),
}

/// The folder of one process.
#[derive(Clone, Debug)]
pub(crate) struct ProcessFolder {
    path: PathBuf,
}

impl ProcessFolder {
    pub(crate) fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The job that the process belongs to.
    pub(crate) fn job(&self) -> Folder {
        Folder::at(self.path.parent().unwrap_or(&self.path))
    }

    pub(crate) fn launch(&self) -> io::Result<Option<Launch>> {
        read(&self.path, "launch.json")
    }

    /// Makes it ready to be started.
    pub(crate) fn set_launch(&self, launch: &Launch, input: &[u8]) -> io::Result<()> {
        make(&self.path)?;
        write_bytes(&self.path, "input", input)?;
        write(&self.path, "launch.json", launch)
    }

    pub(crate) fn set_schema(&self, schema: &str) -> io::Result<PathBuf> {
        make(&self.path)?;
        write_bytes(&self.path, "schema.json", schema.as_bytes())?;
        std::path::absolute(self.path.join("schema.json"))
    }

    pub(crate) fn begun(&self) -> io::Result<Option<Begun>> {
        read(&self.path, "begun.json")
    }

    pub(crate) fn set_begun(&self, begun: &Begun) -> io::Result<()> {
        write(&self.path, "begun.json", begun)
    }

    pub(crate) fn exit(&self) -> io::Result<Option<Exit>> {
        read(&self.path, "exit.json")
    }

    pub(crate) fn set_exit(&self, exit: &Exit) -> io::Result<()> {
        write(&self.path, "exit.json", exit)
    }

    pub(crate) fn account(&self) -> io::Result<Option<Account>> {
        read(&self.path, "account.json")
    }

    pub(crate) fn set_account(&self, account: &Account) -> io::Result<()> {
        write(&self.path, "account.json", account)
    }

    pub(crate) fn input(&self) -> PathBuf {
        self.path.join("input")
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.path.join("output")
    }

    pub(crate) fn printed(&self) -> u64 {
        fs::metadata(self.output()).map_or(0, |it| it.len())
    }

    /// The end of what it printed on its standard error.
    pub(crate) fn complaint(&self) -> String {
        let bytes = fs::read(self.path.join("complaint")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    pub(crate) fn set_complaint(&self, bytes: &[u8]) -> io::Result<()> {
        write_bytes(&self.path, "complaint", bytes)
    }

    /// The lock that says a supervisor lives, if nobody holds it. It is given
    /// back when the file is dropped.
    pub(crate) fn try_lock(&self) -> io::Result<Option<File>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(self.path.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// To be asked once it is ready to be started.
    pub(crate) fn standing(&self) -> io::Result<Standing> {
        if self.try_lock()?.is_none() {
            return Ok(Standing::Supervised);
        }
        // Read after the lock was seen free: whoever held it has written all it will write.
        if let Some(exit) = self.exit()? {
            return Ok(Standing::Exited(exit));
        }
        Ok(match self.begun()? {
            Some(begun) => Standing::Abandoned(begun),
            None => Standing::Fresh,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_tells_where_its_process_stands() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = ProcessFolder::at(home.path());
        assert!(matches!(folder.standing(), Ok(Standing::Fresh)));

        let lock = folder.try_lock().expect("a lock");
        assert!(lock.is_some());
        assert!(matches!(folder.standing(), Ok(Standing::Supervised)));
        let begun = Begun {
            session: 1,
            session_started: None,
            boot: None,
            group: None,
        };
        folder.set_begun(&begun).expect("written");
        drop(lock);
        assert!(matches!(folder.standing(), Ok(Standing::Abandoned(_))));

        folder.set_exit(&Exit::default()).expect("written");
        assert!(matches!(folder.standing(), Ok(Standing::Exited(_))));
    }
}
