//! The configuration file: its values become the defaults of the command line, so that flag > variable > file > built-in.

use std::any::TypeId;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::builder::{Resettable, StyledStr};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction};
use toml::{Table, Value};

use crate::masked::masked;
use crate::visible::visible;

/// A configuration file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration file {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// It is not TOML. The library's own error has the whole line in its text, which may have a password in it.
    #[error("the configuration file {path} is not TOML{place}: {why}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where, where that is known.
        place: String,
        /// Why.
        why: String,
    },
    /// An option that no command has, or a value that is no option's.
    #[error("the configuration file {path} sets `{key}`, {why}")]
    Option {
        /// Which file.
        path: PathBuf,
        /// Which option.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

/// Says on a command line that neither file nor environment has a say.
pub const ONLY_FLAGS: &str = "--only-flags";

/// What a file must not set: what one command line is about (its rows, its name, what it runs, where results go), not how
/// fencepost works here. A file that replaced the command, or gave two workers one name, would be a trap.
const OF_ONE_COMMAND_LINE: &[&str] = &[
    "config",
    "sleep",
    "stream",
    "key",
    "again",
    "output",
    "name",
    "rows",
    "line",
    "status",
    "after",
    "failed",
    "watch",
    "wait",
    "yes",
    "error-like",
    "dry-run",
    "on-done",
];

/// Puts what the configuration file and the environment say into `command` and its subcommands. The file's keys are the
/// long options; a table named after a command is for that command alone. Empty variables say nothing.
pub fn configured(command: clap::Command, args: &[OsString]) -> Result<clap::Command, ConfigError> {
    if options(args).any(|arg| arg == ONLY_FLAGS) {
        return Ok(each_arg(command, |arg| arg.env(Resettable::Reset)));
    }
    let command = each_arg(command, without_empty_variable);
    let Some((path, text)) = find(args)? else { return Ok(command) };
    with_defaults(command, &text, &path)
}

fn with_defaults(mut command: clap::Command, text: &str, path: &Path) -> Result<clap::Command, ConfigError> {
    let parsed: Result<Table, _> = text.parse();
    let table = parsed.map_err(|error| not_toml(path, text, &error))?;
    for (key, value) in table {
        let set = match value {
            Value::Table(section) => set_for_one(command, &key, section),
            value => set_for_all(command, &key, &value),
        };
        command = set.map_err(|Wrong { key, why }| ConfigError::Option { path: path.to_owned(), key, why })?;
    }
    Ok(command)
}

fn not_toml(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let before = error.span().and_then(|span| text.get(..span.start));
    let place = before.map_or(String::new(), |before| {
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!(" (line {line}, column {column})")
    });
    // One line: what the library expected there, not what stands there.
    let why = error.message().lines().next().unwrap_or_default().to_owned();
    ConfigError::Parse { path: path.to_owned(), place, why }
}

/// An entry that cannot be used.
struct Wrong {
    key: String,
    why: String,
}

fn set_for_one(mut command: clap::Command, name: &str, section: Table) -> Result<clap::Command, Wrong> {
    if command.find_subcommand(name).is_none() {
        return Err(Wrong { key: name.to_owned(), why: "which is no command".to_owned() });
    }
    for (option, value) in section {
        let set = values_of(&value).and_then(|values| {
            let sub = command.find_subcommand(name).filter(|sub| has(sub, &option));
            let arg = sub.and_then(|sub| arg_of(sub, &option)).ok_or_else(|| unknown(&option, "that"))?;
            check(arg, &value, &values).map(|()| values)
        });
        let values = set.map_err(|why| Wrong { key: format!("{name}.{option}"), why })?;
        command = command.mut_subcommand(name, |sub| set_default(sub, &option, &values));
    }
    Ok(command)
}

fn set_for_all(mut command: clap::Command, key: &str, value: &Value) -> Result<clap::Command, Wrong> {
    let wrong = |why| Wrong { key: key.to_owned(), why };
    let values = values_of(value).map_err(wrong)?;
    let with_key = |command: &clap::Command| has(command, key);
    let names: Vec<String> =
        command.get_subcommands().filter(|sub| with_key(sub)).map(|sub| sub.get_name().to_owned()).collect();
    if names.is_empty() && !with_key(&command) {
        return Err(wrong(unknown(key, "any")));
    }
    for having in command.get_subcommands().chain([&command]).filter(|command| with_key(command)) {
        if let Some(arg) = arg_of(having, key) {
            check(arg, value, &values).map_err(|why| wrong(format!("{why} (for `{}`)", having.get_name())))?;
        }
    }
    if with_key(&command) {
        command = set_default(command, key, &values);
    }
    for name in names {
        command = command.mut_subcommand(name, |sub| set_default(sub, key, &values));
    }
    Ok(command)
}

fn unknown(option: &str, whose: &str) -> String {
    if OF_ONE_COMMAND_LINE.contains(&option) {
        return "which belongs on a command line and not into a file".to_owned();
    }
    format!("which is no option of {whose} command")
}

/// A value's texts: a list has several, for an option that may be repeated.
fn values_of(value: &Value) -> Result<Vec<String>, String> {
    let values = match value {
        Value::Array(items) => items.iter().map(text_of).collect(),
        value => text_of(value).map(|text| vec![text]),
    };
    values
        .filter(|values: &Vec<String>| !values.is_empty())
        .ok_or_else(|| "whose value must be a text, a number, true or false, or a list of such values".to_owned())
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Array(_) | Value::Datetime(_) | Value::Table(_) => None,
    }
}

