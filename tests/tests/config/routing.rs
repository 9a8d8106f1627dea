//! Which repository and which rules an issue falls under.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared::config::Settings;
use shared::issue::{
    Brief, IssueId, MergeMethod, MergeMode, Planning, Policy, Spec, Strategy, SubIssue, TaskKind,
    Verbosity,
};

use super::{CONTRACT, CYRUS, load, merge, repository};

#[test]
fn an_issue_goes_to_its_repository() {
    let settings = routed();
    let check = |brief: Brief, expected: Result<(&str, &str), &str>| {
        let got = settings
            .policy(&brief)
            .map(|it| (it.repository.id, it.repository.base_branch));
        let expected = expected.map(|(id, base)| (id.to_owned(), base.to_owned()));
        assert_eq!(got, expected.map_err(str::to_owned), "{brief:?}");
    };
    let described = |text: &str| Brief {
        description: text.into(),
        ..brief("ENG-1")
    };

    check(brief("ENG-1"), Ok(("shop", "main")));
    check(
        Brief {
            project: Some("Handbook".into()),
            ..brief("ENG-1")
        },
        Ok(("docs", "trunk")),
    );
    check(
        Brief {
            labels: vec!["DOCS".into()],
            ..brief("ENG-1")
        },
        Ok(("docs", "trunk")),
    );
    check(
        Brief {
            team_key: String::new(),
            ..brief("doc-9")
        },
        Ok(("docs", "trunk")),
    );
    check(brief("OPS-1"), Ok(("misc", "main")));
    check(brief("OLD-1"), Ok(("misc", "main")));
    check(described("see [repo=docs]"), Ok(("docs", "trunk")));
    check(
        described("see \\[repo=Docs#feature/x\\] please"),
        Ok(("docs", "feature/x")),
    );
    check(
        described("[repo=https://github.com/acme/docs]"),
        Ok(("docs", "trunk")),
    );
    check(described("repos=acme/docs#v1.2"), Ok(("docs", "v1.2")));
    check(
        described("[repos=docs,shop]"),
        Err(
            "the description names several repositories (`docs,shop`), but an issue is worked on in one: name one, and make sub-issues for the others",
        ),
    );
    check(
        described("[repo=other]"),
        Err(
            "the description names the repository `other`, which is not configured; there are `shop`, `docs`, `misc`",
        ),
    );
    check(
        described("[repo=old]"),
        Err(
            "the description names the repository `old`, which is not configured; there are `shop`, `docs`, `misc`",
        ),
    );
    for bad in [
        "--upload-pack=x",
        "a..b",
        "a b",
        "",
        "/a",
        "a.lock",
        "a\u{7}",
    ] {
        let shown = bad.trim();
        check(
            described(&format!("[repo=docs#{bad}]")),
            Err(&format!(
                "the description names the branch `{shown}`, which is none: write `[repo=NAME#BRANCH]`"
            )),
        );
    }
    check(
        Brief {
            labels: vec!["docs".into(), "storefront".into()],
            ..brief("ENG-1")
        },
        Err(
            "the labels ask for several repositories (`shop`, `docs`), but an issue is worked on in one: remove labels, or write `[repo=NAME]` into the description",
        ),
    );
}

