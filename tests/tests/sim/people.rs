//! What people do in the simulated world, and how Linear tells of it: in any
//! order after the opening, more than once, and again until it is answered.

use std::collections::{BTreeMap, VecDeque};

use jiff::SignedDuration;
use shared::engine::Heard;
use shared::issue::{
    AgentPolicy, Brief, CancelReason, Input, IssueId, MergeMethod, MergeMode, Opening, Planning,
    Policy, PullState, Repository, SessionId, Verbosity,
};

use crate::world::World;

/// How often people stop, remark and ask again before they leave it alone.
const ISSUES_MAX: usize = 3;

/// Whoever has not answered does so at such a step: a chance in a thousand.
const REMINDED: u32 = 60;

/// An answer that is none to a question about money.
const ASIDE: &str = "mind the budget";

/// One delivery of one fact.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) issue: IssueId,
    pub(crate) input: Input,
    /// Not sent before.
    pub(crate) after: jiff::Timestamp,
    repeated: bool,
}

/// What Linear still has to deliver.
#[derive(Debug, Default)]
pub(crate) struct Mail {
    waiting: VecDeque<Letter>,
    on_the_way: Vec<Letter>,
    /// The first opening of each issue, and how many remarks were written since.
    openings: BTreeMap<IssueId, (Opening, usize)>,
    /// Every session that was opened with a 200: it must get its last word.
    pub(crate) acknowledged: Vec<(IssueId, SessionId)>,
}

impl Mail {
    /// Writes all that people will do in this world.
    pub(crate) fn write(world: &mut World) -> Self {
        let mut mail = Self::default();
        let issues = world.rng.usize(1..=ISSUES_MAX);
        for at in 0..issues {
            let issue = IssueId(format!("issue-{at}"));
            let identifier = format!("ENG-{at}");
            let brief = Brief {
                identifier: identifier.clone(),
                title: format!("Issue {at}"),
                ..Brief::default()
            };
            let policy = policy(world);
            // Now and then there is no repository for an issue.
            let shown = if world.rng.u8(0..20) == 0 {
                "elsewhere"
            } else {
                &identifier
            };
            let known = Brief {
                identifier: shown.to_owned(),
                ..brief
            };
            world.issues.insert(issue.clone(), (known, policy));
            let opened = world.now + SignedDuration::from_secs(world.rng.i64(0..60));
            let session = SessionId(format!("session-{at}"));
            let first = about(&session, &identifier, opened);
            mail.openings.insert(issue.clone(), (first.clone(), 0));
            mail.post(&issue, Input::Opened(first), opened);
            mail.more(world, &issue, &identifier, opened);
        }
        mail
    }

    /// What people do later on.
    fn more(
        &mut self,
        world: &mut World,
        issue: &IssueId,
        identifier: &str,
        opened: jiff::Timestamp,
    ) {
        let later = |world: &mut World| opened + SignedDuration::from_secs(world.rng.i64(1..900));
        if world.rng.u8(0..4) == 0 {
            let at = later(world);
            let second = SessionId(format!("second-{issue}"));
            self.post(issue, opening(&second, identifier, at), at);
        }
        for _ in 0..world.rng.usize(0..=2) {
            let at = later(world);
            self.remark(issue, at);
        }
        // Late, when something may have failed.
        for _ in 0..world.rng.usize(0..=2) {
            let at = later(world) + SignedDuration::from_secs(world.rng.i64(0..3_000));
            self.post(issue, Input::Retry { task: None }, at);
        }
        if world.rng.u8(0..3) == 0 {
            let at = later(world);
            let why = match world.rng.u8(0..3) {
                0 => CancelReason::Stop,
                1 => CancelReason::Undelegated {
                    from: Some("us".into()),
                },
                _ => CancelReason::State("canceled".into()),
            };
            self.post(issue, Input::Cancelled { why, at }, at);
        }
    }

    /// A person writes something new to an issue.
    fn remark(&mut self, issue: &IssueId, at: jiff::Timestamp) {
        let Some((opening, remarks)) = self.openings.get_mut(issue) else {
            return;
        };
        *remarks += 1;
        let input = Input::Prompted {
            opening: opening.clone(),
            activity: format!("{issue}-prompt-{remarks}"),
            text: format!("mind the tests, {remarks}"),
            at,
        };
        self.post(issue, input, at);
    }

