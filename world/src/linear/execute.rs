//! Executes one GraphQL document on the workspace. The schema drives it: objects
//! are JSON whose fields are looked up by name, and what is missing is an error,
//! never something made up.

use std::cell::RefCell;

use apollo_compiler::ast::Type;
use apollo_compiler::request::coerce_variable_values;
use apollo_compiler::resolvers::{Execution, FieldError, ObjectValue, ResolveInfo, ResolvedValue};
use apollo_compiler::response::JsonMap;
use apollo_compiler::validation::Valid;
use apollo_compiler::{ExecutableDocument, Schema};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{APP_USER, Issue, Linear, ORGANIZATION, Refused};

/// How many nodes of a connection come where none are named.
const FIRST: usize = 50;

/// An HTTP status and the body that goes with it.
pub(super) type Reply = (u16, Value);

pub(super) fn execute(
    linear: &mut Linear,
    schema: &Valid<Schema>,
    text: &str,
    operation: Option<&str>,
    variables: &Map<String, Value>,
) -> Reply {
    let document = match ExecutableDocument::parse_and_validate(schema, text, "request.graphql") {
        Ok(document) => document,
        Err(invalid) => return invalid_document(&invalid.errors.to_string()),
    };
    let variables: JsonMap = variables
        .iter()
        .map(|(key, value)| (key.as_str().into(), value.clone().into()))
        .collect();
    let coerced = document
        .operations
        .get(operation)
        .and_then(|it| coerce_variable_values(schema, it, &variables));
    let variables = match coerced {
        Ok(variables) => variables,
        Err(error) => return invalid_document(&error.message().to_string()),
    };
    let root = Root {
        linear: RefCell::new(linear),
        refusals: RefCell::default(),
    };
    let executed = Execution::new(schema, &document)
        .operation_name(operation)
        .map(|it| it.coerced_variable_values(&variables).execute_sync(&root));
    match executed {
        Ok(Ok(response)) => {
            let mut reply = serde_json::to_value(&response).unwrap_or_default();
            let errors = reply.get_mut("errors").and_then(Value::as_array_mut);
            for error in errors.into_iter().flatten() {
                root.complete(error);
            }
            (200, reply)
        }
        Ok(Err(error)) | Err(error) => invalid_document(&error.message().to_string()),
    }
}

fn invalid_document(message: &str) -> Reply {
    let extensions = json!({
        "type": "graphql error", "code": "GRAPHQL_VALIDATION_FAILED", "statusCode": 400,
        "http": { "status": 400 },
    });
    (
        400,
        json!({ "errors": [{ "message": message, "extensions": extensions }] }),
    )
}

/// The root of both kinds of operation.
struct Root<'l> {
    linear: RefCell<&'l mut Linear>,
    refusals: RefCell<Vec<Refused>>,
}

impl ObjectValue for Root<'_> {
    // Both root types resolve through here, and nothing asks which one it is.
    fn type_name(&self) -> &str {
        "Query"
    }

    fn resolve_field<'a>(
        &'a self,
        info: &'a ResolveInfo<'a>,
    ) -> Result<ResolvedValue<'a>, FieldError> {
        let arguments = serde_json::to_value(info.arguments()).unwrap_or_default();
        let resolved = self.root_field(info.field_name(), &arguments);
        match resolved {
            Ok(value) => resolve(&value, &info.field_definition().ty, info),
            Err(refused) => {
                let message = refused.message();
                self.refusals.borrow_mut().push(refused);
                Err(FieldError { message })
            }
        }
    }
}

impl Root<'_> {
    fn root_field(&self, field: &str, arguments: &Value) -> Result<Value, Refused> {
        let linear = &mut **self.linear.borrow_mut();
        let input = arguments.get("input").unwrap_or(&Value::Null);
        let id = text(arguments, "id");
        match field {
            "viewer" => Ok(json!({ "id": APP_USER, "name": "Cyrus" })),
            "organization" => Ok(json!({ "id": ORGANIZATION, "name": "Acme" })),
            "issue" => {
                let found = linear.issue(id)?;
                let mut told = issue(linear, found);
                // Newest first, as Linear lists them where no order is asked for.
                let mut children: Vec<&Issue> = linear.issues.values().collect();
                children.retain(|it| it.parent.as_ref() == Some(&found.id) && !it.removed);
                children.sort_by_key(|it| std::cmp::Reverse(it.number));
                let nodes: Vec<Value> = children.iter().map(|it| issue(linear, it)).collect();
                told["children"] = json!({ "nodes": nodes });
                Ok(told)
            }
            "issueUpdate" => {
                only(input, &["stateId"])?;
                linear.set_state(id, text(input, "stateId"))?;
                Ok(json!({ "success": true }))
            }
            "agentActivityCreate" => {
                let known = [
                    "id",
                    "agentSessionId",
                    "content",
                    "signal",
                    "signalMetadata",
                ];
                only(input, &known)?;
                let id = match input.get("id").and_then(Value::as_str) {
                    Some(id) => Uuid::parse_str(id)
                        .ok()
                        .filter(|it| it.get_version_num() == 4),
                    None => Uuid::parse_str(&linear.next_id()).ok(),
                };
                let id = id.ok_or_else(|| Refused::invalid("id must be a UUID of version 4"))?;
                let part = |key: &str| input.get(key).cloned().unwrap_or_default();
                linear.say_with(
                    id,
                    text(input, "agentSessionId"),
                    part("content"),
                    part("signal"),
                    part("signalMetadata"),
                )?;
                Ok(json!({ "success": true }))
            }
            "agentSessionUpdate" => {
                update_session(linear, id, input)?;
                Ok(json!({ "success": true }))
            }
            _ => Err(Refused::invalid(format!(
                "the stand-in has no resolver for `{field}`"
            ))),
        }
    }

    /// Gives an error the shape of Linear's.
    fn complete(&self, error: &mut Value) {
        let message = error["message"].as_str().unwrap_or_default();
        let message = message.trim_start_matches("resolver error: ").to_owned();
        let refusals = self.refusals.borrow();
        let refused = refusals.iter().find(|it| it.message() == message);
        error["extensions"] = match refused {
            Some(refused) => refused.extensions(),
            None => Refused::Invalid(message.clone()).extensions(),
        };
        error["message"] = message.into();
    }
}

