//! What makes a run the same run: its key, its batch, and what a repeat must not change.

use sha2::{Digest, Sha256};

use super::super::args::RunArgs;
use super::super::failure::{Exit, Failure};
use super::super::values::RUN_PREFIX;
use crate::input::ContentDigest;
use crate::store::Reads;
use crate::store::view::BatchView;

/// The key of this run: the one given, else made of content, command, and the options that change results.
pub fn base_key(args: &RunArgs, content: &ContentDigest) -> String {
    if let Some(key) = &args.key {
        return key.clone();
    }
    let mut parts = vec![
        format!("sleep {:?}", args.handler.sleep),
        format!("attempts {}", args.batch.max_attempts),
        format!("crashes {}", args.batch.max_crashes),
        format!("timeout {:?}", args.batch.timeout),
        format!("result bytes {}", args.work.max_result_bytes),
    ];
    if args.handler.stream {
        parts.push(format!("stream line bytes {}", args.handler.max_line_bytes));
    }
    parts.extend(args.handler.command.iter().map(|part| format!("arg {part}")));
    content.key(parts)
}

/// Under which key the store knows the `number`th run of a key. With the length, no two different pairs look alike; with
/// the prefix, none is a submit's.
fn bound_key(key: &str, number: u32) -> String {
    format!("{RUN_PREFIX}{}:{key}:{number}", key.len())
}

/// A run's operation is its own, whatever its key: no other worker takes its rows, and its workers take no others.
pub fn operation(bound_key: &str) -> String {
    let hash = Sha256::digest(bound_key);
    let hex: String = hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("{RUN_PREFIX}{hex}")
}

/// The latest batch of the key, or with `--again` the bound key of a new one. Each `--again` gets a number of its own, so
/// that it too is gone on with after a crash.
pub async fn latest(store: &impl Reads, key: &str, again: bool) -> Result<(String, Option<BatchView>), Failure> {
    let mut found = None;
    for number in 1.. {
        let bound = bound_key(key, number);
        match (store.batch_of_key(&bound).await?, found) {
            (Some(view), _) => found = Some((bound, view)),
            (None, Some((bound, view))) if !again => return Ok((bound, Some(view))),
            (None, _) => return Ok((bound, None)),
        }
    }
    Err(Failure::new(Exit::Unexpected, format!("the key {key:?} was run too often")))
}

/// Refuses to go on with a batch of other content or other options: the results would not be those of this command line.
pub fn check_same(key: &str, batch: &BatchView, content: &ContentDigest, args: &RunArgs) -> Result<(), Failure> {
    let id = batch.batch;
    let help = "use another --key, or --again to start over";
    if batch.digest.as_deref() != Some(&content.to_string()) {
        let message = format!("the key {key:?} is bound to batch {id}, which has other content");
        return Err(Failure::new(Exit::Input, message).help(help));
    }
    let stored = format!("{:?}", batch.timeout);
    // The store keeps whole milliseconds.
    let timeout =
        if args.batch.timeout.as_millis() == batch.timeout.as_millis() { batch.timeout } else { args.batch.timeout };
    for (option, stored, given) in [
        ("--max-attempts", batch.attempts_max.to_string(), args.batch.max_attempts.to_string()),
        ("--max-crashes", batch.crashes_max.to_string(), args.batch.max_crashes.to_string()),
        ("--timeout", stored, format!("{timeout:?}")),
    ] {
        if stored != given {
            let message = format!("batch {id} was begun under the key {key:?} with {option} {stored}, not {given}");
            return Err(Failure::new(Exit::Usage, message).help(format!("give it as it was, {help}")));
        }
    }
    Ok(())
}
