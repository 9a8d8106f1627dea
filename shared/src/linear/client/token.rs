//! The token that goes with every call: one that was given, or one that is
//! minted from a client's id and secret.
//!
//! Of minted tokens one per app is good at a time: a new one ends the one before.
//! So all copies of us share it, in a register, and take turns at minting; or
//! they would end each other's again and again.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::answer::{self, blot};
use crate::issue::{FailureClass, Fault, REASON_BYTES_MAX, Time, clip};
use crate::net::Http;
use crate::ports::{AppendError, Clock, Register, RegisterWrite, Registers};
use crate::secrets;

/// What the app may do; the scopes that only an admin can give are left out.
const SCOPE: &str = "read,write,app:assignable,app:mentionable";
/// Personal keys begin with this and go without `Bearer`.
const PERSONAL_KEY_PREFIX: &str = "lin_api_";
/// The answer to a minting is read up to here.
const MINTED_BYTES_MAX: usize = 64 * 1024;
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
/// How long a token is good of which Linear does not say it.
const TOKEN_SECONDS: i64 = 24 * 60 * 60;
/// So much sooner than that nobody takes it up any more.
const MARGIN_SECONDS: i64 = 300;
/// A turn is remembered this long after it is over, so that its register does
/// not begin anew under somebody who slept.
const TURN_KEPT_SECONDS: i64 = 24 * 60 * 60;

/// How we prove who we are.
pub enum Auth {
    /// An OAuth token, or a personal API key.
    Token(secrets::Token),
    /// The app's own credentials.
    Client(App),
}

/// An app that mints its tokens.
pub struct App {
    pub oauth_url: String,
    pub id: String,
    pub secret: SecretString,
    /// Where all copies of us share the token.
    pub registers: Arc<dyn Registers>,
}

/// The token of the moment.
pub(super) struct Tokens {
    auth: Auth,
    http: Arc<Http>,
    clock: Arc<dyn Clock>,
    /// Held while one is minted, so that this process takes one turn at a time.
    minted: Mutex<Option<Token>>,
}

/// A token as it is sent.
#[derive(Clone)]
pub(super) struct Token(SecretString);

#[derive(Deserialize)]
struct Minted {
    access_token: SecretString,
    /// Seconds.
    expires_in: Option<i64>,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    error_description: Option<String>,
}

impl Tokens {
    pub(super) fn new(auth: Auth, http: Arc<Http>, clock: Arc<dyn Clock>) -> Self {
        Self {
            auth,
            http,
            clock,
            minted: Mutex::new(None),
        }
    }

    /// The token to go with a call.
    pub(super) async fn current(&self) -> Result<Token, Fault> {
        match &self.auth {
            Auth::Token(token) => Ok(Token(token.current())),
            Auth::Client(app) => {
                let mut minted = self.minted.lock().await;
                if let Some(token) = minted.as_ref() {
                    return Ok(token.clone());
                }
                let token = self.shared(app, None).await?;
                Ok(minted.insert(token).clone())
            }
        }
    }

    /// Another token, after Linear refused `refused`; `None` if there is no other.
    pub(super) async fn after_refusal(&self, refused: &Token) -> Result<Option<Token>, Fault> {
        match &self.auth {
            Auth::Token(token) => Ok(token.after_refusal(refused.secret()).await.map(Token)),
            Auth::Client(app) => {
                let mut minted = self.minted.lock().await;
                // Another call may have another one by now: that one is good.
                if let Some(token) = minted.as_ref().filter(|it| !it.is(refused)) {
                    return Ok(Some(token.clone()));
                }
                let token = self.shared(app, Some(refused)).await?;
                Ok(Some(minted.insert(token).clone()))
            }
        }
    }

    /// The token that all copies of us share; a new one, if there is none or
    /// `refused` is it.
    async fn shared(&self, app: &App, refused: Option<&Token>) -> Result<Token, Fault> {
        let name = app.register();
        for _ in 0..GLANCES_MAX {
            let now = self.clock.now();
            let register = app.registers.get(SHELF, &name, now).await;
            let register = register.map_err(|error| Fault::Transient {
                why: format!("Linear's token cannot be read from the store: {error:#}"),
            })?;
            if let Some(token) = register.as_ref().and_then(Token::shared)
                && !refused.is_some_and(|it| it.is(&token))
            {
                return Ok(token);
            }
            if register
                .as_ref()
                .and_then(turn_ends)
                .is_some_and(|at| now < at)
            {
                sleep(GLANCE).await;
                continue;
            }
            let seen = register.map_or(0, |it| it.version);
            if let Some(token) = self.take_turn(app, &name, seen).await? {
                return Ok(token);
            }
        }
        Err(Fault::Transient {
            why: "others mint Linear's token, and do not come to an end".into(),
        })
    }

