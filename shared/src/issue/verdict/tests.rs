//! Each rule alone: a pull request with which all is well, and one thing changed.

use std::sync::Arc;

use super::*;
use crate::issue::{Conditions, Repository, Spec, TaskId};

const SHA: &str = "aaaaaaaa11111111aaaaaaaa11111111aaaaaaaa";
const MARK: &str = "<!-- cyrus:ENG-42/api -->";

/// Everything that a verdict depends on.
struct Bench {
    facts: PullFacts,
    task: Task,
    policy: Policy,
    commands: Option<Finding>,
    review: Option<Finding>,
    waited: i64,
}

impl Bench {
    fn new() -> Self {
        let mut task = Task::new(Arc::new(Spec {
            id: TaskId::from("api"),
            title: "Add the endpoint".into(),
            kind: TaskKind::Builder,
            prompt: "do".into(),
            depends_on: vec![],
            complexity: None,
            requires_isolation: false,
            acceptance: vec![],
            paths: vec!["src/**".into()],
            judges: None,
            issue: None,
        }));
        task.branch = Some("cyrus/eng-42/api".into());
        let finding = Finding {
            sha: SHA.into(),
            approves: true,
            text: String::new(),
        };
        Self {
            facts: PullFacts {
                number: 7,
                url: "https://github.com/acme/app/pull/7".into(),
                state: PullState::Open,
                head_slug: Some("acme/app".into()),
                head_branch: "cyrus/eng-42/api".into(),
                head_sha: SHA.into(),
                base_slug: "acme/app".into(),
                base_branch: "main".into(),
                body: format!("It does it.\n{MARK}"),
                draft: false,
                mergeable: Some(true),
                checks: vec![check("ci", CheckState::Passed)],
                files: Some(vec!["src/api.rs".into()]),
                reviews: vec![review(Opinion::Approves, SHA)],
                behind: false,
                blocked: false,
                queued: false,
            },
            task,
            policy: policy(),
            commands: Some(finding.clone()),
            review: Some(finding),
            waited: 0,
        }
    }

    fn verdict(&self) -> Verdict {
        self.with(judged(self.commands.as_ref()), judged(self.review.as_ref()))
    }

    fn with(&self, commands: Judged<'_>, review: Judged<'_>) -> Verdict {
        let seen = Time::UNIX_EPOCH;
        judge(&Case {
            facts: &self.facts,
            task: &self.task,
            marker: MARK,
            policy: &self.policy,
            seen,
            now: seen + jiff::SignedDuration::from_secs(self.waited),
            commands,
            review,
        })
    }
}

fn judged(finding: Option<&Finding>) -> Judged<'_> {
    finding.map_or(Judged::Unasked, Judged::Found)
}

fn check(name: &str, state: CheckState) -> Check {
    Check {
        name: name.into(),
        state,
        id: Some(11),
        says: "2 tests failed".into(),
    }
}

fn review(opinion: Opinion, sha: &str) -> Review {
    Review {
        author: "ann".into(),
        opinion,
        sha: sha.into(),
        text: "the name is wrong".into(),
    }
}

/// Everything is asked for.
fn policy() -> Policy {
    let conditions = Conditions::fair(None, Time::UNIX_EPOCH);
    Policy {
        repository: Repository {
            base_branch: "main".into(),
            slug: "acme/app".into(),
            ..Repository::default()
        },
        planning: crate::issue::Planning::Auto,
        mode: None,
        bug: false,
        sub_issues: None,
        strategy: conditions.rules.strategy,
        merge: MergeMode::Auto,
        method: crate::issue::MergeMethod::Squash,
        required_checks: vec![],
        check_grace_seconds: 60,
        protected_paths: vec![".github/workflows/**".into()],
        require_approval: true,
        commands: vec!["cargo test".into()],
        reviewer: true,
        repairs_max: 3,
        keep_pulls: false,
        tasks_max: 20,
        parallel_max: 10,
        attempts_max: 3,
        task_timeout_seconds: 7200,
        cost_per_run: 0.4,
        cost_per_task_max: None,
        cost_per_issue_max: None,
        verbosity: crate::issue::Verbosity::Normal,
        agent: crate::issue::AgentPolicy::default(),
        tools: std::collections::BTreeMap::new(),
    }
}

