//! The store on a real Postgres: who waits for whom, what survives, and what is said when something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod append;
mod connecting;
mod effects;
mod history;
mod locks;
mod lost_answers;
mod operators;
mod rig;
