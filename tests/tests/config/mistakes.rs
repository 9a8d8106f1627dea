//! What is said about mistakes: the key, the place and the remedy.

use serde_json::{Value, json};
use shared::issue::MergeMode;

use super::{CONTRACT, load, repository, with};

#[test]
fn a_mistake_is_told_with_key_place_and_remedy() {
    let check = |keys: Value, expected: &str| {
        let error = load(&with(keys.clone()), &[]).expect_err(expected);
        assert_eq!(error.to_string(), expected, "{keys}");
    };
    check(
        json!({ "codegen": { "strategy": "fast" } }),
        "`codegen.strategy` in config.json: is `fast`, must be `local-only`, `cloud-only`, `hybrid-smart`, `hybrid-parallel` or `cost-optimized`",
    );
    check(
        json!({ "codegen": { "enabled": "yes" } }),
        "`codegen.enabled` in config.json: is a string, must be true or false",
    );
    check(
        json!({ "codegen": { "enabled": false, "strategy": "cloud-only" } }),
        "`codegen.enabled` in config.json: is false, but the strategy `cloud-only` runs everything there: enable it, or choose another strategy",
    );
    check(
        json!({ "codegen": 7 }),
        "`codegen` in config.json: is a number, must be an object",
    );
    check(
        json!({ "codegen": { "maxCostPerDay": -1 } }),
        "`codegen.maxCostPerDay` in config.json: is -1, must be a number from 0 to 100000",
    );
    check(
        json!({ "limits": { "maxCostPerIssue": 1e300 } }),
        &format!(
            "`limits.maxCostPerIssue` in config.json: is {}, must be a number from 0 to 100000",
            1e300
        ),
    );
    check(
        json!({ "codegen": { "maxCostPerTask": 0.5, "costPerRun": 0.6 } }),
        "`codegen.costPerRun` in config.json: is 0.6, above what a task may cost (`maxCostPerTask`, 0.5): lower the one or raise the other",
    );
    check(
        json!({ "codegen": { "maxCostPerTask": 0.3 } }),
        "`codegen.costPerRun` in config.json: is 0.4 (the default), above what a task may cost (`maxCostPerTask`, 0.3): lower the one or raise the other",
    );
    check(
        json!({ "limits": { "maxAttempts": 0 } }),
        "`limits.maxAttempts` in config.json: is 0, must be a whole number from 1 to 100",
    );
    check(
        json!({ "limits": { "maxAttempts": 2.5 } }),
        "`limits.maxAttempts` in config.json: is 2.5, must be a whole number from 1 to 100",
    );
    check(
        json!({ "limits": { "maxAttempts": "three" } }),
        "`limits.maxAttempts` in config.json: is a string, must be a whole number from 1 to 100",
    );
    for wrong in [
        json!("sometimes"),
        json!("over:"),
        json!("over:much"),
        json!("over:-1"),
        json!("over:NaN"),
        json!("over:inf"),
        json!("over:1e300"),
        json!("Always"),
        json!(5),
        json!(true),
    ] {
        check(
            json!({ "planning": { "approval": wrong } }),
            "`planning.approval` in config.json: must be `never`, `always` or `over:USD`, like `over:5`, with a number from 0 to 100000",
        );
    }
    check(
        json!({ "limits": { "maxCostPerDay": "NaN" } }),
        "`limits.maxCostPerDay` in config.json: is a string, must be a number from 0 to 100000",
    );
    check(
        json!({ "codegen": { "costPerRun": -0.1 } }),
        "`codegen.costPerRun` in config.json: is -0.1, must be a number from 0 to 100000",
    );
    check(
        json!({ "planning": { "mode": "labelled" } }),
        "`planning.mode` in config.json: is `labelled`, must be `auto`, `always` or `never`",
    );
    check(
        json!({ "runner": { "agentEnv": ["PATH", "LINEAR_API_TOKEN"] } }),
        "`runner.agentEnv[1]` in config.json: `LINEAR_API_TOKEN` is a secret of Cyrus's own, which no agent may see: remove it",
    );
    check(
        json!({ "linearWorkspaces": { "w": {} } }),
        "`linearWorkspaces.w.linearToken` in config.json: is missing, must be the workspace's access token",
    );
    check(
        json!({ "repositories": {} }),
        "`repositories` in config.json: is an object, must be an array of objects",
    );
    check(
        json!({ "repositories": [{}] }),
        "`repositories[0].repositoryPath` in config.json: is missing, must be a string that is not empty\n\
         `repositories[0].id` in config.json: is missing, must be a string that is not empty\n\
         `repositories[0].name` in config.json: is missing, must be a string that is not empty\n\
         `repositories[0].baseBranch` in config.json: is missing, must be a string that is not empty",
    );

    let check_repository = |keys: Value, expected: &str| {
        let error = load(&repository(keys.clone()), &[]).expect_err(expected);
        assert_eq!(error.to_string(), expected, "{keys}");
    };
    check_repository(
        json!({ "merge": { "mode": "yolo" } }),
        "`repositories[0].merge.mode` in config.json: is `yolo`, must be `auto` or `manual`",
    );
    check_repository(
        json!({ "validate": 3 }),
        "`repositories[0].validate` in config.json: is a number, must be an object",
    );
    check_repository(
        json!({ "githubUrl": "shop" }),
        "`repositories[0].githubUrl` in config.json: must be like `https://github.com/OWNER/NAME`",
    );
    check_repository(
        json!({ "labelPrompts": { "builder": "Feature" } }),
        "`repositories[0].labelPrompts.builder` in config.json: is a string, must be an array of labels or an object with `labels`",
    );

    let error = load("{ \"repositories\": [", &[]).expect_err("no JSON");
    assert!(
        error
            .to_string()
            .starts_with("config.json: is not the JSON it should be: "),
        "{error}"
    );
    let error = load("[]", &[]).expect_err("no object");
    assert_eq!(
        error.to_string(),
        "config.json: is an array, must be an object"
    );
    let error = load("{}", &[]).expect_err("no repositories");
    let expected =
        "`repositories` in config.json: is missing, must be an array of objects (it may be empty)";
    assert_eq!(error.to_string(), expected);
    let twice = json!([
        { "id": "a", "name": "a", "repositoryPath": "/a", "baseBranch": "main" },
        { "id": "a", "name": "b", "repositoryPath": "/b", "baseBranch": "main" },
    ]);
    check(
        json!({ "repositories": twice }),
        "`repositories[1].id` in config.json: `a` is used twice, each repository needs its own",
    );
}

