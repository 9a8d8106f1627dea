//! Every recorded output is replayed.

use shared::issue::TaskKind;

use super::super::tests::{exited, files, job, judged, read, recorded, recorded_exit, rows};
use super::*;

fn asked(file: &str) -> bool {
    file.contains("-schema")
}

#[test]
fn every_recording_ends_as_it_was_seen_to() {
    let rows = rows("codex-");
    for row in &rows {
        let output = recorded(&row.file);
        let judged = judged(&Codex, &output, &recorded_exit(&row.exit), asked(&row.file));
        // Nobody but us looks whether the answer is one.
        let succeeded = row.exit == "0"
            && row.last == "turn.completed"
            && row.file != "codex-stream-schema-bad.jsonl";
        assert_eq!(judged.is_ok(), succeeded, "{}: {judged:?}", row.file);
        if let Ok(result) = judged {
            assert_eq!(result.answer.is_some(), asked(&row.file), "{}", row.file);
            assert!(!result.text.is_empty(), "{}", row.file);
        }
        let seen = read(&Codex, &output);
        assert_eq!(seen.idle, row.ends != "0", "{}", row.file);
        assert!(seen.session.is_some(), "{}", row.file);
        assert_eq!(seen.cost, None, "{}: it knows no prices", row.file);
    }
    assert_eq!(
        rows.len(),
        files("codex-stream-").len(),
        "a recording without a row"
    );
}

