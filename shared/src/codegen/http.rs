//! One request to Codegen, and what its answer means where that is the same for all.

use reqwest::{Method, StatusCode};
use secrecy::SecretString;
use serde_json::Value;

use super::REQUEST_SECONDS;
use crate::issue::{FailureClass, Fault, REASON_BYTES_MAX, clip};
pub(super) use crate::net::Gap;
use crate::net::{Rest, Service, number};
use crate::secrets::Token;

/// Codegen's limits are per minute: a longer wait is not believed.
const LIMITED_SECONDS_MAX: u32 = 600;
const CODEGEN: Service = Service {
    name: "Codegen",
    headers: &[],
    request_seconds: REQUEST_SECONDS,
};

pub(super) struct Http(Rest);

/// Everything that Codegen has said to one request.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The request, for messages.
    pub(super) call: String,
    body: Vec<u8>,
    retry_after: Option<u32>,
}

impl Http {
    pub(super) fn new(api_url: &str, token: Token) -> anyhow::Result<Self> {
        Ok(Self(Rest::new(CODEGEN, api_url, token)?))
    }

    /// The token of the moment.
    pub(super) fn token(&self) -> SecretString {
        self.0.bearer().current()
    }

    pub(super) async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, Gap> {
        let reply = self.0.call(method, path, query, body).await?;
        let retry_after = number(&reply.headers, "retry-after");
        Ok(Answer {
            status: reply.status,
            call: reply.call,
            body: reply.body,
            retry_after: retry_after
                .and_then(|it| u32::try_from(it).ok())
                .map(|it| it.clamp(1, LIMITED_SECONDS_MAX)),
        })
    }
}

impl Answer {
    pub(super) fn json(&self) -> Result<Value, Fault> {
        serde_json::from_slice(&self.body).map_err(|error| Fault::Transient {
            why: format!("Codegen's answer to {} cannot be read: {error}", self.call),
        })
    }

    /// The JSON of a success; anything else is a fault.
    pub(super) fn expect_json(&self) -> Result<Value, Fault> {
        if self.status.is_success() {
            self.json()
        } else {
            Err(self.fault())
        }
    }

    /// Somebody on the way gave up, perhaps after Codegen had done it.
    pub(super) fn may_have_been_done(&self) -> bool {
        self.status.is_server_error() || self.status == StatusCode::REQUEST_TIMEOUT
    }

    pub(super) fn describe(&self) -> String {
        format!(
            "Codegen answered {} to {}: {}",
            self.status.as_u16(),
            self.call,
            self.message()
        )
    }

    /// What an answer that is no success means, where the call may be repeated.
    pub(super) fn fault(&self) -> Fault {
        let message = self.message();
        let (class, why) = match self.status.as_u16() {
            429 => {
                return Fault::Busy {
                    why: format!("Codegen asks to wait: {message}"),
                    retry_after_seconds: self.retry_after,
                };
            }
            408 | 500..=599 => {
                return Fault::Transient {
                    why: self.describe(),
                };
            }
            401 => (
                FailureClass::Auth,
                format!(
                    "Codegen does not accept the token ({message}): set CODEGEN_API_TOKEN to a \
                     valid one"
                ),
            ),
            403 => (
                FailureClass::Auth,
                format!(
                    "the Codegen token has no access to this organization ({message}): check \
                     codegen.orgId and whose token it is"
                ),
            ),
            402 => (
                FailureClass::Quota,
                format!("the runs of Codegen's plan are used up: {message}"),
            ),
            300..=399 => (
                FailureClass::Invalid,
                "Codegen's API is at another address: check CODEGEN_API_URL".to_owned(),
            ),
            _ => (FailureClass::Invalid, self.describe()),
        };
        Fault::Permanent { class, why }
    }

    /// Codegen's own words about what went wrong: `message`, else `detail` (a
    /// text or a list), else `error`.
    fn message(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let detail = &body["detail"];
        let listed = detail.as_array().map(|items| {
            let texts = items.iter().filter_map(|it| {
                let place = it["loc"]
                    .as_array()
                    .and_then(|it| it.last())
                    .and_then(Value::as_str);
                let text = it["msg"].as_str()?;
                Some(place.map_or_else(|| text.to_owned(), |place| format!("{place}: {text}")))
            });
            texts.collect::<Vec<_>>().join(", ")
        });
        let candidates = [
            body["message"].as_str().map(str::to_owned),
            detail.as_str().map(str::to_owned),
            listed,
            body["error"].as_str().map(str::to_owned),
        ];
        let found = candidates.into_iter().flatten().find(|it| !it.is_empty());
        clip(
            &found.unwrap_or_else(|| format!("status {}", self.status.as_u16())),
            REASON_BYTES_MAX,
        )
    }
}
