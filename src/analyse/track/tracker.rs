//! ByteTrack (Zhang et al. 2022, arXiv 2110.06864): boxes of high score first, then those of low
//! score, which continue tracks but begin none.
//!
//! Differences from the authors' program, with the reasons:
//!
//! - Time is in seconds (`kalman.rs`), since frames come at uneven rates and get lost.
//! - Only boxes of the same class are matched.
//! - Overlap is that of boxes that are both grown by the track's uncertainty (Yang et al. 2023,
//!   C-BIoU, with a margin that is not constant): after a gap, or in the first frames of a track, a
//!   small or fast object's box does not overlap the prediction.
//! - A low-score box also continues a track that was missed for less than `RECENT`, not only one of
//!   the frame before: at low scores a box is often missing for a frame.
//! - Only a track that once had a box well above the threshold is continued by low scores
//!   ([`TrackerOptions::sure`]). Theirs begins a track only there, which leaves out objects that are
//!   always near the threshold. Without either, a stone that is taken for a sheep in two frames is
//!   reported for as long as the camera looks at it.
//! - The score is no part of the overlap.

use super::assign::{Assigner, Pair};
use super::kalman::BoxFilter;
use crate::detection::Detection;
use crate::geometry::BBox;
use std::num::NonZeroU32;
use std::time::Duration;

/// Least overlap of a low-score box with a track: ByteTrack's 0.5.
const LOW_OVERLAP: f32 = 0.5;
/// Least overlap of the second box of a track with its first, and so on until it is confirmed:
/// ByteTrack's 0.3.
const NEW_OVERLAP: f32 = 0.3;
/// Time that a track may have been missed to be continued by a low-score box.
const RECENT: Duration = Duration::from_millis(500);
/// The uncertainty that boxes are grown by, in box sides, is at most this.
const MAX_GROWTH: f32 = 0.5;

/// What the tracker may be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrackerOptions {
    /// Frames with a high-score box until a track has a number, at least 1.
    pub confirm: u32,
    /// Time after its last box at which a track ends.
    pub keep: Duration,
    /// Least overlap (IoU) of a high-score box with a track's prediction.
    pub overlap: f32,
    /// How far above its class's threshold a track's best score must be for low-score boxes to
    /// continue it.
    pub sure: f32,
}

/// Follows objects from frame to frame; reuses its buffers.
#[derive(Debug)]
pub struct Tracker {
    options: TrackerOptions,
    tracks: Vec<Track>,
    last_id: u32,
    now: Duration,
    assigner: Assigner,
    pairs: Vec<Pair>,
    chosen: Vec<(usize, usize)>,
    /// Of each detection: the track, if any.
    owner: Vec<Option<usize>>,
}

/// One object.
#[derive(Debug)]
struct Track {
    /// `None` until it is confirmed.
    id: Option<NonZeroU32>,
    class_id: usize,
    filter: BoxFilter,
    /// Predicted corners and growth for this frame.
    corners: [f32; 4],
    growth: [f32; 2],
    hits: u32,
    seen: Duration,
    /// Highest score so far.
    best: f32,
    /// It has a detection of this frame.
    taken: bool,
}

impl Tracker {
    /// A tracker without tracks.
    pub fn new(options: TrackerOptions) -> Tracker {
        Tracker {
            options,
            tracks: Vec::with_capacity(64),
            last_id: 0,
            now: Duration::ZERO,
            assigner: Assigner::default(),
            pairs: Vec::with_capacity(256),
            chosen: Vec::with_capacity(64),
            owner: Vec::with_capacity(300),
        }
    }

    /// Ends all tracks, as for a picture of another size. Numbers are not used again.
    pub fn clear(&mut self) {
        self.tracks.clear();
    }

    /// Takes the detections of a frame at `now`, gives those of confirmed tracks their number, and
    /// removes those below the score threshold of their class (`high`, by class id) that belong to no
    /// confirmed track.
    pub fn step(&mut self, now: Duration, detections: &mut Vec<Detection>, high: &[f32]) {
        let dt = now.saturating_sub(self.now).as_secs_f32();
        let keep = self.options.keep;
        self.tracks
            .retain(|track| now.saturating_sub(track.seen) <= keep);
        for track in &mut self.tracks {
            track.predict(dt, track.seen < self.now);
        }
        self.now = now;
        self.owner.clear();
        self.owner.resize(detections.len(), None);
        let is_high = |detection: &Detection| {
            let threshold = high.get(detection.class_id);
            threshold.is_some_and(|&threshold| detection.score >= threshold)
        };
        let TrackerOptions { overlap, sure, .. } = self.options;
        let is_sure = |track: &Track| {
            let threshold = high.get(track.class_id);
            threshold.is_some_and(|&threshold| track.best >= threshold + sure)
        };
        self.associate(detections, overlap, |t, d| t.id.is_some() && is_high(d));
        self.associate(detections, LOW_OVERLAP, |t, d| {
            let recent = now.saturating_sub(t.seen) <= RECENT;
            t.id.is_some() && recent && is_sure(t) && !is_high(d)
        });
        let new = NEW_OVERLAP.min(overlap);
        self.associate(detections, new, |t, d| t.id.is_none() && is_high(d));
        for (index, detection) in detections.iter().enumerate() {
            match self.owner[index] {
                Some(track) => self.hit(track, detection),
                None if is_high(detection) => self.begin(index, detection),
                None => {}
            }
        }
        for (detection, owner) in detections.iter_mut().zip(&self.owner) {
            detection.track_id = owner.and_then(|track| self.tracks[track].id);
        }
        self.tracks
            .retain(|track| track.id.is_some() || track.taken);
        detections.retain(|detection| detection.track_id.is_some() || is_high(detection));
    }