    fn post(&mut self, issue: &IssueId, input: Input, after: jiff::Timestamp) {
        self.waiting.push_back(Letter {
            issue: issue.clone(),
            input,
            after,
            repeated: false,
        });
    }

    /// People think about what they were asked: at once, later, or not at all.
    fn think(&mut self, world: &mut World) {
        for (session, options) in std::mem::take(&mut world.asked) {
            let issue = self.openings.iter().find(|(issue, (opening, _))| {
                opening.session == session || session.0 == format!("second-{issue}")
            });
            let Some(issue) = issue.map(|(issue, _)| issue.clone()) else {
                continue;
            };
            let wait = match world.rng.u8(0..5) {
                0 => world.seconds(0..=2_000),
                1 => continue,
                _ => world.seconds(0..=120),
            };
            let text = answer(world, &options);
            let at = world.now + wait;
            if text == "approve" && world.rng.u8(0..4) == 0 {
                self.post(&issue, Input::Approve, at);
            } else {
                self.answer(&issue, text, at);
            }
        }
    }

    fn answer(&mut self, issue: &IssueId, text: String, at: jiff::Timestamp) {
        let Some((opening, remarks)) = self.openings.get_mut(issue) else {
            return;
        };
        *remarks += 1;
        let text = match text.as_str() {
            ASIDE => format!("{ASIDE}, answer {remarks}"),
            _ => text,
        };
        let input = Input::Prompted {
            opening: opening.clone(),
            activity: format!("{issue}-answer-{remarks}"),
            text,
            at,
        };
        self.post(issue, input, at);
    }

    /// In fair weather whoever still has to approve does so at last.
    pub(crate) fn remind(&mut self, world: &mut World) {
        let awaiting: Vec<IssueId> = world
            .books
            .issues()
            .filter(|it| it.phase().word() == "awaiting")
            .map(|it| it.id.clone())
            .collect();
        for issue in awaiting {
            let on_the_way = self.waiting.iter().chain(&self.on_the_way);
            if on_the_way.clone().all(|it| it.issue != issue) && world.dice(REMINDED) {
                self.answer(&issue, "approve".into(), world.now);
            }
        }
    }

    /// A letter that is due, whichever.
    pub(crate) fn next(&mut self, world: &mut World) -> Option<Letter> {
        for issue in std::mem::take(&mut world.spited) {
            let input = Input::Cancelled {
                why: CancelReason::Stop,
                at: world.now,
            };
            self.post(&issue, input, world.now);
        }
        for issue in std::mem::take(&mut world.remarked) {
            let at = world.now + world.seconds(0..=60);
            self.remark(&issue, at);
        }
        self.think(world);
        // Who answers late sees whether there is still something to answer.
        self.waiting.retain(|it| {
            let answers = match &it.input {
                Input::Prompted { activity, .. } => activity.contains("-answer-"),
                Input::Approve => true,
                _ => false,
            };
            let over = |issue: &shared::issue::Issue| !issue.active();
            !(answers && !it.repeated && world.books.issue(&it.issue).is_some_and(over))
        });
        let due: Vec<usize> = (0..self.waiting.len())
            .filter(|at| self.waiting[*at].after <= world.now)
            .collect();
        if due.is_empty() {
            return None;
        }
        let at = due[world.rng.usize(0..due.len())];
        let letter = self.waiting.remove(at)?;
        if letter.repeated {
            world.visit("Linear delivered a thing again");
        }
        self.on_the_way.push(letter.clone());
        Some(letter)
    }

    /// The answer to a letter: 200, or another try later. True if there is news.
    pub(crate) fn answered(
        &mut self,
        letter: Letter,
        result: &anyhow::Result<Heard>,
        world: &mut World,
    ) -> bool {
        self.on_the_way
            .retain(|it| it.input != letter.input || it.issue != letter.issue);
        let chance = world.weather.duplicate;
        let again = result.is_err() || world.dice(chance);
        if let (Ok(Heard::Recorded | Heard::Nothing), Input::Opened(opening)) =
            (result, &letter.input)
        {
            self.acknowledged
                .push((letter.issue.clone(), opening.session.clone()));
        }
        if matches!(result, Ok(Heard::Recorded)) {
            match &letter.input {
                Input::Opened(opening) if opening.session.0.starts_with("second") => {
                    world.visit("a second session joined");
                }
                _ => {}
            }
        }
        if again {
            let after = world.now + SignedDuration::from_secs(60);
            self.waiting.push_back(Letter {
                after,
                repeated: true,
                ..letter
            });
        }
        matches!(result, Ok(Heard::Recorded))
    }