/// Whether the file may set this long option of the command.
fn has(command: &clap::Command, option: &str) -> bool {
    !OF_ONE_COMMAND_LINE.contains(&option) && arg_of(command, option).is_some_and(|arg| !arg.is_hide_set())
}

fn arg_of<'a>(command: &'a clap::Command, option: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| arg.get_long() == Some(option))
}

/// Checked here and not as a default later, so that the error can name the file.
fn check(arg: &Arg, value: &Value, values: &[String]) -> Result<(), String> {
    if !arg.get_action().takes_values() {
        let is_flag = matches!(values, [value] if value == "true" || value == "false");
        return if is_flag { Ok(()) } else { Err("whose value is true or false".to_owned()) };
    }
    if values.len() > 1 && !matches!(arg.get_action(), ArgAction::Append) {
        return Err("which has one value, not a list".to_owned());
    }
    if takes_text(arg) && !is_text(value) {
        return Err("whose value is a text: put it in quotes".to_owned());
    }
    let long = arg.get_long().unwrap_or_default();
    let alone = arg.clone().global(false).env(Resettable::Reset);
    let line = values.iter().map(|value| format!("--{long}={value}"));
    match clap::Command::new("file").no_binary_name(true).arg(alone).try_get_matches_from(line) {
        Ok(_) => Ok(()),
        Err(mut error) => {
            mask_value(&mut error);
            let text = error.to_string();
            let first = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            Err(format!("which does not do: {}", first.split_whitespace().collect::<Vec<_>>().join(" ")))
        }
    }
}

/// Whether any text will do: then what TOML calls a number or a truth was meant for something else.
fn takes_text(arg: &Arg) -> bool {
    let parsed = arg.get_value_parser().type_id();
    parsed == TypeId::of::<String>() || parsed == TypeId::of::<PathBuf>()
}

fn is_text(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().all(Value::is_str),
        value => value.is_str(),
    }
}

fn set_default(command: clap::Command, option: &str, values: &[String]) -> clap::Command {
    let id = arg_of(&command, option).map(|arg| arg.get_id().clone());
    match id {
        // A value that is not shown where it comes from a variable may be a secret: nor is it shown here.
        Some(id) => command.mut_arg(id, |arg| {
            let hidden = arg.is_hide_env_values_set();
            arg.default_values(values.to_vec()).hide_default_value(hidden)
        }),
        None => command,
    }
}

fn each_arg(command: clap::Command, change: fn(Arg) -> Arg) -> clap::Command {
    command.mut_args(change).mut_subcommands(|sub| sub.mut_args(change))
}

