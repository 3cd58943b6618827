use std::collections::BTreeMap;
use std::time::Duration;

use fencepost_core::judge::*;
use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::rules::recovery::*;
use fencepost_core::store::*;
use fencepost_core::*;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Happening {
    /// The oldest look is answered, or fails.
    Look(bool),
    /// Any other request to the store is answered.
    Store(usize, u8),
    Liveness(usize, u8),
    Process(u64, u8),
    Ended(u64),
    Own(Option<u64>),
    LeasesTaken,
    /// A worker renews, after so much of its ttl.
    Renew(u64),
    StoreClock(i32),
    Wakeups(u16),
    Sleep(u16),
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        20 => prop::bool::weighted(0.95).prop_map(Look),
        4 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| Store(n, how)),
        4 => (any::<usize>(), any::<u8>()).prop_map(|(n, how)| Liveness(n, how)),
        1 => (0..4u64, any::<u8>()).prop_map(|(n, how)| Process(n, how)),
        1 => (0..4u64).prop_map(Ended),
        1 => prop::option::of(0..4u64).prop_map(Own),
        1 => Just(LeasesTaken),
        2 => (0..4u64).prop_map(Renew),
        1 => any::<i16>().prop_map(|n| StoreClock(i32::from(n) * 1_000)),
        20 => (0..1_500u16).prop_map(Wakeups),
        1 => (0..20_000u16).prop_map(Sleep),
    ]
}

const TTL: Duration = Duration::from_secs(8);
const RENEW: Duration = Duration::from_secs(4);

fn process(n: u64) -> ProcessIdentity {
    let machine = if n < 2 { "here" } else { "there" };
    ProcessIdentity { machine: machine.into(), pid: n as u32, start_ticks: 1 }
}

struct Seen {
    sent_at: Instant,
    answered_at: Instant,
    look: Option<LookReply>,
}

struct World {
    judge: Judge,
    now: Instant,
    store_offset: i64,
    leases: BTreeMap<LeaseId, LeaseView>,
    looking: Vec<(RequestId, Instant)>,
    asked: Vec<(RequestId, StoreRequest)>,
    liveness: Vec<(RequestId, LivenessRequest)>,
    /// Every look in the order of their ends, as the judge saw them.
    seen: Vec<Seen>,
    known_dead: Vec<ProcessIdentity>,
    checked: Vec<LeaseId>,
    own: Option<LeaseId>,
    limit: Duration,
}

impl World {
    fn store_now(&self) -> StoreTime {
        StoreTime(i64::try_from(self.now.as_micros()).unwrap() + self.store_offset)
    }

    fn drain(&mut self) -> Result<(), TestCaseError> {
        let mut polls = 0;
        while let Some(effect) = self.judge.poll_effect() {
            polls += 1;
            prop_assert!(polls < 50, "effects without end");
            self.check(effect)?;
        }
        let next = self.judge.poll_timeout();
        prop_assert!(
            next.is_some_and(|next| next > self.now),
            "the next wake-up, {next:?}, is not after {:?}",
            self.now
        );
        self.judge.handle_timeout(self.now);
        let again = self.judge.poll_effect();
        prop_assert!(again.is_none(), "at the same instant again: {again:?}");
        prop_assert_eq!(self.judge.poll_timeout(), next);
        Ok(())
    }

    fn check(&mut self, effect: JudgeEffect) -> Result<(), TestCaseError> {
        match effect {
            JudgeEffect::Store(id, StoreRequest::Look) => {
                // What is still under way by now was given up.
                self.give_looks_up();
                self.looking.push((id, self.now));
            }
            JudgeEffect::Store(id, request) => {
                if let StoreRequest::Recover(act) = &request {
                    prop_assert_ne!(Some(act.lease), self.own, "a judge of its own lease");
                    match act.cause {
                        EndCause::Lapsed => {
                            prop_assert!(self.watched(act.lease, act.renewals), "judged too early: {act:?}");
                        }
                        EndCause::Died => {
                            let process = self.leases[&act.lease].process.clone().unwrap();
                            prop_assert!(self.known_dead.contains(&process));
                        }
                        EndCause::TakenOver => prop_assert!(false, "a judge takes no name over"),
                    }
                }
                self.asked.push((id, request));
            }
            JudgeEffect::Liveness(id, request) => self.liveness.push((id, request)),
            JudgeEffect::CheckProcess(lease, process) => {
                prop_assert_eq!(&process.machine, "here");
                self.checked.push(lease);
            }
            JudgeEffect::Tell(_) => {}
        }
        Ok(())
    }

