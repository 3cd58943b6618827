//! The store on a Postgres server, for any number of machines.
//!
//! | looking for | it is in |
//! |---|---|
//! | tables and functions: what each request does | `sql/` |
//! | the URL and what it may say | [`options`] |
//! | opening, making and migrating the schema | [`open`] |
//! | connections, their limits, what is reused | `connections.rs` |
//! | one statement: its arguments, its end | `call.rs` |
//! | errors: what is known of the end, in words | `trouble.rs` |
//! | requests to and from the functions | `claim.rs`, `record.rs`, `lease.rs`, `recover.rs` |
//! | loading rows by COPY | `load.rs` |
//! | hold, resume, abort, retry | `operate.rs` |
//! | appending rows to a batch | `appending.rs` |
//! | removing what has ended | `purge.rs` |
//! | completion calls | `calls.rs` |
//! | what status, rows and results show | `read.rs` |
//! | waking of idle workers | [`changes`] |
//! | what `doctor` looks at | [`examine`] |
//! | what `verify` reads | `verify.rs` |
//! | effects within the outcome's transaction (O7) | `effects.rs` |
//!
//! # One round trip
//!
//! Every request is one call of one function of the store's schema, which commits by itself: `select * from
//! fencepost.claim(...)`. A process that is stopped, whenever that is, holds no lock: its transaction is over, or
//! the server ends it without hearing from it again (T2). Inside, a VOLATILE function takes a new snapshot for each of its statements
//! under READ COMMITTED, so that locking first and looking in the next statement (T1) works within one call; under any other
//! isolation level the functions refuse to work. The exceptions are loads and appends, whose slices lock nothing but the
//! batch that is being loaded or the append's record, and handlers with effects (O7).
//!
//! # Connections
//!
//! A handle opens connections as it needs them, a few at most, and keeps them. Renewals have their own
//! ([`WorkerStore::for_renewals`]). A request whose future is dropped, or that takes too long, takes its connection with
//! it: none is reused that is not known to be idle. Limits on statements, locks and idle transactions are set on each
//! connection from the handle's bound (`with_lock_wait`); behind a transaction pooler (`?pooler=transaction`) settings
//! cannot be, and the client's own bound remains.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use fencepost_core::store::{StoreReply, StoreRequest};

use self::claim::InputsAtOnce;
use self::connections::Connections;
use super::sqlite::Clock;
use super::{Store, StoreError, WorkerStore};

mod appending;
mod call;
mod calls;
pub mod changes;
mod claim;
mod codec;
mod connections;
mod effects;
pub mod examine;
mod lease;
mod load;
pub mod open;
mod operate;
pub mod options;
mod purge;
mod read;
mod record;
mod recover;
mod trouble;
mod verify;

pub use changes::Changes;
pub use open::OpenError;
pub use options::{PostgresOptions, UrlError};

/// How long a write waits for a lock unless told otherwise; T2's limit for the default ttl.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// A handle to a store on Postgres. Clones share its connections.
#[derive(Clone)]
pub struct PostgresStore {
    connections: Arc<Connections>,
    store_id: Arc<str>,
    clock: Option<Arc<dyn Clock>>,
    inputs_at_once: Arc<InputsAtOnce>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("place", &self.connections.place()).finish_non_exhaustive()
    }
}

impl PostgresStore {
    /// The server, database and schema, for people: no password.
    pub fn place(&self) -> &str {
        self.connections.place()
    }

    /// What the functions are told of the time: nothing, unless a test has a clock of its own.
    fn at(&self) -> Option<i64> {
        self.clock.as_ref().map(|clock| clock.now().0)
    }

    /// The same store over other connections.
    fn over(&self, connections: Connections) -> Self {
        Self { connections: Arc::new(connections), ..self.clone() }
    }
}

impl Store for PostgresStore {
    async fn call(&self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        match request {
            StoreRequest::TakeLease(take) => self.take_lease(&take).await.map(StoreReply::TakeLease),
            StoreRequest::Renew { lease, batches } => self.renew(lease, &batches).await.map(StoreReply::Renew),
            StoreRequest::DropLease { lease } => self.drop_lease(lease).await.map(|()| StoreReply::DropLease),
            StoreRequest::Claim(claim) => self.claim(&claim).await.map(StoreReply::Claim),
            StoreRequest::SettleClaim { lease, number } => {
                let settled = self.settle_claim(lease, number).await;
                settled.map(|(grants, stopped)| StoreReply::SettleClaim(grants, stopped))
            }
            StoreRequest::Record(record) => self.record(&record).await.map(StoreReply::Record),
            StoreRequest::GiveBack { lease, lines } => {
                self.give_back(lease, &lines).await.map(|()| StoreReply::GiveBack)
            }
            StoreRequest::Look => self.look().await.map(StoreReply::Look),
            StoreRequest::Recover(recover) => self.recover(&recover).await.map(StoreReply::Recover),
            StoreRequest::CutBack { backoff_max } => self.cut_back(backoff_max).await.map(|()| StoreReply::CutBack),
            StoreRequest::WithdrawCrashes { lease } => {
                self.withdraw_crashes(lease).await.map(|()| StoreReply::WithdrawCrashes)
            }
            StoreRequest::ClaimCall(claim) => self.claim_call(&claim).await.map(StoreReply::ClaimCall),
            StoreRequest::RecordCall(record) => self.record_call(&record).await.map(StoreReply::RecordCall),
        }
    }
}

impl WorkerStore for PostgresStore {
    type Changes = Changes;

    fn with_lock_wait(self, lock_wait: Duration) -> Self {
        if lock_wait == self.connections.lock_wait() {
            return self;
        }
        let connections = self.connections.another(lock_wait);
        self.over(connections)
    }

    async fn for_renewals(&self) -> Result<Self, StoreError> {
        let own = self.over(self.connections.another(self.connections.lock_wait()));
        own.connections.probe().await?;
        Ok(own)
    }

    async fn changes(&self) -> Result<Changes, StoreError> {
        Changes::watch(self.connections.clone()).await
    }
}
