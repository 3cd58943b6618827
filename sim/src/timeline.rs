//! A run as one HTML page that needs nothing else: who held which rows when, what broke, and where a rule was violated.
//!
//! The page's looks and behaviour are the files `timeline/page.{html,css,js}`; what they draw is [`data::Timeline`], made
//! from a [`Trace`].

mod build;
pub mod data;
mod words;

use crate::Run;
use crate::planted::PlantedBug;
use crate::schedule::Schedule;
use crate::trace::Trace;

pub use self::build::timeline;

const PAGE: &str = include_str!("timeline/page.html");
const STYLE: &str = include_str!("timeline/page.css");
const SCRIPT: &str = include_str!("timeline/page.js");

/// The page of a run that was traced.
pub fn page(schedule: &Schedule, bug: Option<PlantedBug>, run: &Run, trace: &Trace) -> String {
    let timeline = timeline(schedule, bug, run, trace);
    let data = in_script(&serde_json::to_string(&timeline).unwrap_or_default());
    let parts =
        [("{{title}}", in_text(&timeline.title)), ("{{style}}", STYLE.to_owned()), ("{{script}}", SCRIPT.to_owned())];
    let page = parts.iter().fold(PAGE.to_owned(), |page, (name, part)| page.replace(name, part));
    // Last, since nothing is to be looked for in it.
    page.replacen("{{data}}", &data, 1)
}

/// JSON that cannot end its script element, nor open a comment in it.
fn in_script(json: &str) -> String {
    json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029")
}

fn in_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_cannot_end_its_script() {
        let json = in_script(&serde_json::to_string("</script><!-- \u{2028}").unwrap());
        assert!(!json.contains('<') && !json.contains('\u{2028}'), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), "</script><!-- \u{2028}");
    }
}
