//! `{column}` in an argument.
//!
//! A placeholder is a *plain name* in single braces: a letter or `_`, then letters, digits, `_`, `.`, `-` and spaces
//! (all ASCII). Everything else in an argument stays as it is, so programs for awk, jq or the shell pass unharmed:
//!
//! | in the argument | is | why |
//! |---|---|---|
//! | `{id}` | the row's `id` | a placeholder |
//! | `{{id}}` | `{id}` | two or more braces on both sides: one pair is taken off |
//! | `{"n":{n}}` | `{"n":` the row's `n` `}` | the outer braces hold no plain name |
//! | `{}`, `{print $1}`, `{"a":1}`, `{a,b}`, `{{.Names}}` | the same | no plain name |
//! | `${id}` | `${id}` | a shell's variable |

use std::ffi::{OsStr, OsString};
use std::fmt;

use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// How many columns an error names.
const COLUMNS_NAMED: usize = 40;

/// One argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Argument {
    Fixed(OsString),
    Template { source: String, pieces: Vec<Piece> },
}

/// A part of an argument with placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    Column(String),
}

impl Argument {
    /// Reads an argument. One that is no UTF-8 has no placeholders.
    pub(super) fn parse(argument: &OsStr) -> Self {
        let Some(source) = argument.to_str() else { return Self::Fixed(argument.to_owned()) };
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find('{') {
            let (before, braces) = rest.split_at(at);
            text.push_str(before);
            let name_and_on = braces.trim_start_matches('{');
            let (name, after) = name_and_on.split_at(plain_name(name_and_on));
            let on = after.trim_start_matches('}');
            let (open, close) = (braces.len() - name_and_on.len(), after.len() - on.len());
            let escaped = open > 1 && close > 1;
            if name.is_empty() || close == 0 || before.ends_with('$') {
                text.push_str(&braces[..braces.len() - on.len()]);
            } else {
                text.push_str(&braces[..open - 1]);
                if escaped {
                    text.push_str(name);
                } else {
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(Piece::Column(name.to_owned()));
                }
                text.push_str(&after[..close - 1]);
            }
            rest = on;
        }
        text.push_str(rest);
        if pieces.is_empty() {
            return Self::Fixed(text.into());
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        Self::Template { source: source.to_owned(), pieces }
    }

    /// The columns it names.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        let pieces = match self {
            Self::Fixed(_) => &[],
            Self::Template { pieces, .. } => pieces.as_slice(),
        };
        pieces.iter().filter_map(|piece| match piece {
            Piece::Text(_) => None,
            Piece::Column(name) => Some(name.as_str()),
        })
    }
}

/// The length of the plain name a text begins with: 0 where it begins with none.
fn plain_name(text: &str) -> usize {
    if !text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_') {
        return 0;
    }
    let is_part = |part: char| part.is_ascii_alphanumeric() || matches!(part, '_' | ' ' | '.' | '-');
    text.find(|part| !is_part(part)).unwrap_or(text.len())
}

/// The arguments for a row, or what is wrong with the row.
pub(super) fn fill(arguments: &[Argument], input: &str) -> Result<Vec<OsString>, String> {
    // Read once, and only where it is needed.
    let mut columns = None;
    let mut filled = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let (source, pieces) = match argument {
            Argument::Fixed(text) => {
                filled.push(text.clone());
                continue;
            }
            Argument::Template { source, pieces } => (source, pieces),
        };
        let columns = match &columns {
            Some(columns) => columns,
            None => columns.insert(
                read_columns(input)
                    .map_err(|what| format!("the argument `{source}` takes a column's value, but this row {what}"))?,
            ),
        };
        let mut text = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(fixed) => text.push_str(fixed),
                Piece::Column(name) => text.push_str(&value(columns, name, source)?),
            }
        }
        filled.push(text.into());
    }
    Ok(filled)
}

fn value(columns: &[(String, &RawValue)], name: &str, source: &str) -> Result<String, String> {
    // The last of two of the same name, as most readers of JSON have it.
    let Some((_, raw)) = columns.iter().rev().find(|(column, _)| column == name) else {
        let mut named: Vec<&str> = columns.iter().take(COLUMNS_NAMED).map(|(column, _)| column.as_str()).collect();
        if columns.len() > COLUMNS_NAMED {
            named.push("...");
        }
        let named = if named.is_empty() { "there are none".into() } else { format!("it has {}", named.join(", ")) };
        return Err(format!(
            "the argument `{source}` names the column `{name}`, which this row does not have: {named} (if the braces \
             are meant as they are, write {{{{{name}}}}})"
        ));
    };
    let raw = raw.get();
    if !raw.starts_with('"') {
        return Ok(raw.to_owned());
    }
    let text: String = serde_json::from_str(raw)
        .map_err(|error| format!("the column `{name}` cannot be put into the argument `{source}`: {error}"))?;
    if text.contains('\0') {
        return Err(format!("the column `{name}` holds a NUL byte, which no argument can: `{source}`"));
    }
    Ok(text)
}

