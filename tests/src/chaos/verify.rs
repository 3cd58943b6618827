//! What the product itself says of a batch in the end.

/// What `fencepost verify BATCH --json` finds wrong with an ended batch that was not purged. This is the one place to ask it:
/// there is no such command yet.
pub fn complaints(_store: &str, _batch: &str) -> Vec<String> {
    Vec::new()
}
