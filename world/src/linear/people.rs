//! What people do in Linear, and what Linear then sends: deliveries in the shape
//! of its own webhooks, ready to be signed and posted.

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sha2::Sha256;

use super::{APP_USER, Activity, Choice, Issue, Linear, ORGANIZATION, PERSON, Refused, Session};

const WEBHOOK: &str = "7f0f5a0e-31c4-4c7e-8c2d-5d3b1a9e0c44";
const OAUTH_CLIENT: &str = "5b7c9d10-2e3f-4a5b-8c6d-7e8f9a0b1c2d";

/// One webhook as Linear sends it; a retry is the same bytes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// `Linear-Delivery`.
    pub id: String,
    /// `Linear-Event`.
    pub event: String,
    pub body: Vec<u8>,
}

impl Delivery {
    /// The headers that go with it.
    pub fn headers(&self, secret: &str) -> [(&'static str, String); 5] {
        [
            ("content-type", "application/json; charset=utf-8".into()),
            ("user-agent", "Linear-Webhook".into()),
            ("linear-delivery", self.id.clone()),
            ("linear-event", self.event.clone()),
            ("linear-signature", sign(secret, &self.body)),
        ]
    }
}

/// Linear's signature of a body: lower-case hex, no prefix.
pub fn sign(secret: &str, body: &[u8]) -> String {
    let mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    hex::encode(mac.chain_update(body).finalize().into_bytes())
}

impl Linear {
    /// A person delegates an issue to the app: a session is opened.
    pub fn delegate(
        &mut self,
        issue: &str,
        now: Timestamp,
    ) -> Result<(String, Vec<Delivery>), Refused> {
        let before = self.issue(issue)?.delegate.clone();
        self.issue_mut(issue)?.delegate = Some(APP_USER.to_owned());
        let deliveries = vec![
            self.issue_changed(issue, json!({ "delegateId": before }), now)?,
            self.notification("issueAssignedToYou", issue, now)?,
        ];
        let root = "This thread is for an agent session with cyrus.";
        self.open(issue, root, deliveries, now)
    }

    /// A person mentions the app in a comment on an issue: a session is opened.
    pub fn mention(
        &mut self,
        issue: &str,
        comment: &str,
        now: Timestamp,
    ) -> Result<(String, Vec<Delivery>), Refused> {
        self.open(issue, comment, Vec::new(), now)
    }

    /// A person writes in a session.
    pub fn prompt(
        &mut self,
        session: &str,
        text: &str,
        now: Timestamp,
    ) -> Result<Delivery, Refused> {
        self.prompted(session, text, None, now)
    }

    /// A person picks one of the answers that the last question of a session
    /// offers: what they see as its label goes out as plain text, its value.
    pub fn pick(
        &mut self,
        session: &str,
        choice: &str,
        now: Timestamp,
    ) -> Result<Delivery, Refused> {
        let question = self.session(session)?.question();
        let offered = question.into_iter().flat_map(|it| &it.options);
        let named = |it: &&Choice| it.value == choice || it.label.as_deref() == Some(choice);
        let picked = offered.into_iter().find(named).map(|it| it.value.clone());
        let picked = picked.ok_or_else(|| Refused::invalid("no question offers that answer"))?;
        self.prompted(session, &picked, None, now)
    }

    /// A person presses the stop button of a session.
    pub fn stop(&mut self, session: &str, now: Timestamp) -> Result<Delivery, Refused> {
        self.prompted(session, "Stop", Some("stop"), now)
    }

    /// A person moves an issue to the first state of a type, `canceled` for one.
    pub fn move_to(
        &mut self,
        issue: &str,
        kind: &str,
        now: Timestamp,
    ) -> Result<Vec<Delivery>, Refused> {
        let before = self.issue(issue)?.state.id.clone();
        let state = self.issue(issue)?.team.state(kind)?;
        self.issue_mut(issue)?.state = state;
        Ok(vec![
            self.issue_changed(issue, json!({ "stateId": before }), now)?,
            self.notification("issueStatusChanged", issue, now)?,
        ])
    }

    /// A person takes an issue away from the app.
    pub fn undelegate(&mut self, issue: &str, now: Timestamp) -> Result<Vec<Delivery>, Refused> {
        let before = self.issue_mut(issue)?.delegate.take();
        Ok(vec![
            self.issue_changed(issue, json!({ "delegateId": before }), now)?,
            self.notification("issueUnassignedFromYou", issue, now)?,
        ])
    }

