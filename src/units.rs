//! Quantities as types: physical units, so that a watt is never added to a joule, and times and
//! amounts of data as people write them in settings.

use serde::{Deserialize, Deserializer, Serialize};
use std::str::FromStr;
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

/// Reads a value of a settings file by its text: what the command line takes, the file takes as
/// well, and numbers need no quotes there.
///
/// # Errors
/// As `T`'s parser.
pub(crate) fn from_text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = String>,
{
    let parsed = match toml::Value::deserialize(deserializer)? {
        toml::Value::String(text) => text.parse(),
        toml::Value::Integer(number) => number.to_string().parse(),
        toml::Value::Float(number) => number.to_string().parse(), // without the '.0' of TOML
        // in the words of `T`, unless it takes any text
        other => match other.to_string().parse::<T>() {
            Err(reason) => Err(reason),
            Ok(_) => Err(format!("expected a text or a number, got '{other}'")),
        },
    };
    parsed.map_err(serde::de::Error::custom)
}

/// Implements serde's traits by `Display` and `FromStr`.
macro_rules! serde_by_text {
    ($type:ty $(, $($generics:tt)+)?) => {
        impl $(<$($generics)+>)? serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de $(, $($generics)+)?> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::units::from_text(deserializer)
            }
        }
    };
}
pub(crate) use serde_by_text;

/// An amount of data: `65536`, `"64M"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

serde_by_text!(Bytes);

impl std::fmt::Display for Bytes {
    /// The largest unit that needs no fraction: `64M`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let units = [(30, "G"), (20, "M"), (10, "K")];
        let whole = |&(shift, _): &(u32, &str)| self.0 > 0 && self.0.is_multiple_of(1 << shift);
        match units.into_iter().find(whole) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Bytes {
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

/// Milliseconds of a day.
pub const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A length of time from `MIN` to `MAX` milliseconds, both included: `"10s"`, `"500ms"`,
/// `"1m 30s"`; a plain number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval<const MIN: u64, const MAX: u64>(Duration);

serde_by_text!(Interval<MIN, MAX>, const MIN: u64, const MAX: u64);

impl<const MIN: u64, const MAX: u64> Interval<MIN, MAX> {
    /// A time for defaults, moved into the range.
    pub const fn from_millis(ms: u64) -> Self {
        let at_least = if ms < MIN { MIN } else { ms };
        Self(Duration::from_millis(if at_least > MAX {
            MAX
        } else {
            at_least
        }))
    }

    /// The time.
    pub fn duration(self) -> Duration {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> std::fmt::Display for Interval<MIN, MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}s", self.0.as_secs_f64())
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Interval<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let range = Duration::from_millis(MIN)..=Duration::from_millis(MAX);
        parse_duration(text)
            .filter(|time| range.contains(time))
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "expected a time from {} to {} such as '10s' or '500ms', got '{text}'",
                    bound(MIN),
                    bound(MAX)
                )
            })
    }
}

/// A number from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Fraction(f32);

serde_by_text!(Fraction);

impl Fraction {
    /// A fraction for defaults, moved into the range.
    pub const fn new(value: f32) -> Fraction {
        Fraction(value.clamp(0.0, 1.0))
    }

    /// The number.
    pub fn get(self) -> f32 {
        self.0
    }
}

impl std::fmt::Display for Fraction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Fraction {
    type Err = String;

    fn from_str(text: &str) -> Result<Fraction, String> {
        let number = text.parse().ok();
        number
            .filter(|number| (0.0..=1.0).contains(number))
            .map(Fraction)
            .ok_or_else(|| format!("expected a number from 0 to 1, got '{text}'"))
    }
}

fn parse_duration(text: &str) -> Option<Duration> {
    match text.parse::<f64>() {
        Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
        Err(_) => text.parse::<jiff::SignedDuration>().ok()?.try_into().ok(),
    }
}

/// A bound in its largest unit.
fn bound(ms: u64) -> String {
    let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms")];
    let whole = |&(unit, _): &(u64, &str)| ms > 0 && ms.is_multiple_of(unit);
    match units.into_iter().find(whole) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => "0".to_owned(),
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
    #[test]
    fn bytes_are_written_as_they_parse() {
        for (bytes, text) in [
            (0, "0"),
            (1000, "1000"),
            (64 << 10, "64K"),
            (1536 << 20, "1536M"),
            (1 << 30, "1G"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
            assert_eq!(text.parse(), Ok(Bytes(bytes)));
        }
    }

    type UpToADay = Interval<1, DAY_MS>;

    #[test]
    fn times_parse_with_and_without_a_unit_and_survive_being_written() {
        for (text, ms) in [
            ("10", 10_000),
            ("1.5", 1500),
            ("10s", 10_000),
            ("500ms", 500),
            ("1m 30s", 90_000),
            ("2 hours", 7_200_000),
            ("24h", DAY_MS),
            ("0.001", 1),
        ] {
            let time: UpToADay = text.parse().unwrap();
            assert_eq!(time.duration(), Duration::from_millis(ms), "'{text}'");
            assert_eq!(time.to_string().parse(), Ok(time), "'{time}'");
        }
        let precise: UpToADay = "12345.123456789".parse().unwrap();
        assert_eq!(precise.to_string().parse(), Ok(precise), "'{precise}'");
    }

    #[test]
    fn times_outside_their_range_say_what_would_be_right() {
        for bad in [
            "", "s", "-1s", "-1", "0", "0s", "25h", "nan", "inf", "1e99", "10 x", "0.0001",
        ] {
            assert_eq!(
                bad.parse::<UpToADay>(),
                Err(format!(
                    "expected a time from 1ms to 24h such as '10s' or '500ms', got '{bad}'"
                ))
            );
        }
        assert_eq!(
            "0".parse::<Interval<0, 90_000>>().map(Interval::duration),
            Ok(Duration::ZERO)
        );
        let error = "2m".parse::<Interval<0, 90_000>>().unwrap_err();
        assert!(error.contains("from 0 to 90s"), "{error}");
    }
}
