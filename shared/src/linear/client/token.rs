//! The token that goes with every call: one that was given, or one that is
//! minted from a client's id and secret. It is kept in memory only.

use std::sync::Arc;

use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::answer::{self, blot};
use crate::issue::{FailureClass, Fault, REASON_BYTES_MAX, clip};
use crate::ports::Clock;

/// What the app may do; the scopes that only an admin can give are left out.
const SCOPE: &str = "read,write,app:assignable,app:mentionable";
/// Personal keys begin with this and go without `Bearer`.
const PERSONAL_KEY_PREFIX: &str = "lin_api_";
/// The answer to a minting is read up to here.
const MINTED_BYTES_MAX: usize = 64 * 1024;

/// How we prove who we are.
pub enum Auth {
    /// An OAuth token, or a personal API key.
    Token(SecretString),
    /// The app's own credentials. One token per app is good at a time: a new
    /// one ends the one before.
    Client {
        oauth_url: String,
        id: String,
        secret: SecretString,
    },
}

/// The token of the moment.
pub(super) struct Tokens {
    auth: Auth,
    http: reqwest::Client,
    clock: Arc<dyn Clock>,
    /// Held while one is minted, so that two are never minted at once.
    minted: Mutex<Option<Token>>,
}

/// A token as it is sent.
#[derive(Clone)]
pub(super) struct Token(SecretString);

#[derive(Deserialize)]
struct Minted {
    access_token: SecretString,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    error_description: Option<String>,
}

impl Tokens {
    pub(super) fn new(auth: Auth, http: reqwest::Client, clock: Arc<dyn Clock>) -> Self {
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
            Auth::Token(token) => Ok(Token(token.clone())),
            Auth::Client {
                oauth_url,
                id,
                secret,
            } => {
                let mut minted = self.minted.lock().await;
                if let Some(token) = minted.as_ref() {
                    return Ok(token.clone());
                }
                let token = self.mint(oauth_url, id, secret).await?;
                Ok(minted.insert(token).clone())
            }
        }
    }

    /// Another token, after Linear refused `refused`; `None` if there is no other.
    pub(super) async fn after_refusal(&self, refused: &Token) -> Result<Option<Token>, Fault> {
        match &self.auth {
            Auth::Token(_) => Ok(None),
            Auth::Client { .. } => {
                let mut minted = self.minted.lock().await;
                // Another call may have minted one in the meantime: that one is good.
                if minted.as_ref().is_some_and(|it| it.is(refused)) {
                    *minted = None;
                }
                drop(minted);
                self.current().await.map(Some)
            }
        }
    }

    async fn mint(&self, url: &str, id: &str, secret: &SecretString) -> Result<Token, Fault> {
        let form = [
            ("grant_type", "client_credentials"),
            ("scope", SCOPE),
            ("client_id", id),
            ("client_secret", secret.expose_secret()),
        ];
        let reply = self.http.post(url).form(&form).send().await;
        let reply = reply.map_err(|error| answer::broken("token", error))?;
        let status = reply.status();
        let retry_after_seconds = answer::retry_after(reply.headers(), self.clock.now());
        let bytes = answer::bytes("token", reply, MINTED_BYTES_MAX).await?;
        if status.is_success() {
            return match serde_json::from_slice::<Minted>(&bytes) {
                Ok(minted) => Ok(Token(minted.access_token)),
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

impl Token {
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
