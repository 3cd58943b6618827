//! Which store a name means: what `--store` and `FENCEPOST_STORE` may say, and opening it.
//!
//! | name | store |
//! |---|---|
//! | `PATH`, `sqlite:PATH`, `sqlite://PATH` (so `sqlite:///PATH` from the root) | an SQLite file |
//! | `postgres://USER:PASSWORD@HOST:PORT/DATABASE?schema=NAME`, `postgresql://...` | a schema on a Postgres server ([`super::postgres::options`]) |

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::examine::StoreFacts;
use super::postgres::{self, PostgresStore};
use super::sqlite::{self, SqliteStore};
use super::version::StoreVersion;
use super::{AnyStore, OpenMode};
use crate::masked::masked;

/// A store's name, understood. Its text form is for people: a password in it is masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A Postgres database.
    Postgres(PostgresUrl),
}

/// Why a store cannot be opened, or its name means none.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// An SQLite file.
    #[error(transparent)]
    Sqlite(#[from] sqlite::OpenError),
    /// A Postgres database.
    #[error(transparent)]
    Postgres(#[from] postgres::OpenError),
    /// A URL of something else. The rest of it may have a password.
    #[error("no store is called {scheme}://...: a store is a path, sqlite:PATH or postgres://USER@HOST/DATABASE")]
    Scheme {
        /// What stands before `://`.
        scheme: String,
    },
    /// The form that Postgres' own programs take. It may have a password.
    #[error(
        "a store on Postgres is named postgres://USER:PASSWORD@HOST:PORT/DATABASE, without quotes and not as KEY=VALUE words; a file whose \
         name looks like that is named ./NAME"
    )]
    NotAUrl,
}

impl FromStr for StoreUrl {
    type Err = OpenError;

    fn from_str(name: &str) -> Result<Self, OpenError> {
        if PostgresUrl::SCHEMES.iter().any(|scheme| name.starts_with(scheme)) {
            return Ok(Self::Postgres(PostgresUrl(name.to_owned())));
        }
        if let Some(refused) = of_a_server(name) {
            return Err(refused);
        }
        Ok(Self::Sqlite(sqlite::path_of(name)?))
    }
}

/// What is wrong with a name that is meant for a server, and no path: taken for one, it would be shown, with its password.
fn of_a_server(name: &str) -> Option<OpenError> {
    // Said to be a path.
    if ["/", "./", "../", "sqlite:"].iter().any(|begin| name.starts_with(begin)) && !name.starts_with("//") {
        return None;
    }
    if let Some((scheme, _)) = name.split_once("://") {
        let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        let scheme = scheme.to_owned();
        return Some(if is_scheme { OpenError::Scheme { scheme } } else { OpenError::NotAUrl });
    }
    let lower = name.to_ascii_lowercase();
    let is_cut_scheme = ["postgres:", "postgresql:"].iter().any(|begin| lower.starts_with(begin));
    let has_user = lower.split_once(':').is_some_and(|(_, behind)| behind.contains('@'));
    // KEY=VALUE words, in whatever spelling.
    let keys = lower
        .split('=')
        .filter_map(|text| text.trim_end().rsplit([' ', '\t', '\n', ';', ',', '&', '?', '\'', '"']).next());
    let is_words =
        lower.contains('=') && keys.into_iter().any(|key| key == "host" || key == "pwd" || key.ends_with("password"));
    (is_cut_scheme || has_user || is_words).then_some(OpenError::NotAUrl)
}

impl StoreUrl {
    /// Opens the store.
    ///
    /// # Errors
    ///
    /// Where there is none, or it cannot be used.
    pub async fn open(&self, mode: OpenMode) -> Result<AnyStore, OpenError> {
        match self {
            Self::Sqlite(path) => Ok(SqliteStore::open(path, mode).await?.into()),
            Self::Postgres(url) => {
                let options = url.with_password().parse().map_err(postgres::OpenError::Url)?;
                Ok(PostgresStore::open(options, mode).await?.into())
            }
        }
    }

    /// Looks at the store and at what is around it, and changes nothing. It never fails: what cannot be looked at is told.
    pub async fn examine(&self) -> StoreFacts {
        match self {
            Self::Sqlite(path) => StoreFacts::Sqlite(Box::new(sqlite::examine::examine(path).await)),
            Self::Postgres(url) => {
                StoreFacts::Postgres(Box::new(postgres::examine::examine(url.with_password()).await))
            }
        }
    }

    /// The version of the store's tables, and what is to be done to them. Changes nothing.
    ///
    /// # Errors
    ///
    /// Where there is no store, or it can neither be used nor brought up to date: a newer program has moved it.
    pub async fn version(&self) -> Result<StoreVersion, OpenError> {
        match self {
            Self::Sqlite(path) => Ok(sqlite::version_of(path).await?),
            Self::Postgres(url) => {
                let options = url.with_password().parse().map_err(postgres::OpenError::Url)?;
                Ok(PostgresStore::version(options).await?)
            }
        }
    }

