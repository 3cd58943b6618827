//! What it was measured on.

use std::process::Command;

use crate::postgres::own;

/// Cores, processor, versions: a line each.
pub fn describe() -> Vec<String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, model)| model.to_owned()));
    let said = |program: &std::path::Path, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let date = said("date".as_ref(), &["-u", "+%F %H:%M"]);
    let kernel = said("uname".as_ref(), &["-sr"]);
    let postgres = said(&own().program("postgres"), &["--version"]);
    let redis = said("redis-server".as_ref(), &["--version"]);
    let commit = said("git".as_ref(), &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]);
    let unknown = || "unknown".to_owned();
    vec![
        format!("{}; commit {}", date.unwrap_or_else(unknown), commit.unwrap_or_else(unknown)),
        format!("{cores} cores ({}), {}", model.unwrap_or_else(unknown), kernel.unwrap_or_else(unknown)),
        format!("{}, durable commits, {}", postgres.unwrap_or_else(unknown), super::ground::settings()),
        redis.map_or_else(unknown, |redis| redis.split(" sha").next().unwrap_or_default().to_owned()),
    ]
}
