//! What the stand-in sends when people do something: in the shape of the recorded
//! deliveries, and understood as what was done.

use std::collections::BTreeSet;

use serde_json::Value;
use shared::issue::{CancelReason, Input, Opening};
use shared::linear::hear;
use world::linear::{APP_USER, Delivery, Linear, NewIssue};

use crate::noon;
use crate::webhook::{SECRET, recorded_value, undelegated};

fn delegated() -> (Linear, String, String, Vec<Delivery>) {
    let mut linear = Linear::new();
    let new = NewIssue {
        title: "T".into(),
        labels: vec!["web".into()],
        ..NewIssue::default()
    };
    let issue = linear.add_issue(new).expect("the team is there");
    let (session, deliveries) = linear.delegate(&issue, noon()).expect("the issue is there");
    (linear, issue, session, deliveries)
}

fn heard_of(delivery: &Delivery) -> Option<Input> {
    let headers = delivery.headers(SECRET);
    let signature = headers
        .iter()
        .find(|it| it.0 == "linear-signature")
        .map(|it| it.1.as_str());
    let heard = hear(&[SECRET.into()], signature, &delivery.body, noon()).expect("genuine");
    heard.map(|it| it.1)
}

#[test]
fn the_stand_ins_deliveries_mean_what_people_did() {
    let (mut linear, issue, session, deliveries) = delegated();
    let cancelled = |why| Some(Input::Cancelled { why, at: noon() });
    let heard: Vec<_> = deliveries.iter().map(heard_of).collect();
    let opening = Opening {
        session: session.as_str().into(),
        identifier: "ENG-1".into(),
        title: "T".into(),
        url: "https://linear.app/acme/issue/ENG-1".into(),
        app_user: Some(APP_USER.into()),
        at: noon(),
    };
    assert_eq!(heard, [None, None, Some(Input::Opened(opening.clone()))]);
    let prompt = linear.prompt(&session, "Faster", noon()).expect("a prompt");
    let activity = linear.session(&session).expect("it is there").activities[0]
        .id
        .clone();
    let prompted = Input::Prompted {
        opening,
        activity,
        text: "Faster".into(),
        at: noon(),
    };
    assert_eq!(heard_of(&prompt), Some(prompted));
    let stop = linear.stop(&session, noon()).expect("a stop");
    assert_eq!(heard_of(&stop), cancelled(CancelReason::Stop));
    let moved = linear.move_to(&issue, "canceled", noon()).expect("a move");
    let heard: Vec<_> = moved.iter().map(heard_of).collect();
    assert_eq!(
        heard,
        [cancelled(CancelReason::State("canceled".into())), None]
    );
    let taken = linear.undelegate(&issue, noon()).expect("an issue");
    let heard: Vec<_> = taken.iter().map(heard_of).collect();
    assert_eq!(heard, [cancelled(undelegated()), cancelled(undelegated())]);
    let removed = linear.remove(&issue, noon()).expect("an issue");
    assert_eq!(heard_of(&removed), cancelled(CancelReason::Removed));
}

#[test]
fn the_stand_ins_deliveries_have_the_shape_of_recorded_ones() {
    let (mut linear, issue, session, delegation) = delegated();
    let (_, mention) = linear.mention(&issue, "please", noon()).expect("a session");
    let prompt = linear.prompt(&session, "Faster", noon()).expect("a prompt");
    let stop = linear.stop(&session, noon()).expect("a stop");
    let moved = linear.move_to(&issue, "canceled", noon()).expect("a move");
    let taken = linear.undelegate(&issue, noon()).expect("an issue");
    let removed = linear.remove(&issue, noon()).expect("an issue");
    for (delivery, name) in [
        (&delegation[0], "issue.update.delegated"),
        (&delegation[1], "app-user-notification.issueAssignedToYou"),
        (&delegation[2], "agent-session.created.delegation"),
        (&mention[0], "agent-session.created.mention"),
        (&prompt, "agent-session.prompted"),
        (&stop, "agent-session.prompted.stop"),
        (&moved[0], "issue.update.canceled"),
        (&moved[1], "app-user-notification.issueStatusChanged"),
        (&taken[0], "issue.update.undelegated"),
        (&taken[1], "app-user-notification.issueUnassignedFromYou"),
        (&removed, "issue.remove"),
    ] {
        let made = serde_json::from_slice(&delivery.body).expect("JSON");
        let recorded = recorded_value(name);
        assert_eq!(
            delivery.event,
            recorded["type"].as_str().expect("a type"),
            "{name}"
        );
        assert_eq!(shape(&made), shape(&recorded), "{name}");
    }
}

/// Every place in a JSON document that is not inside something optional.
fn shape(value: &Value) -> BTreeSet<String> {
    let mut places = BTreeSet::new();
    places_of(value, "", &mut places);
    places
}

/// Set in one recorded delivery and not in the next.
const OPTIONAL: [&str; 7] = [
    "previousComments",
    "guidance",
    "promptContext",
    "updatedFrom",
    "assignee",
    "delegate",
    "subscriberIds",
];

fn places_of(value: &Value, place: &str, places: &mut BTreeSet<String>) {
    places.insert(place.to_owned());
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let inner = if OPTIONAL.contains(&key.as_str()) {
                    &Value::Null
                } else {
                    value
                };
                places_of(inner, &format!("{place}.{key}"), places);
            }
        }
        Value::Array(items) => {
            for item in items {
                places_of(item, &format!("{place}[]"), places);
            }
        }
        _ => {}
    }
}
