//! Redis as the second witness, on real servers: it does what the model does, and never holds anybody up.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod differential;
mod link;
