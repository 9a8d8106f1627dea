//! The messages of one job, as long as it takes any.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shared::ports::{Message, Told};

use crate::folder::{Folder, Unkept};

/// Takes messages until it is closed; so that none comes between the last look
/// for one and the end.
pub(crate) struct Mail {
    folder: Folder,
    closed: Mutex<bool>,
}

impl Mail {
    pub(crate) fn new(folder: Folder) -> Self {
        Self {
            folder,
            closed: Mutex::new(false),
        }
    }

    /// Keeps a message for the agent. One that is kept already changes nothing.
    pub(crate) fn put(&self, message: &Message) -> Result<Told, Unkept> {
        let closed = self.closed();
        if *closed {
            return told(&self.folder, message).map_err(Unkept::Disk);
        }
        self.folder.keep_message(message).map(|()| Told::Accepted)
    }

    /// The messages after the first `had`. Takes no more if there is none.
    pub(super) fn waiting(&self, had: usize) -> io::Result<Vec<Message>> {
        let mut closed = self.closed();
        let mut all = self.folder.messages()?;
        let waiting = all.split_off(had.min(all.len()));
        *closed = waiting.is_empty();
        Ok(waiting)
    }

    /// Takes no more.
    pub(crate) fn close(&self) {
        *self.closed() = true;
    }

    fn closed(&self) -> MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of a message for a job that takes no more.
pub(crate) fn told(folder: &Folder, message: &Message) -> io::Result<Told> {
    let kept = folder.messages()?.iter().any(|it| it.id == message.id);
    Ok(if kept { Told::Accepted } else { Told::TooLate })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: &str) -> Message {
        Message {
            id: id.into(),
            text: "t".into(),
        }
    }

    #[test]
    fn after_the_last_look_it_is_too_late() {
        let home = tempfile::tempdir().expect("a folder");
        let mail = Mail::new(Folder::at(home.path()));
        assert_eq!(mail.put(&message("a")).expect("kept"), Told::Accepted);
        let waiting = mail.waiting(0).expect("read");
        assert_eq!(waiting, [message("a")]);
        assert_eq!(mail.put(&message("b")).expect("kept"), Told::Accepted);
        assert!(mail.waiting(2).expect("read").is_empty());
        assert_eq!(mail.put(&message("c")).expect("told"), Told::TooLate);
        // What was taken once stays taken, however often it is repeated.
        assert_eq!(mail.put(&message("b")).expect("told"), Told::Accepted);
        assert!(mail.waiting(2).expect("read").is_empty());
    }
}
