//! The configuration file: its values become the defaults of the command line, so that flag > variable > file > built-in.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

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
    /// It is not TOML.
    #[error("the configuration file {path} is not TOML")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// Where and why.
        #[source]
        cause: Box<toml::de::Error>,
    },
    /// An option that no command has, or a value that is no option's.
    #[error("the configuration file {path} sets `{key}`, {why}")]
    Option {
        /// Which file.
        path: PathBuf,
        /// Which option.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// Puts the values of the configuration file, if there is one, in as defaults of `command` and its subcommands. Keys are
/// the long options; a table named after a command is for that command alone.
pub fn with_config_defaults(command: clap::Command, args: &[OsString]) -> Result<clap::Command, ConfigError> {
    let Some((path, text)) = find(args)? else { return Ok(command) };
    let table: Table =
        text.parse().map_err(|cause| ConfigError::Parse { path: path.clone(), cause: Box::new(cause) })?;
    let mut command = command;
    for (key, value) in table {
        match value {
            Value::Table(section) => {
                if command.find_subcommand(&key).is_none() {
                    return Err(ConfigError::Option { path, key, why: "which is no command" });
                }
                for (option, value) in section {
                    let name = format!("{key}.{option}");
                    let value = text_of(&value).ok_or(ConfigError::Option { path: path.clone(), key: name.clone(), why: NO_VALUE })?;
                    let known = command.find_subcommand(&key).is_some_and(|sub| has(sub, &option));
                    if !known {
                        return Err(ConfigError::Option { path, key: name, why: "which is no option of that command" });
                    }
                    command = command.mut_subcommand(&key, |sub| set(sub, &option, &value));
                }
            }
            value => {
                let value = text_of(&value).ok_or(ConfigError::Option { path: path.clone(), key: key.clone(), why: NO_VALUE })?;
                let names: Vec<String> = command
                    .get_subcommands()
                    .filter(|sub| has(sub, &key))
                    .map(|sub| sub.get_name().to_owned())
                    .collect();
                if has(&command, &key) {
                    command = set(command, &key, &value);
                } else if names.is_empty() {
                    return Err(ConfigError::Option { path, key, why: "which is no option of any command" });
                }
                for name in names {
                    command = command.mut_subcommand(name, |sub| set(sub, &key, &value));
                }
            }
        }
    }
    Ok(command)
}

const NO_VALUE: &str = "whose value must be a text, a number, true or false, or a list of texts";

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Boolean(yes) => Some(yes.to_string()),
        Value::Array(items) => Some(items.iter().map(|item| item.as_str()).collect::<Option<Vec<_>>>()?.join(",")),
        Value::Datetime(_) | Value::Table(_) => None,
    }
}

/// Whether a command has this long option, which is its own name for it in the file.
fn has(command: &clap::Command, option: &str) -> bool {
    option != "config" && command.get_arguments().any(|arg| arg.get_long() == Some(option) && !arg.is_hide_set())
}

fn set(command: clap::Command, option: &str, value: &str) -> clap::Command {
    let id = command.get_arguments().find(|arg| arg.get_long() == Some(option)).map(|arg| arg.get_id().clone());
    match id {
        Some(id) => command.mut_arg(id, |arg| arg.default_value(value.to_owned())),
        None => command,
    }
}

/// The file to use: `--config`, `FENCEPOST_CONFIG`, `./fencepost.toml`, or the user's own.
fn find(args: &[OsString]) -> Result<Option<(PathBuf, String)>, ConfigError> {
    let read = |path: PathBuf| match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(cause) => Err(ConfigError::Read { path, cause }),
    };
    if let Some(path) = named(args).or_else(|| std::env::var_os("FENCEPOST_CONFIG").map(PathBuf::from)) {
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
    let mut args = args.iter().take_while(|arg| *arg != "--");
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
    let named = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    named.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(below_home)))
}
