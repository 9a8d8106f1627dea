//! What becomes of runs when the executor, or a supervisor, dies.

use std::fs::{self, File};
use std::process::ExitStatus;

use shared::issue::{FailureClass, Sight, TaskKind};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::WRITES;
use super::common::{CONTENT, LONG, Machine, Watched, lives};

/// Runs `first` on an executor that then dies where it stands.
pub(super) fn until_killed<F: Future<Output = ()>>(
    machine: &Machine,
    first: impl FnOnce(Watched) -> F,
) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        first(machine.executor()).await;
    });
    // As with a kill, nothing is finished, and nobody is told.
    runtime.shutdown_background();
}

pub(super) fn now<F: Future>(future: F) -> F::Output {
    tokio::runtime::Runtime::new()
        .expect("a runtime")
        .block_on(future)
}

/// Calls a supervisor on the first leg of a job, which has one, or had one.
async fn supervise_again(machine: &Machine, key: &str) -> ExitStatus {
    let again = tokio::process::Command::new(env!("CARGO_BIN_EXE_cyrus-job-supervisor"))
        .arg(machine.at("cyrus/jobs").join(key).join("leg-1"))
        .env_clear()
        .envs(&machine.agent_env)
        .kill_on_drop(true)
        .status();
    timeout(LONG, again)
        .await
        .expect("in time")
        .expect("it runs")
}

/// Waits for the lock that the supervisor of a process holds as long as it lives.
pub(super) async fn supervisor_gone(machine: &Machine, process: &str) {
    let lock = machine.at("cyrus/jobs").join(process).join("lock");
    let waits = tokio::task::spawn_blocking(move || File::open(lock)?.lock());
    timeout(LONG, waits)
        .await
        .expect("in time")
        .expect("no panic")
        .expect("a lock");
}

#[test]
fn an_agent_works_on_while_we_are_dead_and_is_found_again() {
    let machine = Machine::new(&format!(
        "echo $$ > \"$HOME/started\"; read go < \"$HOME/go\"\n{WRITES}\n{CONTENT}"
    ));
    let job = machine.job("k1", TaskKind::Builder);
    until_killed(&machine, async |watched| {
        let mut started = machine.gate("started");
        watched.start(&job).await;
        started.hear().await;
    });
    now(async {
        let mut watched = machine.executor();
        assert_eq!(
            watched.sight("k1").await,
            Sight::Waiting,
            "known before it is taken up"
        );
        assert_eq!(watched.executor.resume().await.expect("resumed"), 1);
        assert_eq!(watched.sight("k1").await, Sight::Working);
        assert!(watched.start(&job).await.begun, "the same run");
        assert!(
            !supervise_again(&machine, "k1").await.success(),
            "there is one"
        );
        // Held open until the agent has read it.
        let mut go = machine.gate("go");
        go.tell().await;
        watched.succeeded("k1").await;
        assert_eq!(machine.runs(), 1);
        assert_eq!(machine.pushed(), ["cyrus/eng-1/api"]);
    });
    now(async {
        let mut watched = machine.executor();
        assert_eq!(watched.executor.resume().await.expect("resumed"), 0);
        assert!(matches!(watched.sight("k1").await, Sight::Ended(_)));
        watched.tidied(&machine).await;
    });
}

#[test]
fn an_agent_that_ended_while_we_were_dead_has_not_worked_in_vain() {
    let machine = Machine::new(&format!(
        "echo $$ > \"$HOME/started\"; read go < \"$HOME/go\"\n{WRITES}\n{CONTENT}"
    ));
    until_killed(&machine, async |watched| {
        let mut started = machine.gate("started");
        watched.start(&machine.job("k1", TaskKind::Builder)).await;
        started.hear().await;
    });
    now(async {
        // Held open until the agent has read it.
        let mut go = machine.gate("go");
        go.tell().await;
        supervisor_gone(&machine, "k1/leg-1").await;
        // The worktree is there, the lock is free: still no second agent.
        assert!(supervise_again(&machine, "k1").await.success());
        let mut watched = machine.executor();
        watched.executor.resume().await.expect("resumed");
        watched.succeeded("k1").await;
        assert_eq!(machine.runs(), 1);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_agent_without_its_supervisor_is_ended_and_the_run_is_lost() {
    let machine = Machine::new(
        "setsid sleep 1000 & echo $! > \"$HOME/orphan.pid\"
        echo \"$$ $PPID\" > \"$HOME/started\"; sleep 1000",
    );
    let mut agent = String::new();
    until_killed(&machine, async |watched| {
        let mut started = machine.gate("started");
        watched.start(&machine.job("k1", TaskKind::Builder)).await;
        agent = started.hear().await;
    });
    let (agent, supervisor) = agent.split_once(' ').expect("two numbers");
    let pid = supervisor
        .parse()
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .expect("a number");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
    now(async {
        supervisor_gone(&machine, "k1/leg-1").await;
        assert!(lives(agent), "it takes more than that");
        let mut watched = machine.executor();
        assert_eq!(watched.executor.resume().await.expect("resumed"), 1);
        watched.failed_as("k1", FailureClass::Lost).await;
        assert!(!lives(agent));
        let orphan = fs::read_to_string(machine.at("home/orphan.pid")).expect("its number");
        assert!(!lives(orphan.trim()), "{orphan}");
        assert_eq!(machine.runs(), 1);
    });
}

#[test]
fn a_crash_between_the_pull_request_and_its_record_opens_no_second_one() {
    let machine = Machine::new(&format!("{WRITES}\n{CONTENT}"));
    until_killed(&machine, async |watched| {
        let (tell, told) = oneshot::channel();
        *machine.forge.swallow.lock().expect("no poison") = Some(tell);
        watched.start(&machine.job("k1", TaskKind::Builder)).await;
        timeout(LONG, told).await.expect("in time").expect("opened");
    });
    now(async {
        let mut watched = machine.executor();
        assert_eq!(watched.executor.resume().await.expect("resumed"), 1);
        let result = watched.succeeded("k1").await;
        assert_eq!(
            result.pull_url.as_deref(),
            Some("https://forge.example/o/r/pull/1")
        );
        assert_eq!(
            (machine.runs(), machine.pushed()),
            (1, vec!["cyrus/eng-1/api".to_owned()])
        );
        assert_eq!(machine.forge.opened.lock().expect("no poison").len(), 1);
    });
}

#[test]
fn jobs_that_were_waiting_are_begun_by_the_next_one() {
    let mut machine = Machine::new(&format!(
        "echo $$ > \"$HOME/started\"; read go < \"$HOME/go\"\n{CONTENT}"
    ));
    machine.concurrency = 1;
    until_killed(&machine, async |watched| {
        let mut started = machine.gate("started");
        for key in ["k1", "k2"] {
            watched.start(&machine.job(key, TaskKind::Scoper)).await;
        }
        watched.stop("k2").await;
        watched.start(&machine.job("k3", TaskKind::Scoper)).await;
        started.hear().await;
    });
    now(async {
        let mut watched = machine.executor();
        watched.executor.resume().await.expect("resumed");
        let (mut started, mut go) = (machine.gate("started"), machine.gate("go"));
        go.tell().await;
        watched.succeeded("k1").await;
        started.hear().await;
        go.tell().await;
        watched.succeeded("k3").await;
        watched.failed_as("k2", FailureClass::Cancelled).await;
        assert_eq!(machine.runs(), 2);
    });
}