    /// Matches those tracks and detections that are still without one another and that `may` meet.
    fn associate(
        &mut self,
        detections: &[Detection],
        least: f32,
        may: impl Fn(&Track, &Detection) -> bool,
    ) {
        self.pairs.clear();
        let free = |(_, track): &(usize, &Track)| !track.taken;
        for (row, track) in self.tracks.iter().enumerate().filter(free) {
            for (col, detection) in detections.iter().enumerate() {
                if self.owner[col].is_some()
                    || detection.class_id != track.class_id
                    || !may(track, detection)
                {
                    continue;
                }
                let gain = overlap(track, &detection.bbox) - least;
                if gain > 0.0 {
                    self.pairs.push(Pair { row, col, gain });
                }
            }
        }
        self.chosen.clear();
        let (rows, cols) = (self.tracks.len(), detections.len());
        self.assigner
            .solve(rows, cols, &self.pairs, &mut self.chosen);
        for &(row, col) in &self.chosen {
            self.owner[col] = Some(row);
            self.tracks[row].taken = true;
        }
    }

    fn hit(&mut self, track: usize, detection: &Detection) {
        let (now, confirm) = (self.now, self.options.confirm);
        let track = &mut self.tracks[track];
        track.filter.update(&detection.bbox);
        track.seen = now;
        track.best = track.best.max(detection.score);
        track.hits = track.hits.saturating_add(1);
        if track.id.is_none() && track.hits >= confirm {
            track.id = next_id(&mut self.last_id);
        }
    }

    fn begin(&mut self, index: usize, detection: &Detection) {
        let id = match self.options.confirm {
            0 | 1 => next_id(&mut self.last_id),
            _ => None,
        };
        self.owner[index] = Some(self.tracks.len());
        self.tracks.push(Track {
            id,
            class_id: detection.class_id,
            filter: BoxFilter::new(&detection.bbox),
            corners: [0.0; 4],
            growth: [0.0; 2],
            hits: 1,
            seen: self.now,
            best: detection.score,
            taken: true,
        });
    }
}

/// The next number, from 1; after 4 billion tracks again from 1.
fn next_id(last: &mut u32) -> Option<NonZeroU32> {
    *last = last.checked_add(1).unwrap_or(1);
    NonZeroU32::new(*last)
}

impl Track {
    fn predict(&mut self, dt: f32, lost: bool) {
        self.taken = false;
        self.filter.predict(dt, lost);
        self.corners = self.filter.corners();
        let [x0, y0, x1, y1] = self.corners;
        let [x, y] = self.filter.spread();
        self.growth = [x.min(MAX_GROWTH * (x1 - x0)), y.min(MAX_GROWTH * (y1 - y0))];
    }
}

