//! A model check of the ledger: twenty issues want money of one day at once,
//! through three copies of us whose clocks disagree by minutes, just before
//! midnight. What each copy knows may be old, replies are lost, copies die with
//! a decision in their hands, runs live on that no log knows of yet; and at
//! every step, on every day, spent + reserved ≤ limit.
//!
//! A copy decides as the engine does (`Draft::consider`, then one append with
//! the entries of what counts), on a real store. What holds is said by plain
//! sums over the runs that really live and what the ended ones really cost.
//! Which step comes next is drawn by seed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use jiff::SignedDuration;
use jiff::civil::Date;
use shared::issue::{
    AgentPolicy, Approval, Brief, Briefing, CancelReason, Conditions, DayLedger, Draft, Effect,
    Ending, Event, Failure, FailureClass, Fault, Input, Issue, IssueId, MergeMethod, MergeMode,
    Opening, Outcome, Planning, Policy, Record, Repository, Rules, Seq, Sight, Strategy, TaskState,
    Time, Verbosity, evolve, micros, usd, utc_day,
};
use shared::ports::{Append, AppendError, Log};
use shared::store::dynamo::DynamoLog;
use shared::store::memory::MemoryLog;
use shared::store::sqlite::SqliteLog;
use shared::{pause, stats, view};
use world::dynamo::{Emulator, Proxy, create_table};

const ISSUES: usize = 20;
/// Copies of us, and by how many minutes their clocks are wrong.
const SKEW_MINUTES: [i64; 3] = [-4, 0, 3];
/// Steps of one interleaving, after all issues have asked at once.
const STEPS: usize = 40;
/// Decisions that are made and not written yet.
const FLIGHTS_MAX: usize = 20;
/// Interleavings on each store. Every call to the emulator goes over HTTP: as many
/// as `LEDGER_SEEDS` says there, a thousand take a quarter of an hour.
const MEMORY: u64 = 1_000;
const SQLITE: u64 = 1_000;
const DYNAMO: u64 = 60;
/// So many interleavings have seen everything, or nothing was checked.
const ENOUGH: u64 = 1_000;
/// A run that goes over its cap costs so many times the cap.
const OVERSHOOT: f64 = 1.25;
/// The first task of an issue that is planned: before it nothing is forecast,
/// which takes longer than all else.
const TASK: &str = "plan";

/// What must have happened.
const LANDMARKS: [&str; 12] = [
    "the store refused what was over the limit",
    "somebody else had written",
    "a copy died before it wrote",
    "a reply was lost",
    "a run lived that no log knew of",
    "a start was given back",
    "a run waited for money",
    "a day was full to the last cent",
    "a day ended with money reserved",
    "two clocks admitted on two days at once",
    "a run cost more than was set aside",
    "an issue was cancelled",
];

/// A copy of us.
#[derive(Default)]
struct Copy {
    skew: SignedDuration,
    /// What it has read, and when, of each issue and of the day.
    issues: BTreeMap<usize, Issue>,
    day: Option<DayLedger>,
}

/// A decision on its way to the store.
struct Flight {
    copy: usize,
    at: usize,
    before: Issue,
    append: Append,
}

/// A run as it really is, whoever knows of it.
struct Run {
    day: Date,
    cap: i64,
    /// What it has cost, once it has ended …
    cost: Option<f64>,
    /// … and at what it was booked.
    booked: Option<f64>,
}

struct Table {
    log: Arc<dyn Log>,
    rng: fastrand::Rng,
    now: Time,
    rules: Rules,
    /// Some runs cost more than was set aside for them.
    overshoots: bool,
    copies: Vec<Copy>,
    ids: Vec<IssueId>,
    /// The issues as their logs tell them.
    issues: Vec<Issue>,
    flights: Vec<Flight>,
    /// By issue and key of the start.
    runs: BTreeMap<(usize, Seq), Run>,
    /// Admissions: the day, and when.
    admitted: Vec<(Date, Time)>,
    seen: BTreeMap<&'static str, u64>,
    appends: u64,
}

