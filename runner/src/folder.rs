//! The folder of one job: what is known of it, in files, so that whoever comes
//! next can go on where the last one stopped. Says where a job stands; does
//! nothing about it.
//!
//! | file | written by | says |
//! |---|---|---|
//! | `job.json` | the executor | the job was accepted |
//! | `launch.json`, `prompt.txt`, `schema.json` | the executor | where and how the agent is to run |
//! | `lock` | the supervisor | held: it lives |
//! | `agent.json` | the supervisor | an agent was, or is just being, started |
//! | `agent.jsonl`, `agent.err` | the agent | its output |
//! | `exit.json` | the supervisor | the agent and all its children are gone |
//! | `stop` | the executor | a person wants no more of it |
//! | `result.json` | the executor | how the run ended; nothing changes afterwards |

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use shared::issue::{Ending, Time};
use shared::ports::Job;

/// A longer key is no file name everywhere, bytes.
const KEY_BYTES_MAX: usize = 128;

/// `job.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) at: Time,
    pub(crate) job: Job,
}

/// `launch.json`: where the agent works, and how it is started there.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Launch {
    pub(crate) worktree: PathBuf,
    /// The local branch that the worktree is on; `None`: detached, its changes are thrown away.
    pub(crate) branch: Option<String>,
    /// The commit it started from.
    pub(crate) base_sha: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// The agent is killed after this long.
    pub(crate) seconds_max: u64,
}

/// `agent.json`: by what a supervisor that died would have known its agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Agent {
    /// The supervisor's session; the agent is a part of it.
    pub(crate) session: i32,
    /// When the supervisor started, in the kernel's own count since boot.
    pub(crate) session_started: Option<u64>,
    pub(crate) boot: Option<String>,
    /// The agent's process group; absent until it runs.
    pub(crate) group: Option<i32>,
}

/// `exit.json`: how the agent's process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) why: ExitWhy,
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
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

/// Where a job stands, as its folder tells.
#[derive(Debug)]
pub(crate) enum Standing {
    /// No agent was ever started.
    Fresh,
    /// A supervisor lives.
    Supervised,
    /// The agent is gone; its work is to be judged.
    Exited(Exit),
    /// The supervisor died and left no word.
    Abandoned(Agent),
    Ended(Box<Ending>),
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
        // Prompts and outputs are nobody else's business.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)?;
        self.write("job.json", accepted)?;
        self.path
            .parent()
            .map_or(Ok(()), |jobs| File::open(jobs)?.sync_all())
    }

    pub(crate) fn accepted(&self) -> io::Result<Option<Accepted>> {
        self.read("job.json")
    }

    pub(crate) fn launch(&self) -> io::Result<Option<Launch>> {
        self.read("launch.json")
    }

    pub(crate) fn set_launch(&self, launch: &Launch, prompt: &[u8]) -> io::Result<()> {
        self.write_bytes("prompt.txt", prompt)?;
        self.write("launch.json", launch)
    }

    /// Keeps the schema of the answer as a file; where it is.
    pub(crate) fn set_schema(&self, schema: &str) -> io::Result<PathBuf> {
        self.write_bytes("schema.json", schema.as_bytes())?;
        Ok(self.path.join("schema.json"))
    }

    pub(crate) fn agent(&self) -> io::Result<Option<Agent>> {
        self.read("agent.json")
    }

    pub(crate) fn set_agent(&self, agent: &Agent) -> io::Result<()> {
        self.write("agent.json", agent)
    }

    pub(crate) fn exit(&self) -> io::Result<Option<Exit>> {
        self.read("exit.json")
    }

    pub(crate) fn set_exit(&self, exit: &Exit) -> io::Result<()> {
        self.write("exit.json", exit)
    }

    pub(crate) fn result(&self) -> io::Result<Option<Ending>> {
        self.read("result.json")
    }

    pub(crate) fn set_result(&self, ending: &Ending) -> io::Result<()> {
        self.write("result.json", ending)
    }

    pub(crate) fn stop_asked(&self) -> bool {
        self.path.join("stop").exists()
    }

    pub(crate) fn ask_to_stop(&self) -> io::Result<()> {
        self.write_bytes("stop", b"")
    }

    pub(crate) fn prompt(&self) -> PathBuf {
        self.path.join("prompt.txt")
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.path.join("agent.jsonl")
    }

    /// The end of what the agent printed on its standard error.
    pub(crate) fn complaint(&self) -> String {
        let bytes = fs::read(self.path.join("agent.err")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).trim().to_owned()
    }

    pub(crate) fn set_complaint(&self, bytes: &[u8]) -> io::Result<()> {
        self.write_bytes("agent.err", bytes)
    }

    /// The lock that says a supervisor lives, if nobody holds it. It is given
    /// back when the file is dropped.
    pub(crate) fn try_lock(&self) -> io::Result<Option<File>> {
        let path = self.path.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    pub(crate) fn standing(&self) -> io::Result<Standing> {
        if let Some(ending) = self.result()? {
            return Ok(Standing::Ended(Box::new(ending)));
        }
        if self.try_lock()?.is_none() {
            return Ok(Standing::Supervised);
        }
        // Read after the lock was seen free: whoever held it has written all it will write.
        if let Some(exit) = self.exit()? {
            return Ok(Standing::Exited(exit));
        }
        Ok(match self.agent()? {
            Some(agent) => Standing::Abandoned(agent),
            None => Standing::Fresh,
        })
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        match fs::read(self.path.join(name)) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write<T: Serialize>(&self, name: &str, value: &T) -> io::Result<()> {
        self.write_bytes(name, &serde_json::to_vec(value)?)
    }

    /// All of it or nothing, and on the disk before this returns.
    fn write_bytes(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let draft = self.path.join(format!("{name}.draft"));
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, self.path.join(name))?;
        File::open(&self.path)?.sync_all()
    }
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

    #[test]
    fn a_folder_tells_where_its_job_stands() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = Folder::of(home.path(), "k").expect("a key");
        fs::create_dir(folder.path()).expect("a folder");
        assert!(matches!(folder.standing(), Ok(Standing::Fresh)));

        let lock = folder.try_lock().expect("a lock");
        assert!(lock.is_some());
        assert!(matches!(folder.standing(), Ok(Standing::Supervised)));
        let agent = Agent {
            session: 1,
            session_started: None,
            boot: None,
            group: None,
        };
        folder.set_agent(&agent).expect("written");
        drop(lock);
        assert!(matches!(folder.standing(), Ok(Standing::Abandoned(_))));

        folder.set_exit(&Exit::default()).expect("written");
        assert!(matches!(folder.standing(), Ok(Standing::Exited(_))));
        let ending = Ending {
            result: Ok(shared::issue::RunResult::default()),
            cost_usd: Some(0.5),
        };
        folder.set_result(&ending).expect("written");
        match folder.standing() {
            Ok(Standing::Ended(it)) => assert_eq!(*it, ending),
            other => panic!("{other:?}"),
        }
    }
}
