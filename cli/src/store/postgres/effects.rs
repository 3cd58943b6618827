//! O7: effects of handlers, applied inside the transaction that records their rows' outcomes.
//!
//! A transaction of several round trips: `fence` locks what the outcomes need and says which lines are held, then the effects
//! of those are applied, then `record_answers` writes the outcomes. All others wait for those locks at most as long as the
//! server lets this session idle (T2): a process that is stopped in the midst of its effects loses the transaction.

use std::sync::Arc;

use fencepost_core::store::{Answer, Record, RecordItem, Recorded, StoreFailure, StoreReply, Verdict};
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row};
use tokio::time::{Instant, timeout_at};

use super::PostgresStore;
use super::call::Call;
use super::codec::int;
use super::connections::{begin_within, statement_limit};
use super::record::{record_call, verdicts};
use super::trouble::{self, Trouble};
use crate::handler::transactional::{Effects, TransactionalStore, sealed};
use crate::handler::typed::RowError;
use crate::store::StoreError;
use crate::store::effects::{BEFORE_EFFECTS, KEEP_EFFECTS, UNDO_EFFECTS, attempt, too_slow, undone};

impl sealed::Sealed for PostgresStore {}

impl TransactionalStore for PostgresStore {
    type Database = Postgres;

    /// A group whose effects take long is recorded in several transactions.
    async fn record_with_effects(
        &self,
        record: Record,
        effects: Arc<dyn Effects<Postgres>>,
    ) -> Result<StoreReply, StoreError> {
        let mut rest = record;
        let mut verdicts = Vec::with_capacity(rest.items.len());
        while !rest.items.is_empty() {
            match self.record_some(&rest, effects.as_ref()).await {
                Ok(some) => {
                    rest.items.drain(..some.len());
                    verdicts.extend(some);
                }
                Err(error) if verdicts.is_empty() => return Err(error),
                // Some of the group is recorded: the whole of it is repeated (O2).
                Err(error) => return Err(StoreError { failure: StoreFailure::Unknown, ..error }),
            }
        }
        Ok(StoreReply::Record(verdicts))
    }
}

/// A transaction has the effects of so many rows at most. Each is a subtransaction, and past 64 of those every other session
/// has to look up on disk which belong to it.
const EFFECTS_MAX: usize = 60;

/// How a transaction with effects ended, when it is known.
enum End {
    /// It is committed: verdicts on the group's first items.
    Committed(Vec<Verdict>),
    /// Nothing is kept, because of the effects of the item at this place.
    Spoiled { at: usize, error: RowError },
}

/// Why there is no such end.
enum Broken {
    /// Nothing is kept: the end of the transaction was not asked for, or refused.
    NotDone(Trouble),
    /// It was asked for, and what came of it is not known.
    Unknown(sqlx::Error),
}

impl<T: Into<Trouble>> From<T> for Broken {
    fn from(trouble: T) -> Self {
        Self::NotDone(trouble.into())
    }
}

/// What the effects of one item came to.
enum Applied {
    Kept(Box<str>),
    Undone(RowError),
    /// The time was up, and they are undone.
    TooSlow,
    /// The time has been up for so long that the transaction is given up.
    Overdue,
}

impl PostgresStore {
    /// Records the first items, as many as fit into one transaction: one at least.
    async fn record_some(&self, record: &Record, effects: &dyn Effects<Postgres>) -> Result<Vec<Verdict>, StoreError> {
        let mut items_max = record.items.len();
        loop {
            match self.transact(record, items_max, effects).await? {
                End::Committed(verdicts) => return Ok(verdicts),
                // Those before it are recorded without it; then it is the first.
                End::Spoiled { at, .. } if at > 0 => items_max = at,
                End::Spoiled { error, .. } => {
                    let mut first = Record { lease: record.lease, items: record.items[..1].to_vec() };
                    for item in &mut first.items {
                        item.answer = undone(item, error.clone());
                    }
                    return self.record(&first).await;
                }
            }
        }
    }

