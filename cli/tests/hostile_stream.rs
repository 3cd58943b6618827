//! Stream handlers that write back what they should not: each script of `cli/tests/corpus/stream` through the command (a new case is
//! one file: two comments say how its three rows end and what the worker says), and replies that are drawn. `PROPTEST_CASES=1000` draws more.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use fencepost::handler::stream::{StreamHandler, StreamOptions};
use fencepost::handler::{Canceller, Handler, HandlerAnswer, Row};
use fencepost_core::{BatchId, Token};
use proptest::prelude::*;
use serde_json::Value;

use self::support::corpus::{cases, draws};
use self::support::place::{Place, stderr};

#[allow(dead_code)]
mod support {
    pub mod corpus;
    pub mod place;
}

/// What a script begins with: `next` reads a row into `line` and `token`; `say` answers it.
const BASICS: &str = r#"
next() {
    read -r row || return 1
    line=${row#*\"line\":} line=${line%%,*}
    token=${row#*\"token\":} token=${token%%,*}
}
say() { echo "{\"line\":$line,\"token\":$token,\"status\":\"$1\",$2}"; }
succeed() { say success "\"result\":$line"; }
"#;

/// A comment at the head of a script.
fn comment<'a>(script: &'a str, name: &str) -> &'a str {
    script
        .lines()
        .find_map(|line| line.strip_prefix(&format!("# {name}: ")))
        .unwrap_or_else(|| panic!("no {name}: {script}"))
}

#[test]
fn each_script_of_the_corpus_gives_every_row_one_outcome_and_the_worker_says_what_is_wrong() {
    let place = Place::new();
    for case in cases("stream") {
        let script = fs::read_to_string(&case.path).unwrap();
        let key = format!("--key={}", case.name);
        let submitted = place.json(&[
            "submit",
            "--rows",
            "3",
            &key,
            "--op",
            &case.name,
            "--max-attempts",
            "1",
            "--timeout",
            "20s",
            "--json",
        ]);
        let batch = submitted["batch"].as_str().unwrap();
        let whole = format!("{BASICS}{script}");
        let options =
            ["worker", "--op", &case.name, "--until-done", "--stream", "--max-line-bytes", "4096", "--", "sh", "-c"];
        let output = place.run(&[&options[..], &[&whole]].concat());
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0), "{}: {said}", case.name);
        assert!(said.contains(comment(&script, "says")), "{}: {said}", case.name);
        let rows: Vec<Value> =
            place.ok(&["rows", batch, "--json"]).lines().map(|row| serde_json::from_str(row).unwrap()).collect();
        let statuses: Vec<&str> = rows.iter().map(|row| row["status"].as_str().unwrap()).collect();
        assert_eq!(statuses, comment(&script, "expect").split(' ').collect::<Vec<_>>(), "{}: {said}", case.name);
        for row in rows.iter().filter(|row| row["status"] == "success") {
            assert_eq!(row["result"], row["line"], "{}", case.name);
        }
        for row in rows.iter().filter(|row| row["status"] == "failed") {
            assert!(!row["error"].as_str().unwrap().trim().is_empty(), "{}: {row}", case.name);
        }
        place.ok(&["verify", batch]);
    }
}

/// What a child writes for one of its rows, or for none.
#[derive(Debug, Clone)]
enum Reply {
    /// A good answer for the row at this place among those it has.
    Good(usize),
    /// The same with this token instead.
    Token(usize, u64),
    /// A good answer, cut or spoiled: this byte at this place.
    Spoiled(usize, prop::sample::Index, u8),
    /// Something else.
    Bytes(Vec<u8>),
}

const ROWS: u64 = 4;

fn reply() -> impl Strategy<Value = Reply> {
    let row = 0..usize::try_from(ROWS).unwrap();
    prop_oneof![
        3 => row.clone().prop_map(Reply::Good),
        1 => (row.clone(), any::<u64>()).prop_map(|(row, token)| Reply::Token(row, token)),
        3 => (row, any::<prop::sample::Index>(), prop::sample::select(b"\0\n\"}{[,:\\\xff1 ".to_vec()))
            .prop_map(|(row, at, byte)| Reply::Spoiled(row, at, byte)),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Reply::Bytes),
        1 => (1_usize..6_000).prop_map(|deep| Reply::Bytes(vec![b'['; deep])),
    ]
}

