//! Live figures: frames per second and latency over a window, drops by stage, power.

use crate::units::{Celsius, Joules, Watts};
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
    /// Power over its window; `None` without a meter.
    pub energy: Option<Energy>,
    /// The hottest zone; `None` where nothing reports one.
    pub temperature: Option<Celsius>,
    /// Times the board throttled for current or heat since start.
    pub throttled: u64,
}

/// Frames and lines lost since start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// Dropped by the camera driver: gaps in its sequence numbers.
    pub driver: u64,
    /// Replaced by a newer frame before the detector took them.
    pub replaced: u64,
    /// Damaged frames that were skipped.
    pub damaged: u64,
    /// Log lines that a full queue or disk refused.
    pub log: u64,
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
