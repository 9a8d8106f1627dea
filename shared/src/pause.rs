//! The kill switch: one register that all copies of us read before they begin
//! anything. It stays until somebody takes it back; it has no expiry.

use anyhow::{Context as _, bail};

use crate::issue::{Pause, Time};
use crate::ports::{AppendError, RegisterWrite, Registers};

const SHELF: &str = "control";
const NAME: &str = "pause";
/// How often the switch is turned again because somebody else turned it first.
const CONFLICTS_MAX: usize = 20;

/// How the switch stands; `None`: work goes on. A switch that cannot be
/// understood is an error, for whoever is about to start a run.
pub async fn read(registers: &dyn Registers, now: Time) -> anyhow::Result<Option<Pause>> {
    let Some(register) = registers.get(SHELF, NAME, now).await? else {
        return Ok(None);
    };
    let pause = serde_json::from_value(register.value)
        .context("the pause in the store cannot be read: set it anew with `cyrus pause`")?;
    Ok(Some(pause))
}

/// Lets nothing new begin. What was paused in another way is paused in this one.
pub async fn pause(registers: &dyn Registers, pause: Pause, now: Time) -> anyhow::Result<()> {
    turn(registers, Some(pause), now).await
}

/// Lets work go on.
pub async fn resume(registers: &dyn Registers, now: Time) -> anyhow::Result<()> {
    turn(registers, None, now).await
}

async fn turn(registers: &dyn Registers, to: Option<Pause>, now: Time) -> anyhow::Result<()> {
    let value = to.map(serde_json::to_value).transpose()?;
    for _ in 0..CONFLICTS_MAX {
        let present = registers.get(SHELF, NAME, now).await?;
        if present.as_ref().map(|it| &it.value) == value.as_ref() {
            return Ok(());
        }
        let write = RegisterWrite {
            shelf: SHELF.into(),
            name: NAME.into(),
            value: value.clone(),
            expires_at: None,
        };
        let seen = present.map_or(0, |it| it.version);
        match registers.put(write, seen, now).await {
            Ok(()) => return Ok(()),
            Err(AppendError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("the switch kept being turned for {CONFLICTS_MAX} tries")
}
