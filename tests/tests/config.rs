//! The configuration, as its authors meet it: what loads, what is said about
//! mistakes, what beats what, and which rules an issue falls under.

#[path = "config/mistakes.rs"]
mod mistakes;
#[path = "config/routing.rs"]
mod routing;
#[path = "config/setting.rs"]
mod setting;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use shared::config::{self, Env, Loaded, StorePlace};
use shared::issue::{MergeMethod, MergeMode, Planning, Strategy, Verbosity};

const CONTRACT: &str = include_str!("../fixtures/config/contract.json");
const CYRUS: &str = include_str!("../fixtures/config/cyrus.json");

#[test]
fn every_key_of_ours_arrives() {
    let Loaded {
        settings, warnings, ..
    } = load(CONTRACT, &[]).expect("a good configuration");
    assert_eq!(warnings, Vec::<String>::new());

    let codegen = settings.codegen.as_ref().expect("a section");
    assert_eq!(codegen.org_id.as_deref(), Some("123"));
    assert_eq!(codegen.api_url, "https://api.codegen.com");
    assert_eq!(settings.strategy, Strategy::HybridParallel);
    assert_eq!(settings.costs.per_task_max, Some(1.5));
    assert_eq!(settings.costs.per_day_max, Some(40.0));
    assert_eq!(settings.costs.per_issue_max, Some(8.0));
    assert_eq!(settings.costs.per_run, 0.35);
    assert!(settings.features.parallel_execution && settings.features.use_mcp_servers);
    assert!(!settings.features.enable_tracing);
    assert_eq!(settings.planning.mode, Planning::Always);
    assert_eq!(
        (settings.planning.tasks_max, settings.planning.sub_issues),
        (12, false)
    );
    assert_eq!(settings.limits.parallel_max, 7);
    assert_eq!(settings.limits.attempts_max, 4);
    assert_eq!(settings.limits.task_timeout_seconds, 90);
    assert_eq!(settings.runner.concurrency, 3);
    assert_eq!(settings.runner.heartbeat, Duration::from_secs(20));
    assert_eq!(settings.runner.agent_env, ["CARGO_HOME"]);
    assert_eq!(settings.verbosity, Verbosity::Verbose);

    let repository = &settings.repositories[0];
    assert_eq!(repository.path, Path::new("/home/ann/src/shop"));
    assert_eq!(
        repository.workspace_dir,
        Path::new("/home/ann/worktrees/shop")
    );
    assert_eq!(repository.slug.as_deref(), Some("acme/shop"));
    assert_eq!(
        (repository.merge, repository.method),
        (MergeMode::Auto, MergeMethod::Rebase)
    );
    assert_eq!(repository.required_checks, ["build", "test"]);
    assert_eq!(repository.check_grace_seconds, 30);
}

#[test]
fn without_our_keys_the_defaults_hold() {
    let bare = repository(json!({}));
    let settings = load(&bare, &[]).expect("a good configuration").settings;
    assert_eq!(settings.strategy, Strategy::LocalOnly);
    assert_eq!(settings.planning.mode, Planning::Labelled);
    assert!(settings.codegen.is_none());
    let costs = settings.costs;
    assert_eq!(
        (costs.per_task_max, costs.per_issue_max, costs.per_day_max),
        (None, None, None)
    );
    assert_eq!(costs.per_run, 0.40);
    assert_eq!(
        (settings.planning.tasks_max, settings.planning.sub_issues),
        (20, true)
    );
    let limits = settings.limits;
    assert_eq!((limits.parallel_max, limits.attempts_max), (10, 3));
    assert_eq!(limits.task_timeout_seconds, 120 * 60);
    assert_eq!(settings.runner.concurrency, 2);
    assert_eq!(settings.runner.heartbeat, Duration::from_secs(30));
    assert!(settings.runner.programs.is_empty(), "their own names hold");
    assert_eq!(settings.verbosity, Verbosity::Normal);
    assert_eq!(
        settings.store,
        StorePlace::Sqlite("/home/ann/.cyrus/cyrus.db".into())
    );
    assert_eq!(settings.listen.to_string(), "127.0.0.1:3456");
    assert_eq!(settings.poll, Duration::from_secs(10));
    assert_eq!(settings.linear.api_url, "https://api.linear.app/graphql");
    assert_eq!(settings.github.api_url, "https://api.github.com");
    let repository = &settings.repositories[0];
    assert_eq!(
        (repository.merge, repository.method),
        (MergeMode::Manual, MergeMethod::Squash)
    );
    assert_eq!(repository.check_grace_seconds, 60);

    let with_section = with(json!({ "codegen": {} }));
    let settings = load(&with_section, &[])
        .expect("a good configuration")
        .settings;
    assert_eq!(settings.strategy, Strategy::HybridSmart);
    assert_eq!(settings.planning.mode, Planning::Auto);
    let costs = settings.costs;
    assert_eq!(
        (costs.per_task_max, costs.per_issue_max, costs.per_day_max),
        (Some(1.0), Some(10.0), Some(50.0))
    );
}

