//! Figures of a run: speed, latency, losses, power and heat.

use crate::detection::StageTimes;
use crate::units::{Celsius, Joules, Watts};
use serde::Serialize;
use std::time::Duration;

/// The figures of one moment, as windows, logs and status lines show them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Frames detected per second over the window; `None` until two frames were seen.
    pub fps: Option<f64>,
    /// Median time from capture to detections.
    pub latency_p50: Option<Duration>,
    /// 95th percentile of the same.
    pub latency_p95: Option<Duration>,
    /// 99th percentile of the same.
    pub latency_p99: Option<Duration>,
    /// Frames through the detector since start.
    pub frames: u64,
    /// Loss so far, by where it happened.
    pub drops: Drops,
    /// Power over its window; `None` without a meter, and until a window has passed.
    pub energy: Option<Energy>,
    /// The hottest zone; `None` where nothing reports one.
    pub temperature: Option<Celsius>,
    /// Times the board throttled for current or heat since start.
    pub throttled: u64,
}

/// Frames and lines lost since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drops {
    /// Dropped by the camera driver: gaps in its sequence numbers.
    pub driver: u64,
    /// Replaced by a newer frame before the detector took them.
    pub replaced: u64,
    /// Damaged frames that were skipped.
    pub damaged: u64,
    /// Log lines that a full queue or disk refused.
    pub log: u64,
    /// Messages that other outputs had no room for, such as pictures that could not be saved.
    pub outputs: u64,
}

/// Energy per frame as the VoVNet paper defines it: mean power ÷ frames per second.
#[derive(Clone, Debug, PartialEq)]
pub struct Energy {
    /// Mean power over the window.
    pub average: Watts,
    /// Mean power ÷ frames per second; `None` without frames.
    pub per_frame: Option<Joules>,
    /// Length of the window.
    pub window: Duration,
    /// What is measured, such as `VDD_IN`, `gpu-board` or `cpu-package`.
    pub scope: String,
    /// Who measures it, such as `ina3221`, `nvml` or `rapl`.
    pub source: String,
}

/// A whole run, for its summary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Frames through the detector.
    pub frames: u64,
    /// From the first frame's capture to the last frame's detections.
    pub elapsed: Duration,
    /// Sums of the time spent in each stage.
    pub spent: StageTimes,
    /// Loss by where it happened.
    pub drops: Drops,
    /// Objects found.
    pub detections: u64,
    /// The figures at the end.
    pub last: Snapshot,
    /// Energy over the whole run, where there is a meter.
    pub energy: Option<Joules>,
}

impl Totals {
    /// Mean frames per second of the run; `None` without frames.
    pub fn fps(&self) -> Option<f64> {
        let seconds = self.elapsed.as_secs_f64();
        (self.frames > 0 && seconds > 0.0).then(|| self.frames as f64 / seconds)
    }

    /// Mean of a stage's time over the frames.
    pub fn mean(&self, spent: Duration) -> Duration {
        spent / u32::try_from(self.frames.max(1)).unwrap_or(u32::MAX)
    }
}

/// What a meter measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterInfo {
    /// `ina3221`, `ina238`, `nvml` or `rapl`.
    pub source: &'static str,
    /// The rail or part: `VDD_IN`, `rails-sum`, `gpu-board`, `cpu-package`.
    pub scope: String,
}

/// Heat of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Heat {
    /// The hottest zone.
    pub hottest: Option<Celsius>,
    /// Over-current events that the board has counted.
    pub throttled: u64,
}
