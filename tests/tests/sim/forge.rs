//! The forge of the simulated world: heads move, checks turn, branches conflict and
//! fall behind, people review. It knows what was validated, and sees to it that
//! nothing else is merged.

use shared::issue::{
    Check, CheckState, IssueId, Opinion, Policy, PullFacts, PullState, Review, TaskKind, Time,
};
use shared::ports::{Job, MergeAnswer, MergeAsk, PullAsk, UpdateAnswer, UpdateAsk, WhichPull};

use crate::ledger::Holder;
use crate::run::{Fate, Run};
use crate::world::World;

/// Who wrote what cannot be merged without a conflict mends it, or not.
const CONFLICT_STAYS: u32 = 150;

#[derive(Clone, Debug)]
pub(crate) struct PullRequest {
    pub(crate) number: u64,
    pub(crate) job: Job,
    pub(crate) branch: String,
    /// The runner that has pushed it, where that is not ours.
    pub(crate) holder: Option<Holder>,
    pub(crate) sha: String,
    green_at: Time,
    red: bool,
    conflicts: bool,
    /// How many merges the base had seen when it was last brought up to date.
    based_on: u64,
    /// The commits that a person has approved.
    approved: Vec<String>,
    pub(crate) state: PullState,
    /// The commits that were merged, by whom.
    pub(crate) merged: Vec<(String, &'static str)>,
    moves_at: Option<Time>,
    asked: u32,
    heads: u32,
}

impl World {
    /// What happens at the forge by itself.
    pub(crate) fn pass_at_the_forge(&mut self) {
        for at in 0..self.pulls.len() {
            if self.pulls[at].state != PullState::Open {
                continue;
            }
            if self.pulls[at].moves_at.is_some_and(|it| it <= self.now) {
                self.pulls[at].moves_at = None;
                self.push(at);
                self.visit("a head moved after the run was over");
            }
            let flips = self.weather.red / 4;
            if self.pulls[at].red && self.dice(flips) {
                self.pulls[at].red = false;
                self.visit("a red check was run again and turned green");
            }
            let pull = &self.pulls[at];
            let wanted = self
                .policy(&pull.job.issue)
                .is_some_and(|it| it.require_approval);
            if wanted && !pull.approved.contains(&pull.sha) && self.rng.u8(0..12) == 0 {
                let sha = self.pulls[at].sha.clone();
                self.pulls[at].approved.push(sha);
                self.visit("a person approved of a commit");
            }
        }
    }

    fn policy(&self, issue: &IssueId) -> Option<&Policy> {
        self.issues.get(issue).map(|(_, policy)| policy)
    }

    /// A new head, with checks of its own.
    fn push(&mut self, at: usize) {
        let green_at = self.now + self.seconds(0..=40);
        let red_chance = self.weather.red;
        let red = self.dice(red_chance);
        let pull = &mut self.pulls[at];
        pull.heads += 1;
        pull.sha = format!("sha-{}-{}", pull.number, pull.heads);
        (pull.green_at, pull.red) = (green_at, red);
    }

    /// Somebody pushes just when a merge is wanted.
    pub(crate) fn nudge(&mut self, number: u64) {
        let chance = self.weather.head_moves / 2;
        let now = self.now;
        if self.dice(chance)
            && let Some(pull) = self.pulls.iter_mut().find(|it| it.number == number)
        {
            pull.moves_at = Some(now);
        }
    }

