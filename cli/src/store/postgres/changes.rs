//! Waking by NOTIFY: an idle worker learns that lines are free (a submit, a recovery, a give-back, a retry), a judge that a
//! lease was taken, whoever makes completion calls that one is due, all that a batch was aborted.
//!
//! The channel is `fencepost_` and the schema's name; the payload is empty, `lease`, `ended`, or the aborted batch's id. Where it cannot be listened to (behind a transaction pooler, while the
//! server is away), nobody is woken, and workers find out by asking now and then.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgPoolOptions};

use super::connections::Connections;
use super::trouble;
use crate::store::{self, Change, StoreError};

/// After the connection broke, it is tried again so much later at first, and up to 16 times that.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Tells of free lines.
pub struct Changes {
    // None behind a transaction pooler: a connection to listen on is not ours to keep.
    listener: Option<PgListener>,
    place: String,
}

impl std::fmt::Debug for Changes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Changes").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Changes {
    pub(super) async fn watch(connections: &Connections) -> Result<Self, StoreError> {
        let place = connections.place().to_owned();
        let options = connections.options();
        if options.transaction_pooler {
            return Ok(Self { listener: None, place });
        }
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Connections::probe_limit())
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(options.connect.clone());
        let not_done = |error| {
            let message = trouble::of_connecting(&error, &options.address(), connections.place());
            StoreError::not_done(message, None)
        };
        let listening = async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.listen(&format!("fencepost_{}", options.schema)).await?;
            Ok(listener)
        };
        let limit = Connections::probe_limit();
        let Ok(listener) = tokio::time::timeout(limit, listening).await else {
            let message = format!("{place}: no answer from {} within {limit:?}", options.address());
            return Err(StoreError::not_done(message, None));
        };
        Ok(Self { listener: Some(listener.map_err(not_done)?), place })
    }
}

impl store::Changes for Changes {
    async fn next(&mut self) -> Result<Change, StoreError> {
        let Some(listener) = &mut self.listener else { return std::future::pending().await };
        let mut wait = LISTEN_AGAIN;
        loop {
            match listener.try_recv().await {
                Ok(first) => {
                    // None: the connection was lost and made anew. What was told meanwhile went unheard.
                    let mut change = first.map_or_else(Change::anything, |told| told_by(told.payload()));
                    while let Some(more) = listener.next_buffered() {
                        let more = told_by(more.payload());
                        change.free_lines |= more.free_lines;
                        change.leases |= more.leases;
                        change.ended |= more.ended;
                        change.aborted.extend(more.aborted);
                    }
                    return Ok(change);
                }
                Err(sqlx::Error::PoolClosed) => {
                    let message = format!("{}: notifications cannot be listened to any more", self.place);
                    return Err(StoreError::not_done(message, None));
                }
                Err(_) => {
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(LISTEN_AGAIN * 16);
                }
            }
        }
    }
}

fn told_by(payload: &str) -> Change {
    match payload {
        "" => Change { free_lines: true, ..Change::default() },
        "lease" => Change { leases: true, ..Change::default() },
        "ended" => Change { ended: true, ..Change::default() },
        id => match id.parse() {
            Ok(batch) => Change { aborted: vec![batch], ..Change::default() },
            // Of a later version.
            Err(_) => Change::anything(),
        },
    }
}