    /// A process is gone: what it had in hand was never answered.
    pub(crate) fn unanswered(&mut self) {
        for letter in self.on_the_way.drain(..) {
            self.waiting.push_back(Letter {
                repeated: true,
                ..letter
            });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.on_the_way.is_empty()
    }
}

/// What a person answers to a question with these options.
fn answer(world: &mut World, options: &[String]) -> String {
    if options.is_empty() {
        // What was meant was not clear; it is said again, in one's own words.
        return ["raise to $20", "raise to 3", ASIDE][world.rng.usize(0..3)].to_owned();
    }
    let (first, last) = (&options[0], &options[options.len() - 1]);
    match world.rng.u8(0..12) {
        0 => last.clone(),
        1 => ASIDE.into(),
        2 => options[1].clone(),
        3 => first.split(' ').next().unwrap_or_default().to_owned(),
        4 => "OK, go ahead".into(),
        _ => first.clone(),
    }
}

/// People merge what is ready, or close it; and hardly ever before it is.
pub(crate) fn meddle(world: &mut World, calm: bool) {
    for at in 0..world.pulls.len() {
        let pull = world.pulls[at].clone();
        let manual = world
            .issues
            .get(&pull.job.issue)
            .is_some_and(|(_, policy)| policy.merge == MergeMode::Manual);
        let eager = world.rng.u32(0..1000) < if manual { 60 } else { 1 };
        if pull.state != PullState::Open || !(eager || calm && manual) {
            continue;
        }
        if world.rng.u8(0..6) == 0 {
            world.pulls[at].state = PullState::Closed;
            world.visit("a person closed a pull request");
            world.note(format!("a person closed #{}", pull.number));
        } else {
            world.pulls[at].state = PullState::Merged;
            world.pulls[at].merged.push((pull.sha.clone(), "a person"));
            world.visit("a person merged");
            world.base_moved();
            world.note(format!("a person merged #{}", pull.number));
        }
    }
}

fn opening(session: &SessionId, identifier: &str, at: jiff::Timestamp) -> Input {
    Input::Opened(about(session, identifier, at))
}

fn about(session: &SessionId, identifier: &str, at: jiff::Timestamp) -> Opening {
    Opening {
        session: session.clone(),
        identifier: identifier.to_owned(),
        title: "An issue".into(),
        url: format!("https://linear/{identifier}"),
        app_user: Some("us".into()),
        at,
    }
}

fn policy(world: &mut World) -> Policy {
    let rules = world.office.rules;
    let rng = &mut world.rng;
    Policy {
        repository: Repository {
            id: "main".into(),
            path: "/repository".into(),
            workspace_dir: "/worktrees".into(),
            base_branch: "main".into(),
            slug: "acme/app".into(),
        },
        planning: if rng.u8(0..4) == 0 {
            Planning::Never
        } else {
            Planning::Always
        },
        mode: None,
        bug: false,
        sub_issues: None,
        strategy: rules.strategy,
        merge: if rng.u8(0..3) == 0 {
            MergeMode::Manual
        } else {
            MergeMode::Auto
        },
        method: MergeMethod::Squash,
        required_checks: if rng.bool() {
            vec!["ci".into()]
        } else {
            Vec::new()
        },
        check_grace_seconds: 60,
        protected_paths: Vec::new(),
        require_approval: rng.u8(0..6) == 0,
        commands: if rng.u8(0..3) == 0 {
            vec!["make test".into()]
        } else {
            Vec::new()
        },
        reviewer: rng.u8(0..3) == 0,
        repairs_max: rng.u32(0..=3),
        keep_pulls: rng.u8(0..4) == 0,
        tasks_max: 20,
        parallel_max: rng.usize(1..=4),
        attempts_max: rng.u32(1..=3),
        task_timeout_seconds: 1_500,
        cost_per_run: rules.cost_per_run,
        cost_per_task_max: rules.cost_per_task_max,
        cost_per_issue_max: rules.cost_per_issue_max,
        verbosity: Verbosity::Normal,
        agent: AgentPolicy::default(),
        tools: std::collections::BTreeMap::new(),
    }
}
