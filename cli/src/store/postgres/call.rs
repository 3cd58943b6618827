//! One statement: a call of one of the store's functions, with its arguments.

use std::borrow::Cow;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row};

/// A value for a function.
#[derive(Debug, Clone)]
pub(super) enum Arg<'a> {
    Int(Option<i64>),
    Small(i32),
    Bool(bool),
    Text(Option<Cow<'a, str>>),
    Ints(Option<Vec<i64>>),
    Smalls(Vec<i32>),
    Tinies(Vec<i16>),
    Texts(Vec<Cow<'a, str>>),
}

impl From<i64> for Arg<'_> {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl From<Option<i64>> for Arg<'_> {
    fn from(value: Option<i64>) -> Self {
        Self::Int(value)
    }
}

impl From<i32> for Arg<'_> {
    fn from(value: i32) -> Self {
        Self::Small(value)
    }
}

impl From<bool> for Arg<'_> {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl<'a> From<&'a str> for Arg<'a> {
    fn from(value: &'a str) -> Self {
        Self::Text(Some(super::codec::storable(value)))
    }
}

impl<'a> From<Option<&'a str>> for Arg<'a> {
    fn from(value: Option<&'a str>) -> Self {
        Self::Text(value.map(super::codec::storable))
    }
}

impl From<String> for Arg<'_> {
    fn from(value: String) -> Self {
        Self::Text(Some(value.into()))
    }
}

impl From<Vec<i64>> for Arg<'_> {
    fn from(value: Vec<i64>) -> Self {
        Self::Ints(Some(value))
    }
}

impl From<Option<Vec<i64>>> for Arg<'_> {
    fn from(value: Option<Vec<i64>>) -> Self {
        Self::Ints(value)
    }
}

impl From<Vec<i32>> for Arg<'_> {
    fn from(value: Vec<i32>) -> Self {
        Self::Smalls(value)
    }
}

impl From<Vec<i16>> for Arg<'_> {
    fn from(value: Vec<i16>) -> Self {
        Self::Tinies(value)
    }
}

impl<'a> From<Vec<Cow<'a, str>>> for Arg<'a> {
    fn from(value: Vec<Cow<'a, str>>) -> Self {
        Self::Texts(value)
    }
}

/// A function and its arguments in order.
#[derive(Debug, Clone)]
pub(super) struct Call<'a> {
    function: &'static str,
    args: Vec<Arg<'a>>,
}

impl<'a> Call<'a> {
    pub(super) fn new(function: &'static str) -> Self {
        Self { function, args: Vec::new() }
    }

    pub(super) fn arg(mut self, arg: impl Into<Arg<'a>>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// How many bytes of text its arguments have.
    pub(super) fn text_bytes(&self) -> usize {
        let bytes = |arg: &Arg<'_>| match arg {
            Arg::Text(Some(text)) => text.len(),
            Arg::Texts(texts) => texts.iter().map(|text| text.len()).sum(),
            _ => 0,
        };
        self.args.iter().map(bytes).sum()
    }

    /// Runs it as a statement of its own. `prepared`: the connection is one session of the server, which knows the
    /// statement from the second time on. Otherwise all of it goes as one text, since a pooler may hand the connection on
    /// between preparing and executing.
    pub(super) async fn run(
        self,
        conn: &mut PgConnection,
        schema: &str,
        prepared: bool,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        if prepared {
            let places: Vec<String> = (1..=self.args.len()).map(|place| format!("${place}")).collect();
            let sql = format!("select * from \"{schema}\".{}({})", self.function, places.join(", "));
            let query = self.args.into_iter().fold(sqlx::query(AssertSqlSafe(sql)), bind);
            return query.fetch_all(conn).await;
        }
        let values: Vec<String> = self.args.iter().map(literal).collect();
        let sql = format!("select * from \"{schema}\".{}({})", self.function, values.join(", "));
        sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(conn).await
    }
}

fn bind<'q>(query: Query<'q, Postgres, PgArguments>, arg: Arg<'q>) -> Query<'q, Postgres, PgArguments> {
    match arg {
        Arg::Int(value) => query.bind(value),
        Arg::Small(value) => query.bind(value),
        Arg::Bool(value) => query.bind(value),
        Arg::Text(value) => query.bind(value),
        Arg::Ints(values) => query.bind(values),
        Arg::Smalls(values) => query.bind(values),
        Arg::Tinies(values) => query.bind(values),
        Arg::Texts(values) => query.bind(values),
    }
}

/// The value as SQL.
fn literal(arg: &Arg<'_>) -> String {
    fn array<T: ToString>(values: &[T], of: &str) -> String {
        let values: Vec<String> = values.iter().map(T::to_string).collect();
        format!("array[{}]::{of}[]", values.join(","))
    }
    match arg {
        Arg::Int(Some(value)) => format!("{value}::bigint"),
        Arg::Int(None) => "null::bigint".to_owned(),
        Arg::Small(value) => format!("{value}::integer"),
        Arg::Bool(value) => value.to_string(),
        Arg::Text(Some(value)) => quoted(value),
        Arg::Text(None) => "null::text".to_owned(),
        Arg::Ints(Some(values)) => array(values, "bigint"),
        Arg::Ints(None) => "null::bigint[]".to_owned(),
        Arg::Smalls(values) => array(values, "integer"),
        Arg::Tinies(values) => array(values, "smallint"),
        Arg::Texts(values) => {
            let values: Vec<String> = values.iter().map(|value| quoted(value)).collect();
            array(&values, "text")
        }
    }
}

/// A string as SQL, whatever the session says of backslashes.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 3);
    quoted.push_str("E'");
    for c in text.chars() {
        if matches!(c, '\'' | '\\') {
            quoted.push(c);
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}

/// How many bytes the values of a reply have.
pub(super) fn reply_bytes(rows: &[PgRow]) -> usize {
    let of_row = |row: &PgRow| -> usize {
        let bytes = |at| row.try_get_raw(at).ok().and_then(|value| value.as_bytes().ok()).map_or(0, <[u8]>::len);
        (0..row.len()).map(bytes).sum()
    };
    rows.iter().map(of_row).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_texts_are_counted() {
        let call = Call::new("f").arg("abc").arg(7i64).arg(None::<&str>).arg(vec![Cow::Borrowed("de"), "f".into()]);
        assert_eq!(call.text_bytes(), 6);
    }

    #[test]
    fn literals_are_quoted() {
        assert_eq!(literal(&"it's a \\ \"thing\"".into()), r#"E'it''s a \\ "thing"'"#);
        assert_eq!(literal(&vec![1i64, -2].into()), "array[1,-2]::bigint[]");
        assert_eq!(literal(&vec![Cow::Borrowed("a'"), Cow::Borrowed("")].into()), "array[E'a''',E'']::text[]");
        assert_eq!(literal(&None::<i64>.into()), "null::bigint");
        assert_eq!(literal(&Vec::<i16>::new().into()), "array[]::smallint[]");
    }
}
