//! Hear, act, look: the loop between an issue's log and the world. The only
//! code that calls the outside; it decides nothing.
//!
//! * [`Engine::hear`] records what an input means.
//! * [`Engine::act`] makes whatever is due for an issue, until nothing is.
//! * [`Engine::look`] asks about what runs, for all issues at once.
//!
//! Any number of engines may work on one store: every effect is claimed in the
//! log before it is made, and only one claim can be written.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jiff::SignedDuration;
use sha2::{Digest as _, Sha256};
use tracing::{debug, error, warn};
use uuid::Uuid;

use crate::issue::{
    Briefing, Draft, Due, Effect, Event, ExecutorKind, FailureClass, Fault, How, Input, Issue,
    IssueId, LEASE_SECONDS, Outcome, PullState, RunId, Seq, Task, TaskId, Time, Watch, frame,
    words,
};
use crate::ports::{
    Append, AppendError, Executor, Hands, Job, MergeAnswer, MergeAsk, PlanItem, PlanStatus,
    PullAsk, Settlement, Started, WhichPull,
};
use crate::view;

/// How often one step is decided again because somebody else wrote first.
const CONFLICTS_MAX: usize = 100;
/// The issues whose state is kept in memory; others are folded from their log again.
const CACHED_ISSUES_MAX: usize = 1_000;
/// The issues that one look takes in.
const ATTENTION_MAX: usize = 5_000;
/// How often a look is repeated at once for issues in which it found something new.
const LOOKS_MAX: usize = 4;
/// The steps of one `act`, against a loop that never comes to rest.
const STEPS_MAX: usize = 100_000;

/// The three verbs over one set of hands.
pub struct Engine {
    hands: Hands,
    cache: Mutex<HashMap<IssueId, Arc<Issue>>>,
    /// What could not be looked at when last tried, and since when.
    unseen: Mutex<HashMap<(IssueId, TaskId), Time>>,
}

/// What hearing an input came to. Whatever it is, it is durable.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// It changed something.
    Recorded,
    /// It was known, or of no interest.
    Nothing,
}

struct Step {
    issue: Arc<Issue>,
    due: Vec<Due>,
    wrote: bool,
}

impl Engine {
    pub fn new(hands: Hands) -> Self {
        Self {
            hands,
            cache: Mutex::default(),
            unseen: Mutex::default(),
        }
    }

    pub fn hands(&self) -> &Hands {
        &self.hands
    }

    /// Records what an input means. When this returns, it is durable.
    pub async fn hear(&self, id: &IssueId, input: Input) -> anyhow::Result<Heard> {
        let step = self.step(id, vec![input], false).await?;
        Ok(if step.wrote {
            Heard::Recorded
        } else {
            Heard::Nothing
        })
    }

    /// Makes what is due for one issue, and what becomes due by that, until
    /// nothing is. Effects that don't wait for each other are made at once.
    pub async fn act(&self, id: &IssueId) -> anyhow::Result<()> {
        let mut under_way: FuturesUnordered<BoxFuture<'_, Input>> = FuturesUnordered::new();
        let mut inputs = vec![Input::Tick];
        for _ in 0..STEPS_MAX {
            let step = self.step(id, inputs, true).await?;
            for due in step.due {
                under_way.push(self.make(Arc::clone(&step.issue), due).boxed());
            }
            let Some(first) = under_way.next().await else {
                return Ok(());
            };
            inputs = vec![first];
            // What else has come back by now shares the commit.
            while let Some(Some(input)) = under_way.next().now_or_never() {
                inputs.push(input);
            }
        }
        anyhow::bail!("issue {id} did not come to rest within {STEPS_MAX} steps")
    }

    /// Takes over from a process that is known to have ended, on a store that
    /// only one process can hold: what it had claimed need not lapse first.
    pub async fn take_over(&self) -> anyhow::Result<()> {
        let lapsed = self.hands.clock.now() + SignedDuration::from_secs(LEASE_SECONDS);
        for head in self.hands.log.attention(lapsed, ATTENTION_MAX).await? {
            if let Err(error) = self.release(&head.issue).await {
                error!(issue = %head.issue, "could not take the issue over: {error:#}");
            }
        }
        Ok(())
    }

