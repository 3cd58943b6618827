//! Invariant 5: nobody innocent is judged.

use std::collections::BTreeMap;

use fencepost_core::LeaseId;

use super::health::{Facts, Health};
use super::{Checker, Violation, ensure, micros};
use crate::history::{Event, LeaseEnd};

const NAME: &str = "5 innocence";

/// Of a lease whose process is known, asserts
/// - it is ended on a known death only if its process crashed or left before;
/// - it is ended by lapse or takeover, with its process alive, only if
///   (a) no renewal of it took effect within seven eighths of the watch (renewal interval and three eighths of the ttl) before:
///   a judge whose clock is at most an eighth fast has watched for as long; and
///   (b) its process was unwell (paused, or its link to the store cut) at some moment of the last renewal interval, request
///   time-out and quarter of the ttl: else it renewed, or tried to and the store was away.
///
/// Neither the store's absence and its clock nor the second witness excuse a judgement. A lost or badly late message is to
/// be fed as a cut and a heal. Not asserted where the clock rate of the process, or of its judge, is beyond the margins.
#[derive(Debug, Default)]
pub struct Innocence {
    health: Health,
    renewed_at: BTreeMap<LeaseId, u64>,
}

impl Innocence {
    /// For an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn judged(&self, at: u64, lease: LeaseId, how: LeaseEnd, by: Option<LeaseId>) -> Result<(), Violation> {
        let Some((process, facts)) = self.health.of_lease(lease) else {
            return Ok(());
        };
        if how == LeaseEnd::Died {
            return ensure(facts.dead, NAME, at, || {
                format!("{lease} is ended on the death of {process:?}, which lives")
            });
        }
        // R5: who takes over has no lease yet by which it could be known.
        let judge_steady = match by {
            Some(judge) => self.health.of_lease(judge).is_none_or(|(_, judge)| judge.steady),
            None => self.health.processes().all(|(_, taker)| taker.steady || taker.dead),
        };
        if facts.dead || !facts.steady || !judge_steady {
            return Ok(());
        }
        let watch = watch(facts);
        let renewed = self.renewed_at.get(&lease).copied().unwrap_or(0);
        let silent = at.saturating_sub(renewed);
        ensure(silent >= watch / 8 * 7, NAME, at, || format!("{lease} is judged {silent} us after its renewal"))?;
        let timing = &facts.timing;
        let excused = micros(timing.renew) + micros(timing.request_timeout) + micros(timing.ttl) / 4;
        let well_for = at.saturating_sub(facts.since);
        let innocent = facts.is_well() && well_for > excused;
        ensure(!innocent, NAME, at, || format!("{lease} is judged with {process:?} well for {well_for} us"))
    }
}

/// R2: how long a judge must watch.
fn watch(facts: &Facts) -> u64 {
    micros(facts.timing.renew) + micros(facts.timing.ttl) * 3 / 8
}

impl Checker for Innocence {
    fn name(&self) -> &'static str {
        NAME
    }

    fn on_event(&mut self, at: u64, event: &Event) -> Result<(), Violation> {
        match *event {
            Event::LeaseTaken { lease, .. } | Event::LeaseRenewed { lease, .. } => {
                self.renewed_at.insert(lease, at);
            }
            Event::LeaseEnded { lease, how, by } => {
                if how != LeaseEnd::Dropped {
                    self.judged(at, lease, how, by)?;
                }
                self.renewed_at.remove(&lease);
            }
            _ => {
                self.health.on_event(at, event);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;
    use crate::history::{Link, Process};

    const P: Process = Process(1);

    fn judged_after(facts: &[(u64, Event)], at: u64, how: LeaseEnd) -> bool {
        let mut events = at_ms(0, started(1, 1));
        events.extend_from_slice(facts);
        events.push((at, lease_ended(1, how)));
        first_failure(&mut Innocence::new(), &events).is_some()
    }

    #[test]
    fn the_guilty_are_judged() {
        let crash = (100, Event::WorkerCrashed { process: P, by_row: None });
        assert!(!judged_after(std::slice::from_ref(&crash), 9000, LeaseEnd::Lapsed));
        assert!(!judged_after(&[crash], 101, LeaseEnd::Died));
        let cut = (100, Event::LinkCut { process: P, link: Link::Store });
        assert!(!judged_after(std::slice::from_ref(&cut), 9000, LeaseEnd::Lapsed));
        let healed = (8000, Event::LinkHealed { process: P, link: Link::Store });
        assert!(!judged_after(&[cut, healed], 9000, LeaseEnd::TakenOver));
        assert!(!judged_after(&[(100, Event::WorkerPaused { process: P })], 9000, LeaseEnd::Lapsed));
        assert!(!judged_after(&[], 9000, LeaseEnd::Dropped));
    }

    #[test]
    fn the_innocent_are_not() {
        assert!(judged_after(&[], 9000, LeaseEnd::Lapsed));
        assert!(judged_after(&[], 9000, LeaseEnd::TakenOver));
        assert!(judged_after(&[], 9000, LeaseEnd::Died));
        let away = [(100, Event::StoreAway), (8990, Event::StoreBack)];
        assert!(judged_after(&away, 9000, LeaseEnd::Lapsed));
        let other = [(100, Event::LinkCut { process: P, link: Link::Liveness })];
        assert!(judged_after(&other, 9000, LeaseEnd::Lapsed));
    }

    /// R5: a takeover has no judge's lease, so that a fast clock of anybody alive excuses it.
    #[test]
    fn a_takeover_by_who_may_have_a_fast_clock_is_excused() {
        let fast = [
            (50, started(2, 2)[0].clone()),
            (60, Event::ClockChanged { process: Process(2), steady: false }),
            (100, Event::WorkerPaused { process: P }),
        ];
        assert!(!judged_after(&fast, 3000, LeaseEnd::TakenOver));
        let mut dead = fast.to_vec();
        dead.push((200, Event::WorkerCrashed { process: Process(2), by_row: None }));
        assert!(judged_after(&dead, 3000, LeaseEnd::TakenOver));
        assert!(judged_after(&fast[2..], 3000, LeaseEnd::TakenOver));
    }

    #[test]
    fn a_renewed_lease_is_not_judged_whatever_its_process_did() {
        let facts = [(8000, renewed(1, 1)), (8001, Event::WorkerPaused { process: P })];
        assert!(judged_after(&facts, 12_370, LeaseEnd::Lapsed));
        assert!(!judged_after(&facts, 12_380, LeaseEnd::Lapsed));
    }
}
