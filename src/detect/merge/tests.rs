//! A perfect detector, which reports the visible part of every object in every region, and what is
//! made of its boxes.

use super::*;
use crate::detection::Thresholds;
use crate::geometry::{Size, TileOverlap, Tiling};
use proptest::prelude::*;

/// Least visible side of an object that the detector sees, in input pixels.
const LEAST_PX: f32 = 4.0;

const LAYOUTS: [(&str, &str); 6] = [
    ("2x2", "0.2"),
    ("3x2", "0.2"),
    ("2x1", "0.05"),
    ("1x3", "0.1"),
    ("4x4", "0.3"),
    ("6x4", "0.5"),
];

#[derive(Debug)]
struct Scene {
    frame: Size,
    regions: Vec<Region>,
}

impl Scene {
    fn new(frame: Size, tiles: &str, overlap: &str) -> Scene {
        let tiling = Tiling {
            tiles: tiles.parse().unwrap(),
            overlap: overlap.parse::<TileOverlap>().unwrap(),
        };
        let tile = tiling.tile(frame);
        let input = crate::geometry::input_size_for(tile, 320, 32);
        let mut regions = Vec::new();
        tiling.regions(frame, input, &mut regions);
        Scene { frame, regions }
    }

    fn bbox(&self, [x0, y0, x1, y1]: [f32; 4]) -> BBox {
        BBox::clamped(x0, y0, x1, y1, self.frame)
    }

    /// The visible parts of the objects in each region. `noise` moves each side by up to this
    /// fraction of the visible part; the whole frame shows objects only if `whole`.
    fn see(&self, objects: &[BBox], whole: bool, noise: f32, seed: u64) -> Vec<Vec<Detection>> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut see = |region: &Region| -> Vec<Detection> {
            if region.is_whole() && !whole {
                return Vec::new();
            }
            let bounds = region.bounds();
            let (scale_x, scale_y) = region.scale();
            let visible = objects.iter().map(|object| object.intersection(&bounds));
            visible
                .filter(|part| {
                    part.width() >= LEAST_PX * scale_x && part.height() >= LEAST_PX * scale_y
                })
                .map(|part| {
                    let mut off = |side: f32| noise * side * (2.0 * random.f32() - 1.0);
                    let (w, h) = (part.width(), part.height());
                    let moved = BBox::clamped(
                        part.x0() + off(w),
                        part.y0() + off(h),
                        part.x1() + off(w),
                        part.y1() + off(h),
                        self.frame,
                    );
                    Detection {
                        class_id: 0,
                        score: 0.3 + 0.6 * random.f32(),
                        bbox: moved.intersection(&bounds),
                        track_id: None,
                    }
                })
                .collect()
        };
        self.regions.iter().map(&mut see).collect()
    }

    fn merge(&self, seen: &[Vec<Detection>]) -> Vec<Detection> {
        let mut merger = Merger::default();
        let mut detections = Vec::new();
        for _ in 0..2 {
            // the second time in used buffers
            merger.begin();
            for (index, (region, seen)) in self.regions.iter().zip(seen).enumerate() {
                merger.add(index, region, seen);
            }
            let thresholds = Thresholds::uniform(2, 0.3, 0.6);
            merger.finish(&self.regions, &thresholds, &mut detections);
        }
        detections
    }

    /// Whether what the regions show of every object adds up to the object: a detector that needs a
    /// few pixels misses thin slivers.
    fn shows(&self, objects: &[BBox], whole: bool) -> bool {
        objects.iter().all(|object| {
            let seen = self.see(std::slice::from_ref(object), whole, 0.0, 0);
            let parts = seen.iter().flatten().map(|detection| detection.bbox);
            let all = parts.reduce(|all, part| all.hull(&part));
            all.is_some_and(|all| all.iou(object) >= 0.8)
        })
    }

    /// Exactly one box for each object, or an explanation.
    fn check(&self, objects: &[BBox], seen: &[Vec<Detection>]) -> Result<(), String> {
        let found = self.merge(seen);
        let one_each = found.len() == objects.len()
            && objects.iter().all(|object| {
                let matches = found.iter().filter(|f| f.bbox.iou(object) >= 0.7);
                matches.count() == 1
            });
        match one_each {
            true => Ok(()),
            false => Err(format!(
                "{} frame, {} regions of {}: objects {objects:?}\nseen {seen:#?}\nmerged {found:#?}",
                self.frame,
                self.regions.len(),
                self.regions[self.regions.len() - 1].size
            )),
        }
    }

    /// Edges of tiles and of the frame along an axis, as x or y.
    fn edges(&self, along_x: bool) -> Vec<f32> {
        let sides = self.regions.iter().map(Region::bounds);
        let mut edges: Vec<f32> = sides
            .flat_map(|b| match along_x {
                true => [b.x0(), b.x1()],
                false => [b.y0(), b.y1()],
            })
            .collect();
        edges.sort_by(f32::total_cmp);
        edges.dedup();
        edges
    }

    /// Smallest side that a tile shows, with something to spare.
    fn least_side(&self) -> f32 {
        let (x, y) = self.regions[self.regions.len() - 1].scale();
        1.5 * LEAST_PX * x.max(y)
    }
}

