//! Paths and other texts of the system, of any bytes. In TOML they are texts; one that is not UTF-8
//! is the list of its bytes, so that the command line can be laid over the file without loss.

use clap::builder::{OsStringValueParser, TypedValueParser};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serializer};
use std::ffi::{OsStr, OsString};

/// The parser for the command line: anything but an empty text.
pub(super) fn parser<T>() -> impl TypedValueParser<Value = T>
where
    T: From<OsString> + Clone + Send + Sync + 'static,
{
    OsStringValueParser::new().try_map(|text| match text.is_empty() {
        false => Ok(T::from(text)),
        true => Err("expected a path, got ''".to_owned()),
    })
}

pub(super) fn serialize<T: AsRef<OsStr>, S: Serializer>(
    value: &Option<T>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let Some(value) = value else {
        return serializer.serialize_none();
    };
    let value = value.as_ref();
    match value.to_str() {
        Some(text) => serializer.serialize_some(text),
        None => serializer.serialize_some(value.as_encoded_bytes()),
    }
}

pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: From<OsString>,
    D: Deserializer<'de>,
{
    let text = match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => Some(OsString::from(text)),
        toml::Value::Array(bytes) => os_string(&bytes),
        _ => None,
    };
    match text.filter(|text| !text.is_empty()) {
        Some(text) => Ok(Some(T::from(text))),
        None => Err(D::Error::custom(
            "expected a path or another text that is not empty",
        )),
    }
}

#[cfg(unix)]
fn os_string(bytes: &[toml::Value]) -> Option<OsString> {
    use std::os::unix::ffi::OsStringExt;
    let bytes = bytes
        .iter()
        .map(|byte| u8::try_from(byte.as_integer()?).ok());
    bytes.collect::<Option<Vec<u8>>>().map(OsString::from_vec)
}

#[cfg(not(unix))]
fn os_string(_: &[toml::Value]) -> Option<OsString> {
    None
}
