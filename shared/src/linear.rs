//! Linear, where people speak with us. Its words and its JSON end here.
//!
//! [`webhook`] turns a signed delivery into an input of the core; [`client`]
//! keeps the promises of [`crate::ports::Tracker`] over GraphQL. What is said,
//! and when, is not decided here.

pub mod client;
pub mod webhook;

pub use self::client::{App, Auth, Client, Options, Viewer};
pub use self::webhook::{Refused, hear};
