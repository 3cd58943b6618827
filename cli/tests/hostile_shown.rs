//! What is printed: no password, whatever it stands in, and no character that would move a terminal's cursor or turn its text round.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::Output;

use self::support::place::{Place, code, stderr};

#[allow(dead_code)]
mod support {
    pub mod place;
}

fn all_of(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr(output))
}

/// What a terminal would obey instead of showing it.
fn obeyed(text: &str) -> Option<char> {
    text.chars().find(|char| {
        (char.is_control() && *char != '\n')
            || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{2028}')
    })
}

fn check_shown(what: &str, text: &str) {
    assert_eq!(obeyed(text), None, "{what}: {text:?}");
}

/// Each is refused, as a store and not as a file that is missing, and says what a store is called.
#[test]
fn what_looks_like_a_server_s_name_is_no_file_and_shows_no_password() {
    for name in [
        "u:sesame@host/db",
        "u:se/same@host",
        "//u:sesame@host/db",
        "\"postgres://u:sesame@host/db\"",
        "'postgres://host/db?password=sesame'",
        " postgres://u:sesame@host/db",
        "jdbc:postgresql://host/db?user=u&password=sesame",
        "postgres//u:sesame@host/db",
        "postgres:/u:sesame@host/db",
        "u:sesame://host",
        "dbname=x password = sesame",
        "user=u dbname=x sslpassword=sesame",
        "dbname=x\tpassword=sesame",
        "Server=host;User Id=u;Pwd=sesame",
        "postgres://u:sesame/db",
        "postgres://u:sesame@host:port/db",
        "postgres://u:sesame@host/db?shema=x",
        "redis://:sesame@host",
    ] {
        for (flag, variable) in [(Some(name), None), (None, Some(name))] {
            let place = Place::new();
            let arguments =
                [&["submit", "--rows", "1"][..], &flag.map_or(vec![], |name| vec!["--store", name])].concat();
            let environment: Vec<_> = variable.iter().map(|name| ("FENCEPOST_STORE", *name)).collect();
            let output = place.command(&arguments, &environment).output().unwrap();
            let said = all_of(&output);
            assert_eq!(code(&output), 2, "{name}: {said}");
            assert!(!said.contains("sesame") && !said.contains("same@"), "{name}: {said}");
            assert!(said.contains("postgres://USER") || said.contains("parameter \"shema\""), "{name}: {said}");
            assert_eq!(std::fs::read_dir(place.file("")).unwrap().count(), 0, "{name}: no file is made");
        }
    }
    // A file whose name looks so can be named all the same.
    let place = Place::new();
    for name in ["./u:x@host.db", "sqlite:u:x@host.db", "sqlite:a b=c.db", "u@host.db", "C:rows.db", "a=b.db"] {
        place.ok(&["submit", "--rows", "1", "--store", name]);
    }
}

#[test]
fn a_redis_that_is_none_shows_no_password() {
    let place = Place::new();
    for name in [
        "u:sesame@host",
        "redis://u:sesame",
        "redis://u:sesame/0",
        "redis://u:se/same@host",
        "redis://host?password=sesame",
        "redis:u:sesame",
    ] {
        let output = place.run(&["worker", "--sleep", "0s", "--redis", name]);
        let said = all_of(&output);
        assert_eq!(code(&output), 2, "{name}: {said}");
        assert!(!said.contains("sesame") && !said.contains("same@"), "{name}: {said}");
    }
}

