//! Redis as the second witness: heartbeats with a ttl, and the running rows for people.
//!
//! | part | does |
//! |---|---|
//! | [`keys`] | names keys |
//! | [`scripts`] | makes requests on a connection of any kind |
//! | [`connecting`], [`url`] | open connections to real servers |
//! | this file | keeps a connection, bounds every wait, connects again |
//! | [`trouble`] | says when it does not answer |
//! | [`examine`] | looks at it, for `doctor` |

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use fencepost_core::liveness::{LivenessReply, LivenessRequest};
use fencepost_core::random::Stream;
use fencepost_core::{Instant, LeaseId};
use redis::{Cmd, ErrorKind, RedisError, ServerErrorKind};
use tokio::sync::Notify;

use self::connecting::{CaError, Connect, RedisServer};
use self::keys::Keys;
use self::scripts::{Answer, Request, View, ViewOf};
use self::trouble::{Kind, LivenessError, Trouble};
use self::url::RedisUrl;
use crate::driver::{Clock, Liveness, Observer, Spawn};
use crate::runtime::{TokioClock, TokioSpawn};

pub mod connecting;
pub mod examine;
pub mod keys;
pub mod scripts;
pub mod trouble;
pub mod url;

/// No request waits longer, whatever the ttl.
pub const LIMIT_MAX: Duration = Duration::from_secs(1);
/// What a person asks waits so long: to them a slow one answers, though to workers it may not.
const PEOPLE_WAIT: Duration = Duration::from_secs(3);
/// An attempt to connect that takes longer has failed.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// The first pause between attempts to connect; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Redis as a worker's second witness. It never fails: a Redis that is not there gives no answer, and is connected to as soon
/// as it is. Clones share a connection.
pub struct RedisLiveness<K: Connect = RedisServer, C: Clock = TokioClock, T: Spawn = TokioSpawn>(Arc<Link<K, C, T>>);

impl<K: Connect, C: Clock, T: Spawn> Clone for RedisLiveness<K, C, T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Connect, C: Clock, T: Spawn> fmt::Debug for RedisLiveness<K, C, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLiveness").field("keys", &self.0.keys).finish_non_exhaustive()
    }
}

/// A connection, and what it takes to get it again.
struct Link<K: Connect, C: Clock, T: Spawn> {
    connect: K,
    clock: C,
    spawn: T,
    keys: Keys,
    /// No request waits longer.
    limit: Duration,
    trouble: Arc<Trouble>,
    /// This connection's number there.
    who: u64,
    seed: u64,
    state: Mutex<State<K::Connection>>,
    /// Wakes who waits for another state, in order: a `watch` would wake them in an order that no simulator's seed decides.
    changed: Notify,
    generation: AtomicU64,
}

enum State<N> {
    /// Nobody has asked yet.
    Idle,
    /// An attempt is under way; none has failed since there was a connection.
    Connecting,
    /// Attempts fail, for this reason; more follow.
    Down(Arc<str>),
    /// There is a connection.
    Up(N, u64),
}

impl RedisLiveness {
    /// The Redis of this URL for the store of this id. Nothing is connected before the first request.
    ///
    /// # Errors
    ///
    /// Where the URL names a file of certificates that cannot be read.
    pub fn new(url: RedisUrl, store_id: &str) -> Result<Self, CaError> {
        let server = RedisServer::new(url)?;
        Ok(Self::with(server, TokioClock::start(), TokioSpawn, store_id, rand::random()))
    }
}

impl<K: Connect, C: Clock, T: Spawn> RedisLiveness<K, C, T> {
    /// The same on any outside; `seed` spreads attempts to connect.
    pub fn with(connect: K, clock: C, spawn: T, store_id: &str, seed: u64) -> Self {
        let trouble = Arc::new(Trouble::new(Arc::new(|_| {})));
        Self(Arc::new(Link::new(connect, clock, spawn, Keys::new(store_id), LIMIT_MAX, trouble, seed)))
    }

    /// The same for people, who wait longer.
    #[must_use]
    pub fn for_people(&self) -> Self {
        Self(self.0.another(PEOPLE_WAIT, self.0.trouble.clone()))
    }

    /// Names the keys.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// Makes a request, and says when Redis did it.
    ///
    /// # Errors
    ///
    /// Where there is no answer; it may have been done all the same.
    pub async fn ask(&self, request: &LivenessRequest) -> Result<Answer, LivenessError> {
        self.0.request(request).await
    }

