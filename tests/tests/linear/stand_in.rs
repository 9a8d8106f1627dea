//! The stand-in refuses what Linear refuses, and in Linear's words.

use serde_json::{Value, json};
use uuid::Uuid;
use world::linear::{Linear, NewIssue, Refused};

use crate::documents::linears;
use crate::{Scene, TOKEN, noon};

const ID: Uuid = Uuid::from_u128(0x0011_2233_4455_4677_8899_aabb_ccdd_eeff);

impl Scene {
    /// Asks as a program would that knows nothing of our client.
    async fn ask(&self, authorization: Option<&str>, request: Value) -> (u16, Value) {
        let url = format!("{}/graphql", self.server.url());
        let mut asked = reqwest::Client::new().post(url).json(&request);
        if let Some(authorization) = authorization {
            asked = asked.header("authorization", authorization);
        }
        let answer = asked.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    async fn query(&self, text: &str) -> (u16, Value) {
        self.ask(Some(&format!("Bearer {TOKEN}")), json!({ "query": text }))
            .await
    }
}

#[tokio::test]
async fn without_a_good_token_the_door_stays_shut() {
    let scene = Scene::new().await;
    scene.linear().access.accept("lin_api_key");
    let query = json!({ "query": "{ viewer { id } }" });
    for header in [
        None,
        Some(TOKEN),
        Some("Bearer other"),
        Some("Bearer lin_api_key"),
        Some(""),
    ] {
        let (status, body) = scene.ask(header, query.clone()).await;
        let code = &body["errors"][0]["extensions"]["code"];
        assert_eq!(
            (status, code),
            (401, &json!("AUTHENTICATION_ERROR")),
            "{header:?}"
        );
    }
    assert_eq!(scene.linear().calls().len(), 0);
    let (status, body) = scene.ask(Some("lin_api_key"), query).await;
    let viewer = json!({ "data": { "viewer": { "id": world::linear::APP_USER } } });
    assert_eq!((status, body), (200, viewer));
}

#[tokio::test]
async fn an_invalid_document_is_refused_as_linear_does() {
    let scene = Scene::new().await;
    for text in [
        "{ viewer { nmae } }",
        "{ viewer",
        "",
        "mutation { nothing }",
        "{ issue { id } }",
        "mutation { issueUpdate(id: 1.5, input: {}) { success } }",
    ] {
        let (status, body) = scene.query(text).await;
        let code = &body["errors"][0]["extensions"]["code"];
        assert_eq!(
            (status, code),
            (400, &json!("GRAPHQL_VALIDATION_FAILED")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_variable_of_the_wrong_type_is_refused() {
    let scene = Scene::new().await;
    let text = "query($id: String!) { issue(id: $id) { title } }";
    for variables in [
        json!({}),
        json!({ "id": null }),
        json!({ "id": { "a": 1 } }),
    ] {
        let request = json!({ "query": text, "variables": variables });
        let (status, body) = scene.ask(Some(&format!("Bearer {TOKEN}")), request).await;
        assert_eq!((status, body["data"].is_null()), (400, true), "{variables}");
    }
}

#[tokio::test]
async fn a_field_that_the_stand_in_lacks_is_an_error_and_nothing_made_up() {
    // The subset has no field that the stand-in lacks.
    let Some(real) = linears() else { return };
    let scene = Scene::against(real).await;
    for text in ["{ teams { nodes { id } } }", "{ viewer { email } }"] {
        let (status, body) = scene.query(text).await;
        assert_eq!((status, &body["data"]), (200, &Value::Null), "{text}");
        assert_eq!(body["errors"].as_array().map(Vec::len), Some(1), "{text}");
    }
}

#[tokio::test]
async fn a_repeated_id_is_refused_in_linears_words() {
    let scene = Scene::new().await;
    let text = format!(
        r#"mutation {{ agentActivityCreate(input: {{
            id: "{ID}", agentSessionId: "{}", content: {{ type: "thought", body: "t" }}
        }}) {{ success }} }}"#,
        scene.session
    );
    let done = json!({ "data": { "agentActivityCreate": { "success": true } } });
    assert_eq!(scene.query(&text).await, (200, done));
    let (status, mut body) = scene.query(&text).await;
    body["errors"][0]
        .as_object_mut()
        .expect("an error")
        .remove("locations");
    let expected = json!({
        "data": null,
        "errors": [{
            "message": "conflict on insert of AgentActivity",
            "path": ["agentActivityCreate"],
            "extensions": {
                "type": "invalid input", "code": "INPUT_ERROR", "statusCode": 400, "userError": true,
                "userPresentableMessage":
                    format!("Entity AgentActivity with id {ID} already exists."),
            },
        }],
    });
    assert_eq!((status, body), (200, expected));
}

