//! Names that are SQL, shell text, paths, patterns or terminal commands, each of `cli/tests/corpus/names` (a new case is one file: its bytes
//! are the name) in every place that takes one, on both kinds of store: it comes back as it is, or is refused, and nothing else happens.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Output, Stdio};

use fencepost_tests::place::{Place, StoreKind};
use fencepost_tests::process::fencepost;
use serde_json::Value;

fn names() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cli/tests/corpus/names");
    let entries = std::fs::read_dir(folder).expect("the corpus is there").map(|entry| entry.unwrap().path());
    let mut names: Vec<_> = entries
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

/// Whether it may be a name, as docs and messages say it.
fn is_name(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let control = |char: char| matches!(char, '\0'..='\x1f' | '\x7f'..='\u{9f}');
    (1..=200).contains(&text.len()) && !text.contains(control) && !text.starts_with("run:")
}

fn joined(option: &str, name: &[u8]) -> OsString {
    OsString::from_vec([option.as_bytes(), b"=", name].concat())
}

struct Scene(Place);

impl Scene {
    fn run(&self, arguments: &[&OsStr], environment: &[(&str, &OsStr)]) -> Output {
        let mut command = fencepost();
        command.arg("--store").arg(self.0.store()).args(arguments).envs(environment.iter().copied());
        command.current_dir(self.0.file("")).stdin(Stdio::null()).output().expect("fencepost starts")
    }

    fn ok(&self, arguments: &[&OsStr]) -> String {
        let output = self.run(arguments, &[]);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        check_shown(&output.stderr);
        String::from_utf8(output.stdout).unwrap()
    }

    fn json(&self, arguments: &[&OsStr]) -> Value {
        serde_json::from_str(&self.ok(arguments)).expect("JSON")
    }

    /// Everything in the store that is not a row of a table.
    fn objects(&self) -> i64 {
        self.0.number(self.0.dialect(
            "select count(*) from sqlite_master",
            "select count(*) from (select oid from pg_class union all select oid from pg_proc union all select oid from pg_namespace \
             union all select oid from pg_constraint) as objects",
        ))
    }

    fn files(&self) -> BTreeSet<OsString> {
        let names = std::fs::read_dir(self.0.file("")).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| !name.to_string_lossy().contains(".db")).collect()
    }
}

fn check_shown(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let bad = |char: char| {
        (char.is_control() && char != '\n')
            || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}')
    };
    assert!(!text.contains(bad), "{text:?}");
}

