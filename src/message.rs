//! The run and the report of each frame, which flow from the detector to analyzers and sinks.

use crate::board::Board;
use crate::detection::{Detection, Labels, StageTimes};
use crate::frame::FrameMeta;
use crate::geometry::{Shape, Tiling};
use crate::stats::{Counts, MeterInfo, Snapshot};
use jiff::Timestamp;
use std::sync::Arc;

/// The model of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    /// The model's name.
    pub name: String,
    /// Lower-case hex SHA-256 of the weights.
    pub sha256: String,
    /// Long side of the network's input in pixels, as trained.
    pub input_size: usize,
}

/// A run: constant from its start to its end.
#[derive(Clone, Debug)]
pub struct RunInfo {
    /// Unique per run, to separate runs in one file.
    pub run_id: String,
    /// Start of the run.
    pub started: Timestamp,
    /// Name of the camera or other source.
    pub camera: Arc<str>,
    /// Description of the source.
    pub source: String,
    /// The model.
    pub model: ModelInfo,
    /// Tiles in which a frame is searched besides the whole, at the start of the run.
    pub tiling: Tiling,
    /// Kernels, precision and threads of the engine.
    pub engine: String,
    /// The board, if it is recognised.
    pub board: Option<Board>,
    /// The power meter, if there is one.
    pub meter: Option<MeterInfo>,
    /// Class names by class id.
    pub labels: Labels,
    /// Zones and lines, which are drawn into pictures.
    pub shapes: Arc<[Shape]>,
}

impl RunInfo {
    /// A run of single pictures or of a test: class names, and nothing else known.
    pub fn of_labels(camera: &str, labels: Labels) -> RunInfo {
        RunInfo {
            run_id: String::new(),
            started: Timestamp::UNIX_EPOCH,
            camera: camera.into(),
            source: camera.to_owned(),
            model: ModelInfo::default(),
            tiling: Tiling::default(),
            engine: String::new(),
            board: None,
            meter: None,
            labels,
            shapes: Arc::default(),
        }
    }
}

/// The result of one frame, without its pixels.
#[derive(Clone, Debug)]
pub struct Report {
    /// The run it belongs to.
    pub run: Arc<RunInfo>,
    /// The frame's number, times, size and format.
    pub frame: FrameMeta,
    /// Detections, best score first.
    pub detections: Vec<Detection>,
    /// Time spent in each stage.
    pub times: StageTimes,
    /// Frames lost between the previous report and this one.
    pub dropped: u64,
    /// Figures at this moment, without this frame's counts.
    pub stats: Arc<Snapshot>,
    /// What zones and lines have counted up to this frame; `None` without any.
    pub counts: Option<Arc<Counts>>,
}
