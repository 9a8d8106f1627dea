//! How pull requests stand: by GraphQL many at once, by REST one after another.
//!
//! Both ways answer the same. What was not read never looks better than it may be.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use futures_util::{StreamExt as _, stream};
use reqwest::{Method, StatusCode};

use super::Client;
use super::errors::GraphError;
use super::graph::{self, PULLS_PER_QUERY, Read, Wanted};
use super::http::{Answer, Gap, Graph};
use super::json::{CheckRuns, Compared, Pull, ReviewReply, Statuses, last_words};
use super::slug::{Slug, commit};
use crate::issue::verdict::{Check, CheckState, Review};
use crate::issue::{Fault, PullFacts, PullState};
use crate::ports::{PullAsk, WhichPull};

/// Requests that are made at the same time.
const ASKS_AT_ONCE: usize = 8;
/// Checks, statuses and reviews come in pages of this size (GitHub's greatest) …
const PAGE_SIZE: usize = 100;
/// … and at most this many pages of each are read.
const PAGES_MAX: usize = 10;
/// How many of a branch's newest pull requests are looked at.
const BRANCH_PULLS_MAX: usize = 20;
/// A comparison tells no more files than this, and not that there are more.
const FILES_MAX: usize = 300;
/// Pull requests whose head branch is remembered.
const BRANCHES_MAX: usize = 1000;

/// Which head branch a pull request has. It never gets another one, but by a new
/// name of the branch, and then the comparison shows another commit.
#[derive(Default)]
pub(super) struct Branches(Mutex<BTreeMap<(String, u64), String>>);

impl Branches {
    fn get(&self, slug: &Slug, number: u64) -> Option<String> {
        let branches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        branches.get(&(slug.to_string(), number)).cloned()
    }

    fn remember(&self, slug: &Slug, facts: &PullFacts) {
        let mut branches = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if branches.len() >= BRANCHES_MAX {
            branches.clear();
        }
        let branch = facts.head_branch.clone();
        branches.insert((slug.to_string(), facts.number), branch);
    }
}

/// What comes of a question.
type Told = Result<Option<PullFacts>, Fault>;

/// A question that names a repository.
struct Question {
    at: usize,
    slug: Slug,
    which: WhichPull,
}

impl Client {
    pub(super) async fn facts_of_all(&self, asks: &[PullAsk]) -> Vec<Told> {
        let mut told: Vec<Option<Told>> = asks.iter().map(|_| None).collect();
        let mut questions = Vec::new();
        for (at, ask) in asks.iter().enumerate() {
            match Slug::parse(&ask.repository.slug) {
                Ok(slug) => questions.push(Question {
                    at,
                    slug,
                    which: ask.which.clone(),
                }),
                Err(fault) => told[at] = Some(Err(fault)),
            }
        }
        let mut batches = Vec::new();
        while !questions.is_empty() {
            let rest = questions.split_off(questions.len().min(PULLS_PER_QUERY));
            batches.push(std::mem::replace(&mut questions, rest));
        }
        let answers: Vec<Vec<(usize, Told)>> = stream::iter(batches)
            .map(|batch| self.facts_of_batch(batch))
            .buffered(ASKS_AT_ONCE)
            .collect()
            .await;
        for (at, answer) in answers.into_iter().flatten() {
            told[at] = Some(answer);
        }
        let unasked = || Fault::Transient {
            why: "GitHub was not asked".into(),
        };
        told.into_iter()
            .map(|it| it.unwrap_or_else(|| Err(unasked())))
            .collect()
    }

    async fn facts_of_batch(&self, questions: Vec<Question>) -> Vec<(usize, Told)> {
        let mut told = Vec::new();
        let (questions, rest) = self.numbered(questions, &mut told).await;
        let (questions, more) = self.read(questions, &mut told).await;
        // Where there is no GraphQL; what is left otherwise is one request, mostly.
        let by_rest: Vec<(usize, Told)> = stream::iter(rest.into_iter().chain(more))
            .map(|it| async move { (it.at, self.facts_of(&it).await) })
            .buffered(ASKS_AT_ONCE)
            .collect()
            .await;
        let completed: Vec<(usize, Told)> = stream::iter(questions)
            .map(|(it, read)| async move {
                let facts = self.completed(&it.slug, read).await;
                (it.at, facts.map(Some))
            })
            .buffered(ASKS_AT_ONCE)
            .collect()
            .await;
        told.extend(by_rest);
        told.extend(completed);
        told
    }