#[tokio::test]
async fn a_connection_gives_as_many_as_were_asked_for() {
    let scene = Scene::new().await;
    let text = r#"{ issue(id: "ENG-1") { labels(first: 1) { nodes { name } } } }"#;
    let expected = json!({ "issue": { "labels": { "nodes": [{ "name": "orchestrator" }] } } });
    assert_eq!(scene.query(text).await.1["data"], expected);
}

fn workspace() -> (Linear, String, String) {
    let mut linear = Linear::new();
    let issue = linear
        .add_issue(NewIssue::default())
        .expect("the team is there");
    let (session, _) = linear.delegate(&issue, noon()).expect("the issue is there");
    (linear, issue, session)
}

#[test]
fn the_last_activity_makes_the_state_of_a_session() {
    let (mut linear, _, session) = workspace();
    let status = |linear: &Linear| linear.session(&session).expect("it is there").status();
    assert_eq!(status(&linear), "pending");
    for (at, (kind, expected)) in [
        ("thought", "active"),
        ("elicitation", "awaitingInput"),
        ("error", "error"),
        ("response", "complete"),
    ]
    .into_iter()
    .enumerate()
    {
        let id = Uuid::from_u128(ID.as_u128() + at as u128);
        linear
            .say(id, &session, json!({ "type": kind, "body": "b" }))
            .expect("said");
        assert_eq!(status(&linear), expected);
    }
    linear
        .prompt(&session, "Once more", noon())
        .expect("a prompt");
    assert_eq!(status(&linear), "active");
}

#[test]
fn an_activity_of_the_wrong_shape_is_refused() {
    let (mut linear, _, session) = workspace();
    for content in [
        json!(null),
        json!({}),
        json!({ "type": "prompt", "body": "b" }),
        json!({ "type": "shout", "body": "b" }),
        json!({ "type": "thought" }),
        json!({ "type": "response", "body": " " }),
        json!({ "type": "error", "body": 1 }),
        json!({ "type": "action", "action": "Run" }),
        json!({ "type": "action", "action": "", "parameter": "p" }),
        json!({ "type": "action", "action": "Run", "parameter": "p", "result": 1 }),
    ] {
        let said = linear.say(ID, &session, content.clone());
        assert!(
            matches!(said, Err(Refused::Invalid(_))),
            "{content}: {said:?}"
        );
    }
    let content = json!({ "type": "thought", "body": "b" });
    let unknown = linear.say(ID, "no session", content.clone());
    assert_eq!(
        unknown,
        Err(Refused::NotFound {
            entity: "AgentSession"
        })
    );
    linear
        .say(ID, &session, content)
        .expect("nothing of the above has taken the id");
}

#[test]
fn a_signal_that_linear_does_not_take_is_refused() {
    let (mut linear, _, session) = workspace();
    let question = json!({ "type": "elicitation", "body": "b" });
    let thought = json!({ "type": "thought", "body": "b" });
    let options = json!({ "options": [{ "value": "a" }] });
    for (content, signal, metadata) in [
        (&question, json!("select"), json!(null)),
        (&question, json!("select"), json!({ "options": [] })),
        (&question, json!("select"), json!({ "options": ["a"] })),
        (
            &question,
            json!("select"),
            json!({ "options": [{ "label": "a" }] }),
        ),
        (&question, json!(null), options.clone()),
        (&question, json!("stop"), options.clone()),
        (&thought, json!("select"), options.clone()),
    ] {
        let said = linear.say_with(ID, &session, content.clone(), signal, metadata);
        assert!(matches!(said, Err(Refused::Invalid(_))), "{said:?}");
    }
    let said = linear.say_with(ID, &session, question, json!("select"), options);
    said.expect("nothing of the above has taken the id");
}

#[test]
fn a_plan_of_the_wrong_shape_is_refused() {
    let (mut linear, _, session) = workspace();
    for plan in [
        json!({}),
        json!([{ "content": "a" }]),
        json!([{ "content": "a", "status": "done" }]),
        json!([{ "content": "", "status": "pending" }]),
    ] {
        let shown = linear.show_plan(&session, plan.clone());
        assert!(
            matches!(shown, Err(Refused::Invalid(_))),
            "{plan}: {shown:?}"
        );
    }
    linear
        .show_plan(&session, json!([]))
        .expect("an empty plan is one");
}

#[test]
fn a_state_of_another_team_is_refused() {
    let (mut linear, issue, _) = workspace();
    linear.add_team("OPS", "Operations");
    let other = NewIssue {
        team: "OPS".into(),
        ..NewIssue::default()
    };
    let other = linear.add_issue(other).expect("the team is there");
    let state = linear.issue(&other).expect("it is there").state.id.clone();
    let refused = Err(Refused::NotFound {
        entity: "WorkflowState",
    });
    assert_eq!(linear.set_state(&issue, &state), refused);
    let unknown = NewIssue {
        team: "NONE".into(),
        ..NewIssue::default()
    };
    assert_eq!(
        linear.add_issue(unknown),
        Err(Refused::NotFound { entity: "Team" })
    );
}
