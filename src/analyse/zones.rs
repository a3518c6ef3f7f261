//! Zones and lines: who enters and leaves, how long they stay, who crosses and which way.
//!
//! The anchor of a box (its bottom centre, where a person stands, unless the settings say the centre)
//! jitters with the box. So a side is taken for certain only once a margin around the anchor, a part
//! of the box's own size, is on that side as a whole; until then the side before holds. As long as the
//! anchor is off by no more than the margin, a track that passes once is counted once.
//!
//! docs/tracking.md describes it for users.

mod line;
mod options;
mod polygon;

use super::track::TrackOptions;
use super::{Analyzer, AnalyzerContext, Made, Timeline};
use crate::detection::{Detection, Labels};
use crate::event::{Event, EventKind};
use crate::geometry::{BBox, Shape, Size};
use crate::message::Report;
use crate::stats::Counts;
use line::{Direction, LineState, PixelLine};
use options::{Anchor, LineOptions, ZoneOptions};
use polygon::{PixelPolygon, Side};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// The tables of the settings file.
pub const TABLES: &[&str] = &["zone", "line"];

/// Makes the analyzer.
///
/// # Errors
/// When a table is wrong.
pub fn make(context: &AnalyzerContext<'_>) -> Made {
    Ok(Zones::new(context)?.map(|zones| Box::new(zones) as Box<dyn Analyzer>))
}

/// The analyzer. It needs the numbers of tracks, and so comes after the tracker.
#[derive(Debug)]
pub struct Zones {
    zones: Vec<Zone>,
    lines: Vec<Line>,
    labels: Labels,
    /// Time after which a track has ended, as for the tracker.
    keep: Duration,
    timeline: Timeline,
    /// Frame size of the polygons and lines in pixels.
    size: Size,
    tracks: Vec<Track>,
    counts: Counts,
    /// A copy for reports, made anew when the counts have changed.
    shared: Arc<Counts>,
    changed: bool,
}

#[derive(Debug)]
struct Zone {
    options: ZoneOptions,
    class_ids: Option<Vec<usize>>,
    pixels: PixelPolygon,
}

#[derive(Debug)]
struct Line {
    options: LineOptions,
    class_ids: Option<Vec<usize>>,
    pixels: PixelLine,
}

/// A track with its state in every zone and at every line.
#[derive(Debug)]
struct Track {
    id: NonZeroU32,
    class_id: usize,
    seen: Duration,
    zones: Vec<ZoneState>,
    lines: Vec<LineState>,
}

/// A track in one zone.
#[derive(Clone, Copy, Debug, Default)]
struct ZoneState {
    /// Since when it is inside; `None` outside.
    since: Option<Duration>,
    /// It has been inside for long enough, and was counted.
    entered: bool,
}

/// An object in a frame, and where its events and counts go.
struct Tally<'a> {
    track_id: NonZeroU32,
    class_id: usize,
    label: &'a str,
    frame_id: u64,
    counts: &'a mut Counts,
    changed: &'a mut bool,
    emit: &'a mut dyn FnMut(Event),
}

impl Zones {
    /// The analyzer of the tables `[[zone]]` and `[[line]]`; `None` without any.
    ///
    /// # Errors
    /// When a table is wrong.
    pub fn new(context: &AnalyzerContext<'_>) -> Result<Option<Zones>, String> {
        let zones: Vec<ZoneOptions> = context.tables("zone")?;
        let lines: Vec<LineOptions> = context.tables("line")?;
        let options = TrackOptions::find(context)?;
        let Some(options) = options.filter(|_| !zones.is_empty() || !lines.is_empty()) else {
            return Ok(None);
        };
        options::check_names("zone", zones.iter().map(|zone| zone.name.as_str()))?;
        options::check_names("line", lines.iter().map(|line| line.name.as_str()))?;
        let mut counts = Counts::default();
        let zones = zones.into_iter().map(|options| {
            options.check()?;
            counts
                .zones
                .insert(options.name.to_string(), Default::default());
            Ok(Zone {
                class_ids: options::class_ids(&options.classes, context.labels).map_err(
                    |reason| format!("settings table [[zone]] '{}': {reason}", options.name),
                )?,
                pixels: PixelPolygon::default(),
                options,
            })
        });
        let zones = zones.collect::<Result<_, String>>()?;
        let lines = lines.into_iter().map(|options| {
            options.check()?;
            counts
                .lines
                .insert(options.name.to_string(), Default::default());
            Ok(Line {
                class_ids: options::class_ids(&options.classes, context.labels).map_err(
                    |reason| format!("settings table [[line]] '{}': {reason}", options.name),
                )?,
                pixels: PixelLine::default(),
                options,
            })
        });
        let lines = lines.collect::<Result<_, String>>()?;
        Ok(Some(Zones {
            zones,
            lines,
            labels: context.labels.clone(),
            keep: options.tracker().keep,
            timeline: Timeline::default(),
            size: Size::default(),
            tracks: Vec::with_capacity(64),
            shared: Arc::new(counts.clone()),
            counts,
            changed: false,
        }))
    }

