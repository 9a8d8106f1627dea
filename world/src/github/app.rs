//! An App: it proves assertions, gives tokens of its installation, and remembers
//! what it has delivered.

use std::collections::BTreeMap;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use axum::extract::{Path, Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Denied;
use super::skin::{Skin, refuse, reply};
use crate::serve::meet;

/// How far ahead an assertion may end, in seconds.
const ASSERTED_SECONDS_MAX: i64 = 600;
/// How long a token lives.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(1);
/// An RSA key of PKCS#1 stands behind so many bytes of PKCS#8, at this size.
const PKCS8_HEADER_BYTES: usize = 26;
const PEM_LINE_CHARS: usize = 64;

/// A key as GitHub makes it for an App, and the half of it that GitHub keeps.
pub struct Key {
    private: Vec<u8>,
    public: Vec<u8>,
}

/// An App that is installed once.
pub struct App {
    id: String,
    installation: u64,
    public_key: Vec<u8>,
    pub installed: bool,
    pub suspended: bool,
    /// What the installation may do.
    pub permissions: BTreeMap<String, String>,
    /// The tokens that were given, and until when they are good.
    tokens: BTreeMap<String, Timestamp>,
    minted: usize,
    /// Oldest first.
    deliveries: Vec<Delivery>,
    /// Does whoever is delivered to answer 200?
    pub is_heard: bool,
    /// How often the failed ones were asked for.
    pub asked: usize,
}

/// One try to deliver something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub id: u64,
    pub guid: String,
    pub event: String,
    pub at: Timestamp,
    pub redelivery: bool,
    pub arrived: bool,
}

impl Key {
    /// Another one each time.
    pub fn generate() -> anyhow::Result<Self> {
        let pair = KeyPair::generate(KeySize::Rsa2048)?;
        let private: Pkcs8V1Der<'_> = pair.as_der()?;
        Ok(Self {
            private: private.as_ref().to_vec(),
            public: pair.public_key().as_ref().to_vec(),
        })
    }

    /// As GitHub gives it: PKCS#1.
    pub fn pkcs1(&self) -> String {
        pem("RSA PRIVATE KEY", &self.private[PKCS8_HEADER_BYTES..])
    }

