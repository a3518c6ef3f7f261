//! Serialisation of the log lines; docs/jsonl.md describes every field.

use crate::board::Board;
use crate::detection::Detection;
use crate::detection::Labels;
use crate::escape;
use crate::event::Event;
use crate::geometry::{AreaClass, Tiles};
use crate::message::{Report, RunInfo};
use crate::stats::{Counts, Drops, Snapshot};
use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use std::num::NonZeroU32;
use std::time::Duration;

/// Name of the schema, in every `run` line.
pub const SCHEMA: &str = "vovcam.v1";

/// The `run` line: first line of every log file.
#[derive(Debug, Serialize)]
pub(in crate::sink) struct RunRecord<'a> {
    schema: &'static str,
    run_id: &'a str,
    #[serde(serialize_with = "rfc3339")]
    ts: Timestamp,
    version: &'static str,
    camera: &'a str,
    source: &'a str,
    model: ModelRecord<'a>,
    tiles: Option<TilesRecord>,
    engine: &'a str,
    board: Option<&'a Board>,
    power: Option<PowerRecord<'a>>,
    classes: &'a [String],
}

#[derive(Debug, Serialize)]
struct ModelRecord<'a> {
    name: &'a str,
    sha256: &'a str,
    input_size: usize,
}

#[derive(Debug, Serialize)]
struct TilesRecord {
    columns: u32,
    rows: u32,
    overlap: f64,
}

#[derive(Debug, Serialize)]
struct PowerRecord<'a> {
    source: &'a str,
    scope: &'a str,
}

/// One line of the log.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub(in crate::sink) enum LogLine<'a> {
    Run(RunRecord<'a>),
    Frame(FrameRecord<'a>),
    Stats(StatsRecord<'a>),
    Event(EventRecord<'a>),
}

#[derive(Serialize)]
pub(in crate::sink) struct FrameRecord<'a> {
    #[serde(serialize_with = "rfc3339")]
    ts: Timestamp,
    camera: &'a str,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    track_id: Option<NonZeroU32>,
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
pub(in crate::sink) struct StatsRecord<'a> {
    #[serde(serialize_with = "rfc3339")]
    ts: Timestamp,
    camera: &'a str,
    frames: u64,
    fps: Option<f64>,
    latency_ms: QuantileRecord,
    drops: Drops,
    energy: Option<EnergyRecord>,
    temperature_c: Option<f64>,
    throttled: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    counts: Option<&'a Counts>,
}

#[derive(Serialize)]
struct QuantileRecord {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
}

#[derive(Serialize)]
pub(in crate::sink) struct EventRecord<'a> {
    #[serde(serialize_with = "rfc3339")]
    ts: Timestamp,
    camera: &'a str,
    event: &'a str,
    message: Option<&'a str>,
    #[serde(flatten)]
    fields: &'a Map<String, Value>,
}

impl<'a> LogLine<'a> {
    pub(in crate::sink) fn run(run: &'a RunInfo) -> LogLine<'a> {
        LogLine::Run(RunRecord {
            schema: SCHEMA,
            run_id: &run.run_id,
            ts: run.started,
            version: env!("CARGO_PKG_VERSION"),
            camera: &run.camera,
            source: &run.source,
            model: ModelRecord {
                name: &run.model.name,
                sha256: &run.model.sha256,
                input_size: run.model.input_size,
            },
            tiles: match run.tiling.tiles {
                Tiles::Off => None,
                Tiles::Grid { columns, rows } => Some(TilesRecord {
                    columns,
                    rows,
                    overlap: run.tiling.overlap.get(),
                }),
            },
            engine: &run.engine,
            board: run.board.as_ref(),
            power: run.meter.as_ref().map(|meter| PowerRecord {
                source: meter.source,
                scope: &meter.scope,
            }),
            classes: run.labels.names(),
        })
    }

    pub(in crate::sink) fn frame(report: &'a Report) -> LogLine<'a> {
        let (frame, times) = (&report.frame, &report.times);
        LogLine::Frame(FrameRecord {
            ts: frame.wall,
            camera: &report.run.camera,
            ts_mono_ns: frame.captured.ns,
            frame_id: frame.id,
            name: frame.name.as_deref(),
            width: frame.size.width,
            height: frame.size.height,
            detections: (&report.detections, &report.run.labels),
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

    pub(in crate::sink) fn stats(
        ts: Timestamp,
        camera: &'a str,
        stats: &'a Snapshot,
    ) -> LogLine<'a> {
        LogLine::Stats(StatsRecord {
            ts,
            camera,
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
            counts: stats.counts.as_deref(),
        })
    }

    pub(in crate::sink) fn event(ts: Timestamp, camera: &'a str, event: &'a Event) -> LogLine<'a> {
        LogLine::Event(EventRecord {
            ts,
            camera,
            event: event.kind.name(),
            message: event.message.as_deref(),
            fields: &event.fields,
        })
    }

    /// Appends the line and its newline.
    pub(in crate::sink) fn write_to(&self, bytes: &mut Vec<u8>) -> serde_json::Result<()> {
        let before = bytes.len();
        let written = serde_json::to_writer(&mut *bytes, self);
        match written {
            Ok(()) => {
                escape::controls_in_json(bytes);
                bytes.push(b'\n');
            }
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
        track_id: detection.track_id,
    }))
}

/// RFC 3339, UTC, with milliseconds.
fn rfc3339<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
    let mut text = String::with_capacity(24);
    PRINTER
        .print_timestamp(time, &mut text)
        .map_err(serde::ser::Error::custom)?;
    serializer.serialize_str(&text)
}

/// Milliseconds, rounded to 0.01.
fn ms(time: Duration) -> f64 {
    rounded(1e3 * time.as_secs_f64(), 100.0)
}

/// Rounds to multiples of 1 / `scale`.
fn rounded(value: f64, scale: f64) -> f64 {
    (value * scale).round() / scale
}
