//! Every recorded output is replayed, of the other programs too.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use shared::issue::{AgentPolicy, Repository};

use super::*;

fn recordings() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/agent-outputs")
}

fn replay(file: &str, exit: &Exit, asked: bool) -> Ending {
    let bytes = fs::read(recordings().join(file)).expect("a recording");
    outcome(bytes.as_slice(), exit, "", asked).expect("a file can be read")
}

fn exited(code: i32) -> Exit {
    Exit {
        code: Some(code),
        ..Exit::default()
    }
}

/// How a recorded process ended: `0`, `143`, `signal 9`, `1 (0 in 3/5 reps)`.
fn recorded_exit(words: &str) -> Exit {
    let number = |it: &str| {
        it.split(' ')
            .next()
            .and_then(|it| it.parse().ok())
            .expect("a number")
    };
    match words.strip_prefix("signal ") {
        Some(signal) => Exit {
            signal: Some(number(signal)),
            ..Exit::default()
        },
        None => exited(number(words)),
    }
}

/// The recordings in which an answer of a given form was asked for.
const ASKED: [&str; 7] = [
    "so-bad1",
    "so-invalid-schema",
    "so-never",
    "so-notools",
    "so-ok",
    "v197-so",
    "so-text",
];

fn short(file: &str) -> &str {
    file.trim_start_matches("claude-stream-")
        .trim_end_matches(".jsonl")
}

fn asked(file: &str) -> bool {
    ASKED.contains(&short(file)) || short(file) == "v197-sotext"
}

#[test]
fn every_recording_ends_as_it_was_seen_to() {
    let table = fs::read_to_string(recordings().join("outcomes.tsv")).expect("the table");
    let mut judged = 0;
    for row in table.lines().skip(1).filter(|it| it.starts_with("claude-")) {
        let columns: Vec<&str> = row.split('\t').collect();
        let [file, _, exit, _, results, _, subtype, is_error, ..] = columns[..] else {
            panic!("a row with other columns: {row}");
        };
        let ending = replay(file, &recorded_exit(exit), asked(file));
        let never_answered = ["so-text", "v197-sotext"].contains(&short(file));
        let succeeded = exit == "0"
            && results != "0"
            && subtype == "success"
            && is_error == "False"
            && !never_answered;
        assert_eq!(ending.result.is_ok(), succeeded, "{file}: {ending:?}");
        assert_eq!(
            ending.cost_usd.is_some(),
            results != "0",
            "{file}: {ending:?}"
        );
        if let Ok(result) = &ending.result {
            assert_eq!(result.answer.is_some(), asked(file), "{file}");
        }
        judged += 1;
    }
    let files = fs::read_dir(recordings())
        .expect("the folder")
        .filter_map(|it| it.ok()?.file_name().into_string().ok())
        .filter(|it| it.starts_with("claude-stream-"))
        .count();
    assert_eq!(judged, files, "a recording without a row");
}

#[test]
fn failures_are_told_apart() {
    use FailureClass::{
        Agent, Auth, Budget, Cancelled, Invalid, Limit, Lost, Outage, Quota, Timeout,
    };
    let check = |name: &str, exit: Exit, expected: FailureClass| {
        let file = format!("claude-{name}.jsonl");
        let ending = replay(&file, &exit, asked(&file));
        assert_eq!(
            ending.result.map_err(|it| it.class),
            Err(expected),
            "{name}"
        );
    };
    for (name, class) in [
        ("stream-err400", Quota), // "Credit balance is too low"
        ("stream-err401", Auth),
        ("stream-v197-err401", Auth),
        ("stream-nokey", Auth),
        ("stream-err429", Outage),
        ("stream-err500", Outage),
        ("stream-err529", Outage),
        ("stream-v197-err529", Outage),
        ("stream-connrefused", Outage),
        ("stream-maxturns", Limit),
        ("stream-v197-maxturns", Limit),
        ("maxturns", Limit),
        ("stream-budget", Budget),
        ("stream-bud-oneturn", Budget),
        ("stream-v197-budget", Budget),
        ("budget", Budget),
        ("stream-so-never", Agent),
        ("stream-resume-missing", Agent),
        ("stream-badflag", Invalid),
        ("stream-noverbose", Invalid),
        ("stream-perm-skip-root", Invalid),
        ("stream-so-invalid-schema", Invalid),
        ("apierror", Invalid),
    ] {
        check(name, exited(1), class);
    }
    check("stream-so-text", exited(0), Agent);
    check("stream-sigint-noresult-a", exited(0), Agent);
    check("stream-sigint", exited(0), Agent);
    check("stream-sigterm", exited(143), Lost);
    check("stream-sigkill", recorded_exit("signal 9"), Lost);
    // Whatever the program printed: what we did to it decides.
    let killed = |why| Exit { why, ..exited(0) };
    check("stream-success", killed(ExitWhy::Stopped), Cancelled);
    check("stream-success", killed(ExitWhy::Overran), Timeout);
    check("stream-success", killed(ExitWhy::Flooded), Limit);
    check("stream-success", killed(ExitWhy::Interrupted), Lost);
    // A result that says it went well, from a process that says it did not.
    check("stream-success", exited(1), Agent);
}

