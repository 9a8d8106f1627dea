//! Hear, act, look: the loop between an issue's log and the world. The only
//! code that calls the outside; it decides nothing.
//!
//! * [`Engine::hear`] records what an input means.
//! * [`Engine::act`] makes whatever is due for an issue, until nothing is.
//! * [`Engine::look`] asks about what runs, for all issues at once.
//!
//! Any number of engines may work on one store: every effect is claimed in the
//! log before it is made, and only one claim can be written.

mod blind;
mod call;
mod conditions;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use jiff::SignedDuration;
use tracing::{debug, error, info, warn};

use self::blind::Blind;
pub use self::call::effect_id;
use self::conditions::Known;
use crate::issue::{
    Conditions, Draft, Due, Event, ExecutorKind, Fault, Input, Issue, IssueId, LEASE_SECONDS_MAX,
    RunId, Seq, TaskId, Time, Watch, pace, words,
};
use crate::ports::{Append, AppendError, Executor, Hands, PullAsk, Torn, WhichPull};
use crate::{stats, view};

/// How often one step is decided again because somebody else wrote first.
const CONFLICTS_MAX: usize = 100;
/// A head that refuses a writer who has seen the whole log this often contradicts it.
const CONTRADICTIONS_MAX: usize = 3;
/// How often it is decided again because an account has no more room; then only
/// what was seen is written.
const REFUSALS_MAX: usize = 5;
/// The issues whose state is kept in memory; others are folded from their log again.
const CACHED_ISSUES_MAX: usize = 1_000;
/// The issues that one look takes in.
const ATTENTION_MAX: usize = 5_000;
/// A look knows of what becomes due within this time.
const LOOK_AHEAD_SECONDS: i64 = 60;
/// How often a look is repeated at once for issues in which it found something new.
const LOOKS_MAX: usize = 4;
/// The steps of one `act`, against a loop that never comes to rest.
const STEPS_MAX: usize = 100_000;

/// The three verbs over one set of hands.
pub struct Engine {
    hands: Hands,
    cache: Mutex<HashMap<IssueId, Arc<Issue>>>,
    /// What could not be looked at when last tried.
    blind: Blind,
    /// The conditions as they were last read.
    known: Known,
}

/// What hearing an input came to. What was taken in is durable.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// It changed something.
    Recorded,
    /// It was known, or of no interest.
    Nothing,
    /// What a person asked for makes no sense now; nothing has changed.
    Refused(String),
}

/// What a look at everything came to.
pub struct Looked {
    /// What is to be made because of what was seen.
    pub work: Vec<Work>,
    /// The issues that owe something to the world now.
    pub due: Vec<IssueId>,
}

/// What a look is about.
pub struct Survey {
    at: Time,
    /// The issues for which something runs.
    pub watching: Vec<IssueId>,
    /// The issues that owe something to the world now.
    pub due: Vec<IssueId>,
    /// When the next one does, if that is soon.
    next: Option<Time>,
}

/// How far a drive came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing is due any more.
    Reached,
    /// Something is due, and there was no time to begin it.
    OutOfTime,
}

/// An issue whose head and events contradict each other. It rests until its
/// head is rebuilt; all others go on.
#[derive(Debug, thiserror::Error)]
#[error("issue {issue} is parked: {why}")]
pub struct Parked {
    pub issue: IssueId,
    pub why: String,
}

/// An issue at hand, with what was claimed for it: drive it, or it waits until
/// the claims lapse.
pub struct Work {
    issue: Arc<Issue>,
    due: Vec<Due>,
}

impl Work {
    pub fn issue(&self) -> &IssueId {
        &self.issue.id
    }
}

struct Step {
    work: Work,
    wrote: bool,
    refusal: Option<String>,
}

/// What a step may begin.
#[derive(Clone, Copy)]
enum Begins {
    /// It only takes in; nothing is claimed, either.
    Nothing,
    /// What can begin, under the conditions of now.
    WhatIsRipe,
    /// The same under those of a moment ago, and everything else that depends on
    /// them: what waits, what an operator wants stopped.
    Anything,
}

impl Engine {
    pub fn new(hands: Hands) -> Self {
        Self {
            blind: Blind::new(&hands),
            hands,
            cache: Mutex::default(),
            known: Known::default(),
        }
    }

    pub fn hands(&self) -> &Hands {
        &self.hands
    }

    /// Records what an input means. When this returns, it is durable.
    pub async fn hear(&self, id: &IssueId, input: Input) -> anyhow::Result<Heard> {
        let step = self.step(id, vec![input], Begins::Nothing).await?;
        Ok(match step.refusal {
            Some(why) => Heard::Refused(why),
            None if step.wrote => Heard::Recorded,
            None => Heard::Nothing,
        })
    }

