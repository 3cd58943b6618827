//! What kept workers and the store from their duty, and whether leases ended when they should, and only then: invariants 5
//! and 6, asked of the model's checkers. What they are told is what the runner knows: whom it killed, stopped, cut off and
//! told to leave and when, when a probe did not reach the store, and what the journal says of leases.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use fencepost_core::{LeaseId, Timing};
use fencepost_model::check::{BoundedRecovery, Checker, Innocence};
use fencepost_model::history::{Event, LeaseEnd, Process};

use super::fleet::{Life, ProcessKey};
use super::probe;

/// A while, in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spell {
    /// From when.
    pub from_us: i64,
    /// Until when; `i64::MAX`: it goes on.
    pub until_us: i64,
}

/// Begins one, if none goes on.
pub fn begin_spell(spells: &mut Vec<Spell>, now_us: i64) {
    if spells.last().is_none_or(|last| last.until_us != i64::MAX) {
        spells.push(Spell { from_us: now_us, until_us: i64::MAX });
    }
}

/// Ends the one that goes on.
pub fn end_spell(spells: &mut [Spell], now_us: i64) {
    if let Some(last) = spells.last_mut().filter(|last| last.until_us == i64::MAX) {
        last.until_us = now_us;
    }
}

/// What the runner knows of everybody's surroundings.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// By place: its way to the store was not what it should be.
    pub cut: Vec<Vec<Spell>>,
    /// The store answered nobody.
    pub away: Vec<Spell>,
    /// The machine, or the store, was so slow that nobody can be blamed.
    pub slow: Vec<Spell>,
    /// The place whose processes have a wall clock that is stepped, where that is the store's clock for them.
    pub stepped: Option<usize>,
}

/// A change of a lease, and when it was there.
#[derive(Debug, Clone)]
pub struct LeaseChange {
    /// When it was not there yet, in microseconds since 1970.
    pub after_us: i64,
    /// When it was there at the latest.
    pub at_us: i64,
    /// Which lease.
    pub lease: LeaseId,
    /// Whose it is.
    pub process: Option<ProcessKey>,
    /// The change.
    pub event: Event,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// Everybody's timings.
    pub timing: Timing,
    /// Invariant 5; times must be exact for it.
    pub innocence: bool,
    /// Heartbeats may outlast their time.
    pub heartbeats_linger: bool,
}

/// A process that is killed is gone for its judges at once, and for who waits for it when the last of its threads is: so much later.
pub const DYING_US: i64 = 100_000;

/// So many steps of a judge come on top of R4's bound, which has none of what requests take: its wake for a scan, a connection that
/// is made anew, a look, the wake for the last look, that look, a silent witness twice (a look each, an eighth of the ttl), the act.
/// Each may be as late as the probe does not mind: what is later than that, it sees, and then nobody is blamed. All of that is
/// unlikely at once, but a tighter one would be of this machine.
const SLACK_STEPS: u32 = 8;

fn slack(ttl: Duration) -> Duration {
    probe::late(ttl) * SLACK_STEPS
}

/// What is wrong with when leases ended.
pub fn violations(
    changes: &[LeaseChange],
    lives: &BTreeMap<ProcessKey, Life>,
    surroundings: &Surroundings,
    asked: Asked,
) -> Vec<String> {
    let events = story(changes, lives, surroundings, asked);
    let mut checkers: Vec<Box<dyn Checker>> = vec![Box::new(BoundedRecovery::new(slack(asked.timing.ttl)))];
    if asked.innocence {
        checkers.push(Box::new(Innocence::new()));
    }
    let mut violations = Vec::new();
    for (at, event) in &events {
        // Who has seen something is not asked again.
        checkers.retain_mut(|checker| {
            checker.on_event(*at, event).map_err(|seen| violations.push(seen.to_string())).is_ok()
        });
    }
    violations
}