    /// The files of this machine that the store consists of, be they there or not: nothing else may be written to them.
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Sqlite(path) => sqlite::files_of(path),
            Self::Postgres(_) => Vec::new(),
        }
    }

    /// The name that means this store to another process: with the password, so it goes through a pipe, not on a command line.
    pub fn argument(&self) -> OsString {
        match self {
            Self::Sqlite(path) => {
                let bare = path.to_str().is_none_or(|name| name.parse().is_ok_and(|parsed: Self| parsed == *self));
                let mut argument = OsString::from(if bare { "" } else { "sqlite://" });
                argument.push(path);
                argument
            }
            Self::Postgres(url) => url.with_password().into(),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => path.display().fmt(f),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

/// The URL of a Postgres database. Both its text form and its debug form mask the password.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl PostgresUrl {
    const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

    /// The URL as it was given, to connect with.
    pub fn with_password(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_url_of_something_else_is_no_path_and_shows_no_password() {
        for name in ["postgre://u:secret@host/d", "mysql://u:secret@host/d", "POSTGRES://u:secret@host/d"] {
            let error = name.parse::<StoreUrl>().expect_err(name).to_string();
            assert!(error.contains("postgres://USER@HOST") && !error.contains("secret"), "{error}");
        }
        for name in ["host=localhost password=secret", "postgres:u:secret@h", "PostgreSQL:secret"] {
            let error = name.parse::<StoreUrl>().expect_err(name).to_string();
            assert!(error.contains("postgres://USER") && !error.contains("secret"), "{error}");
        }
        assert!("dir://x/rows.db".parse::<StoreUrl>().is_err());
        assert!(matches!("./a://b".parse(), Ok(StoreUrl::Sqlite(_))));
    }

    #[test]
    fn a_name_means_one_store() {
        for (name, path) in [
            ("rows.db", "rows.db"),
            ("dir/rows.db", "dir/rows.db"),
            ("sqlite:rows.db", "rows.db"),
            ("sqlite://rows.db", "rows.db"),
            ("sqlite:///dir/rows.db", "/dir/rows.db"),
        ] {
            assert_eq!(name.parse::<StoreUrl>().unwrap(), StoreUrl::Sqlite(path.into()), "{name}");
        }
        for name in ["postgres://host/rows", "postgresql://u:p@host:5432/rows?sslmode=require"] {
            let StoreUrl::Postgres(url) = name.parse().unwrap() else { panic!("{name}") };
            assert_eq!(url.with_password(), name);
        }
        for name in ["", "sqlite:", ":memory:"] {
            name.parse::<StoreUrl>().unwrap_err();
        }
    }

    #[test]
    fn an_argument_means_the_same_store_again() {
        for path in ["rows.db", "/dir/rows.db", "//dir/rows.db", "sqlite:rows.db", "postgres://u:p@host/rows"] {
            let url = StoreUrl::Sqlite(Path::new(path).to_owned());
            let argument = url.argument();
            assert_eq!(argument.to_str().unwrap().parse::<StoreUrl>().unwrap(), url, "{path}");
        }
        assert_eq!(StoreUrl::Sqlite("rows.db".into()).argument(), "rows.db");
        let postgres = "postgres://u:p@host/rows";
        assert_eq!(postgres.parse::<StoreUrl>().unwrap().argument(), postgres);
    }

    #[test]
    fn passwords_are_masked() {
        for (name, shown) in [
            ("postgres://host/rows", "postgres://host/rows"),
            ("postgres://u@host/rows", "postgres://u@host/rows"),
            ("postgres://u:secret@host:5432/rows", "postgres://u:***@host:5432/rows"),
            ("postgres://u:top@secret@host/rows", "postgres://u:***@host/rows"),
            ("postgres://u:top/secret@host/rows", "postgres://***"),
            ("postgres://host/rows?password=top@secret", "postgres://***"),
            ("postgresql://host?user=u&password=secret&port=1", "postgresql://host?user=u&password=***&port=1"),
            ("postgres://u:@host/rows?sslpassword=secret", "postgres://u:***@host/rows?sslpassword=***"),
            ("postgres://u:secret/rows", "postgres://u:***/rows"),
            ("postgres://host/rows#secret", "postgres://host/rows#***"),
            ("postgres://host/rows?secret&user=u", "postgres://host/rows?***&user=u"),
            ("postgres://[::1]:5432/rows", "postgres://[::1]:5432/rows"),
            ("postgres://[::1]/rows", "postgres://[::1]/rows"),
        ] {
            let url: StoreUrl = name.parse().unwrap();
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("secret"), "{url:?}");
        }
    }
}