    /// Finds the numbers of those that are asked for by branch. The second part
    /// could not be asked this way.
    async fn numbered(
        &self,
        questions: Vec<Question>,
        told: &mut Vec<(usize, Told)>,
    ) -> (Vec<Question>, Vec<Question>) {
        let is_named = |it: &Question| matches!(it.which, WhichPull::Branch(_));
        let (mut named, mut numbered): (Vec<_>, Vec<_>) = questions.into_iter().partition(is_named);
        if named.is_empty() {
            return (numbered, Vec::new());
        }
        let wanted: Vec<(&Slug, &str)> = named
            .iter()
            .filter_map(|it| match &it.which {
                WhichPull::Branch(branch) => Some((&it.slug, branch.as_str())),
                WhichPull::Number(_) => None,
            })
            .collect();
        let (document, variables) = graph::numbers_of(&wanted, BRANCH_PULLS_MAX);
        let about = named[0].slug.to_string();
        match self.http.graph(&about, &document, &variables).await {
            Ok(Graph::Absent) => return (numbered, named),
            Ok(Graph::Refused(fault)) => all_failed(&named, &fault, told),
            Err(gap) => all_failed(&named, &gap.into(), told),
            Ok(Graph::Answered { data, errors }) => {
                for (at, question) in named.drain(..).enumerate() {
                    match graph::number_in(&data, &errors, at, &question.slug) {
                        Ok(Some(number)) => numbered.push(Question {
                            which: WhichPull::Number(number),
                            ..question
                        }),
                        Ok(None) => told.push((question.at, Ok(None))),
                        Err(fault) => told.push((question.at, Err(fault))),
                    }
                }
            }
        }
        (numbered, Vec::new())
    }

    /// Reads what one document tells. The second part could not be asked this way.
    async fn read(
        &self,
        questions: Vec<Question>,
        told: &mut Vec<(usize, Told)>,
    ) -> (Vec<(Question, Read)>, Vec<Question>) {
        let Some(first) = questions.first() else {
            return (Vec::new(), Vec::new());
        };
        let numbers: Vec<(u64, Option<String>)> = questions
            .iter()
            .filter_map(|it| match &it.which {
                WhichPull::Number(number) => Some((*number, self.branches.get(&it.slug, *number))),
                WhichPull::Branch(_) => None,
            })
            .collect();
        let wanted: Vec<Wanted<'_>> = questions
            .iter()
            .zip(&numbers)
            .map(|(question, (number, branch))| Wanted {
                slug: &question.slug,
                number: *number,
                branch: branch.as_deref(),
            })
            .collect();
        let (document, variables) = graph::facts_of(&wanted);
        let about = first.slug.to_string();
        let (data, errors) = match self.http.graph(&about, &document, &variables).await {
            Ok(Graph::Absent) => return (Vec::new(), questions),
            Ok(Graph::Refused(fault)) => {
                all_failed(&questions, &fault, told);
                return (Vec::new(), Vec::new());
            }
            Err(gap) => {
                all_failed(&questions, &gap.into(), told);
                return (Vec::new(), Vec::new());
            }
            Ok(Graph::Answered { data, errors }) => (data, errors),
        };
        let mut read = Vec::new();
        for (at, question) in questions.into_iter().enumerate() {
            match self.read_one(&data, &errors, at, &question.slug) {
                Ok(it) => read.push((question, it)),
                Err(fault) => told.push((question.at, Err(fault))),
            }
        }
        (read, Vec::new())
    }

    fn read_one(
        &self,
        data: &serde_json::Value,
        errors: &[GraphError],
        at: usize,
        slug: &Slug,
    ) -> Result<Read, Fault> {
        let read = graph::read(data, errors, at, slug)?;
        commit(&read.facts.head_sha)?;
        self.branches.remember(slug, &read.facts);
        Ok(read)
    }

    /// Reads what one document could not tell.
    async fn completed(&self, slug: &Slug, read: Read) -> Result<PullFacts, Fault> {
        let mut facts = read.facts;
        let own = is_own(&facts);
        let compare = async {
            match read.compare && own {
                true => self.compared(slug, &facts).await.map(Some),
                false => Ok(None),
            }
        };
        let checks = async {
            match read.more_checks {
                true => self.checks(slug, &facts.head_sha).await.map(Some),
                false => Ok(None),
            }
        };
        let (compared, checks) = tokio::try_join!(compare, checks)?;
        if let Some(checks) = checks {
            // What stands for unread reviews stays.
            facts.checks.retain(|it| it.name.starts_with(UNREAD));
            facts.checks.splice(0..0, checks);
        }
        if !own && facts.state == PullState::Open {
            // Never merged, so never looked at.
            facts.files = None;
        }
        if let Some((behind, files)) = compared {
            facts.behind = behind;
            facts.files = files;
        }
        Ok(facts)
    }

