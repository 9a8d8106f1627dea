//! The ports, kept by the simulated world. Each call yields before and after it
//! takes effect, and may fail at either point.

use std::future::poll_fn;
use std::sync::{Arc, MutexGuard};
use std::task::Poll;

use async_trait::async_trait;
use shared::issue::{
    Activity, Brief, ExecutorKind, Fault, IssueId, Policy, PullFacts, Rules, RunId, SessionId,
    Sight, Stage, Time,
};
use shared::ports::{
    BranchAsk, Clock, CloseAsk, Executor, Forge, Health, Job, LogAsk, MergeAnswer, MergeAsk,
    Message, PlanItem, Policies, PullAsk, Settlement, Started, Told, Tracker, UpdateAnswer,
    UpdateAsk,
};
use shared::runner::queue::FarRunners;
use uuid::Uuid;

use crate::office::Down;

use crate::run::Run;
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
    pub(crate) async fn give_way(&self) {
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
        self.world().office.rules
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
                if let Activity::Elicitation { options, .. } = activity {
                    world.asked.push((session.clone(), options.clone()));
                }
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

    async fn update(&self, ask: &UpdateAsk) -> Result<UpdateAnswer, Fault> {
        self.call("update", |world| world.update(ask)).await
    }

    async fn close(&self, ask: &CloseAsk) -> Result<(), Fault> {
        self.call("close", |world| world.close(ask.number)).await
    }

    async fn delete_branch(&self, ask: &BranchAsk) -> Result<(), Fault> {
        self.call("delete", |world| world.delete_branch(&ask.branch))
            .await
    }

    async fn log(&self, _: &LogAsk) -> Result<String, Fault> {
        Ok(String::new())
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
        let down = {
            let world = self.view.world();
            world.office.down(self.kind, world.now)
        };
        if let Some(fault) = down.and_then(Down::refusal) {
            self.view.give_way().await;
            return Err(fault);
        }
        let run = self
            .view
            .call("start", |world| {
                let known = world.runs.iter().find(|run| run.job.key == job.key);
                match known.filter(|_| self.kind == ExecutorKind::Local) {
                    Some(run) => run.id.clone(),
                    None => world.begin(self.kind, job),
                }
            })
            .await?;
        if down == Some(Down::Slow) {
            let why = "start: timed out".to_owned();
            return Err(Fault::Ambiguous { why });
        }
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

    async fn health(&self) -> Health {
        let world = self.view.world();
        let alive = |run: &&Run| run.executor == self.kind && run.alive(world.now);
        let slots = world
            .office
            .slots
            .filter(|_| self.kind == ExecutorKind::Local);
        let down = world.office.down(self.kind, world.now);
        Health {
            down: down
                .filter(|it| *it == Down::NobodyThere)
                .map(|_| "no runner was heard of for a while".to_owned()),
            slots_free: slots.map(|it| it.saturating_sub(world.runs.iter().filter(alive).count())),
        }
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

    async fn health(&self) -> Health {
        self.inner.health().await
    }
}

/// Stands before all that guards an executor, and sees to it that nothing is
/// asked to start while all is paused.
pub(crate) struct Gate {
    pub(crate) view: View,
    pub(crate) inner: Arc<dyn Executor>,
}

#[async_trait]
impl Executor for Gate {
    fn kind(&self) -> ExecutorKind {
        self.inner.kind()
    }

    async fn start(&self, job: &Job) -> Result<Started, Fault> {
        {
            // The switch was read just now, and nothing came in between.
            let mut world = self.view.world();
            if world.office.paused.is_some() {
                world.broke(format!("{} was asked for in a pause", job.branch));
            }
        }
        self.inner.start(job).await
    }

    async fn settle(&self, job: &Job) -> Result<Settlement, Fault> {
        self.inner.settle(job).await
    }

    async fn observe(&self, runs: &[RunId]) -> Vec<Result<Sight, Fault>> {
        self.inner.observe(runs).await
    }

    async fn stop(&self, run: &RunId) -> Result<(), Fault> {
        self.inner.stop(run).await
    }

    async fn tell(&self, run: &RunId, message: &Message) -> Result<Told, Fault> {
        self.inner.tell(run, message).await
    }

    async fn health(&self) -> Health {
        self.inner.health().await
    }
}
