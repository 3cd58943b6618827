use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fencepost_core::keeper::*;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::rules::recovery::ProcessState;
use fencepost_core::store::*;
use fencepost_core::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Happening {
    /// The store answers a request, in one of the ways it may.
    Answer(usize, u8),
    Liveness(usize, u8),
    Process(u8),
    Running(u8),
    Drop,
    Wakeups(u16),
    Sleep(u16),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        10 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| Answer(n, how)),
        5 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| Liveness(n, how)),
        1 => any::<u8>().prop_map(Process),
        2 => any::<u8>().prop_map(Running),
        1 => prop_oneof![5 => Just(Running(0)), 1 => Just(Drop)],
        10 => (0..2_000u16).prop_map(Wakeups),
        2 => (0..30_000u16).prop_map(Sleep),
    ]
}

const TTL: Duration = Duration::from_secs(8);
const HOLDER: LeaseId = LeaseId::from_random(u64::MAX);

struct World {
    keeper: Keeper,
    now: Instant,
    stores: Vec<(RequestId, StoreRequest, Instant)>,
    liveness: Vec<(RequestId, LivenessRequest)>,
    published_at: Option<Instant>,
    holder_renewals: u64,
    checked: bool,
    /// When requests were sent that the store said yes to, by lease.
    extended_at: BTreeMap<LeaseId, Instant>,
    /// When the first take of a lease was sent.
    first_take: BTreeMap<LeaseId, Instant>,
    held: BTreeSet<LeaseId>,
    over: BTreeSet<LeaseId>,
    /// The store has answered anything since a renewal was asked for.
    heard: bool,
    owes_withdrawal: BTreeSet<LeaseId>,
    ended: bool,
}

impl World {
    fn drain(&mut self) -> Result<(), TestCaseError> {
        let mut polls = 0;
        while let Some(effect) = self.keeper.poll_effect() {
            polls += 1;
            prop_assert!(polls < 50, "effects without end");
            self.check(effect)?;
        }
        let next = self.keeper.poll_timeout();
        prop_assert!(
            next.is_none_or(|next| next > self.now),
            "the next wake-up, {next:?}, is not after {:?}",
            self.now
        );
        self.keeper.handle_timeout(self.now);
        let again = self.keeper.poll_effect();
        prop_assert!(again.is_none(), "at the same instant again: {again:?}");
        prop_assert_eq!(self.keeper.poll_timeout(), next);
        Ok(())
    }

    fn check(&mut self, effect: KeeperEffect) -> Result<(), TestCaseError> {
        prop_assert!(!self.ended, "after its end: {effect:?}");
        match effect {
            KeeperEffect::Store(id, request) => {
                match &request {
                    StoreRequest::TakeLease(take) => {
                        prop_assert!(!self.over.contains(&take.lease), "an ended lease is taken again");
                        prop_assert!(self.owes_withdrawal.is_empty(), "before its crashes are taken back");
                        self.first_take.entry(take.lease).or_insert(self.now);
                    }
                    StoreRequest::Renew { lease, .. } => {
                        prop_assert!(self.extended_at.contains_key(lease) && !self.over.contains(lease));
                        let licensed = self.now.since(self.extended_at[lease]) < TTL * 7 / 8;
                        prop_assert!(licensed || self.heard, "a renewal of a lease of which nothing was heard");
                        self.heard = false;
                    }
                    StoreRequest::Recover(act) => {
                        prop_assert_eq!((act.lease, act.renewals), (HOLDER, self.holder_renewals));
                    }
                    _ => {}
                }
                self.stores.push((id, request, self.now));
            }
            KeeperEffect::Liveness(id, request) => {
                if let LivenessRequest::Beat { lease, .. } = &request {
                    // The first one is earned by the take's answer, however long that took.
                    let reached_at = self.extended_at.get(lease);
                    let earned = reached_at.is_some_and(|at| self.now.since(*at) < TTL) || !self.held.contains(lease);
                    prop_assert!(earned && !self.over.contains(lease), "a beat that is not earned");
                }
                if let LivenessRequest::Publish { lease, .. } = &request {
                    let reached_at = self.extended_at.get(lease).filter(|_| self.held.contains(lease));
                    let earned = reached_at.is_some_and(|at| self.now.since(*at) < TTL);
                    prop_assert!(earned && !self.over.contains(lease), "a publication that is not earned");
                    let soon = self.published_at.is_some_and(|at| self.now.since(at) < Duration::from_secs(1));
                    prop_assert!(!soon, "a publication within a second of another");
                    self.published_at = Some(self.now);
                }
                self.liveness.push((id, request));
            }
            KeeperEffect::CheckProcess(lease, _) => {
                prop_assert_eq!(lease, HOLDER);
                self.checked = true;
            }
            KeeperEffect::Tell(event) => match event {
                LeaseEvent::Held { lease, licence_ends, .. } => {
                    prop_assert!(!self.over.contains(&lease));
                    let extended_at = self.extended_at[&lease];
                    self.held.insert(lease);
                    prop_assert!(licence_ends <= extended_at + TTL * 7 / 8, "a licence beyond the lease");
                }
                LeaseEvent::Ended { lease } => {
                    prop_assert!(self.over.insert(lease), "ended twice");
                    self.owes_withdrawal.insert(lease);
                }
                LeaseEvent::NameInUse { .. } | LeaseEvent::Dropped => {
                    prop_assert!(self.owes_withdrawal.is_empty(), "it leaves without taking its crashes back");
                    self.ended = true;
                }
            },
        }
        Ok(())
    }