/// A word for a verdict, and its sentence.
fn told(verdict: Verdict) -> (&'static str, String) {
    match verdict {
        Verdict::Foreign(why) => ("foreign", why),
        Verdict::Merged => ("merged", String::new()),
        Verdict::Closed => ("closed", String::new()),
        Verdict::Wait(why) => ("wait", why),
        Verdict::Person(why) => ("person", why),
        Verdict::Ask(kinds) => ("ask", format!("{kinds:?}")),
        Verdict::Red(red) => ("red", red.why),
        Verdict::Hand(why) => ("hand", why),
        Verdict::Green { why, behind: false } => ("green", why),
        Verdict::Green { why, behind: true } => ("behind", why),
    }
}

#[test]
fn all_is_well() {
    let (word, why) = told(Bench::new().verdict());
    assert_eq!(word, "green");
    assert_eq!(
        why,
        "its check has succeeded on aaaaaaaa, its commands have succeeded, its reviewer agrees, \
         approved by ann"
    );
}

#[test]
fn each_rule_stops_it_alone() {
    type Change = fn(&mut Bench);
    let table: &[(&str, &str, Change)] = &[
        ("foreign", "belongs to mallory/app", |it| {
            it.facts.base_slug = "mallory/app".into();
        }),
        ("foreign", "comes from a fork", |it| {
            it.facts.head_slug = Some("mallory/app".into());
        }),
        ("foreign", "comes from a fork", |it| {
            it.facts.head_slug = None
        }),
        ("foreign", "targets `release`", |it| {
            it.facts.base_branch = "release".into();
        }),
        ("foreign", "comes from `cyrus/eng-42/api.2`", |it| {
            it.facts.head_branch = "cyrus/eng-42/api.2".into();
        }),
        ("foreign", "does not carry our mark", |it| {
            it.facts.body = "<!-- cyrus:ENG-42/web -->".into();
        }),
        ("merged", "", |it| it.facts.state = PullState::Merged),
        ("closed", "", |it| it.facts.state = PullState::Closed),
        ("red", "`src/.env` in aaaaaaaa looks like a secret", |it| {
            it.facts.files = Some(vec!["src/.env".into()]);
        }),
        (
            "red",
            "`README.md` in aaaaaaaa is none of the task's paths",
            |it| {
                it.facts.files = Some(vec!["src/a.rs".into(), "README.md".into()]);
            },
        ),
        ("hand", "changes more files", |it| it.facts.files = None),
        (
            "hand",
            "`.github/workflows/ci.yml` in aaaaaaaa is protected",
            |it| {
                it.task = Bench::new().task;
                let mut spec = (*it.task.spec).clone();
                spec.paths.clear();
                it.task.spec = Arc::new(spec);
                it.facts.files = Some(vec![".github/workflows/ci.yml".into()]);
            },
        ),
        ("red", "the check `ci` failed", |it| {
            it.facts.checks[0].state = CheckState::Failed;
        }),
        ("red", "the check `lint` failed", |it| {
            it.facts.checks.push(check("lint", CheckState::Failed));
        }),
        ("wait", "the check `ci` still runs", |it| {
            it.facts.checks[0].state = CheckState::Pending;
        }),
        ("wait", "no check has been reported", |it| {
            it.facts.checks.clear()
        }),
        ("wait", "the required check `e2e` has not succeeded", |it| {
            it.policy.required_checks = vec!["e2e".into()];
        }),
        ("wait", "the required check `ci` has not succeeded", |it| {
            it.policy.required_checks = vec!["ci".into()];
            it.facts.checks[0].state = CheckState::Pending;
        }),
        // Of two of one name both count.
        ("wait", "the required check `ci` has not succeeded", |it| {
            it.policy.required_checks = vec!["ci".into()];
            it.facts.checks.push(check("ci", CheckState::Pending));
        }),
        ("red", "ann wants changes", |it| {
            it.facts.reviews = vec![review(Opinion::WantsChanges, SHA)];
        }),
        ("red", "it conflicts", |it| it.facts.mergeable = Some(false)),
        ("wait", "whether aaaaaaaa can be merged", |it| {
            it.facts.mergeable = None;
        }),
        ("wait", "is a draft", |it| it.facts.draft = true),
        ("ask", "[Verifier]", |it| it.commands = None),
        ("ask", "[Reviewer]", |it| it.review = None),
        ("ask", "[Verifier, Reviewer]", |it| {
            (it.commands, it.review) = (None, None);
        }),
        ("red", "validate.commands failed", |it| {
            it.commands.as_mut().expect("a finding").approves = false;
        }),
        ("red", "the reviewer wants changes", |it| {
            it.review.as_mut().expect("a finding").approves = false;
        }),
        ("person", "a person has to approve", |it| {
            it.facts.reviews.clear()
        }),
        // An approval is of one commit.
        ("person", "a person has to approve", |it| {
            it.facts.reviews = vec![review(Opinion::Approves, "bbbbbbbb")];
        }),
        ("wait", "the rules of `main`", |it| it.facts.blocked = true),
    ];
    for (n, (word, why, change)) in table.iter().enumerate() {
        let mut bench = Bench::new();
        change(&mut bench);
        let (got, said) = told(bench.verdict());
        assert_eq!(got, *word, "{n}: {said}");
        assert!(said.contains(why), "{n}: {said} lacks {why}");
    }
}

