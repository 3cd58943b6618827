//! Asking back before what cannot be undone.

use std::io::{BufRead, IsTerminal, Write, stderr, stdin};

use super::args::Global;
use super::failure::{Exit, Failure};
use crate::say::say;

/// What a person said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// Go on.
    Yes,
    /// Do nothing.
    No,
}

/// Says what would be done, and asks whether to go on, unless that was said on the command line. Where nobody can be asked, nothing
/// is done.
pub fn ask(global: &Global, yes: bool, what: &str) -> Result<Said, Failure> {
    if yes {
        if !global.quiet {
            say!("{what}");
        }
        return Ok(Said::Yes);
    }
    if !stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, format!("{what} Nothing was done: nobody can be asked here"))
            .help("say --yes to do it without being asked"));
    }
    let cannot_ask = |error| Failure::new(Exit::Unexpected, "nothing was done: cannot ask").because(error);
    let mut terminal = stderr().lock();
    terminal
        .write_all(format!("{what} Go on? [y/N] ").as_bytes())
        .and_then(|()| terminal.flush())
        .map_err(cannot_ask)?;
    let mut answer = String::new();
    stdin().lock().read_line(&mut answer).map_err(cannot_ask)?;
    Ok(if is_yes(&answer) { Said::Yes } else { Said::No })
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// `1 row`, `8 rows`.
pub fn rows(count: u64) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        for answer in ["y\n", "Y\n", "yes\n", " YES \n"] {
            assert!(is_yes(answer), "{answer:?}");
        }
        for answer in ["", "\n", "n\n", "no\n", "yep\n", "y n\n"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}
