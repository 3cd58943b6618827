//! What is found of a Postgres server.

use std::time::Duration;

use super::{Finding, clock, time, work};
use crate::store::examine::SchemaState;
use crate::store::postgres::examine::{Connected, Pooler, PostgresFacts, Rights, Server, Sessions, Table};
use crate::store::postgres::open::SCHEMA_VERSION;

/// A question and its answer should not take longer: a row's outcome is some such trips.
const ROUND_TRIP_LONG: Duration = Duration::from_millis(50);

/// A transaction that has been open for so long holds cleaning up.
const TRANSACTION_LONG_S: i64 = 60;

/// So many records that nobody needs, and more of them than of the others, are told of.
const DEAD_MANY: i64 = 20_000;

/// The oldest server that has what the tables need.
const VERSION_MIN: i32 = 140_000;

/// What it all means.
pub fn findings(facts: &PostgresFacts) -> Vec<Finding> {
    let connected = match &facts.connected {
        Ok(connected) => connected,
        Err(why) => {
            let to_do = "put that right; is this the right --store? Behind a pooler in transaction mode it needs ?pooler=transaction";
            return vec![Finding::problem("reachable", why.clone(), to_do)];
        }
    };
    let mut found = vec![reachable(connected)];
    found.push(match &connected.clock_ahead_us {
        Ok((ahead_us, uncertain_us)) => clock(*ahead_us, *uncertain_us, "harmless for outcomes, which go by this clock alone; times shown here are off by as much: let both machines follow NTP"),
        Err(why) => unseen("clock", why),
    });
    match &connected.server {
        Ok(server) => {
            found.extend(settings(server));
            found.push(connections(server));
        }
        Err(why) => found.push(unseen("server", why)),
    }
    found.push(pooler(connected.pooler));
    let role = connected.server.as_ref().map_or("ROLE", |server| server.role.as_str());
    found.push(match &connected.schema {
        Ok(state) => work::schema(state, SCHEMA_VERSION.into()),
        Err(why) => Finding::problem("schema", why.clone(), "see what follows on permissions, and put that right"),
    });
    match &connected.rights {
        Some(Ok(lacks)) => found.push(rights(lacks, &facts.schema_name, role)),
        Some(Err(why)) => found.push(unseen("permission", why)),
        None => {}
    }
    match &connected.sessions {
        Ok(sessions) => found.extend(transactions(sessions, role)),
        Err(why) => found.push(unseen("transactions", why)),
    }
    match &connected.tables {
        _ if matches!(connected.schema, Ok(SchemaState::Missing | SchemaState::Foreign)) => {}
        Ok(tables) => found.extend(dead(tables, &facts.schema_name)),
        Err(why) => found.push(unseen("dead_records", why)),
    }
    found
}

/// What could not be looked at.
fn unseen(check: &'static str, why: &str) -> Finding {
    Finding::advice(check, format!("cannot be looked at: {why}"), "look at it as a role that may")
}

fn reachable(connected: &Connected) -> Finding {
    const CHECK: &str = "reachable";
    match &connected.round_trip {
        Err(why) => Finding::problem(CHECK, why.clone(), "see the server's log"),
        Ok(trip) => {
            let found = format!("connected in {}, a round trip takes {}", time(connected.connecting), time(*trip));
            if *trip < ROUND_TRIP_LONG {
                return Finding::ok(CHECK, found);
            }
            Finding::advice(
                CHECK,
                found,
                "put workers nearer to the server, or have them hold more rows: --concurrency, --horizon",
            )
        }
    }
}

