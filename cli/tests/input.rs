//! Reading input files: what comes out of good ones, and what is said of bad ones.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use fencepost::input::{
    DEPTH_MAX, Digest, Input, InputError, InputFormat, InputOptions, JsonFault, RowReader, check_json, content_digest,
};
use flate2::Compression;
use flate2::write::GzEncoder;
use insta::assert_snapshot;
use proptest::prelude::*;

/// Hands out a few bytes at a time, as a pipe may.
struct Dribble<'a>(&'a [u8], usize);

impl Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.1.min(into.len()).min(self.0.len());
        let (now, later) = self.0.split_at(count);
        into[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

fn read_limited(bytes: impl AsRef<[u8]>, format: InputFormat, row_bytes_max: usize) -> Result<Vec<String>, InputError> {
    let bytes = bytes.as_ref();
    let collect = |step| -> Result<Vec<String>, InputError> {
        RowReader::new(Dribble(bytes, step), "rows", format, row_bytes_max)?.map(|row| row.map(String::from)).collect()
    };
    let (all, single) = (collect(usize::MAX), collect(1));
    let text = |rows: &Result<Vec<String>, InputError>| rows.as_ref().map_err(InputError::to_string).cloned();
    assert_eq!(text(&all), text(&single), "the same in whatever pieces the bytes come");
    all
}

fn read(bytes: impl AsRef<[u8]>, format: InputFormat) -> Result<Vec<String>, InputError> {
    read_limited(bytes, format, InputOptions::ROW_BYTES_MAX)
}

fn csv(bytes: impl AsRef<[u8]>) -> Vec<String> {
    read(bytes, InputFormat::CSV).unwrap()
}

fn jsonl(bytes: impl AsRef<[u8]>) -> Vec<String> {
    read(bytes, InputFormat::Jsonl).unwrap()
}

fn csv_error(bytes: impl AsRef<[u8]>) -> String {
    read(bytes, InputFormat::CSV).unwrap_err().to_string()
}

fn jsonl_error(bytes: impl AsRef<[u8]>) -> String {
    read(bytes, InputFormat::Jsonl).unwrap_err().to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A directory of files; messages about them leave its path out.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }

    fn rows(&self, path: &Path) -> Result<Vec<String>, InputError> {
        Input::open(path, &InputOptions::default())?.map(|row| row.map(String::from)).collect()
    }

    fn error(&self, path: &Path) -> String {
        let directory = format!("{}/", self.0.path().display());
        self.rows(path).unwrap_err().to_string().replace(&directory, "")
    }
}