    fn answer(&mut self, n: usize, how: u8) -> Result<(), TestCaseError> {
        if self.stores.is_empty() {
            return Ok(());
        }
        let (id, request, sent_at) = self.stores[n % self.stores.len()].clone();
        // What was done may be answered twice.
        if how >= 150 || !how.is_multiple_of(5) {
            self.stores.swap_remove(n % self.stores.len());
        }
        let yes = how < 150;
        let reply = match (&request, how) {
            (_, 230..) => Err(StoreFailure::Unknown),
            (StoreRequest::TakeLease(take), 210..) => {
                self.not_taken(take.lease, sent_at);
                Err(StoreFailure::NotDone)
            }
            (_, 210..) => Err(StoreFailure::NotDone),
            (StoreRequest::TakeLease(take), _) if yes => {
                // No try extends what an earlier one took.
                let taken_at = self.first_take.get(&take.lease).copied().unwrap_or(sent_at);
                self.extended_at.entry(take.lease).or_insert(taken_at);
                Ok(StoreReply::TakeLease(TakeLeaseReply::Taken))
            }
            (StoreRequest::TakeLease(_), 150..170) => Ok(StoreReply::TakeLease(TakeLeaseReply::Ended)),
            (StoreRequest::TakeLease(take), _) => {
                self.not_taken(take.lease, sent_at);
                if how.is_multiple_of(7) {
                    self.holder_renewals += 1;
                }
                let holder = LeaseView {
                    lease: HOLDER,
                    worker: "w".into(),
                    ttl: TTL,
                    renew: TTL / 2,
                    expires_at: StoreTime(0),
                    renewals: self.holder_renewals,
                    process: Some(process()),
                };
                Ok(StoreReply::TakeLease(TakeLeaseReply::NameHeld { holder, now: StoreTime(i64::from(how) - 180) }))
            }
            (StoreRequest::Renew { lease, .. }, _) if yes => {
                let at = self.extended_at.entry(*lease).or_insert(sent_at);
                *at = sent_at.max(*at);
                Ok(StoreReply::Renew(RenewReply::Renewed { closed: Vec::new() }))
            }
            (StoreRequest::Renew { .. }, _) => {
                Ok(StoreReply::Renew(RenewReply::Refused { taken_over: how.is_multiple_of(2) }))
            }
            (StoreRequest::WithdrawCrashes { lease }, _) => {
                self.owes_withdrawal.remove(lease);
                Ok(StoreReply::WithdrawCrashes)
            }
            (StoreRequest::DropLease { .. }, _) => Ok(StoreReply::DropLease),
            (StoreRequest::Recover(_), _) => Ok(StoreReply::Recover(RecoverReply::Spared)),
            (StoreRequest::Look, _) => {
                let look = LookReply { now: StoreTime(0), leases: Vec::new(), not_before_max: None };
                Ok(StoreReply::Look(look))
            }
            (other, _) => panic!("not a keeper's request: {other:?}"),
        };
        self.heard |= reply.is_ok();
        self.tell(KeeperInput::Store(id, reply))
    }

