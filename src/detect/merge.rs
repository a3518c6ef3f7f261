//! Merging: detections of several overlapping regions of one frame become one box an object.
//! docs/decisions/tiles.md has the reasons.
//!
//! A box that reaches an edge of its tile inside the frame is a *fragment*: the tile may have seen
//! only part of the object. All other boxes are *whole*.
//!
//! 1. Whole boxes of different regions: non-maximum suppression by IoU within a class.
//! 2. A fragment yields to a whole box that shows more of the same object.
//! 3. Fragments that no whole box explains are joined across the seam they share.
//! 4. Large boxes of tiles only support a box of the whole frame: it shows such objects well.
//! 5. Boxes of a tile that are parts of a larger object, which the tile could not see whole, yield
//!    to it even if they do not reach the edge.

use crate::detection::{Detection, Thresholds};
use crate::geometry::{BBox, Region};

/// IoU above which boxes of different regions are the same object. Lower than the IoU for NMS
/// within a region: the regions saw the object at different scales.
const SAME_OBJECT: f32 = 0.5;

/// Least IoU of a fragment with the part of another box that the fragment's tile could see.
const SAME_PART: f32 = 0.5;

/// Least part of a box's area inside a larger box that makes it a part of that.
const PART_INSIDE: f32 = 0.7;

/// A box that does not reach the edge is a part of a larger object only if it covers this much of
/// what its tile could see of that. Less may be another object in front of it.
const PART_COVERS: f32 = 0.25;

/// Distance to an edge at which a box counts as reaching it, in input pixels; a cut box rarely
/// ends exactly there.
const EDGE_PX: f32 = 2.0;

/// The same as a fraction of the box's side: the error grows with the box.
const EDGE_FRACTION: f32 = 0.05;

/// Side of an object, the root of its area, that the whole frame shows well enough to decide alone,
/// in its input's pixels. Tiles add no larger ones (the valid ranges of SNIP, Singh and Davis 2018):
/// what they find there is mostly parts.
const LARGE_PX: f32 = 64.0;

/// One box of one region.
#[derive(Clone, Copy, Debug)]
struct View {
    detection: Detection,
    /// Index of the region; `JOINED` for a box made of fragments.
    region: usize,
    /// Edges of its region inside the frame that the box reaches: left, top, right, bottom.
    cut: [bool; 4],
    /// A box of a tile that the whole frame shows well enough.
    large: bool,
}

const JOINED: usize = usize::MAX;

impl View {
    fn is_fragment(&self) -> bool {
        self.cut.contains(&true)
    }
}

/// Merges the detections of regions; reuses its buffers.
#[derive(Debug, Default)]
pub(super) struct Merger {
    views: Vec<View>,
    /// Boxes of which others may be parts.
    objects: Vec<View>,
    fragments: Vec<View>,
    kept: Vec<View>,
    /// For each fragment, another of the same object; its own index for the first.
    parents: Vec<usize>,
}

impl Merger {
    /// Begins a frame.
    pub(super) fn begin(&mut self) {
        self.views.clear();
    }

    /// Adds the detections of `region`, which is number `index` of the frame's regions. They have
    /// been through NMS.
    pub(super) fn add(&mut self, index: usize, region: &Region, detections: &[Detection]) {
        let (scale_x, scale_y) = Region::whole(region.frame, region.input).scale();
        let largest = match region.is_whole() {
            true => f32::INFINITY,
            false => LARGE_PX * scale_x * LARGE_PX * scale_y,
        };
        self.views.extend(detections.iter().map(|&detection| View {
            detection,
            region: index,
            cut: reached(region, &detection.bbox),
            large: detection.bbox.area() >= largest,
        }));
    }

