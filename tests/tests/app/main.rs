//! GitHub's App against the stand-in, and what GitHub delivers.

#[path = "../common/mod.rs"]
mod common;
mod deliveries;
mod payloads;
mod refusals;
mod settings;

use std::sync::Arc;

use futures_util::future::join_all;
use secrecy::SecretString;
use shared::github::app::{Access, App, AppOptions};
use shared::github::{Client, Options};
use shared::ports::Clock;
use shared::store::memory::MemoryLog;
use world::faults::Faults;
use world::github::app::{App as AppOfWorld, Key};
use world::github::{GitHub, Paper, Shared, router};
use world::serve::Server;

use common::Hands;

const SLUG: &str = "acme/shop";
const APP: &str = "12345";
const INSTALLATION: u64 = 67;
/// Callers at the same moment.
const CALLERS: usize = 8;

struct Scene {
    github: Shared,
    faults: Faults,
    clock: Hands,
    key: Key,
    /// What all copies of us share.
    registers: Arc<MemoryLog>,
    server: Server,
}

impl Scene {
    async fn new() -> Self {
        let clock = Hands::new();
        let key = Key::generate().expect("a key");
        let mut github = GitHub::new("a token that nobody has");
        github.add(SLUG, Paper::new("main"));
        github.app = Some(AppOfWorld::new(APP, INSTALLATION, &key));
        let tell = clock.clone();
        let github = Shared::new(github, Arc::new(move || tell.now()));
        let faults = Faults::default();
        let server = Server::start(router(github.clone(), faults.clone())).await;
        Self {
            github,
            faults,
            clock,
            key,
            registers: Arc::default(),
            server: server.expect("a server"),
        }
    }

    /// Changes GitHub's side of it.
    fn app<T>(&self, change: impl FnOnce(&mut AppOfWorld) -> T) -> T {
        change(self.github.lock().app.as_mut().expect("an App"))
    }

    fn options(&self, key: &str) -> AppOptions {
        AppOptions {
            api_url: self.server.url(),
            id: APP.into(),
            installation_id: INSTALLATION.to_string(),
            key: SecretString::from(key).into(),
            registers: self.registers.clone(),
            clock: Arc::new(self.clock.clone()),
        }
    }

    fn our_app(&self) -> App {
        App::new(self.options(&self.key.pkcs1())).expect("a good key")
    }

    fn client_with(&self, options: AppOptions) -> Client {
        Client::new(Options {
            api_url: self.server.url(),
            token: Access::App(Box::new(App::new(options).expect("a good key"))),
            clock: Arc::new(self.clock.clone()),
        })
        .expect("a client")
    }

    /// One of several copies of us.
    fn copy(&self) -> Client {
        self.client_with(self.options(&self.key.pkcs1()))
    }
}

async fn all_at_once(copies: &[Client]) {
    let calls = copies
        .iter()
        .flat_map(|it| (0..CALLERS).map(|_| it.check_access(SLUG)));
    for call in join_all(calls).await {
        call.expect("the token is good");
    }
}

#[tokio::test]
async fn copies_of_us_share_one_token_of_the_installation() {
    let scene = Scene::new().await;
    let copies = [scene.copy(), scene.copy(), scene.copy()];
    all_at_once(&copies).await;
    assert_eq!(scene.app(|it| it.minted()), 1, "all share one");
    scene.app(AppOfWorld::revoke);
    all_at_once(&copies).await;
    assert_eq!(scene.app(|it| it.minted()), 2, "one mints for all");
    // Who comes later takes up what is there.
    all_at_once(&[scene.copy()]).await;
    assert_eq!(scene.app(|it| it.minted()), 2);
}

#[tokio::test]
async fn a_token_is_replaced_before_it_ends() {
    let scene = Scene::new().await;
    let copies = [scene.copy(), scene.copy()];
    all_at_once(&copies).await;
    scene.clock.forward(54 * 60);
    all_at_once(&copies).await;
    assert_eq!(scene.app(|it| it.minted()), 1, "it is still good");
    // The hour is not over: nothing was refused.
    scene.clock.forward(90);
    all_at_once(&copies).await;
    assert_eq!(scene.app(|it| it.minted()), 2, "it ends soon");
}

#[tokio::test]
async fn a_key_may_be_written_in_each_of_its_forms() {
    let scene = Scene::new().await;
    let in_one_line = scene.key.pkcs1().replace('\n', "\\n");
    for key in [scene.key.pkcs1(), scene.key.pkcs8(), in_one_line] {
        // With a register of its own each has to mint.
        let options = AppOptions {
            registers: Arc::<MemoryLog>::default(),
            ..scene.options(&key)
        };
        let client = scene.client_with(options);
        client.check_access(SLUG).await.expect("the key is good");
    }
    assert_eq!(scene.app(|it| it.minted()), 3);
}
