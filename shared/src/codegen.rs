//! The executor that runs agents at Codegen, over its REST API.
//!
//! The API has no idempotency key: our own stands in the run's `metadata`, and a
//! create whose reply was lost is looked for there, never sent again from here.
//! It reports no cost and knows no branch: those are told to the agent in the
//! prompt. Which task runs when is not decided here, nor whether a run that
//! failed is worth another. Everything that Codegen answers is untrusted.

mod http;
mod resume;
mod run;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use self::http::{Answer, Gap, Http};
use self::run::Run;
use crate::guard::{GUARD_SECONDS, Guards, Rate};
use crate::issue::{ExecutorKind, FailureClass, Fault, LEASE_SECONDS, RunId, Sight, Time, clip};
use crate::ports::{Clock, Executor, Job, Settlement, Started};
use crate::secrets::Token;

/// The whole of one request, from connecting to the last byte of the answer.
const REQUEST_SECONDS: u64 = 20;
/// Finding out a repository's number, before a run is created.
const LOOKUP_SECONDS: u64 = 25;
/// Looking for the run of a create whose reply was lost.
const SETTLE_SECONDS: u64 = 45;
/// Lists come in pages of this size (Codegen's greatest).
const PAGE_SIZE: usize = 100;
/// How far back the list of runs is read.
const RUN_PAGES_MAX: usize = 5;
const REPOSITORY_PAGES_MAX: usize = 20;
/// A repository may be renamed or connected anew: its number is believed this long.
const REPOSITORY_SECONDS: i64 = 3600;
/// Single runs that are read at the same time.
const READS_AT_ONCE: usize = 4;
/// Runs of which we remember that their status was reported as unknown.
const WARNED_MAX: usize = 1000;
/// Bytes of a name from outside within a sentence.
const NAME_BYTES_MAX: usize = 100;

/// Creates that Codegen takes from an organisation (its rate limits, API v1) …
const STARTS: Rate = Rate {
    turns: 10,
    seconds: 60,
};
/// … and reads.
const READS: Rate = Rate {
    turns: 60,
    seconds: 30,
};
/// Hex digits of a digest: enough to tell accounts and tokens apart, too few to
/// say anything about them.
const DIGEST_DIGITS: usize = 8;

// A start whose claim has lapsed would be made by two of us.
const _: () =
    assert!(GUARD_SECONDS + LOOKUP_SECONDS + REQUEST_SECONDS < LEASE_SECONDS.unsigned_abs());
const _: () = assert!(GUARD_SECONDS + SETTLE_SECONDS < LEASE_SECONDS.unsigned_abs());

/// Where our idempotency key stands in a run's `metadata`.
const KEY: &str = "cyrus_key";

/// What it takes to speak with Codegen.
pub struct Options {
    /// The root of the API, e.g. `https://api.codegen.com`.
    pub api_url: String,
    /// As configured: what is no number makes every call answer with that reason.
    pub org_id: String,
    pub token: Token,
    pub clock: Arc<dyn Clock>,
}

/// The executor that Codegen is.
pub struct Client {
    http: Http,
    org: Result<String, Fault>,
    /// Stands for the organization at this API.
    account: String,
    clock: Arc<dyn Clock>,
    /// Codegen's numbers of repositories by name in lower case, and since when they are known.
    repositories: Mutex<HashMap<String, (i64, Time)>>,
    /// Runs whose unknown status was reported already.
    warned: Mutex<HashSet<i64>>,
    /// What stood in runs before they were resumed, by the key of the resume.
    before: Mutex<HashMap<String, String>>,
}

#[async_trait]
impl Executor for Client {
    fn kind(&self) -> ExecutorKind {
        ExecutorKind::Codegen
    }

