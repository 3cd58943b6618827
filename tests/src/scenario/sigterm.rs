//! Point 5 of the main job: SIGTERM in the middle of slow rows.

use std::time::Duration;

use nix::sys::signal::Signal;

use super::{STUCK, assert_all_succeeded, results};
use crate::ledger;
use crate::place::{Place, StoreKind};
use crate::process::{submit, until};

/// Running rows finish, unstarted ones are claimable at once by another worker, no attempt is used.
pub fn run(on: StoreKind) {
    let place = Place::new(on);
    let rows = 60;
    let batch = submit(place.store(), &["--rows", &rows.to_string()]);
    let look = place.look();
    // It holds many more lines than it runs: a horizon of 10 s at 300 ms per row.
    let slow = ["--concurrency=2", "--row-us=300000", "--horizon-ms=10000"].map(str::to_owned);
    let mut leaving = place.worker(&slow);
    until("unstarted lines are held", STUCK, || (look.lines_held_by(leaving.pid()) >= 10).then_some(()));
    let ran_before = ledger::read(&place.ledger()).len();
    leaving.signal(Signal::SIGTERM);
    until("only running rows are held", Duration::from_millis(250), || {
        (look.lines_held_by(leaving.pid()) <= 2).then_some(())
    });
    assert!(leaving.wait(STUCK).success(), "a worker that was asked to leave leaves in order");
    let runs = ledger::read(&place.ledger());
    assert!(runs.len() <= ran_before + 2, "nothing was started after the signal");
    let counts = look.counts(&batch);
    assert_eq!(counts.success, runs.len() as u64, "every row that ran has finished");
    assert_eq!(counts.inprog, 0, "nothing is held any more");
    let other = place.worker(&["--concurrency=8", "--row-us=0", "--until-done"].map(str::to_owned));
    until("the other finishes", STUCK, || look.has_ended(&batch).then_some(()));
    drop(other);
    assert_all_succeeded(&place, &batch, rows);
    assert_eq!(ledger::repeats(&ledger::read(&place.ledger())), (0, 0), "no row ran twice");
    assert!(results(&place, &batch).iter().all(|result| result["attempts"] == 1 && result["crashes"] == 0));
}