fn settings(server: &Server) -> Vec<Finding> {
    let mut found = Vec::new();
    let version = format!("{}.{}", server.version / 10_000, server.version % 10_000);
    found.push(if server.version >= VERSION_MIN {
        Finding::ok("version", version)
    } else {
        Finding::problem("version", version, "fencepost needs Postgres 14 or later: update the server")
    });
    if server.encoding != "UTF8" {
        found.push(Finding::problem(
            "encoding",
            server.encoding.clone(),
            "create database NAME encoding 'UTF8' template template0, and name that one in --store",
        ));
    }
    found.push(if server.recovery {
        Finding::problem("role", "a standby: it cannot be written", "name the primary in --store")
    } else if server.read_only {
        Finding::problem(
            "role",
            "transactions are read-only",
            format!(
                "alter role {0} reset default_transaction_read_only; or of the database: alter database {1} reset ...",
                quoted(&server.role),
                quoted(&server.database)
            ),
        )
    } else {
        Finding::ok("role", "a primary")
    });
    for (check, is_on, why) in [
        ("fsync", server.fsync, "what was acknowledged may be lost when the machine fails"),
        ("full_page_writes", server.full_page_writes, "a crash of the machine may damage the tables for good"),
    ] {
        found.push(if is_on {
            Finding::ok(check, "on")
        } else {
            let to_do = format!("alter system set {check} = on; select pg_reload_conf();");
            Finding::problem(check, format!("off: {why}"), to_do)
        });
    }
    found.push(if server.autovacuum {
        Finding::ok("autovacuum", "on")
    } else {
        Finding::advice(
            "autovacuum",
            "off: tables grow, and claims become slow",
            "alter system set autovacuum = on; alter system set track_counts = on; select pg_reload_conf();",
        )
    });
    found
}

fn connections(server: &Server) -> Finding {
    const CHECK: &str = "connections";
    const EACH: i64 = Server::CONNECTIONS_PER_WORKER;
    let (used, max) = (server.connections_used, server.connections_max);
    let free = max - server.connections_reserved - used;
    let found = format!("{used} of {max} are used, {free} are free for workers, of which each takes up to {EACH}");
    if free >= EACH {
        return Finding::ok(CHECK, found);
    }
    Finding::advice(
        CHECK,
        found,
        format!(
            "alter system set max_connections = {} and restart the server, or a pooler in transaction mode and ?pooler=transaction",
            (max * 2).max(100)
        ),
    )
}

fn pooler(pooler: Pooler) -> Finding {
    const CHECK: &str = "pooler";
    let said = "add ?pooler=transaction to the store's URL";
    match pooler {
        Pooler { announced: true, .. } => Finding::ok(
            CHECK,
            "?pooler=transaction: idle workers ask for rows every two seconds; a direct connection wakes them",
        ),
        Pooler { hands_on: true, .. } => Finding::problem(
            CHECK,
            "one that hands sessions on after each transaction is in between, and the URL does not say so",
            said,
        ),
        Pooler { drops_settings: true, .. } => Finding::problem(
            CHECK,
            "something in between drops a session's settings (statement_timeout, lock_timeout): a pooler, and the URL does not say so",
            said,
        ),
        _ => Finding::ok(CHECK, "none seen"),
    }
}

fn rights(rights: &Rights, schema: &str, role: &str) -> Finding {
    let role = quoted(role);
    let mut grants = Vec::new();
    let mut lacks = Vec::new();
    if !rights.schema {
        lacks.push("the schema".to_owned());
        grants.push(format!("grant usage on schema {schema} to {role};"));
    }
    if !rights.tables.is_empty() {
        lacks.push(format!("tables {}", rights.tables.join(", ")));
        grants.push(format!("grant select, insert, update, delete on all tables in schema {schema} to {role};"));
    }
    if !rights.sequences {
        lacks.push("the sequence of tokens".to_owned());
        grants.push(format!("grant usage on all sequences in schema {schema} to {role};"));
    }
    if !rights.functions {
        lacks.push("functions".to_owned());
        grants.push(format!("grant execute on all functions in schema {schema} to {role};"));
    }
    if lacks.is_empty() {
        return Finding::ok("permission", format!("{role} may do all that workers do"));
    }
    Finding::problem("permission", format!("{role} may not use {}", lacks.join("; ")), grants.join(" "))
}