    async fn facts_of(&self, question: &Question) -> Told {
        let slug = &question.slug;
        let number = match &question.which {
            WhichPull::Number(number) => *number,
            // The list does not tell `mergeable`, so it only gives the number.
            WhichPull::Branch(branch) => match self.newest(slug, branch, "all", None).await? {
                Some(pull) => pull.number,
                None => return Ok(None),
            },
        };
        let mut facts = self.pull(slug, number).await?.into_facts()?;
        if facts.state != PullState::Open {
            return Ok(Some(facts));
        }
        commit(&facts.head_sha)?;
        let own = is_own(&facts);
        let compare = async {
            match own {
                true => self.compared(slug, &facts).await,
                // Never merged, so never looked at.
                false => Ok((false, None)),
            }
        };
        let checks = self.checks(slug, &facts.head_sha);
        let reviews = self.reviews(slug, number);
        let ((behind, files), checks, (reviews, more)) =
            tokio::try_join!(compare, checks, reviews)?;
        facts.behind = behind;
        facts.files = files;
        facts.checks = checks;
        facts.checks.extend(more);
        facts.reviews = reviews;
        Ok(Some(facts))
    }

    pub(super) async fn pull(&self, slug: &Slug, number: u64) -> Result<Pull, Fault> {
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
    pub(super) async fn newest(
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

    /// Is the head behind its base, and which paths does it change? Asked of the
    /// commit itself: the pull request's own list may be of a newer one already.
    async fn compared(
        &self,
        slug: &Slug,
        facts: &PullFacts,
    ) -> Result<(bool, Option<Vec<String>>), Fault> {
        let sides = format!("{}...{}", facts.base_branch, facts.head_sha);
        let path = slug.path(&["compare", &sides]);
        // The pages are of commits; all files come with the first.
        let query = [("per_page", "1"), ("page", "1")];
        let answer = self.http.call(Method::GET, &path, &query, None).await?;
        if !answer.status.is_success() {
            return Err(answer.fault(slug.as_str()));
        }
        let compared: Compared = answer.json()?;
        Ok((compared.behind_by > 0, compared.paths(FILES_MAX)))
    }

    /// Check runs and commit statuses together: each system sees only its own,
    /// and the combined state of a commit without statuses is `pending` for ever.
    async fn checks(&self, slug: &Slug, sha: &str) -> Result<Vec<Check>, Fault> {
        let sha = commit(sha)?;
        let of = |kind| slug.path(&["commits", sha, kind]);
        let (runs, statuses) = (of("check-runs"), of("status"));
        let runs = self.pages(slug, &runs, |answer| {
            let page: CheckRuns = answer.json()?;
            Ok((
                page.total_count,
                page.check_runs.into_iter().map(Check::from).collect(),
            ))
        });
        let statuses = self.pages(slug, &statuses, |answer| {
            let page: Statuses = answer.json()?;
            Ok((
                page.total_count,
                page.statuses.into_iter().map(Check::from).collect(),
            ))
        });
        let ((mut checks, more_runs), (statuses, more_statuses)) =
            tokio::try_join!(runs, statuses)?;
        checks.extend(statuses);
        if more_runs || more_statuses {
            checks.push(unread("checks", PAGES_MAX * PAGE_SIZE));
        }
        Ok(checks)
    }

    async fn reviews(
        &self,
        slug: &Slug,
        number: u64,
    ) -> Result<(Vec<Review>, Option<Check>), Fault> {
        let number = number.to_string();
        let path = slug.path(&["pulls", &number, "reviews"]);
        let read = |answer: &Answer| Ok((None, answer.json()?));
        let (replies, more) = self.pages::<ReviewReply>(slug, &path, read).await?;
        let more = more.then(|| unread("reviews", PAGES_MAX * PAGE_SIZE));
        Ok((last_words(replies), more))
    }

    /// Everything in a list, and whether there is more of it.
    async fn pages<T: Send>(
        &self,
        slug: &Slug,
        path: &[&str],
        read: impl Fn(&Answer) -> Result<(Option<usize>, Vec<T>), Gap> + Send,
    ) -> Result<(Vec<T>, bool), Fault> {
        let size = PAGE_SIZE.to_string();
        let mut items = Vec::new();
        for page in 1..=PAGES_MAX {
            let page = page.to_string();
            let query = [
                ("filter", "latest"),
                ("per_page", size.as_str()),
                ("page", &page),
            ];
            let answer = self.http.call(Method::GET, path, &query, None).await?;
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
            items.extend(found);
            let more = total.map_or(count >= PAGE_SIZE, |total| items.len() < total);
            if count == 0 || !more {
                return Ok((items, false));
            }
        }
        Ok((items, true))
    }
}

/// How the check begins that stands for what was not read.
const UNREAD: &str = "more than ";

/// What was not read may be red, so the commit must not look green.
pub(super) fn unread(what: &str, count: usize) -> Check {
    Check {
        name: format!("{UNREAD}{count} {what}"),
        state: CheckState::Pending,
        id: None,
        says: String::new(),
    }
}

/// Is the head in the repository itself?
fn is_own(facts: &PullFacts) -> bool {
    let head = facts.head_slug.as_deref();
    head.is_some_and(|it| it.eq_ignore_ascii_case(&facts.base_slug))
}

fn all_failed(questions: &[Question], fault: &Fault, told: &mut Vec<(usize, Told)>) {
    told.extend(questions.iter().map(|it| (it.at, Err(fault.clone()))));
}
