//! Metrics of a run: speed, latency, losses, power and temperature.

use crate::detection::StageTimes;
use crate::units::{Celsius, Joules, Watts};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The metrics at one time, for the window, the log and the status line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Frames per second through the detector over the window; `None` for fewer than two frames.
    pub fps: Option<f64>,
    /// Median time from capture to detections.
    pub latency_p50: Option<Duration>,
    /// 95th percentile of the same.
    pub latency_p95: Option<Duration>,
    /// 99th percentile of the same.
    pub latency_p99: Option<Duration>,
    /// Frames through the detector since start.
    pub frames: u64,
    /// Losses so far, by stage.
    pub drops: Drops,
    /// Mean power over its window; `None` without a meter and before the first window has passed.
    pub energy: Option<Energy>,
    /// Energy since start; `None` without a meter.
    pub spent: Option<Joules>,
    /// Temperature of the hottest zone; `None` without a sensor.
    pub temperature: Option<Celsius>,
    /// Over-current throttling events of the board since start.
    pub throttled: u64,
    /// What zones and lines have counted; `None` without any.
    pub counts: Option<Arc<Counts>>,
}

/// What zones and lines have counted, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// By zone.
    pub zones: BTreeMap<String, ZoneCounts>,
    /// By line.
    pub lines: BTreeMap<String, LineCounts>,
}

/// Numbers of objects by class name.
pub type ByClass = BTreeMap<String, u64>;

/// Counts of one zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ZoneCounts {
    /// Objects in the zone now.
    pub now: ByClass,
    /// Objects that have entered since the start.
    pub entered: ByClass,
}

/// Crossings of one line since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LineCounts {
    /// From the left of the line to its right, as seen from its beginning.
    pub forward: ByClass,
    /// The other way.
    pub backward: ByClass,
}

/// Frames and lines lost since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Drops {
    /// Dropped by the camera driver: gaps in its sequence numbers.
    pub driver: u64,
    /// Replaced by a newer frame before the detector received them.
    pub replaced: u64,
    /// Damaged frames that were skipped.
    pub damaged: u64,
    /// Log lines lost to a full queue or disk.
    pub log: u64,
    /// Messages that other outputs lost, such as frames that were not saved.
    pub outputs: u64,
}

/// Mean power, and energy per frame as in the VoVNet paper (Lee et al. 2019): mean power ÷ frames
/// per second.
#[derive(Clone, Debug, PartialEq)]
pub struct Energy {
    /// Mean power over the window.
    pub average: Watts,
    /// Mean power ÷ frames per second; `None` without frames.
    pub per_frame: Option<Joules>,
    /// Length of the window.
    pub window: Duration,
    /// The measured part, such as `VDD_IN`, `gpu-board` or `cpu-package`.
    pub scope: String,
    /// The meter, such as `ina3221`, `nvml` or `rapl`.
    pub source: String,
}

/// Totals of a run, for its summary.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Frames through the detector.
    pub frames: u64,
    /// From the first frame's capture to the last frame's detections.
    pub elapsed: Duration,
    /// Sums of the time spent in each stage.
    pub spent: StageTimes,
    /// Losses by stage.
    pub drops: Drops,
    /// Number of detections.
    pub detections: u64,
    /// The metrics at the end.
    pub last: Snapshot,
    /// Energy of the whole run; `None` without a meter.
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

/// A meter and the part that it measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeterInfo {
    /// `ina3221`, `ina238`, `nvml` or `rapl`.
    pub source: &'static str,
    /// The rail or part: `VDD_IN`, `rails-sum`, `gpu-board`, `cpu-package`.
    pub scope: String,
}

/// Temperature and throttling at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Heat {
    /// Temperature of the hottest zone.
    pub hottest: Option<Celsius>,
    /// Number of over-current events, from the counters of the board.
    pub throttled: u64,
}
