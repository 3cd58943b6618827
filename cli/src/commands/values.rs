//! What the values of options may be.

use std::time::Duration;

use crate::handler::call::url::{submitted_url, url_prefix};

/// Keys and operations that begin so are those of `run`.
pub const RUN_PREFIX: &str = "run:";

/// A name has at most so many bytes.
const NAME_BYTES_MAX: usize = 200;

/// A duration as people write it: 30s, 1m30s, 250ms.
pub fn duration(text: &str) -> Result<Duration, String> {
    const HELP: &str = "write it like 30s, 1m30s, 250ms or 48h (the units are h, m, s, ms, us and ns)";
    // The parser's own words are about the types of its library.
    let span: jiff::SignedDuration = text.parse().map_err(|_| format!("this is no duration; {HELP}"))?;
    Duration::try_from(span).map_err(|_| format!("it must not be negative; {HELP}"))
}

/// How long ago something was: a duration, or whole days, `30d`.
pub fn age(text: &str) -> Result<Duration, String> {
    const HELP: &str = "this is no age; write it like 30d, 48h or 90m (the units are d, h, m, s, ms, us and ns)";
    if let Some(days) = text.strip_suffix('d') {
        let days: u32 = days.trim().parse().map_err(|_| HELP.to_owned())?;
        return Ok(Duration::from_secs(u64::from(days) * 86_400));
    }
    let span: jiff::SignedDuration = text.parse().map_err(|_| HELP.to_owned())?;
    Duration::try_from(span).map_err(|_| "it must not be negative".to_owned())
}

/// A duration of a millisecond or more: what is shorter is nothing to the store, or a loop without a pause.
pub fn duration_from_1ms(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < Duration::from_millis(1) { Err("it must be 1ms or more".to_owned()) } else { Ok(duration) }
}

/// How long `wait` waits.
pub fn wait_timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    if timeout.is_zero() {
        return Err("nothing can be waited for in no time; `fencepost status BATCH` tells at once".to_owned());
    }
    Ok(timeout)
}

/// A name that people give, read in reports and type again.
pub fn name(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Err("a name must not be empty".to_owned());
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(format!("a name has at most {NAME_BYTES_MAX} bytes, and this one has {}", text.len()));
    }
    if text.chars().any(char::is_control) {
        return Err("a name must not have control characters, such as line ends".to_owned());
    }
    Ok(text.to_owned())
}

/// The same for a submit: what `run` makes stays apart from it.
pub fn submitted_name(text: &str) -> Result<String, String> {
    if text.starts_with(RUN_PREFIX) {
        return Err(format!("names that begin with {RUN_PREFIX} are those of `fencepost run`; choose another"));
    }
    name(text)
}

/// A URL that is told when a batch has ended.
pub fn on_done_url(text: &str) -> Result<String, String> {
    submitted_url(text).map_err(|error| error.to_string())
}

/// What such a URL may begin with.
pub fn allowed_url(text: &str) -> Result<String, String> {
    url_prefix(text).map_err(|error| error.to_string())
}
