//! Level 2: the real async driver and the real Redis adapter, on a simulated network of workers, a store and Redis.
//!
//! | looking for | it is in |
//! |---|---|
//! | a run as data: seed, options, faults | [`schedule::NetSchedule`], [`fault::NetFault`] |
//! | a worker's node: the driver's loops and their ports | `node`, `handlers` |
//! | the store's node, and a worker's way there | `store_server`, `store_client` |
//! | Redis' node, its protocol, and a worker's way there | `redis_server`, `resp`, `witness` |
//! | what all of them share, and the checkers see | `world`, `process` |
//! | faults taking effect, and their end | `strike`, `ending` |
//! | running one schedule | [`run::run`] |
//! | many, and the report of a failure | [`explore`] |
//! | what was seen | [`coverage`] |
//!
//! Who waits for what is decided by madsim and the seed; whatever is random otherwise comes from [`crate::draw`].

pub mod coverage;
mod ending;
pub mod explore;
pub mod fault;
mod handlers;
mod node;
mod process;
mod redis_server;
mod resp;
pub mod run;
pub mod schedule;
mod store_client;
mod store_server;
mod strike;
mod witness;
mod world;
