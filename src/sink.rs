//! Where results go: the JSONL log, annotated pictures, the window.

pub mod jsonl;
pub mod overlay;
pub mod save;
pub mod window;

use crate::frame::{Frame, PooledBuf};
use crate::metrics::Snapshot;
use crate::postprocess::Detection;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Time one frame spent in each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTimes {
    /// From the source's bytes to RGB, in the capture thread.
    pub decode: Duration,
    /// Letterbox.
    pub preprocess: Duration,
    /// The network.
    pub inference: Duration,
    /// Thresholds and NMS.
    pub postprocess: Duration,
    /// From the last byte of the frame to its detections: waiting included.
    pub age: Duration,
}

impl StageTimes {
    /// The work done on the frame, waiting excluded.
    pub fn total(&self) -> Duration {
        self.decode + self.preprocess + self.inference + self.postprocess
    }
}

/// One frame with everything that was found out about it.
#[derive(Clone, Debug)]
pub struct Report {
    /// The frame itself.
    pub frame: Arc<Frame>,
    /// Best score first.
    pub detections: Vec<Detection>,
    /// Where the time went.
    pub times: StageTimes,
    /// Frames that were dropped or replaced between the previous report and this one.
    pub dropped: u64,
    /// Figures at this moment.
    pub stats: Arc<Snapshot>,
}

impl Report {
    /// All but the picture, for sinks that need none and may keep many.
    #[must_use]
    pub fn without_pixels(&self) -> Report {
        let frame = &self.frame;
        Report {
            frame: Arc::new(Frame {
                name: frame.name.clone(),
                data: PooledBuf::default(),
                ..**frame
            }),
            detections: self.detections.clone(),
            stats: Arc::clone(&self.stats),
            ..*self
        }
    }
}

/// Class names by class id, shared.
#[derive(Clone, Debug)]
pub struct Labels(Arc<[String]>);

impl Labels {
    /// Names in class-id order.
    pub fn new(names: &[String]) -> Labels {
        Labels(names.into())
    }

    /// The name of a class.
    pub fn name(&self, class_id: usize) -> &str {
        self.0.get(class_id).map_or("unknown", String::as_str)
    }
}

/// Why a sink cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// A file cannot be made or written.
    #[error("cannot write {what} to '{}'", path.display())]
    Write {
        /// What was to be written.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Lines are missing where none may be.
    #[error("the log '{}' lacks {lines} lines that the disk refused", path.display())]
    Incomplete {
        /// Where.
        path: PathBuf,
        /// How many.
        lines: u64,
    },
    /// A picture cannot be encoded.
    #[error("cannot encode frame {frame} as JPEG")]
    Encode {
        /// Frame id.
        frame: u64,
        /// What the encoder said.
        source: image::ImageError,
    },
    /// A clip cannot be written.
    #[error(transparent)]
    Clip(#[from] crate::avi::AviError),
}