    /// Writes the frame's objects into `detections`, by descending score.
    pub(super) fn finish(
        &mut self,
        regions: &[Region],
        thresholds: &Thresholds,
        detections: &mut Vec<Detection>,
    ) {
        let same_object = SAME_OBJECT.min(thresholds.nms_iou);
        let best_first = |a: &View, b: &View| b.detection.score.total_cmp(&a.detection.score);
        self.views.sort_unstable_by(best_first);
        self.fragments.clear();
        self.objects.clear();
        for view in &self.views {
            if view.is_fragment() || view.large {
                self.fragments.push(*view);
            } else if regions[view.region].is_whole() {
                self.objects.push(*view);
            }
        }
        self.views.retain(|view| {
            !(view.is_fragment()
                || view.large
                || is_part_of_any(view, &self.objects, regions, same_object))
        });
        self.kept.clear();
        for view in &self.views {
            keep(&mut self.kept, view, same_object);
        }
        let kept = &mut self.kept;
        self.fragments
            .retain(|view| !explained(kept, view, regions, same_object) && !view.large);
        self.join(regions);
        self.objects.clear();
        let joined = self.fragments.iter().filter(|view| view.region == JOINED);
        self.objects.extend(joined);
        let joined = &self.objects;
        self.kept
            .retain(|view| !is_part_of_any(view, joined, regions, same_object));
        self.objects.clear();
        self.objects.extend_from_slice(&self.kept);
        self.objects.extend_from_slice(&self.fragments);
        let all = &self.objects;
        self.fragments
            .retain(|view| !is_part_of_any(view, all, regions, same_object));
        for view in &self.fragments {
            keep(&mut self.kept, view, same_object);
        }
        detections.clear();
        detections.extend(self.kept.iter().map(|view| view.detection));
        detections.sort_unstable_by(|a, b| b.score.total_cmp(&a.score));
        detections.truncate(thresholds.max_detections);
    }

    /// Replaces fragments of the same object by one box around them.
    fn join(&mut self, regions: &[Region]) {
        let (fragments, parents) = (&mut self.fragments, &mut self.parents);
        parents.clear();
        parents.extend(0..fragments.len());
        for i in 1..fragments.len() {
            for j in 0..i {
                if meet(&fragments[i], &fragments[j], regions) {
                    let (a, b) = (root(parents, i), root(parents, j));
                    parents[a.max(b)] = a.min(b);
                }
            }
        }
        // fragments are sorted: the first of an object has its best score
        for i in 1..fragments.len() {
            let first = root(parents, i);
            if first != i {
                let bbox = fragments[i].detection.bbox;
                let joined = &mut fragments[first];
                joined.detection.bbox = joined.detection.bbox.hull(&bbox);
                joined.region = JOINED;
                joined.cut = [false; 4];
            }
        }
        let mut index = 0;
        fragments.retain(|_| {
            index += 1;
            parents[index - 1] == index - 1
        });
    }
}

/// Keeps `view` unless a kept box of another region is the same object, which then gets the better
/// score. Boxes of one region have been told apart there.
fn keep(kept: &mut Vec<View>, view: &View, same_object: f32) {
    let is_same = |other: &&mut View| {
        other.detection.class_id == view.detection.class_id
            && (other.region != view.region || view.region == JOINED)
            && other.detection.bbox.iou(&view.detection.bbox) > same_object
    };
    match kept.iter_mut().find(is_same) {
        Some(other) => {
            let score = &mut other.detection.score;
            *score = score.max(view.detection.score);
        }
        None => kept.push(*view),
    }
}

/// Whether a whole box shows the fragment's object. That box gets the fragment's score if it is
/// better and both show the same of the object as far as the tile could see.
fn explained(kept: &mut [View], fragment: &View, regions: &[Region], same_object: f32) -> bool {
    let (bbox, tile) = (&fragment.detection.bbox, regions[fragment.region].bounds());
    let mut best: Option<(&mut View, f32)> = None;
    let mut is_part = false;
    for object in kept {
        if object.detection.class_id != fragment.detection.class_id
            || object.region == fragment.region
        {
            continue;
        }
        let whole = &object.detection.bbox;
        let same = whole.intersection(&tile).iou(bbox).max(whole.iou(bbox));
        is_part |= crosses(whole, &tile, fragment.cut)
            && inside(bbox, &grown(whole, Some(&regions[fragment.region]))) >= PART_INSIDE;
        if same >= SAME_PART.min(same_object) && best.as_ref().is_none_or(|(_, iou)| same > *iou) {
            best = Some((object, same));
        }
    }
    match best {
        Some((object, _)) => {
            let score = &mut object.detection.score;
            *score = score.max(fragment.detection.score);
            true
        }
        None => is_part,
    }
}

