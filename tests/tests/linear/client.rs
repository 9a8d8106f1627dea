//! What the client does when Linear answers as it should.

use serde_json::{Value, json};
use shared::issue::{
    Activity, Brief, FailureClass, Fault, IssueId, SUB_ISSUES_MAX, Stage, SubIssue,
};
use shared::linear::Viewer;
use shared::ports::{PlanItem, PlanStatus, Tracker};
use uuid::Uuid;
use world::linear::{NewIssue, schema};

use crate::{Scene, client_of, given, noon};

/// What the core makes of an effect's key is an id like this.
const ID: Uuid = Uuid::from_u128(0x0011_2233_4455_4677_8899_aabb_ccdd_eeff);

#[tokio::test]
async fn every_operation_works_against_linears_schema_and_the_subset() {
    let mut schemas = vec![schema::embedded()];
    schemas.extend(schema::found().expect("a schema"));
    for schema in schemas {
        let scene = Scene::against(schema).await;
        let (issue, session) = (scene.issue.as_str().into(), scene.session.as_str().into());
        let client = &scene.client;
        client.viewer().await.expect("viewer");
        client.read(&issue).await.expect("read");
        client
            .say(ID, &session, &Activity::Thought("Hello".into()))
            .await
            .expect("say");
        client.show_plan(&session, &[]).await.expect("show_plan");
        client
            .link(&session, "Pull request", "https://example.com/1")
            .await
            .expect("link");
        client
            .set_stage(&issue, Stage::Started)
            .await
            .expect("set_stage");
        let asked = [
            "Viewer",
            "IssueBrief",
            "AgentActivityCreate",
            "AgentSessionUpdate",
            "AgentSessionUpdate",
            "IssueState",
            "IssueSetState",
        ];
        assert_eq!(scene.linear().calls(), asked);
    }
}

#[tokio::test]
async fn an_issue_is_read_with_all_that_matters_for_the_work() {
    let scene = Scene::new().await;
    let brief = scene
        .client
        .read(&scene.issue.as_str().into())
        .await
        .expect("a brief");
    let expected = Brief {
        identifier: "ENG-1".into(),
        title: "Add sign-in with passkeys".into(),
        description: "Add passkey registration and sign-in.".into(),
        url: "https://linear.app/acme/issue/ENG-1".into(),
        team_key: "ENG".into(),
        project: Some("Accounts".into()),
        labels: vec!["orchestrator".into(), "web".into()],
        estimate: Some(3.0),
        sub_issues: Vec::new(),
    };
    assert_eq!(brief, expected);
    assert_eq!(scene.linear().calls(), ["IssueBrief"]);
}

#[tokio::test]
async fn sub_issues_are_read_with_their_blockers_page_by_page() {
    let mut schemas = vec![schema::embedded()];
    schemas.extend(schema::found().expect("a schema"));
    for schema in schemas {
        let scene = Scene::against(schema).await;
        let part = |title: String, sort_order| NewIssue {
            description: format!("Do {title}."),
            title,
            labels: vec!["bug".into()],
            parent: Some(scene.issue.clone()),
            sort_order,
            ..NewIssue::default()
        };
        for number in 2..32 {
            // The last one was put first.
            let place = (number == 31).then_some(-1.0);
            let part = part(format!("part {number}"), place);
            scene.linear().add_issue(part).expect("the team is there");
        }
        {
            let mut linear = scene.linear();
            linear.relate("ENG-2", "blocks", "ENG-3").expect("both");
            linear.relate("ENG-4", "related", "ENG-3").expect("both");
            linear.relate("ENG-3", "blocks", "ENG-5").expect("both");
            linear.move_to("ENG-2", "completed", noon()).expect("it");
            linear.remove("ENG-6", noon()).expect("it");
        }

        let brief = scene.client.read(&scene.issue.as_str().into()).await;
        let all = brief.expect("a brief").sub_issues;
        assert_eq!(
            scene.linear().calls(),
            ["IssueBrief", "SubIssues", "SubIssues"]
        );
        let mut numbers = vec![31];
        numbers.extend((2..31).filter(|it| *it != 6));
        let expected: Vec<String> = numbers.iter().map(|it| format!("ENG-{it}")).collect();
        let names: Vec<&str> = all.iter().map(|it| it.identifier.as_str()).collect();
        assert_eq!(names, expected);
        let id = scene.linear().issue("ENG-3").expect("it").id.clone();
        let third = SubIssue {
            id: IssueId(id),
            identifier: "ENG-3".into(),
            title: "part 3".into(),
            description: "Do part 3.".into(),
            state: "unstarted".into(),
            labels: vec!["bug".into()],
            blocked_by: vec!["ENG-2".into()],
        };
        assert_eq!(all[2], third);
        // Nobody works on what is closed.
        assert!(all[1].is_completed() && all[1].description.is_empty());
    }
}

