//! Sets of lines against the obvious set; the machines under any order of replies, failures, late replies and sleep.
#![allow(clippy::unwrap_used)]

mod properties {
    pub mod judge;
    pub mod keeper;
    pub mod lines;
    pub mod worker;
}

use proptest::test_runner::{Config, FileFailurePersistence};

/// Failures are kept, and tried first from then on.
pub fn config() -> Config {
    let kept = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/regressions/properties.txt");
    Config { failure_persistence: Some(Box::new(FileFailurePersistence::Direct(kept))), ..Config::default() }
}
