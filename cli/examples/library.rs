//! A handler in Rust: typed input and result.
//!
//! `cargo run --release -p fencepost --example library`

use fencepost::handler::typed::{Context, RowError, RowHandler, Typed};
use fencepost::load;
use fencepost::store::loading::BatchSpec;
use fencepost::store::sqlite::SqliteStore;
use fencepost::store::{OpenMode, Reads};
use fencepost::worker::{RunningWorker, WorkerConfig};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Airport {
    name: String,
    altitude_ft: f64,
}

#[derive(Serialize)]
struct Altitude {
    name: String,
    altitude_m: f64,
}

/// Converts feet to metres.
struct ToMetres;

impl RowHandler for ToMetres {
    type Input = Airport;
    type Output = Altitude;

    async fn run(&self, context: Context, input: Airport) -> Result<Altitude, RowError> {
        if input.altitude_ft.is_nan() {
            // No repeat would mend it. `?` on any error means: try again.
            return Err(RowError::failed("no altitude"));
        }
        println!("row {} under token {}: {}", context.line, context.token, input.name);
        Ok(Altitude { name: input.name, altitude_m: input.altitude_ft * 0.3048 })
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let place = std::env::temp_dir().join(format!("fencepost-library-{}", std::process::id()));
    std::fs::create_dir(&place)?;
    let file = place.join("rows.db");
    let store = SqliteStore::open(&file, OpenMode::Create).await?;

    let airports = [("Lansdowne Airport", 1044.0), ("Jekyll Island Airport", 11.0)]
        .map(|(name, altitude_ft)| Airport { name: name.to_owned(), altitude_ft });
    let batch = load::values(&store, BatchSpec::new("to-metres"), Some("airports"), airports).await?.batch;

    let mut config = WorkerConfig::new(["to-metres"]);
    config.options.concurrency = 4;
    config.options.until_done = true;
    RunningWorker::on_store(store.clone(), Typed::new(ToMetres), config)?.left().await?;

    for row in store.rows(batch, None, 0, 100).await?.rows {
        println!("{} {:?}", row.line, row.outcome.and_then(|outcome| outcome.result));
    }
    std::fs::remove_dir_all(place)?;
    Ok(())
}
