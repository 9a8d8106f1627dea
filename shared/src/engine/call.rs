//! Making one effect: the only place where the outside world is changed, and
//! only for what was requested and claimed in the log.

use std::fmt::Write as _;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tracing::{error, warn};
use uuid::Uuid;

use super::Engine;
use crate::issue::{
    AgentPolicy, Briefing, Due, Effect, ExecutorKind, FailureClass, Fault, How, Input, Issue,
    LEASE_SECONDS, Outcome, Pause, PlanWord, Policy, PullState, Seq, Task, TaskId, TaskKind,
    commands, frame, verdict, words,
};
use crate::pause;
use crate::ports::{
    BranchAsk, CloseAsk, Executor, Hands, Job, LogAsk, MergeAnswer, MergeAsk, Message, PlanItem,
    PlanStatus, PullAsk, Repair, Settlement, Started, Told, UpdateAnswer, UpdateAsk, WhichPull,
};

/// A call that follows others under claims of the same moment begins only while
/// they hold for longer than this: longer than such a call takes.
const LANE_CALL_SECONDS: i64 = 40;
/// A start takes so long at the most: one that went out under a claim that has
/// lapsed would be made by two of us.
const START_SECONDS: i64 = LEASE_SECONDS - 5;

impl Engine {
    /// Makes effects that were claimed, one after another, and says what came of
    /// each. Those behind one that could not be made are given back.
    pub(super) async fn make(&self, issue: Arc<Issue>, lane: Vec<Due>) -> Vec<Input> {
        let mut inputs = Vec::new();
        for due in lane {
            let key = due.key;
            let claim = issue.owed.get(&key).and_then(|it| it.claimed);
            let left = claim.map(|it| it.until.duration_since(self.hands.clock.now()).as_secs());
            let first = inputs.is_empty();
            let went_well = inputs
                .iter()
                .all(|it| matches!(it, Input::Performed { .. }));
            // Who slept through the claim, or would come to its end only after it,
            // leaves the effect to somebody else.
            let enough = match (&due.effect, due.how) {
                _ if !first => LANE_CALL_SECONDS + 1,
                (Effect::Start { .. }, How::Make) => START_SECONDS,
                _ => 1,
            };
            let input = if went_well && left.is_some_and(|it| it >= enough) {
                self.make_one(&issue, &due).await
            } else {
                Input::Faulted {
                    key,
                    claim: due.claim,
                    fault: Fault::Busy {
                        why: "there is no time for it, or what comes before it was not made".into(),
                        retry_after_seconds: Some(0),
                    },
                }
            };
            inputs.push(input);
        }
        inputs
    }

