//! Detection: a frame in, boxes out.

mod detector;
pub mod postprocess;
pub mod preprocess;

pub use detector::{DetectError, Detector, DetectorOptions, default_thresholds};