    fn not_taken(&mut self, lease: LeaseId, sent_at: Instant) {
        if self.first_take.get(&lease) == Some(&sent_at) {
            self.first_take.remove(&lease);
        }
    }

    fn tell(&mut self, input: KeeperInput) -> Result<(), TestCaseError> {
        self.keeper.handle_input(self.now, input);
        self.drain()
    }

    fn happens(&mut self, happening: Happening) -> Result<(), TestCaseError> {
        match happening {
            Happening::Answer(n, how) => self.answer(n, how)?,
            Happening::Liveness(n, how) => {
                if !self.liveness.is_empty() {
                    let (id, request) = self.liveness.swap_remove(n % self.liveness.len());
                    let reply = match request {
                        _ if how > 180 => None,
                        LivenessRequest::Check { leases, .. } => {
                            let alive = if how.is_multiple_of(2) { leases } else { Vec::new() };
                            Some(LivenessReply::Check { vouches: how % 3 > 0, alive })
                        }
                        _ => Some(LivenessReply::Done),
                    };
                    self.tell(KeeperInput::Liveness(id, reply))?;
                }
            }
            Happening::Process(how) => {
                if self.checked {
                    let states = [ProcessState::Gone, ProcessState::Running, ProcessState::Unknown];
                    self.tell(KeeperInput::Process(HOLDER, states[usize::from(how) % 3]))?;
                }
            }
            Happening::Running(batch) => {
                let running = vec![(BatchId::from_random(batch.into()), LineSet::single(1))];
                self.tell(KeeperInput::Command(KeeperCommand::Running(running)))?;
            }
            Happening::Drop => self.tell(KeeperInput::Command(KeeperCommand::Drop))?,
            Happening::Wakeups(millis) => {
                let end = self.now + Duration::from_millis(millis.into());
                while let Some(next) = self.keeper.poll_timeout().filter(|next| *next <= end) {
                    self.now = next;
                    self.keeper.handle_timeout(next);
                    self.drain()?;
                }
                self.now = end;
            }
            Happening::Sleep(millis) => self.now = self.now + Duration::from_millis(millis.into()),
        }
        Ok(())
    }
}

fn process() -> ProcessIdentity {
    ProcessIdentity { machine: "here".into(), pid: 1, start_ticks: 1 }
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_keeper_keeps_its_promises_whatever_happens(
        seed in any::<u64>(),
        liveness in any::<bool>(),
        renew in 1..=4_000u64,
        happenings in prop::collection::vec(happening(), 1..200),
    ) {
        let now = Instant::from_micros(1_000_000_000);
        let timing = Timing { renew: Duration::from_millis(renew), ..Timing::from_ttl(TTL) };
        let options = KeeperOptions {
            worker: "w".into(),
            stable_name: true,
            timing,
            process: Some(process()),
            operations: Vec::new(),
            calls: Default::default(),
            liveness,
            seed,
        };
        let mut world = World {
            keeper: Keeper::new(options, now),
            now,
            stores: Vec::new(),
            liveness: Vec::new(),
            published_at: None,
            holder_renewals: 0,
            checked: false,
            extended_at: BTreeMap::new(),
            first_take: BTreeMap::new(),
            held: BTreeSet::new(),
            over: BTreeSet::new(),
            heard: false,
            owes_withdrawal: BTreeSet::new(),
            ended: false,
        };
        world.keeper.handle_timeout(now);
        world.drain()?;
        for happening in happenings {
            world.happens(happening)?;
        }
        // However it came here, a store that says yes to everything gives it a lease, or lets it go.
        for _ in 0..100 {
            while !world.stores.is_empty() {
                world.answer(0, 1)?;
            }
            world.happens(Happening::Wakeups(100))?;
        }
        let held = world.extended_at.contains_key(&world.keeper.lease()) && !world.over.contains(&world.keeper.lease());
        prop_assert!(held || world.ended, "{:?}", world.keeper);
    }
}
