//! Invariant 4: ownership.

use std::collections::{BTreeMap, BTreeSet};

use fencepost_core::{BatchId, LeaseId, LineSet, Token};

use super::{Checker, Violation, ensure};
use crate::history::{Event, FreedWhy};
use crate::view::StoreView;

const NAME: &str = "4 ownership";

/// Asserts that a line is claimed only while nobody holds it, by a lease that is live at that moment; that every change of
/// hands gives it a larger token than it ever had; that it is recorded or given back only by who holds it; that no two
/// spans carry one token and no claim reuses one.
#[derive(Debug, Clone, Hash, Default)]
pub struct Ownership {
    lines: BTreeMap<(BatchId, u64), Line>,
    live: BTreeSet<LeaseId>,
    drawn: Drawn,
}

/// The tokens that were drawn so far.
#[derive(Debug, Clone, Hash)]
enum Drawn {
    /// By one transaction after the other: each is larger than all before.
    InOrder(Option<Token>),
    /// By many at once: none is drawn twice.
    Once(BTreeSet<Token>),
}

impl Default for Drawn {
    fn default() -> Self {
        Self::InOrder(None)
    }
}

impl Drawn {
    /// Takes in a token; whether it may be drawn now.
    fn draw(&mut self, token: Token) -> bool {
        match self {
            Self::InOrder(newest) => newest.replace(token).is_none_or(|newest| newest < token),
            Self::Once(drawn) => drawn.insert(token),
        }
    }

    /// Takes in the token of an outcome, which may be that of a span.
    fn see(&mut self, token: Token) {
        match self {
            Self::InOrder(newest) => *newest = (*newest).max(Some(token)),
            Self::Once(drawn) => drop(drawn.insert(token)),
        }
    }
}

#[derive(Debug, Clone, Copy, Hash, Default)]
struct Line {
    holder: Option<LeaseId>,
    token: Option<Token>,
}

impl Ownership {
    /// For an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// For an empty store on which many transactions go on at once: tokens are drawn by one while another commits, so only a
    /// line's own tokens rise.
    pub fn of_many_at_once() -> Self {
        Self { drawn: Drawn::Once(BTreeSet::new()), ..Self::default() }
    }

    fn change(
        &mut self,
        at: u64,
        batch: BatchId,
        lines: &LineSet,
        token: Token,
        check: impl Fn(Line) -> bool,
        holder: Option<LeaseId>,
    ) -> Result<(), Violation> {
        let is_new = self.drawn.draw(token);
        ensure(is_new, NAME, at, || format!("token {token} was drawn before, or a later one was"))?;
        for line in lines.iter() {
            let known = self.lines.entry((batch, line)).or_default();
            let was = *known;
            ensure(check(was), NAME, at, || format!("{batch} line {line} goes to {holder:?} from {was:?}"))?;
            let grows = was.token.is_none_or(|before| before < token);
            ensure(grows, NAME, at, || format!("{batch} line {line}: {token} after {was:?}"))?;
            *known = Line { holder, token: Some(token) };
        }
        Ok(())
    }
}