/// Intersection over union of prediction and box, both grown by the same margin.
fn overlap(track: &Track, bbox: &BBox) -> f32 {
    let ([x0, y0, x1, y1], [gx, gy]) = (track.corners, track.growth);
    let width = x1.min(bbox.x1()) - x0.max(bbox.x0()) + 2.0 * gx;
    let height = y1.min(bbox.y1()) - y0.max(bbox.y0()) + 2.0 * gy;
    if width <= 0.0 || height <= 0.0 {
        return 0.0;
    }
    let both = width * height;
    let grown = |w: f32, h: f32| (w + 2.0 * gx) * (h + 2.0 * gy);
    both / (grown(x1 - x0, y1 - y0) + grown(bbox.width(), bbox.height()) - both)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Size;

    const FRAME: Size = Size::new(1000, 500);
    const HIGH: [f32; 2] = [0.5; 2];

    fn tracker() -> Tracker {
        Tracker::new(TrackerOptions {
            confirm: 2,
            keep: Duration::from_secs(2),
            overlap: 0.2,
            sure: 0.15,
        })
    }

    fn person(x: f32, score: f32) -> Detection {
        Detection {
            class_id: 0,
            score,
            bbox: BBox::clamped(x, 100.0, x + 40.0, 200.0, FRAME),
            track_id: None,
        }
    }

    /// The numbers after a frame, in the order of what is left of its detections.
    fn ids(tracker: &mut Tracker, ms: u64, mut detections: Vec<Detection>) -> Vec<Option<u32>> {
        tracker.step(Duration::from_millis(ms), &mut detections, &HIGH);
        let ids = detections.iter().map(|d| d.track_id.map(NonZeroU32::get));
        ids.collect()
    }

    #[test]
    fn a_track_has_a_number_from_its_second_box_on_and_keeps_it() {
        let mut tracker = tracker();
        assert_eq!(ids(&mut tracker, 0, vec![person(100.0, 0.9)]), [None]);
        for (ms, x) in [(100, 105.0), (200, 110.0), (450, 122.0), (500, 125.0)] {
            assert_eq!(
                ids(&mut tracker, ms, vec![person(x, 0.6)]),
                [Some(1)],
                "{ms}"
            );
        }
    }

    #[test]
    fn low_boxes_continue_a_track_and_begin_none() {
        let mut tracker = tracker();
        assert!(ids(&mut tracker, 0, vec![person(500.0, 0.2)]).is_empty());
        ids(
            &mut tracker,
            100,
            vec![person(100.0, 0.9), person(500.0, 0.2)],
        );
        ids(
            &mut tracker,
            200,
            vec![person(100.0, 0.9), person(500.0, 0.2)],
        );
        let low = vec![person(101.0, 0.2), person(500.0, 0.2)];
        assert_eq!(ids(&mut tracker, 300, low), [Some(1)]);
        let first_unsure = vec![person(101.0, 0.9), person(500.0, 0.5)];
        assert_eq!(ids(&mut tracker, 400, first_unsure), [Some(1), None]);
        let low_again = vec![person(101.0, 0.9), person(500.0, 0.4)];
        assert_eq!(
            ids(&mut tracker, 500, low_again),
            [Some(1)],
            "a track that is not confirmed is not continued by a low box"
        );
    }

    #[test]
    fn a_track_that_was_never_sure_is_not_continued_by_low_boxes() {
        let mut tracker = tracker();
        for ms in [0, 100, 200] {
            ids(&mut tracker, ms, vec![person(100.0, 0.6)]);
        }
        assert!(ids(&mut tracker, 300, vec![person(100.0, 0.3)]).is_empty());
        assert_eq!(ids(&mut tracker, 400, vec![person(100.0, 0.66)]), [Some(1)]);
        assert_eq!(ids(&mut tracker, 500, vec![person(100.0, 0.3)]), [Some(1)]);
    }

    #[test]
    fn a_track_survives_frames_without_it_for_its_time_and_no_longer() {
        for (gap, expected) in [(1900, 1), (2200, 2)] {
            let mut tracker = tracker();
            for ms in [0, 100, 200, 300] {
                ids(&mut tracker, ms, vec![person(300.0, 0.9)]);
            }
            ids(&mut tracker, 1000, vec![]);
            ids(&mut tracker, 300 + gap, vec![person(300.0, 0.9)]);
            let after = ids(&mut tracker, 400 + gap, vec![person(300.0, 0.9)]);
            assert_eq!(after, [Some(expected)], "{gap}");
        }
    }

    #[test]
    fn two_who_cross_keep_their_numbers() {
        let mut tracker = tracker();
        let mut seen = Vec::new();
        for step in 0..40 {
            let (right, left) = (100.0 + 8.0 * step as f32, 412.0 - 8.0 * step as f32);
            seen = ids(
                &mut tracker,
                100 * step,
                vec![person(right, 0.9), person(left, 0.8)],
            );
        }
        assert_eq!(seen, [Some(1), Some(2)]);
    }

    #[test]
    fn another_class_at_the_same_place_is_another_track() {
        let mut tracker = tracker();
        for ms in [0, 100] {
            ids(&mut tracker, ms, vec![person(100.0, 0.9)]);
        }
        let mut car = person(100.0, 0.9);
        car.class_id = 1;
        assert_eq!(ids(&mut tracker, 200, vec![car]), [None]);
        assert_eq!(ids(&mut tracker, 300, vec![car]), [Some(2)]);
    }

    #[test]
    fn a_class_that_is_switched_off_has_no_tracks_and_no_boxes() {
        let mut tracker = tracker();
        for ms in [0, 100, 200] {
            let mut detections = vec![person(100.0, 0.9)];
            tracker.step(Duration::from_millis(ms), &mut detections, &[f32::INFINITY]);
            assert_eq!(detections, []);
        }
    }

    #[test]
    fn numbers_begin_again_when_they_are_used_up() {
        let mut last = u32::MAX - 1;
        assert_eq!(next_id(&mut last), NonZeroU32::new(u32::MAX));
        assert_eq!(next_id(&mut last), NonZeroU32::new(1));
    }
}
