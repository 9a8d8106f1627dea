//! `cyrus doctor` on the machine of a runner.

use std::process::Command;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::DATE;
use axum::routing::{get, post};
use jiff::{SignedDuration, Timestamp};
use tokio::net::TcpListener;

use crate::far::{Machine, control_plane};

const CYRUS: &str = env!("CARGO_BIN_EXE_cyrus");

/// Whether all is well, and what was said.
fn doctor(machine: &Machine) -> (bool, String) {
    let output = Command::new(CYRUS)
        .arg("doctor")
        .env_clear()
        .envs(&machine.variables)
        .output()
        .expect("the binary runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), said + &complaint)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_asks_the_control_plane_whether_it_would_take_the_runner() {
    let mut town = control_plane().await;
    town.start().await;
    let mut machine = Machine::new(&town, "mac");
    let (well, said) = doctor(&machine);
    assert!(well, "{said}");
    for found in [
        "ok   control plane",
        "ok   clock",
        "ok   CYRUS_RUNNER_TOKEN",
        "ok   repository app",
        "ok   GitHub acme/app",
        "ok   git",
        "ok   Claude Code",
    ] {
        assert!(said.contains(found), "{found} in {said}");
    }
    for foreign in ["Linear", "webhooks", "Codegen", "store"] {
        assert!(!said.contains(foreign), "{foreign} in {said}");
    }

    let token = "CYRUS_RUNNER_TOKEN";
    machine.variables.insert(token.into(), "another".into());
    let (well, said) = doctor(&machine);
    assert!(!well && said.contains("ok   control plane"), "{said}");
    assert!(said.contains("BAD  CYRUS_RUNNER_TOKEN"), "{said}");
    assert!(said.contains("the same there"), "{said}");
    machine.variables.remove(token);
    let (well, said) = doctor(&machine);
    assert!(!well && said.contains("BAD  CYRUS_RUNNER_TOKEN"), "{said}");
    assert!(said.contains("is not set"), "{said}");

    // What is set up for Linear, too, is a service of its own.
    machine.variables.extend(town.variables.clone());
    let (_, said) = doctor(&machine);
    assert!(
        said.contains("ok   Linear") && said.contains("ok   store"),
        "{said}"
    );

    machine
        .variables
        .retain(|name, _| !name.starts_with("LINEAR"));
    assert!(town.terminate().await);
    let (well, said) = doctor(&machine);
    assert!(!well && said.contains("BAD  control plane"), "{said}");
    assert!(said.contains("CYRUS_CONTROL_URL is its address"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_by_how_much_a_clock_is_off() {
    let town = control_plane().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let health = get(|| async {
        let then = Timestamp::now() - SignedDuration::from_secs(1_000);
        let date = then.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        ([(DATE, date)], "ok")
    });
    let lease = post(|| async { StatusCode::UNAUTHORIZED });
    let routes = Router::new()
        .route("/healthz", health)
        .route("/runner/v1/lease", lease);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let machine = Machine::at(&town, "mac", &address);
    let (well, said) = doctor(&machine);
    assert!(!well && said.contains("BAD  clock"), "{said}");
    let off = ["1000", "1001", "1002", "1003"];
    let told = off.map(|it| format!("{it} seconds ahead of"));
    assert!(told.iter().any(|it| said.contains(it)), "{said}");
}
