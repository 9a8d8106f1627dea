//! Many pull requests in one GraphQL document, and what its answer says of each.
//!
//! The document reads the first page of everything. What has more, and what it
//! cannot tell (both names of a renamed file), is read over REST.

use std::fmt::Write as _;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::errors::GraphError;
use super::json::{Said, opinion, ordered, review, run_state, says, status_state};
use super::slug::Slug;
use crate::issue::verdict::{Check, Review};
use crate::issue::{Fault, PullFacts, PullState};

/// How many pull requests one document asks about.
pub(super) const PULLS_PER_QUERY: usize = 20;

/// All that is asked of a pull request but how far it is behind.
const FACTS: &str = "
fragment Facts on PullRequest {
  number url state isDraft body mergeable mergeStateStatus isInMergeQueue
  headRefName headRefOid headRepository { nameWithOwner }
  baseRefName baseRepository { nameWithOwner }
  files(first: 100) { totalCount nodes { path changeType } }
  latestOpinionatedReviews(first: 100, writersOnly: true) {
    totalCount nodes { state body author { login } commit { oid } }
  }
  commits(last: 1) {
    nodes { commit { oid statusCheckRollup { contexts(first: 100) {
      totalCount
      nodes {
        __typename
        ... on CheckRun { databaseId permalink name status conclusion title }
        ... on StatusContext { context state description }
      }
    } } } }
  }
}
";

/// One pull request to be asked about.
pub(super) struct Wanted<'a> {
    pub(super) slug: &'a Slug,
    pub(super) number: u64,
    /// Its head branch, where it is known: only with it GraphQL compares.
    pub(super) branch: Option<&'a str>,
}

/// Where the answer to question `at` is.
pub(super) fn alias(at: usize) -> String {
    format!("p{at}")
}