/// The columns of a row in their order, or what the row is instead.
fn read_columns(input: &str) -> Result<Vec<(String, &RawValue)>, String> {
    let what = match input.trim_start().as_bytes().first() {
        Some(b'{') => {
            let mut reader = serde_json::Deserializer::from_str(input);
            return reader.deserialize_map(Columns).map_err(|error| format!("cannot be read: {error}"));
        }
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        _ => "a number",
    };
    Err(format!("is {what}, and only an object has columns"))
}

/// Reads an object and keeps its values' text: numbers must not change on their way through a float.
struct Columns;

impl<'a> Visitor<'a> for Columns {
    type Value = Vec<(String, &'a RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut columns = Vec::new();
        while let Some(column) = map.next_entry()? {
            columns.push(column);
        }
        Ok(columns)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn filled(argument: &str, input: &str) -> Result<String, String> {
        let filled = fill(&[Argument::parse(OsStr::new(argument))], input)?;
        Ok(filled[0].to_str().unwrap().to_owned())
    }

    const ROW: &str =
        r#"{"id":7,"name":"Ada \"L\"","a b.c-d":"x","big":12345678901234567890.10,"none":null,"o":{"p": [1]}}"#;

    #[test]
    fn columns_take_the_place_of_their_names() {
        for (argument, expected) in [
            ("{id}", "7"),
            ("--name={name}!", "--name=Ada \"L\"!"),
            ("{id}{id}-{a b.c-d}", "77-x"),
            ("{big}", "12345678901234567890.10"),
            ("{none}", "null"),
            ("{o}", r#"{"p": [1]}"#),
            (r#"{"n":{id}}"#, r#"{"n":7}"#),
            (r#"{"n":{"m":{id}}}"#, r#"{"n":{"m":7}}"#),
            ("{{{id}", "{{7"),
        ] {
            assert_eq!(filled(argument, ROW).as_deref(), Ok(expected), "{argument}");
        }
    }

    #[test]
    fn other_braces_stay() {
        for same in [
            "",
            "{",
            "}",
            "{}",
            "{{}}",
            "{print $1}",
            r#"{"a":1}"#,
            r#"{"a":{"b":1}}"#,
            "{a,b}",
            "${id}",
            "${{id}}",
            "{{.Names}}",
            "{{ id }}",
            "{ id }",
            "{1}",
            "{id",
            "id}",
            "a{b:c}}",
            "{größe}",
            "x{id{",
            "\u{e9}{\u{e9}}",
        ] {
            assert_eq!(Argument::parse(OsStr::new(same)), Argument::Fixed(same.into()), "{same}");
        }
        assert_eq!(filled("{{id}}", ROW).as_deref(), Ok("{id}"));
        assert_eq!(filled("{{{id}}}", ROW).as_deref(), Ok("{{id}}"));
        assert_eq!(filled("{{{id}} {id}", ROW).as_deref(), Ok("{{id} 7"));
    }

    #[test]
    fn a_row_without_the_column_is_told_what_it_has() {
        let error = filled("--x={nope}", ROW).unwrap_err();
        for part in ["`nope`", "`--x={nope}`", "id, name, a b.c-d, big, none, o", "{{nope}}"] {
            assert!(error.contains(part), "{error}");
        }
        assert!(filled("{id}", "{}").unwrap_err().contains("there are none"));
        for (input, what) in
            [("[1]", "an array"), ("3", "a number"), ("\"x\"", "a string"), ("null", "null"), ("true", "true")]
        {
            assert!(filled("{id}", input).unwrap_err().contains(&format!("is {what}")), "{input}");
        }
        assert!(filled("{id}", r#"{"id":"a\u0000b"}"#).unwrap_err().contains("NUL"));
        assert!(filled("{id}", r#"{"id":"\ud800"}"#).unwrap_err().contains("cannot be put"));
        assert_eq!(filled("{id}", r#"{"id":1,"id":2}"#).as_deref(), Ok("2"));
    }

    #[test]
    fn without_placeholders_a_row_may_be_anything() {
        assert_eq!(filled("{}", "[1]").as_deref(), Ok("{}"));
    }
}
