//! Evaluation of detections: average precision as COCO and PASCAL VOC define it.
//!
//! ```text
//!  Dataset ──Frame──▶ detector ──▶ Predictions ──▶ Evaluation ──▶ table, JSON
//!                 results file ──▶
//! ```

mod annotations;
pub mod calibration;
pub mod coco;
pub mod dataset;
pub mod id;
mod images;
mod json;
pub mod predictions;
pub mod report;
mod tar_index;
pub mod voc;

use crate::detection::Detection;
use crate::frame::Frame;
use coco::{CocoMetrics, OperatingPoint};
use dataset::{ClassMap, Dataset, DatasetError};
use id::Id;
use predictions::{Prediction, Predictions};
use serde::Serialize;
use std::collections::BTreeMap;
use std::error::Error;
use voc::VocMetrics;

/// Score threshold for an evaluation. Near zero, because AP includes the precision at high recall.
pub const MIN_SCORE: f32 = 0.001;

/// Value of `format` in the JSON report.
pub const FORMAT: &str = "vovcam-eval.v1";

/// Options of an evaluation.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// Maximum detections per image that [`detect`] keeps, highest scores first; 100 for COCO.
    pub max_detections: usize,
    /// Minimum boxes of a class in the means. A class with fewer is listed only: its AP is noise.
    pub min_boxes: usize,
    /// Score thresholds by class name: precision and recall are reported at them.
    pub thresholds: BTreeMap<String, f64>,
    /// The threshold that reaches this precision, 0..=1, is reported for every class.
    pub precision: Option<f64>,
}

impl Default for EvalOptions {
    fn default() -> EvalOptions {
        EvalOptions {
            max_detections: 100,
            min_boxes: 1,
            thresholds: BTreeMap::new(),
            precision: None,
        }
    }
}

/// Failure of [`detect`].
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    /// An image could not be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The detector failed.
    #[error("detection failed on the image '{image}'")]
    Detect {
        /// The image's file name.
        image: String,
        /// The detector's error.
        source: Box<dyn Error + Send + Sync>,
    },
}

/// Runs a detector over the data set, with one image in memory at a time. The frame's id is the
/// image's index, its name the file name.
///
/// Detections of classes that an image does not label are dropped before the number of detections
/// is limited to [`EvalOptions::max_detections`], so that they do not displace others.
///
/// # Errors
/// If an image is missing or damaged, or the detector fails.
pub fn detect<E: Into<Box<dyn Error + Send + Sync>>>(
    dataset: &mut Dataset,
    classes: &ClassMap,
    options: &EvalOptions,
    mut detector: impl FnMut(&Frame) -> Result<Vec<Detection>, E>,
) -> Result<Predictions, EvalError> {
    dataset.check_images()?;
    let mut predictions = Predictions::with_images(dataset.images.len());
    for image in 0..dataset.images.len() {
        let frame = dataset.read(image)?;
        let found = detector(&frame).map_err(|error| EvalError::Detect {
            image: dataset.images[image].file_name.clone(),
            source: error.into(),
        })?;
        for detection in &found {
            match classes.category(detection.class_id) {
                Some(category) => {
                    predictions.push(dataset, image, Prediction::new(category, detection));
                }
                None => predictions.drop_one(),
            }
        }
        predictions.truncate(image, options.max_detections);
    }
    Ok(predictions)
}

/// Results of an evaluation; serialises to the JSON report.
#[derive(Clone, Debug, Serialize)]
pub struct Evaluation {
    /// Always [`FORMAT`].
    pub format: &'static str,
    /// The data set's name.
    pub dataset: String,
    /// The detector; `None` if the detections came from a results file.
    pub detector: Option<DetectorInfo>,
    /// Number of images.
    pub images: usize,
    /// Annotated boxes, without ignored ones.
    pub boxes: usize,
    /// Ignored boxes: neither a match nor a miss counts.
    pub ignored_boxes: usize,
    /// Detections that were evaluated.
    pub detections: usize,
    /// Detections dropped because their image does not label their class.
    pub dropped_detections: usize,
    /// Minimum boxes of a class in the means.
    pub min_boxes: usize,
    /// Number of classes in the means.
    pub classes_in_mean: usize,
    /// COCO's metrics, means over classes.
    pub coco: CocoMetrics,
    /// VOC's metrics, means over classes.
    pub voc: VocMetrics,
    /// Results by class.
    pub classes: Vec<ClassEvaluation>,
    /// Exclusions and their reasons.
    pub notes: Vec<String>,
}

