//! The chaos runner: real workers on a real store, with everything around them broken by a plan that a seed decides, then
//! healed; in the end what the store did is judged by the model's checkers, and what handlers did by their own ledgers.
//!
//! | looking for | it is in |
//! |---|---|
//! | what is drawn from the seed before anything starts | [`options`] |
//! | the kinds of faults | [`kind`] |
//! | the plan, as plain data | [`plan`] |
//! | the run itself: plan, healing, checks | [`run`](mod@run): its course; `run/faults.rs`: how each fault is begun and ended; `run/ending.rs`: what is checked and told |
//! | worker processes: kills, stops, terms, twins | [`fleet`] |
//! | the way between one worker and one server | [`link`] |
//! | the servers, and the store behind them | [`servers`] |
//! | a disk that fills up | [`disk`] |
//! | the machine's own troubles | [`probe`] |
//! | what the run says meanwhile, and if it is killed itself | [`run_log`] |
//! | batches and operators, by the real command | [`operators`] |
//! | rows and what is to come of them | [`rows`] |
//! | the handlers' ledger | [`ledger`] |
//! | what the journal says about batches, claims and outcomes | [`facts`] |
//! | the checks | [`checks`], a file for each |
//! | whether leases ended when they should, and only then | [`health`] |
//! | what is printed | [`report`] |

pub mod checks;
pub mod disk;
pub mod facts;
pub mod fleet;
pub mod health;
pub mod kind;
pub mod ledger;
pub mod link;
pub mod operators;
pub mod options;
pub mod plan;
pub mod probe;
pub mod report;
pub mod rows;
pub mod run;
pub mod run_log;
pub mod servers;
pub mod verify;
