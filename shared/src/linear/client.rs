//! Linear's GraphQL API as the tracker of [`crate::ports`].
//!
//! Every write here may be repeated, so a lost reply is a [`Fault::Transient`]
//! like any other. It retries nothing itself, but for a token that is not good
//! any more: when and how often to try again is the core's business.

use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

use self::answer::Answer;
use self::token::Tokens;
pub use self::token::{App, Auth};
use crate::issue::{
    Activity, Brief, FailureClass, Fault, IssueId, LEASE_SECONDS, SessionId, Stage, TEXT_BYTES_MAX,
    clip,
};
use crate::net::Http;
use crate::ports::{Clock, PlanItem, PlanStatus, Tracker};
use crate::stats;

mod answer;
mod sub_issues;
mod token;

/// One call, with the token that it may need first. The longest effect that has no
/// limit of its own makes two.
const CALL_SECONDS_MAX: u64 = 20;
const _: () = assert!(2 * (CALL_SECONDS_MAX as i64) < LEASE_SECONDS);
/// Reading an issue and all its sub-issues.
const READ_SECONDS_MAX: u64 = 50;
const _: () = assert!((READ_SECONDS_MAX as i64) < LEASE_SECONDS);
/// An answer is read up to here.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What a client needs to know.
pub struct Options {
    /// The GraphQL endpoint.
    pub api_url: String,
    pub auth: Auth,
    /// Linear tells by the clock when it may be asked again.
    pub clock: Arc<dyn Clock>,
}

/// A connection to one Linear workspace. Share it: it holds the token.
pub struct Client {
    http: Arc<Http>,
    api_url: String,
    tokens: Tokens,
    clock: Arc<dyn Clock>,
}

/// Whom a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    pub id: String,
    pub name: String,
    pub organization: String,
}

#[async_trait]
impl Tracker for Client {
    async fn read(&self, issue: &IssueId) -> Result<Brief, Fault> {
        let limit = Duration::from_secs(READ_SECONDS_MAX);
        tokio::time::timeout(limit, self.brief(issue))
            .await
            .unwrap_or_else(|_| {
                let why = format!(
                    "Linear did not tell the issue with its sub-issues within {READ_SECONDS_MAX} s"
                );
                Err(Fault::Transient { why })
            })
    }

    async fn say(&self, id: Uuid, session: &SessionId, activity: &Activity) -> Result<(), Fault> {
        let mut input =
            json!({ "id": id, "agentSessionId": session.0, "content": content(activity) });
        if let Activity::Elicitation { options, .. } = activity
            && !options.is_empty()
        {
            // Linear shows these to be picked; what is picked comes back as plain text.
            let option = |it: &String| json!({ "value": it, "label": it });
            let options: Vec<Value> = options.iter().map(option).collect();
            input["signal"] = "select".into();
            input["signalMetadata"] = json!({ "options": options });
        }
        match self
            .ask(AGENT_ACTIVITY_CREATE, json!({ "input": input }))
            .await?
        {
            // An earlier attempt got through, and only its reply was lost.
            answer if answer.says_exists(&id.to_string()) => Ok(()),
            answer => answer
                .data::<ActivityCreated>()?
                .agent_activity_create
                .check(),
        }
    }

    async fn show_plan(&self, session: &SessionId, items: &[PlanItem]) -> Result<(), Fault> {
        // The schema says object, Linear's documentation and its servers say array.
        let plan: Vec<Value> = items.iter().map(plan_item).collect();
        self.update_session(session, json!({ "plan": plan })).await
    }

    async fn link(&self, session: &SessionId, label: &str, url: &str) -> Result<(), Fault> {
        let input = json!({ "addedExternalUrls": [{ "label": label, "url": url }] });
        self.update_session(session, input).await
    }

