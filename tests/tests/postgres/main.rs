//! The store on a real Postgres: who waits for whom, what survives, and what is said when something is wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod append;
mod between;
mod broken;
mod calls;
mod connecting;
mod doctor;
mod effects;
mod history;
mod locks;
mod lost_answers;
mod operators;
mod purge;
mod rig;
mod verify;
