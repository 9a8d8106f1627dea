//! The process above one agent. It lives in a session of its own, so that the
//! agent works on when Cyrus is killed, and it never ends before the agent and
//! all the agent's children are gone.
//!
//! It decides nothing: it starts what `launch.json` says, watches the clock, the
//! size of the output and the file `stop`, and leaves `exit.json`. Its
//! environment is the agent's; none of our secrets is in it.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, interval, sleep, timeout};

use crate::folder::{Agent, Exit, ExitWhy, Folder, Launch};
use crate::process;

/// How often the file `stop` and the size of the output are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long an agent may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);
/// How long the killed may take to be gone.
pub(crate) const SWEEP_MAX: Duration = Duration::from_secs(10);
pub(crate) const SWEEP_PAUSE: Duration = Duration::from_millis(10);
/// An agent that prints more than this is killed, bytes.
const OUTPUT_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// The end of the standard error that is kept, bytes.
const COMPLAINT_BYTES_MAX: usize = 16 * 1024;
const COMPLAINT_CHUNK_BYTES: usize = 4 * 1024;
/// How long the rest of the standard error is waited for.
const COMPLAINT_WAIT: Duration = Duration::from_secs(1);
/// Somebody may just be looking whether the lock is free: how long it is tried for.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Runs the agent of the job in `folder`, to its end. At most one agent is ever
/// started for one folder, however often this is called.
pub fn supervise(folder: &Path) -> ExitCode {
    let folder = Folder::at(folder);
    // A thread of its own: the caller may have a runtime already.
    let done = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(watch(&folder))
    });
    match done.join() {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
        Err(_) => ExitCode::FAILURE,
    }
}

async fn watch(folder: &Folder) -> io::Result<()> {
    // Signals to Cyrus' terminal are not meant for the agent. It fails only
    // where we lead a group already, and then that was done for us.
    let _ = rustix::process::setsid();
    let _lock = lock(folder).await?;
    if folder.agent()?.is_some() || folder.exit()?.is_some() {
        return Ok(());
    }
    let launch = folder.launch()?.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "the folder holds no launch.json")
    })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut interrupted = signal(SignalKind::terminate())?;

    let mut agent = Agent {
        session: rustix::process::getpid().as_raw_nonzero().get(),
        session_started: process::own_start(),
        boot: process::boot(),
        group: None,
    };
    // Before the agent, not after it: if we die in between, it must not be started again.
    folder.set_agent(&agent)?;
    let mut child = match start(folder, &launch) {
        Ok(child) => child,
        Err(error) => {
            let why = ExitWhy::NotStarted {
                why: error.to_string(),
            };
            return folder.set_exit(&Exit {
                why,
                code: None,
                signal: None,
            });
        }
    };
    let group = child.id().and_then(|it| i32::try_from(it).ok());
    agent.group = group;
    folder.set_agent(&agent)?;
    let complaint = child.stderr.take().map(Complaint::follow);

    let deadline = Instant::now() + Duration::from_secs(launch.seconds_max);
    let mut look = interval(LOOK);
    let (why, status) = loop {
        tokio::select! {
            status = child.wait() => break (ExitWhy::Exited, Some(status?)),
            _ = interrupted.recv() => break (ExitWhy::Interrupted, None),
            now = look.tick() => {
                let printed = fs::metadata(folder.output()).map_or(0, |it| it.len());
                if folder.stop_asked() {
                    break (ExitWhy::Stopped, None);
                } else if now >= deadline {
                    break (ExitWhy::Overran, None);
                } else if printed > OUTPUT_BYTES_MAX {
                    break (ExitWhy::Flooded, None);
                }
            }
        }
    };
    let status = match status {
        Some(status) => status,
        None => end(&mut child, group).await?,
    };
    sweep(group).await;
    if let Some(complaint) = complaint {
        folder.set_complaint(&complaint.end().await)?;
    }
    folder.set_exit(&Exit {
        why,
        code: status.code(),
        signal: status.signal(),
    })
}

async fn lock(folder: &Folder) -> io::Result<File> {
    let until = Instant::now() + LOCK_WAIT;
    loop {
        if let Some(lock) = folder.try_lock()? {
            return Ok(lock);
        }
        if Instant::now() >= until {
            return Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                "another supervisor is at it",
            ));
        }
        sleep(LOCK_PAUSE).await;
    }
}

fn start(folder: &Folder, launch: &Launch) -> io::Result<Child> {
    // Files, not pipes: they outlive us, and nobody can make the agent wait.
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(folder.output())?;
    Command::new(&launch.program)
        .args(&launch.args)
        .current_dir(&launch.worktree)
        .stdin(File::open(folder.prompt())?)
        .stdout(output)
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

/// Asks the agent to end, and makes it. Never by an interrupt: agents take that
/// for a success.
async fn end(child: &mut Child, group: Option<i32>) -> io::Result<ExitStatus> {
    if let Some(group) = group {
        process::signal_group(group, Signal::TERM);
    }
    if let Ok(status) = timeout(GRACE, child.wait()).await {
        return status;
    }
    child.kill().await?;
    child.wait().await
}

/// Kills what the agent left: its group, and all that came from it.
async fn sweep(group: Option<i32>) {
    if let Some(group) = group {
        process::signal_group(group, Signal::KILL);
    }
    let until = Instant::now() + SWEEP_MAX;
    while !process::kill_descendants() && Instant::now() < until {
        sleep(SWEEP_PAUSE).await;
    }
}

/// The end of what an agent prints on its standard error.
struct Complaint {
    kept: Arc<Mutex<VecDeque<u8>>>,
    reader: tokio::task::JoinHandle<()>,
}

impl Complaint {
    fn follow(mut from: ChildStderr) -> Self {
        let kept = Arc::new(Mutex::new(VecDeque::new()));
        let into = Arc::clone(&kept);
        let reader = tokio::spawn(async move {
            let mut chunk = vec![0; COMPLAINT_CHUNK_BYTES];
            while let Ok(read @ 1..) = from.read(&mut chunk).await {
                let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
                kept.extend(&chunk[..read]);
                let over = kept.len().saturating_sub(COMPLAINT_BYTES_MAX);
                kept.drain(..over);
            }
        });
        Self { kept, reader }
    }

    /// Waits for the rest, but not for somebody who merely holds the pipe open.
    async fn end(self) -> Vec<u8> {
        let _ = timeout(COMPLAINT_WAIT, self.reader).await;
        self.kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect()
    }
}