#[test]
fn a_url_that_is_refused_shows_no_password_and_no_token() {
    let place = Place::new();
    for url in [
        "https://u:sesame@host/",
        "https://host/?token=sesame#top",
        "host/?token=sesame",
        "//u:sesame@host/",
        "ftp://host/?a=b&token=sesame",
    ] {
        let flag = place.run(&["submit", "--rows", "1", "--on-done-url", url]);
        let variable = place.command(&["submit", "--rows", "1"], &[("FENCEPOST_ON_DONE_URL", url)]).output().unwrap();
        place.write("fencepost.toml", &format!("[submit]\non-done-url = \"{url}\"\n"));
        let file = place.run(&["submit", "--rows", "1"]);
        std::fs::remove_file(place.file("fencepost.toml")).unwrap();
        let prefix = place.run(&["worker", "--sleep", "0s", "--allow-url", url]);
        for output in [flag, variable, file, prefix] {
            let said = all_of(&output);
            assert_eq!(code(&output), 2, "{url}: {said}");
            assert!(!said.contains("sesame"), "{url}: {said}");
        }
    }
    assert!(!place.file("state").exists(), "no store was made");
}

/// A question mark in a password ends a URL's place: what follows is not shown as if it were a parameter's name.
#[test]
fn a_password_with_a_question_mark_is_not_shown() {
    let place = Place::new();
    for url in [
        "postgres://u:open?sesame@127.0.0.1:1/db",
        "postgres://u:open?sesame=1@127.0.0.1:1/db",
        "postgres://u:a?b&sesame",
    ] {
        for command in [&["status"][..], &["verify", "x"], &["doctor"], &["submit", "--rows", "1", "--json"]] {
            let output = place.run(&[command, &["--store", url]].concat());
            let said = all_of(&output);
            assert!(code(&output) == 2 && !said.contains("sesame"), "{url}: {said}");
        }
    }
    let output = place.run(&["status", "--store", "postgres://u@127.0.0.1:1/db?shema=x"]);
    assert!(stderr(&output).contains("\"shema\""), "{}", stderr(&output));
}

/// Who may see a worker's log or a batch's status need not know the token that a URL has.
#[test]
fn the_token_of_a_url_that_is_called_is_shown_nowhere() {
    let place = Place::new();
    // Nobody listens there.
    let url = "http://127.0.0.1:1/hook?token=sesame&sesame";
    let batch =
        place.json(&["submit", "--rows", "1", "--on-done-url", url, "--json"])["batch"].as_str().unwrap().to_owned();
    let open = place.ok(&["status", &batch]);
    assert!(open.contains("http://127.0.0.1:1/hook?***"), "{open}");
    place.ok(&["worker", "--until-done", "--quiet", "--sleep", "0s"]);
    let mut said = open;
    for log in ["text", "json"] {
        let mut worker = place.command(&["worker", "--allow-url", "http://127.0.0.1:1/", "--log", log], &[]);
        let mut worker = worker.stderr(std::process::Stdio::piped()).spawn().unwrap();
        let lines = std::io::BufRead::lines(std::io::BufReader::new(worker.stderr.take().unwrap()));
        for line in lines {
            said += &line.unwrap();
            said += "\n";
            if said.contains("call to be tried again") && log == "text" || said.contains("call_failed") {
                break;
            }
        }
        worker.kill().unwrap();
        worker.wait().unwrap();
    }
    said += &place.ok(&["status", &batch]);
    said += &place.ok(&["status", &batch, "--json"]);
    said += &place.ok(&["verify", &batch]);
    assert!(said.contains("Connection refused"), "{said}");
    assert!(!said.contains("sesame"), "{said}");
}

