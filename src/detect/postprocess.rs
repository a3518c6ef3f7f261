//! Postprocessing: score threshold, box decoding (DFL) in frame pixels, and NMS.

use crate::detection::{Detection, Thresholds};
use crate::geometry::BBox;
use crate::geometry::Region;
use crate::tensor::{RawLevel, RawOutput};

/// Maximum candidates for NMS, highest scores first. NMS is quadratic, and an evaluation with a score
/// threshold near zero has many candidates.
const MAX_CANDIDATES: usize = 3000;

/// Decodes logits into detections; reuses its buffers.
#[derive(Debug, Default)]
pub struct Postprocessor {
    candidates: Vec<Detection>,
    logits: Vec<f32>,
}

impl Postprocessor {
    /// Decodes the detections of image `item` of the batch into `detections`, by descending score, in
    /// frame pixels. Cells with NaN or infinite values are ignored.
    pub fn run(
        &mut self,
        output: &RawOutput,
        item: usize,
        region: &Region,
        thresholds: &Thresholds,
        detections: &mut Vec<Detection>,
    ) {
        self.candidates.clear();
        self.logits.clear();
        self.logits
            .extend(thresholds.score.iter().map(|&score| logit(score)));
        for level in &output.levels {
            decode(
                level,
                output.batch,
                item,
                &self.logits,
                region,
                &mut self.candidates,
            );
        }
        self.candidates
            .sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
        self.candidates.truncate(MAX_CANDIDATES);
        nms(
            &self.candidates,
            thresholds.nms_iou,
            thresholds.max_detections,
            detections,
        );
    }
}

/// Appends a candidate for each cell and class whose logit reaches the class's threshold.
fn decode(
    level: &RawLevel,
    batch: usize,
    item: usize,
    class_logits: &[f32],
    region: &Region,
    candidates: &mut Vec<Detection>,
) {
    let cells = level.height * level.width;
    let classes = class_logits.len();
    let sides = level.boxes.len() / (batch * cells).max(1);
    let class = &level.class[item * cells * classes..(item + 1) * cells * classes];
    let boxes = &level.boxes[item * cells * sides..(item + 1) * cells * sides];
    for (cell, scores) in class.chunks_exact(classes).enumerate() {
        for (class_id, (&score, &threshold)) in scores.iter().zip(class_logits).enumerate() {
            if score >= threshold && score.is_finite() {
                let bbox = decode_box(
                    level,
                    cell,
                    &boxes[cell * sides..(cell + 1) * sides],
                    region,
                );
                if bbox.area() > 0.0 {
                    candidates.push(Detection {
                        class_id,
                        score: sigmoid(score),
                        bbox,
                        track_id: None,
                    });
                }
            }
        }
    }
}

/// The box of a cell: from its centre, the distance to each side is the mean of the side's
/// distribution over bins, in strides (distribution focal loss, Li et al. 2020).
fn decode_box(level: &RawLevel, cell: usize, sides: &[f32], region: &Region) -> BBox {
    let stride = level.stride as f32;
    let x = ((cell % level.width) as f32 + 0.5) * stride;
    let y = ((cell / level.width) as f32 + 0.5) * stride;
    let bins = sides.len() / 4;
    let distance = |side: usize| stride * mean_bin(&sides[side * bins..(side + 1) * bins]);
    region.to_frame(
        x - distance(0),
        y - distance(1),
        x + distance(2),
        y + distance(3),
    )
}

/// Expected bin index under the softmax of `logits`.
fn mean_bin(logits: &[f32]) -> f32 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut total, mut weighted) = (0.0f32, 0.0f32);
    for (bin, &value) in logits.iter().enumerate() {
        let weight = (value - max).exp();
        total += weight;
        weighted += weight * bin as f32;
    }
    weighted / total
}

