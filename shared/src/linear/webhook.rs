//! A delivery from Linear: proves that it is one, and says what it means.
//!
//! It keeps no memory: that a delivery comes twice is seen by the core, from the
//! ids in it. No I/O and no clock.

use jiff::SignedDuration;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value};
use tracing::debug;

pub use crate::delivery::Refused;
use crate::delivery::check_signature;
use crate::issue::{
    CancelReason, Input, IssueId, Opening, REASON_BYTES_MAX, SessionId, TEXT_BYTES_MAX, Time, clip,
};

/// A delivery may be this old: Linear's last retry comes seven hours after the
/// first, and it is not settled whether a retry gets a new time. Replays within
/// this window change nothing, because the core knows what it has seen.
pub const AGE_SECONDS_MAX: i64 = 8 * 60 * 60;
/// Linear's clock may be this far ahead of ours.
pub const AHEAD_SECONDS_MAX: i64 = 60;
/// Linear's ids are UUIDs; anything longer than this is none.
const ID_BYTES_MAX: usize = 128;

/// Takes a delivery in: the raw body, and the `Linear-Signature` header.
///
/// `secrets` are all that hold now: two while one is being replaced. `Ok(None)`
/// means that the delivery is genuine and of no interest.
pub fn hear(
    secrets: &[SecretString],
    signature: Option<&str>,
    body: &[u8],
    now: Time,
) -> Result<Option<(IssueId, Input)>, Refused> {
    let signature = signature.ok_or(Refused::Unauthorized("the signature is missing"))?;
    check_signature(secrets, signature, body)?;
    let envelope: Map<String, Value> = serde_json::from_slice(body).map_err(malformed)?;
    let sent = check_age(&envelope, now)?;
    let word = |key: &str| envelope.get(key).and_then(Value::as_str);
    let kind = word("type")
        .ok_or_else(|| Refused::Malformed("no `type`".into()))?
        .to_owned();
    let action = word("action").unwrap_or_default().to_owned();
    let heard = match (kind.as_str(), action.as_str()) {
        ("AgentSessionEvent", "created") => opened(parse(envelope)?, sent)?,
        ("AgentSessionEvent", "prompted") => prompted(parse(envelope)?, sent)?,
        ("AppUserNotification", _) => notified(parse(envelope)?, &action, sent)?,
        ("Issue", "update" | "remove") => changed(parse(envelope)?, &action, sent)?,
        _ => None,
    };
    if heard.is_none() {
        debug!(
            "a delivery `{}/{}` of no interest",
            clip(&kind, ID_BYTES_MAX),
            clip(&action, ID_BYTES_MAX)
        );
    }
    Ok(heard)
}

// ───────────────────────────── is it genuine ─────────────────────────────

/// The signed time of sending. The header `Linear-Timestamp` is not signed, so it says nothing.
fn check_age(envelope: &Map<String, Value>, now: Time) -> Result<Time, Refused> {
    let sent = envelope
        .get("webhookTimestamp")
        .and_then(Value::as_i64)
        .and_then(|it| Time::from_millisecond(it).ok())
        .ok_or(Refused::Unauthorized(
            "the signed `webhookTimestamp` is missing",
        ))?;
    let age = now.duration_since(sent);
    if age > SignedDuration::from_secs(AGE_SECONDS_MAX) {
        return Err(Refused::Unauthorized("the delivery is too old"));
    }
    if age < SignedDuration::from_secs(-AHEAD_SECONDS_MAX) {
        return Err(Refused::Unauthorized("the delivery is from the future"));
    }
    Ok(sent)
}

// ───────────────────────────── what it means ─────────────────────────────

type Heard = Result<Option<(IssueId, Input)>, Refused>;

fn opened(event: SessionEvent, sent: Time) -> Heard {
    Ok(opening(event, sent)?.map(|(issue, opening)| (issue, Input::Opened(opening))))
}

/// The issue and the session that an event is about; `None` for a session that
/// belongs to something that is no issue.
fn opening(event: SessionEvent, sent: Time) -> Result<Option<(IssueId, Opening)>, Refused> {
    let session = event.agent_session;
    let Some(issue_id) = session.issue_id() else {
        return Ok(None);
    };
    let issue = session.issue.unwrap_or_default();
    let opening = Opening {
        session: SessionId(id(session.id, "agentSession.id")?),
        identifier: clip(&issue.identifier.unwrap_or_default(), ID_BYTES_MAX),
        title: clip(&issue.title.unwrap_or_default(), REASON_BYTES_MAX),
        url: clip(&issue.url.unwrap_or_default(), REASON_BYTES_MAX),
        app_user: event.app_user_id,
        at: moment(session.created_at.or(event.created_at), sent),
    };
    Ok(Some((
        IssueId(id(Some(issue_id), "the issue's id")?),
        opening,
    )))
}

fn prompted(mut event: SessionEvent, sent: Time) -> Heard {
    if event.agent_session.issue_id().is_none() {
        return Ok(None);
    }
    let activity = event
        .agent_activity
        .take()
        .ok_or_else(|| Refused::Malformed("a prompt without its `agentActivity`".into()))?;
    let told_at = event.created_at.clone();
    let Some((issue, opening)) = opening(event, sent)? else {
        return Ok(None);
    };
    let text = activity.text().unwrap_or_default();
    let by_signal = activity.signal.as_ref().and_then(Value::as_str) == Some("stop");
    if by_signal || asks_to_stop(text) {
        let why = CancelReason::Stop;
        return Ok(Some((
            issue,
            Input::Cancelled {
                why,
                at: moment(told_at, sent),
            },
        )));
    }
    if text.trim().is_empty() {
        return Ok(None);
    }
    let input = Input::Prompted {
        opening,
        text: clip(text, TEXT_BYTES_MAX),
        at: moment(activity.created_at.clone().or(told_at), sent),
        activity: id(activity.id, "agentActivity.id")?,
    };
    Ok(Some((issue, input)))
}

