//! Merges, and what brings a pull request up to date. Each names the commit it is
//! about, and an answer that did not come is cleared up by reading the pull request.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::Client;
use super::graph;
use super::http::{Answer, Gap, Graph};
use super::json::{AsyncReply, MergeReply, Pull};
use super::slug::{Slug, commit};
use crate::issue::{Fault, LEASE_SECONDS, PullState, REASON_BYTES_MAX, clip};
use crate::ports::{MergeAnswer, MergeAsk, UpdateAnswer, UpdateAsk};

/// All requests of one merge or update together.
const WRITE_SECONDS: u64 = 50;
/// How long to wait before each look at a merge that GitHub makes in its own time.
const LOOKS_AFTER: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
];

// A merge whose claim has lapsed would be made by two of us.
const _: () = assert!(WRITE_SECONDS < LEASE_SECONDS.unsigned_abs());

/// Refusals of a merge that pass by themselves, as GitHub words them.
const PASSING_REFUSALS: &[&str] = &["base branch was modified", "merge already in progress"];
/// How GitHub says that a pull request has to go through the merge queue.
const QUEUE_REFUSAL: &str = "merge queue";
/// How it says that it is there already.
const QUEUED_REFUSAL: &str = "already";
/// How it says that a branch is up to date.
const UP_TO_DATE: &str = "no new commits";
/// What merges through a queue cannot be given.
const TITLE_REFUSAL: &str = "commit_title";

impl Client {
    pub(super) async fn merge_once(&self, ask: &MergeAsk) -> Result<MergeAnswer, Fault> {
        let slug = Slug::parse(&ask.repository.slug)?;
        commit(&ask.sha)?;
        in_time(async {
            match self.merge_in_its_time(&slug, ask).await? {
                Some(answer) => Ok(answer),
                None => self.merge_at_once(&slug, ask).await,
            }
        })
        .await
    }

