//! Access to GitHub: by a token that was given, or as an App.
//!
//! An App proves who it is by a short-lived assertion that its key signs (a JWT),
//! and gets a token of its installation for it, which lives one hour.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::{Method, StatusCode};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::http::{Answer, Gap, Http};
use crate::issue::{FailureClass, Fault, Time};
use crate::net::Bearer;
use crate::net::minted::{Fresh, Mint, Minted};
use crate::ports::{Clock, Registers};
use crate::secrets::Token;

/// Whose clock goes ahead of GitHub's is believed that far.
const ISSUED_BEFORE_SECONDS: i64 = 60;
/// How long an assertion holds; GitHub takes ten minutes at most.
const ASSERTED_SECONDS: i64 = 540;
/// How long a token is good of which GitHub does not say it.
const TOKEN_SECONDS: i64 = 60 * 60;
/// What we do with an installation's token: each permission with the least access.
const PERMISSIONS: [(&str, &str); 4] = [
    ("contents", "write"),
    ("pull_requests", "write"),
    ("checks", "read"),
    ("statuses", "read"),
];

/// How we prove who we are.
pub enum Access {
    Token(Token),
    App(Box<App>),
}

/// What it takes to speak as an App.
pub struct AppOptions {
    /// As in [`super::Options`].
    pub api_url: String,
    /// The App's id, or its client id.
    pub id: String,
    pub installation_id: String,
    /// PEM, PKCS#1 or PKCS#8; line breaks may be written as `\n`.
    pub key: Token,
    /// Where all copies of us share the token.
    pub registers: Arc<dyn Registers>,
    pub clock: Arc<dyn Clock>,
}

/// An App and one installation of it.
pub struct App(Minted<Installation>);

/// Where an App was installed, and what makes tokens for it.
struct Installation {
    api_url: String,
    id: String,
    http: Http<Assertion>,
    clock: Arc<dyn Clock>,
}

/// The App itself, which goes by an assertion.
struct Assertion {
    id: String,
    key: Token,
    clock: Arc<dyn Clock>,
}

#[derive(Deserialize)]
struct TokenReply {
    token: SecretString,
    expires_at: Option<Time>,
}

#[derive(Deserialize)]
struct InstallationReply {
    app_slug: String,
    account: Option<Account>,
    #[serde(default)]
    permissions: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Account {
    login: String,
}

impl From<SecretString> for Access {
    fn from(token: SecretString) -> Self {
        Self::Token(token.into())
    }
}

impl Bearer for Access {
    async fn current(&self) -> Result<SecretString, Fault> {
        match self {
            Self::Token(token) => Ok(token.current()),
            Self::App(app) => app.0.current().await,
        }
    }

    async fn after_refusal(&self, refused: &SecretString) -> Result<Option<SecretString>, Fault> {
        match self {
            Self::Token(token) => Ok(token.after_refusal(refused).await),
            Self::App(app) => app.0.after_refusal(refused).await.map(Some),
        }
    }
}

impl App {
    /// Fails where the key is none.
    pub fn new(options: AppOptions) -> anyhow::Result<Self> {
        let AppOptions {
            api_url,
            id,
            installation_id,
            key,
            registers,
            clock,
        } = options;
        key_pair(&key.current())
            .map_err(anyhow::Error::msg)
            .context("GITHUB_APP_PRIVATE_KEY")?;
        let assertion = Assertion {
            id,
            key,
            clock: Arc::clone(&clock),
        };
        let installation = Installation {
            http: Http::new(&api_url, assertion, Arc::clone(&clock))?,
            api_url,
            id: installation_id,
            clock: Arc::clone(&clock),
        };
        Ok(Self(Minted::new(installation, registers, clock)))
    }

    /// Proves the key and the installation with real calls; answers who we are there.
    pub async fn check(&self) -> Result<String, Fault> {
        let installation = self.0.mint();
        let path = ["app", "installations", &installation.id];
        let answer = self.call(Method::GET, &path, &[]).await?;
        if !answer.status.is_success() {
            return Err(installation.refusal(&answer));
        }
        let found: InstallationReply = answer.json()?;
        let lacks = lacking(&found.permissions);
        if !lacks.is_empty() {
            return Err(Fault::Permanent {
                class: FailureClass::Auth,
                why: format!(
                    "the App `{}` lacks {}: add it under Permissions in the App's settings, and \
                     accept the change where it is installed",
                    found.app_slug,
                    lacks.join(", ")
                ),
            });
        }
        self.0.current().await?;
        let account = found.account.map_or_else(String::new, |it| it.login);
        Ok(format!("{} for {account}", found.app_slug))
    }

    /// The id of the installation.
    pub(super) fn installation(&self) -> &str {
        &self.0.mint().id
    }

