//! URLs for people: without the passwords and tokens in them.

/// Stands for what is not shown.
const MASK: &str = "***";

/// Options whose values are shown. Any other may be a password under a name that was mistyped.
const SHOWN: &[&str] = &[
    "db",
    "user",
    "sentinel",
    "sentinel_user",
    "cluster",
    "ca",
    "schema",
    "pooler",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "application_name",
    "options",
    "statement-cache-capacity",
    "mode",
    "protocol",
];

/// The URL of a completion call without its query, which may have a token in it.
pub(crate) fn without_query(url: &str) -> String {
    url.split_once('?').map_or_else(|| url.to_owned(), |(rest, _)| format!("{rest}?{MASK}"))
}

/// The URL with its passwords masked; what cannot be told apart is left out as a whole.
pub(crate) fn masked(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // HOST and HOST:PORT are shown.
        let is_plain = |char: char| char.is_ascii_alphanumeric() || "-._".contains(char);
        let (host, port) = url.split_once(':').unwrap_or((url, ""));
        let is_shown = host.chars().all(is_plain) && port.bytes().all(|byte| byte.is_ascii_digit());
        return if is_shown { url.to_owned() } else { MASK.to_owned() };
    };
    let (authority, more) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    // Only escaped may an @ stand here: this is a piece of a password that was not.
    if more.contains('@') {
        return format!("{scheme}://{MASK}");
    }
    let authority = match authority.rsplit_once('@') {
        Some((user, hosts)) => {
            let name = user.split_once(':').map(|(name, _)| format!("{name}:{MASK}"));
            format!("{}@{hosts}", name.as_deref().unwrap_or(user))
        }
        None => authority.split(',').map(host_and_port).collect::<Vec<_>>().join(","),
    };
    let hide = |option: &str| match option.split_once('=') {
        Some((name, _)) if !SHOWN.contains(&name) => format!("{name}={MASK}"),
        None if !SHOWN.contains(&option) => MASK.to_owned(),
        _ => option.to_owned(),
    };
    let more = more.split_once('#').map_or(more.to_owned(), |(before, _)| format!("{before}#{MASK}"));
    let (path, options) = more.split_once('?').map_or((&*more, None), |(path, options)| (path, Some(options)));
    let options = options.map(|options| format!("?{}", options.split('&').map(hide).collect::<Vec<_>>().join("&")));
    format!("{scheme}://{authority}{path}{}", options.unwrap_or_default())
}

/// What stands behind a colon and is no port is a password whose host was forgotten.
fn host_and_port(text: &str) -> String {
    match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') && !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{host}:{MASK}")
        }
        _ => text.to_owned(),
    }
}
