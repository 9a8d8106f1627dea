//! What all signed deliveries have in common, whoever sends them.

use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

/// Why a delivery is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not from whom it says, or not from now.
    #[error("{0}")]
    Unauthorized(&'static str),
    /// It is genuine, and not what its sender sends.
    #[error("{0}")]
    Malformed(String),
}

/// Does one of the secrets sign this body, by HMAC-SHA256 in lower-case hex?
/// `secrets` are all that hold now: two while one is being replaced.
pub(crate) fn check_signature(
    secrets: &[SecretString],
    signature: &str,
    body: &[u8],
) -> Result<(), Refused> {
    let wrong = Refused::Unauthorized("the signature is wrong");
    // Who sends writes lower case, and no verifier of theirs takes anything else.
    if signature.bytes().any(|it| it.is_ascii_uppercase()) {
        return Err(wrong);
    }
    let Ok(signature) = hex::decode(signature) else {
        return Err(wrong);
    };
    // An empty secret is one that nobody set, and everybody knows it.
    let genuine = secrets
        .iter()
        .map(ExposeSecret::expose_secret)
        .filter(|it| !it.is_empty())
        .any(|secret| {
            Hmac::<Sha256>::new_from_slice(secret.as_bytes())
                .is_ok_and(|mac| mac.chain_update(body).verify_slice(&signature).is_ok())
        });
    if genuine { Ok(()) } else { Err(wrong) }
}