    /// Makes what is due for one issue, and what becomes due by that, until
    /// nothing is. Effects that don't wait for each other are made at once; none
    /// is begun from `until` on, for those who have to be gone by some time.
    pub async fn act(&self, id: &IssueId, until: Time) -> anyhow::Result<Rest> {
        let step = self.step(id, vec![Input::Tick], self.until(until)).await?;
        self.drive(step.work, until).await
    }

    /// The same from where somebody has claimed what is due.
    pub async fn drive(&self, work: Work, until: Time) -> anyhow::Result<Rest> {
        let id = work.issue().clone();
        let mut work = work;
        let mut under_way: FuturesUnordered<BoxFuture<'_, Vec<Input>>> = FuturesUnordered::new();
        for _ in 0..STEPS_MAX {
            for lane in lanes(work.due) {
                under_way.push(self.make(Arc::clone(&work.issue), lane).boxed());
            }
            let Some(mut inputs) = under_way.next().await else {
                let left = !work.issue.due(self.hands.clock.now()).is_empty();
                return Ok(if left { Rest::OutOfTime } else { Rest::Reached });
            };
            // What else has come back by now shares the commit; and what nothing
            // waits for waits for the others.
            while let Some(more) = if inputs.iter().all(Input::can_wait) {
                under_way.next().await
            } else {
                under_way.next().now_or_never().flatten()
            } {
                inputs.extend(more);
            }
            work = self.step(&id, inputs, self.until(until)).await?.work;
        }
        anyhow::bail!("issue {id} did not come to rest within {STEPS_MAX} steps")
    }

