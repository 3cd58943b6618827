//! Input that means harm, or none: each file of `cli/tests/corpus/input` through the command (a new case is one file: `taken-N-rows-...` or
//! `refused-at-line-N-...`), and rows that are drawn. `PROPTEST_CASES=10000` draws more.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{self, Cursor, Read};
use std::path::Path;

use fencepost::input::{Input, InputError, InputFormat, InputOptions, RowReader};
use fencepost::load;
use fencepost::store::loading::BatchSpec;
use fencepost::store::sqlite::SqliteStore;
use fencepost::store::{OpenMode, Reads};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

use self::support::corpus::{cases, draws};
use self::support::place::{Place, code, stderr};

#[allow(dead_code)]
mod support {
    pub mod corpus;
    pub mod place;
}

/// The number in a case's name: `taken-3-rows`, `refused-at-line-3`.
fn number(name: &str, before: &str) -> Option<u64> {
    let rest = name.strip_prefix(before)?;
    Some(rest.split('-').next().unwrap().parse().unwrap_or_else(|_| panic!("{name}: no number")))
}

#[test]
fn each_file_of_the_corpus_is_taken_whole_or_refused_by_its_line_with_nothing_left() {
    let place = Place::new();
    for case in cases("input") {
        let path = case.path.to_str().unwrap();
        let before = place.json(&["submit", "--rows", "0", "--json"]);
        let output = place.run(&["submit", path, "--json"]);
        let said = stderr(&output);
        if let Some(rows) = number(&case.name, "taken-") {
            assert_eq!(code(&output), 0, "{}: {said}", case.name);
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(answer["rows"], rows, "{}", case.name);
            let batch = answer["batch"].as_str().unwrap();
            let read: Vec<Value> = Input::open(&case.path, &InputOptions::default())
                .unwrap()
                .map(|row| serde_json::from_str(&row.unwrap()).unwrap_or(Value::Null))
                .collect();
            for line in place.ok(&["rows", batch, "--json"]).lines() {
                let row: Value = serde_json::from_str(line).unwrap();
                let at = usize::try_from(row["line"].as_u64().unwrap()).unwrap();
                // A number may be too large for whoever reads it, here and there.
                assert!(row["input"] == read[at - 1] || read[at - 1] == Value::Null, "{}: {line}", case.name);
            }
        } else {
            let line =
                number(&case.name, "refused-at-line-").unwrap_or_else(|| panic!("{}: taken or refused?", case.name));
            assert_eq!(code(&output), 8, "{}: {said}", case.name);
            let failure: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{}: {said}", case.name));
            let message = failure["message"].as_str().unwrap();
            assert!(message.starts_with(&format!("{path}: line {line} (byte offset ")), "{}: {message}", case.name);
            assert!(message.contains(';'), "{}: it says what to do: {message}", case.name);
            assert!(output.stdout.is_empty(), "{}", case.name);
            // All that is there is the empty batches that were made between.
            let batches = place.json(&["list", "--json"]);
            assert_eq!(batches["batches"][0]["id"], before["batch"], "{}", case.name);
        }
    }
    let store = place.file("state/fencepost/fencepost.db");
    let names = place.json(&["list", "--json"]);
    let rows: u64 = names["batches"].as_array().unwrap().iter().map(|batch| batch["rows"].as_u64().unwrap()).sum();
    assert_eq!(stored_rows(&store), rows, "no row of a refused file is left in the store");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn stored_rows(store: &Path) -> u64 {
    use sqlx::Connection;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(store);
    block_on(async {
        let mut raw = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
        let count: i64 = sqlx::query_scalar("select count(*) from rows").fetch_one(&mut raw).await.unwrap();
        u64::try_from(count).unwrap()
    })
}

/// Hands out pieces of these lengths, over and over.
struct Pieces<'a> {
    bytes: &'a [u8],
    lengths: &'a [usize],
    at: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let wanted = self.lengths[self.at % self.lengths.len()];
        self.at += 1;
        // As a signal does: it is no error.
        if wanted == 0 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = wanted.min(into.len()).min(self.bytes.len());
        into[..count].copy_from_slice(&self.bytes[..count]);
        self.bytes = &self.bytes[count..];
        Ok(count)
    }
}

