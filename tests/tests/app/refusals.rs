//! What GitHub refuses, and what the sentence about it says.

use std::sync::Arc;

use shared::github::app::{App, AppOptions};
use shared::issue::{FailureClass, Fault};
use shared::store::memory::MemoryLog;
use world::faults::Trouble;
use world::github::app::Key;

use crate::common::{Hands, class};
use crate::{APP, SLUG, Scene};

#[tokio::test]
async fn a_key_that_is_none_is_named_and_not_shown() {
    let scene = Scene::new().await;
    let cut = scene.key.pkcs1().replace("BEGIN RSA", "BEGIN");
    let short = scene.key.pkcs8()[..200].to_owned();
    for key in ["hush-of-the-test", "", &cut, &short] {
        let error = match App::new(scene.options(key)) {
            Ok(_) => panic!("`{key}` was taken"),
            Err(error) => format!("{error:#}"),
        };
        assert!(
            error.starts_with("GITHUB_APP_PRIVATE_KEY: is no private key of an App: give the"),
            "{error}"
        );
        assert!(!error.contains("hush") && !error.contains("MII"), "{error}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_app_says_what_to_do() {
    let scene = Scene::new().await;
    let other = Key::generate().expect("a key").pkcs1();
    let ours = || scene.options(&scene.key.pkcs1());
    let of = |app: &str, installation: &str| AppOptions {
        id: app.into(),
        installation_id: installation.into(),
        ..ours()
    };
    let suspend = |it: bool| scene.app(|app| app.suspended = it);
    for (options, suspended, remedy) in [
        (
            scene.options(&other),
            false,
            "GITHUB_APP_PRIVATE_KEY are of the same App",
        ),
        (of("99", "67"), false, "GITHUB_APP_ID and"),
        (
            of(APP, "68"),
            false,
            "the App has no installation 68: install it on",
        ),
        (
            ours(),
            true,
            "has been suspended): if it is suspended, unsuspend it",
        ),
    ] {
        suspend(suspended);
        let client = scene.client_with(options);
        let (class, why) = class(client.check_access(SLUG).await);
        assert_eq!(class, FailureClass::Auth);
        assert!(why.contains(remedy), "{why}");
        suspend(false);
    }
    // A clock that is wrong, ahead or behind.
    for seconds in [1200, -1200] {
        let clock = Hands::new();
        clock.forward(seconds);
        // Of a register of its own: by the other clock its turn lies far ahead.
        let options = AppOptions {
            clock: Arc::new(clock),
            registers: Arc::<MemoryLog>::default(),
            ..ours()
        };
        let (class, why) = class(scene.client_with(options).check_access(SLUG).await);
        assert_eq!(class, FailureClass::Auth);
        assert!(why.contains("that the clock here is right"), "{why}");
    }
    assert_eq!(scene.app(|it| it.minted()), 0);
}

#[tokio::test]
async fn trouble_at_the_minting_passes() {
    let scene = Scene::new().await;
    let client = scene.copy();
    let down = Trouble::Status {
        status: 503,
        body: "{}".into(),
        retry_after: None,
    };
    let busy = Trouble::Status {
        status: 429,
        body: "{}".into(),
        retry_after: Some(7),
    };
    for trouble in [down, Trouble::DropAfter, Trouble::Garbage] {
        scene.faults.next("token", trouble);
        let answer = client.check_access(SLUG).await;
        assert!(matches!(answer, Err(Fault::Transient { .. })), "{answer:?}");
    }
    scene.faults.next("token", busy);
    let answer = client.check_access(SLUG).await;
    let Err(Fault::Busy {
        retry_after_seconds: Some(7),
        ..
    }) = answer
    else {
        panic!("{answer:?}");
    };
    client.check_access(SLUG).await.expect("it has passed");
    assert_eq!(scene.faults.left(), 0);
}

#[tokio::test]
async fn what_the_installation_may_not_do_is_found_beforehand() {
    let scene = Scene::new().await;
    let app = scene.our_app();
    assert_eq!(app.check().await.as_deref(), Ok("cyrus-test for acme"));
    scene.app(|it| {
        it.permissions.insert("contents".into(), "read".into());
        it.permissions.remove("statuses");
    });
    let (_, why) = class(app.check().await);
    assert!(
        why.contains("`cyrus-test` lacks `contents: write`, `statuses: read`: add it under"),
        "{why}"
    );
    scene.app(|it| it.installed = false);
    let (_, why) = class(app.check().await);
    assert!(why.contains("the App has no installation 67"), "{why}");
}
