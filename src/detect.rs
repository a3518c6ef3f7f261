//! Detection: a frame in, boxes out.

mod detector;
pub mod postprocess;
pub mod preprocess;

pub use detector::{DetectError, Detector, DetectorOptions, default_thresholds};

use crate::detection::{Detection, StageTimes, Thresholds};
use crate::frame::Frame;

/// How frames are searched; may change between two calls of [`Detect::detect`].
#[derive(Clone, Debug, PartialEq)]
pub struct DetectPlan {
    /// Score thresholds and NMS.
    pub thresholds: Thresholds,
}

/// The result of one frame.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Detections, best score first, in frame pixels.
    pub detections: Vec<Detection>,
    /// Time spent in each stage; `age` is left at zero.
    pub times: StageTimes,
}

/// Finds objects in frames.
pub trait Detect: Send {
    /// Searches `frames` and writes the result of each into `found`, which has the same length.
    ///
    /// # Errors
    /// When a frame does not fit its own size, or the engine fails.
    fn detect(
        &mut self,
        frames: &[Frame],
        plan: &DetectPlan,
        found: &mut [Found],
    ) -> Result<(), DetectError>;
}
