//! A model of the second witness (Redis).
//!
//! Its evidence of having kept its data is a marker with the time of writing: the first request that does not find one
//! writes it. A flush or an empty restart takes the marker along with everything else, so whoever asks next starts the
//! wait anew; a restart that kept its data shows in the time the server has been up. While it is down the caller just
//! does not ask.

use std::collections::BTreeMap;
use std::time::Duration;

use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::{BatchId, Instant, LeaseId, LineSet};

/// The witness's state. `now` is always its own clock.
#[derive(Debug, Clone)]
pub struct ModelLiveness {
    up_since: Instant,
    marker: Option<Instant>,
    beats: BTreeMap<LeaseId, Beat>,
}

#[derive(Debug, Clone)]
struct Beat {
    expires_at: Instant,
    running: Vec<(BatchId, LineSet)>,
}

impl ModelLiveness {
    /// An empty server, started now.
    pub const fn new(now: Instant) -> Self {
        Self { up_since: now, marker: None, beats: BTreeMap::new() }
    }

    /// Does a request.
    pub fn apply(&mut self, now: Instant, request: &LivenessRequest) -> LivenessReply {
        let marker = *self.marker.get_or_insert(now);
        match request {
            LivenessRequest::Beat { lease, ttl, running } => {
                let beat = Beat { expires_at: now + *ttl, running: running.clone() };
                self.beats.insert(*lease, beat);
                LivenessReply::Done
            }
            LivenessRequest::Leave { lease } => {
                self.beats.remove(lease);
                LivenessReply::Done
            }
            LivenessRequest::Check { leases, ttl_max } => LivenessReply::Check {
                vouches: kept_longer_than(*ttl_max, now, self.up_since, marker),
                alive: leases.iter().copied().filter(|lease| self.has_beat(now, *lease)).collect(),
            },
        }
    }

    /// Whether this lease has a heartbeat.
    pub fn has_beat(&self, now: Instant, lease: LeaseId) -> bool {
        self.beats.get(&lease).is_some_and(|beat| now < beat.expires_at)
    }

    /// The running rows that a lease published, for as long as its heartbeat lasts.
    pub fn running(&self, now: Instant, lease: LeaseId) -> &[(BatchId, LineSet)] {
        self.beats.get(&lease).filter(|beat| now < beat.expires_at).map_or(&[], |beat| &beat.running)
    }

    /// Since when the server is up.
    pub const fn up_since(&self) -> Instant {
        self.up_since
    }

    /// The server restarts and keeps what it had; heartbeats ran on while it was down.
    pub fn restart_with_data(&mut self, now: Instant) {
        self.up_since = now;
    }

    /// The server restarts with nothing.
    pub fn restart_empty(&mut self, now: Instant) {
        *self = Self::new(now);
    }

    /// All keys are gone; the server stays up.
    pub fn flush(&mut self) {
        self.marker = None;
        self.beats.clear();
    }

    /// One heartbeat is evicted, with nothing to show for it.
    pub fn evict(&mut self, lease: LeaseId) {
        self.beats.remove(&lease);
    }
}

/// R2: up, and with its data, for longer than so long.
fn kept_longer_than(least: Duration, now: Instant, up_since: Instant, marker: Instant) -> bool {
    now.since(up_since) > least && now.since(marker) > least
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_micros(100);

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    fn lease(number: u64) -> LeaseId {
        LeaseId::from_random(number)
    }

    fn beat(redis: &mut ModelLiveness, now: u64, number: u64) {
        let running = vec![(BatchId::from_random(1), LineSet::single(number))];
        let request = LivenessRequest::Beat { lease: lease(number), ttl: TTL, running };
        assert_eq!(redis.apply(at(now), &request), LivenessReply::Done);
    }

    fn check(redis: &mut ModelLiveness, now: u64) -> (bool, Vec<LeaseId>) {
        let request = LivenessRequest::Check { leases: vec![lease(1), lease(2)], ttl_max: TTL };
        match redis.apply(at(now), &request) {
            LivenessReply::Check { vouches, alive } => (vouches, alive),
            LivenessReply::Done => unreachable!("a check is answered as one"),
        }
    }

    #[test]
    fn heartbeats_last_their_ttl() {
        let mut redis = ModelLiveness::new(at(0));
        beat(&mut redis, 0, 1);
        beat(&mut redis, 50, 2);
        assert_eq!(check(&mut redis, 99), (false, vec![lease(1), lease(2)]));
        assert_eq!(redis.running(at(99), lease(1)).len(), 1);
        assert_eq!(check(&mut redis, 100), (false, vec![lease(2)]));
        assert!(redis.running(at(100), lease(1)).is_empty());
        redis.apply(at(101), &LivenessRequest::Leave { lease: lease(2) });
        assert_eq!(check(&mut redis, 101), (true, vec![]));
    }

    #[test]
    fn it_vouches_only_after_a_ttl_with_its_data() {
        let mut redis = ModelLiveness::new(at(0));
        assert!(!check(&mut redis, 500).0, "the marker is written now");
        assert!(!check(&mut redis, 600).0, "exactly a ttl is not longer");
        assert!(check(&mut redis, 601).0);
        redis.flush();
        assert!(!check(&mut redis, 700).0);
        assert!(check(&mut redis, 801).0);
        beat(&mut redis, 801, 1);
        redis.restart_with_data(at(810));
        assert_eq!(check(&mut redis, 850), (false, vec![lease(1)]));
        assert!(check(&mut redis, 911).0);
        beat(&mut redis, 911, 1);
        redis.restart_empty(at(920));
        assert_eq!(check(&mut redis, 930), (false, vec![]));
        assert_eq!(redis.up_since(), at(920));
        beat(&mut redis, 931, 1);
        redis.evict(lease(1));
        assert!(!redis.has_beat(at(932), lease(1)));
    }
}
