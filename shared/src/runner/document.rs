//! What a control plane and its runners say to each other (contract, section
//! 6). Keys that are not known are passed over, so that both sides may grow.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::issue::{
    AgentPolicy, COST_USD_MAX, Ending, Failure, FailureClass, IssueId, LOG_BYTES_MAX,
    REASON_BYTES_MAX, Repository, RunResult, TEXT_BYTES_MAX, TaskId, TaskKind, Time, clip,
    words_enum,
};
use crate::ports::{Job, Repair};

/// A lease lasts this many heartbeats.
pub const HEARTBEATS_PER_LEASE: u32 = 3;
/// The answer of a run, where one was asked for, has at most this many bytes.
pub const ANSWER_BYTES_MAX: usize = 128 * 1024;

/// `POST /runner/v1/lease`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LeaseAsk {
    pub runner: String,
    pub slots_free: usize,
    /// The ids of the repositories it has.
    pub repositories: Vec<String>,
    /// The agent programs it has.
    pub agents: Vec<String>,
    /// How long it would wait for a job.
    #[serde(default)]
    pub wait_seconds: u64,
}

/// The answer to a lease that brought something.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Leased {
    pub jobs: Vec<JobDoc>,
}

/// A job, leased.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobDoc {
    pub job: String,
    /// The number of this lease. Who speaks under another one is not heard.
    pub fence: u64,
    pub lease_until: Time,
    /// How long it holds from now: what `lease_until` says without comparing clocks.
    #[serde(default)]
    pub lease_seconds: Option<f64>,
    pub callback: String,
    pub issue: IssueDoc,
    pub task: TaskDoc,
    /// The repository's id in the configuration.
    pub repository: String,
    pub base_branch: String,
    pub branch: String,
    pub agent: AgentDoc,
    pub limits: LimitsDoc,
    /// The commit to work at; absent: the base branch as it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What is run at that commit instead of an agent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// It goes on with what an earlier run has made, in the session `agent.resume`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repair>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IssueDoc {
    pub id: IssueId,
    pub identifier: String,
    pub title: String,
    pub url: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskDoc {
    pub id: TaskId,
    pub kind: TaskKind,
    pub title: String,
    /// The whole prompt, frame included.
    pub prompt: String,
    #[serde(default, deserialize_with = "json_text")]
    pub answer_schema: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentDoc {
    pub program: String,
    pub model: Option<String>,
    #[serde(default)]
    pub fallback_model: Option<String>,
    /// The agent's session to go on with.
    pub resume: Option<String>,
    pub allowed_tools: Vec<String>,
    pub disallowed_tools: Vec<String>,
    pub mcp: Vec<String>,
    #[serde(default)]
    pub append_instruction: Option<String>,
    #[serde(default)]
    pub trusted: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LimitsDoc {
    pub cost_usd: Option<f64>,
    pub seconds: i64,
}

/// `POST …/heartbeat`: the job is being worked on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeartbeatDoc {
    pub runner: String,
    pub fence: u64,
    /// What it has cost so far, where that is known.
    #[serde(default, deserialize_with = "figure")]
    pub cost_usd: Option<f64>,
    #[serde(default)]
    pub note: Option<String>,
    #[serde(default)]
    pub session: Option<String>,
    /// The messages that it has got; `None`: it does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Vec<String>>,
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeardDoc {
    pub lease_until: Time,
    #[serde(default)]
    pub lease_seconds: Option<f64>,
    pub action: Action,
    pub message: Option<String>,
    /// Tells deliveries of the same message apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
}

words_enum! {
    /// What a runner is to do with a job that it works on.
    Action { Continue = "continue", Cancel = "cancel", Message = "message" }
}

words_enum! {
    /// How a runner says that a job has ended.
    Outcome { Succeeded = "succeeded", Failed = "failed", Cancelled = "cancelled" }
}

/// `POST …/result`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultDoc {
    pub runner: String,
    pub fence: u64,
    pub outcome: Outcome,
    #[serde(default, deserialize_with = "class")]
    pub class: Option<FailureClass>,
    /// The agent's last words, or why it failed.
    #[serde(default)]
    pub text: String,
    /// The answer that was asked for, as a text of JSON.
    #[serde(default, deserialize_with = "json_text")]
    pub answer: Option<String>,
    #[serde(default)]
    pub branch: Option<String>,
    #[serde(default)]
    pub head_sha: Option<String>,
    #[serde(default)]
    pub pr_url: Option<String>,
    /// `None`: it is not known what has changed.
    #[serde(default)]
    pub changed_files: Option<Vec<String>>,
    #[serde(default, deserialize_with = "figure")]
    pub cost_usd: Option<f64>,
    #[serde(default)]
    pub cost_is_estimate: bool,
    #[serde(default)]
    pub session: Option<String>,
    /// Something that a person wrote while it worked did not reach the agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unheard: bool,
    /// The messages that it has got, as in a heartbeat: one may have come after the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Vec<String>>,
}

impl JobDoc {
    /// The job as it is handed out under a lease.
    pub fn new(job: &Job, fence: u64, until: Time, seconds: f64, callback: String) -> Self {
        let agent = &job.agent;
        Self {
            job: job.key.clone(),
            fence,
            lease_until: until,
            lease_seconds: Some(seconds),
            callback,
            issue: IssueDoc {
                id: job.issue.clone(),
                identifier: job.identifier.clone(),
                title: job.issue_title.clone(),
                url: job.issue_url.clone(),
            },
            task: TaskDoc {
                id: job.task.clone(),
                kind: job.kind,
                title: job.title.clone(),
                prompt: job.prompt.clone(),
                answer_schema: job.answer_schema.clone(),
            },
            repository: job.repository.id.clone(),
            base_branch: job.repository.base_branch.clone(),
            branch: job.branch.clone(),
            agent: AgentDoc {
                program: agent.program.clone(),
                model: agent.model.clone(),
                fallback_model: agent.fallback_model.clone(),
                resume: job.repair.as_ref().and_then(|it| it.session.clone()),
                allowed_tools: agent.allowed_tools.clone(),
                disallowed_tools: agent.disallowed_tools.clone(),
                mcp: agent.mcp.clone(),
                append_instruction: agent.append_instruction.clone(),
                trusted: agent.trusted,
            },
            limits: LimitsDoc {
                cost_usd: job.cost_max,
                seconds: job.seconds_max,
            },
            commit: job.commit.clone(),
            commands: job.commands.clone(),
            repair: job.repair.clone(),
        }
    }

    /// The job for a machine that has this repository, under a key of its own.
    pub fn into_job(self, key: String, repository: Repository) -> Job {
        let agent = self.agent;
        let repair = self.repair.map(|it| Repair {
            session: agent.resume.clone(),
            ..it
        });
        Job {
            key,
            issue: self.issue.id,
            identifier: self.issue.identifier,
            issue_title: self.issue.title,
            issue_url: self.issue.url,
            task: self.task.id,
            kind: self.task.kind,
            title: self.task.title,
            prompt: self.task.prompt,
            answer_schema: self.task.answer_schema,
            repository: Repository {
                base_branch: self.base_branch,
                ..repository
            },
            branch: self.branch,
            agent: AgentPolicy {
                program: agent.program,
                model: agent.model,
                fallback_model: agent.fallback_model,
                allowed_tools: agent.allowed_tools,
                disallowed_tools: agent.disallowed_tools,
                mcp: agent.mcp,
                append_instruction: agent.append_instruction,
                trusted: agent.trusted,
            },
            cost_max: self.limits.cost_usd,
            seconds_max: self.limits.seconds,
            patience_seconds: None,
            commit: self.commit,
            commands: self.commands,
            repair,
        }
    }
}

impl ResultDoc {
    /// What a runner reports of a job that ended; `branch` is the one that was
    /// asked for. What only git knows is left out.
    pub fn new(runner: &str, fence: u64, branch: &str, ending: Ending) -> Self {
        let mut doc = Self {
            runner: runner.to_owned(),
            fence,
            outcome: Outcome::Succeeded,
            class: None,
            text: String::new(),
            answer: None,
            branch: None,
            head_sha: None,
            pr_url: None,
            changed_files: None,
            cost_usd: ending.cost_usd,
            cost_is_estimate: ending.cost_is_estimate,
            session: None,
            unheard: false,
            heard: None,
        };
        match ending.result {
            Ok(result) => {
                doc.text = clip(&result.text, TEXT_BYTES_MAX);
                doc.answer = result.answer;
                doc.unheard = result.unheard;
                doc.session = result.session;
                // Where no pull requests are opened, the branch is the change.
                if result.pull_url.is_some() || result.changed == Some(true) {
                    doc.branch = Some(result.branch.unwrap_or_else(|| branch.to_owned()));
                }
                doc.pr_url = result.pull_url;
                if result.changed == Some(false) {
                    doc.changed_files = Some(Vec::new());
                }
            }
            Err(failure) => {
                doc.outcome = match failure.class {
                    FailureClass::Cancelled => Outcome::Cancelled,
                    _ => Outcome::Failed,
                };
                doc.class = Some(failure.class);
                doc.text = clip(&failure.message, LOG_BYTES_MAX);
            }
        }
        doc
    }

    /// What it means for the run; `branch` is the one that was asked for.
    pub fn into_ending(self, branch: &str) -> Ending {
        // It may end with what a command has printed.
        let failed = |class, message: &str| {
            Err(Failure {
                class,
                message: clip(message, LOG_BYTES_MAX),
            })
        };
        let too_long = self.answer.as_ref().map_or(0, String::len) > ANSWER_BYTES_MAX;
        let result = match self.outcome {
            Outcome::Succeeded if too_long => failed(
                FailureClass::Agent,
                &format!("the agent's answer is over {ANSWER_BYTES_MAX} bytes"),
            ),
            Outcome::Succeeded => Ok(RunResult {
                text: clip(&self.text, TEXT_BYTES_MAX),
                answer: self.answer,
                pull_url: self.pr_url.map(|it| clip(&it, REASON_BYTES_MAX)),
                branch: self
                    .branch
                    .filter(|it| it != branch)
                    .map(|it| clip(&it, REASON_BYTES_MAX)),
                changed: self.changed_files.map(|it| !it.is_empty()),
                session: self.session.map(|it| clip(&it, REASON_BYTES_MAX)),
                unheard: self.unheard,
            }),
            Outcome::Failed => {
                // A class says whether a fresh run may help; without one it may.
                let class = self.class.unwrap_or(FailureClass::Agent);
                failed(class, &self.text)
            }
            Outcome::Cancelled => failed(FailureClass::Cancelled, &self.text),
        };
        Ending {
            result,
            cost_usd: usd(self.cost_usd),
            cost_is_estimate: self.cost_is_estimate,
        }
    }
}

/// A class of failure; one that we have no word for is the agent's.
fn class<'de, D: Deserializer<'de>>(from: D) -> Result<Option<FailureClass>, D::Error> {
    let word = Option::<String>::deserialize(from)?;
    Ok(word.map(|word| {
        let known = FailureClass::ALL.iter().find(|it| it.word() == word);
        known.copied().unwrap_or(FailureClass::Agent)
    }))
}

/// JSON as a text, or as it is.
fn json_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(match Option::<Value>::deserialize(from)? {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(other) => Some(other.to_string()),
    })
}

