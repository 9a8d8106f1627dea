//! More of the REST API: merges in GitHub's own time, updates, reviews, comments,
//! branches and logs.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, put};
use serde::Deserialize;
use serde_json::{Value, json};

use super::rules::{AsyncAnswer, AsyncMerge, AsyncState};
use super::skin::{PageQuery, Skin, check_run, full, page, parse, refuse};
use super::{Denied, GitHub, Method};

/// Operations for troubles: `merge-async`, `merge-look`, `update`, `close`, `reviews`,
/// `compare`, `comments`, `comment`, `delete`, `check-run`, `log`, `blob`.
pub(super) fn router(skin: Skin) -> Router {
    const PULL: &str = "/repos/{owner}/{repo}/pulls/{number}";
    const REPO: &str = "/repos/{owner}/{repo}";
    Router::new()
        .route(&format!("{PULL}/merge-async"), put(merge_async))
        .route(&format!("{PULL}/merge-async/{{uuid}}"), get(merge_look))
        .route(&format!("{PULL}/update-branch"), put(update))
        .route(&format!("{PULL}/reviews"), get(reviews))
        .route(&format!("{REPO}/compare/{{sides}}"), get(compare))
        .route(
            &format!("{REPO}/issues/{{number}}/comments"),
            get(comments).post(comment),
        )
        .route(
            &format!("{REPO}/git/refs/heads/{{*branch}}"),
            delete(delete_branch),
        )
        .route(&format!("{REPO}/check-runs/{{id}}"), get(one_check))
        .route(&format!("{REPO}/actions/jobs/{{id}}/logs"), get(log))
        .route("/blob/{owner}/{repo}/{id}", get(blob))
        .with_state(skin)
}

type One = Path<(String, String, u64)>;

#[derive(Deserialize)]
struct AsyncBody {
    sha: Option<String>,
    merge_method: Option<String>,
    commit_title: Option<String>,
}

async fn merge_async(
    State(skin): State<Skin>,
    Path((owner, repo, number)): One,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, now| {
        github.count_pull(&slug, number);
        let body: AsyncBody = parse(&body)?;
        let method = Method::from_word(body.merge_method.as_deref().unwrap_or("merge"))
            .ok_or_else(|| Denied::new(422, "Invalid request. merge_method is not a method."))?;
        let title = body.commit_title.unwrap_or_default();
        let asked = (body.sha.as_deref(), method, title.as_str());
        let (status, merge, state): AsyncAnswer = github.merge_async(&slug, number, asked, now)?;
        Ok((status, standing(merge.as_ref(), &state)))
    };
    skin.answer("merge-async", &headers, work).await
}

async fn merge_look(
    State(skin): State<Skin>,
    Path((owner, repo, number, uuid)): Path<(String, String, u64, String)>,
    headers: HeaderMap,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, now| {
        github.count_pull(&slug, number);
        let merge = github.async_merge(&slug, &uuid, now)?;
        Ok((200, standing(Some(&merge), &merge.state)))
    };
    skin.answer("merge-look", &headers, work).await
}

fn standing(merge: Option<&AsyncMerge>, state: &AsyncState) -> Value {
    match state {
        AsyncState::Pending => json!({ "status": "pending", "details": {
            "message": "Merge request is in progress.",
            "uuid": merge.map(|it| &it.uuid),
            "merge_action": "default",
            "expected_head_sha": merge.and_then(|it| it.sha.as_ref()),
        } }),
        AsyncState::Merged { sha } => json!({ "status": "merged", "details": {
            "message": "Pull request was merged.", "sha": sha,
        } }),
        AsyncState::Enqueued => json!({ "status": "enqueued", "details": {
            "message": "Pull request was added to the merge queue.",
        } }),
        AsyncState::Failed { why } => {
            json!({ "status": "failed", "details": { "message": why } })
        }
    }
}

#[derive(Deserialize)]
struct UpdateBody {
    expected_head_sha: Option<String>,
}

async fn update(
    State(skin): State<Skin>,
    Path((owner, repo, number)): One,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, now| {
        github.count_pull(&slug, number);
        let body: UpdateBody = parse(&body)?;
        github.update_branch(&slug, number, body.expected_head_sha.as_deref(), now)?;
        Ok((202, json!({ "message": "Updating pull request branch." })))
    };
    skin.answer("update", &headers, work).await
}

#[derive(Deserialize)]
struct CloseBody {
    state: String,
}

/// `PATCH` of a pull request, of which only closing is in use.
pub(super) async fn close(
    State(skin): State<Skin>,
    Path((owner, repo, number)): One,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, now| {
        github.count_pull(&slug, number);
        let body: CloseBody = parse(&body)?;
        if body.state != "closed" {
            return Err(Denied::new(422, "Invalid request."));
        }
        github.close(&slug, number, now)?;
        Ok((200, full(github, &slug, number, now)?))
    };
    skin.answer("close", &headers, work).await
}