fn token(line: u64) -> u64 {
    line + 40
}

/// The bytes of a reply, with its line's end.
fn written(reply: &Reply) -> Vec<u8> {
    let good = |row: usize, token: u64| {
        format!("{{\"line\":{},\"token\":{token},\"status\":\"success\",\"result\":[{row}]}}", row + 1).into_bytes()
    };
    let mut bytes = match reply {
        Reply::Good(row) => good(*row, token(*row as u64 + 1)),
        Reply::Token(row, token) => good(*row, *token),
        Reply::Spoiled(row, at, byte) => {
            let mut bytes = good(*row, token(*row as u64 + 1));
            let at = at.index(bytes.len());
            bytes[at] = *byte;
            bytes
        }
        Reply::Bytes(bytes) => bytes.clone(),
    };
    bytes.push(b'\n');
    bytes
}

/// What a line means to a reader of JSON that has nothing to do with ours: the row that it answers, and its result if that is a success.
fn meant(line: &[u8]) -> Option<(u64, Option<Value>)> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let (line, of) = (value["line"].as_u64()?, value["token"].as_u64()?);
    let known = (1..=ROWS).contains(&line) && of == token(line);
    known.then(|| (line, (value["status"] == "success").then(|| value["result"].clone())))
}

proptest! {
    #![proptest_config(draws(24))]

    /// A child reads four rows, writes what was drawn, and dies. Each row has one answer; a row that was answered well before all
    /// that is wrong with it has that answer, and none is a success that nobody answered.
    #[test]
    fn whatever_a_child_writes_each_row_has_one_answer(replies in prop::collection::vec(reply(), 0..10), half: bool) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes: Vec<u8> = replies.iter().flat_map(written).collect();
        if half {
            bytes.pop();
        }
        fs::write(folder.path().join("replies"), &bytes).unwrap();
        let script = r#"for n in 1 2 3 4; do read -r row; done; cat "$0"; exit 7"#;
        let command = ["-c".into(), script.into(), folder.path().join("replies").into_os_string()];
        let options = StreamOptions { line_limit: 4_096, ..StreamOptions::new(env!("CARGO_BIN_EXE_fencepost")) };
        let answers: Vec<HandlerAnswer> = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(async {
            let handler = Arc::new(StreamHandler::new("sh", command, options).unwrap());
            let row = |line| Row { batch: BatchId::from_random(7), line, attempt: 1, token: Token(token(line)), input: "{}".into() };
            let running = (1..=ROWS).map(|line| handler.run(row(line), Canceller::new().1));
            let all = futures_util::future::join_all(running);
            tokio::time::timeout(Duration::from_secs(60), all).await.expect("a row has no answer")
        });
        // Lines as the child wrote them; the last may be half a line, which is none, and a line that is too long ends all.
        let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        lines.pop();
        let lines: Vec<&[u8]> = lines.into_iter().take_while(|line| line.len() <= 4_096).collect();
        let mut seen = HashSet::new();
        for line in &lines {
            // Ours takes a line's row also where what follows is broken, so only rows that no spoiled line may name are compared.
            let Some((row, result)) = meant(line) else { continue };
            let spoiled_before = lines.iter().take_while(|other| other != &line).any(|other| {
                meant(other).is_none() && String::from_utf8_lossy(other).contains(&format!("\"line\":{row}"))
            });
            if seen.insert(row) && !spoiled_before {
                let answer = &answers[usize::try_from(row - 1).unwrap()];
                match (result, answer) {
                    (Some(result), HandlerAnswer::Success(text)) => prop_assert_eq!(serde_json::from_str::<Value>(text).unwrap(), result),
                    (None, HandlerAnswer::Failed(error)) => prop_assert!(!error.is_empty()),
                    (result, answer) => prop_assert!(false, "row {row}: {result:?} came to {answer:?}"),
                }
            }
        }
        for (answer, row) in answers.iter().zip(1..) {
            if let HandlerAnswer::Success(_) = answer {
                prop_assert!(seen.contains(&row), "row {row} was not answered, and yet {answer:?}");
            }
        }
    }
}
