//! Stand-ins for the outside, for tests and the demo: they behave like the real
//! services, from their schema, their documents or recorded bytes, and are
//! switched into failure call by call.
//!
//! Each stand-in is a plain state machine (`Linear`, `GitHub`, `Codegen`) that
//! takes the time as an argument, and a thin HTTP skin over it.

pub mod codegen;
pub mod dynamo;
pub mod faults;
pub mod github;
pub mod lambda;
pub mod linear;
pub mod model;
pub mod serve;
pub mod stage;
pub mod stream;
