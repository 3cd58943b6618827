//! Which parts the benchmark has, and how much each does.

use clap::ValueEnum;

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The store-only loop, and workers with a handler inside that does nothing
    Drain,
    /// Stream and command handlers
    Handlers,
    /// Submit against `\copy`
    Submit,
    /// Other systems on the same server
    Peers,
    /// Up to ten million rows, with vacuum and with an old snapshot
    Growth,
    /// How long a row waits
    Latency,
    /// What a row costs, and an idle worker
    Cost,
}

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Rows of a drain.
    pub rows: u64,
    /// How often each is measured.
    pub repeats: usize,
    /// Sizes of the batches whose rates are compared: the first one's is the measure.
    pub growth: [u64; 3],
    /// Rows that are submitted one by one, for latency.
    pub probes: usize,
    /// Rows for a command each.
    pub command_rows: u64,
    /// How long an idle worker is looked at, in seconds.
    pub idle_seconds: u64,
    /// Jobs for another system.
    pub peer_jobs: u64,
    /// For memory: rows of so many kibibytes, and how many.
    pub heavy: [(usize, u64); 3],
}

impl Sizes {
    /// As in the docs: about an hour.
    pub const fn full() -> Self {
        Self {
            rows: 300_000,
            repeats: 5,
            growth: [100_000, 1_000_000, 10_000_000],
            probes: 300,
            command_rows: 6_000,
            idle_seconds: 30,
            peer_jobs: 100_000,
            heavy: [(100, 5_000), (1 << 10, 500), (15 << 10, 40)],
        }
    }

    /// To see that it works: a few minutes. Its figures say little.
    pub const fn quick() -> Self {
        Self {
            rows: 60_000,
            repeats: 3,
            growth: [50_000, 100_000, 300_000],
            probes: 40,
            command_rows: 800,
            idle_seconds: 5,
            peer_jobs: 20_000,
            heavy: [(100, 1_000), (1 << 10, 100), (15 << 10, 8)],
        }
    }
}

/// Bytes of a row's input, as JSON.
pub const INPUT_BYTES: usize = 200;

/// An input of this size.
pub fn input(line: u64) -> Box<str> {
    let bare = r#"{"line":,"filler":""}"#.len();
    let number = format!("{line:9}");
    let filler = "x".repeat(INPUT_BYTES - bare - number.len());
    format!(r#"{{"line":{number},"filler":"{filler}"}}"#).into_boxed_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_json_of_its_size() {
        for line in [1, 123_456_789] {
            let text = input(line);
            assert_eq!(text.len(), INPUT_BYTES);
            let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(value["line"], line);
        }
    }
}