/// A figure, or something else that must not make the rest unheard: no number.
fn figure<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    Ok(match Option::<Value>::deserialize(from)? {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_f64().unwrap_or(f64::NAN)),
    })
}

/// A figure from outside, if it is one.
pub(super) fn usd(figure: Option<f64>) -> Option<f64> {
    figure.filter(|it| (0.0..=COST_USD_MAX).contains(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_reach_the_agent_is_reported() {
        for unheard in [true, false] {
            let result = RunResult {
                unheard,
                ..RunResult::default()
            };
            let ending = Ending {
                result: Ok(result.clone()),
                cost_usd: None,
                cost_is_estimate: false,
            };
            let doc = ResultDoc::new("mac-1", 1, "b", ending);
            let text = serde_json::to_string(&doc).expect("JSON");
            assert_eq!(text.contains("unheard"), unheard, "{text}");
            let read: ResultDoc = serde_json::from_str(&text).expect("a result");
            assert_eq!(read.into_ending("b").result, Ok(result));
        }
    }
    #[test]
    fn a_session_and_the_end_of_a_log_come_through() {
        let ending = |result| Ending {
            result,
            cost_usd: Some(0.0),
            cost_is_estimate: false,
        };
        let told = ending(Ok(RunResult {
            session: Some("s-1".into()),
            changed: Some(true),
            ..RunResult::default()
        }));
        let doc = ResultDoc::new("mac-1", 1, "b", told.clone());
        assert_eq!(doc.branch.as_deref(), Some("b"));
        let doc = ResultDoc {
            changed_files: Some(vec!["a".into()]),
            ..doc
        };
        assert_eq!(doc.into_ending("b"), told);

        let message = format!("`make` failed with 1:\n{}", "x".repeat(LOG_BYTES_MAX - 100));
        let failed = ending(Err(Failure {
            class: FailureClass::Agent,
            message,
        }));
        let doc = ResultDoc::new("mac-1", 1, "b", failed.clone());
        assert_eq!(doc.into_ending("b"), failed);
    }
}