    async fn start(&self, job: &Job) -> Result<Started, Fault> {
        if let Some((run, repair)) = resume::asked(job) {
            return self.resume(job, run, repair).await;
        }
        let repository = timeout(Duration::from_secs(LOOKUP_SECONDS), self.repository(job))
            .await
            .unwrap_or_else(|_| {
                Err(Fault::Transient {
                    why: format!("Codegen did not list its repositories in {LOOKUP_SECONDS} s"),
                })
            })?;
        let body = json!({
            "prompt": prompt(job),
            "repo_id": repository,
            "metadata": { KEY: job.key, "issue": job.identifier, "task": job.task },
        });
        let path = self.path(&["agent", "run"])?;
        let answer = match self.http.call(Method::POST, &path, &[], Some(&body)).await {
            Ok(answer) => answer,
            Err(Gap::NotSent(fault)) => return Err(fault),
            Err(Gap::ReplyLost(why)) => return Err(Fault::Ambiguous { why }),
        };
        if answer.status.is_success() {
            let run = answer.json().ok().as_ref().and_then(Run::read);
            return run.map(started).ok_or_else(|| Fault::Ambiguous {
                why: format!("Codegen's answer to {} cannot be read", answer.call),
            });
        }
        if answer.may_have_been_done() {
            return Err(Fault::Ambiguous {
                why: answer.describe(),
            });
        }
        if matches!(
            answer.status,
            StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY
        ) {
            // Perhaps the repository has another number by now.
            lock(&self.repositories).remove(&job.repository.slug.to_lowercase());
        }
        if answer.status == StatusCode::NOT_FOUND {
            return Err(without_repository(job, &answer.describe()));
        }
        Err(answer.fault())
    }

    async fn settle(&self, job: &Job) -> Result<Settlement, Fault> {
        let look = async {
            if let Some((run, _)) = resume::asked(job) {
                return self.resumed(job, run).await;
            }
            for page in 0..RUN_PAGES_MAX {
                let (runs, more) = self.runs(page).await?;
                // Of two, the older one: it is the one that others have adopted too.
                let found = runs
                    .into_iter()
                    .filter(|it| it.has_key(&job.key))
                    .min_by_key(|it| it.id);
                if let Some(run) = found {
                    return Ok(Settlement::Found(started(run)));
                }
                if !more {
                    break;
                }
            }
            // How late a run may show up in the list is not documented.
            Ok(Settlement::Absent { certain: false })
        };
        timeout(Duration::from_secs(SETTLE_SECONDS), look)
            .await
            .unwrap_or_else(|_| {
                Err(Fault::Transient {
                    why: format!("Codegen did not tell its runs in {SETTLE_SECONDS} s"),
                })
            })
    }

    async fn observe(&self, runs: &[RunId]) -> Vec<Result<Sight, Fault>> {
        let ids: Vec<Result<i64, Fault>> = runs.iter().map(number).collect();
        let wanted: HashSet<i64> = ids
            .iter()
            .filter_map(|it| it.as_ref().ok().copied())
            .collect();
        let (listed, gap) = self.listed(&wanted).await;
        // Whatever asks us to wait asks it of all the calls that would follow.
        let stopped = OnceLock::new();
        if let Some(fault) = gap {
            // Cannot be set already: nothing else has run yet.
            let _ = stopped.set(fault);
        }
        let (listed, stopped) = (&listed, &stopped);
        stream::iter(ids)
            .map(|id| async move {
                let id = id?;
                match listed.get(&id) {
                    Some(run) if !run.has_ended() => Ok(self.sight(run.clone())),
                    run => self.confirm(id, run, stopped).await,
                }
            })
            .buffered(READS_AT_ONCE)
            .collect()
            .await
    }

    /// `ban` is the only stop there is, and it does more: it stops all agents on
    /// the run's pull request, and Codegen minds that pull request's checks no
    /// more. Both are ours: a task has its own branch. What it answers says
    /// nothing, so the run is watched until it is seen to have ended.
    async fn stop(&self, run: &RunId) -> Result<(), Fault> {
        let body = json!({ "agent_run_id": number(run)? });
        let path = self.path(&["agent", "run", "ban"])?;
        let answer = self
            .http
            .call(Method::POST, &path, &[], Some(&body))
            .await?;
        // What Codegen does not know any more does not run any more.
        if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND {
            return Ok(());
        }
        Err(answer.fault())
    }
}

