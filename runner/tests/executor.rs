//! The local executor with real processes and a real git; only the agent is a
//! shell script.

mod common;
#[path = "executor/crashes.rs"]
mod crashes;
#[path = "executor/legs.rs"]
mod legs;
#[path = "executor/repair.rs"]
mod repair;
#[path = "executor/scripts.rs"]
mod scripts;
#[path = "executor/verify.rs"]
mod verify;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use shared::issue::{FailureClass, Sight, TaskKind};
use shared::ports::{Executor, Settlement};

use common::{CONTENT, Machine, lives};

const WRITES: &str = r#"printf '%s' "$said" > prompt.txt; echo hello > hello.txt"#;

#[tokio::test]
async fn a_change_becomes_a_pull_request() {
    let machine = Machine::new(&format!("{WRITES}\n{CONTENT}"));
    let mut watched = machine.executor();
    let job = machine.job("k1", TaskKind::Builder);

    let started = watched.start(&job).await;
    assert_eq!((started.run.0.as_str(), started.begun), ("k1", true));
    let ending = watched.ended("k1").await;
    let result = ending.result.expect("a success");
    assert_eq!(result.text, "All done.");
    assert_eq!(
        result.pull_url.as_deref(),
        Some("https://forge.example/o/r/pull/1")
    );
    assert_eq!(
        (result.branch, result.changed, result.answer),
        (None, Some(true), None)
    );
    assert_eq!(ending.cost_usd, Some(0.25));

    let show = |what: &str| machine.git("remote.git", &["show", what]);
    assert_eq!(show("cyrus/eng-1/api:hello.txt"), "hello");
    let heard = show("cyrus/eng-1/api:prompt.txt");
    let heard: serde_json::Value = serde_json::from_str(&heard).expect("a message");
    assert_eq!(
        heard["message"]["content"], job.prompt,
        "the prompt arrives verbatim"
    );
    let log = machine.git(
        "remote.git",
        &["log", "--format=%an|%s", "main..cyrus/eng-1/api"],
    );
    assert_eq!(log, "Cyrus|Say hello (ENG-1)");
    let opened = machine.forge.opened.lock().expect("no poison");
    assert_eq!(opened.len(), 1);
    assert_eq!(
        (opened[0].slug.as_str(), opened[0].base.as_str()),
        ("o/r", "main")
    );
    assert_eq!(
        (opened[0].branch.as_str(), opened[0].title.as_str()),
        ("cyrus/eng-1/api", "Say hello (ENG-1)")
    );
    assert!(
        opened[0].body.contains("<!-- cyrus:ENG-1/api -->"),
        "{}",
        opened[0].body
    );
}

#[tokio::test]
async fn the_same_key_is_the_same_run() {
    let machine = Machine::new(&format!("{WRITES}\n{CONTENT}"));
    let mut watched = machine.executor();
    let job = machine.job("k1", TaskKind::Builder);
    assert_eq!(
        watched.executor.settle(&job).await,
        Ok(Settlement::Absent { certain: true }),
        "nothing was started"
    );
    let (one, two) = tokio::join!(watched.executor.start(&job), watched.executor.start(&job));
    assert_eq!(one.expect("accepted").run, two.expect("accepted").run);
    watched.succeeded("k1").await;
    assert!(watched.start(&job).await.begun);
    assert!(matches!(
        watched.executor.settle(&job).await,
        Ok(Settlement::Found(_))
    ));
    assert_eq!(watched.sight("k2").await, Sight::Gone);
    assert_eq!(machine.runs(), 1);

    let foreign = machine.job("../k", TaskKind::Builder);
    assert!(watched.executor.start(&foreign).await.is_err());
}

