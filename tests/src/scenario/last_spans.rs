//! Point 6 of the main job: both last spans of a batch finished at the same instant, by two processes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use fencepost::store::loading::{BatchSpec, LoadEnd};
use fencepost::store::{Loads, OpenMode, Store};
use fencepost_core::LeaseId;
use fencepost_core::store::{
    Answer, Claim, ClaimReply, Record, RecordItem, Recorded, StoreReply, StoreRequest, TakeLease, Verdict,
};

use crate::place::{Place, StoreKind, open};

/// Runs so many rounds, each with a batch of two rows; `program` runs [`duel`] with the arguments given here.
pub fn run(on: StoreKind, rounds: u64, program: &std::path::Path) {
    let place = Place::new(on);
    prepare(&place, rounds);
    let spawn = |who: u64| {
        let mut command = Command::new(program);
        command.arg("duel").arg(place.store()).arg(rounds.to_string()).arg(who.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the duellist starts")
    };
    let mut duellists = [spawn(1), spawn(2)];
    let mut talk: Vec<_> = duellists
        .iter_mut()
        .map(|child| (child.stdin.take().expect("stdin"), BufReader::new(child.stdout.take().expect("stdout"))))
        .collect();
    for round in 0..rounds {
        for phase in ["claim", "record"] {
            // Both are told before either is heard, so both act at once.
            talk.iter_mut().for_each(|(to, _)| to.write_all(b"go\n").expect("it listens"));
            for (_, from) in &mut talk {
                let mut said = String::new();
                from.read_line(&mut said).expect("it answers");
                assert_eq!(said, "done\n", "{phase} of round {round}");
            }
        }
    }
    drop(talk);
    for child in &mut duellists {
        assert!(child.wait().expect("it ends").success());
    }
    check(&place, rounds);
}

/// Makes the batches, and a trigger that counts how often each ends.
fn prepare(place: &Place, rounds: u64) {
    let store = place.open(OpenMode::Create);
    place.block_on(async {
        for round in 0..rounds {
            let spec = BatchSpec { timeout: Duration::from_secs(60), ..BatchSpec::new(operation(round)) };
            let batch = store.begin_load(spec).await.expect("begin");
            store.load_rows(batch, 1, &["1".into(), "2".into()]).await.expect("rows");
            let end = LoadEnd { key: None, digest: round.to_string(), total: 2 };
            store.finish_load(batch, end).await.expect("finish");
        }
    });
    place.execute(place.dialect(
        "create table ends (batch integer); create trigger count_ends after update of status on batches \
         begin insert into ends values (new.batch); end;",
        "create table ends (batch bigint); \
         create function count_end() returns trigger language plpgsql as \
         $$ begin insert into ends values (new.batch); return null; end $$; \
         create trigger count_ends after update of status on batches for each row execute function count_end();",
    ));
}

fn operation(round: u64) -> String {
    format!("duel-{round}")
}

fn check(place: &Place, rounds: u64) {
    for (query, what) in [
        ("select count(*) from ends", "each ended once"),
        ("select count(distinct batch) from ends", "each ended"),
        ("select count(*) from batches where status = 'success' and ended_at is not null", "each ended as success"),
        ("select count(*) from completions", "one completion each"),
    ] {
        assert_eq!(place.number(query), i64::try_from(rounds).expect("few"), "{what}");
    }
    assert_eq!(place.number("select count(*) from spans"), 0, "no span is left");
}

/// One of the two: claims one row of each batch and records it, both on the word of its parent.
pub async fn duel(store: &str, rounds: u64, who: u64) {
    let store = open(store, OpenMode::Existing).await;
    let lease = LeaseId::from_random(who);
    let minute = Duration::from_secs(60);
    let take = TakeLease {
        lease,
        worker: format!("duellist {who}"),
        stable_name: false,
        ttl: minute * 60,
        renew: minute,
        process: None,
        operations: Vec::new(),
        calls: Default::default(),
    };
    store.call(StoreRequest::TakeLease(take)).await.expect("a lease");
    let mut said = std::io::stdin().lines();
    let mut next = || said.next().expect("the parent speaks").expect("text");
    for round in 0..rounds {
        next();
        let claim = Claim {
            lease,
            number: round + 1,
            operations: vec![operation(round)],
            lines_max: 1,
            bytes_max: 100,
            idle: true,
        };
        let reply = store.call(StoreRequest::Claim(claim)).await.expect("a claim");
        let StoreReply::Claim(ClaimReply::Granted { grants, .. }) = reply else { panic!("{reply:?}") };
        let [grant] = grants.as_slice() else { panic!("one span: {grants:?}") };
        println!("done");
        next();
        let item = RecordItem {
            batch: grant.batch,
            line: grant.rows[0].line,
            token: grant.token,
            answer: Answer::Success("null".into()),
            run_time: Duration::ZERO,
        };
        let record = Record { lease, items: vec![item] };
        let reply = store.call(StoreRequest::Record(record)).await.expect("a record");
        assert_eq!(reply, StoreReply::Record(vec![Verdict::Recorded(Recorded::Success)]));
        println!("done");
    }
}
