//! Linear, GitHub and a cloud of agents in memory, on a clock that is moved by
//! hand. Everything goes well, and every call takes its time, so that answers
//! come back one by one and in another order, as they do in the field.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::SignedDuration;
use serde_json::json;
use shared::issue::{
    Activity, AgentPolicy, Approval, Brief, Check, CheckState, Ending, ExecutorKind, Fault, Input,
    IssueId, MergeMethod, MergeMode, Opening, Planning, Policy, PullFacts, PullState, Repository,
    Rules, RunId, RunResult, SessionId, Sight, Stage, Strategy, TaskKind, Time, Verbosity,
};
use shared::ports::{
    BranchAsk, Clock, CloseAsk, Executor, Forge, Job, LogAsk, MergeAnswer, MergeAsk, PlanItem,
    Policies, PullAsk, Settlement, Started, Tracker, UpdateAnswer, UpdateAsk, WhichPull,
};
use uuid::Uuid;

/// How long a call takes: about a tenth of what it takes over the internet.
const CALL_MS: std::ops::Range<u64> = 10..50;
/// Creates that Codegen takes in a minute.
const CREATES_PER_MINUTE: usize = 10;
const SLUG: &str = "acme/app";
/// The bytes of a task's prompt and of an agent's last words, as they usually are.
const PROMPT_BYTES: usize = 600;
const WORDS_BYTES: usize = 800;

/// Everything outside.
#[derive(Clone)]
pub(crate) struct Outside(Arc<Mutex<State>>);

struct State {
    now: Time,
    rng: fastrand::Rng,
    runs: Vec<Run>,
    pulls: Vec<Pull>,
    creates: VecDeque<Time>,
}

struct Run {
    job: Job,
    ends: Time,
    handed_in: bool,
}

struct Pull {
    job: Job,
    sha: String,
    green_at: Time,
    state: PullState,
}