/// Whether two fragments of different tiles are parts of one object: each reaches from edge to edge
/// of what both tiles see, and along the seam they begin and end at about the same place.
fn meet(a: &View, b: &View, regions: &[Region]) -> bool {
    if a.detection.class_id != b.detection.class_id || a.region == b.region {
        return false;
    }
    let (tile_a, tile_b) = (regions[a.region].bounds(), regions[b.region].bounds());
    let horizontal = Seam {
        first: [tile_a.x0(), tile_a.x1()],
        second: [tile_b.x0(), tile_b.x1()],
    };
    let vertical = Seam {
        first: [tile_a.y0(), tile_a.y1()],
        second: [tile_b.y0(), tile_b.y1()],
    };
    let (box_a, box_b) = (&a.detection.bbox, &b.detection.bbox);
    let across = |bbox: &BBox| [bbox.x0(), bbox.x1()];
    let down = |bbox: &BBox| [bbox.y0(), bbox.y1()];
    let cut = |view: &View, axis: usize| [view.cut[axis], view.cut[axis + 2]];
    let spans = |seam: &Seam, axis: usize, side: fn(&BBox) -> [f32; 2]| {
        seam.is_spanned(side(box_a), cut(a, axis), side(box_b), cut(b, axis))
    };
    spans(&horizontal, 0, across) && vertical.agree(down(box_a), down(box_b))
        || spans(&vertical, 1, down) && horizontal.agree(across(box_a), across(box_b))
}

/// The extents of two tiles along one axis: `[start, end]`.
struct Seam {
    first: [f32; 2],
    second: [f32; 2],
}

impl Seam {
    /// Whether the fragment of the tile that comes first reaches that tile's end and the other's
    /// start, and the fragment of the other tile as well. `cut` is whether a fragment reaches its own
    /// tile's start and end.
    fn is_spanned(&self, a: [f32; 2], cut_a: [bool; 2], b: [f32; 2], cut_b: [bool; 2]) -> bool {
        if self.first[0] == self.second[0] {
            return false; // one above the other: no seam along this axis
        }
        if self.first[0] > self.second[0] {
            let swapped = Seam {
                first: self.second,
                second: self.first,
            };
            return swapped.is_spanned(b, cut_b, a, cut_a);
        }
        let common = self.first[1] - self.second[0];
        let slack = common.max(0.0) / 4.0;
        common >= 0.0
            && cut_a[1]
            && cut_b[0]
            && a[0] <= self.second[0] + slack
            && b[1] >= self.first[1] - slack
            && a[1] - b[0] >= common / 3.0 // they share some of the strip
    }

    /// Whether the fragments are at the same place along the axis, as far as both tiles see it.
    fn agree(&self, a: [f32; 2], b: [f32; 2]) -> bool {
        let start = self.first[0].max(self.second[0]);
        let end = self.first[1].min(self.second[1]);
        let clip = |[from, to]: [f32; 2]| {
            [
                from.clamp(start, end.max(start)),
                to.clamp(start, end.max(start)),
            ]
        };
        let (a, b) = (clip(a), clip(b));
        let both = a[1].min(b[1]) - a[0].max(b[0]);
        let either = a[1].max(b[1]) - a[0].min(b[0]);
        both > 0.0 && both > SAME_PART * either
    }
}