/// A name as SQL reads it.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.is_empty() && name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn transactions(sessions: &Sessions, role: &str) -> Vec<Finding> {
    const CHECK: &str = "transactions";
    let mut found = Vec::new();
    let hidden = match sessions.hidden {
        0 => String::new(),
        count => {
            format!("; {count} sessions of other roles are not shown (grant pg_read_all_stats to {})", quoted(role))
        }
    };
    match (sessions.oldest_s, sessions.oldest_pid) {
        (Some(age), Some(pid)) if age >= TRANSACTION_LONG_S => {
            let application = sessions.oldest_application.as_deref().filter(|name| !name.is_empty());
            let state = sessions.oldest_state.as_deref().unwrap_or("in a transaction");
            let who = application.map_or(format!("process {pid}"), |name| format!("{name:?} (process {pid})"));
            found.push(Finding::advice(
                CHECK,
                format!("the oldest has been open for {age} s, by {who}, {state}: dead records stay, and claims become slow{hidden}"),
                format!("end it, or have the server do so: select pg_terminate_backend({pid})"),
            ));
        }
        (age, _) => {
            let age = age.map_or("none is open".to_owned(), |age| format!("the oldest has been open for {age} s"));
            found.push(Finding::ok(CHECK, format!("{age}{hidden}")));
        }
    }
    if let (Some(age), Some(name)) = (sessions.prepared_s, &sessions.prepared_name)
        && age >= TRANSACTION_LONG_S
    {
        found.push(Finding::advice(
            "prepared_transactions",
            format!("{name:?} has been there for {age} s: it holds its locks, and dead records stay"),
            format!("rollback prepared '{0}', or commit prepared '{0}'", name.replace('\'', "''")),
        ));
    }
    if sessions.waiting > 0 {
        found.push(Finding::ok("locks", format!("{} sessions wait for one now", sessions.waiting)));
    }
    found
}

