//! Nothing is merged but what was validated.

mod endings;
mod hands;
mod judges;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use world::codegen::{Order, Part};
use world::faults::Trouble;
use world::github::{Change, NewPull, Pull, State, branch_of_fork};
use world::stage::{BASE, SLUG};

use self::hands::Checks;
use crate::agents::{large_issue, task};
use crate::town::{Town, is_done, state};

const README: (&str, &str) = ("README.md", "# App\n\nAn app that wants to grow.\n");
/// Somebody else's repository.
const FORK: &str = "stranger/app";
/// As which turn Codegen's run of `c` is good.
const GOOD_TURN: usize = 3;

fn tree<const N: usize>(files: [(&str, &str); N]) -> BTreeMap<String, String> {
    let files = files.into_iter().chain([README]);
    files
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .collect()
}

/// Codegen's run of `c`: each turn another content.
fn turns(order: &Order) -> Part {
    let content = format!("turn {}\n", order.turn());
    Part::change(SignedDuration::from_millis(200), "c.txt", &content)
}

fn is_of(pull: &Pull, task: &str) -> bool {
    pull.head.ends_with(&format!("/{task}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn three_tasks_that_conflict_fail_and_move_are_merged_as_they_were_judged() {
    // Small ones stay on the machine, large ones go to the cloud.
    let mut town = Town::of_merits("hybrid-smart", turns, Vec::new(), |_| ()).await;
    town.lays(&[("a", "low"), ("b", "low"), ("c", "high")]);
    town.acts("a", 1, "echo 'from a' > shared.txt");
    town.acts("b", 1, "echo 'from b' > shared.txt");
    // Both sides are kept.
    town.acts("b", 2, "sed -i '/^[<=>]\\{7\\}/d' shared.txt");
    // A stranger's pull request, from a branch that is called as ours will be.
    let foreign = {
        let mut github = town.stage.github.lock();
        let head = "cyrus/eng-1/a";
        let change = Change {
            message: "Mine".into(),
            files: vec![("evil.txt".into(), "evil\n".into())],
        };
        let now = Timestamp::now();
        github
            .push(SLUG, &branch_of_fork(FORK, head), BASE, &change, now)
            .expect("a branch");
        let new = NewPull {
            head: head.into(),
            base: BASE.into(),
            title: "Mine".into(),
            body: "<!-- cyrus:ENG-1/a -->".into(),
            draft: false,
        };
        let number = github.open_pull_from_fork(SLUG, FORK, &new, now);
        number.expect("a pull request")
    };
    let before = town.pulls();
    town.start().await;
    let (identifier, session) = town.hand_over(large_issue()).await;
    assert_eq!(identifier, "ENG-1");

    // `a` is good at once, `b` is not judged before `a` is merged, and `c` not as
    // what it should be before both are.
    let mut checks = Checks::default();
    let content = |pull: &Pull| town.file_at(&pull.head_sha, "c.txt");
    let good = format!("turn {GOOD_TURN}\n");
    let judge_c = |pull: &Pull, open: bool| match content(pull) {
        Some(it) if it == good => open.then_some(Ok(())),
        it => Some(Err(format!("c.txt is {it:?}, which is not good"))),
    };
    town.until(&identifier, |it| {
        checks.work(&town, |pull| match () {
            () if is_of(pull, "a") => Some(Ok(())),
            () if is_of(pull, "b") => (state(it, "a") == "merged").then_some(Ok(())),
            () => judge_c(pull, false),
        });
        let c = town.pulls().into_iter().find(|it| is_of(it, "c"));
        let c = c.and_then(|it| content(&it));
        state(it, "b") == "merged" && c.as_deref() == Some(&good)
    })
    .await;

    // Green, allowed to be merged, and before it is, somebody pushes.
    let faults = &town.stage.github_faults;
    faults.next("merge", Trouble::DropBefore);
    town.until(&identifier, |_| {
        checks.work(&town, |pull| judge_c(pull, true));
        faults.left() == 0
    })
    .await;
    let judged = town.pull_of(&identifier, "c");
    let late = Change {
        message: "Format".into(),
        files: vec![("late.txt".into(), "late\n".into())],
    };
    let pushed = town
        .stage
        .github
        .lock()
        .push(SLUG, &judged.head, BASE, &late, Timestamp::now())
        .expect("a push");
    let issue = town
        .until(&identifier, |it| {
            checks.work(&town, |pull| judge_c(pull, true));
            is_done(it)
        })
        .await;
    let allowed = town.decided(&identifier, "c", "allow the merge").await;
    for sha in [&judged.head_sha, &pushed] {
        assert!(
            allowed.iter().any(|it| it.contains(&sha[..8])),
            "{allowed:?}"
        );
    }

    assert_eq!(issue["outcome"], "succeeded", "{issue:#}");
    let executors = ["a", "b", "c"].map(|it| {
        let task = task(&issue, it);
        assert_eq!(
            (&task["state"], &task["attempt"]),
            (&"merged".into(), &1.into()),
            "{task:#}"
        );
        task["executor"].as_str().unwrap_or_default().to_owned()
    });
    assert_eq!(executors, ["local", "local", "codegen"]);
    let expected = tree([
        ("shared.txt", "from b\nfrom a\n"),
        ("c.txt", &good),
        ("late.txt", "late\n"),
    ]);
    assert_eq!(town.merged_tree(), expected);

    // What was merged is what was judged: by the CI, and by us.
    let merges = town.stage.github.lock().merges();
    assert_eq!(merges.len(), 3);
    assert_eq!(merges[2].head_sha, pushed);
    for (merge, id) in merges.iter().zip(["a", "b", "c"]) {
        assert!(checks.passed.contains_key(&merge.head_sha), "{merge:?}");
        let allowed = town.decided(&identifier, id, "allow the merge").await;
        let last = allowed.last().expect("it was allowed");
        assert!(last.contains(&merge.head_sha[..8]), "{last}: {merge:?}");
    }
    town.assert_once(&session);

    // Who made it has mended it, knowing what was wrong.
    let b = town.turns("b");
    assert!(b.len() == 2 && b[1].contains("--resume s-b"), "{b:?}");
    assert!(town.told("b", 2).contains("it conflicts"));
    {
        let codegen = town.stage.codegen.lock();
        let [run] = codegen.runs() else {
            panic!("one run of c: {:#?}", codegen.runs())
        };
        assert_eq!(run.order.turn(), GOOD_TURN);
        for told in &run.order.follow_ups {
            assert!(told.contains("which is not good"), "the log's end: {told}");
        }
    }

    // The stranger's is as it was; of ours no branch is left.
    let after = town.pulls();
    assert_eq!(after[0].head_sha, before[0].head_sha);
    assert_eq!((after[0].number, after[0].state), (foreign, State::Open));
    assert_eq!(town.comments(foreign), []);
    let heads = ["a", "b", "c"].map(|it| {
        let branch = format!("cyrus/eng-1/{it}");
        town.stage.github.lock().head(SLUG, &branch).expect("git")
    });
    assert_eq!(heads, [None, None, None]);

    let github = town.stage.github.lock();
    for merge in &merges {
        let waited = merge.at.duration_since(checks.passed[&merge.head_sha]);
        eprintln!(
            "#{}: {} requests, merged {} ms after its check was green",
            merge.number,
            github.asked(SLUG, merge.number),
            waited.as_millis()
        );
    }
    eprintln!("requests by operation: {:?}", github.calls());
}
