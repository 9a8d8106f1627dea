//! A runner elsewhere with one job, or asking for some: it leases, confirms,
//! works, is heard, pushes and reports as the real one does (`runner/src/far`),
//! against the real queue. What is lost on the way, the dice say.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use jiff::SignedDuration;
use shared::issue::{
    Ending, ExecutorKind, Failure, FailureClass, Repository, RunId, RunResult, Time,
};
use shared::ports::{Job, Message};
use shared::runner::document::{Action, HeardDoc, HeartbeatDoc, JobDoc, LeaseAsk, ResultDoc};
use shared::runner::queue::{FarRunners, Heartbeat, Report};

use crate::ledger::{Answer, Holder};
use crate::ports::View;
use crate::world::{CALL_SECONDS_MAX, World};

/// How often a runner is heard; three make a lease.
pub(crate) const HEARTBEAT_SECONDS: i64 = 30;
/// How long a runner that got nothing waits before it asks again.
const IDLE_SECONDS: i64 = 10;
/// Pauses after a failure double from one second up to this.
const PAUSE_SECONDS_MAX: i64 = 60;
/// An agent that is told to end does so within this.
const GRACE_SECONDS_MAX: i64 = 10;
/// The steps after which a copy of the control plane may die at a request.
const CUT_STEPS_MAX: u32 = 12;

/// What a runner has written down. It outlives its crashes.
pub(crate) type Disk = Rc<RefCell<BTreeMap<Holder, JobDoc>>>;

/// How far a runner has come with a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Unconfirmed,
    Confirmed,
    Working,
}

/// What works on one job, or asks for some.
pub(crate) struct Hand {
    pub(crate) view: View,
    pub(crate) queue: Arc<FarRunners>,
    pub(crate) ask: LeaseAsk,
    /// It sleeps until then.
    pub(crate) wakes: Rc<Cell<Time>>,
    pub(crate) stage: Rc<Cell<Stage>>,
    pub(crate) disk: Disk,
}

/// A request was not answered.
struct Lost;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beat {
    Ours,
    Unwanted,
    NotOurs,
}

impl Hand {
    fn holder(&self, doc: &JobDoc) -> Holder {
        Holder {
            job: doc.job.clone(),
            fence: doc.fence,
            runner: self.ask.runner.clone(),
        }
    }

    pub(crate) async fn lease(&self) -> Vec<JobDoc> {
        let asked = self.view.world().now;
        let jobs = self.request(self.lease_there(), "lease").await;
        let jobs = jobs.unwrap_or_default();
        if jobs.is_empty() {
            self.sleep_until(asked + SignedDuration::from_secs(IDLE_SECONDS))
                .await;
        }
        jobs
    }

    async fn lease_there(&self) -> anyhow::Result<Vec<JobDoc>> {
        let asked = self.view.world().now;
        let jobs = self.queue.lease(&self.ask, "https://us").await?;
        let mut world = self.view.world();
        let now = world.now;
        for doc in &jobs {
            let runner = &self.ask.runner;
            world.note(format!("{} was leased", self.holder(doc)));
            if !self.ask.repositories.contains(&doc.repository) {
                world.broke(format!("{runner} was given a job that it cannot do"));
            }
            match world.ledger.give(doc, runner, asked, now) {
                Ok(landmark) => landmark.into_iter().for_each(|it| world.visit(it)),
                Err(wrong) => world.broke(wrong),
            }
        }
        Ok(jobs)
    }

    /// A job that was leased, or that the last start has left.
    pub(crate) async fn begin(&self, doc: &JobDoc) {
        let again = self.stage.get() != Stage::Unconfirmed;
        match self.surely(doc).await {
            Beat::NotOurs => return self.lose(doc),
            // Written down, perhaps, but no agent works on it.
            Beat::Unwanted if !again || !self.has_agent(doc) => {
                let result = Err(Failure {
                    class: FailureClass::Cancelled,
                    message: "the run was stopped before it began".into(),
                });
                let cost_usd = Some(0.0);
                return self
                    .report(
                        doc,
                        Ending {
                            result,
                            cost_usd,
                            cost_is_estimate: false,
                        },
                    )
                    .await;
            }
            Beat::Ours | Beat::Unwanted => {}
        }
        if again {
            self.view.world().visit("a runner restarted and went on");
        }
        self.stage.set(Stage::Confirmed);
        self.view.give_way_briefly().await;
        self.disk.borrow_mut().insert(self.holder(doc), doc.clone());
        self.view.give_way_briefly().await;
        self.stage.set(Stage::Working);
        self.tend(doc).await;
    }