impl Table {
    fn new(log: Arc<dyn Log>, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        // Each interleaving has days of its own.
        let first: Time = "2026-01-01T23:50:00Z".parse().expect("a time");
        let days = i64::try_from(seed).expect("a small seed") * 3;
        let cents = [100, 250, 280, 700, 705][rng.usize(0..5)];
        let task_max = [None, Some(1.0), Some(0.4), Some(2.5)][rng.usize(0..4)];
        let strategy = [
            Strategy::LocalOnly,
            Strategy::CloudOnly,
            Strategy::HybridParallel,
        ];
        let rules = Rules {
            strategy: strategy[rng.usize(0..3)],
            cost_per_task_max: task_max,
            cost_per_issue_max: rng.bool().then_some(3.0),
            cost_per_day_max: Some(f64::from(cents) / 100.0),
            cost_per_run: 0.4,
            approval: Approval::Never,
        };
        let copies = SKEW_MINUTES.map(|minutes| Copy {
            skew: SignedDuration::from_mins(minutes),
            ..Copy::default()
        });
        let ids: Vec<IssueId> = (0..ISSUES)
            .map(|at| IssueId(format!("issue-{seed}-{at}")))
            .collect();
        Self {
            log,
            now: first + SignedDuration::from_hours(24 * days),
            overshoots: rng.bool(),
            rules,
            copies: copies.into(),
            issues: ids.iter().cloned().map(Issue::unknown).collect(),
            ids,
            flights: Vec::new(),
            runs: BTreeMap::new(),
            admitted: Vec::new(),
            seen: BTreeMap::new(),
            appends: 0,
            rng,
        }
    }

    fn saw(&mut self, landmark: &'static str) {
        *self.seen.entry(landmark).or_default() += 1;
    }

    async fn play(&mut self) {
        for at in 0..ISSUES {
            let copy = self.rng.usize(0..self.copies.len());
            self.decide(copy, at, true).await;
        }
        for _ in 0..STEPS {
            match self.rng.u8(0..100) {
                0..10 => self.pass(),
                10..25 => self.live(),
                25..55 if self.flights.len() < FLIGHTS_MAX => {
                    let copy = self.rng.usize(0..self.copies.len());
                    let at = self.somebody();
                    self.decide(copy, at, true).await;
                }
                _ => self.land().await,
            }
        }
        for (id, issue) in self.ids.iter().zip(&self.issues) {
            if issue.seq % 7 == 0 {
                let mut told = Issue::unknown(id.clone());
                for record in self.log.read(id, 0).await.expect("read") {
                    evolve(&mut told, &record);
                }
                assert_eq!(told, *issue);
            }
        }
    }

    /// An issue; rather one with a start or a run under way.
    fn somebody(&mut self) -> usize {
        let at = self.rng.usize(0..ISSUES);
        let busy = |at: &usize| self.issues[*at].reserved() > 0;
        let next = (at..ISSUES).chain(0..at).find(busy);
        next.filter(|_| self.rng.bool()).unwrap_or(at)
    }

    /// Time passes; mostly little.
    fn pass(&mut self) {
        let before = utc_day(self.now);
        let seconds = match self.rng.u8(0..20) {
            0 => self.rng.i64(0..=1_200),
            _ => self.rng.i64(0..=60),
        };
        self.now += SignedDuration::from_secs(seconds);
        if utc_day(self.now) != before && self.issues.iter().any(|it| it.reserved() > 0) {
            self.saw("a day ended with money reserved");
        }
    }

    /// The world moves: a start that was asked for is made, or a run ends.
    fn live(&mut self) {
        let at = self.somebody();
        if let Some((key, reserved)) = starting(&self.issues[at]) {
            self.runs.entry((at, key)).or_insert(Run {
                day: reserved.day,
                cap: micros(reserved.usd),
                cost: None,
                booked: None,
            });
            self.saw("a run lived that no log knew of");
            return;
        }
        let overshoots = self.overshoots;
        let rng = &mut self.rng;
        let alive = |((it, _), run): &(&(usize, Seq), &mut Run)| *it == at && run.cost.is_none();
        if let Some((_, run)) = self.runs.iter_mut().find(alive) {
            let cap = usd(run.cap);
            let reports = self.rules.strategy != Strategy::CloudOnly;
            run.cost = Some(match rng.u8(0..4) {
                _ if !reports => cap,
                0..3 if overshoots => cap * OVERSHOOT,
                0 => cap,
                // More digits than any account has.
                _ => cap * f64::from(rng.u32(0..=10_000_000)) / 10_000_000.0,
            });
        }
    }

