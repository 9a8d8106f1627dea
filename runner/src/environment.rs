//! What agents, and git, may see of our environment. Pure: the variables come
//! in as an argument.

use std::collections::BTreeMap;

/// What every program needs to run at all.
const COMMON: [&str; 6] = ["PATH", "HOME", "USER", "LANG", "TERM", "TMPDIR"];
const COMMON_PREFIXES: [&str; 1] = ["LC_"];
/// The agent's own access to its model.
const AGENT_PREFIXES: [&str; 2] = ["ANTHROPIC_", "CLAUDE_CODE_"];
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

/// The environment of an agent: the fixed list, and what `extra` names.
///
/// An allow-list, so that a secret of ours that nobody thought of stays here.
pub fn agent_env(
    vars: impl IntoIterator<Item = (String, String)>,
    extra: &[String],
) -> BTreeMap<String, String> {
    vars.into_iter()
        .filter(|(name, _)| {
            common(name) || starts(name, &AGENT_PREFIXES) || extra.iter().any(|it| it == name)
        })
        .collect()
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

    #[test]
    fn an_agent_sees_the_fixed_list_and_what_is_named() {
        let fixed = [
            "ANTHROPIC_API_KEY",
            "CLAUDE_CODE_OAUTH_TOKEN",
            "HOME",
            "LANG",
            "LC_ALL",
            "PATH",
            "TERM",
            "TMPDIR",
            "USER",
        ];
        assert_eq!(names(&agent_env(machine(), &[])), fixed);
        let named = agent_env(machine(), &["DATABASE_URL".into(), "ABSENT".into()]);
        assert_eq!(named.len(), fixed.len() + 1);
        assert!(named.contains_key("DATABASE_URL"));
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
