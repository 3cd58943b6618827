//! `doctor`: from what was looked at to what it means and what to do about it. Pure: facts in, findings out.
//!
//! | findings on | are in |
//! |---|---|
//! | an SQLite file | [`sqlite`] |
//! | a Postgres server | [`postgres`] |
//! | any store's tables, versions, and its work | [`work`] |
//! | a Redis | [`redis`] |

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::{RULE, SCHEMA_VERSION, headline, shown};

pub mod postgres;
pub mod redis;
pub mod sqlite;
pub mod work;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Something could be better, or explains why work does not go on.
    Advice,
    /// The store or Redis cannot do its part as it is.
    Problem,
}

impl Level {
    /// Its name, in text and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Advice => "advice",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// What was looked at: a word that stays.
    pub check: &'static str,
    /// What was found.
    pub found: String,
    /// What to do or set.
    pub to_do: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, check, found: found.into(), to_do: None }
    }

    fn advice(check: &'static str, found: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self { level: Level::Advice, check, found: found.into(), to_do: Some(to_do.into()) }
    }

    /// The work cannot be read.
    pub fn unreadable(why: &str) -> Self {
        Self::problem("work", format!("cannot be read: {why}"), "put that right and ask again")
    }

    fn problem(check: &'static str, found: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self { level: Level::Problem, check, found: found.into(), to_do: Some(to_do.into()) }
    }
}

/// Findings on one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// `store`, `work` or `redis`.
    pub about: &'static str,
    /// Which one, without passwords; nothing for the work.
    pub name: Option<String>,
    /// What was found, in the order in which it was looked at.
    pub findings: Vec<Finding>,
}

/// All that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoctorReport {
    /// One after the other.
    pub sections: Vec<Section>,
}

impl DoctorReport {
    /// How many findings are of this level.
    pub fn count(&self, level: Level) -> usize {
        self.sections.iter().flat_map(|section| &section.findings).filter(|finding| finding.level == level).count()
    }
}

/// The report as text: a line per finding that begins with its level, and under it what to do.
pub fn text(report: &DoctorReport) -> String {
    let mut out = headline("Doctor");
    for section in &report.sections {
        let title = match section.about {
            "store" => "Store",
            "redis" => "Redis",
            _ => "Work",
        };
        let name = section.name.as_ref().map_or(String::new(), |name| format!(" {}", shown(name)));
        let _ = writeln!(out, "\n{title}{name}:\n{RULE}");
        for finding in &section.findings {
            let _ = writeln!(out, "{:<8} {}: {}", finding.level.name(), finding.check, shown(&finding.found));
            if let Some(to_do) = &finding.to_do {
                let _ = writeln!(out, "         -> {}", shown(to_do));
            }
        }
    }
    let [problems, advice] = [Level::Problem, Level::Advice].map(|level| report.count(level));
    let _ = writeln!(out, "\nproblems: {problems}, advice: {advice}");
    out
}

/// As JSON.
pub fn json(report: &DoctorReport) -> Value {
    let finding = |section: &Section, finding: &Finding| {
        json!({
            "about": section.about, "check": finding.check, "level": finding.level.name(),
            "found": finding.found, "do": finding.to_do,
        })
    };
    let name_of = |about: &str| {
        let section = report.sections.iter().find(|section| section.about == about);
        section.and_then(|section| section.name.clone())
    };
    let findings: Vec<Value> = report
        .sections
        .iter()
        .flat_map(|section| section.findings.iter().map(move |one| finding(section, one)))
        .collect();
    json!({
        "schema_version": SCHEMA_VERSION,
        "store": name_of("store"),
        "redis": name_of("redis"),
        "problems": report.count(Level::Problem),
        "advice": report.count(Level::Advice),
        "findings": findings,
    })
}

/// A clock that differs by more than this from this machine's is told of.
const CLOCK_AHEAD_US: u64 = 1_000_000;

/// A clock against this machine's.
fn clock(ahead_us: i64, uncertain_us: u64, means: &str) -> Finding {
    let by = ahead_us.unsigned_abs();
    if by.saturating_sub(uncertain_us) <= CLOCK_AHEAD_US {
        return Finding::ok("clock", format!("{} ms from this machine's, a second at most", by / 1_000));
    }
    let way = if ahead_us > 0 { "ahead of" } else { "behind" };
    Finding::advice("clock", format!("{:.1} s {way} this machine's", by as f64 / 1e6), means)
}

/// A time as people read it.
fn time(time: Duration) -> String {
    match time.as_secs() {
        0 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        seconds @ 1..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// So many bytes as people read them.
fn bytes(bytes: u64) -> String {
    match bytes {
        0..10_000_000 => format!("{} kB", bytes.div_ceil(1_000)),
        10_000_000..10_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_told_of_when_it_is_surely_off() {
        for (ahead_us, uncertain_us, level) in [
            (0, 0, Level::Ok),
            (1_000_000, 0, Level::Ok),
            (1_000_001, 0, Level::Advice),
            (-1_000_001, 0, Level::Advice),
            (1_500_000, 600_000, Level::Ok),
            (-1_700_000, 600_000, Level::Advice),
            (i64::MIN, 5, Level::Advice),
        ] {
            assert_eq!(clock(ahead_us, uncertain_us, "-").level, level, "{ahead_us} {uncertain_us}");
        }
        assert!(clock(-3_000_000, 0, "-").found.contains("3.0 s behind"));
    }

    #[test]
    fn times_and_bytes_are_told_in_their_own_units() {
        let seconds = [0, 1, 119, 120, 7_199, 7_200, 172_800].map(|seconds| time(Duration::from_secs(seconds)));
        assert_eq!(seconds, ["0.0 ms", "1 s", "119 s", "2 min", "119 min", "2 h", "2 days"]);
        assert_eq!([1, 10_000_000, 10_000_000_000].map(bytes), ["1 kB", "10 MB", "10 GB"]);
    }
}
