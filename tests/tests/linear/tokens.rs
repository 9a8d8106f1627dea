//! The client's token, where it mints its own.

use std::sync::Arc;

use futures_util::future::join_all;
use jiff::Timestamp;
use shared::issue::{FailureClass, Fault};
use shared::linear::{App, Auth, Client};
use shared::ports::{RegisterWrite, Registers};
use shared::store::memory::MemoryLog;
use world::faults::Trouble;

use crate::{Scene, client_of, given, noon};

const ID: &str = "client-of-the-test";
const SECRET: &str = "hush-of-the-test";
/// Callers at the same moment.
const CALLERS: usize = 8;

impl Scene {
    fn minting(&self, secret: &str) -> Client {
        self.copy(secret, Arc::new(MemoryLog::default()))
    }

    /// One of several copies of us, over what they share.
    fn copy(&self, secret: &str, registers: Arc<MemoryLog>) -> Client {
        self.linear().access.accept_client(ID, SECRET);
        let app = App {
            oauth_url: format!("{}/oauth/token", self.server.url()),
            id: ID.into(),
            secret: secret.into(),
            registers,
        };
        client_of(&self.server, Auth::Client(app))
    }

    fn minted(&self) -> usize {
        self.linear().access.minted_count()
    }
}

async fn all_at_once(client: &Client) {
    for viewer in join_all((0..CALLERS).map(|_| client.viewer())).await {
        viewer.expect("the token is good");
    }
}

#[tokio::test]
async fn one_token_serves_all_who_ask_at_once() {
    let scene = Scene::new().await;
    let client = scene.minting(SECRET);
    all_at_once(&client).await;
    all_at_once(&client).await;
    assert_eq!(scene.minted(), 1);
}

#[tokio::test]
async fn a_token_that_is_no_longer_good_is_replaced_once() {
    let scene = Scene::new().await;
    let client = scene.minting(SECRET);
    all_at_once(&client).await;
    scene.linear().access.revoke_minted();
    all_at_once(&client).await;
    assert_eq!(scene.minted(), 2);
}

#[tokio::test]
async fn copies_of_us_share_one_token_and_do_not_end_each_others() {
    let scene = Scene::new().await;
    let registers = Arc::new(MemoryLog::default());
    let copies: Vec<Client> = (0..CALLERS)
        .map(|_| scene.copy(SECRET, Arc::clone(&registers)))
        .collect();
    let all = async || {
        for viewer in join_all(copies.iter().map(Client::viewer)).await {
            viewer.expect("the token is good");
        }
    };
    all().await;
    assert_eq!(scene.minted(), 1, "one takes a turn, the others its token");
    for round in 2..5 {
        scene.linear().access.revoke_minted();
        all().await;
        all().await;
        assert_eq!(scene.minted(), round);
    }
    let late = scene.copy(SECRET, Arc::clone(&registers));
    late.viewer().await.expect("the token is good");
    assert_eq!(scene.minted(), 4, "who begins later needs no new one");
}

#[tokio::test]
async fn a_turn_that_broke_off_is_over_in_the_end() {
    let scene = Scene::new().await;
    let registers = Arc::new(MemoryLog::default());
    scene
        .copy("wrong-of-the-test", Arc::clone(&registers))
        .viewer()
        .await
        .expect_err("no token");
    let client = scene.copy(SECRET, Arc::clone(&registers));
    client
        .viewer()
        .await
        .expect("a turn that came to nothing keeps nobody");
    // Somebody was killed in the middle of one.
    let token = registers
        .list("tokens", noon())
        .await
        .expect("a list")
        .remove(0);
    let turn = |ends: Timestamp| RegisterWrite {
        shelf: "tokens".into(),
        name: token.name.clone(),
        value: Some(serde_json::json!({ "turn_ends": ends })),
        expires_at: None,
    };
    registers
        .put(turn(noon()), token.version, noon())
        .await
        .expect("a write");
    scene.linear().access.revoke_minted();
    client.viewer().await.expect("its turn is over");
    assert_eq!(scene.minted(), 2);
}

#[tokio::test]
async fn a_new_token_that_is_refused_too_is_the_end_of_it() {
    let scene = Scene::new().await;
    let client = scene.minting(SECRET);
    for _ in 0..2 {
        let body = "{}".into();
        scene.faults.next(
            "Viewer",
            Trouble::Status {
                status: 401,
                body,
                retry_after: None,
            },
        );
    }
    let fault = client.viewer().await.expect_err("refused twice");
    assert!(
        matches!(
            fault,
            Fault::Permanent {
                class: FailureClass::Auth,
                ..
            }
        ),
        "{fault:?}"
    );
    assert_eq!((scene.minted(), scene.faults.left()), (2, 0));
}

#[tokio::test]
async fn a_given_token_that_is_refused_is_not_sent_again() {
    let scene = Scene::new().await;
    let client = client_of(&scene.server, given("stale-of-the-test"));
    let fault = client.viewer().await.expect_err("nobody knows it");
    let why = "Linear refused `Viewer`: Authentication required, not authenticated".into();
    assert_eq!(
        fault,
        Fault::Permanent {
            class: FailureClass::Auth,
            why
        }
    );
}

#[tokio::test]
async fn wrong_credentials_are_told_without_showing_them() {
    let scene = Scene::new().await;
    let client = scene.minting("wrong-of-the-test");
    let why = "Linear gives no token: invalid_client".into();
    let expected = Err(Fault::Permanent {
        class: FailureClass::Auth,
        why,
    });
    assert_eq!(client.viewer().await, expected);
    let body = r#"{"error":"odd","error_description":"what is wrong-of-the-test?"}"#.into();
    scene.faults.next(
        "Token",
        Trouble::Status {
            status: 400,
            body,
            retry_after: None,
        },
    );
    let why = "Linear gives no token: odd what is ***?".into();
    assert_eq!(
        client.viewer().await,
        Err(Fault::Permanent {
            class: FailureClass::Auth,
            why
        })
    );
}

#[tokio::test]
async fn trouble_at_the_mint_is_told_apart() {
    let scene = Scene::new().await;
    let client = scene.minting(SECRET);
    let meet = |status, retry_after| {
        let body = "<html>".into();
        scene.faults.next(
            "Token",
            Trouble::Status {
                status,
                body,
                retry_after,
            },
        );
    };
    meet(503, None);
    let why = "Linear gives no token: HTTP status 503".into();
    assert_eq!(client.viewer().await, Err(Fault::Transient { why }));
    meet(429, Some(9));
    let why = "Linear gives no token: HTTP status 429".into();
    assert_eq!(
        client.viewer().await,
        Err(Fault::Busy {
            why,
            retry_after_seconds: Some(9)
        })
    );
    for trouble in [Trouble::Garbage, Trouble::DropBefore, Trouble::DropAfter] {
        scene.faults.next("Token", trouble.clone());
        let fault = client.viewer().await.expect_err("no token");
        assert!(
            matches!(fault, Fault::Transient { .. }),
            "{trouble:?}: {fault:?}"
        );
    }
    client.viewer().await.expect("and then it works");
}
