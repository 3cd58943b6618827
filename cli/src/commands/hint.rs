//! Commands that a hint or an error names: they are to be copied and run, so they are complete.

use super::args::Global;
use crate::masked::masked;
pub use crate::report::quoted;
use crate::store::StoreUrl;

/// The store as an option to put behind a command, with a space before it, where one was typed: without a password. What file
/// and environment say they say to the next command, too.
pub fn store_option(global: &Global) -> String {
    let Some(name) = global.store.as_deref().filter(|_| global.store_is_typed) else { return String::new() };
    let shown = match name.parse() {
        Ok(StoreUrl::Postgres(url)) => url.to_string(),
        Ok(StoreUrl::Sqlite(_)) => name.to_owned(),
        Err(_) => masked(name),
    };
    format!(" --store {}", quoted(&shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_shown_as_it_is_typed_and_without_a_password() {
        let option = |store: Option<&str>| {
            let store = store.map(str::to_owned);
            store_option(&Global { store, store_is_typed: true, config: None, quiet: false, only_flags: false })
        };
        assert_eq!(option(None), "");
        for (name, shown) in [
            ("rows.db", "rows.db"),
            ("my rows.db", "'my rows.db'"),
            ("it's.db", r"'it'\''s.db'"),
            ("postgres://u@host:5432/rows", "postgres://u@host:5432/rows"),
            ("postgres://u:secret@host/rows", "'postgres://u:***@host/rows'"),
            ("postgres://host/rows?schema=a&pooler=transaction", "'postgres://host/rows?schema=a&pooler=transaction'"),
        ] {
            assert_eq!(option(Some(name)), format!(" --store {shown}"));
        }
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (text, word) in [
            ("rows.db", "rows.db"),
            ("/a/rows-1.db", "/a/rows-1.db"),
            (
                "postgres://u@host:1/d?schema=a&pooler=transaction",
                "'postgres://u@host:1/d?schema=a&pooler=transaction'",
            ),
            ("it's $HOME", r"'it'\''s $HOME'"),
            ("~/rows.db", "'~/rows.db'"),
            ("", "''"),
        ] {
            assert_eq!(quoted(text), word);
            let said = std::process::Command::new("sh").args(["-c", &format!("printf %s {word}")]).output();
            assert_eq!(said.expect("a shell").stdout, text.as_bytes());
        }
    }
}
