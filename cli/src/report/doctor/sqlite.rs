//! What is found of an SQLite file.

use super::{Finding, bytes, time, work};
use crate::store::sqlite::examine::{SqliteFacts, WriteLock};
use crate::store::sqlite::open::SCHEMA_VERSION;

/// File systems of other machines, where SQLite's locks and its shared memory do not do.
const NETWORK: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "lustre",
    "gfs2",
    "ocfs2",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.ceph",
    "fuse.s3fs",
    "fuse.rclone",
    "glusterfs",
    "beegfs",
];

/// Below this the next writes may find no room: the write-ahead log alone may take so much.
const FREE_TOO_LITTLE: u64 = 64 << 20;

/// Below this it is told of.
const FREE_LITTLE: u64 = 1 << 30;

/// Writers keep the write-ahead log below 64 MiB, unless somebody reads an old snapshot all the while.
const LOG_LONG: u64 = 96 << 20;

/// What it all means.
pub fn findings(facts: &SqliteFacts) -> Vec<Finding> {
    let mut found = Vec::new();
    match &facts.file {
        Ok(size) => found.push(Finding::ok("file", bytes(*size))),
        Err(why) => found.push(Finding::problem(
            "file",
            why.clone(),
            "is this the right --store? `fencepost submit FILE` makes one that is not there",
        )),
    }
    if facts.file.is_ok() {
        found.push(permission(facts));
    }
    match &facts.inside {
        None => {}
        Some(Err(why)) => found.push(Finding::problem(
            "reachable",
            why.clone(),
            "put that right, or name another file with --store PATH",
        )),
        Some(Ok(inside)) => {
            found.push(work::schema(&inside.schema, SCHEMA_VERSION));
            found.push(if inside.journal_mode == "wal" {
                Finding::ok("journal_mode", "wal")
            } else {
                Finding::problem(
                    "journal_mode",
                    format!("{}: readers and writers wait for each other", inside.journal_mode),
                    format!("with no worker running: sqlite3 {} 'pragma journal_mode = wal'", quoted(facts)),
                )
            });
        }
    }
    found.extend(facts.inside.is_some().then(|| lock(facts.lock)));
    found.extend(facts.inside.is_some().then(|| log(facts.log_bytes)));
    found.extend(facts.free_bytes.map(free));
    found.extend(facts.file_system.as_deref().map(file_system));
    found
}

fn quoted(facts: &SqliteFacts) -> String {
    super::super::quoted(&facts.path.to_string_lossy()).into_owned()
}

fn permission(facts: &SqliteFacts) -> Finding {
    let what = match (facts.may_write_file, facts.may_write_folder) {
        (true, true) => return Finding::ok("permission", "this user may write the file and its folder"),
        (false, true) => "the file",
        (true, false) => "the file's folder",
        (false, false) => "the file and its folder",
    };
    Finding::problem(
        "permission",
        format!("this user may not write {what}"),
        "give that permission: SQLite keeps its write-ahead log beside the file, so whoever reads it needs it too",
    )
}

fn lock(lock: WriteLock) -> Finding {
    const CHECK: &str = "write_lock";
    match lock {
        WriteLock::Free { after } => Finding::ok(CHECK, format!("free after {}", time(after))),
        WriteLock::Busy { watched } => {
            Finding::ok(CHECK, format!("held by several processes in turn for {}: writers are busy", time(watched)))
        }
        WriteLock::Held { watched, pid, stopped } => {
            let who = pid.map_or("a process of another container".to_owned(), |pid| format!("process {pid}"));
            let how = if stopped { ", which is stopped inside a write" } else { "" };
            let to_do = match pid {
                Some(pid) => {
                    format!("let it go on (kill -CONT {pid}) or end it (kill -KILL {pid}): no outcome is lost by that")
                }
                None => "let it go on or end it: no outcome is lost by that".to_owned(),
            };
            Finding::problem(CHECK, format!("held all {} by {who}{how}; every write waits", time(watched)), to_do)
        }
    }
}

fn log(size: u64) -> Finding {
    const CHECK: &str = "write_ahead_log";
    if size < LOG_LONG {
        return Finding::ok(CHECK, bytes(size));
    }
    Finding::advice(
        CHECK,
        format!(
            "{}: somebody has been reading one snapshot for long, so that it cannot be folded into the file",
            bytes(size)
        ),
        "end the reader (a sqlite3 shell inside a transaction, a copy under way); the next write then shortens it",
    )
}

