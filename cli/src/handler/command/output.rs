//! What a command wrote: its result and the end of its stderr.

use std::collections::VecDeque;

use serde::de::IgnoredAny;

/// How much of stderr is kept, in bytes.
const TAIL_BYTES: usize = 4096;
/// How much of stderr is kept, in lines.
const TAIL_LINES: usize = 20;
/// How deeply a result may be nested. Readers of JSON give up somewhere: serde_json at 128, jsonb by its stack.
const DEPTH: u32 = 100;

/// A command's stdout as the row's result: JSON stays as it is, other text becomes a JSON string, nothing becomes `null`.
pub(super) fn result(stdout: &[u8], limit: usize) -> Result<Box<str>, String> {
    if stdout.trim_ascii().is_empty() {
        return Ok("null".into());
    }
    let json =
        std::str::from_utf8(stdout.trim_ascii()).ok().filter(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
    let result: Box<str> = match json {
        Some(json) => json.into(),
        None => {
            let text = String::from_utf8_lossy(stdout);
            let text = text.trim_end_matches(['\n', '\r']);
            serde_json::to_string(text).map_err(|error| format!("the result cannot be kept: {error}"))?.into()
        }
    };
    if let Some(what) = refused(&result) {
        return Err(format!("the result cannot be kept: {what}"));
    }
    if result.len() > limit {
        // Only text can get here: writing it as a JSON string made it longer.
        return Err(too_large(limit));
    }
    Ok(result)
}

/// The error of a result that is too large.
pub(in crate::handler) fn too_large(limit: usize) -> String {
    format!("the result is larger than the limit of {limit} bytes: print less, or raise the limit (--max-result-bytes)")
}

/// What keeps a JSON text out of a store, if anything: Postgres takes no NUL and no half of a surrogate pair.
fn refused(json: &str) -> Option<String> {
    let bytes = json.as_bytes();
    let mut depth = 0_u32;
    let mut in_string = false;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if bytes.get(at + 1) == Some(&b'u') => match code_unit(bytes, at) {
                Some(0) => return Some(format!("it holds the character U+0000 (at byte {at})")),
                Some(0xd800..=0xdbff) if matches!(code_unit(bytes, at + 6), Some(0xdc00..=0xdfff)) => at += 11,
                Some(unit @ 0xd800..=0xdfff) => {
                    return Some(format!("it holds \\u{unit:04x}, half of a surrogate pair (at byte {at})"));
                }
                _ => at += 5,
            },
            b'\\' => at += 1,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > DEPTH {
                    return Some(format!("it is nested more than {DEPTH} levels deep"));
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    None
}

/// The code unit of a `\uXXXX` that starts at `at`.
fn code_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The end of what a command wrote on stderr.
#[derive(Debug, Default)]
pub(in crate::handler) struct Tail {
    bytes: VecDeque<u8>,
    cut: bool,
}

impl Tail {
    /// Takes the next bytes.
    pub(in crate::handler) fn push(&mut self, new: &[u8]) {
        let kept = &new[new.len().saturating_sub(TAIL_BYTES)..];
        let over = (self.bytes.len() + kept.len()).saturating_sub(TAIL_BYTES);
        self.cut |= over > 0 || kept.len() < new.len();
        self.bytes.drain(..over);
        self.bytes.extend(kept);
    }

    /// `what` as the first line, then the last lines of stderr.
    pub(in crate::handler) fn under(mut self, what: &str) -> Box<str> {
        let bytes = &*self.bytes.make_contiguous();
        let whole = match bytes.iter().position(|&byte| byte == b'\n') {
            // The first line has lost its beginning.
            Some(end) if self.cut && end + 1 < bytes.len() => &bytes[end + 1..],
            _ => bytes,
        };
        let text = String::from_utf8_lossy(whole);
        // No store keeps NUL in text.
        let text = text.trim_end().replace('\0', "\u{fffd}");
        let mut lines: Vec<&str> = text.lines().rev().take(TAIL_LINES).collect();
        lines.push(what);
        lines.reverse();
        while lines.len() > 1 && lines.last().is_some_and(|line| line.is_empty()) {
            lines.pop();
        }
        lines.join("\n").into()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_as_it_is_and_text_becomes_a_string() {
        for (stdout, expected) in [
            ("", "null"),
            (" \n", "null"),
            ("{\"b\": 1.0, \"a\":[]}\n", "{\"b\": 1.0, \"a\":[]}"),
            ("12345678901234567890.10", "12345678901234567890.10"),
            (r#""\ud83d\ude00 \\u0000""#, r#""\ud83d\ude00 \\u0000""#),
            ("hello\r\n\n", "\"hello\""),
            ("  two\nlines", "\"  two\\nlines\""),
            ("1 2", "\"1 2\""),
            ("{'a': 1}", "\"{'a': 1}\""),
        ] {
            assert_eq!(result(stdout.as_bytes(), 1000).as_deref(), Ok(expected), "{stdout:?}");
        }
        assert_eq!(result(b"a\xffb", 1000).as_deref(), Ok("\"a\u{fffd}b\""));
        assert_eq!(result(b"\"a\xff\"", 1000).as_deref(), Ok("\"\\\"a\u{fffd}\\\"\""));
    }

    #[test]
    fn what_no_store_keeps_is_refused() {
        for stdout in [&br#""a\u0000""#[..], b"a\0b", br#"{"k\u0000":1}"#] {
            assert!(result(stdout, 1000).unwrap_err().contains("U+0000"), "{stdout:?}");
        }
        for stdout in [r#""\ud800""#, r#"["\ud800\ud800\udc00"]"#, r#""\uDC00x""#, r#""\ud800\\udc00""#, r#""\ud800A""#]
        {
            assert!(result(stdout.as_bytes(), 1000).unwrap_err().contains("surrogate"), "{stdout:?}");
        }
        let deep = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(result(deep(100).as_bytes(), 1000).is_ok());
        assert!(result(deep(101).as_bytes(), 1000).unwrap_err().contains("nested"));
        assert!(result(format!("\"{}\"", "[".repeat(300)).as_bytes(), 1000).is_ok());
    }

    #[test]
    fn text_counts_as_it_is_kept() {
        assert!(result(b"\x01\x02\x03", 18).unwrap_err().contains("18 bytes"));
        assert!(result(b"\x01\x02\x03", 20).is_ok());
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let mut tail = Tail::default();
        for line in 0..10_000 {
            tail.push(format!("line {line}\n").as_bytes());
        }
        let text = tail.under("exit code 3");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 21);
        assert_eq!((lines[0], lines[1], lines[20]), ("exit code 3", "line 9980", "line 9999"));
    }

    #[test]
    fn the_tail_is_bounded_and_whole() {
        let mut tail = Tail::default();
        tail.push(&b"x".repeat(10_000));
        tail.push(b"y\n");
        let text = tail.under("w");
        assert!(text.len() <= TAIL_BYTES + 2 && text.ends_with("xy"), "{}", text.len());

        let mut tail = Tail::default();
        tail.push(&b"x".repeat(5000));
        tail.push(b"\na\0\xff\nb\n\n");
        assert_eq!(&*tail.under("w"), "w\na\u{fffd}\u{fffd}\nb");

        assert_eq!(&*Tail::default().under("w"), "w");
        let mut blank = Tail::default();
        blank.push(b"\n\n");
        assert_eq!(&*blank.under("w"), "w");
    }
}