    /// A copy decides on an issue, by what it knows.
    async fn decide(&mut self, copy: usize, at: usize, may_be_old: bool) {
        let old = may_be_old && self.rng.u8(0..3) == 0;
        let known = self.copies[copy].issues.get(&at).filter(|_| old);
        let before = known.cloned().unwrap_or_else(|| self.issues[at].clone());
        let now = self.now + self.copies[copy].skew;
        let mut draft = Draft::new(before.clone(), now);
        for input in self.inputs(at, &before) {
            draft.take(input);
        }
        if before.round == 0 {
            let fetch = draft
                .issue
                .owed
                .iter()
                .find(|(_, it)| it.effect == Effect::Fetch);
            let key = *fetch.expect("a round begins with reading the issue").0;
            draft.take(Input::Performed {
                key,
                outcome: Outcome::Briefed(Box::new(briefing(&self.rules))),
            });
        }
        let old = may_be_old && self.rng.bool();
        let day = utc_day(now);
        let known = self.copies[copy].day.clone();
        let day = match known.filter(|it| old && it.date == day) {
            Some(known) => known,
            None => self.read(copy, day).await,
        };
        let fair = Conditions::fair(None, now);
        draft.consider(&Conditions {
            rules: self.rules,
            day,
            ..fair
        });
        draft.claim();
        self.copies[copy].issues.insert(at, self.issues[at].clone());
        if draft.events.is_empty() {
            return;
        }
        let facts = stats::facts(&before, &draft.events, draft.now);
        let append = Append {
            issue: self.ids[at].clone(),
            after: before.seq,
            at: draft.now,
            entries: stats::entries(&facts, draft.now),
            events: draft.events,
            head: view::head(&draft.issue),
        };
        self.flights.push(Flight {
            copy,
            at,
            before,
            append,
        });
    }

    /// What has happened to an issue that its log may not tell yet.
    fn inputs(&mut self, at: usize, known: &Issue) -> Vec<Input> {
        if known.round == 0 {
            return vec![Input::Opened(Opening {
                session: format!("session-{at}").as_str().into(),
                identifier: format!("ENG-{at}"),
                title: "An issue".into(),
                url: String::new(),
                app_user: None,
                at: self.now,
            })];
        }
        if self.rng.u8(0..60) == 0 {
            let why = CancelReason::Command;
            return vec![Input::Cancelled { why, at: self.now }];
        }
        if let Some((key, _)) = starting(known) {
            let claim = known.owed[&key].claimed.map_or(0, |it| it.seq);
            return match self.runs.get(&(at, key)) {
                Some(_) => vec![Input::Performed {
                    key,
                    outcome: Outcome::Started {
                        run: run_id(key),
                        url: None,
                        begun: true,
                    },
                }],
                // Whoever is refused for good knows that no run was made; here
                // that is so only if nobody else is at it.
                None if self.rng.u8(0..6) == 0 && starting(&self.issues[at]).is_some() => {
                    let why = "it takes nothing".into();
                    let fault = Fault::Down { why };
                    vec![Input::Faulted { key, claim, fault }]
                }
                None => vec![Input::Tick],
            };
        }
        let running = known.tasks.iter().find_map(|it| match &it.state {
            TaskState::Running { run, .. } => Some(run.clone()),
            _ => None,
        });
        let ended = self
            .runs
            .iter()
            .filter(|((it, _), _)| *it == at)
            .find(|((_, key), _)| Some(run_id(*key)) == running);
        match ended.and_then(|((_, key), run)| Some((*key, run.cost?))) {
            Some((key, cost)) => vec![Input::SawRun {
                task: TASK.into(),
                run: run_id(key),
                sight: Sight::Ended(Ending {
                    result: Err(Failure {
                        class: FailureClass::Outage,
                        message: "its model was down".into(),
                    }),
                    // Local runs report what they cost.
                    cost_usd: (self.rules.strategy != Strategy::CloudOnly).then_some(cost),
                    cost_is_estimate: false,
                }),
            }],
            None => vec![Input::Tick],
        }
    }

