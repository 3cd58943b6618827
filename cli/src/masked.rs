//! URLs for people: without the passwords in them.

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

/// The URL with its passwords masked; what cannot be told apart is left out as a whole.
pub(crate) fn masked(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return if url.contains('@') { MASK.to_owned() } else { url.to_owned() };
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
        None => authority.to_owned(),
    };
    let hide = |option: &str| match option.split_once('=') {
        Some((name, _)) if !SHOWN.contains(&name) => format!("{name}={MASK}"),
        _ => option.to_owned(),
    };
    let (path, options) = more.split_once('?').map_or((more, None), |(path, options)| (path, Some(options)));
    let options = options.map(|options| format!("?{}", options.split('&').map(hide).collect::<Vec<_>>().join("&")));
    format!("{scheme}://{authority}{path}{}", options.unwrap_or_default())
}