#[tokio::test]
async fn one_sub_issue_more_than_there_may_be_is_enough() {
    let scene = Scene::new().await;
    for number in 0..130 {
        let part = NewIssue {
            title: format!("part {number}"),
            parent: Some(scene.issue.clone()),
            ..NewIssue::default()
        };
        scene.linear().add_issue(part).expect("the team is there");
    }
    let brief = scene.client.read(&scene.issue.as_str().into()).await;
    assert_eq!(brief.expect("a brief").sub_issues.len(), SUB_ISSUES_MAX + 1);
    assert_eq!(scene.linear().calls().len(), 6);
    // A page that cannot be read is no short list.
    scene
        .faults
        .next("SubIssues", world::faults::Trouble::DropBefore);
    let brief = scene.client.read(&scene.issue.as_str().into()).await;
    assert!(matches!(brief, Err(Fault::Transient { .. })), "{brief:?}");
}

#[tokio::test]
async fn an_issue_with_nothing_set_is_read_too() {
    let scene = Scene::new().await;
    let plain = NewIssue {
        title: "Plain".into(),
        ..NewIssue::default()
    };
    let id = scene.linear().add_issue(plain).expect("the team is there");
    let brief = scene
        .client
        .read(&id.as_str().into())
        .await
        .expect("a brief");
    let expected = Brief {
        identifier: "ENG-2".into(),
        title: "Plain".into(),
        url: "https://linear.app/acme/issue/ENG-2".into(),
        team_key: "ENG".into(),
        ..Brief::default()
    };
    assert_eq!(brief, expected);
}

#[tokio::test]
async fn an_issue_that_is_gone_is_a_permanent_fault() {
    let scene = Scene::new().await;
    scene
        .linear()
        .remove(&scene.issue, noon())
        .expect("the issue is there");
    let fault = scene
        .client
        .read(&scene.issue.as_str().into())
        .await
        .expect_err("it is gone");
    let why = "Linear refused `IssueBrief`: Entity not found: Issue".into();
    assert_eq!(
        fault,
        Fault::Permanent {
            class: FailureClass::Invalid,
            why
        }
    );
}

#[tokio::test]
async fn each_kind_of_activity_is_posted_as_linear_wants_it() {
    let scene = Scene::new().await;
    let session = scene.session.as_str().into();
    let action = |result: Option<&str>| Activity::Action {
        action: "Run".into(),
        parameter: "api".into(),
        result: result.map(str::to_owned),
    };
    let all = [
        (
            Activity::Thought("t".into()),
            json!({ "type": "thought", "body": "t" }),
        ),
        (
            action(None),
            json!({ "type": "action", "action": "Run", "parameter": "api" }),
        ),
        (
            action(Some("ok")),
            json!({ "type": "action", "action": "Run", "parameter": "api", "result": "ok" }),
        ),
        (
            Activity::Elicitation {
                question: "q".into(),
                options: Vec::new(),
            },
            json!({ "type": "elicitation", "body": "q" }),
        ),
        (
            Activity::Response("r".into()),
            json!({ "type": "response", "body": "r" }),
        ),
        (
            Activity::Error("e".into()),
            json!({ "type": "error", "body": "e" }),
        ),
    ];
    let mut posted = Vec::new();
    for (at, (activity, content)) in all.into_iter().enumerate() {
        let id = Uuid::from_u128(ID.as_u128() + at as u128);
        scene
            .client
            .say(id, &session, &activity)
            .await
            .expect("posted");
        posted.push((id.to_string(), content));
    }
    let linear = scene.linear();
    let session = linear
        .session(&scene.session)
        .expect("the session is there");
    let there: Vec<_> = session
        .activities
        .iter()
        .map(|it| (it.id.clone(), it.content.clone()))
        .collect();
    assert_eq!(there, posted);
    assert_eq!(session.status(), "error");
}

#[tokio::test]
async fn a_question_with_options_is_one_to_pick_from_and_an_answer_is_plain_text() {
    let mut schemas = vec![schema::embedded()];
    schemas.extend(schema::found().expect("a schema"));
    for schema in schemas {
        let scene = Scene::against(schema).await;
        let question = Activity::Elicitation {
            question: "Shall I begin?".into(),
            options: vec!["approve".into(), "cancel".into()],
        };
        let session = scene.session.as_str().into();
        for _ in 0..2 {
            let said = scene.client.say(ID, &session, &question).await;
            said.expect("asked, and the second time it is a success");
        }
        let mut linear = scene.linear();
        let there = linear.session(&scene.session).expect("the session");
        assert_eq!(there.status(), "awaitingInput");
        let asked = there.question().expect("a question");
        let options: Vec<_> = asked.options.iter().map(|it| it.value.as_str()).collect();
        assert_eq!(options, ["approve", "cancel"]);
        linear
            .pick(&scene.session, "reject", noon())
            .expect_err("that is not offered");
        let picked = linear.pick(&scene.session, "approve", noon());
        let body: Value = serde_json::from_slice(&picked.expect("picked").body).expect("JSON");
        assert_eq!(
            (&body["action"], &body["agentActivity"]["content"]),
            (
                &json!("prompted"),
                &json!({ "type": "prompt", "body": "approve" })
            )
        );
        let there = linear.session(&scene.session).expect("the session");
        assert_eq!((there.status(), there.question()), ("active", None));
    }
}

