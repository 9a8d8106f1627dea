//! The client's token, where it mints its own.

use futures_util::future::join_all;
use shared::issue::{FailureClass, Fault};
use shared::linear::{Auth, Client};
use world::faults::Trouble;

use crate::{Scene, client_of};

const ID: &str = "client-of-the-test";
const SECRET: &str = "hush-of-the-test";
/// Callers at the same moment.
const CALLERS: usize = 8;

impl Scene {
    fn minting(&self, secret: &str) -> Client {
        self.linear().access.accept_client(ID, SECRET);
        let oauth_url = format!("{}/oauth/token", self.server.url());
        client_of(
            &self.server,
            Auth::Client {
                oauth_url,
                id: ID.into(),
                secret: secret.into(),
            },
        )
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
    let client = client_of(&scene.server, Auth::Token("stale-of-the-test".into()));
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
