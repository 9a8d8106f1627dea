//! The process above one leg of an agent, or one script. It lives in a session of
//! its own, so that the agent works on when Cyrus is killed, and it never ends
//! before the agent and all the agent's children are gone.
//!
//! It decides nothing: it starts what `launch.json` says, passes on the job's
//! messages, watches the clock, the size of the output and the file `stop`, and
//! leaves `exit.json`. Its environment is the agent's; none of our secrets is in it.

mod talk;

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

use self::talk::Talk;
use crate::agent::known;
use crate::folder::{Begun, Exit, ExitWhy, Launch, ProcessFolder};
use crate::process;

/// How often the file `stop` and the size of the output are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long an agent may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);
/// How long the killed may take to be gone.
pub(crate) const SWEEP_MAX: Duration = Duration::from_secs(10);
pub(crate) const SWEEP_PAUSE: Duration = Duration::from_millis(10);
/// The end of the standard error that is kept, bytes.
const COMPLAINT_BYTES_MAX: usize = 16 * 1024;
const COMPLAINT_CHUNK_BYTES: usize = 4 * 1024;
/// How long the rest of the standard error is waited for.
const COMPLAINT_WAIT: Duration = Duration::from_secs(1);
/// Somebody may just be looking whether the lock is free: how long it is tried for.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Where a machine goes down, all are told to end at once, the agent perhaps before us.
const TERM_WAIT: Duration = Duration::from_secs(1);
/// What a shell and most programs make of TERM.
const TERM_CODE: i32 = 143;

/// Runs the process that `folder` tells of, to its end. At most one is ever
/// started for one folder, however often this is called.
pub fn supervise(folder: &Path) -> ExitCode {
    let folder = ProcessFolder::at(folder);
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

async fn watch(folder: &ProcessFolder) -> io::Result<()> {
    // Signals to Cyrus' terminal are not meant for the agent. It fails only
    // where we lead a group already, and then that was done for us.
    let _ = rustix::process::setsid();
    let _lock = lock(folder).await?;
    if folder.begun()?.is_some() || folder.exit()?.is_some() {
        return Ok(());
    }
    let launch = folder.launch()?.ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "the folder holds no launch.json")
    })?;
    let unwanted = || launch.heeds_stop && folder.job().stop_asked();
    if unwanted() {
        return folder.set_exit(&unbegun(ExitWhy::Stopped));
    }
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut interrupted = signal(SignalKind::terminate())?;

    let mut begun = Begun {
        session: rustix::process::getpid().as_raw_nonzero().get(),
        session_started: process::own_start(),
        boot: process::boot(),
        group: None,
    };
    // Before the agent, not after it: if we die in between, it must not be started again.
    folder.set_begun(&begun)?;
    let (mut child, mut talk) = match start(folder, &launch) {
        Ok(started) => started,
        Err(error) => {
            let why = error.to_string();
            return folder.set_exit(&unbegun(ExitWhy::NotStarted { why }));
        }
    };
    let group = child.id().and_then(|it| i32::try_from(it).ok());
    begun.group = group;
    folder.set_begun(&begun)?;
    let complaint = child.stderr.take().map(Complaint::follow);

    let deadline = Instant::now() + Duration::from_secs(launch.seconds_max);
    let mut look = interval(LOOK);
    let (mut why, status) = loop {
        tokio::select! {
            status = child.wait() => break (ExitWhy::Exited, Some(status?)),
            _ = interrupted.recv() => break (ExitWhy::Interrupted, None),
            now = look.tick() => {
                if unwanted() {
                    break (ExitWhy::Stopped, None);
                } else if now >= deadline {
                    break (ExitWhy::Overran, None);
                } else if folder.printed() > launch.bytes_max {
                    break (ExitWhy::Flooded, None);
                }
                if let Some(talk) = &mut talk && let Err(error) = talk.look() {
                    eprintln!("the agent is told nothing more: {error}");
                    talk.close();
                }
            }
        }
    };
    let status = match status {
        Some(status) => {
            let term =
                status.code() == Some(TERM_CODE) || status.signal() == Some(Signal::TERM.as_raw());
            if term && timeout(TERM_WAIT, interrupted.recv()).await.is_ok() {
                why = ExitWhy::Interrupted;
            }
            status
        }
        None => end(&mut child, group).await?,
    };
    sweep(group).await;
    if let Some(complaint) = complaint {
        folder.set_complaint(&complaint.end().await)?;
    }
    let told = launch.leg.as_ref().map_or(0, |it| it.told);
    folder.set_exit(&Exit {
        why,
        code: status.code(),
        signal: status.signal(),
        told: talk.map_or(told, |it| it.heard()),
    })
}

fn unbegun(why: ExitWhy) -> Exit {
    Exit {
        why,
        ..Exit::default()
    }
}

async fn lock(folder: &ProcessFolder) -> io::Result<File> {
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

fn start(folder: &ProcessFolder, launch: &Launch) -> io::Result<(Child, Option<Talk>)> {
    // Files, not pipes: they outlive us, and nobody can make the agent wait.
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(folder.output())?;
    let listener = match &launch.leg {
        Some(terms) => {
            let agent = known(&terms.agent).map_err(|it| io::Error::other(it.message))?;
            let agent = agent.at(&launch.program).unwrap_or(agent);
            agent.listens().then_some((agent, terms.told))
        }
        None => None,
    };
    let input = fs::read(folder.input())?;
    let stdin = match listener {
        Some(_) => Stdio::piped(),
        None => File::open(folder.input())?.into(),
    };
    let mut child = Command::new(&launch.program)
        .args(&launch.args)
        .current_dir(&launch.cwd)
        .stdin(stdin)
        .stdout(output)
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let talk = match (listener, child.stdin.take()) {
        (Some((agent, told)), Some(stdin)) => Some(Talk::begin(agent, folder, stdin, input, told)),
        _ => None,
    };
    Ok((child, talk))
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
