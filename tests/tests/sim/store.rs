//! The store of the simulated world: the one in memory, with trouble of its own.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use shared::guard::BREAKERS;
use shared::issue::{Effect, Event, IssueId, Time};
use shared::ports::{
    Append, AppendError, Attention, Figures, Head, Log, Place, Register, RegisterWrite, Registers,
};
use shared::stats;
use shared::store::memory::MemoryLog;

use crate::ports::View;
use crate::world::CALL_SECONDS_MAX;

/// The memory store, with trouble of its own.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) view: View,
    pub(crate) inner: Arc<MemoryLog>,
    /// It never takes long: who asks comes again soon.
    pub(crate) brisk: bool,
    /// Whoever asks for a register gives up after so long.
    pub(crate) patience_seconds: i64,
}

#[async_trait]
impl Log for Store {
    async fn read(
        &self,
        issue: &IssueId,
        after: u64,
    ) -> anyhow::Result<Vec<shared::issue::Record>> {
        self.view.give_way().await;
        self.inner.read(issue, after).await
    }

    async fn append(&self, append: Append) -> Result<(), AppendError> {
        let chance = self.view.world().weather.store_fault;
        self.view.give_way().await;
        if self.view.world().dice(chance) {
            self.view.world().visit("the store failed before it wrote");
            return Err(AppendError::Failed(anyhow::anyhow!(
                "the store is not there"
            )));
        }
        let (issue, over) = (append.issue.clone(), append.head.phase == "done");
        let merging: Vec<u64> = append
            .events
            .iter()
            .filter_map(|it| match it {
                Event::Requested(Effect::Merge { number, .. }) => Some(*number),
                _ => None,
            })
            .collect();
        let begins = append.events.iter().any(|it| {
            matches!(
                it,
                Event::Requested(Effect::Start { .. } | Effect::Merge { .. })
            )
        });
        let ends = append
            .events
            .iter()
            .any(|it| matches!(it, Event::Done { .. }));
        let cancels = append
            .events
            .iter()
            .any(|it| matches!(it, Event::CancelAsked { .. }));
        let lines: Vec<String> = append
            .events
            .iter()
            .map(shared::issue::words::sentence)
            .collect();
        let copy = append.clone();
        match self.inner.append(append).await {
            Err(AppendError::Conflict) => {
                self.view
                    .world()
                    .visit("two wrote at once, and one was refused");
                return Err(AppendError::Conflict);
            }
            Err(AppendError::OverLimit { account }) => {
                let mut world = self.view.world();
                world.visit(if account.starts_with("day/") {
                    "two wanted the last money of a day at once, and one was refused by the store"
                } else {
                    "two wanted to tell the same alert at once, and one was refused by the store"
                });
                return Err(AppendError::OverLimit { account });
            }
            other => other?,
        }
        self.book(&copy);
        {
            let mut world = self.view.world();
            for line in lines {
                world.note(line);
            }
            for number in merging {
                world.nudge(number);
            }
            let spite = world.weather.spite;
            if begins && world.dice(spite) {
                world.spited.push(issue.clone());
            }
            if cancels {
                let now = world.now;
                world.cancelled.insert(issue.clone(), now);
            }
            if ends {
                world.cancelled.remove(&issue);
            }
            if over {
                world.open.remove(&issue);
                world.done.insert(issue);
            } else {
                world.done.remove(&issue);
                world.open.insert(issue);
            }
        }
        self.view.give_way().await;
        if self.view.world().dice(chance) {
            self.view
                .world()
                .visit("the store wrote and its answer was lost");
            return Err(AppendError::Failed(anyhow::anyhow!(
                "the answer of the store was lost"
            )));
        }
        Ok(())
    }

    async fn attention(&self, now: Time, limit: usize) -> anyhow::Result<Vec<Attention>> {
        self.view.give_way().await;
        self.inner.attention(now, limit).await
    }

    async fn find(&self, name: &str) -> anyhow::Result<Option<IssueId>> {
        self.inner.find(name).await
    }

    async fn heads(&self, after: Option<&Place>, limit: usize) -> anyhow::Result<Vec<Head>> {
        self.inner.heads(after, limit).await
    }

    async fn accounts(&self, names: &[String]) -> anyhow::Result<Vec<Figures>> {
        self.inner.accounts(names).await
    }

    async fn park(&self, issue: &IssueId, why: &str) -> anyhow::Result<()> {
        panic!("{issue} was parked: {why}")
    }

    async fn rebuild(&self, head: Head) -> Result<(), AppendError> {
        self.inner.rebuild(head).await
    }
}

#[async_trait]
impl Registers for Store {
    async fn get(&self, shelf: &str, name: &str, now: Time) -> anyhow::Result<Option<Register>> {
        let begun = self.wait().await;
        self.may_fail("the registers could not be read", begun)?;
        self.inner.get(shelf, name, now).await
    }

    async fn list(&self, shelf: &str, now: Time) -> anyhow::Result<Vec<Register>> {
        let begun = self.wait().await;
        self.may_fail("the registers could not be read", begun)?;
        self.inner.list(shelf, now).await
    }

    async fn put(&self, write: RegisterWrite, seen: u64, now: Time) -> Result<(), AppendError> {
        let begun = self.wait().await;
        self.may_fail("a register could not be written", begun)?;
        let half_open = write.shelf == BREAKERS
            && (write.value.as_ref()).is_some_and(|it| it["state"] == "half_open");
        self.inner.put(write, seen, now).await?;
        if half_open {
            self.view.world().visit("a breaker was half open");
        }
        self.wait().await;
        Ok(self.may_fail("the answer of the registers was lost", begun)?)
    }
}

impl Store {
    pub(crate) fn new(view: &View, inner: &Arc<MemoryLog>) -> Self {
        Self {
            view: view.clone(),
            inner: Arc::clone(inner),
            brisk: false,
            patience_seconds: CALL_SECONDS_MAX,
        }
    }

    /// Enters in the books what was written, and compares them with the accounts.
    fn book(&self, append: &Append) {
        let mut world = self.view.world();
        let mut books = std::mem::take(&mut world.books);
        let news = books.enter(append, &world.office.rules);
        for landmark in news.landmarks {
            world.visit(landmark);
        }
        let days = books.days();
        let names: Vec<String> = days.iter().map(|it| stats::day_account(*it)).collect();
        let accounts = self.inner.accounts(&names).now_or_never();
        let accounts = accounts
            .and_then(Result::ok)
            .expect("memory answers at once");
        let wrong = books.compare(&accounts);
        world.books = books;
        for what in news.broken.into_iter().chain(wrong) {
            world.broke(what);
        }
    }

    /// Waits a while; since when.
    async fn wait(&self) -> Time {
        let begun = self.view.world().now;
        if self.brisk {
            self.view.give_way_briefly().await;
        } else {
            self.view.give_way().await;
        }
        begun
    }

    /// As every adapter does, it gives up what takes too long.
    fn may_fail(&self, why: &'static str, begun: Time) -> anyhow::Result<()> {
        let mut world = self.view.world();
        let chance = world.weather.store_fault;
        let late = world.now.duration_since(begun).as_secs() > self.patience_seconds;
        anyhow::ensure!(!late && !world.dice(chance), why);
        Ok(())
    }
}
