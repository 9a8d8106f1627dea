//! GitHub over its GraphQL and REST APIs: reads pull requests with their checks,
//! merges, opens, keeps up to date, closes.
//!
//! Knows nothing of issues or tasks and judges nothing: what the facts mean is
//! said by [`crate::issue::verdict`]. Everything that GitHub answers is untrusted.

pub mod app;
pub mod deliveries;
mod errors;
mod facts;
mod graph;
mod http;
mod json;
mod log;
mod merge;
mod slug;
mod upkeep;
pub mod webhook;

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{Method, StatusCode};
use serde_json::json;

use self::app::Access;
use self::facts::Branches;
use self::http::{Absence, Http};
use self::json::{Pull, RepositoryReply};
use self::slug::Slug;
pub use self::slug::slug_of;
use crate::issue::{FailureClass, Fault, PullFacts};
use crate::net::is_loopback;
use crate::ports::{
    BranchAsk, Clock, CloseAsk, Forge, LogAsk, MergeAnswer, MergeAsk, OpenAsk, Opened, Publisher,
    PullAsk, UpdateAnswer, UpdateAsk,
};

/// The whole of one request, from connecting to the last byte of the answer.
const REQUEST_SECONDS: u64 = 15;

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
    /// The API is on this machine.
    near: bool,
    /// The server does not merge in its own time.
    no_async: Absence,
    branches: Branches,
}

#[async_trait]
impl Forge for Client {
    async fn facts(&self, asks: &[PullAsk]) -> Vec<Result<Option<PullFacts>, Fault>> {
        self.facts_of_all(asks).await
    }

    async fn merge(&self, ask: &MergeAsk) -> Result<MergeAnswer, Fault> {
        self.merge_once(ask).await
    }

    async fn update(&self, ask: &UpdateAsk) -> Result<UpdateAnswer, Fault> {
        self.update_once(ask).await
    }

    async fn close(&self, ask: &CloseAsk) -> Result<(), Fault> {
        self.close_once(ask).await
    }

    async fn delete_branch(&self, ask: &BranchAsk) -> Result<(), Fault> {
        self.delete_once(ask).await
    }

    async fn log(&self, ask: &LogAsk) -> Result<String, Fault> {
        self.log_of(ask).await
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
            near: is_loopback(&options.api_url),
            http: Http::new(&options.api_url, options.token, options.clock)?,
            no_async: Absence::default(),
            branches: Branches::default(),
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
}
