//! The lines that go to a child and come from it.

use std::borrow::Cow;
use std::fmt;
use std::io::Write as _;

use serde::Deserialize;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::handler::command::output::too_large;
use crate::handler::{HandlerAnswer, Row};
use crate::input::check_json;

/// How much of an error is kept, in bytes.
const ERROR_BYTES: usize = 16 << 10;

/// Which run of which row: a token is of one batch only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RowKey {
    pub(super) line: u64,
    pub(super) token: u64,
}

impl RowKey {
    pub(super) fn of(row: &Row) -> Self {
        Self { line: row.line, token: row.token.0 }
    }
}

/// Appends a row's line.
pub(super) fn write_row(out: &mut Vec<u8>, row: &Row) {
    let (batch, line, token) = (row.batch, row.line, row.token.0);
    // Writing to memory does not fail.
    _ = write!(
        out,
        r#"{{"batch":"{batch}","line":{line},"attempt":{},"token":{token},"key":"{batch}:{line}","input":"#,
        row.attempt
    );
    let input_at = out.len();
    out.extend_from_slice(row.input.as_bytes());
    for byte in &mut out[input_at..] {
        // In JSON a line end can only be space between values, but here it would end the row; to some readers, CR is one.
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    out.extend_from_slice(b"}\n");
}

/// What could be read of a child's line: of a broken one, what comes before the break.
#[derive(Debug, Default)]
pub(super) struct Answer<'a> {
    line: Option<&'a RawValue>,
    token: Option<&'a RawValue>,
    status: Option<&'a RawValue>,
    result: Option<&'a RawValue>,
    error: Option<&'a RawValue>,
    broken: Option<String>,
}

impl<'a> Answer<'a> {
    /// Reads a line, as far as that goes.
    pub(super) fn read(line: &'a [u8]) -> Self {
        let mut answer = Self::default();
        let mut reader = serde_json::Deserializer::from_slice(line);
        let read = reader.deserialize_map(&mut answer).and_then(|()| reader.end());
        answer.broken = read.err().map(|error| error.to_string());
        answer
    }

    /// The row that is answered, if the line says.
    pub(super) fn key(&self) -> Option<RowKey> {
        let number = |value: Option<&RawValue>| value.and_then(|value| value.get().parse().ok());
        Some(RowKey { line: number(self.line)?, token: number(self.token)? })
    }

    /// What it says of the row.
    pub(super) fn verdict(&self, result_limit: usize) -> HandlerAnswer {
        if let Some(error) = &self.broken {
            return failed(format!("the stream child's answer is not JSON as it should be: {error}"));
        }
        let status = self.status.map(|status| unescaped(status.get()));
        match status.as_deref() {
            Some(r#""success""#) => self.success(result_limit),
            Some(r#""failed""#) => HandlerAnswer::Failed(self.error("failed, the stream child says")),
            Some(r#""retry""#) => HandlerAnswer::Retry(self.error("to be tried again, the stream child says")),
            Some(other) => failed(format!(
                "the stream child answered with the status {}: it must be \"success\", \"failed\" or \"retry\"",
                cut(other, 100)
            )),
            None => failed("the stream child answered without a status".into()),
        }
    }

    fn success(&self, limit: usize) -> HandlerAnswer {
        let result = self.result.map_or("null", RawValue::get);
        if result.len() > limit {
            return failed(too_large(limit));
        }
        match check_json(result) {
            Ok(()) => HandlerAnswer::Success(result.into()),
            Err(fault) => failed(format!("the result cannot be kept: {fault}")),
        }
    }

    /// The error's text, or else `what`. Whatever is no text is given as JSON.
    fn error(&self, what: &str) -> Box<str> {
        let Some(raw) = self.error.map(RawValue::get) else { return what.into() };
        let text = serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_owned());
        // No store keeps NUL in text.
        cut(&text, ERROR_BYTES).replace('\0', "\u{fffd}").into()
    }
}

/// A word as JSON has it at its shortest: any letter may be written as an escape.
fn unescaped(word: &str) -> Cow<'_, str> {
    let plain = || serde_json::from_str::<String>(word).ok().and_then(|word| serde_json::to_string(&word).ok());
    if word.contains('\\') { plain().map_or(Cow::Borrowed(word), Cow::Owned) } else { Cow::Borrowed(word) }
}

fn failed(error: String) -> HandlerAnswer {
    HandlerAnswer::Failed(error.into())
}

/// At most so many bytes of a text, whole characters only.
pub(super) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Field {
    Line,
    Token,
    Status,
    Result,
    Error,
    #[serde(other)]
    Other,
}

impl<'a> Visitor<'a> for &mut Answer<'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(field) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            match field {
                Field::Line => self.line = Some(value),
                Field::Token => self.token = Some(value),
                Field::Status => self.status = Some(value),
                Field::Result => self.result = Some(value),
                Field::Error => self.error = Some(value),
                Field::Other => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fencepost_core::{BatchId, Token};
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const SEVEN: RowKey = RowKey { line: 7, token: 31 };

