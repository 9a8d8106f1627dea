//! What agents, and git, may see of our environment. Pure: the variables come
//! in as an argument.

use std::collections::BTreeMap;

use crate::agent::{AGENTS, Agent};

/// What every program needs to run at all.
const COMMON: [&str; 6] = ["PATH", "HOME", "USER", "LANG", "TERM", "TMPDIR"];
const COMMON_PREFIXES: [&str; 1] = ["LC_"];
/// How git finds the machine's credentials, its author and its way out.
const GIT: [&str; 22] = [
    "LOGNAME",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GIT_ASKPASS",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_SSH_VARIANT",
    "GIT_EXEC_PATH",
    "GNUPGHOME",
    "GH_CONFIG_DIR",
    "KRB5CCNAME",
    "DBUS_SESSION_BUS_ADDRESS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
];
const GIT_PREFIXES: [&str; 5] = [
    "GIT_CONFIG_",
    "GIT_AUTHOR_",
    "GIT_COMMITTER_",
    "GIT_SSL_",
    "XDG_",
];

/// What agents may see of our environment.
#[derive(Clone, Debug, Default)]
pub struct AgentEnv {
    /// The fixed list, and what the configuration names: for all of them.
    common: BTreeMap<String, String>,
    /// Access to models: for the one whose model it is.
    access: BTreeMap<String, String>,
}

/// What agents may see of these variables: the fixed list, what `extra` names,
/// and to each the access to its own model.
///
/// An allow-list, so that a secret of ours that nobody thought of stays here.
pub fn agent_env(vars: impl IntoIterator<Item = (String, String)>, extra: &[String]) -> AgentEnv {
    let mut env = AgentEnv::default();
    for (name, value) in vars {
        if common(&name) || extra.contains(&name) {
            env.common.insert(name, value);
        } else if AGENTS.iter().any(|it| starts(&name, it.env_prefixes())) {
            env.access.insert(name, value);
        }
    }
    env
}

impl AgentEnv {
    /// Where programs are looked for.
    pub fn path(&self) -> &str {
        self.common.get("PATH").map_or("", String::as_str)
    }

    pub(crate) fn home(&self) -> Option<&str> {
        self.common.get("HOME").map(String::as_str)
    }

    /// The environment of one agent.
    pub(crate) fn of(&self, agent: &dyn Agent) -> BTreeMap<String, String> {
        let own = self
            .access
            .iter()
            .filter(|(name, _)| starts(name, agent.env_prefixes()));
        let needs = agent
            .env()
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        // What the user says goes before what we think.
        let told = self.common.iter().chain(own);
        needs
            .chain(told.map(|(name, value)| (name.clone(), value.clone())))
            .collect()
    }

    /// The environment of what is not an agent: access to no model is in it, by
    /// whatever way it got here.
    pub(crate) fn of_none(&self) -> BTreeMap<String, String> {
        let access = |name: &str| AGENTS.iter().any(|it| starts(name, it.env_prefixes()));
        let told = self.common.iter().filter(|(name, _)| !access(name));
        told.map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// The variables that give the agent program of this name access to its
    /// model, as far as they are set.
    pub fn access_of(&self, program: &str) -> Vec<&str> {
        let agent = AGENTS.iter().find(|it| it.name() == program);
        let prefixes = agent.map_or(&[][..], |it| it.env_prefixes());
        let all = self.common.keys().chain(self.access.keys());
        all.filter(|name| starts(name, prefixes))
            .map(String::as_str)
            .collect()
    }
}

/// The environment of our own git calls. None of our tokens is in it: what an
/// agent left in a worktree (a filter, an attribute) may run inside of git.
pub fn git_env(vars: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    vars.into_iter()
        .filter(|(name, _)| {
            common(name) || GIT.contains(&name.as_str()) || starts(name, &GIT_PREFIXES)
        })
        .collect()
}

fn common(name: &str) -> bool {
    COMMON.contains(&name) || starts(name, &COMMON_PREFIXES)
}

fn starts(name: &str, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|it| name.starts_with(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(env: &BTreeMap<String, String>) -> Vec<&str> {
        env.keys().map(String::as_str).collect()
    }

    fn machine() -> Vec<(String, String)> {
        [
            "PATH",
            "HOME",
            "USER",
            "LANG",
            "LC_ALL",
            "TERM",
            "TMPDIR",
            "ANTHROPIC_API_KEY",
            "CLAUDE_CODE_OAUTH_TOKEN",
            "CLAUDE_CODE_MAX_RETRIES",
            "CYRUS_API_TOKEN",
            "LINEAR_API_TOKEN",
            "GITHUB_TOKEN",
            "CODEGEN_API_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "OPENAI_API_KEY",
            "DATABASE_URL",
            "SSH_AUTH_SOCK",
            "HTTPS_PROXY",
            "GIT_DIR",
            "GIT_AUTHOR_NAME",
            "CLAUDECODE",
        ]
        .map(|it| (it.to_owned(), "x".to_owned()))
        .to_vec()
    }

    fn of(name: &str, env: &AgentEnv) -> BTreeMap<String, String> {
        env.of(crate::agent::known(name).expect("an agent"))
    }

    #[test]
    fn an_agent_sees_the_fixed_list_its_own_access_and_what_is_named() {
        let fixed = ["HOME", "LANG", "LC_ALL", "PATH", "TERM", "TMPDIR", "USER"];
        let claude = [
            "ANTHROPIC_API_KEY",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
            "CLAUDE_CODE_MAX_RETRIES",
            "CLAUDE_CODE_OAUTH_TOKEN",
        ];
        let env = agent_env(machine(), &[]);
        let seen = of("claude", &env);
        assert_eq!(names(&seen), [&claude[..], &fixed[..]].concat());
        assert_eq!(seen["CLAUDE_CODE_MAX_RETRIES"], "x", "as the user has it");
        assert_eq!(
            env.access_of("claude"),
            [
                "ANTHROPIC_API_KEY",
                "CLAUDE_CODE_MAX_RETRIES",
                "CLAUDE_CODE_OAUTH_TOKEN"
            ]
        );
        assert!(env.access_of("nobody").is_empty());

        let named = ["DATABASE_URL".to_owned(), "ABSENT".into()];
        let more = of("claude", &agent_env(machine(), &named));
        assert_eq!(more.len(), seen.len() + 1);
        assert!(more.contains_key("DATABASE_URL"));
        // One who names the access of another means it.
        let both = agent_env(machine(), &["OPENAI_API_KEY".to_owned()]);
        assert!(of("claude", &both).contains_key("OPENAI_API_KEY"));
    }

    #[test]
    fn git_sees_the_machines_credentials_and_none_of_our_tokens() {
        assert_eq!(
            names(&git_env(machine())),
            [
                "GIT_AUTHOR_NAME",
                "HOME",
                "HTTPS_PROXY",
                "LANG",
                "LC_ALL",
                "PATH",
                "SSH_AUTH_SOCK",
                "TERM",
                "TMPDIR",
                "USER",
            ]
        );
    }
}
