//! S2: what may still run of aborted batches.

use std::collections::BTreeMap;

use fencepost_core::rules::leaving::s2_still_runs;
use fencepost_core::{BatchId, LeaseId, LineSet, Token};

use crate::view::StoppingView;

/// What was held at an abort, by token, as far as its end was not told.
#[derive(Debug, Clone, Hash, Default)]
pub(super) struct Stopping(BTreeMap<Token, StoppingView>);

impl Stopping {
    pub(super) fn begin(&mut self, batch: BatchId, token: Token, lease: LeaseId, number: u64, lines: LineSet) {
        self.0.insert(token, StoppingView { token, batch, lease, number, lines });
    }

    /// These lines were given back, or answered.
    pub(super) fn end_lines(&mut self, lease: LeaseId, token: Token, ended: &LineSet) {
        let Some(of_token) = self.0.get_mut(&token).filter(|of_token| of_token.lease == lease) else { return };
        of_token.lines = s2_still_runs(&of_token.lines, ended);
        if of_token.lines.is_empty() {
            self.0.remove(&token);
        }
    }

    /// Of this claim.
    pub(super) fn of_claim(&self, lease: LeaseId, number: u64) -> Vec<(BatchId, Token, LineSet)> {
        let of_claim = self.0.values().filter(|of_token| (of_token.lease, of_token.number) == (lease, number));
        of_claim.map(|of_token| (of_token.batch, of_token.token, of_token.lines.clone())).collect()
    }

    pub(super) fn end_lease(&mut self, lease: LeaseId) {
        self.0.retain(|_, of_token| of_token.lease != lease);
    }

    /// Whether something of the batch may still run.
    pub(super) fn is_of(&self, batch: BatchId) -> bool {
        self.0.values().any(|of_token| of_token.batch == batch)
    }

    pub(super) fn views(&self) -> Vec<StoppingView> {
        self.0.values().cloned().collect()
    }
}
