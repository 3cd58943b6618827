//! What the tests that span crates share: the built programs, worker processes, and scenarios of the main job.
//!
//! A scenario is a function with its sizes as parameters: the tests call it small, `scenario` calls it at full size for
//! `docs/evidence`.

// A test that cannot go on says why by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod bench;
pub mod chaos;
pub mod history;
pub mod ledger;
pub mod network;
pub mod place;
pub mod pooler;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod scenario;
pub mod worker_program;