/// All of it as the checkers want it, in the order of time: microseconds since the first change of a lease.
fn story(
    changes: &[LeaseChange],
    lives: &BTreeMap<ProcessKey, Life>,
    surroundings: &Surroundings,
    asked: Asked,
) -> Vec<(u64, Event)> {
    let numbers: BTreeMap<ProcessKey, Process> =
        lives.keys().zip(0..).map(|(key, number)| (*key, Process(number))).collect();
    let known = |change: &&LeaseChange| {
        let life = change.process.and_then(|process| lives.get(&process));
        life.is_some_and(|life| surroundings.stepped != Some(life.place)) && change.at_us != i64::MAX
    };
    let changes: Vec<&LeaseChange> = changes.iter().filter(known).collect();
    let (Some(first_us), Some(last_us)) =
        (changes.iter().map(|change| change.at_us).min(), changes.iter().map(|change| change.at_us).max())
    else {
        return Vec::new();
    };
    let mut events: Vec<(i64, u8, Event)> = Vec::new();
    // Nobody is a judge before it has a lease.
    let mut began: BTreeMap<ProcessKey, i64> = BTreeMap::new();
    let mut last_of: BTreeMap<LeaseId, i64> = BTreeMap::new();
    for change in &changes {
        let Some(key) = change.process else { continue };
        let last_us = last_of.entry(change.lease).or_insert(change.at_us);
        // Where only looks tell the time: at the earliest it was behind the last of them that did not see it.
        let is_end = matches!(change.event, Event::LeaseEnded { .. });
        let at_us = if is_end { change.after_us.max(*last_us) } else { change.at_us };
        *last_us = at_us;
        let process = numbers[&key];
        if let Event::LeaseTaken { .. } = change.event {
            if let Entry::Vacant(first) = began.entry(key) {
                first.insert(change.at_us);
                let started = Event::WorkerStarted { process, timing: asked.timing, steady: true };
                events.push((change.at_us, 0, started));
            }
            events.push((change.at_us, 0, Event::LeaseChosen { process, lease: change.lease }));
        }
        events.push((at_us, 2, change.event.clone()));
    }
    for (key, began_us) in &began {
        let (process, life) = (numbers[key], &lives[key]);
        let cut = surroundings.cut.get(life.place).into_iter().flatten();
        let unwell = life.pauses.iter().chain(cut).chain(&surroundings.slow).copied();
        for spell in united(unwell).into_iter().filter(|spell| spell.until_us > *began_us) {
            events.push((spell.from_us.max(*began_us), 1, Event::WorkerPaused { process }));
            if spell.until_us != i64::MAX {
                events.push((spell.until_us, 1, Event::WorkerResumed { process }));
            }
        }
        if let Some(told_us) = life.told_us {
            events.push((told_us.max(*began_us), 1, Event::WorkerStopping { process }));
        }
        let over = match life.killed_us {
            Some(killed_us) => Some((killed_us, Event::WorkerCrashed { process, by_row: None })),
            // Some moment around the one in which it was seen last.
            None => life.ended.then_some((life.alive_us, Event::WorkerLeft { process })),
        };
        if let Some((over_us, event)) = over {
            // A judge may know of a death before the runner does, and a row may have killed it just before the runner did.
            let known = changes.iter().filter(|change| change.process == Some(*key));
            let known = known.filter(|change| matches!(change.event, Event::LeaseEnded { how: LeaseEnd::Died, .. }));
            let known = known.map(|change| change.at_us).filter(|at| life.alive_us - at <= DYING_US);
            events.push((known.fold(over_us, i64::min).max(*began_us), 1, event));
        }
    }
    for spell in united(surroundings.away.iter().copied()) {
        events.push((spell.from_us, 1, Event::StoreAway));
        if spell.until_us != i64::MAX {
            events.push((spell.until_us, 1, Event::StoreBack));
        }
    }
    if asked.heartbeats_linger {
        events.push((first_us, 0, Event::HeartbeatsLinger));
    }
    // Time goes on to the last change for those that never ended.
    events.push((last_us, 3, Event::Tick));
    events.sort_by_key(|(at, order, _)| (*at, *order));
    let since = |at: i64| u64::try_from(at.saturating_sub(first_us)).unwrap_or_default();
    events.into_iter().map(|(at, _, event)| (since(at), event)).collect()
}

/// Without overlaps, in order.
fn united(spells: impl Iterator<Item = Spell>) -> Vec<Spell> {
    let mut all: Vec<Spell> = spells.collect();
    all.sort_unstable();
    let mut united: Vec<Spell> = Vec::new();
    for spell in all {
        match united.last_mut() {
            Some(last) if last.until_us >= spell.from_us => last.until_us = last.until_us.max(spell.until_us),
            _ => united.push(spell),
        }
    }
    united
}

