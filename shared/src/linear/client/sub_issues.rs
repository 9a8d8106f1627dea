//! The sub-issues of an issue, read page by page.

use serde::Deserialize;
use serde_json::json;

use super::{Client, IssueOf, Named, Nodes, SUB_ISSUES, StateKind};
use crate::issue::{Fault, IssueId, SUB_ISSUE_BYTES_MAX, SUB_ISSUES_MAX, SubIssue, clip};

/// A relation of this type says that its issue blocks the other one.
const BLOCKS: &str = "blocks";

impl Client {
    /// In the order in which people have put them. One more than there may be says
    /// that there are too many.
    pub(super) async fn sub_issues(&self, issue: &IssueId) -> Result<Vec<SubIssue>, Fault> {
        let mut all: Vec<Child> = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let variables = json!({ "id": issue.0, "after": after });
            let answer: IssueOf<Children> = self.call(SUB_ISSUES, variables).await?;
            let Page { nodes, page_info } = answer.issue.children;
            let empty = nodes.is_empty();
            all.extend(nodes);
            after = page_info.end_cursor.filter(|_| page_info.has_next_page);
            if after.is_none() || empty || all.len() > SUB_ISSUES_MAX {
                break;
            }
        }
        // Who was never put anywhere comes last, in the order of the numbers.
        all.sort_by(|a, b| {
            let place = |it: &Child| it.sub_issue_sort_order.unwrap_or(f64::INFINITY);
            let by_number = || number(&a.identifier).cmp(&number(&b.identifier));
            place(a).total_cmp(&place(b)).then_with(by_number)
        });
        all.truncate(SUB_ISSUES_MAX + 1);
        Ok(all.into_iter().map(SubIssue::from).collect())
    }
}

#[derive(Deserialize)]
struct Children {
    children: Page,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    nodes: Vec<Child>,
    page_info: PageInfo,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageInfo {
    has_next_page: bool,
    end_cursor: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Child {
    id: String,
    identifier: String,
    title: String,
    description: Option<String>,
    sub_issue_sort_order: Option<f64>,
    state: StateKind,
    labels: Nodes<Named>,
    inverse_relations: Nodes<Relation>,
}

#[derive(Deserialize)]
struct Relation {
    #[serde(rename = "type")]
    kind: String,
    issue: Blocker,
}

#[derive(Deserialize)]
struct Blocker {
    identifier: String,
}

impl From<Child> for SubIssue {
    fn from(child: Child) -> Self {
        let relations = child.inverse_relations.nodes.into_iter();
        let mut issue = Self {
            id: IssueId(child.id),
            identifier: child.identifier,
            title: child.title,
            description: String::new(),
            state: child.state.kind,
            labels: child.labels.nodes.into_iter().map(|it| it.name).collect(),
            blocked_by: relations
                .filter(|it| it.kind == BLOCKS)
                .map(|it| it.issue.identifier)
                .collect(),
        };
        // Nobody works on what is closed.
        if !issue.is_completed() && !issue.is_dropped() {
            let text = child.description.unwrap_or_default();
            issue.description = clip(&text, SUB_ISSUE_BYTES_MAX);
        }
        issue
    }
}

/// The number in an identifier.
fn number(identifier: &str) -> u64 {
    let digits = identifier.rsplit('-').next().unwrap_or_default();
    digits.parse().unwrap_or(u64::MAX)
}
