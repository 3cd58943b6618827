//! The benchmark: what the product does in a second, beside what its store could do at most and what others do, all in one run and by
//! turns, every run of it verified.
//!
//! | looking for | it is in |
//! |---|---|
//! | which parts there are, and how large | [`sizes`], [`all`] |
//! | servers and places that all parts use | [`ground`] |
//! | what a measurement is, medians and spread | [`figures`] |
//! | the store-only loop: the limit | [`limit`] |
//! | workers with a handler that does nothing | [`drain`], as processes [`worker`] |
//! | stream and command handlers | [`handlers`] |
//! | submit against `\copy` | [`submit`] |
//! | other systems | [`others`], whose programs are [`peers`], and the one that ours descends from [`original`] |
//! | many rows in the table, vacuum, an old snapshot | [`growth`] |
//! | from submit to start, from end to outcome | [`latency`] |
//! | CPU, memory, WAL, commands, an idle worker | [`cost`] |
//! | the page and the plot | [`page`], [`plot`] |

pub mod cost;
pub mod drain;
pub mod figures;
pub mod ground;
pub mod growth;
pub mod handlers;
pub mod latency;
pub mod limit;
pub mod machine;
pub mod original;
pub mod others;
pub mod page;
pub mod peers;
pub mod plot;
pub mod processes;
pub mod sizes;
pub mod submit;
pub mod verified;
pub mod worker;

use self::figures::Figures;
use self::ground::Ground;
use self::sizes::{Part, Sizes};

/// Runs these parts, and says what each came to as soon as it is there.
pub fn all(parts: &[Part], sizes: &Sizes, tell: &mut dyn FnMut(&str)) -> Figures {
    let ground = Ground::new();
    let mut figures = Figures::default();
    for part in parts {
        tell(&format!("{part:?}"));
        match part {
            Part::Drain => drain::measure(&ground, sizes, &mut figures, tell),
            Part::Handlers => handlers::measure(&ground, sizes, &mut figures, tell),
            Part::Submit => submit::measure(&ground, sizes, &mut figures, tell),
            Part::Peers => others::measure(&ground, sizes, &mut figures, tell),
            Part::Growth => growth::measure(&ground, sizes, &mut figures, tell),
            Part::Latency => latency::measure(&ground, sizes, &mut figures, tell),
            Part::Cost => cost::measure(&ground, sizes, &mut figures, tell),
        }
    }
    figures
}
