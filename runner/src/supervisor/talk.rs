//! Speaking with an agent that listens while it works: what it is told goes down
//! a pipe, and the pipe is closed when it has answered all and nothing waits.
//! What comes just after that is for the next leg.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::AsyncWriteExt;
use tokio::process::ChildStdin;
use tokio::sync::mpsc;

use crate::agent::Agent;
use crate::folder::ProcessFolder;
use crate::tail::Tail;

/// What is read of its output at one look, bytes.
const LOOK_BYTES_MAX: usize = 8 * 1024 * 1024;

pub(super) struct Talk {
    agent: &'static dyn Agent,
    folder: ProcessFolder,
    tail: Tail,
    /// `None`: closed. Bounded by the number of messages that a job may have.
    pipe: Option<mpsc::UnboundedSender<Vec<u8>>>,
    /// What was put into the pipe, and how much of it is through.
    put: usize,
    through: Arc<AtomicUsize>,
    /// The messages that the agent had at its start, and has now.
    had: usize,
    told: usize,
}

impl Talk {
    /// Begins with the input of the process.
    pub(super) fn begin(
        agent: &'static dyn Agent,
        folder: &ProcessFolder,
        mut stdin: ChildStdin,
        input: Vec<u8>,
        told: usize,
    ) -> Self {
        let (pipe, mut words) = mpsc::unbounded_channel::<Vec<u8>>();
        let through = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&through);
        // A task of its own: an agent that does not read makes only this one wait.
        tokio::spawn(async move {
            while let Some(bytes) = words.recv().await {
                if stdin.write_all(&bytes).await.is_err() || stdin.flush().await.is_err() {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let mut talk = Self {
            agent,
            folder: folder.clone(),
            tail: Tail::new(folder.output()),
            pipe: Some(pipe),
            put: 0,
            through,
            had: told,
            told,
        };
        talk.say(input);
        talk
    }

    /// Passes on what is new; ends the talk where nothing is left to say.
    pub(super) fn look(&mut self) -> io::Result<()> {
        if self.pipe.is_none() {
            return Ok(());
        }
        let all_read = self.tail.read(self.agent, LOOK_BYTES_MAX)?;
        while let Some(message) = self.folder.job().message(self.told + 1)? {
            let id = format!("message {}", message.id);
            self.say(self.agent.said(&id, &message.text));
            self.told += 1;
            self.tail.seen.idle = false;
        }
        let through = self.through.load(Ordering::Relaxed) == self.put;
        if all_read && through && self.tail.seen.idle {
            self.close();
        }
        Ok(())
    }

    pub(super) fn close(&mut self) {
        self.pipe = None;
    }

    /// How many messages an agent has that ended by itself. One that did so before
    /// it was told that nothing more comes may have left some unread.
    pub(super) fn heard(&self) -> usize {
        if self.pipe.is_none() {
            self.told
        } else {
            self.had
        }
    }

    fn say(&mut self, bytes: Vec<u8>) {
        if let Some(pipe) = &self.pipe {
            // One that reads no more is about to end.
            let _ = pipe.send(bytes);
            self.put += 1;
        }
    }
}
