//! Average precision and recall of boxes as COCO defines them (Lin et al. 2014,
//! <https://cocodataset.org/#detection-eval>). Results equal those of pycocotools: matching order,
//! ties, the 101 recall points and f64 arithmetic are the same.

use super::dataset::{Dataset, ImageRecord, Truth};
use super::predictions::{Prediction, Predictions, best_first};
use serde::Serialize;
use std::array::from_fn;

/// IoU thresholds 0.50, 0.55 … 0.95.
const THRESHOLDS: usize = 10;
/// Number of recall values 0, 0.01 … 1 at which precision is sampled.
const RECALL_POINTS: usize = 101;
/// Maximum detections of a class per image.
const MAX_DETECTIONS: usize = 100;

/// Range of areas in square pixels, both ends included.
#[derive(Clone, Copy)]
struct AreaRange {
    min: f64,
    max: f64,
}

impl AreaRange {
    const LARGEST: f64 = 1e10;
    const ALL: AreaRange = AreaRange::new(0.0, AreaRange::LARGEST);
    const SMALL: AreaRange = AreaRange::new(0.0, 32.0 * 32.0);
    const MEDIUM: AreaRange = AreaRange::new(32.0 * 32.0, 96.0 * 96.0);
    const LARGE: AreaRange = AreaRange::new(96.0 * 96.0, AreaRange::LARGEST);

    const fn new(min: f64, max: f64) -> AreaRange {
        AreaRange { min, max }
    }

    fn excludes(self, area: f64) -> bool {
        area < self.min || area > self.max
    }
}

/// COCO's twelve metrics, 0..=1; `None` without boxes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CocoMetrics {
    /// Average precision over IoU 0.50:0.05:0.95.
    pub ap: Option<f64>,
    /// Average precision at IoU 0.50.
    pub ap50: Option<f64>,
    /// Average precision at IoU 0.75.
    pub ap75: Option<f64>,
    /// AP of objects below 32² px.
    pub ap_small: Option<f64>,
    /// AP of objects of 32² to 96² px.
    pub ap_medium: Option<f64>,
    /// AP of objects above 96² px.
    pub ap_large: Option<f64>,
    /// Recall with one detection per class and image, mean over IoU 0.50:0.05:0.95.
    pub ar_1: Option<f64>,
    /// Recall with 10 detections.
    pub ar_10: Option<f64>,
    /// Recall with 100 detections.
    pub ar_100: Option<f64>,
    /// Recall with 100 detections of objects below 32² px.
    pub ar_small: Option<f64>,
    /// Recall with 100 detections of objects of 32² to 96² px.
    pub ar_medium: Option<f64>,
    /// Recall with 100 detections of objects above 96² px.
    pub ar_large: Option<f64>,
}

impl CocoMetrics {
    /// The metrics in the order in which pycocotools prints them.
    pub fn values(&self) -> [Option<f64>; 12] {
        [
            self.ap,
            self.ap50,
            self.ap75,
            self.ap_small,
            self.ap_medium,
            self.ap_large,
            self.ar_1,
            self.ar_10,
            self.ar_100,
            self.ar_small,
            self.ar_medium,
            self.ar_large,
        ]
    }

    /// Each metric's mean over the classes that have it.
    pub fn mean<'a>(classes: impl Iterator<Item = &'a CocoMetrics> + Clone) -> CocoMetrics {
        let mean = |figure: fn(&CocoMetrics) -> Option<f64>| {
            super::mean(classes.clone().filter_map(figure))
        };
        CocoMetrics {
            ap: mean(|c| c.ap),
            ap50: mean(|c| c.ap50),
            ap75: mean(|c| c.ap75),
            ap_small: mean(|c| c.ap_small),
            ap_medium: mean(|c| c.ap_medium),
            ap_large: mean(|c| c.ap_large),
            ar_1: mean(|c| c.ar_1),
            ar_10: mean(|c| c.ar_10),
            ar_100: mean(|c| c.ar_100),
            ar_small: mean(|c| c.ar_small),
            ar_medium: mean(|c| c.ar_medium),
            ar_large: mean(|c| c.ar_large),
        }
    }
}

