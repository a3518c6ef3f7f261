//! The messages that every sink receives.

use super::picture::Picture;
use crate::event::Event;
use crate::message::{Report, RunInfo};
use crate::stats::Snapshot;
use jiff::Timestamp;
use std::sync::Arc;

/// One message to a sink. [`Message::Run`] is always the first.
#[derive(Clone, Debug)]
pub enum Message {
    /// The run has begun.
    Run(Arc<RunInfo>),
    /// The detector finished a frame.
    Frame(FrameMessage),
    /// Metrics, every `stats_interval` and at the end of the run.
    Stats {
        /// Time of the metrics.
        ts: Timestamp,
        /// The metrics.
        stats: Arc<Snapshot>,
    },
    /// An event, such as a lost camera.
    Event {
        /// Time of the event.
        ts: Timestamp,
        /// The event.
        event: Arc<Event>,
    },
}

/// The result of one frame.
#[derive(Clone, Debug)]
pub struct FrameMessage {
    /// Detections, stage times and metrics.
    pub report: Arc<Report>,
    /// The pixels, for sinks that request them with [`super::Sink::needs_pictures`].
    pub picture: Option<Arc<Picture>>,
}
