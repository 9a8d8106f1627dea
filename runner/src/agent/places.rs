//! Where agent programs are on this machine.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use shared::issue::{Failure, FailureClass};

use super::{AGENTS, Agent};

/// Where each agent program is to be looked for: a path, or a name to be found
/// on the agents' `PATH`. `variable` gives the value of a variable, if it is set.
pub fn programs(variable: impl Fn(&str) -> Option<PathBuf>) -> BTreeMap<String, PathBuf> {
    let place = |it: &dyn Agent| variable(it.variable()).unwrap_or_else(|| it.binary().into());
    AGENTS
        .iter()
        .map(|it| (it.name().to_owned(), place(*it)))
        .collect()
}

/// The names of the agent programs that this machine really has.
pub fn installed(programs: &BTreeMap<String, PathBuf>, path: &str) -> Vec<String> {
    programs
        .iter()
        .filter(|(_, place)| find_program(place, path).is_some())
        .map(|(name, _)| name.clone())
        .collect()
}

/// Where the agent program of this name is, or a sentence with the remedy.
pub fn locate(
    name: &str,
    programs: &BTreeMap<String, PathBuf>,
    path: &str,
) -> Result<PathBuf, Failure> {
    located(known(name)?, programs, path)
}

/// The agent that a job asks for.
pub(crate) fn known(name: &str) -> Result<&'static dyn Agent, Failure> {
    let found = AGENTS.iter().find(|it| it.name() == name);
    found.copied().ok_or_else(|| {
        let all: Vec<&str> = AGENTS.iter().map(|it| it.name()).collect();
        invalid(format!(
            "the runner knows no agent program `{name}`: choose one of {} (`defaultRunner`, a \
             label, or `[agent=…]` in the description)",
            all.join(", ")
        ))
    })
}

/// The agent that a job asks for, as it is to be spoken to on this machine.
pub(crate) fn at_hand(
    name: &str,
    programs: &BTreeMap<String, PathBuf>,
    path: &str,
) -> Result<&'static dyn Agent, Failure> {
    let agent = known(name)?;
    let program = located(agent, programs, path).ok();
    Ok(program.and_then(|it| agent.at(&it)).unwrap_or(agent))
}

/// Where the program of an agent is, or what to do about it.
pub(crate) fn located(
    agent: &dyn Agent,
    programs: &BTreeMap<String, PathBuf>,
    path: &str,
) -> Result<PathBuf, Failure> {
    let place = programs
        .get(agent.name())
        .map_or_else(|| Path::new(agent.binary()), PathBuf::as_path);
    find_program(place, path).ok_or_else(|| {
        invalid(format!(
            "the agent program `{}` was not found on the runner's machine: {}",
            place.display(),
            agent.remedy()
        ))
    })
}

/// Where a program is: `name` itself if it is a path, else the first of that
/// name on `path`.
pub fn find_program(name: &Path, path: &str) -> Option<PathBuf> {
    let runs = |it: &Path| {
        it.metadata()
            .is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    };
    if name.components().count() > 1 {
        // Absolute: the agent is started from another folder than ours.
        return std::path::absolute(name).ok().filter(|it| runs(it));
    }
    std::env::split_paths(path)
        .filter(|it| it.is_absolute())
        .map(|folder| folder.join(name))
        .find(|it| runs(it))
}

fn invalid(message: String) -> Failure {
    Failure {
        class: FailureClass::Invalid,
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_a_path_or_on_the_path() {
        let sh = find_program(Path::new("sh"), "/nowhere:/usr/bin:/bin").expect("a shell");
        assert!(sh.is_absolute());
        assert_eq!(find_program(&sh, ""), Some(sh.clone()));
        assert_eq!(find_program(Path::new("sh"), "/nowhere"), None);
        assert_eq!(
            find_program(Path::new("/bin/no-such-program"), "/bin"),
            None
        );
        // A folder is no program.
        assert_eq!(find_program(Path::new("bin"), "/:/usr"), None);
    }

    #[test]
    fn a_program_is_where_its_variable_says_and_only_then_there() {
        let named = programs(|it| (it == "CLAUDE_BIN").then(|| "/bin/sh".into()));
        assert_eq!(named["claude"], Path::new("/bin/sh"));
        assert_eq!(installed(&named, ""), ["claude"]);
        let usual = programs(|_| None);
        assert_eq!(usual["claude"], Path::new("claude"));
        assert!(installed(&usual, "/nowhere").is_empty());
    }

    #[test]
    fn a_program_that_is_unknown_or_absent_is_said_with_the_remedy() {
        let Err(unknown) = known("cursor") else {
            panic!("nobody knows it");
        };
        assert_eq!(unknown.class, FailureClass::Invalid);
        assert!(unknown.message.contains("`cursor`"), "{unknown:?}");
        for agent in AGENTS {
            assert!(unknown.message.contains(agent.name()), "{unknown:?}");
            let absent = located(*agent, &BTreeMap::new(), "").expect_err("it is not there");
            assert_eq!(absent.class, FailureClass::Invalid);
            assert!(absent.message.contains(agent.variable()), "{absent:?}");
        }
    }
}
