//! A handler as a program of its own: a command per row, with `--stream` one for all rows, with `--call` a completion call. It
//! notes each run in a ledger, takes its time, and says what the row says itself.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use fencepost_tests::chaos::ledger::Ledger;
use fencepost_tests::chaos::rows::{Answer, Row};
use serde_json::{Value, json};

#[derive(Debug, Parser)]
struct Args {
    ledger: PathBuf,
    #[arg(long, conflicts_with = "call")]
    stream: bool,
    /// Make a completion call
    #[arg(long)]
    call: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match &args {
        Args { stream: true, .. } => stream(&args),
        Args { call: true, .. } => call(&args),
        _ => command(&args),
    }
}

/// How long a completion call takes: long enough to be in the way of a kill.
const CALL: Duration = Duration::from_secs(1);

/// A completion call: noted like a run, its generation for a line.
fn call(args: &Args) -> ExitCode {
    let number = |name: &str| field(name).parse::<u64>().expect("a number");
    let (generation, token) = (number("FENCEPOST_GENERATION"), number("FENCEPOST_TOKEN"));
    let ledger = Ledger::append_to(&args.ledger);
    let attempt = number("FENCEPOST_ATTEMPT");
    let noted = ledger.and_then(|ledger| ledger.note(&field("FENCEPOST_BATCH"), generation, token, attempt));
    if let Err(error) = noted {
        eprintln!("the ledger cannot be written: {error}");
        return ExitCode::FAILURE;
    }
    std::thread::sleep(CALL);
    ExitCode::SUCCESS
}

fn field(name: &str) -> String {
    std::env::var(name).expect("fencepost says it")
}

/// What becomes of a run; where its ledger has no room, it is to be tried again.
fn run(ledger: &Path, batch: &str, line: u64, token: u64, attempt: u64, input: &Value) -> Answer {
    let noted = Ledger::append_to(ledger).and_then(|ledger| ledger.note(batch, line, token, attempt));
    if let Err(error) = noted {
        return Answer::Retry(format!("the ledger cannot be written: {error}"));
    }
    let Some(row) = Row::of_input(input) else { return Answer::Failed(format!("no row: {input}")) };
    std::thread::sleep(Duration::from_millis(row.ms));
    row.answer(attempt)
}

fn command(args: &Args) -> ExitCode {
    let number = |name: &str| field(name).parse::<u64>().expect("a number");
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).expect("a row");
    let input = serde_json::from_str(&input).expect("a row");
    let (line, token) = (number("FENCEPOST_LINE"), number("FENCEPOST_TOKEN"));
    match run(&args.ledger, &field("FENCEPOST_BATCH"), line, token, number("FENCEPOST_ATTEMPT"), &input) {
        Answer::Success(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Answer::Failed(error) => {
            eprintln!("{error}");
            ExitCode::from(65)
        }
        Answer::Retry(error) => {
            eprintln!("{error}");
            ExitCode::from(75)
        }
    }
}

fn stream(args: &Args) -> ExitCode {
    let ledger = Arc::new(args.ledger.clone());
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let ledger = ledger.clone();
        // Rows wait beside each other.
        std::thread::spawn(move || {
            let asked: Value = serde_json::from_str(&line).expect("a row");
            let number = |name: &str| asked[name].as_u64().expect("a number");
            let batch = asked["batch"].as_str().expect("a batch");
            let said = run(&ledger, batch, number("line"), number("token"), number("attempt"), &asked["input"]);
            let mut answer = json!({ "line": asked["line"], "token": asked["token"] });
            let (status, field, value) = match said {
                Answer::Success(result) => ("success", "result", result),
                Answer::Failed(error) => ("failed", "error", error.into()),
                Answer::Retry(error) => ("retry", "error", error.into()),
            };
            answer["status"] = status.into();
            answer[field] = value;
            // The worker may have gone.
            let _ = std::io::stdout().lock().write_all(format!("{answer}\n").as_bytes());
        });
    }
    ExitCode::SUCCESS
}
