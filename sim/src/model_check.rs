//! A bounded model check: in small scopes, all interleavings of the real machines against the model of the store.
//!
//! | looking for | it is in |
//! |---|---|
//! | the scopes | [`scope`] |
//! | what may happen in a state | `action` |
//! | which of it is enough | `reduction`, `past` |
//! | what it leads to | `step` |
//! | what must hold | `invariants` |
//! | the search | [`search`] |
//! | mistakes that it must find | [`mistake`] |

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
