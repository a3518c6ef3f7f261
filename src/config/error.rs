//! Errors of settings: file, line, key, expected and got, and the nearest right word.

use std::path::PathBuf;

/// Wrong settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration '{}'", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("'{}', line {line}, column {column}: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// Expected and got.
        reason: String,
    },
    /// A key that does not exist.
    #[error("'{}', line {line}: unknown key '{key}'{hint}", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
        /// The key.
        key: String,
        /// The nearest known key, and all of them.
        hint: String,
    },
    /// A value of the wrong kind or outside its range.
    #[error("'{}', line {line}: {key}: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Line of the key, from 1.
        line: usize,
        /// The key.
        key: String,
        /// Expected and got.
        reason: String,
    },
    /// Two keys of which only one may be set.
    #[error("'{}', line {line}: '{first}' and '{second}' exclude each other: keep one", path.display())]
    Exclusive {
        /// The file.
        path: PathBuf,
        /// Line of the later key, from 1.
        line: usize,
        /// The one key.
        first: &'static str,
        /// The other key.
        second: &'static str,
    },
    /// Settings of the command line that cannot be written as TOML.
    #[error("settings cannot be merged with the file: {0}")]
    NotText(String),
    /// A class that the model does not know.
    #[error("unknown class '{name}'{hint}")]
    UnknownClass {
        /// The name.
        name: String,
        /// The nearest known class, and all of them.
        hint: String,
    },
}

/// `: did you mean 'x'?` when something is near, and all that is known.
pub(super) fn did_you_mean(word: &str, known: &[impl AsRef<str>]) -> String {
    let names: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
    let nearest = names
        .iter()
        .map(|name| (strsim::jaro_winkler(word, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, name)) if likeness > 0.75 => {
            format!(": did you mean '{name}'? (known: {})", names.join(", "))
        }
        _ => format!(": known are {}", names.join(", ")),
    }
}
