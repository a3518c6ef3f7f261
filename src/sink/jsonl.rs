//! The JSONL log, schema `vovcam.v1`: one object a line, `type` first.
//!
//! `assets/vovcam.v1.schema.json` is the contract, docs/jsonl.md explains it. Unknown values are
//! `null`, never 0 or "". Every line is one write, so that readers never see half a line while
//! the program lives; a line torn by a power cut is closed with a newline at the next start.

use super::{Labels, Report, SinkError};
use crate::board::Board;
use crate::capture::SourceEvent;
use crate::metrics::{Drops, Snapshot};
use crate::postprocess::{AreaClass, Detection};
use jiff::{Timestamp, fmt::temporal::DateTimePrinter};
use serde::{Serialize, Serializer};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
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

/// Something that happened, for an `event` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What, such as `camera_lost`.
    pub event: &'static str,
    /// Why, for people.
    pub message: Option<String>,
}

impl Event {
    /// A frame was skipped.
    pub fn damaged_frame(reason: &str) -> Event {
        Event {
            event: "damaged_frame",
            message: Some(reason.to_owned()),
        }
    }
}

impl From<SourceEvent> for Event {
    fn from(event: SourceEvent) -> Event {
        match event {
            SourceEvent::Lost(reason) => Event {
                event: "camera_lost",
                message: Some(reason),
            },
            SourceEvent::Found => Event {
                event: "camera_found",
                message: None,
            },
        }
    }
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Line<'a> {
    Run(&'a RunRecord<'a>),
    Frame(FrameRecord<'a>),
    Stats(StatsRecord),
    Event(EventRecord<'a>),
}

#[derive(Serialize)]
struct FrameRecord<'a> {
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
struct StatsRecord {
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
struct EventRecord<'a> {
    #[serde(serialize_with = "rfc3339")]
    ts: Timestamp,
    event: &'a str,
    message: Option<&'a str>,
}

/// Writes the log. After creation it never fails: a full disk costs lines, which are counted,
/// and is noticed to be over.
pub struct JsonlWriter {
    output: Box<dyn Write + Send>,
    /// For messages, and for the final fsync; `None` on standard output.
    file: Option<(PathBuf, File)>,
    line: Vec<u8>,
    lost: u64,
    failing: bool,
}

impl JsonlWriter {
    /// Appends to a file, or writes to standard output when `dest` is `-`.
    ///
    /// # Errors
    /// When the file cannot be opened for appending.
    pub fn create(dest: &str) -> Result<JsonlWriter, SinkError> {
        if dest == "-" {
            return Ok(JsonlWriter::to(Box::new(io::stdout())));
        }
        let path = Path::new(dest);
        let open = || -> io::Result<(File, File)> {
            let mut file = OpenOptions::new()
                .create(true)
                .read(true)
                .append(true)
                .open(path)?;
            close_torn_line(&mut file)?;
            let sync = file.try_clone()?;
            Ok((file, sync))
        };
        let (file, sync) = open().map_err(|source| SinkError::Write {
            what: "the JSONL log",
            path: path.to_owned(),
            source,
        })?;
        let mut writer = JsonlWriter::to(Box::new(file));
        writer.file = Some((path.to_owned(), sync));
        Ok(writer)
    }

    /// Writes to anything, for tests and other programs.
    pub fn to(output: Box<dyn Write + Send>) -> JsonlWriter {
        JsonlWriter {
            output,
            file: None,
            line: Vec::with_capacity(4096),
            lost: 0,
            failing: false,
        }
    }

    /// The log's first line.
    pub fn run(&mut self, record: &RunRecord<'_>) {
        self.write(&Line::Run(record));
    }

    /// A frame's line.
    pub fn frame(&mut self, report: &Report, labels: &Labels) {
        let (frame, times) = (&report.frame, &report.times);
        self.write(&Line::Frame(FrameRecord {
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
        }));
    }

    /// Figures of the moment.
    pub fn stats(&mut self, stats: &Snapshot) {
        self.write(&Line::Stats(StatsRecord {
            ts: Timestamp::now(),
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
        }));
    }

    /// Something that happened.
    pub fn event(&mut self, event: &Event) {
        self.write(&Line::Event(EventRecord {
            ts: Timestamp::now(),
            event: event.event,
            message: event.message.as_deref(),
        }));
    }

    /// Lines that could not be written.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Makes sure that what was written is on the disk.
    ///
    /// # Errors
    /// When the system cannot promise that.
    pub fn finish(mut self) -> Result<(), SinkError> {
        let flushed = self.output.flush();
        let Some((path, file)) = self.file else {
            return Ok(()); // a reader that closed the pipe has read enough
        };
        flushed
            .and_then(|()| file.sync_all())
            .map_err(|source| SinkError::Write {
                what: "the JSONL log",
                path,
                source,
            })
    }

    fn write(&mut self, line: &Line<'_>) {
        self.line.clear();
        let written = serde_json::to_writer(&mut self.line, line)
            .map_err(io::Error::from)
            .and_then(|()| {
                self.line.push(b'\n');
                self.output.write_all(&self.line)?;
                self.output.flush()
            });
        match written {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::warn!(
                    "the JSONL log can be written again; {} lines were lost",
                    self.lost
                );
            }
            Ok(()) => {}
            Err(error) => {
                self.lost += 1;
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(
                        "cannot write the JSONL log: {error}; detection goes on, lost lines are counted"
                    );
                }
            }
        }
    }
}

/// A file that does not end with a newline was torn by a crash: end that line.
fn close_torn_line(file: &mut File) -> io::Result<()> {
    // a pipe or /dev/null has no end to look at
    if !file.metadata()?.is_file() || file.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last != [b'\n'] {
        tracing::warn!("the log's last line was cut short; it is closed here");
        file.write_all(b"\n")?;
    }
    Ok(())
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
