//! Detections and the types that describe them.

use crate::geometry::BBox;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// One detected object in one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Index into the model's class names.
    pub class_id: usize,
    /// Confidence, 0..=1.
    pub score: f32,
    /// Bounding box in frame pixels.
    pub bbox: BBox,
    /// Number of the object, the same from frame to frame; `None` without tracks and until a track
    /// is confirmed.
    pub track_id: Option<NonZeroU32>,
}

/// Score thresholds and NMS parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// Score threshold by class id; above 1 disables a class.
    pub score: Vec<f32>,
    /// IoU above which NMS drops the lower score of two detections of the same class.
    pub nms_iou: f32,
    /// Maximum detections per frame; the highest scores are kept.
    pub max_detections: usize,
}

impl Thresholds {
    /// The same score threshold for every class, and at most 300 detections per frame.
    pub fn uniform(classes: usize, score: f32, nms_iou: f32) -> Thresholds {
        Thresholds {
            score: vec![score; classes],
            nms_iou,
            max_detections: 300,
        }
    }
}

/// Time one frame spent in each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// Decoding to RGB, in the capture thread.
    pub decode: Duration,
    /// Letterboxing.
    pub preprocess: Duration,
    /// Inference.
    pub inference: Duration,
    /// Score thresholds, box decoding and NMS.
    pub postprocess: Duration,
    /// From the last byte of the frame to its detections, including waits.
    pub age: Duration,
}

impl StageTimes {
    /// Sum of the stages, without waits.
    pub fn total(&self) -> Duration {
        self.decode + self.preprocess + self.inference + self.postprocess
    }
}

/// Class names by class id, shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels(Arc<[String]>);

impl Labels {
    /// Names in class-id order.
    pub fn new(names: &[String]) -> Labels {
        Labels(names.into())
    }

    /// All names in class-id order.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// The name of a class; `unknown` if the id is out of range.
    pub fn name(&self, class_id: usize) -> &str {
        self.0.get(class_id).map_or("unknown", String::as_str)
    }
}