    async fn release(&self, id: &IssueId) -> anyhow::Result<()> {
        let issue = self.load(id).await?;
        let claims = issue
            .owed
            .iter()
            .filter_map(|(key, owed)| Some((*key, owed.claimed?)));
        let inputs = claims.map(|(key, claim)| Input::Faulted {
            key,
            claim: claim.seq,
            fault: Fault::Ambiguous {
                why: "the process that made it has ended".into(),
            },
        });
        self.step(id, inputs.collect(), false).await?;
        Ok(())
    }

    /// The issues that owe something to the world now.
    pub async fn overdue(&self) -> anyhow::Result<Vec<IssueId>> {
        let now = self.hands.clock.now();
        let heads = self.hands.log.attention(now, ATTENTION_MAX).await?;
        let due = heads
            .into_iter()
            .filter(|head| head.attention_at.is_some_and(|at| at <= now));
        Ok(due.map(|head| head.issue).collect())
    }

    /// Asks about everything that runs, and returns the issues that have
    /// something to do now.
    pub async fn look(&self) -> anyhow::Result<Vec<IssueId>> {
        let heads = self
            .hands
            .log
            .attention(self.hands.clock.now(), ATTENTION_MAX)
            .await?;
        let watching: Vec<IssueId> = heads
            .into_iter()
            .filter(|head| head.watching)
            .map(|head| head.issue)
            .collect();
        let mut moved = self.look_at(&watching).await?;
        moved.extend(self.overdue().await?);
        moved.sort();
        moved.dedup();
        Ok(moved)
    }

    /// Asks about what runs for some issues, in bulk, and returns those for
    /// which something has changed. What has changed is asked about again at
    /// once: behind a run that ended stands a pull request to be found.
    pub async fn look_at(&self, ids: &[IssueId]) -> anyhow::Result<Vec<IssueId>> {
        let mut moved = self.look_once(ids).await?;
        let mut again = moved.clone();
        for _ in 1..LOOKS_MAX {
            if again.is_empty() {
                break;
            }
            again = self.look_once(&again).await?;
            moved.extend(again.iter().cloned());
        }
        moved.sort();
        moved.dedup();
        Ok(moved)
    }

    async fn look_once(&self, ids: &[IssueId]) -> anyhow::Result<Vec<IssueId>> {
        let mut runs: BTreeMap<ExecutorKind, Vec<(IssueId, TaskId, RunId)>> = BTreeMap::new();
        let mut pulls: Vec<(IssueId, TaskId, PullAsk)> = Vec::new();
        for id in ids {
            // One issue that cannot be read must not keep the others from being looked at.
            let issue = match self.load(id).await {
                Ok(issue) => issue,
                Err(error) => {
                    error!(issue = %id, "could not read the issue's log: {error:#}");
                    continue;
                }
            };
            let watching = issue.watching();
            self.forget_unseen(id, &watching);
            for watch in watching {
                match watch {
                    Watch::Run {
                        task,
                        executor,
                        run,
                    } => {
                        runs.entry(executor)
                            .or_default()
                            .push((id.clone(), task, run));
                    }
                    Watch::Pull {
                        task,
                        slug,
                        number,
                        branch,
                    } => {
                        let which = number.map_or(WhichPull::Branch(branch), WhichPull::Number);
                        pulls.push((id.clone(), task, PullAsk { slug, which }));
                    }
                }
            }
        }
        let mut inputs: BTreeMap<IssueId, Vec<Input>> = BTreeMap::new();
        for (kind, asked) in runs {
            let Some(executor) = self.executor(kind) else {
                continue;
            };
            let names: Vec<RunId> = asked.iter().map(|(_, _, run)| run.clone()).collect();
            let sights = executor.observe(&names).await;
            for ((issue, task, run), sight) in asked.into_iter().zip(sights) {
                let known = task.clone();
                let input = sight.map(|sight| Input::SawRun {
                    task: known,
                    run,
                    sight,
                });
                let input = self.seen(&issue, task, input);
                inputs.entry(issue).or_default().push(input);
            }
        }
        if !pulls.is_empty() {
            let asks: Vec<PullAsk> = pulls.iter().map(|(_, _, ask)| ask.clone()).collect();
            let answers = self.hands.forge.facts(&asks).await;
            for ((issue, task, _), answer) in pulls.into_iter().zip(answers) {
                let known = task.clone();
                let input = answer.map(|facts| Input::SawPull { task: known, facts });
                let input = self.seen(&issue, task, input);
                inputs.entry(issue).or_default().push(input);
            }
        }
        let mut moved = Vec::new();
        for (id, inputs) in inputs {
            match self.step(&id, inputs, false).await {
                Ok(step) if step.wrote => moved.push(id),
                Ok(_) => {}
                Err(error) => error!(issue = %id, "could not record what was seen: {error:#}"),
            }
        }
        Ok(moved)
    }

