//! One issue and what is told to it: the stage of all stories.

use jiff::SignedDuration;
use shared::issue::{
    AgentPolicy, Brief, Briefing, Check, CheckState, Conditions, Draft, Due, Effect, Ending, Event,
    Failure, FailureClass, Input, Issue, IssueId, MergeMethod, MergeMode, Opening, Outcome,
    Planning, Policy, PullFacts, PullState, Repository, RunResult, SessionId, Sight, Strategy,
    TaskId, Time, Verbosity, words,
};

pub(crate) struct Story {
    pub(crate) issue: Issue,
    pub(crate) now: Time,
    pub(crate) policy: Policy,
    /// What its log has taken in.
    pub(crate) log: Vec<Event>,
    /// What holds beyond the issue: all is well, but for this.
    pub(crate) conditions: Box<dyn Fn(&mut Conditions)>,
}

pub(crate) fn at(text: &str) -> Time {
    text.parse().expect("a time")
}

impl Story {
    pub(crate) fn new() -> Self {
        let policy = Policy {
            repository: Repository {
                id: "main".into(),
                path: "/srv/app".into(),
                workspace_dir: "/srv/worktrees".into(),
                base_branch: "main".into(),
                slug: "acme/app".into(),
            },
            planning: Planning::Always,
            mode: None,
            bug: false,
            sub_issues: None,
            strategy: Strategy::HybridParallel,
            merge: MergeMode::Auto,
            method: MergeMethod::Squash,
            required_checks: vec!["ci".into()],
            check_grace_seconds: 60,
            protected_paths: Vec::new(),
            require_approval: false,
            commands: Vec::new(),
            reviewer: false,
            repairs_max: 0,
            keep_pulls: false,
            tasks_max: 20,
            parallel_max: 10,
            attempts_max: 2,
            task_timeout_seconds: 7_200,
            cost_per_run: 0.4,
            cost_per_task_max: None,
            cost_per_issue_max: None,
            verbosity: Verbosity::Quiet,
            agent: AgentPolicy::default(),
            tools: std::collections::BTreeMap::new(),
        };
        let issue = Issue::unknown(IssueId::from("id-42"));
        Self {
            issue,
            now: at("2026-11-20T12:00:00Z"),
            policy,
            log: Vec::new(),
            conditions: Box::new(|_| ()),
        }
    }

    /// Takes an input in and returns the new sentences of the log.
    pub(crate) fn hear(&mut self, input: Input) -> Vec<String> {
        let mut draft = Draft::new(self.issue.clone(), self.now);
        draft.take(input);
        let mut conditions = Conditions::fair(draft.issue.policy.as_deref(), self.now);
        (self.conditions)(&mut conditions);
        draft.consider(&conditions);
        self.issue = draft.issue;
        self.log.extend(draft.events.iter().cloned());
        draft.events.iter().map(words::sentence).collect()
    }

    /// What a command is answered with, if it makes no sense now.
    pub(crate) fn refused(&mut self, command: Input) -> Option<String> {
        let mut draft = Draft::new(self.issue.clone(), self.now);
        draft.take(command.clone());
        let refusal = draft.refusal;
        self.hear(command);
        self.make_all(nothing_held);
        refusal
    }

    pub(crate) fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    pub(crate) fn opening(&self, session: &str) -> Opening {
        Opening {
            session: SessionId::from(session),
            identifier: "ENG-42".into(),
            title: "Add sign-in".into(),
            url: "https://linear.app/acme/issue/ENG-42".into(),
            app_user: Some("us".into()),
            at: self.now,
        }
    }

    pub(crate) fn open(&mut self, session: &str) -> Vec<String> {
        self.hear(Input::Opened(self.opening(session)))
    }

    pub(crate) fn prompt(&mut self, session: &str, activity: &str, text: &str) -> Vec<String> {
        self.hear(Input::Prompted {
            opening: self.opening(session),
            activity: activity.into(),
            text: text.into(),
            at: self.now,
        })
    }

    pub(crate) fn claim(&mut self) -> Vec<Due> {
        let mut draft = Draft::new(self.issue.clone(), self.now);
        let due = draft.claim();
        self.issue = draft.issue;
        due
    }

