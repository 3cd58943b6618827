//! The figures as a Markdown page.

use std::fmt::Write as _;

use super::figures::{Figure, Figures};

/// A table for each part.
pub fn markdown(command: &str, machine: &[String], figures: &Figures) -> String {
    let mut text = format!("`{command}`\n\n");
    for line in machine {
        let _ = writeln!(text, "- {line}");
    }
    let mut part = "";
    for figure in &figures.all {
        if figure.part != part {
            part = figure.part;
            let _ =
                write!(text, "\n## {part}\n\n| what | median | least to most | compared | |\n|---|---:|---|---|---|\n");
        }
        let _ = writeln!(text, "{}", row(figure, figures));
    }
    text
}

fn row(figure: &Figure, figures: &Figures) -> String {
    let Figure { name, unit, note, .. } = figure;
    let median =
        figure.median().map_or_else(|| "not measured".to_owned(), |median| format!("{} {unit}", number(median)));
    let spread = match figure.spread() {
        Some((least, most)) if figure.samples.len() > 1 => format!("{} to {}", number(least), number(most)),
        _ => String::new(),
    };
    let compared = match (figures.ratio(figure), &figure.compared_with) {
        (Some(ratio), Some(with)) => format!("{:.0} % of {with}", ratio * 100.0),
        _ => String::new(),
    };
    format!("| {name} | {median} | {spread} | {compared} | {note} |")
}

/// Three digits at least, thousands apart.
pub fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        let digits = if value.abs() < 10.0 { 2 } else { 1 };
        return format!("{value:.digits$}");
    }
    let whole = format!("{value:.0}");
    let mut apart = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_table_for_each_part() {
        let mut figures = Figures::default();
        for (limit, product) in [(200_000.0, 150_000.0), (180_000.0, 140_000.0), (190_000.0, 160_000.0)] {
            figures.sample("Postgres", "limit", "rows/s", limit);
            figures.sample("Postgres", "product", "rows/s", product);
        }
        figures.compare("Postgres", "product", "limit");
        figures.sample("Cost", "CPU", "µs", 4.25);
        figures.note("Cost", "a peer", "rows/s", "Go is not installed");
        let page = markdown("bench drain", &["2 cores".to_owned()], &figures);
        assert_eq!(
            page,
            "`bench drain`\n\n- 2 cores\n\n\
             ## Postgres\n\n| what | median | least to most | compared | |\n|---|---:|---|---|---|\n\
             | limit | 190,000 rows/s | 180,000 to 200,000 |  |  |\n\
             | product | 150,000 rows/s | 140,000 to 160,000 | 78 % of limit |  |\n\n\
             ## Cost\n\n| what | median | least to most | compared | |\n|---|---:|---|---|---|\n\
             | CPU | 4.25 µs |  |  |  |\n\
             | a peer | not measured |  |  | Go is not installed |\n"
        );
    }

    #[test]
    fn numbers_have_their_thousands_apart() {
        let shown = [0.0, 1.234, 12.34, 123.4, 1234.0, 1_234_567.8].map(number);
        assert_eq!(shown, ["0.00", "1.23", "12.3", "123", "1,234", "1,234,568"]);
    }
}
