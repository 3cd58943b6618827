//! A worker's way to the store's node: a few connections, each with one request at a time, as a database's clients have them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fencepost::driver::Clock;
use fencepost::store::{Change, Changes, Store, StoreError, WorkerStore};
use fencepost_core::store::{StoreFailure, StoreReply, StoreRequest};
use madsim::net::{Endpoint, Receiver, Sender};
use tokio::sync::Semaphore;

use super::coverage::NetMark;
use super::fault::Server;
use super::node::SimClock;
use super::store_server::{STORE_ADDRESS, StoreAnswer, ToStore};
use super::world::{ProcessAt, Shared};

/// A handle to the store. Clones share connections.
#[derive(Clone)]
pub(super) struct NetStore {
    shared: Shared,
    process: ProcessAt,
    clock: SimClock,
    /// No answer is waited for longer.
    limit: Duration,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

/// A handle has at most so many connections, as the one to Postgres: each that a restart broke costs a request.
const CONNECTIONS_MAX: usize = 4;

struct Connection {
    sender: Sender,
    receiver: Receiver,
}

impl NetStore {
    pub(super) fn new(shared: Shared, process: ProcessAt, clock: SimClock, limit: Duration) -> Self {
        Self { shared, process, clock, limit, idle: Arc::default(), permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new connection. Across a cut nobody answers, and it is tried again, as TCP does.
    async fn connect(&self) -> Result<Connection, StoreError> {
        let address = STORE_ADDRESS.parse().map_err(|_| StoreError::not_done("no address", None))?;
        let mut pause = Duration::from_millis(5);
        loop {
            let endpoint = Endpoint::bind("0.0.0.0:0").await.map_err(|error| refused(&error))?;
            match endpoint.connect1(address).await {
                Ok((sender, receiver)) => return Ok(Connection { sender, receiver }),
                Err(error) => {
                    let mut world = self.shared.lock();
                    if !world.loses_messages(self.process, Server::Store) {
                        return Err(refused(&error));
                    }
                    world.coverage.mark(NetMark::ConnectedThroughCut);
                }
            }
            madsim::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// `None`: the time was up first.
    async fn until<A>(&self, ends: fencepost_core::Instant, of: impl Future<Output = A>) -> Option<A> {
        tokio::select! {
            biased;
            done = of => Some(done),
            () = self.clock.sleep_until(ends) => None,
        }
    }

    async fn ask(&self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        let ends = self.clock.now() + self.limit;
        let Some(Ok(_permit)) = self.until(ends, self.permits.acquire()).await else {
            return Err(StoreError::not_done("this process's own requests are queueing for too long", None));
        };
        let pooled = self.idle().pop();
        let mut connection = match pooled {
            Some(connection) => connection,
            None => match self.until(ends, self.connect()).await {
                Some(connected) => connected?,
                None => return Err(StoreError::not_done("no connection in time", None)),
            },
        };
        let message = ToStore::Ask { process: self.process, request };
        connection.sender.send(Box::new(message)).await.map_err(|error| broken(&error))?;
        let answer = match self.until(ends, connection.receiver.recv()).await {
            Some(answer) => answer.map_err(|error| broken(&error))?,
            // The connection goes with it: the next answer on it would be to this request.
            None => return Err(StoreError::unknown("no answer in time", None)),
        };
        let Ok(answer) = answer.downcast::<StoreAnswer>() else {
            return Err(StoreError::unknown("the answer is none", None));
        };
        self.idle().push(connection);
        answer.map_err(|failure| StoreError { failure, settled: false, message: "refused".to_owned(), cause: None })
    }
}

fn refused(error: &std::io::Error) -> StoreError {
    StoreError::not_done(format!("cannot connect: {error}"), None)
}

fn broken(error: &std::io::Error) -> StoreError {
    StoreError::unknown(format!("the connection broke: {error}"), None)
}

impl Store for NetStore {
    async fn call(&self, request: StoreRequest) -> Result<StoreReply, StoreError> {
        let (claims, records) = (matches!(request, StoreRequest::Claim(_)), matches!(request, StoreRequest::Record(_)));
        self.shared.lock().store_request_begins(self.process, &request);
        let answer = self.ask(request).await;
        let mut world = self.shared.lock();
        let process = &mut world.processes[self.process];
        process.claims_under_way -= u32::from(claims);
        process.records_under_way -= u32::from(records);
        if let Err(error) = &answer {
            world.coverage.mark(match error.failure {
                StoreFailure::NotDone => NetMark::ToldNotDone,
                StoreFailure::Unknown => NetMark::ToldUnknown,
            });
        }
        answer
    }
}

impl WorkerStore for NetStore {
    type Changes = NetChanges;

    fn with_lock_wait(self, _: Duration) -> Self {
        self
    }

    async fn for_renewals(&self) -> Result<Self, StoreError> {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Ok(Self { idle: Arc::default(), permits, ..self.clone() })
    }

    async fn changes(&self) -> Result<NetChanges, StoreError> {
        let mut changes = NetChanges { store: self.clone(), connection: None };
        changes.watch().await?;
        Ok(changes)
    }
}

/// What others commit, as the store tells it.
pub(super) struct NetChanges {
    store: NetStore,
    connection: Option<Connection>,
}

impl NetChanges {
    async fn watch(&mut self) -> Result<(), StoreError> {
        let connection = self.store.connect().await?;
        connection.sender.send(Box::new(ToStore::Watch)).await.map_err(|error| broken(&error))?;
        self.connection = Some(connection);
        Ok(())
    }
}

impl Changes for NetChanges {
    async fn next(&mut self) -> Result<Change, StoreError> {
        if self.connection.is_none() {
            self.watch().await?;
            // What happened meanwhile was not heard of.
            return Ok(Change::anything());
        }
        let Some(connection) = &mut self.connection else { return Ok(Change::anything()) };
        match connection.receiver.recv().await {
            Ok(change) => {
                self.store.shared.lock().coverage.mark(NetMark::ChangeHeard);
                Ok(change.downcast::<Change>().map_or_else(|_| Change::anything(), |change| *change))
            }
            Err(error) => {
                self.connection = None;
                Err(broken(&error))
            }
        }
    }
}
