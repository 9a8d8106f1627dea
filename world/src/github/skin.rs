//! The HTTP of it: the paths and shapes of GitHub's REST API that are in use here.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{CheckRun, Denied, GitHub, Method, NewPull, Pull, Shared, State as PullState};
use crate::faults::Faults;
use crate::serve::meet;

/// GitHub's greatest page, and the usual one.
const PAGE_SIZE_MAX: usize = 100;
const PAGE_SIZE: usize = 30;

#[derive(Clone)]
pub(super) struct Skin {
    pub(super) shared: Shared,
    pub(super) faults: Faults,
}

/// The API under `/`. Operations for troubles: `repo`, `pulls`, `open`, `pull`,
/// `merge`, `check-runs`, `status`.
pub fn router(shared: Shared, faults: Faults) -> Router {
    let skin = Skin { shared, faults };
    Router::new()
        .route("/repos/{owner}/{repo}", get(repository))
        .route("/repos/{owner}/{repo}/pulls", get(pulls).post(open))
        .route(
            "/repos/{owner}/{repo}/pulls/{number}",
            get(pull).patch(super::doors::close),
        )
        .route("/repos/{owner}/{repo}/pulls/{number}/merge", put(merge))
        .route(
            "/repos/{owner}/{repo}/commits/{sha}/check-runs",
            get(check_runs),
        )
        .route("/repos/{owner}/{repo}/commits/{sha}/status", get(status))
        .with_state(skin.clone())
        .merge(super::doors::router(skin.clone()))
        .merge(super::graph::router(skin.clone()))
        .merge(super::app::router(skin))
}

type Reply = Result<(u16, Value), Denied>;

impl Skin {
    /// Lets in who has the token, then does the work away from the event loop:
    /// git takes its time.
    pub(super) async fn answer(
        &self,
        operation: &str,
        headers: &HeaderMap,
        work: impl FnOnce(&mut GitHub, Timestamp) -> Reply + Send + 'static,
    ) -> Response {
        let now = (self.shared.clock)();
        self.shared.lock().count(operation);
        if let Some(refusal) = self.refusal(headers, now) {
            return refusal;
        }
        let shared = self.shared.clone();
        let work = async move {
            let done = tokio::task::spawn_blocking(move || work(&mut shared.lock(), now)).await;
            match done {
                Ok(Ok((status, body))) => reply(status, body),
                Ok(Err(denied)) => refuse(&denied),
                Err(error) => refuse(&Denied::new(500, &error.to_string())),
            }
        };
        meet(self.faults.meet(operation), work).await
    }

    fn refusal(&self, headers: &HeaderMap, now: Timestamp) -> Option<Response> {
        let github = self.shared.lock();
        let given = headers.get("authorization").and_then(|it| it.to_str().ok());
        let given = given.and_then(|it| it.strip_prefix("Bearer "));
        let app = github.app.as_ref();
        let minted = given.is_some_and(|it| app.is_some_and(|app| app.accepts(it, now)));
        if !minted && given != Some(github.token.as_str()) {
            return Some(refuse(&Denied::new(401, "Bad credentials")));
        }
        let until = github.exhausted_until.filter(|it| *it > now)?;
        let mut response = refuse(&Denied::new(
            403,
            "API rate limit exceeded for installation.",
        ));
        response
            .headers_mut()
            .insert("x-ratelimit-remaining", 0.into());
        response
            .headers_mut()
            .insert("x-ratelimit-reset", until.as_second().into());
        Some(response)
    }
}

