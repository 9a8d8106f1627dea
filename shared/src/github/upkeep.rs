//! What is done to a pull request and its branch when nobody wants them any more.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::Client;
use super::json::Comment;
use super::slug::{Slug, branch};
use crate::issue::{FailureClass, Fault, PullState};
use crate::ports::{BranchAsk, CloseAsk};

/// GitHub's greatest page.
const PAGE_SIZE: usize = 100;
/// Among so many pages of the newest comments ours is looked for.
const COMMENT_PAGES_MAX: usize = 3;

impl Client {
    /// The comment comes first: so whoever repeats this half done knows by the open
    /// pull request that it is ours to close, and by the mark that it was told.
    pub(super) async fn close_once(&self, ask: &CloseAsk) -> Result<(), Fault> {
        let slug = Slug::parse(&ask.repository.slug)?;
        let pull = self.pull(&slug, ask.number).await?;
        if pull.state() != PullState::Open {
            return Ok(());
        }
        let comments = pull.comments.unwrap_or_default();
        let number = ask.number.to_string();
        if !self
            .has_comment(&slug, &number, &ask.mark, comments)
            .await?
        {
            let body = match ask.comment.contains(&ask.mark) {
                true => ask.comment.clone(),
                false => format!("{}\n\n{}", ask.comment, ask.mark),
            };
            let path = slug.path(&["issues", &number, "comments"]);
            self.write(&slug, Method::POST, &path, &json!({ "body": body }))
                .await?;
        }
        let path = slug.path(&["pulls", &number]);
        self.write(&slug, Method::PATCH, &path, &json!({ "state": "closed" }))
            .await
    }

    async fn has_comment(
        &self,
        slug: &Slug,
        number: &str,
        mark: &str,
        count: usize,
    ) -> Result<bool, Fault> {
        let path = slug.path(&["issues", number, "comments"]);
        let size = PAGE_SIZE.to_string();
        // The oldest come first, and one more may have come since they were counted.
        let last = count / PAGE_SIZE + 1;
        let first = last.saturating_sub(COMMENT_PAGES_MAX - 1).max(1);
        for page in first..=last {
            let page = page.to_string();
            let query = [("per_page", size.as_str()), ("page", &page)];
            let answer = self.http.call(Method::GET, &path, &query, None).await?;
            if !answer.status.is_success() {
                return Err(answer.fault(slug.as_str()));
            }
            let comments: Vec<Comment> = answer.json()?;
            let is_ours = |it: &Comment| it.body.as_deref().is_some_and(|it| it.contains(mark));
            if comments.iter().any(is_ours) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn write(
        &self,
        slug: &Slug,
        method: Method,
        path: &[&str],
        body: &serde_json::Value,
    ) -> Result<(), Fault> {
        let answer = self.http.call(method, path, &[], Some(body)).await?;
        match answer.status.is_success() {
            true => Ok(()),
            false => Err(answer.fault(slug.as_str())),
        }
    }

    pub(super) async fn delete_once(&self, ask: &BranchAsk) -> Result<(), Fault> {
        let slug = Slug::parse(&ask.repository.slug)?;
        let parts = branch(&ask.branch)?;
        if ask.branch == ask.repository.base_branch {
            return Err(Fault::Permanent {
                class: FailureClass::Invalid,
                why: format!("`{}` is the base branch of {slug}", ask.branch),
            });
        }
        let mut path = slug.path(&["git", "refs", "heads"]);
        path.extend(parts);
        let answer = self.http.call(Method::DELETE, &path, &[], None).await?;
        match answer.status {
            status if status.is_success() => Ok(()),
            StatusCode::NOT_FOUND => Ok(()),
            StatusCode::UNPROCESSABLE_ENTITY if answer.message().contains("does not exist") => {
                Ok(())
            }
            _ => Err(answer.fault(slug.as_str())),
        }
    }
}