    async fn set_stage(&self, issue: &IssueId, stage: Stage) -> Result<(), Fault> {
        // People and automations move issues too, so it is read first.
        let answer: IssueOf<StateIssue> = self.call(ISSUE_STATE, json!({ "id": issue.0 })).await?;
        let StateIssue { state, team } = answer.issue;
        if !moves_on(&state.kind, stage) {
            return Ok(());
        }
        let mut fit: Vec<StateNode> = team
            .states
            .nodes
            .into_iter()
            .filter(|it| it.kind == stage.word())
            .collect();
        fit.sort_by(|a, b| a.position.total_cmp(&b.position));
        let first = fit.into_iter().next().ok_or_else(|| Fault::Permanent {
            class: FailureClass::Invalid,
            why: format!("the team has no state of type `{stage}` in Linear"),
        })?;
        let variables = json!({ "id": issue.0, "stateId": first.id });
        self.call::<IssueUpdated>(ISSUE_SET_STATE, variables)
            .await?
            .issue_update
            .check()
    }
}

impl Client {
    /// A client that has not spoken to Linear yet.
    pub fn new(options: Options) -> Self {
        let Options {
            api_url,
            auth,
            clock,
        } = options;
        let http = Http::new(concat!("cyrus/", env!("CARGO_PKG_VERSION")), &api_url);
        let http = Arc::new(http);
        let tokens = Tokens::new(auth, Arc::clone(&http), Arc::clone(&clock));
        Self {
            http,
            api_url,
            tokens,
            clock,
        }
    }

    /// Whom our token belongs to.
    pub async fn viewer(&self) -> Result<Viewer, Fault> {
        let ViewerAnswer {
            viewer,
            organization,
        } = self.call(VIEWER, json!({})).await?;
        Ok(Viewer {
            id: viewer.id,
            name: viewer.name,
            organization: organization.name,
        })
    }

    async fn brief(&self, issue: &IssueId) -> Result<Brief, Fault> {
        let answer: IssueOf<BriefIssue> = self.call(ISSUE_BRIEF, json!({ "id": issue.0 })).await?;
        let has_sub_issues = !answer.issue.children.nodes.is_empty();
        let mut brief = Brief::from(answer.issue);
        if has_sub_issues {
            brief.sub_issues = self.sub_issues(issue).await?;
        }
        Ok(brief)
    }

    async fn update_session(&self, session: &SessionId, input: Value) -> Result<(), Fault> {
        let variables = json!({ "id": session.0, "input": input });
        let answer: SessionUpdated = self.call(AGENT_SESSION_UPDATE, variables).await?;
        answer.agent_session_update.check()
    }

    async fn call<T: DeserializeOwned>(
        &self,
        what: Document,
        variables: Value,
    ) -> Result<T, Fault> {
        self.ask(what, variables).await?.data()
    }

    async fn ask(&self, what: Document, variables: Value) -> Result<Answer, Fault> {
        let limit = Duration::from_secs(CALL_SECONDS_MAX);
        tokio::time::timeout(limit, self.ask_unbounded(what, variables))
            .await
            .unwrap_or_else(|_| {
                let why = format!(
                    "Linear did not answer `{}` within {CALL_SECONDS_MAX} s",
                    what.name
                );
                Err(Fault::Transient { why })
            })
    }

    async fn ask_unbounded(&self, what: Document, variables: Value) -> Result<Answer, Fault> {
        let body =
            json!({ "operationName": what.name, "query": what.text, "variables": variables });
        let token = self.tokens.current().await?;
        let answer = self.send(&token, what.name, &body).await?;
        if !answer.unauthorized() {
            return Ok(answer);
        }
        match self.tokens.after_refusal(&token).await? {
            Some(fresh) => self.send(&fresh, what.name, &body).await,
            None => Ok(answer),
        }
    }

    async fn send(&self, token: &token::Token, name: &str, body: &Value) -> Result<Answer, Fault> {
        let header: HeaderValue = token.header()?;
        metrics::counter!(stats::LINEAR_CALLS).increment(1);
        let client = self.http.client().map_err(|why| Fault::Transient { why })?;
        let reply = client
            .post(&self.api_url)
            .header(AUTHORIZATION, header)
            .json(body)
            .send()
            .await;
        let answer = answer::read(name, reply, ANSWER_BYTES_MAX, self.clock.now()).await?;
        if answer.asks_to_wait() {
            metrics::counter!(stats::LINEAR_WAITS).increment(1);
        }
        Ok(answer.without(token.secret()))
    }
}

/// May an issue in a state of this type be moved to `stage`? A type that we
/// don't know was chosen by somebody who does.
fn moves_on(kind: &str, stage: Stage) -> bool {
    match stage {
        Stage::Started => matches!(kind, "triage" | "backlog" | "unstarted"),
        Stage::Completed => matches!(kind, "triage" | "backlog" | "unstarted" | "started"),
    }
}