async fn repository(
    State(skin): State<Skin>,
    Path((owner, repo)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, _| {
        let archived = github.is_archived(&slug)?;
        let slug = github.spelled(&slug)?;
        Ok((
            200,
            json!({
                "full_name": slug,
                "private": true,
                "archived": archived,
                "default_branch": "main",
                "permissions": { "admin": false, "push": true, "pull": true },
            }),
        ))
    };
    skin.answer("repo", &headers, work).await
}

#[derive(Deserialize)]
struct PullsQuery {
    head: Option<String>,
    state: Option<String>,
    per_page: Option<usize>,
    page: Option<usize>,
}

async fn pulls(
    State(skin): State<Skin>,
    Path((owner, repo)): Path<(String, String)>,
    Query(query): Query<PullsQuery>,
    headers: HeaderMap,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, now| {
        let state = query.state.as_deref().unwrap_or("open");
        let head = query.head.as_deref().and_then(|it| it.split_once(':'));
        let mut pulls = github.pulls(&slug, head, state == "open", now)?;
        if state == "closed" {
            pulls.retain(|it| it.state != PullState::Open);
        }
        let slug = github.spelled(&slug)?;
        let page = page(&pulls, query.per_page, query.page);
        let items: Vec<Value> = page.iter().map(|it| short(&slug, it)).collect();
        Ok((200, Value::from(items)))
    };
    skin.answer("pulls", &headers, work).await
}

#[derive(Deserialize)]
struct OpenBody {
    title: String,
    head: String,
    base: String,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    draft: bool,
}

async fn open(
    State(skin): State<Skin>,
    Path((owner, repo)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, now| {
        let body: OpenBody = parse(&body)?;
        // `owner:branch` names a branch of that owner.
        let head = body
            .head
            .strip_prefix(&format!("{owner}:"))
            .unwrap_or(&body.head)
            .to_owned();
        let new = NewPull {
            head,
            base: body.base,
            title: body.title,
            body: body.body.unwrap_or_default(),
            draft: body.draft,
        };
        let number = github.open_pull(&slug, &new, now)?;
        Ok((201, full(github, &slug, number, now)?))
    };
    skin.answer("open", &headers, work).await
}

async fn pull(
    State(skin): State<Skin>,
    Path((owner, repo, number)): Path<(String, String, u64)>,
    headers: HeaderMap,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, now| {
        github.count_pull(&slug, number);
        Ok((200, full(github, &slug, number, now)?))
    };
    skin.answer("pull", &headers, work).await
}

#[derive(Deserialize)]
struct MergeBody {
    sha: Option<String>,
    merge_method: Option<String>,
    commit_title: Option<String>,
}

async fn merge(
    State(skin): State<Skin>,
    Path((owner, repo, number)): Path<(String, String, u64)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, now| {
        github.count_pull(&slug, number);
        let body: MergeBody = parse(&body)?;
        let method = Method::from_word(body.merge_method.as_deref().unwrap_or("merge"))
            .ok_or_else(|| Denied::new(422, "Invalid request. merge_method is not a method."))?;
        let title = body.commit_title.unwrap_or_default();
        let sha = github.merge(&slug, number, body.sha.as_deref(), method, &title, now)?;
        let message = "Pull Request successfully merged";
        Ok((
            200,
            json!({ "sha": sha, "merged": true, "message": message }),
        ))
    };
    skin.answer("merge", &headers, work).await
}

#[derive(Deserialize)]
pub(super) struct PageQuery {
    pub(super) per_page: Option<usize>,
    pub(super) page: Option<usize>,
}

async fn check_runs(
    State(skin): State<Skin>,
    Path((owner, repo, sha)): Path<(String, String, String)>,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, now| {
        let checks = github.checks(&slug, &sha, now)?;
        let page = page(&checks, query.per_page, query.page);
        let items: Vec<Value> = page.iter().map(|it| check_run(&sha, it)).collect();
        Ok((
            200,
            json!({ "total_count": checks.len(), "check_runs": items }),
        ))
    };
    skin.answer("check-runs", &headers, work).await
}

async fn status(
    State(skin): State<Skin>,
    Path((owner, repo, sha)): Path<(String, String, String)>,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, _| {
        let statuses = github.statuses(&slug, &sha)?;
        let is = |word: &str| statuses.iter().any(|(_, it)| it == word);
        let state = match () {
            () if is("failure") || is("error") => "failure",
            // As at GitHub: also where there is none at all.
            () if statuses.is_empty() || is("pending") => "pending",
            () => "success",
        };
        let page = page(&statuses, query.per_page, query.page);
        let items: Vec<Value> = page
            .iter()
            .map(|(context, state)| json!({ "context": context, "state": state, "description": null }))
            .collect();
        let total = statuses.len();
        Ok((
            200,
            json!({ "state": state, "sha": sha, "total_count": total, "statuses": items }),
        ))
    };
    skin.answer("status", &headers, work).await
}

/// A pull request as a list has it: without what takes GitHub time to find out.
fn short(slug: &str, pull: &Pull) -> Value {
    let Pull {
        number,
        title,
        head,
        base,
        head_sha,
        base_sha,
        head_slug,
        ..
    } = pull;
    let owner = |slug: &str| slug.split('/').next().unwrap_or_default().to_owned();
    let side = |slug: &str, branch: &str, sha: &str| {
        let repo = json!({ "full_name": slug, "fork": false });
        json!({ "label": format!("{}:{branch}", owner(slug)), "ref": branch, "sha": sha, "repo": repo })
    };
    let merged = pull.state == PullState::Merged;
    json!({
        "id": 1_000 + number,
        "number": number,
        "html_url": format!("https://github.com/{slug}/pull/{number}"),
        "state": if pull.state == PullState::Open { "open" } else { "closed" },
        "locked": false,
        "title": title,
        "body": (!pull.body.is_empty()).then_some(&pull.body),
        "draft": pull.draft,
        "user": { "login": "octocat", "id": 1, "type": "User" },
        "created_at": pull.created_at,
        "closed_at": pull.closed_at,
        "merged_at": pull.closed_at.filter(|_| merged),
        "merge_commit_sha": pull.merge_sha,
        "head": side(head_slug, head, head_sha),
        "base": side(slug, base, base_sha),
    })
}

/// A pull request on its own: with what it takes GitHub time to find out.
pub(super) fn full(
    github: &mut GitHub,
    slug: &str,
    number: u64,
    now: Timestamp,
) -> Result<Value, Denied> {
    let pull = &github.pull(slug, number, now)?;
    let slug = &github.spelled(slug)?;
    let mut value = short(slug, pull);
    value["node_id"] = node_id(slug, number).into();
    value["comments"] = github.comments(slug, number)?.len().into();
    value["merged"] = json!(pull.state == PullState::Merged);
    value["mergeable"] = json!(pull.mergeable);
    let state = github.place(slug)?.merge_state(pull, now)?;
    value["mergeable_state"] = state.to_lowercase().into();
    Ok(value)
}

/// By which GraphQL knows a pull request.
pub(super) fn node_id(slug: &str, number: u64) -> String {
    format!("PR_{slug}#{number}")
}

pub(super) fn pull_of_node(id: &str) -> Option<(String, u64)> {
    let (slug, number) = id.strip_prefix("PR_")?.split_once('#')?;
    Some((slug.to_owned(), number.parse().ok()?))
}

pub(super) fn check_run(sha: &str, check: &CheckRun) -> Value {
    let [title, summary, text] = &check.output;
    json!({
        "id": check.id,
        "output": { "title": title, "summary": summary, "text": text },
        "name": check.name,
        "head_sha": sha,
        "status": if check.conclusion.is_some() { "completed" } else { "in_progress" },
        "conclusion": check.conclusion,
        "app": { "slug": "github-actions" },
    })
}

pub(super) fn page<T>(items: &[T], size: Option<usize>, number: Option<usize>) -> &[T] {
    let size = size.unwrap_or(PAGE_SIZE).clamp(1, PAGE_SIZE_MAX);
    let from = number
        .unwrap_or(1)
        .saturating_sub(1)
        .saturating_mul(size)
        .min(items.len());
    let to = from.saturating_add(size).min(items.len());
    &items[from..to]
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Denied> {
    serde_json::from_slice(body)
        .map_err(|error| Denied::new(422, &format!("Invalid request. {error}")))
}

pub(super) fn refuse(denied: &Denied) -> Response {
    let errors: Vec<Value> = denied
        .errors
        .iter()
        .map(|it| json!({ "resource": "PullRequest", "code": "custom", "message": it }))
        .collect();
    let mut body = json!({ "message": denied.message, "status": denied.status.to_string() });
    if !errors.is_empty() {
        body["errors"] = Value::from(errors);
    }
    reply(denied.status, body)
}

pub(super) fn reply(status: u16, body: Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(body)).into_response()
}
