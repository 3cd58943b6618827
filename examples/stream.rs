//! A stream handler for fencepost: `fencepost run FILE --stream -- target/release/examples/stream`.
//!
//! Answers every row with how many columns it has. Answers are written down when there is nothing left to read.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};

use serde::Deserialize;
use serde::de::IgnoredAny;

#[derive(Deserialize)]
struct Row {
    line: u64,
    token: u64,
    input: HashMap<String, IgnoredAny>,
}

fn main() -> io::Result<()> {
    let mut rows = io::BufReader::with_capacity(1 << 16, io::stdin().lock());
    let mut answers = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
    let mut text = Vec::new();
    while rows.read_until(b'\n', &mut text)? > 0 {
        let Row { line, token, input } = serde_json::from_slice(&text)?;
        let columns = input.len();
        writeln!(answers, r#"{{"line":{line},"token":{token},"status":"success","result":{{"columns":{columns}}}}}"#)?;
        if rows.buffer().is_empty() {
            answers.flush()?;
        }
        text.clear();
    }
    answers.flush()
}
