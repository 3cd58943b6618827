//! The rules of `docs/protocol.md`, section 4: one function per rule, its name starts with the rule's number.
//!
//! They are pure decisions. The machines of this crate ask those that a worker decides; the stores (SQLite, Postgres, the
//! simulator's model) ask those that are decided inside a transaction, after locking and looking. So a rule is written
//! once, whoever applies it.
//!
//! | rules | module |
//! |---|---|
//! | T1 to T3 | [`transactions`] |
//! | L1 to L5 (L6: [`crate::worker::Worker`]) | [`lease`] |
//! | C1 to C3 | [`claim`] |
//! | O1 to O6 | [`outcome`] |
//! | R1 to R5 | [`recovery`] |
//! | P1, P2 | [`poison`] |
//! | S1 to S6 | [`leaving`] |
//! | S7 | [`calls`] |

pub mod calls;
pub mod claim;
pub mod lease;
pub mod leaving;
pub mod outcome;
pub mod poison;
pub mod recovery;
pub mod transactions;
