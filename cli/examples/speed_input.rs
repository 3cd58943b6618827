//! How fast inputs are read: `cargo run --release -p fencepost --example speed_input`.

#![allow(clippy::unwrap_used)]

use fencepost::input::{Digest, InputFormat, RowReader};

fn main() {
    const ROWS: usize = 2_000_000;
    let mut airports = csv::Writer::from_writer(Vec::new());
    airports.write_record(["id", "name", "lat", "lon", "alt"]).unwrap();
    for row in 0..ROWS {
        let id = row.to_string();
        airports.write_record([id.as_str(), "Lansdowne Airport", "41.1304722", "-80.6195833", "1044"]).unwrap();
    }
    let table = airports.into_inner().unwrap();
    let texts: Vec<_> =
        RowReader::new(&table[..], "rows", InputFormat::CSV, 1 << 20).unwrap().map(Result::unwrap).collect();
    let lines = texts.join("\n");
    for (name, bytes, format) in
        [("csv", &table[..], InputFormat::CSV), ("jsonl", lines.as_bytes(), InputFormat::Jsonl)]
    {
        for digested in [false, true] {
            let start = std::time::Instant::now();
            let mut digest = Digest::new();
            for row in RowReader::new(bytes, "rows", format, 1 << 20).unwrap() {
                let row = row.unwrap();
                if digested {
                    digest.add(&row);
                }
            }
            let seconds = start.elapsed().as_secs_f64();
            let with = if digested { "with" } else { "without" };
            println!(
                "{name} {with} digest: {:.0} rows/s, {:.0} MB/s",
                ROWS as f64 / seconds,
                bytes.len() as f64 / seconds / 1e6
            );
        }
    }
}
