//! What `--redis` and `FENCEPOST_REDIS` may say.
//!
//! | name | server |
//! |---|---|
//! | `redis://USER:PASSWORD@HOST:PORT/DB` | one server; all but the host may be left out |
//! | `rediss://...`, also `rediss://...?ca=FILE` | the same through TLS; `ca` names the certificates to trust instead of the public authorities' that come with this program |
//! | `redis+unix:///PATH?db=N&user=USER&pass=PASSWORD` | one server, through its socket |
//! | `redis://HOST:PORT,HOST:PORT/DB?sentinel=NAME` | the master NAME of these Sentinels, whose own password is `sentinel_password` |
//! | `redis://HOST:PORT,HOST:PORT?cluster=true` | a Redis Cluster, found through these nodes |

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use redis::{ConnectionInfo, IntoConnectionInfo, RedisError};

use crate::masked::masked;

/// A Redis' name, understood. Its text form is for people: passwords in it are masked.
#[derive(Clone)]
pub struct RedisUrl {
    text: String,
    kind: Kind,
    servers: Vec<ConnectionInfo>,
    ca: Option<PathBuf>,
}

/// How the servers of a URL are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// There is one.
    One,
    /// They are Sentinels.
    Sentinel {
        /// Of which master.
        name: String,
        /// The Sentinels' own password.
        password: Option<String>,
    },
    /// They are nodes of a cluster.
    Cluster,
}

/// A name that means no Redis.
#[derive(Debug, thiserror::Error)]
#[error("{shown:?} does not name a Redis: {why}")]
pub struct RedisUrlError {
    /// The name, without passwords.
    pub shown: String,
    /// What is wrong with it.
    pub why: String,
    /// What the client library says of it.
    #[source]
    pub cause: Option<RedisError>,
}

const SCHEMES: [&str; 4] = ["redis", "rediss", "redis+unix", "unix"];

impl RedisUrl {
    /// The URL as it was given.
    pub fn with_password(&self) -> &str {
        &self.text
    }

    /// How the servers are used.
    pub const fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The servers that it names: at least one.
    pub fn servers(&self) -> &[ConnectionInfo] {
        &self.servers
    }

    /// The file of the certificates to trust instead of the public authorities' that come with this program.
    pub fn ca(&self) -> Option<&PathBuf> {
        self.ca.as_ref()
    }

    /// Whether connections are to be encrypted.
    pub fn is_tls(&self) -> bool {
        self.text.starts_with("rediss://")
    }
}

impl FromStr for RedisUrl {
    type Err = RedisUrlError;

    fn from_str(text: &str) -> Result<Self, RedisUrlError> {
        let wrong = |why: &str| RedisUrlError { shown: masked(text), why: why.to_owned(), cause: None };
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong("it begins with none of redis://, rediss://, redis+unix://"));
        };
        if !SCHEMES.contains(&scheme) {
            return Err(wrong("it begins with none of redis://, rediss://, redis+unix://"));
        }
        if scheme.ends_with("unix") {
            return Ok(Self { text: text.to_owned(), kind: Kind::One, servers: vec![server(text, text)?], ca: None });
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if path.contains('@') || query.contains('@') {
            return Err(wrong(
                "in a password, a path or an option @ is written %40, and in a password / is %2F and ? is %3F",
            ));
        }
        let (user, hosts) = authority.rsplit_once('@').map_or(("", authority), |(user, hosts)| (user, hosts));
        let user = if user.is_empty() { String::new() } else { format!("{user}@") };
        let options = Options::read(query).map_err(|why| wrong(&why))?;
        let mut servers = Vec::new();
        for host in hosts.split(',') {
            servers.push(server(text, &format!("{scheme}://{user}{host}{path}"))?);
        }
        let kind = match (options.sentinel, options.cluster) {
            (Some(_), true) => return Err(wrong("it cannot be both a cluster and behind Sentinels")),
            (Some(name), false) => Kind::Sentinel { name, password: options.sentinel_password },
            (None, true) => Kind::Cluster,
            (None, false) if servers.len() > 1 => {
                return Err(wrong("several hosts are for ?sentinel=NAME or ?cluster=true"));
            }
            (None, false) => Kind::One,
        };
        if kind == Kind::Cluster && servers.iter().any(|server| server.redis_settings().db() != 0) {
            return Err(wrong("a cluster has no database but 0"));
        }
        if options.ca.is_some() && scheme != "rediss" {
            return Err(wrong("ca is for rediss://"));
        }
        Ok(Self { text: text.to_owned(), kind, servers, ca: options.ca })
    }
}

#[derive(Default)]
struct Options {
    sentinel: Option<String>,
    sentinel_password: Option<String>,
    cluster: bool,
    ca: Option<PathBuf>,
}

