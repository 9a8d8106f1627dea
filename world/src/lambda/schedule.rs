//! A schedule that invokes a function, as EventBridge Scheduler does.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::{Failed, Function};

/// Ticks until it is dropped. A tick does not wait for the one before it to end.
#[derive(Debug)]
pub struct Schedule(JoinHandle<()>);

impl Schedule {
    /// Invokes the function every so often. What fails is not repeated: the next
    /// tick comes by itself.
    pub fn start(function: Function, every: Duration) -> Self {
        Self(tokio::spawn(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let function = function.clone();
                tokio::spawn(async move {
                    match function.invoke(&json!({})).await {
                        Ok(_) | Err(Failed::Throttled) => {}
                        Err(error) => tracing::warn!("a tick of the schedule failed: {error}"),
                    }
                });
            }
        }))
    }
}

impl Drop for Schedule {
    fn drop(&mut self) {
        self.0.abort();
    }
}
