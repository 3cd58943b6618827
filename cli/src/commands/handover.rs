//! What a worker that fencepost itself starts is told through its stdin: names with passwords in them, since a command line
//! may be read by everybody on the machine.

use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::failure::{Exit, Failure};
use crate::liveness::redis::url::RedisUrl;
use crate::store::StoreUrl;

/// Ends a name: no path and no variable has it.
const END: u8 = 0;

/// What was handed over.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// The store's name.
    pub store: String,
    /// The Redis' URL, if there is one.
    pub redis: Option<String>,
}

/// The bytes that hand these names over.
pub fn handover(store: &StoreUrl, redis: Option<&RedisUrl>) -> Arc<[u8]> {
    let mut names = store.argument().into_vec();
    names.push(END);
    names.extend(redis.map_or("", RedisUrl::with_password).bytes());
    names.push(END);
    names.into()
}

/// Reads what [`handover`] gives; later input stays where it is.
pub async fn read_names(from: &mut (impl AsyncRead + Unpin)) -> Result<Names, Failure> {
    let store = read_name(from).await?;
    let redis = Some(read_name(from).await?).filter(|name| !name.is_empty());
    Ok(Names { store, redis })
}

async fn read_name(from: &mut (impl AsyncRead + Unpin)) -> Result<String, Failure> {
    let mut name = Vec::new();
    loop {
        match from.read_u8().await {
            Ok(END) => {
                return String::from_utf8(name)
                    .map_err(|error| Failure::new(Exit::Usage, "the store's name is not UTF-8").because(error));
            }
            Ok(byte) => name.push(byte),
            Err(error) => {
                return Err(Failure::new(
                    Exit::Usage,
                    "a supervised worker is told its store and Redis through stdin, and was not",
                )
                .because(error)
                .help("leave out --supervised: only `fencepost run` starts such workers"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_are_handed_over_as_they_are() {
        let name = "postgres://u:se cret@host/rows?schema=a&pooler=transaction";
        let redis = "redis://u:p%40ss@host/3";
        let store = name.parse().expect("a store");
        for (url, expected) in [(None, None), (Some(redis.parse().expect("a URL")), Some(redis.to_owned()))] {
            let told = handover(&store, url.as_ref());
            let mut stdin = std::io::Cursor::new([&told[..], b"rest"].concat());
            let names = read_names(&mut stdin).await.expect("names");
            assert_eq!(names, Names { store: name.to_owned(), redis: expected });
            assert_eq!(stdin.position(), told.len() as u64);
            for end in [5, told.len() - 1] {
                let cut_off = read_names(&mut &told[..end]).await.expect_err("no end");
                assert!(cut_off.message.contains("stdin"), "{cut_off}");
            }
        }
    }
}
