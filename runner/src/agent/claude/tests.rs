//! Every recorded output is replayed.

use std::collections::BTreeMap;

use shared::issue::{AgentPolicy, Ending, TaskKind};

use super::super::tests::{exited, files, job, judged, read, recorded, recorded_exit, rows};
use super::super::{judge, spent};
use super::*;
use crate::folder::Exit;

fn replay(file: &str, exit: &Exit, asked: bool) -> Ending {
    let seen = read(&REAL, &recorded(file));
    Ending {
        result: judge(&REAL, &seen, exit, "", asked),
        cost_usd: seen.cost.map(|it| it.own),
        cost_is_estimate: false,
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
    let rows = rows("claude-");
    for row in &rows {
        let file = row.file.as_str();
        let ending = replay(file, &recorded_exit(&row.exit), asked(file));
        let never_answered = ["so-text", "v197-sotext"].contains(&short(file));
        let succeeded = row.exit == "0"
            && row.ends != "0"
            && row.subtype == "success"
            && row.is_error == "False"
            && !never_answered;
        assert_eq!(ending.result.is_ok(), succeeded, "{file}: {ending:?}");
        assert_eq!(
            ending.cost_usd.is_some(),
            row.ends != "0",
            "{file}: {ending:?}"
        );
        if let Ok(result) = &ending.result {
            assert_eq!(result.answer.is_some(), asked(file), "{file}");
        }
        let seen = read(&REAL, &recorded(file));
        assert_eq!(seen.idle, row.ends != "0", "{file}");
        // One that never came as far as an event has no session to take up.
        assert_eq!(seen.session.is_some(), seen.events > 0, "{file}");
        // The newer version alone counts on from process to process, in its
        // stream, and where there was a session at all.
        if let Some(cost) = seen.cost {
            let counts_on =
                row.version == "2.1.329" && !["jsonfmt", "resume-missing"].contains(&short(file));
            assert_eq!(cost.session.is_some(), counts_on, "{file}: {cost:?}");
            assert!(!cost.grows, "{file}: {cost:?}");
        }
    }
    assert_eq!(
        rows.len(),
        files("claude-stream-").len(),
        "a recording without a row"
    );
}

#[test]
fn a_session_taken_up_again_is_counted_once() {
    let legs = |names: [&str; 2]| {
        names.map(|it| read(&REAL, &recorded(&format!("claude-stream-{it}.jsonl"))).cost)
    };
    let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
    // Each of three turns is 0.00459; the first process had three, the second one.
    let [first, second] = legs(["success", "resume"]).map(|it| it.expect("a cost"));
    assert!(close(first.own, 3.0 * 0.00459), "{first:?}");
    assert!(close(second.own, 0.00459), "{second:?}");
    assert!(second.session.is_some_and(|it| close(it, 4.0 * 0.00459)));
    let both = spent([Some(first), Some(second)]);
    assert!(both.whole && both.usd.is_some_and(|it| close(it, 4.0 * 0.00459)));
    // The older version starts from zero.
    let old = spent(legs(["v197-success", "v197-resume"]));
    assert!(old.whole && old.usd.is_some_and(|it| close(it, 4.0 * 0.00459)));
    // One that got TERM says nothing, but the session's count has it.
    let told = legs(["sigterm", "resume-after-sigterm"]);
    assert_eq!(told[0], None);
    let known = spent(told);
    assert!(!known.whole);
    assert!(
        known.usd.is_some_and(|it| close(it, 2.0 * 0.00459)),
        "{known:?}"
    );
}

#[test]
fn failures_are_told_apart() {
    use FailureClass::{Agent, Auth, Budget, Invalid, Limit, Lost, Outage, Quota};
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
        ("stream-resume-missing", Lost),
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
    let bytes = String::from_utf8(recorded("claude-stream-subagent.jsonl")).expect("text");
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
fn a_recording_cut_or_spoilt_anywhere_is_no_success_and_no_panic() {
    let whole = recorded("claude-stream-success.jsonl");
    // Without its last byte it lacks the line's end only.
    for end in (0..whole.len() - 2).step_by(97) {
        let judged = judged(&REAL, &whole[..end], &exited(0), false);
        assert!(judged.is_err(), "cut at {end}: {judged:?}");
    }
    for bad in [
        r#"{"type":"result","is_error":"no"}"#,
        r#"{"type":"result"}"#,
        r#"{"type":"result","is_error":false,"structured_output":null,"permission_denials":7}"#,
        r#"{"type":7}"#,
        "[]",
        "\u{0}",
    ] {
        let judged = judged(&REAL, bad.as_bytes(), &exited(0), true);
        assert!(judged.is_err(), "{bad}");
    }
    for odd in ["-1", "1e999", "\"1\"", "null", "{}"] {
        let line = format!(r#"{{"type":"result","is_error":false,"total_cost_usd":{odd}}}"#);
        assert_eq!(read(&REAL, line.as_bytes()).cost, None, "{odd}");
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

fn called(job: &Job) -> Vec<String> {
    let leg = Leg {
        cost_max: job.cost_max,
        ..Leg::default()
    };
    REAL.args(job, &leg)
}

#[test]
fn an_agent_that_only_answers_may_change_nothing() {
    let args = called(&job(TaskKind::Orchestrator));
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
    let args = called(&job(TaskKind::Builder));
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
    let args = called(&plain);
    assert!(
        !flags_of(&args, "--allowedTools")
            .iter()
            .any(|it| it.starts_with("Bash"))
    );
}

fn flags_of<'a>(args: &'a [String], flag: &str) -> Vec<&'a str> {
    flags(args).remove(flag).unwrap_or_default()
}

#[test]
fn a_session_is_taken_up_with_what_is_left_of_the_money() {
    let leg = Leg {
        resume: Some("0f3c".into()),
        cost_max: Some(0.125),
        ..Leg::default()
    };
    let args = REAL.args(&job(TaskKind::Builder), &leg);
    assert_eq!(flags_of(&args, "--resume"), ["0f3c"]);
    assert_eq!(flags_of(&args, "--max-budget-usd"), ["0.125"]);
    assert!(!called(&job(TaskKind::Builder)).contains(&"--resume".into()));
}

#[test]
fn a_trusted_repository_brings_its_own_settings_and_servers() {
    let mut job = job(TaskKind::Builder);
    job.agent.trusted = true;
    let args = called(&job);
    assert_eq!(flags_of(&args, "--setting-sources"), ["user,project,local"]);
    assert!(!args.contains(&"--strict-mcp-config".into()));
}

#[test]
fn what_is_said_is_one_line_and_the_same_id_is_the_same_message() {
    let said = |id: &str, text: &str| -> Value {
        let bytes = REAL.said(id, text);
        assert_eq!(bytes.iter().filter(|it| **it == b'\n').count(), 1);
        assert_eq!(bytes.last(), Some(&b'\n'));
        serde_json::from_slice(&bytes).expect("JSON")
    };
    let text = "two\nlines, \"quoted\" \u{2028} $HOME";
    let one = said("a", text);
    assert_eq!(one["message"]["content"], text);
    assert_eq!(one["type"], "user");
    assert_eq!(one["uuid"].as_str().map(str::len), Some(36));
    assert_eq!(one["uuid"], said("a", "x")["uuid"]);
    assert_ne!(one["uuid"], said("b", text)["uuid"]);
}

/// Lines as they were seen from 2.1.329 when messages came while it worked.
fn lines(text: &str) -> Seen {
    let mut seen = Seen::default();
    for line in text.lines() {
        let line = match line.trim().split_once(' ') {
            Some((state, id)) => {
                format!(r#"{{"type":"command_lifecycle","state":"{state}","command_uuid":"{id}"}}"#)
            }
            None if line.trim() == "init" => r#"{"type":"system","subtype":"init"}"#.into(),
            None => format!(r#"{{"type":"{}"}}"#, line.trim()),
        };
        REAL.read(line.as_bytes(), &mut seen);
    }
    seen
}

#[test]
fn it_is_idle_after_a_result_when_no_message_is_unanswered() {
    let first = "queued 1\nstarted 1\ninit\nassistant";
    assert!(!lines(first).idle);
    assert!(lines(&format!("{first}\nresult")).idle);
    assert!(lines(&format!("{first}\nresult\ncompleted 1")).idle);
    // A second one waits for the end of the turn.
    let waits = format!("{first}\nqueued 2\nresult\ncompleted 1");
    assert!(!lines(&waits).idle);
    let second = format!("{waits}\nstarted 2\ninit\nassistant");
    assert!(!lines(&second).idle);
    assert!(lines(&format!("{second}\nresult")).idle);
    // One that was taken in while a tool ran has no result of its own.
    let within = format!("{first}\nqueued 2\nuser\nstarted 2\nassistant\ncompleted 2");
    assert!(!lines(&within).idle);
    assert!(lines(&format!("{within}\nresult\ncompleted 1")).idle);
    // A session that knows its only message already has nothing to do.
    assert!(lines("completed 1").idle);
    // A version without these events.
    assert!(lines("init\nassistant\nresult").idle);
    // Work in the background goes on after a result.
    assert!(!lines("init\nassistant\nresult\ninit").idle);
}

#[test]
fn what_it_does_just_now_is_told() {
    let success = String::from_utf8(recorded("claude-stream-success.jsonl")).expect("text");
    let tool = success
        .lines()
        .find(|it| it.contains(r#""type":"tool_use""#))
        .expect("a tool");
    let note = read(&REAL, tool.as_bytes()).note.expect("a note");
    assert!(
        note.starts_with("Bash ") || note.starts_with("Write "),
        "{note}"
    );
    let retry = recorded("claude-stream-sigterm-retry.jsonl");
    let note = read(&REAL, &retry).note.expect("a note");
    assert!(note.starts_with("asks the model service again: "), "{note}");
}

#[test]
fn only_the_real_program_is_spoken_to_while_it_works() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |path: &str| {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(&path, "").expect("written");
        path
    };
    let by_npm = place("lib/node_modules/@anthropic-ai/claude-code-linux-x64/claude");
    let by_itself = place("share/claude/versions/2.1.329");
    let link = folder.path().join("claude");
    std::os::unix::fs::symlink(&by_npm, &link).expect("a link");
    for real in [by_npm, by_itself, link] {
        let agent = PLAIN.at(&real).expect("it is the real one");
        let args = agent.args(&job(TaskKind::Builder), &Leg::default());
        assert!(
            agent.listens() && args.ends_with(&LISTENING.map(str::to_owned)),
            "{args:?}"
        );
        assert!(agent.said("m", "Hello").starts_with(b"{"));
    }
    for other in [
        place("bin/claude"),
        place("claude-code"),
        place("other/claude/2.1.329"),
    ] {
        assert!(PLAIN.at(&other).is_none(), "{}", other.display());
    }
    let args = PLAIN.args(&job(TaskKind::Builder), &Leg::default());
    assert!(!PLAIN.listens() && !args.contains(&LISTENING[0].to_owned()));
    assert_eq!(PLAIN.said("m", "Hello"), b"Hello");
}

#[test]
fn what_tokens_tell_is_not_less_than_what_it_costs() {
    for name in ["success", "subagent", "partial", "v197-success"] {
        let whole = recorded(&format!("claude-stream-{name}.jsonl"));
        let text = String::from_utf8(whole.clone()).expect("a text");
        let cut: String = text
            .split_inclusive('\n')
            .filter(|it| !it.contains(r#""type":"result""#))
            .collect();
        let guess = read(&REAL, cut.as_bytes()).guess.expect("a guess");
        let cost = read(&REAL, &whole).cost.expect("a cost").own;
        assert!(
            guess >= cost && guess < 3.0 * cost,
            "{name}: {guess} for {cost}"
        );
        assert_eq!(read(&REAL, &whole).guess, Some(0.0), "{name}: it is told");
    }
}
