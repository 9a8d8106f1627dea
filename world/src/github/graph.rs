//! `POST /graphql`: executes documents against the part of GitHub's schema that is
//! in use. What the schema does not know is refused, as GitHub does.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::LazyLock;

use apollo_compiler::ast::Type;
use apollo_compiler::request::coerce_variable_values;
use apollo_compiler::resolvers::{Execution, FieldError, ObjectValue, ResolveInfo, ResolvedValue};
use apollo_compiler::response::JsonMap;
use apollo_compiler::validation::Valid;
use apollo_compiler::{ExecutableDocument, Schema};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::skin::{Skin, node_id, parse, pull_of_node};
use super::{Denied, GitHub, GraphQl, Pull, State as PullState};

static SCHEMA: LazyLock<Valid<Schema>> = LazyLock::new(|| {
    Schema::parse_and_validate(include_str!("subset.graphql"), "subset.graphql")
        .expect("the text is a constant")
});

/// The document's operation, `Facts` say, is what it meets trouble under.
pub(super) fn router(skin: Skin) -> Router {
    Router::new()
        .route("/graphql", post(graphql))
        .with_state(skin)
}

#[derive(Deserialize)]
struct Request {
    query: String,
    #[serde(default)]
    variables: Map<String, Value>,
}

async fn graphql(State(skin): State<Skin>, headers: HeaderMap, body: Bytes) -> Response {
    let request: Result<Request, Denied> = parse(&body);
    let name = request.as_ref().ok().and_then(|it| operation(&it.query));
    let work = move |github: &mut GitHub, now| {
        let request = request?;
        match github.graphql {
            GraphQl::Absent => Err(Denied::new(404, "Not Found")),
            GraphQl::Old => Ok((200, undefined("Field 'isInMergeQueue' doesn't exist"))),
            GraphQl::Present => {
                github.hold_still(now)?;
                let reply = execute(github, &request, now);
                github.go_on();
                Ok((200, reply))
            }
        }
    };
    let name = name.unwrap_or_else(|| "graphql".into());
    skin.answer(&name, &headers, work).await
}

impl GitHub {
    fn hold_still(&mut self, now: Timestamp) -> Result<(), Denied> {
        for place in self.places.values_mut() {
            place.refresh(now)?;
            place.still = true;
        }
        Ok(())
    }

    fn go_on(&mut self) {
        for place in self.places.values_mut() {
            place.still = false;
        }
    }
}

/// The name in `query Name(…`.
fn operation(document: &str) -> Option<String> {
    let name = document.split_whitespace().nth(1)?;
    Some(name.split('(').next()?.to_owned())
}

fn undefined(message: &str) -> Value {
    json!({ "errors": [{ "message": message, "extensions": { "code": "undefinedField" } }] })
}

fn execute(github: &mut GitHub, request: &Request, now: Timestamp) -> Value {
    let document = ExecutableDocument::parse_and_validate(&SCHEMA, &request.query, "request");
    let document = match document {
        Ok(document) => document,
        Err(invalid) => return undefined(&invalid.errors.to_string()),
    };
    let variables: JsonMap = request
        .variables
        .iter()
        .map(|(key, value)| (key.as_str().into(), value.clone().into()))
        .collect();
    let coerced = document
        .operations
        .get(None)
        .and_then(|it| coerce_variable_values(&SCHEMA, it, &variables));
    let variables = match coerced {
        Ok(variables) => variables,
        Err(error) => return json!({ "errors": [{ "message": error.message().to_string() }] }),
    };
    let context = Rc::new(Context {
        github: RefCell::new(github),
        now,
        denied: RefCell::default(),
    });
    let root = Node::new(&context, "Query", Kind::Root);
    let executed = Execution::new(&SCHEMA, &document)
        .coerced_variable_values(&variables)
        .execute_sync(&root);
    let mut reply = match executed {
        Ok(response) => serde_json::to_value(&response).unwrap_or_default(),
        Err(error) => return json!({ "errors": [{ "message": error.message().to_string() }] }),
    };
    let errors = reply.get_mut("errors").and_then(Value::as_array_mut);
    for error in errors.into_iter().flatten() {
        let message = error["message"].as_str().unwrap_or_default();
        let message = message.trim_start_matches("resolver error: ").to_owned();
        let denied = context.denied.borrow();
        let denied = denied.iter().find(|it| it.message == message);
        let kind = denied.and_then(|it| match it.status {
            404 => Some("NOT_FOUND"),
            403 => Some("FORBIDDEN"),
            422 => Some("UNPROCESSABLE"),
            _ => None,
        });
        if let Some(kind) = kind {
            error["type"] = kind.into();
        }
        error["message"] = message.into();
    }
    reply
}

/// What all parts of one execution share.
struct Context<'g> {
    github: RefCell<&'g mut GitHub>,
    now: Timestamp,
    denied: RefCell<Vec<Denied>>,
}

/// An object of the answer. Fields without arguments are JSON.
struct Node<'g> {
    context: Rc<Context<'g>>,
    type_name: String,
    kind: Kind,
}