    async fn read(&mut self, copy: usize, day: Date) -> DayLedger {
        let names = [stats::day_account(day), stats::alerts_account(day)];
        let accounts = self.log.accounts(&names).await.expect("accounts");
        let (spent, reserved) = stats::ledger(&accounts[0]);
        let ledger = DayLedger {
            date: day,
            spent,
            reserved,
            alerted: stats::alerts_of(&accounts[1]),
        };
        self.copies[copy].day = Some(ledger.clone());
        ledger
    }

    /// A decision reaches the store, or dies on the way.
    async fn land(&mut self) {
        if self.flights.is_empty() {
            return;
        }
        let which = self.rng.usize(0..self.flights.len());
        let Flight {
            copy,
            at,
            before,
            append,
        } = self.flights.swap_remove(which);
        if self.rng.u8(0..25) == 0 {
            return self.saw("a copy died before it wrote");
        }
        // A start that was given back is one that really was not made.
        let gives_back = |it: &Event| matches!(it, Event::GaveUp { .. });
        if append.events.iter().any(gives_back)
            && starting(&before).is_some_and(|(key, _)| self.runs.contains_key(&(at, key)))
        {
            return;
        }
        self.appends += 1;
        match self.log.append(append.clone()).await {
            Ok(()) => {
                assert_eq!(before.seq, self.issues[at].seq, "an old decision was taken");
                self.written(at, &append);
                if self.rng.u8(0..10) == 0 {
                    self.saw("a reply was lost");
                } else {
                    let issue = self.issues[at].clone();
                    self.copies[copy].issues.insert(at, issue);
                }
                self.check().await;
            }
            Err(AppendError::Conflict) => {
                assert_ne!(before.seq, self.issues[at].seq, "refused for nothing");
                self.copies[copy].issues.remove(&at);
                self.saw("somebody else had written");
            }
            Err(AppendError::OverLimit { account }) => {
                self.saw("the store refused what was over the limit");
                let entry = append.entries.iter().find(|it| it.account == account);
                let entry = entry.expect("an account of the append");
                let max = entry.limit.as_ref().expect("a limit").max;
                if let Some(add) = entry.add.get("committed") {
                    let day = account.trim_start_matches("day/").parse();
                    let (spent, reserved) = self.by_logs(day.expect("a day"));
                    assert!(
                        spent + reserved + add > max,
                        "{account}: refused for nothing"
                    );
                }
                // As the engine does: again, on what holds now.
                self.copies[copy].day = None;
                self.decide(copy, at, false).await;
            }
            Err(AppendError::Failed(error)) => panic!("{error:#}"),
        }
    }

    fn written(&mut self, at: usize, append: &Append) {
        for (seq, event) in (append.after + 1..).zip(&append.events) {
            match event {
                Event::Requested(Effect::Start { reserved, .. }) => {
                    let reserved = reserved.expect("a day with a limit");
                    self.admitted.push((reserved.day, self.now));
                }
                Event::Ended { cost_usd, .. } => {
                    let run = self.issues[at].tasks[0].state.clone();
                    let ours = |key: &Seq| matches!(&run, TaskState::Running { run, .. } if *run == run_id(*key));
                    let run = self
                        .runs
                        .iter_mut()
                        .find(|((it, key), _)| *it == at && ours(key))
                        .expect("a run that really was");
                    let run = run.1;
                    assert_eq!(run.booked, None, "booked twice");
                    run.booked = Some(*cost_usd);
                    // What does not end when it is asked to counts as all that it
                    // may have cost.
                    let (cost, cap) = (run.cost.unwrap_or(usd(run.cap)), usd(run.cap));
                    let is = |it: f64| (cost_usd - it).abs() < 1e-6;
                    assert!(is(cost) || is(cap), "booked at {cost_usd}, not {cost}");
                    run.cost = Some(*cost_usd);
                    if micros(*cost_usd) > run.cap {
                        self.saw("a run cost more than was set aside");
                    }
                }
                Event::GaveUp { .. } => self.saw("a start was given back"),
                Event::CancelAsked { .. } => self.saw("an issue was cancelled"),
                Event::Waits { .. } => self.saw("a run waited for money"),
                _ => {}
            }
            let record = Record {
                seq,
                at: append.at,
                event: event.clone(),
            };
            evolve(&mut self.issues[at], &record);
        }
    }

