//! The GitHub client against the stand-in, over loopback and a real git repository.

mod common;
#[path = "github/merging.rs"]
mod merging;
#[path = "github/reading.rs"]
mod reading;
#[path = "github/upkeep.rs"]
mod upkeep;
#[path = "github/ways.rs"]
mod ways;

use std::sync::Arc;

use shared::github::{Client, Options};
use shared::issue::{Fault, MergeMethod, PullFacts, Repository};
use shared::ports::{Clock, Forge, MergeAnswer, MergeAsk, PullAsk, WhichPull};
use tempfile::TempDir;
use world::faults::{Faults, Trouble};
use world::github::{Bare, Change, GitHub, GraphQl, NewPull, Repo, Shared, router};
use world::serve::Server;

use common::Hands;

const SLUG: &str = "acme/shop";
const BRANCH: &str = "cyrus/eng-42/api";
const TOKEN: &str = "ghs_secret";

struct Stage {
    bare: Bare,
    github: Shared,
    faults: Faults,
    clock: Hands,
    client: Client,
    server: Server,
    _folder: TempDir,
}

fn client(url: &str, token: &str, clock: &Hands) -> Client {
    let options = Options {
        api_url: url.into(),
        token: secrecy::SecretString::from(token).into(),
        clock: Arc::new(clock.clone()),
    };
    Client::new(options).expect("a client")
}

fn change(path: &str, content: &str) -> Change {
    Change {
        message: format!("Write {path}"),
        files: vec![(path.into(), content.into())],
    }
}

impl Stage {
    /// A server without GraphQL, as some Enterprise servers are.
    async fn rest() -> Self {
        let stage = Self::new().await;
        stage.github.lock().graphql = GraphQl::Absent;
        stage
    }

    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Hands::new();
        let first = change("README.md", "# Shop\n");
        let bare = Bare::init(&folder.path().join("shop.git"), "main", &first, clock.now())
            .expect("a bare repository");
        let mut github = GitHub::new(TOKEN);
        github.add(SLUG, bare.clone());
        let tell = clock.clone();
        let github = Shared::new(github, Arc::new(move || tell.now()));
        let faults = Faults::default();
        let server = Server::start(router(github.clone(), faults.clone()))
            .await
            .expect("a server");
        let client = client(&server.url(), TOKEN, &clock);
        Self {
            bare,
            github,
            faults,
            clock,
            client,
            server,
            _folder: folder,
        }
    }

    /// Pushes a change; answers the branch's new head.
    fn push(&self, branch: &str, path: &str, content: &str) -> String {
        let mut github = self.github.lock();
        let change = change(path, content);
        github
            .push(SLUG, branch, "main", &change, self.clock.now())
            .expect("a push")
    }

    /// A branch with a change and its pull request: number and head.
    fn pull(&self, branch: &str, path: &str) -> (u64, String) {
        let sha = self.push(branch, path, "a change\n");
        let number = self
            .github
            .lock()
            .open_pull(SLUG, &new(branch), self.clock.now());
        (number.expect("a pull request"), sha)
    }

    async fn facts(&self, which: WhichPull) -> Result<Option<PullFacts>, Fault> {
        let mut answers = self
            .client
            .facts(&[PullAsk {
                repository: repository(SLUG),
                which,
            }])
            .await;
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// Reads it twice: the first look makes GitHub find out whether it can be merged.
    async fn known(&self, number: u64) -> PullFacts {
        self.facts(WhichPull::Number(number)).await.expect("facts");
        let facts = self.facts(WhichPull::Number(number)).await.expect("facts");
        facts.expect("a pull request")
    }

    async fn merge(&self, number: u64, sha: &str) -> Result<MergeAnswer, Fault> {
        self.client
            .merge(&ask(number, sha, MergeMethod::Squash))
            .await
    }

    fn main(&self) -> String {
        self.bare.head("main").expect("git").expect("a main branch")
    }

    /// What must hold after every test.
    fn check(&self) {
        assert_eq!(self.github.lock().check(), Ok(()));
        assert_eq!(self.faults.left(), 0, "a trouble that no call has met");
    }
}

fn repository(slug: &str) -> Repository {
    Repository {
        slug: slug.into(),
        base_branch: "main".into(),
        ..Repository::default()
    }
}

fn new(branch: &str) -> NewPull {
    NewPull {
        head: branch.into(),
        base: "main".into(),
        title: "Write the API".into(),
        body: "Done.\n\n<!-- cyrus:ENG-42/api -->".into(),
        draft: false,
    }
}

fn ask(number: u64, sha: &str, method: MergeMethod) -> MergeAsk {
    MergeAsk {
        repository: repository(SLUG),
        number,
        branch: BRANCH.into(),
        sha: sha.into(),
        method,
        title: "ENG-42: the API".into(),
    }
}

fn status(status: u16, message: &str) -> Trouble {
    let body = format!("{{\"message\":\"{message}\"}}");
    Trouble::Status {
        status,
        body,
        retry_after: None,
    }
}

fn transient<T: std::fmt::Debug>(answer: Result<T, Fault>) -> String {
    match answer {
        Err(Fault::Transient { why }) => why,
        other => panic!("not transient: {other:?}"),
    }
}
