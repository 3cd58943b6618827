//! What was measured: samples of one thing, their median and spread, and what they are compared with.

use serde_json::{Value, json};

/// Samples of one thing.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Under which heading it stands.
    pub part: &'static str,
    /// What it is of.
    pub name: String,
    /// Of what unit the samples are: `rows/s`, `ms`, ...
    pub unit: &'static str,
    /// As they were measured, in order.
    pub samples: Vec<f64>,
    /// The figure of the same part that it is compared with, sample by sample: they were taken side by side.
    pub compared_with: Option<String>,
    /// What was counted beside it, or why it could not be measured.
    pub note: String,
}

impl Figure {
    /// The sample in the middle; nothing where nothing could be measured.
    pub fn median(&self) -> Option<f64> {
        median(&self.samples)
    }

    /// The least and the largest.
    pub fn spread(&self) -> Option<(f64, f64)> {
        let least = self.samples.iter().copied().reduce(f64::min)?;
        Some((least, self.samples.iter().copied().reduce(f64::max)?))
    }
}

/// The sample in the middle; of an even number the lower one of the two.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len().checked_sub(1)? / 2).copied()
}

/// All that was measured.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// In the order of the parts.
    pub all: Vec<Figure>,
}

impl Figures {
    /// Adds a sample to the figure of this name, which is made where it is not there.
    pub fn sample(&mut self, part: &'static str, name: &str, unit: &'static str, sample: f64) {
        self.figure(part, name, unit).samples.push(sample);
    }

    /// Says with what a figure is compared.
    pub fn compare(&mut self, part: &'static str, name: &str, with: &str) {
        if let Some(figure) = self.all.iter_mut().find(|figure| figure.part == part && figure.name == name) {
            figure.compared_with = Some(with.to_owned());
        }
    }

    /// Says something of a figure; what was said before is replaced.
    pub fn note(&mut self, part: &'static str, name: &str, unit: &'static str, note: impl Into<String>) {
        self.figure(part, name, unit).note = note.into();
    }

    fn figure(&mut self, part: &'static str, name: &str, unit: &'static str) -> &mut Figure {
        let known = self.all.iter().position(|figure| figure.part == part && figure.name == name);
        let at = known.unwrap_or_else(|| {
            let (name, note) = (name.to_owned(), String::new());
            self.all.push(Figure { part, name, unit, samples: Vec::new(), compared_with: None, note });
            self.all.len() - 1
        });
        &mut self.all[at]
    }

    /// The figure of this name.
    pub fn get(&self, part: &str, name: &str) -> Option<&Figure> {
        self.all.iter().find(|figure| figure.part == part && figure.name == name)
    }

    /// The median of the ratios of samples that were taken side by side.
    pub fn ratio(&self, figure: &Figure) -> Option<f64> {
        let with = self.get(figure.part, figure.compared_with.as_deref()?)?;
        let ratios: Vec<f64> = figure.samples.iter().zip(&with.samples).map(|(a, b)| a / b).collect();
        median(&ratios)
    }

    /// All of it as JSON.
    pub fn json(&self) -> Value {
        let figure = |figure: &Figure| {
            json!({
                "part": figure.part, "name": figure.name, "unit": figure.unit, "samples": figure.samples,
                "compared_with": figure.compared_with, "ratio": self.ratio(figure), "note": figure.note,
            })
        };
        self.all.iter().map(figure).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_of_what_was_taken_side_by_side() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), Some(2.0));
        let mut figures = Figures::default();
        // The machine slowed down: both by half, so the ratio stays.
        for (limit, product) in [(100.0, 80.0), (50.0, 40.0), (60.0, 30.0)] {
            figures.sample("p", "limit", "rows/s", limit);
            figures.sample("p", "product", "rows/s", product);
        }
        figures.compare("p", "product", "limit");
        let product = figures.get("p", "product").expect("it was measured");
        assert_eq!(figures.ratio(product), Some(0.8));
        assert_eq!(product.spread(), Some((30.0, 80.0)));
        assert_eq!(figures.ratio(figures.get("p", "limit").expect("it was measured")), None);
    }
}
