//! Detections and the types that describe them.

use crate::geometry::BBox;
use std::sync::Arc;
use std::time::Duration;

/// One object found in one frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detection {
    /// Index into the model's class names.
    pub class_id: usize,
    /// 0..=1.
    pub score: f32,
    /// Where, in frame pixels.
    pub bbox: BBox,
}

/// What counts as a detection.
#[derive(Clone, Debug, PartialEq)]
pub struct Thresholds {
    /// Least score by class id; above 1 switches a class off.
    pub score: Vec<f32>,
    /// Intersection over union above which NMS drops the lower score of the same class.
    pub nms_iou: f32,
    /// Most detections a frame; the best scores stay.
    pub max_detections: usize,
}

impl Thresholds {
    /// The same least score for every class.
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

    /// The name of a class.
    pub fn name(&self, class_id: usize) -> &str {
        self.0.get(class_id).map_or("unknown", String::as_str)
    }
}