    /// A person moves an issue to the trash.
    pub fn remove(&mut self, issue: &str, now: Timestamp) -> Result<Delivery, Refused> {
        let mut body = self.issue_event(issue, "remove", now)?;
        body["data"]["trashed"] = true.into();
        body["data"]["archivedAt"] = moment(now).into();
        self.issue_mut(issue)?.removed = true;
        Ok(self.delivery("Issue", body))
    }

    fn open(
        &mut self,
        issue: &str,
        comment: &str,
        mut deliveries: Vec<Delivery>,
        now: Timestamp,
    ) -> Result<(String, Vec<Delivery>), Refused> {
        let id = self.next_id();
        let session = Session {
            id: id.clone(),
            issue: self.issue(issue)?.id.clone(),
            opened_at: now,
            comment: (self.next_id(), comment.to_owned()),
            activities: Vec::new(),
            links: Vec::new(),
            plan: None,
        };
        let mut body = self.session_event("created", &session, now)?;
        body["promptContext"] = format!("<comment>{comment}</comment>").into();
        self.sessions.insert(id.clone(), session);
        deliveries.push(self.delivery("AgentSessionEvent", body));
        Ok((id, deliveries))
    }

    fn prompted(
        &mut self,
        session: &str,
        text: &str,
        signal: Option<&str>,
        now: Timestamp,
    ) -> Result<Delivery, Refused> {
        let id = self.next_id();
        let content = json!({ "type": "prompt", "body": text });
        self.activity_ids.insert(id.clone());
        let described = self.session_mut(session)?;
        described.activities.push(Activity {
            id: id.clone(),
            content: content.clone(),
            options: Vec::new(),
        });
        let described = described.clone();
        let mut body = self.session_event("prompted", &described, now)?;
        body["agentActivity"] = json!({
            "id": id, "agentSessionId": session, "content": content, "signal": signal,
            "signalMetadata": null, "sourceCommentId": self.next_id(),
            "createdAt": moment(now), "updatedAt": moment(now), "archivedAt": null,
            "userId": PERSON, "user": person(),
        });
        Ok(self.delivery("AgentSessionEvent", body))
    }

    fn session_event(
        &self,
        action: &str,
        session: &Session,
        now: Timestamp,
    ) -> Result<Value, Refused> {
        let issue = self.issue(&session.issue)?;
        let url = format!("{}#agent-session-{}", issue.url, session.id);
        let (comment, text) = &session.comment;
        let described = json!({
            "id": session.id, "status": session.status(), "type": "commentThread", "url": url,
            "issueId": issue.id, "issue": child(issue),
            "commentId": comment, "sourceCommentId": null,
            "comment": { "id": comment, "body": text, "userId": PERSON, "issueId": issue.id },
            "creatorId": PERSON, "creator": person(), "appUserId": APP_USER,
            "createdAt": moment(session.opened_at), "updatedAt": moment(now), "archivedAt": null,
            "startedAt": null, "endedAt": null, "summary": null, "sourceMetadata": null,
            "organizationId": ORGANIZATION,
        });
        let mut body = envelope("AgentSessionEvent", action, now);
        body["appUserId"] = APP_USER.into();
        body["oauthClientId"] = OAUTH_CLIENT.into();
        body["agentSession"] = described;
        for unset in ["previousComments", "guidance", "promptContext"] {
            body[unset] = Value::Null;
        }
        Ok(body)
    }

    fn issue_changed(
        &mut self,
        issue: &str,
        updated_from: Value,
        now: Timestamp,
    ) -> Result<Delivery, Refused> {
        let mut body = self.issue_event(issue, "update", now)?;
        body["updatedFrom"] = updated_from;
        body["updatedFrom"]["updatedAt"] = moment(now).into();
        Ok(self.delivery("Issue", body))
    }

    fn issue_event(&self, issue: &str, action: &str, now: Timestamp) -> Result<Value, Refused> {
        let issue = self.issue(issue)?;
        let mut body = envelope("Issue", action, now);
        let mut actor = person();
        actor["type"] = "user".into();
        body["actor"] = actor;
        body["url"] = issue.url.clone().into();
        body["data"] = whole(issue, now);
        Ok(body)
    }

