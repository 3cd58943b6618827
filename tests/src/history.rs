//! What a store did, transaction by transaction, as its tables tell it: read back, and judged by the model's checkers.

pub mod journal;
pub mod replay;
pub mod story;
