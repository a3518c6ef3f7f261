//! The lines of the log as they are written: field by field what docs/jsonl.md says.

use crate::board::Board;
use crate::capture::SourceEvent;
use crate::detection::Detection;
use crate::detection::Labels;
use crate::event::Event;
use crate::geometry::AreaClass;
use crate::message::Report;
use crate::stats::{Drops, Snapshot};
use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde::{Serialize, Serializer};
use std::time::Duration;

/// The schema's name, in every `run` line.
pub const SCHEMA: &str = "vovcam.v1";

/// What a run is: the log's first line.
#[derive(Debug, Serialize)]
pub struct RunRecord<'a> {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// Tells runs in one file apart.
    pub run_id: String,
    /// Start.
    #[serde(serialize_with = "rfc3339")]
    pub ts: Timestamp,
    /// Program version.
    pub version: &'static str,
    /// What the source says of itself.
    pub source: &'a str,
    /// The model.
    pub model: ModelRecord<'a>,
    /// Kernels, precision, threads.
    pub engine: &'a str,
    /// The board, where one is recognised.
    pub board: Option<&'a Board>,
    /// The power meter, where there is one.
    pub power: Option<PowerRecord<'a>>,
    /// Class names by class id.
    pub classes: &'a [String],
}

/// The model in a `run` line.
#[derive(Debug, Serialize)]
pub struct ModelRecord<'a> {
    /// Its name.
    pub name: &'a str,
    /// Of the weights.
    pub sha256: &'a str,
    /// Long side of the network's input in pixels, as trained.
    pub input_size: usize,
}

/// The power meter in a `run` line.
#[derive(Debug, Serialize)]
pub struct PowerRecord<'a> {
    /// Who measures.
    pub source: &'a str,
    /// What is measured.
    pub scope: &'a str,
}

impl From<SourceEvent> for Event {
    fn from(event: SourceEvent) -> Event {
        match event {
            SourceEvent::Lost(reason) => Event::new("camera_lost", &reason),
            SourceEvent::Found => Event {
                event: "camera_found",
                message: None,
                lines_lost: None,
            },
        }
    }
}

/// One line of the log.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(super) enum Line<'a> {
    Run(&'a RunRecord<'a>),
    Frame(FrameRecord<'a>),
    Stats(StatsRecord),
    Event(EventRecord<'a>),
}

#[derive(Serialize)]
pub(super) struct FrameRecord<'a> {
    #[serde(serialize_with = "rfc3339")]
    ts: Timestamp,
    ts_mono_ns: u64,
    frame_id: u64,
    name: Option<&'a str>,
    width: u32,
    height: u32,
    #[serde(serialize_with = "each_detection")]
    detections: (&'a [Detection], &'a Labels),
    latency_ms: LatencyRecord,
    dropped: u64,
    energy: Option<EnergyRecord>,
}

#[derive(Serialize)]
struct DetectionRecord<'a> {
    class_id: usize,
    label: &'a str,
    score: f64,
    bbox: [f64; 4],
    area_class: AreaClass,
}

#[derive(Serialize)]
struct LatencyRecord {
    age: f64,
    decode: f64,
    preprocess: f64,
    inference: f64,
    postprocess: f64,
    total: f64,
}

#[derive(Serialize)]
struct EnergyRecord {
    j: Option<f64>,
    window_s: f64,
    avg_w: f64,
    fps: Option<f64>,
}

#[derive(Serialize)]
pub(super) struct StatsRecord {
    #[serde(serialize_with = "rfc3339")]
    ts: Timestamp,
    frames: u64,
    fps: Option<f64>,
    latency_ms: QuantileRecord,
    drops: Drops,
    energy: Option<EnergyRecord>,
    temperature_c: Option<f64>,
    throttled: u64,
}

#[derive(Serialize)]
struct QuantileRecord {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

#[derive(Serialize)]
pub(super) struct EventRecord<'a> {
    #[serde(serialize_with = "rfc3339")]
    ts: Timestamp,
    event: &'a str,
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lines_lost: Option<u64>,
}

impl<'a> Line<'a> {
    pub(super) fn frame(report: &'a Report, labels: &'a Labels) -> Line<'a> {
        let (frame, times) = (&report.frame, &report.times);
        Line::Frame(FrameRecord {
            ts: frame.wall,
            ts_mono_ns: frame.captured.ns,
            frame_id: frame.id,
            name: frame.name.as_deref(),
            width: frame.size.width,
            height: frame.size.height,
            detections: (&report.detections, labels),
            latency_ms: LatencyRecord {
                age: ms(times.age),
                decode: ms(times.decode),
                preprocess: ms(times.preprocess),
                inference: ms(times.inference),
                postprocess: ms(times.postprocess),
                total: ms(times.total()),
            },
            dropped: report.dropped,
            energy: energy(&report.stats),
        })
    }

    pub(super) fn stats(ts: Timestamp, stats: &Snapshot) -> Line<'a> {
        Line::Stats(StatsRecord {
            ts,
            frames: stats.frames,
            fps: stats.fps.map(|fps| rounded(fps, 100.0)),
            latency_ms: QuantileRecord {
                p50: stats.latency_p50.map(ms),
                p95: stats.latency_p95.map(ms),
                p99: stats.latency_p99.map(ms),
            },
            drops: stats.drops,
            energy: energy(stats),
            temperature_c: stats.temperature.map(|t| rounded(t.0, 10.0)),
            throttled: stats.throttled,
        })
    }

    pub(super) fn event(ts: Timestamp, event: &'a Event) -> Line<'a> {
        Line::Event(EventRecord {
            ts,
            event: event.event,
            message: event.message.as_deref(),
            lines_lost: event.lines_lost,
        })
    }

    /// Appends the line and its newline.
    pub(super) fn write_to(&self, bytes: &mut Vec<u8>) -> serde_json::Result<()> {
        let before = bytes.len();
        let written = serde_json::to_writer(&mut *bytes, self);
        match written {
            Ok(()) => bytes.push(b'\n'),
            Err(_) => bytes.truncate(before),
        }
        written
    }
}

fn energy(stats: &Snapshot) -> Option<EnergyRecord> {
    stats.energy.as_ref().map(|energy| EnergyRecord {
        j: energy.per_frame.map(|j| rounded(j.0, 1e4)),
        window_s: rounded(energy.window.as_secs_f64(), 100.0),
        avg_w: rounded(energy.average.0, 100.0),
        fps: stats.fps.map(|fps| rounded(fps, 100.0)),
    })
}

fn each_detection<S: Serializer>(
    (detections, labels): &(&[Detection], &Labels),
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(detections.iter().map(|detection| DetectionRecord {
        class_id: detection.class_id,
        label: labels.name(detection.class_id),
        score: rounded(detection.score.into(), 1e3),
        bbox: detection.bbox.xywh().map(|px| rounded(px.into(), 10.0)),
        area_class: detection.bbox.area_class(),
    }))
}

/// RFC 3339, UTC, milliseconds.
fn rfc3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
    let mut text = String::with_capacity(24);
    PRINTER
        .print_timestamp(time, &mut text)
        .map_err(serde::ser::Error::custom)?;
    serializer.serialize_str(&text)
}

fn ms(time: Duration) -> f64 {
    rounded(1e3 * time.as_secs_f64(), 100.0)
}

fn rounded(value: f64, steps: f64) -> f64 {
    (value * steps).round() / steps
}
