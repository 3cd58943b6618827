//! A database of a peer's run, on the benchmark's server.

use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// A database of its own, dropped with it.
#[derive(Debug)]
pub(super) struct Database {
    server: String,
    name: String,
}

impl Database {
    /// An empty one on this server.
    pub(super) fn create(server: &str) -> Result<Self, String> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("bench_peer_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        execute(server, &format!("create database {name}"))
            .map_err(|why| format!("the database {name} cannot be created: {why}"))?;
        Ok(Self { server: server.to_owned(), name })
    }

    /// Its URL.
    pub(super) fn url(&self) -> String {
        with_database(&self.server, &self.name)
    }

    /// Has the server write out what the insert of the jobs has left to write, before the time counts.
    pub(super) fn settle(&self) -> Result<(), String> {
        execute(&self.url(), "checkpoint").map_err(|why| format!("no checkpoint can be made: {why}"))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A server that is gone took it along.
        let _ = execute(&self.server, &format!("drop database if exists {} with (force)", self.name));
    }
}

/// The URL of another database on the same server; what it says of the connection stays as it is.
fn with_database(server: &str, name: &str) -> String {
    let (rest, query) = match server.split_once('?') {
        Some((rest, query)) => (rest, format!("?{query}")),
        None => (server, String::new()),
    };
    let authority = rest.find("://").map_or(0, |at| at + "://".len());
    let end = rest[authority..].find('/').map_or(rest.len(), |at| authority + at);
    format!("{}/{name}{query}", &rest[..end])
}

/// Runs one statement on a connection of its own.
fn execute(url: &str, sql: &str) -> Result<(), String> {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    // The caller may be inside a runtime, so this needs a thread.
    let executing = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|why| why.to_string())?.block_on(async {
            let mut conn = PgConnection::connect(&url).await.map_err(|why| why.to_string())?;
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut conn).await.map_err(|why| why.to_string())?;
            conn.close().await.map_err(|why| why.to_string())
        })
    });
    executing.join().unwrap_or_else(|_| Err("a thread panicked".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_takes_the_place_of_the_servers() {
        for (server, url) in [
            ("postgres://postgres@127.0.0.1:5432/postgres", "postgres://postgres@127.0.0.1:5432/x"),
            ("postgres://a:b@h", "postgres://a:b@h/x"),
            ("postgres://h/", "postgres://h/x"),
            ("postgres://h/d?host=/run/postgresql", "postgres://h/x?host=/run/postgresql"),
            ("postgresql://h?sslmode=require", "postgresql://h/x?sslmode=require"),
        ] {
            assert_eq!(with_database(server, "x"), url, "{server}");
        }
    }
}