#[test]
fn nothing_that_a_row_says_reaches_the_terminal_raw() {
    let place = Place::new();
    let hostile = "b\u{1b}[2Ja\rd \u{8}\u{7f}\u{9b}2J \u{202e}dne\u{2066}\u{2028}";
    let row = serde_json::json!({ "value": hostile });
    let file = place.write("rows\u{1b}[2J\u{202e}.jsonl", &format!("{row}\n"));
    let batch = place.json(&["submit", &file, "--op", "a\u{202e}b", "--max-attempts", "2", "--json"])["batch"]
        .as_str()
        .unwrap()
        .to_owned();
    let says = ["--", "sh", "-c", "printf '%s' \"$1\" >&2; exit 75", "sh", "{value}"];
    let worker =
        place.run(&[&["worker", "--op", "a\u{202e}b", "--name", "w\u{202e}w", "--until-done"][..], &says].concat());
    assert!(stderr(&worker).contains("FAILED") && stderr(&worker).contains("to be tried again"), "{}", stderr(&worker));
    check_shown("a worker's log", &all_of(&worker));
    for command in [
        &["status", &batch][..],
        &["list"],
        &["workers"],
        &["errors", &batch],
        &["rows", &batch],
        &["rows", &batch, "--line", "1"],
        &["verify", &batch],
    ] {
        let output = place.run(command);
        assert_eq!(code(&output), 0, "{command:?}: {}", stderr(&output));
        check_shown(&format!("{command:?}"), &all_of(&output));
    }
    let error = place.json(&["errors", &batch, "--json"])["kinds"][0]["error"].as_str().unwrap().to_owned();
    assert!(error.contains(hostile.trim()), "JSON has it as it is: {error:?}");
    for command in [
        &["submit", "missing\u{1b}[2J\u{202e}.csv"][..],
        &["submit", "--rows", "1", "--op", "a\u{1b}[2J"],
        &["status", "\u{1b}[2J\u{202e}"],
        &["list", "--store", "no\u{1b}[2J\u{202e}.db"],
        &["retry", &batch, "--error-like", "\u{1b}[2J\u{202e}"],
        &["frob\u{1b}[2J\u{202e}"],
        &["worker", "--sleep", "0s", "--redis", "\u{1b}[2J\u{202e}"],
        &["worker", "--", "\u{1b}[2J\u{202e}"],
        &["run", &file, "-o", "\u{1b}[2J/\u{202e}", "--", "true"],
    ] {
        let output = place.run(command);
        check_shown(&format!("{command:?}"), &all_of(&output));
    }
}

/// The same for programs: what is escaped there stays JSON, and means what it did.
#[test]
fn json_on_stderr_is_json_whatever_stands_in_it() {
    let place = Place::new();
    let hostile = "b\u{1b}[2J\u{7f}\u{9b}2J \u{202e}dne\u{200f}\u{2028}";
    let output = place.run(&["submit", &format!("{hostile}.csv"), "--json"]);
    check_shown("a failure", &all_of(&output));
    let failure: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
    assert!(failure["message"].as_str().unwrap().contains(hostile), "{failure}");

    let file = place.write("rows.jsonl", &format!("{}\n", serde_json::json!({ "value": hostile })));
    let name = "w\u{202e}\u{200f}w";
    place.json(&["submit", &file, "--max-attempts", "1", "--json"]);
    let says = ["--", "sh", "-c", "printf '%s' \"$1\" >&2; exit 1", "sh", "{value}"];
    let worker = place.run(&[&["worker", "--log", "json", "--name", name, "--until-done"][..], &says].concat());
    check_shown("a worker's log", &all_of(&worker));
    let lines: Vec<serde_json::Value> = stderr(&worker)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    assert!(lines.iter().all(|line| line["worker"] == name), "{lines:?}");
    assert!(
        lines.iter().any(|line| line["error"].as_str().is_some_and(|error| error.contains(hostile.trim()))),
        "{lines:?}"
    );
}

/// `DONE` are rows with an outcome: an aborted row was never done.
#[test]
fn an_aborted_row_is_not_listed_as_done() {
    let place = Place::new();
    let batch = place.json(&["submit", "--rows", "3", "--json"])["batch"].as_str().unwrap().to_owned();
    place.ok(&["abort", &batch, "--yes"]);
    let list = place.ok(&["list"]);
    let words: Vec<&str> = list.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words[1..5], ["aborted", "3", "0", "0"], "{list}");
}

#[test]
fn a_command_that_on_done_cannot_take_is_said_with_its_equals_sign() {
    let place = Place::new();
    let output = place.run(&["worker", "--on-done", "notify", "--sleep", "0s"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("--on-done='notify'"), "{}", stderr(&output));
}
