//! What the tests of all agents work with: the recorded outputs, and how the
//! processes ended that printed them.

use std::fs;
use std::path::PathBuf;

use shared::issue::{AgentPolicy, Repository, TaskKind};

use super::*;

pub(super) fn recordings() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/agent-outputs")
}

/// A row of the table: how a recorded process ended, and what it printed last.
pub(super) struct Row {
    pub(super) file: String,
    pub(super) version: String,
    pub(super) exit: String,
    /// How many events said how it went.
    pub(super) ends: String,
    pub(super) last: String,
    pub(super) subtype: String,
    pub(super) is_error: String,
}

/// The rows of one program.
pub(super) fn rows(program: &str) -> Vec<Row> {
    let table = fs::read_to_string(recordings().join("outcomes.tsv")).expect("the table");
    let rows = table.lines().skip(1).filter(|it| it.starts_with(program));
    rows.map(|row| {
        let columns: Vec<String> = row.split('\t').map(str::to_owned).collect();
        match &columns[..] {
            [file, version, exit, _, ends, last, subtype, is_error, ..] => Row {
                file: file.clone(),
                version: version.clone(),
                exit: exit.clone(),
                ends: ends.clone(),
                last: last.clone(),
                subtype: subtype.clone(),
                is_error: is_error.clone(),
            },
            _ => panic!("a row with other columns: {row}"),
        }
    })
    .collect()
}

/// The names of the recordings that begin so.
pub(super) fn files(beginning: &str) -> Vec<String> {
    fs::read_dir(recordings())
        .expect("the folder")
        .map(|it| it.expect("an entry").file_name())
        .filter_map(|it| it.into_string().ok())
        .filter(|it| it.starts_with(beginning) && !it.ends_with(".tsv"))
        .collect()
}

pub(super) fn recorded(file: &str) -> Vec<u8> {
    fs::read(recordings().join(file)).expect("a recording")
}

pub(super) fn exited(code: i32) -> Exit {
    Exit {
        code: Some(code),
        ..Exit::default()
    }
}

/// How a recorded process ended: `0`, `143`, `signal 9`, `1 (0 in 3/5 reps)`.
pub(super) fn recorded_exit(words: &str) -> Exit {
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

/// What these bytes say.
pub(super) fn read(agent: &dyn Agent, output: &[u8]) -> Seen {
    let (mut ear, mut seen) = (Ear::default(), Seen::default());
    ear.hear(agent, output, &mut seen);
    ear.end(agent, &mut seen);
    seen
}

pub(super) fn judged(
    agent: &dyn Agent,
    output: &[u8],
    exit: &Exit,
    asked: bool,
) -> Result<RunResult, Failure> {
    judge(agent, &read(agent, output), exit, "", asked)
}

pub(super) fn job(kind: TaskKind) -> Job {
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
        commit: None,
        commands: Vec::new(),
        repair: None,
    }
}

#[test]
fn what_was_done_to_a_process_decides_whatever_it_printed() {
    use FailureClass::{Cancelled, Invalid, Limit, Lost, Timeout};
    let output = recorded("claude-stream-success.jsonl");
    for agent in AGENTS {
        for (why, class) in [
            (ExitWhy::Stopped, Cancelled),
            (ExitWhy::Overran, Timeout),
            (ExitWhy::Flooded, Limit),
            (ExitWhy::Interrupted, Lost),
            (ExitWhy::NotStarted { why: "x".into() }, Invalid),
        ] {
            let exit = Exit { why, ..exited(0) };
            let judged = judged(*agent, &output, &exit, false).map_err(|it| it.class);
            assert_eq!(judged, Err(class), "{}", agent.name());
        }
    }
}

#[test]
fn what_another_program_prints_is_never_a_success() {
    for agent in AGENTS {
        let mut others = 0;
        for file in files("") {
            if file.starts_with(agent.name()) {
                continue;
            }
            for asked in [false, true] {
                let judged = judged(*agent, &recorded(&file), &exited(0), asked);
                assert!(judged.is_err(), "{}: {file}: {judged:?}", agent.name());
            }
            others += 1;
        }
        assert!(others > 30, "only {others}");
    }
}

#[test]
fn what_is_spoilt_anywhere_never_breaks_the_reader() {
    for agent in AGENTS {
        for file in files(agent.name()) {
            let whole = recorded(&file);
            for at in (0..whole.len()).step_by(307) {
                let mut spoilt = whole.clone();
                spoilt[at] = b'"';
                drop(judged(*agent, &spoilt, &exited(0), true));
                drop(judged(*agent, &whole[..at], &exited(0), false));
            }
        }
        // Every value of every event of another type.
        for file in files(agent.name()).into_iter().take(8) {
            let text = String::from_utf8(recorded(&file)).expect("text");
            for other in ["null", "7", "[]", "{}", "\"x\"", "-1", "1e400"] {
                let odd: String = text
                    .lines()
                    .map(|line| twist(line, other))
                    .collect::<Vec<_>>()
                    .join("\n");
                drop(judged(*agent, odd.as_bytes(), &exited(0), true));
            }
        }
    }
}

/// The event with `other` in place of every value but its type.
fn twist(line: &str, other: &str) -> String {
    let Ok(serde_json::Value::Object(event)) = serde_json::from_str(line) else {
        return line.to_owned();
    };
    let fields: Vec<String> = event
        .iter()
        .map(|(key, value)| match key.as_str() {
            "type" | "subtype" => format!("\"{key}\":{value}"),
            _ => format!("\"{key}\":{other}"),
        })
        .collect();
    format!("{{{}}}", fields.join(","))
}

#[test]
fn what_the_program_complained_of_is_told() {
    for agent in AGENTS {
        let seen = read(*agent, b"");
        let said = judge(
            *agent,
            &seen,
            &exited(1),
            "error: unknown option '--x'",
            false,
        );
        assert_eq!(
            said.map_err(|it| it.message),
            Err("the agent did not start (exit code 1): error: unknown option '--x'".into())
        );
    }
}
