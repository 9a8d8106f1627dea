//! The legs of a job: one process of its agent after another, in one worktree and
//! one session. There is a next one where the last one died with its supervisor
//! or its machine, where it was interrupted by a shutdown, and where a message
//! came too late for it.
//!
//! All legs together keep the job's limits. Its time runs from the first leg's
//! beginning, whether an agent works or not. Of its money each leg may spend what
//! the legs before have left. What a leg has spent that died without a last word is
//! estimated by its tokens, but for the turn in which it died: a capped run
//! overshoots by no more than that anyway. Of an agent that tells nothing, such a
//! leg is the last one under a limit. What the job is reported to have cost is
//! then marked as an estimate; where nothing is known, nothing is reported.

use std::io;
use std::time::Duration;

use jiff::SignedDuration;
use shared::issue::{Failure, FailureClass, REASON_BYTES_MAX, RunResult, Time, clip};
use shared::ports::{Job, Message};
use tokio::time::timeout;
use tracing::{info, warn};

use super::attend::{Attended, Over, attend};
use super::earlier::{Earlier, earlier};
use super::mail::Mail;
use super::{Shop, Stop, cancelled, lost, stopped};
use crate::agent::{self, Agent, Cost, Seen, Spent, judge, spent};
use crate::folder::{Account, Exit, ExitWhy, Folder, Launch, ProcessFolder, Site, Terms};
use crate::tail::Tail;

/// How often an agent that died is taken up again.
const RESUMES_MAX: u32 = 3;
/// After an interruption that we have witnessed ourselves: probably the machine
/// goes down, and a new leg would only be the next to die.
const INTERRUPTED_PAUSE: Duration = Duration::from_secs(30);
/// An agent that prints more than this in all its legs is killed, bytes.
const OUTPUT_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What an agent is told that was cut off.
const GO_ON: &str = "You were cut off in the middle of your work: the machine or the program \
                     above you was restarted. See how far you have come, and go on with the task.";

/// What all legs of a job come to.
pub(super) struct Brought {
    pub(super) result: Result<RunResult, Failure>,
    pub(super) spent: Spent,
}

/// What legs are made with.
pub(super) struct Legs<'a> {
    pub(super) shop: &'a Shop,
    pub(super) folder: &'a Folder,
    pub(super) job: &'a Job,
    pub(super) site: &'a Site,
    pub(super) agent: &'static dyn Agent,
    pub(super) mail: &'a Mail,
    pub(super) stop: &'a Stop,
}

/// A leg that is over.
struct Past {
    n: usize,
    terms: Terms,
    attended: Attended,
    seen: Seen,
    account: Account,
}

/// What comes after a leg.
enum Then {
    Leg(Terms, String),
    End(Result<RunResult, Failure>),
}