#[test]
fn failures_are_told_apart() {
    use FailureClass::{Agent, Auth, Invalid, Limit, Lost, Outage, Quota};
    for (name, class) in [
        ("stream-err401", Auth),
        ("stream-err429", Outage),
        ("stream-failedrl", Outage),
        ("stream-err500", Outage),
        ("fail", Invalid),
        ("stream-sigint-workspace-write", Agent),
        // Completed, says the output; the process says otherwise.
        ("stream-text", Agent),
    ] {
        let file = format!("codex-{name}.jsonl");
        let judged = judged(&Codex, &recorded(&file), &exited(1), asked(&file));
        assert_eq!(judged.map_err(|it| it.class), Err(class), "{name}");
    }
    let killed = recorded_exit("signal 9");
    let cut = recorded("codex-stream-sigkill-workspace-write.jsonl");
    let judged = judged(&Codex, &cut, &killed, false);
    assert_eq!(judged.map_err(|it| it.class), Err(Lost));
    for (said, expected) in [
        ("unexpected status 403 Forbidden: no, url: u", Auth),
        ("unexpected status 404 Not Found: no, url: u", Invalid),
        ("unexpected status 402 Payment Required", Quota),
        ("unexpected status 503 Service Unavailable", Outage),
        ("You exceeded your current quota, please check", Quota),
        ("You've hit your usage limit.", Quota),
        ("Connection failed: error sending request", Outage),
        (
            "Codex ran out of room in the model's context window.",
            Limit,
        ),
        (r#"{"error": {"message": "no", "type": "x"}}"#, Invalid),
        ("status", Agent),
        ("", Agent),
    ] {
        assert_eq!(class(said), expected, "{said}");
    }
}

#[test]
fn a_warning_is_no_failure_and_no_answer() {
    let text = judged(
        &Codex,
        &recorded("codex-stream-text.jsonl"),
        &exited(0),
        false,
    )
    .expect("a success")
    .text;
    assert_eq!(text, "hello from fake");
    // What was wrong on the way does not count once a turn is completed.
    let lines = concat!(
        r#"{"type":"turn.started"}"#,
        "\n",
        r#"{"type":"error","message":"Reconnecting... 1/5 (Connection failed)"}"#,
        "\n",
        r#"{"type":"item.completed","item":{"type":"error","message":"slow"}}"#,
        "\n",
        r#"{"type":"item.completed","item":{"type":"agent_message","text":"fine"}}"#,
        "\n",
        r#"{"type":"turn.completed"}"#,
    );
    let judged = judged(&Codex, lines.as_bytes(), &exited(0), false);
    assert_eq!(judged.map(|it| it.text), Ok("fine".into()));
}

#[test]
fn an_answer_is_json_or_none() {
    let good = judged(
        &Codex,
        &recorded("codex-stream-schema.jsonl"),
        &exited(0),
        true,
    );
    assert_eq!(
        good.map(|it| it.answer),
        Ok(Some(r#"{"tasks":[{"id":"a"}]}"#.into()))
    );
    let bad = judged(
        &Codex,
        &recorded("codex-stream-schema-bad.jsonl"),
        &exited(0),
        true,
    );
    let failure = bad.expect_err("no JSON");
    assert_eq!(failure.class, FailureClass::Agent);
    assert!(failure.message.contains("not json at all"), "{failure:?}");
    // A turn without a word.
    let silent = judged(&Codex, br#"{"type":"turn.completed"}"#, &exited(0), true);
    assert!(silent.is_err());
}

#[test]
fn a_session_that_is_gone_is_lost() {
    let said = "Error: thread/resume: thread/resume failed: no rollout found for thread id x";
    let judged = Codex.judge(&Seen::default(), 1, said, false);
    assert_eq!(judged.map_err(|it| it.0), Err(FailureClass::Lost));
}

#[test]
fn what_it_does_just_now_is_told() {
    let whole = String::from_utf8(recorded("codex-stream-exec-ws.jsonl")).expect("text");
    let first: Vec<&str> = whole.lines().take(4).collect();
    let seen = read(&Codex, first.join("\n").as_bytes());
    assert!(!seen.idle);
    let note = seen.note.expect("a note");
    assert!(note.starts_with("runs /bin/bash -lc"), "{note}");
    let session = seen.session.expect("a session");
    assert_eq!(session, "01a1faa9-18cb-7793-a72e-c55cfe9635c2");
}

fn leg() -> Leg {
    Leg {
        worktree: "/w/a \"b\"".into(),
        ..Leg::default()
    }
}

/// The settings that are made on the command line.
fn settings(args: &[String]) -> Vec<&str> {
    args.windows(2)
        .filter(|it| it[0] == "-c")
        .map(|it| it[1].as_str())
        .collect()
}

#[test]
fn a_task_that_changes_files_may_write_and_no_other() {
    for (kind, sandbox) in [
        (TaskKind::Builder, "workspace-write"),
        (TaskKind::Debugger, "workspace-write"),
        (TaskKind::Orchestrator, "read-only"),
        (TaskKind::Scoper, "read-only"),
        (TaskKind::Reviewer, "read-only"),
    ] {
        let args = Codex.args(&job(kind), &leg());
        assert_eq!(args[..4], ["exec", "--json", "--sandbox", sandbox]);
        assert_eq!(args.last().map(String::as_str), Some("-"));
    }
}

#[test]
fn a_job_says_model_schema_session_and_whom_to_trust() {
    let mut job = job(TaskKind::Orchestrator);
    job.agent.append_instruction = Some("be \"kind\"\nalways\u{7f}".into());
    let leg = Leg {
        resume: Some("01a1".into()),
        schema: Some("/j/schema.json".into()),
        ..leg()
    };
    let args = Codex.args(&job, &leg);
    let rest: Vec<&str> = args
        .iter()
        .rev()
        .take(7)
        .rev()
        .map(String::as_str)
        .collect();
    assert_eq!(
        rest,
        [
            "--model",
            "opus",
            "--output-schema",
            "/j/schema.json",
            "resume",
            "01a1",
            "-"
        ]
    );
    let set = settings(&args);
    assert!(set.contains(&r#"projects={"/w/a \"b\""={trust_level="untrusted"}}"#));
    assert!(set.contains(&r#"developer_instructions="be \"kind\"\nalways\u007F""#));
    for always in ALWAYS {
        assert!(set.contains(&always), "{always}");
    }
    job.agent.trusted = true;
    let args = Codex.args(&job, &leg);
    assert!(settings(&args).contains(&r#"projects={"/w/a \"b\""={trust_level="trusted"}}"#));
}

#[test]
fn a_key_in_the_environment_is_used_and_on_no_command_line() {
    let job = job(TaskKind::Builder);
    let with = |vars: &[(&str, &str)]| {
        let env = vars
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        let leg = Leg {
            env: env.collect(),
            ..leg()
        };
        Codex.args(&job, &leg).join(" ")
    };
    let logged_in = with(&[]);
    assert!(!logged_in.contains("model_provider"), "{logged_in}");
    let elsewhere = with(&[("OPENAI_BASE_URL", "http://h/v1")]);
    assert!(
        elsewhere.contains(r#"openai_base_url="http://h/v1""#),
        "{elsewhere}"
    );
    let key = with(&[("OPENAI_API_KEY", "sk-secret")]);
    assert!(key.contains(r#"model_provider="cyrus""#), "{key}");
    assert!(
        key.contains(r#"base_url="https://api.openai.com/v1""#),
        "{key}"
    );
    assert!(!key.contains("sk-secret"), "{key}");
    let both = with(&[
        ("OPENAI_API_KEY", "sk-secret"),
        ("OPENAI_BASE_URL", "http://h/v1"),
    ]);
    assert!(both.contains(r#"base_url="http://h/v1""#), "{both}");
}

#[test]
fn a_session_that_is_taken_up_is_not_counted_twice() {
    let legs = ["success", "resume"].map(|it| recorded(&format!("codex-{it}.jsonl")));
    let legs = legs.map(|it| read(&Codex, &it).spent(false));
    let [first, both] = legs.map(|it| it.and_then(|it| it.session).expect("tokens"));
    assert!(0.0 < first && first < both, "{first} {both}");
    let sum = crate::agent::spent(legs);
    assert_eq!((sum.perhaps, sum.whole), (Some(both), false));
}