/// Precision and recall of a class at one score threshold, at IoU 0.50.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct OperatingPoint {
    /// Score threshold: detections with this score or a higher one count.
    pub score: f64,
    /// Correct detections / detections; 1 without detections.
    pub precision: f64,
    /// Objects found / objects.
    pub recall: f64,
}

/// Precision and recall of a class at every score threshold.
pub(super) struct OperatingPoints(Vec<OperatingPoint>);

impl OperatingPoints {
    /// The point at a threshold; `None` without boxes.
    pub(super) fn at_score(&self, score: f64) -> Option<OperatingPoint> {
        let count = self.0.partition_point(|point| point.score >= score);
        let last = self.0[..count].last()?;
        Some(OperatingPoint { score, ..*last })
    }

    /// The point of highest recall with at least this precision; `None` if there is none.
    pub(super) fn at_precision(&self, precision: f64) -> Option<OperatingPoint> {
        let reached = |point: &&OperatingPoint| point.precision >= precision;
        let best = self.0.iter().rev().find(reached)?;
        (best.recall > 0.0).then_some(*best)
    }
}

/// The metrics and the operating points of one class.
pub(super) fn evaluate(
    dataset: &Dataset,
    predictions: &Predictions,
    category: usize,
) -> (CocoMetrics, OperatingPoints) {
    let scenes: Vec<Scene> = dataset
        .images
        .iter()
        .enumerate()
        .map(|(index, image)| Scene::new(image, predictions.of_image(index), category))
        .filter(|scene| !(scene.truths.is_empty() && scene.found.is_empty()))
        .collect();
    let [all, small, medium, large] = [
        AreaRange::ALL,
        AreaRange::SMALL,
        AreaRange::MEDIUM,
        AreaRange::LARGE,
    ]
    .map(|range| Outcomes::collect(&scenes, range));
    let points = all.points();
    let [one, ten, hundred] = [1, 10, MAX_DETECTIONS].map(|max| all.curve(max));
    let [small, medium, large] =
        [small, medium, large].map(|outcomes| outcomes.curve(MAX_DETECTIONS));
    let metrics = CocoMetrics {
        ap: hundred.map(|curve| curve.mean_precision()),
        ap50: hundred.map(|curve| curve.precision[0]),
        ap75: hundred.map(|curve| curve.precision[5]),
        ap_small: small.map(|curve| curve.mean_precision()),
        ap_medium: medium.map(|curve| curve.mean_precision()),
        ap_large: large.map(|curve| curve.mean_precision()),
        ar_1: one.map(|curve| curve.mean_recall()),
        ar_10: ten.map(|curve| curve.mean_recall()),
        ar_100: hundred.map(|curve| curve.mean_recall()),
        ar_small: small.map(|curve| curve.mean_recall()),
        ar_medium: medium.map(|curve| curve.mean_recall()),
        ar_large: large.map(|curve| curve.mean_recall()),
    };
    (metrics, points)
}

/// Boxes and detections of one class in one image.
struct Scene<'a> {
    truths: Vec<&'a Truth>,
    /// Detections by descending score; equal scores in the order of the results.
    found: Vec<&'a Prediction>,
    /// IoU, `[found, truths]`.
    ious: Vec<f64>,
}

impl<'a> Scene<'a> {
    fn new(image: &'a ImageRecord, found: &'a [Prediction], category: usize) -> Scene<'a> {
        let truths: Vec<&Truth> = image
            .truths
            .iter()
            .filter(|truth| truth.category == category)
            .collect();
        let mut found: Vec<&Prediction> = found
            .iter()
            .filter(|prediction| prediction.category == category)
            .collect();
        found.sort_by(|a, b| best_first(a.score, b.score));
        found.truncate(MAX_DETECTIONS);
        let ious = found
            .iter()
            .flat_map(|prediction| truths.iter().map(|truth| overlap(prediction, truth)))
            .collect();
        Scene {
            truths,
            found,
            ious,
        }
    }
}

