//! The same story when functions are killed in mid-invocation. A claim whose
//! holder was killed costs its lease, so these stories run side by side; and the
//! module's name lets them begin before all other tests, which work meanwhile.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use world::codegen::{Order, Part};
use world::dynamo::refusal;
use world::faults::Trouble;
use world::lambda::Function;
use world::stream::Weather;

use crate::cloud::{Cloud, Setting, all, planned_issue, script};
use crate::trouble::STORM;

/// Moments at which something is killed, in one story.
const KILLS: usize = 8;
const BETWEEN_KILLS_MS: std::ops::Range<u64> = 300..1_500;

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_mid_invocation_it_finishes_and_does_nothing_twice() {
    let mut stories = JoinSet::new();
    for seed in [11, 12] {
        stories.spawn(killed_at_any_moment(seed));
    }
    stories.spawn(killed_during_a_create());
    all(stories).await;
}

/// Killed at any moment.
async fn killed_at_any_moment(seed: u64) {
    let mut dice = fastrand::Rng::with_seed(seed);
    let weather = Weather { lost: 200, ..STORM };
    let setting = Setting {
        weather,
        seed,
        schedules: 2,
        ..Setting::default()
    };
    let cloud = Cloud::begin(setting, script).await;
    cloud
        .stage
        .codegen_faults
        .next("create", Trouble::DropAfter);
    cloud.stage.github_faults.next("merge", Trouble::DropAfter);
    cloud
        .stage
        .linear_faults
        .next("AgentActivityCreate", Trouble::DropAfter);
    cloud
        .stage
        .linear_faults
        .next("IssueBrief", Trouble::DropBefore);
    for _ in 0..4 {
        cloud
            .proxy
            .faults()
            .next("TransactWriteItems", refusal("ThrottlingException"));
    }
    cloud
        .proxy
        .faults()
        .next("TransactWriteItems", Trouble::DropAfter);
    cloud
        .webhook
        .kill_next_after(Duration::from_millis(dice.u64(0..30)));
    let (identifier, session) = cloud.hand_over(planned_issue()).await;
    let mut killed = 0;
    for _ in 0..KILLS {
        // A little further each time, then the axe, wherever they stand just then.
        tokio::time::sleep(Duration::from_millis(dice.u64(BETWEEN_KILLS_MS))).await;
        let function = if dice.bool() {
            &cloud.orchestrator
        } else {
            &cloud.poller
        };
        function.kill_next_after(Duration::from_millis(dice.u64(0..250)));
        killed += function.kill_busy();
    }
    let planned = KILLS - cloud.orchestrator.kills_left() - cloud.poller.kills_left();
    cloud.until_done(&identifier).await;
    cloud.assert_once(&[&session], 1).await;
    assert!(killed + planned > 0, "somebody was killed");
    assert_eq!(
        cloud.stage.codegen_faults.left()
            + cloud.stage.github_faults.left()
            + cloud.stage.linear_faults.left(),
        0
    );
    assert_eq!(cloud.proxy.faults().left(), 0);
}

/// Killed between a create and its reply: the run is found.
async fn killed_during_a_create() {
    // Who calls while the run is being created dies before it hears of it.
    let callers: Arc<Mutex<Vec<Function>>> = Arc::default();
    let (axe, struck) = (Arc::clone(&callers), Arc::new(Mutex::new(0)));
    let blow = Arc::clone(&struck);
    let deadly = move |order: &Order| -> Part {
        let mut struck = blow.lock().expect("one create at a time");
        if order.task() == "api" && *struck == 0 {
            for function in axe.lock().expect("set before").iter() {
                *struck += function.kill_busy();
            }
        }
        script(order)
    };
    let cloud = Cloud::build(Setting::default(), deadly).await;
    let mut cloud = cloud;
    callers
        .lock()
        .expect("nobody else")
        .extend([cloud.orchestrator.clone(), cloud.poller.clone()]);
    cloud.wake_up().await;
    let (identifier, session) = cloud.hand_over(planned_issue()).await;
    cloud.until_done(&identifier).await;
    assert!(
        *struck.lock().expect("all is over") > 0,
        "somebody was killed"
    );
    cloud.assert_once(&[&session], 1).await;
}
