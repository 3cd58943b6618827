//! How many requests a second the model does, alone and under all checkers: `cargo run --release --example speed`.

use std::time::{Duration, Instant};

use fencepost_core::store::{Answer, Claim, ClaimReply, Record, RecordItem, StoreReply, StoreRequest, TakeLease};
use fencepost_core::{BatchId, LeaseId, StoreTime};
use fencepost_model::check::{Bounds, Checker, Suite};
use fencepost_model::store::{BatchSpec, ModelStore, Rows};

struct Speed {
    store: ModelStore,
    suite: Option<Suite>,
    views: bool,
    requests: u64,
}

impl Speed {
    fn ask(&mut self, request: &StoreRequest) -> StoreReply {
        self.requests += 1;
        let reply = self.store.apply(StoreTime(self.requests as i64), request);
        let events = self.store.drain_events();
        if let Some(suite) = &mut self.suite {
            for event in events {
                assert_eq!(suite.on_event(self.requests, &event), Ok(()));
            }
            let touched = self.store.take_touched();
            if self.views && !touched.is_empty() {
                assert_eq!(suite.on_state(self.requests, &self.store.view_of(&touched)), Ok(()));
            }
        }
        reply
    }

    /// One small schedule: 3 leases claim and record a batch of so many lines, one or a few at a time.
    fn schedule(&mut self, lines: u64, lines_max: u64) {
        self.store = ModelStore::new();
        let spec = BatchSpec::new(BatchId::from_random(1), "op");
        self.store.submit(StoreTime(0), spec, Rows::Empty(lines));
        let leases = [1, 2, 3].map(LeaseId::from_random);
        for lease in leases {
            let ttl = Duration::from_secs(60);
            let operations = vec!["op".to_owned()];
            let worker = "w".to_owned();
            let take = TakeLease {
                lease,
                worker,
                stable_name: false,
                ttl,
                renew: ttl / 2,
                process: None,
                operations,
                calls: Default::default(),
            };
            self.ask(&StoreRequest::TakeLease(take));
        }
        let mut number = 0;
        while self.store.has_open_batch() {
            number += 1;
            for lease in leases {
                self.turn(lease, number, lines_max);
            }
        }
    }

    fn turn(&mut self, lease: LeaseId, number: u64, lines_max: u64) {
        let operations = vec!["op".to_owned()];
        let claim = Claim { lease, number, operations, lines_max, bytes_max: u64::MAX, idle: true };
        let StoreReply::Claim(ClaimReply::Granted { grants, .. }) = self.ask(&StoreRequest::Claim(claim)) else {
            return;
        };
        self.ask(&StoreRequest::Renew { lease, batches: Vec::new() });
        for grant in grants {
            let run_time = Duration::ZERO;
            let (batch, token) = (grant.batch, grant.token);
            let answer = || Answer::Success(Box::default());
            let item = |row: &fencepost_core::store::GrantedRow| RecordItem {
                batch,
                line: row.line,
                token,
                answer: answer(),
                run_time,
            };
            let items = grant.rows.iter().map(item).collect();
            self.ask(&StoreRequest::Record(Record { lease, items }));
        }
    }
}

fn main() {
    for (name, checked, views) in
        [("model", false, false), ("events checked", true, false), ("events and states checked", true, true)]
    {
        for (lines, lines_max) in [(20, 1), (60, 4), (10_000, 1000)] {
            let mut speed = Speed { store: ModelStore::new(), suite: None, views, requests: 0 };
            let (began, mut schedules) = (Instant::now(), 0);
            while began.elapsed() < Duration::from_millis(700) {
                let second = Duration::from_secs(1);
                let bounds = Bounds {
                    recovery_slack: second,
                    progress: second,
                    abort_notice: second,
                    abort_notice_slow: second,
                    abort_told: None,
                };
                speed.suite = checked.then(|| Suite::new(bounds));
                speed.schedule(lines, lines_max);
                schedules += 1;
            }
            let seconds = began.elapsed().as_secs_f64();
            let (rate, runs) = (speed.requests as f64 / seconds, f64::from(schedules) / seconds);
            println!("{name:26} {lines:6} lines by {lines_max:4}: {rate:9.0} requests/s, {runs:8.0} schedules/s");
        }
    }
}
