//! Values of settings that check themselves, so that a wrong one is refused in the same words on
//! the command line and in the file.

use crate::capture::address::without_secrets;
use crate::capture::decode::MAX_SIDE;
use crate::geometry::Size;
use crate::units::{Bytes, serde_by_text};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// A whole number from `MIN` to `MAX`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whole<const MIN: u64, const MAX: u64>(u64);

serde_by_text!(Whole<MIN, MAX>, const MIN: u64, const MAX: u64);

impl<const MIN: u64, const MAX: u64> Whole<MIN, MAX> {
    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> fmt::Display for Whole<MIN, MAX> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<const MIN: u64, const MAX: u64> FromStr for Whole<MIN, MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.parse().ok();
        number
            .filter(|number| (MIN..=MAX).contains(number))
            .map(Self)
            .ok_or_else(|| match MAX {
                u64::MAX => format!("expected a whole number from {MIN}, got '{text}'"),
                _ => format!("expected a whole number from {MIN} to {MAX}, got '{text}'"),
            })
    }
}

/// Frames per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fps(f64);

serde_by_text!(Fps);

impl Fps {
    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Fps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Fps {
    type Err = String;

    fn from_str(text: &str) -> Result<Fps, String> {
        let number = text.parse().ok();
        number
            .filter(|number| (0.001..=1000.0).contains(number))
            .map(Fps)
            .ok_or_else(|| format!("expected a number from 0.001 to 1000, got '{text}'"))
    }
}

/// Size of a frame that a source is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameSize(Size);

serde_by_text!(FrameSize);

impl FrameSize {
    /// The size.
    pub fn get(self) -> Size {
        self.0
    }
}

impl fmt::Display for FrameSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for FrameSize {
    type Err = String;

    fn from_str(text: &str) -> Result<FrameSize, String> {
        let size = text.parse::<Size>().ok();
        size.filter(|size| size.width.max(size.height) <= MAX_SIDE)
            .map(FrameSize)
            .ok_or_else(|| {
                format!(
                    "expected WIDTHxHEIGHT of at most {MAX_SIDE} pixels a side such as '1280x720', \
                     got '{text}'"
                )
            })
    }
}

/// Size of a log file: at least 64K, so that it holds the `run` line and then some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RotateSize(Bytes);

serde_by_text!(RotateSize);

impl RotateSize {
    /// The size.
    pub fn get(self) -> Bytes {
        self.0
    }
}

impl fmt::Display for RotateSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RotateSize {
    type Err = String;

    fn from_str(text: &str) -> Result<RotateSize, String> {
        let size = text.parse::<Bytes>().ok();
        size.filter(|size| size.0 >= 64 << 10)
            .map(RotateSize)
            .ok_or_else(|| {
                format!("expected bytes, at least 64K, such as '64M' or '1G', got '{text}'")
            })
    }
}

/// A V4L2 camera: its path, or the number in `/dev/videoN`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device(String);

serde_by_text!(Device);

impl Device {
    /// The path or number.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Device, String> {
        let expected = "expected a path such as '/dev/video0', or a number";
        match text {
            _ if text.contains("://") => Err(format!(
                "{expected}, got '{}': an address is a 'source'",
                without_secrets(text)
            )),
            _ if text.is_empty() || text.starts_with('-') => {
                Err(format!("{expected}, got '{text}'"))
            }
            _ => Ok(Device(text.to_owned())),
        }
    }
}

/// Name of a camera in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CameraName(String);

serde_by_text!(CameraName);

impl CameraName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CameraName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CameraName {
    type Err = String;

    fn from_str(text: &str) -> Result<CameraName, String> {
        let allowed = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        match (1..=64).contains(&text.chars().count()) && text.chars().all(allowed) {
            true => Ok(CameraName(text.to_owned())),
            false => Err(format!(
                "expected 1 to 64 letters, digits, '-', '_' or '.', got '{text}'"
            )),
        }
    }
}

/// An address and a port to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenAddress(SocketAddr);

serde_by_text!(ListenAddress);

impl ListenAddress {
    /// The address.
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for ListenAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenAddress, String> {
        text.parse().map(ListenAddress).map_err(|_| {
            format!(
                "expected an address and a port such as '127.0.0.1:8990' or '[::1]:8990', got '{text}'"
            )
        })
    }
}

/// Names of a machine in a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNames(Vec<String>);

serde_by_text!(HostNames);

