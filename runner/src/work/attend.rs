//! Attending to one process of a job, script or leg: it is started by a
//! supervisor, waited for, and cleared away where its supervisor has died.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::Shop;
use crate::folder::{Exit, ProcessFolder, Standing};
use crate::process::{Doomed, kill_left_behind};
use crate::supervisor::{SWEEP_MAX, SWEEP_PAUSE};

/// How often a supervisor that is not our own child is looked after.
const LOOK: Duration = Duration::from_millis(200);
/// How often a supervisor may be started that starts nothing.
const SUPERVISORS_MAX: u32 = 3;

/// What became of a process.
#[derive(Debug)]
pub(super) enum Over {
    Exited(Exit),
    /// Its supervisor has died, and it was killed.
    Died,
    /// Its supervisor has died, and it may live.
    Astray,
    /// No supervisor could start it.
    NeverBegun,
}

/// The end of a process.
#[derive(Debug)]
pub(super) struct Attended {
    pub(super) over: Over,
    /// We were there when it ended.
    pub(super) witnessed: bool,
}

/// Sees a process that is ready to be started through to its end.
pub(super) async fn attend(
    shop: &Shop,
    folder: &ProcessFolder,
    env: &BTreeMap<String, String>,
) -> io::Result<Attended> {
    let mut supervisors = 0;
    let mut witnessed = false;
    let over = loop {
        match folder.standing()? {
            Standing::Exited(exit) => break Over::Exited(exit),
            Standing::Supervised => {
                witnessed = true;
                sleep(LOOK).await;
            }
            Standing::Abandoned(begun) => {
                let mut doomed = Doomed::default();
                let until = Instant::now() + SWEEP_MAX;
                break loop {
                    if kill_left_behind(&begun, &mut doomed) {
                        break Over::Died;
                    } else if Instant::now() >= until {
                        break Over::Astray;
                    }
                    sleep(SWEEP_PAUSE).await;
                };
            }
            Standing::Fresh if supervisors == SUPERVISORS_MAX => break Over::NeverBegun,
            Standing::Fresh => {
                witnessed = true;
                supervise(shop, folder, env).await?;
                supervisors += 1;
            }
        }
    };
    Ok(Attended { over, witnessed })
}

/// Starts a supervisor and waits until it has ended.
async fn supervise(
    shop: &Shop,
    folder: &ProcessFolder,
    env: &BTreeMap<String, String>,
) -> io::Result<()> {
    let (program, args) = shop
        .supervisor
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no supervisor is named"))?;
    let mut child = Command::new(program)
        .args(args)
        .arg(folder.path())
        .env_clear()
        .envs(env)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(folder.path().join("supervisor.err"))?)
        .spawn()?;
    child.wait().await?;
    Ok(())
}