    /// What is not watched any more is not unseen either.
    fn forget_unseen(&self, id: &IssueId, watching: &[Watch]) {
        let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        unseen.retain(|(issue, task), _| {
            issue != id
                || watching.iter().any(|it| match it {
                    Watch::Run { task: watched, .. } | Watch::Pull { task: watched, .. } => {
                        watched == task
                    }
                })
        });
    }

    /// What a look at a task came to. A look that fails leaves no trace in the
    /// log; only since when it does is remembered.
    fn seen(&self, issue: &IssueId, task: TaskId, input: Result<Input, Fault>) -> Input {
        let mut unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (issue.clone(), task.clone());
        match input {
            Ok(input) => {
                unseen.remove(&key);
                input
            }
            Err(fault) => {
                warn!(%issue, %task, "could not look: {fault}");
                let since = *unseen.entry(key).or_insert_with(|| self.hands.clock.now());
                Input::Unseen { task, since, fault }
            }
        }
    }

    /// The issue as its log tells it now.
    pub async fn load(&self, id: &IssueId) -> anyhow::Result<Arc<Issue>> {
        let cached = self.cache().get(id).cloned();
        let mut issue = cached.unwrap_or_else(|| Arc::new(Issue::unknown(id.clone())));
        let records = self.hands.log.read(id, issue.seq).await?;
        if !records.is_empty() {
            let fresh = Arc::make_mut(&mut issue);
            for record in &records {
                anyhow::ensure!(
                    record.seq == fresh.seq + 1,
                    "the log of issue {id} has a gap after {}",
                    fresh.seq
                );
                crate::issue::evolve(fresh, record);
            }
            self.keep(Arc::clone(&issue));
        }
        Ok(issue)
    }

    /// One step: decide on the inputs, claim what is due if asked to, and write
    /// all of it at once.
    async fn step(&self, id: &IssueId, inputs: Vec<Input>, claim: bool) -> anyhow::Result<Step> {
        for _ in 0..CONFLICTS_MAX {
            let issue = self.load(id).await?;
            let after = issue.seq;
            let mut draft = Draft::new(Arc::unwrap_or_clone(issue), self.hands.clock.now());
            for input in &inputs {
                draft.take(input.clone());
            }
            let due = if claim { draft.claim() } else { Vec::new() };
            let issue = Arc::new(draft.issue);
            if draft.events.is_empty() {
                return Ok(Step {
                    issue,
                    due,
                    wrote: false,
                });
            }
            for event in &draft.events {
                tell(&issue, event);
            }
            let append = Append {
                issue: id.clone(),
                after,
                at: draft.now,
                events: draft.events,
                head: view::head(&issue),
            };
            match self.hands.log.append(append).await {
                Ok(()) => {
                    self.keep(Arc::clone(&issue));
                    return Ok(Step {
                        issue,
                        due,
                        wrote: true,
                    });
                }
                Err(AppendError::Conflict) => debug!(issue = %id, "somebody else wrote first"),
                Err(AppendError::Failed(error)) => {
                    return Err(error.context(format!("append to the log of issue {id}")));
                }
            }
        }
        anyhow::bail!("issue {id} kept moving for {CONFLICTS_MAX} tries")
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<IssueId, Arc<Issue>>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, issue: Arc<Issue>) {
        let mut cache = self.cache();
        if cache.len() >= CACHED_ISSUES_MAX && !cache.contains_key(&issue.id) {
            // Whatever goes can be folded again; what is over goes first.
            let victim = cache
                .values()
                .find(|it| !it.active())
                .or_else(|| cache.values().next());
            if let Some(victim) = victim.map(|it| it.id.clone()) {
                cache.remove(&victim);
            }
        }
        // A slower reader must not put an older state back.
        if cache
            .get(&issue.id)
            .is_none_or(|known| known.seq <= issue.seq)
        {
            cache.insert(issue.id.clone(), issue);
        }
    }

