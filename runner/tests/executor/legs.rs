//! One process of an agent after another: messages, resumed sessions, and the
//! limits that all of them share.

use shared::issue::{FailureClass, TaskKind};
use shared::ports::Told;

use super::common::{CONTENT, INIT, Machine, write_script};
use super::crashes::{now, supervisor_gone, until_killed};

/// Listens until nothing more comes.
const HEARS_OUT: &str = "cat > /dev/null";

/// An agent that does `first` in its first process, and `then` in all others.
fn twice(first: &str, then: &str) -> Machine {
    Machine::new(&format!(
        "if [ $(wc -l < \"$HOME/runs\") -eq 1 ]; then\n{first}\nelse\n{then}\nfi"
    ))
}

/// An agent that says so when nothing more can be said to it, and waits.
fn closes() -> String {
    format!(
        "{INIT}\necho hello > hello.txt\n{CONTENT}\n{HEARS_OUT}
        echo closed > \"$HOME/started\"; read go < \"$HOME/go\""
    )
}

/// A result with what it cost: in all, and since the one before.
fn cost(total: f64, own: f64) -> String {
    let usage = format!(r#""model_usage_since_last_result":{{"m":{{"costUSD":{own}}}}}"#);
    CONTENT.replace(
        r#""total_cost_usd":0.25"#,
        &format!(r#""total_cost_usd":{total},{usage}"#),
    )
}

fn args(machine: &Machine) -> Vec<String> {
    machine.noted("args").lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_message_reaches_an_agent_at_work_once() {
    let machine = Machine::new(&format!(
        "{INIT}\necho $$ > \"$HOME/started\"
        IFS= read -r said; printf '%s\\n' \"$said\" >> \"$HOME/said\"
        echo hello > hello.txt\n{CONTENT}\n{HEARS_OUT}"
    ));
    let mut started = machine.gate("started");
    let mut watched = machine.executor();
    let job = machine.job("k1", TaskKind::Builder);
    watched.start(&job).await;
    started.hear().await;
    let progress = watched.executor.progress("k1").expect("it works");
    assert_eq!(progress.session.as_deref(), Some("s-1"));
    assert_eq!(progress.note.as_deref(), Some("I am at it."));
    for _ in 0..2 {
        assert_eq!(
            watched.tell("k1", "m1", "Also \"this\".").await,
            Told::Accepted
        );
    }
    watched.succeeded("k1").await;
    assert_eq!(machine.said(), [job.prompt.as_str(), "Also \"this\"."]);
    assert_eq!(machine.runs(), 1);
    assert_eq!(watched.executor.progress("k1"), None);
    // What was taken stays taken; what comes now is too late.
    assert_eq!(watched.tell("k1", "m1", "Also this.").await, Told::Accepted);
    assert_eq!(watched.tell("k1", "m2", "And that.").await, Told::TooLate);
    assert_eq!(watched.tell("k9", "m1", "?").await, Told::TooLate);
}

#[tokio::test]
async fn a_message_that_comes_too_late_for_a_leg_makes_another_one() {
    let again = format!(
        "{INIT}\necho more > more.txt\n{}\n{HEARS_OUT}",
        cost(0.5, 0.25)
    );
    let first = closes().replace(CONTENT, &cost(0.25, 0.25));
    let machine = twice(&first, &again);
    let (mut started, mut go) = (machine.gate("started"), machine.gate("go"));
    let mut watched = machine.executor();
    let mut job = machine.job("k1", TaskKind::Builder);
    job.cost_max = Some(1.0);
    watched.start(&job).await;
    started.hear().await;
    assert_eq!(watched.tell("k1", "m1", "And more.").await, Told::Accepted);
    assert_eq!(watched.tell("k1", "m2", "Please.").await, Told::Accepted);
    go.tell().await;
    let ending = watched.ended("k1").await;
    ending.result.expect("a success");
    assert_eq!(ending.cost_usd, Some(0.5), "no leg is counted twice");
    let said = machine.said();
    assert_eq!(said, [job.prompt.as_str(), "And more.\n\nPlease."]);
    let args = args(&machine);
    assert!(!args[0].contains("--resume"), "{args:?}");
    assert!(args[0].contains("--max-budget-usd 1 "), "{args:?}");
    assert!(args[1].contains("--resume s-1"), "{args:?}");
    assert!(args[1].contains("--max-budget-usd 0.75 "), "{args:?}");
    let show = |what: &str| machine.git("remote.git", &["show", what]);
    assert_eq!(show("cyrus/eng-1/api:hello.txt"), "hello");
    assert_eq!(show("cyrus/eng-1/api:more.txt"), "more");
}

#[test]
fn a_message_that_was_taken_outlives_us() {
    let machine = twice(&closes(), &format!("{INIT}\n{CONTENT}\n{HEARS_OUT}"));
    until_killed(&machine, async |watched| {
        let mut started = machine.gate("started");
        watched.start(&machine.job("k1", TaskKind::Builder)).await;
        started.hear().await;
        assert_eq!(watched.tell("k1", "m1", "And more.").await, Told::Accepted);
    });
    now(async {
        // Held open until the agent has read it.
        let mut go = machine.gate("go");
        go.tell().await;
        supervisor_gone(&machine, "k1/leg-1").await;
        let mut watched = machine.executor();
        watched.executor.resume().await.expect("resumed");
        watched.succeeded("k1").await;
        assert_eq!(machine.said()[1], "And more.");
        assert_eq!(machine.runs(), 2);
    });
}

#[tokio::test]
async fn a_message_that_nobody_can_hear_any_more_is_told_with_the_result() {
    let spent = closes().replace(CONTENT, &cost(1.0, 1.0));
    let slow = closes();
    for (agent, why) in [(&spent, "has spent"), (&slow, "the time")] {
        let machine = twice(agent, "exit 1");
        let (mut started, mut go) = (machine.gate("started"), machine.gate("go"));
        let mut watched = machine.executor();
        let mut job = machine.job("k1", TaskKind::Builder);
        job.cost_max = (why == "has spent").then_some(1.0);
        watched.start(&job).await;
        started.hear().await;
        if job.cost_max.is_none() {
            machine.clock.advance(job.seconds_max);
        }
        assert_eq!(watched.tell("k1", "m1", "And more.").await, Told::Accepted);
        go.tell().await;
        let result = watched.succeeded("k1").await;
        assert!(result.text.contains("could not be passed on"), "{result:?}");
        assert!(result.text.contains(why), "{result:?}");
        assert_eq!(machine.runs(), 1);
    }
}

#[tokio::test]
async fn a_message_for_a_job_that_waits_goes_along_with_its_prompt() {
    let mut machine = Machine::new(&format!(
        "echo $$ > \"$HOME/started\"; read go < \"$HOME/go\"\n{CONTENT}"
    ));
    machine.concurrency = 1;
    let (mut started, mut go) = (machine.gate("started"), machine.gate("go"));
    let mut watched = machine.executor();
    for key in ["k1", "k2"] {
        watched.start(&machine.job(key, TaskKind::Scoper)).await;
    }
    started.hear().await;
    assert_eq!(watched.tell("k2", "m1", "Be brief.").await, Told::Accepted);
    for key in ["k1", "k2"] {
        go.tell().await;
        watched.succeeded(key).await;
    }
    let prompt = machine.job("k2", TaskKind::Scoper).prompt;
    assert_eq!(machine.said()[1], format!("{prompt}\n\nBe brief."));
}

#[tokio::test]
async fn an_agent_that_does_not_listen_hears_in_its_next_leg() {
    let mut machine = Machine::new("exit 1");
    machine.codex = machine.at("home/codex");
    let script = r#"#!/bin/sh
        echo run >> "$HOME/runs"
        echo "$*" | tr '\n' ' ' >> "$HOME/args"; echo >> "$HOME/args"
        cat >> "$HOME/said"; echo >> "$HOME/said"
        echo '{"type":"thread.started","thread_id":"t-1"}'
        echo $$ > "$HOME/started"; read go < "$HOME/go"
        echo '{"type":"item.completed","item":{"id":"0","type":"agent_message","text":"Done."}}'
        echo '{"type":"turn.completed","usage":{}}'
    "#;
    write_script(&machine.codex, script, 0o755);
    let (mut started, mut go) = (machine.gate("started"), machine.gate("go"));
    let mut watched = machine.executor();
    let mut job = machine.job("k1", TaskKind::Scoper);
    job.agent.program = "codex".into();
    job.prompt = "Look.".into();
    watched.start(&job).await;
    started.hear().await;
    assert_eq!(watched.tell("k1", "m1", "Closer.").await, Told::Accepted);
    go.tell().await;
    started.hear().await;
    go.tell().await;
    assert_eq!(watched.succeeded("k1").await.text, "Done.");
    assert_eq!(machine.noted("said"), "Look.\nCloser.\n");
    assert!(args(&machine)[1].contains("resume t-1"));
}

/// A machine whose first agent was at work when we and its supervisor died, by
/// this signal; and its number.
#[cfg(target_os = "linux")]
fn cut_off(
    signal: rustix::process::Signal,
    says: &str,
    then: &str,
    cost_max: Option<f64>,
) -> (Machine, String) {
    let machine = twice(
        &format!(
            "{INIT}\n{says}\necho half > half.txt\necho \"$$ $PPID\" > \"$HOME/started\"
            IFS= read -r said; printf '%s\\n' \"$said\" >> \"$HOME/said\"
            echo heard > \"$HOME/started\"; sleep 1000"
        ),
        then,
    );
    let mut job = machine.job("k1", TaskKind::Builder);
    job.cost_max = cost_max;
    let mut pids = String::new();
    until_killed(&machine, async |watched| {
        let mut started = machine.gate("started");
        watched.start(&job).await;
        pids = started.hear().await;
        assert_eq!(
            watched.tell("k1", "m1", "By the way.").await,
            Told::Accepted
        );
        started.hear().await;
    });
    let (agent, supervisor) = pids.split_once(' ').expect("two numbers");
    let pid = supervisor.parse().ok();
    let pid = pid.and_then(rustix::process::Pid::from_raw).expect("one");
    rustix::process::kill_process(pid, signal).expect("killed");
    now(supervisor_gone(&machine, "k1/leg-1"));
    (machine, agent.to_owned())
}

#[cfg(target_os = "linux")]
#[test]
fn an_agent_that_was_cut_off_is_taken_up_again_by_its_session() {
    use rustix::process::Signal;
    let alone =
        "grep -q '^State:.[RSD]' /proc/$(cat \"$HOME/first\")/status && echo both > \"$HOME/both\"";
    let hears = "IFS= read -r said; printf '%s\\n' \"$said\" >> \"$HOME/said\"";
    let then = format!("{alone}\n{INIT}\n{hears}\necho rest > rest.txt\n{CONTENT}\n{HEARS_OUT}");
    for signal in [Signal::KILL, Signal::TERM] {
        let (machine, first) = cut_off(signal, "", &then, None);
        std::fs::write(machine.at("home/first"), first).expect("written");
        now(async {
            let mut watched = machine.executor();
            watched.executor.resume().await.expect("resumed");
            watched.succeeded("k1").await;
        });
        assert!(!machine.at("home/both").exists(), "never two at once");
        assert!(args(&machine)[1].contains("--resume s-1"));
        let said = machine.said();
        assert!(said[2].starts_with("You were cut off"), "{said:?}");
        // It may have got lost with the first leg, so it is said again; by its id
        // the agent knows whether it has it.
        assert_eq!(
            (said[1].as_str(), said[3].as_str()),
            ("By the way.", "By the way.")
        );
        let lines = machine.noted("said");
        let lines: Vec<&str> = lines.lines().collect();
        assert_eq!(lines[1], lines[3]);
        assert_ne!(lines[0], lines[2]);
        let show = |what: &str| machine.git("remote.git", &["show", what]);
        assert_eq!(show("cyrus/eng-1/api:half.txt"), "half");
        assert_eq!(show("cyrus/eng-1/api:rest.txt"), "rest");
    }
}

/// A message of the model that took in as many tokens.
fn tokens(input: u32) -> String {
    format!(
        r#"echo '{{"type":"assistant","message":{{"id":"m","model":"claude-sonnet-4-5","content":[],"usage":{{"input_tokens":{input},"output_tokens":1}}}}}}'"#
    )
}

#[cfg(target_os = "linux")]
#[test]
fn what_an_agent_has_spent_that_died_is_not_spent_again() {
    let kill = rustix::process::Signal::KILL;
    let then = format!("{INIT}\necho rest > rest.txt\n{CONTENT}\n{HEARS_OUT}");
    // At 3 USD for a million.
    let (machine, _) = cut_off(kill, &tokens(100_000), &then, Some(1.0));
    now(async {
        let mut watched = machine.executor();
        watched.executor.resume().await.expect("resumed");
        let ending = watched.ended("k1").await;
        ending.result.expect("a success");
        // Both legs, the first by its tokens.
        let usd = ending.cost_usd.expect("an estimate");
        assert!(
            (0.55..0.56).contains(&usd) && ending.cost_is_estimate,
            "{usd}"
        );
        let args = args(&machine);
        assert!(args[1].contains("--max-budget-usd 0.69"), "{args:?}");
    });
    let (machine, _) = cut_off(kill, &tokens(400_000), &then, Some(1.0));
    now(async {
        let mut watched = machine.executor();
        watched.executor.resume().await.expect("resumed");
        let ending = watched.ended("k1").await;
        let failure = ending.result.expect_err("a failure");
        assert_eq!(failure.class, FailureClass::Budget, "{failure:?}");
        assert!(failure.message.contains("not have heard 1"), "{failure:?}");
        let usd = ending.cost_usd.expect("an estimate");
        assert!(
            (1.2..1.21).contains(&usd) && ending.cost_is_estimate,
            "{usd}"
        );
        assert_eq!(machine.runs(), 1);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_agent_that_knows_its_session_no_more_is_lost() {
    let forgot = r#"echo '{"type":"result","subtype":"error_during_execution","is_error":true,"session_id":"s-1","errors":["No conversation found"],"total_cost_usd":0}'; exit 1"#;
    let (machine, _) = cut_off(rustix::process::Signal::KILL, "", forgot, None);
    now(async {
        let mut watched = machine.executor();
        watched.executor.resume().await.expect("resumed");
        let failure = watched.failed("k1").await;
        assert_eq!(failure.class, FailureClass::Lost, "{failure:?}");
        assert!(
            failure.message.contains("No conversation found"),
            "{failure:?}"
        );
        assert_eq!(machine.runs(), 2);
    });
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_agent_that_dies_again_and_again_is_given_up() {
    let machine = Machine::new(&format!("{INIT}\nkill -KILL $PPID; sleep 1000"));
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    let failure = watched.failed("k1").await;
    assert_eq!(failure.class, FailureClass::Lost, "{failure:?}");
    assert!(failure.message.contains("4 times"), "{failure:?}");
    assert_eq!(machine.runs(), 4);
}

#[tokio::test]
async fn a_stop_between_two_legs_is_heard_at_once() {
    // The machine seems to go down: the next leg is put off for a while.
    let machine = Machine::new(&format!(
        "{INIT}\necho $$ > \"$HOME/started\"; kill -TERM $PPID; sleep 1000"
    ));
    let mut started = machine.gate("started");
    let mut watched = machine.executor();
    watched.start(&machine.job("k1", TaskKind::Builder)).await;
    started.hear().await;
    supervisor_gone(&machine, "k1/leg-1").await;
    watched.stop("k1").await;
    watched.failed_as("k1", FailureClass::Cancelled).await;
    assert_eq!(machine.runs(), 1);
}
