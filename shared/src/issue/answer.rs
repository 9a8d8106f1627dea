//! Questions that people were asked, and what their answers mean. Whatever else
//! they write is for those who work.

use std::collections::BTreeMap;

use super::state::Consent;
use super::understand::cancelled;
use super::{
    Activity, COST_USD_MAX, CancelReason, Draft, Event, Issue, Scope, SessionId, Telling, Time,
    Wait, micros, utc_day, words,
};

/// The first word of an answer that approves a plan (contract, section 5).
const APPROVALS: [&str; 7] = ["approve", "yes", "ok", "go", "lgtm", "approved", "okay"];
/// Words that refuse without saying what else.
const REFUSALS: [&str; 3] = ["no", "nope", "reject"];
/// A text that begins with `cancel` is no wish for another plan up to this many words.
const CANCEL_WORDS_MAX: usize = 3;
pub(super) const APPROVE: &str = APPROVALS[0];
pub(super) const CHANGE: &str = "change";
/// Raises a limit, with the figure behind it.
pub(super) const RAISE: &str = "raise";
pub(super) const WAIT: &str = "wait";
pub(super) const CANCEL: &str = "cancel";

/// What a person was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Question {
    Approval,
    /// Limits that are to be raised, and how high each has to be, in millionths of a USD.
    Money(BTreeMap<Scope, i64>),
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
        let asked = self.waits.iter().filter_map(|(on, waiting)| match on {
            Wait::Money(scope) if waiting.told == Telling::Asked => Some((*scope, waiting.enough?)),
            Wait::Money(_) | Wait::Pause | Wait::Executor(_) => None,
        });
        let asked: BTreeMap<Scope, i64> = asked.collect();
        (!asked.is_empty()).then_some(Question::Money(asked))
    }
}

/// What a text says to a question; `None`: it is no answer to it.
pub(super) fn read(question: &Question, text: &str) -> Option<Answer> {
    let text = text.to_lowercase();
    let words: Vec<&str> = text
        .split_whitespace()
        .map(|it| it.trim_matches(|c: char| !c.is_alphanumeric()))
        .filter(|it| !it.is_empty())
        .collect();
    let first = words.first().copied().unwrap_or_default();
    let alone = |word: &str| words == [word];
    let cancels = first == CANCEL && words.len() <= CANCEL_WORDS_MAX;
    match question {
        _ if cancels => Some(Answer::Cancel),
        Question::Approval if APPROVALS.contains(&first) => Some(Answer::Approve),
        Question::Approval if alone(CHANGE) => {
            Some(Answer::Unclear(words::change_how().to_owned()))
        }
        Question::Approval if REFUSALS.iter().any(|it| alone(it)) => {
            Some(Answer::Unclear(words::no_is_what()))
        }
        Question::Approval => Some(Answer::Change),
        Question::Money(limits) if first == RAISE => Some(raise(limits, &text, &words)),
        Question::Money(_) if alone(WAIT) => Some(Answer::Wait),
        Question::Money(_) => None,
    }
}

/// `raise day to $5.60`; which limit need only be said where several are asked about.
fn raise(limits: &BTreeMap<Scope, i64>, text: &str, words: &[&str]) -> Answer {
    let named = |scope: &&Scope| words.contains(&scope.word());
    let mut scopes: Vec<Scope> = limits.keys().filter(named).copied().collect();
    if scopes.is_empty() {
        scopes = limits.keys().copied().collect();
    }
    let ([scope], Some(usd)) = (scopes.as_slice(), figure(text)) else {
        return Answer::Unclear(words::raise_how());
    };
    match limits.get(scope) {
        Some(enough) if micros(usd) < *enough => {
            Answer::Unclear(words::raise_more(*scope, *enough))
        }
        Some(_) | None => Answer::Raise(*scope, usd),
    }
}

/// The amount in a text, USD: the only figure in it that stands by itself.
fn figure(text: &str) -> Option<f64> {
    let amount = |word: &str| {
        let word = word.trim_end_matches(['.', ',', '!', ';']);
        let usd: f64 = word.strip_prefix('$').unwrap_or(word).parse().ok()?;
        (usd > 0.0 && usd <= COST_USD_MAX).then_some(usd)
    };
    let mut amounts = text.split_whitespace().filter_map(amount);
    amounts
        .next()
        .filter(|_| amounts.next().is_none() && !text.contains(" by "))
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
        // It is still being asked.
        Answer::Unclear(question) => draft.say(Activity::Elicitation {
            question,
            options: Vec::new(),
        }),
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