impl HostNames {
    /// The names, in lower case.
    pub fn get(self) -> Vec<String> {
        self.0
    }
}

impl fmt::Display for HostNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl FromStr for HostNames {
    type Err = String;

    fn from_str(text: &str) -> Result<HostNames, String> {
        let names: Vec<String> = text
            .split(',')
            .map(|name| name.trim().to_lowercase())
            .collect();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':');
        let is_name = |name: &String| !name.is_empty() && name.chars().all(allowed);
        match names.iter().all(is_name) {
            true => Ok(HostNames(names)),
            false => Err(format!(
                "expected names or addresses without ports such as 'camera.local,10.0.0.7', got '{text}'"
            )),
        }
    }
}

/// One of a list of names, without the blanks around it.
pub(crate) fn listed_name(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err(format!("expected names such as 'person,car', got '{text}'")),
        name => Ok(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error<T: FromStr<Err = String>>(text: &str) -> String {
        text.parse::<T>().err().unwrap_or_default()
    }

    #[test]
    fn bounds_are_included_and_what_is_beyond_is_refused() {
        assert_eq!("1".parse::<Whole<1, 1000>>().map(Whole::get), Ok(1));
        assert_eq!("1000".parse::<Whole<1, 1000>>().map(Whole::get), Ok(1000));
        for bad in ["0", "1001", "-1", "1.5", ""] {
            assert_eq!(
                error::<Whole<1, 1000>>(bad),
                format!("expected a whole number from 1 to 1000, got '{bad}'")
            );
        }
        assert_eq!(
            error::<Whole<0, { u64::MAX }>>("x"),
            "expected a whole number from 0, got 'x'"
        );
        assert_eq!("0.001".parse::<Fps>().map(Fps::get), Ok(0.001));
        assert_eq!("1000".parse::<Fps>().map(Fps::get), Ok(1000.0));
        for bad in ["0", "1000.1", "nan", "inf", "fast"] {
            let expected = format!("expected a number from 0.001 to 1000, got '{bad}'");
            assert_eq!(error::<Fps>(bad), expected);
        }
        let largest = Size::new(MAX_SIDE, 1);
        assert_eq!(largest.to_string().parse(), Ok(FrameSize(largest)));
        for bad in ["16385x1", "1x16385", "0x1", "12"] {
            assert!(error::<FrameSize>(bad).contains("at most 16384 pixels a side"));
        }
        assert_eq!("64K".parse(), Ok(RotateSize(Bytes(65_536))));
        assert!(error::<RotateSize>("65535").contains("at least 64K"));
    }

    #[test]
    fn names_are_short_and_plain() {
        for good in ["front", "front-2", "a.b_c", "Tür", "7", &"x".repeat(64)] {
            assert_eq!(error::<CameraName>(good), "");
        }
        for bad in ["", "front door", "a/b", "a\nb", "a\"", &"x".repeat(65)] {
            assert!(error::<CameraName>(bad).starts_with("expected 1 to 64 letters"));
        }
    }

    #[test]
    fn blanks_around_a_listed_name_are_left_out_and_a_name_is_needed() {
        assert_eq!(
            listed_name(" traffic light "),
            Ok("traffic light".to_owned())
        );
        for bad in ["", "  "] {
            assert!(listed_name(bad).unwrap_err().starts_with("expected names"));
        }
    }

    #[test]
    fn an_address_to_listen_on_has_a_port_and_names_have_none() {
        for good in ["127.0.0.1:8990", "[::1]:0", "0.0.0.0:80"] {
            assert_eq!(error::<ListenAddress>(good), "");
        }
        for bad in ["8990", "localhost:8990", "127.0.0.1", ":8990"] {
            assert!(
                error::<ListenAddress>(bad).contains("and a port"),
                "'{bad}'"
            );
        }
        let names = "Camera.local, 10.0.0.7".parse().map(HostNames::get);
        assert_eq!(names.unwrap(), ["camera.local", "10.0.0.7"]);
        for bad in ["", "a,", "a/b", "http://a"] {
            assert!(error::<HostNames>(bad).contains("without ports"), "'{bad}'");
        }
    }

    #[test]
    fn a_device_is_a_path_or_a_number() {
        for good in ["0", "/dev/video0"] {
            assert_eq!(error::<Device>(good), "");
        }
        for bad in ["", "-1"] {
            assert!(error::<Device>(bad).contains("or a number"), "'{bad}'");
        }
    }
}
