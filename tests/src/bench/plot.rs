//! The rates as bars, in one SVG that needs nothing else.

use std::fmt::Write as _;

use super::figures::{Figure, Figures};
use super::page::number;

const WIDTH: f64 = 880.0;
const LEFT: f64 = 330.0;
const BAR: f64 = 18.0;
const STEP: f64 = 26.0;
const TITLE: f64 = 40.0;
/// Room for a number behind the longest bar.
const RIGHT: f64 = 110.0;

/// All figures of rates, part by part: a bar to the median, a line from the least to the most.
pub fn svg(figures: &Figures) -> String {
    let rates: Vec<&Figure> =
        figures.all.iter().filter(|figure| figure.unit == "rows/s" && figure.median().is_some()).collect();
    let mut body = String::new();
    let (mut y, mut part) = (10.0, "");
    for figure in &rates {
        if figure.part != part {
            part = figure.part;
            y += TITLE;
            let _ = writeln!(body, r#"<text x="10" y="{:.0}" class="part">{}</text>"#, y - 12.0, escaped(part));
        }
        let of_part = rates.iter().filter(|other| other.part == part);
        let most = of_part.filter_map(|other| other.spread()).fold(0.0, |most, (_, upper)| f64::max(most, upper));
        let scale = (WIDTH - LEFT - RIGHT) / most.max(f64::MIN_POSITIVE);
        let (Some(median), Some((least, upper))) = (figure.median(), figure.spread()) else { continue };
        let middle = y + BAR / 2.0;
        let _ = writeln!(
            body,
            r#"<text x="{:.0}" y="{:.0}" class="name">{}</text><rect x="{LEFT}" y="{y:.0}" width="{:.1}" height="{BAR}" class="{}"/><line x1="{:.1}" x2="{:.1}" y1="{middle:.0}" y2="{middle:.0}"/><text x="{:.1}" y="{:.0}">{}</text>"#,
            LEFT - 8.0,
            middle + 4.0,
            escaped(&figure.name),
            median * scale,
            if figure.compared_with.is_some() { "ours" } else { "measure" },
            LEFT + least * scale,
            LEFT + upper * scale,
            LEFT + upper * scale + 8.0,
            middle + 4.0,
            number(median),
        );
        y += STEP;
    }
    let height = y + 10.0;
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" font-family="sans-serif" font-size="12">
<style>.name{{text-anchor:end}}.part{{font-weight:bold;font-size:14px}}.ours{{fill:#2a6fb0}}.measure{{fill:#b8c4ce}}line{{stroke:#222;stroke-width:1.5}}text{{fill:#222}}</style>
<rect width="100%" height="100%" fill="white"/>
{body}</svg>
"#
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_median() {
        let mut figures = Figures::default();
        figures.sample("A & B", "limit", "rows/s", 200.0);
        figures.sample("A & B", "product", "rows/s", 100.0);
        figures.sample("A & B", "memory", "MB", 7.0);
        let plot = svg(&figures);
        let full = WIDTH - LEFT - RIGHT;
        assert!(plot.contains(&format!(r#"width="{full:.1}""#)), "{plot}");
        assert!(plot.contains(&format!(r#"width="{:.1}""#, full / 2.0)), "{plot}");
        assert!(plot.contains("A &amp; B") && !plot.contains("memory"), "{plot}");
    }
}
