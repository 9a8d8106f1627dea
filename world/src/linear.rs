//! A Linear that behaves: issues, states, agent sessions and their activities.
//!
//! [`Linear`] is a plain state machine with no clock, no randomness and no I/O.
//! What the app may do is here, what people do (and what Linear then sends) in
//! [`people`]; [`http`] serves it as GraphQL.

pub mod http;
pub mod people;
pub mod schema;

mod access;
mod execute;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

pub use self::access::Access;
pub use self::http::{Shared, router};
pub use self::people::{Delivery, sign};

/// The app's user in this workspace.
pub const APP_USER: &str = "c0ffee00-1111-4222-8333-444455556666";
/// The person who delegates, writes and cancels.
pub const PERSON: &str = "9a8b7c6d-5e4f-4a3b-9c2d-1e0f9a8b7c6d";
const ORGANIZATION: &str = "1d8a3c52-6c0e-4f0b-9a55-2f6f0a9e7b11";

/// The states of every team: type, name, position. Not in the order of their
/// positions, because Linear promises none.
const STATES: [(&str, &str, f64); 7] = [
    ("backlog", "Backlog", 0.0),
    ("unstarted", "Todo", 1.0),
    ("started", "In Review", 1002.0),
    ("started", "In Progress", 2.0),
    ("completed", "Done", 3.0),
    ("canceled", "Canceled", 4.0),
    ("duplicate", "Duplicate", 5.0),
];
const PLAN_STATUSES: [&str; 4] = ["pending", "inProgress", "completed", "canceled"];

/// One workspace.
#[derive(Clone, Debug)]
pub struct Linear {
    pub access: Access,
    teams: Vec<Team>,
    issues: BTreeMap<String, Issue>,
    sessions: BTreeMap<String, Session>,
    relations: Vec<Relation>,
    /// The ids of all activities there ever were, people's too.
    activity_ids: BTreeSet<String>,
    refused_duplicates: usize,
    calls: Vec<String>,
    limits: VecDeque<RateLimit>,
    ids_given: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Team {
    pub id: String,
    pub key: String,
    pub name: String,
    pub states: Vec<State>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct State {
    pub id: String,
    pub kind: String,
    pub name: String,
    pub position: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Issue {
    pub id: String,
    pub number: usize,
    pub identifier: String,
    pub title: String,
    pub description: String,
    pub url: String,
    pub estimate: Option<f64>,
    pub project: Option<String>,
    pub labels: Vec<String>,
    pub team: Team,
    pub state: State,
    /// The id of the issue that it is a part of.
    pub parent: Option<String>,
    /// Where people have put it among the sub-issues of that one.
    pub sort_order: Option<f64>,
    pub delegate: Option<String>,
    pub removed: bool,
}

/// An issue to be; the default is a plain one of the first team.
#[derive(Clone, Debug, Default)]
pub struct NewIssue {
    pub title: String,
    pub description: String,
    pub labels: Vec<String>,
    pub estimate: Option<f64>,
    pub project: Option<String>,
    /// The key of its team; empty: the first one.
    pub team: String,
    /// The issue that it is a part of, by id or identifier.
    pub parent: Option<String>,
    pub sort_order: Option<f64>,
}

/// A relation between two issues, by their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Relation {
    kind: &'static str,
    issue: String,
    related: String,
}

/// An agent session: one conversation of the app with people about an issue.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    pub id: String,
    pub issue: String,
    pub opened_at: Timestamp,
    /// The comment at its root: id and text.
    pub comment: (String, String),
    pub activities: Vec<Activity>,
    /// Label and URL.
    pub links: Vec<(String, String)>,
    pub plan: Option<Value>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Activity {
    pub id: String,
    /// `{"type": …, "body": …}`, as it was posted.
    pub content: Value,
    /// What a person can pick from, of a question with a `select` signal.
    pub options: Vec<Choice>,
}

/// One of the answers that a question offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub value: String,
    /// What people see, where it is not the value.
    pub label: Option<String>,
}

/// The next call meets Linear's limit, as Linear answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// 200, 400 and 429 have all been seen.
    pub status: u16,
    /// Headers that tell when to come again.
    pub headers: Vec<(&'static str, String)>,
}

/// Why Linear does not do what the app asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    NotFound {
        entity: &'static str,
    },
    /// The id that the app chose is taken.
    Exists {
        entity: &'static str,
        id: String,
    },
    Invalid(String),
}