    pub fn pkcs8(&self) -> String {
        pem("PRIVATE KEY", &self.private)
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(PEM_LINE_CHARS).collect();
    let lines: Vec<_> = lines.iter().map(|it| String::from_utf8_lossy(it)).collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

impl App {
    pub fn new(id: &str, installation: u64, key: &Key) -> Self {
        let permissions = [
            ("contents", "write"),
            ("pull_requests", "write"),
            ("checks", "read"),
            ("statuses", "read"),
            ("metadata", "read"),
        ];
        Self {
            id: id.into(),
            installation,
            public_key: key.public.clone(),
            installed: true,
            suspended: false,
            permissions: permissions.map(|(k, v)| (k.into(), v.into())).into(),
            tokens: BTreeMap::new(),
            minted: 0,
            deliveries: Vec::new(),
            is_heard: true,
            asked: 0,
        }
    }

    /// How many tokens were given.
    pub fn minted(&self) -> usize {
        self.minted
    }

    /// From now on no token that was given is good.
    pub fn revoke(&mut self) {
        self.tokens.clear();
    }

    /// Is this a token that was given, and still good?
    pub(super) fn accepts(&self, token: &str, now: Timestamp) -> bool {
        self.tokens.get(token).is_some_and(|until| now < *until)
    }

    /// Delivers something for the first time.
    pub fn deliver(&mut self, guid: &str, event: &str, now: Timestamp) {
        self.try_to_deliver(guid, event, now, false);
    }

    fn try_to_deliver(&mut self, guid: &str, event: &str, at: Timestamp, redelivery: bool) {
        self.deliveries.push(Delivery {
            id: self.deliveries.len() as u64 + 1,
            guid: guid.into(),
            event: event.into(),
            at,
            redelivery,
            arrived: self.is_heard,
        });
    }

    /// All tries, oldest first.
    pub fn deliveries(&self) -> &[Delivery] {
        &self.deliveries
    }

    /// Is it the App that speaks?
    fn admit(&self, assertion: &str, now: Timestamp) -> Result<(), Denied> {
        let undecodable = || Denied::new(401, "A JSON web token could not be decoded");
        let (said, signature) = assertion.rsplit_once('.').ok_or_else(undecodable)?;
        let (header, claims) = said.split_once('.').ok_or_else(undecodable)?;
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| undecodable());
        let json =
            |text: &str| serde_json::from_slice::<Value>(&bytes(text)?).map_err(|_| undecodable());
        let (header, claims) = (json(header)?, json(claims)?);
        UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &self.public_key)
            .verify(said.as_bytes(), &bytes(signature)?)
            .map_err(|_| undecodable())?;
        if header["alg"] != "RS256" || claims["iss"] != self.id.as_str() {
            return Err(undecodable());
        }
        let now = now.as_second();
        let (Some(issued), Some(ends)) = (claims["iat"].as_i64(), claims["exp"].as_i64()) else {
            return Err(undecodable());
        };
        let claim = |what: &str| Err(Denied::new(401, what));
        if issued > now {
            return claim(
                "'Issued at' claim ('iat') must be an Integer representing the time that the assertion was issued",
            );
        }
        if ends <= now {
            return claim(
                "'Expiration time' claim ('exp') must be a numeric value representing the future time at which the assertion expires",
            );
        }
        if ends > now + ASSERTED_SECONDS_MAX {
            return claim("'Expiration time' claim ('exp') is too far in the future");
        }
        Ok(())
    }

    /// The installation of that number, if it is there.
    fn installation(&self, number: &str) -> Result<(), Denied> {
        if self.installed && number == self.installation.to_string() {
            Ok(())
        } else {
            Err(Denied::new(404, "Not Found"))
        }
    }

    fn mint(&mut self, number: &str, now: Timestamp) -> Result<(u16, Value), Denied> {
        self.installation(number)?;
        if self.suspended {
            return Err(Denied::new(403, "This installation has been suspended"));
        }
        self.minted += 1;
        let token = format!("ghs_minted_{}", self.minted);
        let until = now + TOKEN_LIFE;
        self.tokens.insert(token.clone(), until);
        // To the second, as GitHub tells it.
        let until = Timestamp::from_second(until.as_second()).unwrap_or(until);
        let permissions = &self.permissions;
        Ok((
            201,
            json!({ "token": token, "expires_at": until, "permissions": permissions, "repository_selection": "all" }),
        ))
    }

    fn describe(&self, number: &str) -> Result<(u16, Value), Denied> {
        self.installation(number)?;
        Ok((
            200,
            json!({
                "id": self.installation,
                "app_slug": "cyrus-test",
                "account": { "login": "acme", "type": "Organization" },
                "permissions": self.permissions,
                "suspended_at": self.suspended.then_some("2026-01-01T00:00:00Z"),
            }),
        ))
    }
}

/// The paths under `/app`. Operations for troubles: `installation`, `token`,
/// `deliveries`, `attempt`.
pub(super) fn router(skin: Skin) -> Router {
    Router::new()
        .route("/app/installations/{id}", get(installation))
        .route("/app/installations/{id}/access_tokens", post(token))
        .route("/app/hook/deliveries", get(deliveries))
        .route("/app/hook/deliveries/{id}/attempts", post(attempt))
        .with_state(skin)
}

