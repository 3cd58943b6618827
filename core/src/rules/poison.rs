//! P: rows that kill their workers.

use std::time::Duration;

use crate::ids::Token;
use crate::lines::LineSet;
use crate::time::Instant;

/// P1, O5, S5: whether an entry of a line's log counts among its attempts and crashes: those from its last operator's retry
/// on. `superseded` is the newest token of an outcome of the line that was taken away; a line's tokens only rise (T3).
pub fn p1_counts(token: Token, superseded: Option<Token>) -> bool {
    superseded.is_none_or(|superseded| superseded < token)
}

/// P1: two counters. A line's crashes are its counted deaths less those that a living worker took back; attempts are
/// counted apart (O5).
pub fn p1_crashes(counted: u32, withdrawn: u32) -> u32 {
    counted.saturating_sub(withdrawn)
}

/// P2: what becomes of one held span when its lease is declared dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AfterEnd {
    /// Free again as one suspect range, or as two halves.
    Suspect {
        /// The ranges, in order; together exactly the span's lines.
        parts: Vec<LineSet>,
        /// Their new suspicion.
        suspicion: u32,
    },
    /// The line ran alone: its crash count goes up. With the count as it is then, [`p2_after_crash`] decides.
    Crash,
}

/// P2: decides what becomes of a held span's open lines. A name taken over from a silent holder (R5) counts like a lapse:
/// where the holder lives after all, it takes its crash back (P1).
pub fn p2_after_end(lines: &LineSet, suspicion: u32, alone: bool) -> AfterEnd {
    debug_assert!(!lines.is_empty());
    match (alone, suspicion) {
        (true, _) => AfterEnd::Crash,
        (false, 0) => AfterEnd::Suspect { parts: vec![lines.clone()], suspicion: 1 },
        (false, _) => AfterEnd::Suspect { parts: p2_halves(lines), suspicion: suspicion.saturating_add(1) },
    }
}

/// P2: halves of a set of lines; one line stays whole.
pub fn p2_halves(lines: &LineSet) -> Vec<LineSet> {
    let (left, right) = lines.split_first(lines.count().div_ceil(2));
    if right.is_empty() { vec![left] } else { vec![left, right] }
}

/// P2: whether a line that crashed alone has crashed too often. `crashes` counts this one.
pub fn p2_after_crash(crashes: u32, crashes_max: u32) -> bool {
    crashes >= crashes_max
}

/// P2: a free suspect span of one line is taken only alone, by a worker that is idle and holds no span.
pub fn p2_wants_idle_worker(suspicion: u32, lines: u64) -> bool {
    suspicion > 0 && lines == 1
}

/// P2: the quota: at most one worker in two works on suspects, and always one may. `others` are the other live leases that hold a
/// suspect span, `live` all live leases.
pub fn p2_may_take_suspect(others_on_suspects: u64, live: u64) -> bool {
    others_on_suspects < (live / 2).max(1)
}

/// P2: whether a worker may take suspects: within the quota, or where it finds nothing else to claim. Then the quota would keep
/// no work going, only a worker idle.
pub fn p2_may_work_on_suspects(within_quota: bool, something_else: bool) -> bool {
    within_quota || !something_else
}

/// P2: whether a worker that may take suspects may take a range of them: one at a time. A death says that some line of those
/// held is to blame, and no more: several ranges held together would all be halved for it, down to many single lines, which
/// are slow to run.
pub fn p2_may_take_range(may_take_suspect: bool, holds_suspect: bool) -> bool {
    may_take_suspect && !holds_suspect
}

/// P2, S7: until when a worker that heard at `ended_at` that it was declared dead leaves single suspects and completion calls to
/// others, if it had its turn of them under that lease. Whatever ended its lease may end the next one as soon (a clock that is far
/// too slow does), and it knows first that something is free again: it would take the same row each time and never finish it. All
/// others that poll as often have asked by then.
pub fn p2_others_first_until(ended_at: Instant, ttl: Duration, poll: Duration) -> Instant {
    ended_at + ttl.max(poll.saturating_mul(2))
}

/// P2: how many lines of a free suspect span a worker takes at once: never a single one out of several, since a single
/// suspect is taken alone.
pub fn p2_lines_to_take(wanted: u64, available: u64) -> u64 {
    debug_assert!(available >= 2);
    wanted.clamp(2, available)
}
