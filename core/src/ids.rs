//! Identities: batches, leases, tokens, requests.

use std::fmt;
use std::str::FromStr;

/// Crockford's base 32 in lower case: no `i`, `l`, `o`, `u`, so that ids survive being read aloud or typed.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

fn encode(mut value: u64, digits: usize, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [b'0'; 13];
    for slot in text[..digits].iter_mut().rev() {
        *slot = ALPHABET[(value & 31) as usize];
        value >>= 5;
    }
    // The alphabet is ASCII, so the slice is valid UTF-8.
    f.write_str(std::str::from_utf8(&text[..digits]).map_err(|_| fmt::Error)?)
}

fn decode(text: &str, digits: usize) -> Result<u64, ParseIdError> {
    if text.len() != digits {
        return Err(ParseIdError { expected_digits: digits });
    }
    let mut value = 0u64;
    for byte in text.bytes() {
        let digit = ALPHABET
            .iter()
            .position(|&c| c == byte.to_ascii_lowercase())
            .ok_or(ParseIdError { expected_digits: digits })?;
        value = value << 5 | digit as u64;
    }
    Ok(value)
}

/// A text that is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseIdError {
    /// How many characters an id of this kind has.
    pub expected_digits: usize,
}

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an id has {} characters out of 0-9 and a-z without i, l, o, u", self.expected_digits)
    }
}

impl std::error::Error for ParseIdError {}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, bits $bits:literal, digits $digits:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// Characters in the text form.
            pub const DIGITS: usize = $digits;

            /// Makes an id of any number, by its low bits; random numbers make unique ids.
            pub const fn from_random(random: u64) -> Self {
                Self(random & ((1 << $bits) - 1))
            }

            /// The id as the number that stores keep.
            pub const fn number(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                encode(self.0, $digits, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                encode(self.0, $digits, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                decode(text, $digits).map(Self::from_random)
            }
        }
    };
}

text_id! {
    /// A batch. 40 random bits, shown as 8 characters; any unambiguous prefix names it on the command line.
    BatchId, bits 40, digits 8
}

text_id! {
    /// A lease: one stretch of one worker's life. 60 random bits, chosen by the worker (L1), shown as 12 characters.
    LeaseId, bits 60, digits 12
}

text_id! {
    /// An append (S3). 60 random bits, chosen by whoever appends, so that a beginning whose end is unknown can be asked again
    /// unchanged; shown as 12 characters.
    AppendId, bits 60, digits 12
}

/// A fencing token. Every change of hands draws a new one (T3); the tokens of a line only grow. It names a span: at any
/// moment at most one span carries a given token.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

/// Matches a reply to the effect that asked for it. Unique within one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_written() {
        for random in [0, 1, 31, 32, u64::MAX, 0x1234_5678_9abc_def0] {
            let batch = BatchId::from_random(random);
            assert_eq!(batch.to_string().parse(), Ok(batch));
            let lease = LeaseId::from_random(random);
            assert_eq!(lease.to_string().parse(), Ok(lease));
            assert!(lease.number() <= i64::MAX as u64, "stores keep ids as signed 64-bit numbers");
        }
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        assert!("".parse::<BatchId>().is_err());
        assert!("0123456".parse::<BatchId>().is_err());
        assert!("0123456u".parse::<BatchId>().is_err());
    }
}