impl Client {
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let org = options.org_id.trim();
        let org = match org.parse::<u64>() {
            Ok(number) => Ok(number.to_string()),
            Err(_) => Err(Fault::Permanent {
                class: FailureClass::Invalid,
                why: format!(
                    "codegen.orgId must be a number (Codegen shows it in the organization's \
                     settings), not `{}`",
                    clip(org, NAME_BYTES_MAX)
                ),
            }),
        };
        let api_url = options.api_url.trim_end_matches('/');
        Ok(Self {
            http: Http::new(&options.api_url, options.token)?,
            account: digest(&[api_url, options.org_id.trim()]),
            org,
            clock: options.clock,
            repositories: Mutex::default(),
            warned: Mutex::default(),
            before: Mutex::default(),
        })
    }

    /// Codegen's limits. They are the organization's, whatever the token; what
    /// opened the breaker may be the token's, so a new one begins with a closed one.
    pub fn guards(self: &Arc<Self>) -> Guards {
        let client = Arc::clone(self);
        Guards {
            account: self.account.clone(),
            credential: Arc::new(move || {
                let token = client.http.token();
                digest(&[&client.account, token.expose_secret()])
            }),
            starts: STARTS,
            reads: READS,
            reads_per_search: RUN_PAGES_MAX,
        }
    }

    /// Proves token and organization with real calls; answers whose token it is.
    pub async fn check(&self) -> Result<String, Fault> {
        let repositories = self.path(&["repos"])?;
        let me = self
            .http
            .call(Method::GET, &["v1", "users", "me"], &[], None)
            .await?;
        let me = me.expect_json()?;
        let answer = self
            .http
            .call(Method::GET, &repositories, &[("limit", "1")], None)
            .await?;
        answer.expect_json()?;
        let name = ["github_username", "full_name", "email"]
            .iter()
            .find_map(|it| me[it].as_str().filter(|it| !it.is_empty()))
            .unwrap_or("a user without a name");
        Ok(clip(name, NAME_BYTES_MAX))
    }

    fn path<'a>(&'a self, below: &[&'a str]) -> Result<Vec<&'a str>, Fault> {
        let org = self.org.as_ref().map_err(Clone::clone)?;
        let mut path = vec!["v1", "organizations", org.as_str()];
        path.extend(below);
        Ok(path)
    }

    /// Codegen's number for the job's repository.
    async fn repository(&self, job: &Job) -> Result<i64, Fault> {
        let slug = job.repository.slug.to_lowercase();
        let now = self.clock.now();
        if let Some((id, since)) = lock(&self.repositories).get(&slug)
            && now.duration_since(*since).as_secs() < REPOSITORY_SECONDS
        {
            return Ok(*id);
        }
        let path = self.path(&["repos"])?;
        for page in 0..REPOSITORY_PAGES_MAX {
            let (items, more) = self.page(&path, &[], page).await?;
            let mut known = lock(&self.repositories);
            for item in items {
                if let (Some(name), Some(id)) = (item["full_name"].as_str(), item["id"].as_i64()) {
                    known.insert(name.to_lowercase(), (id, now));
                }
            }
            if let Some((id, since)) = known.get(&slug)
                && *since == now
            {
                return Ok(*id);
            }
            if !more {
                break;
            }
        }
        Err(without_repository(job, "it is not in its list"))
    }

    /// The newest runs, until all that are wanted have been seen; and why it
    /// ended early, if it did.
    async fn listed(&self, wanted: &HashSet<i64>) -> (HashMap<i64, Run>, Option<Fault>) {
        let mut listed = HashMap::new();
        for page in 0..RUN_PAGES_MAX {
            if listed.len() == wanted.len() {
                break;
            }
            match self.runs(page).await {
                Ok((runs, more)) => {
                    let runs = runs.into_iter().filter(|it| wanted.contains(&it.id));
                    listed.extend(runs.map(|it| (it.id, it)));
                    if !more {
                        break;
                    }
                }
                Err(fault) => return (listed, Some(fault)),
            }
        }
        (listed, None)
    }

    /// One page of the runs that were made over the API, newest first, and
    /// whether there may be another.
    async fn runs(&self, page: usize) -> Result<(Vec<Run>, bool), Fault> {
        let path = self.path(&["agent", "runs"])?;
        let (items, more) = self.page(&path, &[("source_type", "API")], page).await?;
        // One that cannot be read must not hide the others.
        Ok((items.iter().filter_map(Run::read).collect(), more))
    }

    async fn page(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        page: usize,
    ) -> Result<(Vec<Value>, bool), Fault> {
        let (skip, limit) = ((page * PAGE_SIZE).to_string(), PAGE_SIZE.to_string());
        let mut query = query.to_vec();
        query.extend([("skip", skip.as_str()), ("limit", limit.as_str())]);
        let answer = self.http.call(Method::GET, path, &query, None).await?;
        match answer.expect_json()?["items"].take() {
            Value::Array(items) => {
                let more = items.len() >= PAGE_SIZE;
                Ok((items, more))
            }
            _ => Err(Fault::Transient {
                why: format!("Codegen's answer to {} is no list", answer.call),
            }),
        }
    }

    /// Reads one run by itself: one that the list does not show, or, as the
    /// list may be behind with result and pull request, one that has ended.
    async fn confirm(
        &self,
        id: i64,
        listed: Option<&Run>,
        stopped: &OnceLock<Fault>,
    ) -> Result<Sight, Fault> {
        if let Some(fault) = stopped.get() {
            return Err(fault.clone());
        }
        let run = self.one(id).await.inspect_err(|fault| {
            if matches!(fault, Fault::Busy { .. }) {
                // Lost to another that was as quick: all the same.
                let _ = stopped.set(fault.clone());
            }
        })?;
        // The list has it: one of the two is behind, and the list knows more.
        let run = run.or_else(|| listed.cloned());
        Ok(run.map_or(Sight::Gone, |it| self.sight(it)))
    }

    /// One run; `None`: Codegen does not know it.
    async fn one(&self, id: i64) -> Result<Option<Run>, Fault> {
        let number = id.to_string();
        let path = self.path(&["agent", "run", &number])?;
        let answer = self.http.call(Method::GET, &path, &[], None).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let run = Run::read(&answer.expect_json()?).filter(|it| it.id == id);
        run.map(Some).ok_or_else(|| unreadable(&answer))
    }

    fn sight(&self, run: Run) -> Sight {
        let id = run.id;
        if run.is_unknown() {
            let mut warned = lock(&self.warned);
            if warned.len() >= WARNED_MAX {
                warned.clear();
            }
            if warned.insert(id) {
                tracing::warn!(
                    run = id,
                    status = run.status.as_deref().unwrap_or_default(),
                    "Codegen reports a status that is not known here: taken for working"
                );
            }
        }
        run.into_sight()
    }
}

