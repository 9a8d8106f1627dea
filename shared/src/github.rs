//! GitHub over its REST API: reads pull requests with their checks, merges, opens.
//!
//! Knows nothing of issues or tasks and judges nothing: what the facts mean is
//! said by [`crate::issue::verdict`]. Everything that GitHub answers is untrusted.

pub mod app;
pub mod deliveries;
mod http;
mod json;
mod slug;
pub mod webhook;

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream;
use reqwest::{Method, StatusCode};
use serde_json::json;

use self::app::Access;
use self::http::{Answer, Gap, Http};
use self::json::{CheckRuns, MergeReply, Pull, RepositoryReply, Statuses};
pub use self::slug::slug_of;
use self::slug::{Slug, commit};
use crate::issue::verdict::{Check, CheckState};
use crate::issue::{FailureClass, Fault, LEASE_SECONDS, PullFacts, PullState};
use crate::ports::{
    BranchAsk, Clock, CloseAsk, Forge, LogAsk, MergeAnswer, MergeAsk, OpenAsk, Opened, Publisher,
    PullAsk, UpdateAnswer, UpdateAsk, WhichPull,
};

/// The whole of one request, from connecting to the last byte of the answer.
const REQUEST_SECONDS: u64 = 15;
/// A merge is at most this many requests in a row.
const MERGE_REQUESTS_MAX: u64 = 2;
/// Pull requests that are asked about at the same time.
const ASKS_AT_ONCE: usize = 8;
/// Checks and statuses come in pages of this size (GitHub's greatest) …
const PAGE_SIZE: usize = 100;
/// … and at most this many pages of each are read per commit.
const CHECK_PAGES_MAX: usize = 10;
/// How many of a branch's newest pull requests are looked at.
const BRANCH_PULLS_MAX: usize = 20;

// A merge whose claim has lapsed would be made by two of us.
const _: () = assert!((REQUEST_SECONDS * MERGE_REQUESTS_MAX) < LEASE_SECONDS.unsigned_abs());

/// Refusals of a merge that pass by themselves, as GitHub words them.
const PASSING_REFUSALS: &[&str] = &["base branch was modified", "merge already in progress"];

/// What it takes to speak with GitHub.
pub struct Options {
    /// The root of the API, e.g. `https://api.github.com` or `https://HOST/api/v3`.
    pub api_url: String,
    pub token: Access,
    pub clock: Arc<dyn Clock>,
}

/// The forge, as GitHub keeps it.
pub struct Client {
    http: Http,
}

#[async_trait]
impl Forge for Client {
    async fn facts(&self, asks: &[PullAsk]) -> Vec<Result<Option<PullFacts>, Fault>> {
        // Owned: a stream over borrowed asks is not general enough for a boxed future.
        let asks = asks.to_vec();
        stream::iter(asks)
            .map(|ask| async move { self.facts_of(&ask).await })
            .buffered(ASKS_AT_ONCE)
            .collect()
            .await
    }

    async fn merge(&self, ask: &MergeAsk) -> Result<MergeAnswer, Fault> {
        let slug = Slug::parse(&ask.repository.slug)?;
        let sha = commit(&ask.sha)?;
        let number = ask.number.to_string();
        let path = slug.path(&["pulls", &number, "merge"]);
        let body = json!({
            "sha": sha,
            "merge_method": ask.method.word(),
            "commit_title": ask.title,
        });
        let answer = match self.http.call(Method::PUT, &path, &[], Some(&body)).await {
            Ok(answer) => answer,
            Err(gap @ Gap::NotSent(_)) => return Err(gap.into()),
            Err(Gap::ReplyLost(why)) => return self.merge_after_doubt(&slug, ask, why).await,
        };
        match answer.status {
            status if status.is_success() => match answer.json::<MergeReply>() {
                Ok(reply) if reply.merged => Ok(MergeAnswer::Merged { sha: reply.sha }),
                Ok(_) => self.merge_after_doubt(&slug, ask, answer.describe()).await,
                Err(gap) => self.merge_after_doubt(&slug, ask, gap.why()).await,
            },
            status if status.is_server_error() => {
                self.merge_after_doubt(&slug, ask, answer.describe()).await
            }
            StatusCode::CONFLICT => Ok(MergeAnswer::HeadMoved),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::UNPROCESSABLE_ENTITY => {
                self.merge_after_refusal(&slug, ask, answer.message()).await
            }
            _ => Err(answer.fault(slug.as_str())),
        }
    }

    async fn update(&self, _: &UpdateAsk) -> Result<UpdateAnswer, Fault> {
        Err(later())
    }

    async fn close(&self, _: &CloseAsk) -> Result<(), Fault> {
        Err(later())
    }

    async fn delete_branch(&self, _: &BranchAsk) -> Result<(), Fault> {
        Err(later())
    }

    async fn log(&self, _: &LogAsk) -> Result<String, Fault> {
        Err(later())
    }
}