    async fn tend(&self, doc: &JobDoc) {
        let holder = self.holder(doc);
        let run = self.agent(doc);
        let mut pause = 1;
        let mut next = self.in_seconds(HEARTBEAT_SECONDS);
        loop {
            if let Some(ending) = self.ending(&run) {
                return self.deliver(doc, &run, ending).await;
            }
            let over = {
                let world = self.view.world();
                let it = world.runs.iter().find(|it| it.id == run);
                it.and_then(|it| it.ends.into_iter().chain(it.stopped).min())
            };
            self.sleep_until(over.map_or(next, |it| it.min(next))).await;
            if self.view.world().now < next {
                continue;
            }
            self.impostor(doc).await;
            next = match self.beat(doc).await {
                Ok(beat) => {
                    pause = 1;
                    match beat {
                        Beat::Ours => {}
                        Beat::Unwanted => self.end(&holder),
                        Beat::NotOurs => return self.lose(doc),
                    }
                    self.in_seconds(HEARTBEAT_SECONDS)
                }
                Err(Lost) => {
                    pause = (pause * 2).min(HEARTBEAT_SECONDS);
                    self.in_seconds(pause)
                }
            };
        }
    }

    fn has_agent(&self, doc: &JobDoc) -> bool {
        let holder = self.holder(doc);
        let world = self.view.world();
        world
            .runs
            .iter()
            .any(|it| it.holder.as_ref() == Some(&holder))
    }

    /// The agent of this lease: started, found, or gone on with.
    fn agent(&self, doc: &JobDoc) -> RunId {
        let holder = self.holder(doc);
        let mut world = self.view.world();
        let ends = world.now + world.seconds(5..=300);
        let known = world
            .runs
            .iter_mut()
            .find(|it| it.holder.as_ref() == Some(&holder));
        if let Some(run) = known {
            let id = run.id.clone();
            if std::mem::take(&mut run.broken_off) {
                run.ends = Some(ends);
                world.visit("a runner took up the session of an agent that had died");
            }
            return id;
        }
        let job = job(doc);
        world.create(ExecutorKind::Local, &job, Some(&holder))
    }

    fn ending(&self, run: &RunId) -> Option<Ending> {
        let world = self.view.world();
        let run = world.runs.iter().find(|it| it.id == *run)?;
        if run.vanished {
            let result = Err(Failure {
                class: FailureClass::Lost,
                message: "the folder of the job is gone".into(),
            });
            return Some(Ending {
                result,
                cost_usd: None,
                cost_is_estimate: false,
            });
        }
        (!run.alive(world.now)).then(|| run.ending(world.now))
    }

    /// Pushes what the agent has made, if it is still wanted, and reports.
    async fn deliver(&self, doc: &JobDoc, run: &RunId, mut ending: Ending) {
        let holder = self.holder(doc);
        let makes_pull = doc.task.kind.makes_pull();
        if let Ok(result) = &mut ending.result
            && makes_pull
            && result.changed != Some(false)
        {
            if !self.holds(doc).await {
                let mut world = self.view.world();
                world.visit("a runner did not push what was not wanted any more");
                drop(world);
                return self.lose(doc);
            }
            self.view.give_way_briefly().await;
            self.push(&holder, run, result);
        }
        self.report(doc, ending).await;
    }

    fn push(&self, holder: &Holder, run: &RunId, result: &mut RunResult) {
        let mut world = self.view.world();
        if world.ledger.was_told(holder) {
            world.broke(format!("{holder} pushed although it had been told to end"));
        }
        let at = world.runs.iter().position(|it| it.id == *run);
        let Some(at) = at else { return };
        if !std::mem::replace(&mut world.runs[at].handed_in, true) {
            let run = world.runs[at].clone();
            world.hand_in(&run);
        }
        let pull = world
            .pulls
            .iter()
            .find(|it| it.holder.as_ref() == Some(holder));
        if let Some(pull) = pull {
            result.pull_url = Some(format!("https://forge/{}", pull.number));
            result.branch = Some(pull.branch.clone());
        }
    }

    /// Is the job still ours, right before a push?
    async fn holds(&self, doc: &JobDoc) -> bool {
        self.surely(doc).await == Beat::Ours
    }

