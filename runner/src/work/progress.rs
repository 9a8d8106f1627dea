//! How a job comes along, for whoever asks now and then: reads what is new of the
//! outputs of its legs, and no more than a bounded part of it at once.

use std::io;

use crate::agent::{Agent, Cost, known, spent};
use crate::executor::Progress;
use crate::folder::Folder;
use crate::tail::Tail;

/// What is read at one look, bytes. The rest is for the next one.
const LOOK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A place in the outputs of a job.
#[derive(Default)]
pub(crate) struct Watcher {
    /// The leg that it is at, from 1.
    leg: usize,
    tail: Option<(&'static dyn Agent, Tail)>,
    /// [`crate::folder::Terms::taken_up`].
    taken_up: Option<f64>,
    /// What the legs before have cost.
    before: Vec<Option<Cost>>,
    session: Option<String>,
}

impl Watcher {
    pub(crate) fn look(&mut self, folder: &Folder) -> io::Result<Option<Progress>> {
        let legs = folder.legs()?;
        while self.leg < legs {
            if self.leg > 0 {
                let account = folder.leg(self.leg).account()?.unwrap_or_default();
                self.before.push(account.cost);
                self.session = account.session.or(self.session.take());
            }
            self.leg += 1;
            let terms = super::legs::terms(&folder.leg(self.leg))?;
            self.taken_up = terms.taken_up;
            let tail = Tail::new(folder.leg(self.leg).output());
            self.tail = known(&terms.agent).ok().map(|agent| (agent, tail));
        }
        let Some((agent, tail)) = &mut self.tail else {
            return Ok(None);
        };
        tail.read(*agent, LOOK_BYTES_MAX)?;
        let seen = &tail.seen;
        let now = seen.spent(false).map(|it| it.since(self.taken_up));
        let costs = self.before.iter().copied().chain([now]);
        Ok(Some(Progress {
            note: seen.note.clone(),
            session: seen.session.clone().or(self.session.clone()),
            cost_usd: spent(costs).perhaps.filter(|_| agent.bills()),
        }))
    }
}