fn without_empty_variable(arg: Arg) -> Arg {
    let is_empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    if is_empty { arg.env(Resettable::Reset) } else { arg }
}

/// Adds to an error about an option's value that the value came from a variable, if it did.
pub fn name_variable(error: &mut clap::Error, command: &clap::Command, args: &[OsString]) {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (Some(option), Some(value)) = (context(ContextKind::InvalidArg), context(ContextKind::InvalidValue)) else {
        return;
    };
    let mut command = command.clone();
    // Before, options do not know how they are shown.
    command.build();
    let all = command.get_subcommands().chain([&command]).flat_map(clap::Command::get_arguments);
    let from_variable = |arg: &&Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|found| found == value);
    let Some(arg) = all.filter(|arg| arg.to_string() == option).find(from_variable) else { return };
    let (Some(long), Some(variable)) = (arg.get_long(), arg.get_env()) else { return };
    let (flag, with_value) = (format!("--{long}"), format!("--{long}="));
    if options(args).any(|arg| *arg == *flag || arg.to_string_lossy().starts_with(&with_value)) {
        return;
    }
    let tip = StyledStr::from(format!("the value comes from the variable {}", variable.to_string_lossy()));
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
}

/// Hides the password of a URL that an error would repeat, and what a terminal would obey in a word that it repeats.
pub fn mask_value(error: &mut clap::Error) {
    for kind in [ContextKind::InvalidValue, ContextKind::InvalidArg, ContextKind::InvalidSubcommand] {
        let Some(ContextValue::String(value)) = error.get(kind) else { continue };
        let is_url = kind == ContextKind::InvalidValue && (value.contains("://") || value.contains(['@', '?']));
        let shown = visible(&if is_url { masked(value) } else { value.clone() }).into_owned();
        error.insert(kind, ContextValue::String(shown));
    }
}

/// Says of a word behind `--on-done` where it belongs.
pub fn name_on_done(error: &mut clap::Error, args: &[OsString]) {
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else { return };
    let is_behind = |pair: &[OsString]| pair[0] == "--on-done" && *pair[1] == **word;
    if error.kind() == ErrorKind::UnknownArgument && args.windows(2).any(is_behind) {
        let tip = StyledStr::from(format!("a command for it is written --on-done={}", visible(&quoted_always(word))));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip]));
    }
}

fn quoted_always(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The arguments before any `--`.
fn options(args: &[OsString]) -> impl Iterator<Item = &OsString> {
    args.iter().take_while(|arg| *arg != "--")
}

/// The file to use: `--config`, `FENCEPOST_CONFIG`, `./fencepost.toml`, or the user's own.
fn find(args: &[OsString]) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let read = |path: PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(cause) => Err(ConfigError::Read { path, cause }),
    };
    if let Some(path) = named(args).or_else(|| variable("FENCEPOST_CONFIG")) {
        return read(path);
    }
    let own = user_config_dir().map(|dir| dir.join("fencepost").join("config.toml"));
    for path in [Some(PathBuf::from("fencepost.toml")), own].into_iter().flatten() {
        if path.is_file() {
            return read(path);
        }
    }
    Ok(None)
}

/// `--config FILE` or `--config=FILE`, before any `--`.
fn named(args: &[OsString]) -> Option<PathBuf> {
    let mut args = options(args);
    while let Some(arg) = args.next() {
        if arg == "--config" {
            return args.next().map(PathBuf::from);
        }
        if let Some(path) = arg.to_str().and_then(|arg| arg.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    None
}

fn user_config_dir() -> Option<PathBuf> {
    xdg("XDG_CONFIG_HOME", ".config")
}

/// Where the embedded store lies unless told otherwise.
pub fn default_store_path() -> Option<PathBuf> {
    xdg("XDG_STATE_HOME", ".local/state").map(|dir| dir.join("fencepost").join("fencepost.db"))
}

/// XDG base directory specification: relative paths in the variables are ignored.
fn xdg(variable: &str, below_home: &str) -> Option<PathBuf> {
    let named = self::variable(variable).filter(|path| path.is_absolute());
    named.or_else(|| self::variable("HOME").map(|home| home.join(below_home)))
}
