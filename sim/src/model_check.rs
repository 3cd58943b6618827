//! A bounded model check: in small scopes, all interleavings of the real machines against the model of the store.
//!
//! | looking for | it is in |
//! |---|---|
//! | the scopes | [`scope`] |
//! | what may happen in a state | `action` |
//! | which of it is enough | `reduction`, `past` |
//! | what it leads to | `step` |
//! | what must hold | `invariants` |
//! | the search, breadth first | [`search`] |
//! | mistakes that it must find | [`mistake`] |
//!
//! # What is covered
//!
//! Everything that happens at one moment happens in every order: timers of each machine, each request's arrival at the store, each
//! reply's, handlers that end, faults, operators. Time goes on, to the next timer of anybody, once nothing is left that may not wait;
//! handlers, operators, late messages and processes that stand still may wait. All timings are multiples of an eighth of the ttl, so
//! timers often meet. Faults are bounded in number, not in place. There is no bound on depth: histories end by themselves, and one
//! that is not over in time is a violation.
//!
//! # What is not
//!
//! Clocks that differ or jump, the second witness, known deaths (R1), stable names (R5), more than two processes or rows, several
//! batches, transactions that are done by halves: the simulator and the stores' own tests have those. In most scopes the leases are taken
//! before the search begins, and faults befall process 0. A message on time takes no time at all. Backoffs have no jitter. A
//! digest of 64 bits stands for a state: among a million states two meet with a probability of some 3e-8, which could hide one.

mod action;
mod invariants;
pub mod mistake;
mod past;
mod reduction;
pub mod scope;
pub mod search;
mod state;
mod step;
mod trace;