#[test]
fn an_issue_that_nobody_serves_is_told_so() {
    let policy = |text: &str| {
        load(text, &[])
            .expect("a configuration")
            .settings
            .policy(&brief("ENG-1"))
    };
    assert_eq!(
        policy(r#"{"repositories":[]}"#).expect_err("none"),
        "no repository is configured: add one to `repositories` in config.json"
    );
    // A single one serves everything.
    assert!(policy(&repository(json!({ "teamKeys": ["OPS"] }))).is_ok());
    let two = |first: Value, second: Value| json!({ "repositories": [first, second] }).to_string();
    let entry = |id: &str, team: &str| {
        json!({ "id": id, "name": id, "repositoryPath": "/nowhere", "baseBranch": "main",
                "githubUrl": "https://github.com/acme/x", "teamKeys": [team] })
    };
    assert_eq!(
        policy(&two(entry("a", "A"), entry("b", "B"))).expect_err("none"),
        "no repository serves team `ENG`: add it to the `teamKeys` of a repository in config.json, or write `[repo=NAME]` into the description; there are `a`, `b`"
    );
    assert_eq!(
        policy(&repository(json!({ "githubUrl": null }))).expect_err("no forge"),
        "repository `shop` has no `githubUrl`, and without GitHub it is merged in its clone at /nowhere, which is not on this machine: add the key, or clone it there (config.json)"
    );
}

#[test]
fn labels_choose_the_mode() {
    let settings = load(CYRUS, &[]).expect("a configuration").settings;
    for (labels, mode, bug) in [
        (&[][..], None, false),
        (&["unknown"][..], None, false),
        (&["orchestrator"][..], Some(TaskKind::Orchestrator), false),
        (&["epic"][..], Some(TaskKind::Orchestrator), false),
        (
            &["graphite", "Epic"][..],
            Some(TaskKind::Orchestrator),
            false,
        ),
        (&["stack"][..], Some(TaskKind::Orchestrator), false),
        (&["FEATURE"][..], Some(TaskKind::Builder), false),
        (&["prd"][..], Some(TaskKind::Scoper), false),
        (
            &["Epic", "PRD", "Feature", "Regression"][..],
            Some(TaskKind::Debugger),
            false,
        ),
        (
            &["orchestrator", "Feature"][..],
            Some(TaskKind::Builder),
            false,
        ),
        (&["bug"][..], Some(TaskKind::Debugger), true),
        (&["builder"][..], None, false),
    ] {
        let labels: Vec<String> = labels.iter().map(|it| (*it).to_owned()).collect();
        let policy = settings.policy(&Brief {
            labels: labels.clone(),
            ..brief("ENG-1")
        });
        let Policy {
            mode: got,
            bug: is_bug,
            ..
        } = policy.expect("a policy");
        assert_eq!((got, is_bug), (mode, bug), "{labels:?}");
    }
}

#[test]
fn sub_issues_are_of_the_kind_that_their_labels_ask_for() {
    let part = |number: u32, labels: &[&str]| SubIssue {
        id: IssueId(number.to_string()),
        identifier: format!("ENG-{number}"),
        title: "A part".into(),
        description: String::new(),
        state: "unstarted".into(),
        labels: labels.iter().map(|it| (*it).to_owned()).collect(),
        blocked_by: Vec::new(),
    };
    let brief = Brief {
        sub_issues: vec![
            part(1, &["Bug"]),
            part(2, &["PRD"]),
            part(3, &["orchestrator"]),
            part(4, &["web"]),
        ],
        ..brief("ENG-42")
    };
    let policy = load(CYRUS, &[]).expect("a configuration").settings;
    let kinds = policy.policy(&brief).expect("a policy").sub_issues;
    let expected = [
        (IssueId::from("1"), TaskKind::Debugger),
        (IssueId::from("2"), TaskKind::Scoper),
    ];
    assert_eq!(kinds, Some(BTreeMap::from(expected)));
    // Switched off, they are not looked at.
    let off = CYRUS.replacen('{', "{ \"planning\": { \"subIssues\": false },", 1);
    let policy = load(&off, &[]).expect("a configuration").settings;
    assert_eq!(policy.policy(&brief).expect("a policy").sub_issues, None);
}

#[test]
fn agents_get_the_nearest_tools_and_models() {
    let agent = |text: &str, issue: &str, label: Option<&str>| {
        let labels = label.into_iter().map(str::to_owned).collect();
        let settings = load(text, &[]).expect("a configuration").settings;
        let policy = settings.policy(&Brief {
            labels,
            ..brief(issue)
        });
        let policy = policy.expect("a policy");
        policy.agent_for(&spec("main", policy.mode.unwrap_or(TaskKind::Builder)))
    };
    // The repository's own keys.
    let docs = agent(CYRUS, "DOC-1", None);
    assert_eq!(docs.allowed_tools, ["Read", "Edit", "mcp__linear"]);
    assert_eq!(docs.disallowed_tools, ["Bash"]);
    assert_eq!(docs.mcp, ["/srv/docs/.mcp.json"]);
    assert_eq!(
        (docs.model.as_deref(), docs.fallback_model.as_deref()),
        (Some("haiku"), Some("sonnet"))
    );
    // What holds everywhere.
    let shop = agent(CYRUS, "ENG-1", None);
    assert_eq!(
        shop.allowed_tools,
        ["Read", "Edit", "Bash(cargo:*)", "mcp__linear"]
    );
    assert_eq!(shop.disallowed_tools, ["WebSearch"]);
    assert_eq!(shop.mcp, ["/home/ann/.cyrus/linear.mcp.json"]);
    assert_eq!(
        (shop.model.as_deref(), shop.fallback_model.as_deref()),
        (Some("opus"), Some("sonnet"))
    );
    assert_eq!(
        shop.append_instruction.as_deref(),
        Some("Write in English.")
    );
    // The label's prompt, then the prompt's defaults.
    let builder = agent(CYRUS, "ENG-1", Some("Feature"));
    assert!(!builder.allowed_tools.iter().any(|it| it == "Bash"));
    assert!(builder.allowed_tools.iter().any(|it| it == "Edit(**)"));
    assert_eq!(builder.disallowed_tools, ["Task"]);
    let debugger = agent(CYRUS, "ENG-1", Some("Bug"));
    assert!(debugger.allowed_tools.iter().any(|it| it == "Bash"));
    assert_eq!(debugger.disallowed_tools, ["WebSearch"]);
    let scoper = agent(CYRUS, "ENG-1", Some("PRD"));
    assert!(!scoper.allowed_tools.iter().any(|it| it == "Edit(**)"));
    assert_eq!(scoper.disallowed_tools, ["WebFetch"]);
    // Nobody has said anything: the safe preset, no MCP.
    let bare = agent(&repository(json!({})), "ENG-1", None);
    assert!(bare.allowed_tools.iter().any(|it| it == "Edit(**)"));
    assert!(
        !bare
            .allowed_tools
            .iter()
            .any(|it| it == "Bash" || it == "mcp__linear")
    );
    // Switched off.
    let text = repository(json!({ "mcpConfigPath": ["/a", "/b"] }));
    assert_eq!(agent(&text, "ENG-1", None).mcp, ["/a", "/b"]);
    let mut document: Value = serde_json::from_str(&text).expect("JSON");
    document["codegen"] = json!({ "features": { "useMcpServers": false } });
    assert_eq!(
        agent(&document.to_string(), "ENG-1", None).mcp,
        Vec::<String>::new()
    );
}

#[test]
fn a_planned_task_gets_the_tools_of_its_own_kind() {
    let settings = load(CYRUS, &[]).expect("a configuration").settings;
    let policy = settings.policy(&Brief {
        labels: vec!["Epic".into()],
        ..brief("ENG-1")
    });
    let policy = policy.expect("a policy");
    assert_eq!(policy.mode, Some(TaskKind::Orchestrator));
    let edits = |kind| {
        let agent = policy.agent_for(&spec("api", kind));
        agent.allowed_tools.iter().any(|it| it.starts_with("Edit"))
    };
    assert!(edits(TaskKind::Builder) && edits(TaskKind::Debugger));
    assert!(!edits(TaskKind::Scoper));
}

#[test]
fn the_description_then_the_labels_then_the_configuration_choose_program_and_model() {
    let text = |more: Value| {
        let mut document: Value = serde_json::from_str(&repository(json!({}))).expect("JSON");
        merge(&mut document, more);
        document.to_string()
    };
    let defaults = json!({ "claudeDefaultModel": "opus", "claudeDefaultFallbackModel": "sonnet",
                           "codexDefaultModel": "gpt-5.5" });
    let chosen = |document: &str, description: &str, labels: &[&str]| {
        let settings = load(document, &[]).expect("a configuration").settings;
        let brief = Brief {
            description: description.into(),
            labels: labels.iter().map(|it| (*it).into()).collect(),
            ..brief("ENG-1")
        };
        let agent = settings.policy(&brief).expect("a policy").agent;
        let model = agent.model.unwrap_or_default();
        (
            agent.program,
            model,
            agent.fallback_model.unwrap_or_default(),
        )
    };
    let is = |(program, model, fallback): (String, String, String), expected: [&str; 3]| {
        assert_eq!([program.as_str(), &model, &fallback], expected);
    };
    let plain = text(defaults.clone());
    is(chosen(&plain, "", &[]), ["claude", "opus", "sonnet"]);
    is(chosen(&plain, "", &["Codex"]), ["codex", "gpt-5.5", ""]);
    is(chosen(&plain, "", &["openai"]), ["codex", "gpt-5.5", ""]);
    is(
        chosen(&plain, "", &["haiku"]),
        ["claude", "haiku", "sonnet"],
    );
    is(chosen(&plain, "", &["gpt-5"]), ["codex", "gpt-5", ""]);
    is(
        chosen(&plain, "\\[agent=codex\\]", &["claude"]),
        ["codex", "gpt-5.5", ""],
    );
    is(
        chosen(&plain, "[model=sonnet]", &["codex"]),
        ["claude", "sonnet", "sonnet"],
    );
    is(
        chosen(&plain, "[agent=codex] [model=opus]", &[]),
        ["codex", "gpt-5.5", ""],
    );
    // What is no name does not become an argument.
    is(
        chosen(&plain, "[model=--x]", &[]),
        ["claude", "opus", "sonnet"],
    );
    let mut with_default = defaults;
    with_default["defaultRunner"] = json!("codex");
    let codex = text(with_default);
    is(chosen(&codex, "", &[]), ["codex", "gpt-5.5", ""]);
    is(
        chosen(&codex, "", &["claude"]),
        ["claude", "opus", "sonnet"],
    );
    // One key alone speaks for its program, two for none.
    let by_keys = |variables: &[(&str, &str)]| {
        let settings = load(&plain, variables).expect("a configuration").settings;
        settings
            .policy(&brief("ENG-1"))
            .expect("a policy")
            .agent
            .program
    };
    assert_eq!(by_keys(&[("OPENAI_API_KEY", "k")]), "codex");
    assert_eq!(
        by_keys(&[("OPENAI_API_KEY", "k"), ("ANTHROPIC_API_KEY", "k")]),
        "claude"
    );
}

#[test]
fn a_policy_says_all_that_holds() {
    let settings = load(CONTRACT, &[]).expect("a configuration").settings;
    let policy = settings.policy(&brief("ENG-1")).expect("a policy");
    assert_eq!(policy.repository.slug, "acme/shop");
    assert_eq!(policy.repository.path, "/home/ann/src/shop");
    assert_eq!(policy.planning, Planning::Always);
    assert_eq!(policy.strategy, Strategy::HybridParallel);
    assert_eq!(
        (policy.merge, policy.method),
        (MergeMode::Auto, MergeMethod::Rebase)
    );
    assert_eq!(policy.required_checks, ["build", "test"]);
    assert_eq!(
        (policy.tasks_max, policy.parallel_max, policy.attempts_max),
        (12, 7, 4)
    );
    assert_eq!(
        (policy.task_timeout_seconds, policy.check_grace_seconds),
        (90, 30)
    );
    assert_eq!(
        (
            policy.cost_per_run,
            policy.cost_per_task_max,
            policy.cost_per_issue_max
        ),
        (0.35, Some(1.5), Some(8.0))
    );
    assert_eq!(policy.verbosity, Verbosity::Verbose);

    let text = CONTRACT.replace(
        r#""parallelExecution": true"#,
        r#""parallelExecution": false"#,
    );
    let settings = load(&text, &[]).expect("a configuration").settings;
    assert_eq!(
        settings
            .policy(&brief("ENG-1"))
            .expect("a policy")
            .parallel_max,
        1
    );
}

/// Three that are told apart by everything that can, and one that is switched off.
fn routed() -> Settings {
    let entry = |id: &str, base: &str, keys: Value| {
        let mut entry = json!({ "id": id, "name": id, "repositoryPath": "/nowhere", "baseBranch": base,
                                "githubUrl": format!("https://github.com/acme/{id}") });
        merge(&mut entry, keys);
        entry
    };
    let text = json!({ "repositories": [
        entry("shop", "main", json!({ "teamKeys": ["ENG"], "routingLabels": ["storefront"] })),
        entry("docs", "trunk", json!({ "teamKeys": ["DOC"], "routingLabels": ["docs"], "projectKeys": ["Handbook"] })),
        entry("old", "main", json!({ "teamKeys": ["OLD"], "isActive": false })),
        entry("misc", "main", json!({})),
    ] });
    load(&text.to_string(), &[])
        .expect("a configuration")
        .settings
}

fn brief(identifier: &str) -> Brief {
    let team_key = identifier.split('-').next().unwrap_or_default().to_owned();
    Brief {
        identifier: identifier.into(),
        team_key,
        ..Brief::default()
    }
}

fn spec(id: &str, kind: TaskKind) -> Spec {
    Spec {
        id: id.into(),
        title: String::new(),
        kind,
        prompt: String::new(),
        depends_on: Vec::new(),
        complexity: None,
        requires_isolation: false,
        acceptance: Vec::new(),
        paths: Vec::new(),
        judges: None,
        issue: None,
    }
}
