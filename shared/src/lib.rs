//! Cyrus, the part that every role shares. In reading order:
//!
//! * [`issue`]: the core. What an issue's log means and what it owes the world. Pure.
//! * [`ports`]: what the engine needs of the world, as promises.
//! * [`engine`]: hear, act, look. The only code that calls the outside.
//! * [`store`]: the logs.
//! * [`linear`], [`github`], [`codegen`]: adapters, one service each; `net`: the HTTP
//!   that they share.
//! * [`guard`]: the rate and the circuit breaker of an executor.
//! * [`config`]: `config.json`, the environment and what was set become settings;
//!   [`secrets`]: where they only name a secret.
//! * [`http`]: one router for webhooks and the API; [`view`]: the documents it serves.
//! * [`pause`]: the kill switch that all copies of us read.
//! * [`runner`]: jobs for machines elsewhere, and how those ask for them.
//! * [`service`]: the three roles in one process; [`serverless`]: each in a function.
//! * [`stats`]: what events count up to; [`telemetry`]: what a function tells of itself.
//! * [`wire`]: environment in, engine out. The only place where adapters are chosen.

mod aws;
pub mod carry;
pub mod codegen;
pub mod config;
pub mod delivery;
pub mod engine;
pub mod github;
pub mod guard;
pub mod http;
pub mod issue;
pub mod linear;
pub mod net;
pub mod pause;
pub mod ports;
pub mod runner;
pub mod secrets;
pub mod serverless;
pub mod service;
pub mod stats;
pub mod store;
pub mod telemetry;
pub mod view;
pub mod wire;
