//! What a row costs with a command, against `xargs -P`: `cargo run --release -p fencepost --example speed_command`.

#![allow(clippy::unwrap_used)]

use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use fencepost::handler::command::{CommandHandler, CommandOptions};
use fencepost::handler::{Canceller, Handler, HandlerAnswer, Row, guard};
use fencepost_core::{BatchId, Token};
use tokio::task::JoinSet;

const ROWS: u32 = 6000;

fn main() -> ExitCode {
    if let Some(code) = guard::run_if_guard() {
        return code;
    }
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        for lanes in [1, 2, 4, 8] {
            for _ in 0..3 {
                compare(lanes).await;
            }
        }
    });
    ExitCode::SUCCESS
}

async fn compare(lanes: u32) {
    let xargs = Instant::now();
    let script = format!("seq {ROWS} | xargs -P {lanes} -n 1 /bin/true");
    assert!(Command::new("sh").args(["-c", &script]).status().unwrap().success());
    let xargs = xargs.elapsed();

    let options = CommandOptions::new(guard::own_program().unwrap());
    let handler = Arc::new(CommandHandler::new("/bin/true", [""; 0], options).unwrap());
    handler.ready().await.unwrap();
    let ours = Instant::now();
    let mut runs = JoinSet::new();
    for _ in 0..lanes {
        let handler = Arc::clone(&handler);
        runs.spawn(async move {
            for _ in 0..ROWS / lanes {
                let input = "{\"a\":1}".into();
                let row = Row { batch: BatchId::from_random(7), line: 1, attempt: 1, token: Token(1), input };
                let (_canceller, cancel) = Canceller::new();
                assert_eq!(handler.run(row, cancel).await, HandlerAnswer::Success("null".into()));
            }
        });
    }
    while runs.join_next().await.is_some() {}
    let ours = ours.elapsed();
    println!(
        "{lanes} at once: xargs {:?} a row, fencepost {:?} a row: {:.0} %",
        xargs / ROWS,
        ours / ROWS,
        xargs.as_secs_f64() / ours.as_secs_f64() * 100.0
    );
}