#[tokio::test]
async fn saying_it_again_under_the_same_id_says_it_once() {
    let scene = Scene::new().await;
    let session = scene.session.as_str().into();
    for _ in 0..3 {
        let activity = Activity::Response("All is merged.".into());
        scene
            .client
            .say(ID, &session, &activity)
            .await
            .expect("a repeat is a success");
    }
    assert_eq!(
        scene.said(),
        [("response".to_owned(), "All is merged.".to_owned())]
    );
    assert_eq!(scene.linear().refused_duplicates(), 2);
}

#[tokio::test]
async fn the_plan_is_replaced_whole() {
    let scene = Scene::new().await;
    let session = scene.session.as_str().into();
    let item = |content: &str, status| PlanItem {
        content: content.into(),
        status,
    };
    let before = [
        item("api", PlanStatus::Pending),
        item("web", PlanStatus::Canceled),
    ];
    let after = [
        item("api", PlanStatus::InProgress),
        item("docs", PlanStatus::Completed),
    ];
    scene
        .client
        .show_plan(&session, &before)
        .await
        .expect("shown");
    scene
        .client
        .show_plan(&session, &after)
        .await
        .expect("shown");
    let expected = json!([
        { "content": "api", "status": "inProgress" },
        { "content": "docs", "status": "completed" },
    ]);
    let linear = scene.linear();
    assert_eq!(
        linear
            .session(&scene.session)
            .expect("the session is there")
            .plan,
        Some(expected)
    );
}

#[tokio::test]
async fn links_add_up_and_repeat_without_harm() {
    let scene = Scene::new().await;
    let session = scene.session.as_str().into();
    let links = [
        ("api", "https://example.com/1"),
        ("web", "https://example.com/2"),
    ];
    for (label, url) in [links[0], links[1], links[1]] {
        scene
            .client
            .link(&session, label, url)
            .await
            .expect("linked");
    }
    let expected = links.map(|(label, url)| (label.to_owned(), url.to_owned()));
    assert_eq!(
        scene
            .linear()
            .session(&scene.session)
            .expect("the session is there")
            .links,
        expected
    );
}

#[tokio::test]
async fn an_issue_never_moves_backwards() {
    let table = [
        // Two states are `started`: the one with the lower position is the first.
        ("backlog", Stage::Started, "In Progress"),
        ("unstarted", Stage::Started, "In Progress"),
        ("started", Stage::Started, "In Progress"),
        ("completed", Stage::Started, "Done"),
        ("canceled", Stage::Started, "Canceled"),
        ("duplicate", Stage::Started, "Duplicate"),
        ("backlog", Stage::Completed, "Done"),
        ("unstarted", Stage::Completed, "Done"),
        ("started", Stage::Completed, "Done"),
        ("completed", Stage::Completed, "Done"),
        ("canceled", Stage::Completed, "Canceled"),
        ("duplicate", Stage::Completed, "Duplicate"),
    ];
    let scene = Scene::new().await;
    for (from, stage, to) in table {
        scene
            .linear()
            .move_to(&scene.issue, from, noon())
            .expect("a state of the team");
        let before = scene.state();
        scene
            .client
            .set_stage(&scene.issue.as_str().into(), stage)
            .await
            .expect("moved");
        assert_eq!(scene.state(), to, "from {from} to {stage}");
        let last = scene.linear().calls().last().cloned();
        let expected = if before == to {
            "IssueState"
        } else {
            "IssueSetState"
        };
        assert_eq!(last.as_deref(), Some(expected), "from {from} to {stage}");
    }
}

#[tokio::test]
async fn a_person_who_moved_it_on_within_the_stage_is_left_alone() {
    let scene = Scene::new().await;
    let review = {
        let linear = scene.linear();
        let issue = linear.issue(&scene.issue).expect("the issue is there");
        issue
            .team
            .states
            .iter()
            .find(|it| it.name == "In Review")
            .expect("a state")
            .id
            .clone()
    };
    scene
        .linear()
        .set_state(&scene.issue, &review)
        .expect("a state of the team");
    scene
        .client
        .set_stage(&scene.issue.as_str().into(), Stage::Started)
        .await
        .expect("left alone");
    assert_eq!(scene.state(), "In Review");
}

#[tokio::test]
async fn the_viewer_is_who_the_token_belongs_to() {
    let scene = Scene::new().await;
    let expected = Viewer {
        id: world::linear::APP_USER.into(),
        name: "Cyrus".into(),
        organization: "Acme".into(),
    };
    assert_eq!(scene.client.viewer().await, Ok(expected));
}

#[tokio::test]
async fn a_personal_key_goes_without_bearer() {
    let scene = Scene::new().await;
    scene.linear().access.accept("lin_api_of_the_test");
    let client = client_of(&scene.server, given("lin_api_of_the_test"));
    client.viewer().await.expect("the key is good");
}
