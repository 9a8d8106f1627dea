//! Agent programs: how one is started for a job, and what its output means.
//! One variant per program; what is peculiar to one stays in its module.

mod claude;

use std::collections::BTreeMap;
use std::io::{self, BufRead};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use shared::issue::{Ending, Failure, FailureClass};
use shared::ports::Job;

use crate::folder::Exit;

/// A program that works on a prompt.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    Claude(PathBuf),
}

impl Program {
    /// Where the program is, or what to do about it.
    pub(crate) fn find(&self, env: &BTreeMap<String, String>) -> Result<PathBuf, Failure> {
        let Self::Claude(name) = self;
        find_program(name, env.get("PATH").map_or("", String::as_str)).ok_or_else(|| Failure {
            class: FailureClass::Invalid,
            message: format!(
                "the agent program `{}` was not found on the runner's machine: install Claude \
                 Code there (`npm install -g @anthropic-ai/claude-code`), or name the program in \
                 CLAUDE_BIN",
                name.display()
            ),
        })
    }

    /// Its arguments for a job; the prompt itself comes over standard input.
    pub(crate) fn args(&self, job: &Job) -> Vec<String> {
        match self {
            Self::Claude(_) => claude::args(job),
        }
    }

    /// What it needs in its environment beside what all agents get.
    pub(crate) fn env(&self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Claude(_) => &claude::ENV,
        }
    }

    /// What its output comes to. `asked`: an answer of a given form was asked for.
    pub(crate) fn outcome(
        &self,
        output: impl BufRead,
        exit: &Exit,
        complaint: &str,
        asked: bool,
    ) -> io::Result<Ending> {
        match self {
            Self::Claude(_) => claude::outcome(output, exit, complaint, asked),
        }
    }
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
}
