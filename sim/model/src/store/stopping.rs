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

    /// The claim was settled: it is granted to nobody.
    pub(super) fn end_claim(&mut self, lease: LeaseId, number: u64) {
        self.0.retain(|_, of_token| (of_token.lease, of_token.number) != (lease, number));
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