fn round(on: StoreKind) {
    let scene = Scene(Place::new(on));
    let os = OsStr::new;
    scene.ok(&[os("submit"), os("--rows"), os("0")]);
    std::fs::write(scene.0.file("rows.jsonl"), "").unwrap();
    let (objects, files) = (scene.objects(), scene.files());
    let mut taken = Vec::new();
    for (case, name) in names() {
        let (op, key) = (joined("--op", &name), joined("--key", &name));
        let value = String::from_utf8_lossy(&name).into_owned();
        std::fs::write(scene.0.file("rows.jsonl"), serde_json::json!({ "value": value }).to_string() + "\n").unwrap();
        let file = os("rows.jsonl");
        if !is_name(&name) {
            let mut refused = vec![vec![os("submit"), file, &op], vec![os("submit"), file, &key]];
            let worker_name = joined("--name", &name);
            refused.push(vec![os("worker"), os("--sleep=0s"), os("--until-done"), &worker_name]);
            let run = joined("--key", &name);
            refused.push(vec![os("run"), file, &run, os("--"), os("true")]);
            // To a run and to a worker it is a name like others.
            let only_of_submits = if value.starts_with("run:") { 2 } else { 4 };
            for arguments in &refused[..only_of_submits] {
                let output = scene.run(arguments, &[]);
                assert_eq!(
                    output.status.code(),
                    Some(2),
                    "{case}: {arguments:?}: {}",
                    String::from_utf8_lossy(&output.stderr)
                );
                assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{case}");
                check_shown(&output.stderr);
            }
            continue;
        }
        let submitted = scene.json(&[os("submit"), file, &op, &key, os("--max-attempts=1"), os("--json")]);
        assert_eq!(submitted["new"], true, "{case}");
        let batch = submitted["batch"].as_str().unwrap().to_owned();
        // The same by variables.
        let variables = [("FENCEPOST_OP", OsStr::from_bytes(&name)), ("FENCEPOST_KEY", OsStr::from_bytes(&name))];
        let again = scene.run(&[os("submit"), file, os("--json")], &variables);
        let again: Value = serde_json::from_slice(&again.stdout)
            .unwrap_or_else(|_| panic!("{case}: {}", String::from_utf8_lossy(&again.stderr)));
        assert_eq!((&again["new"], &again["batch"]), (&false.into(), &submitted["batch"]), "{case}");
        // As the name of an append.
        let appended = scene.json(&[os("append"), os(&batch), file, &key, os("--json")]);
        assert_eq!(appended["new"], true, "{case}: {appended}");
        // As a worker's name, as an argument of a command, and as an error.
        let worker_name = joined("--name", &name);
        let script = "printf '%s' \"$1\" >&2; exit 65";
        let worker = [
            os("worker"),
            &op,
            &worker_name,
            os("--until-done"),
            os("--"),
            os("sh"),
            os("-c"),
            os(script),
            os("sh"),
            os("{value}"),
        ];
        scene.ok(&worker);
        let row = scene.json(&[os("rows"), os(&batch), os("--line"), os("1"), os("--json")])["row"].clone();
        assert_eq!(row["input"]["value"], value.as_str(), "{case}");
        assert_eq!(row["worker"], value.as_str(), "{case}");
        assert!(row["error"].as_str().unwrap().contains(value.trim()), "{case}: {row}");
        check_shown(scene.ok(&[os("errors"), os(&batch)]).as_bytes());
        // As a part of an error: it means itself, and no pattern.
        if taken.is_empty() {
            for pattern in ["e%t", "e_it", "e.it", "e*t", "e?it", "[e]xit", "EXIT"] {
                let like = joined("--error-like", pattern.as_bytes());
                let retried = scene.json(&[os("retry"), os(&batch), &like, os("--yes"), os("--json")]);
                assert_eq!(retried["rows"], 0, "{pattern}");
            }
        }
        let like = joined("--error-like", &name);
        let retried = scene.json(&[os("retry"), os(&batch), &like, os("--yes"), os("--json")]);
        let meant = u64::from(row["error"].as_str().unwrap().contains(&value)) * 2;
        assert_eq!(retried["rows"], meant, "{case}: {retried}");
        // As a batch's id it is none, and no pattern either.
        let status = scene.run(&[os("status"), os("--"), OsStr::from_bytes(&name)], &[]);
        assert!(matches!(status.status.code(), Some(2 | 4)), "{case}: {:?}", status);
        check_shown(&status.stderr);
        taken.push(value);
    }
    assert!(taken.len() > 10, "{taken:?}");
    for command in [&["list"][..], &["status"], &["workers"]] {
        check_shown(scene.ok(&command.iter().map(|word| os(word)).collect::<Vec<_>>()).as_bytes());
    }
    let list = scene.json(&[os("list"), os("--json")]);
    let of = |field: &str| -> BTreeSet<String> {
        let batches = list["batches"].as_array().unwrap().iter();
        batches
            .filter(|batch| batch["key"].is_string())
            .map(|batch| batch[field].as_str().unwrap().to_owned())
            .collect()
    };
    let taken: BTreeSet<String> = taken.into_iter().collect();
    assert_eq!((of("op"), of("key")), (taken.clone(), taken));
    assert_eq!(scene.objects(), objects, "no table, function or schema came or went");
    assert_eq!(scene.files(), files, "no file was made");
}

#[test]
fn hostile_names_come_back_or_are_refused_on_sqlite() {
    round(StoreKind::Sqlite);
}

#[test]
fn hostile_names_come_back_or_are_refused_on_postgres() {
    round(StoreKind::Postgres);
}
