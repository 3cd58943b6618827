//! What a Postgres URL says: what goes to the driver, and what is fencepost's own.
//!
//! | query parameter | means |
//! |---|---|
//! | `schema=NAME` | the store's own schema in the database; `fencepost` unless said otherwise |
//! | `pooler=transaction` | a pooler between here and the server hands connections on after each transaction (PgBouncer's transaction mode): no prepared statements, no session settings, no LISTEN |
//! | `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `host`, `port`, `user`, `password`, `dbname`, `application_name`, `options` | as in libpq |

use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

/// The schema of a store whose URL names none.
pub const DEFAULT_SCHEMA: &str = "fencepost";

/// Longer names would not leave room for the names that are made of it.
const SCHEMA_CHARS_MAX: usize = 40;

/// What is passed on as it is.
const PASSED_ON: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Where a store is and how it is reached.
#[derive(Clone)]
pub struct PostgresOptions {
    pub(super) connect: PgConnectOptions,
    pub(super) schema: String,
    pub(super) transaction_pooler: bool,
}

/// Why a URL is none of a store on Postgres. No text of it has a password in it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UrlError {
    /// The driver cannot read it.
    #[error(
        "the Postgres URL cannot be read: {reason} (its form is postgres://USER:PASSWORD@HOST:PORT/DATABASE?schema=NAME)"
    )]
    Unreadable {
        /// Why not.
        reason: String,
    },
    /// The schema's name is none that a store may have.
    #[error(
        "schema {schema:?} cannot be used: a name has up to {SCHEMA_CHARS_MAX} of a-z, 0-9 and _, does not begin with a digit or with pg_"
    )]
    Schema {
        /// The name given.
        schema: String,
    },
    /// Only one kind of pooler needs to be told of.
    #[error(
        "pooler={pooler:?} is not known: say pooler=transaction, or leave it out for a direct connection or a session pooler"
    )]
    Pooler {
        /// What was said.
        pooler: String,
    },
    /// A parameter that means nothing here.
    #[error("the Postgres URL has a parameter {name:?} that is not known: there are schema, pooler, and {}", PASSED_ON.join(", "))]
    Parameter {
        /// Its name.
        name: String,
    },
    /// What follows the question mark is no parameter: most likely it is the rest of a password, and not to be shown.
    #[error(
        "what follows `?` in the Postgres URL is not name=value: in a name or a password, `?` is written %3F (and `@` %40, `/` %2F)"
    )]
    NoParameter,
}

fn is_name(name: &str) -> bool {
    name.chars().all(|char| char.is_ascii_lowercase() || char == '_')
}

impl FromStr for PostgresOptions {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut schema = DEFAULT_SCHEMA.to_owned();
        let mut transaction_pooler = false;
        let mut passed_on = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            match parameter.split_once('=').unwrap_or((parameter, "")) {
                ("schema", name) => schema = name.to_owned(),
                ("pooler", "transaction") => transaction_pooler = true,
                ("pooler", other) => return Err(UrlError::Pooler { pooler: other.to_owned() }),
                (name, _) if PASSED_ON.contains(&name) => passed_on.push(parameter),
                (name, _) if is_name(name) && parameter.contains('=') && !query.contains('@') => {
                    return Err(UrlError::Parameter { name: name.to_owned() });
                }
                _ => return Err(UrlError::NoParameter),
            }
        }
        check_schema(&schema)?;
        let rest = if passed_on.is_empty() { base.to_owned() } else { format!("{base}?{}", passed_on.join("&")) };
        let connect: PgConnectOptions =
            rest.parse().map_err(|error: sqlx::Error| UrlError::Unreadable { reason: error.to_string() })?;
        // Poolers refuse settings that they do not know at the start of a session.
        let connect = connect.extra_float_digits(None).disable_statement_logging();
        let named = connect.get_application_name().is_some();
        let connect = if named { connect } else { connect.application_name("fencepost") };
        Ok(Self { connect, schema, transaction_pooler })
    }
}

fn check_schema(schema: &str) -> Result<(), UrlError> {
    let usual = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let first = schema.chars().next();
    let good = first.is_some_and(|c| !c.is_ascii_digit())
        && schema.chars().all(usual)
        && schema.len() <= SCHEMA_CHARS_MAX
        && !schema.starts_with("pg_");
    if good { Ok(()) } else { Err(UrlError::Schema { schema: schema.to_owned() }) }
}

impl PostgresOptions {
    /// The same server and database, another schema.
    ///
    /// # Errors
    ///
    /// Where the name is none that a store may have.
    pub fn with_schema(mut self, schema: &str) -> Result<Self, UrlError> {
        check_schema(schema)?;
        self.schema = schema.to_owned();
        Ok(self)
    }

    /// The server as people know it: `host:port` or the socket's path.
    pub(super) fn address(&self) -> String {
        match self.connect.get_socket() {
            Some(socket) => format!("{}/.s.PGSQL.{}", socket.display(), self.connect.get_port()),
            None if self.connect.get_host().starts_with('/') => {
                format!("{}/.s.PGSQL.{}", self.connect.get_host(), self.connect.get_port())
            }
            None => format!("{}:{}", self.connect.get_host(), self.connect.get_port()),
        }
    }

    /// The database's name: the user's, unless said otherwise.
    pub(super) fn database(&self) -> &str {
        self.connect.get_database().unwrap_or(self.connect.get_username())
    }

    /// Server, database and schema.
    pub(super) fn place(&self) -> String {
        format!("{}/{} (schema {})", self.address(), self.database(), self.schema)
    }
}

impl std::fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresOptions").field("place", &self.place()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fencepost_s_own_is_taken_out_of_the_url() {
        let url = "postgres://u:p@host:5433/rows?schema=jobs_2&sslmode=require&pooler=transaction";
        let options: PostgresOptions = url.parse().unwrap();
        assert_eq!(options.place(), "host:5433/rows (schema jobs_2)");
        assert!(options.transaction_pooler);
        let options: PostgresOptions = "postgres://u@%2Ftmp%2Fpg/rows".parse().unwrap();
        assert_eq!(options.place(), "/tmp/pg/.s.PGSQL.5432/rows (schema fencepost)");
        assert!(!options.transaction_pooler);
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_the_password() {
        let long = format!("postgres://h/d?schema={}", "a".repeat(41));
        for (url, says) in [
            ("postgres://u:secret@h/d?schema=Jobs", "schema \"Jobs\""),
            ("postgres://u:secret@h/d?schema=", "schema \"\""),
            ("postgres://u:secret@h/d?schema=1a", "schema \"1a\""),
            ("postgres://u:secret@h/d?schema=pg_jobs", "pg_"),
            ("postgres://u:secret@h/d?schema=a%22b", "schema"),
            (&long, "schema"),
            ("postgres://u:secret@h/d?pooler=session", "pooler=\"session\""),
            ("postgres://u:secret@h/d?shema=a", "\"shema\""),
            ("postgres://u:secret@h:port/d", "port"),
        ] {
            let error = url.parse::<PostgresOptions>().unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
        let options: PostgresOptions = "postgres://u:secret@h/d".parse().unwrap();
        assert!(!format!("{options:?}").contains("secret"));
    }
}
