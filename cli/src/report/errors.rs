//! `errors`: failed rows by kind of error.

use std::collections::HashMap;
use std::fmt::Write;

use fencepost_core::BatchId;
use serde_json::{Value, json};

use super::{SCHEMA_VERSION, headline, shown};

/// So many kinds are told apart; errors of further ones are counted together. With what an error may hold, this bounds memory.
pub const KINDS_MAX: usize = 200;

/// A kind is at most so many characters of an error's first line.
const KIND_CHARS_MAX: usize = 200;

/// A kind of error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kind {
    /// The errors' first line, without what differs from row to row.
    pub kind: String,
    /// How many rows failed so.
    pub count: u64,
    /// The first of them.
    pub line: u64,
    /// Its error, whole.
    pub error: Box<str>,
}

/// Errors sorted into kinds as they come.
#[derive(Debug, Default)]
pub struct Kinds {
    places: HashMap<String, usize>,
    kinds: Vec<Kind>,
    other: u64,
}

impl Kinds {
    /// Adds a row's error.
    pub fn add(&mut self, line: u64, error: Box<str>) {
        let kind = kind_of(&error);
        if let Some(kind) = self.places.get(&kind).and_then(|place| self.kinds.get_mut(*place)) {
            kind.count += 1;
        } else if self.kinds.len() < KINDS_MAX {
            self.places.insert(kind.clone(), self.kinds.len());
            self.kinds.push(Kind { kind, count: 1, line, error });
        } else {
            self.other += 1;
        }
    }

    /// The kinds, the most frequent first, and how many errors were of others.
    pub fn finish(mut self) -> (Vec<Kind>, u64) {
        self.kinds.sort_by_key(|kind| (std::cmp::Reverse(kind.count), kind.line));
        (self.kinds, self.other)
    }
}

/// What kind an error is of: its first line that is not empty, with numbers, hexadecimal texts, UUIDs and quoted texts replaced.
pub fn kind_of(error: &str) -> String {
    let line = error.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let (mut kind, mut rest, mut before) = (String::new(), line, ' ');
    while let Some(char) = rest.chars().next() {
        if kind.len() >= 4 * KIND_CHARS_MAX {
            break;
        }
        if let Some(length) = quoted_bytes(rest, before) {
            let (inner, after) = rest.split_at(length);
            let mark = inner.chars().next().unwrap_or('"');
            kind.extend([mark, '_', mark]);
            (rest, before) = (after, mark);
        } else if char.is_ascii_alphanumeric() {
            let length = rest.find(|char: char| !char.is_ascii_alphanumeric()).unwrap_or(rest.len());
            let length = uuid_bytes(rest).unwrap_or(length);
            let (word, after) = rest.split_at(length);
            mask_word(&mut kind, word);
            (rest, before) = (after, 'a');
        } else {
            kind.push(char);
            (rest, before) = (&rest[char.len_utf8()..], char);
        }
    }
    // One word may be longer than all of it.
    if let Some((end, _)) = kind.char_indices().nth(KIND_CHARS_MAX) {
        kind.truncate(end);
        kind.push_str("...");
    }
    kind
}

/// How long the quoted text is that stands at the beginning, quotes included. An apostrophe inside a word quotes nothing.
fn quoted_bytes(text: &str, before: char) -> Option<usize> {
    let mark = text.chars().next().filter(|mark| matches!(mark, '"' | '\'' | '`'))?;
    if before.is_alphanumeric() {
        return None;
    }
    let inner = &text[1..];
    let end = inner.find(mark)?;
    Some(end + 2)
}

/// How long the UUID is that stands at the beginning, if one does.
fn uuid_bytes(text: &str) -> Option<usize> {
    const GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
    let bytes = text.as_bytes();
    let mut at = 0;
    for (place, length) in GROUPS.into_iter().enumerate() {
        if place > 0 {
            at += usize::from(bytes.get(at) == Some(&b'-'));
        }
        let group = bytes.get(at..at + length)?;
        if !group.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        at += length;
    }
    let goes_on = bytes.get(at).is_some_and(u8::is_ascii_alphanumeric);
    // Four dashes, or it is a long hexadecimal text.
    (at == 36 && !goes_on).then_some(at)
}

