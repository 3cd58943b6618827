//! Schedules as files.

use proptest::prelude::*;
use sim::checks::PANIC;
use sim::explore::quiet_panics;
use sim::options::Options;
use sim::run;
use sim::schedule::Schedule;
use sim::schedule::file::{self, from_json, to_json};

#[test]
fn what_is_written_reads_back() {
    for seed in 0..2000 {
        let schedule = Schedule::from_seed(seed);
        let text = to_json(&schedule);
        assert_eq!(from_json(&text).ok(), Some(schedule), "{text}");
    }
}

#[test]
fn a_file_replays_the_same_run() {
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..50 {
        let schedule = Schedule::from_seed(seed);
        let path = folder.path().join(format!("{seed}.json"));
        file::write(&path, &schedule).unwrap();
        let read = file::read(&path).unwrap();
        assert_eq!(run(&read).hash, run(&schedule).hash, "seed {seed}");
    }
}

#[test]
fn what_is_left_out_is_as_the_seed_draws_it() {
    let drawn = Schedule::from_seed(20);
    assert_eq!(from_json(r#"{"seed": 20}"#).unwrap(), drawn);

    let workers = from_json(r#"{"seed": 20, "options": {"workers": 2}, "faults": []}"#).unwrap();
    let options = Options { workers: 2, ..drawn.options };
    assert_ne!(options, Options::from_seed(20));
    assert_eq!(workers, Schedule { seed: 20, options, faults: Vec::new() });
}

#[test]
fn faults_are_put_in_order() {
    let text = r#"{"seed": 1, "faults": [{"twin": {"worker": 0}, "at_us": 9}, {"at_us": 3, "witness": "flush"}]}"#;
    let times: Vec<u64> = from_json(text).unwrap().faults.iter().map(|(at_us, _)| *at_us).collect();
    assert_eq!(times, [3, 9]);
}

/// What is wrong, where, and what to do.
#[test]
fn bad_files_are_refused_in_words() {
    let texts = [
        r#"{"seed": 7"#,
        r#"{"options": {}}"#,
        r#"{"seed": 7, "fault": []}"#,
        "{\"seed\": 7,\n \"options\": {\n  \"worker\": 2}}",
        "{\"seed\": 7,\n \"options\": {\n  \"xyz\": 2}}",
        "{\"seed\": 7,\n \"options\": {\n  \"workers\": \"two\"}}",
        r#"{"seed": 7, "options": {"workers": 2, "workers": 3}}"#,
        r#"{"seed": 7, "options": {"workers": 20}}"#,
        r#"{"seed": 7, "options": {"renew_us": 60000000}}"#,
        r#"{"seed": 7, "options": {"batches": [{"rows": 1}, {"row": 1}]}}"#,
        r#"{"seed": 7, "options": {"batches": [{"rows": 1}, {"rows": 0}]}}"#,
        r#"{"seed": 7, "options": {"batches": []}}"#,
        "{\"seed\": 7, \"faults\": [\n {\"at_us\": 5, \"pause\": {\"worker\": 1}}]}",
        "{\"seed\": 7, \"faults\": [\n {\"at_us\": 5, \"puase\": {\"worker\": 1, \"for_us\": 5}}]}",
        "{\"seed\": 7, \"faults\": [\n {\"at_us\": 5, \"pause\": {\"worker\": 1, \"for_us\": 5, \"by\": 1}}]}",
        r#"{"seed": 7, "faults": [{"pause": {"worker": 1, "for_us": 5}}]}"#,
        r#"{"seed": 7, "faults": [{"at_us": 5}]}"#,
        r#"{"seed": 7, "faults": [{"at_us": 5, "at_us": 6, "twin": {"worker": 0}}]}"#,
        r#"{"seed": 7, "faults": [{"at_us": 5, "witness": "flush", "twin": {"worker": 0}}]}"#,
        r#"{"seed": 7, "faults": [{"at_us": 5, "pause": {"worker": 1, "for_us": 18446744073709551615}}]}"#,
        r#"{"seed": 7, "faults": ["twin"]}"#,
        r#"{"seed": 7, "options": {"lost_per_mille": 99999}}"#,
        r#"{"seed": 7, "options": {"witness_rate": 0}}"#,
        r#"{"seed": 7, "options": {"workers": 4, "joins_us": [18446744073709551615]}}"#,
        r#"{"seed": 7, "options": {"workers": 4, "joins_us": [1, 2, 3, 4, 5]}}"#,
        r#"{"seed": 7, "faults": [{"at_us": 5, "clock_rate": {"worker": 0, "millionths": 0}}]}"#,
        r#"{"seed": 7, "faults": [{"at_us": 5, "store_clock_rate": {"millionths": 4000000000}}]}"#,
    ];
    let told = texts.map(|text| match from_json(text) {
        Ok(_) => format!("{text}\n    is read"),
        Err(error) => format!("{text}\n    {error}"),
    });
    insta::assert_snapshot!(told.join("\n\n"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = file::read("no/such/file.json".as_ref()).unwrap_err().to_string();
    assert!(error.starts_with("no/such/file.json: cannot be read: "), "{error}");
}

/// Nobody's typing shall look like a bug of the store: what can be read can be run, or is refused.
#[test]
fn no_value_that_is_accepted_breaks_the_simulator() {
    quiet_panics();
    let base = Schedule { seed: 1, options: Options::small(), faults: Vec::new() };
    let base: serde_json::Value = serde_json::from_str(&to_json(&base)).unwrap();
    let names: Vec<String> = base["options"].as_object().unwrap().keys().cloned().collect();
    let mut accepted = 0;
    for name in names.iter().filter(|name| *name != "batches") {
        let numbers = [0, 100, 999_999, 20_000_000, u64::from(u32::MAX), u64::MAX];
        let lists = numbers.map(|number| vec![number]).into_iter().chain([vec![5; 6], vec![5; 7], vec![5; 300]]);
        for value in numbers.map(serde_json::Value::from).into_iter().chain(lists.map(Into::into)) {
            let mut changed = base.clone();
            changed["options"][name.as_str()] = value.clone();
            let Ok(schedule) = from_json(&changed.to_string()) else { continue };
            accepted += 1;
            let violation = run(&schedule).violation;
            assert!(violation.as_ref().is_none_or(|it| it.check != PANIC), "{name} = {value}: {violation:?}");
        }
    }
    let rates = [0, 1, 100_000, 10_000_000, u32::MAX];
    for rate in rates {
        for fault in [
            serde_json::json!({"at_us": 5, "clock_rate": {"worker": 0, "millionths": rate}}),
            serde_json::json!({"at_us": 5, "store_clock_rate": {"millionths": rate}}),
        ] {
            let mut changed = base.clone();
            changed["faults"] = vec![fault].into();
            let Ok(schedule) = from_json(&changed.to_string()) else { continue };
            accepted += 1;
            let violation = run(&schedule).violation;
            assert!(violation.as_ref().is_none_or(|it| it.check != PANIC), "{rate}: {violation:?}");
        }
    }
    assert!(accepted > 66, "{accepted}");
}

proptest! {
    /// A text that somebody has damaged is refused or read, whatever it is.
    #[test]
    fn damaged_text_is_no_accident(seed in 0u64..100, at in 0usize..3000, with in "[0-9a-z\"{}\\[\\],: -]{0,3}", cut in 0usize..4) {
        let mut text = to_json(&Schedule::from_seed(seed));
        let at = at % text.len();
        let end = (at + cut).min(text.len());
        text.replace_range(at..end, &with);
        if let Ok(schedule) = from_json(&text) {
            prop_assert_eq!(from_json(&to_json(&schedule)).ok(), Some(schedule));
        }
    }
}
