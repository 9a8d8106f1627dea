//! Runners elsewhere: what they and the control plane promise each other, on
//! every store and over loopback.

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod common;
mod door;
mod health;
mod leases;
mod money;
mod promises;
mod push;
mod signature;
mod stage;