enum Kind {
    Root,
    Repository { slug: String },
    Pull { slug: String, fields: Value },
    Base { slug: String, branch: String },
    Json(Value),
}

impl<'g> Node<'g> {
    fn new(context: &Rc<Context<'g>>, type_name: &str, kind: Kind) -> Self {
        Self {
            context: Rc::clone(context),
            type_name: type_name.to_owned(),
            kind,
        }
    }

    fn child<'a>(&self, type_name: &str, kind: Kind) -> ResolvedValue<'a>
    where
        'g: 'a,
    {
        ResolvedValue::object(Node::new(&self.context, type_name, kind))
    }

    fn resolve<'a>(&'a self, info: &'a ResolveInfo<'a>) -> Result<ResolvedValue<'a>, Denied> {
        let arguments = serde_json::to_value(info.arguments()).unwrap_or_default();
        let text = |key: &str| arguments[key].as_str().unwrap_or_default();
        let github = &mut **self.context.github.borrow_mut();
        let now = self.context.now;
        match (&self.kind, info.field_name()) {
            (Kind::Root, "repository") => {
                let slug = format!("{}/{}", text("owner"), text("name"));
                let slug = github.spelled(&slug).map_err(|_| {
                    let why = format!("Could not resolve to a Repository with the name '{slug}'.");
                    Denied::new(404, &why)
                })?;
                Ok(self.child("Repository", Kind::Repository { slug }))
            }
            (Kind::Root, "updatePullRequestBranch") => {
                let (slug, number, sha) = target(&arguments["input"])?;
                github.count_pull(&slug, number);
                github.update_branch(&slug, number, sha, now)?;
                let pull = github.pull(&slug, number, now)?;
                let fields = pull_of(github, &slug, &pull, now)?;
                Ok(self.json(json!({ "pullRequest": fields }), info))
            }
            (Kind::Root, "enqueuePullRequest") => {
                let (slug, number, sha) = target(&arguments["input"])?;
                github.count_pull(&slug, number);
                github.enqueue(&slug, number, sha, now)?;
                let entry = json!({ "mergeQueueEntry": { "id": format!("MQE_{number}") } });
                Ok(self.json(entry, info))
            }
            (Kind::Repository { slug }, "pullRequest") => {
                let number = arguments["number"].as_u64().unwrap_or_default();
                github.count_pull(slug, number);
                let pull = github.pull(slug, number, now).map_err(|_| {
                    let why = "Could not resolve to a PullRequest with the number of";
                    Denied::new(404, &format!("{why} {number}."))
                })?;
                let fields = pull_of(github, slug, &pull, now)?;
                let slug = slug.clone();
                Ok(self.child("PullRequest", Kind::Pull { slug, fields }))
            }
            (Kind::Repository { slug }, "pullRequests") => {
                let branch = arguments["headRefName"].as_str();
                let mut pulls = github.pulls(slug, None, false, now)?;
                pulls.retain(|it| branch.is_none_or(|branch| it.head == branch));
                let nodes = pulls.iter().map(|it| {
                    let head = json!({ "nameWithOwner": it.head_slug });
                    json!({ "number": it.number, "headRepository": head })
                });
                let page = page(nodes.collect(), &arguments);
                Ok(self.json(page, info))
            }
            (Kind::Repository { slug }, "nameWithOwner") => Ok(ResolvedValue::leaf(slug.as_str())),
            (Kind::Pull { slug, fields }, "baseRef") => {
                let branch = fields["baseRefName"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned();
                let slug = slug.clone();
                Ok(self.child("Ref", Kind::Base { slug, branch }))
            }
            (Kind::Base { slug, branch }, "compare") => {
                let head = github.head(slug, text("headRef"))?;
                let Some(head) = head else {
                    return Ok(ResolvedValue::null());
                };
                let (behind, _) = github.compare(slug, branch, &head)?;
                let target = json!({ "__typename": "Commit", "oid": head });
                let compared = json!({ "aheadBy": 1, "behindBy": behind, "headTarget": target });
                Ok(self.json(compared, info))
            }
            (Kind::Pull { fields, .. } | Kind::Json(fields), name) => {
                let Some(value) = fields.get(name) else {
                    return Err(Denied::new(500, &format!("nothing is known of `{name}`")));
                };
                let value = match value {
                    Value::Array(_) => value.clone(),
                    _ if value.get("nodes").is_some() => {
                        let nodes = value["nodes"].as_array().cloned().unwrap_or_default();
                        page(nodes, &arguments)
                    }
                    _ => value.clone(),
                };
                Ok(self.value(value, &info.field_definition().ty))
            }
            (_, name) => Err(Denied::new(500, &format!("nothing resolves `{name}`"))),
        }
    }

    fn json<'a>(&self, value: Value, info: &ResolveInfo<'_>) -> ResolvedValue<'a>
    where
        'g: 'a,
    {
        self.value(value, &info.field_definition().ty)
    }

    fn value<'a>(&self, value: Value, ty: &Type) -> ResolvedValue<'a>
    where
        'g: 'a,
    {
        match value {
            Value::Array(items) if ty.is_list() => {
                let items: Vec<_> = items
                    .into_iter()
                    .map(|it| Ok(self.value(it, ty.item_type())))
                    .collect();
                ResolvedValue::List(Box::new(items.into_iter()))
            }
            Value::Object(_) => {
                let named = ty.inner_named_type().to_string();
                let name = value["__typename"].as_str().unwrap_or(&named).to_owned();
                self.child(&name, Kind::Json(value))
            }
            leaf => ResolvedValue::leaf(leaf),
        }
    }
}

