//! Deliveries: which are genuine, and what they mean.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::SignedDuration;
use serde_json::{Value, json};
use shared::issue::{CancelReason, Input, IssueId, Opening, TEXT_BYTES_MAX, Time};
use shared::linear::webhook::{AGE_SECONDS_MAX, AHEAD_SECONDS_MAX};
use shared::linear::{Refused, hear};
use world::linear::{APP_USER, sign};

use crate::noon;

pub(crate) const SECRET: &str = "lin_wh_of_the_test";
const ISSUE: &str = "3f2e1d0c-9b8a-4756-a534-12f1e0d9c8b7";
const SESSION: &str = "aa11bb22-cc33-4d44-9e55-ff6677889900";

type Heard = Result<Option<(IssueId, Input)>, Refused>;

fn hear_signed(body: &[u8], now: Time) -> Heard {
    hear(&[SECRET.into()], Some(&sign(SECRET, body)), body, now)
}

fn hear_value(body: &Value) -> Heard {
    hear_signed(body.to_string().as_bytes(), noon())
}

fn of_issue(input: Input) -> Heard {
    Ok(Some((ISSUE.into(), input)))
}

fn cancelled(why: CancelReason) -> Heard {
    of_issue(Input::Cancelled { why, at: noon() })
}

pub(crate) fn undelegated() -> CancelReason {
    CancelReason::Undelegated {
        from: Some(APP_USER.into()),
    }
}

/// Five minutes after noon people wrote in the session.
fn later() -> Time {
    noon() + SignedDuration::from_mins(5)
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/linear-webhooks")
}

fn recorded(name: &str) -> Vec<u8> {
    std::fs::read(folder().join(format!("{name}.json"))).expect("a recorded delivery")
}

pub(crate) fn recorded_value(name: &str) -> Value {
    serde_json::from_slice(&recorded(name)).expect("JSON")
}

// ───────────────────────────── what they mean ─────────────────────────────

