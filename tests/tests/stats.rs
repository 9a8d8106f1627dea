//! What counts, where it is entered, and what is told of it: accounts of days,
//! their documents, metrics and log lines.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jiff::SignedDuration;
use jiff::civil::date;
use serde_json::{Value, json};
use shared::config::{self, Env, Settings};
use shared::issue::history::{Cell, History};
use shared::issue::{
    AgentPolicy, Availability, Brief, Briefing, CancelReason, Check, CheckState, Conditions, Draft,
    Effect, Ending, Event, ExecutorKind, Failure, FailureClass, Fault, Input, Issue, IssueId,
    MergeMethod, MergeMode, Opening, Outcome, Planning, Policy, PullFacts, PullState, Repository,
    RoundOutcome, RunResult, Scope, SessionId, Sight, Strategy, TaskId, TaskKind, Time, Verbosity,
    words,
};
use shared::ports::{
    Append, Attention, Entry, Figures, Head, Log as _, RegisterWrite, Registers as _,
};
use shared::stats::{self, Fact, METRICS, OUTCOMES, Period, Stage, WebhookRefusal};
use shared::store::memory::MemoryLog;
use shared::telemetry::{Emf, NAMESPACE};
use shared::view;
use shared::view::stats::StatsDoc;
use shared::view::status::{Facts, configured};

/// What one entry may cost: a unit of DynamoDB's is 1 KB.
const ACCOUNT_BYTES_MAX: usize = 1_024;
/// CloudWatch's own bounds.
const VALUES_PER_LINE: usize = 100;
const METRICS_PER_LINE: usize = 100;

fn at(text: &str) -> Time {
    text.parse().expect("a time")
}

/// One issue, and the accounts that its appends are entered in.
struct Story {
    issue: Issue,
    now: Time,
    accounts: BTreeMap<String, Figures>,
    /// Appends, and those among them that carry an entry.
    appends: usize,
    entered: usize,
    facts: Vec<Fact>,
    told: Vec<String>,
}

/// By which a pull request is known as ours.
const MARK: &str = "<!-- cyrus:ENG-42/TASK -->";

impl Story {
    fn new() -> Self {
        Self {
            issue: Issue::unknown(IssueId::from("id-42")),
            now: at("2026-11-20T12:00:00Z"),
            accounts: BTreeMap::new(),
            appends: 0,
            entered: 0,
            facts: Vec::new(),
            told: Vec::new(),
        }
    }

    fn hear(&mut self, input: Input) -> Vec<Event> {
        let before = self.issue.clone();
        let mut draft = Draft::new(before.clone(), self.now);
        draft.take(input);
        draft.consider(&Conditions::fair(draft.issue.policy.as_deref(), self.now));
        self.issue = draft.issue;
        if draft.events.is_empty() {
            return Vec::new();
        }
        let facts = stats::facts(&before, &draft.events, self.now);
        let entries = stats::entries(&facts, self.now);
        let accounts: BTreeSet<&str> = entries.iter().map(|it| it.account.as_str()).collect();
        assert_eq!(accounts.len(), entries.len(), "one entry for each account");
        self.appends += 1;
        self.entered += usize::from(!entries.is_empty());
        for entry in entries {
            assert_eq!(entry.limit, None);
            let figures = self.accounts.entry(entry.account).or_default();
            for (name, add) in entry.add {
                *figures.entry(name).or_default() += add;
            }
        }
        self.facts.extend(facts);
        self.told.extend(draft.events.iter().map(words::plain));
        draft.events
    }

    fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn open(&mut self, session: &str) {
        self.hear(Input::Opened(Opening {
            session: SessionId::from(session),
            identifier: "ENG-42".into(),
            title: "TITLE".into(),
            url: "https://linear.app/acme/issue/ENG-42".into(),
            app_user: None,
            at: self.now,
        }));
    }