fn dead(tables: &[Table], schema: &str) -> Vec<Finding> {
    const CHECK: &str = "dead_records";
    let many = |table: &&Table| table.dead >= DEAD_MANY && table.dead > table.live;
    let mut found: Vec<_> = tables
        .iter()
        .filter(many)
        .map(|table| {
            Finding::advice(
                CHECK,
                format!("{} has {} that nobody needs and {} others", table.name, table.dead, table.live),
                format!("end old transactions, then: vacuum {schema}.{}", table.name),
            )
        })
        .collect();
    if found.is_empty() {
        let dead: i64 = tables.iter().map(|table| table.dead).sum();
        found.push(Finding::ok(CHECK, format!("{dead} in {} tables", tables.len())));
    }
    found.extend(tables.iter().filter(|table| table.neglected).map(|table| {
        Finding::advice(
            "autovacuum",
            format!("off for {}", table.name),
            format!("alter table {schema}.{} set (autovacuum_enabled = true)", table.name),
        )
    }));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::doctor::Level;

    fn server() -> Server {
        Server {
            version: 150_004,
            encoding: "UTF8".to_owned(),
            role: "jobs".to_owned(),
            database: "rows".to_owned(),
            recovery: false,
            read_only: false,
            fsync: true,
            full_page_writes: true,
            autovacuum: true,
            connections_max: 100,
            connections_reserved: 3,
            connections_used: 10,
        }
    }

    fn sessions() -> Sessions {
        Sessions {
            hidden: 0,
            oldest_s: Some(1),
            oldest_pid: Some(7),
            oldest_application: Some("psql".to_owned()),
            oldest_state: Some("idle in transaction".to_owned()),
            prepared_s: None,
            prepared_name: None,
            waiting: 0,
        }
    }

    fn well() -> Connected {
        Connected {
            connecting: Duration::from_millis(3),
            round_trip: Ok(Duration::from_micros(300)),
            clock_ahead_us: Ok((100, 200)),
            server: Ok(server()),
            pooler: Pooler { announced: false, drops_settings: false, hands_on: false },
            schema: Ok(SchemaState::Usable { version: SCHEMA_VERSION.into(), store_id: "s".to_owned() }),
            sessions: Ok(sessions()),
            tables: Ok(vec![Table { name: "spans".to_owned(), live: 10, dead: DEAD_MANY - 1, neglected: false }]),
            rights: Some(Ok(Rights { schema: true, tables: Vec::new(), sequences: true, functions: true })),
            work: None,
        }
    }

    fn ill(connected: Connected) -> Vec<(&'static str, Level)> {
        let facts = PostgresFacts {
            place: "db:5432/rows (schema fencepost)".to_owned(),
            schema_name: "fencepost".to_owned(),
            connected: Ok(connected),
        };
        let found = findings(&facts).into_iter().filter(|finding| finding.level != Level::Ok);
        found.map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn each_fact_that_is_not_well_is_one_finding() {
        let of_server = |server| Connected { server: Ok(server), ..well() };
        let of_sessions = |sessions| Connected { sessions: Ok(sessions), ..well() };
        let of_pooler = |announced, drops_settings, hands_on| Connected {
            pooler: Pooler { announced, drops_settings, hands_on },
            ..well()
        };
        let of_table = |live, dead, neglected| Connected {
            tables: Ok(vec![Table { name: "spans".to_owned(), live, dead, neglected }]),
            ..well()
        };
        let lacking = Rights { schema: true, tables: vec!["rows".to_owned()], sequences: true, functions: true };
        assert_eq!(ill(well()), []);
        for (connected, expected) in [
            (of_server(Server { version: 130_010, ..server() }), Some(("version", Level::Problem))),
            (of_server(Server { encoding: "LATIN1".to_owned(), ..server() }), Some(("encoding", Level::Problem))),
            (of_server(Server { recovery: true, read_only: true, ..server() }), Some(("role", Level::Problem))),
            (of_server(Server { read_only: true, ..server() }), Some(("role", Level::Problem))),
            (of_server(Server { fsync: false, ..server() }), Some(("fsync", Level::Problem))),
            (of_server(Server { full_page_writes: false, ..server() }), Some(("full_page_writes", Level::Problem))),
            (of_server(Server { autovacuum: false, ..server() }), Some(("autovacuum", Level::Advice))),
            (of_server(Server { connections_used: 91, ..server() }), None),
            (of_server(Server { connections_used: 92, ..server() }), Some(("connections", Level::Advice))),
            (
                of_sessions(Sessions { oldest_s: Some(TRANSACTION_LONG_S), ..sessions() }),
                Some(("transactions", Level::Advice)),
            ),
            (of_sessions(Sessions { oldest_s: Some(TRANSACTION_LONG_S - 1), ..sessions() }), None),
            (
                of_sessions(Sessions { prepared_s: Some(90), prepared_name: Some("x".to_owned()), ..sessions() }),
                Some(("prepared_transactions", Level::Advice)),
            ),
            (of_pooler(false, false, true), Some(("pooler", Level::Problem))),
            (of_pooler(false, true, false), Some(("pooler", Level::Problem))),
            (of_pooler(true, true, true), None),
            (of_table(10, DEAD_MANY, false), Some(("dead_records", Level::Advice))),
            (of_table(DEAD_MANY, DEAD_MANY, false), None),
            (of_table(0, 0, true), Some(("autovacuum", Level::Advice))),
            (Connected { round_trip: Ok(ROUND_TRIP_LONG), ..well() }, Some(("reachable", Level::Advice))),
            (Connected { clock_ahead_us: Ok((5_000_000, 9)), ..well() }, Some(("clock", Level::Advice))),
            (Connected { rights: Some(Ok(lacking)), ..well() }, Some(("permission", Level::Problem))),
            (
                Connected { schema: Ok(SchemaState::Missing), rights: None, tables: Ok(Vec::new()), ..well() },
                Some(("schema", Level::Problem)),
            ),
            (Connected { schema: Err("no".to_owned()), ..well() }, Some(("schema", Level::Problem))),
            (Connected { sessions: Err("no".to_owned()), ..well() }, Some(("transactions", Level::Advice))),
        ] {
            let shown = format!("{connected:?}");
            assert_eq!(ill(connected), Vec::from_iter(expected), "{shown}");
        }
    }

    #[test]
    fn a_role_is_told_what_it_lacks_and_how_it_is_given_that() {
        let lacks = Rights { schema: false, tables: vec!["rows".to_owned()], sequences: false, functions: false };
        let finding = rights(&lacks, "jobs", "Some one");
        assert_eq!(
            finding.to_do.as_deref(),
            Some(
                "grant usage on schema jobs to \"Some one\"; grant select, insert, update, delete on all tables in schema jobs to \
                 \"Some one\"; grant usage on all sequences in schema jobs to \"Some one\"; grant execute on all functions in \
                 schema jobs to \"Some one\";"
            )
        );
    }
}
