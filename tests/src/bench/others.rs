//! Part (e): other systems on the same server, by turns with the product.

use std::path::{Path, PathBuf};

use super::drain::{self, per_second, workers_name};
use super::figures::Figures;
use super::ground::Ground;
use super::sizes::{INPUT_BYTES, Sizes};
use super::{original, peers};
use crate::place::StoreKind;
use crate::postgres::own;
use crate::redis::{Keeps, Server};

const PART: &str = "Peers";
const ORIGINAL: &str = "the original's round trips, one process";

/// Where peers are installed: kept, so that the next run need not do it again.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers")
}

/// Measures them.
pub fn measure(ground: &Ground, sizes: &Sizes, figures: &mut Figures, tell: &mut dyn FnMut(&str)) {
    let mut all = Vec::new();
    for peer in peers::all() {
        tell(&format!("  installing {} ({})", peer.name, peer.language));
        let name = format!("{} ({})", peer.name, peer.language);
        all.push((name, peer.install(&folder())));
    }
    let redis = Server::start(Keeps::Nothing);
    for _ in 0..sizes.repeats {
        for workers in [1, 2, 4] {
            let drain = drain::workers_drain(ground, StoreKind::Postgres, sizes.rows, workers, &[]);
            let (name, rate) = (workers_name(workers), per_second(sizes.rows, drain.took));
            figures.sample(PART, &name, "rows/s", rate);
            figures.note(PART, &name, "rows/s", format!("keeps the outcome; {}", drain.verified));
            tell(&format!("  {name}: {rate:.0} rows/s"));
        }
        for (name, installed) in &mut all {
            let Ok(ready) = installed else { continue };
            match ready.run(own().url(), sizes.peer_jobs, INPUT_BYTES) {
                Ok(run) => {
                    let rate = run.rows_per_second();
                    figures.sample(PART, name, "rows/s", rate);
                    let keeps = if run.keeps_outcome { "keeps" } else { "does not keep" };
                    figures.note(
                        PART,
                        name,
                        "rows/s",
                        format!("{}; {keeps} the outcome; {}", run.version, run.setting),
                    );
                    tell(&format!("  {name}: {rate:.0} jobs/s"));
                }
                Err(why) => *installed = Err(why),
            }
        }
        let rows = sizes.command_rows;
        let rate = per_second(rows, original::drain(ground, &redis, rows));
        figures.sample(PART, ORIGINAL, "rows/s", rate);
        tell(&format!("  {ORIGINAL}: {rate:.0} rows/s"));
    }
    for (name, installed) in &all {
        if let Err(why) = installed {
            figures.note(PART, name, "rows/s", why.trim().replace('\n', " "));
        }
    }
    let of_peers = all.iter().filter_map(|(name, _)| Some((figures.get(PART, name)?.median()?, name)));
    if let Some((_, fastest)) = of_peers.max_by(|(one, _), (other, _)| one.total_cmp(other)) {
        for workers in [1, 2, 4] {
            figures.compare(PART, &workers_name(workers), fastest);
        }
    }
}
