//! A runner's own folder, held by one process, and the name that it goes by.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The characters of a host's name that go into ours.
const HOST_CHARS_MAX: usize = 64;

/// The folder, ours as long as this lives.
#[derive(Debug)]
pub struct Home {
    path: PathBuf,
    _lock: File,
}

impl Home {
    /// The folder `runner` of a home, unless another runner lives there.
    pub fn open(home: &Path) -> anyhow::Result<Self> {
        let path = home.join("runner");
        let shown = path.display();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("make {shown}"))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .with_context(|| format!("open the lock in {shown}"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => anyhow::bail!(
                "another runner lives in {shown}: stop it, or give this one a home of its own \
                 (--home)"
            ),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {shown}")),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The host's name and the number that is kept here; `fresh` becomes it
    /// where there is none yet.
    pub fn name(&self, host: &str, fresh: u32) -> io::Result<String> {
        let file = self.path.join("number");
        let kept = match fs::read_to_string(&file) {
            Ok(text) => text.trim().parse::<u32>().ok(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let number = match kept {
            Some(number) => number,
            None => {
                let mut file = File::create(&file)?;
                writeln!(file, "{fresh}")?;
                file.sync_all()?;
                fresh
            }
        };
        let host: String = host.chars().take(HOST_CHARS_MAX).collect();
        Ok(format!("{host}-{number}"))
    }
}

/// What this machine calls itself.
pub fn host_name() -> String {
    let name = rustix::system::uname();
    let name = name.nodename().to_string_lossy().trim().to_owned();
    if name.is_empty() {
        "runner".into()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_keeps_its_number_and_its_home_to_itself() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = Home::open(folder.path()).expect("a home");
        assert_eq!(home.name("mac", 7).expect("a name"), "mac-7");
        assert_eq!(home.name("mac", 8).expect("a name"), "mac-7");
        let second = Home::open(folder.path()).expect_err("it is taken");
        assert!(second.to_string().contains("another runner"), "{second}");
        drop(home);
        let home = Home::open(folder.path()).expect("it is free again");
        assert_eq!(home.name("mac", 9).expect("a name"), "mac-7");
        assert!(!host_name().is_empty());
    }
}