    /// Pushes what a run has made: under a name that is free, or on top of what it
    /// was to mend.
    pub(crate) fn hand_in(&mut self, run: &Run) {
        if run.job.repair.is_some()
            && let Some(at) = self
                .pulls
                .iter()
                .rposition(|it| it.branch == run.job.branch)
        {
            if self.pulls[at].state != PullState::Open {
                return;
            }
            self.pulls[at].holder.clone_from(&run.holder);
            self.push(at);
            let stays = self.dice(CONFLICT_STAYS);
            if run.job.repair.as_ref().is_some_and(|it| it.conflict) && !stays {
                self.pulls[at].conflicts = false;
                self.pulls[at].based_on = self.merges;
                self.visit("a conflict was resolved by a repair");
            }
            self.visit("a repair was pushed");
            return;
        }
        let number = self.pulls.len() as u64 + 1;
        let wanted = &run.job.branch;
        let mut branch = wanted.clone();
        let mut suffix = 2;
        while self.pulls.iter().any(|it| it.branch == branch) {
            branch = format!("{wanted}.n{suffix}");
            suffix += 1;
        }
        let moves_chance = self.weather.head_moves;
        let moves_at = self
            .dice(moves_chance)
            .then(|| self.now + self.seconds(0..=90));
        self.pulls.push(PullRequest {
            number,
            job: run.job.clone(),
            branch,
            holder: run.holder.clone(),
            sha: String::new(),
            green_at: self.now,
            red: false,
            conflicts: false,
            based_on: self.merges,
            approved: Vec::new(),
            state: PullState::Open,
            merged: Vec::new(),
            moves_at,
            asked: 0,
            heads: 0,
        });
        self.push(self.pulls.len() - 1);
    }

    pub(crate) fn facts(&mut self, ask: &PullAsk) -> Option<PullFacts> {
        let (now, merges) = (self.now, self.merges);
        let at = self.pulls.iter().rposition(|pull| match &ask.which {
            WhichPull::Number(number) => pull.number == *number,
            WhichPull::Branch(branch) => pull.branch == *branch,
        })?;
        let pull = &mut self.pulls[at];
        pull.asked += 1;
        let state = if now < pull.green_at {
            CheckState::Pending
        } else if pull.red {
            CheckState::Failed
        } else {
            CheckState::Passed
        };
        let approves = |sha: &String| Review {
            author: "ann".into(),
            opinion: Opinion::Approves,
            sha: sha.clone(),
            text: String::new(),
        };
        Some(PullFacts {
            number: pull.number,
            url: format!("https://forge/{}", pull.number),
            state: pull.state,
            head_slug: Some(pull.job.repository.slug.clone()),
            head_branch: pull.branch.clone(),
            head_sha: pull.sha.clone(),
            base_slug: pull.job.repository.slug.clone(),
            base_branch: pull.job.repository.base_branch.clone(),
            body: format!("<!-- cyrus:{}/{} -->", pull.job.identifier, pull.job.task),
            draft: false,
            // The forge finds out only when asked.
            mergeable: (pull.asked > 1).then_some(!pull.conflicts),
            checks: vec![Check {
                name: "ci".into(),
                state,
                id: Some(pull.number),
                says: "it failed".into(),
            }],
            files: Some(vec!["src/lib.rs".into()]),
            reviews: pull.approved.iter().map(approves).collect(),
            behind: pull.based_on < merges,
            blocked: false,
            queued: false,
        })
    }

    pub(crate) fn merge(&mut self, ask: &MergeAsk) -> MergeAnswer {
        let Some(at) = self.pulls.iter().position(|pull| pull.number == ask.number) else {
            return MergeAnswer::Refused {
                why: "not found".into(),
            };
        };
        let pull = self.pulls[at].clone();
        match pull.state {
            PullState::Merged => return MergeAnswer::Merged { sha: pull.sha },
            PullState::Closed => {
                return MergeAnswer::Refused {
                    why: "it is closed".into(),
                };
            }
            PullState::Open => {}
        }
        if pull.sha != ask.sha {
            self.visit("a merge was refused because the head had moved");
            return MergeAnswer::HeadMoved;
        }
        if pull.conflicts {
            self.visit("a merge was refused because it conflicts");
            return MergeAnswer::Refused {
                why: "it conflicts".into(),
            };
        }
        self.check_validated(&pull);
        if self.done.contains(&pull.job.issue) {
            self.broke(format!(
                "#{} was merged after its round was over",
                pull.number
            ));
        }
        self.check_cancelled(&pull.job.issue, "a merge was made");
        if let Some(holder) = &pull.holder
            && !self.ledger.counts(holder)
        {
            self.broke(format!(
                "#{} was merged, but the result of {holder} was never taken",
                pull.number
            ));
        }
        self.pulls[at].state = PullState::Merged;
        self.pulls[at].merged.push((ask.sha.clone(), "cyrus"));
        self.note(format!("merged #{} at {}", ask.number, ask.sha));
        self.base_moved();
        MergeAnswer::Merged {
            sha: ask.sha.clone(),
        }
    }

