//! Writing results: the layouts, and where they are written to.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use fencepost::input::{Input, InputFormat, InputOptions, RowReader};
use fencepost::results::{InputColumns, Output, ResultError, ResultLayout, ResultRow, ResultWriter};
use insta::assert_snapshot;
use proptest::prelude::*;

const CSV: ResultLayout = ResultLayout::Csv { delimiter: b',' };
const FAILED: ResultLayout = ResultLayout::FailedCsv { delimiter: b',' };

fn success(line: u64, input: &str) -> ResultRow {
    ResultRow {
        line,
        status: "success",
        result: Some(r#"{"ok":true}"#.into()),
        error: None,
        attempts: 1,
        crashes: 0,
        worker: Some("worker-1".into()),
        token: Some(7),
        input: Some(input.into()),
    }
}

fn failed(line: u64, input: &str, error: &str) -> ResultRow {
    ResultRow { status: "failed", result: None, error: Some(error.into()), ..success(line, input) }
}

fn queued(line: u64) -> ResultRow {
    let (result, error, worker, token, input) = Default::default();
    ResultRow { line, status: "queued", result, error, attempts: 0, crashes: 0, worker, token, input }
}

fn text(layout: ResultLayout, columns: &InputColumns, rows: &[ResultRow]) -> Result<String, ResultError> {
    let mut writer = ResultWriter::begin(Vec::new(), "out", layout, columns)?;
    for row in rows {
        writer.write(row)?;
    }
    Ok(String::from_utf8(writer.finish()?).unwrap())
}

/// The columns of some inputs.
fn seen(inputs: &[&str]) -> InputColumns {
    let mut columns = InputColumns::new();
    for (index, input) in inputs.iter().enumerate() {
        columns.see(index as u64 + 1, input).unwrap();
    }
    columns
}

#[test]
fn json_lines_have_all_fields_in_order() {
    let rows = [
        success(1, "{}"),
        failed(2, "{}", "exit 3: \"no\"\n\tsuch é"),
        queued(3),
        ResultRow { result: Some("[1.50,\r\n  1e999]\n".into()), ..success(4, "{}") },
        ResultRow { result: Some("\"a\\nb\"".into()), token: Some(u64::MAX), ..success(5, "{}") },
    ];
    let text = text(ResultLayout::Jsonl, &InputColumns::new(), &rows).unwrap();
    assert_snapshot!(text, @r#"
    {"line":1,"status":"success","result":{"ok":true},"error":null,"attempts":1,"crashes":0,"worker":"worker-1","token":7}
    {"line":2,"status":"failed","result":null,"error":"exit 3: \"no\"\n\tsuch é","attempts":1,"crashes":0,"worker":"worker-1","token":7}
    {"line":3,"status":"queued","result":null,"error":null,"attempts":0,"crashes":0,"worker":null,"token":null}
    {"line":4,"status":"success","result":[1.50,    1e999] ,"error":null,"attempts":1,"crashes":0,"worker":"worker-1","token":7}
    {"line":5,"status":"success","result":"a\nb","error":null,"attempts":1,"crashes":0,"worker":"worker-1","token":18446744073709551615}
    "#);
    assert_eq!(text.lines().count(), rows.len());
    for line in text.lines() {
        let line: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(&line.replace("1e999", "1")).unwrap();
        let keys: Vec<_> = line.keys().collect();
        assert_eq!(keys, ["line", "status", "result", "error", "attempts", "crashes", "worker", "token"]);
    }
}

#[test]
fn csv_shows_a_string_as_its_text() {
    let columns = InputColumns::new();
    let rows = [
        ResultRow { result: Some(r#""04G: \"Lansdowne\"\n""#.into()), ..success(1, "{}") },
        ResultRow { result: Some(r#"["x"]"#.into()), ..success(2, "{}") },
    ];
    let text = text(CSV, &columns, &rows).unwrap();
    let mut read = csv::Reader::from_reader(text.as_bytes());
    let cells: Vec<String> = read.records().map(|row| row.unwrap()[2].to_owned()).collect();
    assert_eq!(cells, ["04G: \"Lansdowne\"\n", r#"["x"]"#]);
}

#[test]
fn csv_shows_inputs_and_results() {
    let columns = ["id", "name"].into_iter().collect();
    let rows = [
        success(1, r#"{"id":"007","name":"a, \"b\""}"#),
        failed(2, r#"{"name":null,"id":[1, {"x":1.50}]}"#, "no\nway"),
        queued(3),
        failed(4, r#"{"id":1.10,"id":true}"#, ""),
    ];
    assert_snapshot!(text(CSV, &columns, &rows).unwrap(), @r#"
    id,name,fencepost_line,fencepost_status,fencepost_result,fencepost_error,fencepost_attempts,fencepost_crashes,fencepost_worker,fencepost_token
    007,"a, ""b""",1,success,"{""ok"":true}",,1,0,worker-1,7
    "[1, {""x"":1.50}]",,2,failed,,"no
    way",1,0,worker-1,7
    ,,3,queued,,,0,0,,
    true,,4,failed,,,1,0,worker-1,7
    "#);
}

#[test]
fn csv_keeps_clear_of_the_names_of_an_input() {
    let columns = ["fencepost_line", "fencepost_error", "fencepost_error_2"].into_iter().collect();
    assert_snapshot!(text(CSV, &columns, &[]).unwrap(), @"fencepost_line,fencepost_error,fencepost_error_2,fencepost_line_2,fencepost_status,fencepost_result,fencepost_error_3,fencepost_attempts,fencepost_crashes,fencepost_worker,fencepost_token");
}

#[test]
fn failed_rows_keep_their_columns_and_get_the_error() {
    let columns = |names: &[&str]| names.iter().copied().collect();
    let rows = [failed(2, r#"{"b":"1","a":"x,y"}"#, "bad a")];
    assert_snapshot!(text(FAILED, &columns(&["b", "a"]), &rows).unwrap(), @r#"
    b,a,error
    1,"x,y",bad a
    "#);
    let header = |names: &[&str]| text(FAILED, &columns(names), &[]).unwrap();
    assert_eq!(header(&["a", "error"]), "a,error,fencepost_error\n");
    assert_eq!(header(&["error", "fencepost_error"]), "error,fencepost_error,fencepost_error_2\n");
    assert_eq!(header(&["fencepost_error"]), "fencepost_error,error\n");
    let tabs = text(ResultLayout::FailedCsv { delimiter: b'\t' }, &columns(&["b", "a"]), &rows).unwrap();
    assert_eq!(tabs, "b\ta\terror\n1\tx,y\tbad a\n");
}

#[test]
fn columns_of_json_lines_are_found_by_looking() {
    assert_eq!(seen(&[r#"{"b":1,"a":2}"#, r#"{"c":{"d":1},"a":2}"#, "{}"]).names(), ["b", "a", "c"]);
    let inputs = [r#"{"a":1}"#, "[1, 2]", "\"x\""];
    let columns = seen(&inputs);
    assert_eq!(columns.names(), ["input"]);
    let rows: Vec<_> = (1..).zip(inputs).map(|(line, input)| failed(line, input, "no")).collect();
    assert_snapshot!(text(FAILED, &columns, &rows).unwrap(), @r#"
    input,error
    "{""a"":1}",no
    "[1, 2]",no
    """x""",no
    "#);
}

#[test]
fn errors_of_inputs() {
    let columns = seen(&[r#"{"a":1}"#]);
    let error = |input| text(CSV, &columns, &[success(7, input)]).unwrap_err().to_string();
    assert_snapshot!(error(r#"{"a":1,"b":2}"#), @r#"line 7: its input has a key "b" that is none of the columns; write the results as JSON lines"#);
    assert_snapshot!(error("[1]"), @"line 7: its input is no object, so it has no columns; write the results as JSON lines");
    assert_snapshot!(error("{"), @"line 7: its stored input is not valid JSON: EOF while parsing an object at line 1 column 1; write the results as JSON lines");
    assert_snapshot!(InputColumns::new().see(3, "nothing").unwrap_err(), @"line 3: its stored input is not valid JSON: expected ident at line 1 column 2; write the results as JSON lines");
}

#[test]
fn a_closed_pipe_is_told_from_a_failure() {
    struct Broken(io::ErrorKind);
    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Err(self.0.into())
        }
    }
    let error = |kind, layout| {
        let columns = ["a"].into_iter().collect();
        let mut writer = ResultWriter::begin(Broken(kind), "standard output", layout, &columns)?;
        writer.write(&success(1, r#"{"a":"1"}"#))?;
        writer.finish().map(drop)
    };
    for layout in [ResultLayout::Jsonl, CSV, FAILED] {
        assert!(error(io::ErrorKind::BrokenPipe, layout).unwrap_err().is_closed_pipe());
        assert!(!error(io::ErrorKind::StorageFull, layout).unwrap_err().is_closed_pipe());
    }
    assert_snapshot!(error(io::ErrorKind::BrokenPipe, CSV).unwrap_err(), @"standard output: its reader has closed it");
    assert_snapshot!(error(io::ErrorKind::StorageFull, CSV).unwrap_err(), @"standard output: writing failed: no storage space; check the free space there, or write elsewhere");
}

/// The names in a directory.
fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_appears_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.jsonl");
    let begin = || {
        let output = Output::open(&path).unwrap();
        assert_eq!(output.name(), path.display().to_string());
        let mut writer = ResultWriter::begin(output, "out", ResultLayout::Jsonl, &InputColumns::new()).unwrap();
        writer.write(&queued(1)).unwrap();
        writer
    };

    drop(begin());
    assert!(names(directory.path()).is_empty(), "nothing is left of an output that was given up");

    let output = begin().finish().unwrap();
    assert!(!path.exists(), "not before the commit");
    output.commit().unwrap();
    assert_eq!(names(directory.path()), ["out.jsonl"]);
    let content = fs::read_to_string(&path).unwrap();
    assert_eq!(content.lines().count(), 1);

    fs::write(&path, "before").unwrap();
    drop(begin().finish().unwrap());
    assert_eq!(fs::read_to_string(&path).unwrap(), "before");
    // Two at once do not mix, and the later commit stays.
    let (one, mut two) = (begin(), begin());
    two.write(&queued(2)).unwrap();
    two.finish().unwrap().commit().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    one.finish().unwrap().commit().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), content);
    assert_eq!(names(directory.path()), ["out.jsonl"]);
}

#[test]
fn errors_of_outputs() {
    let directory = tempfile::tempdir().unwrap();
    let error = |name: &str| {
        let message = Output::open(format!("{}/{name}", directory.path().display())).unwrap_err().to_string();
        message.replace(&format!("{}/", directory.path().display()), "")
    };
    fs::create_dir(directory.path().join("folder")).unwrap();
    fs::write(directory.path().join("file"), "").unwrap();
    assert_snapshot!(error("folder"), @"folder: is a directory; name a file in it");
    assert!(error("new/").contains("is a directory"));
    assert_snapshot!(error("missing/out.csv"), @"missing/out.csv: there is no such directory to write into; create it or check the path");
    assert_snapshot!(error("file/out.csv"), @"file/out.csv: there is no such directory to write into; create it or check the path");
    // A directory takes the path meanwhile.
    let path = directory.path().join("late");
    let output = Output::open(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(output.commit(), Err(ResultError::Write { .. })));
    assert_eq!(names(directory.path()), ["file", "folder", "late"], "cleaned up");
}

#[cfg(unix)]
#[test]
fn permissions_are_kept_and_minded() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out");
    fs::write(&path, "before").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let link = directory.path().join("link");
    symlink("out", &link).unwrap();
    let mut output = Output::open(&link).unwrap();
    output.write_all(b"after").unwrap();
    output.commit().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), "after");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "a link stays one");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
    // Root may write everything.
    if fs::OpenOptions::new().append(true).open(&path).is_err() {
        assert!(matches!(Output::open(&path), Err(ResultError::Denied { .. })), "a protected file");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o500)).unwrap();
        let message = Output::open(directory.path().join("new")).unwrap_err().to_string();
        assert!(message.contains("may not be written (Permission denied"), "{message}");
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn devices_are_written_directly() {
    let mut output = Output::open("/dev/null").unwrap();
    output.write_all(b"gone").unwrap();
    output.commit().unwrap();
    assert!(!fs::metadata("/dev/null").unwrap().is_file());

    let mut full = Output::open("/dev/full").unwrap();
    full.write_all(b"too much").unwrap();
    assert_snapshot!(full.commit().unwrap_err(), @"/dev/full: writing failed: No space left on device (os error 28); check the free space there, or write elsewhere");
}

#[test]
fn failed_rows_of_a_real_file_are_submitted_again() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/airports.csv");
    let input = Input::open(path, &InputOptions::default()).unwrap();
    let columns: InputColumns = input.columns().unwrap().iter().cloned().collect();
    let rows: Vec<_> = (1..).zip(input).map(|(line, row)| failed(line, &row.unwrap(), "no runway")).collect();
    let text = text(FAILED, &columns, &rows).unwrap();
    let again: Vec<_> = text.lines().map(|line| line.strip_suffix(",no runway").unwrap_or(line)).collect();
    let original = fs::read_to_string(path).unwrap();
    assert_eq!(again[0], format!("{},error", original.lines().next().unwrap()));
    assert_eq!(again.len(), original.lines().count());
}

proptest! {
    /// What failed is read back with the same values, the error beside them.
    #[test]
    fn failed_rows_read_back(
        rows in prop::collection::vec(("[^\0]{0,6}", "[a,\"\r\n ]{0,4}", "[^\0]{0,6}"), 1..6),
        delimiter in prop::sample::select(vec![b',', b';', b'\t']),
    ) {
        let columns = ["first", "sec\"o,n\nd"].into_iter().collect();
        let objects: Vec<_> = rows
            .iter()
            .map(|(first, second, _)| serde_json::json!({ "first": first, "sec\"o,n\nd": second }))
            .collect();
        let failures: Vec<_> = (1..)
            .zip(objects.iter().zip(&rows))
            .map(|(line, (object, (.., error)))| failed(line, &object.to_string(), error))
            .collect();
        let text = text(ResultLayout::FailedCsv { delimiter }, &columns, &failures).unwrap();
        let read = RowReader::new(text.as_bytes(), "out", InputFormat::Csv { delimiter }, 1 << 20).unwrap();
        let read: Vec<serde_json::Value> = read.map(|row| serde_json::from_str(&row.unwrap()).unwrap()).collect();
        for ((mut object, (.., error)), read) in objects.into_iter().zip(&rows).zip(&read) {
            object["error"] = error.as_str().into();
            prop_assert_eq!(&object, read);
        }
        prop_assert_eq!(read.len(), rows.len());
    }
}