    /// Asks GitHub to merge in its own time, and looks a few times what came of
    /// it. `None`: nothing was begun, and it has to be merged the other way.
    async fn merge_in_its_time(
        &self,
        slug: &Slug,
        ask: &MergeAsk,
    ) -> Result<Option<MergeAnswer>, Fault> {
        if self.no_async.is_known(&*self.http.clock) {
            return Ok(None);
        }
        let number = ask.number.to_string();
        let path = slug.path(&["pulls", &number, "merge-async"]);
        let body = json!({
            "sha": ask.sha,
            "merge_method": ask.method.word(),
            "merge_action": "default",
            "commit_title": ask.title,
        });
        let answer = match self.http.call(Method::PUT, &path, &[], Some(&body)).await {
            Ok(answer) => answer,
            Err(Gap::NotSent(fault)) => return Err(fault),
            Err(Gap::ReplyLost(why)) => return self.after_doubt(slug, ask, why).await.map(Some),
        };
        let status = answer.status;
        if answer.is_limited() {
            return Err(answer.fault(slug.as_str()));
        }
        let mut reply = match status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                self.no_async.remember(&*self.http.clock);
                return Ok(None);
            }
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => {
                let said = said(&answer);
                if said.contains(TITLE_REFUSAL) {
                    return Ok(None);
                }
                return self.after_refusal(slug, ask, said).await.map(Some);
            }
            _ if status.is_success() || status == StatusCode::CONFLICT => {
                match answer.json::<AsyncReply>() {
                    Ok(reply) => reply,
                    // A conflict without a merge that is at work: the head has moved.
                    Err(_) if status == StatusCode::CONFLICT => {
                        return self
                            .after_refusal(slug, ask, answer.message())
                            .await
                            .map(Some);
                    }
                    Err(gap) => return self.after_doubt(slug, ask, gap.why()).await.map(Some),
                }
            }
            _ if status.is_server_error() => {
                return self
                    .after_doubt(slug, ask, answer.describe())
                    .await
                    .map(Some);
            }
            _ => return Err(answer.fault(slug.as_str())),
        };
        // Somebody's merge of another commit is no merge of ours.
        let named = reply.details.expected_head_sha.as_deref();
        if named.is_some_and(|it| !it.eq_ignore_ascii_case(&ask.sha)) {
            let why = format!("another merge of pull request {number} is at work");
            return self.after_doubt(slug, ask, why).await.map(Some);
        }
        if let Some(uuid) = reply.details.uuid.clone() {
            let path = slug.path(&["pulls", &number, "merge-async", &uuid]);
            for wait in LOOKS_AFTER {
                if reply.status != "pending" {
                    break;
                }
                sleep(wait).await;
                // What cannot be read now is heard at the next look.
                let Ok(answer) = self.http.call(Method::GET, &path, &[], None).await else {
                    break;
                };
                match answer.json() {
                    Ok(now) if answer.status.is_success() => reply = now,
                    Ok(_) | Err(_) => break,
                }
            }
        }
        match (reply.status.as_str(), reply.details.sha) {
            ("pending" | "enqueued", _) => Ok(Some(MergeAnswer::Queued)),
            ("failed", _) if reply.details.message.contains(TITLE_REFUSAL) => Ok(None),
            ("failed", _) => {
                let message = clip(&reply.details.message, REASON_BYTES_MAX);
                self.after_refusal(slug, ask, message).await.map(Some)
            }
            // Merged, perhaps by somebody else as another commit.
            _ => {
                let why = "GitHub does not say what came of the merge".into();
                self.after_doubt(slug, ask, why).await.map(Some)
            }
        }
    }

    async fn merge_at_once(&self, slug: &Slug, ask: &MergeAsk) -> Result<MergeAnswer, Fault> {
        let number = ask.number.to_string();
        let path = slug.path(&["pulls", &number, "merge"]);
        let body = json!({
            "sha": ask.sha,
            "merge_method": ask.method.word(),
            "commit_title": ask.title,
        });
        let answer = match self.http.call(Method::PUT, &path, &[], Some(&body)).await {
            Ok(answer) => answer,
            Err(Gap::NotSent(fault)) => return Err(fault),
            Err(Gap::ReplyLost(why)) => return self.after_doubt(slug, ask, why).await,
        };
        match answer.status {
            status if status.is_success() => match answer.json::<MergeReply>() {
                Ok(reply) if reply.merged => Ok(MergeAnswer::Merged { sha: reply.sha }),
                Ok(_) => self.after_doubt(slug, ask, answer.describe()).await,
                Err(gap) => self.after_doubt(slug, ask, gap.why()).await,
            },
            status if status.is_server_error() => {
                self.after_doubt(slug, ask, answer.describe()).await
            }
            StatusCode::CONFLICT => Ok(MergeAnswer::HeadMoved),
            StatusCode::METHOD_NOT_ALLOWED | StatusCode::UNPROCESSABLE_ENTITY => {
                self.after_refusal(slug, ask, answer.message()).await
            }
            _ => Err(answer.fault(slug.as_str())),
        }
    }

    /// Nobody knows whether the merge was made: the pull request tells. If it
    /// was not, repeating it is harmless, since it names the commit.
    async fn after_doubt(
        &self,
        slug: &Slug,
        ask: &MergeAsk,
        why: String,
    ) -> Result<MergeAnswer, Fault> {
        match self.standing(slug, ask).await? {
            Standing::Settled(answer) => Ok(answer),
            Standing::Open(_) => Err(Fault::Transient { why }),
        }
    }

    /// GitHub refused. A merge whose first reply was lost is refused the second
    /// time, so the pull request is read before this counts as a refusal.
    async fn after_refusal(
        &self,
        slug: &Slug,
        ask: &MergeAsk,
        message: String,
    ) -> Result<MergeAnswer, Fault> {
        let pull = match self.standing(slug, ask).await? {
            Standing::Settled(answer) => return Ok(answer),
            Standing::Open(pull) => pull,
        };
        let lower = message.to_lowercase();
        if lower.contains(QUEUE_REFUSAL) {
            return self.enqueue(slug, ask, &pull, message).await;
        }
        // While GitHub has not found out, it answers "not mergeable" too.
        if pull.mergeable.is_none() || PASSING_REFUSALS.iter().any(|it| lower.contains(it)) {
            return Err(Fault::Transient {
                why: format!("GitHub would not merge {} yet: {message}", ask.sha),
            });
        }
        Ok(MergeAnswer::Refused { why: message })
    }

    /// The base branch takes merges through its queue only.
    async fn enqueue(
        &self,
        slug: &Slug,
        ask: &MergeAsk,
        pull: &Pull,
        refusal: String,
    ) -> Result<MergeAnswer, Fault> {
        let (document, variables) = graph::enqueue(&pull.node_id, &ask.sha);
        match self
            .written(slug, document, &variables, "enqueuePullRequest")
            .await?
        {
            Written::Done => Ok(MergeAnswer::Queued),
            // Without GraphQL there is no way into the queue.
            Written::Absent => Ok(MergeAnswer::Refused { why: refusal }),
            Written::Refused(why) if why.to_lowercase().contains(QUEUED_REFUSAL) => {
                Ok(MergeAnswer::Queued)
            }
            Written::Refused(why) => match self.standing(slug, ask).await? {
                Standing::Settled(answer) => Ok(answer),
                Standing::Open(_) => Ok(MergeAnswer::Refused { why }),
            },
            // Entering a queue twice is refused as such, so the next try tells.
            Written::Doubtful(why) => self.after_doubt(slug, ask, why).await,
        }
    }

    pub(super) async fn update_once(&self, ask: &UpdateAsk) -> Result<UpdateAnswer, Fault> {
        let slug = Slug::parse(&ask.repository.slug)?;
        commit(&ask.sha)?;
        in_time(async {
            let pull = self.pull(&slug, ask.number).await?;
            // What is closed is heard by the next look, as for a head that moved.
            if has_moved(&pull, ask) {
                return Ok(UpdateAnswer::HeadMoved);
            }
            let (document, variables) = graph::update(&pull.node_id, &ask.sha);
            let field = "updatePullRequestBranch";
            let written = match self.written(&slug, document, &variables, field).await? {
                Written::Absent => self.update_by_rest(&slug, ask).await?,
                written => written,
            };
            let why = match written {
                Written::Done => return Ok(UpdateAnswer::Done),
                Written::Refused(why) if why.to_lowercase().contains(UP_TO_DATE) => {
                    return Ok(UpdateAnswer::Done);
                }
                Written::Absent => "GitHub has no way to update it".into(),
                Written::Refused(why) => {
                    let pull = self.pull(&slug, ask.number).await?;
                    return Ok(match has_moved(&pull, ask) {
                        true => UpdateAnswer::HeadMoved,
                        false => UpdateAnswer::Refused { why },
                    });
                }
                Written::Doubtful(why) => why,
            };
            let pull = self.pull(&slug, ask.number).await?;
            match has_moved(&pull, ask) {
                true => Ok(UpdateAnswer::Done),
                false => Err(Fault::Transient { why }),
            }
        })
        .await
    }

    async fn update_by_rest(&self, slug: &Slug, ask: &UpdateAsk) -> Result<Written, Fault> {
        let number = ask.number.to_string();
        let path = slug.path(&["pulls", &number, "update-branch"]);
        let body = json!({ "expected_head_sha": ask.sha });
        let answer = match self.http.call(Method::PUT, &path, &[], Some(&body)).await {
            Ok(answer) => answer,
            Err(Gap::NotSent(fault)) => return Err(fault),
            Err(Gap::ReplyLost(why)) => return Ok(Written::Doubtful(why)),
        };
        Ok(match answer.status {
            status if status.is_success() => Written::Done,
            status if status.is_server_error() => Written::Doubtful(answer.describe()),
            StatusCode::UNPROCESSABLE_ENTITY => Written::Refused(answer.message()),
            _ => return Err(answer.fault(slug.as_str())),
        })
    }

    /// One mutation, whose result is under `field`.
    async fn written(
        &self,
        slug: &Slug,
        document: &str,
        variables: &Value,
        field: &str,
    ) -> Result<Written, Fault> {
        let (data, errors) = match self.http.graph(slug.as_str(), document, variables).await {
            Ok(Graph::Absent) => return Ok(Written::Absent),
            Ok(Graph::Refused(fault)) | Err(Gap::NotSent(fault)) => return Err(fault),
            Err(Gap::ReplyLost(why)) => return Ok(Written::Doubtful(why)),
            Ok(Graph::Answered { data, errors }) => (data, errors),
        };
        match errors.first() {
            None if data[field].is_object() => Ok(Written::Done),
            None => Ok(Written::Doubtful("GitHub does not say what it did".into())),
            Some(error) if error.is_forbidden() => Err(error.fault(slug.as_str())),
            Some(error) if error.is_refusal() => Ok(Written::Refused(error.message())),
            Some(error) => Ok(Written::Doubtful(error.message())),
        }
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
            PullState::Open => Standing::Open(Box::new(pull)),
        })
    }
}