fn read(bytes: &[u8], lengths: &[usize], format: InputFormat) -> (Vec<String>, Option<InputError>) {
    let mut rows = Vec::new();
    let reader = match RowReader::new(Pieces { bytes, lengths, at: 0 }, "rows", format, 1 << 20) {
        Ok(reader) => reader,
        Err(error) => return (rows, Some(error)),
    };
    for row in reader {
        match row {
            Ok(row) => rows.push(row.into()),
            Err(error) => return (rows, Some(error)),
        }
    }
    (rows, None)
}

/// Lengths of reads; some are interrupted.
fn lengths() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![Just(0_usize), 1_usize..9, Just(70_000)], 0..6).prop_map(|mut lengths| {
        lengths.push(5);
        lengths
    })
}

/// A value as this test writes it: the text it has in the file, and what it means. One in eight is longer than any buffer.
fn value() -> impl Strategy<Value = (String, String)> {
    let plain = "[a-z0-9é👩 \u{feff}\u{202e};\\\\'=]{1,8}".prop_map(|text| (text.clone(), text));
    // A quote further inside stands for itself.
    let lone_quote = "[a-z]{1,3}\"[a-z\"]{0,3}".prop_map(|text| (text.clone(), text));
    let quoted = "[a-z,\"\r\n\t é]{0,8}".prop_map(|text| (format!("\"{}\"", text.replace('"', "\"\"")), text));
    let long = (65_530_usize..65_545).prop_map(|length| ("é".repeat(length), "é".repeat(length)));
    prop_oneof![8 => plain, 4 => lone_quote, 8 => quoted, 1 => long]
}

/// What stands behind a row: a line end and blank lines, and how many lines that is.
fn line_ends() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["\n", "\r\n", "\r", "\n\n", "\r\n\r\n\n", "\r\r"])
}

/// How many lines a text takes, as an editor counts them that knows the three kinds of line ends outside quotes, and LF inside.
fn lines(text: &str) -> u64 {
    let text = text.replace("\r\n", "\n");
    text.matches(['\n', '\r']).count() as u64
}

fn object(values: &[(String, String)]) -> String {
    let entry = |(at, (_, meant)): (usize, &(String, String))| format!("\"c{at}\":{}", Value::from(meant.as_str()));
    format!("{{{}}}", values.iter().enumerate().map(entry).collect::<Vec<_>>().join(","))
}

/// What a row may be spoiled with, none of which any reader may take.
fn spoilers() -> impl Strategy<Value = &'static [u8]> {
    prop::sample::select(vec![
        &b"\0"[..],
        b"\xff",
        b"\xed\xa0\xbd",
        b"\xc0\xaf",
        b"1,2,3,4,5,6,7",
        b"\"x\"y",
        b"\"never closed",
    ])
}

