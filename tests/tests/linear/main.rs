//! Linear over the wire: real payloads become inputs, our documents are Linear's,
//! and the client keeps its promises against a Linear that behaves.

mod client;
mod deliveries;
mod documents;
mod faults;
mod stand_in;
mod tokens;
mod webhook;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use apollo_compiler::Schema;
use apollo_compiler::validation::Valid;
use shared::issue::Time;
use shared::linear::{Auth, Client, Options};
use shared::ports::Clock;
use world::faults::Faults;
use world::linear::{Linear, NewIssue, Shared, router, schema};
use world::serve::Server;

const TOKEN: &str = "lin_oauth_of_the_test";

/// Midday of the day on which the recorded deliveries were sent.
fn noon() -> Time {
    "2026-11-20T12:00:00Z".parse().expect("a moment")
}

struct Stopped(Time);

impl Clock for Stopped {
    fn now(&self) -> Time {
        self.0
    }
}

/// A workspace on loopback with one issue in one session, and a client of it.
struct Scene {
    linear: Shared,
    faults: Faults,
    server: Server,
    client: Client,
    issue: String,
    session: String,
}

impl Scene {
    async fn new() -> Self {
        let real = schema::found().expect("a schema");
        Self::against(real.unwrap_or_else(|| schema::embedded())).await
    }

    async fn against(schema: &'static Valid<Schema>) -> Self {
        let mut linear = Linear::new();
        linear.access.accept(TOKEN);
        let issue = linear
            .add_issue(NewIssue {
                title: "Add sign-in with passkeys".into(),
                description: "Add passkey registration and sign-in.".into(),
                labels: vec!["orchestrator".into(), "web".into()],
                estimate: Some(3.0),
                project: Some("Accounts".into()),
                ..NewIssue::default()
            })
            .expect("the team is there");
        let (session, _) = linear.delegate(&issue, noon()).expect("the issue is there");
        let linear = Arc::new(Mutex::new(linear));
        let faults = Faults::default();
        let router = router(Arc::clone(&linear), schema, faults.clone());
        let server = Server::start(router).await.expect("a port on loopback");
        let client = client_of(&server, given(TOKEN));
        Self {
            linear,
            faults,
            server,
            client,
            issue,
            session,
        }
    }

    fn linear(&self) -> MutexGuard<'_, Linear> {
        self.linear.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The type of the state that the issue is in.
    fn state(&self) -> String {
        self.linear()
            .issue(&self.issue)
            .expect("the issue is there")
            .state
            .name
            .clone()
    }

    /// What was said in the session: type and text.
    fn said(&self) -> Vec<(String, String)> {
        let linear = self.linear();
        let session = linear.session(&self.session).expect("the session is there");
        session
            .activities
            .iter()
            .map(|it| (it.kind().to_owned(), it.body()))
            .collect()
    }
}

/// A token that somebody gave us.
fn given(token: &str) -> Auth {
    Auth::Token(secrecy::SecretString::from(token).into())
}

fn client_of(server: &Server, auth: Auth) -> Client {
    let api_url = format!("{}/graphql", server.url());
    Client::new(Options {
        api_url,
        auth,
        clock: Arc::new(Stopped(noon())),
    })
}
