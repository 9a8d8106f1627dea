//! What a table is for beyond the contract: it answers late, twice, in part or
//! not at all, and others may have made it.

use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use serde_json::json;
use shared::issue::{Effect, Event, Seq};
use shared::ports::{Append, AppendError, Figures, Log, RegisterWrite, Registers};
use shared::store::dynamo::{APPEND_BYTES_MAX, CHUNK_BYTES, DynamoLog, ENTRIES_MAX, Wake};
use world::dynamo::{Emulator, Proxy, canceled, create_table, refusal};
use world::faults::Trouble;

use crate::accounts::{entry, figures, limited, with};
use crate::registers::write;
use crate::{append, at, event, in_time};

/// The log under test behind a proxy, and another one that reaches the table directly.
pub(crate) struct Bed {
    pub(crate) log: Arc<DynamoLog>,
    pub(crate) other: Arc<DynamoLog>,
    pub(crate) client: Client,
    pub(crate) proxy: Proxy,
    pub(crate) emulator: Emulator,
}

pub(crate) async fn bed() -> Bed {
    let emulator = Emulator::start().expect("an emulator");
    let client = emulator.client();
    create_table(&client, "cyrus").await.expect("a table");
    let proxy = Proxy::start(&emulator).await.expect("a proxy");
    Bed {
        log: Arc::new(DynamoLog::new(&proxy.client(), "cyrus")),
        other: Arc::new(DynamoLog::new(&client, "cyrus")),
        client,
        proxy,
        emulator,
    }
}

