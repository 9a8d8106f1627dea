//! The token that goes with every call: one that was given, or one that is
//! minted from a client's id and secret. Of minted tokens one per app is good at
//! a time: a new one ends the one before.

use std::sync::Arc;

use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::answer::{self, blot};
use crate::issue::{FailureClass, Fault, REASON_BYTES_MAX, clip};
use crate::net::Http;
use crate::net::minted::{Fresh, Mint, Minted};
use crate::ports::{Clock, Registers};
use crate::secrets;

/// What the app may do; the scopes that only an admin can give are left out.
const SCOPE: &str = "read,write,app:assignable,app:mentionable";
/// Personal keys begin with this and go without `Bearer`.
const PERSONAL_KEY_PREFIX: &str = "lin_api_";
/// The answer to a minting is read up to here.
const MINTED_BYTES_MAX: usize = 64 * 1024;
/// How long a token is good of which Linear does not say it.
const TOKEN_SECONDS: i64 = 24 * 60 * 60;

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
pub(super) enum Tokens {
    Given(secrets::Token),
    Minted(Minted<Client>),
}

/// The app's credentials, and what it takes to make a token of them.
pub(super) struct Client {
    oauth_url: String,
    id: String,
    secret: SecretString,
    http: Arc<Http>,
    clock: Arc<dyn Clock>,
}

/// A token as it is sent.
#[derive(Clone)]
pub(super) struct Token(SecretString);

#[derive(Deserialize)]
struct Reply {
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
        match auth {
            Auth::Token(token) => Self::Given(token),
            Auth::Client(app) => {
                let App {
                    oauth_url,
                    id,
                    secret,
                    registers,
                } = app;
                let client = Client {
                    oauth_url,
                    id,
                    secret,
                    http,
                    clock: Arc::clone(&clock),
                };
                Self::Minted(Minted::new(client, registers, clock))
            }
        }
    }

    /// The token to go with a call.
    pub(super) async fn current(&self) -> Result<Token, Fault> {
        match self {
            Self::Given(token) => Ok(Token(token.current())),
            Self::Minted(minted) => minted.current().await.map(Token),
        }
    }

    /// Another token, after Linear refused `refused`; `None` if there is no other.
    pub(super) async fn after_refusal(&self, refused: &Token) -> Result<Option<Token>, Fault> {
        match self {
            Self::Given(token) => Ok(token.after_refusal(refused.secret()).await.map(Token)),
            Self::Minted(minted) => {
                let token = minted.after_refusal(refused.secret()).await?;
                Ok(Some(Token(token)))
            }
        }
    }
}

impl Mint for Client {
    const WHOSE: &'static str = "Linear";

    fn identity(&self) -> String {
        format!("{} {}", self.oauth_url, self.id)
    }

    async fn mint(&self) -> Result<Fresh, Fault> {
        let secret = &self.secret;
        let form = [
            ("grant_type", "client_credentials"),
            ("scope", SCOPE),
            ("client_id", &self.id),
            ("client_secret", secret.expose_secret()),
        ];
        let client = self.http.client().map_err(|why| Fault::Transient { why })?;
        let reply = client.post(&self.oauth_url).form(&form).send().await;
        let reply = reply.map_err(|error| answer::broken("token", error))?;
        let status = reply.status();
        let retry_after_seconds = answer::retry_after(reply.headers(), self.clock.now());
        let bytes = answer::bytes("token", reply, MINTED_BYTES_MAX).await?;
        if status.is_success() {
            return match serde_json::from_slice::<Reply>(&bytes) {
                Ok(reply) => Ok(Fresh {
                    token: reply.access_token,
                    seconds: reply.expires_in.unwrap_or(TOKEN_SECONDS),
                }),
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
}
