//! Whether the run makes progress: one rule for the service manager's watchdog and for all others
//! that ask for the run's health.

use super::metrics::Metrics;
use super::notify::{CameraState, Health};
use crate::clock::{Clock, SystemClock};
use crate::stats::Snapshot;
use std::sync::Arc;

/// Reads the signs of life of a run. Each clone remembers its own last look.
#[derive(Clone, Debug)]
pub struct Vitals {
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    health: Health,
    /// Frames through the detector at the last look.
    frames: u64,
}

/// The signs of life at one time.
#[derive(Clone, Debug)]
pub struct Signs {
    /// The metrics.
    pub stats: Snapshot,
    /// The camera or other source.
    pub camera: CameraState,
    /// Whether the detector finished frames since the last look, or a lost camera is retried on
    /// schedule, and no stage has failed. A timer alone would also keep a hung stage alive.
    pub alive: bool,
}

impl Vitals {
    /// Of a run with these metrics, whose stages report to `health`.
    pub fn new(clock: &Arc<dyn Clock>, metrics: &Arc<Metrics>, health: &Health) -> Vitals {
        Vitals {
            clock: Arc::clone(clock),
            metrics: Arc::clone(metrics),
            health: health.clone(),
            frames: 0,
        }
    }

    /// Looks, and remembers for the next time.
    pub fn look(&mut self) -> Signs {
        let stats = self.metrics.snapshot();
        let camera = self.health.camera(self.clock.now());
        let progress = stats.frames != self.frames || camera == CameraState::Retrying;
        self.frames = stats.frames;
        Signs {
            alive: progress && !self.health.has_failed(),
            stats,
            camera,
        }
    }
}

impl Default for Vitals {
    /// Of a run without frames.
    fn default() -> Vitals {
        let clock = SystemClock::shared();
        let metrics = Metrics::new(Arc::clone(&clock));
        Vitals::new(&clock, &metrics, &Health::default())
    }
}
