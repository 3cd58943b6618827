//! When runs begin: once their rows are claimed, only under a licence (L4), and soon no more of a batch that is aborted (S2). (A hold
//! takes nothing from those that have claimed before it: that nothing is claimed later, the facts see at each claim.)

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use fencepost_core::LeaseId;
use fencepost_model::history::Event;

use super::super::facts::Facts;
use super::super::fleet::ProcessKey;
use super::super::health::{LeaseChange, Spell};
use super::super::ledger::Run;
use super::super::probe;
use super::{Evidence, Say, number};
use crate::history::replay::lease_id;

/// So many steps lie between a worker's start of a run and its handler's note, at most: a process is made, its program loaded, it is
/// scheduled, it opens the ledger. Each may be as late as the probe does not mind.
const STEPS: u32 = 4;

/// S2: a connected worker starts nothing more of an aborted batch after this.
const NOTICE: Duration = Duration::from_secs(1);

/// Of standstills, one in so many may fall between a worker's start of a run and its note.
const STANDSTILLS_PER_NOTE: u64 = 20;

/// What is asked of all runs.
#[derive(Debug, Clone, Copy)]
struct Asked {
    ttl_us: i64,
    /// The time after a renewal in which a worker may start runs: all but an eighth of the ttl (L4).
    licence_us: i64,
    /// Between a start and its note.
    start_us: i64,
}

impl Asked {
    fn of(ttl: Duration) -> Self {
        let us = |time: Duration| i64::try_from(time.as_micros()).expect("short");
        Self { ttl_us: us(ttl), licence_us: us(ttl - ttl / 8), start_us: us(probe::late(ttl) * STEPS) }
    }
}

/// What is known of a run.
#[derive(Debug, Clone, Copy)]
struct Begun<'a> {
    at_us: i64,
    /// When it was not claimed yet.
    claimed_after_us: i64,
    /// Its lease's changes.
    lease: &'a [&'a LeaseChange],
    /// When its worker stood still.
    pauses: &'a [Spell],
    /// When everything did, or may have.
    slow: &'a [Spell],
}

/// What a run's begin is.
#[derive(Debug, PartialEq, Eq)]
enum Begins {
    /// As it must be.
    Well,
    /// Too late, unless it was started before its worker stood still, from this time on, and noted right after.
    AfterStandstill(i64),
    /// When it must not.
    Wrong(String),
}

/// Holds each run's begin against its claim, its lease and its batch.
pub fn check(facts: &Facts, evidence: &Evidence<'_>, say: &mut Say<'_>) {
    let asked = Asked::of(evidence.drawn.ttl());
    let mut leases: HashMap<LeaseId, Vec<&LeaseChange>> = HashMap::new();
    for change in &facts.lease_changes {
        leases.entry(change.lease).or_default().push(change);
    }
    let around = evidence.surroundings;
    // One standstill may catch several starts.
    let mut standing: BTreeMap<(ProcessKey, i64), Vec<&Run>> = BTreeMap::new();
    for run in evidence.runs {
        // That each was claimed, by a lease that is there, others see.
        let Some(claim) = facts.claims.get(&run.token) else { continue };
        let process = facts.leases.get(&claim.lease).and_then(|lease| lease.process);
        let Some((process, life)) = process.and_then(|process| Some((process, evidence.lives.get(&process)?))) else {
            continue;
        };
        // A run is noted by the clock of its worker's place.
        if life.place == evidence.drawn.stepped {
            continue;
        }
        let at_us = i64::try_from(run.at_us).unwrap_or(i64::MAX);
        let lease = leases.get(&lease_id(claim.lease)).map_or(&[][..], Vec::as_slice);
        let (pauses, slow) = (&life.pauses, &around.slow);
        let begun = Begun { at_us, claimed_after_us: claim.after_us, lease, pauses, slow };
        match under_licence(begun, asked) {
            Begins::Well => {}
            Begins::AfterStandstill(from_us) => standing.entry((process, from_us)).or_default().push(run),
            Begins::Wrong(what) => say.wrong("licence", || format!("{what}: {run:?} {claim:?}")),
        }
        let batch = number(&run.batch);
        if let Some(aborted_us) = facts.batches.get(&batch).and_then(|batch| batch.aborted_us) {
            let cut = around.cut.get(life.place).into_iter().flatten();
            let disconnected = pauses.iter().chain(slow).chain(cut).chain(&around.away);
            if let Some(late_us) = after_abort(at_us, aborted_us, disconnected, asked) {
                say.wrong("aborts", || format!("{run:?} begins {late_us} us after its batch's abort"));
            }
        }
    }
    let standstills = evidence.lives.values().map(|life| life.pauses.len() as u64).sum();
    say.findings.after_standstill = standing.values().map(|runs| runs.len() as u64).sum();
    if too_many(standing.len() as u64, standstills) {
        say.wrong("licence", || {
            format!("of {standstills} standstills too many are followed by runs that begin late: {standing:?}")
        });
    }
}