    /// R2, said anew: some look showed the lease past its time, and so many looks before it, none of which failed, showed it
    /// at the same count for long enough.
    fn watched(&self, lease: LeaseId, renewals: u64) -> bool {
        let shown = |seen: &Seen| -> Option<(LeaseView, StoreTime)> {
            let look = seen.look.as_ref()?;
            let view = look.leases.iter().find(|view| view.lease == lease && view.renewals == renewals)?;
            Some((view.clone(), look.now))
        };
        (0..self.seen.len()).any(|last| {
            let past = shown(&self.seen[last]).is_some_and(|(view, now)| now >= view.expires_at);
            let first = (0..=last).rev().take_while(|at| shown(&self.seen[*at]).is_some()).last();
            past && first.is_some_and(|first| {
                let gaps =
                    (first..last).all(|at| self.seen[at + 1].sent_at.since(self.seen[at].answered_at) <= RENEW / 2);
                // Gaps start the count again; the longest stretch without one counts.
                let start = if gaps {
                    first
                } else {
                    (first..last)
                        .rev()
                        .find(|at| self.seen[at + 1].sent_at.since(self.seen[*at].answered_at) > RENEW / 2)
                        .map_or(first, |at| at + 1)
                };
                self.seen[last].sent_at.since(self.seen[start].answered_at) >= RENEW + TTL * 3 / 8
            })
        })
    }

    fn give_looks_up(&mut self) {
        for (_, sent_at) in self.looking.drain(..) {
            self.seen.push(Seen { sent_at, answered_at: self.now, look: None });
        }
    }

    fn tell(&mut self, input: JudgeInput) -> Result<(), TestCaseError> {
        self.judge.handle_input(self.now, input);
        self.drain()
    }

    fn answer_look(&mut self, answered: bool) -> Result<(), TestCaseError> {
        let Some((id, sent_at)) = self.looking.pop() else { return Ok(()) };
        let look =
            LookReply { now: self.store_now(), leases: self.leases.values().cloned().collect(), not_before_max: None };
        // What comes after the limit is a failure, also where nobody woke the judge to see it.
        let look = Some(look).filter(|_| answered);
        self.seen.push(Seen { sent_at, answered_at: self.now, look: look.clone() });
        let reply = look.map(StoreReply::Look).ok_or(StoreFailure::Unknown);
        self.tell(JudgeInput::Store(id, reply))
    }

    fn wakeups(&mut self, time: Duration) -> Result<(), TestCaseError> {
        let end = self.now + time;
        let mut wakes = 0;
        while let Some(next) = self.judge.poll_timeout().filter(|next| *next <= end) {
            wakes += 1;
            prop_assert!(wakes < 1_000, "it never sleeps");
            self.now = next;
            self.judge.handle_timeout(next);
            self.drain()?;
            self.expire_looks();
        }
        self.now = end;
        Ok(())
    }

    fn expire_looks(&mut self) {
        let (now, limit) = (self.now, self.limit);
        if self.looking.iter().any(|(_, sent_at)| now >= *sent_at + limit) {
            self.give_looks_up();
        }
    }

