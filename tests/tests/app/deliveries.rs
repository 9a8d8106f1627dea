//! What GitHub could not deliver is asked for again.

use std::sync::Arc;

use shared::github::deliveries::Deliveries;
use shared::ports::Clock as _;
use world::faults::Trouble;

use crate::Scene;

/// How often GitHub is asked.
const TURN_SECONDS: i64 = 300;

impl Scene {
    fn watcher(&self) -> Deliveries {
        Deliveries::new(
            self.our_app(),
            self.registers.clone(),
            Arc::new(self.clock.clone()),
        )
    }

    fn deliver(&self, guid: &str, event: &str) {
        let now = self.clock.now();
        self.app(|it| it.deliver(guid, event, now));
        self.clock.forward(1);
    }

    fn hear(&self, is_heard: bool) {
        self.app(|it| it.is_heard = is_heard);
    }

    fn tries(&self, guid: &str) -> usize {
        self.app(|it| it.deliveries().iter().filter(|it| it.guid == guid).count())
    }

    fn arrived(&self, guid: &str) -> bool {
        self.app(|it| {
            it.deliveries()
                .iter()
                .any(|it| it.guid == guid && it.arrived)
        })
    }
}

#[tokio::test]
async fn what_could_not_be_delivered_is_delivered_again() {
    let scene = Scene::new().await;
    let watcher = scene.watcher();
    scene.deliver("fine", "check_suite");
    scene.hear(false);
    scene.deliver("lost", "check_suite");
    scene.deliver("of no interest", "push");
    scene.hear(true);
    watcher.look().await;
    assert!(scene.arrived("lost"));
    assert_eq!(scene.tries("fine") + scene.tries("of no interest"), 2);
    // It has arrived: never again, though GitHub still lists the failure.
    scene.clock.forward(TURN_SECONDS);
    watcher.look().await;
    assert_eq!(scene.tries("lost"), 2);
}

#[tokio::test]
async fn copies_of_us_take_turns_at_asking() {
    let scene = Scene::new().await;
    let (one, other) = (scene.watcher(), scene.watcher());
    for turn in 1..=3 {
        tokio::join!(one.look(), other.look(), one.look());
        assert_eq!(scene.app(|it| it.asked), turn);
        scene.clock.forward(TURN_SECONDS);
    }
}

#[tokio::test]
async fn what_nobody_takes_is_given_up() {
    let scene = Scene::new().await;
    let watcher = scene.watcher();
    scene.hear(false);
    scene.deliver("lost", "pull_request");
    for _ in 0..5 {
        watcher.look().await;
        scene.clock.forward(TURN_SECONDS);
    }
    assert_eq!(scene.tries("lost"), 3);
}

#[tokio::test]
async fn many_are_taken_page_by_page_and_some_at_a_time() {
    let scene = Scene::new().await;
    let watcher = scene.watcher();
    scene.hear(false);
    for number in 0..130 {
        scene.deliver(&format!("lost {number}"), "check_run");
    }
    scene.hear(true);
    watcher.look().await;
    let arrived =
        |scene: &Scene| scene.app(|it| it.deliveries().iter().filter(|it| it.arrived).count());
    assert_eq!(arrived(&scene), 20);
    assert!(
        scene.arrived("lost 129") && !scene.arrived("lost 109"),
        "the newest first"
    );
    for _ in 0..6 {
        scene.clock.forward(TURN_SECONDS);
        watcher.look().await;
    }
    // The oldest were on the second page.
    assert_eq!(arrived(&scene), 130);
}

#[tokio::test]
async fn trouble_is_no_harm_and_passes() {
    let scene = Scene::new().await;
    let watcher = scene.watcher();
    scene.hear(false);
    scene.deliver("lost", "status");
    scene.hear(true);
    let down = || Trouble::Status {
        status: 502,
        body: String::new(),
        retry_after: None,
    };
    for (operation, trouble) in [
        ("deliveries", down()),
        ("deliveries", Trouble::Garbage),
        ("attempt", down()),
        ("attempt", Trouble::DropBefore),
    ] {
        scene.faults.next(operation, trouble);
        watcher.look().await;
        assert!(!scene.arrived("lost"));
        scene.clock.forward(TURN_SECONDS);
    }
    watcher.look().await;
    assert!(scene.arrived("lost"));
    assert_eq!(scene.faults.left(), 0);
}