fn free(free: u64) -> Finding {
    const CHECK: &str = "disk";
    let found = format!("{} free", bytes(free));
    if free < FREE_TOO_LITTLE {
        Finding::problem(CHECK, found, "make room: writes fail when there is none, and workers stop until there is")
    } else if free < FREE_LITTLE {
        Finding::advice(CHECK, found, "make room before it is used up")
    } else {
        Finding::ok(CHECK, found)
    }
}

fn file_system(kind: &str) -> Finding {
    const CHECK: &str = "file_system";
    if !NETWORK.contains(&kind) {
        return Finding::ok(CHECK, kind);
    }
    Finding::problem(
        CHECK,
        format!("{kind}, of another machine: SQLite's locks need not hold there, and then nothing is guaranteed"),
        "keep the file on a disk of this machine; for workers on several machines use --store postgres://...",
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::doctor::Level;
    use crate::store::examine::SchemaState;
    use crate::store::sqlite::examine::Inside;

    fn well() -> SqliteFacts {
        let schema = SchemaState::Usable { version: SCHEMA_VERSION, store_id: "s".to_owned() };
        SqliteFacts {
            path: "/data/rows.db".into(),
            file: Ok(40_960),
            may_write_file: true,
            may_write_folder: true,
            log_bytes: 0,
            free_bytes: Some(50 << 30),
            file_system: Some("ext4".to_owned()),
            lock: WriteLock::Free { after: Duration::ZERO },
            inside: Some(Ok(Inside { schema, journal_mode: "wal".to_owned(), work: None })),
        }
    }

    /// What is not well in these facts.
    fn ill(facts: SqliteFacts) -> Vec<(&'static str, Level)> {
        let found = findings(&facts).into_iter().filter(|finding| finding.level != Level::Ok);
        found.map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn each_fact_that_is_not_well_is_one_finding() {
        let inside =
            |schema, journal_mode: &str| Some(Ok(Inside { schema, journal_mode: journal_mode.to_owned(), work: None }));
        let usable = SchemaState::Usable { version: SCHEMA_VERSION, store_id: "s".to_owned() };
        let held = WriteLock::Held { watched: Duration::from_secs(2), pid: Some(7), stopped: true };
        let busy = WriteLock::Busy { watched: Duration::from_secs(2) };
        assert_eq!(ill(well()), []);
        for (facts, expected) in [
            (SqliteFacts { may_write_folder: false, ..well() }, Some(("permission", Level::Problem))),
            (SqliteFacts { lock: held, ..well() }, Some(("write_lock", Level::Problem))),
            (SqliteFacts { lock: busy, ..well() }, None),
            (SqliteFacts { log_bytes: LOG_LONG, ..well() }, Some(("write_ahead_log", Level::Advice))),
            (SqliteFacts { log_bytes: LOG_LONG - 1, ..well() }, None),
            (SqliteFacts { free_bytes: Some(FREE_LITTLE - 1), ..well() }, Some(("disk", Level::Advice))),
            (SqliteFacts { free_bytes: Some(FREE_TOO_LITTLE - 1), ..well() }, Some(("disk", Level::Problem))),
            (SqliteFacts { free_bytes: None, ..well() }, None),
            (SqliteFacts { file_system: Some("nfs4".to_owned()), ..well() }, Some(("file_system", Level::Problem))),
            (SqliteFacts { inside: inside(usable, "delete"), ..well() }, Some(("journal_mode", Level::Problem))),
            (
                SqliteFacts { inside: inside(SchemaState::Older { version: 1 }, "wal"), ..well() },
                Some(("schema", Level::Advice)),
            ),
            (
                SqliteFacts { inside: inside(SchemaState::Newer { version: 9, wants: 9 }, "wal"), ..well() },
                Some(("schema", Level::Problem)),
            ),
            (SqliteFacts { inside: Some(Err("damaged".to_owned())), ..well() }, Some(("reachable", Level::Problem))),
            (SqliteFacts { file: Err("not there".to_owned()), inside: None, ..well() }, Some(("file", Level::Problem))),
        ] {
            let shown = format!("{facts:?}");
            assert_eq!(ill(facts), Vec::from_iter(expected), "{shown}");
        }
    }
}