    fn executor(&self, kind: ExecutorKind) -> Option<&Arc<dyn Executor>> {
        self.hands.executors.iter().find(|it| it.kind() == kind)
    }

    /// Makes one effect that was claimed, and says what came of it.
    async fn make(&self, issue: Arc<Issue>, due: Due) -> Input {
        let key = due.key;
        let claim = issue.owed.get(&key).and_then(|it| it.claimed);
        if claim.is_none_or(|it| self.hands.clock.now() >= it.until) {
            // This process slept through its claim: somebody else has it by now.
            return Input::Tick;
        }
        match self.call(&issue, &due).await {
            Ok(Answer::Outcome(outcome)) => Input::Performed { key, outcome },
            Ok(Answer::Absent { certain }) => Input::Absent {
                key,
                claim: due.claim,
                certain,
            },
            Err(fault) => {
                warn!(issue = %issue.id, key, "could not make an effect: {fault}");
                Input::Faulted {
                    key,
                    claim: due.claim,
                    fault,
                }
            }
        }
    }

    async fn call(&self, issue: &Issue, due: &Due) -> Result<Answer, Fault> {
        let Hands {
            tracker,
            forge,
            policies,
            ..
        } = &self.hands;
        let id = effect_id(issue, due.key);
        let outcome = match &due.effect {
            Effect::Fetch => {
                let brief = tracker.read(&issue.id).await?;
                match policies.policy(&brief) {
                    Ok(policy) => Outcome::Briefed(Box::new(Briefing { brief, policy })),
                    Err(why) => Outcome::Unserved(why),
                }
            }
            Effect::Say { session, activity } => {
                tracker.say(id, session, activity).await?;
                Outcome::Done
            }
            Effect::ShowPlan { session } => {
                tracker.show_plan(session, &plan_items(issue)).await?;
                Outcome::Done
            }
            Effect::Link {
                session,
                label,
                url,
            } => {
                tracker.link(session, label, url).await?;
                Outcome::Done
            }
            Effect::Move { to } => {
                tracker.set_stage(&issue.id, *to).await?;
                Outcome::Done
            }
            Effect::Start { task, executor, .. } => {
                let runs = self.available(*executor)?;
                let job = job(issue, task, *executor, id)?;
                match due.how {
                    How::Make => started(runs.start(&job).await?),
                    How::Look => match runs.settle(&job).await? {
                        Settlement::Found(run) => started(run),
                        Settlement::Absent { certain } => return Ok(Answer::Absent { certain }),
                    },
                }
            }
            Effect::Stop { executor, run, .. } => {
                self.available(*executor)?.stop(run).await?;
                Outcome::Done
            }
            Effect::Merge { task, number, sha } => {
                let (slug, method, title) = merge_words(issue, task, *number)?;
                if due.how == How::Look {
                    let ask = PullAsk {
                        slug,
                        which: WhichPull::Number(*number),
                    };
                    let facts = forge.facts(&[ask]).await.pop().transpose()?.flatten();
                    match facts.filter(|it| it.state == PullState::Merged) {
                        Some(facts) => Outcome::Merged {
                            sha: facts.head_sha,
                        },
                        None => return Ok(Answer::Absent { certain: true }),
                    }
                } else {
                    let ask = MergeAsk {
                        slug,
                        number: *number,
                        sha: sha.clone(),
                        method,
                        title,
                    };
                    match forge.merge(&ask).await? {
                        MergeAnswer::Merged { sha } => Outcome::Merged { sha },
                        MergeAnswer::HeadMoved => Outcome::HeadMoved,
                        MergeAnswer::Refused { why } => Outcome::MergeRefused { why },
                    }
                }
            }
        };
        Ok(Answer::Outcome(outcome))
    }

