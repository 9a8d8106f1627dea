//! What GitHub and Codegen tell: a hint to look, and nothing in the log.

use serde_json::{Value, json};
use shared::http::BODY_BYTES_MAX;
use world::linear::people::sign;

use super::{Door, id, opened};

pub(crate) const GITHUB_SECRET: &str = "It's a Secret to Everybody";
pub(crate) const CODEGEN_SECRET: &str = "a-long-path";

/// GitHub signs as Linear does, with a prefix.
fn signature(body: &str) -> String {
    format!("sha256={}", sign(GITHUB_SECRET, body.as_bytes()))
}

impl Door {
    async fn deliver(&self, event: &str, body: &str, signature: Option<&str>) -> u16 {
        let url = format!("{}/github-webhook", self.server.url());
        let mut request = self.http.post(url).body(body.to_owned());
        request = request.header("X-GitHub-Event", event);
        if let Some(signature) = signature {
            request = request.header("X-Hub-Signature-256", signature);
        }
        request.send().await.expect("an answer").status().as_u16()
    }

    async fn tells(&self, event: &str, body: &Value) -> u16 {
        let body = body.to_string();
        self.deliver(event, &body, Some(&signature(&body))).await
    }

    fn looks(&self) -> usize {
        let looked_at = self.looked_at.lock().expect("no panic");
        assert!(looked_at.iter().all(|it| *it == id()), "{looked_at:?}");
        looked_at.len()
    }

    fn rings(&self) -> usize {
        self.rung_for_all.load(std::sync::atomic::Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_delivery_of_github_has_its_issue_looked_at() {
    let door = Door::open().await;
    door.write(&[opened()]).await;
    let before = door.events().await;
    let suite = |branch: &str| json!({ "check_suite": { "head_branch": branch } });
    assert_eq!(
        door.tells("check_suite", &suite("cyrus/eng-1/api")).await,
        200
    );
    assert_eq!(door.looks(), 1);
    // Twice is no harm.
    assert_eq!(
        door.tells("check_suite", &suite("cyrus/eng-1/api.r2.3"))
            .await,
        200
    );
    assert_eq!(door.looks(), 2);
    for foreign in [
        "main",
        "cyrus/eng-1",
        "cyrus//api",
        "cyrus/eng-2/api",
        "eng-1/api",
    ] {
        assert_eq!(
            door.tells("check_suite", &suite(foreign)).await,
            200,
            "{foreign}"
        );
    }
    assert_eq!((door.looks(), door.rings()), (2, 0));
    assert_eq!(door.tells("merge_group", &json!({})).await, 200);
    assert_eq!((door.looks(), door.rings()), (2, 1));
    assert_eq!(door.events().await, before, "a hint is no fact");
}

#[tokio::test]
async fn what_is_not_githubs_is_refused_in_this_order() {
    let door = Door::open().await;
    door.write(&[opened()]).await;
    let body = json!({ "check_suite": { "head_branch": "cyrus/eng-1/api" } }).to_string();
    let large = " ".repeat(BODY_BYTES_MAX + 1);
    assert_eq!(door.deliver("check_suite", &large, None).await, 413);
    assert_eq!(door.deliver("check_suite", &body, None).await, 401);
    let other = signature("something else");
    assert_eq!(door.deliver("check_suite", &body, Some(&other)).await, 401);
    let broken = "{";
    assert_eq!(door.deliver("check_suite", broken, Some(&other)).await, 401);
    assert_eq!(
        door.deliver("check_suite", broken, Some(&signature(broken)))
            .await,
        400
    );
    assert_eq!((door.looks(), door.rings()), (0, 0));
}

#[tokio::test]
async fn codegen_may_ask_for_a_look_by_the_secret_in_its_path() {
    let door = Door::open().await;
    let post = async |secret: &str| {
        let url = format!("{}/codegen-webhook/{secret}", door.server.url());
        let answer = door.http.post(url).body(r#"{"id":1}"#).send().await;
        answer.expect("an answer").status().as_u16()
    };
    assert_eq!(post("a-long-pat").await, 404);
    assert_eq!(post("guessed").await, 404);
    assert_eq!(door.rings(), 0);
    assert_eq!(post(CODEGEN_SECRET).await, 202);
    assert_eq!(door.rings(), 1);
}