/// Objects of many sizes on every edge, seam and corner, with and without the whole frame's view.
#[test]
fn an_object_anywhere_gives_one_box() {
    let frame = Size::new(1280, 720);
    for (tiles, overlap) in LAYOUTS {
        let scene = Scene::new(frame, tiles, overlap);
        let least = scene.least_side();
        let tile = scene.regions[1].size;
        for side in [
            least,
            2.0 * least,
            0.2 * tile.width as f32,
            0.5 * tile.width as f32,
            700.0,
        ] {
            for aspect in [0.5, 1.0, 2.5] {
                let (w, h) = (side.max(least), (side * aspect).max(least));
                for &x in &scene.edges(true) {
                    for &y in &scene.edges(false) {
                        for (dx, dy) in
                            [(0.5, 0.5), (0.1, 0.9), (1.0, 0.0), (0.97, 0.03), (0.7, 0.4)]
                        {
                            let x0 = (x - dx * w).clamp(0.0, (1280.0 - w).max(0.0));
                            let y0 = (y - dy * h).clamp(0.0, (720.0 - h).max(0.0));
                            let object = [scene.bbox([x0, y0, x0 + w, y0 + h])];
                            let seen = scene.see(&object, true, 0.0, 1);
                            scene.check(&object, &seen).unwrap();
                            let scores = seen.iter().flatten().map(|d| d.score);
                            let best = scores.fold(0.0, f32::max);
                            assert_eq!(scene.merge(&seen)[0].score, best);
                        }
                    }
                }
            }
        }
    }
}

/// Objects that the whole frame does not show, up to the size of a tile or to what is large.
#[test]
fn fragments_are_joined_where_no_region_saw_the_whole() {
    let frame = Size::new(1280, 720);
    for (tiles, overlap) in LAYOUTS {
        let scene = Scene::new(frame, tiles, overlap);
        let tile = scene.regions[1].size;
        for (part_x, part_y) in [(0.3, 0.2), (0.6, 0.6), (0.9, 0.3)] {
            let (scale_x, scale_y) = scene.regions[0].scale();
            let (w, h) = (
                (part_x * tile.width as f32).min(0.9 * LARGE_PX * scale_x),
                (part_y * tile.height as f32).min(0.9 * LARGE_PX * scale_y),
            );
            for &x in &scene.edges(true) {
                for &y in &scene.edges(false) {
                    let x0 = (x - 0.5 * w).clamp(0.0, 1280.0 - w);
                    let y0 = (y - 0.5 * h).clamp(0.0, 720.0 - h);
                    let object = [scene.bbox([x0, y0, x0 + w, y0 + h])];
                    let seen = scene.see(&object, false, 0.0, 2);
                    scene.check(&object, &seen).unwrap();
                }
            }
        }
    }
}

/// Boxes inside a large object that do not reach the tile's edge.
#[test]
fn a_large_object_is_not_cut_to_pieces() {
    // the whole frame shows a pixel for six: large is more than 384 pixels a side
    let scene = Scene::new(Size::new(1920, 1080), "2x2", "0.2");
    let detection = |score, corners| Detection {
        class_id: 0,
        score,
        bbox: scene.bbox(corners),
        track_id: None,
    };
    let object = detection(0.8, [700.0, 100.0, 1200.0, 600.0]);
    let piece = detection(0.7, [720.0, 110.0, 1000.0, 440.0]);
    let mut seen = vec![vec![object], vec![piece], vec![], vec![], vec![]];
    assert_eq!(scene.merge(&seen), [object]);
    // a person before a bus of people: the whole frame shows both
    let person = detection(0.6, [725.0, 115.0, 990.0, 450.0]);
    seen[0].push(person);
    assert_eq!(scene.merge(&seen), [object, piece]);
    // something small in front of it
    let small = detection(0.6, [800.0, 150.0, 860.0, 250.0]);
    let seen = vec![vec![object], vec![small], vec![], vec![], vec![]];
    assert_eq!(scene.merge(&seen), [object, small]);
    // a doubtful large box does not hide what a tile is sure of
    let doubtful = Detection {
        score: 0.35,
        ..object
    };
    let seen = vec![vec![doubtful], vec![piece], vec![], vec![], vec![]];
    assert_eq!(scene.merge(&seen).len(), 2);
    // what the whole frame would show well and does not is not believed
    let seen = vec![
        vec![],
        vec![detection(0.9, [10.0, 10.0, 600.0, 500.0])],
        vec![],
        vec![],
        vec![],
    ];
    assert!(scene.merge(&seen).is_empty());
}

