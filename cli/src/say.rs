//! Lines for people, on stderr. One that cannot be written (a full disk, a reader that went away) is lost: words must
//! stop no work.

use std::fmt::Arguments;
use std::io::Write;

use crate::visible::{visible_json, visible_lines};

/// Writes a line to stderr, in one piece, if that can be done. Whatever stands in it, the terminal only shows it.
pub(crate) fn line(text: Arguments<'_>) {
    write(&visible_lines(&text.to_string()));
}

/// Writes a line of JSON to stderr, in the same way. It stays JSON.
pub(crate) fn json(json: &str) {
    write(&visible_json(json));
}

fn write(line: &str) {
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}

/// As `eprintln!`, without its panic.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}
pub(crate) use say;