#[test]
fn every_recorded_delivery_means_what_it_should() {
    let opening = || Opening {
        session: SESSION.into(),
        identifier: "ENG-42".into(),
        title: "Add sign-in with passkeys".into(),
        url: "https://linear.app/acme/issue/ENG-42/add-sign-in-with-passkeys".into(),
        app_user: Some(APP_USER.into()),
        at: noon(),
    };
    let opened = || of_issue(Input::Opened(opening()));
    let prompted = |activity: &str, text: &str| {
        of_issue(Input::Prompted {
            opening: opening(),
            activity: activity.into(),
            text: text.into(),
            at: later(),
        })
    };
    let table = [
        ("agent-session.created.delegation", opened()),
        ("agent-session.created.mention", opened()),
        (
            "agent-session.prompted",
            prompted(
                "dd44ee55-ff66-4077-8188-99aabbccddee",
                "Please use WebAuthn level 3 and keep password sign-in.",
            ),
        ),
        (
            "agent-session.prompted.select-answer",
            prompted(
                "dd44ee55-ff66-4077-8188-99aabbccddee",
                "https://github.com/acme/web",
            ),
        ),
        (
            "agent-session.prompted.stop",
            of_issue(Input::Cancelled {
                why: CancelReason::Stop,
                at: later(),
            }),
        ),
        ("app-user-notification.issueAssignedToYou", Ok(None)),
        ("app-user-notification.issueStatusChanged", Ok(None)),
        (
            "app-user-notification.issueUnassignedFromYou",
            cancelled(undelegated()),
        ),
        ("comment.create", Ok(None)),
        ("issue.create", Ok(None)),
        ("issue.remove", cancelled(CancelReason::Removed)),
        (
            "issue.update.canceled",
            cancelled(CancelReason::State("canceled".into())),
        ),
        ("issue.update.delegated", Ok(None)),
        ("issue.update.state-started", Ok(None)),
        ("issue.update.undelegated", cancelled(undelegated())),
        ("oauth-app.revoked", Ok(None)),
        ("oauth-authorization.revoked", Ok(None)),
        ("permission-change", Ok(None)),
    ];
    let there: BTreeSet<String> = std::fs::read_dir(folder())
        .expect("the recorded deliveries")
        .map(|it| {
            it.expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    let told: BTreeSet<String> = table
        .iter()
        .map(|(name, _)| format!("{name}.json"))
        .collect();
    assert_eq!(there, told);
    for (name, expected) in table {
        assert_eq!(hear_signed(&recorded(name), noon()), expected, "{name}");
    }
}

#[test]
fn an_issue_update_counts_only_for_what_has_just_changed() {
    let update = |data: Value, updated_from: Value| {
        let mut body = recorded_value("issue.update.canceled");
        for (key, value) in data.as_object().expect("an object") {
            body["data"][key] = value.clone();
        }
        body["updatedFrom"] = updated_from;
        hear_value(&body)
    };
    let kind = |it: &str| json!({ "state": { "type": it } });
    let other = "dddddddd-1111-4222-8333-444455556666";
    let moved = json!({ "stateId": "before" });
    let taken = json!({ "delegateId": APP_USER });
    let of_state = |it: &str| cancelled(CancelReason::State(it.into()));
    assert_eq!(
        update(kind("canceled"), moved.clone()),
        of_state("canceled")
    );
    assert_eq!(
        update(kind("duplicate"), moved.clone()),
        of_state("duplicate")
    );
    assert_eq!(update(kind("completed"), moved.clone()), Ok(None));
    assert_eq!(update(kind("a kind that is new"), moved), Ok(None));
    assert_eq!(
        update(kind("canceled"), json!({ "title": "before" })),
        Ok(None)
    );
    assert_eq!(update(kind("canceled"), Value::Null), Ok(None));
    let none = json!({ "delegateId": null, "delegate": null });
    assert_eq!(
        update(none.clone(), taken.clone()),
        cancelled(undelegated())
    );
    let another = json!({ "delegateId": other, "delegate": { "id": other } });
    assert_eq!(update(another, taken.clone()), cancelled(undelegated()));
    let same = json!({ "delegateId": APP_USER, "delegate": { "id": APP_USER } });
    assert_eq!(update(same, taken), Ok(None));
    assert_eq!(update(none, json!({ "delegateId": null })), Ok(None));
    let trashed = update(json!({ "trashed": true }), json!({ "trashed": null }));
    assert_eq!(trashed, cancelled(CancelReason::Removed));
}

#[test]
fn a_status_notification_counts_when_it_tells_the_state() {
    let mut body = recorded_value("app-user-notification.issueStatusChanged");
    body["notification"]["issue"]["state"] = json!({ "type": "duplicate" });
    assert_eq!(
        hear_value(&body),
        cancelled(CancelReason::State("duplicate".into()))
    );
    body["notification"]["issue"]["state"] = json!({ "type": "started" });
    assert_eq!(hear_value(&body), Ok(None));
}

#[test]
fn the_word_stop_stops_and_a_sentence_with_it_does_not() {
    let heard = |text: &str| {
        let mut body = recorded_value("agent-session.prompted");
        body["agentActivity"]["content"]["body"] = text.into();
        hear_value(&body)
    };
    let stops = [
        "stop",
        "Stop",
        " STOP!!",
        "stop.",
        "Stop session",
        "stop  working?! ",
        "stop\n",
    ];
    for text in stops {
        let expected = of_issue(Input::Cancelled {
            why: CancelReason::Stop,
            at: later(),
        });
        assert_eq!(heard(text), expected, "{text:?}");
    }
    for text in [
        "stop it",
        "don't stop",
        "stop session now",
        "stopp",
        "stop, session",
        "stop using X",
    ] {
        let heard = heard(text);
        let prompted =
            matches!(&heard, Ok(Some((_, Input::Prompted { text: it, .. }))) if it == text);
        assert!(prompted, "{text:?}: {heard:?}");
    }
    for text in ["", " \n", "..."] {
        assert!(
            !matches!(heard(text), Ok(Some((_, Input::Cancelled { .. })))),
            "{text:?}"
        );
    }
}

#[test]
fn the_text_of_a_prompt_is_found_in_both_places_and_bounded() {
    let heard = |activity: Value| {
        let mut body = recorded_value("agent-session.prompted");
        let at = &mut body["agentActivity"];
        at["content"] = activity["content"].clone();
        at["body"] = activity["body"].clone();
        match hear_value(&body) {
            Ok(Some((_, Input::Prompted { text, .. }))) => text,
            other => panic!("{activity}: {other:?}"),
        }
    };
    assert_eq!(
        heard(json!({ "content": { "body": "inner" }, "body": "outer" })),
        "inner"
    );
    assert_eq!(
        heard(json!({ "content": { "type": "prompt" }, "body": "outer" })),
        "outer"
    );
    assert_eq!(heard(json!({ "body": "outer" })), "outer");
    let long = heard(json!({ "body": "é".repeat(TEXT_BYTES_MAX) }));
    assert!(
        long.len() <= TEXT_BYTES_MAX && long.ends_with('…'),
        "{} bytes",
        long.len()
    );
}

#[test]
fn what_is_unset_may_be_absent_and_what_is_new_is_passed_over() {
    let id = json!({ "id": SESSION, "issueId": ISSUE, "new": { "deep": [1] } });
    let body = json!({
        "type": "AgentSessionEvent", "action": "created", "agentSession": id, "new": true,
        "webhookTimestamp": noon().as_millisecond(),
    });
    let expected = Opening {
        session: SESSION.into(),
        identifier: String::new(),
        title: String::new(),
        url: String::new(),
        app_user: None,
        // Nothing tells when it was created, so it was when it was sent.
        at: noon(),
    };
    assert_eq!(hear_value(&body), of_issue(Input::Opened(expected)));
}

#[test]
fn a_session_without_an_issue_is_of_no_interest() {
    let mut body = recorded_value("agent-session.created.delegation");
    body["agentSession"]["issueId"] = Value::Null;
    body["agentSession"]["issue"] = Value::Null;
    assert_eq!(hear_value(&body), Ok(None));
}

#[test]
fn kinds_that_we_do_not_know_are_of_no_interest() {
    let sent = noon().as_millisecond();
    for body in [
        json!({ "type": "Comet", "action": "update", "webhookTimestamp": sent }),
        json!({ "type": "AgentSessionEvent", "action": "halted", "webhookTimestamp": sent }),
        json!({ "type": "Issue", "webhookTimestamp": sent }),
    ] {
        assert_eq!(hear_value(&body), Ok(None), "{body}");
    }
}

#[test]
fn what_is_not_the_json_it_should_be_is_malformed() {
    let sent = noon().as_millisecond();
    let long = "x".repeat(1000);
    let bodies = [
        "".to_owned(),
        "{".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)),
        json!({ "webhookTimestamp": sent }).to_string(),
        json!({ "type": 1, "webhookTimestamp": sent }).to_string(),
        json!({ "type": "Issue", "action": "remove", "webhookTimestamp": sent }).to_string(),
        json!({ "type": "Issue", "action": "remove", "data": {}, "webhookTimestamp": sent })
            .to_string(),
        json!({ "type": "Issue", "action": "remove", "data": { "id": long },
            "webhookTimestamp": sent })
        .to_string(),
        json!({ "type": "AgentSessionEvent", "action": "created", "agentSession": "x",
            "webhookTimestamp": sent })
        .to_string(),
        json!({ "type": "AgentSessionEvent", "action": "prompted",
            "agentSession": { "id": SESSION, "issueId": ISSUE }, "webhookTimestamp": sent })
        .to_string(),
    ];
    for body in bodies {
        let heard = hear_signed(body.as_bytes(), noon());
        let shown = body.get(..80).unwrap_or(&body);
        assert!(
            matches!(heard, Err(Refused::Malformed(_))),
            "{shown}: {heard:?}"
        );
    }
}