#[test]
fn what_is_not_asked_for_stops_nothing() {
    type Change = fn(&mut Bench);
    let table: &[Change] = &[
        |it| it.policy.require_approval = false,
        |it| {
            it.policy.commands.clear();
            it.commands = None;
        },
        |it| {
            it.policy.reviewer = false;
            it.review = None;
        },
        // A repository that reports no checks for a while has none.
        |it| {
            it.facts.checks.clear();
            it.waited = 60;
        },
        // Only the required ones count.
        |it| {
            it.policy.required_checks = vec!["ci".into()];
            it.facts.checks.push(check("flaky", CheckState::Failed));
            it.facts.checks.push(check("slow", CheckState::Pending));
        },
        // What somebody thought of another commit.
        |it| {
            it.facts
                .reviews
                .push(review(Opinion::WantsChanges, "bbbbbbbb"));
        },
        |it| {
            it.policy.protected_paths.clear();
            let mut spec = (*it.task.spec).clone();
            spec.paths.clear();
            it.task.spec = Arc::new(spec);
            it.facts.files = Some(vec![".github/workflows/ci.yml".into()]);
        },
        |it| {
            it.facts.body.clear();
            it.task.reported_pull = Some(it.facts.url.clone());
        },
    ];
    for (n, change) in table.iter().enumerate() {
        let mut bench = Bench::new();
        change(&mut bench);
        let (got, said) = told(bench.verdict());
        assert_eq!(got, "green", "{n}: {said}");
    }
}

#[test]
fn what_is_behind_is_brought_up_to_date_unless_a_person_has_approved_of_it() {
    let mut bench = Bench::new();
    (bench.facts.behind, bench.facts.blocked) = (true, true);
    assert_eq!(told(bench.verdict()).0, "green");
    bench.policy.require_approval = false;
    assert_eq!(told(bench.verdict()).0, "behind");
}

#[test]
fn a_judge_that_is_at_work_is_waited_for_and_one_that_fails_calls_a_person() {
    let bench = Bench::new();
    let fine = bench.review.clone().expect("a finding");
    let (word, why) = told(bench.with(Judged::Found(&fine), Judged::Asked));
    assert_eq!((word, why.contains("reviewer")), ("wait", true), "{why}");
    let (word, why) = told(bench.with(Judged::Failed("no runner"), Judged::Found(&fine)));
    assert_eq!((word, why.contains("no runner")), ("hand", true), "{why}");
}

#[test]
fn a_person_who_merges_needs_no_gates_of_ours() {
    let mut bench = Bench::new();
    bench.policy.merge = MergeMode::Manual;
    bench.facts.reviews.clear();
    (bench.facts.behind, bench.facts.blocked) = (true, true);
    assert_eq!(told(bench.verdict()).0, "green");
    bench.facts.checks[0].state = CheckState::Failed;
    assert_eq!(told(bench.verdict()).0, "red");
}

#[test]
fn what_failed_says_how_to_mend_it() {
    let mut bench = Bench::new();
    bench.facts.checks[0].state = CheckState::Failed;
    let red = Red {
        why: "the check `ci` failed on aaaaaaaa".into(),
        detail: "2 tests failed".into(),
        check: Some(11),
        conflict: false,
    };
    assert_eq!(bench.verdict(), Verdict::Red(red));
    let mut bench = Bench::new();
    bench.facts.mergeable = Some(false);
    let Verdict::Red(red) = bench.verdict() else {
        panic!("it is red");
    };
    assert!(red.conflict);
}

#[test]
fn a_branch_without_a_forge_is_ours_by_its_name() {
    let mut bench = Bench::new();
    bench.policy.repository.slug.clear();
    bench.facts.base_slug.clear();
    bench.facts.head_slug = Some(String::new());
    bench.facts.body.clear();
    // Nobody could report a check.
    bench.facts.checks.clear();
    assert_eq!(
        told(bench.verdict()).0,
        "hand",
        "nobody can approve it there"
    );
    bench.policy.require_approval = false;
    assert_eq!(told(bench.verdict()).0, "green");
    bench.facts.head_branch = "feature".into();
    assert_eq!(told(bench.verdict()).0, "foreign");
}