    /// Makes all that is due, as well as can be.
    fn make_all(&mut self) {
        while let Some(due) = self.issue.due(self.now).into_iter().next() {
            let outcome = match due.effect {
                Effect::Fetch => Outcome::Briefed(Box::new(Briefing {
                    brief: Brief::default(),
                    policy: policy(),
                })),
                Effect::Start { task, attempt, .. } => Outcome::Started {
                    run: format!("run-{task}-{attempt}").as_str().into(),
                    url: None,
                    begun: true,
                },
                Effect::Merge { sha, .. } => Outcome::Merged { sha },
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
            let key = due.key;
            self.hear(Input::Performed { key, outcome });
        }
    }

    fn ends(&mut self, task: &str, attempt: u32, result: Result<RunResult, Failure>) {
        let cost_usd = (task == "plan").then_some(0.25);
        self.hear(Input::SawRun {
            task: TaskId::from(task),
            run: format!("run-{task}-{attempt}").as_str().into(),
            sight: Sight::Ended(Ending {
                result,
                cost_usd,
                cost_is_estimate: false,
            }),
        });
    }

    fn plan(&mut self, tasks: &str) {
        let answer = Some(format!(r#"{{"summary":"SUMMARY","tasks":[{tasks}]}}"#));
        let result = RunResult {
            answer,
            ..RunResult::default()
        };
        self.ends("plan", 1, Ok(result));
    }

    fn pull(&mut self, task: &str, attempt: u32, number: u64, mark: &str) {
        let suffix = if attempt > 1 {
            format!(".{attempt}")
        } else {
            String::new()
        };
        let facts = PullFacts {
            number,
            url: format!("https://github.com/acme/app/pull/{number}"),
            state: PullState::Open,
            head_slug: Some("acme/app".into()),
            head_branch: format!("cyrus/eng-42/{task}{suffix}"),
            head_sha: format!("{number}{number}{number}{number}00000000"),
            base_slug: "acme/app".into(),
            base_branch: "main".into(),
            body: mark.replace("TASK", task),
            draft: false,
            mergeable: Some(true),
            checks: vec![Check {
                name: "ci".into(),
                state: CheckState::Passed,
                id: None,
                says: String::new(),
            }],
            files: Some(Vec::new()),
            reviews: Vec::new(),
            behind: false,
            blocked: false,
            queued: false,
        };
        self.hear(Input::SawPull {
            task: TaskId::from(task),
            facts: Some(facts),
            asked_at: self.now,
        });
    }

    /// What is told of a period.
    fn stats(&self, period: Period) -> StatsDoc {
        let read = |names: Vec<String>| -> Vec<Figures> {
            let account = |it| self.accounts.get(it).cloned().unwrap_or_default();
            names.iter().map(account).collect()
        };
        let days = read(stats::accounts_of(period, self.now));
        let history = read(stats::history_accounts(period, self.now));
        view::stats::stats(period, self.now, &days, &history)
    }
}

fn policy() -> Policy {
    Policy {
        repository: Repository {
            slug: "acme/app".into(),
            base_branch: "main".into(),
            ..Repository::default()
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
        // A plan is shown until its effect is claimed, which these stories leave out.
        verbosity: Verbosity::Quiet,
        agent: AgentPolicy::default(),
        tools: BTreeMap::new(),
    }
}

const TASKS: &str = r#"{"id":"a","title":"SECRET","kind":"builder","prompt":"do a"},
    {"id":"b","title":"SECRET","kind":"builder","prompt":"do b"},
    {"id":"c","title":"SECRET","kind":"builder","prompt":"do c","depends_on":["b"]}"#;

fn failure() -> Failure {
    Failure {
        class: FailureClass::Agent,
        message: "SECRET".into(),
    }
}

/// A plan of 60 s; `a` and `b` at once, 600 s each, `a` a second time after a
/// failure, 300 s, across midnight; `b` hands in what is not ours, so `c` is skipped.
fn whole_story() -> Story {
    let mut story = Story::new();
    story.now = at("2026-11-20T23:45:00Z");
    story.open("s1");
    story.later(2);
    story.make_all();
    story.later(60);
    story.plan(TASKS);
    story.make_all();
    story.later(600);
    story.ends("a", 1, Err(failure()));
    story.ends("b", 1, Ok(RunResult::default()));
    story.later(30);
    story.hear(Input::Tick);
    story.make_all();
    // It is given up at once: what is not ours is not mended.
    story.pull("b", 1, 1, "");
    story.later(300);
    story.make_all();
    story.ends("a", 2, Ok(RunResult::default()));
    story.pull("a", 2, 2, MARK);
    story.make_all();
    assert_eq!(story.issue.outcome, Some(RoundOutcome::Failed));
    story
}

#[test]
fn a_round_is_counted_as_its_document_tells_it() {
    let story = whole_story();
    let issue = view::issue(&story.issue, None);
    let stats = story.stats(Period::Week);
    let states: Vec<_> = issue.tasks.iter().map(|it| (&*it.id, it.state)).collect();
    assert_eq!(
        states,
        [
            ("plan", "succeeded"),
            ("a", "merged"),
            ("b", "failed"),
            ("c", "skipped")
        ]
    );
    assert_eq!((stats.tasks, stats.local, stats.cloud), (3, 1, 2));
    assert!((stats.cost_usd - issue.spent_usd).abs() < 1e-9 && issue.spent_usd > 1.4);
    assert_eq!(stats.success_rate, Some(2.0 / 3.0));
    assert_eq!((stats.merges, stats.cost_per_merge_usd), (1, Some(1.45)));
    // 60 + 600 + 600 + 300 one after another, 60 + 600 + 300 together.
    assert_eq!(stats.time_saved_minutes, 10.0);
    assert_eq!(stats.first_thought_millis, Some(2_000.0));
    assert_eq!((stats.linear_waits, stats.linear_calls > 4), (0, true));
    let document = serde_json::to_value(&stats).expect("JSON");
    assert_eq!(
        document["by_executor"][1],
        json!({ "executor": "codegen", "tasks": 2, "success_rate": 0.5, "cost_usd": 1.2,
                "runs": 3, "run_minutes": 25.0 })
    );
    let count = |list: &str, name: &str| {
        let counts = document[list].as_array().expect("counts");
        let one = counts.iter().find(|it| it["name"] == name);
        one.expect("the name")["count"].clone()
    };
    assert_eq!(count("by_outcome", "skipped"), 1);
    assert_eq!(count("issues", "failed"), 1);
}

#[test]
fn what_happened_after_midnight_is_the_next_days() {
    let story = whole_story();
    let names: Vec<_> = story.accounts.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["day/2026-11-20", "day/2026-11-21", "history/2026-11-21"]
    );
    let today = story.stats(Period::Day);
    assert_eq!((today.tasks, today.merges), (1, 1));
    assert_eq!(today.by_executor[1].runs, 1);
}

#[test]
fn how_tasks_went_is_kept_by_executor_kind_and_complexity() {
    let story = whole_story();
    let history = &story.accounts["history/2026-11-21"];
    let tasks: Vec<_> = history
        .iter()
        .filter(|(name, _)| !name.starts_with("forecasts"))
        .map(|(name, figure)| (name.as_str(), *figure))
        .collect();
    // `a` twice and `b` once, 600 s, 600 s and 300 s; `c` never ran.
    assert_eq!(
        tasks,
        [
            ("codegen.builder.any.achieved", 1),
            ("codegen.builder.any.micros", 1_200_000),
            ("codegen.builder.any.runs", 3),
            ("codegen.builder.any.seconds", 1_500),
            ("codegen.builder.any.tasks", 2),
            ("local.orchestrator.any.achieved", 1),
            ("local.orchestrator.any.micros", 250_000),
            ("local.orchestrator.any.runs", 1),
            ("local.orchestrator.any.seconds", 60),
            ("local.orchestrator.any.tasks", 1),
        ]
    );
    let stats = story.stats(Period::Week);
    let forecast = story.issue.forecast.as_ref().expect("a forecast");
    // 1.2 USD came of the tasks, in 930 s; the plan is not part of it.
    let off = |guess: f64, truth: f64| stats::error_permille(guess, truth) as f64 / 1_000.0;
    assert_eq!(
        (
            stats.forecasts,
            stats.forecast_error,
            stats.forecast_minutes_error
        ),
        (
            1,
            Some(off(forecast.cost_usd.expected, 1.2)),
            Some(off(forecast.minutes.expected, 930.0 / 60.0))
        )
    );
    let document = serde_json::to_value(&stats).expect("JSON");
    assert_eq!(
        document["by_kind"],
        json!([
            { "kind": "orchestrator", "executor": "local", "tasks": 1, "success_rate": 1.0, "cost_usd": 0.25 },
            { "kind": "builder", "executor": "codegen", "tasks": 2, "success_rate": 0.5, "cost_usd": 1.2 },
        ])
    );
    let cell = Cell {
        executor: ExecutorKind::Codegen,
        kind: TaskKind::Builder,
        complexity: None,
    };
    let days = [history.clone(), history.clone(), Figures::new()];
    let past = stats::history_of(&days).0[&cell];
    assert_eq!((past.runs, past.micros), (6, 2_400_000));
}

#[test]
fn figures_that_are_none_of_ours_change_no_sum() {
    let odd = Figures::from([
        ("committed".into(), 5),
        ("reserved".into(), 5),
        ("codegen.builder.low".into(), 5),
        ("codegen.builder.low.colour".into(), 5),
        ("codegen.cook.low.tasks".into(), 5),
        ("moon.builder.low.tasks".into(), 5),
        ("...".into(), 5),
    ]);
    assert_eq!(
        stats::history_of(std::slice::from_ref(&odd)),
        History::default()
    );
    let now = Story::new().now;
    let none = view::stats::stats(Period::Day, now, &[], &[]);
    let days = std::slice::from_ref(&odd);
    assert_eq!(view::stats::stats(Period::Day, now, days, days), none);
}

#[test]
fn a_cancelled_round_teaches_nothing() {
    let mut story = Story::new();
    story.open("s1");
    story.make_all();
    story.later(60);
    story.hear(Input::Cancelled {
        why: CancelReason::Stop,
        at: story.now,
    });
    story.make_all();
    story.ends("plan", 1, Err(failure()));
    story.make_all();
    assert_eq!(story.issue.outcome, Some(RoundOutcome::Cancelled));
    let days: Vec<_> = story.accounts.keys().map(String::as_str).collect();
    assert_eq!(days, ["day/2026-11-20"]);
}

#[test]
fn an_error_is_a_bounded_share_of_the_truth() {
    let cases = [
        (1.0, 1.0, 0),
        (1.5, 1.0, 500),
        (0.5, 1.0, 500),
        (0.0, 0.0, 0),
        (1.0, 0.0, 10_000),
        (1e9, 1.0, 10_000),
        (f64::NAN, 1.0, 0),
    ];
    for (guess, truth, permille) in cases {
        let got = stats::error_permille(guess, truth);
        assert_eq!(got, permille, "{guess} {truth}");
    }
}

#[test]
fn few_appends_carry_an_entry() {
    let story = whole_story();
    // Four runs ended; what the second of `a` may cost; b's and a's verdict; the end.
    assert!(story.entered <= 8, "{} of {}", story.entered, story.appends);
    assert!(
        story.appends > story.entered,
        "{} of {}",
        story.entered,
        story.appends
    );
}

#[test]
fn the_same_fact_twice_counts_once() {
    let mut story = whole_story();
    let accounts = story.accounts.clone();
    story.open("s1");
    story.pull("a", 2, 2, MARK);
    story.ends("a", 2, Ok(RunResult::default()));
    story.hear(Input::Tick);
    assert_eq!(story.accounts, accounts);
}

#[test]
fn a_round_that_ends_as_the_next_begins_is_counted_as_its_own() {
    let mut story = Story::new();
    story.open("s1");
    story.make_all();
    let stop = Input::Cancelled {
        why: CancelReason::Stop,
        at: story.now,
    };
    story.hear(stop);
    story.later(1);
    story.open("s2");
    story.later(60);
    story.ends("plan", 1, Err(failure()));
    let last = loop {
        let due = story
            .issue
            .due(story.now)
            .into_iter()
            .next()
            .expect("an end");
        let (key, outcome) = (due.key, Outcome::Done);
        let events = story.hear(Input::Performed { key, outcome });
        if events.contains(&Event::TakenUp) {
            break events;
        }
    };
    assert!(last.iter().any(|it| matches!(it, Event::Done { .. })));
    let done = story.facts.iter().find_map(|it| match it {
        Fact::Done {
            outcome,
            run_seconds,
            ..
        } => Some((*outcome, *run_seconds)),
        _ => None,
    });
    assert_eq!(done, Some((RoundOutcome::Cancelled, 61)));
    assert_eq!(story.accounts["day/2026-11-20"]["local.cancelled"], 1);
}

#[test]
fn waits_of_linear_and_what_holds_tasks_up_are_counted() {
    let mut story = Story::new();
    story.open("s1");
    let claim = |story: &mut Story| {
        let mut draft = Draft::new(story.issue.clone(), story.now);
        let due = draft.claim();
        story.issue = draft.issue;
        due
    };
    let due = claim(&mut story)
        .into_iter()
        .find(|it| it.effect == Effect::Fetch);
    let due = due.expect("the issue has to be read");
    story.hear(Input::Faulted {
        key: due.key,
        claim: due.claim,
        fault: Fault::Busy {
            why: "slowly".into(),
            retry_after_seconds: Some(1),
        },
    });
    assert_eq!(
        (
            story.issue.tally.linear_calls,
            story.issue.tally.linear_waits
        ),
        (1, 1)
    );
    story.later(100);
    story.make_all();
    story.hear(Input::Unseen {
        task: TaskId::from("plan"),
        since: story.now - SignedDuration::from_secs(700),
        fault: Fault::Transient { why: "dark".into() },
    });
    assert_eq!(story.facts.last(), Some(&Fact::Held(Stage::Run)));
    assert_eq!(story.accounts["day/2026-11-20"]["held.run"], 1);
}

/// Every fact that there can be.
fn all_facts() -> Vec<Fact> {
    let mut facts = vec![Fact::Greeted { millis: 1_500 }];
    facts.extend(Stage::ALL.iter().map(|it| Fact::Held(*it)));
    for executor in ExecutorKind::ALL.iter().copied() {
        facts.push(Fact::Ran {
            executor,
            seconds: 1_000_000,
            cost_usd: 10_000.0,
        });
        facts.extend(OUTCOMES.map(|outcome| Fact::Over {
            executor: Some(executor),
            outcome,
        }));
    }
    facts.extend(OUTCOMES.map(|outcome| Fact::Over {
        executor: None,
        outcome,
    }));
    let day = date(2026, 11, 20);
    facts.push(Fact::Reserved {
        day,
        micros: 10_000_000_000,
        max: None,
    });
    facts.push(Fact::Booked {
        day,
        micros: 10_000_000_000,
    });
    facts.extend(Scope::ALL.iter().map(|scope| Fact::Alerted {
        scope: *scope,
        percent: 50,
        day: (*scope == Scope::Day).then_some(day),
    }));
    facts.extend(RoundOutcome::ALL.iter().map(|outcome| Fact::Done {
        outcome: *outcome,
        run_seconds: 1_000_000,
        busy_seconds: 500_000,
        greeted_millis: Some(1_500),
        linear_calls: 100,
        linear_waits: 10,
        learnt: Figures::new(),
    }));
    facts
}

#[test]
fn an_account_stays_small_whatever_happens() {
    let mut figures = Figures::new();
    for _ in 0..1_000 {
        for Entry { add, .. } in stats::entries(&all_facts(), Story::new().now) {
            for (name, by) in add {
                *figures.entry(name).or_default() += by;
            }
        }
    }
    // As DynamoDB counts: names, and two digits of a number in a byte.
    let bytes: usize = figures
        .iter()
        .map(|(name, figure)| name.len() + figure.to_string().len() / 2 + 2)
        .sum();
    assert!(bytes < ACCOUNT_BYTES_MAX, "{bytes}");
}

#[test]
fn a_month_is_the_sum_of_its_days() {
    let now = at("2026-12-15T10:00:00Z");
    let names = stats::accounts_of(Period::Month, now);
    assert_eq!(
        (names.len(), &*names[0], &*names[29]),
        (30, "day/2026-11-16", "day/2026-12-15")
    );
    let one = Figures::from([
        ("local.merged".into(), 2),
        ("codegen.merged".into(), 1),
        ("codegen.failed".into(), 1),
        ("codegen.micros".into(), 400_000),
        ("rounds.run_seconds".into(), 360),
        ("rounds.busy_seconds".into(), 240),
    ]);
    let month = view::stats::stats(Period::Month, now, &vec![one; 30], &[]);
    assert_eq!((month.tasks, month.local, month.cloud), (120, 60, 60));
    assert_eq!((month.success_rate, month.cost_usd), (Some(0.75), 12.0));
    assert_eq!(month.time_saved_minutes, 60.0);
    let nothing = view::stats::stats(Period::Day, now, &[Figures::new()], &[]);
    let nothing = serde_json::to_value(&nothing).expect("JSON");
    for share in [
        "success_rate",
        "cost_per_merge_usd",
        "forecast_error",
        "forecast_minutes_error",
        "first_thought_millis",
    ] {
        assert_eq!(nothing[share], Value::Null, "{share}");
    }
    assert_eq!(nothing["by_executor"][0]["success_rate"], Value::Null);
    assert!("year".parse::<Period>().is_err());
}

#[test]
fn no_text_of_others_is_logged() {
    let mut story = whole_story();
    story.hear(Input::Prompted {
        opening: Opening {
            session: SessionId::from("s1"),
            identifier: "ENG-42".into(),
            title: "TITLE".into(),
            url: String::new(),
            app_user: None,
            at: story.now,
        },
        activity: "a1".into(),
        text: "SECRET".into(),
        at: story.now,
    });
    assert!(story.told.len() > 40);
    for line in &story.told {
        for text in ["SECRET", "TITLE", "SUMMARY"] {
            assert!(!line.contains(text), "{line}");
        }
    }
}

// ───────────────────────────── metrics ─────────────────────────────

fn recorded(what: impl FnOnce()) -> Emf {
    let emf = Emf::default();
    metrics::with_local_recorder(&emf, what);
    emf
}

fn lines(emf: &Emf) -> Vec<Value> {
    let mut text = String::new();
    emf.write(at("2026-11-20T12:00:00Z"), &mut text);
    let lines = text
        .lines()
        .map(|it| serde_json::from_str(it).expect("JSON"));
    let lines: Vec<Value> = lines.collect();
    lines.iter().for_each(check);
    lines
}

/// Is it a document of the Embedded Metric Format, and one of ours?
fn check(line: &Value) {
    let root = line.as_object().expect("an object");
    let aws = root["_aws"].as_object().expect("metadata");
    assert_eq!(aws["Timestamp"], 1_795_176_000_000_i64);
    let directives = aws["CloudWatchMetrics"].as_array().expect("directives");
    assert_eq!((directives.len(), aws.len()), (1, 2));
    let directive = &directives[0];
    assert_eq!(directive["Namespace"], NAMESPACE);
    let sets = directive["Dimensions"].as_array().expect("dimension sets");
    assert_eq!(sets.len(), 1);
    let dimensions: BTreeSet<&str> = sets[0]
        .as_array()
        .expect("a set")
        .iter()
        .map(|it| it.as_str().expect("a name"))
        .collect();
    let metrics = directive["Metrics"].as_array().expect("metrics");
    assert!((1..=METRICS_PER_LINE).contains(&metrics.len()));
    for metric in metrics {
        let name = metric["Name"].as_str().expect("a name");
        let known = METRICS.iter().find(|it| it.name == name);
        let known = known.unwrap_or_else(|| panic!("`{name}` is none of ours"));
        assert_eq!(metric["Unit"], known.unit);
        assert_eq!(dimensions, known.dimensions.iter().copied().collect());
        match &root[name] {
            Value::Array(values) => {
                assert!((1..=VALUES_PER_LINE).contains(&values.len()));
                assert!(values.iter().all(Value::is_number));
            }
            value => assert!(value.is_number(), "{value}"),
        }
    }
    for dimension in &dimensions {
        let value = root[*dimension].as_str().expect("a string");
        let bound = stats::values_of(dimension);
        assert!(bound.contains(&value), "{dimension} = {value}");
    }
    assert_eq!(root.len(), 1 + dimensions.len() + metrics.len());
}

#[test]
fn all_that_is_measured_is_in_the_embedded_metric_format_with_bounded_dimensions() {
    let emf = recorded(|| {
        stats::measure(&all_facts());
        WebhookRefusal::ALL
            .iter()
            .for_each(|it| stats::refused(*it));
        let now = at("2026-11-20T12:00:00Z");
        let late = Attention {
            issue: IssueId::from("i"),
            at: Some(now - SignedDuration::from_secs(90)),
            watching: false,
        };
        stats::looked(&[late], now);
        let today = Figures::from([
            ("committed".into(), 45_000_000),
            ("reserved".into(), 5_000_000),
        ]);
        stats::spent(&today, 50.0);
        for name in [
            stats::APPEND_CONFLICTS,
            stats::ISSUES_PARKED,
            stats::LINEAR_CALLS,
            stats::LINEAR_WAITS,
            stats::RECORDS_SKIPPED,
        ] {
            metrics::counter!(name).increment(3);
        }
        metrics::gauge!(stats::CIRCUIT_OPEN, "Executor" => "codegen").set(1.0);
    });
    let lines = lines(&emf);
    let told: BTreeSet<String> = lines
        .iter()
        .flat_map(|it| it["_aws"]["CloudWatchMetrics"][0]["Metrics"].as_array())
        .flatten()
        .map(|it| it["Name"].as_str().unwrap_or_default().to_owned())
        .collect();
    let all: BTreeSet<String> = METRICS.iter().map(|it| it.name.to_owned()).collect();
    assert_eq!(told, all);
    let plain = lines
        .iter()
        .find(|it| it["Looks"].is_number())
        .expect("a line");
    assert_eq!(
        (&plain["OverdueSeconds"], &plain["DaySpendPercent"]),
        (&json!(90.0), &json!(80.0))
    );
    assert_eq!(plain["AppendConflicts"], 3.0);
}

#[test]
fn no_value_is_lost_or_told_twice() {
    let emf = recorded(|| {
        for millis in 0..250 {
            stats::measure(&[Fact::Greeted { millis }]);
        }
        stats::looked(&[], at("2026-11-20T12:00:00Z"));
    });
    let first = lines(&emf);
    let values: Vec<f64> = first
        .iter()
        .flat_map(|it| it["FirstThoughtMillis"].as_array())
        .flatten()
        .filter_map(Value::as_f64)
        .collect();
    let all: Vec<f64> = (0..250).map(f64::from).collect();
    assert_eq!((first.len(), values), (3, all));
    assert_eq!(lines(&emf), Vec::<Value>::new(), "a gauge is not repeated");
    metrics::with_local_recorder(&emf, || stats::measure(&[Fact::Greeted { millis: 7 }]));
    assert_eq!(lines(&emf)[0]["FirstThoughtMillis"], 7.0);
}

#[test]
fn what_is_no_number_is_not_told() {
    let emf = recorded(|| {
        metrics::gauge!(stats::CIRCUIT_OPEN, "Executor" => "local").set(f64::NAN);
        stats::spent(&Figures::new(), 0.0);
    });
    assert_eq!(lines(&emf), Vec::<Value>::new());
}

// ───────────────────────────── status ─────────────────────────────

fn settings(text: &str) -> Settings {
    let env = Env::from_iter([("HOME", "/home/somebody")]);
    let loaded = config::parse(text, "config.json", None, &env, Path::new("/nowhere"));
    loaded.expect("a good configuration").settings
}

#[tokio::test]
async fn the_status_tells_health_money_and_what_is_in_flight() {
    let log = MemoryLog::default();
    let mut story = Story::new();
    story.open("s1");
    story.make_all();
    let append = Append {
        issue: story.issue.id.clone(),
        after: 0,
        at: story.now,
        events: vec![Event::Reported],
        head: Head {
            seq: 1,
            ..view::head(&story.issue)
        },
        entries: vec![Entry {
            account: "day/2026-11-20".into(),
            add: Figures::from([
                ("local.micros".into(), 2_500_000),
                ("committed".into(), 4_200_000),
                ("reserved".into(), 1_000_000),
            ]),
            limit: None,
        }],
    };
    log.append(append).await.expect("written");
    let breaker = json!({ "state": "open", "failures": 3, "why": "it answers 503",
                          "until": story.now, "seconds": 30 });
    let write = RegisterWrite {
        shelf: "breakers".into(),
        name: "codegen".into(),
        value: Some(breaker),
        expires_at: None,
    };
    log.put(write, 0, story.now).await.expect("written");

    let config = r#"{"repositories":[],"codegen":{"orgId":123,"apiToken":"t","maxCostPerDay":50}}"#;
    let settings = settings(config);
    let facts = Facts::read(&log, &log, story.now).await.expect("facts");
    assert_eq!(facts.watched(), Some(vec![story.issue.id.clone()]));
    let running: Vec<_> = view::status::runs_of(&story.issue).collect();
    let status = facts.status(&settings, &configured(&settings), Some(&running), story.now);
    assert_eq!(
        serde_json::to_value(&status).expect("JSON"),
        json!({
            "version": "0.1.0", "paused": false, "pause": null, "strategy": "hybrid-smart",
            "executors": [
                { "name": "local", "healthy": true, "why": null, "running": 1, "slots": 2 },
                { "name": "codegen", "healthy": false, "why": "it answers 503", "running": 0, "slots": null },
            ],
            "budget": { "day_usd": 50.0, "spent_usd": 3.2, "reserved_usd": 1.0 },
            "issues_in_flight": 1, "oldest_overdue_seconds": 0,
        })
    );
    let late = story.now + SignedDuration::from_hours(3);
    let status = facts.status(&settings, &[], None, late);
    assert_eq!(
        status.oldest_overdue_seconds, 3_600,
        "two hours is what a run may take"
    );
}

#[tokio::test]
async fn an_organisation_that_is_no_number_makes_codegen_unhealthy() {
    let log = MemoryLog::default();
    let now = Story::new().now;
    let settings = settings(r#"{"repositories":[],"codegen":{"orgId":"acme","apiToken":"t"}}"#);
    let facts = Facts::read(&log, &log, now).await.expect("facts");
    let status = facts.status(
        &settings,
        &[Availability::open(ExecutorKind::Codegen)],
        None,
        now,
    );
    let codegen = &status.executors[0];
    assert!(!codegen.healthy && codegen.running.is_none());
    assert!(
        codegen.why.as_deref().is_some_and(|it| it.contains("acme")),
        "{codegen:?}"
    );
}