#[tokio::test]
async fn an_agent_that_changes_nothing_has_failed() {
    for nothing in [
        "true",
        "echo x > x; rm x",
        "git -c user.name=A -c user.email=a@localhost commit --quiet --allow-empty -m nothing",
    ] {
        let machine = Machine::new(&format!("{nothing}\n{CONTENT}"));
        let mut watched = machine.executor();
        watched.start(&machine.job("k1", TaskKind::Debugger)).await;
        let ending = watched.ended("k1").await;
        let failure = ending.result.expect_err("a failure");
        assert_eq!(failure.class, FailureClass::Agent);
        assert!(
            failure.message.starts_with("the agent changed nothing"),
            "{failure:?}"
        );
        assert_eq!(
            ending.cost_usd,
            Some(0.25),
            "it cost something all the same"
        );
        assert!(machine.pushed().is_empty());
    }
}

#[tokio::test]
async fn what_the_agent_commits_itself_counts_and_what_it_left_for_git_to_run_does_not_run() {
    let machine = Machine::new(&format!(
        "mkdir hooks
        for it in pre-commit pre-push post-checkout reference-transaction; do
            printf '#!/bin/sh\\ntouch \"$HOME/hooked\"\\n' > hooks/$it; chmod +x hooks/$it
        done
        echo hello > hello.txt; git add hello.txt
        git -c user.name=A -c user.email=a@localhost commit --quiet -m mine
        git config core.hooksPath \"$PWD/hooks\"
        git config core.fsmonitor 'touch \"$HOME/hooked\"'
        {CONTENT}"
    ));
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    watched.succeeded("k1").await;
    let log = machine.git(
        "remote.git",
        &["log", "--format=%an|%s", "main..cyrus/eng-1/api"],
    );
    assert_eq!(log, "Cyrus|Say hello (ENG-1)\nA|mine");
    assert!(!machine.at("home/hooked").exists());
}

#[tokio::test]
async fn a_branch_that_others_have_is_left_alone() {
    let machine = Machine::new(&format!("{WRITES}\n{CONTENT}"));
    machine.git(
        "clone",
        &[
            "push",
            "--quiet",
            "origin",
            "main:refs/heads/cyrus/eng-1/api",
        ],
    );
    machine.git("clone", &["branch", "cyrus/eng-1/api.n2"]);
    let theirs = machine.git("remote.git", &["rev-parse", "cyrus/eng-1/api"]);
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    let result = watched.succeeded("k1").await;
    assert_eq!(result.branch.as_deref(), Some("cyrus/eng-1/api.n3"));
    assert_eq!(machine.pushed(), ["cyrus/eng-1/api", "cyrus/eng-1/api.n3"]);
    assert_eq!(
        machine.git("remote.git", &["rev-parse", "cyrus/eng-1/api"]),
        theirs
    );
}

#[tokio::test]
async fn a_branch_that_others_make_meanwhile_is_left_alone_too() {
    // While the agent works, somebody takes the name.
    let machine = Machine::new(&format!(
        "{WRITES}; git push --quiet origin main~0:refs/heads/cyrus/eng-1/api\n{CONTENT}"
    ));
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    assert_eq!(
        watched.succeeded("k1").await.branch.as_deref(),
        Some("cyrus/eng-1/api.n2")
    );
    let theirs = machine.git("remote.git", &["rev-parse", "cyrus/eng-1/api"]);
    assert_eq!(theirs, machine.git("remote.git", &["rev-parse", "main"]));
}

#[tokio::test]
async fn a_push_that_the_remote_forbids_is_not_worth_another_run() {
    let machine = Machine::new(&format!("{WRITES}\n{CONTENT}"));
    let hook = machine.at("remote.git/hooks/pre-receive");
    fs::write(&hook, "#!/bin/sh\necho not on my watch\nexit 1\n").expect("a hook");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("made executable");
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    let failure = watched.failed("k1").await;
    assert_eq!(failure.class, FailureClass::Invalid, "{failure:?}");
    assert!(failure.message.contains("not on my watch"), "{failure:?}");
    assert!(machine.forge.opened.lock().expect("no poison").is_empty());
}

