//! Redis as the second witness, on real servers: it does what the model does, and never holds anybody up.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod command;
mod differential;
mod doctor;
mod kinds;
mod link;
