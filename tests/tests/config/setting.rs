//! What `cyrus config set` takes, what it beats, and what it refuses.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use shared::config::{Changed, Configuration, Env, Live, Refused, Settings};
use shared::store::memory::MemoryLog;
use shared::wire::{self, Store};

const FILE: &str = r#"{"repositories":[],
    "codegen":{"orgId":1,"maxCostPerDay":40,"maxCostPerTask":2,"costPerRun":0.5},
    "limits":{"maxCostPerDay":30}}"#;

struct Desk {
    configuration: Configuration,
    live: Live,
}

impl Desk {
    async fn with(variables: &[(&str, &str)]) -> Self {
        let store = Store::from(Arc::new(MemoryLog::default()));
        let given = [("HOME", "/home/ann"), ("CYRUS_CONFIG_JSON", FILE)];
        let env = Env::from_iter(given.iter().chain(variables).copied());
        let home = Some(Path::new("/nowhere"));
        let configuration = wire::configuration(&env, home, None, &store);
        let (live, _) = Live::load(configuration.clone()).await.expect("settings");
        Self {
            configuration,
            live,
        }
    }

    async fn set(&self, key: &str, value: Value) -> Result<Changed, Refused> {
        self.configuration.set(key, Some(value)).await
    }

    async fn now(&self) -> Arc<Settings> {
        self.live.renewed().await
    }
}

#[tokio::test]
async fn a_limit_that_is_set_beats_variable_file_and_its_twin() {
    for key in ["limits.maxCostPerDay", "codegen.maxCostPerDay"] {
        let desk = Desk::with(&[("CYRUS_MAX_COST_PER_DAY", "35")]).await;
        assert_eq!(desk.now().await.costs.per_day_max, Some(35.0));
        // More than the file allows under either name, and less.
        for usd in [70.0, 5.0] {
            desk.set(key, json!(usd)).await.expect("set");
            assert_eq!(desk.now().await.costs.per_day_max, Some(usd), "{key}");
        }
        let unset = desk.configuration.set(key, None).await;
        unset.expect("taken back");
        assert_eq!(desk.now().await.costs.per_day_max, Some(35.0));
    }
}

#[tokio::test]
async fn strategy_and_approval_hold_at_once() {
    let desk = Desk::with(&[]).await;
    let words = [
        ("codegen.strategy", "cost-optimized"),
        ("planning.approval", "always"),
        ("planning.approval", "over:2.5"),
        ("planning.approval", "never"),
    ];
    for (key, word) in words {
        let changed = desk.set(key, json!(word)).await.expect(word);
        assert_eq!(changed.entry.value, json!(word));
        assert!(!changed.at_next_start);
        let rules = desk.now().await.rules();
        let holds = [rules.strategy.word().to_owned(), rules.approval.to_string()];
        assert!(holds.contains(&word.to_owned()), "{word}: {holds:?}");
    }
}

#[tokio::test]
async fn what_makes_no_settings_is_refused_and_changes_nothing() {
    let desk = Desk::with(&[]).await;
    let before = desk.now().await;
    let money = "must be a number from 0 to 100000";
    for (key, value, expected) in [
        ("limits.maxCostPerDay", json!(-1), money),
        ("limits.maxCostPerDay", json!("NaN"), money),
        ("codegen.maxCostPerTask", json!(1e9), money),
        ("codegen.maxCostPerIssue", json!("ten"), money),
        ("codegen.costPerRun", json!(-0.5), money),
        (
            "codegen.costPerRun",
            json!(2.1),
            "above what a task may cost",
        ),
        (
            "limits.maxCostPerTask",
            json!(0.4),
            "above what a task may cost",
        ),
        (
            "codegen.maxCostPerTask",
            json!(0.4),
            "above what a task may cost",
        ),
        ("codegen.strategy", json!("cheapest"), "`cost-optimized`"),
        ("planning.approval", json!("over:-1"), "`over:USD`"),
        ("planning.approval", json!("over:NaN"), "`over:USD`"),
        ("planning.approval", json!("sometimes"), "`never`, `always`"),
        ("planning.approval", json!(5), "`never`, `always`"),
    ] {
        let refused = desk.set(key, value.clone()).await;
        let why = refused.expect_err(expected).to_string();
        assert!(why.contains(expected), "{key} = {value}: {why}");
    }
    assert_eq!(desk.now().await.rules(), before.rules());
}

#[tokio::test]
async fn a_run_may_not_cost_more_than_a_task_whoever_says_so() {
    let store = Store::from(Arc::new(MemoryLog::default()));
    let given = [
        ("HOME", "/home/ann"),
        ("CYRUS_CONFIG_JSON", FILE),
        ("CYRUS_MAX_COST_PER_TASK", "0.3"),
    ];
    let configuration = wire::configuration(
        &Env::from_iter(given),
        Some(Path::new("/nowhere")),
        None,
        &store,
    );
    let error = Live::load(configuration).await.err().expect("refused");
    let why = error.to_string();
    assert!(why.contains("`maxCostPerTask`, 0.3"), "{why}");
}
