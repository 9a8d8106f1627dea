//! The tools of Claude Code that Cyrus's presets stand for. A preset says what
//! an agent may use without being asked; a sandbox it is not. Files are named
//! with `(**)`: a bare `Read` or `Write` reaches all of the machine, and the
//! rule for `Edit` holds for every tool that writes.

use serde_json::Value;

use super::read;

/// Every tool, and what it touches.
const TOOLS: &[(&str, Touch)] = &[
    ("Read(**)", Touch::Nothing),
    ("Edit(**)", Touch::Files),
    ("Glob", Touch::Nothing),
    ("Grep", Touch::Nothing),
    ("Bash", Touch::Machine),
    ("Task", Touch::Nothing),
    ("WebFetch", Touch::Nothing),
    ("WebSearch", Touch::Nothing),
    ("TaskCreate", Touch::Nothing),
    ("TaskUpdate", Touch::Nothing),
    ("TaskGet", Touch::Nothing),
    ("TaskList", Touch::Nothing),
    ("Skill", Touch::Nothing),
    ("AskUserQuestion", Touch::Session),
    ("SendMessage", Touch::Session),
    ("PushNotification", Touch::Session),
    ("EnterPlanMode", Touch::Nothing),
    ("ExitPlanMode", Touch::Nothing),
    ("EnterWorktree", Touch::Session),
    ("ExitWorktree", Touch::Session),
    ("CronCreate", Touch::Session),
    ("CronDelete", Touch::Session),
    ("CronList", Touch::Session),
    ("ScheduleWakeup", Touch::Session),
    ("Monitor", Touch::Nothing),
    ("TaskOutput", Touch::Nothing),
    ("TaskStop", Touch::Session),
    ("TeamCreate", Touch::Session),
    ("TeamDelete", Touch::Session),
    ("ToolSearch", Touch::Nothing),
    ("Workflow", Touch::Session),
];

const PRESETS: &[(&str, &[Touch])] = &[
    ("readOnly", &[Touch::Nothing]),
    ("safe", &[Touch::Nothing, Touch::Session, Touch::Files]),
    (
        "all",
        &[Touch::Nothing, Touch::Session, Touch::Files, Touch::Machine],
    ),
    (
        "coordinator",
        &[Touch::Nothing, Touch::Session, Touch::Machine],
    ),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Touch {
    Nothing,
    /// The agent's own session and what belongs to it.
    Session,
    Files,
    Machine,
}

/// What an agent may use where nobody has said anything: all but a shell.
pub(super) fn safe() -> Vec<String> {
    preset("safe").unwrap_or_default()
}

/// A list of tools, or the name of a preset. An error says what would be right.
pub(super) fn parse(value: &Value) -> Result<Vec<String>, String> {
    let names: Vec<String> = PRESETS
        .iter()
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    let must = format!("must be an array of strings or one of {}", names.join(", "));
    match value.as_str() {
        Some(name) => preset(name).ok_or_else(|| format!("is no preset of tools, {must}")),
        None => read::texts(value).ok_or(must),
    }
}

fn preset(name: &str) -> Option<Vec<String>> {
    let (_, touches) = PRESETS.iter().find(|(it, _)| *it == name)?;
    let tools = TOOLS.iter().filter(|(_, touch)| touches.contains(touch));
    Some(tools.map(|(tool, _)| (*tool).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::{parse, safe};

    #[test]
    fn presets_differ_by_what_their_tools_touch() {
        let has = |preset: &str, tool: &str| {
            parse(&preset.into())
                .expect("a preset")
                .iter()
                .any(|it| it == tool)
        };
        for (tool, expected) in [
            ("Read(**)", [true, true, true, true]),
            ("Edit(**)", [false, true, true, false]),
            ("Bash", [false, false, true, true]),
            ("AskUserQuestion", [false, true, true, true]),
        ] {
            assert_eq!(
                ["readOnly", "safe", "all", "coordinator"].map(|it| has(it, tool)),
                expected
            );
        }
        assert_eq!(safe(), parse(&"safe".into()).expect("a preset"));
        assert_eq!(
            safe().len() + 1,
            parse(&"all".into()).expect("a preset").len()
        );
        assert!(parse(&"everything".into()).is_err());
        assert!(parse(&7.into()).is_err());
    }
}
