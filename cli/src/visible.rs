//! Texts of others for people: what a terminal would obey instead of showing it is escaped.

use std::borrow::Cow;

/// A text on one line: nothing in it moves the cursor, ends the line, or turns what stands around it the other way round.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, is_obeyed)
}

/// The same for several lines.
pub(crate) fn visible_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |char| is_obeyed(char) && char != '\n')
}

/// JSON on one line, still JSON and of the same meaning: such characters stand in its texts alone, where it has an escape for each.
pub(crate) fn visible_json(json: &str) -> Cow<'_, str> {
    escaped_as(json, is_obeyed, |char| format!("\\u{:04x}", u32::from(char)))
}

fn escaped(text: &str, is_meant: fn(char) -> bool) -> Cow<'_, str> {
    escaped_as(text, is_meant, |char| char.escape_default().to_string())
}

fn escaped_as(text: &str, is_meant: fn(char) -> bool, escape: fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(is_meant) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|char| if is_meant(char) { escape(char) } else { char.to_string() }).collect())
}

/// Control characters, line and paragraph separators, and marks of direction.
fn is_obeyed(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{2028}' | '\u{2029}' | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_all_else_is_kept() {
        for (text, shown) in [
            ("a\u{1b}[2J\r\n\tb\u{7f}\u{9b}", "a\\u{1b}[2J\\r\\n\\tb\\u{7f}\\u{9b}"),
            ("\u{202e}gpj.exe\u{2066}\u{2028}\u{200f}", "\\u{202e}gpj.exe\\u{2066}\\u{2028}\\u{200f}"),
            ("é 👩\u{200d}🚀 שלום \\n", "é 👩\u{200d}🚀 שלום \\n"),
        ] {
            assert_eq!(visible(text), shown);
        }
        let texts = serde_json::json!({ "error": "\u{1b}\n\u{9b}\u{2028}\u{200f}\u{202e}\u{61c} שלום" });
        let shown = visible_json(&texts.to_string()).into_owned();
        assert_eq!(shown.find(is_obeyed), None, "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), texts);
        assert_eq!(visible_lines("error:\u{1b}\n  cause: a\tb"), "error:\\u{1b}\n  cause: a\\tb");
    }
}
