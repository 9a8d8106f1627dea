//! Runners on other machines: what they and the control plane say to each
//! other, and the control plane's half of it. A runner asks for jobs, so it
//! needs no address. What a runner does with a job is the crate `runner`'s
//! business. In reading order:
//!
//! * [`signature`]: who may speak here.
//! * [`document`]: what is said, as JSON.
//! * `standing`: where a job stands, and what may become of it. Pure.
//! * [`queue`]: jobs in the registers; keeps the promises of
//!   [`Executor`](crate::ports::Executor).
//! * [`routes`]: the queue over HTTP.

pub mod document;
pub mod queue;
pub mod routes;
pub mod signature;
mod standing;

pub use self::queue::FarRunners;
pub use self::routes::{Gate, Look};