    /// Makes all that is due, as well as can be, until nothing is due but what
    /// `hold` holds back.
    pub(crate) fn make_all(&mut self, hold: fn(&Effect) -> bool) -> Vec<String> {
        let mut sentences = Vec::new();
        loop {
            let due = self.issue.due(self.now);
            let due: Vec<_> = due.into_iter().filter(|it| !hold(&it.effect)).collect();
            if due.is_empty() {
                return sentences;
            }
            for it in due {
                let outcome = match &it.effect {
                    Effect::Fetch => Outcome::Briefed(Box::new(Briefing {
                        brief: Brief {
                            identifier: "ENG-42".into(),
                            title: "Add sign-in".into(),
                            ..Brief::default()
                        },
                        policy: self.policy.clone(),
                    })),
                    Effect::Start { task, attempt, .. } => Outcome::Started {
                        run: format!("run-{task}-{attempt}").as_str().into(),
                        url: None,
                        begun: true,
                    },
                    Effect::Merge { sha, .. } => Outcome::Merged { sha: sha.clone() },
                    Effect::Say { .. }
                    | Effect::ShowPlan { .. }
                    | Effect::Link { .. }
                    | Effect::Move { .. }
                    | Effect::Tell { .. }
                    | Effect::Stop { .. }
                    | Effect::Update { .. }
                    | Effect::Close { .. }
                    | Effect::Prune { .. } => Outcome::Done,
                };
                sentences.extend(self.hear(Input::Performed {
                    key: it.key,
                    outcome,
                }));
            }
        }
    }

    pub(crate) fn run_ends(
        &mut self,
        task: &str,
        attempt: u32,
        result: Result<RunResult, Failure>,
    ) -> Vec<String> {
        self.hear(Input::SawRun {
            task: TaskId::from(task),
            run: format!("run-{task}-{attempt}").as_str().into(),
            sight: Sight::Ended(ended(result)),
        })
    }

    pub(crate) fn plan(&mut self, tasks: &str) -> Vec<String> {
        self.run_ends("plan", 1, Ok(plan_of(tasks)))
    }

    pub(crate) fn pull(&self, task: &str, number: u64) -> PullFacts {
        PullFacts {
            number,
            url: format!("https://github.com/acme/app/pull/{number}"),
            state: PullState::Open,
            head_slug: Some("acme/app".into()),
            head_branch: format!("cyrus/eng-42/{task}"),
            head_sha: format!("{number}{number}{number}{number}00000000"),
            base_slug: "acme/app".into(),
            base_branch: "main".into(),
            body: format!("It does it.\n<!-- cyrus:ENG-42/{task} -->"),
            draft: false,
            mergeable: Some(true),
            checks: vec![checked("ci", CheckState::Passed)],
            files: Some(vec!["src/lib.rs".into()]),
            reviews: Vec::new(),
            behind: false,
            blocked: false,
            queued: false,
        }
    }

    pub(crate) fn sees(&mut self, task: &str, facts: PullFacts) -> Vec<String> {
        self.hear(Input::SawPull {
            task: TaskId::from(task),
            facts: Some(facts),
            asked_at: self.now,
        })
    }

    pub(crate) fn state(&self, task: &str) -> &'static str {
        self.issue
            .task(&TaskId::from(task))
            .expect("the task")
            .word()
    }
}

pub(crate) const A: &str = r#"{"id":"a","title":"A","kind":"builder","prompt":"do a"}"#;
pub(crate) const B_AFTER_A: &str =
    r#"{"id":"b","title":"B","kind":"builder","prompt":"do b","depends_on":["a"]}"#;

pub(crate) fn checked(name: &str, state: CheckState) -> Check {
    Check {
        name: name.into(),
        state,
        id: None,
        says: String::new(),
    }
}

pub(crate) fn check(got: Vec<String>, expected: &[&str]) {
    assert_eq!(got, expected);
}

pub(crate) fn failure(message: &str) -> Failure {
    Failure {
        class: FailureClass::Agent,
        message: message.into(),
    }
}

pub(crate) fn ended(result: Result<RunResult, Failure>) -> Ending {
    Ending {
        result,
        cost_usd: None,
        cost_is_estimate: false,
    }
}

pub(crate) fn plan_of(tasks: &str) -> RunResult {
    RunResult {
        answer: Some(format!(r#"{{"summary":"","tasks":[{tasks}]}}"#)),
        ..RunResult::default()
    }
}

pub(crate) fn nothing_held(_: &Effect) -> bool {
    false
}

pub(crate) fn told_to(issue: &Issue, session: &str) -> usize {
    let session = SessionId::from(session);
    issue
        .owed
        .values()
        .filter(|it| it.effect.session() == Some(&session))
        .count()
}

/// The story up to a plan of `a`, and `b` after it, with `a` running.
pub(crate) fn planned() -> Story {
    let mut story = Story::new();
    story.open("s1");
    story.make_all(nothing_held);
    story.plan(&format!("{A},{B_AFTER_A}"));
    story.make_all(nothing_held);
    story
}
