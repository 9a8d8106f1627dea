//! Questions that people were asked, and what their answers mean. Whatever else
//! they write is for those who work.

use super::state::Consent;
use super::understand::cancelled;
use super::{
    Activity, COST_USD_MAX, CancelReason, Draft, Event, Issue, Scope, SessionId, Time, Wait,
    utc_day, words,
};

/// How an answer begins that approves a plan (contract, section 5).
const APPROVALS: [&str; 5] = ["approve", "yes", "ok", "go", "lgtm"];
pub(super) const APPROVE: &str = APPROVALS[0];
pub(super) const CHANGE: &str = "change";
/// Raises a limit, with the figure behind it.
pub(super) const RAISE: &str = "raise";
pub(super) const WAIT: &str = "wait";
pub(super) const CANCEL: &str = "cancel";

/// What a person was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Approval,
    Money(Scope),
}

/// What they answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Answer {
    Approve,
    Cancel,
    /// The plan shall be another one.
    Change,
    Raise(Scope, f64),
    /// It stays as it is.
    Wait,
    /// Something is missing; the sentence says what.
    Unclear(String),
}

impl Issue {
    /// What was asked and not answered yet.
    pub(super) fn question(&self) -> Option<Question> {
        if self.consent == Consent::Asked {
            return Some(Question::Approval);
        }
        self.waits.iter().find_map(|(on, waiting)| match on {
            Wait::Money(scope) if waiting.told => Some(Question::Money(*scope)),
            Wait::Money(_) | Wait::Pause | Wait::Executor(_) => None,
        })
    }
}

/// What a text says to a question; `None`: it is no answer to it.
pub(super) fn read(question: Question, text: &str) -> Option<Answer> {
    let text = text.trim().to_lowercase();
    let word: String = text.chars().take_while(|it| it.is_alphanumeric()).collect();
    match question {
        Question::Approval if APPROVALS.contains(&word.as_str()) => Some(Answer::Approve),
        Question::Approval if text == CANCEL => Some(Answer::Cancel),
        Question::Approval if text == CHANGE => {
            Some(Answer::Unclear(words::change_how().to_owned()))
        }
        Question::Approval => Some(Answer::Change),
        Question::Money(scope) if word == RAISE => Some(match figure(&text) {
            Some(usd) => Answer::Raise(scope, usd),
            None => Answer::Unclear(words::raise_how()),
        }),
        Question::Money(_) if text == WAIT => Some(Answer::Wait),
        Question::Money(_) if text == CANCEL => Some(Answer::Cancel),
        Question::Money(_) => None,
    }
}

/// The first amount in a text, USD.
fn figure(text: &str) -> Option<f64> {
    text.split_whitespace()
        .filter_map(|it| {
            it.trim_matches(|c: char| !c.is_ascii_digit())
                .parse::<f64>()
                .ok()
        })
        .find(|usd| *usd > 0.0 && *usd <= COST_USD_MAX)
}

/// Writes an answer down, and what follows from it.
pub(super) fn answered(
    draft: &mut Draft,
    answer: Answer,
    (session, activity, text): (SessionId, String, String),
    at: Time,
) {
    let change = text.clone();
    draft.emit(if answer == Answer::Change {
        // Those who plan anew have to know it.
        Event::Prompted {
            session: session.clone(),
            activity,
            text,
        }
    } else {
        Event::Answered {
            session: session.clone(),
            activity,
            text,
        }
    });
    match answer {
        Answer::Approve => approved(draft),
        Answer::Cancel => cancelled(draft, CancelReason::Stop, at),
        Answer::Change => {
            draft.emit(Event::ChangeAsked { text: change });
            draft.say(Activity::Thought(words::plans_again(&draft.issue)));
        }
        Answer::Raise(scope, usd) => {
            let day = (scope == Scope::Day).then(|| utc_day(draft.now));
            draft.emit(Event::Raised { scope, usd, day });
            draft.say(Activity::Thought(words::raised(scope, usd)));
        }
        Answer::Wait => draft.say(Activity::Thought(words::goes_on_waiting())),
        Answer::Unclear(why) => draft.say(Activity::Thought(why)),
    }
}

/// An operator approves, by command.
pub(super) fn approve(draft: &mut Draft) {
    if draft.issue.active() && draft.issue.consent == Consent::Asked {
        approved(draft);
    } else {
        draft.refusal = Some(words::nothing_to_approve(&draft.issue));
    }
}

fn approved(draft: &mut Draft) {
    draft.emit(Event::PlanApproved);
    draft.say(Activity::Thought(words::approved()));
}