impl Checker for Ownership {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation> {
        match event {
            Event::LeaseTaken { lease, .. } => {
                let new = self.live.insert(*lease);
                ensure(new, NAME, at, || format!("{lease} is taken twice"))
            }
            Event::LeaseEnded { lease, .. } => {
                let was = self.live.remove(lease);
                ensure(was, NAME, at, || format!("{lease} ends and was not live"))
            }
            Event::LeaseRenewed { lease, .. } => {
                ensure(self.live.contains(lease), NAME, at, || format!("{lease} is renewed and is not live"))
            }
            Event::Claimed { batch, lines, token, lease, .. } => {
                ensure(self.live.contains(lease), NAME, at, || format!("{lease} claims and is not live"))?;
                self.change(at, *batch, lines, *token, |line| line.holder.is_none(), Some(*lease))
            }
            Event::Freed { batch, lines, token, from, why, .. } => {
                let check =
                    |line: Line| line.token == Some(*from) && line.holder.is_none() == (*why == FreedWhy::Split);
                self.change(at, *batch, lines, *token, check, None)
            }
            Event::RowsRetried { batch, spans, .. } => spans.iter().try_for_each(|(lines, token)| {
                self.change(at, *batch, lines, *token, |line| line.holder.is_none(), None)
            }),
            Event::Recorded { batch, line, lease, token, .. } => {
                let known = self.lines.entry((*batch, *line)).or_default();
                let holder = known.holder.take();
                self.drawn.see(*token);
                ensure(holder == Some(*lease), NAME, at, || {
                    format!("{batch} line {line} is recorded by {lease}, held by {holder:?}")
                })
            }
            Event::BatchAborted { batch, .. } => {
                for (_, line) in self.lines.range_mut((*batch, 0)..=(*batch, u64::MAX)) {
                    line.holder = None;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn on_state(&mut self, at: u64, state: &StoreView) -> Result<(), Violation> {
        let mut tokens = BTreeSet::new();
        let mut held = BTreeSet::new();
        for view in &state.batches {
            for span in &view.spans {
                ensure(tokens.insert(span.token), NAME, at, || format!("two spans under {}", span.token))?;
                for line in span.lines.iter().filter(|_| span.lease.is_some()) {
                    ensure(held.insert((view.batch, line)), NAME, at, || {
                        format!("{} line {line} is held twice", view.batch)
                    })?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::testing::*;
    use super::*;
    use crate::history::LeaseEnd;

    #[test]
    fn a_good_history_passes() {
        passes(&mut Ownership::new(), &good_history());
    }

    #[test]
    fn of_many_at_once_only_a_line_s_own_tokens_rise() {
        let mut events = loaded(3);
        events.extend([claimed(1..=1, 2, None, 1), claimed(2..=2, 1, None, 2)]);
        fails(&mut Ownership::new(), &events);
        passes(&mut Ownership::of_many_at_once(), &events);
        for (line, token) in [(3..=3, 2), (2..=2, 0)] {
            let mut events = events.clone();
            events.push(if token == 2 {
                claimed(line, token, None, 3)
            } else {
                freed(line, token, 1, FreedWhy::GivenBack, 0)
            });
            fails(&mut Ownership::of_many_at_once(), &events);
        }
    }

    #[test]
    fn broken_histories_are_seen() {
        let breaks = [
            // Held by two.
            vec![claimed(1..=2, 1, None, 1), claimed(2..=2, 2, None, 1)],
            // A token that goes down.
            vec![claimed(1..=1, 5, None, 1), freed(1..=1, 4, 5, FreedWhy::GivenBack, 0)],
            // A dead lease claims.
            vec![lease_ended(1, LeaseEnd::Died), claimed(1..=1, 1, None, 1)],
            // Another records.
            vec![claimed(1..=1, 1, None, 1), lease_taken(2), recorded(1, 1, 2)],
            // A held line is retried; two spans under one token.
            vec![claimed(1..=1, 1, None, 1), retried(1, &[(1..=1, 2)])],
            vec![
                claimed(1..=2, 1, None, 1),
                recorded(1, 1, 1),
                recorded(2, 1, 1),
                retried(1, &[(1..=1, 2), (2..=2, 2)]),
            ],
            // An ended lease is renewed.
            vec![lease_ended(1, LeaseEnd::Lapsed), renewed(1, 1)],
        ];
        for broken in breaks {
            let mut events = loaded(3);
            events.extend(broken);
            fails(&mut Ownership::new(), &events);
        }
    }

    #[test]
    fn a_line_in_two_held_spans_is_seen() {
        let mut view = good_view();
        Ownership::new().on_state(1, &view).unwrap();
        let twin = view.batches[0].spans[0].clone();
        view.batches[0].spans.push(twin);
        Ownership::new().on_state(1, &view).unwrap_err();
    }

    #[test]
    fn each_break_is_told() {
        let back = |from| freed(1..=1, 3, from, FreedWhy::GivenBack, 0);
        let one = || claimed(1..=1, 2, None, 1);
        let breaks = [
            (vec![lease_taken(1)], "is taken twice"),
            (vec![lease_ended(2, LeaseEnd::Dropped)], "ends and was not live"),
            (vec![renewed(2, 1)], "is renewed and is not live"),
            (vec![claimed_by(2, 1..=1, 2, None, 1, 0, false)], "claims and is not live"),
            (vec![one(), claimed(1..=1, 3, None, 2)], "line 1 goes to"),
            (vec![one(), back(1)], "line 1 goes to"),
            (vec![one(), freed(1..=1, 3, 2, FreedWhy::Split, 0)], "line 1 goes to"),
            (vec![one(), claimed(2..=2, 2, None, 2)], "was drawn before"),
            (vec![recorded(1, 2, 1)], "is recorded by"),
        ];
        for (broken, words) in breaks {
            fails_with(Ownership::new(), &[loaded(3), broken].concat(), words);
        }
        let many = [loaded(3), vec![claimed(1..=1, 5, None, 1), freed(1..=1, 4, 5, FreedWhy::GivenBack, 0)]].concat();
        fails_with(Ownership::of_many_at_once(), &many, "line 1: 4 after");
    }

    #[test]
    fn what_a_snapshot_has_twice_is_told() {
        let mut view = good_view();
        let twin = view.batches[0].spans[0].clone();
        view.batches[0].spans.push(crate::view::SpanView { token: Token(9), ..twin.clone() });
        state_fails_with(&mut Ownership::new(), &view, "is held twice");
        view.batches[0].spans[1] = crate::view::SpanView { lines: LineSet::single(3), ..twin };
        state_fails_with(&mut Ownership::new(), &view, "two spans under");
    }
}
