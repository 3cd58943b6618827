//! URLs that want to be called although nobody allowed them: each file of `cli/tests/corpus/urls` (a prefix, and below it a URL; a new case
//! is one file: `under-...`, `outside-...` or `refused-...`), and paths that are drawn. `PROPTEST_CASES=100000` draws more.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use fencepost::handler::call::url::{submitted_url, url_prefix};
use fencepost_core::rules::calls::s7_url_allowed;
use proptest::prelude::*;

use self::support::corpus::{cases, draws};

#[allow(dead_code)]
mod support {
    pub mod corpus;
}

#[test]
fn each_url_of_the_corpus_is_called_only_under_its_prefix() {
    for case in cases("urls") {
        let text = std::fs::read_to_string(&case.path).unwrap();
        let (prefix, url) = text.trim_end_matches('\n').split_once('\n').expect("two lines");
        let prefix = url_prefix(prefix).unwrap();
        let came_to = match submitted_url(url) {
            Err(error) => {
                assert!(!error.to_string().is_empty());
                "refused"
            }
            Ok(url) if s7_url_allowed(&prefix, &url) => "under",
            Ok(_) => "outside",
        };
        assert!(case.name.starts_with(&format!("{came_to}-")), "{}: {came_to}", case.name);
    }
}

/// Where a careless server would go: it decodes as often as there is something to decode, takes `\` for `/`, leaves parameters
/// out, and then goes up.
fn careless(path: &str) -> Option<Vec<String>> {
    let mut bytes = path.as_bytes().to_vec();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    while let Some(at) = (0..bytes.len().saturating_sub(2))
        .find(|at| bytes[*at] == b'%' && digit(bytes[at + 1]).is_some() && digit(bytes[at + 2]).is_some())
    {
        let value = digit(bytes[at + 1]).unwrap() * 16 + digit(bytes[at + 2]).unwrap();
        bytes.splice(at..at + 3, [u8::try_from(value).unwrap()]);
    }
    let text = String::from_utf8_lossy(&bytes).replace('\\', "/");
    let mut segments = Vec::new();
    for segment in text.split('/').skip(1) {
        match segment.split(';').next().unwrap() {
            ".." => drop(segments.pop()?),
            "." => {}
            plain => segments.push(plain.to_owned()),
        }
    }
    Some(segments)
}

proptest! {
    #![proptest_config(draws(2_000))]

    #[test]
    fn no_allowed_url_leads_a_careless_server_out_of_the_prefix(pieces in prop::collection::vec(prop::sample::select(vec![
        "/", "\\", "a", ".", "..", "...", "%2e", "%2E", "%252e", "%", "%25", "%%32", "2e", "65", ";", "%3b", "x=1", "%2f", "%5c", "%255c",
        "\t", "\n", " ", "?", "#", "@", ":", "é", "%c0%ae", "%00", "//",
    ]), 0..12)) {
        let url = format!("http://host/hooks/{}", pieces.concat());
        let prefix = url_prefix("http://host/hooks").unwrap();
        let Ok(url) = submitted_url(&url) else { return Ok(()) };
        if !s7_url_allowed(&prefix, &url) {
            return Ok(());
        }
        let rest = url.strip_prefix("http://host").expect("the host is as it was");
        let path = rest.split('?').next().unwrap();
        let segments = careless(path);
        prop_assert!(segments.as_ref().is_some_and(|to| to.first().is_some_and(|first| first == "hooks")), "{url} leads to {segments:?}");
        prop_assert_eq!(submitted_url(&url).unwrap(), url.clone(), "its one form is its one form");
    }
}
