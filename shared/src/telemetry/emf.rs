//! A recorder of metrics that writes CloudWatch's Embedded Metric Format, a line
//! for each set of dimensions. Our own, since the one there is
//! (`metrics_cloudwatch_embedded`) drops a metric's values from the 101st on, and
//! repeats a gauge at every flush: a process that once saw an executor's circuit
//! open would sound the alarm for as long as it lives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Label, Metadata,
    Recorder, SharedString, Unit,
};
use serde_json::{Value, json};

use crate::issue::Time;
use crate::stats::METRICS;

/// Where CloudWatch shows our metrics.
pub const NAMESPACE: &str = "Cyrus";
/// CloudWatch takes this many values of one metric in one line …
const VALUES_PER_LINE: usize = 100;
/// … and this many metrics.
const METRICS_PER_LINE: usize = 100;
/// Values of one metric that are kept for a flush; more are a flood, and dropped.
const VALUES_MAX: usize = 10_000;

/// Labels in the order of their names.
type Dimensions = Vec<(String, String)>;

type Slots = BTreeMap<Dimensions, BTreeMap<String, Arc<Slot>>>;

/// Keeps what is recorded until it is written.
#[derive(Clone, Default)]
pub struct Emf(Arc<Mutex<Slots>>);

/// What was recorded of one metric since the last flush.
#[derive(Default)]
struct Slot(Mutex<Values>);

#[derive(Default)]
struct Values {
    fresh: Vec<f64>,
    /// Where a gauge stands, flushed or not.
    level: f64,
}

impl Emf {
    /// Writes what was recorded since the last time, and forgets it.
    pub fn write(&self, now: Time, out: &mut String) {
        let slots = lock(&self.0);
        for (dimensions, metrics) in &*slots {
            let mut fresh: BTreeMap<&str, Vec<f64>> = metrics
                .iter()
                .map(|(name, slot)| (name.as_str(), std::mem::take(&mut lock(&slot.0).fresh)))
                .collect();
            loop {
                fresh.retain(|_, values| !values.is_empty());
                if fresh.is_empty() {
                    break;
                }
                let line = fresh
                    .iter_mut()
                    .take(METRICS_PER_LINE)
                    .map(|(name, values)| {
                        let rest = values.split_off(values.len().min(VALUES_PER_LINE));
                        (*name, std::mem::replace(values, rest))
                    });
                out.push_str(&line_of(now, dimensions, line.collect()).to_string());
                out.push('\n');
            }
        }
    }

    fn slot(&self, key: &Key) -> Arc<Slot> {
        let label = |it: &Label| (it.key().to_owned(), it.value().to_owned());
        let mut dimensions: Dimensions = key.labels().map(label).collect();
        dimensions.sort();
        let mut slots = lock(&self.0);
        let metrics = slots.entry(dimensions).or_default();
        Arc::clone(metrics.entry(key.name().to_owned()).or_default())
    }
}

impl Recorder for Emf {
    // The units are in the table of our metrics.
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.slot(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.slot(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.slot(key))
    }
}

impl CounterFn for Slot {
    fn increment(&self, value: u64) {
        let mut values = lock(&self.0);
        match values.fresh.first_mut() {
            Some(sum) => *sum += value as f64,
            None => values.fresh.push(value as f64),
        }
    }

    fn absolute(&self, value: u64) {
        lock(&self.0).fresh = vec![value as f64];
    }
}

impl Slot {
    fn stand(&self, change: impl FnOnce(f64) -> f64) {
        let mut values = lock(&self.0);
        let level = change(values.level);
        // There is no number in JSON for anything else.
        if level.is_finite() {
            values.level = level;
            values.fresh = vec![level];
        }
    }
}

impl GaugeFn for Slot {
    fn increment(&self, value: f64) {
        self.stand(|level| level + value);
    }

    fn decrement(&self, value: f64) {
        self.stand(|level| level - value);
    }

    fn set(&self, value: f64) {
        self.stand(|_| value);
    }
}

impl HistogramFn for Slot {
    fn record(&self, value: f64) {
        let mut values = lock(&self.0);
        if value.is_finite() && values.fresh.len() < VALUES_MAX {
            values.fresh.push(value);
        }
    }
}

fn line_of(now: Time, dimensions: &Dimensions, metrics: Vec<(&str, Vec<f64>)>) -> Value {
    let names: Vec<&String> = dimensions.iter().map(|(name, _)| name).collect();
    let described = metrics.iter().map(|(name, _)| {
        let known = METRICS.iter().find(|it| it.name == *name);
        json!({ "Name": name, "Unit": known.map_or("None", |it| it.unit) })
    });
    let mut line = json!({ "_aws": {
        "Timestamp": now.as_millisecond(),
        "CloudWatchMetrics": [{
            "Namespace": NAMESPACE,
            "Dimensions": [names],
            "Metrics": described.collect::<Vec<_>>(),
        }],
    }});
    for (name, value) in dimensions {
        line[name] = value.as_str().into();
    }
    for (name, values) in metrics {
        line[name] = match values.as_slice() {
            [one] => json!(one),
            many => json!(many),
        };
    }
    line
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
