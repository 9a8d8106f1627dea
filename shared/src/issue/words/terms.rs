//! What people are told of money, of what is waited for, and of their approval.

use super::super::answer::{APPROVE, CANCEL, CHANGE, RAISE, WAIT};
use super::super::forecast::{Forecast, Range, came_to};
use super::super::money::{Refused, Scope, usd};
use super::super::state::{Issue, Telling, Waiting};
use super::super::{Activity, Task, TaskKind, Wait};
use super::named;

type Told = (Waiting, Option<Activity>);

/// The question before the work begins.
pub(in super::super) fn approval(issue: &Issue) -> Activity {
    let work = issue
        .tasks
        .iter()
        .filter(|it| it.spec.kind != TaskKind::Orchestrator)
        .count();
    let tasks = if work == 1 {
        "one task".to_owned()
    } else {
        format!("{work} tasks")
    };
    let forecast = issue
        .forecast
        .as_ref()
        .map(forecast_words)
        .unwrap_or_default();
    Activity::Elicitation {
        question: format!(
            "Shall I begin? {tasks}, {forecast}. Answer `{APPROVE}` or `{CANCEL}`, or write what \
             should be different."
        ),
        options: vec![APPROVE.into(), CHANGE.into(), CANCEL.into()],
    }
}

/// A forecast in half a sentence.
pub(in super::super) fn forecast_words(forecast: &Forecast) -> String {
    let Range {
        low,
        expected,
        high,
    } = forecast.cost_usd;
    let minutes = &forecast.minutes;
    format!(
        "about ${expected:.2} (${low:.2} to ${high:.2}) and {:.0} minutes ({:.0} to {:.0})",
        minutes.expected, minutes.low, minutes.high
    )
}

/// What was expected beside what it came to, for the last word.
pub(in super::super) fn against_forecast(issue: &Issue, forecast: &Forecast) -> String {
    let (usd, minutes) = came_to(issue);
    let minutes = minutes.map_or(String::new(), |it| format!(" and {it:.0} minutes"));
    format!(
        " The tasks came to ${usd:.2}{minutes}; expected were {}.",
        forecast_words(forecast)
    )
}

pub(in super::super) fn approved() -> String {
    "Approved: I begin.".into()
}

pub(in super::super) fn nothing_to_approve(issue: &Issue) -> String {
    format!("no plan of {} waits for an approval", issue.identifier)
}

pub(in super::super) fn change_how() -> &'static str {
    "Write what should be different, and I plan it again; or `approve`, or `cancel`."
}

pub(in super::super) fn plans_again(issue: &Issue) -> String {
    let planned = issue
        .tasks
        .iter()
        .any(|it| it.spec.kind == TaskKind::Orchestrator);
    if planned {
        "I plan it again with that, and ask you once more.".into()
    } else {
        "The agent is told that; I ask you once more.".into()
    }
}

/// Goes to the planner with the next run.
pub(in super::super) fn change_asked(text: &str) -> String {
    format!("a person wants it otherwise: {text}")
}

pub(in super::super) fn raise_how() -> String {
    format!(
        "Write which limit and to how much, for instance `{RAISE} issue to 20`; or `{WAIT}`, or \
         `{CANCEL}`."
    )
}

pub(in super::super) fn raise_more(scope: Scope, enough: i64) -> String {
    format!(
        "That is not enough: the limit of the {scope} has to be ${:.2} at least.",
        cents(enough)
    )
}

pub(in super::super) fn no_is_what() -> String {
    format!("Write `{CANCEL}` to drop it, or what should be different.")
}

pub(in super::super) fn raised(scope: Scope, usd: f64) -> String {
    let of = match scope {
        Scope::Task => "a task of this issue may cost",
        Scope::Issue => "this issue may cost",
        Scope::Day => "today this issue may bring what all issues spend up to",
    };
    format!("Raised: {of} ${usd:.2}. I go on.")
}