    /// What people are shown of these workers.
    ///
    /// # Errors
    ///
    /// Where there is no answer.
    pub async fn view(&self, leases: &[LeaseId]) -> Result<View, LivenessError> {
        self.0.request(&ViewOf(leases)).await
    }
}

impl<K: Connect, C: Clock, T: Spawn> Liveness for RedisLiveness<K, C, T> {
    fn is_present(&self) -> bool {
        true
    }

    fn for_worker(&self, ttl: Duration, observer: Observer) -> Self {
        let limit = LIMIT_MAX.min(ttl / 8);
        let trouble = Arc::new(Trouble::new(observer));
        Self(self.0.another(limit, trouble)).begun()
    }

    fn for_renewals(&self) -> Self {
        Self(self.0.another(self.0.limit, self.0.trouble.clone())).begun()
    }

    async fn call(&self, request: LivenessRequest) -> Option<LivenessReply> {
        self.ask(&request).await.ok().map(|answer| answer.reply)
    }
}

impl<K: Connect, C: Clock, T: Spawn> RedisLiveness<K, C, T> {
    /// Begins to connect on the current runtime, so that the first request finds a connection.
    fn begun(self) -> Self {
        self.0.begin();
        self
    }
}

impl<K: Connect, C: Clock, T: Spawn> Link<K, C, T> {
    fn new(connect: K, clock: C, spawn: T, keys: Keys, limit: Duration, trouble: Arc<Trouble>, seed: u64) -> Self {
        let who = trouble.connection();
        let (state, changed) = (Mutex::new(State::Idle), Notify::new());
        Self { connect, clock, spawn, keys, limit, trouble, who, seed, state, changed, generation: AtomicU64::new(0) }
    }

    /// The same with a connection of its own.
    fn another(&self, limit: Duration, trouble: Arc<Trouble>) -> Arc<Self> {
        let (connect, clock, spawn) = (self.connect.clone(), self.clock.clone(), self.spawn.clone());
        let seed = Stream::new(self.seed ^ self.who).next_u64();
        Arc::new(Self::new(connect, clock, spawn, self.keys.clone(), limit, trouble, seed))
    }

    /// Makes a request within the limit. A connection that turns out to be gone is made anew at once, if it can be.
    async fn request<R: Request>(self: &Arc<Self>, request: &R) -> Result<R::Answer, LivenessError> {
        let ends = self.clock.now() + self.limit;
        let mut first = true;
        let error = loop {
            let (mut connection, generation) = match self.connection(ends).await {
                Ok(connection) => connection,
                Err(why) => break LivenessError::NotConnected { why },
            };
            match self.until(ends, request.make(&mut connection, &self.keys)).await {
                Some(Ok(answer)) => {
                    self.trouble.answered(self.who);
                    return Ok(answer);
                }
                Some(Err(error)) if first && error.is_connection_dropped() => {
                    first = false;
                    self.lost(generation, State::Connecting);
                }
                Some(Err(error)) => {
                    if ends_connection(&error) {
                        self.lost(generation, State::Down(error.to_string().into()));
                    }
                    break LivenessError::Redis(error);
                }
                None => {
                    // The next request does not wait for a server that stands still.
                    let error = LivenessError::Silent { limit: self.limit };
                    self.lost(generation, State::Down(error.to_string().into()));
                    break error;
                }
            }
        };
        // Whoever connects says why that fails.
        if !matches!(error, LivenessError::NotConnected { .. }) {
            let kept = matches!(&error, LivenessError::Redis(error) if !ends_connection(error));
            let kind = if kept { Kind::Refused } else { Kind::Lost };
            self.trouble.began(self.who, kind, self.clock.now(), &error);
        }
        Err(error)
    }

    /// The connection; one that is just being made is waited for.
    async fn connection(self: &Arc<Self>, ends: Instant) -> Result<(K::Connection, u64), Arc<str>> {
        self.begin();
        let made = async {
            loop {
                let changed = self.changed.notified();
                match &*self.state() {
                    State::Up(connection, generation) => return Ok((connection.clone(), *generation)),
                    State::Down(why) => return Err(why.clone()),
                    State::Idle | State::Connecting => {}
                }
                changed.await;
            }
        };
        self.until(ends, made).await.unwrap_or_else(|| Err(format!("no connection within {:?}", self.limit).into()))
    }

