//! The report of one frame.

use crate::detection::{Detection, StageTimes};
use crate::frame::{Frame, PooledBuf};
use crate::stats::Snapshot;
use std::sync::Arc;

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

impl Report {
    /// All but the picture, for sinks that need none and may keep many.
    #[must_use]
    pub fn without_pixels(&self) -> Report {
        let frame = &self.frame;
        Report {
            frame: Arc::new(Frame {
                name: frame.name.clone(),
                data: PooledBuf::default(),
                ..**frame
            }),
            detections: self.detections.clone(),
            stats: Arc::clone(&self.stats),
            ..*self
        }
    }
}
