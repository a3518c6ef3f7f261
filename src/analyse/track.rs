//! Tracks: each object has a number that stays the same from frame to frame.
//!
//! On where the settings file has a table `[track]`, where `--track` is given, and where a zone or a
//! line needs it. docs/tracking.md describes it for users.

pub mod assign;
mod kalman;
pub mod tracker;

use super::{Analyzer, AnalyzerContext, Made, Timeline};
use crate::detect::DetectPlan;
use crate::event::Event;
use crate::geometry::Size;
use crate::message::Report;
use crate::units::{Fraction, Interval};
use serde::Deserialize;
use tracker::{Tracker, TrackerOptions};

/// The tables of the settings file.
pub const TABLES: &[&str] = &["track"];

/// Longest time that a track may be kept: a minute, in milliseconds.
const MAX_KEEP_MS: u64 = 60_000;

/// The table `[track]`.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrackOptions {
    /// Score below the threshold down to which boxes continue a track.
    pub floor: Fraction,
    /// Frames with a box above the threshold until a track has a number.
    pub confirm: Confirm,
    /// Time after its last box at which a track ends.
    pub keep: Interval<100, MAX_KEEP_MS>,
    /// Least overlap (IoU) of a box with the place where a track is expected.
    pub overlap: Fraction,
    /// How far above the threshold a track's best score must be for boxes below it to continue it.
    pub sure: Fraction,
}

impl Default for TrackOptions {
    fn default() -> TrackOptions {
        TrackOptions {
            floor: Fraction::new(0.1),
            confirm: Confirm(2),
            keep: Interval::from_millis(2000),
            overlap: Fraction::new(0.2),
            sure: Fraction::new(0.15),
        }
    }
}

/// A number of frames from 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirm(u32);

crate::units::serde_by_text!(Confirm);

impl std::fmt::Display for Confirm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for Confirm {
    type Err = String;

    fn from_str(text: &str) -> Result<Confirm, String> {
        let number = text.parse().ok();
        number
            .filter(|number| (1..=100).contains(number))
            .map(Confirm)
            .ok_or_else(|| format!("expected a whole number of frames from 1 to 100, got '{text}'"))
    }
}

impl TrackOptions {
    /// The options in effect; `None` where nothing asks for tracks.
    ///
    /// # Errors
    /// When the table is wrong.
    pub fn find(context: &AnalyzerContext<'_>) -> Result<Option<TrackOptions>, String> {
        let own = context.table("track")?;
        let settings = context.settings;
        let mut keys = super::zones::TABLES.iter();
        let needed = keys.any(|key| settings.contains_key(*key));
        Ok(own.or_else(|| needed.then(TrackOptions::default)))
    }

    /// The tracker's share of the options.
    pub fn tracker(&self) -> TrackerOptions {
        TrackerOptions {
            confirm: self.confirm.0,
            keep: self.keep.duration(),
            overlap: self.overlap.get(),
            sure: self.sure.get(),
        }
    }
}

/// Makes the analyzer.
///
/// # Errors
/// When the table is wrong.
pub fn make(context: &AnalyzerContext<'_>) -> Made {
    let options = TrackOptions::find(context)?;
    Ok(options.map(|options| Box::new(Tracks::new(options)) as Box<dyn Analyzer>))
}

/// The analyzer: asks the detector for boxes of lower scores too, and reports those that belong to
/// a track.
#[derive(Debug)]
pub struct Tracks {
    tracker: Tracker,
    floor: f32,
    /// Score thresholds of the settings by class id: what begins a track, and is reported without one.
    thresholds: Vec<f32>,
    timeline: Timeline,
    size: Size,
}

impl Tracks {
    /// An analyzer without tracks.
    pub fn new(options: TrackOptions) -> Tracks {
        Tracks {
            tracker: Tracker::new(options.tracker()),
            floor: options.floor.get(),
            thresholds: Vec::new(),
            timeline: Timeline::default(),
            size: Size::default(),
        }
    }
}

impl Analyzer for Tracks {
    fn name(&self) -> &'static str {
        "track"
    }

    fn adapt(&mut self, plan: &mut DetectPlan) {
        self.thresholds.clone_from(&plan.thresholds.score);
        // a class that is switched off has a threshold above 1 and stays off
        for score in plan
            .thresholds
            .score
            .iter_mut()
            .filter(|score| **score <= 1.0)
        {
            *score = score.min(self.floor);
        }
    }

    fn step(&mut self, report: &mut Report, _: &mut dyn FnMut(Event)) {
        let now = self.timeline.advance(&report.frame);
        if self.size != report.frame.size {
            self.size = report.frame.size;
            self.tracker.clear(); // their boxes are in pixels of another size
        }
        self.tracker
            .step(now, &mut report.detections, &self.thresholds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detection::{Labels, Thresholds};
    use crate::geometry::Tiling;

    fn options(text: &str) -> Result<Option<TrackOptions>, String> {
        let settings = toml::from_str(text).unwrap();
        TrackOptions::find(&AnalyzerContext {
            settings: &settings,
            labels: &Labels::new(&[]),
        })
    }

    #[test]
    fn tracks_are_on_where_something_asks_for_them() {
        for off in ["", "fps = 5", "track = false"] {
            assert_eq!(options(off), Ok(None), "{off}");
        }
        let default = Ok(Some(TrackOptions::default()));
        for on in [
            "track = true",
            "[track]",
            "[[zone]]",
            "[[line]]\nname = 'a'",
        ] {
            assert_eq!(options(on), default, "{on}");
        }
        let given = options("[track]\nfloor = 0.05\nconfirm = 3\nkeep = '500ms'\noverlap = 0.3");
        let given = given.unwrap().unwrap();
        assert_eq!((given.floor.get(), given.confirm), (0.05, Confirm(3)));
        assert_eq!(given.keep.duration().as_millis(), 500);
    }

    #[test]
    fn wrong_options_are_refused_with_what_is_right() {
        for (text, parts) in [
            (
                "floor = 2",
                ["expected a number from 0 to 1, got '2'", "floor"],
            ),
            (
                "confirm = 0",
                [
                    "expected a whole number of frames from 1 to 100, got '0'",
                    "confirm",
                ],
            ),
            ("keep = '2h'", ["expected a time from 100ms to 1m", "keep"]),
            (
                "overlap = 'x'",
                ["expected a number from 0 to 1, got 'x'", "overlap"],
            ),
            ("flor = 0.1", ["unknown field `flor`", "floor"]),
        ] {
            let error = options(&format!("[track]\n{text}")).unwrap_err();
            assert!(error.starts_with("settings table [track]: "), "{error}");
            for part in parts {
                assert!(error.contains(part), "{text}: {error}");
            }
            assert!(!error.contains('\n'), "{error}");
        }
        let several = options("[[track]]").unwrap_err();
        assert!(several.starts_with("settings table [track]: "), "{several}");
    }

    #[test]
    fn the_detector_is_asked_for_boxes_down_to_the_floor_of_the_classes_that_are_on() {
        let mut tracks = Tracks::new(TrackOptions::default());
        let mut plan = DetectPlan {
            thresholds: Thresholds::uniform(3, 0.35, 0.6),
            tiling: Tiling::default(),
        };
        plan.thresholds.score = vec![0.35, 0.05, f32::INFINITY];
        tracks.adapt(&mut plan);
        assert_eq!(plan.thresholds.score, [0.1, 0.05, f32::INFINITY]);
        assert_eq!(tracks.thresholds, [0.35, 0.05, f32::INFINITY]);
    }
}
