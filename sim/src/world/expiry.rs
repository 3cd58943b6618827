//! R2: nobody is declared dead in silence before the lease's time is up, by the store's clock, whatever other clocks show.

use std::collections::BTreeMap;

use fencepost_core::{LeaseId, StoreTime};
use fencepost_model::history::{Event, LeaseEnd};

/// Until when live leases last.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    until: BTreeMap<LeaseId, StoreTime>,
}

impl Expiry {
    /// Something happened, at this time by the store's clock; what is wrong with it.
    pub(super) fn event(&mut self, now: StoreTime, event: &Event) -> Option<String> {
        match event {
            Event::LeaseTaken { lease, expires_at, .. }
            | Event::LeaseRenewed { lease, expires_at, .. }
            | Event::LeaseCutBack { lease, expires_at } => {
                self.until.insert(*lease, *expires_at);
            }
            Event::LeaseEnded { lease, how, .. } => {
                let until = self.until.remove(lease)?;
                if *how == LeaseEnd::Lapsed && now < until {
                    return Some(format!("{lease} is declared dead at {now:?}, and lasts until {until:?}"));
                }
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn seen(now: i64, until: Event, how: LeaseEnd) -> Option<String> {
        let lease = LeaseId::from_random(1);
        let mut expiry = Expiry::default();
        let second = Duration::from_secs(1);
        let (worker, operations, expires_at) = ("w".to_owned(), Vec::new(), StoreTime(10));
        let taken = Event::LeaseTaken { lease, worker, ttl: second, renew: second, operations, expires_at };
        assert_eq!((expiry.event(StoreTime(0), &taken), expiry.event(StoreTime(1), &until)), (None, None));
        expiry.event(StoreTime(now), &Event::LeaseEnded { lease, how, by: None })
    }

    #[test]
    fn a_lapse_before_its_time_is_seen() {
        let lease = LeaseId::from_random(1);
        let renewed = Event::LeaseRenewed { lease, renewals: 1, expires_at: StoreTime(30) };
        let cut_back = Event::LeaseCutBack { lease, expires_at: StoreTime(20) };
        for (until, time) in [(Event::Tick, 10), (renewed, 30), (cut_back, 20)] {
            assert_eq!(seen(time, until.clone(), LeaseEnd::Lapsed), None);
            assert!(seen(time - 1, until.clone(), LeaseEnd::Lapsed).is_some(), "{until:?}");
            assert_eq!(seen(time - 1, until, LeaseEnd::Died), None);
        }
    }
}