/// IoU; for a crowd, the part of the detection that lies inside it.
fn overlap(prediction: &Prediction, truth: &Truth) -> f64 {
    let both = super::intersection(&prediction.bbox, &truth.bbox);
    if both <= 0.0 {
        return 0.0;
    }
    let found = prediction.bbox[2] * prediction.bbox[3];
    let union = match truth.ignore {
        true => found,
        false => found + truth.bbox[2] * truth.bbox[3] - both,
    };
    both / union
}

/// Result of a detection at one IoU threshold.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    TruePositive,
    FalsePositive,
    Ignored,
}

/// One detection of the class, matched at every IoU threshold.
struct Matched {
    score: f64,
    /// Rank within its image, by score.
    rank: usize,
    at: [Outcome; THRESHOLDS],
}

/// Every detection of a class within an area range.
struct Outcomes {
    /// By descending score; equal scores by image.
    matched: Vec<Matched>,
    /// Boxes that are not ignored.
    positives: usize,
}

impl Outcomes {
    fn collect(scenes: &[Scene], range: AreaRange) -> Outcomes {
        let thresholds = iou_thresholds();
        let mut outcomes = Outcomes {
            matched: Vec::new(),
            positives: 0,
        };
        for scene in scenes {
            let ignored: Vec<bool> = scene
                .truths
                .iter()
                .map(|truth| truth.ignore || range.excludes(truth.area))
                .collect();
            outcomes.positives += ignored.iter().filter(|&&ignored| !ignored).count();
            let matches = thresholds.map(|threshold| match_boxes(scene, &ignored, threshold));
            for (rank, prediction) in scene.found.iter().enumerate() {
                let out_of_range = range.excludes(prediction.bbox[2] * prediction.bbox[3]);
                let at = from_fn(|threshold| match matches[threshold][rank] {
                    Some(truth) if ignored[truth] => Outcome::Ignored,
                    Some(_) => Outcome::TruePositive,
                    None if out_of_range => Outcome::Ignored,
                    None => Outcome::FalsePositive,
                });
                let score = prediction.score;
                outcomes.matched.push(Matched { score, rank, at });
            }
        }
        outcomes
            .matched
            .sort_by(|a, b| best_first(a.score, b.score));
        outcomes
    }

    /// By descending score, beginning with no detection at all; empty without boxes. Detections of
    /// equal score come and go together.
    fn points(&self) -> OperatingPoints {
        if self.positives == 0 {
            return OperatingPoints(Vec::new());
        }
        let mut points = vec![OperatingPoint {
            score: f64::INFINITY,
            precision: 1.0,
            recall: 0.0,
        }];
        let (mut correct, mut total) = (0.0, 0.0);
        for equal in self.matched.chunk_by(|a, b| a.score == b.score) {
            for found in equal {
                match found.at[0] {
                    Outcome::TruePositive => (correct, total) = (correct + 1.0, total + 1.0),
                    Outcome::FalsePositive => total += 1.0,
                    Outcome::Ignored => {}
                }
            }
            points.push(OperatingPoint {
                score: equal[0].score,
                precision: if total > 0.0 { correct / total } else { 1.0 },
                recall: correct / self.positives as f64,
            });
        }
        OperatingPoints(points)
    }

    /// Precision and recall with at most `max` detections per image; `None` without boxes.
    fn curve(&self, max: usize) -> Option<Curve> {
        (self.positives > 0).then(|| {
            let at: [(f64, f64); THRESHOLDS] = from_fn(|threshold| self.curve_at(max, threshold));
            Curve {
                precision: at.map(|(precision, _)| precision),
                recall: at.map(|(_, recall)| recall),
            }
        })
    }

