//! Commands, reviewers and people judge a commit before it is merged.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use world::github::{Change, Ci, State};
use world::linear::NewIssue;
use world::stage::{BASE, SLUG};

use super::hands::CHECK;
use super::tree;
use crate::agents::{task, waits};
use crate::cloud;
use crate::town::{Town, is_done, state};

fn small_issue() -> NewIssue {
    NewIssue {
        title: "Mend the door".into(),
        ..NewIssue::default()
    }
}

/// A check that is green at once.
fn quick() -> Vec<Ci> {
    vec![Ci {
        name: CHECK.into(),
        delay: SignedDuration::ZERO,
        conclusion: "success".into(),
    }]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_the_repositorys_commands_is_mended_and_then_merged() {
    let shape =
        |it: &mut Value| it["validate"]["commands"] = json!(["echo looking; test -f ok.txt"]);
    let mut town = Town::of_merits("local-only", cloud, quick(), shape).await;
    town.acts("main", 1, "echo door > door.txt");
    town.acts("main", 2, "echo ok > ok.txt");
    town.start().await;
    let (identifier, session) = town.hand_over(small_issue()).await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    let expected = tree([("door.txt", "door\n"), ("ok.txt", "ok\n")]);
    assert_eq!(town.merged_tree(), expected);

    // It is the same run that mends, in its session, and it knows why.
    assert_eq!(task(&issue, "main")["attempt"], 1);
    let turns = town.turns("main");
    assert!(
        turns.len() == 2 && turns[1].contains("--resume s-main"),
        "{turns:?}"
    );
    let told = town.told("main", 2);
    assert!(
        told.contains("test -f ok.txt") && told.contains("looking"),
        "{told}"
    );
    // Of the first head it is known that it failed, of the second that it did not.
    let refused = town.decided(&identifier, "main", "send it back").await;
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert!(
        refused[0].starts_with("validate.commands failed on"),
        "{refused:?}"
    );
    let merges = town.stage.github.lock().merges();
    let allowed = town.decided(&identifier, "main", "allow the merge").await;
    let [merge] = merges.as_slice() else {
        panic!("{merges:#?}")
    };
    assert!(
        allowed.len() == 1
            && allowed[0].contains(&merge.head_sha[..8])
            && allowed[0].contains("its commands have succeeded"),
        "{allowed:?}"
    );
    // People are not shown the verifier as a task.
    assert_eq!(
        issue["tasks"].as_array().map(Vec::len),
        Some(1),
        "{issue:#}"
    );
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reviewer_wants_changes_and_then_agrees() {
    let shape = |it: &mut Value| it["validate"]["reviewer"] = json!(true);
    let mut town = Town::of_merits("local-only", cloud, quick(), shape).await;
    let answers = |verdict: &str, findings: Value| {
        let review =
            json!({ "verdict": verdict, "summary": "I have read it.", "findings": findings });
        format!("cat door.txt > \"$HOME/read\"; cat <<'END'\n{review}\nEND\n")
    };
    town.acts("main", 1, "echo dor > door.txt");
    let typo = json!([{ "path": "door.txt", "line": 1, "severity": "blocker", "comment": "an o is missing" }]);
    town.acts("review-main", 1, &answers("changes", typo));
    town.acts("main", 2, "echo door > door.txt");
    town.acts("review-main", 2, &answers("approve", json!([])));
    town.start().await;
    let (identifier, session) = town.hand_over(small_issue()).await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    assert_eq!(town.merged_tree(), tree([("door.txt", "door\n")]));

    let review = task(&issue, "review-main");
    assert_eq!(
        (&review["kind"], &review["state"]),
        (&"reviewer".into(), &"succeeded".into())
    );
    assert!(town.told("main", 2).contains("door.txt:1: an o is missing"));
    // Each was a look of its own at the commit itself.
    let turns = town.turns("review-main");
    assert!(
        turns.len() == 2 && !turns[1].contains("--resume"),
        "{turns:?}"
    );
    let read = std::fs::read_to_string(town.folder.path().join("home/read"));
    assert_eq!(read.expect("it has read"), "door\n");
    let merges = town.stage.github.lock().merges();
    let sha = &merges[0].head_sha;
    assert!(town.told("review-main", 2).contains(sha.as_str()));

    let told = town.well(&["explain", &identifier]);
    assert!(told.contains("the reviewer wants changes to"), "{told}");
    assert!(told.contains("an o is missing"), "{told}");
    assert!(told.contains("its reviewer agrees"), "{told}");
    let said = town.said(&session, "action");
    let said: Vec<String> = said.iter().map(|it| it.content.to_string()).collect();
    let count = |words: &str| said.iter().filter(|it| it.contains(words)).count();
    assert_eq!(
        (
            count("The reviewer wants changes"),
            count("The reviewer agrees")
        ),
        (1, 1),
        "{said:#?}"
    );
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_approves_of_the_very_commit() {
    let shape = |it: &mut Value| it["merge"]["requireApproval"] = json!(true);
    let mut town = Town::of_merits("local-only", cloud, quick(), shape).await;
    town.acts("main", 1, "echo door > door.txt");
    town.start().await;
    let (identifier, session) = town.hand_over(small_issue()).await;
    let asked = "a person has to approve";
    let told = || town.thoughts(&session, asked);
    let issue = town
        .until(&identifier, |it| waits(it, asked) && told() > 0)
        .await;
    assert_eq!(state(&issue, "main"), "validating");
    let first = town.pull_of(&identifier, "main");
    assert!(waits(&issue, &first.head_sha[..8]), "{issue:#}");
    assert_eq!(told(), 1);

    // What is approved is pushed over in the same moment.
    let pushed = {
        let mut github = town.stage.github.lock();
        let now = Timestamp::now();
        let ann = ("ann", "MEMBER");
        github
            .review(SLUG, first.number, ann, "APPROVED", "", now)
            .expect("a review");
        let change = Change {
            message: "More".into(),
            files: vec![("more.txt".into(), "more\n".into())],
        };
        let pushed = github.push(SLUG, &first.head, BASE, &change, now);
        pushed.expect("a push")
    };
    town.until(&identifier, |it| {
        waits(it, asked) && waits(it, &pushed[..8])
    })
    .await;
    assert_eq!(town.pull_of(&identifier, "main").state, State::Open);
    // Who may not write has no say.
    let review = |author: &str, association: &str| {
        let mut github = town.stage.github.lock();
        let by = (author, association);
        github
            .review(SLUG, first.number, by, "APPROVED", "", Timestamp::now())
            .expect("a review");
    };
    review("mallory", "NONE");
    town.looked_at(&identifier, first.number).await;
    assert_eq!(town.stage.github.lock().merges(), []);
    review("ann", "MEMBER");
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    let merges = town.stage.github.lock().merges();
    assert_eq!(merges[0].head_sha, pushed);
    let allowed = town.decided(&identifier, "main", "allow the merge").await;
    assert!(
        allowed.len() == 1 && allowed[0].contains("approved by ann"),
        "{allowed:?}"
    );
    let expected = tree([("door.txt", "door\n"), ("more.txt", "more\n")]);
    assert_eq!(town.merged_tree(), expected);
    town.assert_once(&session);
}
