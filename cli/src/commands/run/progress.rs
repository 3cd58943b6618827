//! How a run shows how far it is.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::report::BatchSummary;
use crate::say::say;

/// Off a terminal, progress is one line this often.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// A bar on a terminal, a line now and then elsewhere, nothing when quiet.
pub enum Progress {
    Quiet,
    Bar(ProgressBar),
    Lines { next: Instant },
}

impl Progress {
    /// Nothing is done yet.
    pub fn start(quiet: bool) -> Self {
        if quiet {
            return Self::Quiet;
        }
        if !std::io::stderr().is_terminal() {
            return Self::Lines { next: Instant::now() + LINE_EVERY };
        }
        let bar = ProgressBar::new(0);
        let template = "{wide_bar} {pos}/{len} rows, {msg}, {per_sec}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self::Bar(bar)
    }

    /// So much is done.
    pub fn show(&mut self, now: &BatchSummary) {
        let (ended, failed) = (now.counts.ended(), now.counts.failed);
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => {
                bar.set_length(now.rows);
                bar.set_message(format!("{failed} failed"));
                bar.set_position(ended);
            }
            Self::Lines { next } => {
                if Instant::now() >= *next {
                    say!("{ended} of {} rows, {failed} failed", now.rows);
                    *next += LINE_EVERY;
                }
            }
        }
    }

    /// Nothing more is shown.
    pub fn end(&mut self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}
