//! One test per rule of `docs/protocol.md`, section 4, named after it. Rules that a transaction decides are asked as functions;
//! rules of a machine are driven through its inputs, on a clock that only the test moves.
#![allow(clippy::unwrap_used)]

mod append;
mod calls;
mod claim;
mod judging;
mod judging_waits;
mod lease;
mod leaving;
mod outcome;
mod poison;
mod recovery;
mod rig;
mod takeover;
mod transactions;
mod values;