impl Linear {
    /// A workspace with one team, `ENG`.
    pub fn new() -> Self {
        let mut linear = Self {
            access: Access::default(),
            teams: Vec::new(),
            issues: BTreeMap::new(),
            sessions: BTreeMap::new(),
            relations: Vec::new(),
            activity_ids: BTreeSet::new(),
            refused_duplicates: 0,
            calls: Vec::new(),
            limits: VecDeque::new(),
            ids_given: 0,
        };
        linear.add_team("ENG", "Engineering");
        linear
    }

    pub fn add_team(&mut self, key: &str, name: &str) {
        let states = STATES
            .iter()
            .map(|(kind, name, position)| State {
                id: self.next_id(),
                kind: (*kind).to_owned(),
                name: (*name).to_owned(),
                position: *position,
            })
            .collect();
        let (key, name) = (key.to_owned(), name.to_owned());
        let id = self.next_id();
        self.teams.push(Team {
            id,
            key,
            name,
            states,
        });
    }

    /// Writes an issue in the first `unstarted` state; answers its id.
    pub fn add_issue(&mut self, new: NewIssue) -> Result<String, Refused> {
        let mut teams = self.teams.iter();
        let team = teams
            .find(|it| new.team.is_empty() || it.key == new.team)
            .cloned();
        let team = team.ok_or(Refused::NotFound { entity: "Team" })?;
        let state = team.state("unstarted")?;
        let parent = match &new.parent {
            Some(name) => Some(self.issue(name)?.id.clone()),
            None => None,
        };
        let number = self
            .issues
            .values()
            .filter(|it| it.team.id == team.id)
            .count()
            + 1;
        let identifier = format!("{}-{number}", team.key);
        let id = self.next_id();
        let issue = Issue {
            id: id.clone(),
            number,
            url: format!("https://linear.app/acme/issue/{identifier}"),
            identifier,
            title: new.title,
            description: new.description,
            estimate: new.estimate,
            project: new.project,
            labels: new.labels,
            team,
            state,
            parent,
            sort_order: new.sort_order,
            delegate: None,
            removed: false,
        };
        self.issues.insert(id.clone(), issue);
        Ok(id)
    }

    /// Relates an issue to another one, as people do: `blocks`, `related`, …. Where
    /// it blocks, the first one blocks the second.
    pub fn relate(
        &mut self,
        issue: &str,
        kind: &'static str,
        related: &str,
    ) -> Result<(), Refused> {
        let (issue, related) = (
            self.issue(issue)?.id.clone(),
            self.issue(related)?.id.clone(),
        );
        self.relations.push(Relation {
            kind,
            issue,
            related,
        });
        Ok(())
    }

    // ───────────────────────────── what the app may do ─────────────────────────────

    /// An issue, by id or identifier.
    pub fn issue(&self, name: &str) -> Result<&Issue, Refused> {
        let named = |it: &&Issue| it.id == name || it.identifier == name;
        let issue = self.issues.values().find(named).filter(|it| !it.removed);
        issue.ok_or(Refused::NotFound { entity: "Issue" })
    }

    pub fn session(&self, id: &str) -> Result<&Session, Refused> {
        self.sessions.get(id).ok_or(Refused::NotFound {
            entity: "AgentSession",
        })
    }

    /// Posts an activity under an id of the app's choice, once.
    pub fn say(&mut self, id: Uuid, session: &str, content: Value) -> Result<(), Refused> {
        self.say_with(id, session, content, Value::Null, Value::Null)
    }

