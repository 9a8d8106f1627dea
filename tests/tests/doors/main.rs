//! What people ask for over HTTP: the switch, the reasons, the forecast, a word.

mod hints;
mod issues;
mod pause;

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use shared::config::{Configuration, Env, Live};
use shared::engine::Engine;
use shared::http::{Doors, router};
use shared::issue::{Event, Issue, IssueId, Opening, Record, Time, evolve};
use shared::ports::{Append, Clock, Log};
use shared::store::memory::MemoryLog;
use shared::view;
use shared::wire::{self, Store};
use world::serve::Server;

const CONFIG: &str =
    r#"{"repositories":[],"codegen":{"orgId":1,"apiToken":"t","maxCostPerIssue":7}}"#;
/// Nobody listens there: nothing in these tests goes further than the store.
const NOBODY: &str = "http://127.0.0.1:9";

fn noon() -> Time {
    "2026-11-20T12:00:00Z".parse().expect("a moment")
}

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Time {
        noon()
    }
}

/// The router on loopback, over a store in memory.
struct Door {
    server: Server,
    log: Arc<dyn Log>,
    rung_for_all: Arc<AtomicUsize>,
    looked_at: Arc<Mutex<Vec<IssueId>>>,
    http: reqwest::Client,
}

impl Door {
    async fn open() -> Self {
        let store = Store::from(Arc::new(MemoryLog::default()));
        let log = Arc::clone(&store.log);
        let env = Env::from_iter([
            ("HOME", "/home/somebody"),
            ("CYRUS_CONFIG_JSON", CONFIG),
            ("LINEAR_API_URL", NOBODY),
            ("GITHUB_API_URL", NOBODY),
            ("CODEGEN_API_URL", NOBODY),
            ("GITHUB_WEBHOOK_SECRET", hints::GITHUB_SECRET),
            ("CODEGEN_WEBHOOK_SECRET", hints::CODEGEN_SECRET),
        ]);
        let configuration = Configuration {
            clock: Arc::new(Stopped),
            ..wire::configuration(&env, Some(Path::new("/nowhere")), None, &store)
        };
        let (live, _) = Live::load(configuration).await.expect("settings");
        let live = Arc::new(live);
        let forge = Arc::new(wire::forge(&live.settings(), &store.registers).expect("a forge"));
        let mut hands = wire::hands(&live, store, forge, None).expect("hands");
        hands.clock = Arc::new(Stopped);
        let rung_for_all = Arc::new(AtomicUsize::new(0));
        let bell = Arc::clone(&rung_for_all);
        let looked_at: Arc<Mutex<Vec<IssueId>>> = Arc::default();
        let looks = Arc::clone(&looked_at);
        let settings = live.settings();
        let doors = Doors {
            engine: Arc::new(Engine::new(hands)),
            wake: Box::new(|_| ()),
            wake_all: Box::new(move || {
                bell.fetch_add(1, Ordering::SeqCst);
                Box::pin(std::future::ready(()))
            }),
            look: Box::new(move |id| {
                looks.lock().expect("no panic").push(id);
                Box::pin(std::future::ready(()))
            }),
            github_secrets: wire::github_secrets(&settings),
            codegen_secret: wire::codegen_secret(&settings),
            linear_secrets: Vec::new(),
            api_token: None,
            live,
            runners: None,
        };
        let server = Server::start(router(Arc::new(doors))).await;
        Self {
            server: server.expect("a port on loopback"),
            log,
            rung_for_all,
            looked_at,
            http: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("a client"),
        }
    }

    /// Writes events to the end of the one issue's log.
    async fn write(&self, events: &[Event]) {
        let id = id();
        let mut issue = Issue::unknown(id.clone());
        for record in self.records().await {
            evolve(&mut issue, &record);
        }
        let after = issue.seq;
        for (seq, event) in (after + 1..).zip(events) {
            let (at, event) = (noon(), event.clone());
            evolve(&mut issue, &Record { seq, at, event });
        }
        let append = Append {
            issue: id,
            after,
            at: noon(),
            events: events.to_vec(),
            head: view::head(&issue),
            entries: Vec::new(),
        };
        self.log.append(append).await.expect("written");
    }

    async fn records(&self) -> Vec<Record> {
        self.log.read(&id(), 0).await.expect("a log")
    }

    async fn events(&self) -> Vec<Event> {
        let records = self.records().await;
        records.into_iter().map(|it| it.event).collect()
    }

    async fn put(&self, path: &str, body: &str) -> (u16, Value) {
        let url = format!("{}{path}", self.server.url());
        answer(self.http.put(url).body(body.to_owned())).await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let url = format!("{}{path}", self.server.url());
        answer(self.http.get(url)).await
    }

    async fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let url = format!("{}{path}", self.server.url());
        answer(self.http.post(url).body(body.to_owned())).await
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

fn id() -> IssueId {
    "id-1".into()
}

fn opened() -> Event {
    Event::Opened(Opening {
        session: "s1".into(),
        identifier: "ENG-1".into(),
        title: "Add a door".into(),
        url: "https://linear.app/acme/issue/ENG-1".into(),
        app_user: None,
        at: noon(),
    })
}