#[test]
fn the_last_result_counts_and_is_told() {
    for name in ["success", "tool", "denied"] {
        let ending = replay(&format!("claude-{name}.jsonl"), &exited(0), false);
        assert!(ending.result.is_ok(), "{name}: {ending:?}");
    }
    let ending = replay("claude-stream-success.jsonl", &exited(0), false);
    let text = ending.result.expect("a success").text;
    assert!(text.starts_with("Done: created hello.txt."), "{text}");
    assert!(
        ending
            .cost_usd
            .is_some_and(|it| (it - 0.01377).abs() < 1e-9)
    );

    // Two results in one process.
    let bytes = fs::read_to_string(recordings().join("claude-stream-subagent.jsonl")).expect("it");
    let last = bytes
        .lines()
        .rev()
        .find(|it| it.contains(r#""type":"result""#))
        .expect("a result");
    let last: Value = serde_json::from_str(last).expect("JSON");
    let ending = replay("claude-stream-subagent.jsonl", &exited(0), false);
    assert_eq!(ending.cost_usd, last["total_cost_usd"].as_f64());

    // `--output-format json` is one such line.
    assert!(
        replay("claude-resume.json", &exited(0), false)
            .result
            .is_ok()
    );

    let denied = replay("claude-denied.jsonl", &exited(0), false)
        .result
        .expect("a success");
    assert!(
        denied.text.ends_with("(It was not allowed to use: Bash.)"),
        "{}",
        denied.text
    );
}

#[test]
fn a_structured_answer_is_json() {
    let answer = replay("claude-stream-so-ok.jsonl", &exited(0), true)
        .result
        .expect("it")
        .answer;
    let answer: Value = serde_json::from_str(&answer.expect("an answer")).expect("JSON");
    assert_eq!(answer["tasks"][1]["deps"][0], "a");
}

#[test]
fn what_other_programs_print_is_never_a_success() {
    let mut files = 0;
    for entry in fs::read_dir(recordings()).expect("the folder") {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("a name");
        if name.starts_with("claude-") || name.ends_with(".tsv") {
            continue;
        }
        for wanted in [false, true] {
            let ending = replay(&name, &exited(0), wanted);
            assert!(ending.result.is_err(), "{name}: {ending:?}");
        }
        files += 1;
    }
    assert!(files > 30, "only {files}");
}

#[test]
fn a_recording_cut_or_spoilt_anywhere_is_no_success_and_no_panic() {
    let whole = fs::read(recordings().join("claude-stream-success.jsonl")).expect("it");
    // Without its last byte it lacks the line's end only.
    for end in (0..whole.len() - 2).step_by(97) {
        let ending = outcome(&whole[..end], &exited(0), "", false).expect("read");
        assert!(ending.result.is_err(), "cut at {end}: {ending:?}");
    }
    for bad in [
        r#"{"type":"result","is_error":"no"}"#,
        r#"{"type":"result"}"#,
        r#"{"type":"result","is_error":false,"structured_output":null,"permission_denials":7}"#,
        r#"{"type":7}"#,
        "[]",
        "\u{0}",
    ] {
        let ending = outcome(bad.as_bytes(), &exited(0), "", true).expect("read");
        assert!(ending.result.is_err(), "{bad}");
    }
    for odd in ["-1", "1e999", "\"1\"", "null", "{}"] {
        let line = format!(r#"{{"type":"result","is_error":false,"total_cost_usd":{odd}}}"#);
        let ending = outcome(line.as_bytes(), &exited(0), "", false).expect("read");
        assert_eq!(ending.cost_usd, None, "{odd}");
    }
}

#[test]
fn a_line_that_is_too_long_is_passed_over_and_the_next_one_is_not() {
    let mut output = vec![b'x'; LINE_BYTES_MAX + 10];
    output.extend_from_slice(b"\n{\"type\":\"result\",\"is_error\":false,\"result\":\"ok\"}\n");
    let ending = outcome(output.as_slice(), &exited(0), "", false).expect("read");
    assert_eq!(ending.result.map(|it| it.text), Ok("ok".into()));
}

#[test]
fn what_the_program_complained_of_is_told() {
    let ending = outcome(&b""[..], &exited(1), "error: unknown option '--x'", false).expect("read");
    assert_eq!(
        ending.result.map_err(|it| it.message),
        Err("the agent did not start (exit code 1): error: unknown option '--x'".into())
    );
}

fn job(kind: TaskKind) -> Job {
    Job {
        key: "k".into(),
        issue: "i".into(),
        identifier: "ENG-1".into(),
        issue_title: "t".into(),
        issue_url: "u".into(),
        task: "api".into(),
        kind,
        title: "t".into(),
        prompt: "p".into(),
        answer_schema: Some("{}".into()),
        repository: Repository::default(),
        branch: "b".into(),
        agent: AgentPolicy {
            allowed_tools: vec!["Edit(**)".into(), "mcp__linear".into()],
            model: Some("opus".into()),
            fallback_model: Some("opus".into()),
            mcp: vec!["a.json".into(), "b.json".into()],
            ..AgentPolicy::default()
        },
        cost_max: Some(0.5),
        seconds_max: 60,
        patience_seconds: None,
    }
}

/// The values of each flag.
fn flags(args: &[String]) -> BTreeMap<&str, Vec<&str>> {
    let mut flags: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut flag = "";
    for arg in args {
        if arg.starts_with('-') {
            flag = arg;
            flags.entry(flag).or_default();
        } else {
            flags.entry(flag).or_default().push(arg);
        }
    }
    flags
}

#[test]
fn an_agent_that_only_answers_may_change_nothing() {
    let args = args(&job(TaskKind::Orchestrator));
    let flags = flags(&args);
    assert_eq!(flags["--permission-mode"], ["dontAsk"]);
    assert!(flags["--allowedTools"].contains(&"mcp__linear"));
    assert!(!flags["--allowedTools"].contains(&"Edit(**)"));
    for tool in CHANGING_TOOLS {
        assert!(flags["--disallowedTools"].contains(&tool), "{tool}");
    }
    assert_eq!(flags["--json-schema"], ["{}"]);
}

#[test]
fn an_agent_gets_what_its_policy_says_and_nothing_of_the_repository() {
    let args = args(&job(TaskKind::Builder));
    let flags = flags(&args);
    assert_eq!(flags["--permission-mode"], ["acceptEdits"]);
    assert_eq!(flags["--allowedTools"], ["Edit(**)", "mcp__linear"]);
    assert_eq!(flags["--mcp-config"], ["a.json", "b.json"]);
    assert_eq!(flags["--setting-sources"], ["user"]);
    assert_eq!(flags["--max-budget-usd"], ["0.5"]);
    assert_eq!(flags["--model"], ["opus"]);
    assert!(flags.contains_key("--strict-mcp-config"));
    assert!(!flags.contains_key("--fallback-model"));
    assert!(!flags.contains_key("--disallowedTools"));

    let mut plain = job(TaskKind::Builder);
    plain.agent = AgentPolicy::default();
    let args = super::args(&plain);
    assert!(
        !flags_of(&args, "--allowedTools")
            .iter()
            .any(|it| it.starts_with("Bash"))
    );
}

fn flags_of<'a>(args: &'a [String], flag: &str) -> Vec<&'a str> {
    flags(args).remove(flag).unwrap_or_default()
}
