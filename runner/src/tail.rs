//! Reading on in the output of an agent, while it works and when it has ended.
//! What the output means, `agent` says.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use crate::agent::{Agent, Ear, Seen};

const CHUNK_BYTES: usize = 64 * 1024;

/// A place in an output, and what was seen up to there.
pub(crate) struct Tail {
    path: PathBuf,
    at: u64,
    ear: Ear,
    pub(crate) seen: Seen,
}

impl Tail {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            at: 0,
            ear: Ear::default(),
            seen: Seen::default(),
        }
    }

    /// Reads what is new, some `bytes_max` of it. Is that all there is?
    pub(crate) fn read(&mut self, agent: &dyn Agent, bytes_max: usize) -> io::Result<bool> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.at))?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut left = bytes_max;
        while left > 0 {
            let read = file.read(&mut chunk)?;
            if read == 0 {
                return Ok(true);
            }
            self.ear.hear(agent, &chunk[..read], &mut self.seen);
            self.at += read as u64;
            left = left.saturating_sub(read);
        }
        Ok(false)
    }

    /// All that there is, from a process that prints no more.
    pub(crate) fn into_end(mut self, agent: &dyn Agent) -> io::Result<Seen> {
        while !self.read(agent, usize::MAX)? {}
        self.ear.end(agent, &mut self.seen);
        Ok(self.seen)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;
    use crate::agent::known;

    #[test]
    fn what_is_new_is_read_once_and_in_bounded_parts() {
        let home = tempfile::tempdir().expect("a folder");
        let path = home.path().join("output");
        let agent = known("claude").expect("an agent");
        let mut tail = Tail::new(path.clone());
        assert!(tail.read(agent, 1).expect("read"), "nothing yet");

        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .expect("a file");
        let line = |note: &str| {
            let text = format!(r#"{{"type":"text","text":"{note}"}}"#);
            format!(r#"{{"type":"assistant","message":{{"content":[{text}]}}}}"#)
        };
        // A line comes in two parts.
        let (head, rest) = (line("one"), line("two"));
        let cut = rest.len() / 2;
        write!(file, "{head}\n{}", &rest[..cut]).expect("written");
        assert!(tail.read(agent, CHUNK_BYTES).expect("read"));
        assert_eq!(tail.seen.note.as_deref(), Some("one"));
        writeln!(file, "{}", &rest[cut..]).expect("written");
        assert!(tail.read(agent, CHUNK_BYTES).expect("read"));
        assert_eq!(tail.seen.note.as_deref(), Some("two"));

        let long = "x".repeat(3 * CHUNK_BYTES);
        write!(file, "{long}\n{}", line("three")).expect("written");
        assert!(
            !tail.read(agent, CHUNK_BYTES).expect("read"),
            "there is more"
        );
        assert_eq!(tail.seen.note.as_deref(), Some("two"));
        let seen = tail.into_end(agent).expect("read");
        assert_eq!(seen.note.as_deref(), Some("three"), "the last line, too");
    }
}