/// The prompt, and what Codegen has no parameter for.
fn prompt(job: &Job) -> String {
    match &job.answer_schema {
        None => job.prompt.clone(),
        Some(schema) => format!(
            "{}\n\nEnd with your answer as one JSON object in a ```json block. It must satisfy \
             this JSON Schema:\n\n```json\n{schema}\n```\n",
            job.prompt
        ),
    }
}

fn unreadable(answer: &Answer) -> Fault {
    Fault::Transient {
        why: format!("Codegen's answer to {} cannot be read", answer.call),
    }
}

/// The repository cannot be worked on there; no other run would fare better.
fn without_repository(job: &Job, why: &str) -> Fault {
    Fault::Permanent {
        class: FailureClass::Invalid,
        why: format!(
            "Codegen does not know the repository `{}` ({why}): connect it to the organization \
             in Codegen's settings, or use the strategy local-only",
            clip(&job.repository.slug, NAME_BYTES_MAX)
        ),
    }
}

fn started(run: Run) -> Started {
    let begun = !matches!(run.clone().into_sight(), Sight::Waiting);
    Started {
        run: RunId(run.id.to_string()),
        url: run.url,
        begun,
    }
}

fn number(run: &RunId) -> Result<i64, Fault> {
    run.0.parse().map_err(|_| Fault::Permanent {
        class: FailureClass::Invalid,
        why: format!("`{}` is no run of Codegen", clip(&run.0, NAME_BYTES_MAX)),
    })
}

/// Some digits that stand for texts.
fn digest(texts: &[&str]) -> String {
    let mut digest = hex::encode(Sha256::digest(texts.join("\n")));
    digest.truncate(DIGEST_DIGITS);
    digest
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
