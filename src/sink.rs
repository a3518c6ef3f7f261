//! Where results go: the JSONL log, annotated pictures, the window.

use crate::frame::Frame;
use crate::metrics::Snapshot;
use crate::postprocess::Detection;
use std::sync::Arc;
use std::time::Duration;

/// Time one frame spent in each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// From the source's bytes to RGB, in the capture thread.
    pub decode: Duration,
    /// Letterbox.
    pub preprocess: Duration,
    /// The network.
    pub inference: Duration,
    /// Thresholds and NMS.
    pub postprocess: Duration,
    /// From the last byte of the frame to its detections: waiting included.
    pub age: Duration,
}

impl StageTimes {
    /// The work done on the frame, waiting excluded.
    pub fn total(&self) -> Duration {
        self.decode + self.preprocess + self.inference + self.postprocess
    }
}

/// One frame with everything that was found out about it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The frame itself.
    pub frame: Arc<Frame>,
    /// Best score first.
    pub detections: Vec<Detection>,
    /// Where the time went.
    pub times: StageTimes,
    /// Frames that were dropped or replaced between the previous report and this one.
    pub dropped: u64,
    /// Figures at this moment.
    pub stats: Arc<Snapshot>,
}