impl Options {
    fn read(query: &str) -> Result<Self, String> {
        let mut options = Self::default();
        let Some(url) = redis::parse_redis_url(&format!("redis://host/?{query}")) else {
            return Err("its options cannot be read".to_owned());
        };
        for (name, value) in url.query_pairs() {
            match (&*name, &*value) {
                (_, "") => return Err(format!("{name} has no value")),
                ("sentinel", value) => options.sentinel = Some(value.to_owned()),
                ("sentinel_password", value) => options.sentinel_password = Some(value.to_owned()),
                ("cluster", "true") => options.cluster = true,
                ("cluster", "false") => options.cluster = false,
                ("cluster", _) => return Err("cluster is true or false".to_owned()),
                ("ca", value) => options.ca = Some(value.into()),
                (other, _) => {
                    return Err(format!("{other} is none of sentinel, sentinel_password, cluster, ca"));
                }
            }
        }
        if options.sentinel_password.is_some() && options.sentinel.is_none() {
            return Err("sentinel_password is for ?sentinel=NAME".to_owned());
        }
        Ok(options)
    }
}

fn server(whole: &str, url: &str) -> Result<ConnectionInfo, RedisUrlError> {
    url.into_connection_info().map_err(|cause| RedisUrlError {
        shown: masked(whole),
        why: "a host, port, user, password or database in it cannot be read".to_owned(),
        cause: Some(cause),
    })
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.text))
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use redis::ConnectionAddr;

    use super::*;

    fn url(text: &str) -> RedisUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn addresses(url: &RedisUrl) -> Vec<String> {
        url.servers().iter().map(|server| server.addr().to_string()).collect()
    }

    #[test]
    fn urls_name_servers() {
        let one = url("redis://host");
        assert_eq!((addresses(&one), one.kind(), one.is_tls()), (vec!["host:6379".to_owned()], &Kind::One, false));
        let one = url("rediss://u:p%40ss@host:7/3?ca=/etc/ca%20file.pem");
        assert_eq!((addresses(&one), one.is_tls()), (vec!["host:7".to_owned()], true));
        assert_eq!(one.ca(), Some(&PathBuf::from("/etc/ca file.pem")));
        let settings = one.servers()[0].redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("u"), Some("p@ss"), 3));
        let socket = url("redis+unix:///run/redis.sock?db=2");
        assert!(matches!(socket.servers()[0].addr(), ConnectionAddr::Unix(path) if path == "/run/redis.sock"));
        let sentinels = url("redis://:secret@a:1,b:2/5?sentinel=main&sentinel_password=other");
        assert_eq!(addresses(&sentinels), ["a:1", "b:2"]);
        let kind = Kind::Sentinel { name: "main".to_owned(), password: Some("other".to_owned()) };
        assert_eq!(*sentinels.kind(), kind);
        assert_eq!(sentinels.servers()[1].redis_settings().password(), Some("secret"));
        let cluster = url("redis://a:1,b:2?cluster=true");
        assert_eq!((addresses(&cluster).len(), cluster.kind()), (2, &Kind::Cluster));
    }

    #[test]
    fn what_names_no_server_is_refused_and_says_why() {
        for (text, why) in [
            ("host:6379", "begins with none"),
            ("http://host", "begins with none"),
            ("redis://a,b", "several hosts"),
            ("redis://a,b?cluster=true&sentinel=x", "both"),
            ("redis://a/2?cluster=true", "no database but 0"),
            ("redis://a?cluster=yes", "true or false"),
            ("redis://a?ca=/x", "rediss://"),
            ("redis://a?db=2", "none of sentinel"),
            ("redis://a?sentinel=", "no value"),
            ("redis://a?sentinel_password=x", "sentinel=NAME"),
            ("redis://a:port", "cannot be read"),
            ("redis://a/db", "cannot be read"),
        ] {
            let error = text.parse::<RedisUrl>().expect_err(text);
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn passwords_are_shown_nowhere() {
        for (text, shown) in [
            ("redis://host:1/2", "redis://host:1/2"),
            ("redis://u:secret@host", "redis://u:***@host"),
            (
                "redis://:secret@a,b?sentinel=x&sentinel_password=secret",
                "redis://:***@a,b?sentinel=x&sentinel_password=***",
            ),
            ("redis+unix:///run/r.sock?user=u&pass=secret", "redis+unix:///run/r.sock?user=u&pass=***"),
        ] {
            let url = url(text);
            assert_eq!(url.to_string(), shown);
            assert!(!format!("{url:?}").contains("secret"));
            assert_eq!(url.with_password(), text);
        }
        for text in ["u:secret@host", "redis://u:sec/ret@host", "redis://u:secret@host:port", "redis://u:se?cret@host"]
        {
            let error = text.parse::<RedisUrl>().expect_err(text);
            let all = format!("{error} {error:?}");
            assert!(!all.contains("secret") && !all.contains("cret@"), "{all}");
        }
    }
}