#[async_trait]
impl Publisher for Client {
    async fn open(&self, ask: &OpenAsk) -> Result<Opened, Fault> {
        let slug = Slug::parse(&ask.slug)?;
        let body = json!({
            "title": ask.title,
            "head": ask.branch,
            "base": ask.base,
            "body": ask.body,
        });
        // A lost reply is transient: the second time GitHub refuses with 422,
        // and the pull request is found.
        let answer = self
            .http
            .call(Method::POST, &slug.path(&["pulls"]), &[], Some(&body))
            .await?;
        if answer.status.is_success() {
            let pull: Pull = answer.json()?;
            return Ok(Opened {
                number: pull.number,
                url: pull.html_url,
            });
        }
        if answer.status != StatusCode::UNPROCESSABLE_ENTITY {
            return Err(answer.fault(slug.as_str()));
        }
        match self
            .newest(&slug, &ask.branch, "open", Some(&ask.base))
            .await?
        {
            Some(pull) => Ok(Opened {
                number: pull.number,
                url: pull.html_url,
            }),
            None => Err(Fault::Permanent {
                class: FailureClass::Invalid,
                why: format!(
                    "GitHub would not open a pull request from `{}` into `{}` of {slug}: {}",
                    ask.branch,
                    ask.base,
                    answer.message()
                ),
            }),
        }
    }
}

impl Client {
    pub fn new(options: Options) -> anyhow::Result<Self> {
        Ok(Self {
            http: Http::new(&options.api_url, options.token, options.clock)?,
        })
    }

    /// Can the token read this repository and write to it?
    pub async fn check_access(&self, slug: &str) -> Result<(), Fault> {
        let slug = Slug::parse(slug)?;
        let answer = self
            .http
            .call(Method::GET, &slug.path(&[]), &[], None)
            .await?;
        if !answer.status.is_success() {
            return Err(answer.fault(slug.as_str()));
        }
        let repository: RepositoryReply = answer.json()?;
        if repository.archived {
            return Err(Fault::Permanent {
                class: FailureClass::Invalid,
                why: format!(
                    "{slug} is archived, so nothing can be merged there: unarchive it, or take \
                     it out of the configuration"
                ),
            });
        }
        // Absent for some kinds of tokens; then only the merge itself can tell.
        if repository.permissions.is_some_and(|it| !it.push) {
            return Err(Fault::Permanent {
                class: FailureClass::Auth,
                why: format!(
                    "the GitHub token can read {slug} but not write to it: give it write access \
                     to contents and pull requests"
                ),
            });
        }
        Ok(())
    }

    async fn facts_of(&self, ask: &PullAsk) -> Result<Option<PullFacts>, Fault> {
        let slug = Slug::parse(&ask.repository.slug)?;
        let number = match &ask.which {
            WhichPull::Number(number) => *number,
            // The list does not tell `mergeable`, so it only gives the number.
            WhichPull::Branch(branch) => match self.newest(&slug, branch, "all", None).await? {
                Some(pull) => pull.number,
                None => return Ok(None),
            },
        };
        let pull = self.pull(&slug, number).await?;
        let checks = match pull.state() {
            PullState::Open => self.checks(&slug, &pull.head.sha).await?,
            PullState::Closed | PullState::Merged => Vec::new(),
        };
        pull.into_facts(checks).map(Some)
    }

    async fn pull(&self, slug: &Slug, number: u64) -> Result<Pull, Fault> {
        let number = number.to_string();
        let path = slug.path(&["pulls", &number]);
        let answer = self.http.call(Method::GET, &path, &[], None).await?;
        if answer.status.is_success() {
            Ok(answer.json()?)
        } else {
            Err(answer.fault(slug.as_str()))
        }
    }

    /// The newest pull request from a branch of the repository itself; one into
    /// `base` goes first.
    async fn newest(
        &self,
        slug: &Slug,
        branch: &str,
        state: &str,
        base: Option<&str>,
    ) -> Result<Option<Pull>, Fault> {
        let head = format!("{}:{branch}", slug.owner());
        let size = BRANCH_PULLS_MAX.to_string();
        let query = [
            ("head", head.as_str()),
            ("state", state),
            ("sort", "created"),
            ("direction", "desc"),
            ("per_page", size.as_str()),
        ];
        let answer = self
            .http
            .call(Method::GET, &slug.path(&["pulls"]), &query, None)
            .await?;
        if !answer.status.is_success() {
            return Err(answer.fault(slug.as_str()));
        }
        let mut pulls: Vec<Pull> = answer.json()?;
        // The filter names an owner, not a repository, and one owner may have a
        // fork beside the repository; and GitHub ignores a filter it cannot read.
        pulls.retain(|it| it.head.branch == branch && it.head.is_in(slug.as_str()));
        pulls.sort_by_key(|it| (Some(it.base.branch.as_str()) == base, it.number));
        Ok(pulls.pop())
    }