fn update_session(linear: &mut Linear, id: &str, input: &Value) -> Result<(), Refused> {
    only(
        input,
        &[
            "plan",
            "externalUrls",
            "addedExternalUrls",
            "removedExternalUrls",
        ],
    )?;
    linear.session(id)?;
    let list = |key: &str| input.get(key).and_then(Value::as_array).cloned();
    if let Some(plan) = input.get("plan") {
        linear.show_plan(id, plan.clone())?;
    }
    let replaced = list("externalUrls");
    if replaced.is_some() {
        linear.session_mut(id)?.links.clear();
    }
    // Where the whole list is given, the changes to it are ignored.
    let added = replaced
        .clone()
        .or_else(|| list("addedExternalUrls"))
        .unwrap_or_default();
    for it in added {
        linear.link(id, text(&it, "label"), text(&it, "url"))?;
    }
    if replaced.is_none() {
        for url in list("removedExternalUrls").unwrap_or_default() {
            linear.unlink(id, url.as_str().unwrap_or_default())?;
        }
    }
    Ok(())
}

/// Refuses what the stand-in would otherwise pass over in silence.
fn only(input: &Value, known: &[&str]) -> Result<(), Refused> {
    let unknown = input
        .as_object()
        .and_then(|it| it.keys().find(|key| !known.contains(&key.as_str())));
    match unknown {
        Some(key) => Err(Refused::invalid(format!(
            "the stand-in does not know `input.{key}`"
        ))),
        None => Ok(()),
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// An issue without its sub-issues.
fn issue(linear: &Linear, issue: &Issue) -> Value {
    let team = &issue.team;
    let blockers = linear.relations.iter().filter(|it| it.related == issue.id);
    let blockers: Vec<Value> = blockers
        .filter_map(|it| {
            let other = linear.issue(&it.issue).ok()?;
            let other = json!({ "id": other.id, "identifier": other.identifier });
            Some(json!({ "type": it.kind, "issue": other }))
        })
        .collect();
    let named = |name: &String| json!({ "name": name });
    let state = |it: &super::State| json!({ "id": it.id, "name": it.name, "type": it.kind, "position": it.position });
    let states: Vec<Value> = team.states.iter().map(state).collect();
    json!({
        "id": issue.id,
        "identifier": issue.identifier,
        "title": issue.title,
        "description": issue.description,
        "url": issue.url,
        "estimate": issue.estimate,
        "project": issue.project.as_ref().map(named),
        "labels": { "nodes": issue.labels.iter().map(named).collect::<Vec<_>>() },
        "state": state(&issue.state),
        "subIssueSortOrder": issue.sort_order,
        "inverseRelations": { "nodes": blockers },
        "team": {
            "id": team.id, "key": team.key, "name": team.name, "states": { "nodes": states },
        },
    })
}

/// A JSON object in the place of an object of the schema.
struct Node {
    type_name: String,
    fields: Map<String, Value>,
}

impl ObjectValue for Node {
    fn type_name(&self) -> &str {
        &self.type_name
    }

    fn resolve_field<'a>(
        &'a self,
        info: &'a ResolveInfo<'a>,
    ) -> Result<ResolvedValue<'a>, FieldError> {
        let value = self
            .fields
            .get(info.field_name())
            .ok_or_else(|| self.unknown_field_error(info))?;
        resolve(value, &info.field_definition().ty, info)
    }
}

/// Leaves of a connection the part that was asked for; tells what comes after it.
/// A cursor is the number of the nodes before it.
fn page(nodes: &mut Vec<Value>, info: &ResolveInfo<'_>) -> Value {
    let arguments = info.arguments();
    let first = arguments.get("first").and_then(|it| it.as_u64());
    let first = first.and_then(|it| usize::try_from(it).ok());
    let after = arguments.get("after").and_then(|it| it.as_str());
    let from = after.and_then(|it| it.parse().ok()).unwrap_or(0_usize);
    let all = nodes.len();
    nodes.drain(..from.min(all));
    nodes.truncate(first.unwrap_or(FIRST));
    let to = from + nodes.len();
    json!({ "hasNextPage": to < all, "endCursor": (!nodes.is_empty()).then(|| to.to_string()) })
}

fn resolve<'a>(
    value: &Value,
    ty: &Type,
    info: &'a ResolveInfo<'a>,
) -> Result<ResolvedValue<'a>, FieldError> {
    match value {
        Value::Array(items) if ty.is_list() => {
            let items: Vec<_> = items
                .iter()
                .map(|it| resolve(it, ty.item_type(), info))
                .collect();
            Ok(ResolvedValue::List(Box::new(items.into_iter())))
        }
        Value::Object(fields) if info.schema().get_object(ty.inner_named_type()).is_some() => {
            let mut fields = fields.clone();
            if let Some(Value::Array(nodes)) = fields.get_mut("nodes") {
                let page = page(nodes, info);
                fields.insert("pageInfo".into(), page);
            }
            Ok(ResolvedValue::object(Node {
                type_name: ty.inner_named_type().to_string(),
                fields,
            }))
        }
        _ => Ok(ResolvedValue::leaf(value.clone())),
    }
}