    fn state(&self) -> MutexGuard<'_, State<K::Connection>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another state in this one's place where it is such a one; tells whether it was.
    fn change(&self, to: State<K::Connection>, from: impl FnOnce(&State<K::Connection>) -> bool) -> bool {
        let mut state = self.state();
        let changes = from(&state);
        if changes {
            *state = to;
            drop(state);
            self.changed.notify_waiters();
        }
        changes
    }

    /// Begins to connect if nobody has.
    fn begin(self: &Arc<Self>) {
        if self.change(State::Connecting, |state| matches!(state, State::Idle)) {
            self.connect_again();
        }
    }

    /// This connection is of no use: another is made.
    fn lost(self: &Arc<Self>, generation: u64, now: State<K::Connection>) {
        if self.change(now, |state| matches!(state, State::Up(_, of) if *of == generation)) {
            self.connect_again();
        }
    }

    fn connect_again(self: &Arc<Self>) {
        let pauses = Pauses::new(self.seed ^ self.generation.load(Ordering::Relaxed));
        self.spawn.spawn(keep_connecting(Arc::downgrade(self), self.clock.clone(), pauses));
    }

    /// One attempt: a connection counts once it has answered.
    async fn connect_once(&self) -> Result<K::Connection, LivenessError> {
        let attempt = async {
            let mut connection = self.connect.connect().await?;
            match Cmd::new().arg("PING").query_async::<()>(&mut connection).await {
                // It cannot save its data, and refuses even this: there is a connection all the same.
                Err(error) if error.code() != Some("MISCONF") => Err(error),
                _ => Ok(connection),
            }
        };
        match self.until(self.clock.now() + CONNECT_LIMIT, attempt).await {
            Some(attempted) => attempted.map_err(LivenessError::Redis),
            None => Err(LivenessError::Silent { limit: CONNECT_LIMIT }),
        }
    }

    /// `None`: the time was up first.
    async fn until<A>(&self, ends: Instant, of: impl Future<Output = A>) -> Option<A> {
        tokio::select! {
            biased;
            done = of => Some(done),
            () = self.clock.sleep_until(ends) => None,
        }
    }
}

impl<K: Connect, C: Clock, T: Spawn> Drop for Link<K, C, T> {
    fn drop(&mut self) {
        self.trouble.forget(self.who);
    }
}

/// Connects until there is a connection, or nobody wants one any more.
async fn keep_connecting<K: Connect, C: Clock, T: Spawn>(link: Weak<Link<K, C, T>>, clock: C, mut pauses: Pauses) {
    while let Some(link) = link.upgrade() {
        match link.connect_once().await {
            Ok(connection) => {
                let generation = link.generation.fetch_add(1, Ordering::Relaxed);
                link.trouble.connected(link.who);
                link.change(State::Up(connection, generation), |_| true);
                return;
            }
            Err(error) => {
                // Told first: whoever waits goes on with the state.
                link.trouble.began(link.who, Kind::Lost, clock.now(), &error);
                link.change(State::Down(error.to_string().into()), |_| true);
            }
        }
        drop(link);
        clock.sleep_until(clock.now() + pauses.next()).await;
    }
}

/// Whether another connection may do what this one cannot. A server that refuses a request (out of memory, loading, not allowed)
/// would refuse it on another, too; one that has become a replica must be left.
fn ends_connection(error: &RedisError) -> bool {
    let moved = matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown)
            | ErrorKind::ClusterConnectionNotFound
    );
    moved || error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error()
}

/// The pauses between attempts to connect: longer and longer, and not those of others.
struct Pauses {
    random: Stream,
    next: Duration,
}

impl Pauses {
    fn new(seed: u64) -> Self {
        Self { random: Stream::new(seed), next: PAUSE_MIN }
    }

    fn next(&mut self) -> Duration {
        let longest = self.next;
        self.next = (longest * 2).min(PAUSE_MAX);
        let share = u32::try_from(self.random.next_u64() % 1000).unwrap_or(0);
        longest / 2 + longest * share / 2000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let pauses = |seed| {
            let mut pauses = Pauses::new(seed);
            [(); 12].map(|()| pauses.next())
        };
        let (one, other) = (pauses(1), pauses(2));
        assert!(one[0] >= PAUSE_MIN / 2 && one[0] <= PAUSE_MIN);
        assert!(one.iter().all(|pause| *pause <= PAUSE_MAX));
        assert!(one[11] >= PAUSE_MAX / 2);
        assert_ne!(one, other);
    }
}