    /// Check runs and commit statuses together: each system sees only its own,
    /// and the combined state of a commit without statuses is `pending` for ever.
    async fn checks(&self, slug: &Slug, sha: &str) -> Result<Vec<Check>, Fault> {
        let sha = commit(sha)?;
        let runs = self.check_pages(slug, sha, "check-runs", |answer| {
            let page: CheckRuns = answer.json()?;
            Ok((
                page.total_count,
                page.check_runs.into_iter().map(Check::from).collect(),
            ))
        });
        let statuses = self.check_pages(slug, sha, "status", |answer| {
            let page: Statuses = answer.json()?;
            Ok((
                page.total_count,
                page.statuses.into_iter().map(Check::from).collect(),
            ))
        });
        let (mut checks, statuses) = tokio::try_join!(runs, statuses)?;
        checks.extend(statuses);
        Ok(checks)
    }

    async fn check_pages(
        &self,
        slug: &Slug,
        sha: &str,
        kind: &str,
        read: impl Fn(&Answer) -> Result<(Option<usize>, Vec<Check>), Gap> + Send,
    ) -> Result<Vec<Check>, Fault> {
        let path = slug.path(&["commits", sha, kind]);
        let size = PAGE_SIZE.to_string();
        let mut checks = Vec::new();
        for page in 1..=CHECK_PAGES_MAX {
            let page = page.to_string();
            let query = [
                ("filter", "latest"),
                ("per_page", size.as_str()),
                ("page", &page),
            ];
            let answer = self.http.call(Method::GET, &path, &query, None).await?;
            if answer.status == StatusCode::UNPROCESSABLE_ENTITY {
                // A commit that was just pushed may not be known everywhere yet.
                return Err(Fault::Transient {
                    why: answer.describe(),
                });
            }
            if !answer.status.is_success() {
                return Err(answer.fault(slug.as_str()));
            }
            let (total, found) = read(&answer)?;
            let count = found.len();
            checks.extend(found);
            let more = total.map_or(count >= PAGE_SIZE, |total| checks.len() < total);
            if count == 0 || !more {
                return Ok(checks);
            }
        }
        // What was not read may be red, so the commit must not look green.
        checks.push(Check {
            name: format!("more than {} checks", CHECK_PAGES_MAX * PAGE_SIZE),
            state: CheckState::Pending,
            id: None,
            says: String::new(),
        });
        Ok(checks)
    }

    /// Nobody knows whether the merge was made: the pull request tells. If it
    /// was not, repeating it is harmless, since it names the commit.
    async fn merge_after_doubt(
        &self,
        slug: &Slug,
        ask: &MergeAsk,
        why: String,
    ) -> Result<MergeAnswer, Fault> {
        match self.standing(slug, ask).await? {
            Standing::Settled(answer) => Ok(answer),
            Standing::Open { .. } => Err(Fault::Transient { why }),
        }
    }

    /// GitHub refused. A merge whose first reply was lost is refused the second
    /// time, so the pull request is read before this counts as a refusal.
    async fn merge_after_refusal(
        &self,
        slug: &Slug,
        ask: &MergeAsk,
        message: String,
    ) -> Result<MergeAnswer, Fault> {
        let mergeable = match self.standing(slug, ask).await? {
            Standing::Settled(answer) => return Ok(answer),
            Standing::Open { mergeable } => mergeable,
        };
        let lower = message.to_lowercase();
        // While GitHub has not found out, it answers "not mergeable" too.
        if mergeable.is_none() || PASSING_REFUSALS.iter().any(|it| lower.contains(it)) {
            return Err(Fault::Transient {
                why: format!("GitHub would not merge {} yet: {message}", ask.sha),
            });
        }
        Ok(MergeAnswer::Refused { why: message })
    }

    async fn standing(&self, slug: &Slug, ask: &MergeAsk) -> Result<Standing, Fault> {
        let pull = self.pull(slug, ask.number).await?;
        if !pull.head.sha.eq_ignore_ascii_case(&ask.sha) {
            return Ok(Standing::Settled(MergeAnswer::HeadMoved));
        }
        Ok(match pull.state() {
            PullState::Merged => match pull.merge_commit_sha {
                Some(sha) => Standing::Settled(MergeAnswer::Merged { sha }),
                None => {
                    return Err(Fault::Transient {
                        why: format!("GitHub does not say as what {} was merged", pull.html_url),
                    });
                }
            },
            // Whoever closed it is heard by the next look, as for a head that moved.
            PullState::Closed => Standing::Settled(MergeAnswer::HeadMoved),
            PullState::Open => Standing::Open {
                mergeable: pull.mergeable,
            },
        })
    }
}

fn later() -> Fault {
    Fault::Permanent {
        class: FailureClass::Invalid,
        why: "not yet".into(),
    }
}

/// How a pull request stands with regard to a merge that was asked for.
enum Standing {
    Settled(MergeAnswer),
    /// Not merged, and its head is still the commit that was named.
    Open {
        mergeable: Option<bool>,
    },
}
