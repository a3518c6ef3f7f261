//! Physical units as types, so that a watt is never added to a joule.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Electrical power.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Watts(pub f64);

/// Energy.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Joules(pub f64);

/// Temperature.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Celsius(pub f64);

impl Watts {
    /// Energy spent at this power over `time`.
    pub fn over(self, time: Duration) -> Joules {
        Joules(self.0 * time.as_secs_f64())
    }
}

impl Joules {
    /// Mean power when this energy was spent over `time`; `None` for an empty interval.
    pub fn per(self, time: Duration) -> Option<Watts> {
        let seconds = time.as_secs_f64();
        (seconds > 0.0).then(|| Watts(self.0 / seconds))
    }
}

impl std::fmt::Display for Watts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.1} W", self.0)
    }
}

impl std::fmt::Display for Joules {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} J", self.0)
    }
}

/// An amount of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "BytesText")]
pub struct Bytes(pub u64);

/// `65536`, `"64M"`, as configuration files write it.
#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected bytes: a number, or a text such as \"64M\""
)]
enum BytesText {
    Number(u64),
    Text(String),
}

impl TryFrom<BytesText> for Bytes {
    type Error = String;

    fn try_from(text: BytesText) -> Result<Bytes, String> {
        match text {
            BytesText::Number(bytes) => Ok(Bytes(bytes)),
            BytesText::Text(text) => text.parse(),
        }
    }
}

impl std::str::FromStr for Bytes {
    type Err = String;

    /// A number of bytes, or of K, M, G: 1024, 1024², 1024³ bytes.
    fn from_str(text: &str) -> Result<Bytes, String> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
            "" | "B" => Some(0),
            "K" | "KB" | "KIB" => Some(10),
            "M" | "MB" | "MIB" => Some(20),
            "G" | "GB" | "GIB" => Some(30),
            _ => None,
        };
        let bytes = digits
            .parse::<u64>()
            .ok()
            .zip(shift)
            .and_then(|(number, shift)| number.checked_mul(1 << shift));
        bytes
            .map(Bytes)
            .ok_or_else(|| format!("expected bytes such as '65536', '64M' or '1G', got '{text}'"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_parse_with_and_without_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("65536", 65_536),
            ("64M", 64 << 20),
            ("64MiB", 64 << 20),
            ("2g", 2 << 30),
            ("512KB", 512 << 10),
        ] {
            assert_eq!(text.parse(), Ok(Bytes(bytes)));
        }
        for bad in ["", "M", "-1", "1.5G", "5T", "64 M", "99999999999G"] {
            assert!(bad.parse::<Bytes>().is_err(), "'{bad}' parsed");
        }
    }
}