pub(in super::super) fn goes_on_waiting() -> String {
    "I go on waiting.".into()
}

pub(in super::super) fn interrupted() -> String {
    "its run was taken back, and is begun again when it may be".into()
}

/// An operator has put a stop to all that is new.
pub(in super::super) fn paused() -> Told {
    told("an operator has paused all new work (`cyrus resume` lets it go on)".into())
}

/// It may only go there, and nothing is sent there now.
pub(in super::super) fn waits_for_executor(why: &str) -> Told {
    told(why.to_owned())
}

fn told(why: String) -> Told {
    let activity = Activity::Thought(format!("I wait: {why}."));
    let waiting = Waiting {
        why,
        told: Telling::Said,
        limit: None,
        enough: None,
    };
    (waiting, Some(activity))
}

/// A limit does not let a run begin.
pub(in super::super) fn waits_for_money(issue: &Issue, task: &Task, refused: &Refused) -> Told {
    let Refused {
        scope,
        max,
        left,
        need,
        frees,
        ours,
    } = *refused;
    let (of, key) = match scope {
        Scope::Task => (format!("of {}", named(task)), "limits.maxCostPerTask"),
        Scope::Issue => (format!("of {}", issue.identifier), "limits.maxCostPerIssue"),
        Scope::Day => ("of this day (UTC)".to_owned(), "limits.maxCostPerDay"),
    };
    let enough = max - left + need;
    let why = format!(
        "the limit {of} is ${:.2}, ${:.2} are left, and the next run may cost ${:.2} ({key})",
        usd(max),
        usd(left.max(0)),
        usd(need)
    );
    let waiting = |why: String, told| Waiting {
        why,
        told,
        limit: Some(max),
        enough: Some(enough),
    };
    if frees {
        let why = format!("{why}; it begins when what runs has cost less than is set aside for it");
        if ours {
            return (waiting(why, Telling::Silent), None);
        }
        // Who waits for what other issues do should not wonder.
        let activity = Activity::Thought(format!("I wait: {why}."));
        return (waiting(why, Telling::Said), Some(activity));
    }
    let again = match scope {
        Scope::Day => "it goes on tomorrow at 00:00 UTC by itself, or when the limit is raised",
        Scope::Task | Scope::Issue => "it goes on when the limit is raised",
    };
    let why = format!("{why}; {again}");
    let offer = cents((max * 2).max(enough));
    let question = format!(
        "I wait: {why}, by `cyrus config set {key} {offer:.2}`, or for this issue alone by an \
         answer here."
    );
    let options = vec![
        format!("{RAISE} {scope} to ${offer:.2}"),
        WAIT.to_owned(),
        CANCEL.to_owned(),
    ];
    let activity = Activity::Elicitation { question, options };
    (waiting(why, Telling::Asked), Some(activity))
}

/// USD, rounded up to cents.
fn cents(micros: i64) -> f64 {
    usd(micros.saturating_add(9_999) / 10_000 * 10_000)
}

/// A task goes elsewhere than it would have gone.
pub(in super::super) fn fell_back(why: &str) -> Option<Activity> {
    Some(Activity::Thought(format!("{why}.")))
}

pub(in super::super) fn alert(scope: Scope, percent: u8, spent: i64, max: i64) -> Activity {
    let of = match scope {
        Scope::Task => "what this task may cost",
        Scope::Issue => "what this issue may cost",
        Scope::Day => "what all issues may cost on this day (UTC)",
    };
    Activity::Thought(format!(
        "{percent} % of {of} are spent: ${:.2} of ${:.2}.",
        usd(spent),
        usd(max)
    ))
}

/// What was waited for, in passing.
pub(in super::super) fn wait_words(on: Wait) -> String {
    match on {
        Wait::Pause => "for an operator".into(),
        Wait::Money(scope) => format!("for the limit of the {scope}"),
        Wait::Executor(executor) => format!("for {executor}"),
    }
}