    /// Who asserts it: the App itself, at this server.
    pub(super) fn identity(&self) -> String {
        let installation = self.0.mint();
        format!("{} {}", installation.api_url, installation.http.bearer().id)
    }

    /// A call of the App itself.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<Answer, Gap> {
        self.0.mint().http.call(method, path, query, None).await
    }
}

impl Mint for Installation {
    const WHOSE: &'static str = "GitHub";

    fn identity(&self) -> String {
        let app = &self.http.bearer().id;
        format!("{} {app} {}", self.api_url, self.id)
    }

    async fn mint(&self) -> Result<Fresh, Fault> {
        let path = ["app", "installations", &self.id, "access_tokens"];
        let answer = self
            .http
            .call(Method::POST, &path, &[], Some(&json!({})))
            .await?;
        if !answer.status.is_success() {
            return Err(self.refusal(&answer));
        }
        let reply: TokenReply = answer.json()?;
        let seconds = reply.expires_at.map_or(TOKEN_SECONDS, |it| {
            it.duration_since(self.clock.now()).as_secs()
        });
        Ok(Fresh {
            token: reply.token,
            seconds: seconds.min(TOKEN_SECONDS),
        })
    }
}

impl Installation {
    /// What a refusal of what the App itself asks for means.
    fn refusal(&self, answer: &Answer) -> Fault {
        let fault = answer.fault("the App");
        let Fault::Permanent { .. } = fault else {
            return fault;
        };
        let (id, says) = (&self.id, answer.message());
        let why = match answer.status {
            StatusCode::UNAUTHORIZED => format!(
                "GitHub does not take the App's key ({says}): see that GITHUB_APP_ID and \
                 GITHUB_APP_PRIVATE_KEY are of the same App, and that the clock here is right"
            ),
            StatusCode::FORBIDDEN => format!(
                "the App's installation {id} gives no token ({says}): if it is suspended, \
                 unsuspend it under Settings, Applications of the account that it is installed on"
            ),
            StatusCode::NOT_FOUND => format!(
                "the App has no installation {id}: install it on the account of the repositories, \
                 and set GITHUB_APP_INSTALLATION_ID to the number at the end of the address that \
                 GitHub then shows"
            ),
            _ => return fault,
        };
        Fault::Permanent {
            class: FailureClass::Auth,
            why,
        }
    }
}

impl Bearer for Assertion {
    async fn current(&self) -> Result<SecretString, Fault> {
        let signed = signed(&self.id, &self.key.current(), self.clock.now());
        signed.map_err(|why| Fault::Permanent {
            class: FailureClass::Auth,
            why: format!("GITHUB_APP_PRIVATE_KEY {why}"),
        })
    }

    /// One of a key that was read again, if that is another one.
    async fn after_refusal(&self, _: &SecretString) -> Result<Option<SecretString>, Fault> {
        match self.key.after_refusal(&self.key.current()).await {
            Some(_) => self.current().await.map(Some),
            None => Ok(None),
        }
    }
}

/// Says who we are, signed with our key: a JSON Web Token by RS256.
fn signed(app: &str, key: &SecretString, now: Time) -> Result<SecretString, String> {
    let key = key_pair(key)?;
    let now = now.as_second();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "iat": now - ISSUED_BEFORE_SECONDS,
        "exp": now + ASSERTED_SECONDS,
        "iss": app,
    });
    let header = json!({ "alg": "RS256", "typ": "JWT" });
    let said = format!("{}.{}", part(header), part(claims));
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(
        &RSA_PKCS1_SHA256,
        &SystemRandom::new(),
        said.as_bytes(),
        &mut signature,
    )
    .map_err(|_| "cannot sign: let GitHub make another one, in the App's settings".to_owned())?;
    Ok(format!("{said}.{}", URL_SAFE_NO_PAD.encode(signature)).into())
}

/// What is wrong is said without showing it.
fn key_pair(key: &SecretString) -> Result<KeyPair, String> {
    let none = "is no private key of an App: give the whole text of the .pem file that GitHub \
                made in the App's settings, or `file:PATH`";
    // Many places that hold variables take one line only.
    let pem = key.expose_secret().replace("\\n", "\n");
    let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| none)?;
    let pair = match &key {
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
        _ => return Err(none.into()),
    };
    pair.map_err(|_| none.to_owned())
}

/// The permissions that are not there, for people.
fn lacking(given: &BTreeMap<String, String>) -> Vec<String> {
    let lacks = PERMISSIONS.iter().filter(|(name, least)| {
        let given = given.get(*name).map(String::as_str);
        !(given == Some(*least) || matches!(given, Some("write" | "admin")))
    });
    lacks
        .map(|(name, least)| format!("`{name}: {least}`"))
        .collect()
}