    async fn make_one(&self, issue: &Issue, due: &Due) -> Input {
        let Due { key, claim, .. } = *due;
        match self.call(issue, due).await {
            Ok(Answer::Outcome(outcome)) => Input::Performed { key, outcome },
            Ok(Answer::Absent { certain }) => Input::Absent {
                key,
                claim,
                certain,
            },
            Err(fault) => {
                let task = due.effect.task().map(tracing::field::display);
                warn!(issue = %issue.id, task, key, "could not make an effect: {fault}");
                Input::Faulted { key, claim, fault }
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
                match policies.policy(&brief).await {
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
            Effect::Move { to, issue: sub } => {
                tracker
                    .set_stage(sub.as_ref().unwrap_or(&issue.id), *to)
                    .await?;
                Outcome::Done
            }
            Effect::Start { task, executor, .. } => {
                let runs = self.available(*executor)?;
                let log = self.log_of(issue, task, due.how).await;
                let job = job(issue, task, *executor, id, &log)?;
                match due.how {
                    How::Make => {
                        // Whatever was known when it was asked for.
                        if self.pause().await?.is_some() {
                            let why = "an operator has paused all new work".into();
                            return Err(Fault::Down { why });
                        }
                        started(runs.start(&job).await?)
                    }
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
            Effect::Tell {
                executor,
                run,
                note,
                ..
            } => {
                let note = issue.notes.get(*note);
                let note = note.ok_or_else(|| bug(format!("note {due:?} is not there")))?;
                let message = Message {
                    id: id.to_string(),
                    text: frame::message(note),
                };
                match self.available(*executor)?.tell(run, &message).await? {
                    Told::Accepted => Outcome::Done,
                    Told::TooLate => Outcome::Unheard,
                }
            }
            Effect::Merge { task, number, sha } => {
                let (task, policy) = task_of(issue, task)?;
                let repository = policy.repository.clone();
                if due.how == How::Look {
                    let ask = PullAsk {
                        repository,
                        which: WhichPull::of(
                            Some(*number),
                            task.branch.as_deref().unwrap_or_default(),
                        ),
                    };
                    let facts = forge.facts(&[ask]).await.pop().transpose()?.flatten();
                    match facts.filter(|it| it.state == PullState::Merged) {
                        Some(facts) => Outcome::Merged {
                            sha: facts.head_sha,
                        },
                        None => return Ok(Answer::Absent { certain: true }),
                    }
                } else if self.pause().await?.is_some_and(|it| it.merges) {
                    return Err(merges_paused());
                } else {
                    let ask = MergeAsk {
                        repository,
                        number: *number,
                        branch: task.branch.clone().unwrap_or_default(),
                        sha: sha.clone(),
                        method: policy.method,
                        title: words::merge_title(issue, task, *number),
                    };
                    match forge.merge(&ask).await? {
                        MergeAnswer::Merged { sha } => Outcome::Merged { sha },
                        MergeAnswer::Queued => Outcome::Queued,
                        MergeAnswer::HeadMoved => Outcome::HeadMoved,
                        MergeAnswer::Refused { why } => Outcome::MergeRefused { why },
                    }
                }
            }
            Effect::Update { task, number, sha } => {
                let (task, policy) = task_of(issue, task)?;
                if self.pause().await?.is_some_and(|it| it.merges) {
                    return Err(merges_paused());
                }
                let ask = UpdateAsk {
                    repository: policy.repository.clone(),
                    number: *number,
                    branch: task.branch.clone().unwrap_or_default(),
                    sha: sha.clone(),
                };
                match forge.update(&ask).await? {
                    UpdateAnswer::Done => Outcome::Done,
                    UpdateAnswer::HeadMoved => Outcome::HeadMoved,
                    UpdateAnswer::Refused { why } => Outcome::MergeRefused { why },
                }
            }
            Effect::Close { task, branch, why } => {
                self.close(issue, task, branch, why, id).await?;
                Outcome::Done
            }
            Effect::Prune { task, branch } => {
                let (_, policy) = task_of(issue, task)?;
                let ask = BranchAsk {
                    repository: policy.repository.clone(),
                    branch: branch.clone(),
                };
                forge.delete_branch(&ask).await?;
                Outcome::Done
            }
        };
        Ok(Answer::Outcome(outcome))
    }

    /// The end of the log of the check that a repair is about. One that cannot be had
    /// is gone without.
    async fn log_of(&self, issue: &Issue, task: &TaskId, how: How) -> String {
        let mend = issue.task(task).and_then(|it| it.mend.as_ref());
        let check = mend.and_then(|it| it.check);
        let (Some(check), Some(policy), How::Make) = (check, issue.policy.as_deref(), how) else {
            return String::new();
        };
        let ask = LogAsk {
            repository: policy.repository.clone(),
            check,
        };
        self.hands.forge.log(&ask).await.unwrap_or_else(|fault| {
            warn!(issue = %issue.id, %task, "the log of a check cannot be read: {fault}");
            String::new()
        })
    }

    /// Closes the open pull request of a branch, if it is ours.
    async fn close(
        &self,
        issue: &Issue,
        task: &TaskId,
        branch: &str,
        why: &str,
        id: Uuid,
    ) -> Result<(), Fault> {
        let (task, policy) = task_of(issue, task)?;
        let repository = &policy.repository;
        let ask = PullAsk {
            repository: repository.clone(),
            which: WhichPull::Branch(branch.to_owned()),
        };
        let facts = self.hands.forge.facts(&[ask]).await.pop();
        let Some(facts) = facts.transpose()?.flatten() else {
            return Ok(());
        };
        let marker = words::marker(issue, &task.spec.id);
        if facts.state != PullState::Open
            || verdict::foreign(&facts, task, branch, &marker, policy).is_some()
        {
            return Ok(());
        }
        let ask = CloseAsk {
            repository: repository.clone(),
            number: facts.number,
            comment: why.to_owned(),
            mark: words::effect_mark(&id.to_string()),
        };
        self.hands.forge.close(&ask).await
    }

    /// The kill switch as it stands now. One that cannot be read lets nothing begin.
    async fn pause(&self) -> Result<Option<Pause>, Fault> {
        let hands = &self.hands;
        let pause = pause::read(hands.registers.as_ref(), hands.clock.now()).await;
        pause.map_err(|error| Fault::Busy {
            why: format!("{error:#}"),
            retry_after_seconds: None,
        })
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

fn job(
    issue: &Issue,
    id: &TaskId,
    executor: ExecutorKind,
    key: Uuid,
    log: &str,
) -> Result<Job, Fault> {
    let (task, policy) = task_of(issue, id)?;
    let of = task.spec.judges.as_ref().and_then(|it| issue.task(it));
    let commands = match of {
        Some(of) if task.spec.kind == TaskKind::Verifier => commands(policy, &of.spec),
        _ => Vec::new(),
    };
    let message = words::repair(issue, task, executor, log);
    let repair = task.mend.as_ref().filter(|_| task.mending).map(|mend| {
        // Who goes on elsewhere begins a run of its own, on the same branch.
        let here = task.run.as_ref().filter(|(at, _)| *at == executor);
        Repair {
            run: here.map(|(_, run)| run.clone()),
            session: here.and(task.session.clone()),
            message: message.clone(),
            conflict: mend.conflict,
        }
    });
    Ok(Job {
        key: key.to_string(),
        issue: issue.id.clone(),
        identifier: issue.identifier.clone(),
        issue_title: issue.title.clone(),
        issue_url: issue.url.clone(),
        task: id.clone(),
        kind: task.spec.kind,
        title: task.spec.title.clone(),
        prompt: frame::frame(issue, task, executor, &message),
        answer_schema: frame::answer_schema(issue, task),
        repository: policy.repository.clone(),
        branch: of.unwrap_or(task).branch.clone().unwrap_or_default(),
        agent: AgentPolicy {
            append_instruction: frame::instruction(&policy.agent, task.spec.kind),
            ..agent_of(policy, task, of, executor)
        },
        cost_max: task.reserved.map(|it| it.usd),
        seconds_max: policy.task_timeout_seconds,
        patience_seconds: policy.patience_seconds(),
        commit: task.judged.clone(),
        commands,
        repair,
    })
}

/// How the agent of a task runs. A reviewer where the author has worked is another model.
fn agent_of(
    policy: &Policy,
    task: &Task,
    of: Option<&Task>,
    executor: ExecutorKind,
) -> AgentPolicy {
    let agent = policy.agent_for(&task.spec);
    let author = of.filter(|it| it.run.as_ref().is_some_and(|(at, _)| *at == executor));
    match author {
        Some(author) => agent.other_than(&policy.agent_for(&author.spec)),
        None => agent,
    }
}

fn task_of<'a>(issue: &'a Issue, id: &TaskId) -> Result<(&'a Task, &'a Policy), Fault> {
    match (issue.task(id), issue.policy.as_deref()) {
        (Some(task), Some(policy)) => Ok((task, policy)),
        _ => Err(bug(format!("the task `{id}` is not there"))),
    }
}

/// It is given back, and considered again with all that waits for the end of the pause.
fn merges_paused() -> Fault {
    Fault::Down {
        why: "an operator has paused all merges".into(),
    }
}

fn bug(why: String) -> Fault {
    error!("{why}");
    Fault::Permanent {
        class: FailureClass::Invalid,
        why,
    }
}

/// Each task with its cost, and behind the first one what it all came to so far.
fn plan_items(issue: &Issue) -> Vec<PlanItem> {
    let mut items: Vec<PlanItem> = issue.shown_tasks().map(plan_item).collect();
    if let [first, _, ..] = items.as_mut_slice()
        && issue.spent_usd > 0.0
    {
        let _ = write!(first.content, ", ${:.2} in all", issue.spent_usd);
    }
    items
}

fn plan_item(task: &Task) -> PlanItem {
    let word = task.plan_word();
    let status = match word {
        PlanWord::Pending => PlanStatus::Pending,
        PlanWord::InProgress | PlanWord::Ready => PlanStatus::InProgress,
        PlanWord::Completed => PlanStatus::Completed,
        PlanWord::Failed | PlanWord::Skipped | PlanWord::Cancelled => PlanStatus::Canceled,
    };
    let note = match word {
        PlanWord::Ready => " (ready)",
        PlanWord::Failed => " (failed)",
        PlanWord::Skipped => " (skipped)",
        PlanWord::Pending | PlanWord::InProgress | PlanWord::Completed | PlanWord::Cancelled => "",
    };
    let cost = if task.cost_usd > 0.0 {
        format!(" (${:.2})", task.cost_usd)
    } else {
        String::new()
    };
    PlanItem {
        content: format!("{}{note}{cost}", task.spec.title),
        status,
    }
}
