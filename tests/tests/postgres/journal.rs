//! What every transaction of a store wrote, in an order in which they took effect.
//!
//! Triggers of the test note each change of a record within the transaction that makes it. A transaction's place is a number
//! that it draws while it commits, when it has all the locks it will ever have: where two lock against each other, the later one
//! gets its lock after the earlier one's commit, and so draws the larger number. Those that do not lock against each other may
//! be put either way round; a store whose locks are too few is seen by what its changes then say.

use serde_json::{Map, Value};

use super::rig::{Holding, Rig, execute};

const TABLES: [&str; 7] = ["leases", "batches", "spans", "outcomes", "attempts", "tallies", "completions"];

const JOURNAL: &str = "
create sequence journal_places;
create table journal_gate ();
create table journal_commits (transaction xid8 primary key, place bigint);
create table journal_changes (
    number bigint generated always as identity primary key, transaction xid8, relation text, was jsonb, becomes jsonb
);
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
    update journal_commits set place = nextval('journal_places') where transaction = new.transaction;
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
    pub fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).unwrap())
    }

    pub fn text(&self, column: &str) -> &str {
        self.0[column].as_str().unwrap()
    }

    pub fn text_or_null(&self, column: &str) -> Option<&str> {
        self.0[column].as_str()
    }

    pub fn int(&self, column: &str) -> i64 {
        self.0[column].as_i64().unwrap()
    }

    pub fn int_or_null(&self, column: &str) -> Option<i64> {
        self.0[column].as_i64()
    }

    pub fn natural(&self, column: &str) -> u64 {
        self.int(column).try_into().unwrap()
    }

    pub fn is(&self, column: &str) -> bool {
        self.0[column].as_bool().unwrap()
    }
}

/// A change of one record: `was` is none of a new one, `becomes` of one that is gone.
#[derive(Debug)]
pub struct Change {
    /// In the order of all transactions' writes.
    pub number: i64,
    pub relation: String,
    pub was: Option<Columns>,
    pub becomes: Option<Columns>,
}

/// The changes of one transaction, in the order of its writes.
#[derive(Debug)]
pub struct Transaction {
    pub place: u64,
    pub changes: Vec<Change>,
}

/// Has this store keep a journal from now on; it has nothing yet.
pub async fn keep(rig: &mut Rig) {
    execute(&mut rig.raw, JOURNAL).await;
    for table in TABLES {
        let trigger = format!(
            "create trigger journal after insert or update or delete on {table} for each row execute function journal_change()"
        );
        execute(&mut rig.raw, &trigger).await;
    }
}

/// Keeps transactions that have done all their writes from committing.
pub async fn hold_commits(rig: &Rig) -> Holding {
    rig.holding("lock table journal_gate in access exclusive mode").await
}

/// Place, number, relation, the record as it was and as it becomes.
type Noted = (i64, i64, String, Option<String>, Option<String>);

/// All transactions so far, in an order in which they took effect.
pub async fn read(rig: &mut Rig) -> Vec<Transaction> {
    let sql = "
        select coalesce(c.place, 0), j.number, j.relation, j.was::text, j.becomes::text
        from journal_changes j left join journal_commits c on c.transaction = j.transaction
        order by 1, 2";
    let changes: Vec<Noted> = sqlx::query_as(sql).fetch_all(&mut rig.raw).await.unwrap();
    let mut transactions: Vec<Transaction> = Vec::new();
    for (place, number, relation, was, becomes) in changes {
        assert!(place > 0, "a transaction without a place");
        let place = u64::try_from(place).unwrap();
        if transactions.last().is_none_or(|last| last.place != place) {
            transactions.push(Transaction { place, changes: Vec::new() });
        }
        let (was, becomes) = (was.map(|text| Columns::parse(&text)), becomes.map(|text| Columns::parse(&text)));
        transactions.last_mut().unwrap().changes.push(Change { number, relation, was, becomes });
    }
    transactions
}

/// How many transactions others wrote in between of.
pub fn interleaved(transactions: &[Transaction]) -> usize {
    let gap =
        |transaction: &&Transaction| transaction.changes.windows(2).any(|pair| pair[1].number - pair[0].number > 1);
    transactions.iter().filter(gap).count()
}

/// What a table holds now.
pub async fn table(rig: &mut Rig, relation: &str) -> Vec<Columns> {
    let sql = format!("select to_jsonb(t)::text from {relation} t");
    let records: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut rig.raw).await.unwrap();
    records.iter().map(|text| Columns::parse(text)).collect()
}

pub const fn tables() -> [&'static str; 7] {
    TABLES
}
