//! URLs of completion calls, in the one form that the store keeps and prefixes are compared with (`s7_url_allowed`).

use url::Url;

/// The longest, in its one form.
const URL_BYTES_MAX: usize = 2000;

/// Why a URL is none for completion calls.
#[derive(Debug, thiserror::Error)]
pub enum CallUrlError {
    /// It makes no sense.
    #[error("{0}")]
    Parse(#[from] url::ParseError),
    /// Neither http nor https.
    #[error("begins with {0}:, not with http: or https:")]
    Scheme(String),
    /// A password would be shown to whoever asks for the batch's status.
    #[error("has a user or password, which everybody who sees the batch would see")]
    Secret,
    /// Never sent.
    #[error("has a fragment (#...), which is never sent")]
    Fragment,
    /// A server may read it as a `/`, and then the path is not the one that was allowed.
    #[error("has an encoded / or \\ (%2F, %5C, %252F, ...) in its path")]
    EncodedSlash,
    /// A server may go up a level there, and then the path is not the one that was allowed.
    #[error("has an encoded . or .. (%2E, %252E, ...), or one with a parameter (..;), as a segment of its path")]
    Dots,
    /// Many servers refuse longer ones.
    #[error("has {0} bytes; at most {URL_BYTES_MAX} are possible")]
    Long(usize),
    /// A prefix is compared with whole paths.
    #[error("has a query (?...): a prefix ends with its path")]
    Query,
}

/// The URL in its one form, for a batch that is submitted.
///
/// # Errors
///
/// Where it is none that is called, or longer than is taken. (Batches of before may have longer ones: they are called.)
pub fn submitted_url(text: &str) -> Result<String, CallUrlError> {
    let url = call_url(text)?;
    if url.len() > URL_BYTES_MAX { Err(CallUrlError::Long(url.len())) } else { Ok(url) }
}

/// The URL in its one form.
///
/// # Errors
///
/// Where it is none that is called.
pub fn call_url(text: &str) -> Result<String, CallUrlError> {
    parse(text).map(String::from)
}

/// A prefix of URLs that may be called, in the same form: scheme, host and port, and the beginning of a path.
///
/// # Errors
///
/// Where it is none.
pub fn url_prefix(text: &str) -> Result<String, CallUrlError> {
    let url = parse(text)?;
    if url.query().is_some() {
        return Err(CallUrlError::Query);
    }
    Ok(url.into())
}

fn parse(text: &str) -> Result<Url, CallUrlError> {
    let url = Url::parse(text)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(CallUrlError::Scheme(url.scheme().to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(CallUrlError::Secret);
    }
    if url.fragment().is_some() {
        return Err(CallUrlError::Fragment);
    }
    let path = decoded(url.path());
    if path.len() != url.path().len() && slashes(&path) != slashes(url.path().as_bytes()) {
        return Err(CallUrlError::EncodedSlash);
    }
    let stem = |segment: &[u8]| segment.split(|byte| *byte == b';').next().map(<[u8]>::to_vec);
    if path.split(|byte| *byte == b'/').filter_map(stem).any(|stem| matches!(&*stem, b"." | b"..")) {
        return Err(CallUrlError::Dots);
    }
    Ok(url)
}

fn slashes(path: &[u8]) -> usize {
    path.iter().filter(|byte| matches!(byte, b'/' | b'\\')).count()
}

/// The path as a server may read it that decodes what was encoded more than once.
fn decoded(path: &str) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded: Vec<u8> = Vec::with_capacity(path.len());
    for byte in path.bytes() {
        decoded.push(byte);
        // What is decoded may be the last digit of another one.
        while let [.., b'%', high, low] = &decoded[..]
            && let (Some(high), Some(low)) = (digit(Some(high)), digit(Some(low)))
        {
            decoded.truncate(decoded.len() - 3);
            decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
        }
    }
    decoded
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use fencepost_core::rules::calls::s7_url_allowed;

    use super::*;

    fn allowed(prefix: &str, url: &str) -> bool {
        s7_url_allowed(&url_prefix(prefix).unwrap(), &call_url(url).unwrap())
    }

    #[test]
    fn a_prefix_allows_one_host_and_whole_segments() {
        for (prefix, url) in [
            ("https://host", "https://host"),
            ("https://host", "https://HOST:443/any/path?q=1"),
            ("http://host:8080/hooks", "http://host:8080/hooks"),
            ("http://host:8080/hooks", "http://host:8080/hooks/a"),
            ("http://host:8080/hooks", "http://host:8080/hooks?a=b"),
            ("http://host:8080/hooks/", "http://host:8080/hooks/a"),
            ("http://host/a b", "http://host/a%20b/c"),
            ("http://host/hooks", "http://host/hooks/a..b;c=..;/%41%25/...?to=..%2F"),
        ] {
            assert!(allowed(prefix, url), "{prefix} {url}");
        }
        for (prefix, url) in [
            ("https://host", "http://host/"),
            ("https://host", "https://host:8443/"),
            ("https://host", "https://host.evil/"),
            ("https://host", "https://hostile/"),
            ("http://host/hooks", "http://host/hooksmith"),
            ("http://host/hooks", "http://host/hooks/../admin"),
            ("http://host/hooks", "http://host/hooks/%2e%2e/admin"),
            ("http://host/hooks/", "http://host/hooks"),
        ] {
            assert!(!allowed(prefix, url), "{prefix} {url}");
        }
    }

    #[test]
    fn what_is_no_url_to_call_is_said() {
        let said = |text: &str| call_url(text).unwrap_err().to_string();
        assert!(said("host/path").contains("relative URL"), "{}", said("host/path"));
        assert!(said("file:///etc/passwd").contains("begins with file:"));
        assert!(said("https://user:secret@host/").contains("password"));
        assert!(said("https://host/#top").contains("fragment"));
        let long = |more: usize| format!("https://host/{}", "a".repeat(more));
        assert!(submitted_url(&long(1988)).unwrap_err().to_string().contains("2001 bytes; at most 2000"));
        assert_eq!(submitted_url(&long(1987)).unwrap().len(), 2000);
        assert_eq!(call_url(&long(1988)).unwrap().len(), 2001, "one that was submitted before");
        for slash in ["..%2Fadmin", "..%5cadmin", "..%252fadmin", "..%25252Fadmin", "..%%32fadmin", "a%255Cb"] {
            assert!(said(&format!("https://host/hooks/{slash}")).contains("encoded /"), "{slash}");
        }
        for dots in [
            "..;/admin",
            ".;a=b/",
            "%2e%2e;/admin",
            "%252e%252e/admin",
            ".%252E/",
            "%25252e/a",
            "%%32e./admin",
            "..%3b/a",
        ] {
            assert!(said(&format!("https://host/hooks/{dots}")).contains("a segment of its path"), "{dots}");
        }
        assert_eq!(call_url("https://host/hooks\\a").unwrap(), "https://host/hooks/a", "as a browser reads it");
        assert!(url_prefix("https://host/?a=b").unwrap_err().to_string().contains("query"));
    }
}