/// Leases that others ended after the death of their process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deaths {
    /// Invariant 6 counted from the death: some judge had all that it needs from there until the lease was ended.
    pub judged: u64,
    /// It counted from later: every judge was disturbed meanwhile, or the store was away.
    pub excused: u64,
}

/// How many deaths invariant 6 was really asked of.
pub fn deaths(changes: &[LeaseChange], lives: &BTreeMap<ProcessKey, Life>, surroundings: &Surroundings) -> Deaths {
    let steady = |life: &Life| surroundings.stepped != Some(life.place);
    let mut began: BTreeMap<ProcessKey, i64> = BTreeMap::new();
    for change in changes.iter().filter(|change| matches!(change.event, Event::LeaseTaken { .. })) {
        let Some(key) = change.process else { continue };
        began.entry(key).or_insert(change.at_us);
    }
    let over_us = |life: &Life| life.killed_us.or(life.ended.then_some(life.alive_us));
    let mut deaths = Deaths::default();
    for change in changes {
        let Event::LeaseEnded { how, .. } = change.event else { continue };
        let Some((key, life)) = change.process.and_then(|key| Some((key, lives.get(&key)?))) else { continue };
        let Some(death_us) = over_us(life).filter(|_| how != LeaseEnd::Dropped && steady(life)) else { continue };
        let end_us = change.at_us;
        if end_us == i64::MAX || end_us < death_us - DYING_US {
            continue;
        }
        let meanwhile = |spell: &Spell| spell.from_us < end_us && spell.until_us > death_us;
        let undisturbed = |key: &ProcessKey, judge: &Life| {
            let there = began.get(key).is_some_and(|began_us| *began_us <= death_us);
            let until_us = judge.told_us.into_iter().chain(over_us(judge)).min().unwrap_or(i64::MAX);
            let cut = surroundings.cut.get(judge.place).into_iter().flatten();
            there && steady(judge) && until_us >= end_us && !judge.pauses.iter().chain(cut).any(meanwhile)
        };
        let around = !surroundings.away.iter().chain(&surroundings.slow).any(meanwhile);
        if around && lives.iter().any(|(other, judge)| *other != key && undisturbed(other, judge)) {
            deaths.judged += 1;
        } else {
            deaths.excused += 1;
        }
    }
    deaths
}