/// Greedy non-maximum suppression within each class; `candidates` are sorted by descending score.
fn nms(candidates: &[Detection], iou: f32, max: usize, kept: &mut Vec<Detection>) {
    kept.clear();
    for candidate in candidates {
        if kept.len() >= max {
            return;
        }
        let suppressed_by = |winner: &Detection| {
            winner.class_id == candidate.class_id && winner.bbox.iou(&candidate.bbox) > iou
        };
        if !kept.iter().any(suppressed_by) {
            kept.push(*candidate);
        }
    }
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// The inverse of [`sigmoid`]. Comparing logits saves an exponential per cell and class.
fn logit(score: f32) -> f32 {
    match score {
        s if s <= 0.0 => f32::NEG_INFINITY,
        s if s >= 1.0 => f32::INFINITY,
        s => (s / (1.0 - s)).ln(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Size;

    const FRAME: Size = Size::new(64, 64);

    fn detection(class_id: usize, score: f32, [x0, y0, x1, y1]: [f32; 4]) -> Detection {
        Detection {
            class_id,
            score,
            bbox: BBox::clamped(x0, y0, x1, y1, FRAME),
            track_id: None,
        }
    }

    #[test]
    fn nms_keeps_other_classes_and_far_boxes() {
        let boxes = [
            detection(0, 0.9, [0.0, 0.0, 20.0, 20.0]),
            detection(0, 0.8, [1.0, 1.0, 21.0, 21.0]),
            detection(1, 0.7, [0.0, 0.0, 20.0, 20.0]),
            detection(0, 0.6, [40.0, 40.0, 60.0, 60.0]),
        ];
        let mut kept = Vec::new();
        nms(&boxes, 0.6, 300, &mut kept);
        assert_eq!(kept, [boxes[0], boxes[2], boxes[3]]);
        nms(&boxes, 0.6, 2, &mut kept);
        assert_eq!(kept, [boxes[0], boxes[2]]);
    }

    #[test]
    fn boxes_are_ordered_clamped_and_never_nan() {
        let bbox = BBox::clamped(f32::NEG_INFINITY, -5.0, 1e9, 3.0, FRAME);
        assert_eq!(bbox.xywh(), [0.0, 0.0, 64.0, 3.0]);
        for side in 0..4 {
            let mut corners = [1.0, 1.0, 9.0, 9.0];
            corners[side] = f32::NAN;
            let [x0, y0, x1, y1] = corners;
            assert_eq!(BBox::clamped(x0, y0, x1, y1, FRAME).area(), 0.0, "{side}");
        }
        assert_eq!(BBox::clamped(30.0, 0.0, 10.0, 10.0, FRAME).area(), 0.0);
        assert_eq!(bbox.iou(&BBox::clamped(0.0, 0.0, 0.0, 0.0, FRAME)), 0.0);
    }

    /// One cell of a stride-8 level has a distance of 2 strides to every side; no other cell has a score.
    #[test]
    fn a_cell_decodes_to_the_box_around_its_centre() {
        let (bins, cells) = (4, 64);
        let mut level = RawLevel {
            stride: 8,
            height: 8,
            width: 8,
            ..RawLevel::default()
        };
        level.class = vec![-10.0; cells * 2];
        level.boxes = vec![0.0; cells * 4 * bins];
        let cell = 3 * 8 + 4;
        level.class[2 * cell + 1] = 2.0;
        for side in 0..4 {
            level.boxes[cell * 4 * bins + side * bins + 2] = 100.0;
        }
        let mut output = RawOutput {
            batch: 1,
            levels: vec![level],
        };
        let region = Region::whole(FRAME, FRAME);
        let thresholds = Thresholds::uniform(2, 0.5, 0.6);
        let (mut post, mut found) = (Postprocessor::default(), Vec::new());
        post.run(&output, 0, &region, &thresholds, &mut found);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].class_id, 1);
        assert!((found[0].score - 0.880_797).abs() < 1e-5);
        assert_eq!(found[0].bbox.xywh(), [20.0, 12.0, 32.0, 32.0]);

        output.levels[0].class[2 * cell + 1] = f32::NAN;
        post.run(&output, 0, &region, &thresholds, &mut found);
        assert!(found.is_empty());
    }
}