#[test]
fn a_config_of_cyrus_loads_unchanged() {
    let Loaded {
        settings, warnings, ..
    } = load(CYRUS, &[]).expect("a good configuration");
    assert_eq!(
        warnings,
        [
            "`linearWorkspaceSlug` in config.json is deprecated: write it into `linearWorkspaces` as `linearWorkspaceSlug` of its workspace",
            "`defaultModel` in config.json is deprecated: use `claudeDefaultModel`",
            "`defaultFallbackModel` in config.json is deprecated: use `claudeDefaultFallbackModel`",
            "`defaultAllowedTools` in config.json is deprecated: use `linearAllowedTools`",
            "`repositories[].linearToken` in config.json is deprecated: it belongs into `linearWorkspaces`, from where it is read if it stands there",
            "`repositories[].linearRefreshToken` in config.json is deprecated: it belongs into `linearWorkspaces`, from where it is read if it stands there",
            "`repositories[].linearWorkspaceName` in config.json is deprecated: it belongs into `linearWorkspaces`, from where it is read if it stands there",
            "`userAccessControl` in config.json: this version does not restrict who may start work; Linear does, by who may delegate issues to the app",
        ]
    );
    assert_eq!(settings.strategy, Strategy::LocalOnly);
    assert_eq!(settings.planning.mode, Planning::Labelled);
    let workspace = &settings.linear.workspaces["workspace-1"];
    assert_eq!(settings.linear.workspaces.len(), 1);
    assert_eq!(workspace.name.as_deref(), Some("Acme"));
    assert!(workspace.token.is_some() && workspace.refresh_token.is_some());
    assert!(settings.linear.token().is_some());
}

#[test]
fn an_organisation_that_is_no_number_is_kept() {
    for (value, expected) in [
        (json!("acme"), "acme"),
        (json!("42"), "42"),
        (json!(42), "42"),
    ] {
        let settings = load(&with(json!({ "codegen": { "orgId": value } })), &[]);
        let codegen = settings
            .expect("no error")
            .settings
            .codegen
            .expect("a section");
        assert_eq!(codegen.org_id.as_deref(), Some(expected));
    }
}