/// How long after its process was killed each lease was ended that lived then, in microseconds, sorted.
pub fn recoveries_us(changes: &[LeaseChange], lives: &BTreeMap<ProcessKey, Life>) -> Vec<i64> {
    let took = |change: &LeaseChange| {
        let Event::LeaseEnded { how, .. } = change.event else { return None };
        let killed_us = lives.get(&change.process?)?.killed_us?;
        let took = change.at_us.checked_sub(killed_us)?;
        (how != LeaseEnd::Dropped && change.at_us != i64::MAX && took >= 0).then_some(took)
    };
    let mut all: Vec<i64> = changes.iter().filter_map(took).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use fencepost_core::StoreTime;

    use super::*;

    const P: ProcessKey = (1, 1);
    const JUDGE: ProcessKey = (2, 2);
    const TTL: Duration = Duration::from_secs(1);
    /// Some time in this century.
    const BEGAN_US: i64 = 1_700_000_000_000_000;

    fn ms(ms: i64) -> i64 {
        BEGAN_US + ms * 1000
    }

    fn change(at_ms: i64, process: ProcessKey, event: impl Fn(LeaseId) -> Event) -> LeaseChange {
        let lease = LeaseId::from_random(process.0.into());
        LeaseChange { after_us: ms(at_ms), at_us: ms(at_ms), lease, process: Some(process), event: event(lease) }
    }

    fn taken(process: ProcessKey) -> LeaseChange {
        change(0, process, |lease| Event::LeaseTaken {
            lease,
            worker: String::new(),
            ttl: TTL,
            renew: TTL / 2,
            operations: Vec::new(),
            expires_at: StoreTime(0),
        })
    }

    fn renewed(at_ms: i64, process: ProcessKey) -> LeaseChange {
        change(at_ms, process, |lease| Event::LeaseRenewed { lease, renewals: 1, expires_at: StoreTime(0) })
    }

    fn ended(at_ms: i64, how: LeaseEnd) -> LeaseChange {
        change(at_ms, P, |lease| Event::LeaseEnded { lease, how, by: Some(LeaseId::from_random(2)) })
    }

    /// What is seen where P renews until `until_ms`, and then its lease's end is this one.
    fn seen(until_ms: i64, end: LeaseChange, life: Life, surroundings: &Surroundings) -> Vec<String> {
        let mut changes = vec![taken(P), taken(JUDGE)];
        changes.extend((1..).map(|n| n * 500).take_while(|at| *at <= until_ms).map(|at| renewed(at, P)));
        let end_us = end.at_us;
        changes.push(end);
        let alive_us = end_us + 1_000_000;
        let lives = BTreeMap::from([(P, life), (JUDGE, Life { place: 1, alive_us, ..Life::default() })]);
        let asked = Asked { timing: Timing::from_ttl(TTL), innocence: true, heartbeats_linger: false };
        violations(&changes, &lives, surroundings, asked)
    }

    fn killed(at_ms: i64) -> Life {
        Life { alive_us: ms(at_ms), ended: true, killed_us: Some(ms(at_ms)), ..Life::default() }
    }

    fn alive() -> Life {
        Life { alive_us: ms(1_000_000), ..Life::default() }
    }

    #[test]
    fn a_killed_workers_lease_must_end_in_time() {
        let fair = Surroundings::default();
        // Where its time is that of looks, it may have been right behind the one that did not see it.
        let mut between_looks = ended(5_900, LeaseEnd::Lapsed);
        between_looks.after_us = ms(5_300);
        assert_eq!(seen(2_000, between_looks, killed(2_100), &fair), [""; 0]);
        // 2.1 s + ttl 1 s + scan 1 s + looks 0.25 s + slack 1 s, for a judge that was watching.
        assert!(seen(2_000, ended(5_300, LeaseEnd::Lapsed), killed(2_100), &fair).is_empty());
        let late = seen(2_000, ended(5_400, LeaseEnd::Lapsed), killed(2_100), &fair);
        assert!(late.len() == 1 && late[0].contains("bounded recovery"), "{late:?}");
        let away = Spell { from_us: ms(3_000), until_us: ms(5_000) };
        for excuse in [
            Surroundings { away: vec![away], ..fair.clone() },
            Surroundings { slow: vec![away], ..fair.clone() },
            Surroundings { cut: vec![vec![], vec![away]], ..fair.clone() },
            Surroundings { stepped: Some(0), ..fair.clone() },
        ] {
            let excused = seen(2_000, ended(6_300, LeaseEnd::Lapsed), killed(2_100), &excuse);
            assert!(excused.is_empty(), "{excuse:?}: {excused:?}");
        }
        // Its lease is live at the end.
        let never = seen(2_000, renewed(20_000, JUDGE), killed(2_100), &fair);
        assert!(never.len() == 1 && never[0].contains("bounded recovery"), "{never:?}");
    }

    #[test]
    fn who_was_not_disturbed_is_not_declared_dead() {
        let fair = Surroundings::default();
        for how in [LeaseEnd::Lapsed, LeaseEnd::TakenOver, LeaseEnd::Died] {
            let innocent = seen(8_000, ended(8_100, how), alive(), &fair);
            assert!(innocent.len() == 1 && innocent[0].contains("innocence"), "{how:?}: {innocent:?}");
        }
        // Silent for a watch, and the runner knows of nothing that kept it.
        assert!(!seen(8_000, ended(10_000, LeaseEnd::Lapsed), alive(), &fair).is_empty());
        let spell = Spell { from_us: ms(8_050), until_us: ms(10_500) };
        let paused = Life { pauses: vec![spell], ..alive() };
        assert!(seen(8_000, ended(10_000, LeaseEnd::Lapsed), paused.clone(), &fair).is_empty());
        assert!(!seen(8_000, ended(8_100, LeaseEnd::Lapsed), paused.clone(), &fair).is_empty(), "it had just renewed");
        assert!(!seen(8_000, ended(10_000, LeaseEnd::Died), paused, &fair).is_empty(), "it did not die");
        let cut = Surroundings { cut: vec![vec![spell]], ..fair.clone() };
        assert!(seen(8_000, ended(10_000, LeaseEnd::Lapsed), alive(), &cut).is_empty());
        let others = Surroundings { cut: vec![vec![], vec![spell]], ..fair };
        assert!(!seen(8_000, ended(10_000, LeaseEnd::Lapsed), alive(), &others).is_empty());
    }

    /// Its judge may know of a death before the runner does.
    #[test]
    fn a_process_is_seen_dying_for_a_moment() {
        let fair = Surroundings::default();
        let left = |at_ms| Life { ended: true, alive_us: ms(at_ms), ..alive() };
        assert_eq!(seen(8_000, ended(8_100, LeaseEnd::Died), left(8_150), &fair), [""; 0]);
        assert!(!seen(8_000, ended(8_100, LeaseEnd::Died), left(8_300), &fair).is_empty());
        assert!(!seen(8_000, ended(8_100, LeaseEnd::Lapsed), left(8_150), &fair).is_empty(), "silence is no death");
        // Its row was faster than the runner.
        let killed = |alive_ms| Life { killed_us: Some(ms(8_300)), ..left(alive_ms) };
        assert_eq!(seen(8_000, ended(8_100, LeaseEnd::Died), killed(8_090), &fair), [""; 0]);
        assert!(!seen(8_000, ended(8_100, LeaseEnd::Died), killed(8_250), &fair).is_empty());
    }

    #[test]
    fn a_death_is_judged_where_a_judge_was_undisturbed_until_the_leases_end() {
        let fair = Surroundings::default();
        let count = |end: LeaseChange, life: Life, judge: Life, surroundings: &Surroundings| {
            let lives = BTreeMap::from([(P, life), (JUDGE, Life { place: 1, ..judge })]);
            deaths(&[taken(P), taken(JUDGE), end], &lives, surroundings)
        };
        let (judged, excused) = (Deaths { judged: 1, excused: 0 }, Deaths { judged: 0, excused: 1 });
        let lapsed = || ended(4_000, LeaseEnd::Lapsed);
        assert_eq!(count(lapsed(), killed(2_100), alive(), &fair), judged);
        let spell = Spell { from_us: ms(3_000), until_us: ms(3_010) };
        for surroundings in [
            Surroundings { slow: vec![spell], ..fair.clone() },
            Surroundings { away: vec![spell], ..fair.clone() },
            Surroundings { cut: vec![vec![], vec![spell]], ..fair.clone() },
            Surroundings { stepped: Some(1), ..fair.clone() },
        ] {
            assert_eq!(count(lapsed(), killed(2_100), alive(), &surroundings), excused, "{surroundings:?}");
        }
        for judge in
            [Life { pauses: vec![spell], ..alive() }, Life { told_us: Some(ms(3_000)), ..alive() }, killed(3_000)]
        {
            assert_eq!(count(lapsed(), killed(2_100), judge.clone(), &fair), excused, "{judge:?}");
        }
        let before = Surroundings { slow: vec![Spell { from_us: ms(0), until_us: ms(2_000) }], ..fair.clone() };
        assert_eq!(count(lapsed(), killed(2_100), alive(), &before), judged);
        // Those that are no deaths: it lives, it left in order, its lease had ended before; and one that nobody is asked of.
        let none = Deaths::default();
        assert_eq!(count(lapsed(), alive(), alive(), &fair), none);
        assert_eq!(count(ended(4_000, LeaseEnd::Dropped), killed(2_100), alive(), &fair), none);
        assert_eq!(count(lapsed(), killed(9_000), alive(), &fair), none);
        let stepped = Surroundings { stepped: Some(0), ..fair };
        assert_eq!(count(lapsed(), killed(2_100), alive(), &stepped), none);
    }

    #[test]
    fn spells_that_overlap_are_one() {
        let spell = |from_us, until_us| Spell { from_us, until_us };
        assert_eq!(united([spell(5, 9), spell(1, 3), spell(2, 6)].into_iter()), [spell(1, 9)]);
        assert_eq!(united([spell(4, 5), spell(1, 3)].into_iter()), [spell(1, 3), spell(4, 5)]);
    }
}
