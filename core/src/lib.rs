//! fencepost's protocol as sans-IO state machines.
//!
//! Nothing in this crate reads a clock, draws a random number, opens a socket or spawns a thread: time and replies
//! come in as values, effects go out as values. The driver in the `fencepost` crate performs the effects against real
//! stores; the `sim` crate performs them against models under crashes, pauses and cuts. Both run exactly this code.
//!
//! # Where to look
//!
//! | looking for | it is in |
//! |---|---|
//! | a rule of `docs/protocol.md` by its number (T1 ... S7) | [`rules`]: one function per rule, its name starts with the number |
//! | what a store is asked, and what it answers | [`store`] |
//! | what appending asks of a store, and what it is answered | [`append`] |
//! | what completion calls ask of a store, and what they are answered | [`calls`] |
//! | what purging asks of a store, and what it is answered | [`purge`] |
//! | what Redis is asked, and what it answers | [`liveness`] |
//! | a worker's claims, runs and outcomes | [`worker::Worker`] |
//! | a worker's lease: take, renew, drop | [`keeper::Keeper`] |
//! | looking for dead workers | [`judge::Judge`] |
//!
//! # Shape of a machine
//!
//! Every machine has `handle_input(now, input)`, `handle_timeout(now)`, `poll_effect()` and `poll_timeout()`. After
//! any input the caller polls effects until `None`, then sleeps until `poll_timeout()`. A second `handle_timeout` at
//! the same instant does nothing, and the next wake-up is never in the past.

pub mod append;
pub mod calls;
pub mod config;
pub mod ids;
pub mod judge;
pub mod keeper;
pub mod lines;
pub mod liveness;
pub mod purge;
pub mod random;
pub mod rules;
pub mod store;
pub mod time;
pub mod worker;

pub use config::{Timing, TimingError, WorkerOptions};
pub use ids::{AppendId, BatchId, LeaseId, ParseIdError, RequestId, Token};
pub use lines::{LineRange, LineSet};
pub use time::{Instant, StoreTime};