impl ObjectValue for Node<'_> {
    fn type_name(&self) -> &str {
        &self.type_name
    }

    fn resolve_field<'a>(
        &'a self,
        info: &'a ResolveInfo<'a>,
    ) -> Result<ResolvedValue<'a>, FieldError> {
        self.resolve(info).map_err(|denied| {
            let message = denied.message.clone();
            self.context.denied.borrow_mut().push(denied);
            FieldError { message }
        })
    }
}

/// Which pull request a mutation is about, and the commit that it names.
fn target(input: &Value) -> Result<(String, u64, Option<&str>), Denied> {
    let id = input["pullRequestId"].as_str().unwrap_or_default();
    let (slug, number) = pull_of_node(id)
        .ok_or_else(|| Denied::new(404, &format!("Could not resolve to a node with '{id}'.")))?;
    Ok((slug, number, input["expectedHeadOid"].as_str()))
}

/// A page of a connection. GitHub wants to be told how long it shall be.
fn page(nodes: Vec<Value>, arguments: &Value) -> Value {
    let total = nodes.len();
    let size = |key: &str| {
        arguments[key]
            .as_u64()
            .and_then(|it| usize::try_from(it).ok())
    };
    let nodes: Vec<Value> = match (size("first"), size("last")) {
        (Some(first), _) => nodes.into_iter().take(first).collect(),
        (None, Some(last)) => nodes.into_iter().skip(total.saturating_sub(last)).collect(),
        (None, None) => Vec::new(),
    };
    json!({ "totalCount": total, "nodes": nodes })
}

/// A pull request with all that is told of it without an argument.
fn pull_of(github: &mut GitHub, slug: &str, pull: &Pull, now: Timestamp) -> Result<Value, Denied> {
    let open = pull.state == PullState::Open;
    let files = match open {
        true => github.compare(slug, &pull.base, &pull.head_sha)?.1,
        false => Vec::new(),
    };
    let files = files.iter().map(|it| {
        let status = it.status.to_uppercase().replace("REMOVED", "DELETED");
        json!({ "path": it.path, "changeType": status })
    });
    let reviews = github.opinions(slug, pull.number)?;
    let reviews = reviews.iter().map(|it| {
        json!({
            "state": it.state, "body": it.body,
            "author": { "__typename": "User", "login": it.author },
            "commit": { "oid": it.sha },
        })
    });
    let runs = github.checks(slug, &pull.head_sha, now)?;
    let runs = runs.iter().map(|it| {
        let conclusion = it.conclusion.as_ref().map(|it| it.to_uppercase());
        let [title, summary, text] = &it.output;
        json!({
            "__typename": "CheckRun",
            "databaseId": it.id,
            "permalink": format!("https://github.com/{slug}/runs/{}", it.id),
            "name": it.name,
            "status": if conclusion.is_some() { "COMPLETED" } else { "IN_PROGRESS" },
            "conclusion": conclusion,
            "title": title, "summary": summary, "text": text,
        })
    });
    let statuses = github.statuses(slug, &pull.head_sha)?;
    let statuses = statuses.iter().map(|(context, state)| {
        json!({
            "__typename": "StatusContext", "context": context, "state": state.to_uppercase(),
            "description": null,
        })
    });
    let contexts: Vec<Value> = runs.chain(statuses).collect();
    let rollup = match contexts.is_empty() {
        true => Value::Null,
        false => json!({ "contexts": { "nodes": contexts } }),
    };
    let place = github.place(slug)?;
    let state = place.merge_state(pull, now)?;
    let queued = place.queue.iter().any(|it| it.0 == pull.number);
    Ok(json!({
        "id": node_id(slug, pull.number),
        "number": pull.number,
        "url": format!("https://github.com/{slug}/pull/{}", pull.number),
        "state": match pull.state {
            PullState::Open => "OPEN",
            PullState::Closed => "CLOSED",
            PullState::Merged => "MERGED",
        },
        "isDraft": pull.draft,
        "body": pull.body,
        "mergeable": match pull.mergeable {
            None => "UNKNOWN",
            Some(true) => "MERGEABLE",
            Some(false) => "CONFLICTING",
        },
        "mergeStateStatus": state,
        "isInMergeQueue": queued,
        "headRefName": pull.head,
        "headRefOid": pull.head_sha,
        "headRepository": { "nameWithOwner": pull.head_slug },
        "baseRefName": pull.base,
        "baseRepository": { "nameWithOwner": slug },
        "files": { "nodes": files.collect::<Vec<_>>() },
        "latestOpinionatedReviews": { "nodes": reviews.collect::<Vec<_>>() },
        "commits": { "nodes": [{ "commit": { "oid": pull.head_sha, "statusCheckRollup": rollup } }] },
    }))
}