    /// Takes over from a process that is known to have ended, on a store that
    /// only one process can hold: what it had claimed need not lapse first.
    pub async fn take_over(&self) -> anyhow::Result<()> {
        let lapsed = self.hands.clock.now() + SignedDuration::from_secs(LEASE_SECONDS_MAX);
        for it in self.hands.log.attention(lapsed, ATTENTION_MAX).await? {
            if let Err(error) = self.release(&it.issue).await {
                error!(issue = %it.issue, "could not take the issue over: {error:#}");
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
        self.step(id, inputs.collect(), Begins::Nothing).await?;
        Ok(())
    }

    /// Asks about everything that runs, and says which issues have something to
    /// do now.
    /// Nothing is claimed from `until` on.
    pub async fn look(&self, until: Time) -> anyhow::Result<Looked> {
        let survey = self.survey().await?;
        let work = self.look_at(&survey.watching, until).await?;
        Ok(Looked {
            work,
            due: survey.due,
        })
    }

    /// Which issues a look is about, and which have something to do by now.
    pub async fn survey(&self) -> anyhow::Result<Survey> {
        let now = self.hands.clock.now();
        let ahead = now + SignedDuration::from_secs(LOOK_AHEAD_SECONDS);
        let attention = self.hands.log.attention(ahead, ATTENTION_MAX).await?;
        stats::looked(&attention, now);
        let watching = attention.iter().filter(|it| it.watching);
        let watching: Vec<IssueId> = watching.map(|it| it.issue.clone()).collect();
        let (overdue, later): (Vec<_>, Vec<_>) = attention
            .into_iter()
            .filter_map(|it| Some((it.at?, it.issue)))
            .partition(|(at, _)| *at <= now);
        Ok(Survey {
            at: now,
            watching,
            due: overdue.into_iter().map(|(_, issue)| issue).collect(),
            next: later.into_iter().map(|(at, _)| at).min(),
        })
    }

    /// When it is worth looking again after a look at all of it; `None`: nothing
    /// runs, and nothing is due soon.
    pub fn again_at(&self, survey: &Survey) -> Option<Time> {
        let cache = self.cache();
        let paces = survey.watching.iter().filter_map(|id| {
            let seconds = pace::look_again_in(cache.get(id)?, survey.at)?;
            Some(survey.at + SignedDuration::from_secs(seconds))
        });
        survey.next.into_iter().chain(paces).min()
    }

    /// Asks about what runs for some issues, in bulk, and returns what is to be
    /// made because of what was seen. What has changed is asked about again at
    /// once: behind a run that ended stands a pull request to be found.
    pub async fn look_at(&self, ids: &[IssueId], until: Time) -> anyhow::Result<Vec<Work>> {
        let mut work = self.look_once(ids, until).await?;
        let mut again: Vec<IssueId> = work.iter().map(|it| it.issue().clone()).collect();
        for _ in 1..LOOKS_MAX {
            if again.is_empty() {
                break;
            }
            let more = self.look_once(&again, until).await?;
            again = more.iter().map(|it| it.issue().clone()).collect();
            work.extend(more);
        }
        Ok(work)
    }

    /// Returns an issue where something has changed, whether or not there is
    /// something to be made for it.
    async fn look_once(&self, ids: &[IssueId], until: Time) -> anyhow::Result<Vec<Work>> {
        let mut runs: BTreeMap<ExecutorKind, Vec<(IssueId, TaskId, RunId)>> = BTreeMap::new();
        let mut pulls: Vec<(IssueId, TaskId, PullAsk)> = Vec::new();
        let mut inputs: BTreeMap<IssueId, Vec<Input>> = BTreeMap::new();
        for id in ids {
            // One issue that cannot be read must not keep the others from being looked at.
            let issue = match self.load(id).await {
                Ok(issue) => issue,
                Err(error) => {
                    error!(issue = %id, "could not read the issue's log: {error:#}");
                    continue;
                }
            };
            // What waits for better conditions is considered again, whatever is seen.
            inputs.insert(id.clone(), vec![Input::Tick]);
            for watch in issue.watching() {
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
                        repository,
                        number,
                        branch,
                    } => {
                        let which = WhichPull::of(number, &branch);
                        pulls.push((id.clone(), task, PullAsk { repository, which }));
                    }
                }
            }
        }
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
                let input = self.seen(&issue, task, input).await;
                inputs.entry(issue).or_default().push(input);
            }
        }
        if !pulls.is_empty() {
            let asks: Vec<PullAsk> = pulls.iter().map(|(_, _, ask)| ask.clone()).collect();
            let asked_at = self.hands.clock.now();
            let answers = self.hands.forge.facts(&asks).await;
            for ((issue, task, _), answer) in pulls.into_iter().zip(answers) {
                let known = task.clone();
                let input = answer.map(|facts| Input::SawPull {
                    task: known,
                    facts,
                    asked_at,
                });
                let input = self.seen(&issue, task, input).await;
                inputs.entry(issue).or_default().push(input);
            }
        }
        let mut moved = Vec::new();
        for (id, inputs) in inputs {
            let begins = match self.until(until) {
                Begins::WhatIsRipe => Begins::Anything,
                Begins::Nothing | Begins::Anything => Begins::Nothing,
            };
            match self.step(&id, inputs, begins).await {
                Ok(step) if step.wrote => moved.push(step.work),
                Ok(_) => {}
                Err(error) => error!(issue = %id, "could not record what was seen: {error:#}"),
            }
        }
        Ok(moved)
    }

    /// What a look at a task came to. A look that fails leaves no trace in the
    /// log; only since when it does is remembered.
    async fn seen(&self, issue: &IssueId, task: TaskId, input: Result<Input, Fault>) -> Input {
        match input {
            Ok(input) => {
                self.blind.sees(issue, &task).await;
                input
            }
            Err(fault) => {
                let since = self.blind.fails(issue, &task, &fault).await;
                Input::Unseen { task, since, fault }
            }
        }
    }

    /// The issue as its log tells it now.
    pub async fn load(&self, id: &IssueId) -> anyhow::Result<Arc<Issue>> {
        let cached = self.cache().get(id).cloned();
        let mut issue = cached.unwrap_or_else(|| Arc::new(Issue::unknown(id.clone())));
        let records = match self.hands.log.read(id, issue.seq).await {
            Err(error) if error.is::<Torn>() => {
                return Err(self.park(id, format!("{error:#}")).await);
            }
            read => read?,
        };
        if !records.is_empty() {
            let fresh = Arc::make_mut(&mut issue);
            for record in &records {
                if record.seq != fresh.seq + 1 {
                    let why = format!("its log has a gap after {}", fresh.seq);
                    return Err(self.park(id, why).await);
                }
                crate::issue::evolve(fresh, record);
            }
            self.keep(Arc::clone(&issue));
        }
        Ok(issue)
    }

    /// The conditions under which something would begin now.
    pub async fn conditions(&self) -> anyhow::Result<Arc<Conditions>> {
        self.known.recent(&self.hands).await
    }

    /// What may begin for those who have to be gone by some time.
    fn until(&self, until: Time) -> Begins {
        if self.hands.clock.now() < until {
            Begins::WhatIsRipe
        } else {
            Begins::Nothing
        }
    }

    /// One step: decide on the inputs, claim what is due if something may begin,
    /// and write all of it at once.
    async fn step(&self, id: &IssueId, inputs: Vec<Input>, begins: Begins) -> anyhow::Result<Step> {
        let (mut refused_after, mut contradictions) = (None, 0);
        let mut refusals = 0;
        for _ in 0..CONFLICTS_MAX {
            let before = self.load(id).await?;
            let after = before.seq;
            // Who is refused sees at the next try what was written, or the head lies.
            contradictions = match refused_after {
                Some(it) if it == after => contradictions + 1,
                Some(_) | None => 0,
            };
            if contradictions >= CONTRADICTIONS_MAX {
                let why = format!("its head does not match its log, which ends at {after}");
                return Err(self.park(id, why).await);
            }
            let mut draft = Draft::new(Issue::clone(&before), self.hands.clock.now());
            for input in &inputs {
                draft.take(input.clone());
            }
            // What was seen is written down, whatever may begin or not.
            if refusals < REFUSALS_MAX
                && let Err(error) = self.consider(&mut draft, begins, refusals > 0).await
            {
                warn!(issue = %id, "nothing begins, the conditions cannot be read: {error:#}");
            }
            let due = match begins {
                Begins::WhatIsRipe | Begins::Anything => draft.claim(),
                Begins::Nothing => Vec::new(),
            };
            let (issue, refusal) = (Arc::new(draft.issue), draft.refusal);
            if draft.events.is_empty() {
                return Ok(Step {
                    work: Work { issue, due },
                    wrote: false,
                    refusal,
                });
            }
            let facts = stats::facts(&before, &draft.events, draft.now);
            let append = Append {
                issue: id.clone(),
                after,
                at: draft.now,
                entries: stats::entries(&facts, draft.now),
                events: draft.events.clone(),
                head: view::head(&issue),
            };
            match self.hands.log.append(append).await {
                Ok(()) => {
                    stats::measure(&facts);
                    for (seq, event) in (after + 1..).zip(&draft.events) {
                        tell(&issue, seq, event);
                    }
                    self.keep(Arc::clone(&issue));
                    return Ok(Step {
                        work: Work { issue, due },
                        wrote: true,
                        refusal,
                    });
                }
                Err(AppendError::Conflict) => {
                    debug!(issue = %id, "somebody else wrote first");
                    metrics::counter!(stats::APPEND_CONFLICTS).increment(1);
                    refused_after = Some(after);
                }
                Err(AppendError::OverLimit { account }) => {
                    debug!(issue = %id, "the account `{account}` has no more room");
                    refusals += 1;
                }
                Err(AppendError::Failed(error)) => {
                    return Err(error.context(format!("append to the log of issue {id}")));
                }
            }
        }
        anyhow::bail!("issue {id} kept moving for {CONFLICTS_MAX} tries")
    }

    /// Begins what may begin. `afresh`: others have spent what there was a moment ago.
    async fn consider(
        &self,
        draft: &mut Draft,
        begins: Begins,
        afresh: bool,
    ) -> anyhow::Result<()> {
        let wanted = match begins {
            Begins::Nothing => false,
            Begins::WhatIsRipe => draft.is_ripe(),
            Begins::Anything => draft.is_open() || self.known.paused(&self.hands).await?,
        };
        if wanted {
            let conditions = match begins {
                Begins::Anything if !afresh => self.known.recent(&self.hands).await?,
                _ => self.known.read(&self.hands).await?,
            };
            draft.consider(&conditions);
        }
        Ok(())
    }

    /// Takes an issue out of everybody's way that cannot be told any more.
    async fn park(&self, id: &IssueId, why: String) -> anyhow::Error {
        error!(issue = %id, "parked: {why}");
        metrics::counter!(stats::ISSUES_PARKED).increment(1);
        self.cache().remove(id);
        if let Err(error) = self.hands.log.park(id, &words::parked(id, &why)).await {
            return error.context(format!("park issue {id}, since {why}"));
        }
        Parked {
            issue: id.clone(),
            why,
        }
        .into()
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
}

/// What may be made at once, and what one after another: all that goes to one session.
fn lanes(due: Vec<Due>) -> Vec<Vec<Due>> {
    let mut lanes: Vec<Vec<Due>> = Vec::new();
    for due in due {
        let session = due.effect.session();
        let lane = lanes.iter_mut().find(|lane| {
            session.is_some() && lane.first().and_then(|it| it.effect.session()) == session
        });
        match lane {
            Some(lane) => lane.push(due),
            None => lanes.push(vec![due]),
        }
    }
    lanes
}

/// A log line for what a person would want to see happen. No text of the issue
/// or of an agent stands in it.
fn tell(issue: &Issue, seq: Seq, event: &Event) {
    let (id, identifier) = (&issue.id, &issue.identifier);
    let task = event.task().map(tracing::field::display);
    let key = event.key(seq);
    let what = words::plain(event);
    match event {
        Event::Claimed { .. } | Event::Performed { .. } | Event::Requested(_) => {
            debug!(issue = %id, identifier, task, key, "{what}");
        }
        _ => info!(issue = %id, identifier, task, key, "{what}"),
    }
}
