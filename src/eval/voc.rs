//! PASCAL VOC's average precision at IoU 0.5 (Everingham et al. 2010, section 4.2): the mean of
//! 11 samples of the curve, as VOC defined it until 2009, and the area under it, as since 2010.
//!
//! Boxes are half-open, as everywhere in this program. The VOC development kit instead counts whole
//! pixels with both ends included, so its IoUs differ slightly.

use super::dataset::Dataset;
use super::predictions::{Prediction, Predictions, best_first};
use serde::Serialize;

/// IoU threshold of a true positive.
const MIN_IOU: f64 = 0.5;

/// Average precision at IoU 0.5, 0..=1; `None` without boxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct VocMetrics {
    /// Mean of the highest precision at or beyond recall 0, 0.1 … 1.
    pub ap_11_point: Option<f64>,
    /// Area under the precision envelope.
    pub ap_area: Option<f64>,
}

impl VocMetrics {
    /// Each metric's mean over the classes that have it.
    pub fn mean<'a>(classes: impl Iterator<Item = &'a VocMetrics> + Clone) -> VocMetrics {
        VocMetrics {
            ap_11_point: super::mean(classes.clone().filter_map(|class| class.ap_11_point)),
            ap_area: super::mean(classes.filter_map(|class| class.ap_area)),
        }
    }
}

/// A point of the precision-recall curve.
#[derive(Clone, Copy)]
struct Point {
    recall: f64,
    precision: f64,
}

/// The metrics of one class.
pub(super) fn evaluate(
    dataset: &Dataset,
    predictions: &Predictions,
    category: usize,
) -> VocMetrics {
    let positives = dataset
        .images
        .iter()
        .flat_map(|image| &image.truths)
        .filter(|truth| truth.category == category && !truth.ignore)
        .count();
    if positives == 0 {
        return VocMetrics::default();
    }
    let curve = curve(dataset, predictions, category, positives);
    VocMetrics {
        ap_11_point: Some(eleven_points(&curve)),
        ap_area: Some(area(&curve)),
    }
}

/// The precision-recall curve: one point per detection, by descending score; equal scores by image.
fn curve(
    dataset: &Dataset,
    predictions: &Predictions,
    category: usize,
    positives: usize,
) -> Vec<Point> {
    let mut found: Vec<(usize, &Prediction)> = (0..dataset.images.len())
        .flat_map(|image| predictions.of_image(image).iter().map(move |p| (image, p)))
        .filter(|(_, prediction)| prediction.category == category)
        .collect();
    found.sort_by(|(_, a), (_, b)| best_first(a.score, b.score));
    let mut taken: Vec<Vec<bool>> = dataset
        .images
        .iter()
        .map(|image| vec![false; image.truths.len()])
        .collect();
    let (mut hits, mut total) = (0usize, 0usize);
    let mut points = Vec::new();
    for (image, prediction) in found {
        let truths = &dataset.images[image].truths;
        let mut best: Option<(usize, f64)> = None;
        for (index, truth) in truths.iter().enumerate() {
            let iou = super::iou(&prediction.bbox, &truth.bbox);
            if truth.category == category && best.is_none_or(|(_, max)| iou > max) {
                best = Some((index, iou));
            }
        }
        match best.filter(|&(_, iou)| iou >= MIN_IOU) {
            Some((index, _)) if truths[index].ignore => continue,
            // a second detection of the same object is a false positive
            Some((index, _)) => {
                hits += usize::from(!std::mem::replace(&mut taken[image][index], true))
            }
            None => {}
        }
        total += 1;
        points.push(Point {
            recall: hits as f64 / positives as f64,
            precision: hits as f64 / total as f64,
        });
    }
    points
}

fn eleven_points(curve: &[Point]) -> f64 {
    let best_from = |recall: f64| {
        let reached = curve.iter().filter(|point| point.recall >= recall);
        reached.map(|point| point.precision).fold(0.0, f64::max)
    };
    (0..=10)
        .map(|tenth| best_from(f64::from(tenth) / 10.0))
        .sum::<f64>()
        / 11.0
}

fn area(curve: &[Point]) -> f64 {
    let (mut area, mut envelope) = (0.0, 0.0f64);
    for (i, point) in curve.iter().enumerate().rev() {
        envelope = envelope.max(point.precision);
        let before = if i == 0 { 0.0 } else { curve[i - 1].recall };
        area += (point.recall - before) * envelope;
    }
    area
}