    async fn transact(
        &self,
        record: &Record,
        items_max: usize,
        effects: &dyn Effects<Postgres>,
    ) -> Result<End, StoreError> {
        let connections = &self.connections;
        let mut used = connections.take(Instant::now() + connections.answer_limit()).await?;
        let until = Instant::now() + connections.answer_limit();
        let mut ending = Ending::default();
        let transaction = self.transaction(&mut used.conn, record, items_max, effects, &mut ending);
        match timeout_at(until, transaction).await {
            Ok(Ok(end)) => {
                // A statement that was cut off may have left the connection in any state.
                if matches!(end, End::Committed(_)) && !ending.cut_off {
                    connections.keep(used);
                }
                Ok(end)
            }
            // Without its connection the transaction is rolled back.
            Ok(Err(Broken::NotDone(Trouble::Sql(error)))) => {
                let error = trouble::of_statement(error, self.place());
                Err(StoreError { failure: StoreFailure::NotDone, ..error })
            }
            Ok(Err(Broken::NotDone(trouble))) => Err(trouble.not_done(self.place())),
            Ok(Err(Broken::Unknown(error))) => Err(trouble::of_statement(error, self.place())),
            Err(_) if ending.asked => Err(connections.no_answer()),
            Err(_) => {
                let message = format!(
                    "{}: no answer within {:?}, in the midst of a transaction, which is given up",
                    self.place(),
                    connections.answer_limit()
                );
                Err(StoreError::not_done(message, None))
            }
        }
    }

    async fn transaction(
        &self,
        conn: &mut PgConnection,
        record: &Record,
        items_max: usize,
        effects: &dyn Effects<Postgres>,
        ending: &mut Ending,
    ) -> Result<End, Broken> {
        let options = self.connections.options();
        let (schema, prepared) = (options.schema.as_str(), !options.transaction_pooler);
        let limit = self.connections.lock_wait() / 2;
        // Idle is bounded by twice the time that effects may take.
        execute(conn, &begin_within(limit, limit * 2)).await?;

        let items = &record.items[..items_max];
        let (exclusive, holds) = fence(conn, schema, prepared, record, items).await?;
        let applied = match self.apply(conn, record, items, &holds, effects, ending).await? {
            Ok(applied) => applied,
            Err(spoiled) => return Ok(spoiled),
        };

        let call = record_call(&applied, self.at(), Some(exclusive));
        let row = call.run(conn, schema, prepared).await?.pop();
        let row = row.ok_or_else(|| Trouble::damaged("the server's reply has no record"))?;
        let verdicts = verdicts(&applied, &row)?;
        // The fence said so under the lock. Whatever is wrong, effects without their outcome are worse.
        if ending.kept.iter().any(|at| verdicts[*at] != Verdict::Recorded(Recorded::Success)) {
            return Err(Trouble::damaged("a line changed hands under its lock").into());
        }

        ending.asked = true;
        match execute(conn, "commit").await {
            Ok(()) => Ok(End::Committed(verdicts)),
            // Checks that wait for the end: of one row's effects, but whose is not said. So the first one is tried alone.
            Err(error) if trouble::is_plain_error(&error) && !ending.kept.is_empty() => {
                let at = usize::from(applied.items.len() > 1);
                Ok(End::Spoiled { at, error: RowError::from(error) })
            }
            Err(error) if trouble::is_plain_error(&error) => Err(Broken::NotDone(error.into())),
            Err(error) => Err(Broken::Unknown(error)),
        }
    }