/// Whether `view` is a part of one of the `objects`. A box of the whole frame is none. A box of a tile
/// that does not reach the edge is none if the whole frame shows it as well.
fn is_part_of_any(view: &View, objects: &[View], regions: &[Region], same_object: f32) -> bool {
    let bbox = &view.detection.bbox;
    let mut others = objects
        .iter()
        .filter(|object| object.detection.class_id == view.detection.class_id);
    let larger_around = |object: &View| {
        let whole = &object.detection.bbox;
        whole.area() > bbox.area()
            && inside(bbox, &grown(whole, regions.get(view.region))) >= PART_INSIDE
    };
    if view.region == JOINED {
        return others.any(larger_around);
    }
    let region = &regions[view.region];
    if view.is_fragment() {
        return others.any(|object| {
            object.region != view.region
                && crosses(&object.detection.bbox, &region.bounds(), view.cut)
                && larger_around(object)
        });
    }
    if region.is_whole() {
        return false;
    }
    let mut is_part = false;
    for object in others {
        let whole = &object.detection.bbox;
        let beyond = goes_beyond(whole, region);
        if !beyond && whole.iou(bbox) > same_object {
            return false;
        }
        is_part |= beyond
            && object.detection.score >= view.detection.score
            && inside(bbox, whole) >= PART_INSIDE
            && bbox.area() >= PART_COVERS * whole.intersection(&region.bounds()).area();
    }
    is_part
}

/// Whether a box goes on clearly beyond an edge of the region inside the frame, so that the region
/// shows only a part of the object.
fn goes_beyond(bbox: &BBox, region: &Region) -> bool {
    let bounds = region.bounds();
    let (scale_x, scale_y) = region.scale();
    let (x, y) = (
        EDGE_PX * scale_x + EDGE_FRACTION * bbox.width(),
        EDGE_PX * scale_y + EDGE_FRACTION * bbox.height(),
    );
    let edges = edges_inside(region);
    edges[0] && bbox.x0() < bounds.x0() - x
        || edges[1] && bbox.y0() < bounds.y0() - y
        || edges[2] && bbox.x1() > bounds.x1() + x
        || edges[3] && bbox.y1() > bounds.y1() + y
}

/// The edges of `region` inside the frame that `bbox` reaches: left, top, right, bottom.
fn reached(region: &Region, bbox: &BBox) -> [bool; 4] {
    let bounds = region.bounds();
    let (scale_x, scale_y) = region.scale();
    let near_x = EDGE_PX * scale_x + EDGE_FRACTION * bbox.width();
    let near_y = EDGE_PX * scale_y + EDGE_FRACTION * bbox.height();
    let inside = edges_inside(region);
    [
        inside[0] && bbox.x0() - bounds.x0() <= near_x,
        inside[1] && bbox.y0() - bounds.y0() <= near_y,
        inside[2] && bounds.x1() - bbox.x1() <= near_x,
        inside[3] && bounds.y1() - bbox.y1() <= near_y,
    ]
}

/// The edges of `region` that are not edges of the frame: left, top, right, bottom.
fn edges_inside(region: &Region) -> [bool; 4] {
    [
        region.x > 0,
        region.y > 0,
        region.x + region.size.width < region.frame.width,
        region.y + region.size.height < region.frame.height,
    ]
}

/// Whether `bbox` goes on beyond one of the `edges` of `tile`.
fn crosses(bbox: &BBox, tile: &BBox, edges: [bool; 4]) -> bool {
    let beyond = [
        bbox.x0() < tile.x0(),
        bbox.y0() < tile.y0(),
        bbox.x1() > tile.x1(),
        bbox.y1() > tile.y1(),
    ];
    beyond
        .into_iter()
        .zip(edges)
        .any(|(beyond, edge)| beyond && edge)
}

/// A box with room for the error of its sides, and for that of a box of `region`.
fn grown(bbox: &BBox, region: Option<&Region>) -> BBox {
    let (scale_x, scale_y) = region.map_or((0.0, 0.0), Region::scale);
    bbox.grown(
        EDGE_FRACTION * bbox.width() + EDGE_PX * scale_x,
        EDGE_FRACTION * bbox.height() + EDGE_PX * scale_y,
    )
}

/// The part of `bbox` that lies in `other`, 0..=1.
fn inside(bbox: &BBox, other: &BBox) -> f32 {
    match bbox.area() {
        area if area > 0.0 => bbox.intersection(other).area() / area,
        _ => 0.0,
    }
}

fn root(parents: &[usize], mut index: usize) -> usize {
    while parents[index] != index {
        index = parents[index];
    }
    index
}

#[cfg(test)]
mod tests;