fn notified(event: Notified, action: &str, sent: Time) -> Heard {
    let issue = event.notification.issue.unwrap_or_default();
    let why = match action {
        "issueUnassignedFromYou" => CancelReason::Undelegated {
            from: event.app_user_id,
        },
        "issueStatusChanged" => match issue.state.and_then(State::ending) {
            Some(kind) => CancelReason::State(kind),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let Some(issue_id) = event.notification.issue_id.or(issue.id) else {
        return Ok(None);
    };
    let at = moment(event.created_at, sent);
    Ok(Some((
        IssueId(id(Some(issue_id), "the issue's id")?),
        Input::Cancelled { why, at },
    )))
}

fn changed(event: Changed, action: &str, sent: Time) -> Heard {
    let Some(why) = reason(&event, action) else {
        return Ok(None);
    };
    let at = moment(event.created_at, sent);
    Ok(Some((
        IssueId(id(event.data.id, "data.id")?),
        Input::Cancelled { why, at },
    )))
}

/// Does this change of an issue mean that nobody wants us to go on?
fn reason(event: &Changed, action: &str) -> Option<CancelReason> {
    let issue = &event.data;
    if action == "remove" || issue.trashed == Some(true) {
        return Some(CancelReason::Removed);
    }
    // Only what has just changed counts: an issue that was canceled long ago and
    // is edited now says nothing new.
    let before = event.updated_from.as_ref()?;
    if before.contains_key("stateId")
        && let Some(kind) = issue.state.clone().and_then(State::ending)
    {
        return Some(CancelReason::State(kind));
    }
    let from = before.get("delegateId").and_then(Value::as_str)?;
    let to = issue
        .delegate_id
        .as_deref()
        .or(issue.delegate.as_ref().and_then(|it| it.id.as_deref()));
    (to != Some(from)).then(|| CancelReason::Undelegated {
        from: Some(from.to_owned()),
    })
}

/// `stop`, `stop session` or `stop working`, as Cyrus understands it.
fn asks_to_stop(text: &str) -> bool {
    let text =
        text.trim_end_matches(|it: char| it.is_whitespace() || matches!(it, '.' | '!' | '?'));
    let mut words = text.split_whitespace();
    let mut next_is = |all: &[&str]| {
        words
            .next()
            .is_none_or(|it| all.iter().any(|word| it.eq_ignore_ascii_case(word)))
    };
    !text.trim().is_empty()
        && next_is(&["stop"])
        && next_is(&["session", "working"])
        && next_is(&[])
}

// ───────────────────────────── how it is written ─────────────────────────────

// Linear leaves a field away or sends null where nothing is set, and adds fields
// as it likes.

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionEvent {
    app_user_id: Option<String>,
    agent_session: Session,
    agent_activity: Option<Prompt>,
    created_at: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    id: Option<String>,
    created_at: Option<String>,
    issue_id: Option<String>,
    issue: Option<Issue>,
}

impl Session {
    fn issue_id(&self) -> Option<String> {
        self.issue_id
            .clone()
            .or_else(|| self.issue.as_ref()?.id.clone())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Prompt {
    id: Option<String>,
    created_at: Option<String>,
    content: Option<Value>,
    body: Option<Value>,
    signal: Option<Value>,
}

impl Prompt {
    /// Linear's prose says `body`, its schema and every capture `content.body`.
    fn text(&self) -> Option<&str> {
        let inner = self.content.as_ref().and_then(|it| it.get("body"));
        inner
            .and_then(Value::as_str)
            .or_else(|| self.body.as_ref()?.as_str())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notified {
    app_user_id: Option<String>,
    notification: Notification,
    created_at: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Notification {
    issue_id: Option<String>,
    issue: Option<Issue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Changed {
    data: Issue,
    updated_from: Option<Map<String, Value>>,
    created_at: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Issue {
    id: Option<String>,
    identifier: Option<String>,
    title: Option<String>,
    url: Option<String>,
    trashed: Option<bool>,
    state: Option<State>,
    delegate_id: Option<String>,
    delegate: Option<Delegate>,
}

#[derive(Clone, Deserialize)]
struct State {
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl State {
    /// Its type, if work in it is not wanted.
    fn ending(self) -> Option<String> {
        self.kind
            .filter(|it| matches!(it.as_str(), "canceled" | "duplicate"))
    }
}

#[derive(Deserialize)]
struct Delegate {
    id: Option<String>,
}

fn parse<T: serde::de::DeserializeOwned>(envelope: Map<String, Value>) -> Result<T, Refused> {
    serde_json::from_value(Value::Object(envelope)).map_err(malformed)
}

fn malformed(error: serde_json::Error) -> Refused {
    Refused::Malformed(clip(
        &format!("not the JSON it should be: {error}"),
        REASON_BYTES_MAX,
    ))
}

fn id(text: Option<String>, name: &str) -> Result<String, Refused> {
    text.filter(|it| !it.is_empty() && it.len() <= ID_BYTES_MAX)
        .ok_or_else(|| Refused::Malformed(format!("`{name}` is missing or no id")))
}

/// When it happened; at the latest when it was sent.
fn moment(text: Option<String>, sent: Time) -> Time {
    text.and_then(|it| it.parse().ok()).unwrap_or(sent)
}
