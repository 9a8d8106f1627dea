//! The ports, kept by the simulated world. Each call yields before and after it
//! takes effect, and may fail at either point.

use std::future::poll_fn;
use std::sync::{Arc, MutexGuard};
use std::task::Poll;

use async_trait::async_trait;
use shared::issue::{
    Activity, Brief, Effect, Event, ExecutorKind, FailureClass, Fault, IssueId, Policy, PullFacts,
    Rules, RunId, SessionId, Sight, Stage, Time,
};
use shared::ports::{
    Append, AppendError, Attention, Clock, Executor, Figures, Forge, Head, Job, Log, MergeAnswer,
    MergeAsk, Message, OpenAsk, Opened, Place, PlanItem, Policies, PullAsk, Register,
    RegisterWrite, Registers, Settlement, Started, Told, Tracker,
};
use shared::runner::queue::FarRunners;
use shared::store::memory::MemoryLog;
use uuid::Uuid;

use crate::world::{CALL_SECONDS_MAX, Shared, World};

/// One process's view of the world.
#[derive(Clone)]
pub(crate) struct View(pub Shared);

/// Where a call's trouble strikes.
enum Trouble {
    None,
    Before(Fault),
    After(Fault),
}

impl View {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().expect("the simulation has one thread")
    }

    /// Gives way to the others a few times.
    async fn give_way(&self) {
        let turns = {
            let mut world = self.world();
            // Now and then much happens meanwhile.
            if world.rng.u8(0..15) == 0 {
                world.rng.u16(0..400)
            } else {
                world.rng.u16(0..4)
            }
        };
        self.turns(turns).await;
    }

    /// The same where nothing takes long.
    pub(crate) async fn give_way_briefly(&self) {
        let turns = self.world().rng.u16(0..4);
        self.turns(turns).await;
    }

    async fn turns(&self, mut turns: u16) {
        poll_fn(|context| {
            if turns == 0 {
                return Poll::Ready(());
            }
            turns -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// A call to the outside: it waits, takes effect, waits, and answers; each
    /// of which may go wrong. A call that takes too long has no effect.
    async fn call<T>(
        &self,
        name: &'static str,
        work: impl FnOnce(&mut World) -> T,
    ) -> Result<T, Fault> {
        let (begun, trouble) = {
            let mut world = self.world();
            let (before, after, busy) = (
                world.weather.fault_before,
                world.weather.fault_after,
                world.weather.busy,
            );
            let trouble = if world.dice(busy) {
                world.visit("somebody was too busy");
                let retry_after_seconds = world.rng.bool().then_some(7);
                Trouble::Before(Fault::Busy {
                    why: format!("{name}: busy"),
                    retry_after_seconds,
                })
            } else if world.dice(before) {
                Trouble::Before(Fault::Transient {
                    why: format!("{name}: no connection"),
                })
            } else if world.dice(after) {
                Trouble::After(Fault::Ambiguous {
                    why: format!("{name}: the reply was lost"),
                })
            } else {
                Trouble::None
            };
            (world.now, trouble)
        };
        self.give_way().await;
        let late = |world: &World| world.now.duration_since(begun).as_secs() > CALL_SECONDS_MAX;
        let answer = {
            let mut world = self.world();
            if late(&world) {
                world.visit("a call timed out before it took effect");
                return Err(Fault::Ambiguous {
                    why: format!("{name}: timed out"),
                });
            }
            if let Trouble::Before(fault) = trouble {
                return Err(fault);
            }
            work(&mut world)
        };
        self.give_way().await;
        let mut world = self.world();
        if late(&world) {
            world.visit("a call timed out after it took effect");
            return Err(Fault::Ambiguous {
                why: format!("{name}: timed out"),
            });
        }
        match trouble {
            Trouble::After(fault) => {
                world.visit("a reply was lost although the thing was done");
                Err(fault)
            }
            Trouble::None | Trouble::Before(_) => Ok(answer),
        }
    }
}

impl Clock for View {
    fn now(&self) -> Time {
        self.world().now
    }
}

#[async_trait]
impl Policies for View {
    async fn policy(&self, brief: &Brief) -> Result<Policy, String> {
        let world = self.world();
        let found = world
            .issues
            .values()
            .find(|(it, _)| it.identifier == brief.identifier);
        found
            .map(|(_, policy)| policy.clone())
            .ok_or_else(|| "no repository serves it".into())
    }

    async fn rules(&self) -> Rules {
        let world = self.world();
        let policy = world.issues.values().next().map(|(_, policy)| policy);
        Rules::of(policy.expect("a world has issues"))
    }
}

#[async_trait]
impl Tracker for View {
    async fn read(&self, issue: &IssueId) -> Result<Brief, Fault> {
        self.call("read", |world| world.issues[issue].0.clone())
            .await
    }

    async fn say(&self, id: Uuid, session: &SessionId, activity: &Activity) -> Result<(), Fault> {
        self.call("say", |world| {
            let said = world.said.entry(session.clone()).or_default();
            if said.iter().any(|(known, _)| *known == id) {
                world.visit("Linear refused to say a thing twice");
            } else {
                said.push((id, activity.clone()));
            }
        })
        .await
    }

    async fn show_plan(&self, session: &SessionId, items: &[PlanItem]) -> Result<(), Fault> {
        self.call("plan", |world| {
            world.plans.insert(session.clone(), items.to_vec());
        })
        .await
    }

    async fn link(&self, _session: &SessionId, _label: &str, _url: &str) -> Result<(), Fault> {
        self.call("link", |_| ()).await
    }

    async fn set_stage(&self, issue: &IssueId, stage: Stage) -> Result<(), Fault> {
        self.call("stage", |world| {
            world.stages.entry(issue.clone()).or_default().push(stage)
        })
        .await
    }
}

#[async_trait]
impl Forge for View {
    async fn facts(&self, asks: &[PullAsk]) -> Vec<Result<Option<PullFacts>, Fault>> {
        let mut answers = Vec::new();
        for ask in asks {
            answers.push(self.call("facts", |world| world.facts(ask)).await);
        }
        answers
    }

    async fn merge(&self, ask: &MergeAsk) -> Result<MergeAnswer, Fault> {
        self.call("merge", |world| world.merge(ask)).await
    }

    async fn open(&self, _ask: &OpenAsk) -> Result<Opened, Fault> {
        Err(Fault::Permanent {
            class: FailureClass::Invalid,
            why: "runs open their own".into(),
        })
    }
}

/// An executor of the simulated world. The local one knows its runs by their
/// keys; the far one has to be searched, and its list lags behind.
pub(crate) struct Runs {
    pub(crate) view: View,
    pub(crate) kind: ExecutorKind,
}

#[async_trait]
impl Executor for Runs {
    fn kind(&self) -> ExecutorKind {
        self.kind
    }

    async fn start(&self, job: &Job) -> Result<Started, Fault> {
        let run = self
            .view
            .call("start", |world| {
                let known = world.runs.iter().find(|run| run.job.key == job.key);
                match known.filter(|_| self.kind == ExecutorKind::Local) {
                    Some(run) => run.id.clone(),
                    None => world.create(self.kind, job, None),
                }
            })
            .await?;
        Ok(Started {
            run,
            url: None,
            begun: false,
        })
    }

    async fn settle(&self, job: &Job) -> Result<Settlement, Fault> {
        let local = self.kind == ExecutorKind::Local;
        let found = self
            .view
            .call("settle", |world| {
                let now = world.now;
                let run = world
                    .runs
                    .iter()
                    .find(|run| run.job.key == job.key && (local || run.visible <= now));
                let found = run.map(|run| run.id.clone());
                world.visit(match found {
                    Some(_) => "a doubtful start was found",
                    None => "a doubtful start was not found",
                });
                found
            })
            .await?;
        Ok(match found {
            Some(run) => Settlement::Found(Started {
                run,
                url: None,
                begun: false,
            }),
            None => Settlement::Absent { certain: local },
        })
    }

    async fn observe(&self, runs: &[RunId]) -> Vec<Result<Sight, Fault>> {
        let answer = self
            .view
            .call("observe", |w| {
                runs.iter().map(|it| w.sight(it)).collect::<Vec<_>>()
            })
            .await;
        match answer {
            Ok(sights) => sights.into_iter().map(Ok).collect(),
            Err(fault) => runs.iter().map(|_| Err(fault.clone())).collect(),
        }
    }

    async fn stop(&self, run: &RunId) -> Result<(), Fault> {
        self.view
            .call("stop", |world| {
                let at = world.now + world.seconds(0..=20);
                world.note(format!("asked {run} to stop"));
                if let Some(run) = world.runs.iter_mut().find(|it| it.id == *run) {
                    run.stopped.get_or_insert(at);
                }
            })
            .await
    }

    async fn tell(&self, run: &RunId, message: &Message) -> Result<Told, Fault> {
        let told = self
            .view
            .call("tell", |world| {
                let now = world.now;
                let run = world.runs.iter_mut().find(|it| it.id == *run);
                let Some(run) = run.filter(|it| it.alive(now)) else {
                    world.visit("a message came too late for its run");
                    return Told::TooLate;
                };
                match run.hear(message) {
                    Ok(true) => world.visit("a message reached a run"),
                    Ok(false) => world.visit("a run was told a message again"),
                    Err(wrong) => world.broke(wrong),
                }
                Told::Accepted
            })
            .await?;
        // Messages are few: their answers are lost more often than others.
        let mut world = self.view.world();
        let chance = world.weather.remarks / 2;
        if world.dice(chance) {
            let why = "tell: the reply was lost".to_owned();
            return Err(Fault::Ambiguous { why });
        }
        Ok(told)
    }
}

/// The local executor where all its machines are elsewhere: the real queue.
pub(crate) struct Queue {
    pub(crate) view: View,
    pub(crate) inner: FarRunners,
}

#[async_trait]
impl Executor for Queue {
    fn kind(&self) -> ExecutorKind {
        self.inner.kind()
    }

    async fn start(&self, job: &Job) -> Result<Started, Fault> {
        self.inner.start(job).await
    }

    async fn settle(&self, job: &Job) -> Result<Settlement, Fault> {
        let settled = self.inner.settle(job).await?;
        self.view.world().visit(match settled {
            Settlement::Found(_) => "a doubtful start was found",
            Settlement::Absent { .. } => "a doubtful start was not found",
        });
        Ok(settled)
    }

    async fn observe(&self, runs: &[RunId]) -> Vec<Result<Sight, Fault>> {
        self.inner.observe(runs).await
    }

    async fn stop(&self, run: &RunId) -> Result<(), Fault> {
        self.inner.stop(run).await?;
        let mut world = self.view.world();
        let now = world.now;
        world.note(format!("the queue was asked to stop {run}"));
        world.ledger.stop(&run.0, now);
        Ok(())
    }

    async fn tell(&self, run: &RunId, message: &Message) -> Result<Told, Fault> {
        self.inner.tell(run, message).await
    }
}

/// The memory store, with trouble of its own.
#[derive(Clone)]
pub(crate) struct Store {
    pub(crate) view: View,
    pub(crate) inner: Arc<MemoryLog>,
    /// It never takes long: who asks comes again soon.
    pub(crate) brisk: bool,
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
        match self.inner.append(append).await {
            Err(AppendError::Conflict) => {
                self.view
                    .world()
                    .visit("two wrote at once, and one was refused");
                return Err(AppendError::Conflict);
            }
            other => other?,
        }
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
        self.inner.put(write, seen, now).await?;
        self.wait().await;
        Ok(self.may_fail("the answer of the registers was lost", begun)?)
    }
}

impl Store {
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
        let late = world.now.duration_since(begun).as_secs() > CALL_SECONDS_MAX;
        anyhow::ensure!(!late && !world.dice(chance), why);
        Ok(())
    }
}
