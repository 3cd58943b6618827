//! Part (d): `fencepost submit` of a file, against `psql`'s `\copy` of the same rows.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::drain::per_second;
use super::figures::Figures;
use super::ground::Ground;
use super::sizes::{self, Sizes};
use crate::place::StoreKind;
use crate::postgres::{Schema, own};
use crate::process::run_fencepost;

const PART: &str = "Submit";
const SUBMIT: &str = "fencepost submit, JSON lines";
const COPY: &str = "\\copy into a table like ours";
const COPY_BARE: &str = "\\copy into a table without any index";

/// Measures it.
pub fn measure(ground: &Ground, sizes: &Sizes, figures: &mut Figures, tell: &mut dyn FnMut(&str)) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (lines, table) = (folder.path().join("rows.jsonl"), folder.path().join("rows.tsv"));
    write(&lines, sizes.rows, |line| format!("{}\n", sizes::input(line)));
    write(&table, sizes.rows, |line| format!("1\t{line}\t{}\n", sizes::input(line)));
    for _ in 0..sizes.repeats {
        for (name, took) in [
            (COPY, copy(ground, &table, "primary key (batch, line)")),
            (SUBMIT, submit(ground, StoreKind::Postgres, &lines, sizes.rows)),
            (COPY_BARE, copy(ground, &table, "check (true)")),
            ("fencepost submit, JSON lines, SQLite", submit(ground, StoreKind::Sqlite, &lines, sizes.rows)),
        ] {
            let rate = per_second(sizes.rows, took);
            figures.sample(PART, name, "rows/s", rate);
            tell(&format!("  {name}: {rate:.0} rows/s"));
        }
    }
    figures.compare(PART, SUBMIT, COPY);
    figures.compare(PART, COPY_BARE, COPY);
}

fn write(file: &Path, rows: u64, text: impl Fn(u64) -> String) {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).expect("a file"));
    for line in 1..=rows {
        out.write_all(text(line).as_bytes()).expect("room for a file");
    }
    out.flush().expect("room for a file");
}

fn submit(ground: &Ground, on: StoreKind, file: &Path, rows: u64) -> Duration {
    let site = ground.store(on);
    ground.block_on(site.settle());
    let began = Instant::now();
    let output = run_fencepost(["submit", file.to_str().expect("UTF-8"), "--store", site.url(), "--json"]);
    let took = began.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(told["rows"], rows);
    took
}

fn copy(ground: &Ground, file: &Path, constraint: &str) -> Duration {
    let schema = Schema::on(own().url());
    let name = schema.name();
    let psql = |command: &str| {
        let mut psql = Command::new(own().program("psql"));
        psql.arg(own().url()).args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", command]);
        assert!(psql.stdout(Stdio::null()).status().expect("psql starts").success(), "{command}");
    };
    psql(&format!("create schema \"{name}\""));
    let columns = "batch bigint not null, line bigint not null, input text not null";
    psql(&format!("create table \"{name}\".rows ({columns}, {constraint})"));
    ground.block_on(async {
        sqlx::raw_sql("checkpoint").execute(&mut schema.connect().await).await.expect("a checkpoint");
    });
    let began = Instant::now();
    psql(&format!("\\copy \"{name}\".rows from '{}'", file.display()));
    began.elapsed()
}