    fn happens(&mut self, happening: Happening) -> Result<(), TestCaseError> {
        match happening {
            Happening::Look(answered) => self.answer_look(answered)?,
            Happening::Store(n, how) => {
                if !self.asked.is_empty() {
                    let (id, request) = self.asked.swap_remove(n % self.asked.len());
                    let reply = match request {
                        _ if how < 30 => Err(StoreFailure::Unknown),
                        StoreRequest::Recover(_) if how < 90 => Ok(StoreReply::Recover(RecoverReply::Spared)),
                        StoreRequest::Recover(_) => {
                            Ok(StoreReply::Recover(RecoverReply::Recovered { lines: 1, failed: 0 }))
                        }
                        StoreRequest::CutBack { .. } => Ok(StoreReply::CutBack),
                        other => panic!("not a judge's request: {other:?}"),
                    };
                    self.tell(JudgeInput::Store(id, reply))?;
                }
            }
            Happening::Liveness(n, how) => {
                if !self.liveness.is_empty() {
                    let (id, request) = self.liveness.swap_remove(n % self.liveness.len());
                    let LivenessRequest::Check { leases, .. } = request else { panic!("a judge only asks") };
                    let alive = if how.is_multiple_of(2) { leases } else { Vec::new() };
                    let reply = (how < 200).then_some(LivenessReply::Check { vouches: how % 3 > 0, alive });
                    self.tell(JudgeInput::Liveness(id, reply))?;
                }
            }
            Happening::Process(n, how) => {
                let lease = LeaseId::from_random(n);
                if self.checked.contains(&lease) {
                    let states = [ProcessState::Running, ProcessState::Unknown, ProcessState::Gone];
                    let state = states[usize::from(how) % 3];
                    if state == ProcessState::Gone {
                        self.known_dead.push(process(n));
                    }
                    self.tell(JudgeInput::Process(lease, state))?;
                }
            }
            Happening::Ended(n) => {
                self.known_dead.push(process(n));
                self.tell(JudgeInput::ProcessEnded(process(n)))?;
            }
            Happening::Own(lease) => {
                self.own = lease.map(LeaseId::from_random);
                self.tell(JudgeInput::OwnLease(self.own))?;
            }
            Happening::LeasesTaken => self.tell(JudgeInput::LeasesTaken)?,
            Happening::Renew(n) => {
                let now = self.store_now();
                if let Some(view) = self.leases.get_mut(&LeaseId::from_random(n)) {
                    view.renewals += 1;
                    view.expires_at = now + TTL;
                }
            }
            Happening::StoreClock(micros) => self.store_offset += i64::from(micros) * 1_000,
            Happening::Wakeups(millis) => self.wakeups(Duration::from_millis(millis.into()))?,
            Happening::Sleep(millis) => {
                self.now = self.now + Duration::from_millis(millis.into());
                self.judge.handle_timeout(self.now);
                self.drain()?;
                self.expire_looks();
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn a_judge_keeps_its_promises_whatever_happens(
        liveness in any::<bool>(),
        happenings in prop::collection::vec(happening(), 1..300),
    ) {
        let now = Instant::from_micros(1_000_000_000);
        let timing = Timing { renew: RENEW, ..Timing::from_ttl(TTL) };
        let local_check = Duration::from_secs(1);
        let options = JudgeOptions { timing, machine: Some("here".into()), liveness, local_check };
        let view = |n| LeaseView {
            lease: LeaseId::from_random(n),
            worker: format!("w{n}"),
            ttl: TTL,
            renew: RENEW,
            expires_at: StoreTime(1_000_000_000) + TTL,
            renewals: 0,
            process: Some(process(n)),
        };
        let mut world = World {
            judge: Judge::new(options, now),
            now,
            store_offset: 0,
            leases: (0..4).map(|n| (LeaseId::from_random(n), view(n))).collect(),
            looking: Vec::new(),
            asked: Vec::new(),
            liveness: Vec::new(),
            seen: Vec::new(),
            known_dead: Vec::new(),
            checked: Vec::new(),
            own: None,
            limit: timing.request_timeout,
        };
        world.judge.handle_timeout(now);
        world.drain()?;
        for happening in happenings {
            world.happens(happening)?;
        }
        // Faults stop: whoever is silent from here on is judged, whatever the second witness says.
        world.happens(Happening::Own(None))?;
        world.asked.clear();
        let last = world.leases.values().map(|view| view.expires_at).max().unwrap();
        for _ in 0..700 {
            world.answer_look(true)?;
            world.wakeups(Duration::from_millis(120))?;
            for (id, request) in std::mem::take(&mut world.asked) {
                let mut reply = StoreReply::CutBack;
                if let StoreRequest::Recover(act) = request {
                    // A lease that was renewed since is spared.
                    let same = world.leases.get(&act.lease).is_some_and(|view| view.renewals == act.renewals);
                    reply = StoreReply::Recover(RecoverReply::Spared);
                    if same {
                        world.leases.remove(&act.lease);
                        reply = StoreReply::Recover(RecoverReply::Recovered { lines: 0, failed: 0 });
                    }
                }
                world.tell(JudgeInput::Store(id, Ok(reply)))?;
            }
            for (id, request) in std::mem::take(&mut world.liveness) {
                let LivenessRequest::Check { leases, .. } = request else { continue };
                let reply = LivenessReply::Check { vouches: true, alive: leases };
                world.tell(JudgeInput::Liveness(id, Some(reply)))?;
            }
        }
        if world.store_now() > last + TTL + RENEW + TTL {
            prop_assert!(world.leases.is_empty(), "never judged: {:?}", world.leases);
        }
    }
}