    /// Mints a token for all. `None`: somebody else was quicker.
    async fn take_turn(&self, app: &App, name: &str, seen: u64) -> Result<Option<Token>, Fault> {
        let now = self.clock.now();
        let turn = |until: Time| json!({ "turn_ends": until });
        let kept = now + SignedDuration::from_secs(TURN_KEPT_SECONDS);
        let until = now + SignedDuration::from_secs(TURN_SECONDS);
        match app.put(name, turn(until), kept, seen, now).await {
            Ok(()) => {}
            Err(AppendError::Conflict) => return Ok(None),
            Err(error) => {
                let why = format!("no turn at minting Linear's token can be taken: {error}");
                return Err(Fault::Transient { why });
            }
        }
        let limit = Duration::from_secs(MINT_SECONDS_MAX);
        let minting = timeout(limit, self.mint(&app.oauth_url, &app.id, &app.secret));
        let minted = minting.await.unwrap_or_else(|_| {
            let why = format!("Linear gave no token within {MINT_SECONDS_MAX} s");
            Err(Fault::Transient { why })
        });
        let now = self.clock.now();
        let (token, seconds) = match minted {
            Ok(minted) => minted,
            Err(fault) => {
                // Nobody shall wait for the rest of our turn; who is not told does.
                let _ = app.put(name, turn(now), kept, seen + 1, now).await;
                return Err(fault);
            }
        };
        let good = SignedDuration::from_secs((seconds - MARGIN_SECONDS).max(MARGIN_SECONDS));
        let value = json!({ "token": token.0.expose_secret() });
        match app.put(name, value, now + good, seen + 1, now).await {
            Ok(()) => Ok(Some(token)),
            // Our turn was over, and another one has ended our token.
            Err(AppendError::Conflict) => Ok(None),
            Err(error) => {
                warn!("Linear's new token cannot be shared, others will mint their own: {error}");
                Ok(Some(token))
            }
        }
    }

    /// Mints a token, and says for how many seconds it is good.
    async fn mint(
        &self,
        url: &str,
        id: &str,
        secret: &SecretString,
    ) -> Result<(Token, i64), Fault> {
        let form = [
            ("grant_type", "client_credentials"),
            ("scope", SCOPE),
            ("client_id", id),
            ("client_secret", secret.expose_secret()),
        ];
        let client = self.http.client().map_err(|why| Fault::Transient { why })?;
        let reply = client.post(url).form(&form).send().await;
        let reply = reply.map_err(|error| answer::broken("token", error))?;
        let status = reply.status();
        let retry_after_seconds = answer::retry_after(reply.headers(), self.clock.now());
        let bytes = answer::bytes("token", reply, MINTED_BYTES_MAX).await?;
        if status.is_success() {
            return match serde_json::from_slice::<Minted>(&bytes) {
                Ok(minted) => Ok((
                    Token(minted.access_token),
                    minted.expires_in.unwrap_or(TOKEN_SECONDS),
                )),
                Err(_) => Err(Fault::Transient {
                    why: "what Linear answered in place of a token is none".into(),
                }),
            };
        }
        let told = serde_json::from_slice::<Refusal>(&bytes).map_or_else(
            |_| format!("HTTP status {}", status.as_u16()),
            |it| format!("{} {}", it.error, it.error_description.unwrap_or_default()),
        );
        let why = blot(
            &format!("Linear gives no token: {}", told.trim_end()),
            secret,
        );
        let why = clip(&why, REASON_BYTES_MAX);
        Err(if status == StatusCode::TOO_MANY_REQUESTS {
            Fault::Busy {
                why,
                retry_after_seconds,
            }
        } else if status.is_client_error() {
            Fault::Permanent {
                class: FailureClass::Auth,
                why,
            }
        } else {
            Fault::Transient { why }
        })
    }
}

impl App {
    /// The register of this app's token.
    fn register(&self) -> String {
        let whose = format!("{} {}", self.oauth_url, self.id);
        format!("linear-{}", hex::encode(&Sha256::digest(whose)[..8]))
    }

    async fn put(
        &self,
        name: &str,
        value: Value,
        expires_at: Time,
        seen: u64,
        now: Time,
    ) -> Result<(), AppendError> {
        let write = RegisterWrite {
            shelf: SHELF.into(),
            name: name.into(),
            value: Some(value),
            expires_at: Some(expires_at),
        };
        self.registers.put(write, seen, now).await
    }
}

/// Until when somebody mints.
fn turn_ends(register: &Register) -> Option<Time> {
    register.value.get("turn_ends")?.as_str()?.parse().ok()
}

impl Token {
    fn shared(register: &Register) -> Option<Self> {
        let token = register.value.get("token")?.as_str()?;
        Some(Self(SecretString::from(token)))
    }

    pub(super) fn header(&self) -> Result<HeaderValue, Fault> {
        let text = self.0.expose_secret();
        let scheme = if text.starts_with(PERSONAL_KEY_PREFIX) {
            ""
        } else {
            "Bearer "
        };
        let mut header =
            HeaderValue::try_from(format!("{scheme}{text}")).map_err(|_| Fault::Permanent {
                class: FailureClass::Auth,
                why: "Linear's token holds characters that no token has".into(),
            })?;
        header.set_sensitive(true);
        Ok(header)
    }

    pub(super) fn secret(&self) -> &SecretString {
        &self.0
    }

    fn is(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}