    fn available(&self, kind: ExecutorKind) -> Result<&Arc<dyn Executor>, Fault> {
        self.executor(kind).ok_or_else(|| Fault::Permanent {
            class: FailureClass::Invalid,
            why: format!("the executor `{kind}` is not configured here: set it up, or choose another strategy (codegen.strategy)"),
        })
    }
}

enum Answer {
    Outcome(Outcome),
    Absent { certain: bool },
}

fn started(Started { run, url, begun }: Started) -> Outcome {
    Outcome::Started { run, url, begun }
}

/// The id of an effect: the same for every try, another for every effect, also
/// where an issue is begun anew on an empty store; a UUID v4 by its form, as Linear asks for.
pub fn effect_id(issue: &Issue, key: Seq) -> Uuid {
    let Issue { id, born, .. } = issue;
    let digest = Sha256::digest(format!("{id}:{born}:{key}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid()
}

fn job(issue: &Issue, id: &TaskId, executor: ExecutorKind, key: Uuid) -> Result<Job, Fault> {
    let (Some(task), Some(policy)) = (issue.task(id), issue.policy.as_deref()) else {
        return Err(bug(format!("the task `{id}` is not there")));
    };
    Ok(Job {
        key: key.to_string(),
        issue: issue.id.clone(),
        identifier: issue.identifier.clone(),
        issue_title: issue.title.clone(),
        issue_url: issue.url.clone(),
        task: id.clone(),
        kind: task.spec.kind,
        title: task.spec.title.clone(),
        prompt: frame::frame(issue, task, executor),
        answer_schema: frame::answer_schema(issue, task),
        repository: policy.repository.clone(),
        branch: task.branch.clone().unwrap_or_default(),
        agent: policy.agent.clone(),
        cost_max: policy.cost_per_task_max,
        seconds_max: policy.task_timeout_seconds,
    })
}

fn merge_words(
    issue: &Issue,
    task: &TaskId,
    number: u64,
) -> Result<(String, crate::issue::MergeMethod, String), Fault> {
    let (Some(task), Some(policy)) = (issue.task(task), issue.policy.as_deref()) else {
        return Err(bug(format!("the task `{task}` is not there")));
    };
    let title = words::merge_title(issue, task, number);
    Ok((policy.repository.slug.clone(), policy.method, title))
}

fn bug(why: String) -> Fault {
    error!("{why}");
    Fault::Permanent {
        class: FailureClass::Invalid,
        why,
    }
}

fn plan_items(issue: &Issue) -> Vec<PlanItem> {
    issue.tasks.iter().map(plan_item).collect()
}

fn plan_item(task: &Task) -> PlanItem {
    let status = match task.word() {
        "todo" => PlanStatus::Pending,
        "merged" | "succeeded" => PlanStatus::Completed,
        "failed" | "skipped" | "cancelled" => PlanStatus::Canceled,
        _ => PlanStatus::InProgress,
    };
    let note = match task.word() {
        word @ ("failed" | "skipped" | "ready") => format!(" ({word})"),
        _ => String::new(),
    };
    PlanItem {
        content: format!("{}{note}", task.spec.title),
        status,
    }
}

/// A log line for what a person would want to see happen.
fn tell(issue: &Issue, event: &Event) {
    let (id, identifier) = (&issue.id, &issue.identifier);
    match event {
        Event::Claimed { .. } | Event::Performed { .. } | Event::Requested(_) => {
            debug!(issue = %id, identifier, "{}", words::sentence(event));
        }
        _ => tracing::info!(issue = %id, identifier, "{}", words::sentence(event)),
    }
}