async fn reviews(
    State(skin): State<Skin>,
    Path((owner, repo, number)): One,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, _| {
        github.count_pull(&slug, number);
        let reviews = github.reviews(&slug, number)?;
        let items = page(&reviews, query.per_page, query.page).iter().map(|it| {
            json!({
                "user": { "login": it.author }, "state": it.state, "body": it.body,
                "commit_id": it.sha, "author_association": it.association,
            })
        });
        Ok((200, items.collect()))
    };
    skin.answer("reviews", &headers, work).await
}

async fn compare(
    State(skin): State<Skin>,
    Path((owner, repo, sides)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    /// A comparison tells no more files than this.
    const FILES_MAX: usize = 300;
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, _| {
        let sides = sides.split_once("...");
        let (base, head) = sides.ok_or_else(|| Denied::new(404, "Not Found"))?;
        let (behind, files) = github.compare(&slug, base, head)?;
        let files = files.iter().take(FILES_MAX).map(|it| {
            let mut file = json!({ "filename": it.path, "status": it.status });
            if let Some(previous) = &it.previous {
                file["previous_filename"] = previous.as_str().into();
            }
            file
        });
        let files: Vec<Value> = files.collect();
        Ok((200, json!({ "behind_by": behind, "files": files })))
    };
    skin.answer("compare", &headers, work).await
}

async fn comments(
    State(skin): State<Skin>,
    Path((owner, repo, number)): One,
    Query(query): Query<PageQuery>,
    headers: HeaderMap,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, _| {
        github.count_pull(&slug, number);
        let comments = github.comments(&slug, number)?;
        let items = page(&comments, query.per_page, query.page).iter();
        let items = items.map(|it| json!({ "user": { "login": it.author }, "body": it.body }));
        Ok((200, items.collect()))
    };
    skin.answer("comments", &headers, work).await
}

#[derive(Deserialize)]
struct CommentBody {
    body: String,
}

async fn comment(
    State(skin): State<Skin>,
    Path((owner, repo, number)): One,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, _| {
        github.count_pull(&slug, number);
        let body: CommentBody = parse(&body)?;
        github.comment(&slug, number, "cyrus[bot]", &body.body)?;
        Ok((201, json!({ "body": body.body })))
    };
    skin.answer("comment", &headers, work).await
}

async fn delete_branch(
    State(skin): State<Skin>,
    Path((owner, repo, branch)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, now| {
        github.delete_branch(&slug, &branch, now)?;
        Ok((204, Value::Null))
    };
    skin.answer("delete", &headers, work).await
}

async fn one_check(
    State(skin): State<Skin>,
    Path((owner, repo, id)): One,
    headers: HeaderMap,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let work = move |github: &mut GitHub, now| {
        let (sha, name) = github.place(&slug)?.check_of(id)?;
        let checks = github.checks(&slug, &sha, now)?;
        let check = checks.iter().find(|it| it.name == name);
        let check = check.ok_or_else(|| Denied::new(404, "Not Found"))?;
        Ok((200, check_run(&sha, check)))
    };
    skin.answer("check-run", &headers, work).await
}

/// Sends the caller to another host, as GitHub does; who goes there with its token
/// has given it away, and is refused.
async fn log(
    State(skin): State<Skin>,
    Path((owner, repo, id)): One,
    headers: HeaderMap,
) -> Response {
    let slug = format!("{owner}/{repo}");
    let host = headers.get("host").and_then(|it| it.to_str().ok());
    let host = host.unwrap_or_default().replace("127.0.0.1", "localhost");
    let target = format!("http://{host}/blob/{slug}/{id}");
    let work = move |github: &mut GitHub, _| {
        let known = github.place(&slug)?.logs.contains_key(&id);
        match known {
            true => Ok((302, Value::Null)),
            false => Err(Denied::new(404, "Not Found")),
        }
    };
    let mut response = skin.answer("log", &headers, work).await;
    if response.status() == StatusCode::FOUND
        && let Ok(target) = target.parse()
    {
        response.headers_mut().insert("location", target);
    }
    response
}

async fn blob(
    State(skin): State<Skin>,
    Path((owner, repo, id)): One,
    headers: HeaderMap,
) -> Response {
    if headers.contains_key("authorization") {
        return refuse(&Denied::new(400, "a token was sent to a stranger"));
    }
    let trouble = skin.faults.meet("blob");
    let log = {
        let mut github = skin.shared.lock();
        let place = github.place(&format!("{owner}/{repo}"));
        place.ok().and_then(|it| it.logs.get(&id).cloned())
    };
    let answer = async {
        match log {
            Some(log) => log.into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    };
    crate::serve::meet(trouble, answer).await
}
