//! From logits to boxes: decode, threshold, NMS, and back to frame pixels. No tensor types.

use crate::engine::{RawLevel, RawOutput};
use crate::frame::Size;
use crate::preprocess::Letterbox;

/// An axis-aligned box in frame pixels, half-open, ordered and inside its frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BBox {
    x0: f32,
    y0: f32,
    x1: f32,
    y1: f32,
}

impl BBox {
    /// A box clamped to a frame; corners given the wrong way round become an empty box, and so
    /// does NaN.
    pub fn clamped(x0: f32, y0: f32, x1: f32, y1: f32, frame: Size) -> BBox {
        if [x0, y0, x1, y1].iter().any(|v| v.is_nan()) {
            return BBox::clamped(0.0, 0.0, 0.0, 0.0, frame); // `max` below would hide it
        }
        let clamp = |v: f32, limit: u32| v.max(0.0).min(limit as f32);
        let (x0, y0) = (clamp(x0, frame.width), clamp(y0, frame.height));
        BBox {
            x0,
            y0,
            x1: clamp(x1, frame.width).max(x0),
            y1: clamp(y1, frame.height).max(y0),
        }
    }

    /// Left edge in pixels.
    pub fn x0(&self) -> f32 {
        self.x0
    }

    /// Top edge in pixels.
    pub fn y0(&self) -> f32 {
        self.y0
    }

    /// Right edge in pixels, exclusive.
    pub fn x1(&self) -> f32 {
        self.x1
    }

    /// Bottom edge in pixels, exclusive.
    pub fn y1(&self) -> f32 {
        self.y1
    }

    /// Width in pixels.
    pub fn width(&self) -> f32 {
        self.x1 - self.x0
    }

    /// Height in pixels.
    pub fn height(&self) -> f32 {
        self.y1 - self.y0
    }

    /// Area in square pixels.
    pub fn area(&self) -> f32 {
        self.width() * self.height()
    }

    /// COCO's `[x, y, width, height]`.
    pub fn xywh(&self) -> [f32; 4] {
        [self.x0, self.y0, self.width(), self.height()]
    }

    /// Intersection over union with `other`; 0 when either is empty.
    pub fn iou(&self, other: &BBox) -> f32 {
        let width = self.x1.min(other.x1) - self.x0.max(other.x0);
        let height = self.y1.min(other.y1) - self.y0.max(other.y0);
        if width <= 0.0 || height <= 0.0 {
            return 0.0;
        }
        let both = width * height;
        both / (self.area() + other.area() - both)
    }

    /// COCO's size class.
    pub fn area_class(&self) -> AreaClass {
        match self.area() {
            area if area < 32.0 * 32.0 => AreaClass::Small,
            area if area < 96.0 * 96.0 => AreaClass::Medium,
            _ => AreaClass::Large,
        }
    }
}

/// COCO's size classes: small below 32² px, medium below 96² px.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AreaClass {
    /// Below 32² px.
    Small,
    /// Below 96² px.
    Medium,
    /// 96² px and more.
    Large,
}

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

/// Candidates that enter NMS at most; the best scores stay. COCO evaluation at a threshold near
/// zero would otherwise spend its time comparing noise.
const MAX_CANDIDATES: usize = 3000;

/// Turns logits into detections, reusing its scratch space.
#[derive(Debug, Default)]
pub struct Postprocessor {
    candidates: Vec<Detection>,
    logits: Vec<f32>,
}

impl Postprocessor {
    /// Detections of picture `item` of the batch, best score first, in frame pixels.
    /// Values that are not finite never become detections.
    pub fn run(
        &mut self,
        output: &RawOutput,
        item: usize,
        letterbox: &Letterbox,
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
                letterbox,
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

/// Appends the cells whose class logit reaches that class's threshold.
fn decode(
    level: &RawLevel,
    batch: usize,
    item: usize,
    class_logits: &[f32],
    letterbox: &Letterbox,
    candidates: &mut Vec<Detection>,
) {
    let cells = level.height * level.width;
    let classes = class_logits.len();
    let sides = level.boxes.len() / (batch * cells).max(1);
    let class = &level.class[item * cells * classes..(item + 1) * cells * classes];
    let boxes = &level.boxes[item * cells * sides..(item + 1) * cells * sides];
    for (cell, scores) in class.chunks_exact(classes).enumerate() {
        for (class_id, (&score, &least)) in scores.iter().zip(class_logits).enumerate() {
            if score >= least && score.is_finite() {
                let bbox = decode_box(
                    level,
                    cell,
                    &boxes[cell * sides..(cell + 1) * sides],
                    letterbox,
                );
                if bbox.area() > 0.0 {
                    candidates.push(Detection {
                        class_id,
                        score: sigmoid(score),
                        bbox,
                    });
                }
            }
        }
    }
}

/// A cell's box: its centre, and the mean of each side's distribution in strides.
fn decode_box(level: &RawLevel, cell: usize, sides: &[f32], letterbox: &Letterbox) -> BBox {
    let stride = level.stride as f32;
    let x = ((cell % level.width) as f32 + 0.5) * stride;
    let y = ((cell / level.width) as f32 + 0.5) * stride;
    let bins = sides.len() / 4;
    let distance = |side: usize| stride * mean_bin(&sides[side * bins..(side + 1) * bins]);
    letterbox.to_frame(
        x - distance(0),
        y - distance(1),
        x + distance(2),
        y + distance(3),
    )
}

/// Mean of the bin index under the softmax of `logits`.
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

/// Greedy non-maximum suppression within each class; `candidates` are sorted by score.
fn nms(candidates: &[Detection], iou: f32, most: usize, kept: &mut Vec<Detection>) {
    kept.clear();
    for candidate in candidates {
        if kept.len() >= most {
            return;
        }
        let covered = |winner: &Detection| {
            winner.class_id == candidate.class_id && winner.bbox.iou(&candidate.bbox) > iou
        };
        if !kept.iter().any(covered) {
            kept.push(*candidate);
        }
    }
}

fn sigmoid(logit: f32) -> f32 {
    1.0 / (1.0 + (-logit).exp())
}

/// The inverse of [`sigmoid`]: comparing logits saves an exponential a cell and class.
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

    const FRAME: Size = Size::new(64, 64);

    fn detection(class_id: usize, score: f32, [x0, y0, x1, y1]: [f32; 4]) -> Detection {
        Detection {
            class_id,
            score,
            bbox: BBox::clamped(x0, y0, x1, y1, FRAME),
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

    /// One cell of a stride-8 level says 2 strides to every side; everything else is silent.
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
        let letterbox = Letterbox::fit(FRAME, FRAME);
        let thresholds = Thresholds::uniform(2, 0.5, 0.6);
        let (mut post, mut found) = (Postprocessor::default(), Vec::new());
        post.run(&output, 0, &letterbox, &thresholds, &mut found);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].class_id, 1);
        assert!((found[0].score - 0.880_797).abs() < 1e-5);
        assert_eq!(found[0].bbox.xywh(), [20.0, 12.0, 32.0, 32.0]);

        output.levels[0].class[2 * cell + 1] = f32::NAN;
        post.run(&output, 0, &letterbox, &thresholds, &mut found);
        assert!(found.is_empty());
    }
}