impl Legs<'_> {
    /// Goes on to the end of the last leg.
    pub(super) async fn run(&self) -> io::Result<Brought> {
        if self.folder.legs()? == 0 {
            let earlier = earlier(self.folder, self.job)?;
            let repair = self.job.repair.as_ref().filter(|_| earlier.is_some());
            let first = repair.map_or(&self.job.prompt, |it| &it.message);
            let (terms, prompt) = self.first(first, earlier.as_ref())?;
            if let Err(failure) = self.make(1, terms, &prompt)? {
                return Ok(Brought {
                    result: Err(failure),
                    spent: spent([]),
                });
            }
        }
        loop {
            let past = self.attend(self.folder.legs()?).await?;
            let costs = self.costs(past.n)?;
            let sum = spent(costs.iter().copied());
            let then = self.after(&past, sum).await?;
            let result = match then {
                Then::End(result) => result,
                Then::Leg(terms, words) => {
                    let n = past.n + 1;
                    info!(key = self.job.key, leg = n, "the agent is taken up again");
                    match self.make(n, terms, &words)? {
                        Ok(()) => continue,
                        Err(failure) => Err(failure),
                    }
                }
            };
            let session = past.account.session.or(past.terms.resume);
            let result = result.map(|it| RunResult { session, ..it });
            return Ok(Brought { result, spent: sum });
        }
    }

    /// What an agent is begun with, and told.
    fn first(&self, words: &str, earlier: Option<&Earlier>) -> io::Result<(Terms, String)> {
        let messages = self.folder.messages()?;
        let terms = Terms {
            agent: self.agent.name().to_owned(),
            at: self.now(),
            resume: earlier.map(|it| it.session.clone()),
            taken_up: earlier.map(|it| it.cost),
            cost_max: self.job.cost_max,
            had: 0,
            told: messages.len(),
            deaths: 0,
        };
        Ok((terms, self::words(words, &messages)))
    }

    /// Makes a leg ready. It is started by whoever attends to it.
    fn make(&self, n: usize, terms: Terms, words: &str) -> io::Result<Result<(), Failure>> {
        let (shop, job) = (self.shop, self.job);
        let program = match agent::located(self.agent, &shop.agents, shop.agent_env.path()) {
            Ok(program) => program,
            Err(failure) => return Ok(Err(failure)),
        };
        let process = self.folder.leg(n);
        let schema = match &job.answer_schema {
            Some(schema) => Some(process.set_schema(schema)?),
            None => None,
        };
        let leg = agent::Leg {
            resume: terms.resume.clone(),
            cost_max: terms.cost_max,
            worktree: self.site.worktree.clone(),
            schema,
            env: shop.agent_env.of(self.agent),
        };
        let printed: u64 = (1..n).map(|it| self.folder.leg(it).printed()).sum();
        let seconds = self.left(&terms)?;
        let launch = Launch {
            program,
            args: self.agent.args(job, &leg),
            cwd: self.site.worktree.clone(),
            seconds_max: u64::try_from(seconds).unwrap_or_default().max(1),
            bytes_max: OUTPUT_BYTES_MAX.saturating_sub(printed),
            heeds_stop: true,
            leg: Some(terms),
        };
        // Never the id of an earlier one: the session would pass it over.
        let id = format!("{} leg {n}", job.key);
        process.set_launch(&launch, &self.agent.said(&id, words))?;
        Ok(Ok(()))
    }

    /// Sees a leg through to its end, and reads what it has brought.
    async fn attend(&self, n: usize) -> io::Result<Past> {
        let process = self.folder.leg(n);
        let terms = terms(&process)?;
        let attended = attend(self.shop, &process, &self.shop.agent_env.of(self.agent)).await?;
        let (agent, output) = (self.agent, process.output());
        // It may be long.
        let seen = tokio::task::spawn_blocking(move || Tail::new(output).into_end(agent))
            .await
            .map_err(io::Error::other)??;
        let unbegun = match &attended.over {
            Over::Exited(exit) => match exit.why {
                ExitWhy::NotStarted { .. } => true,
                ExitWhy::Stopped => process.begun()?.is_none(),
                _ => false,
            },
            Over::NeverBegun => true,
            Over::Died | Over::Astray => false,
        };
        let cut = !matches!(&attended.over, Over::Exited(exit) if exit.why == ExitWhy::Exited);
        // Of one that was cut off, the last figure is not the last word.
        let told = seen.spent(cut).map(|it| it.since(terms.taken_up));
        let account = Account {
            session: seen.session.clone(),
            cost: told.or(unbegun.then(Cost::default)),
            spoke: seen.note.is_some(),
        };
        process.set_account(&account)?;
        Ok(Past {
            n,
            terms,
            attended,
            seen,
            account,
        })
    }

    /// What each of the first n legs has cost.
    fn costs(&self, n: usize) -> io::Result<Vec<Option<Cost>>> {
        (1..=n)
            .map(|it| Ok(self.folder.leg(it).account()?.and_then(|it| it.cost)))
            .collect()
    }

    /// Decides what comes after a leg.
    async fn after(&self, past: &Past, sum: Spent) -> io::Result<Then> {
        let exit = match &past.attended.over {
            Over::Exited(exit) if exit.why == ExitWhy::Interrupted => {
                if past.attended.witnessed && !stopped(self.folder, self.stop) {
                    let mut asked = self.stop.clone();
                    let _ = timeout(INTERRUPTED_PAUSE, asked.wait_for(|it| *it)).await;
                }
                return self.after_death(past, sum);
            }
            Over::Died => return self.after_death(past, sum),
            Over::Exited(exit) => exit,
            Over::Astray => {
                let message = "the runner lost sight of the agent and cannot end it";
                return Ok(Then::End(Err(lost(message.into()))));
            }
            Over::NeverBegun => {
                let message = "the runner's supervisor starts no agent: see `supervisor.err` in \
                               the job's folder";
                return Ok(Then::End(Err(Failure {
                    class: FailureClass::Invalid,
                    message: message.into(),
                })));
            }
        };
        let result = match self.judged(past, exit) {
            Ok(_) if stopped(self.folder, self.stop) => return Ok(Then::End(Err(cancelled()))),
            Ok(result) => result,
            Err(failure) if self.forgot_the_earlier(past, exit, &failure) => {
                let why = &failure.message;
                info!(key = self.job.key, "the agent begins anew: {why}");
                let account = Account {
                    cost: past.account.cost.or(Some(Cost::default())),
                    ..past.account.clone()
                };
                self.folder.leg(past.n).set_account(&account)?;
                let (terms, words) = self.first(&self.job.prompt, None)?;
                return Ok(Then::Leg(terms, words));
            }
            Err(failure) => return Ok(Then::End(Err(failure))),
        };
        let waiting = self.mail.waiting(exit.told)?;
        if waiting.is_empty() {
            return Ok(Then::End(Ok(result)));
        }
        let told = exit.told + waiting.len();
        match self.next(past, sum, exit.told, told) {
            Ok(terms) => Ok(Then::Leg(terms, texts(&waiting))),
            Err(failure) => {
                let why = failure.message;
                warn!(key = self.job.key, "a message was not passed on: {why}");
                let text = format!(
                    "{}\n\n(What was written last could not be passed on to the agent: {why}.)",
                    result.text
                );
                Ok(Then::End(Ok(RunResult {
                    text,
                    unheard: true,
                    ..result
                })))
            }
        }
    }

    /// Could it not even begin to go on with what an earlier run has made?
    fn forgot_the_earlier(&self, past: &Past, exit: &Exit, failure: &Failure) -> bool {
        let at_once = past.terms.taken_up.is_some() && past.n == 1 && !past.account.spoke;
        let by_itself = exit.why == ExitWhy::Exited && exit.signal.is_none();
        let perhaps = matches!(failure.class, FailureClass::Lost | FailureClass::Invalid);
        at_once && by_itself && perhaps && !stopped(self.folder, self.stop)
    }

    fn judged(&self, past: &Past, exit: &Exit) -> Result<RunResult, Failure> {
        let complaint = self.folder.leg(past.n).complaint();
        let asked = self.job.answer_schema.is_some();
        let judged = judge(self.agent, &past.seen, exit, &complaint, asked);
        judged.map_err(|failure| {
            // It ended before it had begun, and not for want of anything else.
            let forgot = past.terms.resume.is_some()
                && !past.account.spoke
                && exit.why == ExitWhy::Exited
                && failure.class == FailureClass::Agent;
            if !forgot {
                return failure;
            }
            lost(format!(
                "the agent could not take up its work again: {}",
                failure.message
            ))
        })
    }

    /// After a leg that did not end by itself.
    fn after_death(&self, past: &Past, sum: Spent) -> io::Result<Then> {
        if stopped(self.folder, self.stop) {
            return Ok(Then::End(Err(cancelled())));
        }
        let deaths = past.terms.deaths + 1;
        if deaths > RESUMES_MAX {
            let message = format!("the agent died under the runner {deaths} times");
            return Ok(Then::End(Err(lost(message))));
        }
        // What a leg was told that never began, it may not have heard.
        let had = if past.account.spoke {
            past.terms.told
        } else {
            past.terms.had
        };
        let mut told = had;
        let mut say = GO_ON.to_owned();
        if !self.agent.listens() {
            let messages = self.folder.messages()?.split_off(had);
            told += messages.len();
            say = words(GO_ON, &messages);
        }
        Ok(match self.next(past, sum, had, told) {
            Ok(terms) => Then::Leg(Terms { deaths, ..terms }, say),
            Err(failure) => Then::End(Err(failure)),
        })
    }

    /// What a further leg would be started with, or why there is none.
    fn next(&self, past: &Past, sum: Spent, had: usize, told: usize) -> Result<Terms, Failure> {
        let before = &past.terms;
        let session = past.account.session.clone().or(before.resume.clone());
        let Some(session) = session else {
            let message = "the runner lost sight of the agent before it had said by what it can \
                           be taken up again";
            return Err(lost(message.into()));
        };
        let cost_max = match (self.job.cost_max, sum.perhaps) {
            (None, _) => None,
            (Some(max), Some(usd)) if usd < max => Some(max - usd),
            (Some(_), Some(_)) => {
                return Err(Failure {
                    class: FailureClass::Budget,
                    message: "the agent has spent all that it may".into(),
                });
            }
            (Some(_), None) => {
                let message = "it is not known what the agent has cost so far, so it may have \
                               spent all that it may";
                return Err(lost(message.into()));
            }
        };
        let terms = Terms {
            at: self.now(),
            resume: Some(session),
            cost_max,
            had,
            told,
            ..before.clone()
        };
        match self.left(&terms) {
            Ok(1..) => Ok(terms),
            Ok(_) => Err(Failure {
                class: FailureClass::Timeout,
                message: "the time for the agent is over".into(),
            }),
            Err(error) => Err(lost(format!(
                "the legs of the agent cannot be read: {error}"
            ))),
        }
    }

    /// How many seconds a leg may still take that begins now.
    fn left(&self, terms: &Terms) -> io::Result<i64> {
        let first = match self.folder.leg(1).launch()? {
            Some(_) => self::terms(&self.folder.leg(1))?.at,
            None => terms.at,
        };
        // A clock that was set back gives no time.
        let gone = terms.at.duration_since(first).max(SignedDuration::ZERO);
        Ok(self.job.seconds_max - gone.as_secs())
    }

    fn now(&self) -> Time {
        self.shop.clock.now()
    }
}

/// The terms of a leg.
pub(super) fn terms(process: &ProcessFolder) -> io::Result<Terms> {
    let launch = process.launch()?;
    launch
        .and_then(|it| it.leg)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the launch of a leg is gone"))
}

/// The sentence about messages that a run has taken and its agent perhaps never heard.
pub(super) fn unheard(folder: &Folder) -> io::Result<Option<String>> {
    let n = folder.legs()?;
    let heard = match n {
        0 => 0,
        n => {
            let process = folder.leg(n);
            let terms = terms(&process)?;
            process
                .exit()?
                .map_or(terms.told, |it| it.told.max(terms.told))
        }
    };
    let count = folder.messages()?.len().saturating_sub(heard);
    Ok((count > 0).then(|| {
        clip(
            &format!("the agent may not have heard {count} of the messages for it"),
            REASON_BYTES_MAX,
        )
    }))
}

fn words(first: &str, messages: &[Message]) -> String {
    match messages {
        [] => first.to_owned(),
        more => format!("{first}\n\n{}", texts(more)),
    }
}

fn texts(messages: &[Message]) -> String {
    let all: Vec<&str> = messages.iter().map(|it| it.text.as_str()).collect();
    all.join("\n\n")
}