    /// Average precision and final recall at one IoU threshold.
    fn curve_at(&self, max: usize, threshold: usize) -> (f64, f64) {
        let (mut hits, mut total) = (0.0, 0.0);
        let (mut precision, mut recall) = (Vec::new(), Vec::new());
        for found in self.matched.iter().filter(|found| found.rank < max) {
            match found.at[threshold] {
                Outcome::TruePositive => (hits, total) = (hits + 1.0, total + 1.0),
                Outcome::FalsePositive => total += 1.0,
                // it would repeat the previous point, which changes no metric
                Outcome::Ignored => continue,
            }
            // pycocotools adds the epsilon, to avoid 0 / 0
            precision.push(hits / (total + f64::EPSILON));
            recall.push(hits / self.positives as f64);
        }
        let reached = recall.last().copied().unwrap_or(0.0);
        (average_precision(&mut precision, &recall), reached)
    }
}

/// Mean over the recall points of the highest precision at or beyond each.
fn average_precision(precision: &mut [f64], recall: &[f64]) -> f64 {
    for i in (1..precision.len()).rev() {
        precision[i - 1] = precision[i - 1].max(precision[i]);
    }
    let sum: f64 = (0..RECALL_POINTS)
        .map(|point| {
            // rounds like numpy.linspace in pycocotools, which matters at exact recall values
            let wanted = match point {
                100 => 1.0,
                point => point as f64 * 0.01,
            };
            let first = recall.partition_point(|&recall| recall < wanted);
            precision.get(first).copied().unwrap_or(0.0)
        })
        .sum();
    sum / RECALL_POINTS as f64
}

/// Precision and recall of one class, area range and detection limit, by IoU threshold.
#[derive(Clone, Copy)]
struct Curve {
    precision: [f64; THRESHOLDS],
    recall: [f64; THRESHOLDS],
}

impl Curve {
    fn mean_precision(&self) -> f64 {
        self.precision.iter().sum::<f64>() / THRESHOLDS as f64
    }

    fn mean_recall(&self) -> f64 {
        self.recall.iter().sum::<f64>() / THRESHOLDS as f64
    }
}

/// The IoU thresholds, rounded like numpy.linspace in pycocotools, which matters at exact IoUs.
fn iou_thresholds() -> [f64; THRESHOLDS] {
    let step = (0.95 - 0.5) / 9.0;
    from_fn(|i| match i {
        9 => 0.95,
        i => i as f64 * step + 0.5,
    })
}

/// The box assigned to each detection, by descending score.
fn match_boxes(scene: &Scene, ignored: &[bool], threshold: f64) -> Vec<Option<usize>> {
    let boxes = scene.truths.len();
    let mut order: Vec<usize> = (0..boxes).collect();
    order.sort_by_key(|&truth| ignored[truth]); // stable: boxes that are not ignored first
    let mut taken = vec![false; boxes];
    (0..scene.found.len())
        .map(|rank| {
            let ious = &scene.ious[rank * boxes..(rank + 1) * boxes];
            let free = |truth: usize| !taken[truth] || scene.truths[truth].ignore;
            let matched = best_match(&order, ious, ignored, threshold, free);
            if let Some(truth) = matched {
                taken[truth] = true;
            }
            matched
        })
        .collect()
}

/// The unassigned box with the largest IoU; of equals, the last. An ignored box matches only if no
/// other box reaches the threshold.
fn best_match(
    order: &[usize],
    ious: &[f64],
    ignored: &[bool],
    threshold: f64,
    free: impl Fn(usize) -> bool,
) -> Option<usize> {
    let mut best: Option<usize> = None;
    let mut min_iou = threshold.min(1.0 - 1e-10);
    for &truth in order {
        if ignored[truth] && best.is_some_and(|best| !ignored[best]) {
            break;
        }
        if free(truth) && ious[truth] >= min_iou {
            min_iou = ious[truth];
            best = Some(truth);
        }
    }
    best
}
