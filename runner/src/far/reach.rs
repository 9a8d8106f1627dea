//! Would a control plane take this runner? Asks for nothing and changes nothing.

use std::sync::Arc;

use secrecy::SecretString;
use shared::ports::Clock;
use shared::runner::document::LeaseAsk;

use super::control::Control;
use super::home::host_name;

/// What a control plane that answers says to this runner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// How far our clock is ahead of its clock; `None`: it does not tell the time.
    pub ahead_seconds: Option<i64>,
    /// Does it take our requests? If not, why.
    pub admitted: Result<(), String>,
}

/// Asks the control plane at `url` whether it lives and whether it knows
/// `token`. An error says why it cannot be reached.
pub async fn reach(
    url: &str,
    token: SecretString,
    clock: Arc<dyn Clock>,
) -> Result<Reached, String> {
    let control = Control::new(url, token, clock).map_err(|error| format!("{error:#}"))?;
    let ahead_seconds = control.ahead().await?;
    // Who has no slots gets no jobs, but is heard like everybody else.
    let ask = LeaseAsk {
        runner: host_name(),
        slots_free: 0,
        ..LeaseAsk::default()
    };
    Ok(Reached {
        ahead_seconds,
        admitted: control.lease(&ask).await.map(|_| ()),
    })
}