    /// Lays the shapes out in pixels.
    fn resize(&mut self, size: Size) {
        self.size = size;
        for zone in &mut self.zones {
            zone.pixels = PixelPolygon::new(&zone.options.polygon, size);
        }
        for line in &mut self.lines {
            line.pixels = PixelLine::new(line.options.from, line.options.to, size);
        }
        // places of tracks before were in pixels of another size
        for track in &mut self.tracks {
            track.lines.fill(LineState::default());
        }
    }

    /// The position of a track's state, which is made for a new track.
    fn track_of(&mut self, id: NonZeroU32, class_id: usize, now: Duration) -> usize {
        let known = self.tracks.iter().position(|track| track.id == id);
        known.unwrap_or_else(|| {
            self.tracks.push(Track {
                id,
                class_id,
                seen: now,
                zones: vec![ZoneState::default(); self.zones.len()],
                lines: vec![LineState::default(); self.lines.len()],
            });
            self.tracks.len() - 1
        })
    }

    fn detection(
        &mut self,
        detection: &Detection,
        now: Duration,
        frame_id: u64,
        emit: &mut dyn FnMut(Event),
    ) {
        let Some(track_id) = detection.track_id else {
            return;
        };
        let class_id = detection.class_id;
        let index = self.track_of(track_id, class_id, now);
        let track = &mut self.tracks[index];
        track.seen = now;
        let mut tally = Tally {
            track_id,
            class_id,
            label: self.labels.name(class_id),
            frame_id,
            counts: &mut self.counts,
            changed: &mut self.changed,
            emit,
        };
        for (zone, state) in self.zones.iter().zip(&mut track.zones) {
            if is_meant(&zone.class_ids, class_id) {
                zone.step(state, &detection.bbox, now, &mut tally);
            }
        }
        for (line, state) in self.lines.iter().zip(&mut track.lines) {
            if is_meant(&line.class_ids, class_id) {
                line.step(state, &detection.bbox, &mut tally);
            }
        }
    }

    /// Ends tracks that the tracker has ended: those that were in a zone have left it.
    fn end_tracks(&mut self, now: Duration, frame_id: u64, emit: &mut dyn FnMut(Event)) {
        let ended = |track: &mut Track| now.saturating_sub(track.seen) > self.keep;
        for mut track in self.tracks.extract_if(.., ended) {
            let mut tally = Tally {
                track_id: track.id,
                class_id: track.class_id,
                label: self.labels.name(track.class_id),
                frame_id,
                counts: &mut self.counts,
                changed: &mut self.changed,
                emit,
            };
            for (zone, state) in self.zones.iter().zip(&mut track.zones) {
                zone.leave(state, track.seen, true, &mut tally);
            }
        }
    }
}

impl Zone {
    /// Moves a track on to the box of this frame.
    fn step(&self, state: &mut ZoneState, bbox: &BBox, now: Duration, tally: &mut Tally<'_>) {
        let options = &self.options;
        let reach = options.margin.reach([bbox.width(), bbox.height()]);
        match self.pixels.side(options.anchor.of(bbox), reach) {
            Side::Inside => _ = state.since.get_or_insert(now),
            Side::Outside => self.leave(state, now, false, tally),
            Side::Uncertain => {}
        }
        let dwell = state.since.map(|since| now.saturating_sub(since));
        if !state.entered && dwell.is_some_and(|dwell| dwell >= options.min_dwell()) {
            state.entered = true;
            let counts = tally.counts.zones.entry(options.name.to_string());
            let counts = counts.or_default();
            for by_class in [&mut counts.now, &mut counts.entered] {
                *by_class.entry(tally.label.to_owned()).or_default() += 1;
            }
            let name = options.name.as_str();
            let event = tally.event(EventKind::ZoneEntered, "entered zone", name);
            tally.tell(event.field("zone", name));
        }
    }