    /// The same with a signal and what belongs to it, as far as there is one.
    pub fn say_with(
        &mut self,
        id: Uuid,
        session: &str,
        content: Value,
        signal: Value,
        metadata: Value,
    ) -> Result<(), Refused> {
        check_content(&content)?;
        let options = choices(&content, &signal, &metadata)?;
        self.session(session)?;
        let id = id.to_string();
        if !self.activity_ids.insert(id.clone()) {
            self.refused_duplicates += 1;
            return Err(Refused::Exists {
                entity: "AgentActivity",
                id,
            });
        }
        self.session_mut(session)?.activities.push(Activity {
            id,
            content,
            options,
        });
        Ok(())
    }

    /// Replaces the plan of a session.
    pub fn show_plan(&mut self, session: &str, plan: Value) -> Result<(), Refused> {
        check_plan(&plan)?;
        self.session_mut(session)?.plan = Some(plan);
        Ok(())
    }

    /// Adds an external URL; one that is there gets the new label.
    pub fn link(&mut self, session: &str, label: &str, url: &str) -> Result<(), Refused> {
        let links = &mut self.session_mut(session)?.links;
        links.retain(|it| it.1 != url);
        links.push((label.to_owned(), url.to_owned()));
        Ok(())
    }

    pub fn unlink(&mut self, session: &str, url: &str) -> Result<(), Refused> {
        self.session_mut(session)?.links.retain(|it| it.1 != url);
        Ok(())
    }

    /// Moves an issue to a state of its team.
    pub fn set_state(&mut self, issue: &str, state: &str) -> Result<(), Refused> {
        let issue = self.issue_mut(issue)?;
        let to = issue.team.states.iter().find(|it| it.id == state).cloned();
        issue.state = to.ok_or(Refused::NotFound {
            entity: "WorkflowState",
        })?;
        Ok(())
    }

    // ───────────────────────────── what tests look at ─────────────────────────────

    /// The operations that were asked for so far and got past the door, in order.
    pub fn calls(&self) -> &[String] {
        &self.calls
    }

    /// How many posts were refused because their id was taken.
    pub fn refused_duplicates(&self) -> usize {
        self.refused_duplicates
    }

    /// Every session there is.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// The next call that gets past the door meets this.
    pub fn limit_next(&mut self, limit: RateLimit) {
        self.limits.push_back(limit);
    }

    fn issue_mut(&mut self, name: &str) -> Result<&mut Issue, Refused> {
        let id = self.issue(name)?.id.clone();
        self.issues
            .get_mut(&id)
            .ok_or(Refused::NotFound { entity: "Issue" })
    }

    fn session_mut(&mut self, id: &str) -> Result<&mut Session, Refused> {
        self.sessions.get_mut(id).ok_or(Refused::NotFound {
            entity: "AgentSession",
        })
    }

    /// A UUID like Linear's, the same in every run.
    fn next_id(&mut self) -> String {
        self.ids_given += 1;
        format!("{:08x}-aaaa-4aaa-8aaa-aaaaaaaaaaaa", self.ids_given)
    }
}

impl Default for Linear {
    fn default() -> Self {
        Self::new()
    }
}

impl Team {
    /// The state of a type with the lowest position.
    pub fn state(&self, kind: &str) -> Result<State, Refused> {
        let fit = self.states.iter().filter(|it| it.kind == kind);
        let first = fit.min_by(|a, b| a.position.total_cmp(&b.position));
        first.cloned().ok_or(Refused::NotFound {
            entity: "WorkflowState",
        })
    }
}

impl Session {
    /// Linear tells it from the last activity.
    pub fn status(&self) -> &'static str {
        match self.activities.last().map(Activity::kind) {
            None => "pending",
            Some("elicitation") => "awaitingInput",
            Some("response") => "complete",
            Some("error") => "error",
            Some(_) => "active",
        }
    }

    /// What people were asked last, if they wrote nothing since.
    pub fn question(&self) -> Option<&Activity> {
        let newest_first = self.activities.iter().rev();
        newest_first
            .take_while(|it| it.kind() != "prompt")
            .find(|it| it.kind() == "elicitation")
    }
}