/// The document for some pull requests, with its variables.
pub(super) fn facts_of(wanted: &[Wanted<'_>]) -> (String, Value) {
    let mut variables = Map::new();
    let (mut head, mut body) = (Vec::new(), String::new());
    for (at, it) in wanted.iter().enumerate() {
        ask_repository(at, it.slug, &mut head, &mut variables);
        head.push(format!("$n{at}: Int!"));
        variables.insert(format!("n{at}"), it.number.into());
        let mut compare = String::new();
        if let Some(branch) = it.branch {
            head.push(format!("$h{at}: String!"));
            variables.insert(format!("h{at}"), branch.into());
            compare = format!(
                " baseRef {{ compare(headRef: $h{at}) {{ behindBy headTarget {{ oid }} }} }}"
            );
        }
        let _ = writeln!(
            body,
            "  p{at}: repository(owner: $o{at}, name: $r{at}) {{ \
             pullRequest(number: $n{at}) {{ ...Facts{compare} }} }}"
        );
    }
    let document = format!("query Facts({}) {{\n{body}}}{FACTS}", head.join(", "));
    (document, variables.into())
}

/// The document that finds the pull requests of branches, with its variables.
pub(super) fn numbers_of(wanted: &[(&Slug, &str)], newest_max: usize) -> (String, Value) {
    let mut variables = Map::new();
    let (mut head, mut body) = (Vec::new(), String::new());
    for (at, (slug, branch)) in wanted.iter().enumerate() {
        ask_repository(at, slug, &mut head, &mut variables);
        head.push(format!("$h{at}: String!"));
        variables.insert(format!("h{at}"), (*branch).into());
        let _ = writeln!(
            body,
            "  p{at}: repository(owner: $o{at}, name: $r{at}) {{ pullRequests(headRefName: $h{at}, \
             first: {newest_max}, orderBy: {{ field: CREATED_AT, direction: DESC }}) {{ \
             nodes {{ number headRepository {{ nameWithOwner }} }} }} }}"
        );
    }
    let document = format!("query Numbers({}) {{\n{body}}}", head.join(", "));
    (document, variables.into())
}

fn ask_repository(
    at: usize,
    slug: &Slug,
    head: &mut Vec<String>,
    variables: &mut Map<String, Value>,
) {
    head.push(format!("$o{at}: String!, $r{at}: String!"));
    variables.insert(format!("o{at}"), slug.owner().into());
    variables.insert(format!("r{at}"), slug.name().into());
}

/// Brings the base into the head, if the head is still that commit.
pub(super) fn update(pull: &str, sha: &str) -> (&'static str, Value) {
    (
        "mutation Update($input: UpdatePullRequestBranchInput!) { \
         updatePullRequestBranch(input: $input) { pullRequest { headRefOid } } }",
        json!({ "input": { "pullRequestId": pull, "expectedHeadOid": sha } }),
    )
}

/// Puts a pull request into the merge queue, if its head is still that commit.
pub(super) fn enqueue(pull: &str, sha: &str) -> (&'static str, Value) {
    (
        "mutation Enqueue($input: EnqueuePullRequestInput!) { \
         enqueuePullRequest(input: $input) { mergeQueueEntry { id } } }",
        json!({ "input": { "pullRequestId": pull, "expectedHeadOid": sha } }),
    )
}

/// What is known of a pull request after one document, and what is still to be read.
pub(super) struct Read {
    pub(super) facts: PullFacts,
    /// There are more checks than were read.
    pub(super) more_checks: bool,
    /// Its files and how far it is behind are not known yet.
    pub(super) compare: bool,
}

/// The newest pull request whose head is in the repository itself.
pub(super) fn number_in(
    data: &Value,
    errors: &[GraphError],
    at: usize,
    slug: &Slug,
) -> Result<Option<u64>, Fault> {
    let repository: RepositoryWithPulls = part(data, errors, at, slug)?;
    let nodes = whole(repository.pull_requests.nodes, slug)?;
    let mut own = nodes.into_iter().filter(|it| {
        let head = it.head_repository.as_ref();
        head.is_some_and(|it| it.name_with_owner.eq_ignore_ascii_case(slug.as_str()))
    });
    Ok(own.next().map(|it| it.number))
}

/// What the answer to question `at` says of its pull request.
pub(super) fn read(
    data: &Value,
    errors: &[GraphError],
    at: usize,
    slug: &Slug,
) -> Result<Read, Fault> {
    let repository: RepositoryWithPull = part(data, errors, at, slug)?;
    let pull = repository
        .pull_request
        .ok_or_else(|| unreadable(slug, "it names no pull request"))?;
    pull.read(slug)
}

/// The part of the data under an alias. One with an error is not read: what is
/// missing in it could be what makes a check red.
fn part<T: DeserializeOwned>(
    data: &Value,
    errors: &[GraphError],
    at: usize,
    slug: &Slug,
) -> Result<T, Fault> {
    let alias = alias(at);
    if let Some(error) = errors.iter().find(|it| it.concerns(&alias)) {
        return Err(error.fault(slug.as_str()));
    }
    let found = data.get(&alias).unwrap_or(&Value::Null);
    T::deserialize(found).map_err(|error| unreadable(slug, &error.to_string()))
}

/// All nodes of a page; one that is missing was kept back from us.
fn whole<T>(nodes: Option<Vec<Option<T>>>, slug: &Slug) -> Result<Vec<T>, Fault> {
    let nodes: Option<Vec<T>> = nodes.and_then(|it| it.into_iter().collect());
    nodes.ok_or_else(|| unreadable(slug, "a part of it is missing"))
}

fn unreadable(slug: &Slug, why: &str) -> Fault {
    Fault::Transient {
        why: format!("GitHub's answer about {slug} cannot be read: {why}"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RepositoryWithPulls {
    pull_requests: Page<NumberedPull>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NumberedPull {
    number: u64,
    head_repository: Option<Named>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RepositoryWithPull {
    pull_request: Option<Pull>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pull {
    number: u64,
    url: String,
    state: State,
    is_draft: bool,
    body: String,
    mergeable: String,
    merge_state_status: String,
    is_in_merge_queue: bool,
    head_ref_name: String,
    head_ref_oid: String,
    head_repository: Option<Named>,
    base_ref_name: String,
    base_repository: Option<Named>,
    base_ref: Option<BaseRef>,
    files: Option<Page<File>>,
    latest_opinionated_reviews: Option<Page<ReviewNode>>,
    commits: Page<PullCommit>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum State {
    Open,
    Closed,
    Merged,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    name_with_owner: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<T> {
    total_count: Option<usize>,
    nodes: Option<Vec<Option<T>>>,
}

#[derive(Deserialize)]
struct BaseRef {
    compare: Option<Comparison>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Comparison {
    behind_by: u64,
    head_target: Object,
}

#[derive(Deserialize)]
struct Object {
    oid: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    path: String,
    change_type: String,
}

#[derive(Deserialize)]
struct ReviewNode {
    state: String,
    body: String,
    author: Option<Author>,
    commit: Option<Object>,
}

#[derive(Deserialize)]
struct Author {
    login: String,
}

#[derive(Deserialize)]
struct PullCommit {
    commit: Commit,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Commit {
    oid: String,
    status_check_rollup: Option<Rollup>,
}

#[derive(Deserialize)]
struct Rollup {
    contexts: Page<Context>,
}

#[derive(Deserialize)]
#[serde(tag = "__typename")]
enum Context {
    #[serde(rename_all = "camelCase")]
    CheckRun {
        database_id: Option<u64>,
        permalink: String,
        name: String,
        status: String,
        conclusion: Option<String>,
        title: Option<String>,
    },
    StatusContext {
        context: String,
        state: String,
        description: Option<String>,
    },
}

impl From<Context> for Check {
    fn from(context: Context) -> Self {
        match context {
            Context::CheckRun {
                database_id,
                permalink,
                name,
                status,
                conclusion,
                title,
            } => Self {
                name,
                state: run_state(Some(&status), conclusion.as_deref()),
                // The ids have outgrown what GraphQL calls an `Int`.
                id: database_id.or_else(|| permalink.rsplit('/').next()?.parse().ok()),
                says: says(title),
            },
            Context::StatusContext {
                context,
                state,
                description,
            } => Self {
                name: context,
                state: status_state(Some(&state)),
                id: None,
                says: says(description),
            },
        }
    }
}

impl Pull {
    fn read(self, slug: &Slug) -> Result<Read, Fault> {
        let base = self.base_repository;
        let base = base.ok_or_else(|| unreadable(slug, "it names no base repository"))?;
        let mut facts = PullFacts {
            number: self.number,
            url: self.url,
            state: match self.state {
                State::Open => PullState::Open,
                State::Closed => PullState::Closed,
                State::Merged => PullState::Merged,
            },
            head_slug: self.head_repository.map(|it| it.name_with_owner),
            head_branch: self.head_ref_name,
            head_sha: self.head_ref_oid,
            base_slug: base.name_with_owner,
            base_branch: self.base_ref_name,
            body: self.body,
            draft: self.is_draft,
            mergeable: match self.mergeable.as_str() {
                "MERGEABLE" => Some(true),
                "CONFLICTING" => Some(false),
                _ => None,
            },
            checks: Vec::new(),
            files: Some(Vec::new()),
            reviews: Vec::new(),
            behind: false,
            blocked: false,
            queued: false,
        };
        if facts.state != PullState::Open {
            facts.mergeable = None;
            return Ok(Read {
                facts,
                more_checks: false,
                compare: false,
            });
        }
        facts.blocked = self.merge_state_status == "BLOCKED";
        facts.queued = self.is_in_merge_queue;
        let (checks, more_checks) = checks(self.commits, &facts.head_sha, slug)?;
        facts.checks = checks;
        let (reviews, more_reviews) = reviews(self.latest_opinionated_reviews, slug)?;
        facts.reviews = reviews;
        facts.checks.extend(more_reviews);
        let compared = self.base_ref.and_then(|it| it.compare);
        // A branch may have moved between the two, and be another one in a fork.
        let compared = compared.filter(|it| it.head_target.oid == facts.head_sha);
        facts.behind = compared.as_ref().is_some_and(|it| it.behind_by > 0);
        let files = self.files.and_then(paths);
        let compare = compared.is_none() || files.is_none();
        facts.files = files;
        Ok(Read {
            facts,
            more_checks,
            compare,
        })
    }
}

/// The checks of the head, and whether there are more.
fn checks(commits: Page<PullCommit>, head: &str, slug: &Slug) -> Result<(Vec<Check>, bool), Fault> {
    let commit = whole(commits.nodes, slug)?.pop().map(|it| it.commit);
    let Some(commit) = commit.filter(|it| it.oid == head) else {
        return Err(unreadable(slug, "its newest commit is not its head"));
    };
    let Some(rollup) = commit.status_check_rollup else {
        return Ok((Vec::new(), false));
    };
    let total = rollup.contexts.total_count;
    let nodes = whole(rollup.contexts.nodes, slug)?;
    let more = total.is_none_or(|it| it > nodes.len());
    Ok((nodes.into_iter().map(Check::from).collect(), more))
}

/// The reviews, and a check that stands for those that were not read.
fn reviews(
    page: Option<Page<ReviewNode>>,
    slug: &Slug,
) -> Result<(Vec<Review>, Option<Check>), Fault> {
    let Some(page) = page else {
        return Ok((Vec::new(), None));
    };
    let nodes = whole(page.nodes, slug)?;
    let count = nodes.len();
    let more = page.total_count.is_none_or(|it| it > count);
    let mut reviews: Vec<Review> = nodes.into_iter().filter_map(review_of).collect();
    reviews.sort_by(|a, b| a.author.cmp(&b.author));
    Ok((
        reviews,
        more.then(|| super::facts::unread("reviews", count)),
    ))
}

fn review_of(node: ReviewNode) -> Option<Review> {
    let author = node.author?.login;
    let sha = node.commit.map(|it| it.oid);
    match opinion(&node.state) {
        Said::Opinion(opinion) => Some(review(author, opinion, sha, Some(node.body))),
        Said::Withdrawn | Said::Nothing => None,
    }
}

/// Every path that is changed, where this page tells them all.
fn paths(page: Page<File>) -> Option<Vec<String>> {
    let nodes: Vec<File> = page.nodes?.into_iter().collect::<Option<_>>()?;
    // Of what was renamed only the new name is here.
    let told = nodes.iter().all(|it| it.change_type != "RENAMED");
    let whole = told && page.total_count == Some(nodes.len());
    whole.then(|| ordered(nodes.into_iter().map(|it| it.path).collect()))
}
