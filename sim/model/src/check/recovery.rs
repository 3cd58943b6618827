//! Invariant 6: bounded recovery.

use std::collections::BTreeMap;
use std::time::Duration;

use fencepost_core::LeaseId;

use super::health::{Facts, Health};
use super::{Checker, Violation, ensure, micros};
use crate::history::{Event, Process};
use crate::view::StoreView;

const NAME: &str = "6 bounded recovery";

/// Asserts R4's bound: a live lease whose process is lost (dead, paused, or cut off from the store) has ended once some
/// other process had all that a judge needs for `ttl + scan`, two looks (half a renewal interval) and the slack; a renewal
/// interval more where that judge had not been watching (had not had all that it needs for a scan and a look before the lease was
/// last renewed); for a process that lives, one ttl more. The time counts from the last of:
/// the process was lost; the lease was last taken or renewed (L2: of the renewals while it is lost only so many count: in its
/// licence it asks every eighth of the ttl, and they may arrive twice); the judge started or became well; the store came back,
/// or its clock was stepped. What a judge needs: well, not stopping, a steady clock. (An end frees all spans in its own
/// transaction: that is invariant 1.)
#[derive(Debug)]
pub struct BoundedRecovery {
    slack: u64,
    health: Health,
    renewed: BTreeMap<LeaseId, Renewed>,
    heartbeats_linger: bool,
    /// The next lease that must have ended, and when.
    next: Option<(u64, LeaseId)>,
}

/// Of a live lease.
#[derive(Debug, Clone, Copy)]
struct Renewed {
    /// When it was taken or renewed, as far as that counts.
    at: u64,
    /// Since when its process was lost at the last renewal, and how many there were since.
    lost: (u64, u32),
}

/// So many renewals count while a process is lost.
const LOST_RENEWALS_MAX: u32 = 16;

impl BoundedRecovery {
    /// For an empty store.
    pub fn new(slack: Duration) -> Self {
        Self {
            slack: micros(slack),
            health: Health::default(),
            renewed: BTreeMap::new(),
            heartbeats_linger: false,
            next: None,
        }
    }

    fn in_time(&self, at: u64) -> Result<(), Violation> {
        let Some((deadline, lease)) = self.next else {
            return Ok(());
        };
        ensure(at <= deadline, NAME, at, || format!("{lease} was to end by {deadline} us and is live"))
    }

    fn find_next(&self) -> Option<(u64, LeaseId)> {
        let store_since = self.health.store_since()?;
        let deadline = |(lease, renewed): (&LeaseId, &Renewed)| {
            let (process, facts) = self.health.of_lease(*lease)?;
            if !facts.is_lost() {
                return None;
            }
            let from = facts.lost_since.max(renewed.at).max(store_since);
            let judged = self.judges(process).map(|judge| {
                let since = judge.since.max(store_since);
                let watched = since + micros(judge.timing.scan) + micros(facts.timing.renew) / 4 <= renewed.at;
                from.max(judge.since) + self.bound(facts, judge, watched)
            });
            Some((judged.min()?, *lease))
        };
        self.renewed.iter().filter_map(deadline).min()
    }

    fn judges(&self, other_than: Process) -> impl Iterator<Item = &Facts> {
        let others = self.health.processes().filter(move |(process, _)| *process != other_than);
        others.map(|(_, facts)| facts).filter(|facts| facts.may_judge())
    }

    fn bound(&self, facts: &Facts, judge: &Facts, watched: bool) -> u64 {
        let (ttl, renew) = (micros(facts.timing.ttl), micros(facts.timing.renew));
        // R2: a heartbeat counts for one ttl beyond the lease's end at most.
        let until_past = if facts.dead && !self.heartbeats_linger { ttl } else { 2 * ttl };
        let newcomer = if watched { 0 } else { renew };
        until_past + micros(judge.timing.scan) + newcomer + renew / 2 + self.slack
    }

    fn renewed(&mut self, at: u64, lease: LeaseId) {
        let lost_since =
            self.health.of_lease(lease).filter(|(_, facts)| facts.is_lost()).map(|(_, facts)| facts.lost_since);
        let renewed = self.renewed.entry(lease).or_insert(Renewed { at, lost: (0, 0) });
        if let Some(since) = lost_since {
            let before = if renewed.lost.0 == since { renewed.lost.1 } else { 0 };
            renewed.lost = (since, before + 1);
            if before >= LOST_RENEWALS_MAX {
                return;
            }
        }
        renewed.at = at;
    }

    fn is_lost(&self, lease: LeaseId) -> bool {
        self.health.of_lease(lease).is_some_and(|(_, facts)| facts.is_lost())
    }
}

impl Checker for BoundedRecovery {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation> {
        self.in_time(at)?;
        let changed = match *event {
            Event::LeaseTaken { lease, .. } | Event::LeaseRenewed { lease, .. } => {
                self.renewed(at, lease);
                self.is_lost(lease)
            }
            Event::LeaseEnded { lease, .. } => {
                self.renewed.remove(&lease);
                self.is_lost(lease)
            }
            Event::HeartbeatsLinger => {
                self.heartbeats_linger = true;
                true
            }
            _ => self.health.on_event(at, event),
        };
        if changed {
            self.next = self.find_next();
        }
        Ok(())
    }

