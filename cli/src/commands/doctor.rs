//! `fencepost doctor`: looks at the store, at its work and at Redis. Where one of them cannot be reached the others are looked at
//! all the same.

use fencepost_core::LeaseId;

use super::args::{DoctorArgs, Global};
use super::failure::{Exit, Failure};
use super::hint::store_option;
use super::{overview, print, redis, status, store};
use crate::liveness::redis::examine::examine;
use crate::report::doctor::redis::LiveWorker;
use crate::report::doctor::work::{OpenBatch, Work};
use crate::report::doctor::{self, DoctorReport, Finding, Level, Section};
use crate::report::status::{Alive, WorkerSummary};
use crate::store::StoreUrl;
use crate::store::examine::{StoreFacts, WorkFacts};

pub async fn doctor(global: &Global, args: DoctorArgs) -> Result<Exit, Failure> {
    let url = store::url(global)?;
    // A file of certificates that cannot be read is a finding.
    let redis = args.redis.redis.as_deref().map(redis::named).transpose()?;
    let facts = url.examine().await;
    let mut sections = vec![of_store(&url, &facts)];
    let work = match facts.work() {
        Some(Ok(found)) => Some(work_of(found)),
        _ => None,
    };
    let findings = match (&work, facts.work()) {
        (Some(work), _) => doctor::work::findings(work, &store_option(global)),
        (None, Some(Err(why))) => vec![Finding::unreadable(why)],
        (None, _) => Vec::new(),
    };
    if !findings.is_empty() {
        sections.push(Section { about: "work", name: None, findings });
    }
    if let Some(redis) = redis {
        let live: Vec<&WorkerSummary> =
            work.iter().flat_map(|work| &work.workers).filter(|worker| worker.alive == Alive::Yes).collect();
        let leases: Vec<LeaseId> = live.iter().map(|worker| worker.id).collect();
        let found = examine(&redis, facts.store_id(), &leases).await;
        let live: Vec<_> =
            live.iter().map(|worker| LiveWorker { name: worker.name.clone(), ttl: worker.ttl }).collect();
        let findings = doctor::redis::findings(&found, &live);
        sections.push(Section { about: "redis", name: Some(found.url), findings });
    }
    let report = DoctorReport { sections };
    print(&if args.json { status::json(&doctor::json(&report), false) } else { doctor::text(&report) })?;
    Ok(if report.count(Level::Problem) > 0 { Exit::Store } else { Exit::Done })
}

fn of_store(url: &StoreUrl, facts: &StoreFacts) -> Section {
    let findings = match facts {
        StoreFacts::Sqlite(facts) => doctor::sqlite::findings(facts),
        StoreFacts::Postgres(facts) => doctor::postgres::findings(facts),
    };
    Section { about: "store", name: Some(url.to_string()), findings }
}

fn work_of(facts: &WorkFacts) -> Work {
    let now = facts.workers.now;
    let batches = facts.batches.iter().map(|counts| OpenBatch {
        summary: overview::summary(counts),
        still: now.since(counts.batch.loaded_at.unwrap_or(counts.batch.created_at)),
        next_row_in: counts.next_not_before.map(|at| at.since(now)),
    });
    Work {
        batches: batches.collect(),
        workers: overview::summaries(facts.workers.clone()),
        appends: facts.appends.clone(),
    }
}