proptest! {
    #![proptest_config(draws(64))]

    /// Written by hand, with every kind of line end: the same rows come back, whatever the reads; and with a bad row behind them they all come,
    /// and then an error that names its line.
    #[test]
    fn csv_rows_come_back_and_a_bad_one_is_named_by_its_line(
        rows in (1_usize..4).prop_flat_map(|width| prop::collection::vec((prop::collection::vec(value(), width), line_ends()), 1..6)),
        mark: bool,
        last_end: bool,
        spoiler in spoilers(),
        lengths in lengths(),
    ) {
        let width = rows[0].0.len();
        let header: Vec<String> = (0..width).map(|at| format!("c{at}")).collect();
        let mut text = format!("{}{}\n", if mark { "\u{feff}" } else { "" }, header.join(","));
        for (row, end) in &rows {
            text += &row.iter().map(|(written, _)| written.as_str()).collect::<Vec<_>>().join(",");
            text += end;
        }
        let expected: Vec<String> = rows.iter().map(|(row, _)| object(row)).collect();
        let good = if last_end { &text[..] } else { text.trim_end_matches(['\r', '\n']) };
        let (found, error) = read(good.as_bytes(), &lengths, InputFormat::CSV);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(&found, &expected);

        let bad = [text.as_bytes(), spoiler].concat();
        let (found, error) = read(&bad, &lengths, InputFormat::CSV);
        prop_assert_eq!(&found, &expected, "all rows before it");
        let quoted_cr: u64 = rows.iter().flat_map(|(row, _)| row).filter(|(written, _)| written.starts_with('"'))
            .map(|(written, _)| written.replace("\r\n", "\n").matches('\r').count() as u64).sum();
        let line = lines(&text) - quoted_cr + 1;
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        prop_assert!(error.starts_with(&format!("rows: line {line} (byte offset ")), "not line {line}: {error}");
    }

    /// The same for JSON lines: bytes are kept, blank lines count as lines and not as rows.
    #[test]
    fn json_rows_come_back_and_a_bad_one_is_named_by_its_line(
        rows in prop::collection::vec((prop::sample::select(vec![
            "1e999999", "-0.0000", "{\"a\":1,\"a\":2}", "\"\\ud83d\\ude00\"", "[[[[[[]]]]]]", "null", "\"\u{2028}\u{202e}\"", "{ }",
        ]), prop::sample::select(vec!["\n", "\r\n", "\n\n", " \n \t\n"])), 1..6),
        long in 0_usize..70_000,
        bad in prop::sample::select(vec![
            &b"{"[..], b"\"\\ud800\"", b"\"\\u0000\"", b"\"\t\"", b"\0", b"\"\xff\"", b"01", b"1 2", b"'a'", b"{\"a\":1,}", b"\x0b", b"\xef\xbb\xbf1",
        ]),
        lengths in lengths(),
    ) {
        let long = format!("\"{}\"", "x".repeat(long));
        let mut text = format!("{long}\n");
        for (row, end) in &rows {
            text += row;
            text += end;
        }
        let mut expected = vec![long];
        expected.extend(rows.iter().map(|(row, _)| (*row).to_owned()));
        let (found, error) = read(text.as_bytes(), &lengths, InputFormat::Jsonl);
        prop_assert!(error.is_none(), "{error:?}");
        prop_assert_eq!(&found, &expected);
        let (found, error) = read(&[text.as_bytes(), bad].concat(), &lengths, InputFormat::Jsonl);
        prop_assert_eq!(&found, &expected);
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        let line = text.matches('\n').count() + 1;
        prop_assert!(error.starts_with(&format!("rows: line {line} (byte offset ")), "not line {line}: {error}");
    }

    /// A good file with a few bytes changed, and whatever comes of it in a store: all rows that a reader finds, or an error and nothing.
    #[test]
    fn a_spoiled_file_is_loaded_whole_or_not_at_all(
        csv: bool,
        changes in prop::collection::vec((any::<Index>(), prop::sample::select(b"\0\"\n\r,\xff\x80{}[]\\u:1 ".to_vec())), 0..4),
        cut in prop::option::of(any::<Index>()),
    ) {
        let mut bytes = if csv { b"name,n\none,\"1\"\n\"t\"\"wo\",2\nthree,\"3\n3\"\n".to_vec() }
            else { b"{\"n\":1}\n[\"\\u00e9\",{\"a\":[2]}]\n\n3.0\n\"four\"\n".to_vec() };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let format = if csv { InputFormat::CSV } else { InputFormat::Jsonl };
        let (found, error) = read(&bytes, &[70_000], format);
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("rows.db");
        let (loaded, batches) = block_on(async {
            let opened = SqliteStore::open(&store, OpenMode::Create).await.unwrap();
            let loaded = match RowReader::new(Cursor::new(bytes.clone()), "rows", format, 1 << 20) {
                Ok(mut reader) => {
                    let spec = BatchSpec::new("default");
                    load::rows(&opened, spec, None, move || reader.next().transpose(), |_| {}).await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            (loaded, opened.batches().await.unwrap().len())
        });
        match error {
            None => {
                prop_assert_eq!(loaded.unwrap().rows, found.len() as u64);
                prop_assert_eq!(stored_rows(&store), found.len() as u64);
            }
            Some(error) => {
                prop_assert_eq!(loaded.unwrap_err(), error.to_string());
                prop_assert_eq!((stored_rows(&store), batches), (0, 0), "nothing is left of it");
                let of_a_place = error.to_string().starts_with("rows: line ");
                let of_the_whole = matches!(error, InputError::Empty { .. } | InputError::HeaderOnly { .. } | InputError::Utf16 { .. });
                prop_assert!(of_a_place || of_the_whole, "{error}");
            }
        }
    }
}