    fn at_end(&mut self, at: u64, _state: &StoreView) -> Result<(), Violation> {
        self.in_time(at)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::history::{LeaseEnd, Link};

    const P: Process = Process(1);

    /// Whether the checker bears a lease 1 that lives until `at`, with a second process as a judge.
    fn bears(facts: &[(u64, Event)], at: u64) -> bool {
        let mut events = at_ms(0, started(1, 1));
        events.extend(at_ms(0, started(2, 2)));
        events.extend_from_slice(facts);
        events.push((at, lease_ended(1, LeaseEnd::Lapsed)));
        let mut checker = BoundedRecovery::new(Duration::from_millis(100));
        first_failure(&mut checker, &events).is_none()
    }

    fn crash() -> (u64, Event) {
        (1000, Event::WorkerCrashed { process: P, by_row: None })
    }

    #[test]
    fn a_death_is_acted_on_in_time() {
        // 1 s + ttl 8 s + scan 8 s + renewal interval 2 s + looks 1 s + slack 0.1 s.
        assert!(bears(&[crash()], 20_100));
        assert!(!bears(&[crash()], 20_101));
        assert!(bears(&[], 1_000_000), "a lease that is well may live");
    }

    /// Who had a scan and a look before the last renewal needs no renewal interval more.
    #[test]
    fn a_judge_that_was_watching_is_faster() {
        let bears_after = |renewed_at: u64, at: u64| {
            let (lease, expires_at) = (LeaseId::from_random(1), fencepost_core::StoreTime(0));
            let renewed = (renewed_at, Event::LeaseRenewed { lease, renewals: 1, expires_at });
            bears(&[renewed, (21_000, Event::WorkerCrashed { process: P, by_row: None })], at)
        };
        assert!(bears_after(8_499, 40_100) && !bears_after(8_499, 40_101));
        assert!(bears_after(8_500, 38_100) && !bears_after(8_500, 38_101));
    }

    #[test]
    fn who_lives_and_is_cut_off_has_a_ttl_more() {
        let cut = (1000, Event::LinkCut { process: P, link: Link::Store });
        assert!(bears(std::slice::from_ref(&cut), 28_100));
        assert!(!bears(&[cut], 28_101));
    }

    /// Its requests arrive, and it hears nothing.
    #[test]
    fn who_hears_nothing_does_not_keep_its_lease_by_renewing_it() {
        let cut = (1000, Event::LinkCut { process: P, link: Link::Store });
        let renewed = |n: u64| {
            let (lease, renewals, expires_at) = (LeaseId::from_random(1), n, fencepost_core::StoreTime(0));
            (1000 + n * 1000, Event::LeaseRenewed { lease, renewals, expires_at })
        };
        let mut facts = vec![cut];
        facts.extend((1..=40).map(renewed));
        // The sixteenth of them is the last that counts.
        assert!(bears(&facts, 42_100));
        assert!(!bears(&facts, 42_101));
        let mut healed = facts.clone();
        healed.push((3500, Event::LinkHealed { process: P, link: Link::Store }));
        healed.sort_by_key(|(at, _)| *at);
        assert!(bears(&healed, 1_000_000), "it was well again");
    }

    /// Its other messages arrive: it may live, for as long as it renews.
    #[test]
    fn a_message_that_is_held_up_loses_nobody() {
        let held_up = (1000, Event::MessageHeldUp { process: P });
        assert!(bears(std::slice::from_ref(&held_up), 1_000_000));
        let judge = (1000, Event::MessageHeldUp { process: Process(2) });
        assert!(bears(&[crash(), judge], 1_000_000), "who has one is no judge");
        assert!(bears(&[held_up.clone(), (2000, crash().1)], 21_100));
        assert!(!bears(&[held_up, (2000, crash().1)], 21_101));
    }

    #[test]
    fn time_without_store_or_judge_does_not_count() {
        let away = [crash(), (2000, Event::StoreAway), (50_000, Event::StoreBack)];
        assert!(bears(&away, 69_100));
        assert!(!bears(&away, 69_101));
        let judge = Process(2);
        let alone = [crash(), (2000, Event::WorkerPaused { process: judge })];
        assert!(bears(&alone, 1_000_000));
        let back = [crash(), alone[1].clone(), (50_000, Event::WorkerResumed { process: judge })];
        assert!(!bears(&back, 69_101));
    }

    #[test]
    fn an_end_of_the_run_without_the_end_of_the_lease_is_seen() {
        let mut checker = BoundedRecovery::new(Duration::from_millis(100));
        let mut events = at_ms(0, started(1, 1));
        events.extend(at_ms(0, started(2, 2)));
        events.push(crash());
        assert_eq!(first_failure(&mut checker, &events), None);
        assert!(checker.at_end(20_100_000, &StoreView::default()).is_ok());
        assert!(checker.at_end(20_100_001, &StoreView::default()).is_err());
    }

    #[test]
    fn heartbeats_that_linger_excuse_a_ttl_and_a_clock_that_jumps_what_was_before() {
        let linger = [crash(), (2000, Event::HeartbeatsLinger)];
        assert!(bears(&linger, 28_100));
        assert!(!bears(&linger, 28_101));
        let jump = [crash(), (2000, Event::StoreClockJumped { by: 1 })];
        assert!(bears(&jump, 21_100));
        assert!(!bears(&jump, 21_101));
    }
}
