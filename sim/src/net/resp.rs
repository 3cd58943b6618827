//! Redis' protocol, as far as its clients here speak it: commands are arrays of texts.

/// Takes one command off the front of what was read. `None`: it is not all there yet.
pub(super) fn take_command(bytes: &mut Vec<u8>) -> Option<Vec<String>> {
    let (mut at, count) = number_line(bytes, 0, b'*')?;
    let mut words = Vec::new();
    for _ in 0..count {
        let (begins, length) = number_line(bytes, at, b'$')?;
        let word = bytes.get(begins..begins + length)?;
        words.push(String::from_utf8_lossy(word).into_owned());
        at = begins + length + 2;
    }
    if bytes.len() < at {
        return None;
    }
    bytes.drain(..at);
    Some(words)
}

/// A line `*N` or `$N` that begins here: where the next one begins, and N.
fn number_line(bytes: &[u8], at: usize, sign: u8) -> Option<(usize, usize)> {
    let rest = bytes.get(at..)?;
    let length = rest.windows(2).position(|two| two == b"\r\n")?;
    let (first, number) = rest[..length].split_first()?;
    debug_assert_eq!(*first, sign, "a client speaks RESP");
    let number = std::str::from_utf8(number).ok()?.parse().ok()?;
    Some((at + length + 2, number))
}

/// A list of numbers.
pub(super) fn numbers(values: &[u64]) -> String {
    let mut text = format!("*{}\r\n", values.len());
    for value in values {
        text.push_str(&format!(":{value}\r\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_come_whole_and_in_order() {
        let mut bytes = b"*2\r\n$4\r\nPING\r\n$0\r\n\r\n*1\r\n$2\r\nh".to_vec();
        assert_eq!(take_command(&mut bytes), Some(vec!["PING".to_owned(), String::new()]));
        assert_eq!(take_command(&mut bytes), None);
        bytes.extend_from_slice(b"i\r");
        assert_eq!(take_command(&mut bytes), None);
        bytes.extend_from_slice(b"\n");
        assert_eq!(take_command(&mut bytes), Some(vec!["hi".to_owned()]));
        assert!(bytes.is_empty());
    }
}