    /// Says how it ended until that is heard.
    async fn report(&self, doc: &JobDoc, ending: Ending) {
        let holder = self.holder(doc);
        let result = ResultDoc::new(&holder.runner, holder.fence, &doc.branch, ending);
        let mut pause = 1;
        let taken = loop {
            match self
                .request(self.result_there(doc, &result), "result")
                .await
            {
                Ok(taken) => break taken,
                Err(Lost) => {
                    self.sleep_until(self.in_seconds(pause)).await;
                    pause = (pause * 2).min(PAUSE_SECONDS_MAX);
                }
            }
        };
        let again = {
            let mut world = self.view.world();
            let chance = world.weather.duplicate;
            taken && world.dice(chance)
        };
        if again {
            // A second answer that differs is seen by the ledger.
            let _ = self
                .request(self.result_there(doc, &result), "result")
                .await;
        }
        self.disk.borrow_mut().remove(&holder);
    }

    async fn result_there(&self, doc: &JobDoc, result: &ResultDoc) -> anyhow::Result<bool> {
        let holder = self.holder(doc);
        let asked = {
            let mut world = self.view.world();
            world.ledger.hear_result(&holder);
            world.now
        };
        let report = self.queue.result(&doc.job, result).await?;
        let mut world = self.view.world();
        let now = world.now;
        Ok(match report {
            Report::Taken(_) => {
                match world.ledger.take(&holder, asked, now) {
                    Ok(true) => world.visit("a result came twice"),
                    Ok(false) => world.note(format!("the result of {holder} was taken")),
                    Err(wrong) => world.broke(wrong),
                }
                true
            }
            Report::Stale | Report::Unknown => {
                if let Err(wrong) = world.ledger.refuse(&holder) {
                    world.broke(wrong);
                }
                world.visit("a late result was refused");
                world.note(format!("the late result of {holder} was refused"));
                false
            }
        })
    }

    /// A heartbeat that is repeated until it is answered.
    async fn surely(&self, doc: &JobDoc) -> Beat {
        let mut pause = 1;
        loop {
            match self.beat(doc).await {
                Ok(beat) => return beat,
                Err(Lost) => {
                    self.sleep_until(self.in_seconds(pause)).await;
                    pause = (pause * 2).min(PAUSE_SECONDS_MAX);
                }
            }
        }
    }

    async fn beat(&self, doc: &JobDoc) -> Result<Beat, Lost> {
        let heard = self.request(self.beat_there(doc), "heartbeat").await?;
        let holder = self.holder(doc);
        let Some(heard) = heard else {
            return Ok(Beat::NotOurs);
        };
        let mut world = self.view.world();
        if heard.action == Action::Cancel {
            world.visit("a runner was told to stop by a heartbeat");
            return Ok(Beat::Unwanted);
        }
        if let (Some(id), Some(text)) = (heard.message_id, heard.message) {
            let message = Message { id, text };
            let run = world
                .runs
                .iter_mut()
                .find(|it| it.holder.as_ref() == Some(&holder));
            match run.map(|it| it.hear(&message)) {
                Some(Ok(true)) => world.visit("a message reached a run by a heartbeat"),
                Some(Err(wrong)) => world.broke(wrong),
                Some(Ok(false)) | None => {}
            }
        }
        Ok(Beat::Ours)
    }

    async fn beat_there(&self, doc: &JobDoc) -> anyhow::Result<Option<HeardDoc>> {
        let holder = self.holder(doc);
        let (asked, beat) = {
            let mut world = self.view.world();
            let cost = world.cost_so_far();
            let run = world
                .runs
                .iter()
                .find(|it| it.holder.as_ref() == Some(&holder));
            let heard = run.map(|it| it.heard.iter().map(|it| it.id.clone()).collect());
            let beat = beat_of(&holder, heard.unwrap_or_default(), cost);
            (world.now, beat)
        };
        let answer = self.queue.heartbeat(&doc.job, &beat).await?;
        let mut world = self.view.world();
        let (heard, answer) = match answer {
            Heartbeat::Heard { doc, .. } if doc.action == Action::Cancel => {
                (Some(doc), Answer::End)
            }
            Heartbeat::Heard { doc, .. } => (Some(doc), Answer::GoOn),
            Heartbeat::Stale | Heartbeat::Unknown => (None, Answer::End),
        };
        if let Err(wrong) = world.ledger.beat(&holder, answer, asked) {
            world.broke(wrong);
        }
        Ok(heard)
    }