/// How a pull request stands with regard to a merge that was asked for.
enum Standing {
    Settled(MergeAnswer),
    /// Not merged, and its head is still the commit that was named.
    Open(Box<Pull>),
}

/// What came of a write.
enum Written {
    Done,
    /// GitHub's words.
    Refused(String),
    /// The server has no such thing; nothing was done.
    Absent,
    /// It may have been done.
    Doubtful(String),
}

fn has_moved(pull: &Pull, ask: &UpdateAsk) -> bool {
    pull.state() != PullState::Open || !pull.head.sha.eq_ignore_ascii_case(&ask.sha)
}

/// A refusal of a merge in GitHub's own time has its words elsewhere.
fn said(answer: &Answer) -> String {
    match answer.json::<AsyncReply>() {
        Ok(reply) => clip(&reply.details.message, REASON_BYTES_MAX),
        Err(_) => answer.message(),
    }
}

/// What takes longer than a claim holds is left to the next try, which reads first
/// what came of this one, or is refused because of it.
async fn in_time<T>(work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let limit = Duration::from_secs(WRITE_SECONDS);
    timeout(limit, work).await.unwrap_or_else(|_| {
        Err(Fault::Transient {
            why: format!("GitHub did not answer within {WRITE_SECONDS} s"),
        })
    })
}