#[test]
fn a_variable_beats_the_file() {
    let variables = [
        ("CYRUS_STRATEGY", "cloud-only"),
        ("CYRUS_MAX_COST_PER_TASK", "3.5"),
        ("CYRUS_MAX_COST_PER_ISSUE", "30"),
        ("CYRUS_MAX_COST_PER_DAY", "300"),
        ("CYRUS_STORE", "sqlite:~/store.db"),
        ("CYRUS_LISTEN", "127.0.0.1:4000"),
        ("CYRUS_SERVER_PORT", "5000"),
        ("CYRUS_PUBLIC_URL", "https://cyrus.example.com/"),
        ("CYRUS_BASE_URL", "https://older.example.com"),
        ("CYRUS_POLL_SECONDS", "0.5"),
        ("CODEGEN_ORG_ID", "77"),
        ("CODEGEN_API_URL", "http://127.0.0.1:9/"),
        ("LINEAR_API_URL", "http://127.0.0.1:9/graphql"),
        ("GITHUB_API_URL", "http://127.0.0.1:9/api/v3"),
        ("CLAUDE_BIN", "~/bin/claude"),
    ];
    let settings = load(CONTRACT, &variables)
        .expect("a good configuration")
        .settings;
    assert_eq!(settings.strategy, Strategy::CloudOnly);
    let costs = settings.costs;
    assert_eq!(
        (costs.per_task_max, costs.per_issue_max, costs.per_day_max),
        (Some(3.5), Some(30.0), Some(300.0))
    );
    assert_eq!(
        settings.store,
        StorePlace::Sqlite("/home/ann/store.db".into())
    );
    assert_eq!(settings.listen.port(), 4000);
    assert_eq!(
        settings.public_url.as_deref(),
        Some("https://cyrus.example.com")
    );
    assert_eq!(settings.poll, Duration::from_millis(500));
    let codegen = settings.codegen.expect("a section");
    assert_eq!(codegen.org_id.as_deref(), Some("77"));
    assert_eq!(codegen.api_url, "http://127.0.0.1:9");
    assert_eq!(settings.linear.api_url, "http://127.0.0.1:9/graphql");
    assert_eq!(settings.github.api_url, "http://127.0.0.1:9/api/v3");
    assert_eq!(
        settings.runner.programs["CLAUDE_BIN"],
        Path::new("/home/ann/bin/claude")
    );

    let older = [
        ("CYRUS_SERVER_PORT", "5000"),
        ("CYRUS_BASE_URL", "https://older.example.com"),
    ];
    let settings = load(CONTRACT, &older)
        .expect("a good configuration")
        .settings;
    assert_eq!(settings.listen.to_string(), "127.0.0.1:5000");
    assert_eq!(
        settings.public_url.as_deref(),
        Some("https://older.example.com")
    );
}

#[test]
fn of_two_limits_in_the_file_the_lower_holds() {
    for (codegen, limits, expected) in [(5.0, 2.0, 2.0), (2.0, 5.0, 2.0)] {
        let text = with(json!({
            "codegen": { "maxCostPerDay": codegen }, "limits": { "maxCostPerDay": limits },
        }));
        let settings = load(&text, &[]).expect("a good configuration").settings;
        assert_eq!(settings.costs.per_day_max, Some(expected));
    }
    let text = with(json!({ "limits": { "maxCostPerTask": 0.25 } }));
    let settings = load(&text, &[]).expect("a good configuration").settings;
    assert_eq!(settings.costs.per_task_max, Some(0.25));
    assert_eq!(settings.costs.per_run, 0.25);
}

#[test]
fn the_place_is_the_flag_then_the_variables_then_the_home() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, per_task: f64| {
        let path = folder.path().join(name);
        let text = with(json!({ "codegen": { "maxCostPerTask": per_task } }));
        std::fs::write(&path, text).expect("a file");
        path
    };
    let flag = file("flag.json", 1.0);
    let variable = file("variable.json", 2.0);
    let text = with(json!({ "codegen": { "maxCostPerTask": 3.0 } }));
    let home = folder.path().to_string_lossy().into_owned();
    let cost = |env: &Env, config: Option<&Path>| {
        let settings = config::load(env, None, config)
            .expect("a good configuration")
            .settings;
        settings.costs.per_task_max
    };
    let mut env: Env = [("CYRUS_HOME", home.as_str())].into_iter().collect();
    let nothing = config::load(&env, None, None).expect("no file is no error");
    assert_eq!(nothing.settings.repositories.len(), 0);
    assert_eq!(
        nothing.warnings,
        [format!(
            "there is no {home}/config.json: no repository is configured"
        )]
    );

    file("config.json", 4.0);
    assert_eq!(cost(&env, None), Some(4.0));
    env.0.insert("CYRUS_CONFIG_JSON".into(), text);
    assert_eq!(cost(&env, None), Some(3.0));
    env.0.insert(
        "CYRUS_CONFIG".into(),
        variable.to_string_lossy().into_owned(),
    );
    assert_eq!(cost(&env, None), Some(2.0));
    assert_eq!(cost(&env, Some(&flag)), Some(1.0));

    let absent = folder.path().join("absent.json");
    let error = config::load(&env, None, Some(&absent)).expect_err("it was asked for");
    assert!(
        error.to_string().contains("absent.json: cannot be read"),
        "{error}"
    );
    let homeless = config::load(&Env::default(), None, None).expect_err("no home");
    let expected = "`CYRUS_HOME` in the environment: is not set, nor is HOME: say where the home folder is, by it or by `--home`";
    assert_eq!(homeless.to_string(), expected);
}

