//! How agents run in a repository: which program, which model, which tools. The
//! order of precedence is Cyrus's.

use std::collections::BTreeMap;

use super::route::{lower, tag_of};
use super::{ModeTools, RepositorySettings, Settings, tools};
use crate::issue::{AgentPolicy, Brief, PROGRAM, TaskKind, Tools};

/// Linear's own tools, allowed wherever an agent is given MCP servers.
const LINEAR_TOOLS: &str = "mcp__linear";
/// The longest name of a program or a model in a tag, in bytes.
const NAME_BYTES_MAX: usize = 100;

/// Labels that ask for an agent program.
const AGENT_LABELS: [(&str, &str); 5] = [
    ("cursor", "cursor"),
    ("codex", "codex"),
    ("openai", "codex"),
    ("gemini", "gemini"),
    ("claude", "claude"),
];
/// Labels that are a model's whole name …
const MODEL_LABELS: [&str; 4] = ["fable", "opus", "sonnet", "haiku"];
/// … or how one begins.
const MODEL_LABEL_PREFIXES: [&str; 2] = ["gemini-", "gpt-"];
/// How models are called that belong to a program.
const MODELS: [(&str, &str); 10] = [
    ("claude", "claude"),
    ("fable", "claude"),
    ("opus", "claude"),
    ("sonnet", "claude"),
    ("haiku", "claude"),
    ("gpt", "codex"),
    ("o3", "codex"),
    ("o4", "codex"),
    ("gemini", "gemini"),
    ("composer", "cursor"),
];
/// Variables that hold a program's access to its model: where only one is set,
/// that program is meant.
const KEYS: [(&str, &str); 5] = [
    ("ANTHROPIC_API_KEY", "claude"),
    ("CLAUDE_CODE_OAUTH_TOKEN", "claude"),
    ("OPENAI_API_KEY", "codex"),
    ("GEMINI_API_KEY", "gemini"),
    ("CURSOR_API_KEY", "cursor"),
];

impl Settings {
    /// How agents run, whatever the task.
    pub(super) fn agent(&self, repository: &RepositorySettings, brief: &Brief) -> AgentPolicy {
        let asked = asked(brief);
        let program = asked
            .program
            .or_else(|| asked.model.as_deref().and_then(program_of).map(Into::into))
            .or_else(|| self.agents.program.clone())
            .unwrap_or_else(|| PROGRAM.to_owned());
        // A model that is another program's says nothing about this one.
        let fits = |model: &String| program_of(model).is_none_or(|it| it == program);
        let defaults = self.agents.models.get(program.as_str());
        let model = [asked.model, repository.model.clone()]
            .into_iter()
            .flatten()
            .find(fits)
            .or_else(|| defaults?.model.clone());
        let fallback_model = repository
            .fallback_model
            .clone()
            .filter(fits)
            .or_else(|| defaults?.fallback_model.clone());
        let usual = self.kind_tools(repository, None);
        AgentPolicy {
            model,
            fallback_model,
            allowed_tools: usual.allowed,
            disallowed_tools: usual.disallowed,
            mcp: self.mcp(repository),
            append_instruction: repository.append_instruction.clone(),
            trusted: repository.trusted,
            program,
        }
    }

    /// The tools of every kind of task that has its own. `prompt`: the one that
    /// the issue's labels ask for.
    pub(super) fn tools(
        &self,
        repository: &RepositorySettings,
        prompt: Option<&str>,
    ) -> BTreeMap<TaskKind, Tools> {
        let stacked = prompt.filter(|it| *it == "graphite-orchestrator");
        let modes = [
            (TaskKind::Orchestrator, stacked.unwrap_or("orchestrator")),
            (TaskKind::Builder, "builder"),
            (TaskKind::Debugger, "debugger"),
            (TaskKind::Scoper, "scoper"),
        ];
        let own = modes.into_iter().filter(|(_, mode)| {
            repository.label_prompts.contains_key(mode) || self.agents.by_mode.contains_key(mode)
        });
        own.map(|(kind, mode)| (kind, self.kind_tools(repository, Some(mode))))
            .collect()
    }

