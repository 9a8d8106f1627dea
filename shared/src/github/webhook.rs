//! A delivery from GitHub: proves that it is one, and says which branches it is
//! about. It is a hint to look now and nothing more: what holds is read from
//! GitHub's API, by us. So a delivery that comes twice, late or never does no
//! harm, and needs no memory. No I/O and no clock.

use std::collections::BTreeSet;

use secrecy::SecretString;
use serde_json::Value;

use crate::delivery::{Refused, check_signature};

/// How the header `X-Hub-Signature-256` begins.
const SIGNATURE_PREFIX: &str = "sha256=";
/// A `status` names at most ten branches; more are no delivery of GitHub's.
const BRANCHES_MAX: usize = 10;

/// The events of which [`hear`] makes something.
const HEARD: [&str; 7] = [
    "pull_request",
    "pull_request_review",
    "check_suite",
    "check_run",
    "workflow_run",
    "status",
    "merge_group",
];

/// Is it worth anything that a delivery of this event arrives?
pub(super) fn is_heard(event: &str) -> bool {
    HEARD.contains(&event)
}

/// What is worth looking at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// What these branches of the repository itself are for.
    Branches(BTreeSet<String>),
    /// All that runs: it is about a commit that is on no branch of ours.
    Everything,
    /// Nothing of ours.
    Nothing,
}

/// Takes a delivery in: the raw body, and the headers `X-Hub-Signature-256` and
/// `X-GitHub-Event`.
pub fn hear(
    secrets: &[SecretString],
    signature: Option<&str>,
    event: Option<&str>,
    body: &[u8],
) -> Result<Hint, Refused> {
    let signature = signature.ok_or(Refused::Unauthorized("the signature is missing"))?;
    let signature = signature
        .strip_prefix(SIGNATURE_PREFIX)
        .ok_or(Refused::Unauthorized("the signature is wrong"))?;
    check_signature(secrets, signature, body)?;
    let event = event.ok_or_else(|| Refused::Malformed("no `X-GitHub-Event`".into()))?;
    let body: Value =
        serde_json::from_slice(body).map_err(|error| Refused::Malformed(error.to_string()))?;
    Ok(match event {
        "pull_request" | "pull_request_review" => ours(&body),
        "check_suite" => branches([&body["check_suite"]["head_branch"]]),
        "check_run" => branches([&body["check_run"]["check_suite"]["head_branch"]]),
        "workflow_run" => branches([&body["workflow_run"]["head_branch"]]),
        "status" => {
            let named = body["branches"].as_array().into_iter().flatten();
            branches(named.take(BRANCHES_MAX).map(|it| &it["name"]))
        }
        "merge_group" => Hint::Everything,
        _ => Hint::Nothing,
    })
}

/// A pull request from a fork is not ours, whatever its branch is called.
fn ours(body: &Value) -> Hint {
    let head = &body["pull_request"]["head"];
    let home = body["repository"]["full_name"].as_str();
    if home.is_some() && head["repo"]["full_name"].as_str() == home {
        branches([&head["ref"]])
    } else {
        Hint::Nothing
    }
}

fn branches<'a>(names: impl IntoIterator<Item = &'a Value>) -> Hint {
    let names = names.into_iter().filter_map(|it| it.as_str());
    let names: BTreeSet<String> = names.map(str::to_owned).collect();
    if names.is_empty() {
        Hint::Nothing
    } else {
        Hint::Branches(names)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// GitHub's own example of a signature.
    const SECRET: &str = "It's a Secret to Everybody";
    const SIGNATURE: &str =
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn secrets() -> Vec<SecretString> {
        vec!["an old one".into(), SECRET.into()]
    }

    /// What a genuine delivery of this event says.
    fn said(event: &str, body: &Value) -> Hint {
        let body = body.to_string();
        let mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes());
        let mac = mac.expect("a key").chain_update(body.as_bytes()).finalize();
        let signature = format!("sha256={}", hex::encode(mac.into_bytes()));
        let heard = hear(&secrets(), Some(&signature), Some(event), body.as_bytes());
        heard.expect("a genuine delivery")
    }

    use hmac::{KeyInit as _, Mac as _};

    #[test]
    fn only_what_github_has_signed_is_heard() {
        let body = b"Hello, World!";
        // The body of the example is no JSON: it is heard, and refused for that alone.
        let heard = hear(&secrets(), Some(SIGNATURE), Some("push"), body);
        assert!(matches!(heard, Err(Refused::Malformed(_))), "{heard:?}");
        let bare = SIGNATURE.strip_prefix("sha256=");
        let upper = SIGNATURE.to_uppercase().replace("SHA256", "sha256");
        for (secrets, signature, body) in [
            (secrets(), None, &body[..]),
            (secrets(), bare, body),
            (secrets(), Some(upper.as_str()), body),
            (secrets(), Some("sha256=zz"), body),
            (secrets(), Some(SIGNATURE), b"Hello, World?"),
            (vec![SecretString::from("")], Some(SIGNATURE), body),
            (Vec::new(), Some(SIGNATURE), body),
        ] {
            let heard = hear(&secrets, signature, Some("push"), body);
            assert!(matches!(heard, Err(Refused::Unauthorized(_))), "{heard:?}");
        }
    }

    #[test]
    fn a_delivery_says_which_branches_it_is_about() {
        let branch = "cyrus/eng-42/api";
        let pull = |home: &str| {
            json!({
                "repository": { "full_name": "acme/app" },
                "pull_request": { "head": { "ref": branch, "repo": { "full_name": home } } },
            })
        };
        let ours = Hint::Branches([branch.to_owned()].into());
        for (event, body, hint) in [
            ("pull_request", pull("acme/app"), ours.clone()),
            ("pull_request_review", pull("acme/app"), ours.clone()),
            ("pull_request", pull("mallory/app"), Hint::Nothing),
            // The head's repository was deleted.
            (
                "pull_request",
                json!({ "repository": { "full_name": "acme/app" }, "pull_request": { "head": { "ref": branch, "repo": null } } }),
                Hint::Nothing,
            ),
            (
                "check_suite",
                json!({ "check_suite": { "head_branch": branch } }),
                ours.clone(),
            ),
            (
                "check_run",
                json!({ "check_run": { "check_suite": { "head_branch": branch } } }),
                ours.clone(),
            ),
            (
                "workflow_run",
                json!({ "workflow_run": { "head_branch": branch } }),
                ours.clone(),
            ),
            ("status", json!({ "branches": [{ "name": branch }] }), ours),
            ("status", json!({ "branches": [] }), Hint::Nothing),
            (
                "check_suite",
                json!({ "check_suite": { "head_branch": null } }),
                Hint::Nothing,
            ),
            ("merge_group", json!({}), Hint::Everything),
            (
                "ping",
                json!({ "zen": "Keep it logically awesome." }),
                Hint::Nothing,
            ),
            ("pull_request", json!([]), Hint::Nothing),
        ] {
            assert_eq!(said(event, &body), hint, "{event} {body}");
        }
    }
}