// ───────────────────────────── which are genuine ─────────────────────────────

fn unauthorized(heard: &Heard) -> bool {
    matches!(heard, Err(Refused::Unauthorized(_)))
}

#[test]
fn only_the_exact_signature_of_the_exact_bytes_is_taken() {
    let body = recorded("agent-session.created.delegation");
    let good = sign(SECRET, &body);
    let with = |signature: Option<&str>| hear(&[SECRET.into()], signature, &body, noon());
    assert!(with(Some(&good)).is_ok());
    let flipped = if good.ends_with('0') { "1" } else { "0" };
    let wrong = [
        None,
        Some(String::new()),
        Some(good.to_uppercase()),
        Some(format!("sha256={good}")),
        Some(format!(" {good}")),
        Some(good[..good.len() - 2].to_owned()),
        Some(format!("{good}00")),
        Some(format!("{}{flipped}", &good[..good.len() - 1])),
        Some("no hex at all".to_owned()),
        Some(sign("another secret", &body)),
        Some(sign(SECRET, b"another body")),
    ];
    for signature in wrong {
        let heard = with(signature.as_deref());
        assert!(unauthorized(&heard), "{signature:?}: {heard:?}");
    }
}

#[test]
fn a_body_that_was_written_anew_is_refused() {
    let body = recorded("agent-session.created.delegation");
    let anew = recorded_value("agent-session.created.delegation").to_string();
    let heard = hear(
        &[SECRET.into()],
        Some(&sign(SECRET, &body)),
        anew.as_bytes(),
        noon(),
    );
    assert!(unauthorized(&heard), "{heard:?}");
}