#[tokio::test]
async fn an_answer_is_returned_and_its_changes_are_thrown_away() {
    let machine = Machine::new(&format!(
        "{WRITES}\n{}",
        CONTENT.replace(
            r#""result":"#,
            r#""structured_output":{"tasks":[]},"result":"#
        )
    ));
    let mut watched = machine.executor();
    let mut job = machine.job("k1", TaskKind::Orchestrator);
    job.answer_schema = Some(r#"{"type":"object"}"#.into());
    watched.start(&job).await;
    let result = watched.succeeded("k1").await;
    assert_eq!(result.answer.as_deref(), Some(r#"{"tasks":[]}"#));
    assert_eq!(
        (result.pull_url, result.branch, result.changed),
        (None, None, None)
    );
    assert!(machine.pushed().is_empty());
    assert_eq!(
        machine.git("clone", &["branch", "--format=%(refname:short)"]),
        "main"
    );
    assert!(machine.forge.opened.lock().expect("no poison").is_empty());
}

#[tokio::test]
async fn what_is_not_set_up_is_said_with_its_remedy() {
    type Spoil = fn(&mut Machine, &mut shared::ports::Job);
    let cases: [(&str, FailureClass, &str, Spoil); 6] = [
        (
            "no program",
            FailureClass::Invalid,
            "CLAUDE_BIN",
            |machine, _| {
                machine.claude = "no-such-program-here".into();
            },
        ),
        (
            "no folder",
            FailureClass::Invalid,
            "does not exist",
            |machine, job| {
                job.repository.path = machine.at("nowhere").to_string_lossy().into_owned();
            },
        ),
        (
            "no repository",
            FailureClass::Invalid,
            "is not a git repository",
            |machine, job| {
                job.repository.path = machine.at("home").to_string_lossy().into_owned();
            },
        ),
        (
            "no remote",
            FailureClass::Outage,
            "cannot be reached",
            |machine, _| {
                fs::remove_dir_all(machine.at("remote.git")).expect("removed");
            },
        ),
        (
            "no origin",
            FailureClass::Invalid,
            "git remote add origin",
            |machine, _| {
                machine.git("clone", &["remote", "remove", "origin"]);
            },
        ),
        ("no base", FailureClass::Invalid, "baseBranch", |_, job| {
            job.repository.base_branch = "trunk".into();
        }),
    ];
    for (name, class, words, spoil) in cases {
        let mut machine = Machine::new(CONTENT);
        let mut job = machine.job("k1", TaskKind::Builder);
        spoil(&mut machine, &mut job);
        let mut watched = machine.executor();
        watched.start(&job).await;
        let ending = watched.ended("k1").await;
        assert_eq!(ending.cost_usd, Some(0.0), "{name}: no agent, no cost");
        let failure = ending.result.expect_err("a failure");
        assert_eq!(failure.class, class, "{name}: {failure:?}");
        assert!(failure.message.contains(words), "{name}: {failure:?}");
        assert_eq!(machine.runs(), 0, "{name}");
    }
}

#[tokio::test]
async fn a_lock_that_a_crash_left_in_the_worktree_does_not_cost_the_work() {
    let locks = r#"touch "$(git rev-parse --git-dir)"/index.lock"#;
    let machine = Machine::new(&format!("{WRITES}\n{locks}\n{CONTENT}"));
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    let result = watched.succeeded("k1").await;
    assert!(result.pull_url.is_some());
    assert_eq!(machine.runs(), 1, "the agent's work is not done again");
}

#[tokio::test]
async fn a_stopped_run_leaves_no_process_and_no_branch() {
    let machine = Machine::new(
        "setsid sleep 1000 & echo $! > \"$HOME/orphan.pid\"
        echo hello > hello.txt; echo $$ > \"$HOME/started\"; sleep 1000",
    );
    let mut started = machine.gate("started");
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    let agent = started.hear().await;
    assert_eq!(watched.sight("k1").await, Sight::Working);

    watched.stop("k1").await;
    watched.failed_as("k1", FailureClass::Cancelled).await;
    let orphan = fs::read_to_string(machine.at("home/orphan.pid")).expect("its number");
    assert!(!lives(&agent) && !lives(orphan.trim()));
    assert!(machine.pushed().is_empty());
    // Stopping what has ended, or never was, is a success.
    watched.stop("k1").await;
    watched.stop("k9").await;
}

#[tokio::test]
async fn runs_wait_for_a_slot_in_their_order_and_can_be_stopped_there() {
    let mut machine = Machine::new(&format!(
        "echo $$ > \"$HOME/started\"; read go < \"$HOME/go\"\n{WRITES}\n{CONTENT}"
    ));
    machine.concurrency = 1;
    let (mut started, mut go) = (machine.gate("started"), machine.gate("go"));
    let mut watched = machine.executor();
    assert_eq!(watched.executor.health().await.slots_free, Some(1));
    assert!(
        watched
            .start(&machine.job("k1", TaskKind::Scoper))
            .await
            .begun
    );
    assert!(
        !watched
            .start(&machine.job("k2", TaskKind::Scoper))
            .await
            .begun
    );
    assert!(
        !watched
            .start(&machine.job("k3", TaskKind::Scoper))
            .await
            .begun
    );
    started.hear().await;
    assert_eq!(watched.sight("k2").await, Sight::Waiting);
    assert_eq!(watched.executor.health().await.slots_free, Some(0));

    watched.stop("k2").await;
    watched.failed_as("k2", FailureClass::Cancelled).await;
    assert_eq!(
        (watched.sight("k1").await, watched.sight("k3").await),
        (Sight::Working, Sight::Waiting)
    );
    go.tell().await;
    watched.succeeded("k1").await;
    started.hear().await;
    go.tell().await;
    watched.succeeded("k3").await;
    assert_eq!(watched.executor.health().await.slots_free, Some(1));
    assert_eq!(machine.runs(), 2);
}

#[tokio::test]
async fn an_agent_that_takes_too_long_is_killed_even_if_it_is_deaf() {
    let machine = Machine::new("trap '' TERM; while :; do sleep 1; done");
    let mut watched = machine.executor();
    let mut job = machine.job("k1", TaskKind::Builder);
    job.seconds_max = 1;
    watched.start(&job).await;
    watched.failed_as("k1", FailureClass::Timeout).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_an_agent_leaves_running_is_swept_away() {
    // Detached twice over, in a session of its own.
    let machine = Machine::new(&format!(
        "{WRITES}
        (setsid sh -c 'echo $$ > \"$HOME/orphan\"; exec sleep 1000' < /dev/null > /dev/null 2>&1 &)
        {CONTENT}
        exec > /dev/null; read gone < \"$HOME/orphan\"; echo $gone > \"$HOME/orphan.pid\""
    ));
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    watched.succeeded("k1").await;
    let orphan = fs::read_to_string(machine.at("home/orphan.pid")).expect("its number");
    assert!(!lives(orphan.trim()), "{orphan}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_agent_sees_its_fixed_environment_and_nothing_else() {
    let machine = Machine::new(&format!(
        "tr '\\0' '\\n' < /proc/$$/environ > agent.env
        tr '\\0' '\\n' < /proc/$PPID/environ > supervisor.env\n{CONTENT}"
    ));
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    watched.succeeded("k1").await;
    for whose in ["agent", "supervisor"] {
        let seen = machine.git(
            "remote.git",
            &["show", &format!("cyrus/eng-1/api:{whose}.env")],
        );
        let mut names: Vec<&str> = seen
            .lines()
            .filter_map(|it| it.split_once('='))
            .map(|(name, _)| name)
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "ANTHROPIC_API_KEY",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
                "CLAUDE_CODE_MAX_RETRIES",
                "HOME",
                "PATH",
            ],
            "{whose}"
        );
    }
}
