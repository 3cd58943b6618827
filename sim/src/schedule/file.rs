//! Schedules as files: JSON, made to be read and edited by people.
//!
//! ```json
//! {
//!   "seed": 7,
//!   "options": {"workers": 2},
//!   "faults": [{"at_us": 5000, "pause": {"worker": 1, "for_us": 20000}}]
//! }
//! ```
//!
//! `seed` must be there. An option that is left out is as the seed draws it, and so are `faults` where the whole list is left
//! out; `[]` is none. A batch needs no more than `rows`. What is drawn changes with the program, so a file that shall keep its meaning has all options: those
//! that are written here do.

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, VariantAccess, Visitor,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{Impossible, Schedule};
use crate::fault::{Fault, draw_faults};
use crate::options::Options;

/// Why a file is no schedule.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be written.
    #[error("{}: cannot be written: {source}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is to be written would take the place of the schedule itself.
    #[error("{}: is the schedule itself; name another file to write", path.display())]
    Own {
        /// Which.
        path: PathBuf,
    },
    /// It is no schedule.
    #[error("{}: {source}", path.display())]
    Bad {
        /// Which.
        path: PathBuf,
        /// Why.
        source: BadSchedule,
    },
}

/// Why a text is no schedule.
#[derive(Debug, thiserror::Error)]
pub enum BadSchedule {
    /// No JSON, or not of this form.
    #[error("{0} (`sim replay 0` prints a schedule to compare with)")]
    Form(#[from] serde_json::Error),
    /// No such option.
    #[error("line {line}: there is no option `{name}`{}", similar.as_ref().map_or_else(String::new, |name| format!("; do you mean `{name}`?")))]
    UnknownOption {
        /// Where.
        line: usize,
        /// As it is written.
        name: String,
        /// One with nearly that name.
        similar: Option<String>,
    },
    /// The same option again.
    #[error("line {line}: option `{name}` is there twice; leave one of them out")]
    Twice {
        /// Where.
        line: usize,
        /// Which.
        name: String,
    },
    /// An option's value is of the wrong kind.
    #[error("line {line}: option `{name}`: {source}")]
    Option {
        /// Where.
        line: usize,
        /// Which.
        name: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The values go together with nothing that could be run.
    #[error(transparent)]
    Impossible(#[from] Impossible),
}

/// Reads a schedule's file.
pub fn read(path: &Path) -> Result<Schedule, FileError> {
    let text = std::fs::read_to_string(path).map_err(|source| FileError::Read { path: path.to_owned(), source })?;
    from_json(&text).map_err(|source| FileError::Bad { path: path.to_owned(), source })
}

/// Writes a schedule's file.
pub fn write(path: &Path, schedule: &Schedule) -> Result<(), FileError> {
    let written = std::fs::write(path, to_json(schedule));
    written.map_err(|source| FileError::Write { path: path.to_owned(), source })
}

/// Reads a schedule.
pub fn from_json(text: &str) -> Result<Schedule, BadSchedule> {
    let raw: RawSchedule<'_> = serde_json::from_str(text)?;
    let options = overlay(text, raw.seed, raw.options)?;
    // Before anything is drawn with them.
    options.validate()?;
    let mut faults: Vec<(u64, Fault)> = match raw.faults {
        Some(faults) => faults.into_iter().map(|TimedFault(at_us, fault)| (at_us, fault)).collect(),
        None => draw_faults(raw.seed, &options),
    };
    faults.sort_by_key(|(at_us, _)| *at_us);
    let schedule = Schedule { seed: raw.seed, options, faults };
    schedule.validate()?;
    Ok(schedule)
}

/// A schedule with all its options; a fault has a line of its own.
pub fn to_json(schedule: &Schedule) -> String {
    let faults: Vec<WrittenFault<'_>> =
        schedule.faults.iter().map(|(at_us, fault)| WrittenFault { at_us: *at_us, fault }).collect();
    let written = Written { seed: schedule.seed, options: &schedule.options, faults };
    let value = serde_json::to_value(written).unwrap_or_default();
    let mut text = String::new();
    lay_out(&value, 0, &mut text);
    text.push('\n');
    text
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSchedule<'a> {
    seed: u64,
    #[serde(borrow, default)]
    options: RawOptions<'a>,
    faults: Option<Vec<TimedFault>>,
}

#[derive(Serialize)]
struct Written<'a> {
    seed: u64,
    options: &'a Options,
    faults: Vec<WrittenFault<'a>>,
}

#[derive(Serialize)]
struct WrittenFault<'a> {
    at_us: u64,
    #[serde(flatten)]
    fault: &'a Fault,
}

/// Options as they are in the text, in its order.
#[derive(Default)]
struct RawOptions<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for RawOptions<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = RawOptions<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("options by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(RawOptions(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// The seed's options with those of the text in their place.
fn overlay(text: &str, seed: u64, given: RawOptions<'_>) -> Result<Options, BadSchedule> {
    let mut options = Options::from_seed(seed);
    let Value::Object(mut all) = serde_json::to_value(&options)? else { return Ok(options) };
    let mut seen = Vec::new();
    for (name, raw) in given.0 {
        let line = line_of(text, raw.get());
        if !all.contains_key(&name) {
            let similar = similar(&name, &all);
            return Err(BadSchedule::UnknownOption { line, name, similar });
        }
        if seen.contains(&name) {
            return Err(BadSchedule::Twice { line, name });
        }
        let value: Value = serde_json::from_str(raw.get())?;
        all.insert(name.clone(), value);
        options = match serde_json::from_value(Value::Object(all.clone())) {
            Ok(options) => options,
            Err(source) => return Err(BadSchedule::Option { line, name, source }),
        };
        seen.push(name);
    }
    Ok(options)
}

/// On which line of the text a part of it begins.
fn line_of(text: &str, part: &str) -> usize {
    let before = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize);
    text.bytes().take(before).filter(|byte| *byte == b'\n').count() + 1
}

/// A known name with the same words, or one that begins like this.
fn similar(name: &str, all: &Map<String, Value>) -> Option<String> {
    let shared = |known: &&String| name.bytes().zip(known.bytes()).take_while(|(one, other)| one == other).count();
    let best = all.keys().max_by_key(shared)?;
    (shared(&best) >= 3.min(name.len())).then(|| best.clone())
}

/// `{"at_us": 5, "pause": {...}}`
struct TimedFault(u64, Fault);

impl<'de> Deserialize<'de> for TimedFault {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = TimedFault;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a fault such as {\"at_us\": 5000, \"pause\": {\"worker\": 1, \"for_us\": 20000}}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let (mut at_us, mut fault) = (None, None);
                while let Some(key) = map.next_key::<String>()? {
                    if key == "at_us" {
                        if at_us.replace(map.next_value()?).is_some() {
                            return Err(A::Error::custom("a fault has one `at_us`"));
                        }
                    } else if fault.is_some() {
                        return Err(A::Error::custom(format_args!(
                            "`{key}` beside another fault: each fault is an object of its own"
                        )));
                    } else {
                        fault = Some(Fault::deserialize(NamedByKey { key: &key, map: &mut map, error: PhantomData })?);
                    }
                }
                let at_us = at_us.ok_or_else(|| A::Error::custom("a fault lacks `at_us`, the moment it strikes"))?;
                let fault = fault.ok_or_else(|| A::Error::custom("a fault lacks its kind, such as `pause`"))?;
                Ok(TimedFault(at_us, fault))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// An enum's value whose variant is a key of a map that has other keys as well.
struct NamedByKey<'a, 'de, A> {
    key: &'a str,
    map: &'a mut A,
    error: PhantomData<&'de ()>,
}

impl<'de, A: MapAccess<'de>> Deserializer<'de> for NamedByKey<'_, 'de, A> {
    type Error = A::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, A::Error> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, A: MapAccess<'de>> EnumAccess<'de> for NamedByKey<'_, 'de, A> {
    type Error = A::Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), A::Error> {
        let name: StrDeserializer<'_, A::Error> = self.key.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl<'de, A: MapAccess<'de>> VariantAccess<'de> for NamedByKey<'_, 'de, A> {
    type Error = A::Error;

    fn unit_variant(self) -> Result<(), A::Error> {
        self.map.next_value()
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, A::Error> {
        self.map.next_value_seed(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(AsSeq(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(AsMap(visitor))
    }
}

struct AsSeq<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for AsSeq<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_seq(self.0)
    }
}

struct AsMap<V>(V);

impl<'de, V: Visitor<'de>> DeserializeSeed<'de> for AsMap<V> {
    type Value = V::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<V::Value, D::Error> {
        deserializer.deserialize_map(self.0)
    }
}

/// Lists and the two outer levels over several lines, what is further in on one.
fn lay_out(value: &Value, depth: usize, text: &mut String) {
    let (open, close, entries): (char, char, Vec<(Option<&String>, &Value)>) = match value {
        Value::Object(map) => ('{', '}', map.iter().map(|(name, value)| (Some(name), value)).collect()),
        Value::Array(list) => ('[', ']', list.iter().map(|value| (None, value)).collect()),
        other => {
            text.push_str(&other.to_string());
            return;
        }
    };
    let breaks = !entries.is_empty() && (value.is_array() || depth < 2);
    text.push(open);
    for (nth, (name, value)) in entries.into_iter().enumerate() {
        if nth > 0 {
            text.push_str(if breaks { "," } else { ", " });
        }
        if breaks {
            text.push('\n');
            text.push_str(&"  ".repeat(depth + 1));
        }
        if let Some(name) = name {
            text.push_str(&format!("\"{name}\": "));
        }
        lay_out(value, depth + 1, text);
    }
    if breaks {
        text.push('\n');
        text.push_str(&"  ".repeat(depth));
    }
    text.push(close);
}