fn content(activity: &Activity) -> Value {
    let clipped = |text: &str| clip(text, TEXT_BYTES_MAX);
    match activity {
        Activity::Thought(body) => json!({ "type": "thought", "body": clipped(body) }),
        Activity::Elicitation { question, .. } => {
            json!({ "type": "elicitation", "body": clipped(question) })
        }
        Activity::Response(body) => json!({ "type": "response", "body": clipped(body) }),
        Activity::Error(body) => json!({ "type": "error", "body": clipped(body) }),
        Activity::Action {
            action,
            parameter,
            result,
        } => {
            let mut content = json!({
                "type": "action", "action": clipped(action), "parameter": clipped(parameter),
            });
            if let Some(result) = result {
                content["result"] = clipped(result).into();
            }
            content
        }
    }
}

fn plan_item(item: &PlanItem) -> Value {
    let status = match item.status {
        PlanStatus::Pending => "pending",
        PlanStatus::InProgress => "inProgress",
        PlanStatus::Completed => "completed",
        PlanStatus::Canceled => "canceled",
    };
    json!({ "content": item.content, "status": status })
}

// ───────────────────────────── documents and answers ─────────────────────────────

/// One operation; Linear gets only the document that it is to execute.
#[derive(Clone, Copy)]
struct Document {
    name: &'static str,
    text: &'static str,
}

macro_rules! documents {
    ($($constant:ident = $name:literal in $file:literal;)*) => {$(
        const $constant: Document =
            Document { name: $name, text: include_str!(concat!("graphql/", $file, ".graphql")) };
    )*};
}

documents! {
    ISSUE_BRIEF = "IssueBrief" in "issue_brief";
    SUB_ISSUES = "SubIssues" in "sub_issues";
    ISSUE_STATE = "IssueState" in "issue_state";
    ISSUE_SET_STATE = "IssueSetState" in "issue_set_state";
    AGENT_ACTIVITY_CREATE = "AgentActivityCreate" in "agent_activity_create";
    AGENT_SESSION_UPDATE = "AgentSessionUpdate" in "agent_session_update";
    VIEWER = "Viewer" in "viewer";
}

#[derive(Deserialize)]
struct IssueOf<T> {
    issue: T,
}

#[derive(Deserialize)]
struct BriefIssue {
    identifier: String,
    title: String,
    description: Option<String>,
    url: String,
    estimate: Option<f64>,
    team: Team,
    project: Option<Named>,
    labels: Nodes<Named>,
    children: Nodes<IgnoredAny>,
}

impl From<BriefIssue> for Brief {
    fn from(issue: BriefIssue) -> Self {
        Self {
            identifier: issue.identifier,
            title: issue.title,
            description: clip(&issue.description.unwrap_or_default(), TEXT_BYTES_MAX),
            url: issue.url,
            team_key: issue.team.key,
            project: issue.project.map(|it| it.name),
            labels: issue.labels.nodes.into_iter().map(|it| it.name).collect(),
            estimate: issue.estimate,
            sub_issues: Vec::new(),
        }
    }
}

#[derive(Deserialize)]
struct Team {
    key: String,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct Nodes<T> {
    nodes: Vec<T>,
}

#[derive(Deserialize)]
struct StateIssue {
    state: StateKind,
    team: StatesTeam,
}

#[derive(Deserialize)]
struct StateKind {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Deserialize)]
struct StatesTeam {
    states: Nodes<StateNode>,
}

#[derive(Deserialize)]
struct StateNode {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    position: f64,
}

#[derive(Deserialize)]
struct ViewerAnswer {
    viewer: User,
    organization: Named,
}

#[derive(Deserialize)]
struct User {
    id: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ActivityCreated {
    agent_activity_create: Payload,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SessionUpdated {
    agent_session_update: Payload,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct IssueUpdated {
    issue_update: Payload,
}

#[derive(Deserialize)]
struct Payload {
    success: bool,
}

impl Payload {
    fn check(self) -> Result<(), Fault> {
        if self.success {
            return Ok(());
        }
        Err(Fault::Transient {
            why: "Linear answered that it did not succeed".into(),
        })
    }
}
