//! A token that we mint ourselves, shared by all copies of us in a register.
//!
//! They take turns at minting: where a new token ends the one before, they would
//! end each other's again and again, and where it does not, each would mint its own.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::issue::{Fault, Time};
use crate::ports::{AppendError, Clock, Register, RegisterWrite, Registers};

/// The shelf of the tokens that are shared.
const SHELF: &str = "tokens";
/// How long a minting takes at most …
const MINT_SECONDS_MAX: u64 = 10;
/// … and after how long it is somebody else's turn.
const TURN_SECONDS: i64 = 15;
const _: () = assert!((MINT_SECONDS_MAX as i64) < TURN_SECONDS);
/// How often, and how many times, somebody else's turn is looked after.
const GLANCE: Duration = Duration::from_millis(100);
const GLANCES_MAX: usize = 300;
/// So much sooner than its end nobody takes a token up any more.
const MARGIN_SECONDS: i64 = 300;
/// A turn is remembered this long after it is over, so that its register does
/// not begin anew under somebody who slept.
const TURN_KEPT_SECONDS: i64 = 24 * 60 * 60;

/// Whoever can make a new token.
pub(crate) trait Mint: Send + Sync {
    /// Whose token it is, for messages.
    const WHOSE: &'static str;

    /// What tells this token from others of the same service.
    fn identity(&self) -> String;

    /// A new token.
    fn mint(&self) -> impl Future<Output = Result<Fresh, Fault>> + Send;
}

/// A token that was just minted.
pub(crate) struct Fresh {
    pub(crate) token: SecretString,
    /// For how many seconds it is good.
    pub(crate) seconds: i64,
}

/// The token of the moment.
pub(crate) struct Minted<M> {
    mint: M,
    /// The register that it is shared in.
    name: String,
    registers: Arc<dyn Registers>,
    clock: Arc<dyn Clock>,
    /// Held while one is minted, so that this process takes one turn at a time.
    held: Mutex<Option<Held>>,
}

/// A token, and until when it is taken up.
#[derive(Clone)]
struct Held {
    token: SecretString,
    until: Time,
}

impl<M: Mint> Minted<M> {
    pub(crate) fn new(mint: M, registers: Arc<dyn Registers>, clock: Arc<dyn Clock>) -> Self {
        let identity = hex::encode(&Sha256::digest(mint.identity())[..8]);
        Self {
            name: format!("{}-{identity}", M::WHOSE.to_lowercase()),
            mint,
            registers,
            clock,
            held: Mutex::new(None),
        }
    }

    /// Whoever mints it.
    pub(crate) fn mint(&self) -> &M {
        &self.mint
    }

    /// The token to go with a call.
    pub(crate) async fn current(&self) -> Result<SecretString, Fault> {
        let mut held = self.held.lock().await;
        let now = self.clock.now();
        if let Some(it) = held.as_ref().filter(|it| now < it.until) {
            return Ok(it.token.clone());
        }
        let fresh = self.shared(None).await?;
        Ok(held.insert(fresh).token.clone())
    }

    /// Another token, after `refused` was refused.
    pub(crate) async fn after_refusal(
        &self,
        refused: &SecretString,
    ) -> Result<SecretString, Fault> {
        let mut held = self.held.lock().await;
        // Another call may have another one by now: that one is good.
        if let Some(it) = held.as_ref().filter(|it| !is(&it.token, refused)) {
            return Ok(it.token.clone());
        }
        let fresh = self.shared(Some(refused)).await?;
        Ok(held.insert(fresh).token.clone())
    }

    /// The token that all copies of us share; a new one, if there is none or
    /// `refused` is it.
    async fn shared(&self, refused: Option<&SecretString>) -> Result<Held, Fault> {
        let whose = M::WHOSE;
        for _ in 0..GLANCES_MAX {
            let now = self.clock.now();
            let register = self.registers.get(SHELF, &self.name, now).await;
            let register = register.map_err(|error| Fault::Transient {
                why: format!("{whose}'s token cannot be read from the store: {error:#}"),
            })?;
            if let Some(held) = register.as_ref().and_then(Held::read)
                && now < held.until
                && !refused.is_some_and(|it| is(it, &held.token))
            {
                return Ok(held);
            }
            if register
                .as_ref()
                .and_then(|it| moment(it, "turn_ends"))
                .is_some_and(|at| now < at)
            {
                sleep(GLANCE).await;
                continue;
            }
            let seen = register.map_or(0, |it| it.version);
            if let Some(held) = self.take_turn(seen).await? {
                return Ok(held);
            }
        }
        Err(Fault::Transient {
            why: format!("others mint {whose}'s token, and do not come to an end"),
        })
    }

    /// Mints a token for all. `None`: somebody else was quicker.
    async fn take_turn(&self, seen: u64) -> Result<Option<Held>, Fault> {
        let whose = M::WHOSE;
        let now = self.clock.now();
        let turn = |until: Time| json!({ "turn_ends": until });
        let kept = now + SignedDuration::from_secs(TURN_KEPT_SECONDS);
        let until = now + SignedDuration::from_secs(TURN_SECONDS);
        match self.put(turn(until), kept, seen, now).await {
            Ok(()) => {}
            Err(AppendError::Conflict) => return Ok(None),
            Err(error) => {
                let why = format!("no turn at minting {whose}'s token can be taken: {error}");
                return Err(Fault::Transient { why });
            }
        }
        let limit = Duration::from_secs(MINT_SECONDS_MAX);
        let minted = timeout(limit, self.mint.mint()).await.unwrap_or_else(|_| {
            let why = format!("{whose} gave no token within {MINT_SECONDS_MAX} s");
            Err(Fault::Transient { why })
        });
        let now = self.clock.now();
        let Fresh { token, seconds } = match minted {
            Ok(fresh) => fresh,
            Err(fault) => {
                // Nobody shall wait for the rest of our turn; who is not told does.
                let _ = self.put(turn(now), kept, seen + 1, now).await;
                return Err(fault);
            }
        };
        let good = SignedDuration::from_secs((seconds - MARGIN_SECONDS).max(MARGIN_SECONDS));
        let until = now + good;
        let value = json!({ "token": token.expose_secret(), "until": until });
        let held = Held { token, until };
        match self.put(value, until, seen + 1, now).await {
            Ok(()) => Ok(Some(held)),
            // Our turn was over, and another one may have ended our token.
            Err(AppendError::Conflict) => Ok(None),
            Err(error) => {
                warn!("{whose}'s new token cannot be shared, others will mint their own: {error}");
                Ok(Some(held))
            }
        }
    }

    async fn put(
        &self,
        value: Value,
        expires_at: Time,
        seen: u64,
        now: Time,
    ) -> Result<(), AppendError> {
        let write = RegisterWrite {
            shelf: SHELF.into(),
            name: self.name.clone(),
            value: Some(value),
            expires_at: Some(expires_at),
        };
        self.registers.put(write, seen, now).await
    }
}

impl Held {
    /// The token in a register, which ends with it.
    fn read(register: &Register) -> Option<Self> {
        let token = register.value.get("token")?.as_str()?;
        Some(Self {
            token: SecretString::from(token),
            until: moment(register, "until").unwrap_or(Time::MAX),
        })
    }
}

fn is(token: &SecretString, other: &SecretString) -> bool {
    token.expose_secret() == other.expose_secret()
}

fn moment(register: &Register, key: &str) -> Option<Time> {
    register.value.get(key)?.as_str()?.parse().ok()
}