#[test]
fn a_secret_may_lie_in_a_file_and_is_never_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("token"), "file-secret\n").expect("a file");
    let by_variable = format!("file:{}", folder.path().join("token").display());
    let secrets = [
        ("LINEAR_API_TOKEN", by_variable.as_str()),
        ("LINEAR_WEBHOOK_SECRET", "webhook-secret"),
        ("LINEAR_CLIENT_ID", "client"),
        ("LINEAR_CLIENT_SECRET", "client-secret"),
        ("GITHUB_TOKEN", "github-secret"),
        ("GITHUB_WEBHOOK_SECRET", "github-webhook-secret"),
        ("GITHUB_APP_ID", "1"),
        ("GITHUB_APP_INSTALLATION_ID", "2"),
        ("GITHUB_APP_PRIVATE_KEY", "key-secret"),
        ("CODEGEN_WEBHOOK_SECRET", "codegen-webhook-secret"),
        ("CYRUS_API_TOKEN", "api-secret"),
        ("CYRUS_RUNNER_TOKEN", "runner-secret"),
    ];
    let env: Env = secrets.into_iter().collect();
    assert!(!format!("{env:?}").contains("secret\""), "{env:?}");
    let text = CONTRACT.replace("codegen-secret", "file:token");
    let loaded = config::parse(
        &text,
        "config.json",
        Some(folder.path()),
        &env,
        Path::new("/home/ann/.cyrus"),
    );
    let loaded = loaded.expect("a good configuration");
    let exposed = |secret: Option<&config::Secret>| {
        use secrecy::ExposeSecret;
        secret.map(|it| it.0.expose_secret().to_owned())
    };
    let settings = &loaded.settings;
    assert_eq!(
        exposed(settings.linear.token()).as_deref(),
        Some("file-secret")
    );
    let codegen = settings.codegen.as_ref().expect("a section");
    assert_eq!(
        exposed(codegen.token.as_ref()).as_deref(),
        Some("file-secret")
    );
    assert!(settings.linear.client.is_some() && settings.github.app.is_some());

    let shown = format!("{loaded:#?}");
    assert!(shown.contains("***"), "{shown}");
    for word in shown.split(|c: char| !(c.is_alphanumeric() || c == '-')) {
        assert!(!word.ends_with("-secret"), "{word} in {shown}");
    }

    let missing = load(CONTRACT, &[("GITHUB_TOKEN", "file:/nowhere/token")]).expect_err("no file");
    let missing = missing.to_string();
    assert!(
        missing.starts_with("`GITHUB_TOKEN` in the environment: names `/nowhere/token`: "),
        "{missing}"
    );
}

#[test]
fn the_clone_tells_where_it_comes_from() {
    let clone = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(clone.path().join(".git")).expect("a folder");
    let config = "[core]\n\tbare = false\n[remote \"origin\"]\n\turl = git@github.com:acme/shop.git\n\tfetch = +refs\n";
    std::fs::write(clone.path().join(".git/config"), config).expect("a file");
    let path = clone.path().to_string_lossy();
    let text = repository(json!({ "githubUrl": null, "repositoryPath": path }));
    let settings = load(&text, &[]).expect("a good configuration").settings;
    assert_eq!(settings.repositories[0].slug.as_deref(), Some("acme/shop"));
}

/// A configuration of one repository with these keys beside the required ones.
fn repository(keys: Value) -> String {
    let mut entry = json!({ "id": "shop", "name": "shop", "repositoryPath": "/nowhere",
                            "baseBranch": "main", "githubUrl": "https://github.com/acme/shop" });
    merge(&mut entry, keys);
    json!({ "repositories": [entry] }).to_string()
}

/// A configuration without repositories and with these keys.
fn with(keys: Value) -> String {
    let mut document = json!({ "repositories": [] });
    merge(&mut document, keys);
    document.to_string()
}

fn merge(object: &mut Value, keys: Value) {
    if let (Some(object), Value::Object(keys)) = (object.as_object_mut(), keys) {
        object.extend(keys);
    }
}

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, config::ConfigError> {
    let variables = [("HOME", "/home/ann")].iter().chain(variables).copied();
    let env: Env = variables.collect();
    config::parse(
        text,
        "config.json",
        None,
        &env,
        Path::new("/home/ann/.cyrus"),
    )
}
