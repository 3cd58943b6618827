//! Part (c): stream handlers in Python and in Rust against a handler inside the worker, and a command for each row against
//! `xargs -P`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::drain::{self, OP, per_second};
use super::figures::Figures;
use super::ground::Ground;
use super::processes;
use super::sizes::Sizes;
use super::verified;
use crate::place::StoreKind;
use crate::process::{Process, fencepost, program};
use crate::scenario::STUCK;

const PART: &str = "Handlers";
const INSIDE: &str = "handler inside the worker";

/// Commands that run at once: as many as there are cores to the benchmark.
fn lanes() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Measures them, on Postgres.
pub fn measure(ground: &Ground, sizes: &Sizes, figures: &mut Figures, tell: &mut dyn FnMut(&str)) {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/stream.py");
    let streams: [(&str, Vec<PathBuf>); 2] = [
        ("stream handler in Python", vec!["python3".into(), python]),
        ("stream handler in Rust", vec![program("examples").join("stream")]),
    ];
    let (xargs_name, command_name) =
        (format!("xargs -P {}", lanes()), format!("command for each row, {} at once", lanes()));
    for _ in 0..sizes.repeats {
        let inside = drain::workers_drain(ground, StoreKind::Postgres, sizes.rows, 1, &[]);
        let mut say = |figures: &mut Figures, name: &str, rate: f64| {
            figures.sample(PART, name, "rows/s", rate);
            tell(&format!("  {name}: {rate:.0} rows/s"));
        };
        say(figures, INSIDE, per_second(sizes.rows, inside.took));
        for (name, handler) in &streams {
            let took = worker(ground, sizes.rows, &["--stream"], handler);
            say(figures, name, per_second(sizes.rows, took));
        }
        say(figures, &xargs_name, per_second(sizes.command_rows, xargs(sizes.command_rows)));
        let concurrency = lanes().to_string();
        let took = worker(ground, sizes.command_rows, &["--concurrency", &concurrency], &["/bin/true".into()]);
        say(figures, &command_name, per_second(sizes.command_rows, took));
    }
    for (name, _) in &streams {
        figures.compare(PART, name, INSIDE);
    }
    figures.compare(PART, &command_name, &xargs_name);
}

/// Rows through the command's worker.
fn worker(ground: &Ground, rows: u64, options: &[&str], handler: &[PathBuf]) -> Duration {
    let site = ground.store(StoreKind::Postgres);
    let mut command = fencepost();
    command.args(["worker", "--quiet", "--store", site.url(), "--op", OP]).args(options).arg("--").args(handler);
    let mut worker = Process::start(command_quiet(command));
    processes::idle(ground, &site, 1);
    let batch = ground.block_on(site.load_and_settle(OP, rows));
    let took = drain::released(ground, &site, batch, rows);
    worker.signal(nix::sys::signal::Signal::SIGTERM);
    worker.wait(STUCK);
    verified::verify(site.url(), batch, rows, None);
    took
}

fn command_quiet(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn xargs(rows: u64) -> Duration {
    let script = format!("seq {rows} | xargs -P {} -n 1 /bin/true", lanes());
    let began = Instant::now();
    assert!(Command::new("sh").args(["-c", &script]).status().expect("a shell").success());
    began.elapsed()
}