    /// Now and then somebody speaks of our job under a name or a fence that is
    /// not good. Nothing may come of it.
    async fn impostor(&self, doc: &JobDoc) {
        let holder = {
            let mut world = self.view.world();
            let chance = world.weather.duplicate / 2;
            if !world.dice(chance) {
                return;
            }
            let holder = self.holder(doc);
            if world.rng.bool() {
                let runner = "a-stranger".to_owned();
                Holder { runner, ..holder }
            } else {
                let fence = holder.fence - 1;
                Holder { fence, ..holder }
            }
        };
        let result = Ok(RunResult::default());
        let cost_usd = None;
        let result = ResultDoc::new(
            &holder.runner,
            holder.fence,
            &doc.branch,
            Ending {
                result,
                cost_usd,
                cost_is_estimate: false,
            },
        );
        let refused = if self.view.world().rng.bool() {
            let report = self.queue.result(&doc.job, &result).await;
            report.map(|it| !matches!(it, Report::Taken(_)))
        } else {
            let beat = beat_of(&holder, Vec::new(), Some(1.0));
            let heard = self.queue.heartbeat(&doc.job, &beat).await;
            heard.map(|it| !matches!(it, Heartbeat::Heard { .. }))
        };
        let mut world = self.view.world();
        match refused {
            Ok(true) => world.visit("an impostor was refused"),
            Ok(false) => world.broke(format!("{holder} was heard, who has no such job")),
            Err(_) => {}
        }
    }

    /// The job is not ours any more: its work is thrown away.
    fn lose(&self, doc: &JobDoc) {
        let holder = self.holder(doc);
        self.end(&holder);
        self.disk.borrow_mut().remove(&holder);
        let mut world = self.view.world();
        world.visit("a runner was told that its job is not its own");
        world.note(format!("{holder} was lost"));
    }

    fn end(&self, holder: &Holder) {
        let mut world = self.view.world();
        let at = world.now + world.seconds(0..=GRACE_SECONDS_MAX);
        let run = world
            .runs
            .iter_mut()
            .find(|it| it.holder.as_ref() == Some(holder));
        if let Some(run) = run {
            run.stopped.get_or_insert(at);
        }
    }

    fn in_seconds(&self, seconds: i64) -> Time {
        self.view.world().now + SignedDuration::from_secs(seconds)
    }

    async fn sleep_until(&self, at: Time) {
        poll_fn(|_| {
            if self.view.world().now >= at {
                self.wakes.set(Time::MIN);
                return Poll::Ready(());
            }
            self.wakes.set(at);
            Poll::Pending
        })
        .await;
    }

    /// A request over the network, to some copy of the control plane that may
    /// die while it serves it.
    async fn request<T>(
        &self,
        there: impl Future<Output = anyhow::Result<T>>,
        what: &'static str,
    ) -> Result<T, Lost> {
        let (begun, lost, unanswered, steps) = {
            let mut world = self.view.world();
            let weather = world.weather.clone();
            let lost = world.dice(weather.fault_before);
            let unanswered = world.dice(weather.fault_after);
            let cut = world.dice(weather.crash);
            let steps = cut.then(|| world.rng.u32(0..CUT_STEPS_MAX));
            (world.now, lost, unanswered, steps)
        };
        let late = |world: &World| world.now.duration_since(begun).as_secs() > CALL_SECONDS_MAX;
        self.view.give_way_briefly().await;
        if lost || late(&self.view.world()) {
            return Err(Lost);
        }
        let mut there = pin!(there);
        let mut left = steps;
        let answer = poll_fn(|context| {
            if let Some(left) = &mut left {
                if *left == 0 {
                    return Poll::Ready(None);
                }
                *left -= 1;
            }
            there.as_mut().poll(context).map(Some)
        })
        .await;
        let Some(answer) = answer else {
            let mut world = self.view.world();
            world.visit("the control plane died while it served a runner");
            return Err(Lost);
        };
        self.view.give_way_briefly().await;
        let mut world = self.view.world();
        let answer = answer.map_err(|_| Lost)?;
        if unanswered || late(&world) {
            world.visit(match what {
                "lease" => "the answer to a lease was lost",
                "heartbeat" => "the answer to a heartbeat was lost",
                _ => "the answer to a result was lost",
            });
            return Err(Lost);
        }
        Ok(answer)
    }
}

fn beat_of(holder: &Holder, heard: Vec<String>, cost_usd: Option<f64>) -> HeartbeatDoc {
    HeartbeatDoc {
        runner: holder.runner.clone(),
        fence: holder.fence,
        cost_usd,
        note: None,
        session: None,
        heard: Some(heard),
    }
}

fn job(doc: &JobDoc) -> Job {
    let repository = Repository {
        id: doc.repository.clone(),
        path: "/elsewhere".into(),
        workspace_dir: "/worktrees".into(),
        base_branch: doc.base_branch.clone(),
        slug: "acme/app".into(),
    };
    doc.clone().into_job(doc.job.clone(), repository)
}
