//! Sets of lines, kept as ranges.

use std::fmt;

/// Lines `first..=last` of a batch; `first <= last`, both 1-based.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineRange {
    /// The first line.
    pub first: u64,
    /// The last line, which is in the range.
    pub last: u64,
}

impl LineRange {
    /// How many lines.
    pub const fn count(self) -> u64 {
        self.last - self.first + 1
    }
}

impl fmt::Debug for LineRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

/// A set of lines as ordered ranges that neither touch nor overlap.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct LineSet {
    ranges: Vec<LineRange>,
}

impl LineSet {
    /// No lines.
    pub const fn new() -> Self {
        Self { ranges: Vec::new() }
    }

    /// Lines `first..=last`; empty where `first > last`.
    pub fn range(first: u64, last: u64) -> Self {
        let ranges = if first <= last { vec![LineRange { first, last }] } else { Vec::new() };
        Self { ranges }
    }

    /// One line.
    pub fn single(line: u64) -> Self {
        Self::range(line, line)
    }

    /// Reads ranges back as a store kept them. `None` where they are not ordered, touching, or empty.
    pub fn from_ranges(ranges: impl IntoIterator<Item = (u64, u64)>) -> Option<Self> {
        let mut set = Self::new();
        for (first, last) in ranges {
            let after = set.ranges.last().map_or(0, |range| range.last + 1);
            // No line is so far out: a damaged record.
            if last == u64::MAX || first > last || first < after || (first == after && !set.is_empty()) {
                return None;
            }
            set.ranges.push(LineRange { first, last });
        }
        Some(set)
    }

    /// The ranges in order.
    pub fn ranges(&self) -> &[LineRange] {
        &self.ranges
    }

    /// Whether there is no line.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many lines.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|range| range.count()).sum()
    }

    /// The smallest line.
    pub fn first(&self) -> Option<u64> {
        self.ranges.first().map(|range| range.first)
    }

    /// The largest line.
    pub fn last(&self) -> Option<u64> {
        self.ranges.last().map(|range| range.last)
    }

    /// Whether the line is in the set.
    pub fn contains(&self, line: u64) -> bool {
        self.position(line).is_ok()
    }

    /// All lines in order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.ranges.iter().flat_map(|range| range.first..=range.last)
    }

    /// Where the range with the line is, or where it would be.
    fn position(&self, line: u64) -> Result<usize, usize> {
        let at = self.ranges.partition_point(|range| range.last < line);
        match self.ranges.get(at) {
            Some(range) if range.first <= line => Ok(at),
            _ => Err(at),
        }
    }

    /// Adds a line; false where it was there.
    pub fn insert(&mut self, line: u64) -> bool {
        let Err(at) = self.position(line) else { return false };
        let touches_left = at > 0 && self.ranges[at - 1].last + 1 == line;
        let touches_right = self.ranges.get(at).is_some_and(|range| range.first == line + 1);
        match (touches_left, touches_right) {
            (true, true) => {
                self.ranges[at - 1].last = self.ranges[at].last;
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at - 1].last = line,
            (false, true) => self.ranges[at].first = line,
            (false, false) => self.ranges.insert(at, LineRange { first: line, last: line }),
        }
        true
    }

    /// Takes a line out; false where it was not there.
    pub fn remove(&mut self, line: u64) -> bool {
        let Ok(at) = self.position(line) else { return false };
        let range = self.ranges[at];
        match (range.first == line, range.last == line) {
            (true, true) => {
                self.ranges.remove(at);
            }
            (true, false) => self.ranges[at].first = line + 1,
            (false, true) => self.ranges[at].last = line - 1,
            (false, false) => {
                self.ranges[at].last = line - 1;
                self.ranges.insert(at + 1, LineRange { first: line + 1, last: range.last });
            }
        }
        true
    }

    /// The union.
    pub fn union(&self, other: &Self) -> Self {
        Self::covering(self.ranges.iter().chain(&other.ranges).copied().collect())
    }

    /// The lines of all these ranges, none of them empty, in any order.
    pub fn covering(mut all: Vec<LineRange>) -> Self {
        all.sort_unstable();
        let mut ranges: Vec<LineRange> = Vec::with_capacity(all.len());
        for range in all {
            match ranges.last_mut() {
                Some(before) if range.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(range.last)
                }
                _ => ranges.push(range),
            }
        }
        Self { ranges }
    }

    /// The lines that are in both.
    pub fn intersection(&self, other: &Self) -> Self {
        let (mut left, mut right) = (self.ranges.as_slice(), other.ranges.as_slice());
        let mut ranges = Vec::new();
        while let ([a, ..], [b, ..]) = (left, right) {
            let (first, last) = (a.first.max(b.first), a.last.min(b.last));
            if first <= last {
                ranges.push(LineRange { first, last });
            }
            if a.last < b.last { left = &left[1..] } else { right = &right[1..] }
        }
        Self { ranges }
    }

    /// The lines that are in this set and not in the other.
    pub fn difference(&self, other: &Self) -> Self {
        let mut ranges = Vec::new();
        let mut cuts = other.ranges.as_slice();
        for range in &self.ranges {
            let mut first = range.first;
            while let [cut, rest @ ..] = cuts {
                if cut.last < first {
                    cuts = rest;
                    continue;
                }
                if cut.first > range.last {
                    break;
                }
                if cut.first > first {
                    ranges.push(LineRange { first, last: cut.first - 1 });
                }
                first = cut.last + 1;
                if cut.last > range.last {
                    break;
                }
                cuts = rest;
            }
            if first <= range.last {
                ranges.push(LineRange { first, last: range.last });
            }
        }
        Self { ranges }
    }

    /// Splits off the first `count` lines: (they, the rest).
    pub fn split_first(&self, count: u64) -> (Self, Self) {
        let (mut head, mut tail) = (Self::new(), Self::new());
        let mut wanted = count;
        for &range in &self.ranges {
            let taken = wanted.min(range.count());
            wanted -= taken;
            if taken > 0 {
                head.ranges.push(LineRange { first: range.first, last: range.first + taken - 1 });
            }
            if taken < range.count() {
                tail.ranges.push(LineRange { first: range.first + taken, last: range.last });
            }
        }
        (head, tail)
    }
}

impl FromIterator<u64> for LineSet {
    fn from_iter<I: IntoIterator<Item = u64>>(lines: I) -> Self {
        let mut lines: Vec<u64> = lines.into_iter().collect();
        lines.sort_unstable();
        let mut ranges: Vec<LineRange> = Vec::new();
        for line in lines {
            match ranges.last_mut() {
                Some(range) if line <= range.last + 1 => range.last = range.last.max(line),
                _ => ranges.push(LineRange { first: line, last: line }),
            }
        }
        Self { ranges }
    }
}

impl fmt::Debug for LineSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.ranges).finish()
    }
}
