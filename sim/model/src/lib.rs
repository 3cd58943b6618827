//! fencepost's store, second witness and clocks as pure models, and the checkers of what must always hold.
//!
//! | looking for | it is in |
//! |---|---|
//! | the row store's model: replies, token for token, as `docs/store.md` fixes them | [`store::ModelStore`] |
//! | Redis' model | [`liveness::ModelLiveness`] |
//! | clocks with rates and jumps | [`clock`] |
//! | what happened, as data | [`history::Event`] |
//! | what a store holds, as data | [`view::StoreView`] |
//! | the invariants of `docs/protocol.md`, section 5 | [`check`], one file each |

pub mod check;
pub mod clock;
pub mod history;
pub mod liveness;
pub mod store;
pub mod view;
