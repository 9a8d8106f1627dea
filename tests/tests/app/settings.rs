//! The App by its variables.

use std::path::Path;
use std::sync::Arc;

use shared::config::{self, Env, Settings};
use shared::ports::Registers;
use shared::store::memory::MemoryLog;
use shared::wire;
use world::faults::Faults;
use world::github::app::{App, Key};
use world::github::{GitHub, Paper, Shared, router};
use world::serve::Server;

use crate::{APP, INSTALLATION, SLUG};

const TOKEN: &str = "ghp_of_a_person";

fn settings(variables: &[(&str, &str)]) -> Result<Settings, String> {
    let env: Env = variables.iter().copied().collect();
    let home = Path::new("/home/ann/.cyrus");
    let loaded = config::parse(r#"{ "repositories": [] }"#, "config.json", None, &env, home);
    loaded.map(|it| it.settings).map_err(|it| it.to_string())
}

#[test]
fn an_app_is_given_whole_or_not_at_all() {
    let all = [
        ("GITHUB_APP_ID", "1"),
        ("GITHUB_APP_INSTALLATION_ID", "2"),
        ("GITHUB_APP_PRIVATE_KEY", "a key"),
    ];
    assert!(settings(&all).expect("all").github.app.is_some());
    assert!(settings(&[]).expect("none").github.app.is_none());
    for missing in 0..all.len() {
        let mut some = all.to_vec();
        let (name, _) = some.remove(missing);
        let error = settings(&some).expect_err(name);
        let told = format!("`{name}` in the environment: is not set: an App needs its id");
        assert_eq!(error.matches("is not set").count(), 1, "{error}");
        assert!(error.contains(&told), "{error}");
    }
    let mut wrong = all;
    wrong[1].1 = "acme";
    let error = settings(&wrong).expect_err("no number");
    assert!(
        error.contains("`GITHUB_APP_INSTALLATION_ID` in the environment: must be the number"),
        "{error}"
    );
    assert!(!error.contains("is not set"), "{error}");
}

#[tokio::test]
async fn the_app_goes_with_calls_unless_there_is_a_token_and_its_key_may_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let pem = folder.path().join("app.pem");
    let key = Key::generate().expect("a key");
    std::fs::write(&pem, key.pkcs1()).expect("a file");
    let mut github = GitHub::new(TOKEN);
    github.add(SLUG, Paper::new("main"));
    github.app = Some(App::new(APP, INSTALLATION, &key));
    let github = Shared::now(github);
    let server = Server::start(router(github.clone(), Faults::default())).await;
    let url = server.expect("a server");
    let (address, installation) = (url.url(), INSTALLATION.to_string());
    let file = format!("file:{}", pem.display());
    let mut variables = vec![
        ("GITHUB_API_URL", address.as_str()),
        ("GITHUB_APP_ID", APP),
        ("GITHUB_APP_INSTALLATION_ID", &installation),
        ("GITHUB_APP_PRIVATE_KEY", &file),
    ];
    let by_app = settings(&variables).expect("good settings");
    variables.push(("GITHUB_TOKEN", TOKEN));
    let by_token = settings(&variables).expect("good settings");
    let minted = || github.lock().app.as_ref().map_or(0, App::minted);

    let registers: Arc<dyn Registers> = Arc::<MemoryLog>::default();
    let forge = wire::forge(&by_token, &registers).expect("a forge");
    forge.check_access(SLUG).await.expect("the token is good");
    assert_eq!(minted(), 0);
    let forge = wire::forge(&by_app, &registers).expect("a forge");
    forge.check_access(SLUG).await.expect("the App is let in");
    assert_eq!(minted(), 1);

    // Somebody makes another key, and takes the old one away.
    let other = Key::generate().expect("a key");
    std::fs::write(&pem, other.pkcs8()).expect("a file");
    github.lock().app = Some(App::new(APP, INSTALLATION, &other));
    forge.check_access(SLUG).await.expect("the new key is read");
    assert_eq!(minted(), 1);
}
