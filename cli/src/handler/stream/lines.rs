//! Cuts what a child writes into lines.

/// How much is read at once, at least.
const READ_SIZE: usize = 64 << 10;
/// A buffer that had to grow beyond this for a long line is made smaller again.
const KEPT: usize = 1 << 20;

/// A line is longer than it may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLong;

/// What was read and is not a whole line yet, with the lines that are.
#[derive(Debug)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to here there is no further line end.
    searched: usize,
    limit: usize,
}

impl Lines {
    /// Lines of at most `limit` bytes without their end.
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, searched: 0, limit }
    }

    /// Where the next bytes go, behind those that are there.
    pub(super) fn space(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.bytes.len() < READ_SIZE && self.bytes.capacity() > KEPT {
            self.bytes.shrink_to(READ_SIZE);
        }
        self.bytes.reserve(READ_SIZE);
        &mut self.bytes
    }

    /// The next whole line without its end, if there is one.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, TooLong> {
        let end = self.bytes[self.searched..].iter().position(|&byte| byte == b'\n').map(|at| self.searched + at);
        let (start, length) = (self.start, end.unwrap_or(self.bytes.len()) - self.start);
        if length > self.limit {
            return Err(TooLong);
        }
        let Some(end) = end else {
            self.searched = self.bytes.len();
            return Ok(None);
        };
        self.start = end + 1;
        self.searched = end + 1;
        Ok(Some(&self.bytes[start..end]))
    }

    /// What is there of a line without an end.
    pub(super) fn rest(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(lines: &mut Lines) -> Vec<String> {
        let mut found = Vec::new();
        while let Ok(Some(line)) = lines.next() {
            found.push(String::from_utf8_lossy(line).into_owned());
        }
        found
    }

    #[test]
    fn lines_come_whole_however_they_are_read() {
        let mut lines = Lines::new(100);
        let mut found = Vec::new();
        for piece in ["a", "b\n\nc", "", "d\ne\n", "f"] {
            lines.space().extend_from_slice(piece.as_bytes());
            found.extend(all(&mut lines));
        }
        assert_eq!(found, ["ab", "", "cd", "e"]);
        assert_eq!(lines.rest(), b"f");
    }

    #[test]
    fn a_line_that_is_too_long_is_told_before_its_end() {
        let mut lines = Lines::new(3);
        lines.space().extend_from_slice(b"abc\n");
        assert_eq!(lines.next(), Ok(Some(&b"abc"[..])));
        lines.space().extend_from_slice(b"abc");
        assert_eq!(lines.next(), Ok(None));
        lines.space().extend_from_slice(b"d");
        assert_eq!(lines.next(), Err(TooLong));
        let mut lines = Lines::new(3);
        lines.space().extend_from_slice(b"abcd\n");
        assert_eq!(lines.next(), Err(TooLong));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_are_the_lines_between_line_ends(
            pieces in prop::collection::vec("[ab\n]{0,6}", 0..12),
            limit in 1_usize..8,
        ) {
            let (mut lines, mut found, mut too_long) = (Lines::new(limit), Vec::new(), false);
            for piece in &pieces {
                lines.space().extend_from_slice(piece.as_bytes());
                found.extend(all(&mut lines));
                too_long |= lines.next() == Err(TooLong);
                if too_long {
                    break;
                }
            }
            let text = pieces.concat();
            let mut expected: Vec<&str> = text.split('\n').collect();
            let is_long = expected.iter().position(|line| line.len() > limit);
            prop_assert_eq!(too_long, is_long.is_some());
            let rest = expected.pop().unwrap_or_default();
            expected.truncate(is_long.unwrap_or(usize::MAX));
            prop_assert_eq!(found, expected);
            prop_assert!(too_long || lines.rest() == rest.as_bytes());
        }
    }
}