/// L1, L4: a run begins behind its claim, and in the licence of its lease.
fn under_licence(begun: Begun<'_>, asked: Asked) -> Begins {
    let Begun { at_us, claimed_after_us, lease, pauses, slow } = begun;
    if at_us < claimed_after_us {
        return Begins::Wrong(format!("begins {} us before its claim", claimed_after_us - at_us));
    }
    let is_grant = |event: &Event| matches!(event, Event::LeaseTaken { .. } | Event::LeaseRenewed { .. });
    let grants = lease.iter().filter(|change| change.after_us <= at_us && is_grant(&change.event));
    let Some(granted_us) = grants.map(|change| change.at_us).max() else {
        return Begins::Wrong("begins before its lease is taken".to_owned());
    };
    let ended = lease.iter().find(|change| matches!(change.event, Event::LeaseEnded { .. }));
    let ended_us = ended.map_or(i64::MAX, |change| change.at_us);
    // The worker counts from when it asked, the store tells when it granted: a moment later.
    let over_us = granted_us.saturating_add(asked.licence_us).min(ended_us);
    let late_us = at_us.saturating_sub(over_us);
    let just_before = |spell: &&Spell| spell.from_us < at_us && spell.until_us >= at_us - asked.start_us;
    if late_us <= asked.start_us || slow.iter().any(|spell| just_before(&spell)) {
        Begins::Well
    } else if let Some(spell) = pauses.iter().find(just_before) {
        Begins::AfterStandstill(spell.from_us)
    } else {
        Begins::Wrong(format!("begins {late_us} us after its licence"))
    }
}

/// S2: how long after its batch's abort a run began, if that is too long for a worker that was connected. (For others there is L4.)
fn after_abort<'a>(
    at_us: i64,
    aborted_us: i64,
    mut disconnected: impl Iterator<Item = &'a Spell>,
    asked: Asked,
) -> Option<i64> {
    let late_us = at_us.saturating_sub(aborted_us);
    let notice_us = i64::try_from(NOTICE.as_micros()).expect("short");
    // What it heard just before its connection was cut, it may have heard too late.
    let was = |spell: &Spell| spell.from_us < at_us && spell.until_us > aborted_us - asked.ttl_us;
    (late_us > notice_us + asked.start_us && !disconnected.any(was)).then_some(late_us)
}

/// Whether so many standstills that were followed by late runs are more than chance.
fn too_many(followed: u64, standstills: u64) -> bool {
    followed > 1 + standstills / STANDSTILLS_PER_NOTE
}

#[cfg(test)]
mod tests {
    use fencepost_core::StoreTime;
    use fencepost_model::history::LeaseEnd;

    use super::*;

    /// A ttl of 800 ms: the licence is 700, a start may take 400.
    const TTL: Duration = Duration::from_millis(800);

    fn change(at_ms: i64, event: Event) -> LeaseChange {
        LeaseChange {
            after_us: at_ms * 1000,
            at_us: at_ms * 1000,
            lease: LeaseId::from_random(1),
            process: None,
            event,
        }
    }

    fn lease() -> Vec<LeaseChange> {
        let (lease, expires_at) = (LeaseId::from_random(1), StoreTime(0));
        let (worker, operations) = (String::new(), Vec::new());
        vec![
            change(0, Event::LeaseTaken { lease, worker, ttl: TTL, renew: TTL / 2, operations, expires_at }),
            change(1_000, Event::LeaseRenewed { lease, renewals: 1, expires_at }),
        ]
    }

    fn begins(at_ms: i64, changes: &[LeaseChange], pauses: &[Spell], slow: &[Spell]) -> Begins {
        let lease: Vec<&LeaseChange> = changes.iter().collect();
        let begun = Begun { at_us: at_ms * 1000, claimed_after_us: 500_000, lease: &lease, pauses, slow };
        under_licence(begun, Asked::of(TTL))
    }

    fn is_wrong(begins: &Begins) -> bool {
        matches!(begins, Begins::Wrong(_))
    }

    #[test]
    fn a_run_begins_behind_its_claim_and_in_its_licence() {
        assert!(is_wrong(&begins(499, &lease(), &[], &[])), "not claimed yet");
        assert_eq!(begins(500, &lease(), &[], &[]), Begins::Well);
        assert_eq!(begins(2_100, &lease(), &[], &[]), Begins::Well);
        assert!(is_wrong(&begins(2_101, &lease(), &[], &[])), "its licence is over");
        assert!(is_wrong(&begins(600, &[], &[], &[])), "no lease");
        let late = [change(700, lease()[1].event.clone())];
        assert!(is_wrong(&begins(699, &late, &[], &[])), "no lease yet");
        let mut ended = lease();
        ended.push(change(
            1_100,
            Event::LeaseEnded { lease: LeaseId::from_random(1), how: LeaseEnd::Dropped, by: None },
        ));
        assert_eq!(begins(1_500, &ended, &[], &[]), Begins::Well);
        assert!(is_wrong(&begins(1_501, &ended, &[], &[])), "its lease is over");
    }

    #[test]
    fn a_run_may_be_noted_right_after_a_standstill_and_seldom_is() {
        let still = [Spell { from_us: 1_200_000, until_us: 4_000_000 }];
        assert_eq!(begins(4_300, &lease(), &still, &[]), Begins::AfterStandstill(1_200_000));
        assert_eq!(begins(4_300, &lease(), &[], &still), Begins::Well);
        assert!(is_wrong(&begins(4_401, &lease(), &still, &still)));
        assert!(!too_many(1, 0) && !too_many(2, 20));
        assert!(too_many(2, 19) && too_many(3, 20));
    }

    #[test]
    fn who_is_connected_begins_nothing_of_an_aborted_batch_after_its_notice() {
        let after = |at_ms: i64, spell: Option<Spell>| {
            after_abort(at_ms * 1000, 1_000_000, spell.as_ref().into_iter(), Asked::of(TTL))
        };
        assert_eq!(after(900, None), None);
        assert_eq!(after(2_400, None), None);
        assert_eq!(after(2_401, None), Some(1_401_000));
        let cut = |from_ms: i64, until_ms: i64| Some(Spell { from_us: from_ms * 1000, until_us: until_ms * 1000 });
        assert_eq!(after(2_401, cut(1_500, 1_600)), None);
        assert_eq!(after(2_401, cut(0, 100)), Some(1_401_000), "it was whole again");
        assert_eq!(after(2_401, cut(2_500, 2_600)), Some(1_401_000), "it was whole still");
    }
}
