//! Walks a folder of `cli/tests/corpus`. A new case is one file there: its name says what it shows, and how it begins what is
//! expected of it.

use std::path::PathBuf;

/// A file of the corpus.
pub struct Case {
    /// Its name without its ending.
    pub name: String,
    pub path: PathBuf,
}

/// All cases of a folder, by name.
pub fn cases(folder: &str) -> Vec<Case> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(folder);
    let entries = std::fs::read_dir(&folder).expect("the corpus is there");
    let mut cases: Vec<Case> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let name = path.file_stem().expect("a name").to_str().expect("UTF-8").to_owned();
            Case { name, path }
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!cases.is_empty(), "no case in {}", folder.display());
    cases
}

/// So many cases of a property are drawn, unless `PROPTEST_CASES` says how many.
pub fn draws(cases: u32) -> proptest::test_runner::Config {
    let default = proptest::test_runner::Config::default();
    if std::env::var_os("PROPTEST_CASES").is_some() {
        default
    } else {
        proptest::test_runner::Config { cases, ..default }
    }
}
