//! What the log asks for and the world has not got yet.

use jiff::SignedDuration;

use super::{
    CLEAN_LOOK_PAUSE_SECONDS, CLEAN_LOOKS_MIN, CLEAN_LOOKS_SECONDS, Effect, Seq, SessionId, TaskId,
    Time,
};

/// An effect that the log asks for and that is not settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Owed {
    pub effect: Effect,
    pub tries: u32,
    pub not_before: Option<Time>,
    /// Somebody is making it.
    pub claimed: Option<Claim>,
    /// It may have been made: it is looked for before it is made again.
    pub doubt: Option<Doubt>,
    /// Not wanted any more: it is only looked for, never made.
    pub withdrawn: bool,
}

/// Who makes an effect: the one who wrote the claim at this position, until it lapses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub seq: Seq,
    pub until: Time,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Doubt {
    /// Looks that found nothing, and the first of them.
    pub clean: u32,
    pub first_clean: Option<Time>,
}

/// An effect that is to be made now.
#[derive(Clone, Debug, PartialEq)]
pub struct Due {
    pub key: Seq,
    pub effect: Effect,
    pub how: How,
    /// The position of the claim under which it is made; 0 while it is not claimed.
    pub claim: Seq,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    Make,
    /// Only find out whether it was made.
    Look,
}

impl Owed {
    pub(super) fn new(effect: Effect) -> Self {
        Self {
            effect,
            tries: 0,
            not_before: None,
            claimed: None,
            doubt: None,
            withdrawn: false,
        }
    }

    /// When it is to be made; `since` when there is no reason to wait.
    pub(super) fn due_at(&self, since: Time) -> Time {
        self.claimed
            .map(|it| it.until)
            .or(self.not_before)
            .unwrap_or(since)
    }

    pub(super) fn how(&self) -> How {
        // A claim that is due again has lapsed: whoever held it may have made the effect.
        let doubtful =
            self.effect.must_not_be_doubled() && (self.doubt.is_some() || self.claimed.is_some());
        let unwanted_merge = self.withdrawn && matches!(self.effect, Effect::Merge { .. });
        if doubtful || unwanted_merge {
            How::Look
        } else {
            How::Make
        }
    }
}

impl Doubt {
    /// Remembers a look that found nothing; true when the doubt is settled.
    pub(super) fn clean_look(&mut self, at: Time) -> bool {
        self.clean += 1;
        let first = *self.first_clean.get_or_insert(at);
        self.clean >= CLEAN_LOOKS_MIN && at.duration_since(first).as_secs() >= CLEAN_LOOKS_SECONDS
    }

    pub(super) fn next_look(at: Time) -> Time {
        at + SignedDuration::from_secs(CLEAN_LOOK_PAUSE_SECONDS)
    }
}

impl Effect {
    /// The session whose readers see this, in order.
    pub fn session(&self) -> Option<&SessionId> {
        match self {
            Self::Say { session, .. } | Self::ShowPlan { session } | Self::Link { session, .. } => {
                Some(session)
            }
            Self::Fetch
            | Self::Move { .. }
            | Self::Start { .. }
            | Self::Stop { .. }
            | Self::Tell { .. }
            | Self::Merge { .. }
            | Self::Update { .. }
            | Self::Close { .. }
            | Self::Prune { .. } => None,
        }
    }

    /// The task that it is for, if it is for one.
    pub fn task(&self) -> Option<&TaskId> {
        match self {
            Self::Start { task, .. }
            | Self::Stop { task, .. }
            | Self::Tell { task, .. }
            | Self::Merge { task, .. }
            | Self::Update { task, .. }
            | Self::Close { task, .. }
            | Self::Prune { task, .. } => Some(task),
            Self::Fetch
            | Self::Say { .. }
            | Self::ShowPlan { .. }
            | Self::Link { .. }
            | Self::Move { .. } => None,
        }
    }

    /// Making it twice would do harm that cannot be undone.
    pub(super) fn must_not_be_doubled(&self) -> bool {
        match self {
            Self::Start { .. } => true,
            Self::Fetch
            | Self::Say { .. }
            | Self::ShowPlan { .. }
            | Self::Link { .. }
            | Self::Move { .. }
            | Self::Stop { .. }
            | Self::Tell { .. }
            | Self::Merge { .. }
            | Self::Update { .. }
            | Self::Close { .. }
            | Self::Prune { .. } => false,
        }
    }
}