/// The detector that produced the detections.
#[derive(Clone, Debug, Serialize)]
pub struct DetectorInfo {
    /// The model's name.
    pub model: String,
    /// SHA-256 of its weights.
    pub sha256: String,
    /// Engine, kernels and precision.
    pub engine: String,
    /// Requested input size, such as `320` or `320x320`.
    pub input: String,
    /// Tiles: `off`, or layout and overlap such as `3x2, overlap 0.2`.
    pub tiles: String,
    /// Score threshold.
    pub min_score: f32,
    /// IoU threshold of NMS.
    pub nms_iou: f32,
}

/// Results of one class.
#[derive(Clone, Debug, Serialize)]
pub struct ClassEvaluation {
    /// Its name.
    pub name: String,
    /// Its id in the data set.
    pub category_id: Id,
    /// Number of images that label it completely.
    pub images: usize,
    /// Annotated boxes, without ignored ones.
    pub boxes: usize,
    /// Ignored boxes: neither a match nor a miss counts.
    pub ignored_boxes: usize,
    /// Detections that were evaluated.
    pub detections: usize,
    /// Whether it has enough boxes to be part of the means.
    pub in_mean: bool,
    /// COCO's metrics.
    pub coco: CocoMetrics,
    /// VOC's metrics.
    pub voc: VocMetrics,
    /// Precision and recall at the class's threshold of [`EvalOptions::thresholds`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_threshold: Option<OperatingPoint>,
    /// The highest recall with at least [`EvalOptions::precision`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_precision: Option<OperatingPoint>,
}

/// Matches predictions with the data set's boxes and computes the metrics.
pub fn evaluate(dataset: &Dataset, predictions: &Predictions, options: &EvalOptions) -> Evaluation {
    let classes: Vec<ClassEvaluation> = (0..dataset.categories.len())
        .map(|category| evaluate_class(dataset, predictions, options, category))
        .collect();
    let in_mean = classes.iter().filter(|class| class.in_mean);
    let count = |of: fn(&ClassEvaluation) -> usize| classes.iter().map(of).sum();
    Evaluation {
        format: FORMAT,
        dataset: dataset.name(),
        detector: None,
        images: dataset.images.len(),
        boxes: count(|class| class.boxes),
        ignored_boxes: count(|class| class.ignored_boxes),
        detections: predictions.len(),
        dropped_detections: predictions.dropped(),
        min_boxes: options.min_boxes,
        classes_in_mean: in_mean.clone().count(),
        coco: CocoMetrics::mean(in_mean.clone().map(|class| &class.coco)),
        voc: VocMetrics::mean(in_mean.map(|class| &class.voc)),
        notes: dataset
            .notes
            .iter()
            .chain(predictions.notes())
            .cloned()
            .collect(),
        classes,
    }
}

fn evaluate_class(
    dataset: &Dataset,
    predictions: &Predictions,
    options: &EvalOptions,
    category: usize,
) -> ClassEvaluation {
    let images = &dataset.images;
    let truths = || {
        let truths = images.iter().flat_map(|image| &image.truths);
        truths.filter(|truth| truth.category == category)
    };
    let boxes = truths().filter(|truth| !truth.ignore).count();
    let detections = (0..images.len()).flat_map(|image| predictions.of_image(image));
    let (coco, points) = coco::evaluate(dataset, predictions, category);
    let name = dataset.categories[category].name.clone();
    ClassEvaluation {
        at_threshold: options
            .thresholds
            .get(&name)
            .and_then(|&score| points.at_score(score)),
        at_precision: options
            .precision
            .and_then(|precision| points.at_precision(precision)),
        name,
        category_id: dataset.categories[category].id.clone(),
        images: images
            .iter()
            .filter(|image| image.labelled[category])
            .count(),
        boxes,
        ignored_boxes: truths().count() - boxes,
        detections: detections
            .filter(|found| found.category == category)
            .count(),
        in_mean: boxes >= options.min_boxes.max(1),
        coco,
        voc: voc::evaluate(dataset, predictions, category),
    }
}

/// Mean; `None` if empty.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| {
        (sum + value, count + 1)
    });
    (count > 0).then(|| sum / count as f64)
}

/// Intersection area of two `[x, y, width, height]` boxes; 0 if they do not overlap.
fn intersection(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let width = (a[0] + a[2]).min(b[0] + b[2]) - a[0].max(b[0]);
    let height = (a[1] + a[3]).min(b[1] + b[3]) - a[1].max(b[1]);
    width.max(0.0) * height.max(0.0)
}

/// Intersection over union of two `[x, y, width, height]` boxes.
fn iou(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    match intersection(a, b) {
        both if both > 0.0 => both / (a[2] * a[3] + b[2] * b[3] - both),
        _ => 0.0,
    }
}