/// What makes the same call succeed a moment later. Nothing was done.
fn passing() -> Vec<Trouble> {
    let status = |status| Trouble::Status {
        status,
        body: "{}".into(),
        retry_after: None,
    };
    vec![
        refusal("ThrottlingException"),
        refusal("ProvisionedThroughputExceededException"),
        refusal("RequestLimitExceeded"),
        status(500),
        status(503),
        Trouble::DropBefore,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_passes_is_waited_out() {
    let bed = bed().await;
    let log = &bed.log;
    let mut seq = 0;
    let canceled = [
        canceled(&["TransactionConflict", "None"]),
        canceled(&["None", "ThrottlingError"]),
        canceled(&["ProvisionedThroughputExceeded", "None"]),
        refusal("TransactionInProgressException"),
    ];
    for trouble in passing().into_iter().chain(canceled) {
        for _ in 0..2 {
            bed.proxy
                .faults()
                .next("TransactWriteItems", trouble.clone());
        }
        in_time(log.append(append("a", seq, 1)))
            .await
            .expect("append");
        seq += 1;
    }
    for trouble in passing() {
        for operation in ["Query", "GetItem", "BatchGetItem", "UpdateItem"] {
            bed.proxy.faults().next(operation, trouble.clone());
        }
        let all = in_time(log.read(&"a".into(), 0)).await.expect("read");
        assert_eq!(all.len() as Seq, seq);
        assert_eq!(log.find("a").await.expect("find"), Some("a".into()));
        let days = log.accounts(&["day".into()]).await.expect("accounts");
        assert_eq!(days, [Figures::new()]);
        log.park(&"a".into(), "why").await.expect("park");
    }
    for (seen, trouble) in (0..).zip(passing()) {
        bed.proxy.faults().next("PutItem", trouble.clone());
        log.put(write("a", json!(seen)), seen, at(0))
            .await
            .expect("put");
    }
    assert_eq!(bed.proxy.faults().left(), 0);
    let found = bed.other.read(&"a".into(), 0).await.expect("read");
    assert_eq!(found.len() as Seq, seq);
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_that_stays_ends_in_a_failure() {
    const MANY: usize = 1_000;
    let bed = bed().await;
    for trouble in [
        refusal("ThrottlingException"),
        canceled(&["TransactionConflict", "None"]),
    ] {
        for _ in 0..MANY {
            bed.proxy
                .faults()
                .next("TransactWriteItems", trouble.clone());
        }
        let before = bed.proxy.calls("TransactWriteItems");
        let failed = in_time(bed.log.append(append("a", 0, 1))).await;
        let Err(AppendError::Failed(error)) = failed else {
            panic!("{failed:?}");
        };
        let error = format!("{error:#}");
        assert!(error.contains("given up after"), "{error}");
        let tries = bed.proxy.calls("TransactWriteItems") - before;
        assert!((2..=10).contains(&tries), "{tries} tries");
        // What is left over of it would meet the next one.
        while bed.proxy.faults().meet("TransactWriteItems").is_some() {}
    }
    assert_eq!(bed.other.heads(None, 10).await.expect("heads"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_refused_again_is_not_tried_again() {
    let bed = bed().await;
    let log = DynamoLog::new(&bed.proxy.client(), "another");
    let failed = in_time(log.append(append("a", 0, 1))).await;
    let Err(AppendError::Failed(error)) = failed else {
        panic!("{failed:?}");
    };
    assert!(
        format!("{error:#}").contains("ResourceNotFoundException"),
        "{error:#}"
    );
    assert_eq!(bed.proxy.calls("TransactWriteItems"), 1);
    in_time(log.read(&"a".into(), 0))
        .await
        .expect_err("no table");
    assert_eq!(bed.proxy.calls("Query"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_answer_was_lost_is_written_once() {
    let bed = bed().await;
    let mut seq = 0;
    for trouble in Trouble::lost_replies() {
        bed.proxy.faults().next("TransactWriteItems", trouble);
        let entries = vec![entry("day", &[("usd", 1)])];
        let append = Append {
            entries,
            ..append("a", seq, 2)
        };
        in_time(bed.log.append(append)).await.expect("append");
        seq += 2;
    }
    assert_eq!(bed.proxy.faults().left(), 0);
    let all = bed.other.read(&"a".into(), 0).await.expect("read");
    assert_eq!(all.len() as Seq, seq);
    let day = bed.other.accounts(&["day".into()]).await.expect("accounts");
    assert_eq!(day, [figures(&[("usd", 3)])]);
}

/// DynamoDB remembers a token for ten minutes; moto never does, and nor may we rely on it.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_knows_its_own_signature() {
    let bed = bed().await;
    let refused = canceled(&["ConditionalCheckFailed", "ConditionalCheckFailed", "None"]);
    let over = canceled(&["None", "None", "ConditionalCheckFailed"]);
    for (issue, refused) in [("a", refused), ("b", over)] {
        bed.proxy
            .faults()
            .next("TransactWriteItems", Trouble::DropAfter);
        bed.proxy.faults().next("TransactWriteItems", refused);
        // By the time we ask again, somebody else has gone on.
        let other = Arc::clone(&bed.other);
        bed.proxy.meanwhile("TransactWriteItems", 1, async move {
            other
                .append(append(issue, 1, 1))
                .await
                .expect("another's append");
        });
        let first = with(issue, vec![limited("day", 1, 10)]);
        in_time(bed.log.append(first)).await.expect("append");
        let all = bed.other.read(&issue.into(), 0).await.expect("read");
        assert_eq!(all.len(), 2);
    }
    assert_eq!(bed.proxy.faults().left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_loses_after_a_lost_answer_hears_so() {
    let bed = bed().await;
    bed.proxy
        .faults()
        .next("TransactWriteItems", Trouble::DropBefore);
    let other = Arc::clone(&bed.other);
    bed.proxy.meanwhile("TransactWriteItems", 1, async move {
        other
            .append(append("a", 0, 1))
            .await
            .expect("another's append");
    });
    let lost = in_time(bed.log.append(append("a", 0, 2))).await;
    assert!(matches!(lost, Err(AppendError::Conflict)), "{lost:?}");
    assert_eq!(bed.other.read(&"a".into(), 0).await.expect("read").len(), 1);

    // The same over a limit that another has used up.
    bed.proxy
        .faults()
        .next("TransactWriteItems", Trouble::DropBefore);
    let other = Arc::clone(&bed.other);
    bed.proxy.meanwhile("TransactWriteItems", 1, async move {
        let all = with("c", vec![limited("day", 10, 10)]);
        other.append(all).await.expect("another's append");
    });
    let over = with("b", vec![limited("day", 1, 10)]);
    let over = in_time(bed.log.append(over)).await;
    assert!(
        matches!(over, Err(AppendError::OverLimit { .. })),
        "{over:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_told_before_a_limit_and_both_before_another_try() {
    let bed = bed().await;
    bed.log.append(append("a", 0, 1)).await.expect("append");
    let next = || Append {
        entries: vec![limited("day", 1, 10), limited("month", 1, 10)],
        ..append("a", 1, 1)
    };
    let failed = "ConditionalCheckFailed";
    for (reasons, tries) in [
        ([failed, "None", failed, "None"], 1),
        (["None", failed, "TransactionConflict", "None"], 1),
    ] {
        let before = bed.proxy.calls("TransactWriteItems");
        bed.proxy
            .faults()
            .next("TransactWriteItems", canceled(&reasons));
        let conflict = in_time(bed.log.append(next())).await;
        assert!(
            matches!(conflict, Err(AppendError::Conflict)),
            "{conflict:?}"
        );
        assert_eq!(bed.proxy.calls("TransactWriteItems") - before, tries);
    }
    let over = canceled(&["None", "None", "None", failed]);
    bed.proxy.faults().next("TransactWriteItems", over);
    match in_time(bed.log.append(next())).await {
        Err(AppendError::OverLimit { account }) => assert_eq!(account, "month"),
        other => panic!("{other:?}"),
    }
    // The account was asked while the issue was not: that is to be asked again.
    let half = canceled(&["TransactionConflict", "None", failed, "None"]);
    bed.proxy.faults().next("TransactWriteItems", half);
    in_time(bed.log.append(next())).await.expect("append");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_register_whose_answer_was_lost_is_written_once() {
    let bed = bed().await;
    let mut seen = 0;
    for trouble in Trouble::lost_replies() {
        bed.proxy.faults().next("PutItem", trouble);
        let put = bed.log.put(write("a", json!(seen)), seen, at(0));
        in_time(put).await.expect("put");
        seen += 1;
    }
    bed.proxy.faults().next("PutItem", Trouble::DropBefore);
    let other = Arc::clone(&bed.other);
    bed.proxy.meanwhile("PutItem", 1, async move {
        let put = other.put(write("a", json!("another's")), seen, at(0));
        put.await.expect("put");
    });
    let lost = in_time(bed.log.put(write("a", json!("ours")), seen, at(0))).await;
    assert!(matches!(lost, Err(AppendError::Conflict)), "{lost:?}");

    // Nobody can tell who has removed it.
    bed.proxy.faults().next("DeleteItem", Trouble::DropAfter);
    let remove = RegisterWrite {
        value: None,
        ..write("a", json!(null))
    };
    let removed = in_time(bed.log.put(remove, seen + 1, at(0))).await;
    assert!(matches!(removed, Err(AppendError::Conflict)), "{removed:?}");
    let gone = bed.log.get("shelf", "a", at(0)).await.expect("get");
    assert_eq!(gone, None);
    assert_eq!(bed.proxy.faults().left(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_were_not_processed_are_asked_for_again() {
    const ISSUES: usize = 5;
    let bed = bed().await;
    for issue in 0..ISSUES {
        let entries = vec![entry(&format!("account {issue}"), &[("usd", 1)])];
        let append = with(&format!("issue {issue}"), entries);
        bed.log.append(append).await.expect("append");
    }
    bed.proxy.hand_out_one_by_one(ISSUES - 2);
    let heads = in_time(bed.log.heads(None, 10)).await.expect("heads");
    assert_eq!(heads.len(), ISSUES);
    assert_eq!(bed.proxy.calls("BatchGetItem"), ISSUES - 1);

    let names: Vec<String> = (0..ISSUES).map(|it| format!("account {it}")).collect();
    bed.proxy.hand_out_one_by_one(2);
    let accounts = in_time(bed.log.accounts(&names)).await.expect("accounts");
    assert_eq!(accounts, vec![figures(&[("usd", 1)]); ISSUES]);

    bed.proxy.hand_out_one_by_one(1_000);
    let names: Vec<String> = (0..50).map(|it| format!("account {it}")).collect();
    let error = in_time(bed.log.accounts(&names))
        .await
        .expect_err("never all");
    assert!(format!("{error:#}").contains("only a part"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_hundred_keys_are_asked_for_in_turns() {
    let bed = bed().await;
    let names: Vec<String> = (0..230).map(|it| format!("account {it}")).collect();
    let last = with("a", vec![entry("account 229", &[("usd", 1)])]);
    bed.log.append(last).await.expect("append");
    let accounts = bed.log.accounts(&names).await.expect("accounts");
    assert_eq!(accounts[229], figures(&[("usd", 1)]));
    assert_eq!(bed.proxy.calls("BatchGetItem"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_holds_so_much_and_no_more() {
    let bed = bed().await;
    let log = &bed.log;
    let empty = serde_json::to_string(&[event("")]).expect("JSON").len();
    let sized = |issue: &str, bytes: usize| Append {
        events: vec![event(&"x".repeat(bytes - empty))],
        ..append(issue, 0, 1)
    };
    for bytes in [CHUNK_BYTES, CHUNK_BYTES + 1, APPEND_BYTES_MAX] {
        let issue = format!("{bytes} bytes");
        let mut append = sized(&issue, bytes);
        append.entries = (0..ENTRIES_MAX)
            .map(|it| entry(&format!("{issue} {it}"), &[("usd", 1)]))
            .collect();
        let events = append.events.clone();
        in_time(log.append(append)).await.expect("append");
        let found = log.read(&issue.as_str().into(), 0).await.expect("read");
        assert_eq!(found.len(), 1);
        assert!(found[0].event == events[0], "{issue} came back changed");
    }
    let mut many = append("many", 0, 1);
    many.entries = (0..=ENTRIES_MAX)
        .map(|it| entry(&format!("{it}"), &[("usd", 1)]))
        .collect();
    let calls = bed.proxy.calls("TransactWriteItems");
    for (append, why) in [
        (sized("long", APPEND_BYTES_MAX + 1), "bytes, at most"),
        (many, "entries, at most"),
    ] {
        let refused = log.append(append).await;
        let Err(AppendError::Failed(error)) = refused else {
            panic!("{refused:?}");
        };
        assert!(format!("{error:#}").contains(why), "{error:#}");
    }
    assert_eq!(bed.proxy.calls("TransactWriteItems"), calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_wakes_others_where_it_leaves_them_work() {
    let bed = bed().await;
    let requested = || Event::Requested(Effect::Fetch);
    let claimed = |key| Event::Claimed { key, until: at(60) };
    for (issue, events, wakes) in [
        ("nothing to do", vec![event("a")], false),
        ("left to others", vec![event("a"), requested()], true),
        ("done by the writer", vec![requested(), claimed(1)], false),
        ("a later claim", vec![claimed(7)], false),
    ] {
        let n = events.len() as u64;
        let append = Append {
            events,
            ..append(issue, 0, n)
        };
        bed.log.append(append).await.expect("append");
        let batch = bed.item(issue, "log#00000000000000000001").await;
        let wake = batch
            .get("wake")
            .map(|it| it.as_s().expect("a text").as_str());
        assert_eq!(wake, wakes.then_some("act"), "{issue}");
        let head = bed.item(issue, "head").await;
        assert!(!head.contains_key("wake"), "{issue}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_wakes_others_and_is_gone_in_its_time() {
    let bed = bed().await;
    bed.log.hint(&"a".into(), at(5)).await.expect("a hint");
    let key = |it: &str| AttributeValue::S(it.into());
    let get = bed.client.get_item().table_name("cyrus");
    let get = get
        .key("pk", key("hint#a"))
        .key("sk", key(&format!("{:.9}", at(5))));
    let hint = get.send().await.expect("an answer").item.expect("a hint");
    assert_eq!(hint["wake"], key("look"));
    let expires = (at(5).as_second() + 3600).to_string();
    assert_eq!(hint["expires_at"], AttributeValue::N(expires));
    let record = |pk: &str| json!({ "dynamodb": { "Keys": { "pk": { "S": pk } } } });
    let wakes = ["hint#a", "issue#b#c", "hint#", "issue#", "shelf#breakers"]
        .map(|pk| Wake::read(&record(pk)));
    let expected = [Some(Wake::Look("a".into())), Some(Wake::Act("b#c".into()))];
    assert_eq!(wakes[..2], expected);
    assert_eq!(wakes[2..], [None, None, None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_small() {
    let bed = bed().await;
    let mut append = append("7c3f0a5e-0000-4000-8000-000000000001", 0, 1);
    append.head.title = "t".repeat(120);
    append.head.waiting_for = Some("w".repeat(120));
    append.head.attention_at = Some(at(1));
    append.head.watching = true;
    bed.log.append(append.clone()).await.expect("append");
    let item = bed.item(&append.issue.0, "head").await;
    let size = |value: &AttributeValue| match value {
        AttributeValue::S(it) | AttributeValue::N(it) => it.len(),
        other => panic!("{other:?}"),
    };
    let bytes: usize = item.iter().map(|(name, it)| name.len() + size(it)).sum();
    assert!(bytes < 1_024, "{bytes} bytes: {item:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_lags_behind_is_lived_with() {
    let bed = bed().await;
    for issue in 0..4 {
        let mut append = append(&format!("issue {issue}"), 0, 1);
        append.head.started_at = at(issue);
        bed.log.append(append).await.expect("append");
    }
    // Gone between the list and the items.
    let client = bed.client.clone();
    bed.proxy.meanwhile("BatchGetItem", 0, async move {
        for sk in ["head", "log#00000000000000000001"] {
            let gone = client.delete_item().table_name("cyrus");
            let gone = gone.key("pk", AttributeValue::S("issue#issue 3".into()));
            let gone = gone.key("sk", AttributeValue::S(sk.into()));
            gone.send().await.expect("delete");
        }
    });
    let heads = in_time(bed.log.heads(None, 2)).await.expect("heads");
    let names: Vec<&str> = heads.iter().map(|it| it.issue.0.as_str()).collect();
    assert_eq!(names, ["issue 2", "issue 1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_consumed_is_counted() {
    let bed = bed().await;
    assert_eq!(bed.log.consumed(), Default::default());
    bed.log.append(append("a", 0, 1)).await.expect("append");
    let written = bed.log.consumed();
    // Two items of a transaction, and their places in two indexes.
    assert!((4.0..=10.0).contains(&written.write), "{written:?}");
    assert_eq!(written.read, 0.0);
    bed.log.read(&"a".into(), 0).await.expect("read");
    let read = bed.log.consumed();
    assert_eq!((read.read, read.write), (1.0, written.write));
    bed.log
        .put(write("a", json!(1)), 0, at(0))
        .await
        .expect("put");
    assert_eq!(bed.log.consumed().write, written.write + 1.0);
}

impl Bed {
    pub(crate) async fn item(
        &self,
        issue: &str,
        sk: &str,
    ) -> std::collections::HashMap<String, AttributeValue> {
        let get = self.client.get_item().table_name("cyrus");
        let get = get.key("pk", AttributeValue::S(format!("issue#{issue}")));
        let answer = get.key("sk", AttributeValue::S(sk.into())).send().await;
        answer.expect("an answer").item.expect("an item")
    }

    /// Changes an attribute of a head behind everybody's back.
    pub(crate) async fn set(&self, issue: &str, name: &str, value: AttributeValue) {
        let mut item = self.item(issue, "head").await;
        item.insert(name.into(), value);
        let put = self
            .client
            .put_item()
            .table_name("cyrus")
            .set_item(Some(item));
        put.send().await.expect("put");
    }

    pub(crate) async fn remove(&self, issue: &str, sk: &str) {
        let delete = self.client.delete_item().table_name("cyrus");
        let delete = delete.key("pk", AttributeValue::S(format!("issue#{issue}")));
        let answer = delete.key("sk", AttributeValue::S(sk.into())).send().await;
        answer.expect("delete");
    }
}