#[test]
fn an_unknown_key_is_told_with_the_nearest_known_one() {
    let check = |text: String, expected: &[&str]| {
        assert_eq!(load(&text, &[]).expect("only warnings").warnings, expected);
    };
    check(
        with(json!({ "limits": { "maxAtempts": 3 } })),
        &[
            "`limits.maxAtempts` in config.json: unknown key, ignored; the nearest known key is `limits.maxAttempts`",
        ],
    );
    check(
        with(json!({ "codgen": { "enabled": true } })),
        &["`codgen` in config.json: unknown key, ignored; the nearest known key is `codegen`"],
    );
    check(
        repository(json!({ "merge": { "metod": "squash" } })),
        &[
            "`repositories[0].merge.metod` in config.json: unknown key, ignored; the nearest known key is `repositories[0].merge.method`",
        ],
    );
    check(with(json!({ "codegen": { "enabled": null } })), &[]);
}

#[test]
fn every_guard_of_a_merge_is_read() {
    let usual = &load(&repository(json!({})), &[])
        .expect("fine")
        .settings
        .repositories[0];
    assert_eq!(usual.merge, MergeMode::Manual);
    assert_eq!(usual.protected_paths, [".github/workflows/**"]);
    assert!(!usual.require_approval && !usual.reviewer && !usual.keep_pulls);
    assert_eq!((usual.repairs_max, usual.commands.len()), (3, 0));
    let asked = json!({
        "merge": { "mode": "auto", "requireApproval": true, "protectedPaths": ["db/**"], "closeOnCancel": false },
        "validate": { "commands": ["make test"], "reviewer": true, "maxRepairs": 1 },
    });
    let loaded = load(&repository(asked), &[]).expect("fine");
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let read = &loaded.settings.repositories[0];
    assert_eq!(read.merge, MergeMode::Auto);
    assert_eq!(read.protected_paths, ["db/**"]);
    assert!(read.require_approval && read.reviewer && read.keep_pulls);
    assert_eq!(
        (read.repairs_max, read.commands.as_slice()),
        (1, &["make test".to_owned()][..])
    );
}

#[test]
fn a_wrong_variable_is_told_by_its_name() {
    for (name, value, expected) in [
        (
            "CYRUS_MAX_COST_PER_DAY",
            "NaN",
            "is NaN, must be a number from 0 to 100000",
        ),
        (
            "CYRUS_MAX_COST_PER_TASK",
            "-1",
            "is -1, must be a number from 0 to 100000",
        ),
        (
            "CYRUS_MAX_COST_PER_ISSUE",
            "inf",
            "is inf, must be a number from 0 to 100000",
        ),
        (
            "CYRUS_MAX_COST_PER_DAY",
            "much",
            "is no number, must be a number from 0 to 100000",
        ),
        (
            "CYRUS_POLL_SECONDS",
            "0",
            "is 0, must be a number from 0.05 to 3600",
        ),
        (
            "CYRUS_LISTEN",
            "here",
            "must be an address and a port, like `127.0.0.1:3456`",
        ),
        (
            "CYRUS_SERVER_PORT",
            "70000",
            "must be a port, a number up to 65535",
        ),
        (
            "CYRUS_STORE",
            "postgres:x",
            "must be `sqlite:PATH` or `dynamodb:TABLE`",
        ),
        (
            "GITHUB_API_URL",
            "github",
            "must be an address that begins with `https://` or `http://`",
        ),
        (
            "CYRUS_LISTEN",
            "0.0.0.0:80",
            "is 0.0.0.0:80, which others can reach, and CYRUS_API_TOKEN is not set: set it, or listen on 127.0.0.1",
        ),
        (
            "CYRUS_STRATEGY",
            "x",
            "is `x`, must be `local-only`, `cloud-only`, `hybrid-smart`, `hybrid-parallel` or `cost-optimized`",
        ),
    ] {
        let error = load(CONTRACT, &[(name, value)]).expect_err(expected);
        assert_eq!(
            error.to_string(),
            format!("`{name}` in the environment: {expected}")
        );
    }
    let open = [
        ("CYRUS_LISTEN", "0.0.0.0:80"),
        ("CYRUS_API_TOKEN", "api-secret"),
    ];
    load(CONTRACT, &open).expect("with a token it may");
}
