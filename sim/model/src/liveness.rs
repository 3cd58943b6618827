//! A model of the second witness (Redis).
//!
//! Its evidence of having kept its data is a marker with the time of writing: the first request that does not find one
//! writes it. A flush or an empty restart takes the marker along with everything else, so whoever asks next starts the
//! wait anew; a restart that kept its data shows in the time the server has been up, of which only whole seconds are known.
//! While it is down the caller just does not ask.

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
            LivenessRequest::Beat { lease, ttl, running, .. } => {
                let beat = Beat { expires_at: now + *ttl, running: running.clone() };
                self.beats.insert(*lease, beat);
                LivenessReply::Done
            }
            LivenessRequest::Publish { lease, running } => {
                if let Some(beat) = self.beats.get_mut(lease).filter(|beat| now < beat.expires_at) {
                    beat.running.clone_from(running);
                }
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

    /// Since when the data are here, if anybody has asked since they began.
    pub const fn data_since(&self) -> Option<Instant> {
        self.marker
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
pub fn kept_longer_than(least: Duration, now: Instant, up_since: Instant, marker: Instant) -> bool {
    surely_up_longer_than(least, uptime_s(now, up_since)) && now.since(marker) > least
}

/// The uptime as Redis has it: the difference of two moments that were both cut to whole seconds.
pub const fn uptime_s(now: Instant, up_since: Instant) -> u64 {
    (now.as_micros() / SECOND_US).saturating_sub(up_since.as_micros() / SECOND_US)
}

const SECOND_US: u64 = 1_000_000;

/// Such a difference may be too large by almost a second.
fn surely_up_longer_than(least: Duration, uptime_s: u64) -> bool {
    uptime_s.checked_sub(1).is_some_and(|surely| Duration::from_secs(surely) >= least)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(100);

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * SECOND_US)
    }

    fn lease(number: u64) -> LeaseId {
        LeaseId::from_random(number)
    }

    fn beat(redis: &mut ModelLiveness, now: u64, number: u64) {
        let running = vec![(BatchId::from_random(1), LineSet::single(number))];
        let request = LivenessRequest::Beat { lease: lease(number), worker: "w".into(), ttl: TTL, running };
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
        assert!(!check(&mut redis, 910).0, "its 100 s may be little more than 99");
        assert!(check(&mut redis, 911).0);
        beat(&mut redis, 911, 1);
        redis.restart_empty(at(920));
        assert_eq!(check(&mut redis, 930), (false, vec![]));
        assert_eq!(redis.up_since(), at(920));
        beat(&mut redis, 931, 1);
        redis.evict(lease(1));
        assert!(!redis.has_beat(at(932), lease(1)));
    }

    #[test]
    fn rows_are_published_only_where_there_is_a_heartbeat() {
        let mut redis = ModelLiveness::new(at(0));
        let publish = |redis: &mut ModelLiveness, now, running| {
            redis.apply(at(now), &LivenessRequest::Publish { lease: lease(1), running });
        };
        let rows = |line| vec![(BatchId::from_random(1), LineSet::single(line))];
        publish(&mut redis, 0, rows(5));
        assert!(redis.running(at(0), lease(1)).is_empty());
        beat(&mut redis, 0, 1);
        publish(&mut redis, 99, rows(6));
        assert_eq!(redis.running(at(99), lease(1)), rows(6));
        assert!(!redis.has_beat(at(100), lease(1)), "it lasts no longer for it");
        publish(&mut redis, 100, rows(7));
        assert!(redis.running(at(100), lease(1)).is_empty());
    }

    #[test]
    fn of_its_uptime_only_whole_seconds_are_known() {
        let (second, up_since) = (Duration::from_secs(1), Instant::from_micros(1_999_999));
        let vouches = |now_us| {
            let now = Instant::from_micros(now_us);
            kept_longer_than(second, now, up_since, Instant::from_micros(0))
        };
        // At 3 s it says 2 s, and has been up for 1.000001 s; a little before it said 1 s.
        assert!(!vouches(2_999_999));
        assert!(vouches(3_000_000));
    }
}
