//! fencepost, the library behind the command.
//!
//! | looking for | it is in | does IO |
//! |---|---|---|
//! | what the command line does | [`commands`] | yes |
//! | the loops that perform the core's effects | [`driver`] | through its ports |
//! | what runs a row | [`handler`] | yes |
//! | submitting rows | [`load`] | through the store |
//! | appending rows to a batch | [`append`] | through the store |
//! | removing what has ended | [`purge`] | through the store |
//! | a second witness of workers' lives (Redis) | [`liveness`] | yes |
//! | reading CSV and JSON lines | [`input`] | yes |
//! | what reports look like | [`report`] | no |
//! | writing results | [`results`] | yes |
//! | the real clock, tasks and processes | [`runtime`] | yes |
//! | row stores, and what is asked of any of them | [`store`] | yes |
//! | a worker put together | [`worker`] | through the others |

// `println!` and its kin panic where they cannot write.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod append;
pub mod commands;
pub mod driver;
pub mod handler;
pub mod input;
pub mod liveness;
pub mod load;
mod masked;
pub mod purge;
pub mod report;
pub mod results;
pub mod runtime;
mod say;
mod slices;
pub mod store;
mod visible;
pub mod worker;

/// The database library: what [`handler::transactional::TransactionalHandler::apply`] writes with. It is part of this
/// crate's public API: a new major version of it is one of fencepost, too.
pub use sqlx;
