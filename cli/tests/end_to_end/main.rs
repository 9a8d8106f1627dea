//! End to end: the real binary, a real git repository, real processes; Linear,
//! GitHub and Codegen are the world's.

mod agents;
mod approval;
mod carry;
mod claude;
mod doctor;
mod fallback;
mod far;
mod merits;
mod money;
mod people;
mod pushed;
mod retry;
mod town;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use world::codegen::{Deed, Order, Part};
use world::dynamo::Emulator;
use world::faults::Trouble;
use world::linear::{NewIssue, sign};
use world::stage::WEBHOOK_SECRET;

use self::town::{Town, is_done, planned_issue, state};

/// How often the service is killed in one story, and how far it gets in between.
const KILLS: usize = 8;
const STEPS_BETWEEN_KILLS: u64 = 9;

/// Codegen's runs: each changes one file of its own.
fn cloud(order: &Order) -> Part {
    // Where the plan says it belongs.
    let listed = order.prompt.split_once("files that match:\n- ");
    let listed = listed.and_then(|(_, rest)| rest.lines().next());
    let path = listed.map_or_else(|| format!("cloud/{}.txt", order.task()), str::to_owned);
    Part {
        wait: SignedDuration::ZERO,
        work: SignedDuration::from_millis(200),
        deed: Deed::Change {
            files: vec![(path, "done\n".into())],
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_goes_from_a_webhook_to_a_merged_change() {
    let mut town = Town::new("hybrid-parallel", "auto", cloud).await;
    town.start().await;
    let (identifier, session) = town.hand_over(planned_issue()).await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    for (task, executor, file) in [
        ("api", "codegen", "src/passkeys.txt"),
        ("page", "codegen", "web/passkeys.txt"),
        ("handbook", "codegen", "docs/passkeys.md"),
        ("tests", "codegen", "tests/passkeys.txt"),
    ] {
        assert_eq!(state(&issue, task), "merged");
        let tasks = issue["tasks"].as_array().expect("tasks");
        let task = tasks.iter().find(|it| it["id"] == task).expect("the task");
        assert_eq!(task["executor"], executor);
        assert_eq!(task["cost_usd"], 0.4);
        assert!(
            task["pr_url"].is_string()
                && task["head_sha"].is_string()
                && task["run_url"].is_string()
        );
        assert_eq!(town.merged_file(file).as_deref(), Some("done\n"));
    }
    town.assert_once(&session);
    let (kind, text) = town.last_word(&session);
    assert_eq!(kind, "response");
    assert!(
        text.contains("is done") && text.contains("$0.40 (estimate)"),
        "{text}"
    );
    {
        let linear = town.stage.linear();
        assert_eq!(
            linear.issue(&identifier).expect("the issue").state.kind,
            "completed"
        );
        let session = linear.session(&session).expect("the session");
        assert_eq!(session.activities[0].kind(), "thought");
        assert_eq!(session.links.len(), 4, "a URL for every pull request");
        let plan = session
            .plan
            .as_ref()
            .and_then(Value::as_array)
            .expect("a plan");
        assert_eq!(plan.len(), 5);
        assert!(
            plan.iter().all(|it| it["status"] == "completed"),
            "{plan:?}"
        );
    }
    let merges = town.stage.github.lock().merges();
    let order: Vec<u64> = merges.iter().map(|it| it.number).collect();
    let tests = issue["tasks"]
        .as_array()
        .and_then(|it| it.last())
        .and_then(|it| it["pr_url"].as_str())
        .expect("a URL");
    assert!(
        tests.ends_with(&format!("/{}", order[3])),
        "what depends on the others is merged last"
    );
    // The list, the log, and the commands with and without the service.
    let (_, list) = town.get("/api/v1/issues").await;
    assert_eq!(list["issues"][0]["tasks_done"], 5);
    assert_eq!(town.get("/api/v1/issues/ENG-999").await.0, 404);
    assert_eq!(town.get("/status").await.1, json!({ "status": "idle" }));
    town.variables
        .insert("CYRUS_URL".into(), town.url().to_owned());
    let shown = town.cyrus(&["show", &identifier, "--json"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&shown.stdout).expect("JSON"),
        issue
    );
    town.variables.remove("CYRUS_URL");
    assert!(town.terminate().await, "it ends well when asked to");
    let shown = town.cyrus(&["--json", "show", &identifier]);
    assert_eq!(
        serde_json::from_slice::<Value>(&shown.stdout).expect("JSON"),
        issue,
        "from the store"
    );
    let listed = town.cyrus(&["issues"]);
    assert!(String::from_utf8_lossy(&listed.stdout).contains("succeeded"));
    assert_eq!(town.cyrus(&["show", "ENG-999"]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_it_finishes_and_does_nothing_twice() {
    let mut town = Town::new("hybrid-smart", "auto", cloud).await;
    town.start().await;
    let (identifier, session) = town.hand_over(planned_issue()).await;
    for _ in 0..KILLS {
        // A little further each time, then the axe, wherever it stands just then.
        let from = town.seq(&identifier).await;
        let further = async {
            while town.seq(&identifier).await < from + STEPS_BETWEEN_KILLS {
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        };
        tokio::time::timeout(town::LONG, further)
            .await
            .expect("it goes on");
        town.kill().await;
        town.start().await;
    }
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(town.stage.github.lock().merges().len(), 4);
    assert_eq!(town.stage.codegen.lock().runs().len(), 3);
    assert_eq!(town.jobs().len(), 2);
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_that_is_lost_makes_no_second_run_and_no_second_merge() {
    let mut town = Town::new("hybrid-parallel", "auto", cloud).await;
    town.stage.codegen_faults.next("create", Trouble::DropAfter);
    town.stage.github_faults.next("merge", Trouble::DropAfter);
    town.stage
        .linear_faults
        .next("AgentActivityCreate", Trouble::DropAfter);
    town.stage
        .linear_faults
        .next("IssueBrief", Trouble::DropBefore);
    town.start().await;
    let (identifier, session) = town.hand_over(planned_issue()).await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(town.stage.codegen.lock().runs().len(), 4);
    town.assert_once(&session);
    assert!(town.stage.linear().refused_duplicates() > 0);
    assert_eq!(
        town.stage.codegen_faults.left()
            + town.stage.github_faults.left()
            + town.stage.linear_faults.left(),
        0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn under_manual_a_person_merges() {
    let mut town = Town::new("hybrid-parallel", "manual", cloud).await;
    town.start().await;
    let new = NewIssue {
        title: "Mend the door".into(),
        ..NewIssue::default()
    };
    let (identifier, session) = town.hand_over(new).await;
    let issue = town
        .until(&identifier, |it| {
            it["phase"] == "merging" && it["waiting_for"].is_string()
        })
        .await;
    assert_eq!(state(&issue, "main"), "ready");
    assert_eq!(town.stage.github.lock().merges().len(), 0);
    let sha = issue["tasks"][0]["head_sha"]
        .as_str()
        .expect("a commit")
        .to_owned();
    town.stage
        .github
        .lock()
        .merge(
            world::stage::SLUG,
            1,
            Some(&sha),
            world::github::Method::Squash,
            "by hand",
            Timestamp::now(),
        )
        .expect("a person may merge");
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(
        (&issue["outcome"], state(&issue, "main").as_str()),
        (&json!("succeeded"), "merged")
    );
    assert_eq!(town.last_word(&session).0, "response");
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_what_runs_and_nothing_is_merged() {
    let hang = |_: &Order| Part {
        wait: SignedDuration::ZERO,
        work: SignedDuration::ZERO,
        deed: Deed::Hang,
    };
    let mut town = Town::new("hybrid-parallel", "auto", hang).await;
    town.start().await;
    let (identifier, session) = town.hand_over(planned_issue()).await;
    town.until(&identifier, |it| {
        state(it, "api") == "running" && state(it, "page") == "running"
    })
    .await;
    let stop = town
        .stage
        .linear()
        .stop(&session, Timestamp::now())
        .expect("a stop");
    assert_eq!(town.deliver(&stop).await, 200);
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "cancelled");
    let alive = town
        .stage
        .codegen
        .lock()
        .runs()
        .iter()
        .filter(|it| it.status == world::codegen::Status::Active)
        .count();
    assert_eq!((alive, town.stage.github.lock().merges().len()), (0, 0));
    assert_eq!(town.last_word(&session).0, "response");
    // The same delivery again, and an older one, change nothing.
    let before = town.seq(&identifier).await;
    assert_eq!(town.deliver(&stop).await, 200);
    assert_eq!(town.seq(&identifier).await, before);
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_webhooks_get_a_clear_no_and_leave_nothing() {
    let mut town = Town::new("local-only", "auto", cloud).await;
    town.start().await;
    let now = Timestamp::now().as_millisecond();
    let body = |kind: &str, at: i64| {
        json!({ "type": kind, "action": "created", "webhookTimestamp": at })
            .to_string()
            .into_bytes()
    };
    let signed = |body: &[u8]| [("linear-signature", sign(WEBHOOK_SECRET, body))];
    let fresh = body("AgentSessionEvent", now);
    let hours = 3_600_000;
    type Case = (Vec<u8>, Vec<(&'static str, String)>, u16);
    let cases: Vec<Case> = vec![
        (fresh.clone(), vec![], 401),
        (
            fresh.clone(),
            vec![("linear-signature", sign("another", &fresh))],
            401,
        ),
        (
            fresh.clone(),
            signed(&fresh).map(|(k, v)| (k, v.to_uppercase())).to_vec(),
            401,
        ),
        (
            body("Issue", now - 9 * hours),
            signed(&body("Issue", now - 9 * hours)).to_vec(),
            401,
        ),
        (
            body("Issue", now + 120_000),
            signed(&body("Issue", now + 120_000)).to_vec(),
            401,
        ),
        (b"no json".to_vec(), signed(b"no json").to_vec(), 400),
        (fresh.clone(), signed(&fresh).to_vec(), 400),
        (
            vec![b' '; 1024 * 1024 + 1],
            signed(&vec![b' '; 1024 * 1024 + 1]).to_vec(),
            413,
        ),
        (
            body("Reaction", now),
            signed(&body("Reaction", now)).to_vec(),
            200,
        ),
        (
            body("Unheard", now - 7 * hours),
            signed(&body("Unheard", now - 7 * hours)).to_vec(),
            200,
        ),
    ];
    for (at, (body, headers, expected)) in cases.into_iter().enumerate() {
        assert_eq!(town.post(body, &headers).await, expected, "case {at}");
    }
    assert_eq!(town.get("/api/v1/issues").await.1["issues"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_set_up_is_said_in_linear_and_found_by_the_doctor() {
    let say = async |spoil: fn(&mut Town, &mut Value)| {
        let mut town = Town::new("local-only", "auto", cloud).await;
        let mut config = town.stage.config("local-only", "auto");
        spoil(&mut town, &mut config);
        town.stage.configure(&config).expect("a configuration");
        let doctor = town.cyrus(&["doctor"]);
        town.start().await;
        let (identifier, session) = town.hand_over(planned_issue()).await;
        let issue = town.until(&identifier, is_done).await;
        assert_eq!(issue["outcome"], "failed");
        let (kind, text) = town.last_word(&session);
        assert_eq!(kind, "error");
        (
            text,
            doctor.status.code(),
            String::from_utf8_lossy(&doctor.stdout).into_owned(),
        )
    };
    let (text, code, doctor) = say(|_, config| config["repositories"] = json!([])).await;
    assert!(text.contains("no repository is configured"), "{text}");
    assert!(
        code == Some(1) && doctor.contains("BAD  repositories"),
        "{doctor}"
    );
    let (text, code, doctor) = say(|town, config| {
        config["repositories"][0]["repositoryPath"] = json!(town.folder.path().join("bin"));
    })
    .await;
    assert!(text.contains("not a git repository"), "{text}");
    assert!(
        code == Some(1) && doctor.contains("not a git repository"),
        "{doctor}"
    );
    let (text, code, doctor) = say(|town, _| {
        let remote = town.folder.path().join("remote.git");
        std::fs::rename(&remote, remote.with_extension("gone")).expect("renamed");
    })
    .await;
    assert!(text.contains("remote") || text.contains("origin"), "{text}");
    assert!(code == Some(1), "{doctor}");
    let (text, code, doctor) = say(|town, _| {
        town.variables
            .insert("CLAUDE_BIN".into(), "/nowhere/claude".into());
    })
    .await;
    assert!(text.contains("CLAUDE_BIN"), "{text}");
    assert!(
        code == Some(1) && doctor.contains("BAD  Claude Code"),
        "{doctor}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_finds_a_healthy_town_healthy() {
    let town = Town::new("hybrid-parallel", "auto", cloud).await;
    let doctor = town.cyrus(&["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert!(
        doctor.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&doctor.stderr)
    );
    assert!(
        text.contains("ok   Linear")
            && text.contains("ok   Codegen")
            && text.contains("ok   GitHub acme/app"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_nowhere_to_be_read() {
    let mut town = Town::new("hybrid-smart", "auto", cloud).await;
    town.start().await;
    let (identifier, _) = town.hand_over(planned_issue()).await;
    town.until(&identifier, is_done).await;
    assert!(town.terminate().await);
    let secrets: Vec<String> = [
        "LINEAR_API_TOKEN",
        "LINEAR_WEBHOOK_SECRET",
        "GITHUB_TOKEN",
        "CODEGEN_API_TOKEN",
    ]
    .iter()
    .map(|it| town.variables[*it].clone())
    .collect();
    let mut folders = vec![town.stage.home()];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            files += 1;
            for secret in &secrets {
                assert!(
                    !text.contains(secret.as_str()),
                    "a secret is in {}",
                    entry.path().display()
                );
            }
        }
    }
    assert!(files > 5, "there was something to look through");
}

#[test]
fn the_demo_ends_with_a_merged_change() {
    let demo = std::process::Command::new(env!("CARGO_BIN_EXE_cyrus"))
        .args(["demo", "--speed", "600"])
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .output()
        .expect("the binary runs");
    let told = String::from_utf8_lossy(&demo.stdout);
    assert!(
        demo.status.success(),
        "{told}\n{}",
        String::from_utf8_lossy(&demo.stderr)
    );
    for line in [
        "`tests` is merged",
        "The bill: $1.38",
        "Saved:",
        "Linear shows: ENG-1 is done.",
    ] {
        assert!(told.contains(line), "no `{line}` in\n{told}");
    }
    assert_eq!(demo.stderr, b"", "nothing to complain about");
}

#[test]
fn wrong_usage_and_wrong_configuration_end_with_2() {
    let folder = tempfile::tempdir().expect("a folder");
    let cyrus = |arguments: &[&str], config: &str| {
        std::fs::write(folder.path().join("config.json"), config).expect("written");
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_cyrus"))
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("CYRUS_HOME", folder.path())
            .output()
            .expect("the binary runs");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(cyrus(&["fly"], "{}").0, Some(2));
    let (code, text) = cyrus(
        &["start"],
        r#"{"repositories":[],"codegen":{"strategy":"cheap"}}"#,
    );
    assert!(
        code == Some(2) && text.contains("codegen.strategy") && text.contains("local-only"),
        "{text}"
    );
    let (code, text) = cyrus(&["start"], r#"{"repositories":[]}"#);
    assert!(
        code == Some(2) && text.contains("LINEAR_WEBHOOK_SECRET"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_not_there_is_found_by_the_doctor() {
    let mut town = Town::new("local-only", "auto", cloud).await;
    let emulator = Emulator::start().expect("an emulator");
    for (name, value) in [
        ("CYRUS_STORE", "dynamodb:elsewhere"),
        ("AWS_ENDPOINT_URL_DYNAMODB", &emulator.url()),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
    ] {
        town.variables.insert(name.into(), value.into());
    }
    let doctor = town.cyrus(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert_eq!(doctor.status.code(), Some(1), "{said}");
    assert!(
        said.contains("BAD  store: there is no table `elsewhere`"),
        "{said}"
    );
    // All else is looked at.
    assert!(said.contains("ok   Linear"), "{said}");
}