    /// What the logs say is booked and set aside on a day.
    fn by_logs(&self, day: Date) -> (i64, i64) {
        let of_day = self.runs.values().filter(|it| it.day == day);
        let booked = of_day.filter_map(|it| it.booked.map(micros)).sum();
        let tasks = self.issues.iter().flat_map(|it| &it.tasks);
        let reserved = tasks.filter_map(|it| it.reserved.as_ref());
        let reserved = reserved.filter(|it| it.day == day);
        (booked, reserved.map(|it| micros(it.usd)).sum())
    }

    async fn check(&mut self) {
        let max = micros(self.rules.cost_per_day_max.expect("a limit"));
        let tomorrow = utc_day(self.now).tomorrow().expect("a day");
        let yesterday = utc_day(self.now).yesterday().expect("a day");
        let days = [yesterday, utc_day(self.now), tomorrow];
        let names = days.map(stats::day_account);
        let accounts = self.log.accounts(&names).await.expect("accounts");
        for (day, figures) in days.into_iter().zip(&accounts) {
            let account = stats::ledger(figures);
            assert_eq!(
                account,
                self.by_logs(day),
                "{day}: the account and the logs"
            );
            let (spent, reserved) = account;
            assert!(spent >= 0 && reserved >= 0, "{day}: below zero");
            let of_day = || self.runs.values().filter(|it| it.day == day);
            let beyond: i64 = of_day()
                .filter_map(|it| Some((micros(it.booked?) - it.cap).max(0)))
                .sum();
            assert!(
                spent + reserved <= max + beyond,
                "{day}: {spent} spent and {reserved} reserved of {max}"
            );
            // Whatever a log knows of it: what really lives, and what it may come to.
            let really: i64 = of_day().map(|it| it.booked.map_or(it.cap, micros)).sum();
            assert!(really <= max + beyond, "{day}: runs for {really} of {max}");
            if spent + reserved == max {
                self.saw("a day was full to the last cent");
            }
        }
        let (last, rest) = match self.admitted.split_last() {
            Some((last, rest)) => (*last, rest),
            None => return,
        };
        if rest
            .last()
            .is_some_and(|it| it.0 != last.0 && it.1 == last.1)
        {
            self.saw("two clocks admitted on two days at once");
        }
    }
}

/// The start that is owed, and what is set aside for it.
fn starting(issue: &Issue) -> Option<(Seq, shared::issue::Reservation)> {
    issue.tasks.iter().find_map(|it| match it.state {
        TaskState::Starting { key } => Some((key, it.reserved?)),
        _ => None,
    })
}

fn run_id(key: Seq) -> shared::issue::RunId {
    shared::issue::RunId(format!("run-{key}"))
}

fn briefing(rules: &Rules) -> Briefing {
    Briefing {
        brief: Brief {
            identifier: "ENG-1".into(),
            title: "An issue".into(),
            ..Brief::default()
        },
        policy: Policy {
            repository: Repository {
                id: "main".into(),
                path: "/repository".into(),
                workspace_dir: "/worktrees".into(),
                base_branch: "main".into(),
                slug: "acme/app".into(),
            },
            planning: Planning::Always,
            mode: None,
            bug: false,
            sub_issues: None,
            strategy: rules.strategy,
            merge: MergeMode::Auto,
            method: MergeMethod::Squash,
            required_checks: Vec::new(),
            check_grace_seconds: 60,
            protected_paths: Vec::new(),
            require_approval: false,
            commands: Vec::new(),
            reviewer: false,
            repairs_max: 0,
            keep_pulls: false,
            tasks_max: 20,
            parallel_max: 4,
            attempts_max: 4,
            task_timeout_seconds: 100_000,
            cost_per_run: rules.cost_per_run,
            cost_per_task_max: rules.cost_per_task_max,
            cost_per_issue_max: rules.cost_per_issue_max,
            verbosity: Verbosity::Quiet,
            agent: AgentPolicy::default(),
            tools: BTreeMap::new(),
        },
    }
}

