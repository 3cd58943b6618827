//! What every transaction of a store wrote, in an order in which they took effect.
//!
//! Triggers of the test note each change of a record within the transaction that makes it. A transaction's place is a number
//! that it draws while it commits, when it has all the locks it will ever have: where two lock against each other, the later one
//! gets its lock after the earlier one's commit, and so draws the larger number. Those that do not lock against each other may
//! be put either way round; a store whose locks are too few is seen by what its changes then say.

use serde_json::{Map, Value};
use sqlx::{AssertSqlSafe, PgConnection};

/// The tables whose changes are noted.
pub const TABLES: [&str; 7] = ["leases", "batches", "spans", "outcomes", "attempts", "tallies", "completions"];

const JOURNAL: &str = "
create sequence journal_places;
create table journal_gate ();
create table journal_commits (transaction xid8 primary key, place bigint unique, at_us bigint);
create table journal_changes (
    number bigint generated always as identity primary key, transaction xid8, relation text, was jsonb, becomes jsonb
);
create index journal_changes_of on journal_changes (transaction);
create function journal_change() returns trigger language plpgsql as $$
begin
    insert into journal_commits (transaction) values (pg_current_xact_id()) on conflict do nothing;
    insert into journal_changes (transaction, relation, was, becomes)
    values (pg_current_xact_id(), tg_table_name, to_jsonb(old), to_jsonb(new));
    return null;
end $$;
create function journal_commit() returns trigger language plpgsql as $$
begin
    lock table journal_gate in access share mode;
    update journal_commits
    set place = nextval('journal_places'), at_us = extract(epoch from clock_timestamp()) * 1000000
    where transaction = new.transaction;
    return null;
end $$;
alter function journal_commit() set search_path from current;
create constraint trigger journal_commit after insert on journal_commits
deferrable initially deferred for each row execute function journal_commit();
";

/// A record as it was or became.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns(Map<String, Value>);

impl Columns {
    /// From a record as JSON.
    pub fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap())
    }

    /// A text that is never null.
    pub fn text(&self, column: &str) -> &str {
        self.0[column].as_str().unwrap()
    }

    /// A text.
    pub fn text_or_null(&self, column: &str) -> Option<&str> {
        self.0[column].as_str()
    }

    /// A number that is never null.
    pub fn int(&self, column: &str) -> i64 {
        self.0[column].as_i64().unwrap()
    }

    /// A number.
    pub fn int_or_null(&self, column: &str) -> Option<i64> {
        self.0[column].as_i64()
    }

    /// A number that is never below zero.
    pub fn natural(&self, column: &str) -> u64 {
        self.int(column).try_into().unwrap()
    }

    /// A truth, which SQLite keeps as a number.
    pub fn is(&self, column: &str) -> bool {
        self.0[column].as_bool().unwrap_or_else(|| self.int(column) != 0)
    }
}

/// A change of one record: `was` is none of a new one, `becomes` of one that is gone.
#[derive(Debug)]
pub struct Change {
    /// In the order of all transactions' writes.
    pub number: i64,
    /// Its table.
    pub relation: String,
    /// Before.
    pub was: Option<Columns>,
    /// After.
    pub becomes: Option<Columns>,
}

/// The changes of one transaction, in the order of its writes.
#[derive(Debug)]
pub struct Transaction {
    /// Where it stands among the others.
    pub place: u64,
    /// When it committed, in microseconds since 1970 by the server's clock.
    pub at_us: i64,
    /// What it changed.
    pub changes: Vec<Change>,
}

/// Has the store that this connection finds by its search path keep a journal from now on; it has nothing yet.
pub async fn keep(conn: &mut PgConnection) {
    execute(conn, JOURNAL).await;
    for table in TABLES {
        let trigger = format!(
            "create trigger journal after insert or update or delete on {table} for each row execute function journal_change()"
        );
        execute(conn, &trigger).await;
    }
}

async fn execute(conn: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(conn).await.unwrap();
}

/// What a session does that keeps transactions which have done all their writes from committing.
pub const HOLD_COMMITS: &str = "lock table journal_gate in access exclusive mode";

/// Place, time, number, relation, the record as it was and as it becomes.
type Noted = (i64, i64, i64, String, Option<String>, Option<String>);

/// So many places are read at once.
const PAGE: i64 = 2_000;

/// The next transactions behind a place (0: from the first on), in an order in which they took effect; none: that was all.
pub async fn read_behind(conn: &mut PgConnection, place: u64) -> Vec<Transaction> {
    let sql = "
        select c.place, c.at_us, j.number, j.relation, j.was::text, j.becomes::text
        from (select * from journal_commits where place > $1 order by place limit $2) c
        join journal_changes j on j.transaction = c.transaction
        order by 1, 3";
    let place = i64::try_from(place).unwrap();
    let changes: Vec<Noted> = sqlx::query_as(sql).bind(place).bind(PAGE).fetch_all(conn).await.unwrap();
    let mut transactions: Vec<Transaction> = Vec::new();
    for (place, at_us, number, relation, was, becomes) in changes {
        let place = u64::try_from(place).unwrap();
        if transactions.last().is_none_or(|last| last.place != place) {
            transactions.push(Transaction { place, at_us, changes: Vec::new() });
        }
        let (was, becomes) = (was.map(|text| Columns::parse(&text)), becomes.map(|text| Columns::parse(&text)));
        transactions.last_mut().unwrap().changes.push(Change { number, relation, was, becomes });
    }
    transactions
}

/// All transactions so far, in an order in which they took effect.
pub async fn read(conn: &mut PgConnection) -> Vec<Transaction> {
    let mut all: Vec<Transaction> = Vec::new();
    loop {
        let page = read_behind(conn, all.last().map_or(0, |last| last.place)).await;
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// How many changes are of a transaction that drew no place: none, unless the journal itself is broken.
pub async fn without_place(conn: &mut PgConnection) -> i64 {
    let sql = "
        select count(*) from journal_changes j
        where not exists (select from journal_commits c where c.transaction = j.transaction and c.place > 0)";
    sqlx::query_scalar(sql).fetch_one(conn).await.unwrap()
}

/// How many transactions others wrote in between of.
pub fn interleaved(transactions: &[Transaction]) -> usize {
    let gap =
        |transaction: &&Transaction| transaction.changes.windows(2).any(|pair| pair[1].number - pair[0].number > 1);
    transactions.iter().filter(gap).count()
}

/// What a table holds now.
pub async fn table(conn: &mut PgConnection, relation: &str) -> Vec<Columns> {
    let sql = format!("select to_jsonb(t)::text from {relation} t");
    let records: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(conn).await.unwrap();
    records.iter().map(|text| Columns::parse(text)).collect()
}