#[test]
fn two_secrets_hold_while_one_replaces_the_other() {
    let body = recorded("agent-session.created.delegation");
    let both = ["old".into(), "new".into()];
    for secret in ["old", "new"] {
        assert!(
            hear(&both, Some(&sign(secret, &body)), &body, noon()).is_ok(),
            "{secret}"
        );
    }
    assert!(unauthorized(&hear(
        &both,
        Some(&sign("third", &body)),
        &body,
        noon()
    )));
}

#[test]
fn without_a_secret_nothing_is_genuine() {
    let body = recorded("agent-session.created.delegation");
    assert!(unauthorized(&hear(
        &[],
        Some(&sign("", &body)),
        &body,
        noon()
    )));
    assert!(unauthorized(&hear(
        &["".into()],
        Some(&sign("", &body)),
        &body,
        noon()
    )));
}

#[test]
fn the_signed_time_bounds_the_age() {
    let body = recorded("agent-session.created.delegation");
    let table = [
        (0, true),
        (59, true),
        // Linear's last retry.
        (7 * 3600 + 60, true),
        (AGE_SECONDS_MAX, true),
        (AGE_SECONDS_MAX + 1, false),
        (-59, true),
        (-AHEAD_SECONDS_MAX, true),
        (-AHEAD_SECONDS_MAX - 1, false),
        (-86_400, false),
    ];
    for (age, taken) in table {
        let heard = hear_signed(&body, noon() + SignedDuration::from_secs(age));
        assert_eq!(heard.is_ok(), taken, "{age} s old: {heard:?}");
        assert_eq!(unauthorized(&heard), !taken, "{age} s old: {heard:?}");
    }
}

#[test]
fn without_a_signed_time_it_is_refused() {
    for time in [
        Value::Null,
        json!("1795176000000"),
        json!({}),
        json!(u64::MAX),
        json!(i64::MIN),
    ] {
        let mut body = recorded_value("agent-session.created.delegation");
        body["webhookTimestamp"] = time.clone();
        let heard = hear_value(&body);
        assert!(unauthorized(&heard), "{time}: {heard:?}");
    }
    let mut body = recorded_value("agent-session.created.delegation");
    body.as_object_mut()
        .expect("an object")
        .remove("webhookTimestamp");
    assert!(unauthorized(&hear_value(&body)));
}

#[test]
fn a_wrong_signature_comes_before_wrong_json() {
    let heard = hear(
        &[SECRET.into()],
        Some(&sign("another secret", b"{")),
        b"{",
        noon(),
    );
    assert!(unauthorized(&heard), "{heard:?}");
}
