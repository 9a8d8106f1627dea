//! What needs no process.

use std::sync::Mutex;

use async_trait::async_trait;
use shared::issue::{AgentPolicy, Repository, TaskKind};

use super::*;

/// A forge that meets trouble, fault by fault, before it answers.
struct Troubled {
    faults: Mutex<Vec<Fault>>,
}

#[async_trait]
impl Publisher for Troubled {
    async fn open(&self, _: &OpenAsk) -> Result<Opened, Fault> {
        match self.faults.lock().expect("no poison").pop() {
            Some(fault) => Err(fault),
            None => Ok(Opened {
                number: 1,
                url: "u".into(),
            }),
        }
    }
}

async fn opened(faults: Vec<Fault>) -> (Result<String, FailureClass>, usize) {
    let forge = Troubled {
        faults: Mutex::new(faults),
    };
    let ask = OpenAsk {
        slug: "o/r".into(),
        branch: "b".into(),
        base: "main".into(),
        title: "t".into(),
        body: "b".into(),
    };
    let result = open(&forge, &ask).await;
    let left = forge.faults.lock().expect("no poison").len();
    (result.map(|it| it.url).map_err(|it| it.class), left)
}

#[tokio::test(start_paused = true)]
async fn a_forge_that_is_down_for_a_while_costs_time_and_nothing_else() {
    let trouble = || {
        vec![
            Fault::Transient { why: "502".into() },
            Fault::Ambiguous { why: "cut".into() },
            Fault::Busy {
                why: "slow down".into(),
                retry_after_seconds: Some(3_600),
            },
        ]
    };
    assert_eq!(opened(trouble()).await, (Ok("u".into()), 0));
    let long = vec![Fault::Transient { why: "502".into() }; 20];
    let tried = usize::try_from(OPEN_TRIES_MAX).expect("small");
    assert_eq!(opened(long).await, (Err(FailureClass::Outage), 20 - tried));
    let refused = Fault::Permanent {
        class: FailureClass::Auth,
        why: "403".into(),
    };
    assert_eq!(
        opened(vec![refused.clone(), refused]).await,
        (Err(FailureClass::Auth), 1)
    );
}

#[test]
fn a_pull_request_carries_our_mark_and_no_other() {
    let job = Job {
        key: "k".into(),
        issue: "i".into(),
        identifier: "ENG-1".into(),
        issue_title: "t".into(),
        issue_url: "https://linear.example/ENG-1".into(),
        task: "api".into(),
        kind: TaskKind::Builder,
        title: "t".into(),
        prompt: "p".into(),
        answer_schema: None,
        repository: Repository::default(),
        branch: "b".into(),
        agent: AgentPolicy::default(),
        cost_max: None,
        seconds_max: 60,
        patience_seconds: None,
        commit: None,
        commands: Vec::new(),
        repair: None,
    };
    let body = body(&job, "Done.\n<!-- cyrus:ENG-2/other -->");
    assert_eq!(body.matches("<!--").count(), 1);
    assert!(body.contains("<!-- cyrus:ENG-1/api -->"), "{body}");
    assert!(body.starts_with("Done."), "{body}");
}