    /// The mode's prompt in this repository, else the prompt's defaults, else the
    /// repository, else everywhere, else the safe preset.
    fn kind_tools(&self, repository: &RepositorySettings, mode: Option<&str>) -> Tools {
        let defaults = &self.agents;
        let of_label = mode
            .and_then(|it| repository.label_prompts.get(it))
            .map(|it| &it.tools);
        let of_prompt = mode.and_then(|it| defaults.by_mode.get(it));
        let by_mode: Vec<&ModeTools> = of_label.into_iter().chain(of_prompt).collect();
        let mut allowed = by_mode
            .iter()
            .find_map(|it| it.allowed.clone())
            .or_else(|| repository.allowed_tools.clone())
            .or_else(|| defaults.allowed_tools.clone())
            .unwrap_or_else(tools::safe);
        let disallowed = by_mode
            .iter()
            .find_map(|it| it.disallowed.clone())
            .or_else(|| repository.disallowed_tools.clone())
            .unwrap_or_else(|| defaults.disallowed_tools.clone());
        if !self.mcp(repository).is_empty() && !allowed.iter().any(|it| it == LINEAR_TOOLS) {
            allowed.push(LINEAR_TOOLS.to_owned());
        }
        Tools {
            allowed,
            disallowed,
        }
    }

    fn mcp(&self, repository: &RepositorySettings) -> Vec<String> {
        if !self.features.use_mcp_servers {
            return Vec::new();
        }
        let mut mcp = repository.mcp.clone();
        // A repository with tools of its own is left alone.
        if repository.allowed_tools.is_none() {
            mcp.extend(self.agents.mcp.iter().cloned());
        }
        mcp
    }
}

/// What an issue itself asks for.
#[derive(Default)]
struct Asked {
    program: Option<String>,
    model: Option<String>,
}

/// The tags of the description, else the labels.
fn asked(brief: &Brief) -> Asked {
    let tag = |name| {
        // It becomes an argument of the program's, so it has to look like a name.
        let named = |it: &String| {
            it.len() <= NAME_BYTES_MAX
                && it.starts_with(|c: char| c.is_ascii_alphanumeric())
                && it
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.:/[]@".contains(c))
        };
        tag_of(&brief.description, &[name])
            .map(|it| it.to_lowercase())
            .filter(named)
    };
    let (program, model) = (tag("agent"), tag("model"));
    if program.is_some() || model.is_some() {
        let program = program.map(|it| if it == "openai" { "codex".into() } else { it });
        return Asked { program, model };
    }
    let labels = lower(&brief.labels);
    let has = |label: &str| labels.iter().any(|it| it == label);
    let program = AGENT_LABELS.iter().find(|(label, _)| has(label));
    let model = labels.iter().find(|label| {
        MODEL_LABELS.contains(&label.as_str())
            || MODEL_LABEL_PREFIXES
                .iter()
                .any(|it| label.starts_with(it) && label.len() <= NAME_BYTES_MAX)
    });
    Asked {
        program: program.map(|(_, program)| (*program).to_owned()),
        model: model.cloned(),
    }
}

/// The program that a model belongs to, as far as its name tells.
fn program_of(model: &str) -> Option<&'static str> {
    let model = model.to_lowercase();
    let found = MODELS.iter().find(|(prefix, _)| model.starts_with(prefix));
    found.map(|(_, program)| *program)
}

/// The program that the variables speak for, if it is one alone.
pub(super) fn program_of_keys(is_set: impl Fn(&str) -> bool) -> Option<String> {
    let set = KEYS.iter().filter(|(key, _)| is_set(key));
    let mut programs: Vec<&str> = set.map(|(_, program)| *program).collect();
    programs.dedup();
    match programs.as_slice() {
        [one] => Some((*one).to_owned()),
        _ => None,
    }
}
