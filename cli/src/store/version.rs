//! Which version a store's tables are at, and what moves them on to this program's.

/// A step from one version of the tables to the next. The n-th makes version n.
#[derive(Debug, Clone, Copy)]
pub(super) struct Migration {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
}

/// Where a store stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreVersion {
    /// The version of its tables.
    pub store: u32,
    /// The version that this program makes.
    pub program: u32,
    /// What is to be done, in order: the version that each step makes, and its name. A store that a newer program has moved, but
    /// that this one may still use, needs nothing.
    pub pending: Vec<(u32, &'static str)>,
}

impl StoreVersion {
    /// A version without a migration of its own changes functions alone.
    pub(super) fn new(store: u32, program: u32, migrations: &[Migration]) -> Self {
        let mut names = migrations.iter().map(|migration| migration.name);
        let numbered = (1..=program).map(|number| (number, names.next().unwrap_or("functions")));
        Self { store, program, pending: numbered.filter(|(number, _)| *number > store).collect() }
    }
}