    fn notification(
        &mut self,
        action: &str,
        issue: &str,
        now: Timestamp,
    ) -> Result<Delivery, Refused> {
        let id = self.next_id();
        let issue = self.issue(issue)?;
        let mut body = envelope("AppUserNotification", action, now);
        body["appUserId"] = APP_USER.into();
        body["oauthClientId"] = OAUTH_CLIENT.into();
        body["notification"] = json!({
            "id": id, "type": action, "userId": APP_USER,
            "actorId": PERSON, "actor": person(), "externalUserActorId": null,
            "issueId": issue.id, "issue": child(issue),
            "createdAt": moment(now), "updatedAt": moment(now), "archivedAt": null,
        });
        Ok(self.delivery("AppUserNotification", body))
    }

    fn delivery(&mut self, event: &str, body: Value) -> Delivery {
        Delivery {
            id: self.next_id(),
            event: event.to_owned(),
            body: body.to_string().into_bytes(),
        }
    }
}

fn envelope(kind: &str, action: &str, now: Timestamp) -> Value {
    json!({
        "type": kind, "action": action, "createdAt": moment(now),
        "organizationId": ORGANIZATION, "webhookId": WEBHOOK,
        "webhookTimestamp": now.as_millisecond(),
    })
}

/// An issue as other things show it.
fn child(issue: &Issue) -> Value {
    json!({
        "id": issue.id, "identifier": issue.identifier, "title": issue.title, "url": issue.url,
        "description": issue.description, "teamId": issue.team.id, "team": team(issue),
    })
}

/// An issue as its own events show it.
fn whole(issue: &Issue, now: Timestamp) -> Value {
    let labels: Vec<Value> = issue
        .labels
        .iter()
        .map(|name| json!({ "id": name, "name": name, "color": "#5e6ad2", "parentId": null }))
        .collect();
    let delegate = issue
        .delegate
        .as_ref()
        .map(|id| user(id, "Cyrus", "cyrus@oauthapp.linear.app"));
    let state = &issue.state;
    let known = json!({
        "id": issue.id, "identifier": issue.identifier, "number": issue.number,
        "title": issue.title, "description": issue.description, "url": issue.url,
        "estimate": issue.estimate, "priority": 0, "priorityLabel": "No priority",
        "prioritySortOrder": -1.0, "sortOrder": -1.0,
        "teamId": issue.team.id, "team": team(issue),
        "stateId": state.id,
        "state": { "id": state.id, "name": state.name, "type": state.kind, "color": "#e2e2e2" },
        "labelIds": issue.labels, "labels": labels,
        "creatorId": PERSON, "creator": person(), "assigneeId": null, "assignee": null,
        "delegateId": issue.delegate, "delegate": delegate,
        "subscriberIds": [PERSON], "previousIdentifiers": [], "reactionData": [],
        "createdAt": moment(now), "updatedAt": moment(now), "addedToTeamAt": moment(now),
        "parentId": issue.parent, "subIssueSortOrder": issue.sort_order,
    });
    let mut data: Map<String, Value> = UNSET
        .iter()
        .map(|name| ((*name).to_owned(), Value::Null))
        .collect();
    data.extend(known.as_object().cloned().unwrap_or_default());
    data.into()
}

/// What Linear sends of an issue although it is not set.
const UNSET: [&str; 31] = [
    "externalUserCreatorId",
    "integrationSourceType",
    "lastAppliedTemplateId",
    "recurringIssueTemplateId",
    "sourceCommentId",
    "syncedWith",
    "archivedAt",
    "descriptionData",
    "dueDate",
    "startedAt",
    "completedAt",
    "canceledAt",
    "autoClosedAt",
    "autoArchivedAt",
    "startedTriageAt",
    "triagedAt",
    "snoozedUntilAt",
    "slaStartedAt",
    "slaBreachesAt",
    "slaHighRiskAt",
    "slaMediumRiskAt",
    "slaType",
    "addedToCycleAt",
    "addedToProjectAt",
    "trashed",
    "cycleId",
    "projectId",
    "projectMilestoneId",
    "parentId",
    "subIssueSortOrder",
    "botActor",
];

fn team(issue: &Issue) -> Value {
    json!({ "id": issue.team.id, "key": issue.team.key, "name": issue.team.name })
}

fn person() -> Value {
    user(PERSON, "Ada Human", "ada@example.com")
}

fn user(id: &str, name: &str, email: &str) -> Value {
    let handle = name.to_lowercase().replace(' ', "-");
    let url = format!("https://linear.app/acme/profiles/{handle}");
    json!({ "id": id, "name": name, "email": email, "avatarUrl": null, "url": url })
}

/// A moment as Linear writes it.
fn moment(now: Timestamp) -> String {
    format!("{now:.3}")
}
