//! What becomes of pull requests and branches at the end, and of work where there
//! is no GitHub at all.

use serde_json::{Value, json};
use world::github::State;
use world::stage::SLUG;

use super::hands::{CHECK, Checks};
use super::{is_of, tree};
use crate::agents::{large_issue, task};
use crate::cloud;
use crate::town::{Town, is_done, state};

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_issue_leaves_no_pull_request_open() {
    let mut town = Town::of_merits("local-only", cloud, Vec::new(), |_| ()).await;
    town.lays(&[("a", "low"), ("b", "low")]);
    for task in ["a", "b"] {
        town.acts(task, 1, &format!("echo {task} > {task}.txt"));
    }
    town.start().await;
    let (identifier, session) = town.hand_over(large_issue()).await;
    // The check of `b` never ends.
    let mut checks = Checks::default();
    town.until(&identifier, |it| {
        checks.work(&town, |pull| is_of(pull, "a").then_some(Ok(())));
        state(it, "a") == "merged" && state(it, "b") == "validating"
    })
    .await;
    let b = town.pull_of(&identifier, "b");
    assert_eq!(b.state, State::Open);
    town.well(&["cancel", &identifier]);
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "cancelled", "{issue:#}");
    assert_eq!(task(&issue, "b")["state"], "cancelled");
    let closed = town.pull_of(&identifier, "b");
    assert_eq!(closed.state, State::Closed);
    let comments = town.comments(b.number);
    let [comment] = comments.as_slice() else {
        panic!("one comment: {comments:#?}")
    };
    assert!(
        comment.body.contains("Nothing of this is merged"),
        "{comment:?}"
    );

    // Green now, and nobody merges it: all that is owed has been done.
    town.stage
        .github
        .lock()
        .set_check(SLUG, &b.head_sha, CHECK, Some("success"))
        .expect("the repository");
    let (code, said) = town.command(&["cancel", &identifier]);
    assert_eq!(code, Some(1), "it is over: {said}");
    let merges = town.stage.github.lock().merges();
    assert_eq!(merges.len(), 1);
    assert_eq!(town.merged_tree(), tree([("a.txt", "a\n")]));
    let head = town.stage.github.lock().head(SLUG, "cyrus/eng-1/a");
    assert_eq!(head, Ok(None), "the branch of what was merged is gone");
    assert_eq!(town.comments(town.pull_of(&identifier, "a").number), []);
    town.assert_once(&session);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_github_all_of_it_works_over_a_plain_git_remote() {
    let shape = |it: &mut Value| {
        it.as_object_mut()
            .expect("a repository")
            .remove("githubUrl");
        it["validate"] = json!({
            "commands": ["test -f README.md", "test ! -f bad.txt"],
            "checkGraceSeconds": 0,
        });
    };
    let mut town = Town::of_merits("local-only", cloud, Vec::new(), shape).await;
    for name in ["GITHUB_API_URL", "GITHUB_TOKEN"] {
        town.variables.remove(name);
    }
    town.lays(&[("a", "low"), ("b", "low")]);
    town.acts("a", 1, "echo 'from a' > shared.txt");
    town.acts("b", 1, "echo 'from b' > shared.txt; echo b > bad.txt");
    // What the commands do not like, and what conflicts, in whichever order.
    let mends = "sed -i '/^[<=>]\\{7\\}/d' shared.txt; rm -f bad.txt; echo more >> b.txt";
    town.acts("b", 2, mends);
    town.acts("b", 3, mends);
    let mends = "sed -i '/^[<=>]\\{7\\}/d' shared.txt";
    town.acts("a", 2, mends);
    town.start().await;
    let (identifier, session) = town.hand_over(large_issue()).await;
    let issue = town.until(&identifier, is_done).await;
    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    let tree = town.merged_tree();
    let paths: Vec<&str> = tree.keys().map(String::as_str).collect();
    assert_eq!(paths, ["README.md", "b.txt", "shared.txt"]);
    let mut lines: Vec<&str> = tree["shared.txt"].lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["from a", "from b"]);
    for id in ["a", "b"] {
        assert_eq!(state(&issue, id), "merged");
        let allowed = town.decided(&identifier, id, "allow the merge").await;
        let last = allowed.last().expect("it was allowed");
        assert!(last.contains("its commands have succeeded"), "{last}");
        let branch = format!("cyrus/eng-1/{id}");
        let head = town.stage.github.lock().head(SLUG, &branch);
        assert_eq!(head, Ok(None));
    }
    assert_eq!(
        town.stage.github.lock().calls().len(),
        0,
        "GitHub was not asked"
    );
    town.assert_once(&session);
}
