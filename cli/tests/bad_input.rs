//! Bad input of every kind, given to the program itself: what it says, its exit code, and that nothing is half done.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

const PROGRAM: &str = env!("CARGO_BIN_EXE_fencepost");
/// Where the store is unless told otherwise.
const STORE: &str = "state/fencepost/fencepost.db";
const ROWS: &str = "name,n\none,1\ntwo,2\nthree,3\n";
const NOBODY: u32 = 65_534;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.file(name), content).expect("it can be written");
    }

    fn allow(&self, name: &str, mode: u32) {
        fs::set_permissions(self.file(name), Permissions::from_mode(mode)).expect("it is ours");
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("FENCEPOST_")) {
            command.env_remove(name);
        }
        command.env("XDG_CONFIG_HOME", self.file("config")).env("XDG_STATE_HOME", self.file("state"));
        // Messages of the command line are wrapped to this.
        command.env_remove("COLUMNS");
        // A folder that may not be entered could have any command.
        let path = std::env::var_os("PATH").expect("a path");
        let folders = std::env::split_paths(&path).filter(|folder| folder.is_dir());
        command.env("PATH", std::env::join_paths(folders).expect("it was one"));
        command.current_dir(self.0.path()).args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(PROGRAM, arguments).output().expect("fencepost starts")
    }

    /// As someone whom permissions bind: root they do not.
    fn run_as_nobody(&self, arguments: &[&str]) -> Output {
        if !nix::unistd::geteuid().is_root() {
            return self.run(arguments);
        }
        self.allow("", 0o777);
        // Wherever the program was built, nobody may not get there. Copied by a process of its own, since a file that is
        // open for writing in another thread's child cannot be executed.
        let own = self.file("program");
        if !own.exists() {
            let copied = Command::new("cp").arg(PROGRAM).arg(&own).status().expect("cp starts");
            assert!(copied.success());
            self.allow("program", 0o755);
        }
        let program = own.to_str().expect("UTF-8");
        self.command(program, arguments).arg0("fencepost").uid(NOBODY).gid(NOBODY).output().expect("fencepost starts")
    }

    /// With a limit on the size of files, which is to the program what a full disk is: a write fails.
    fn run_on_full_disk(&self, blocks: u32, arguments: &[&str]) -> Output {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        self.command("sh", &[&["-c", &script, PROGRAM], arguments].concat()).output().expect("sh starts")
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    fn submit(&self, arguments: &[&str]) -> String {
        let answer: Value = serde_json::from_str(&self.ok(&[&["submit", "--json"], arguments].concat())).expect("JSON");
        answer["batch"].as_str().expect("id").to_owned()
    }

    fn batches(&self) -> Value {
        serde_json::from_str::<Value>(&self.ok(&["list", "--json"])).expect("JSON")["batches"].clone()
    }

    /// What is there. What SQLite keeps beside a store comes and goes.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.path()).expect("our folder");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let of_sqlite = |name: &String| [".db-wal", ".db-shm", ".db-turn"].iter().any(|end| name.ends_with(end));
        let mut names: Vec<String> = names.filter(|name| !of_sqlite(name)).collect();
        names.sort();
        names
    }

    /// Says so, and leaves not even a store.
    fn refuses(&self, name: &str, exit: i32, arguments: &[&str]) {
        let before = self.names();
        let output = self.run(arguments);
        self.check(name, exit, &output);
        assert_eq!(self.names(), before, "{arguments:?} leaves nothing behind");
    }

    /// Submit and run say so; run finds it before it makes a store, and submit leaves nothing in its store.
    fn refuses_input(&self, name: &str, file: &str, options: &[&str]) {
        let run = [&["run", file, "-o", "out.jsonl"], options, &["--", "touch", "was-run"]].concat();
        self.refuses(name, 8, &run);
        let output = self.run(&[&["submit", file], options].concat());
        self.check(name, 8, &output);
        assert!(output.stdout.is_empty(), "no batch is named");
        if self.file(STORE).exists() {
            assert_eq!(self.batches(), json!([]), "{name}");
            assert_eq!(number(&self.file(STORE), "select count(*) from rows"), 0, "{name}");
            self.ok(&["worker", "--until-done", "--quiet", "--", "touch", "was-run"]);
            assert!(!self.file("was-run").exists(), "{name}: nothing to claim");
        }
    }

    fn check(&self, name: &str, exit: i32, output: &Output) {
        assert_eq!(output.status.code(), Some(exit), "{name}: {}", stderr(output));
        let mut settings = insta::Settings::clone_current();
        settings.set_omit_expression(true);
        settings.add_filter(&escaped(self.0.path().to_str().expect("UTF-8")), "[DIR]");
        settings.add_filter(r"\b(batch|batches:) [a-z0-9]{8}\b(, [a-z0-9]{8}\b)*", "$1 [ID]");
        settings.add_filter("\"[a-z0-9]\" names several", "\"[PREFIX]\" names several");
        settings.add_filter(r"PATH \([^)]*\)", "PATH ([PATH])");
        settings.bind(|| insta::assert_snapshot!(name, stderr(output)));
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// As a regular expression that matches this text.
fn escaped(text: &str) -> String {
    let escape = |c: char| if c.is_alphanumeric() || c == '/' { c.to_string() } else { format!("\\{c}") };
    text.chars().map(escape).collect()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

async fn sqlite(path: &std::path::Path) -> SqliteConnection {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).create_if_missing(true);
    SqliteConnection::connect_with(&options).await.expect("it opens")
}

fn number(path: &std::path::Path, sql: &'static str) -> i64 {
    block_on(async { sqlx::query_scalar(sql).fetch_one(&mut sqlite(path).await).await.expect("a number") })
}

fn execute(path: &std::path::Path, sql: &'static str) {
    block_on(async { sqlx::query(sql).execute(&mut sqlite(path).await).await.map(drop).expect("it works") });
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn files_that_cannot_be_read() {
    let place = Place::new();
    place.refuses_input("missing_file", "missing.csv", &[]);
    fs::create_dir(place.file("folder.csv")).expect("a folder");
    place.refuses_input("input_is_a_directory", "folder.csv", &[]);
}

#[test]
fn a_file_without_permission() {
    let place = Place::new();
    place.write("rows.csv", ROWS);
    place.allow("rows.csv", 0o000);
    for command in [&["submit", "rows.csv"][..], &["run", "rows.csv", "-o", "out.jsonl", "--", "true"]] {
        let output = place.run_as_nobody(command);
        place.check("unreadable_file", 8, &output);
        assert!(!place.file("state").exists() && !place.file("out.jsonl").exists(), "{command:?}");
    }
}

#[test]
fn inputs_without_rows() {
    let place = Place::new();
    for (name, file, content) in [
        ("empty_csv", "empty.csv", ""),
        ("empty_jsonl", "empty.jsonl", ""),
        ("blank_lines", "blank.jsonl", "\n\n"),
        ("header_only", "header.csv", "name,n\n"),
    ] {
        place.write(file, content);
        place.refuses_input(name, file, &[]);
    }
}

#[test]
fn inputs_that_break_in_their_midst() {
    let deep = format!("{{\"a\":1}}\n{}1{}\n", "[".repeat(200), "]".repeat(200));
    let cases: &[(&str, &str, &[u8])] = &[
        ("invalid_utf8_csv", "latin1.csv", b"name,n\none,1\nfa\xe7ade,2\n"),
        ("invalid_utf8_jsonl", "latin1.jsonl", b"{\"n\":1}\n{\"name\":\"fa\xe7ade\"}\n"),
        ("unclosed_quote", "unclosed.csv", b"name,n\none,1\n\"two,2\nthree,3\n"),
        ("text_after_quote", "after.csv", b"name,n\none,1\n\"tw\"o,2\n"),
        ("broken_jsonl", "broken.jsonl", b"{\"n\":1}\n{\"n\":2,}\n{\"n\":3}\n"),
        ("cut_jsonl", "cut.jsonl", b"{\"n\":1}\n{\"n\":"),
        ("json_list_over_lines", "list.jsonl", b"[\n{\"n\":1},\n{\"n\":2}\n]\n"),
        ("duplicate_column", "twice.csv", b"name,n,name\none,1,uno\n"),
        ("empty_column_name", "nameless.csv", b"name,,n\none,1,2\n"),
        ("row_too_short", "short.csv", b"name,n\none,1\ntwo\n"),
        ("row_too_long", "long.csv", b"name,n\none,1\ntwo,2,II\n"),
        ("nul_in_csv", "nul.csv", b"name,n\none,1\nt\0wo,2\n"),
        ("nul_in_jsonl", "nul.jsonl", b"{\"n\":1}\n{\"name\":\"t\0wo\"}\n"),
        ("nul_escape_in_jsonl", "nul-escape.jsonl", b"{\"n\":1}\n{\"name\":\"t\\u0000wo\"}\n"),
        ("lone_surrogate_in_jsonl", "surrogate.jsonl", b"{\"n\":1}\n{\"name\":\"\\ud83d!\"}\n"),
        // In a CSV it can only be as bytes, which are no UTF-8.
        ("lone_surrogate_in_csv", "surrogate.csv", b"name,n\none,1\n\xed\xa0\xbd,2\n"),
        ("nested_too_deep", "deep.jsonl", deep.as_bytes()),
        ("utf16", "utf16.csv", b"\xff\xfen\x00\n\x001\x00\n\x00"),
    ];
    let place = Place::new();
    for (name, file, content) in cases {
        place.write(file, content);
        place.refuses_input(name, file, &[]);
    }
}

/// More rows than a slice of a load has come before the bad one: what was stored of them is gone, too.
#[test]
fn a_bad_row_behind_many_good_ones() {
    let place = Place::new();
    let good: String = (0..30_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    place.write("rows.jsonl", good + "oops\n");
    place.refuses_input("bad_row_behind_many", "rows.jsonl", &[]);
}

#[test]
fn a_gzip_cut_short() {
    let place = Place::new();
    let rows: String = (0_u32..5_000).map(|n| format!("{n},{}\n", n.wrapping_mul(2_654_435_761))).collect();
    let whole = gzip(format!("n,hash\n{rows}").as_bytes());
    place.write("cut.csv.gz", &whole[..whole.len() / 2]);
    // How far reading comes is the decoder's affair, but the same each time.
    place.refuses_input("truncated_gzip", "cut.csv.gz", &[]);
    place.write("no.csv.gz", &whole[..5]);
    place.refuses_input("truncated_gzip_header", "no.csv.gz", &[]);
}

#[test]
fn a_row_too_large_unless_the_limit_is_raised() {
    let place = Place::new();
    let mut text = b"name,text\none,".to_vec();
    text.resize(text.len() + 20_000_000, b'x');
    text.push(b'\n');
    place.write("large.csv", text);
    place.refuses_input("row_too_large", "large.csv", &[]);
    let batch = place.submit(&["large.csv", "--max-row-bytes", "32000000"]);
    assert_eq!(place.batches()[0]["id"], batch.as_str());
    let stored = number(&place.file(STORE), "select sum(length(input)) from rows");
    assert!(stored > 20_000_000, "{stored}");
}

#[test]
fn command_lines() {
    let place = Place::new();
    place.write("rows.csv", ROWS);
    let long = "x".repeat(201);
    let run = |options: &[&'static str]| [&["run", "rows.csv", "-o", "out.jsonl"], options].concat();
    for (name, exit, arguments) in [
        ("unknown_command", 2, vec!["sumbit", "rows.csv"]),
        ("unknown_option", 2, vec!["submit", "rows.csv", "--opp", "x"]),
        ("no_handler", 2, run(&[])),
        ("handler_not_found", 2, run(&["--", "no-such-command"])),
        ("handler_not_found_at_path", 2, run(&["--", "./no-such-command"])),
        ("handler_not_executable", 2, run(&["--", "./rows.csv"])),
        ("handler_is_a_directory", 2, run(&["--", "./"])),
        ("unknown_column", 2, run(&["--", "echo", "{nope}"])),
        ("ttl_and_renew_contradict", 2, run(&["--ttl", "10s", "--renew", "6s", "--", "true"])),
        ("ttl_of_nothing", 2, run(&["--ttl", "0s", "--", "true"])),
        ("worker_ttl_and_renew_contradict", 2, vec!["worker", "--sleep", "0s", "--ttl", "10s", "--renew", "10s"]),
        ("op_empty", 2, vec!["submit", "rows.csv", "--op", ""]),
        ("op_control_characters", 2, vec!["submit", "rows.csv", "--op", "a\nb"]),
        ("op_of_runs", 2, vec!["submit", "rows.csv", "--op", "run:x"]),
        ("op_too_long", 2, vec!["submit", "rows.csv", "--op", &long]),
        ("delimiter", 2, vec!["submit", "rows.csv", "--delimiter", "::"]),
        ("delimiter_for_jsonl", 2, vec!["submit", "rows.csv", "--delimiter", ";", "--input-format", "jsonl"]),
    ] {
        place.refuses(name, exit, &arguments);
    }
}

#[test]
fn batches_that_are_not_named_well() {
    let place = Place::new();
    place.refuses("no_store", 7, &["status", "zzzzzzzz"]);
    // Ids are written with 32 characters: of 33, two begin alike.
    let mut ids: Vec<String> = Vec::new();
    let prefix = loop {
        let id = place.submit(&["--rows", "0"]);
        let first = id[..1].to_owned();
        if ids.iter().any(|other| other.starts_with(&first)) {
            break first;
        }
        ids.push(id);
        assert!(ids.len() <= 36, "{ids:?}");
    };
    for command in ["status", "results", "wait", "rows"] {
        place.refuses("ambiguous_prefix", 4, &[command, &prefix]);
        place.refuses("unknown_batch", 4, &[command, "no-such-batch"]);
    }
    place.refuses("unknown_batch", 4, &["results", "no-such-batch", "-o", "out.jsonl"]);
}

#[test]
fn a_key_bound_to_other_content() {
    let place = Place::new();
    place.write("rows.csv", ROWS);
    place.write("other.csv", "name,n\nten,10\n");
    place.submit(&["rows.csv", "--key", "k"]);
    let before = place.batches();
    place.refuses("key_bound", 8, &["submit", "other.csv", "--key", "k"]);
    assert_eq!(place.batches(), before);
    assert_eq!(number(&place.file(STORE), "select count(*) from rows"), 3);
    place.ok(&["run", "rows.csv", "--key", "r", "-o", "out.jsonl", "--", "true"]);
    let before = (place.batches(), fs::read(place.file("out.jsonl")).expect("results"));
    place.refuses("key_of_a_run_bound", 8, &["run", "other.csv", "--key", "r", "-o", "out.jsonl", "--", "true"]);
    place.refuses(
        "key_of_a_run_with_other_options",
        2,
        &["run", "rows.csv", "--key", "r", "--max-attempts", "9", "-o", "out.jsonl", "--", "true"],
    );
    assert_eq!((place.batches(), fs::read(place.file("out.jsonl")).expect("results")), before);
}

#[test]
fn stores_that_are_something_else() {
    let place = Place::new();
    place.write("rows.csv", ROWS);
    place.write("text.db", ROWS.repeat(100));
    fs::create_dir(place.file("folder.db")).expect("a folder");
    execute(&place.file("other.db"), "create table notes (text)");
    let contents = || ["text.db", "other.db"].map(|name| fs::read(place.file(name)).expect("it is there"));
    let before = contents();
    for (name, store) in
        [("store_is_text", "text.db"), ("store_is_another_database", "other.db"), ("store_is_a_directory", "folder.db")]
    {
        place.refuses(name, 7, &["submit", "rows.csv", "--store", store]);
        place.refuses(name, 7, &["run", "rows.csv", "--store", store, "-o", "out.jsonl", "--", "touch", "was-run"]);
        place.refuses(name, 7, &["list", "--store", store]);
    }
    assert_eq!(contents(), before, "they are as they were");
    place.refuses("store_in_no_directory", 7, &["submit", "rows.csv", "--store", "no/such/rows.db"]);
    place.refuses("store_missing", 7, &["list", "--store", "missing.db"]);
    place.write("empty.db", "");
    place.refuses("store_empty", 7, &["list", "--store", "empty.db"]);
    place.refuses("store_in_memory", 2, &["submit", "rows.csv", "--store", ":memory:"]);
    place.refuses("store_name_too_long", 2, &["submit", "rows.csv", "--store", &"x".repeat(250)]);
    // Nothing listens on port 1.
    let nowhere = "postgres://user:secret@127.0.0.1:1/rows";
    place.refuses("store_postgres_refused", 7, &["submit", "rows.csv", "--store", nowhere]);
    let parameter = "postgres://user:secret@127.0.0.1:1/rows?shema=jobs";
    place.refuses("store_postgres_parameter", 2, &["submit", "rows.csv", "--store", parameter]);
    let schema = "postgres://user:secret@127.0.0.1:1/rows?schema=Jobs";
    place.refuses("store_postgres_schema", 2, &["submit", "rows.csv", "--store", schema]);
}

#[test]
fn a_store_of_a_newer_version() {
    let place = Place::new();
    place.write("rows.csv", ROWS);
    place.submit(&["--rows", "0"]);
    let store = place.file(STORE);
    execute(&store, "update store set schema_version = 99, worker_version_min = 98");
    place.refuses("store_newer", 7, &["submit", "rows.csv"]);
    place.refuses("store_newer", 7, &["run", "rows.csv", "-o", "out.jsonl", "--", "touch", "was-run"]);
    place.refuses("store_newer", 7, &["worker", "--until-done", "--sleep", "0s"]);
    place.refuses("store_newer", 7, &["list"]);
    assert_eq!(number(&store, "select count(*) from rows"), 0);
    assert_eq!(number(&store, "select schema_version from store"), 99);
}

#[test]
fn a_store_that_another_process_holds_locked() {
    let place = Place::new();
    place.write("rows.csv", ROWS);
    place.submit(&["--rows", "0"]);
    let before = place.batches();
    block_on(async {
        let mut other = sqlite(&place.file(STORE)).await;
        sqlx::query("begin immediate").execute(&mut other).await.expect("the lock");
        place.refuses("store_locked", 7, &["submit", "rows.csv"]);
        assert_eq!(place.batches(), before, "who only reads need not wait");
        sqlx::query("rollback").execute(&mut other).await.expect("it is ours");
    });
    assert_eq!((place.batches(), number(&place.file(STORE), "select count(*) from rows")), (before, 0));
    place.submit(&["rows.csv"]);
}

#[test]
fn stores_that_may_not_be_written() {
    let place = Place::new();
    place.write("rows.csv", ROWS);
    fs::create_dir(place.file("closed")).expect("a folder");
    place.submit(&["--rows", "0", "--store", "closed/file.db"]);
    place.submit(&["--rows", "0", "--store", "file.db"]);
    place.allow("closed", 0o555);
    for name in ["closed/file.db", "file.db"] {
        place.allow(name, 0o444);
    }
    for (name, store) in [
        ("store_in_a_read_only_directory", "closed/new.db"),
        ("store_read_only_in_a_read_only_directory", "closed/file.db"),
        ("store_read_only", "file.db"),
    ] {
        let handler = ["--", "touch", "was-run"];
        for arguments in [
            vec!["submit", "rows.csv", "--store", store],
            [&["run", "rows.csv", "--store", store, "-o", "out.jsonl"][..], &handler].concat(),
            [&["worker", "--until-done", "--store", store][..], &handler].concat(),
        ] {
            place.check(name, 7, &place.run_as_nobody(&arguments));
            assert!(!place.file("out.jsonl").exists() && !place.file("was-run").exists(), "{arguments:?}");
        }
    }
    assert!(!place.file("closed/new.db").exists());
    // The default store's folder.
    place.allow("", 0o777);
    fs::create_dir(place.file("state")).expect("a folder");
    place.allow("state", 0o555);
    place.check("state_home_read_only", 7, &place.run_as_nobody(&["submit", "rows.csv"]));
    for name in ["closed", "state"] {
        place.allow(name, 0o755);
    }
    for store in ["closed/file.db", "file.db"] {
        place.allow(store, 0o644);
        assert_eq!(number(&place.file(store), "select count(*) from batches"), 1, "{store}");
    }
}

#[test]
fn a_full_disk() {
    let place = Place::new();
    let rows: String = (0..60_000).map(|n| format!("{{\"n\":{n},\"text\":\"{n:0>80}\"}}\n")).collect();
    place.write("many.jsonl", rows);
    place.write("rows.csv", ROWS);
    let output = place.run_on_full_disk(16, &["submit", "rows.csv"]);
    place.check("no_space_for_a_store", 7, &output);
    place.submit(&["--rows", "0"]);
    let before = place.batches();
    let output = place.run_on_full_disk(2_000, &["submit", "many.jsonl"]);
    place.check("no_space_for_rows", 7, &output);
    // What is there already cannot be removed now: a later load does that. Nobody gets it.
    let mut after = place.batches();
    let batches = after.as_array_mut().expect("a list");
    batches.retain(|batch| batch["status"] != "loading");
    assert_eq!(after, before);
    place.ok(&["worker", "--until-done", "--quiet", "--", "touch", "was-run"]);
    assert!(!place.file("was-run").exists(), "nothing to claim");
    let batch = place.submit(&["many.jsonl"]);
    let names = place.names();
    let output = place.run_on_full_disk(200, &["results", &batch, "-o", "out.jsonl"]);
    place.check("no_space_for_results", 1, &output);
    assert_eq!(place.names(), names, "neither the results nor a part of them");
    place.refuses("no_space_on_the_device", 1, &["results", &batch, "-o", "/dev/full"]);
}

#[test]
fn outputs_that_cannot_be() {
    let place = Place::new();
    place.write("rows.csv", ROWS);
    let to = |output: &'static str| ["run", "rows.csv", "--store", "rows.db", "-o", output, "--", "touch", "was-run"];
    fs::create_dir(place.file("folder")).expect("a folder");
    for (name, output) in [
        ("output_is_a_directory", "folder"),
        ("output_in_no_directory", "no/such/out.jsonl"),
        ("output_is_the_store", "rows.db"),
        ("output_is_the_store_s_log", "rows.db-wal"),
        ("output_is_the_input", "rows.csv"),
        ("output_below_a_file", "rows.csv/out.jsonl"),
        ("output_gzipped", "out.csv.gz"),
    ] {
        place.refuses(name, 2, &to(output));
    }
    place.write("kept.jsonl", "kept\n");
    place.allow("kept.jsonl", 0o444);
    place.allow("folder", 0o555);
    for (name, output) in [("output_in_a_read_only_directory", "folder/out.jsonl"), ("output_read_only", "kept.jsonl")]
    {
        place.check(name, 2, &place.run_as_nobody(&to(output)));
        assert!(!place.file("rows.db").exists() && !place.file("was-run").exists(), "{name}");
    }
    assert_eq!(fs::read_to_string(place.file("kept.jsonl")).expect("it is there"), "kept\n");
    assert_eq!(fs::read_to_string(place.file("rows.csv")).expect("it is there"), ROWS);
    let batch = place.submit(&["rows.csv", "--store", "rows.db"]);
    place.refuses("output_is_the_store", 2, &["results", &batch, "--store", "rows.db", "-o", "rows.db"]);
    place.refuses("output_is_a_directory", 2, &["results", &batch, "--store", "rows.db", "-o", "folder"]);
    place.refuses("output_gzipped", 2, &["results", &batch, "--store", "rows.db", "-o", "out.csv.gz"]);
}
