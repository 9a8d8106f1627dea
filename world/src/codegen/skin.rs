//! The HTTP of it: the paths and shapes of Codegen's REST API that are in use here.

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Codegen, Denied, Run, Shared};
use crate::faults::Faults;
use crate::serve::meet;

/// The greatest page, which is also the usual one.
const PAGE_SIZE_MAX: usize = 100;

#[derive(Clone)]
struct Skin {
    shared: Shared,
    faults: Faults,
}

/// The API under `/`. Operations for troubles: `create`, `get`, `list`, `resume`,
/// `logs`, `ban`, `repos`, `me`.
pub fn router(shared: Shared, faults: Faults) -> Router {
    Router::new()
        .route("/v1/users/me", get(me))
        .route("/v1/organizations/{org}/repos", get(repos))
        .route("/v1/organizations/{org}/agent/run", post(create))
        .route("/v1/organizations/{org}/agent/run/{id}", get(one))
        .route("/v1/organizations/{org}/agent/run/resume", post(resume))
        .route("/v1/organizations/{org}/agent/run/ban", post(ban))
        .route(
            "/v1/alpha/organizations/{org}/agent/run/{id}/logs",
            get(logs),
        )
        .route("/v1/organizations/{org}/agent/runs", get(list))
        .with_state(Skin { shared, faults })
}

type Reply = Result<Value, Denied>;

impl Skin {
    /// Lets in who has the token, then does the work away from the event loop:
    /// a run that ends pushes with git, which takes its time.
    async fn answer(
        &self,
        operation: &str,
        org: Option<&str>,
        headers: &HeaderMap,
        work: impl FnOnce(&mut Codegen, Timestamp) -> Reply + Send + 'static,
    ) -> Response {
        if let Err(denied) = self.admit(org, headers) {
            return refuse(&denied);
        }
        let shared = self.shared.clone();
        let work = async move {
            let done = tokio::task::spawn_blocking(move || {
                let now = shared.tick();
                work(&mut shared.lock(), now)
            });
            match done.await {
                Ok(Ok(body)) => Json(body).into_response(),
                Ok(Err(denied)) => refuse(&denied),
                Err(error) => refuse(&Denied::new(500, &error.to_string())),
            }
        };
        meet(self.faults.meet(operation), work).await
    }

    fn admit(&self, org: Option<&str>, headers: &HeaderMap) -> Result<(), Denied> {
        let codegen = self.shared.lock();
        let given = headers.get("authorization").and_then(|it| it.to_str().ok());
        if given != Some(format!("Bearer {}", codegen.token).as_str()) {
            return Err(Denied::new(401, "Invalid authentication token"));
        }
        match org.map(str::parse::<i64>) {
            None => Ok(()),
            Some(Err(_)) => Err(Denied::new(422, "org_id: value is not a valid integer")),
            Some(Ok(org)) if org == codegen.org => Ok(()),
            Some(Ok(_)) => Err(Denied::new(
                403,
                "You do not have access to this organization",
            )),
        }
    }
}

async fn me(State(skin): State<Skin>, headers: HeaderMap) -> Response {
    let work = |_: &mut Codegen, _| {
        Ok(json!({
            "id": 7, "github_user_id": "583231", "github_username": "octocat",
            "email": null, "full_name": "The Octocat", "role": "MEMBER",
        }))
    };
    skin.answer("me", None, &headers, work).await
}

#[derive(Deserialize)]
struct PageQuery {
    #[serde(default)]
    skip: usize,
    limit: Option<usize>,
}

