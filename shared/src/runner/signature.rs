//! Who may speak: every request carries its time and a signature over time,
//! method, path and raw body. A request that is sent twice within the window is
//! taken twice: fences and results see to it that nothing begins or ends twice by
//! that. What it can still do, SECURITY.md says.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use crate::issue::Time;

/// The header with the time of sending, in Unix seconds.
pub const TIMESTAMP: &str = "cyrus-timestamp";
/// The header with the signature.
pub const SIGNATURE: &str = "cyrus-signature";
/// Two clocks may be this far apart.
pub const SKEW_SECONDS_MAX: u64 = 300;
/// The only way of signing there is.
const VERSION: &str = "v1=";

/// A request as it is signed.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// In capitals.
    pub method: &'a str,
    /// As the client sends it, without a query.
    pub path: &'a str,
    pub body: &'a [u8],
}

/// Why a request is not taken, and the remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    #[error("`Cyrus-Timestamp` or `Cyrus-Signature` is missing")]
    Missing,
    #[error("the time of the request is more than 300 seconds off: set the clock")]
    Skewed,
    #[error("the signature is wrong: both sides need the same CYRUS_RUNNER_TOKEN")]
    Wrong,
}

/// The value of [`SIGNATURE`] for a request that is sent at `timestamp`.
pub fn sign(token: &SecretString, timestamp: i64, request: Signed<'_>) -> String {
    let digest = mac(token, &timestamp.to_string(), request).map(|it| it.finalize().into_bytes());
    format!("{VERSION}{}", hex::encode(digest.unwrap_or_default()))
}

/// Was this request signed with our token, just now? Takes the same time
/// wherever the signatures differ.
pub fn check(
    token: &SecretString,
    timestamp: Option<&str>,
    signature: Option<&str>,
    request: Signed<'_>,
    now: Time,
) -> Result<(), Unauthorized> {
    let (Some(timestamp), Some(signature)) = (timestamp, signature) else {
        return Err(Unauthorized::Missing);
    };
    let given = signature
        .strip_prefix(VERSION)
        .and_then(|it| hex::decode(it).ok())
        .ok_or(Unauthorized::Wrong)?;
    // An empty token is one that nobody set, and everybody knows it.
    if token.expose_secret().is_empty() {
        return Err(Unauthorized::Wrong);
    }
    // Over the time as it was written, so that nothing unsigned is believed.
    mac(token, timestamp, request)
        .and_then(|it| it.verify_slice(&given).ok())
        .ok_or(Unauthorized::Wrong)?;
    let sent: i64 = timestamp.parse().map_err(|_| Unauthorized::Skewed)?;
    if sent.abs_diff(now.as_second()) > SKEW_SECONDS_MAX {
        return Err(Unauthorized::Skewed);
    }
    Ok(())
}

fn mac(token: &SecretString, timestamp: &str, request: Signed<'_>) -> Option<Hmac<Sha256>> {
    let Signed { method, path, body } = request;
    let mac = Hmac::<Sha256>::new_from_slice(token.expose_secret().as_bytes()).ok()?;
    Some(
        mac.chain_update(format!("{timestamp}.{method}.{path}."))
            .chain_update(body),
    )
}