    fn verdict(line: &str) -> HandlerAnswer {
        let answer = Answer::read(line.as_bytes());
        assert_eq!(answer.key(), Some(SEVEN), "{line}");
        answer.verdict(100)
    }

    fn error(answer: HandlerAnswer) -> Box<str> {
        match answer {
            HandlerAnswer::Failed(error) => error,
            other => panic!("not failed but {other:?}"),
        }
    }

    #[test]
    fn a_row_is_one_line_of_json() {
        let input = "{\"a\":\n 1.0}".into();
        let row = Row { batch: BatchId::from_random(7), line: 7, attempt: 2, token: Token(31), input };
        let mut out = Vec::new();
        write_row(&mut out, &row);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.find('\n'), Some(text.len() - 1));
        assert!(text.contains(r#""input":{"a":  1.0}}"#), "{text}");
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&read["line"], &read["attempt"], &read["token"]), (&7.into(), &2.into(), &31.into()));
        assert_eq!(read["key"], row.idempotency_key());
        assert_eq!(read["batch"], row.batch.to_string());
    }

    #[test]
    fn answers_are_taken_in_any_order_and_with_more_than_is_asked_for() {
        let success = |result: &str| HandlerAnswer::Success(result.into());
        for (line, expected) in [
            (r#"{"line":7,"token":31,"status":"success","result":{"a": 1.0}}"#, success(r#"{"a": 1.0}"#)),
            (r#" {"status":"success","result":[ 1 ],"x":{},"token":31,"line":7} "#, success("[ 1 ]")),
            (r#"{"line":7,"token":31,"status":"success"}"#, success("null")),
            (r#"{"line":7,"token":31,"status":"success","result":null}"#, success("null")),
            (r#"{"line":7,"token":31,"status":"failed","error":"a\nb"}"#, HandlerAnswer::Failed("a\nb".into())),
            (r#"{"line":7,"token":31,"status":"retry","error":{"c":1}}"#, HandlerAnswer::Retry(r#"{"c":1}"#.into())),
            (r#"{"line":7,"token":31,"status":"retry","error":"a\u0000"}"#, HandlerAnswer::Retry("a\u{fffd}".into())),
        ] {
            assert_eq!(verdict(line), expected, "{line}");
        }
    }

    #[test]
    fn a_wrong_answer_fails_its_row() {
        for (line, part) in [
            (r#"{"line":7,"token":31,"status":"done"}"#, "\"done\""),
            (r#"{"line":7,"token":31}"#, "without a status"),
            (r#"{"line":7,"token":31,"status":"success","result":NaN}"#, "not JSON"),
            (r#"{"line":7,"token":31,"status":"success"} x"#, "not JSON"),
            (r#"{"line":7,"token":31,"status":"success","result":"\u0000"}"#, "NUL"),
            (r#"{"line":7,"token":31,"status":"success","result":"\ud800"}"#, "surrogate"),
        ] {
            assert!(error(verdict(line)).contains(part), "{line}");
        }
        let large = format!(r#"{{"line":7,"token":31,"status":"success","result":"{}"}}"#, "x".repeat(99));
        assert!(error(verdict(&large)).contains("100 bytes"));
    }

    #[test]
    fn a_line_without_a_row_is_of_no_row() {
        for line in
            ["", "hello", "[]", "7", "{}", r#"{"line":7}"#, r#"{"line":"7","token":31}"#, r#"{"line":-7,"token":31}"#]
        {
            assert_eq!(Answer::read(line.as_bytes()).key(), None, "{line}");
        }
        assert_eq!(Answer::read(b"{\"line\":7,\"token\":\xff31}").key(), None);
    }

    /// What is of no meaning here need only be JSON, as all know it; what is kept must be readable for everybody.
    #[test]
    fn half_a_surrogate_pair_counts_where_it_is_kept() {
        let other = Answer::read(br#"{"line":7,"token":31,"status":"success","note":"\ude00"}"#);
        assert_eq!(other.verdict(100), HandlerAnswer::Success("null".into()));
        let result = Answer::read(br#"{"line":7,"token":31,"status":"success","result":"\ude00"}"#);
        assert!(matches!(result.verdict(100), HandlerAnswer::Failed(_)));
    }

    /// A line near a good one: some of its bytes are others, or it is cut, or has more behind it.
    fn line() -> impl Strategy<Value = Vec<u8>> {
        let good = prop::sample::select(vec![
            r#"{"line":7,"token":31,"status":"success","result":{"a":[1,"x"]}}"#,
            r#"{"line":7,"token":31,"status":"\u0073uccess","result":"\ud83d\ude00"}"#,
            r#"{"line":7,"line":8,"token":31,"status":"retry","error":"later"}"#,
            r#"{"status":"failed","error":{"a":"\u0000"},"tok\u0065n":31,"line":18446744073709551615}"#,
        ]);
        let byte = prop::sample::select(b"\0\"}{[],:\\\xff\xc3 019eu-".to_vec());
        let changes = prop::collection::vec((any::<Index>(), byte), 0..3);
        let deep = prop_oneof![9 => Just(0_usize), 1 => 100..20_000_usize];
        (good, changes, prop::option::of(any::<Index>()), deep).prop_map(|(good, changes, cut, deep)| {
            let mut line = good.replace(r#""x""#, &format!("{}{}", "[".repeat(deep), "]".repeat(deep))).into_bytes();
            for (at, byte) in changes {
                let at = at.index(line.len());
                line[at] = byte;
            }
            if let Some(cut) = cut {
                line.truncate(cut.index(line.len()));
            }
            line
        })
    }

    proptest! {
        /// What a reader of all of JSON makes of a line is what is made of it here; what it cannot read is no success.
        #[test]
        fn a_spoiled_line_is_no_success_and_a_good_one_means_what_it_says(line in line()) {
            let answer = Answer::read(&line);
            let verdict = answer.verdict(1 << 20);
            let Ok(value) = serde_json::from_slice::<serde_json::Value>(&line) else {
                let too_deep_for_it = line.len() > 120;
                if let (HandlerAnswer::Success(kept), false) = (&verdict, too_deep_for_it) {
                    // Half a surrogate pair, in a member that means nothing here.
                    prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&line).is_ok(), "{kept}");
                    prop_assert!(serde_json::from_str::<serde_json::Value>(kept).is_ok(), "{kept}");
                }
                return Ok(());
            };
            let key = value["line"].as_u64().zip(value["token"].as_u64()).map(|(line, token)| RowKey { line, token });
            prop_assert_eq!(answer.key(), key);
            let result = value["result"].to_string();
            match verdict {
                HandlerAnswer::Success(kept) => {
                    prop_assert_eq!(value["status"].as_str(), Some("success"));
                    prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&kept).unwrap(), value["result"].clone());
                    prop_assert!(!result.contains("\\u0000"));
                }
                HandlerAnswer::Retry(error) => {
                    prop_assert_eq!(value["status"].as_str(), Some("retry"));
                    prop_assert!(!error.contains('\0'));
                }
                HandlerAnswer::Failed(error) => {
                    prop_assert!(value["status"] != "retry" && !error.is_empty() && !error.contains('\0'));
                    prop_assert!(value["status"] != "success" || check_json(&result).is_err(), "{error}");
                }
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
