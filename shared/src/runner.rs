//! Runners on other machines: what they and the control plane say to each
//! other, and the control plane's half of it. A runner asks for jobs, and then
//! needs no address; or jobs are pushed to it. What it does with a job is the
//! crate `runner`'s business. In reading order:
//!
//! * [`signature`]: who may speak here.
//! * [`entry`]: how a request gets past that, on both sides.
//! * [`document`]: what is said, as JSON.
//! * `standing`: where a job stands, and what may become of it. Pure.
//! * [`queue`]: jobs in the registers.
//! * `heard`: which runners there are.
//! * `orders`: the queue keeps the promises of [`Executor`](crate::ports::Executor).
//! * [`push`]: the call to a runner that can be called.
//! * [`routes`]: the queue over HTTP.

pub mod document;
pub mod entry;
mod heard;
mod orders;
pub mod push;
pub mod queue;
pub mod routes;
pub mod signature;
mod standing;

pub use self::heard::RUNNER_PATIENCE_SECONDS;
pub use self::queue::FarRunners;
pub use self::routes::{Gate, Look};