/// Fewer hexadecimal digits than this may be a word.
const HEX_DIGITS_MIN: usize = 8;

fn mask_word(kind: &mut String, word: &str) {
    let has_digit = word.bytes().any(|byte| byte.is_ascii_digit());
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let prefixed = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")).is_some_and(is_hex);
    if !has_digit {
        kind.push_str(word);
    } else if word.len() == 36 && word.contains('-') {
        kind.push_str("UUID");
    } else if word.bytes().all(|byte| byte.is_ascii_digit()) {
        kind.push('N');
    } else if prefixed || (word.len() >= HEX_DIGITS_MIN && is_hex(word)) {
        kind.push_str("HEX");
    } else {
        // A number with letters at it, such as 30s or row7.
        let mut in_number = false;
        for char in word.chars() {
            if !char.is_ascii_digit() {
                kind.push(char);
            } else if !in_number {
                kind.push('N');
            }
            in_number = char.is_ascii_digit();
        }
    }
}

/// The failed rows of a batch by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorsReport {
    /// The batch.
    pub batch: BatchId,
    /// The most frequent first.
    pub kinds: Vec<Kind>,
    /// How many errors were of further kinds.
    pub other: u64,
}

impl ErrorsReport {
    fn failed(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.count).sum::<u64>() + self.other
    }
}

/// So many kinds are shown in text.
const KINDS_SHOWN: usize = 20;

/// As text.
pub fn text(report: &ErrorsReport) -> String {
    let mut out = headline("Errors");
    let failed = report.failed();
    let _ = writeln!(out, "\nBatch: {}, failed rows: {failed}", report.batch);
    for kind in report.kinds.iter().take(KINDS_SHOWN) {
        let _ = writeln!(out, "\n{:>9} x {}", kind.count, shown(&kind.kind));
        let _ = writeln!(out, "            line {}:", kind.line);
        for line in kind.error.lines() {
            let _ = writeln!(out, "              {}", shown(line));
        }
    }
    let (more, rows) = report.kinds.iter().skip(KINDS_SHOWN).fold((0, 0), |(n, rows), kind| (n + 1, rows + kind.count));
    if more > 0 {
        let _ = writeln!(out, "\n{rows:>9} x of {more} more kinds (--json shows them)");
    }
    if report.other > 0 {
        let _ = writeln!(out, "\n{:>9} x other: more than {KINDS_MAX} kinds are not told apart", report.other);
    }
    out
}

/// As JSON.
pub fn json(report: &ErrorsReport) -> Value {
    let kinds: Vec<Value> = report
        .kinds
        .iter()
        .map(|kind| json!({ "kind": kind.kind, "count": kind.count, "line": kind.line, "error": kind.error }))
        .collect();
    json!({
        "schema_version": SCHEMA_VERSION, "batch": report.batch.to_string(), "failed": report.failed(), "kinds": kinds,
        "other": report.other,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_kinds_are_told_apart_and_no_more() {
        let mut kinds = Kinds::default();
        let word = |number: usize| {
            let letters = [number / 26, number % 26].map(|at| char::from(b"abcdefghijklmnopqrstuvwxyz"[at]));
            letters.iter().collect::<String>()
        };
        for number in 0..=KINDS_MAX {
            kinds.add(number as u64 + 1, format!("kind zz{}", word(number)).into());
        }
        kinds.add(9_999, "kind zzaa".into());
        let (kinds, other) = kinds.finish();
        assert_eq!((kinds.len(), other), (KINDS_MAX, 1));
        assert_eq!((kinds[0].count, kinds[0].line), (2, 1), "the most frequent first, by its first line");
    }

    #[test]
    fn a_kind_is_short_however_long_a_word_is() {
        let kind = kind_of(&"x".repeat(100_000));
        assert_eq!((kind.chars().count(), kind.ends_with("...")), (KIND_CHARS_MAX + 3, true));
    }
}
