//! What goes wrong with the server, what that says of the request's end, and in words that help.

use std::borrow::Cow;
use std::io;

use fencepost_core::store::StoreFailure;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::store::StoreError;

/// An error while a reply is read or a request is prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The driver's own.
    #[error("{0}")]
    Sql(#[from] sqlx::Error),
    /// The records contradict each other.
    #[error("the store contradicts itself: {0}")]
    Damaged(Cow<'static, str>),
}

impl Trouble {
    /// The records contradict each other.
    pub(super) fn damaged(what: impl Into<Cow<'static, str>>) -> Self {
        Self::Damaged(what.into())
    }

    /// As the end of a request that the server has done.
    pub(super) fn after_the_deed(self, place: &str) -> StoreError {
        StoreError::unknown(format!("{place}: {self}"), None)
    }

    /// As the end of a request that only read.
    pub(super) fn not_done(self, place: &str) -> StoreError {
        StoreError::not_done(format!("{place}: {self}"), None)
    }
}

fn database(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    match error {
        sqlx::Error::Database(error) => error.try_downcast_ref(),
        _ => None,
    }
}

/// The SQLSTATE, where the server said one.
pub(super) fn sqlstate(error: &sqlx::Error) -> Option<&str> {
    database(error).map(PgDatabaseError::code)
}

/// What an error in a statement that was sent says of its end.
///
/// The server reports an ERROR before it commits, and then it does not: deadlocks, limits, refused locks and whatever else
/// goes wrong inside. With FATAL it ends the session, which may be after the commit; and a connection that breaks says
/// nothing at all.
pub(super) fn failure(error: &sqlx::Error) -> StoreFailure {
    match error {
        // Never sent.
        sqlx::Error::Encode(_) | sqlx::Error::Configuration(_) | sqlx::Error::InvalidArgument(_) => {
            StoreFailure::NotDone
        }
        error if is_plain_error(error) => StoreFailure::NotDone,
        _ => StoreFailure::Unknown,
    }
}

/// Whether the server itself goes on with the session after this error. Of class 08 (a connection broke) are the errors of a pooler
/// that lost its server, maybe after the commit.
pub(super) fn is_plain_error(error: &sqlx::Error) -> bool {
    let plain =
        |error: &PgDatabaseError| matches!(error.severity(), PgSeverity::Error) && !error.code().starts_with("08");
    database(error).is_some_and(plain)
}

/// As the end of a request that was sent.
pub(super) fn of_statement(error: sqlx::Error, place: &str) -> StoreError {
    let failure = failure(&error);
    StoreError { failure, settled: false, message: describe(&error, place), cause: cause(error) }
}

fn cause(error: sqlx::Error) -> Option<Box<dyn std::error::Error + Send + Sync>> {
    match error {
        // The message has it all.
        sqlx::Error::Database(_) | sqlx::Error::Io(_) => None,
        other => Some(other.into()),
    }
}

fn describe(error: &sqlx::Error, place: &str) -> String {
    let said = said(error);
    match sqlstate(error) {
        Some("55P03") => {
            format!("{place}: another session has held a lock for too long (pg_blocking_pids tells who): {said}")
        }
        Some("57014") => format!("{place}: the request took too long and was cancelled: {said}"),
        Some("25006") => format!("{place}: the server is read-only; is it a standby? {said}"),
        Some("53100") => format!("{place}: no space is left on the server's disk: {said}"),
        Some("53300") => format!("{place}: the server has no connection to spare: {said}"),
        Some("42501") => format!("{place}: this user may not do that: {said}"),
        Some("3F000" | "42P01" | "42883") => {
            format!("{place}: the store's schema is gone or not of this program's version: {said}")
        }
        Some("57P01" | "57P02" | "57P03") => format!("{place}: the server is stopping or starting: {said}"),
        _ => format!("{place}: {said}{}", pooler_hint(error)),
    }
}

/// What errors mean that come from a pooler in between which was not announced: a session that is not the one before, or one
/// that may not be set up.
fn pooler_hint(error: &sqlx::Error) -> &'static str {
    let of_startup = database(error).is_some_and(|error| error.message().contains("startup parameter"));
    match sqlstate(error) {
        Some("08P01") if of_startup => "; behind a pooler the store's URL needs pooler=transaction",
        Some("42P05" | "26000") => "; behind a pooler the store's URL needs pooler=transaction",
        _ => "",
    }
}

fn said(error: &sqlx::Error) -> String {
    let Some(error) = database(error) else {
        return match error {
            sqlx::Error::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "the connection was cut".to_owned()
            }
            sqlx::Error::Io(error) => format!("the connection broke: {error}"),
            other => other.to_string(),
        };
    };
    let detail = error.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
    format!("Postgres: {}{detail} [{}]", error.message(), error.code())
}

/// Why no connection came about, in words that name the address.
pub(super) fn of_connecting(error: &sqlx::Error, address: &str, place: &str) -> String {
    match error {
        sqlx::Error::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => {
                format!("connection refused at {address}: is Postgres running there, and does it listen on that port?")
            }
            io::ErrorKind::NotFound => format!("there is no socket {address}: is Postgres running there?"),
            io::ErrorKind::UnexpectedEof => format!("{address} closed the connection: is that a Postgres server?"),
            _ => format!("cannot connect to {address}: {error}"),
        },
        sqlx::Error::Tls(error) => format!("cannot connect to {address}: TLS: {error}"),
        // Postgres itself names the user, the database, the limit.
        sqlx::Error::Database(_) => format!("cannot connect to {place}: {}{}", said(error), pooler_hint(error)),
        other => format!("cannot connect to {address}: {other}"),
    }
}
