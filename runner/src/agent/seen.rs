//! What the output of one process of an agent says so far: it is read while the
//! agent works, and again when it has ended.

use std::collections::BTreeSet;

use serde_json::Value;
use shared::issue::{TEXT_BYTES_MAX, clip};

use super::{Agent, Cost};

/// A line longer than this is passed over, bytes.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What an agent does just now is told in as many bytes at most.
const NOTE_BYTES_MAX: usize = 200;
/// A session is no longer than this, bytes: it goes on a command line.
const SESSION_BYTES_MAX: usize = 128;
/// Messages that wait for the agent, at most; more are not told apart.
const QUEUE_MAX: usize = 1000;
/// The agent's last words are kept up to this many bytes: an answer may be there.
const WORDS_BYTES_MAX: usize = 2 * 1024 * 1024;
/// So is the text of an error.
const ERROR_BYTES_MAX: usize = 4 * 1024;

/// What the output of one process says so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// By what another process can take up where this one stopped.
    pub(crate) session: Option<String>,
    /// The latest thing that it did, in one short line.
    pub(crate) note: Option<String>,
    pub(crate) cost: Option<Cost>,
    /// What it may have cost since, USD, as its tokens tell; `None`: they tell nothing.
    pub(crate) guess: Option<f64>,
    /// The same for the whole session, of a program that counts on from process to
    /// process.
    pub(super) guess_in_all: Option<f64>,
    /// The message whose tokens were counted last.
    pub(super) counted: Option<String>,
    /// It has answered all that it has taken in, and waits for more: its standard
    /// input may be closed. What was written before is still worked on then.
    pub(crate) idle: bool,
    /// How many events there were.
    pub(super) events: usize,
    /// The last event that says how it went. One process may print several.
    pub(super) end: Option<Value>,
    /// The last error, by its kind or its text.
    pub(super) error: Option<String>,
    /// The last thing that the agent said.
    pub(super) words: Option<String>,
    /// Messages that the agent has got and not begun with.
    pub(super) queue: BTreeSet<String>,
    /// It is at something.
    pub(super) busy: bool,
}

impl Seen {
    /// What it has cost if it ended here. `cut`: not by itself.
    pub(crate) fn spent(&self, cut: bool) -> Option<Cost> {
        let guess = self.guess.unwrap_or_default();
        match self.cost {
            Some(cost) => Some(Cost {
                grows: cost.grows || cut,
                guess,
                ..cost
            }),
            None if self.guess.is_some() || self.guess_in_all.is_some() => Some(Cost {
                session: self.guess_in_all,
                grows: true,
                guess,
                ..Cost::default()
            }),
            None => None,
        }
    }

    /// An event, if the line is one.
    pub(super) fn event(&mut self, line: &[u8]) -> Option<Value> {
        let event = serde_json::from_slice::<Value>(line).ok()?;
        self.events += usize::from(event.is_object());
        event.is_object().then_some(event)
    }

    /// What goes on a command line must not look like a flag.
    pub(super) fn set_session(&mut self, session: &str) {
        let fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let named = session.len() <= SESSION_BYTES_MAX
            && session.starts_with(|c: char| c.is_ascii_alphanumeric())
            && session.chars().all(fit);
        if named {
            self.session = Some(session.to_owned());
        }
    }

    pub(super) fn set_note(&mut self, note: &str) {
        let line = note
            .split(|c: char| c.is_whitespace() || c.is_control())
            .filter(|it| !it.is_empty())
            // Enough words for the line, however long the text is.
            .take(NOTE_BYTES_MAX)
            .collect::<Vec<_>>()
            .join(" ");
        if !line.is_empty() {
            self.note = Some(clip(&line, NOTE_BYTES_MAX));
        }
    }

    pub(super) fn set_words(&mut self, words: &str) {
        self.set_note(words);
        self.words = Some(clip(words, WORDS_BYTES_MAX));
    }

    pub(super) fn set_error(&mut self, error: &str) {
        self.error = Some(clip(error, ERROR_BYTES_MAX));
    }

    /// It works on: what it said about its cost is not all any more.
    pub(super) fn at_work(&mut self) {
        self.busy = true;
        self.idle = false;
        if let Some(cost) = &mut self.cost {
            cost.grows = true;
        }
    }

    /// It has come to an end with what it was at.
    pub(super) fn rests(&mut self) {
        self.busy = false;
        self.look_idle();
    }

    pub(super) fn queued(&mut self, message: &str) {
        if self.queue.len() < QUEUE_MAX {
            self.queue.insert(message.to_owned());
        }
        self.look_idle();
    }

    /// It has begun with a message, or will never do.
    pub(super) fn taken(&mut self, message: &str) {
        self.queue.remove(message);
        self.look_idle();
    }

    fn look_idle(&mut self) {
        self.idle = !self.busy && self.queue.is_empty();
    }

    /// The last words as a text for people.
    pub(super) fn text(&self) -> String {
        clip(self.words.as_deref().unwrap_or_default(), TEXT_BYTES_MAX)
    }
}

/// Takes an output apart into lines, in whatever pieces it comes.
#[derive(Debug, Default)]
pub(crate) struct Ear {
    part: Vec<u8>,
    /// The rest of a line that was too long is passed over.
    deaf: bool,
}

impl Ear {
    /// Takes note of all lines that end in these bytes.
    pub(crate) fn hear(&mut self, agent: &dyn Agent, mut bytes: &[u8], seen: &mut Seen) {
        while let Some(end) = bytes.iter().position(|it| *it == b'\n') {
            self.keep(&bytes[..end]);
            self.end(agent, seen);
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    /// The output has ended: so has its last line.
    pub(crate) fn end(&mut self, agent: &dyn Agent, seen: &mut Seen) {
        if !self.deaf && !self.part.is_empty() {
            agent.read(&self.part, seen);
        }
        // Not kept as large as the largest line ever was.
        self.part = Vec::new();
        self.deaf = false;
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.part.len() + bytes.len() > LINE_BYTES_MAX {
            self.part = Vec::new();
            self.deaf = true;
        }
        if !self.deaf {
            self.part.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests;
