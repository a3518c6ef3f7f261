//! Physical units as types, so that a watt is never added to a joule.

use serde::Serialize;
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