    /// Takes a track out that was last inside, or first outside, at `now`.
    fn leave(&self, state: &mut ZoneState, now: Duration, lost: bool, tally: &mut Tally<'_>) {
        let left = std::mem::take(state);
        let Some(since) = left.since.filter(|_| left.entered) else {
            return;
        };
        let name = self.options.name.as_str();
        let counts = tally.counts.zones.entry(name.to_owned()).or_default();
        let inside = counts.now.entry(tally.label.to_owned()).or_default();
        *inside = inside.saturating_sub(1);
        let dwell = now.saturating_sub(since).as_secs_f64();
        let event = tally.event(EventKind::ZoneLeft, "left zone", name);
        let event = event.field("zone", name).field("lost", lost);
        tally.tell(event.field("dwell_s", (dwell * 1000.0).round() / 1000.0));
    }
}

impl Line {
    /// Moves a track on to the box of this frame.
    fn step(&self, state: &mut LineState, bbox: &BBox, tally: &mut Tally<'_>) {
        let options = &self.options;
        let reach = options.margin.reach([bbox.width(), bbox.height()]);
        let Some(direction) = self.pixels.step(state, options.anchor.of(bbox), reach) else {
            return;
        };
        let name = options.name.as_str();
        let counts = tally.counts.lines.entry(name.to_owned()).or_default();
        let by_class = match direction {
            Direction::Forward => &mut counts.forward,
            Direction::Backward => &mut counts.backward,
        };
        *by_class.entry(tally.label.to_owned()).or_default() += 1;
        let event = tally.event(EventKind::LineCrossed, "crossed line", name);
        let event = event.field("line", name);
        tally.tell(event.field("direction", direction.name()));
    }
}

fn is_meant(class_ids: &Option<Vec<usize>>, class_id: usize) -> bool {
    class_ids.as_ref().is_none_or(|ids| ids.contains(&class_id))
}

impl Tally<'_> {
    fn event(&self, kind: EventKind, did: &str, name: &str) -> Event {
        Event::new(kind)
            .message(format!("{} {} {did} '{name}'", self.label, self.track_id))
            .field("track_id", self.track_id.get())
            .field("class_id", self.class_id)
            .field("label", self.label)
            .field("frame_id", self.frame_id)
    }

    /// Emits an event with which the counts have changed.
    fn tell(&mut self, event: Event) {
        *self.changed = true;
        (self.emit)(event);
    }
}

impl Analyzer for Zones {
    fn name(&self) -> &'static str {
        "zones"
    }

    fn step(&mut self, report: &mut Report, emit: &mut dyn FnMut(Event)) {
        let now = self.timeline.advance(&report.frame);
        if self.size != report.frame.size {
            self.resize(report.frame.size);
        }
        let frame_id = report.frame.id;
        for detection in &report.detections {
            self.detection(detection, now, frame_id, emit);
        }
        self.end_tracks(now, frame_id, emit);
        if std::mem::take(&mut self.changed) {
            self.shared = Arc::new(self.counts.clone());
        }
        report.counts = Some(Arc::clone(&self.shared));
    }

    fn shapes(&self) -> Vec<Shape> {
        let zones = self.zones.iter().map(|zone| Shape {
            name: zone.options.name.to_string(),
            points: zone
                .options
                .polygon
                .iter()
                .map(|point| point.fractions())
                .collect(),
            closed: true,
        });
        let lines = self.lines.iter().map(|line| Shape {
            name: line.options.name.to_string(),
            points: [line.options.from, line.options.to]
                .map(|p| p.fractions())
                .to_vec(),
            closed: false,
        });
        zones.chain(lines).collect()
    }
}

impl Anchor {
    fn of(self, bbox: &BBox) -> [f32; 2] {
        let x = (bbox.x0() + bbox.x1()) / 2.0;
        match self {
            Anchor::Bottom => [x, bbox.y1()],
            Anchor::Centre => [x, (bbox.y0() + bbox.y1()) / 2.0],
        }
    }
}

#[cfg(test)]
mod tests;