#[test]
fn classes_do_not_mix_and_the_number_of_boxes_is_limited() {
    let scene = Scene::new(Size::new(1280, 720), "2x2", "0.2");
    let object = [scene.bbox([500.0, 300.0, 760.0, 420.0])];
    let mut seen = scene.see(&object, true, 0.0, 3);
    for (index, detection) in seen.iter_mut().flatten().enumerate() {
        detection.class_id = index % 2;
    }
    let classes: Vec<_> = scene.merge(&seen).iter().map(|d| d.class_id).collect();
    assert!(classes.contains(&0) && classes.contains(&1), "{classes:?}");
    let mut merger = Merger::default();
    let mut detections = Vec::new();
    let far = (0..9).map(|i| [i as f32 * 100.0, 0.0, i as f32 * 100.0 + 50.0, 50.0]);
    let far: Vec<_> = far.map(|corners| scene.bbox(corners)).collect();
    for (index, seen) in scene.see(&far, true, 0.0, 4).iter().enumerate() {
        merger.add(index, &scene.regions[index], seen);
    }
    let thresholds = Thresholds {
        max_detections: 4,
        ..Thresholds::uniform(2, 0.3, 0.6)
    };
    merger.finish(&scene.regions, &thresholds, &mut detections);
    assert_eq!(detections.len(), 4);
    assert!(detections.is_sorted_by(|a, b| a.score >= b.score));
}

fn scenes() -> impl Strategy<Value = Scene> {
    let layout = (1u32..=6, 1u32..=5).prop_filter("two tiles", |(c, r)| c * r > 1);
    ((240u32..2600, 200u32..1600), layout, 5u32..=50).prop_map(
        |(frame, (columns, rows), overlap)| {
            Scene::new(
                Size::new(frame.0, frame.1),
                &format!("{columns}x{rows}"),
                &format!("{}", f64::from(overlap) / 100.0),
            )
        },
    )
}

/// A side between the least that a tile shows and the frame's, most of them small.
fn side(fraction: f32, least: f32, limit: f32) -> f32 {
    least + fraction.powi(3) * (limit - least).max(0.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn one_object_one_box(
        scene in scenes(),
        [w, h, x, y] in proptest::array::uniform4(0.0f32..=1.0),
        noise in prop_oneof![Just(0.0f32), 0.0f32..0.04],
        seed in any::<u64>(),
    ) {
        let (width, height) = (scene.frame.width as f32, scene.frame.height as f32);
        let least = scene.least_side();
        let (w, h) = (side(w, least, width), side(h, least, height));
        let (x, y) = (x * (width - w), y * (height - h));
        let object = [scene.bbox([x, y, x + w, y + h])];
        prop_assume!(scene.shows(&object, true));
        let seen = scene.see(&object, true, noise, seed);
        prop_assert!(scene.check(&object, &seen).is_ok(), "{}", scene.check(&object, &seen).unwrap_err());
    }

    #[test]
    fn two_neighbours_stay_two(
        scene in scenes(),
        [w, h, x, y] in proptest::array::uniform4(0.0f32..=1.0),
        (second, gap) in (0.5f32..1.0, 0.0f32..0.1),
        beside in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let (width, height) = (scene.frame.width as f32, scene.frame.height as f32);
        let least = scene.least_side();
        let (w, h) = (side(w, least, width / 2.2), side(h, least, height / 2.2));
        // the second is as large or smaller, and still large enough
        let (w2, h2) = ((w * second).max(least), (h * second).max(least));
        let (all_w, all_h) = match beside {
            true => (w + w2 + gap * w, h.max(h2)),
            false => (w.max(w2), h + h2 + gap * h),
        };
        let (x, y) = (x * (width - all_w).max(0.0), y * (height - all_h).max(0.0));
        let first = scene.bbox([x, y, x + w, y + h]);
        let second = match beside {
            true => [x + w + gap * w, y, x + w + gap * w + w2, y + h2],
            false => [x, y + h + gap * h, x + w2, y + h + gap * h + h2],
        };
        let objects = [first, scene.bbox(second)];
        prop_assume!(scene.shows(&objects, true));
        let seen = scene.see(&objects, true, 0.0, seed);
        prop_assert!(scene.check(&objects, &seen).is_ok(), "{}", scene.check(&objects, &seen).unwrap_err());
    }
}