    /// Applies the effects of the items that hold, from the first item on, until the time is up; one item at least. Answers
    /// those items with what their effects came to.
    async fn apply(
        &self,
        conn: &mut PgConnection,
        record: &Record,
        items: &[RecordItem],
        holds: &[bool],
        effects: &dyn Effects<Postgres>,
        ending: &mut Ending,
    ) -> Result<Result<Record, End>, Broken> {
        let limit = self.connections.lock_wait() / 2;
        let until = Instant::now() + limit;
        let mut applied = Record { lease: record.lease, items: Vec::new() };
        for (at, (item, holds)) in items.iter().zip(holds).enumerate() {
            if at > 0 && (Instant::now() >= until || ending.kept.len() == EFFECTS_MAX) {
                break;
            }
            let mut item = item.clone();
            if *holds && matches!(item.answer, Answer::Success(_)) {
                item.answer = match self.apply_one(conn, &item, effects, until).await? {
                    Applied::Kept(result) => {
                        ending.kept.push(at);
                        Answer::Success(result)
                    }
                    // Locks of the effects before it may have been in its way (a deadlock, say): it is judged by how it does first.
                    Applied::Undone(RowError::Retry(_)) if !ending.kept.is_empty() => break,
                    Applied::Undone(error) => undone(&item, error),
                    Applied::TooSlow => {
                        ending.cut_off = true;
                        if at > 0 {
                            // It gets all of the time in the next transaction.
                            break;
                        }
                        undone(&item, too_slow(limit))
                    }
                    Applied::Overdue => return Ok(Err(End::Spoiled { at, error: too_slow(limit) })),
                };
            }
            applied.items.push(item);
        }
        Ok(Ok(applied))
    }

    async fn apply_one(
        &self,
        conn: &mut PgConnection,
        item: &RecordItem,
        effects: &dyn Effects<Postgres>,
        until: Instant,
    ) -> Result<Applied, Broken> {
        let limit = self.connections.lock_wait() / 2;
        let left = until.saturating_duration_since(Instant::now());
        // The server cuts off a statement a little later than the whole is cut off here, which can say why.
        execute(conn, &format!("{BEFORE_EFFECTS}; {}", statement_limit(left + limit / 8))).await?;
        let came_to = attempt(effects, conn, item, until).await;
        // It kept the thread to itself. The server may have ended the session by now.
        if Instant::now() > until + limit / 4 {
            return Ok(Applied::Overdue);
        }
        let error = match came_to {
            Some(Ok(result)) => match execute(conn, &format!("{KEEP_EFFECTS}; {}", statement_limit(limit))).await {
                Ok(()) => return Ok(Applied::Kept(result)),
                // A statement failed, and the handler took no notice.
                Err(error) if trouble::is_plain_error(&error) => RowError::from(error),
                Err(error) => return Err(error.into()),
            },
            Some(Err(error)) => error,
            None => {
                undo(conn).await?;
                return Ok(Applied::TooSlow);
            }
        };
        undo(conn).await?;
        Ok(Applied::Undone(error))
    }
}

/// What has been done in a transaction so far.
#[derive(Default)]
struct Ending {
    /// Rows whose effects are in it, by their places.
    kept: Vec<usize>,
    /// Effects were cut off: a statement of theirs may have been under way.
    cut_off: bool,
    /// Its end was asked for.
    asked: bool,
}

/// Locks what the outcomes need: which batches exclusively, and which lines are held.
async fn fence(
    conn: &mut PgConnection,
    schema: &str,
    prepared: bool,
    record: &Record,
    items: &[RecordItem],
) -> Result<(Vec<i64>, Vec<bool>), Trouble> {
    let call = Call::new("fence")
        .arg(int(record.lease.number()))
        .arg(items.iter().map(|item| int(item.batch.number())).collect::<Vec<_>>())
        .arg(items.iter().map(|item| int(item.line)).collect::<Vec<_>>())
        .arg(items.iter().map(|item| int(item.token.0)).collect::<Vec<_>>());
    let row = call.run(conn, schema, prepared).await?.pop();
    let row = row.ok_or_else(|| Trouble::damaged("the server's reply has no record"))?;
    let holds: Vec<bool> = row.try_get("holds")?;
    if holds.len() != items.len() {
        return Err(Trouble::damaged("not one answer per line"));
    }
    Ok((row.try_get("exclusive")?, holds))
}

/// Undoes one row's effects, with the limit that was set inside. The error of a statement that was cut off here is heard by
/// whatever is sent next: then this was not sent.
async fn undo(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let undo = format!("{UNDO_EFFECTS}; {KEEP_EFFECTS}");
    match execute(conn, &undo).await {
        Err(error) if trouble::is_plain_error(&error) => execute(conn, &undo).await,
        end => end,
    }
}

async fn execute(conn: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.map(drop)
}
