//! What people and bots say about a pull request.

use jiff::Timestamp;

use super::{Denied, GitHub};

/// What somebody thinks of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Review {
    pub number: u64,
    pub author: String,
    /// GitHub's word: `OWNER`, `COLLABORATOR`, `CONTRIBUTOR`, `NONE`, …
    pub association: String,
    /// `APPROVED`, `CHANGES_REQUESTED`, `COMMENTED` or `DISMISSED`.
    pub state: String,
    pub body: String,
    /// The head at that moment.
    pub sha: String,
}

/// A comment under a pull request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comment {
    pub number: u64,
    pub author: String,
    pub body: String,
}

impl Review {
    /// May its author write to the repository?
    fn is_of_writer(&self) -> bool {
        ["OWNER", "MEMBER", "COLLABORATOR"].contains(&self.association.as_str())
    }
}

impl GitHub {
    /// Somebody reviews the present head: their login and association, and the
    /// state that the review has.
    pub fn review(
        &mut self,
        slug: &str,
        number: u64,
        (author, association): (&str, &str),
        state: &str,
        body: &str,
        now: Timestamp,
    ) -> Result<(), Denied> {
        let place = self.place(slug)?;
        place.refresh(now)?;
        let at = place.index(number)?;
        let sha = place.pulls[at].head_sha.clone();
        place.reviews.push(Review {
            number,
            author: author.into(),
            association: association.into(),
            state: state.into(),
            body: body.into(),
            sha,
        });
        Ok(())
    }

    /// The reviews of a pull request, oldest first.
    pub fn reviews(&mut self, slug: &str, number: u64) -> Result<Vec<Review>, Denied> {
        let place = self.place(slug)?;
        place.index(number)?;
        let of = |it: &&Review| it.number == number;
        Ok(place.reviews.iter().filter(of).cloned().collect())
    }

    /// The last opinion of each who may write, dismissed ones too.
    pub(super) fn opinions(&mut self, slug: &str, number: u64) -> Result<Vec<Review>, Denied> {
        let mut last: Vec<Review> = Vec::new();
        for review in self.reviews(slug, number)? {
            if review.is_of_writer() && review.state != "COMMENTED" {
                last.retain(|it| it.author != review.author);
                last.push(review);
            }
        }
        Ok(last)
    }

    pub fn comment(
        &mut self,
        slug: &str,
        number: u64,
        author: &str,
        body: &str,
    ) -> Result<(), Denied> {
        let place = self.place(slug)?;
        place.index(number)?;
        place.comments.push(Comment {
            number,
            author: author.into(),
            body: body.into(),
        });
        Ok(())
    }

    /// The comments under a pull request, oldest first.
    pub fn comments(&mut self, slug: &str, number: u64) -> Result<Vec<Comment>, Denied> {
        let place = self.place(slug)?;
        place.index(number)?;
        let of = |it: &&Comment| it.number == number;
        Ok(place.comments.iter().filter(of).cloned().collect())
    }
}
