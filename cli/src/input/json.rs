//! What a JSON text must be for every store to keep it and give it back.

use serde_json::value::RawValue;

/// How deep lists and objects may nest. The innermost of `[[1]]` is at level 2.
pub const DEPTH_MAX: usize = 128;

/// Why a JSON text is refused. Offsets count bytes from the start of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonFault {
    /// Not JSON.
    #[error("not valid JSON at byte {offset}: {message}")]
    Syntax {
        /// Where it goes wrong.
        offset: usize,
        /// What is wrong.
        message: String,
    },
    /// A NUL character; Postgres cannot keep it, so no store does.
    #[error("a NUL character at byte {offset}")]
    Nul {
        /// The character or its escape.
        offset: usize,
        /// Written as `\u0000`.
        escaped: bool,
    },
    /// An escape from `\ud800` to `\udfff` without its partner: no character.
    #[error("half a surrogate pair at byte {offset}")]
    LoneSurrogate {
        /// The escape.
        offset: usize,
    },
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("nested deeper than {DEPTH_MAX} levels at byte {offset}")]
    TooDeep {
        /// The bracket that is too much.
        offset: usize,
    },
}

/// Whether a text is one JSON value that every store can keep. Numbers may have any size and precision, objects the same
/// key twice.
///
/// # Errors
///
/// The first thing found that stands against it.
pub fn check_json(text: &str) -> Result<(), JsonFault> {
    let bytes = text.as_bytes();
    // Before the syntax, which it would break as well: this says it clearer.
    if let Some(offset) = text.find('\0') {
        return Err(JsonFault::Nul { offset, escaped: false });
    }
    // A raw value is checked without recursion and without a look at the size of numbers.
    serde_json::from_str::<&RawValue>(text).map_err(|error| syntax(text, &error))?;

    let mut depth = 0;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(JsonFault::TooDeep { offset: at });
                }
            }
            b']' | b'}' => depth -= 1,
            b'"' => at = check_string(bytes, at + 1)?,
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Looks through the string that begins at `at`, in JSON of valid syntax; answers where its closing quote is.
fn check_string(bytes: &[u8], mut at: usize) -> Result<usize, JsonFault> {
    while let Some(length) = bytes[at..].iter().position(|byte| matches!(byte, b'"' | b'\\')) {
        at += length;
        if bytes[at] == b'"' {
            return Ok(at);
        }
        match escaped_unit(bytes, at) {
            None => at += 2,
            Some(0) => return Err(JsonFault::Nul { offset: at, escaped: true }),
            Some(0xd800..=0xdbff) if matches!(escaped_unit(bytes, at + 6), Some(0xdc00..=0xdfff)) => at += 12,
            Some(0xd800..=0xdfff) => return Err(JsonFault::LoneSurrogate { offset: at }),
            Some(_) => at += 6,
        }
    }
    Ok(bytes.len())
}

/// The UTF-16 unit of a `\uXXXX` at this place.
fn escaped_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(br"\u")?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn syntax(text: &str, error: &serde_json::Error) -> JsonFault {
    let message = error.to_string();
    // The parser appends the place, which is told in another way here.
    let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message).to_string();
    let line_start = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len).sum::<usize>();
    let offset = line_start + error.column().saturating_sub(1);
    JsonFault::Syntax { offset: offset.min(text.len()), message }
}
