//! S7: completion calls.

use std::time::Duration;

use crate::calls::Calls;
use crate::ids::Token;
use crate::rules::outcome::{Fence, o5_backoff};
use crate::time::StoreTime;

/// S7: whether a worker makes the call of a batch: at its URL where it has one, else by the operation's command. One call per end,
/// never both.
pub fn s7_makes(calls: &Calls, operation: &str, url: Option<&str>) -> bool {
    calls.operations.iter().any(|own| own == operation)
        && match url {
            Some(url) => calls.urls.iter().any(|prefix| s7_url_allowed(prefix, url)),
            None => calls.command,
        }
}

/// S7: whether a URL lies under a prefix; both are in the one form that parsing gives them, in which scheme, host and port are
/// followed by a `/`. The prefix ends where a segment of the path does.
pub fn s7_url_allowed(prefix: &str, url: &str) -> bool {
    url.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || prefix.ends_with('/') || rest.starts_with('/') || rest.starts_with('?'))
}

/// S7: whether a call may be claimed: undelivered, nobody's, and due.
pub fn s7_may_claim(delivered: bool, held: bool, not_before: Option<StoreTime>, now: StoreTime) -> bool {
    !delivered && !held && not_before.is_none_or(|not_before| not_before <= now)
}

/// S7: of several calls the one that is due the longest comes first.
pub fn s7_due_since(not_before: Option<StoreTime>, ended_at: StoreTime) -> StoreTime {
    not_before.unwrap_or(ended_at)
}

/// S7: what the fence says of a call's record. `held`: this lease holds it under this token. `last` is the token that it was claimed
/// under last; the end of its lease takes it away.
pub fn s7_fence(held: bool, token: Token, last: Option<Token>) -> Fence {
    match (held, last == Some(token)) {
        (true, _) => Fence::Holds,
        (false, true) => Fence::Before,
        (false, false) => Fence::Fenced,
    }
}

/// S7: how long after its `attempts`-th try a call is made again: as long as a row waits. There is no last try.
pub fn s7_backoff(attempts: u32, jitter: u64) -> Duration {
    o5_backoff(attempts, jitter)
}

/// S7: what the end of its lease makes of a held call: the tries that count, and how long it waits. A lease that was dropped (S1)
/// used no try. A death may be the call's own doing: it waits as after a failed one, so that it does not kill worker after worker.
pub fn s7_after_lease_end(attempts: u32, recovered: bool) -> (u32, Option<Duration>) {
    const MIDDLE: u64 = 500;
    match recovered {
        true => (attempts, Some(s7_backoff(attempts, MIDDLE))),
        false => (attempts.saturating_sub(1), None),
    }
}