#[test]
fn csv_rows_become_objects_of_strings_in_column_order() {
    assert_eq!(
        csv("zip,name,alt\n04103,Portland,12.50\n,\"a \"\"b\"\"\tc\",null\n"),
        [r#"{"zip":"04103","name":"Portland","alt":"12.50"}"#, r#"{"zip":"","name":"a \"b\"\tc","alt":"null"}"#]
    );
}

#[test]
fn csv_takes_any_line_ends_blank_lines_and_quoted_line_ends() {
    assert_eq!(csv("a,b\r\n1,2\r\n\r\n3,4"), [r#"{"a":"1","b":"2"}"#, r#"{"a":"3","b":"4"}"#]);
    assert_eq!(csv("a,b\r1,2\r3,4\r"), [r#"{"a":"1","b":"2"}"#, r#"{"a":"3","b":"4"}"#]);
    assert_eq!(csv("\n\na\n\n\"x\r\ny\"\n\"\"\n"), [r#"{"a":"x\r\ny"}"#, r#"{"a":""}"#]);
    assert_eq!(csv("a,b\n1,"), [r#"{"a":"1","b":""}"#]);
}

#[test]
fn csv_takes_a_quote_inside_a_plain_value() {
    assert_eq!(csv("a,b\n5\" pipe,x\"y\n"), [r#"{"a":"5\" pipe","b":"x\"y"}"#]);
}

#[test]
fn csv_takes_other_delimiters() {
    assert_eq!(read("a\tb\n1,5\t2\n", InputFormat::TSV).unwrap(), [r#"{"a":"1,5","b":"2"}"#]);
    assert_eq!(read("a;b\n1,5;2\n", InputFormat::Csv { delimiter: b';' }).unwrap(), [r#"{"a":"1,5","b":"2"}"#]);
}

#[test]
fn csv_shows_its_columns() {
    let input = RowReader::new("b,a\n1,2\n".as_bytes(), "rows", InputFormat::CSV, 100).unwrap();
    assert_eq!(input.columns(), Some(&["b".to_string(), "a".to_string()][..]));
    let input = RowReader::new("{}".as_bytes(), "rows", InputFormat::Jsonl, 100).unwrap();
    assert_eq!(input.columns(), None);
}

#[test]
fn json_lines_keep_their_bytes() {
    let rows = [
        r#"{ "b" : 1.50,  "a":[ ], "b":2 }"#,
        "123456789012345678901234567890.123456789012345678901234567890",
        "-1e999999",
        r#""\u00e9 \ud83d\ude00 é \\u0000 \\ud800""#,
        "null",
    ];
    assert_eq!(jsonl(rows.join("\n")), rows);
    assert_eq!(jsonl(format!(" \t{}\r\n\r\n  \n", rows.join(" \r\n\n\t"))), rows);
}

#[test]
fn a_byte_order_mark_is_dropped() {
    assert_eq!(csv("\u{feff}a\n1\n"), [r#"{"a":"1"}"#]);
    assert_eq!(csv("\u{feff}\"a\"\n1\n"), [r#"{"a":"1"}"#]);
    assert_eq!(jsonl("\u{feff}{}\n"), ["{}"]);
    // Only at the very start.
    assert_eq!(csv("\n\u{feff}a\n\u{feff}1\n"), ["{\"\u{feff}a\":\"\u{feff}1\"}"]);
}

#[test]
fn names_tell_the_format() {
    let format = |name| InputFormat::from_path(Path::new(name));
    for name in ["a.csv", "/x.y/A.CSV", "a.b.csv.gz"] {
        assert_eq!(format(name), Some(InputFormat::CSV), "{name}");
    }
    for name in ["a.jsonl", "a.ndjson", "a.jsonl.gz", "a.NDJSON.GZ"] {
        assert_eq!(format(name), Some(InputFormat::Jsonl), "{name}");
    }
    assert_eq!(format("a.tsv.gz"), Some(InputFormat::TSV));
    for name in ["a", "a.txt", "a.json", "a.gz", ".csv", ".csv.gz", "csv", "a.csv.zip", "a.csv/b"] {
        assert_eq!(format(name), None, "{name}");
    }
}

#[test]
fn files_are_read_plain_and_gzipped_by_their_bytes() {
    let files = Files::new();
    let rows = [r#"{"a":"1"}"#, r#"{"a":"2"}"#];
    let members = [gzip(b"a\n1"), gzip(b""), gzip(b"\n2\n")].concat();
    for (name, content) in [
        ("plain.csv", b"a\n1\n2\n".to_vec()),
        ("packed.csv.gz", gzip(b"a\n1\n2\n")),
        ("no_extension_for_gzip.csv", gzip(b"a\n1\n2\n")),
        ("unpacked_on_the_way.csv.gz", b"a\n1\n2\n".to_vec()),
        ("members.csv.gz", members),
    ] {
        assert_eq!(files.rows(&files.put(name, content)).unwrap(), rows, "{name}");
    }
    let lines = files.put("lines.ndjson.gz", gzip(b"\xef\xbb\xbf[1]\n\"x\""));
    assert_eq!(files.rows(&lines).unwrap(), ["[1]", "\"x\""]);
}

#[test]
fn the_format_option_wins_over_the_name() {
    let files = Files::new();
    let path = files.put("rows.txt", "a;b\n1;2\n");
    let format = InputFormat::Csv { delimiter: b';' };
    let mut input = Input::open(&path, &InputOptions { format: Some(format), ..InputOptions::default() }).unwrap();
    assert_eq!(input.format(), format);
    assert_eq!(input.name(), path.display().to_string());
    assert_eq!(input.columns().unwrap(), ["a", "b"]);
    assert_eq!(input.read_row().unwrap(), Some(r#"{"a":"1","b":"2"}"#));
    assert_eq!(input.read_row().unwrap(), None);
}

#[test]
fn the_first_line_tells_the_format_of_a_file_whose_name_does_not() {
    let files = Files::new();
    for (name, content, format) in [
        ("rows.txt", b"{\"a\":1}\n".to_vec(), InputFormat::Jsonl),
        ("rows", b"[1]\n".to_vec(), InputFormat::Jsonl),
        ("rows.json", b"{}\n".to_vec(), InputFormat::Jsonl),
        ("rows.gz", gzip(b"{}\n"), InputFormat::Jsonl),
        ("packed.txt", gzip(b"{}\n"), InputFormat::Jsonl),
        ("table.txt", b"a,b\n1,2\n".to_vec(), InputFormat::CSV),
        ("tabs.txt", b"a\tb\n1\t2\n".to_vec(), InputFormat::TSV),
        ("a_column_called_brace.csv", b"{\n1\n".to_vec(), InputFormat::CSV),
    ] {
        let input = Input::open(files.put(name, content), &InputOptions::default()).unwrap();
        assert_eq!(input.format(), format, "{name}");
        assert_eq!(input.count(), 1, "{name}");
    }
}

/// The first line decides where there is no name to go by: through a pipe, as standard input is one.
#[cfg(unix)]
#[test]
fn the_first_line_tells_the_format_of_a_pipe() {
    use std::os::fd::AsRawFd;
    let sniff = |content: &[u8]| {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(content).unwrap();
        drop(writer);
        let path = format!("/dev/fd/{}", reader.as_raw_fd());
        let input =
            Input::open(&path, &InputOptions::default()).map_err(|error| error.to_string().replace(&path, "pipe"))?;
        let format = input.format();
        let rows = input.collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string().replace(&path, "pipe"))?;
        Ok::<_, String>((format, rows.len()))
    };
    assert_eq!(sniff(b"\n  {\"a\":1}\n{}\n"), Ok((InputFormat::Jsonl, 2)));
    assert_eq!(sniff(b"\xef\xbb\xbf[1]"), Ok((InputFormat::Jsonl, 1)));
    assert_eq!(sniff(b"1e999\n\"x\"\n"), Ok((InputFormat::Jsonl, 2)));
    assert_eq!(sniff(b"null\n"), Ok((InputFormat::Jsonl, 1)));
    assert_eq!(sniff(b"\n\na,b\r\n1,2\r\n"), Ok((InputFormat::CSV, 1)));
    assert_eq!(sniff(b"\"a\",\"b\"\n1,2\n"), Ok((InputFormat::CSV, 1)));
    assert_eq!(sniff(b"true_name\n1\n"), Ok((InputFormat::CSV, 1)));
    assert_eq!(sniff(b"a b\tc\n1\t2\n"), Ok((InputFormat::TSV, 1)));
    assert_eq!(sniff(b"a\tb,c\n1,2\n"), Ok((InputFormat::CSV, 1)));
    assert_eq!(sniff(&gzip(b"{}\n")), Ok((InputFormat::Jsonl, 1)));
    // A row whose start alone is longer than what is looked at.
    assert_eq!(sniff(format!("[{}1]\n2", " ".repeat(50_000)).as_bytes()), Ok((InputFormat::Jsonl, 2)));
    assert_snapshot!(sniff(b"\"a\"\n\"b\"\n").unwrap_err(), @"pipe: the format is not clear; give it with --input-format (csv, tsv, jsonl), or name the file .csv, .tsv, .jsonl or .ndjson, each also with .gz");
    assert_snapshot!(sniff(b" \n\n").unwrap_err(), @"pipe: is empty; it needs at least one row");
    assert_snapshot!(sniff(b"").unwrap_err(), @"pipe: is empty; it needs at least one row");
    assert_snapshot!(sniff(b"{\"a\":}\n").unwrap_err(), @"pipe: line 1 (byte offset 5), column 6: is not valid JSON: expected value; every line must hold one whole JSON value (`jq -c .` writes values so, `jq -c '.[]'` the items of a list)");
}

#[test]
fn a_real_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/airports.csv");
    let input = Input::open(path, &InputOptions::default()).unwrap();
    let rows: Vec<_> = input.map(|row| row.unwrap()).collect();
    assert_eq!(rows.len(), 1458);
    assert_snapshot!(rows[0], @r#"{"faa":"04G","name":"Lansdowne Airport","lat":"41.1304722","lon":"-80.6195833","alt":"1044","tz":"-5","dst":"A","tzone":"America/New_York"}"#);
}

#[test]
fn errors_of_opening() {
    let files = Files::new();
    assert_snapshot!(files.error(&files.0.path().join("missing.csv")), @"missing.csv: there is no such file; check the path");
    fs::create_dir(files.0.path().join("folder.csv")).unwrap();
    assert_snapshot!(files.error(&files.0.path().join("folder.csv")), @"folder.csv: is a directory; name one file, and submit several one by one");
    assert_snapshot!(files.error(&files.put("file", "").join("below.csv")), @"file/below.csv: cannot be opened: Not a directory (os error 20); check its permissions and its path");
    assert_snapshot!(files.error(&files.put("rows.txt", "\"a\"\n\"b\"\n")), @"rows.txt: the format is not clear; give it with --input-format (csv, tsv, jsonl), or name the file .csv, .tsv, .jsonl or .ndjson, each also with .gz");
    assert_snapshot!(files.error(&files.put("rows.gz", gzip(b"\"a\"\n\"b\"\n"))), @"rows.gz: the format is not clear; give it with --input-format (csv, tsv, jsonl), or name the file .csv, .tsv, .jsonl or .ndjson, each also with .gz");
    for delimiter in [b'"', b'\n', b'\r', 0, 0xe9] {
        let format = InputFormat::Csv { delimiter };
        assert!(matches!(read("a\n1\n", format), Err(InputError::Delimiter { .. })), "{delimiter}");
    }
    assert_snapshot!(read("a\n1\n", InputFormat::Csv { delimiter: b'"' }).unwrap_err(), @r#"'"' cannot delimit the values of a CSV; choose an ASCII character other than a quote, line end or NUL"#);
}

#[cfg(unix)]
#[test]
fn a_file_without_permission() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new();
    let path = files.put("secret.csv", "a\n1\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    // Root reads everything.
    if fs::read(&path).is_err() {
        assert_eq!(
            files.error(&path),
            "secret.csv: cannot be opened: Permission denied (os error 13); check its permissions and its path"
        );
    }
}

#[test]
fn errors_of_empty_inputs() {
    assert_snapshot!(csv_error(""), @"rows: is empty; it needs at least one row");
    assert_eq!(csv_error("\r\n\n"), csv_error(""));
    assert_eq!(csv_error("\u{feff}"), csv_error(""));
    assert_eq!(jsonl_error(""), csv_error(""));
    assert_eq!(jsonl_error(" \n\t\r\n"), csv_error(""));
    assert_snapshot!(csv_error("a,b\n\n"), @"rows: has a header and no rows; add rows, or, if its one line is a row, put a header with the columns' names above it");
    let files = Files::new();
    assert_snapshot!(files.error(&files.put("empty.csv.gz", gzip(b""))), @"empty.csv.gz: is empty; it needs at least one row");
}

#[test]
fn errors_of_gzip() {
    let files = Files::new();
    let rows: String = (0..20_000).map(|n| format!("{},{}\n", n, n * 7919 % 10007)).collect();
    let whole = gzip(format!("a,b\n{rows}").as_bytes());
    let cut = files.error(&files.put("cut.csv.gz", &whole[..whole.len() / 2]));
    assert!(cut.contains("cut.csv.gz: line ") && cut.contains("(uncompressed byte offset "), "{cut}");
    for length in [2, 5, 12, whole.len() - 9, whole.len() - 1] {
        let error = files.rows(&files.put("cut.csv.gz", &whole[..length])).unwrap_err();
        assert!(matches!(error, InputError::GzipTruncated { .. }), "{length}: {error}");
    }
    assert_snapshot!(files.error(&files.put("cut.jsonl.gz", &gzip(b"{}\n{}\n")[..12])), @"cut.jsonl.gz: line 1 (uncompressed byte offset 0): the gzip stream breaks off here, as if cut short; fetch or compress the file again");
    let mut bad = gzip(b"a\n1\n");
    let crc = bad.len() - 8;
    bad[crc] ^= 1;
    assert_snapshot!(files.error(&files.put("bad.csv.gz", &bad)), @"bad.csv.gz: line 3 (uncompressed byte offset 4): the gzip stream is damaged after here (corrupt gzip stream does not have a matching checksum); fetch or compress the file again");
    assert_snapshot!(files.error(&files.put("tail.csv.gz", [&gzip(b"a\n1\n")[..], b"more"].concat())), @"tail.csv.gz: line 3 (uncompressed byte offset 4): the gzip stream breaks off here, as if cut short; fetch or compress the file again");
}

#[test]
fn errors_of_reading() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let error = |text: &'static str, format| {
        let rows = RowReader::new(text.as_bytes().chain(Broken), "rows", format, 100).unwrap();
        let rows: Vec<_> = rows.collect();
        (rows.len() - 1, rows.into_iter().last().unwrap().unwrap_err().to_string())
    };
    let (before, message) = error("a,b\n1,2\n3", InputFormat::CSV);
    assert_eq!(before, 1);
    assert_snapshot!(message, @"rows: line 3 (byte offset 9): reading failed here: the disk is gone; try again");
    assert_eq!(error("{}\n{}\n[", InputFormat::Jsonl).0, 2);
}

#[test]
fn errors_of_encoding() {
    assert_snapshot!(csv_error(b"a,b\n1,\"x\ny\xe9\"\n"), @"rows: line 3 (byte offset 10): is not valid UTF-8 here; save the file as UTF-8, for example with `iconv -f WINDOWS-1252 -t UTF-8`");
    assert_snapshot!(jsonl_error(b"{}\n  [\"caf\xe9\"]\n"), @"rows: line 2 (byte offset 10): is not valid UTF-8 here; save the file as UTF-8, for example with `iconv -f WINDOWS-1252 -t UTF-8`");
    assert_snapshot!(csv_error(b"\xff\xfea\0\n\0"), @"rows: is UTF-16; save it as UTF-8, for example with `iconv -f UTF-16 -t UTF-8`");
    // A character that is cut off: by the end of its value, its row, the file.
    for bytes in [&b"a,b\n\xe2\x82,1\n"[..], b"a\n\xe2\x82\n", b"a\n\xe2\x82", b"a\n1\xf0\x9f\x98", b"\xe2\n1\n"] {
        assert!(matches!(read(bytes, InputFormat::CSV), Err(InputError::InvalidUtf8 { .. })), "{bytes:?}");
    }
}

#[test]
fn errors_of_characters_no_store_keeps() {
    assert_snapshot!(csv_error("a,b\n1,2\n3,\"\n\0\"\n"), @"rows: line 4 (byte offset 12): has a NUL character, which not every store can keep; remove it");
    assert_snapshot!(csv_error("a\0b\n1\n"), @"rows: line 1 (byte offset 1): has a NUL character, which not every store can keep; remove it");
    assert_snapshot!(jsonl_error("{}\n\"a\0\"\n"), @"rows: line 2 (byte offset 5): has a NUL character, which not every store can keep; remove it");
    assert_snapshot!(jsonl_error(" {\"a\":\"\\\\\\u0000\"}\n"), @r"rows: line 1 (byte offset 9): has a NUL character (\u0000), which not every store can keep; remove it");
    assert_snapshot!(jsonl_error(r#"["\ud83d\ude00","\ud83d"]"#), @r"rows: line 1 (byte offset 17): has half a surrogate pair (\ud800 to \udfff without its partner), which is no character; remove it or complete the pair");
    for text in [r#""\udc00""#, r#""\ud800\u0041""#, r#""\uD800\\udc00""#, r#""\udc00\ud800""#, r#"{"\ud800":1}"#] {
        assert!(matches!(read(text, InputFormat::Jsonl), Err(InputError::LoneSurrogate { .. })), "{text}");
    }
}

#[test]
fn errors_of_quotes() {
    assert_snapshot!(csv_error("a,b\n\"1\n2\",\"x\n3,4\n"), @"rows: line 3 (byte offset 10): the quote that opens here is never closed; close it, or, if it belongs to the value, write the value in quotes with every quote in it doubled");
    assert_snapshot!(csv_error("a,b\n\"1\"2,3\n"), @"rows: line 2 (byte offset 7): there is text after a closing quote; a quoted value ends with its quote, and a quote inside it is written twice");
    assert_snapshot!(csv_error("\"a,b\n1,2\n"), @"rows: line 1 (byte offset 0): the quote that opens here is never closed; close it, or, if it belongs to the value, write the value in quotes with every quote in it doubled");
    assert!(matches!(read("a\n\"1\" \n", InputFormat::CSV), Err(InputError::TextAfterQuote { .. })));
    assert!(matches!(read("a\n\"1\"\"", InputFormat::CSV), Err(InputError::UnclosedQuote { .. })));
}

#[test]
fn errors_of_headers() {
    assert_snapshot!(csv_error("\nid,name,id\n1,2,3\n"), @r#"rows: line 2 (byte offset 1): columns 1 and 3 are both called "id"; give each column its own name"#);
    assert_snapshot!(csv_error("id,,name\n1,2,3\n"), @"rows: line 1 (byte offset 0): column 2 of the header has no name; name it, or remove the column from all rows");
    assert!(matches!(read("id, \n1,2\n", InputFormat::CSV), Err(InputError::UnnamedColumn { column: 2, .. })));
    let many: String = (0..70_000).map(|n| format!("c{n},")).collect();
    assert_snapshot!(csv_error(format!("{many}x\n1\n")), @"rows: line 1 (byte offset 0): has more than 65536 columns; check the delimiter, or submit JSON lines");
}

#[test]
fn errors_of_unequal_rows() {
    assert_snapshot!(csv_error("a,b\r\n1,2\r\n\r\n\"x\r\ny\",2\r\n3\r\n"), @"rows: line 6 (byte offset 22): has 1 value, the header has 2; add the missing values, if need be as empty ones");
    assert_snapshot!(csv_error("a,b\n1,2\n1,2,3\n"), @"rows: line 3 (byte offset 8): has 3 values, the header has 2; put a value that holds the delimiter in quotes");
    assert!(matches!(read("a,b\n1,2\n \n", InputFormat::CSV), Err(InputError::UnequalRow { found: 1, .. })));
}

#[test]
fn errors_of_rows_too_large() {
    let limit = 20;
    let error = |text: &str, format| read_limited(text, format, limit).unwrap_err().to_string();
    assert_snapshot!(error(&format!("a\n1\n{}\n", "x".repeat(21)), InputFormat::CSV), @"rows: line 3 (byte offset 4): the row is larger than 20 bytes; check for a missing line end or quote, raise the limit (--max-row-bytes), or keep large content in files of its own and put their paths in the rows");
    assert_snapshot!(error(&format!("{{}}\n{}\n", "9".repeat(21)), InputFormat::Jsonl), @"rows: line 2 (byte offset 3): the row is larger than 20 bytes; check for a missing line end or quote, raise the limit (--max-row-bytes), or keep large content in files of its own and put their paths in the rows");
    // At the limit, in the file and as JSON text; one more.
    for end in ["", "\n", "\r\n"] {
        assert!(read_limited(format!("{}{end}", "9".repeat(20)), InputFormat::Jsonl, limit).is_ok());
        assert!(read_limited(format!("{}{end}", "9".repeat(21)), InputFormat::Jsonl, limit).is_err());
        assert!(read_limited(format!("a\n{}{end}", "9".repeat(12)), InputFormat::CSV, limit).is_ok());
        assert!(read_limited(format!("a\n{}{end}", "9".repeat(13)), InputFormat::CSV, limit).is_err());
    }
    assert_snapshot!(error(&format!("{}\n1\n", "x".repeat(21)), InputFormat::CSV), @"rows: line 1 (byte offset 0): the row is larger than 20 bytes; check for a missing line end or quote, raise the limit (--max-row-bytes), or keep large content in files of its own and put their paths in the rows");
    // Blank lines are no part of a row.
    let blank = "\n".repeat(50);
    assert_eq!(read_limited(format!("{blank}a{blank}1{blank}"), InputFormat::CSV, limit).unwrap().len(), 1);
    assert_eq!(read_limited(format!("{blank}1{blank}"), InputFormat::Jsonl, limit).unwrap().len(), 1);
}

/// Counts what is taken of an input without end.
struct Endless<'a>(u8, &'a mut u64);

impl Read for Endless<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        into.fill(self.0);
        *self.1 += into.len() as u64;
        Ok(into.len())
    }
}

#[test]
fn a_line_without_end_is_refused_early() {
    let limit = 1 << 20;
    for (start, byte, format) in [
        ("", b'7', InputFormat::Jsonl),
        ("", b' ', InputFormat::Jsonl),
        ("", b'x', InputFormat::CSV),
        ("a\n", b'x', InputFormat::CSV),
        ("a\n\"", b'\n', InputFormat::CSV),
        ("a\n\"", b'"', InputFormat::CSV),
        ("a\n", 1, InputFormat::CSV),
    ] {
        let mut taken = 0;
        let reader = start.as_bytes().chain(Endless(byte, &mut taken));
        let rows = RowReader::new(reader, "rows", format, limit).map(|mut rows| rows.next());
        let error = rows.map_or_else(Some, |row| row.unwrap().err()).unwrap();
        assert!(matches!(error, InputError::RowTooLarge { .. }), "{start:?} {byte}: {error}");
        assert!(taken < 2 * limit as u64, "{start:?} {byte}: {taken}");
    }
    let mut taken = 0;
    let reader = "a\n".as_bytes().chain(Endless(b',', &mut taken));
    let error = RowReader::new(reader, "rows", InputFormat::CSV, limit).unwrap().next().unwrap().unwrap_err();
    assert!(matches!(error, InputError::TooManyColumns { .. }), "{error}");
}

#[test]
fn errors_of_json() {
    assert_snapshot!(jsonl_error("{}\n  {\"a\":}\n"), @"rows: line 2 (byte offset 10), column 8: is not valid JSON: expected value; every line must hold one whole JSON value (`jq -c .` writes values so, `jq -c '.[]'` the items of a list)");
    assert_snapshot!(jsonl_error("{\n  \"a\": 1\n}\n"), @"rows: line 1 (byte offset 0), column 1: is not valid JSON: EOF while parsing an object; every line must hold one whole JSON value (`jq -c .` writes values so, `jq -c '.[]'` the items of a list)");
    assert_snapshot!(jsonl_error("{} {}\n"), @"rows: line 1 (byte offset 3), column 4: is not valid JSON: trailing characters; every line must hold one whole JSON value (`jq -c .` writes values so, `jq -c '.[]'` the items of a list)");
    assert_snapshot!(jsonl_error("faa,name\n"), @"rows: line 1 (byte offset 2), column 3: is not valid JSON: expected ident; every line must hold one whole JSON value (`jq -c .` writes values so, `jq -c '.[]'` the items of a list)");
    for text in
        ["01", "+1", "1.", ".5", "NaN", "'a'", "\"a\tb\"", r#""\x""#, "[1,]", "{a:1}", "\u{c}1", "\u{a0}1", "\"a"]
    {
        assert!(matches!(read(text, InputFormat::Jsonl), Err(InputError::Json { .. })), "{text}");
    }
}

#[test]
fn errors_of_depth() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(jsonl(nested(DEPTH_MAX)).len(), 1);
    assert_snapshot!(jsonl_error(nested(DEPTH_MAX + 1)), @"rows: line 1 (byte offset 128): is nested deeper than 128 levels; flatten it, or put the inner part in as a string");
    assert!(matches!(check_json(&nested(1_000_000)), Err(JsonFault::TooDeep { offset: 128 })));
    assert_eq!(jsonl(format!("[{}\"]]]\\\"[[[\"]", "[],{},".repeat(1000))).len(), 1);
}

#[test]
fn inputs_can_be_read_on_another_thread() {
    fn sendable<T: Send>() {}
    sendable::<Input>();
}

#[test]
fn after_an_error_there_are_no_more_rows() {
    let rows: Vec<_> = RowReader::new("{}\n!\n{}\n".as_bytes(), "rows", InputFormat::Jsonl, 100).unwrap().collect();
    assert_eq!(rows.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false]);
    let rows: Vec<_> = RowReader::new("a\n1\n2,3\n4\n".as_bytes(), "rows", InputFormat::CSV, 100).unwrap().collect();
    assert_eq!(rows.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn rows_before_an_error_come_out() {
    let mut text = "a,b\n".to_string();
    text.push_str(&"1,2\n".repeat(1000));
    let bytes = [text.as_bytes(), b"\"1\"x,2\n"].concat();
    let rows = RowReader::new(&bytes[..], "rows", InputFormat::CSV, 100).unwrap();
    assert_eq!(rows.filter(Result::is_ok).count(), 1000);
}

#[test]
fn digests_tell_content_apart() {
    let files = Files::new();
    let digest = |name, content: &[u8]| content_digest(files.put(name, content), &InputOptions::default()).unwrap();
    let one = digest("a.csv", b"a,b\n1,2\n3,4\n");
    assert_eq!(one, digest("b.csv.gz", &gzip(b"\xef\xbb\xbf\"a\",b\r\n1,2\r\n\r\n3,4")));
    assert_eq!(one, digest("c.jsonl", b"{\"a\":\"1\",\"b\":\"2\"}\n {\"a\":\"3\",\"b\":\"4\"}"));
    assert_ne!(one, digest("d.csv", b"a,b\n3,4\n1,2\n"));
    assert_ne!(one, digest("e.csv", b"a,b\n1,2\n"));
    assert_ne!(one, digest("f.csv", b"a,c\n1,2\n3,4\n"));
    assert_ne!(digest("g.jsonl", b"1\n23"), digest("h.jsonl", b"12\n3"));

    let mut while_loading = Digest::new();
    for row in Input::open(files.0.path().join("a.csv"), &InputOptions::default()).unwrap() {
        while_loading.add(&row.unwrap());
    }
    assert_eq!(while_loading.rows(), 2);
    assert_eq!(while_loading.finish(), one);
    assert_snapshot!(one, @"9ee62574eeaa7c0fcda25075beb451a58a12c8fc36d1d30cd99e6117ff9474f8");

    let key = one.key(["curl", "--attempts=3"]);
    assert_snapshot!(key, @"3421ee2b886e0d0b");
    assert_ne!(key, one.key(["curl", "--attempts=4"]));
    assert_ne!(key, one.key(["curl--attempts=3"]));
    assert_ne!(key, one.key(["--attempts=3", "curl"]));
    assert_snapshot!(content_digest("-", &InputOptions::default()).unwrap_err(), @"standard input can be read only once; put the rows into a file");
}

/// A text that CSV has to take care with.
fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[a-c,;\"\r\n\t é\\\\]{0,6}", "[^\0]{0,10}"]
}

/// A header and rows of as many values.
fn table() -> impl Strategy<Value = (Vec<String>, Vec<Vec<String>>)> {
    (1usize..5).prop_flat_map(|width| {
        let name = (value(), 0u8..9).prop_map(|(text, digit)| format!("{digit}{text}"));
        let header = prop::collection::vec(name, width)
            .prop_map(|names| names.into_iter().enumerate().map(|(index, name)| format!("{index}{name}")).collect());
        (header, prop::collection::vec(prop::collection::vec(value(), width), 1..8))
    })
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        any::<f64>().prop_map(Into::into),
        "[^\0]{0,8}".prop_map(Into::into),
    ];
    leaf.prop_recursive(4, 30, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
            prop::collection::vec(("[^\0]{0,4}", inner), 0..5)
                .prop_map(|entries| serde_json::Value::Object(entries.into_iter().collect())),
        ]
    })
}

/// Bytes that are something like an input.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "a", ",", "\"", "\"\"", "\n", "\r", "\r\n", "é", "{", "}", "[", "]", ":", "\\", "\\u0000", "\\ud800", "1", " ",
            "null", "\u{feff}",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        1 => prop::collection::vec(any::<u8>(), 1..4),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn csv_written_by_the_csv_crate_reads_the_same(
        (header, rows) in table(),
        crlf: bool,
        always_quoted: bool,
        delimiter in prop::sample::select(vec![b',', b';', b'\t']),
    ) {
        let mut writer = csv::WriterBuilder::new()
            .delimiter(delimiter)
            .terminator(if crlf { csv::Terminator::CRLF } else { csv::Terminator::Any(b'\n') })
            .quote_style(if always_quoted { csv::QuoteStyle::Always } else { csv::QuoteStyle::Necessary })
            .from_writer(Vec::new());
        writer.write_record(&header).unwrap();
        for row in &rows {
            writer.write_record(row).unwrap();
        }
        let text = writer.into_inner().unwrap();
        let read = read(&text, InputFormat::Csv { delimiter }).unwrap();
        prop_assert_eq!(read.len(), rows.len());
        for (text, row) in read.iter().zip(&rows) {
            let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).unwrap();
            prop_assert_eq!(object.keys().collect::<Vec<_>>(), header.iter().collect::<Vec<_>>());
            prop_assert_eq!(object.values().map(|value| value.as_str().unwrap()).collect::<Vec<_>>(), row.clone());
        }
    }

    #[test]
    fn json_values_keep_their_bytes(values in prop::collection::vec((json(), "[ \t]{0,2}", "[ \t\r]{0,2}"), 1..8)) {
        let texts: Vec<String> = values.iter().map(|(value, ..)| value.to_string()).collect();
        let lines: Vec<String> = values.iter().map(|(value, before, after)| format!("{before}{value}{after}")).collect();
        prop_assert_eq!(jsonl(lines.join("\n")), texts);
    }

    /// What is taken is what others take it for: every JSON row parses, every CSV row is the csv crate's.
    #[test]
    fn garbage_gives_rows_or_an_error(bytes in garbage(), row_bytes_max in 1usize..200) {
        let _ = read_limited(&bytes, InputFormat::Jsonl, row_bytes_max);
        let _ = read_limited(&bytes, InputFormat::CSV, row_bytes_max);
        if let Ok(rows) = read(&bytes, InputFormat::Jsonl) {
            prop_assert!(!rows.is_empty());
            for row in rows {
                prop_assert_eq!(check_json(&row), Ok(()));
                prop_assert!(!row.contains('\n'));
            }
        }
        if let Ok(rows) = read(&bytes, InputFormat::CSV) {
            let theirs: Vec<_> = csv::Reader::from_reader(&bytes[..]).into_records().map(Result::unwrap).collect();
            prop_assert_eq!(rows.len(), theirs.len());
            for (row, record) in rows.iter().zip(theirs) {
                let object: serde_json::Map<String, serde_json::Value> = serde_json::from_str(row).unwrap();
                let values: Vec<_> = object.values().map(|value| value.as_str().unwrap()).collect();
                prop_assert_eq!(values, record.iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn bytes_without_any_sense_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes, InputFormat::Jsonl);
        let _ = read(&bytes, InputFormat::CSV);
    }

    /// The look at escapes agrees with a parser that decodes them.
    #[test]
    fn strings_are_taken_where_they_can_be_decoded(units in prop::collection::vec(
        prop_oneof![Just(0u16), 0xd7feu16..0xe002, 0x20u16..0x7f], 0..6,
    )) {
        let text: String = units.iter().map(|unit| format!("\\u{unit:04x}")).collect();
        let text = format!("\"{text}\"");
        let decoded = serde_json::from_str::<String>(&text);
        let good = decoded.is_ok_and(|decoded| !decoded.contains('\0'));
        prop_assert_eq!(check_json(&text).is_ok(), good, "{}", text);
    }
}
