//! Waking by NOTIFY: an idle worker learns that lines are free (a submit, a recovery, a give-back, a retry), a judge that a
//! lease was taken, whoever makes completion calls that one is due, all that a batch was aborted.
//!
//! The channel is `fencepost_` and the schema's name; the payload is empty (lines are free), `batch` (one is open for claims), `lease`, `ended`, or the
//! aborted batch's id. Where it cannot be listened to (behind a transaction pooler, while the server is away), nobody is woken, and workers find out
//! by asking now and then; of aborts every half second.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fencepost_core::BatchId;
use sqlx::Row;
use sqlx::postgres::{PgListener, PgPoolOptions};

use super::call::Call;
use super::codec::batch_id;
use super::connections::Connections;
use super::trouble::{self, Trouble};
use crate::store::{self, Change, StoreError};

/// After the connection broke, it is tried again so often. S2: aborts of the time after the server's return go unheard until then.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// A connection on which nothing was heard for so long is asked whether it is alive: the server may have given it up unheard.
const PING_EVERY: Duration = Duration::from_secs(30);

/// S2: how often aborts are asked for where they cannot be listened to: a worker is to start no row more than a second after one.
const ASK_FOR_ABORTS_EVERY: Duration = Duration::from_millis(500);

/// Tells of free lines.
pub struct Changes {
    // None behind a transaction pooler: a connection to listen on is not ours to keep.
    listener: Option<PgListener>,
    /// The listener's connection was lost, and what was told since then is not made up for yet.
    lost: bool,
    connections: Arc<Connections>,
    /// S2: aborted batches of which something may still run, as far as they were asked for.
    seen_stopping: BTreeSet<BatchId>,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("place", &self.connections.place()).finish_non_exhaustive()
    }
}

impl Changes {
    pub(super) async fn watch(connections: Arc<Connections>) -> Result<Self, StoreError> {
        let seen_stopping = BTreeSet::new();
        if connections.options().transaction_pooler {
            return Ok(Self { listener: None, lost: false, connections, seen_stopping });
        }
        let listener = Self::listen(&connections).await?;
        Ok(Self { listener: Some(listener), lost: false, connections, seen_stopping })
    }

    async fn listen(connections: &Connections) -> Result<PgListener, StoreError> {
        let options = connections.options();
        let place = connections.place();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Connections::probe_limit())
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(connections.listen_options());
        let not_done = |error| {
            let message = trouble::of_connecting(&error, &options.address(), connections.place());
            StoreError::not_done(message, None)
        };
        let listening = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            // It would make a new connection silently, and what was told meanwhile would go unheard.
            listener.eager_reconnect(false);
            listener.listen(&format!("fencepost_{}", options.schema)).await?;
            Ok(listener)
        };
        let limit = Connections::probe_limit();
        let Ok(listener) = tokio::time::timeout(limit, listening).await else {
            let message = format!("{place}: no answer from {} within {limit:?}", options.address());
            return Err(StoreError::not_done(message, None));
        };
        listener.map_err(not_done)
    }

    /// Tries until it can be done.
    async fn listen_again(connections: &Connections) -> PgListener {
        loop {
            match Self::listen(connections).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(LISTEN_AGAIN).await,
            }
        }
    }

    /// S2: those of the stopping batches that were not told before. Where they cannot be read now, renewals tell.
    async fn aborted(&mut self) -> Vec<BatchId> {
        let Ok(rows) = self.connections.call(Call::new("stopping_batches")).await else { return Vec::new() };
        let batches = rows.iter().map(|row| batch_id(row.try_get(0)?)).collect::<Result<BTreeSet<_>, Trouble>>();
        let Ok(stopping) = batches else { return Vec::new() };
        let new = stopping.difference(&self.seen_stopping).copied().collect();
        self.seen_stopping = stopping;
        new
    }

    /// S2 where nothing can be listened to: aborts are asked for.
    async fn ask_for_aborts(&mut self) -> Change {
        loop {
            tokio::time::sleep(ASK_FOR_ABORTS_EVERY).await;
            let aborted = self.aborted().await;
            if !aborted.is_empty() {
                return Change { aborted, ..Change::default() };
            }
        }
    }
}

impl store::Changes for Changes {
    async fn next(&mut self) -> Result<Change, StoreError> {
        while let Some(listener) = &mut self.listener {
            // Whoever waits may be cut off at any await: what is not known to be whole stays lost.
            if self.lost {
                *listener = Self::listen_again(&self.connections).await;
                let aborted = self.aborted().await;
                self.lost = false;
                return Ok(Change { aborted, ..Change::anything() });
            }
            match tokio::time::timeout(PING_EVERY, listener.try_recv()).await {
                Ok(Ok(Some(first))) => {
                    let mut change = told_by(first.payload());
                    while let Some(more) = listener.next_buffered() {
                        let more = told_by(more.payload());
                        change.free_lines |= more.free_lines;
                        change.batches |= more.batches;
                        change.leases |= more.leases;
                        change.ended |= more.ended;
                        change.aborted.extend(more.aborted);
                    }
                    return Ok(change);
                }
                Ok(_) => self.lost = true,
                Err(_) => {
                    self.lost = true;
                    self.lost = !is_alive(listener).await;
                }
            }
        }
        Ok(self.ask_for_aborts().await)
    }
}

async fn is_alive(listener: &mut PgListener) -> bool {
    let asked = sqlx::query("select 1").execute(listener);
    matches!(tokio::time::timeout(Connections::probe_limit(), asked).await, Ok(Ok(_)))
}

fn told_by(payload: &str) -> Change {
    match payload {
        "" => Change { free_lines: true, ..Change::default() },
        "batch" => Change { free_lines: true, batches: true, ..Change::default() },
        "lease" => Change { leases: true, ..Change::default() },
        "ended" => Change { ended: true, ..Change::default() },
        id => match id.parse() {
            Ok(batch) => Change { aborted: vec![batch], ..Change::default() },
            // Of a later version.
            Err(_) => Change::anything(),
        },
    }
}
