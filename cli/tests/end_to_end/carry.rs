//! `cyrus export` and `cyrus import`: a team moves from one machine to a table,
//! and back, with an issue in flight.

use std::fs;
use std::process::Output;

use serde_json::Value;
use world::dynamo::{Emulator, create_table};

use crate::cloud;
use crate::town::{Town, is_done, planned_issue, state};

const TABLE: &str = "cyrus";

impl Town {
    /// From now on its store is elsewhere.
    fn moves_to(&mut self, store: &str, emulator: &Emulator) {
        for (name, value) in [
            ("CYRUS_STORE", store),
            ("AWS_ENDPOINT_URL_DYNAMODB", &emulator.url()),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ] {
            self.variables.insert(name.into(), value.into());
        }
    }

    /// All that an export says, but for its time.
    fn records(&self) -> Vec<String> {
        let export = well(&self.cyrus(&["export"]));
        export.lines().skip(1).map(str::to_owned).collect()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn well(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_moves_to_a_table_and_back_with_an_issue_in_flight() {
    let mut town = Town::new("hybrid-parallel", "auto", cloud).await;
    town.start().await;
    let (identifier, session) = town.hand_over(planned_issue()).await;
    town.until(&identifier, |it| {
        ["running", "in_review", "merging", "merged"].contains(&state(it, "api").as_str())
    })
    .await;
    assert!(town.terminate().await);
    let file = town.path("export.jsonl");
    well(&town.cyrus(&["export", &file]));
    let records = town.records();

    let emulator = Emulator::start().expect("an emulator");
    create_table(&emulator.client(), TABLE)
        .await
        .expect("a table");
    town.moves_to(&format!("dynamodb:{TABLE}"), &emulator);
    well(&town.cyrus(&["import", &file]));
    assert_eq!(town.records(), records);
    let again = town.cyrus(&["import", &file, "--json"]);
    let again: Value = serde_json::from_str(&well(&again)).expect("a document");
    assert_eq!(
        (&again["issues"], &again["skipped"]),
        (&0.into(), &1.into())
    );

    town.start().await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    town.assert_once(&session);
    assert!(town.terminate().await);

    // And back, to a file that was never there.
    let back = town.path("back.jsonl");
    well(&town.cyrus(&["export", &back]));
    let shown = ["show", &identifier, "--json"];
    let there = (well(&town.cyrus(&shown)), town.records());
    let place = town.path("elsewhere/cyrus.db");
    town.moves_to(&format!("sqlite:{place}"), &emulator);
    well(&town.cyrus(&["import", &back]));
    assert_eq!((well(&town.cyrus(&shown)), town.records()), there);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_whole_export_is_refused() {
    let mut town = Town::new("hybrid-parallel", "auto", cloud).await;
    town.start().await;
    let (identifier, _) = town.hand_over(planned_issue()).await;
    town.until(&identifier, is_done).await;
    assert!(town.terminate().await);
    let file = town.path("export.jsonl");
    well(&town.cyrus(&["export", &file]));
    let whole = fs::read_to_string(&file).expect("an export");
    let lines: Vec<&str> = whole.lines().collect();

    let mut refused = |name: &str, text: String| {
        let place = town.path(&format!("{name}.db"));
        town.variables
            .insert("CYRUS_STORE".into(), format!("sqlite:{place}"));
        let file = town.path(name);
        fs::write(&file, text).expect("written");
        let output = town.cyrus(&["import", &file]);
        assert_ne!(output.status.code(), Some(0), "{name}");
        // What is there of the issue rests, and the whole export makes it whole.
        let whole = town.path("export.jsonl");
        well(&town.cyrus(&["import", &whole]));
        well(&town.cyrus(&["show", &identifier]));
        said(&output)
    };
    let cut = lines[..lines.len() / 2].join("\n");
    let told = refused("cut", cut);
    assert!(told.contains("breaks off"), "{told}");
    let newer = whole.replacen("\"version\":1", "\"version\":9", 1);
    assert!(refused("newer", newer).contains("version 9"));
    assert!(refused("other", "{}\n".into()).contains("line 1"));
    assert!(refused("empty", String::new()).contains("header"));
}
