//! The benchmark: see `docs/performance.md`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use fencepost_tests::bench::sizes::{Part, Sizes};
use fencepost_tests::bench::worker::{self, WorkerArgs};
use fencepost_tests::bench::{self, machine, page, plot};

/// That of `fencepost` itself.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures fencepost beside its stores' limits and beside other systems, in one run, on servers of its own
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    as_worker: Option<As>,
    /// What is measured [default: all]
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Small sizes: to see that it works
    #[arg(long)]
    quick: bool,
    /// How often each is measured
    #[arg(long)]
    repeats: Option<usize>,
    /// Rows of a drain
    #[arg(long)]
    rows: Option<u64>,
    /// Where the page goes, besides standard output
    #[arg(long)]
    page: Option<PathBuf>,
    /// Where the plot goes
    #[arg(long)]
    plot: Option<PathBuf>,
    /// Where all samples go, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum As {
    /// A worker of the benchmark
    #[command(hide = true)]
    Worker(WorkerArgs),
}

fn main() {
    let args = Args::parse();
    if let Some(As::Worker(args)) = args.as_worker {
        return worker::run(args);
    }
    let mut sizes = if args.quick { Sizes::quick() } else { Sizes::full() };
    sizes.repeats = args.repeats.unwrap_or(sizes.repeats).max(1);
    sizes.rows = args.rows.unwrap_or(sizes.rows).max(1);
    let parts = if args.parts.is_empty() { Part::value_variants().to_vec() } else { args.parts };
    let figures = bench::all(&parts, &sizes, &mut |what| eprintln!("{what}"));
    let given: Vec<String> = std::env::args().skip(1).collect();
    let command = format!("tests/bench {}", given.join(" "));
    let machine = machine::describe();
    let text = page::markdown(command.trim_end(), &machine, &figures);
    print!("{text}");
    let write = |file: Option<PathBuf>, text: &str| {
        if let Some(file) = file
            && let Err(error) = std::fs::write(&file, text)
        {
            eprintln!("error: {} cannot be written: {error}", file.display());
            std::process::exit(1);
        }
    };
    write(args.page, &text);
    write(args.plot, &plot::svg(&figures));
    write(args.json, &format!("{:#}\n", figures.json()));
}