    /// Invariant 5: nothing is merged but the very commit that has stood every test.
    fn check_validated(&mut self, pull: &PullRequest) {
        let Some(policy) = self.policy(&pull.job.issue).cloned() else {
            return;
        };
        let judged = |kind: TaskKind| {
            let of = |run: &&Run| {
                run.job.kind == kind
                    && run.job.issue == pull.job.issue
                    && run.job.commit.as_ref() == Some(&pull.sha)
            };
            let fine = |run: &Run| run.fate == Fate::Succeeds && run.approves();
            self.runs.iter().filter(of).any(fine)
        };
        let mut lacks = Vec::new();
        if self.now < pull.green_at || pull.red {
            lacks.push("green checks");
        }
        if !policy.commands.is_empty() && !judged(TaskKind::Verifier) {
            lacks.push("its commands");
        }
        if policy.reviewer && !judged(TaskKind::Reviewer) {
            lacks.push("a review");
        }
        if policy.require_approval && !pull.approved.contains(&pull.sha) {
            lacks.push("a person's approval");
        }
        for what in lacks {
            self.broke(format!("#{} was merged without {what}", pull.number));
        }
        if policy.reviewer && !policy.commands.is_empty() {
            self.visit("what was merged had stood commands and a review");
        }
    }

    /// Something was merged: what is open is behind, and some of it conflicts.
    pub(crate) fn base_moved(&mut self) {
        self.merges += 1;
        for at in 0..self.pulls.len() {
            let chance = self.weather.conflicts;
            if self.pulls[at].state == PullState::Open && self.dice(chance) {
                self.pulls[at].conflicts = true;
                self.visit("a merge left a conflict behind");
            }
        }
    }

    pub(crate) fn update(&mut self, ask: &UpdateAsk) -> UpdateAnswer {
        let Some(at) = self.pulls.iter().position(|pull| pull.number == ask.number) else {
            return UpdateAnswer::Refused {
                why: "not found".into(),
            };
        };
        let pull = &self.pulls[at];
        if pull.sha != ask.sha || pull.state != PullState::Open {
            self.visit("an update was refused because the head had moved");
            return UpdateAnswer::HeadMoved;
        }
        // Somebody merges something else just then.
        let chance = self.weather.conflicts / 4;
        if self.dice(chance) {
            self.pulls[at].conflicts = true;
        }
        if self.pulls[at].conflicts {
            self.visit("an update was refused because it conflicts");
            return UpdateAnswer::Refused {
                why: "it conflicts".into(),
            };
        }
        self.check_cancelled(&self.pulls[at].job.issue.clone(), "an update was made");
        self.push(at);
        self.pulls[at].based_on = self.merges;
        self.visit("a pull request was brought up to date");
        UpdateAnswer::Done
    }

    pub(crate) fn close(&mut self, number: u64) {
        let Some(pull) = self.pulls.iter_mut().find(|it| it.number == number) else {
            return;
        };
        if pull.state == PullState::Open {
            pull.state = PullState::Closed;
            self.visit("a pull request that nobody wanted was closed");
        }
    }

    /// A branch may be deleted once it is merged, and not before.
    pub(crate) fn delete_branch(&mut self, branch: &str) {
        let open = |pull: &PullRequest| pull.branch == branch && pull.state == PullState::Open;
        if self.pulls.iter().any(open) {
            self.broke(format!("{branch} was deleted under an open pull request"));
        }
    }
}