/// Each log has its share of the seeds, all at once.
async fn model_check(name: &str, logs: Vec<Arc<dyn Log>>, interleavings: u64) {
    let begun = Instant::now();
    let mut seen: BTreeMap<&str, u64> = LANDMARKS.iter().map(|it| (*it, 0)).collect();
    let (mut appends, mut admitted) = (0, 0);
    let parts = logs.len() as u64;
    let parts: Vec<_> = (0..parts)
        .zip(logs)
        .map(|(part, log)| {
            tokio::spawn(async move {
                let mut tables = Vec::new();
                for seed in (0..interleavings).filter(|it| it % parts == part) {
                    let mut table = Table::new(Arc::clone(&log), seed);
                    table.play().await;
                    tables.push((table.appends, table.admitted.len(), table.seen));
                }
                tables
            })
        })
        .collect();
    for part in parts {
        for (appended, admissions, landmarks) in part.await.expect("a share of the seeds") {
            appends += appended;
            admitted += admissions;
            for (landmark, times) in landmarks {
                *seen.entry(landmark).or_default() += times;
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{name}: {interleavings} interleavings, {appends} appends, {admitted} admissions, {seconds:.1} s"
    );
    for (landmark, times) in &seen {
        println!("{times:>8}  {landmark}");
    }
    assert!(appends >= 1_000, "only {appends} appends");
    let missed: Vec<_> = seen.iter().filter(|(_, times)| **times == 0).collect();
    assert!(
        missed.is_empty() || interleavings < ENOUGH,
        "never seen: {missed:?}"
    );
}

/// What the engine asks a store for one admission, counted at the wire.
#[tokio::test(flavor = "multi_thread")]
async fn an_admission_costs_few_database_operations() {
    let emulator = Emulator::start().expect("an emulator");
    let client = emulator.client();
    create_table(&client, "cyrus").await.expect("a table");
    let proxy = Proxy::start(&emulator).await.expect("a proxy");
    let store = Arc::new(DynamoLog::new(&proxy.client(), "cyrus"));
    let mut table = Table::new(Arc::clone(&store) as Arc<dyn Log>, 0);
    table.rules.strategy = Strategy::LocalOnly;
    table.rules.cost_per_task_max = Some(0.5);

    // An issue is opened; its admission is decided and written.
    pause::read(store.as_ref(), table.now).await.expect("read");
    store.read(&table.ids[0], 0).await.expect("read");
    table.decide(1, 0, false).await;
    let append = table.flights.pop().expect("a decision").append;
    let accounts = append.entries.len();
    let before = store.consumed();
    store.append(append).await.expect("append");
    let after = store.consumed();
    // Right before the start the switch is read once more.
    pause::read(store.as_ref(), table.now).await.expect("read");

    let calls = ["Query", "GetItem", "BatchGetItem", "TransactWriteItems"];
    let calls = calls.map(|it| (it, proxy.calls(it)));
    println!(
        "an admission: {calls:?}; the append enters {accounts} accounts and takes {} write units",
        after.write - before.write
    );
    assert_eq!(
        calls,
        [
            ("Query", 1),
            ("GetItem", 2),
            ("BatchGetItem", 1),
            ("TransactWriteItems", 1)
        ]
    );
    assert_eq!(accounts, 1, "the account of the day alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_never_goes_over_the_limit_of_a_day() {
    model_check("memory", vec![Arc::new(MemoryLog::default())], MEMORY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_never_goes_over_the_limit_of_a_day() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = |name| -> Arc<dyn Log> {
        Arc::new(SqliteLog::open(&folder.path().join(name)).expect("a store"))
    };
    model_check("SQLite", vec![open("one.db"), open("two.db")], SQLITE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dynamo_never_goes_over_the_limit_of_a_day() {
    let emulator = Emulator::start().expect("an emulator");
    let client = emulator.client();
    create_table(&client, "cyrus").await.expect("a table");
    let log = DynamoLog::new(&client, "cyrus");
    let asked = std::env::var("LEDGER_SEEDS").ok();
    let interleavings = asked.and_then(|it| it.parse().ok()).unwrap_or(DYNAMO);
    model_check("DynamoDB", vec![Arc::new(log)], interleavings).await;
}