impl Activity {
    pub fn kind(&self) -> &str {
        self.text("type")
    }

    /// What it says; of an action, what it does and to what.
    pub fn body(&self) -> String {
        match self.kind() {
            "action" => format!("{} {}", self.text("action"), self.text("parameter")),
            _ => self.text("body").to_owned(),
        }
    }

    fn text(&self, key: &str) -> &str {
        self.content
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

impl Refused {
    fn invalid(why: impl Into<String>) -> Self {
        Self::Invalid(why.into())
    }

    pub fn message(&self) -> String {
        match self {
            Self::NotFound { entity } => format!("Entity not found: {entity}"),
            Self::Exists { entity, .. } => format!("conflict on insert of {entity}"),
            Self::Invalid(why) => why.clone(),
        }
    }

    /// The `extensions` of the error that Linear answers.
    pub fn extensions(&self) -> Value {
        let shown = match self {
            Self::NotFound { entity } => format!("Could not find referenced {entity}."),
            Self::Exists { entity, id } => format!("Entity {entity} with id {id} already exists."),
            Self::Invalid(why) => why.clone(),
        };
        json!({
            "type": "invalid input", "code": "INPUT_ERROR", "statusCode": 400,
            "userError": true, "userPresentableMessage": shown,
        })
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Refused {}

fn check_content(content: &Value) -> Result<(), Refused> {
    let said = |key: &str| match content.get(key).and_then(Value::as_str) {
        Some(text) if !text.trim().is_empty() => Ok(()),
        _ => Err(Refused::invalid(format!(
            "content.{key} must be a text that is not empty"
        ))),
    };
    match content.get("type").and_then(Value::as_str) {
        Some("thought" | "elicitation" | "response" | "error") => said("body"),
        Some("action") => {
            said("action")?;
            match content.get("parameter") {
                Some(Value::String(_)) => {}
                _ => return Err(Refused::invalid("content.parameter must be a text")),
            }
            match content.get("result") {
                None | Some(Value::Null | Value::String(_)) => Ok(()),
                Some(_) => Err(Refused::invalid("content.result must be a text")),
            }
        }
        Some("prompt") => Err(Refused::invalid("a prompt is for people to write")),
        _ => Err(Refused::invalid("content.type is no type of activity")),
    }
}

/// The answers to pick from that a signal offers; only a question has any.
fn choices(content: &Value, signal: &Value, metadata: &Value) -> Result<Vec<Choice>, Refused> {
    match signal.as_str() {
        None if metadata.is_null() => return Ok(Vec::new()),
        None => return Err(Refused::invalid("signalMetadata needs a signal")),
        Some("select") => {}
        Some(_) => return Err(Refused::invalid("the stand-in knows no signal but select")),
    }
    if content["type"] != "elicitation" {
        return Err(Refused::invalid("select is a signal of elicitations"));
    }
    let text = |it: &Value| {
        it.as_str()
            .filter(|it| !it.trim().is_empty())
            .map(str::to_owned)
    };
    let choice = |it: &Value| {
        let label = match &it["label"] {
            Value::Null => None,
            label => Some(text(label)?),
        };
        let value = text(&it["value"])?;
        Some(Choice { value, label })
    };
    let options = metadata["options"].as_array().filter(|it| !it.is_empty());
    let options = options.and_then(|all| all.iter().map(choice).collect());
    options
        .ok_or_else(|| Refused::invalid("signalMetadata.options must be a list of {label?, value}"))
}

fn check_plan(plan: &Value) -> Result<(), Refused> {
    let item_fits = |item: &Value| {
        let text = |key: &str| item.get(key).and_then(Value::as_str);
        text("content").is_some_and(|it| !it.is_empty())
            && text("status").is_some_and(|it| PLAN_STATUSES.contains(&it))
    };
    match plan.as_array() {
        Some(items) if items.iter().all(item_fits) => Ok(()),
        _ => Err(Refused::invalid(
            "plan must be a list of steps with content and status",
        )),
    }
}