impl Outside {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            now: Time::UNIX_EPOCH + SignedDuration::from_hours(24 * 365 * 56),
            rng: fastrand::Rng::with_seed(seed),
            runs: Vec::new(),
            pulls: Vec::new(),
            creates: VecDeque::new(),
        })))
    }

    /// Lets time pass: runs end, and open their pull requests.
    pub(crate) fn pass_until(&self, now: Time) {
        let mut state = self.state();
        let state = &mut *state;
        state.now = now;
        for run in &mut state.runs {
            if run.ends <= now && run.job.makes_pull() && !run.handed_in {
                run.handed_in = true;
                let checks = fastrand::Rng::with_seed(state.pulls.len() as u64).i64(60..180);
                state.pulls.push(Pull {
                    job: run.job.clone(),
                    sha: format!("{:040x}", state.pulls.len() + 1),
                    green_at: run.ends + SignedDuration::from_secs(checks),
                    state: PullState::Open,
                });
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call comes to its end.
    async fn call(&self) {
        let milliseconds = self.state().rng.u64(CALL_MS);
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}

/// The delegation of an issue whose plan has so many tasks; one is not planned.
pub(crate) fn delegation(at: usize, tasks: usize, now: Time) -> (IssueId, Input) {
    let id = Uuid::from_u64_pair(at as u64, tasks as u64).to_string();
    let opening = Opening {
        session: SessionId(Uuid::from_u64_pair(u64::MAX - at as u64, tasks as u64).to_string()),
        identifier: format!("ENG-{at}"),
        title: "Add sign-in with passkeys to the app".into(),
        url: format!("https://linear.app/acme/issue/ENG-{at}/add-sign-in-with-passkeys"),
        app_user: Some(Uuid::nil().to_string()),
        at: now,
    };
    (IssueId(id), Input::Opened(opening))
}

/// How many tasks the plan of this issue has.
fn tasks_of(issue: &IssueId) -> usize {
    let id: Uuid = issue.0.parse().unwrap_or_default();
    usize::try_from(id.as_u64_pair().1).unwrap_or(1)
}

fn plan(tasks: usize) -> String {
    let task = |at: usize| {
        // Every fourth waits for the one before it.
        let on: Vec<String> = (at % 4 == 3)
            .then(|| format!("task-{}", at - 1))
            .into_iter()
            .collect();
        json!({
            "id": format!("task-{at}"), "title": format!("Part {at} of the sign-in with passkeys"),
            "kind": "builder", "prompt": "Build it. ".repeat(PROMPT_BYTES / 10), "depends_on": on,
            "complexity": "medium", "acceptance": ["the tests pass"], "paths": ["src/**"],
        })
    };
    let tasks: Vec<_> = (0..tasks).map(task).collect();
    json!({ "summary": "First the API, then the page, then the tests.", "tasks": tasks })
        .to_string()
}

impl Clock for Outside {
    fn now(&self) -> Time {
        self.state().now
    }
}

#[async_trait]
impl Policies for Outside {
    async fn policy(&self, brief: &Brief) -> Result<Policy, String> {
        let planned = brief.description.contains("- [ ]");
        Ok(Policy {
            repository: Repository {
                id: "app".into(),
                path: "/home/team/app".into(),
                workspace_dir: "/home/team/worktrees".into(),
                base_branch: "main".into(),
                slug: SLUG.into(),
            },
            planning: if planned {
                Planning::Always
            } else {
                Planning::Never
            },
            mode: None,
            bug: false,
            sub_issues: None,
            strategy: Strategy::CloudOnly,
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
            attempts_max: 3,
            task_timeout_seconds: 7_200,
            cost_per_run: 0.4,
            cost_per_task_max: Some(1.0),
            cost_per_issue_max: None,
            verbosity: Verbosity::Normal,
            agent: AgentPolicy::default(),
            tools: std::collections::BTreeMap::new(),
        })
    }

    async fn rules(&self) -> Rules {
        Rules {
            strategy: Strategy::CloudOnly,
            cost_per_task_max: Some(1.0),
            cost_per_issue_max: Some(10.0),
            cost_per_day_max: Some(5_000.0),
            cost_per_run: 0.4,
            approval: Approval::Never,
        }
    }
}

#[async_trait]
impl Tracker for Outside {
    async fn read(&self, issue: &IssueId) -> Result<Brief, Fault> {
        self.call().await;
        let boxes = if tasks_of(issue) > 1 {
            "- [ ] the API\n- [ ] the page\n"
        } else {
            ""
        };
        Ok(Brief {
            identifier: "ENG-1".into(),
            title: "Add sign-in with passkeys to the app".into(),
            description: format!("{}{boxes}", "People forget their passwords. ".repeat(20)),
            url: "https://linear.app/acme/issue/ENG-1/add-sign-in-with-passkeys".into(),
            team_key: "ENG".into(),
            ..Brief::default()
        })
    }

    async fn say(&self, _: Uuid, _: &SessionId, _: &Activity) -> Result<(), Fault> {
        self.call().await;
        Ok(())
    }

    async fn show_plan(&self, _: &SessionId, _: &[PlanItem]) -> Result<(), Fault> {
        self.call().await;
        Ok(())
    }

    async fn link(&self, _: &SessionId, _: &str, _: &str) -> Result<(), Fault> {
        self.call().await;
        Ok(())
    }

    async fn set_stage(&self, _: &IssueId, _: Stage) -> Result<(), Fault> {
        self.call().await;
        Ok(())
    }
}

#[async_trait]
impl Forge for Outside {
    async fn facts(&self, asks: &[PullAsk]) -> Vec<Result<Option<PullFacts>, Fault>> {
        self.call().await;
        let state = self.state();
        asks.iter().map(|ask| Ok(state.facts(ask))).collect()
    }

    async fn merge(&self, ask: &MergeAsk) -> Result<MergeAnswer, Fault> {
        self.call().await;
        self.state().pulls[ask.number as usize - 1].state = PullState::Merged;
        Ok(MergeAnswer::Merged {
            sha: ask.sha.clone(),
        })
    }

    async fn update(&self, _: &UpdateAsk) -> Result<UpdateAnswer, Fault> {
        Ok(UpdateAnswer::Done)
    }

    async fn close(&self, _: &CloseAsk) -> Result<(), Fault> {
        Ok(())
    }

    async fn delete_branch(&self, _: &BranchAsk) -> Result<(), Fault> {
        self.call().await;
        Ok(())
    }

    async fn log(&self, _: &LogAsk) -> Result<String, Fault> {
        Ok(String::new())
    }
}

#[async_trait]
impl Executor for Outside {
    fn kind(&self) -> ExecutorKind {
        ExecutorKind::Codegen
    }

    async fn start(&self, job: &Job) -> Result<Started, Fault> {
        self.call().await;
        let mut state = self.state();
        let now = state.now;
        let minute = SignedDuration::from_mins(1);
        state.creates.retain(|at| now.duration_since(*at) < minute);
        if state.creates.len() >= CREATES_PER_MINUTE {
            return Err(Fault::Busy {
                why: "Codegen takes 10 creates a minute".into(),
                retry_after_seconds: Some(60),
            });
        }
        state.creates.push_back(now);
        // The same for the same run, whatever came back first.
        let mut dice = fastrand::Rng::with_seed(state.runs.len() as u64);
        let seconds = match job.kind {
            TaskKind::Orchestrator => dice.i64(60..180),
            _ => dice.i64(300..900),
        };
        state.runs.push(Run {
            job: job.clone(),
            ends: now + SignedDuration::from_secs(seconds),
            handed_in: false,
        });
        let run = format!("{}", 5_000 + state.runs.len());
        Ok(Started {
            url: Some(format!("https://codegen.com/agent/trace/{run}")),
            run: RunId(run),
            begun: false,
        })
    }

    async fn settle(&self, _: &Job) -> Result<Settlement, Fault> {
        self.call().await;
        Ok(Settlement::Absent { certain: false })
    }

    async fn observe(&self, runs: &[RunId]) -> Vec<Result<Sight, Fault>> {
        self.call().await;
        let state = self.state();
        runs.iter().map(|run| Ok(state.sight(run))).collect()
    }

    async fn stop(&self, _: &RunId) -> Result<(), Fault> {
        self.call().await;
        Ok(())
    }
}

impl State {
    fn sight(&self, id: &RunId) -> Sight {
        let at = id.0.parse::<usize>().unwrap_or_default();
        let Some(run) = at.checked_sub(5_001).and_then(|it| self.runs.get(it)) else {
            return Sight::Gone;
        };
        if self.now < run.ends {
            return Sight::Working;
        }
        let answer =
            (run.job.kind == TaskKind::Orchestrator).then(|| plan(tasks_of(&run.job.issue)));
        Sight::Ended(Ending {
            result: Ok(RunResult {
                text: "It is done. ".repeat(WORDS_BYTES / 12),
                answer,
                ..RunResult::default()
            }),
            cost_usd: None,
            cost_is_estimate: false,
        })
    }

    fn facts(&self, ask: &PullAsk) -> Option<PullFacts> {
        let mut numbered = (1..).zip(&self.pulls);
        let (number, pull) = match &ask.which {
            WhichPull::Number(wanted) => numbered.find(|(number, _)| number == wanted)?,
            WhichPull::Branch(branch) => numbered.find(|(_, it)| it.job.branch == *branch)?,
        };
        let state = if self.now < pull.green_at {
            CheckState::Pending
        } else {
            CheckState::Passed
        };
        Some(PullFacts {
            number,
            url: format!("https://github.com/{SLUG}/pull/{number}"),
            state: pull.state,
            head_slug: Some(SLUG.into()),
            head_branch: pull.job.branch.clone(),
            head_sha: pull.sha.clone(),
            base_slug: SLUG.into(),
            base_branch: "main".into(),
            body: format!("<!-- cyrus:{}/{} -->", pull.job.identifier, pull.job.task),
            draft: false,
            mergeable: Some(true),
            checks: vec![Check {
                name: "ci".into(),
                state,
                id: None,
                says: String::new(),
            }],
            files: Some(Vec::new()),
            reviews: Vec::new(),
            behind: false,
            blocked: false,
            queued: false,
        })
    }
}