async fn repos(
    State(skin): State<Skin>,
    Path(org): Path<String>,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Response {
    let work = move |codegen: &mut Codegen, _| {
        let org = codegen.org;
        let one = |it: &super::Repository| {
            let name = it.full_name.split('/').next_back().unwrap_or_default();
            json!({
                "id": it.id, "name": name, "full_name": it.full_name, "description": null,
                "github_id": it.id.to_string(), "organization_id": org, "visibility": "private",
                "archived": false, "setup_status": "COMPLETED", "language": null,
            })
        };
        let items: Vec<Value> = codegen.repositories().iter().map(one).collect();
        paged(&items, &query)
    };
    skin.answer("repos", Some(&org), &headers, work).await
}

async fn create(
    State(skin): State<Skin>,
    Path(org): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let work = move |codegen: &mut Codegen, now| {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let prompt = body["prompt"].as_str();
        let prompt = prompt.ok_or_else(|| Denied::new(422, "prompt: Field required"))?;
        let model = body["model"].as_str();
        let (metadata, repository) = (body["metadata"].clone(), body["repo_id"].as_i64());
        let run = codegen.create(prompt, metadata, repository, model, now)?;
        Ok(shape(codegen, &run))
    };
    skin.answer("create", Some(&org), &headers, work).await
}

async fn one(
    State(skin): State<Skin>,
    Path((org, id)): Path<(String, i64)>,
    headers: HeaderMap,
) -> Response {
    let work = move |codegen: &mut Codegen, now| {
        let run = codegen.get(id, now)?;
        Ok(shape(codegen, &run))
    };
    skin.answer("get", Some(&org), &headers, work).await
}

#[derive(Deserialize)]
struct ListQuery {
    source_type: Option<String>,
    #[serde(default)]
    skip: usize,
    limit: Option<usize>,
}

async fn list(
    State(skin): State<Skin>,
    Path(org): Path<String>,
    Query(query): Query<ListQuery>,
    headers: HeaderMap,
) -> Response {
    let work = move |codegen: &mut Codegen, now| {
        let mut runs = codegen.list(now)?;
        // All runs here come over the API.
        if query.source_type.is_some_and(|it| it != "API") {
            runs.clear();
        }
        let items: Vec<Value> = runs.iter().map(|it| shape(codegen, it)).collect();
        paged(
            &items,
            &PageQuery {
                skip: query.skip,
                limit: query.limit,
            },
        )
    };
    skin.answer("list", Some(&org), &headers, work).await
}

async fn resume(
    State(skin): State<Skin>,
    Path(org): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let work = move |codegen: &mut Codegen, now| {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let id = body["agent_run_id"].as_i64();
        let id = id.ok_or_else(|| Denied::new(422, "agent_run_id: Field required"))?;
        let prompt = body["prompt"].as_str();
        let prompt = prompt.ok_or_else(|| Denied::new(422, "prompt: Field required"))?;
        let run = codegen.resume(id, prompt, now)?;
        Ok(shape(codegen, &run))
    };
    skin.answer("resume", Some(&org), &headers, work).await
}

#[derive(Deserialize)]
struct LogQuery {
    #[serde(default)]
    skip: usize,
    limit: Option<usize>,
    #[serde(default)]
    reverse: bool,
}

async fn logs(
    State(skin): State<Skin>,
    Path((org, id)): Path<(String, i64)>,
    Query(query): Query<LogQuery>,
    headers: HeaderMap,
) -> Response {
    let work = move |codegen: &mut Codegen, now| {
        let run = codegen.get(id, now)?;
        let entry = |(at, text): &(Timestamp, String)| {
            json!({
                "agent_run_id": id, "created_at": at.to_string(), "message_type": "USER_MESSAGE",
                "tool_name": null, "thought": null, "observation": text,
                "tool_input": null, "tool_output": null,
            })
        };
        let mut entries: Vec<Value> = codegen.messages(id)?.iter().map(entry).collect();
        if query.reverse {
            entries.reverse();
        }
        let page = PageQuery {
            skip: query.skip,
            limit: query.limit,
        };
        let mut page = paged(&entries, &page)?;
        let mut told = shape(codegen, &run);
        told["logs"] = page["items"].take();
        told["total_logs"] = page["total"].take();
        Ok(told)
    };
    skin.answer("logs", Some(&org), &headers, work).await
}

async fn ban(
    State(skin): State<Skin>,
    Path(org): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let work = move |codegen: &mut Codegen, _| {
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let id = body["agent_run_id"].as_i64();
        codegen.ban(id.ok_or_else(|| Denied::new(422, "agent_run_id: Field required"))?)?;
        Ok(json!({ "message": "ok" }))
    };
    skin.answer("ban", Some(&org), &headers, work).await
}

fn shape(codegen: &Codegen, run: &Run) -> Value {
    let id = run.order.id;
    let pulls: Vec<Value> = run
        .pull
        .iter()
        .map(|(url, title, branch)| {
            // The record's number, not the pull request's.
            json!({
                "id": 90_000 + id, "title": title, "url": url, "head_branch_name": branch,
                "created_at": run.created_at.to_string(),
            })
        })
        .collect();
    json!({
        "id": id,
        "organization_id": codegen.org,
        "status": run.word(codegen.case),
        "created_at": run.created_at.to_string(),
        "web_url": format!("https://codegen.com/agent/trace/{id}"),
        "result": run.result,
        "summary": null,
        "source_type": "API",
        "github_pull_requests": pulls,
        "metadata": run.order.metadata,
    })
}

fn paged(items: &[Value], query: &PageQuery) -> Reply {
    let limit = query.limit.unwrap_or(PAGE_SIZE_MAX);
    if !(1..=PAGE_SIZE_MAX).contains(&limit) {
        return Err(Denied::new(422, "limit: Input should be between 1 and 100"));
    }
    let from = query.skip.min(items.len());
    let to = from.saturating_add(limit).min(items.len());
    Ok(json!({
        "items": items[from..to],
        "total": items.len(),
        "page": query.skip / limit + 1,
        "size": limit,
        "pages": items.len().div_ceil(limit),
    }))
}

/// 422 is the web framework's own, the others are the service's.
fn refuse(denied: &Denied) -> Response {
    let Denied { status, message } = denied;
    let body = match (status, message.split_once(": ")) {
        (422, Some((place, text))) => {
            json!({ "detail": [{ "loc": ["body", place], "msg": text, "type": "value_error" }] })
        }
        _ => json!({ "message": message, "status_code": status }),
    };
    let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(body)).into_response()
}
