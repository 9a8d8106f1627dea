//! What every store must keep to when an issue is parked, and its head rebuilt.

use shared::ports::{AppendError, Head};

use crate::stores::Subject;
use crate::{append, at, head};

pub(crate) async fn a_parked_issue_is_in_nobodys_way(store: Subject) {
    let log = &store.log;
    for (name, attention_at, watching) in [
        ("a", Some(10), true),
        ("b", None, true),
        ("c", Some(10), false),
        ("d", None, false),
        ("e", Some(20), true),
    ] {
        let mut append = append(name, 0, 1);
        append.head.attention_at = attention_at.map(at);
        append.head.watching = watching;
        log.append(append).await.expect("append");
    }
    for name in ["a", "b", "c", "d"] {
        log.park(&name.into(), "why not").await.expect("park");
        log.park(&name.into(), &format!("{name} is \"broken\""))
            .await
            .expect("park again");
    }
    log.park(&"nobody".into(), "gone")
        .await
        .expect("nothing to park");

    let attention = log.attention(at(100), 10).await.expect("attention");
    let named: Vec<&str> = attention.iter().map(|it| it.issue.0.as_str()).collect();
    assert_eq!(named, ["e"]);
    let heads = log.heads(None, 10).await.expect("heads");
    assert_eq!(heads.len(), 5);
    for found in &heads[1..] {
        let name = found.issue.0.as_str();
        let parked = Head {
            waiting_for: Some(format!("{name} is \"broken\"")),
            ..head(name, 1)
        };
        assert_eq!(*found, parked);
    }
    assert_eq!(log.find("A").await.expect("find"), Some("a".into()));
    assert_eq!(log.read(&"a".into(), 0).await.expect("read").len(), 1);

    // The next append is as good as a new head.
    let mut next = append("a", 1, 1);
    next.head.watching = true;
    log.append(next.clone()).await.expect("append");
    let heads = log.heads(None, 10).await.expect("heads");
    assert!(heads.contains(&next.head), "{heads:?}");
    assert_eq!(
        log.attention(at(100), 10).await.expect("attention").len(),
        2
    );
}

pub(crate) async fn a_head_is_rebuilt_where_its_log_ends(store: Subject) {
    let log = &store.log;
    log.append(append("a", 0, 2)).await.expect("append");
    log.append(append("a", 2, 3)).await.expect("append");
    log.append(append("b", 0, 1)).await.expect("append");
    log.park(&"a".into(), "broken").await.expect("park");
    for seq in [0, 1, 2, 3, 4, 6, 100] {
        let wrong = log.rebuild(head("a", seq)).await;
        assert!(
            matches!(wrong, Err(AppendError::Conflict)),
            "at {seq}: {wrong:?}"
        );
    }
    let nobody = log.rebuild(head("nobody", 1)).await;
    assert!(matches!(nobody, Err(AppendError::Conflict)), "{nobody:?}");

    let rebuilt = Head {
        title: "as the log tells it".into(),
        attention_at: Some(at(5)),
        watching: true,
        ..head("a", 5)
    };
    for _ in 0..2 {
        log.rebuild(rebuilt.clone()).await.expect("rebuild");
        let heads = log.heads(None, 10).await.expect("heads");
        assert_eq!(heads, [head("b", 1), rebuilt.clone()]);
    }
    let attention = log.attention(at(5), 10).await.expect("attention");
    assert_eq!(attention.len(), 1);
    assert_eq!(log.read(&"a".into(), 0).await.expect("read").len(), 5);
    log.append(append("a", 5, 1)).await.expect("append");
    let late = log.rebuild(rebuilt).await;
    assert!(matches!(late, Err(AppendError::Conflict)), "{late:?}");
    let heads = log.heads(None, 10).await.expect("heads");
    assert_eq!(heads, [head("b", 1), head("a", 6)]);
}