/// Lets in who is the App, and does the work.
async fn answer(
    skin: &Skin,
    operation: &str,
    headers: &HeaderMap,
    work: impl FnOnce(&mut App, Timestamp) -> Result<Response, Denied>,
) -> Response {
    let now = (skin.shared.clock)();
    let work = async {
        let given = headers.get("authorization").and_then(|it| it.to_str().ok());
        let given = given.and_then(|it| it.strip_prefix("Bearer "));
        let mut github = skin.shared.lock();
        let Some(app) = &mut github.app else {
            return refuse(&Denied::new(404, "Not Found"));
        };
        let done = match app.admit(given.unwrap_or_default(), now) {
            Ok(()) => work(app, now),
            Err(denied) => Err(denied),
        };
        done.unwrap_or_else(|denied| refuse(&denied))
    };
    meet(skin.faults.meet(operation), work).await
}

async fn installation(
    State(skin): State<Skin>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let work = |app: &mut App, _| app.describe(&id).map(|(status, body)| reply(status, body));
    answer(&skin, "installation", &headers, work).await
}

async fn token(State(skin): State<Skin>, Path(id): Path<String>, headers: HeaderMap) -> Response {
    let work = |app: &mut App, now| app.mint(&id, now).map(|(status, body)| reply(status, body));
    answer(&skin, "token", &headers, work).await
}

#[derive(Deserialize)]
struct DeliveriesQuery {
    status: Option<String>,
    per_page: Option<usize>,
    cursor: Option<String>,
}

async fn deliveries(
    State(skin): State<Skin>,
    Query(query): Query<DeliveriesQuery>,
    headers: HeaderMap,
) -> Response {
    let host = headers.get("host").and_then(|it| it.to_str().ok());
    let host = host.unwrap_or_default().to_owned();
    let work = |app: &mut App, _| {
        let wanted = |it: &&Delivery| match query.status.as_deref() {
            Some("failure") => !it.arrived,
            Some("success") => it.arrived,
            _ => true,
        };
        if query.status.as_deref() == Some("failure") && query.cursor.is_none() {
            app.asked += 1;
        }
        let (size, installation) = (query.per_page.unwrap_or(30).min(100), app.installation);
        // Nothing that comes in between moves the pages.
        let below = query
            .cursor
            .as_deref()
            .and_then(|it| it.strip_prefix("v1_"));
        let below: u64 = below.and_then(|it| it.parse().ok()).unwrap_or(u64::MAX);
        let mut left = app.deliveries.iter().rev().filter(wanted);
        let page: Vec<&Delivery> = left
            .by_ref()
            .filter(|it| it.id < below)
            .take(size)
            .collect();
        let items: Vec<Value> = page.iter().map(|it| item(it, installation)).collect();
        let mut response = Json(items).into_response();
        if let (Some(_), Some(last)) = (left.next(), page.last()) {
            let link = format!(
                "<http://{host}/app/hook/deliveries?per_page={size}&cursor=v1_{}>; rel=\"next\"",
                last.id
            );
            if let Ok(link) = link.parse() {
                response.headers_mut().insert("link", link);
            }
        }
        Ok(response)
    };
    answer(&skin, "deliveries", &headers, work).await
}

fn item(delivery: &Delivery, installation: u64) -> Value {
    let status = if delivery.arrived {
        (200, "OK")
    } else {
        (502, "failed to connect to host")
    };
    json!({
        "id": delivery.id,
        "guid": delivery.guid,
        "delivered_at": delivery.at,
        "redelivery": delivery.redelivery,
        "duration": 0.03,
        "status": status.1,
        "status_code": status.0,
        "event": delivery.event,
        "action": null,
        "installation_id": installation,
        "repository_id": null,
    })
}

async fn attempt(State(skin): State<Skin>, Path(id): Path<u64>, headers: HeaderMap) -> Response {
    let work = |app: &mut App, now| {
        let found = app.deliveries.iter().find(|it| it.id == id).cloned();
        let found = found.ok_or_else(|| Denied::new(404, "Not Found"))?;
        app.try_to_deliver(&found.guid, &found.event, now, true);
        Ok(reply(202, json!({})))
    };
    answer(&skin, "attempt", &headers, work).await
}
