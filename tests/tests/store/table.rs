//! A table whose items were lost or changed behind our backs, and
//! one that others have made.

use aws_sdk_dynamodb::types::{AttributeValue, StreamSpecification, StreamViewType};
use shared::ports::{Append, AppendError, Log, Torn};
use shared::store::dynamo::{CHUNK_BYTES, DynamoLog};
use world::dynamo::table_request;

use crate::dynamo::bed;
use crate::{append, event, head, in_time};

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_contradicts_its_log_is_parked_and_rebuilt() {
    let bed = bed().await;
    let log = &bed.log;
    for issue in ["behind", "ahead", "garbled", "headless"] {
        log.append(append(issue, 0, 2)).await.expect("append");
        log.append(append(issue, 2, 1)).await.expect("append");
    }
    bed.set("behind", "seq", AttributeValue::N("2".into()))
        .await;
    bed.set("ahead", "seq", AttributeValue::N("9".into())).await;
    bed.set("garbled", "head", AttributeValue::S("{".into()))
        .await;
    bed.remove("headless", "head").await;

    for (issue, after) in [
        ("behind", 2),
        ("behind", 3),
        ("ahead", 3),
        ("headless", 3),
        ("headless", 0),
    ] {
        let stuck = log.append(append(issue, after, 1)).await;
        assert!(
            matches!(stuck, Err(AppendError::Conflict)),
            "{issue} after {after}: {stuck:?}"
        );
    }
    // One that cannot be read hides no other, nor its own issue.
    let heads = log.heads(None, 10).await.expect("heads");
    let names: Vec<&str> = heads.iter().map(|it| it.issue.0.as_str()).collect();
    assert_eq!(names, ["garbled", "behind", "ahead"]);
    let why = heads[0].waiting_for.as_deref().unwrap_or_default();
    assert!(why.contains("cyrus repair"), "{why}");

    for issue in ["behind", "ahead", "garbled", "headless"] {
        log.park(&issue.into(), "broken").await.expect("park");
        let early = log.rebuild(head(issue, 2)).await;
        assert!(
            matches!(early, Err(AppendError::Conflict)),
            "{issue}: {early:?}"
        );
        log.rebuild(head(issue, 3)).await.expect("rebuild");
        log.append(append(issue, 3, 1)).await.expect("append");
    }
    assert_eq!(log.heads(None, 10).await.expect("heads").len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_log_is_not_told_as_a_whole_one() {
    let bed = bed().await;
    let long = "x".repeat(CHUNK_BYTES);
    for issue in ["gap", "no part", "no end"] {
        bed.log.append(append(issue, 0, 2)).await.expect("append");
        let middle = Append {
            events: vec![event(&long)],
            ..append(issue, 2, 1)
        };
        bed.log.append(middle).await.expect("append");
        if issue != "no end" {
            bed.log.append(append(issue, 3, 1)).await.expect("append");
        }
    }
    bed.remove("gap", "log#00000000000000000001").await;
    bed.remove("no part", "log#00000000000000000003#001").await;
    bed.remove("no end", "log#00000000000000000003#001").await;
    for (issue, missing) in [("gap", 1), ("no part", 3), ("no end", 3)] {
        let error = in_time(bed.log.read(&issue.into(), 0))
            .await
            .expect_err(issue);
        assert!(error.is::<Torn>(), "{issue}: {error:#}");
        let expected = format!("event {missing} is missing");
        assert!(
            format!("{error:#}").contains(&expected),
            "{issue}: {error:#}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_shows_itself_bit_by_bit_is_read_whole() {
    let bed = bed().await;
    let long = Append {
        events: vec![event(&"x".repeat(CHUNK_BYTES))],
        ..append("a", 0, 1)
    };
    bed.log.append(long).await.expect("append");
    let part = bed.item("a", "log#00000000000000000001#001").await;
    bed.remove("a", "log#00000000000000000001#001").await;
    let client = bed.client.clone();
    bed.proxy.meanwhile("Query", 1, async move {
        let put = client.put_item().table_name("cyrus").set_item(Some(part));
        put.send().await.expect("put");
    });
    let found = in_time(bed.log.read(&"a".into(), 0)).await.expect("read");
    assert_eq!(found.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_not_ours_is_told_by_the_check() {
    let bed = bed().await;
    assert_eq!(bed.log.check().await.expect("check"), Vec::<String>::new());
    let client = &bed.client;
    let check = async |table: &str| {
        let log = DynamoLog::new(client, table);
        log.check().await.expect("check").join("\n")
    };
    let none = check("nothing").await;
    assert!(none.contains("there is no table `nothing`"), "{none}");

    let plain = table_request(client, "plain").expect("a request");
    let definitions = plain
        .get_attribute_definitions()
        .clone()
        .expect("definitions");
    let keys = definitions
        .into_iter()
        .filter(|it| ["pk", "sk"].contains(&it.attribute_name()));
    let plain = plain.set_attribute_definitions(Some(keys.collect()));
    let plain = plain
        .set_global_secondary_indexes(None)
        .set_stream_specification(None);
    plain.send().await.expect("a table");
    let told = check("plain").await;
    for what in [
        "the index `attention` of the table `plain` is missing",
        "the index `started` of the table `plain` is missing",
        "the index `identifier` of the table `plain` is missing",
        "has no stream",
        "time to live",
    ] {
        assert!(told.contains(what), "{what}: {told}");
    }
    assert_eq!(told.lines().count(), 5, "{told}");

    let crooked = table_request(client, "crooked").expect("a request");
    let swap = |name: &str| match name {
        "attention_at" => "identifier".to_owned(),
        "identifier" => "attention_at".to_owned(),
        other => other.to_owned(),
    };
    let mut indexes = crooked
        .get_global_secondary_indexes()
        .clone()
        .expect("indexes");
    for key in indexes.iter_mut().flat_map(|it| &mut it.key_schema) {
        key.attribute_name = swap(&key.attribute_name);
    }
    let stream = StreamSpecification::builder()
        .stream_enabled(true)
        .stream_view_type(StreamViewType::KeysOnly)
        .build()
        .expect("a stream");
    let crooked = crooked.set_global_secondary_indexes(Some(indexes));
    crooked
        .stream_specification(stream)
        .send()
        .await
        .expect("a table");
    let told = check("crooked").await;
    for what in [
        "the index `attention` of the table `crooked` has other keys",
        "the index `identifier` of the table `crooked` has other keys",
        "shows KEYS_ONLY, not NEW_IMAGE",
        "time to live",
    ] {
        assert!(told.contains(what), "{what}: {told}");
    }
    assert_eq!(told.lines().count(), 4, "{told}");

    drop(bed.emulator);
    let dead = in_time(bed.log.check()).await.expect_err("nobody is there");
    assert!(
        format!("{dead:#}").contains("look at the table `cyrus`"),
        "{dead:#}"
    );
}
