//! Jobs that are pushed to a runner with an address, in processes of their own.

use std::fs;
use std::net::TcpListener;

use secrecy::SecretString;
use serde_json::{Value, json};
use shared::runner::signature::{SIGNATURE, Signed, TIMESTAMP, sign};

use crate::far::{
    Machine, TOKEN, all_tasks_are_merged, begun, control_plane, control_plane_with_heartbeats, go,
    patient_control_plane, small_issue, until,
};
use crate::town::{Town, is_done, planned_issue, state};

/// An address that nobody has at the moment.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// A control plane whose address stays the same, and the addresses of runners.
fn with_runners<const N: usize>(town: &mut Town) -> [String; N] {
    let addresses = [(); N].map(|()| free_address());
    let urls: Vec<String> = addresses.iter().map(|it| format!("http://{it}")).collect();
    let variables = &mut town.variables;
    variables.insert("CYRUS_RUNNER_URL".into(), urls.join(","));
    variables.insert("CYRUS_LISTEN".into(), free_address());
    addresses
}

/// A request that is signed like this; its status.
async fn send(town: &Town, url: &str, body: &Value, token: &str, at: i64) -> u16 {
    let body = body.to_string().into_bytes();
    let path = url.splitn(4, '/').nth(3).expect("a path");
    let signed = Signed {
        method: "POST",
        path: &format!("/{path}"),
        body: &body,
    };
    let signature = sign(&SecretString::from(token), at, signed);
    let request = town.http.post(url).header(TIMESTAMP, at);
    let request = request.header(SIGNATURE, signature).body(body);
    request.send().await.expect("an answer").status().as_u16()
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_pushed_to_a_runner_with_an_address() {
    let mut town = control_plane().await;
    let [address] = with_runners(&mut town);
    town.start().await;
    let mut machine = Machine::new(&town, "mac");
    machine.listen(&address);
    machine.start();
    let (identifier, session) = town.hand_over(planned_issue()).await;
    let issue = town.until(&identifier, is_done).await;
    all_tasks_are_merged(&issue);
    town.assert_once(&session);
    assert_eq!(town.jobs().len(), 0, "no agent ran at the control plane");
    until("all leases are given back", || machine.leases() == 0).await;
    machine.assert_one_agent_each(5);
    assert_eq!(machine.worktrees(), 0, "nothing is left of what is merged");
    assert!(machine.terminate().await, "it ends well when asked to");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_goes_on_where_it_was() {
    for push in [true, false] {
        // Nobody is away for as long as a lease.
        let mut town = control_plane_with_heartbeats(4.0).await;
        // Slow enough to be hit in the middle.
        fs::write(town.folder.path().join("bin/speed"), "300").expect("its speed");
        let addresses: [String; 1] = with_runners(&mut town);
        let mut machine = Machine::at(&town, "mac", &town.variables["CYRUS_LISTEN"].clone());
        if push {
            machine.listen(&addresses[0]);
        } else {
            town.variables.remove("CYRUS_RUNNER_URL");
        }
        town.start().await;
        machine.start();
        let (identifier, session) = town.hand_over(planned_issue()).await;
        let mut issue = Value::Null;
        for round in 1..=8 {
            let seq = town.seq(&identifier).await + 3 + round % 3;
            issue = town
                .until_seq(&identifier, |it, now| is_done(it) || now >= seq)
                .await;
            if is_done(&issue) {
                break;
            }
            if round % 2 == 0 {
                town.kill().await;
                town.start().await;
            } else {
                machine.kill().await;
                machine.start();
            }
        }
        if !is_done(&issue) {
            issue = town.until(&identifier, is_done).await;
        }
        all_tasks_are_merged(&issue);
        town.assert_once(&session);
        machine.assert_one_agent_each(5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sleeps_through_a_lease_that_was_pushed_is_not_heard() {
    let mut town = patient_control_plane().await;
    let [first, second] = with_runners(&mut town);
    town.start().await;
    let mut sleeper = Machine::new(&town, "sleeper");
    sleeper.listen(&first);
    sleeper.start();
    let (identifier, session) = town.hand_over(small_issue()).await;
    until("an agent begins", || begun(&town) == 1).await;
    sleeper.signal("-STOP");
    let mut other = Machine::new(&town, "other");
    other.listen(&second);
    other.start();
    until("another one has the job", || begun(&town) == 2).await;
    go(&town);
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(issue["tasks"][0]["attempt"], 1);
    let exit = sleeper.jobs()[0].join("leg-1/exit.json");
    until("the sleeper's agent ends", || exit.exists()).await;
    sleeper.signal("-CONT");
    until("the sleeper gives up", || {
        sleeper.leases() == 0 && sleeper.jobs()[0].join("result.json").exists()
    })
    .await;
    assert_eq!(town.stage.github.lock().merges().len(), 1);
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_jobs_share_two_slots() {
    const ISSUES: usize = 20;
    for push in [true, false] {
        let mut town = patient_control_plane().await;
        let [address] = with_runners(&mut town);
        let mut machine = Machine::at(&town, "mac", &town.variables["CYRUS_LISTEN"].clone());
        if push {
            machine.listen(&address);
        } else {
            town.variables.remove("CYRUS_RUNNER_URL");
        }
        town.start().await;
        machine.start();
        let mut issues = Vec::new();
        for _ in 0..ISSUES {
            issues.push(town.hand_over(small_issue()).await);
        }
        until("both slots are taken", || begun(&town) == 2).await;
        for (identifier, _) in &issues {
            town.until(identifier, |it| state(it, "main") == "running")
                .await;
        }
        assert_eq!(begun(&town), 2, "and no more");
        go(&town);
        for (identifier, session) in &issues {
            let issue = town.until(identifier, is_done).await;
            assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
            town.assert_once(session);
        }
        machine.assert_one_agent_each(ISSUES);
        until("all leases are given back", || machine.leases() == 0).await;
        until("all worktrees are gone", || machine.worktrees() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_forged_replayed_or_anothers_is_refused() {
    let mut town = patient_control_plane().await;
    let [address] = with_runners(&mut town);
    town.start().await;
    let mut machine = Machine::new(&town, "mac");
    machine.listen(&address);
    machine.start();
    let (identifier, session) = town.hand_over(small_issue()).await;
    until("an agent begins", || begun(&town) == 1).await;
    let lease = machine.lease();
    let key = lease["job"].as_str().expect("a job");
    let door = format!("http://{address}/jobs");

    // The push itself, once more, and changed.
    assert_eq!(send(&town, &door, &lease, TOKEN, now()).await, 409);
    assert_eq!(
        send(&town, &door, &lease, "another token", now()).await,
        401
    );
    assert_eq!(send(&town, &door, &lease, TOKEN, now() - 301).await, 401);
    let changed = |key: &str, value: Value| {
        let mut changed = lease.clone();
        changed["job"] = json!("another");
        changed[key] = value;
        changed
    };
    for callback in [
        "http://127.0.0.1:9/runner/v1/jobs/x",
        "https://evil.example/runner/v1/jobs/x",
    ] {
        let stolen = changed("callback", json!(callback));
        assert_eq!(send(&town, &door, &stolen, TOKEN, now()).await, 422);
    }
    let elsewhere = changed("repository", json!("elsewhere"));
    assert_eq!(send(&town, &door, &elsewhere, TOKEN, now()).await, 422);
    assert_eq!(send(&town, &door, &json!({}), TOKEN, now()).await, 400);
    let unsigned = town.http.post(&door).body(lease.to_string()).send().await;
    assert_eq!(unsigned.expect("an answer").status(), 401);

    // What is called back.
    let callback = lease["callback"].as_str().expect("a callback");
    let result = format!("{callback}/result");
    let beat = format!("{callback}/heartbeat");
    let said = |runner: &str, fence: u64| {
        json!({ "runner": runner, "fence": fence, "outcome": "succeeded", "text": "I did it.",
                "pr_url": "https://evil.example/pull/1", "changed_files": ["x"], "cost_usd": 0.0 })
    };
    let runner = machine.name();
    assert_eq!(
        send(&town, &result, &said("another", 1), TOKEN, now()).await,
        409
    );
    assert_eq!(
        send(&town, &result, &said(&runner, 7), TOKEN, now()).await,
        409
    );
    assert_eq!(
        send(&town, &beat, &said("another", 1), TOKEN, now()).await,
        409
    );
    assert_eq!(
        send(&town, &result, &said(&runner, 1), "forged", now()).await,
        401
    );
    let unknown = callback.replace(key, "nobody");
    let unknown = format!("{unknown}/result");
    assert_eq!(
        send(&town, &unknown, &said(&runner, 1), TOKEN, now()).await,
        404
    );

    go(&town);
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    // A result once more, and another one for what has ended.
    assert_eq!(
        send(&town, &result, &said(&runner, 1), TOKEN, now()).await,
        200
    );
    assert_eq!(
        send(&town, &result, &said("another", 1), TOKEN, now()).await,
        409
    );
    let after = town.until(&identifier, is_done).await;
    assert_eq!(after, issue, "nothing has changed");
    // And the push of what has ended.
    until("its lease is given back", || machine.leases() == 0).await;
    assert_eq!(send(&town, &door, &lease, TOKEN, now()).await, 409);
    assert_eq!(begun(&town), 1);
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_writes_reaches_an_agent_elsewhere() {
    let mut town = patient_control_plane().await;
    let [address] = with_runners(&mut town);
    town.start().await;
    let mut machine = Machine::new(&town, "mac");
    machine.listen(&address);
    machine.start();
    let (identifier, session) = town.hand_over(small_issue()).await;
    until("an agent begins", || begun(&town) == 1).await;
    town.until(&identifier, |it| state(it, "main") == "running")
        .await;
    let prompt = town
        .stage
        .linear()
        .prompt(&session, "paint it green", jiff::Timestamp::now())
        .expect("a prompt");
    assert_eq!(town.deliver(&prompt).await, 200);
    let heard = town.folder.path().join("home/heard");
    until("the agent hears of it", || {
        fs::read_to_string(&heard).is_ok_and(|it| it.contains("paint it green"))
    })
    .await;
    go(&town);
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!((begun(&town), machine.jobs().len()), (1, 1));
    town.assert_once(&session);
}
