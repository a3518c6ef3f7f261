//! Object detection: preprocessing, network and postprocessing of frames.

mod detector;
mod merge;
pub mod postprocess;
pub mod preprocess;

pub use detector::{DetectError, Detector, DetectorOptions, default_thresholds};

use crate::detection::{Detection, StageTimes, Thresholds};
use crate::frame::Frame;
use crate::geometry::Tiling;

/// Parameters of detection that may change between two calls of [`Detect::detect`].
#[derive(Clone, Debug, PartialEq)]
pub struct DetectPlan {
    /// Score thresholds and NMS.
    pub thresholds: Thresholds,
    /// Tiles in which a frame is searched besides the whole.
    pub tiling: Tiling,
}

/// Detections and stage times of one frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Detections by descending score, boxes in frame pixels.
    pub detections: Vec<Detection>,
    /// Time spent in each stage; `age` is zero. Frames that went through the network in one batch
    /// have equal parts of its time.
    pub times: StageTimes,
}

/// A detector of objects in frames.
pub trait Detect: Send {
    /// Detects objects in `frames` and writes the result of each into `found`, which has the same
    /// length.
    ///
    /// # Errors
    /// If a frame's bytes do not match its size, or the engine fails.
    fn detect(
        &mut self,
        frames: &[Frame],
        plan: &DetectPlan,
        found: &mut [Found],
    ) -> Result<(), DetectError>;
}
